//! `prune`: what is older than it is kept for goes, but never the last good copy of anything.
//!
//! An archive of which only some parts have expired is made anew without them: their frames are
//! left out, the others are copied as they are. It is read again before it takes its old place. A
//! run that is ended in between leaves the old archive, or the new one without its note.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::archive::ArchiveWriter;
use super::catalog::{self, Archive, DRILLED, VERIFIED, beside_path, put_beside};
use super::names::{Name, partial};
use super::reader::ArchiveReader;
use super::{BackupError, lock, verify};
use crate::config::Backup;

/// One thing to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Delete an archive with what stands beside it.
    Delete {
        /// Which.
        archive: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Make an archive anew without these parts.
    Rewrite {
        /// Which.
        archive: PathBuf,
        /// The parts that go.
        without: Vec<String>,
    },
    /// Delete a note whose archive is gone.
    Tidy {
        /// Which.
        note: PathBuf,
    },
}

/// What has to go at `now_ms`.
///
/// # Errors
///
/// The directory cannot be read.
pub fn plan(backup: &Backup, now_ms: i64) -> Result<Vec<Action>, BackupError> {
    let archives = catalog::list(&backup.dir)?;
    let mut actions = decide(backup, &archives, now_ms);
    actions.extend(orphans(&backup.dir)?);
    Ok(actions)
}

fn decide(backup: &Backup, archives: &[Archive], now_ms: i64) -> Vec<Action> {
    let expired = |archive: &Archive, keep: Duration| {
        i128::from(now_ms) - i128::from(archive.begun_ms)
            > i128::try_from(keep.as_millis()).unwrap_or(i128::MAX)
    };
    let newest_good = archives.iter().rposition(|archive| archive.verified.is_some());
    let last = newest_good.or(archives.len().checked_sub(1));
    // the newest good copy of each part: archives come oldest first
    let mut copies: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, archive) in archives.iter().enumerate() {
        for part in archive.verified.iter().flat_map(|verified| &verified.parts) {
            copies.insert(&part.name, at);
        }
    }
    let mut actions = Vec::new();
    for (at, archive) in archives.iter().enumerate() {
        if Some(at) == last {
            continue;
        }
        let delete = || Action::Delete { archive: archive.path.clone(), bytes: archive.bytes };
        let Some(verified) = &archive.verified else {
            if expired(archive, backup.keep) {
                actions.push(delete());
            }
            continue;
        };
        let goes = |name: &str| {
            let keep = backup.keep_parts.get(name).copied().unwrap_or(backup.keep);
            expired(archive, keep) && copies.get(name) != Some(&at)
        };
        let names = verified.parts.iter().map(|part| &part.name);
        let without: Vec<String> = names.filter(|name| goes(name)).cloned().collect();
        if without.len() == verified.parts.len()
            && (!without.is_empty() || expired(archive, backup.keep))
        {
            actions.push(delete());
        } else if !without.is_empty() {
            actions.push(Action::Rewrite { archive: archive.path.clone(), without });
        }
    }
    actions
}

/// Notes whose archive a run has deleted that was then ended.
fn orphans(dir: &Path) -> Result<Vec<Action>, BackupError> {
    let failed = |source| BackupError::read(dir, source);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut notes = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let archive = [VERIFIED, DRILLED].iter().find_map(|ending| name.strip_suffix(ending));
        let Some(archive) = archive.filter(|archive| Name::parse(archive).is_some()) else {
            continue;
        };
        if !dir.join(archive).exists() {
            notes.push(Action::Tidy { note: entry.path() });
        }
    }
    notes.sort_by(|a, b| format!("{a:?}").cmp(&format!("{b:?}")));
    Ok(notes)
}

/// Does what was planned, anew under the lock; `told` hears of each thing that was done.
///
/// # Errors
///
/// Another run is at work, or something could not be deleted or written. What was done is done.
pub fn apply(
    backup: &Backup,
    now_ms: i64,
    told: &mut dyn FnMut(&Action),
) -> Result<(), BackupError> {
    let _lock = lock(&backup.dir)?;
    for action in plan(backup, now_ms)? {
        match &action {
            Action::Delete { archive, .. } => {
                // first the archive: a note alone says nothing, an archive without one is not good
                for path in
                    [archive.clone(), beside_path(archive, VERIFIED), beside_path(archive, DRILLED)]
                {
                    remove(&path)?;
                }
            }
            Action::Rewrite { archive, without } => rewrite(archive, without, now_ms)?,
            Action::Tidy { note } => remove(note)?,
        }
        told(&action);
    }
    crate::durable::sync_dir(&backup.dir).map_err(|source| BackupError::write(&backup.dir, source))
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BackupError::write(path, error))
        }
        _ => Ok(()),
    }
}

fn rewrite(archive: &Path, without: &[String], now_ms: i64) -> Result<(), BackupError> {
    let old = ArchiveReader::open(archive)?;
    let dir = archive.parent().unwrap_or(Path::new("."));
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let mut writer = ArchiveWriter::create(&partial(dir, &name), old.compression())?;
    let mut manifest = old.manifest().clone();
    for part in &mut manifest.parts {
        if part.is_there() && without.contains(&part.name) {
            part.expired_ms = Some(now_ms);
            part.files.clear();
            (part.at, part.length) = (0, 0);
        } else if part.is_there() {
            part.at = writer.copy_frame(old.file(), part)?;
        }
    }
    writer.seal(&manifest)?;
    let verdict = verify::examine(writer.path(), &name, now_ms)?;
    let damaged = |detail: String| BackupError::Damaged { archive: archive.to_owned(), detail };
    let Some(verified) = verdict.verified else {
        let fault = verdict.parts.into_iter().find_map(|part| part.fault).unwrap_or_default();
        return Err(damaged(format!("it is left as it is: {fault}")));
    };
    writer.name(archive)?;
    put_beside(archive, VERIFIED, &verified)
}

#[cfg(test)]
mod tests {
    use super::super::catalog::{Verified, VerifiedPart};
    use super::*;

    const DAY: i64 = 86_400_000;

    fn archive(day: i64, parts: Option<&[&str]>) -> Archive {
        let verified = parts.map(|parts| Verified {
            archive: String::new(),
            created_ms: day * DAY,
            verified_ms: day * DAY,
            bytes: 1,
            sha256: String::new(),
            parts: parts
                .iter()
                .map(|name| VerifiedPart { name: (*name).into(), ..VerifiedPart::default() })
                .collect(),
        });
        Archive {
            path: format!("/b/{day}").into(),
            name: day.to_string(),
            begun_ms: day * DAY,
            bytes: 1,
            verified,
            drilled: None,
        }
    }

    fn backup() -> Backup {
        let config = crate::config::Config::from_texts(&[], &crate::config::Machine::here());
        let mut backup = config.unwrap().backup;
        backup.keep = Duration::from_hours(30 * 24);
        backup.keep_parts = BTreeMap::from([("shop".to_owned(), Duration::from_hours(7 * 24))]);
        backup
    }

    fn delete(day: i64) -> Action {
        Action::Delete { archive: format!("/b/{day}").into(), bytes: 1 }
    }

    fn without(day: i64, part: &str) -> Action {
        Action::Rewrite { archive: format!("/b/{day}").into(), without: vec![part.into()] }
    }

    #[test]
    fn archives_and_parts_go_at_their_time() {
        let both = Some(&["logs", "shop"][..]);
        let days = [0, 69, 71, 92, 94, 99];
        let archives: Vec<_> = days.iter().map(|day| archive(*day, both)).collect();
        let actions = decide(&backup(), &archives, 100 * DAY);
        assert_eq!(actions, [delete(0), delete(69), without(71, "shop"), without(92, "shop")]);
    }

    #[test]
    fn the_last_good_one_stays_and_so_does_the_last_good_copy_of_a_part() {
        let archives = [archive(0, Some(&["logs"])), archive(1, None)];
        assert_eq!(decide(&backup(), &archives, 100 * DAY), [delete(1)]);
        let archives = [
            archive(0, Some(&["logs", "shop"])),
            archive(1, Some(&["logs", "shop"])),
            archive(2, Some(&["logs"])),
        ];
        let actions = decide(&backup(), &archives, 100 * DAY);
        assert_eq!(actions, [delete(0), without(1, "logs")]);
        assert_eq!(decide(&backup(), &[archive(0, None)], 100 * DAY), []);
    }
}
