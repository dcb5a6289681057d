//! The disk queue of the socket: what a client was told is safe is in here, synced.
//!
//! It stores bytes and does not know what they mean. A *segment* is one SQLite file; in it stand
//! *lanes*, each a stream of bytes of its own that grows by blocks of whole lines. A lane of a
//! segment is an origin: its offsets are positions in that stream. One thread writes
//! ([`writer`]), with one commit for everything that waits; [`reader`] reads beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

mod lane;
pub mod reader;
mod segment;
#[cfg(test)]
mod tests;
pub mod writer;

pub use lane::LaneBytes;
pub use reader::{Block, Lane, SegmentReader};
pub use segment::Sealed;
pub use writer::{Append, Done, Part, Place, Spool, SpoolConfig};

/// Longest block, in bytes.
pub const BLOCK_BYTES_MAX: usize = 64 << 10;

/// A numbered client: who it is to the kernel, and the UUID that it goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey {
    /// The user that the kernel names.
    pub uid: u32,
    /// What the client calls itself.
    pub id: u128,
}

/// Why the spool cannot be used for now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// No room is left.
    #[error("no room is left for {}: {detail}; make room on its file system", path.display())]
    Full {
        /// The segment, or the spool's directory.
        path: PathBuf,
        /// What was said.
        detail: String,
    },
    /// It cannot be read or written.
    #[error("{} cannot be used: {detail}", path.display())]
    Io {
        /// The segment, or the spool's directory.
        path: PathBuf,
        /// What was said.
        detail: String,
    },
    /// It holds what was never written.
    #[error("{} is damaged: {detail}", path.display())]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// How that was seen.
        detail: String,
    },
    /// A newer program wrote it.
    #[error("{} is of a newer bitacora: {detail}; install that one again", path.display())]
    Newer {
        /// The segment.
        path: PathBuf,
        /// How that was seen.
        detail: String,
    },
}

impl SpoolError {
    fn of(path: &Path, error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let (path, detail) = (path.to_owned(), error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path, detail },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path, detail }
            }
            _ => Self::Io { path, detail },
        }
    }

    fn io(path: &Path, error: &std::io::Error) -> Self {
        let (path, detail) = (path.to_owned(), error.to_string());
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::Full { path, detail };
        }
        Self::Io { path, detail }
    }
}

/// What the spool holds, for its limit and for metrics.
#[derive(Debug, Default)]
pub struct Usage {
    /// Bytes of each segment.
    held: Mutex<BTreeMap<u64, u64>>,
    active: AtomicU64,
    /// The segment that is written, and its last block that is committed.
    written: Mutex<(u64, i64)>,
    /// The segment that a reader has given up.
    given_up: AtomicU64,
    sealed: Mutex<Vec<Sealed>>,
}

impl Usage {
    /// Bytes of all segments.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.held().values().sum()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the segment that is being written; those before it grow no more.
    #[must_use]
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Acquire)
    }

    /// The last block of the active segment that is committed for certain: what stands behind it may
    /// be of a commit that fails, and is written again to the next one. 0 of another segment.
    #[must_use]
    pub fn readable(&self, number: u64) -> i64 {
        let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.0 == number { written.1 } else { 0 }
    }

    fn wrote(&self, segment: u64, blocks: i64) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = (segment, blocks);
    }

    /// How much of a segment counts, if its last commit failed in this run.
    #[must_use]
    pub fn sealed(&self, number: u64) -> Option<Sealed> {
        let sealed = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        sealed.iter().find(|one| one.segment == number).copied()
    }

    fn seal(&self, sealed: Sealed, next: u64) {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner).push(sealed);
        self.active.store(next, Ordering::Release);
    }

    fn add(&self, segment: u64, bytes: u64) {
        *self.held().entry(segment).or_default() += bytes;
    }

    /// A segment is gone.
    pub fn remove(&self, segment: u64) {
        self.held().remove(&segment);
    }

    /// A reader found the segment damaged that is being written: it is to be followed by another
    /// before anything more is written.
    pub fn give_up(&self, segment: u64) {
        self.given_up.store(segment, Ordering::Release);
    }

    fn is_given_up(&self, segment: u64) -> bool {
        self.given_up.load(Ordering::Acquire) == segment
    }
}

/// The file of a segment.
#[must_use]
pub fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.db"))
}

/// The segments of a directory, by number.
///
/// # Errors
///
/// The directory cannot be read.
pub fn segments(dir: &Path) -> Result<Vec<u64>, SpoolError> {
    let entries = std::fs::read_dir(dir).map_err(|error| SpoolError::io(dir, &error))?;
    let mut numbers: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            number_of(name.to_str()?)
        })
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".db").filter(|number| number.len() == 10)?.parse().ok()
}

/// Removes a segment for good.
///
/// # Errors
///
/// It cannot be removed; then it is still there.
pub fn remove(dir: &Path, number: u64) -> Result<(), SpoolError> {
    let path = path_of(dir, number);
    let result = std::fs::remove_file(&path).and_then(|()| {
        for suffix in ["-wal", "-shm"] {
            let mut name = path.clone().into_os_string();
            name.push(suffix);
            if let Err(error) = std::fs::remove_file(&name)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
        crate::durable::sync_dir(dir)
    });
    result.map_err(|error| SpoolError::io(&path, &error))
}

/// Sets a damaged segment aside under another name, which it answers; one that is not there any
/// more has been set aside already.
///
/// # Errors
///
/// It cannot be renamed.
pub fn set_aside(dir: &Path, number: u64, now_ms: i64) -> Result<PathBuf, SpoolError> {
    let path = path_of(dir, number);
    crate::durable::set_aside(&path, now_ms).map_err(|error| SpoolError::io(&path, &error))
}
