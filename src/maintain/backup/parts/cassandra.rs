//! Cassandra: a snapshot of the keyspace on this host's node. A snapshot is hard links, made in a
//! moment; its files never change, and go into the archive from where they are. Each host backs
//! up its own node: the archives of all of them together hold every replica.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Making, tool};
use crate::config::Config;
use crate::maintain::backup::BackupError;
use crate::maintain::backup::names::escaped;

/// How a snapshot of ours is called: one that a killed run has left is found by it.
const TAG: &str = "bitacora_backup_";

/// The command that reaches this host's node.
pub fn nodetool(config: &Config, arguments: &[&str]) -> Result<String, BackupError> {
    let (program, mut command): (String, Command) = tool::split(&config.backup.nodetool)?;
    command.args(arguments);
    tool::ask(&program, &mut command)
}

/// A snapshot; cleared when this is dropped, whatever happened in between.
struct Snapshot<'a> {
    config: &'a Config,
    tag: String,
}

impl Snapshot<'_> {
    fn clear(&self) -> Result<(), BackupError> {
        let keyspace = &self.config.store.cassandra.keyspace;
        nodetool(self.config, &["clearsnapshot", "-t", &self.tag, "--", keyspace]).map(drop)
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            let tag = &self.tag;
            tracing::warn!(%error, "snapshot {tag} is still there: nodetool clearsnapshot -t {tag}");
        }
    }
}

/// Takes the snapshot, copies its files and clears it.
pub fn copy(making: &mut Making<'_, '_>, config: &Config) -> Result<(), BackupError> {
    let keyspace = &config.store.cassandra.keyspace;
    clear_left(config)?;
    for line in nodetool(config, &["info"])?.lines() {
        let (name, value) = line.split_once(':').unwrap_or_default();
        match name.trim() {
            "ID" => making.detail("node", value.trim()),
            "Data Center" => making.detail("datacenter", value.trim()),
            _ => {}
        }
    }
    making.detail("keyspace", keyspace);
    let tag = format!("{TAG}{}", making.record.begun_ms);
    let snapshot = Snapshot { config, tag };
    nodetool(config, &["snapshot", "-t", &snapshot.tag, "--", keyspace])?;
    let mut tables = 0;
    for data in &config.backup.cassandra_data {
        tables += copy_tables(making, &data.join(keyspace), &snapshot.tag)?;
    }
    if tables == 0 {
        let dirs: Vec<_> =
            config.backup.cassandra_data.iter().map(|dir| dir.display().to_string()).collect();
        let detail = format!(
            "no snapshot of keyspace {keyspace} in {}: set backup.cassandra_data",
            dirs.join(", ")
        );
        return Err(BackupError::Source(detail));
    }
    Ok(())
}

/// Snapshots of runs that were killed keep files on the disk that the node has long replaced.
fn clear_left(config: &Config) -> Result<(), BackupError> {
    for line in nodetool(config, &["listsnapshots"])?.lines() {
        let Some(tag) = line.split_whitespace().next().filter(|word| word.starts_with(TAG)) else {
            continue;
        };
        Snapshot { config, tag: tag.to_owned() }.clear()?;
    }
    Ok(())
}

fn copy_tables(
    making: &mut Making<'_, '_>,
    keyspace: &Path,
    tag: &str,
) -> Result<u32, BackupError> {
    let mut tables = 0;
    for table in entries(keyspace)? {
        let snapshot = table.join("snapshots").join(tag);
        if !snapshot.is_dir() {
            continue;
        }
        let name = table.file_name().unwrap_or_default().as_encoded_bytes();
        copy_dir(making, &snapshot, &format!("logs/{}", escaped(name)))?;
        tables += 1;
    }
    Ok(tables)
}

fn copy_dir(making: &mut Making<'_, '_>, dir: &Path, to: &str) -> Result<(), BackupError> {
    for path in entries(dir)? {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let to = format!("{to}/{}", escaped(name));
        let kind =
            fs::symlink_metadata(&path).map_err(|source| BackupError::read(&path, source))?;
        if kind.is_dir() {
            copy_dir(making, &path, &to)?;
        } else if kind.is_file() {
            making.frame.add_file(&to, &path)?;
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let failed = |source| BackupError::read(dir, source);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}
