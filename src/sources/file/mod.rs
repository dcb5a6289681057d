//! Followed files: discovery, identity, rotation, reading.
//!
//! [`Tailer`] is a state machine without threads and clocks: a caller steps it, hands on what it
//! says, and tells it what the store has. It never parses, and it never decides what is stored.
//!
//! ```text
//! scan (paths, directories) -> bind (whose content is it?) -> birth (new origins)
//!                                    |                            |
//!                                    '------> pump (reach, read, finish) ----> chunks
//! ```
//!
//! What it promises, each with tests in `tests`:
//! - the chunks of an origin tile its file from its first offset on, whatever is renamed, copied,
//!   compressed or cut in between, and across restarts;
//! - an origin and its contexts are in the state and in the store before its first byte is handed
//!   out, and nothing beyond its reach is handed out ever;
//! - what cannot be had is a loss receipt.

use std::path::PathBuf;

use crate::config::FileSource;
use crate::ledger::{Context, Encoding, LossReceipt, OriginId, OriginRecord};
use crate::sources::Input;

mod adopt;
mod bind;
mod birth;
mod context;
pub mod discover;
pub mod examine;
mod follow;
mod forget;
pub mod identity;
mod list;
pub mod marker;
mod pump;
pub mod reader;
mod scan;
pub mod siblings;
mod slab;
pub mod state;
mod state_db;
mod suspects;
mod tailer;
#[cfg(test)]
mod tests;
mod truncation;
mod view;
pub mod wake;

pub use marker::{MARKER_BYTES, marker};
#[cfg(test)]
pub use state::MemoryState;
pub use state::{Change, Detail, KnownOrigin, NewOrigin, Sum, TailState, TailStateError};
pub use tailer::Tailer;

/// Furthest that an origin's reach may be past its last span, in bytes.
pub const REACH_BYTES_MAX: u64 = 16 << 20;

/// The time, as the caller has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// A clock that never goes back, in milliseconds: for waits.
    pub mono_ms: u64,
    /// The wall clock, in milliseconds since 1970: for anchors and receipts.
    pub wall_ms: i64,
}

/// How long the caller may sleep until the next step, if nothing wakes it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Milliseconds; 0 while there is more to do at once.
    pub wait_ms: u64,
}

/// What a tailer needs to know.
pub struct TailerConfig {
    /// The sources.
    pub sources: Vec<FileSource>,
    /// Column `host`.
    pub host: String,
    /// The machine's id.
    pub machine: String,
    /// Makes the number of an origin: positive, never the same twice.
    pub ids: Box<dyn FnMut() -> OriginId + Send>,
    /// At most so many files are open at once.
    pub open_files_max: usize,
    /// A file that did not grow for so long is closed.
    pub idle_ms: u64,
    /// With more files than this, a quiet one is known to the tailer alone.
    pub kept_files_max: usize,
    /// How a file is opened for reading.
    pub open: fn(&std::path::Path) -> std::io::Result<std::fs::File>,
    /// Files without a name that an earlier run has kept open: their origins, and paths that lead to
    /// them, such as `/proc/self/fd/3`.
    pub kept: Vec<(OriginId, PathBuf)>,
    /// The clock by which files are stamped, in nanoseconds since 1970.
    pub file_clock_ns: Box<dyn Fn() -> i64 + Send>,
}

impl TailerConfig {
    /// With random origin numbers and the usual limits.
    #[must_use]
    pub fn new(sources: Vec<FileSource>, host: &str, machine: &str) -> Self {
        Self {
            sources,
            host: host.to_owned(),
            machine: machine.to_owned(),
            ids: Box::new(crate::ledger::random_id),
            open_files_max: 256,
            idle_ms: 60_000,
            kept_files_max: 512,
            open: |path| std::fs::File::open(path),
            kept: Vec::new(),
            file_clock_ns: Box::new(discover::file_clock_ns),
        }
    }
}

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Good to know.
    Info,
    /// Somebody should look at it.
    Warning,
}

/// Something that happened to a file, for `bitacora_file_events_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Happening {
    /// A path has a file that was not there before.
    Created,
    /// A file was renamed or unlinked, and another one took its place or will.
    Rotated,
    /// A file is shorter than it was, or holds other content.
    Truncated,
    /// A file is gone, and so is what was not read of it.
    Deleted,
    /// An origin goes on in another file with the same content.
    Adopted,
    /// An origin was born.
    Born,
}

impl Happening {
    /// The label `op`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Rotated => "rotated",
            Self::Truncated => "truncated",
            Self::Deleted => "deleted",
            Self::Adopted => "adopted",
            Self::Born => "generation_new",
        }
    }
}

/// What a step says.
#[derive(Debug)]
pub enum FileEvent {
    /// Write this origin and these contexts to the store, then call [`Tailer::announced`]: nothing
    /// more of the origin comes before.
    Announce {
        /// The origin.
        record: OriginRecord,
        /// Its contexts (not always all of them).
        contexts: Vec<Context>,
    },
    /// For the worker of its origin.
    Input(Input),
    /// For metrics; the state's outbox has it for the store.
    Receipt(LossReceipt),
    /// A file was cut back by a power cut or a rolled-back disk. Parse the whole lines of `file`
    /// from `from` on under `contexts` and answer [`Tailer::cut_back`] with the offset of the
    /// first one that the store lacks; if it has all up to `end`, with that behind the last one
    /// up to `to` that it has.
    CutBack {
        /// Whose file it was.
        origin: OriginId,
        /// The file's name.
        path: PathBuf,
        /// The file, at its beginning.
        file: std::fs::File,
        /// How the bytes stand in it.
        encoding: Encoding,
        /// Where a marker still holds.
        from: u64,
        /// End of what was committed of the origin.
        end: u64,
        /// End of what may be stored of it.
        to: u64,
        /// The contexts of the origin.
        contexts: Vec<Context>,
    },
    /// For metrics.
    Happened {
        /// Name of the source.
        source: String,
        /// What.
        what: Happening,
    },
    /// For the log.
    Said {
        /// How much it matters.
        weight: Weight,
        /// Which file or directory.
        path: PathBuf,
        /// What is wrong and what to do, in one sentence.
        text: String,
    },
}

/// One file, for `bitacora status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStatus {
    /// Name of the source.
    pub source: String,
    /// The followed path.
    pub log: PathBuf,
    /// The file's own name, if it was rotated or is behind a link.
    pub path: PathBuf,
    /// Its origin; `None` while it has none.
    pub origin: Option<OriginId>,
    /// Size of its content.
    pub size: u64,
    /// End of what was handed out.
    pub read: u64,
    /// End of what the store has.
    pub committed: u64,
    /// `new`, `waiting`, `copy`, `followed`, `cut_back`, `finished` or `retired`.
    pub state: &'static str,
    /// It is open.
    pub open: bool,
    /// It has no name any more.
    pub deleted: bool,
}

/// Sums of one source, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceSums {
    /// Name of the source.
    pub source: String,
    /// Files that are known.
    pub files: u64,
    /// Files that are open.
    pub open: u64,
    /// Bytes on disk that were not handed out.
    pub backlog_bytes: u64,
    /// Size of files that are open and have no name any more.
    pub deleted_open_bytes: u64,
}
