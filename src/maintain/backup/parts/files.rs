//! Part `files`: whatever `[backup] files` names, such as the JSON log of an application.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::BufReader;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::Making;
use crate::maintain::backup::BackupError;
use crate::maintain::backup::archive::seconds_of;
use crate::maintain::backup::names::file_in_archive;

/// Copies files at the length that they have when they are opened. Never what a link leads to:
/// whoever may write in a directory of logs must not choose what this process reads. And never a
/// file of `secrets`.
pub fn copy(
    making: &mut Making<'_, '_>,
    patterns: &[String],
    secrets: &[PathBuf],
) -> Result<(), BackupError> {
    let secret: BTreeSet<(u64, u64)> = secrets
        .iter()
        .filter_map(|path| fs::metadata(path).ok())
        .map(|data| (data.dev(), data.ino()))
        .collect();
    let mut paths = BTreeSet::new();
    for pattern in patterns {
        let found = glob::glob(pattern)
            .map_err(|error| BackupError::Source(format!("pattern \"{pattern}\": {error}")))?;
        let before = paths.len();
        for path in found {
            match path {
                Ok(path) => drop(paths.insert(path)),
                Err(error) => {
                    return Err(BackupError::read(error.path(), error.error().kind().into()));
                }
            }
        }
        if paths.len() == before {
            making.note(format!("nothing matched \"{pattern}\""));
        }
    }
    for path in &paths {
        one(making, path, &secret)?;
    }
    Ok(())
}

fn one(
    making: &mut Making<'_, '_>,
    path: &Path,
    secret: &BTreeSet<(u64, u64)>,
) -> Result<(), BackupError> {
    match fs::symlink_metadata(path) {
        Ok(data) if data.is_symlink() => {
            making.note(format!("{} is a link: name what it leads to", path.display()));
            return Ok(());
        }
        Ok(data) if !data.is_file() => return Ok(()),
        _ => {}
    }
    // asked again of what is opened: the name may have got another file meanwhile
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        // rotated away since the pattern was asked
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BackupError::read(path, error)),
    };
    let data = file.metadata().map_err(|source| BackupError::read(path, source))?;
    if !data.is_file() {
        return Ok(());
    }
    if secret.contains(&(data.dev(), data.ino())) {
        making.note(format!("{} holds a secret and is left out", path.display()));
        return Ok(());
    }
    let Some(name) = file_in_archive(path) else {
        making.note(format!("{} goes up: name it without ..", path.display()));
        return Ok(());
    };
    let mut reader = BufReader::with_capacity(256 << 10, file);
    let record = making.frame.add(&name, &mut reader, data.len(), seconds_of(&data))?;
    let true_bytes = record.true_bytes;
    if let Some(bytes) = true_bytes {
        making.note(format!("{} was cut to {bytes} bytes while it was read", path.display()));
    }
    Ok(())
}
