//! Which days a verified backup holds.

use std::collections::BTreeMap;
use std::path::Path;

use crate::maintain::backup;
use crate::stores::expired::date_of;

/// The part of an archive that holds rows.
const LOGS: &str = "logs";

/// Days that verified backups hold, each with the newest moment up to which one does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    days: BTreeMap<String, i64>,
    /// Up to which moment one holds the ledger: origins and spans.
    ledger_ms: Option<i64>,
    /// Why archives are of no help, in words.
    pub useless: Vec<String>,
}

impl Verified {
    /// What the archives in `dir` hold. One that was not verified, or is not as it was then, holds
    /// nothing.
    #[must_use]
    pub fn read(dir: &Path) -> Self {
        let mut verified = Self::default();
        let archives = match backup::list(dir) {
            Ok(archives) => archives,
            Err(error) => {
                verified.useless.push(error.to_string());
                return verified;
            }
        };
        for archive in archives {
            let Some(note) = archive.verified else {
                verified.useless.push(format!("{} is not verified", archive.name));
                continue;
            };
            let logs: Vec<_> = note.parts.into_iter().filter(|part| part.name == LOGS).collect();
            if !logs.is_empty() {
                verified.ledger_ms = verified.ledger_ms.max(Some(note.created_ms));
            }
            for day in logs.into_iter().flat_map(|part| part.days) {
                let known = verified.days.entry(day).or_insert(note.created_ms);
                *known = (*known).max(note.created_ms);
            }
        }
        verified
    }

    /// Whether one holds what was written of an origin up to `written_ms`.
    #[must_use]
    pub fn holds_ledger(&self, written_ms: i64) -> bool {
        self.ledger_ms.is_some_and(|up_to_ms| written_ms <= up_to_ms)
    }

    /// Why the rows of a day may not go, where nothing is newer than `written_ms`; `None` if a
    /// verified backup holds them.
    #[must_use]
    pub fn withholds(&self, day: i32, written_ms: i64) -> Option<String> {
        let date = date_of(day);
        match self.days.get(&date.to_string()) {
            None => Some(format!("no verified backup holds {date}")),
            Some(up_to_ms) if *up_to_ms < written_ms => {
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
