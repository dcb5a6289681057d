//! Backups: one archive a run, that is read again before it counts, and that can be loaded back.
//!
//! ```text
//! bitacora_backup_20261122_020000.tar.zst                 times are UTC
//!   frame  dora/…        one compressed frame a part, each whole tar entries: a damaged part
//!   frame  logs/…        leaves the others readable, and `prune` copies frames as they are
//!   frame  manifest.json the last one: what each frame holds, with sizes and checksums
//! ….tar.zst.verified.json  all of it was read again; only such an archive counts as good
//! ….tar.zst.drilled.json   it was loaded into scratch databases
//! ```
//!
//! `tar --zstd -xf` reads it too. An archive is not encrypted, and a checksum proves that nothing
//! changed by accident, not who made it.

use std::io;
use std::path::{Path, PathBuf};

use crate::durable::{self, DirLock, LockError, own_like};
use crate::stores::StoreError;

mod archive;
mod catalog;
mod create;
mod drill;
mod manifest;
mod masks;
mod names;
mod parts;
mod prune;
mod reader;
mod restore;
mod verify;

pub use catalog::{Archive, Drilled, DrilledPart, Latest, Outcome, Verified, VerifiedPart};
pub use catalog::{find, latest, list};
pub use create::{Created, Request, create, wanted};
pub use drill::{Drill, drill, would_load};
pub use manifest::{FileRecord, Manifest, PartRecord};
pub(crate) use parts::cassandra::share;
pub use prune::{Action, apply as apply_prune, plan as plan_prune};
pub use reader::ArchiveReader;
pub use restore::{Restore, Restored, restore};
pub use verify::{Finding, Verdict, examine, verify};

/// Why a backup or a restore did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Another run works in the directory.
    #[error("{} is in use by another backup, drill or restore (pid {holder}); try again later", dir.display())]
    Busy {
        /// The directory of the archives.
        dir: PathBuf,
        /// Its process.
        holder: String,
    },
    /// The daemon has the state that is to be replaced.
    #[error("{} is in use by the running daemon (pid {holder}); stop it first", dir.display())]
    Running {
        /// The state directory.
        dir: PathBuf,
        /// Its process.
        holder: String,
    },
    /// No room for what is being written. What was there before is untouched.
    #[error("no room for {}: free space on its file system; what was there before is untouched", path.display())]
    Full {
        /// What was being written.
        path: PathBuf,
    },
    /// The archive, or a file beside it, could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// What was being written.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Something could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What was being read.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// An `SQLite` file could not be copied or read.
    #[error("{}: {detail}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// `SQLite`'s words.
        detail: String,
    },
    /// What is to be copied is not there, or not in order.
    #[error("{0}")]
    Source(String),
    /// A program did not do its work.
    #[error("{program}: {detail}")]
    Tool {
        /// The program.
        program: String,
        /// What it said, or why it could not be started.
        detail: String,
    },
    /// The archive is damaged, or was made by someone who means harm.
    #[error("{}: {detail}", archive.display())]
    Damaged {
        /// The archive.
        archive: PathBuf,
        /// The part and what is wrong with it.
        detail: String,
    },
    /// It needs to be said that this is meant.
    #[error("{0}")]
    Refused(String),
    /// There is no such archive.
    #[error("{0}")]
    NotFound(String),
}

impl BackupError {
    /// An error of writing, with a full disk as what it is.
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Write { path, source },
        }
    }

    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    /// An error of `SQLite` while it writes below the directory of the archives.
    pub(crate) fn sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full { path: path.to_owned() },
            _ => Self::Sqlite { path: path.to_owned(), detail: error.to_string() },
        }
    }

    /// Whether the run must end: the archive itself cannot be written. Anything else is a
    /// failure of one part.
    pub(crate) const fn ends_all(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Write { .. })
    }
}

/// Makes the directory if it is missing, takes its lock, and removes what a run that was ended
/// has left.
///
/// # Errors
///
/// Another run has the lock, or the directory cannot be written.
pub(crate) fn lock(dir: &Path) -> Result<DirLock, BackupError> {
    durable::create_dir(dir).map_err(|source| BackupError::write(dir, source))?;
    let lock = durable::lock_dir(dir).map_err(|error| match error {
        LockError::Held { dir, holder } => BackupError::Busy { dir, holder },
        LockError::Io { dir, source } => BackupError::Write { path: dir, source },
    })?;
    own_like(dir, &dir.join("lock")).map_err(|source| BackupError::write(dir, source))?;
    names::sweep(dir).map_err(|source| BackupError::write(dir, source))?;
    Ok(lock)
}

/// Waits for what a store is asked; `what` is said where it fails.
pub(crate) fn waited<T>(
    what: &str,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, BackupError> {
    let failed = |error: String| BackupError::Source(format!("{what}: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    runtime.block_on(asked).map_err(|error| failed(error.to_string()))
}
