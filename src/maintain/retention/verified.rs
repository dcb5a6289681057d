//! What a verified backup holds: days of SQLite, or all that a cluster had at a moment.

use std::collections::BTreeMap;
use std::path::Path;

use crate::maintain::backup::{self, VerifiedPart};
use crate::stores::expired::date_of;

/// The part of an archive that holds rows.
const LOGS: &str = "logs";
/// How it is made where rows are in a cluster.
const CASSANDRA: &str = "cassandra";

/// Clocks of hosts differ by less: the one that wrote a row, and the one that makes backups.
const CLOCKS_MS: i64 = 10_000;

/// What verified backups hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Days, each with the newest moment up to which an archive holds it.
    days: BTreeMap<String, i64>,
    /// The newest moment up to which an archive holds all origins and spans, and with Cassandra all of
    /// the keyspace.
    all_ms: Option<i64>,
    keyspace: bool,
    /// Why archives are of no help, in words.
    pub useless: Vec<String>,
}

impl Verified {
    /// What the archives in `dir` hold of a store in files. One that was not verified, or is not
    /// as it was then, holds nothing.
    #[must_use]
    pub fn read(dir: &Path) -> Self {
        let mut verified = Self::default();
        for (_, created_ms, part) in verified.parts(dir) {
            if part.kind == CASSANDRA {
                continue;
            }
            verified.all_ms = verified.all_ms.max(Some(created_ms));
            for day in part.days {
                let known = verified.days.entry(day).or_insert(created_ms);
                *known = (*known).max(created_ms);
            }
        }
        verified
    }

    /// The same of a keyspace. An archive is that of one node: it holds everything where each row
    /// is on every node.
    #[must_use]
    pub fn of_keyspace(dir: &Path, keyspace: &str) -> Self {
        let mut verified = Self { keyspace: true, ..Self::default() };
        let mut why = None;
        for (archive, created_ms, part) in verified.parts(dir) {
            let same = part.details.get("keyspace").is_some_and(|name| name == keyspace);
            if part.kind != CASSANDRA || !same {
                why = Some(format!("{archive} is not of keyspace {keyspace}"));
                continue;
            }
            match backup::share(&part.details) {
                Some((nodes, replicas)) if nodes <= replicas => {
                    verified.all_ms = verified.all_ms.max(Some(created_ms));
                }
                Some((nodes, replicas)) => {
                    why = Some(format!(
                        "{archive} is that of one of {nodes} nodes with {replicas} replicas, and \
                         holds a part of each day; as there is no archive that holds all, only a \
                         run without --require-backup lets partitions go"
                    ));
                }
                None => {
                    why = Some(format!(
                        "{archive} does not say how much of the cluster it holds; make a new one"
                    ));
                }
            }
        }
        // the newest stands for all of them, and one that holds all is enough
        verified.useless.extend(why.filter(|_| verified.all_ms.is_none()));
        verified
    }

    /// The part with rows of each verified archive, with the archive's name and begin.
    fn parts(&mut self, dir: &Path) -> Vec<(String, i64, VerifiedPart)> {
        let archives = match backup::list(dir) {
            Ok(archives) => archives,
            Err(error) => {
                self.useless.push(error.to_string());
                return Vec::new();
            }
        };
        let mut parts = Vec::new();
        for archive in archives {
            let Some(note) = archive.verified else {
                self.useless.push(format!("{} is not verified", archive.name));
                continue;
            };
            let logs = note.parts.into_iter().filter(|part| part.name == LOGS);
            parts.extend(logs.map(|part| (archive.name.clone(), note.created_ms, part)));
        }
        parts
    }

    /// Whether one holds what was written of an origin up to `written_ms`.
    #[must_use]
    pub fn holds_ledger(&self, written_ms: i64) -> bool {
        self.all_ms.is_some_and(|up_to_ms| written_ms.saturating_add(self.margin_ms()) <= up_to_ms)
    }

    const fn margin_ms(&self) -> i64 {
        if self.keyspace { CLOCKS_MS } else { 0 }
    }

    /// Why the rows of a day may not go, where nothing is newer than `written_ms`; `None` if a
    /// verified backup holds them.
    #[must_use]
    pub fn withholds(&self, day: i32, written_ms: i64) -> Option<String> {
        let date = date_of(day);
        let of_day = || self.days.get(&date.to_string()).copied();
        let up_to_ms = if self.keyspace { self.all_ms } else { of_day() };
        match up_to_ms {
            None => Some(format!("no verified backup holds {date}")),
            Some(up_to_ms) if up_to_ms < written_ms.saturating_add(self.margin_ms()) => {
                Some(format!("rows of {date} were written after the last verified backup began"))
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ARCHIVE: &str = "bitacora_backup_20261122_020000.tar.zst";

    /// An archive of three bytes, with a note about one of `bytes`.
    fn archive(dir: &Path, bytes: u64) {
        fs::write(dir.join(ARCHIVE), "abc").unwrap();
        let note = format!(
            r#"{{"archive":"{ARCHIVE}","created_ms":500,"verified_ms":900,"bytes":{bytes},
                "sha256":"00","parts":[{{"name":"logs","days":["2026-11-22"]}},
                {{"name":"dora","days":["2026-11-21"]}}]}}"#
        );
        fs::write(dir.join(format!("{ARCHIVE}.verified.json")), note).unwrap();
    }

    #[test]
    fn only_what_a_verified_archive_holds_may_go() {
        let dir = tempfile::tempdir().unwrap();
        archive(dir.path(), 3);
        let verified = Verified::read(dir.path());
        assert_eq!(verified.useless, Vec::<String>::new());
        assert_eq!(verified.withholds(20_779, 500), None);
        let later = verified.withholds(20_779, 501).unwrap();
        assert!(later.contains("after the last verified backup began"), "{later}");
        assert!(verified.holds_ledger(500) && !verified.holds_ledger(501));
        let other = verified.withholds(20_778, 0).unwrap();
        assert!(other.contains("no verified backup holds 2026-11-21"), "{other}");
    }

    /// An archive of a node of `nodes`, with two replicas.
    fn of_node(dir: &Path, nodes: u32) {
        fs::write(dir.join(ARCHIVE), "abc").unwrap();
        let note = format!(
            r#"{{"archive":"{ARCHIVE}","created_ms":500000,"verified_ms":900000,"bytes":3,
                "sha256":"00","parts":[{{"name":"logs","kind":"cassandra",
                "details":{{"keyspace":"k","nodes":"{nodes}","replicas":"2"}}}}]}}"#
        );
        fs::write(dir.join(format!("{ARCHIVE}.verified.json")), note).unwrap();
    }

    #[test]
    fn of_a_cluster_an_archive_holds_all_or_nothing_up_to_its_begin() {
        let dir = tempfile::tempdir().unwrap();
        of_node(dir.path(), 2);
        let verified = Verified::of_keyspace(dir.path(), "k");
        assert_eq!(verified.useless, Vec::<String>::new());
        assert_eq!(verified.withholds(1, 500_000 - CLOCKS_MS), None);
        assert!(verified.withholds(1, 500_001 - CLOCKS_MS).unwrap().contains("written after"));
        assert!(verified.holds_ledger(500_000 - CLOCKS_MS));
        assert!(!verified.holds_ledger(500_001 - CLOCKS_MS));
        let other = Verified::of_keyspace(dir.path(), "other");
        assert!(other.withholds(1, 0).is_some() && other.useless[0].contains("keyspace other"));
        let files = Verified::read(dir.path());
        assert!(files.withholds(1, 0).is_some() && !files.holds_ledger(0), "it holds no files");
        of_node(dir.path(), 3);
        let part = Verified::of_keyspace(dir.path(), "k");
        assert!(part.withholds(1, 0).is_some() && !part.holds_ledger(0));
        assert!(part.useless[0].contains("one of 3 nodes with 2 replicas"), "{part:?}");
        // rows of files that were shipped before the store was a cluster
        archive(dir.path(), 3);
        assert!(Verified::of_keyspace(dir.path(), "k").withholds(20_779, 0).is_some());
    }

    #[test]
    fn an_archive_that_has_changed_or_was_never_verified_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        archive(dir.path(), 4);
        let verified = Verified::read(dir.path());
        assert_eq!(verified.useless, [format!("{ARCHIVE} is not verified")]);
        assert!(verified.withholds(20_779, 0).is_some() && !verified.holds_ledger(0));
        fs::remove_file(dir.path().join(ARCHIVE)).unwrap();
        assert!(Verified::read(dir.path()).withholds(20_779, 0).is_some(), "its archive is gone");
        assert!(Verified::read(&dir.path().join("missing")).withholds(20_779, 0).is_some());
    }
}
