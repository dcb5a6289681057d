//! Cassandra: a snapshot of the keyspace on this host's node. A snapshot is hard links, made in a
//! moment; its files never change, and go into the archive from where they are. Each host backs
//! up its own node: the archives of all of them together hold every replica.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Making, tool};
use crate::config::Config;
use crate::key::Table;
use crate::maintain::backup::manifest::FileRecord;
use crate::maintain::backup::names::{Scratch, escaped};
use crate::maintain::backup::{BackupError, own_like, waited};
use crate::stores::cassandra::scratch;

/// Detail: nodes of the datacenter when it was made.
pub const NODES: &str = "nodes";
/// Detail: replicas of each row in the datacenter.
pub const REPLICAS: &str = "replicas";
/// Detail: origins with a span that the store had.
pub const ORIGINS: &str = "origins";
/// Detail: bytes that the store had committed, as [`scratch::Reach`] counts them.
pub const REACHED: &str = "reached_bytes";
/// The tables of rows.
pub const ROWS: [&str; 3] =
    [Table::Infrastructure.name(), Table::Application.name(), Table::Events.name()];

/// How a snapshot of ours is called: one that a killed run has left is found by it.
const TAG: &str = "bitacora_backup_";

/// Nodes of the datacenter and replicas of each row in it, as a part's details say them.
pub fn share(details: &BTreeMap<String, String>) -> Option<(u64, u64)> {
    let number = |name| details.get(name)?.parse().ok();
    Some((number(NODES)?, number(REPLICAS)?))
}

/// The command that reaches this host's node.
pub fn nodetool(config: &Config, arguments: &[&str]) -> Result<String, BackupError> {
    let (program, mut command): (String, Command) = tool::split(&config.backup.nodetool)?;
    command.args(arguments);
    tool::ask(&program, &mut command)
}

/// What this host's node says of itself, by name.
pub fn info(config: &Config) -> Result<Vec<(String, String)>, BackupError> {
    let said = nodetool(config, &["info"])?;
    let pairs = said.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect())
}

/// The tables as `nodetool snapshot` takes them, one after the other while the daemons write.
/// Spans first: the rows that they count were written before them, and are in a snapshot that is
/// taken after. What explains rows comes behind the rows for the same reason: what was deleted by
/// a policy, and whose rows they are; a tombstone was there before its origin went.
fn in_order(mut tables: Vec<String>, keyspace: &str) -> String {
    tables.sort_by_key(|table| match table.as_str() {
        "spans" => 0,
        table if ROWS.contains(&table) => 1,
        "expired_sources" => 3,
        "contexts" => 4,
        "origins" => 5,
        "expired_origins" => 6,
        _ => 2,
    });
    let named: Vec<String> = tables.iter().map(|table| format!("{keyspace}.{table}")).collect();
    named.join(",")
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

/// The table of a directory such as `spans-50945f00e6eb11f1a56599fe4a3bcf5c`.
pub fn table_of(directory: &str) -> &str {
    directory.rsplit_once('-').map_or(directory, |(table, _)| table)
}

/// Lets the node's own user read what was unpacked: as root it gets the files, else its group may
/// read them, which is where the site has to put that user.
pub fn hand_over<'a>(
    scratch: &Scratch,
    files: impl Iterator<Item = &'a FileRecord>,
    config: &Config,
) -> Result<(), BackupError> {
    let data = config.backup.cassandra_data.first().unwrap_or(&config.backup.dir);
    let root = rustix::process::geteuid().is_root();
    let give = |path: &Path, mode| {
        let given = if root {
            own_like(data, path)
        } else {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
        };
        given.map_err(|source| BackupError::write(path, source))
    };
    let mut folders = BTreeSet::from([scratch.dir().to_owned(), scratch.path("logs")]);
    for file in files {
        let path = scratch.path(&file.path);
        give(&path, 0o640)?;
        folders.extend(path.parent().map(Path::to_owned));
    }
    folders.iter().try_for_each(|folder| give(folder, 0o750))
}

/// Takes the snapshot, copies its files and clears it.
pub fn copy(making: &mut Making<'_, '_>, config: &Config) -> Result<(), BackupError> {
    let keyspace = &config.store.cassandra.keyspace;
    clear_left(config)?;
    for (name, value) in info(config)? {
        match name.as_str() {
            "ID" => making.detail("node", value),
            "Data Center" => making.detail("datacenter", value),
            _ => {}
        }
    }
    making.detail("keyspace", keyspace);
    // asked before the snapshot: it holds this and more
    let (shape, reach) = waited("store", scratch::survey(&config.store.cassandra))?;
    making.detail(NODES, shape.nodes.to_string());
    making.detail(REPLICAS, shape.replicas.to_string());
    making.detail(ORIGINS, reach.origins.to_string());
    making.detail(REACHED, reach.bytes.to_string());
    let tag = format!("{TAG}{}", making.record.begun_ms);
    let snapshot = Snapshot { config, tag };
    let list = in_order(shape.tables, keyspace);
    nodetool(config, &["snapshot", "-t", &snapshot.tag, "--kt-list", &list])?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_taken_before_the_rows_that_they_count_and_origins_after_them() {
        let tables = ["contexts", "origins", "watermarks", "application_logs", "spans", "x"];
        let list = in_order(tables.map(str::to_owned).to_vec(), "k");
        assert_eq!(list, "k.spans,k.application_logs,k.watermarks,k.x,k.contexts,k.origins");
    }
}
