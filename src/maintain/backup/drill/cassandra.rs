//! The drill of a node's snapshot: its files go into a keyspace of their own, the way a restore
//! would go, and what is there is audited as the store itself is.

use std::path::Path;

use super::super::BackupError;
use super::super::catalog::Outcome;
use super::super::manifest::{FileRecord, PartRecord};
use super::super::names::{self, Scratch};
use super::super::parts::SCRATCH;
use super::super::parts::cassandra::{self as node, ORIGINS, REACHED};
use super::super::reader::ArchiveReader;
use super::super::restore::unpack;
use super::super::waited;
use super::sample::Sample;
use super::{Done, Drill};
use crate::config::{self, Config, StoreKind};
use crate::ledger::StoredOrigin;
use crate::maintain::audit::{self, Fault};
use crate::stores::StoreError;
use crate::stores::cassandra::CassandraStore;
use crate::stores::cassandra::scratch::{self, Reach};

/// The rows of a span end one after the other, from the first to the last write of it; one that
/// ends within this time is not asked for all of them.
const ENDING_MS: i64 = 2 * 3_600_000;
/// What is loaded lies there twice, and the node needs room to work.
const ROOM: u64 = 3;

/// Loads a part.
pub fn load(
    asked: &Drill<'_>,
    reader: &ArchiveReader,
    part: &PartRecord,
) -> Result<Done, BackupError> {
    let config = asked.config;
    let sample = Sample::of(part, config.backup.drill_bytes_max);
    if sample.chosen == 0 {
        return Ok((Outcome::Skipped, "it has no files of rows".into()));
    }
    if config.store.kind != StoreKind::Cassandra {
        return Ok((Outcome::Skipped, "this host's configuration has no cluster for it".into()));
    }
    let dir = place(config);
    names::sweep(dir).map_err(|source| BackupError::write(dir, source))?;
    let room = rustix::fs::statvfs(dir).map_err(|errno| BackupError::read(dir, errno.into()))?;
    if sample.bytes.saturating_mul(ROOM) > room.f_bavail.saturating_mul(room.f_frsize) {
        let why = format!(
            "{} needs {ROOM} times the {} bytes that would be loaded: lower backup.drill_max",
            dir.display(),
            sample.bytes
        );
        return Ok((Outcome::Failed, why));
    }
    let scratch = Scratch::new(dir)?;
    unpack(reader, part, scratch.dir(), &mut |file| sample.files.contains(file.path.as_str()))?;
    let files = || part.files.iter().filter(|file| sample.files.contains(file.path.as_str()));
    if let Some(file) = wrong_digest(&scratch, files())? {
        return Ok((Outcome::Failed, format!("{file} is not what the node wrote")));
    }
    node::hand_over(&scratch, files(), config)?;
    let keyspace = keyspace(config)?;
    // one that a killed drill of this host has left
    remove(config, &keyspace)?;
    let made = scratch::make(&config.store.cassandra, &keyspace, &config.daemon.host, asked.now_ms);
    let done = match waited("scratch keyspace", made) {
        Ok((at, tables)) => loaded(asked, part, &sample, &scratch, &at, &tables),
        Err(error) => {
            let why = format!(
                "{error}; not loaded, but {} files of rows agree with the node's own checksums",
                sample.chosen
            );
            Ok((Outcome::Skipped, why))
        }
    };
    remove(config, &keyspace)?;
    done
}

/// Where files are unpacked: as root beside the node's own, else where this user may write.
fn place(config: &Config) -> &Path {
    let data = config.backup.cassandra_data.first();
    data.filter(|_| rustix::process::geteuid().is_root()).unwrap_or(&config.backup.dir)
}

/// The keyspace of this node's drills: one that was killed is found by its name, and the drills
/// of other hosts of the cluster are left alone.
fn keyspace(config: &Config) -> Result<String, BackupError> {
    let info = node::info(config)?;
    let id = info.iter().find(|(name, _)| name == "ID");
    let id = id.and_then(|(_, value)| uuid::Uuid::parse_str(value).ok());
    let id = id.ok_or_else(|| BackupError::Source("nodetool info tells no ID".into()))?;
    Ok(format!("{SCRATCH}{}", id.simple()))
}

/// Drops the keyspace, and the snapshot that a node takes of what is dropped.
fn remove(config: &Config, keyspace: &str) -> Result<(), BackupError> {
    let left = |error: BackupError| {
        BackupError::Source(format!("keyspace {keyspace} of the drill may still be there: {error}"))
    };
    let removed = scratch::remove(&config.store.cassandra, keyspace);
    if waited("store", removed).map_err(left)? {
        node::nodetool(config, &["clearsnapshot", "--all", "--", keyspace]).map_err(left)?;
    }
    Ok(())
}

/// The first file of rows that is not as the checksum beside it says, which the node wrote.
fn wrong_digest<'a>(
    scratch: &Scratch,
    files: impl Iterator<Item = &'a FileRecord>,
) -> Result<Option<String>, BackupError> {
    for file in files {
        let Some(stem) = file.path.strip_suffix("-Digest.crc32") else { continue };
        let path = scratch.path(&file.path);
        let said = std::fs::read(&path).map_err(|source| BackupError::read(&path, source))?;
        let data = format!("{stem}-Data.db");
        let path = scratch.path(&data);
        let failed = |source| BackupError::read(&path, source);
        let mut read = flate2::CrcReader::new(std::fs::File::open(&path).map_err(failed)?);
        std::io::copy(&mut read, &mut std::io::sink()).map_err(failed)?;
        if String::from_utf8_lossy(&said).trim() != read.crc().sum().to_string() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Lets the node take the files, and judges what it has then.
fn loaded(
    asked: &Drill<'_>,
    part: &PartRecord,
    sample: &Sample<'_>,
    scratch: &Scratch,
    at: &config::Cassandra,
    tables: &[String],
) -> Result<Done, BackupError> {
    let mut foreign = Vec::new();
    for dir in &sample.tables {
        let table = node::table_of(dir);
        if !tables.iter().any(|known| known == table) {
            foreign.push(table);
            continue;
        }
        let path = scratch.path("logs").join(dir);
        let path = path.to_string_lossy();
        // a checksum can be made to agree; to read every value cannot
        let import =
            ["import", "--extended-verify", "--copy-data", "--", &at.keyspace, table, &path];
        if let Err(error) = node::nodetool(asked.config, &import) {
            return Ok(not_taken(table, scratch, &error.to_string()));
        }
    }
    let found = waited("scratch keyspace", count(at, sample.since_ms, asked.now_ms))?;
    let (outcome, mut told) = judge(part, sample, &found);
    if !foreign.is_empty() {
        told.push_str("; not loaded, as they are no tables of bitacora: ");
        told.push_str(&foreign.join(", "));
    }
    Ok((outcome, told))
}

/// Why the node does not take the files of a table.
fn not_taken(table: &str, scratch: &Scratch, said: &str) -> Done {
    // it is there, so that the node's user is who cannot see it
    if said.contains("does not exist") || said.contains("ermission") {
        let dir = scratch.dir().parent().unwrap_or(Path::new("/")).display();
        let why = format!(
            "not loaded, as the node's user may not read what is in {dir}: put it into the group \
             of this user ({said}); the files agree with the node's own checksums"
        );
        return (Outcome::Skipped, why);
    }
    (Outcome::Failed, format!("{table}: the node does not take its files: {said}"))
}

/// What is in the scratch keyspace.
#[derive(Debug, Default)]
struct Found {
    rows: u64,
    spans: usize,
    reach: Reach,
    /// Rows that spans count and that are not there.
    missing: u64,
    /// What the audit says, in words.
    faults: Vec<String>,
}

/// The audit of what is written since `since_ms`.
async fn count(
    at: &config::Cassandra,
    since_ms: Option<i64>,
    now_ms: i64,
) -> Result<Found, StoreError> {
    let reader = CassandraStore::new(at.clone());
    let audited = audit::audit(&reader, now_ms.saturating_add(ENDING_MS)).await?;
    let ends = audited.origins.iter().filter_map(|origin| {
        let end = origin.spans.iter().map(|span| span.end_bytes).max()?;
        Some((origin.record.id, end))
    });
    let ended = audited.report.ended.iter().map(|ended| (ended.origin, ended.end_bytes));
    let mut found = Found {
        rows: audited.rows,
        spans: audited.origins.iter().map(|origin| origin.spans.len()).sum(),
        reach: Reach::of(ends.chain(ended)),
        ..Found::default()
    };
    if audited.report.stray_rows > 0 {
        found.faults.push(format!("{} rows are of no origin", audited.report.stray_rows));
    }
    for (origin, audit) in audited.origins.iter().zip(audited.report.origins) {
        for fault in audit.faults {
            if let Fault::Missing { start_bytes, rows, .. } = fault {
                if !complete(origin, start_bytes, since_ms) {
                    continue;
                }
                found.missing += rows;
            }
            found.faults.push(words(origin, &fault));
        }
    }
    Ok(found)
}

/// Whether all rows of a span were to be loaded.
fn complete(origin: &StoredOrigin, start_bytes: u64, since_ms: Option<i64>) -> bool {
    let mut spans = origin.spans.iter().filter(|span| span.start_bytes == start_bytes);
    since_ms.is_none_or(|since_ms| spans.any(|span| span.first_write_ms >= since_ms))
}

fn words(origin: &StoredOrigin, fault: &Fault) -> String {
    let path = origin.record.path.display();
    match fault {
        Fault::Missing { start_bytes, end_bytes, rows } => {
            format!("{path}: {rows} rows of bytes {start_bytes} to {end_bytes} are missing")
        }
        other => format!("{path}: {}", serde_json::to_string(other).unwrap_or_default()),
    }
}

/// How much of the keyspace a node has: with fewer replicas than nodes, rows and the spans that
/// count them are on different nodes, and nothing follows from what one of them lacks.
fn judge(part: &PartRecord, sample: &Sample<'_>, found: &Found) -> Done {
    let number = |name: &str| part.details.get(name).and_then(|text| text.parse::<u64>().ok());
    let files = match sample.since_ms {
        None => format!("{} files of rows loaded", sample.chosen),
        Some(_) => format!("{} of {} files of rows loaded", sample.chosen, sample.all),
    };
    let mut told = format!(
        "{files}, {} rows in {} spans of {} origins",
        found.rows, found.spans, found.reach.origins
    );
    let share = node::share(&part.details);
    let Some((nodes, _)) = share.filter(|(nodes, replicas)| nodes <= replicas) else {
        let whose = share.map_or_else(String::new, |(nodes, replicas)| {
            format!(" of {nodes} nodes with {replicas} replicas")
        });
        told = format!("{told}; one node's share{whose}, not compared with the spans");
        return (Outcome::Loaded, told);
    };
    let wanted =
        Reach { origins: number(ORIGINS).unwrap_or(0), bytes: number(REACHED).unwrap_or(0) };
    let mut faults = found.faults.clone();
    if found.reach.origins < wanted.origins || found.reach.bytes < wanted.bytes {
        faults.push(format!(
            "its spans are of {} origins and reach to {} bytes, the manifest says {} and {}",
            found.reach.origins, found.reach.bytes, wanted.origins, wanted.bytes
        ));
    }
    let Some(first) = faults.first() else {
        told.push_str(match sample.since_ms {
            None => ", audit clean",
            Some(_) => ", audit of what the newest files hold clean",
        });
        return (Outcome::Loaded, told);
    };
    if nodes == 1 {
        return (Outcome::Failed, format!("{told}; {} faults, the first: {first}", faults.len()));
    }
    // a write is acknowledged before all replicas have it
    let told = format!(
        "{told}; this node lacks what others of the {nodes} have ({} rows; {first}): nodetool \
         repair",
        found.missing
    );
    (Outcome::Loaded, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> PartRecord {
        let details = [(node::NODES, "1"), (node::REPLICAS, "1"), (ORIGINS, "2"), (REACHED, "70")];
        let details = details.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        PartRecord { details, ..PartRecord::default() }
    }

    #[test]
    fn a_fault_fails_where_one_node_has_all_and_is_told_where_others_have_more() {
        let mut part = part();
        let sample = Sample::default();
        let good = Found { reach: Reach { origins: 2, bytes: 70 }, ..Found::default() };
        assert_eq!(judge(&part, &sample, &good).0, Outcome::Loaded);
        for reach in [Reach { origins: 2, bytes: 69 }, Reach { origins: 1, bytes: 70 }] {
            let short = judge(&part, &sample, &Found { reach, ..Found::default() });
            assert_eq!(short.0, Outcome::Failed, "{short:?}");
        }
        let lacking = || Found {
            reach: good.reach,
            missing: 3,
            faults: vec!["f".into()],
            ..Found::default()
        };
        assert_eq!(judge(&part, &sample, &lacking()).0, Outcome::Failed);
        for (nodes, replicas, words) in
            [("3", "3", "nodetool repair"), ("3", "2", "share of 3 nodes with 2 replicas")]
        {
            part.details.insert(node::NODES.into(), nodes.into());
            part.details.insert(node::REPLICAS.into(), replicas.into());
            let (outcome, told) = judge(&part, &sample, &lacking());
            assert!(outcome == Outcome::Loaded && told.contains(words), "{told}");
        }
        // one of an older program does not say
        part.details.clear();
        let (outcome, told) = judge(&part, &sample, &lacking());
        assert!(outcome == Outcome::Loaded && told.contains("not compared"), "{told}");
    }
}
