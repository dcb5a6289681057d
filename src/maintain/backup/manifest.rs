//! What an archive says of itself: `manifest.json`, its last entry.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BackupError;

/// Version of the archive's form.
pub const FORMAT: u32 = 1;
/// The manifest's own name.
pub const MANIFEST: &str = "manifest.json";
/// A manifest that is longer is not read.
pub const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// The longest name of a file.
pub const PATH_BYTES_MAX: usize = 4096;
/// A part of more than [`RATIO_FROM_BYTES`] that claims to be so many times longer than it is
/// when compressed is a bomb.
const RATIO_MAX: u64 = 10_000;
const RATIO_FROM_BYTES: u64 = 1 << 30;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the archive's form.
    pub format: u32,
    /// The archive's name.
    pub archive: String,
    /// Version of the program that made it.
    pub program: String,
    /// Column `host` of this machine's rows.
    pub host: String,
    /// When it was begun.
    pub begun_ms: i64,
    /// When its last part was finished.
    pub ended_ms: i64,
    /// Whether every part that was asked for is in it.
    pub complete: bool,
    /// Each part, in the order of the archive.
    pub parts: Vec<PartRecord>,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartRecord {
    /// `dora`, `logs`, `state`, `config`, `files`, or the name of a database.
    pub name: String,
    /// How it was made: `sqlite`, `mysql`, `cassandra`…
    pub kind: String,
    /// When it was begun.
    pub begun_ms: i64,
    /// When it was finished.
    pub ended_ms: i64,
    /// Why it is not in the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// When it was taken out, as it is kept for a shorter time than the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired_ms: Option<i64>,
    /// Where its frame begins.
    pub at: u64,
    /// How long its frame is.
    pub length: u64,
    /// Days of rows, `YYYY-MM-DD`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<String>,
    /// What tells it from others of its kind: database, keyspace, node, version of its tables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
    /// What someone who restores it should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Its files, in the order of the frame.
    pub files: Vec<FileRecord>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name in the archive.
    pub path: String,
    /// Its size there.
    pub bytes: u64,
    /// SHA-256 of its bytes there.
    pub sha256: String,
    /// When it was changed last.
    pub modified_s: u64,
    /// It became shorter while it was read: what lies behind this is not of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_bytes: Option<u64>,
    /// Rows of each table, where they were counted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, u64>,
}

impl PartRecord {
    /// Whether it is in the archive.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.failed.is_none() && self.expired_ms.is_none()
    }

    /// Bytes of its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// Rows of its files, where they were counted.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.files.iter().flat_map(|file| file.rows.values()).fold(0, |a, b| a.saturating_add(*b))
    }
}

impl Manifest {
    /// The part of this name, if it is in the archive.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<&PartRecord> {
        self.parts.iter().find(|part| part.name == name && part.is_there())
    }

    /// That a part is not in its archive.
    pub(super) fn lacks(&self, archive: &Path, name: &str) -> BackupError {
        let there = self.parts.iter().filter(|part| part.is_there());
        let there: Vec<_> = there.map(|part| part.name.as_str()).collect();
        let path = archive.display();
        BackupError::NotFound(format!("{path} has no part {name}; it has {}", there.join(", ")))
    }

    /// Whether it describes an archive whose manifest begins at `manifest_at`, and nothing that
    /// would lead out of the place where it is unpacked. What it says came from outside.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn check(&self, manifest_at: u64) -> Result<(), String> {
        if self.format != FORMAT {
            let (found, known) = (self.format, FORMAT);
            return Err(format!("its form is version {found}, this program knows {known}"));
        }
        let (mut at, mut names, mut paths) = (0_u64, BTreeSet::new(), BTreeSet::new());
        for part in &self.parts {
            let name = &part.name;
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
                return Err(format!("part {name:?} has a name that no part has"));
            }
            if !names.insert(name) {
                return Err(format!("part {name} is there twice"));
            }
            if !part.is_there() {
                if !part.files.is_empty() {
                    return Err(format!("part {name} is not there, and has files"));
                }
                continue;
            }
            if part.at != at {
                return Err(format!("part {name} does not begin where the one before it ends"));
            }
            at = at.checked_add(part.length).ok_or("it is longer than a file can be")?;
            let bytes = part.bytes();
            if bytes > RATIO_FROM_BYTES && bytes / RATIO_MAX > part.length {
                return Err(format!(
                    "part {name} claims {bytes} bytes in a frame of {}: it looks like a bomb",
                    part.length
                ));
            }
            for file in &part.files {
                check_path(name, &file.path)?;
                if !paths.insert(&file.path) {
                    return Err(format!("file {:?} is there twice", file.path));
                }
            }
        }
        if at != manifest_at {
            return Err(format!(
                "its parts end at byte {at}, its manifest begins at {manifest_at}"
            ));
        }
        Ok(())
    }
}

fn check_path(part: &str, path: &str) -> Result<(), String> {
    let inside = path.strip_prefix(part).and_then(|rest| rest.strip_prefix('/'));
    let sound = |one: &str| !one.is_empty() && one != "." && one != "..";
    let printable = path.bytes().all(|byte| byte.is_ascii_graphic());
    match inside {
        Some(inside)
            if path.len() <= PATH_BYTES_MAX && printable && inside.split('/').all(sound) =>
        {
            Ok(())
        }
        _ => Err(format!("part {part} has a file {path:?}, which no archive of ours has")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(path: &str) -> Manifest {
        let file = FileRecord { path: path.into(), bytes: 3, ..FileRecord::default() };
        let part = PartRecord {
            name: "logs".into(),
            length: 10,
            files: vec![file],
            ..PartRecord::default()
        };
        Manifest {
            format: FORMAT,
            archive: String::new(),
            program: String::new(),
            host: String::new(),
            begun_ms: 0,
            ended_ms: 0,
            complete: true,
            parts: vec![part],
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        with("logs/a/b.db").check(10).unwrap();
        for path in [
            "/etc/passwd",
            "logs/../x",
            "logs/",
            "logs",
            "logs//x",
            "logs/./x",
            "state/state.db",
            "logs/a\0b",
            "logs/a\nb",
            "../logs/x",
        ] {
            assert!(with(path).check(10).is_err(), "{path}");
        }
        assert!(with(&format!("logs/{}", "x".repeat(5000))).check(10).is_err());
    }

    #[test]
    fn frames_that_do_not_touch_duplicates_and_bombs_are_refused() {
        assert!(with("logs/x").check(11).is_err());
        let mut twice = with("logs/x");
        twice.parts.push(twice.parts[0].clone());
        assert!(twice.check(10).unwrap_err().contains("twice"));
        let mut same = with("logs/x");
        let file = same.parts[0].files[0].clone();
        same.parts[0].files.push(file);
        assert!(same.check(10).unwrap_err().contains("twice"));
        let mut bomb = with("logs/x");
        bomb.parts[0].files[0].bytes = u64::MAX;
        assert!(bomb.check(10).unwrap_err().contains("bomb"));
        let mut newer = with("logs/x");
        newer.format += 1;
        assert!(newer.check(10).unwrap_err().contains("version"));
    }
}
