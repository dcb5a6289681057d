//! `restore`: brings parts of an archive back to where the configuration of this host has them.
//!
//! Everything is unpacked and compared with the manifest first, beside the place where it will
//! be; only then does anything take its place. An archive that was not verified as it is, a place
//! that is not empty, and a state that a daemon holds are refused.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::catalog::Archive;
use super::manifest::{FileRecord, PartRecord};
use super::names::{self, Scratch};
use super::reader::{ArchiveReader, Receiver};
use super::{BackupError, lock};
use crate::config::Config;
use crate::durable::{self, DirLock, LockError, own_like};

mod place;

pub use place::{Place, load_postgresql};

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Restore<'a> {
    /// The configuration of this host.
    pub config: &'a Config,
    /// The archive.
    pub archive: &'a Archive,
    /// These parts; empty for all but `config`.
    pub parts: &'a [String],
    /// Unpack into this directory, and load nothing.
    pub to: Option<&'a Path>,
    /// Also an archive that was not verified as it is.
    pub unverified: bool,
    /// Also over what is there.
    pub overwrite: bool,
    /// Only look whether it could be done.
    pub dry_run: bool,
}

/// What was done, or would be, with one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Its name.
    pub part: String,
    /// Where it went.
    pub place: String,
    /// Its files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What the manifest says to whoever restores it.
    pub notes: Vec<String>,
}

/// Restores. `told` hears of each part when it is in its place.
///
/// # Errors
///
/// It is refused, the archive is damaged, or a part cannot be loaded; parts that were told are in
/// their places then.
pub fn restore(
    asked: &Restore<'_>,
    told: &mut dyn FnMut(&Restored),
) -> Result<Vec<Restored>, BackupError> {
    let reader = ArchiveReader::open(&asked.archive.path)?;
    trusted(asked, &reader)?;
    let parts = chosen(asked, &reader)?;
    let quiet = asked.dry_run || asked.to.is_some();
    let _lock = if quiet { None } else { Some(lock(&asked.config.backup.dir)?) };
    let mut places = Vec::new();
    for part in &parts {
        let place = match asked.to {
            Some(dir) => Place::Below(dir.to_owned()),
            None => Place::of(part, asked.config)?,
        };
        if !asked.overwrite {
            place.is_empty(part, asked.config)?;
        }
        places.push((*part, place));
    }
    let _state = hold_state(asked, &places)?;
    let restored = |part: &PartRecord, place: &Place| Restored {
        part: part.name.clone(),
        place: place.to_string(),
        files: part.files.len(),
        bytes: part.bytes(),
        notes: part.notes.clone(),
    };
    let all: Vec<_> = places.iter().map(|(part, place)| restored(part, place)).collect();
    if asked.dry_run {
        return Ok(all);
    }
    let dirs: BTreeSet<PathBuf> =
        places.iter().map(|(_, place)| place.unpack_in(asked.config)).collect();
    for dir in &dirs {
        make_dir(dir)?;
        if !quiet {
            names::sweep(dir).map_err(|source| BackupError::write(dir, source))?;
        }
    }
    let mut unpacked = Vec::new();
    for (part, place) in &places {
        let scratch = Scratch::new(&place.unpack_in(asked.config))?;
        unpack(&reader, part, scratch.dir(), &mut |_| true)?;
        unpacked.push((*part, place, scratch));
    }
    for (part, place, scratch) in &unpacked {
        place.take(part, scratch, asked.config, asked.overwrite)?;
        told(&restored(part, place));
    }
    Ok(all)
}

/// An archive counts as verified if it is, byte for byte, the one that was read then.
fn trusted(asked: &Restore<'_>, reader: &ArchiveReader) -> Result<(), BackupError> {
    if asked.unverified {
        return Ok(());
    }
    let path = asked.archive.path.display();
    let Some(verified) = &asked.archive.verified else {
        return Err(BackupError::Refused(format!(
            "{path} was not verified, or did not pass: run `bitacora backup verify` on it first, \
             or say --unverified"
        )));
    };
    if reader.sha256()? == verified.sha256 {
        return Ok(());
    }
    Err(BackupError::Damaged {
        archive: asked.archive.path.clone(),
        detail: "it is not the one that was verified: it was changed or damaged since".into(),
    })
}

fn chosen<'a>(
    asked: &Restore<'_>,
    reader: &'a ArchiveReader,
) -> Result<Vec<&'a PartRecord>, BackupError> {
    let manifest = reader.manifest();
    if asked.parts.is_empty() {
        // the configuration that decides where all the others go is not replaced on the way
        let all = manifest.parts.iter().filter(|part| part.is_there() && !part.files.is_empty());
        return Ok(all.filter(|part| asked.to.is_some() || part.name != "config").collect());
    }
    let mut parts = Vec::new();
    for name in asked.parts.iter().collect::<BTreeSet<_>>() {
        let part = manifest.part(name).ok_or_else(|| manifest.lacks(&asked.archive.path, name))?;
        // what was empty when it was copied replaces nothing
        parts.extend(Some(part).filter(|part| !part.files.is_empty()));
    }
    Ok(parts)
}

/// No daemon may run over files that are replaced under it.
fn hold_state(
    asked: &Restore<'_>,
    places: &[(&PartRecord, Place)],
) -> Result<Option<DirLock>, BackupError> {
    let dir = &asked.config.daemon.state_dir;
    if !places.iter().any(|(_, place)| place.needs_quiet()) || (asked.dry_run && !dir.exists()) {
        return Ok(None);
    }
    durable::create_dir(dir).map_err(|source| BackupError::write(dir, source))?;
    durable::lock_dir(dir).map(Some).map_err(|error| match error {
        LockError::Held { dir, holder } => BackupError::Running { dir, holder },
        LockError::Io { dir, source } => BackupError::Write { path: dir, source },
    })
}

/// Unpacks the files of a part that are wanted below `dir`, under their names in the archive. All
/// of the part is compared with the manifest.
pub fn unpack(
    reader: &ArchiveReader,
    part: &PartRecord,
    dir: &Path,
    wanted: &mut dyn FnMut(&FileRecord) -> bool,
) -> Result<(), BackupError> {
    let room = rustix::fs::statvfs(dir).map_err(|errno| BackupError::read(dir, errno.into()))?;
    let bytes = part.files.iter().filter(|file| wanted(file)).map(|file| file.bytes);
    let bytes = bytes.fold(0_u64, u64::saturating_add);
    if bytes > room.f_bavail.saturating_mul(room.f_frsize) {
        return Err(BackupError::Full { path: dir.to_owned() });
    }
    let mut unpacking = Unpacking { dir, wanted, file: None };
    reader.read_part(part, &mut unpacking)
}

struct Unpacking<'a> {
    dir: &'a Path,
    wanted: &'a mut dyn FnMut(&FileRecord) -> bool,
    file: Option<(PathBuf, File)>,
}

impl Receiver for Unpacking<'_> {
    fn begin(&mut self, file: &FileRecord) -> Result<(), BackupError> {
        self.file = None;
        if !(self.wanted)(file) {
            return Ok(());
        }
        let path = self.dir.join(&file.path);
        let failed = |source| BackupError::write(&path, source);
        if let Some(above) = path.parent() {
            fs::create_dir_all(above).map_err(failed)?;
        }
        let made = File::options().write(true).create_new(true).mode(0o600).open(&path);
        self.file = Some((path.clone(), made.map_err(failed)?));
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        match &mut self.file {
            Some((path, file)) => {
                file.write_all(bytes).map_err(|source| BackupError::write(path, source))
            }
            None => Ok(()),
        }
    }

    fn end(&mut self, record: &FileRecord) -> Result<(), BackupError> {
        let Some((path, file)) = self.file.take() else { return Ok(()) };
        let length = record.true_bytes.filter(|bytes| *bytes <= record.bytes);
        let done =
            length.map_or(Ok(()), |bytes| file.set_len(bytes)).and_then(|()| file.sync_all());
        done.map_err(|source| BackupError::write(&path, source))
    }
}

/// Gives an unpacked file its place: mode 0640, and the owner of the directory.
pub fn put(from: &Path, to: &Path) -> Result<(), BackupError> {
    let failed = |source| BackupError::write(to, source);
    let dir = to.parent().unwrap_or(Path::new("/"));
    make_dir(dir)?;
    fs::set_permissions(from, fs::Permissions::from_mode(0o640)).map_err(failed)?;
    own_like(dir, from).map_err(failed)?;
    match durable::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            // beside its place, so that the name never stands for half a file
            let scratch = Scratch::new(dir)?;
            let beside = scratch.path("file");
            fs::copy(from, &beside)
                .and_then(|_| File::open(&beside)?.sync_all())
                .map_err(failed)?;
            own_like(dir, &beside).map_err(failed)?;
            durable::rename(&beside, to).map_err(failed)
        }
        done => done.map_err(failed),
    }
}

/// Makes a directory that is missing, with the owner of what it is in.
pub fn make_dir(dir: &Path) -> Result<(), BackupError> {
    // above the first name of a relative path is nothing that could be asked
    let dir = std::path::absolute(dir).map_err(|source| BackupError::write(dir, source))?;
    let dir = dir.as_path();
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
    durable::create_dir(dir).map_err(|source| BackupError::write(dir, source))?;
    for dir in missing.into_iter().rev() {
        let above = dir.parent().unwrap_or(Path::new("/"));
        own_like(above, dir).map_err(|source| BackupError::write(dir, source))?;
    }
    Ok(())
}
