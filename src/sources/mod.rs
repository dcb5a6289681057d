//! Where records come from: followed files, and the socket in its time.
//!
//! A source says what it has read, in order, as [`Input`]s for one worker. It never parses and
//! never says what is stored.

use crate::ledger::{Carried, Context, OriginId};

pub mod drain;
pub mod file;
pub mod socket;

/// What goes from a source to a worker, in order for each origin.
#[derive(Debug)]
pub enum Input {
    /// An origin begins (or goes on) here.
    Open(Opening),
    /// Another context is in force from its `from_bytes` on, which is where the next chunk of its
    /// origin begins. Open records end.
    Context(Context),
    /// Bytes.
    Chunk(Chunk),
    /// The origin has no more bytes: open records end, a line without newline is final.
    Finish {
        /// Which origin.
        origin: OriginId,
    },
    /// All of the origin is committed and its file is quiet: it need not be kept in memory. It
    /// may be opened again.
    Rest {
        /// Which origin.
        origin: OriginId,
    },
}

impl Input {
    /// Whose it is.
    #[must_use]
    pub const fn origin(&self) -> OriginId {
        match self {
            Self::Open(opening) => opening.origin,
            Self::Context(context) => context.origin,
            Self::Chunk(chunk) => chunk.origin,
            Self::Finish { origin } | Self::Rest { origin } => *origin,
        }
    }
}

/// How an origin's reading begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Which origin.
    pub origin: OriginId,
    /// Where reading begins: the end of the last span, or the first offset.
    pub at: u64,
    /// The context in force at `at`.
    pub context: Context,
    /// Anchor of the origin's first context: the time of records before the first dated one.
    pub first_anchor_ms: i64,
    /// The up to 256 bytes before `at`: for markers, and to see whether `at` is in mid-line.
    pub before: Vec<u8>,
    /// Time of the last dated record before `at`, from the last span.
    pub running_ms: Option<i64>,
    /// Records with lines on both sides of `at`, from the last span.
    pub carried: Vec<Carried>,
}

/// Consecutive bytes of one origin. Chunks of an origin touch. A chunk usually ends at a line
/// end; it does not where a line is longer than a chunk, or at the end of a finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which origin.
    pub origin: OriginId,
    /// Offset of the first byte.
    pub start: u64,
    /// The bytes; a buffer to give back to [`Buffers`].
    pub bytes: Vec<u8>,
}

/// Largest chunk, in bytes.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Chunk buffers that are used again. Shared by the tailer and the workers.
#[derive(Debug, Default)]
pub struct Buffers(std::sync::Mutex<Vec<Vec<u8>>>);

impl Buffers {
    const KEPT_MAX: usize = 16;

    /// A buffer, empty.
    pub fn take(&self) -> Vec<u8> {
        let kept = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        kept.unwrap_or_default()
    }

    /// Gives a buffer back.
    pub fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut kept = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if kept.len() < Self::KEPT_MAX {
            kept.push(buffer);
        }
    }
}
