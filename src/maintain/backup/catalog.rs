//! The archives of a directory, and what is known of each from the files beside it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::BackupError;
use super::names::Name;
use crate::durable::{self, own_like};

/// Ending of the file that says an archive was read again.
pub const VERIFIED: &str = ".verified.json";
/// Ending of the file that says an archive was loaded.
pub const DRILLED: &str = ".drilled.json";
/// A file beside an archive that is larger was not written by us.
const BESIDE_BYTES_MAX: u64 = 16 << 20;

/// Written beside an archive of which everything was read again and is as its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Its name.
    pub archive: String,
    /// When it was begun: what was written later may not be in it.
    pub created_ms: i64,
    /// When it was read.
    pub verified_ms: i64,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of the archive itself.
    pub sha256: String,
    /// What is in it.
    pub parts: Vec<VerifiedPart>,
}

/// A part of a verified archive.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VerifiedPart {
    /// Its name.
    pub name: String,
    /// The days (`YYYY-MM-DD`) whose rows it holds; `SQLite` only.
    #[serde(default)]
    pub days: Vec<String>,
    /// How it was made.
    #[serde(default)]
    pub kind: String,
    /// What its manifest says of it besides.
    #[serde(default)]
    pub details: BTreeMap<String, String>,
}

/// Written beside an archive that was loaded into scratch databases without a difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drilled {
    /// Its name.
    pub archive: String,
    /// When.
    pub drilled_ms: i64,
    /// What was done with each part.
    pub parts: Vec<DrilledPart>,
}

/// A part in a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrilledPart {
    /// Its name.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
    /// What was compared, or why not, or what differs.
    pub detail: String,
}

/// What came of a part in a drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Loaded, and equal to what the manifest says.
    Loaded,
    /// Not loaded.
    Skipped,
    /// Loaded with a difference, or not to be loaded.
    Failed,
}

/// An archive of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Where it is.
    pub path: PathBuf,
    /// Its name.
    pub name: String,
    /// When it was begun.
    pub begun_ms: i64,
    /// Its size.
    pub bytes: u64,
    /// If all of it was read again and it has not changed its size since.
    pub verified: Option<Verified>,
    /// If it was loaded.
    pub drilled: Option<Drilled>,
}

impl Archive {
    /// The archive at a path, in whatever directory it is.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    pub fn at(path: &Path) -> Result<Self, BackupError> {
        let data = fs::metadata(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => {
                BackupError::NotFound(format!("there is no archive {}", path.display()))
            }
            _ => BackupError::read(path, source),
        })?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let verified: Option<Verified> = beside(path, VERIFIED);
        let verified = verified.filter(|one| one.archive == name && one.bytes == data.len());
        let drilled: Option<Drilled> = beside(path, DRILLED);
        let drilled = drilled.filter(|one| one.archive == name);
        let begun_ms = Name::parse(&name).map_or(0, |name| name.begun_ms);
        Ok(Self { path: path.to_owned(), name, begun_ms, bytes: data.len(), verified, drilled })
    }
}

/// The path of a file beside an archive.
pub fn beside_path(archive: &Path, ending: &str) -> PathBuf {
    let mut path = archive.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn beside<T: DeserializeOwned>(archive: &Path, ending: &str) -> Option<T> {
    let path = beside_path(archive, ending);
    let small = fs::metadata(&path).is_ok_and(|data| data.len() <= BESIDE_BYTES_MAX);
    let bytes = small.then(|| fs::read(path).ok())??;
    serde_json::from_slice(&bytes).ok()
}

/// Writes a file beside an archive, whole or not at all, for the same readers.
pub fn put_beside(archive: &Path, ending: &str, value: &impl Serialize) -> Result<(), BackupError> {
    let path = beside_path(archive, ending);
    let failed = |source| BackupError::write(&path, source);
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| failed(error.into()))?;
    text.push(b'\n');
    durable::replace(&path, &text).map_err(failed)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    fs::set_permissions(&path, mode)
        .and_then(|()| own_like(path.parent().unwrap_or(Path::new(".")), &path))
        .map_err(failed)
}

/// All archives of a directory, oldest first. Anything else there is passed over.
///
/// # Errors
///
/// The directory cannot be read; one that is not there has no archives.
pub fn list(dir: &Path) -> Result<Vec<Archive>, BackupError> {
    let failed = |source| BackupError::read(dir, source);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut archives = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let ours = entry.file_name().to_str().and_then(Name::parse).is_some();
        if ours && entry.file_type().map_err(failed)?.is_file() {
            match Archive::at(&entry.path()) {
                // pruned since the directory was listed
                Err(BackupError::NotFound(_)) => {}
                archive => archives.push(archive?),
            }
        }
    }
    archives.sort_by(|a, b| (a.begun_ms, &a.name).cmp(&(b.begun_ms, &b.name)));
    Ok(archives)
}

/// The archive that is meant: a path, a name in `dir`, or without either the newest verified one.
///
/// # Errors
///
/// There is none.
pub fn find(dir: &Path, given: Option<&Path>) -> Result<Archive, BackupError> {
    if let Some(given) = given {
        let bare = given.components().count() == 1 && !given.exists();
        return Archive::at(&if bare { dir.join(given) } else { given.to_owned() });
    }
    let newest = list(dir)?.into_iter().rev().find(|archive| archive.verified.is_some());
    newest.ok_or_else(|| {
        BackupError::NotFound(format!("there is no verified archive in {}", dir.display()))
    })
}

/// What alerts ask: when were we last safe?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latest {
    /// When the newest verified archive was begun. To read an old one again does not change it.
    pub backup_ms: Option<i64>,
    /// When an archive that is still there was last verified.
    pub verified_ms: Option<i64>,
    /// When an archive that is still there was last drilled.
    pub drill_ms: Option<i64>,
}

/// The newest of each; all `None` where there is no backup.
///
/// # Errors
///
/// The directory cannot be read.
pub fn latest(dir: &Path) -> Result<Latest, BackupError> {
    let mut latest = Latest::default();
    for archive in list(dir)? {
        if let Some(verified) = &archive.verified {
            latest.backup_ms = latest.backup_ms.max(Some(archive.begun_ms));
            latest.verified_ms = latest.verified_ms.max(Some(verified.verified_ms));
        }
        let drill_ms = archive.drilled.as_ref().map(|drilled| drilled.drilled_ms);
        latest.drill_ms = latest.drill_ms.max(drill_ms);
    }
    Ok(latest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(name: &str, verified_ms: i64, bytes: u64) -> Verified {
        Verified {
            archive: name.into(),
            created_ms: 0,
            verified_ms,
            bytes,
            sha256: String::new(),
            parts: Vec::new(),
        }
    }

    #[test]
    fn only_archives_that_are_there_and_were_verified_as_they_are_count() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(latest(&dir.path().join("missing")).unwrap(), Latest::default());
        let path = |name: &str| dir.path().join(name);
        let (old, new) =
            ("bitacora_backup_20261122_020000.tar.zst", "bitacora_backup_20261123_020000.tar.zst");
        fs::write(path(old), "12345").unwrap();
        assert_eq!(latest(dir.path()).unwrap(), Latest::default());
        put_beside(&path(old), VERIFIED, &verified(old, 7000, 5)).unwrap();
        let drilled = Drilled { archive: old.into(), drilled_ms: 9000, parts: Vec::new() };
        put_beside(&path(old), DRILLED, &drilled).unwrap();
        // its archive is gone
        put_beside(&path(new), VERIFIED, &verified(new, 9000, 5)).unwrap();
        let found = latest(dir.path()).unwrap();
        let expected = Latest {
            backup_ms: Some(1_795_312_800_000),
            verified_ms: Some(7000),
            drill_ms: Some(9000),
        };
        assert_eq!(found, expected);
        // one that was cut short since is not the one that was verified
        fs::write(path(new), "1234").unwrap();
        assert_eq!(latest(dir.path()).unwrap(), expected);
        fs::write(path(new), "54321").unwrap();
        assert_eq!(latest(dir.path()).unwrap().backup_ms, Some(1_795_312_800_000 + 86_400_000));
    }
}
