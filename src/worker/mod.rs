//! Workers: chunks in, batches and pieces out.
//!
//! A worker is a plain state machine. It owns the reading state of its origins: the unfinished
//! line, the open records, the running time. All that it makes of a byte is a function of the
//! origin's bytes and contexts, so that a replay makes the same rows.

mod account;
mod assemble;
mod event;
mod fill;
mod frame;
mod lines;
mod origin;
mod row;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use account::marker_of;
pub use assemble::INTERLEAVED_BYTES_MAX;
pub use event::user_of;
pub use fill::{Fill, FillLimits, Layouts};
pub use frame::{FramedRecord, Framer};
pub use lines::{Line, Lines};
pub use row::{id_uuid, write as write_row};

use self::origin::{OriginWork, Parsers};
use self::row::Object;
use crate::batch::Batch;
use crate::ledger::{OriginId, Piece, PieceId};
use crate::parse::{Format, OptionError};
use crate::sources::{Buffers, Input};

/// What is noted of a record besides what its format says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// The rest of a record that had already ended.
    pub continued: bool,
    /// The last line had no newline when its file was finished.
    pub partial: bool,
    /// True length of a line of which only the head is kept.
    pub line_bytes: Option<u64>,
    /// NUL bytes that were skipped before the text.
    pub nul_bytes: u64,
}

impl Flags {
    /// Takes the flags of a further line.
    fn note(&mut self, line: Line<'_>) {
        self.partial |= line.partial;
        self.line_bytes = line.cut_from.or(self.line_bytes);
        self.nul_bytes += line.hole_bytes;
    }

    /// Writes them as metadata.
    fn write(&self, object: &mut Object<'_>) {
        if self.continued {
            object.entry(b"continued", b"true");
        }
        if self.partial {
            object.entry(b"partial", b"true");
        }
        if let Some(bytes) = self.line_bytes {
            object.entry(b"truncated", b"true");
            object.entry(b"line_bytes", bytes.to_string().as_bytes());
        }
        if self.nul_bytes > 0 {
            object.entry(b"nul_bytes", self.nul_bytes.to_string().as_bytes());
        }
    }

    /// The same as metadata entries of a record, for `bitacora parse`.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let mut entries = Vec::new();
        if self.continued {
            entries.push(("continued", "true".to_owned()));
        }
        if self.partial {
            entries.push(("partial", "true".to_owned()));
        }
        if let Some(bytes) = self.line_bytes {
            entries.push(("truncated", "true".to_owned()));
            entries.push(("line_bytes", bytes.to_string()));
        }
        if self.nul_bytes > 0 {
            entries.push(("nul_bytes", self.nul_bytes.to_string()));
        }
        entries
    }
}

/// What a worker has made.
#[derive(Debug, Default)]
pub struct Output {
    /// Batches that are ready to go.
    pub batches: Vec<Batch>,
    /// Accounts of consecutive bytes, in order for each origin.
    pub pieces: Vec<Piece>,
    /// Rows that were written again because their record had grown, by source.
    pub amended: BTreeMap<String, u64>,
}

/// A context that this program cannot work with: it was written by another version.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The format is unknown.
    #[error(
        "origin {origin} was read with format {format}, which this program does not know; install the newer bitacora that wrote it"
    )]
    Format {
        /// Which origin.
        origin: OriginId,
        /// The format's name.
        format: String,
    },
    /// An option does not compile.
    #[error("origin {origin}: {source}")]
    Option {
        /// Which origin.
        origin: OriginId,
        /// What is wrong.
        source: OptionError,
    },
    /// The time zone is unknown on this machine.
    #[error(
        "origin {origin} needs time zone {timezone}, which this machine does not have; install tzdata"
    )]
    TimeZone {
        /// Which origin.
        origin: OriginId,
        /// The zone's name.
        timezone: String,
    },
}

/// See the module.
pub struct Worker {
    /// In order, so that what a tick gives does not hang on chance. Boxed, as tables of large
    /// values are half empty.
    origins: BTreeMap<OriginId, Box<OriginWork>>,
    fill: Fill,
    buffers: Arc<Buffers>,
    pieces: Numbers,
    parsers: Parsers,
}

/// Numbers for pieces: unique over all workers of a run.
#[derive(Debug, Clone)]
pub struct Numbers {
    next: PieceId,
    step: PieceId,
}

impl Numbers {
    /// The numbers of worker `index` of `workers`.
    #[must_use]
    pub const fn of_worker(index: u64, workers: u64) -> Self {
        Self { next: index, step: workers }
    }

    fn take(&mut self) -> PieceId {
        self.next += self.step;
        self.next
    }
}

impl Worker {
    /// A worker without origins.
    #[must_use]
    pub fn new(fill: Fill, buffers: Arc<Buffers>, pieces: Numbers) -> Self {
        let parsers = Parsers::default();
        Self { origins: BTreeMap::new(), fill, buffers, pieces, parsers }
    }

    /// Takes one input at `now_ms` (monotonic) and adds what came of it to `output`.
    ///
    /// # Errors
    ///
    /// A context cannot be worked with; nothing of its origin is read.
    pub fn take(
        &mut self,
        input: Input,
        now_ms: u64,
        output: &mut Output,
    ) -> Result<(), WorkerError> {
        match input {
            Input::Open(opening) => {
                let origin = opening.origin;
                let work = OriginWork::open(opening, self.pieces.take(), &mut self.parsers)?;
                self.origins.insert(origin, Box::new(work));
            }
            Input::Context(context) => {
                if let Some(work) = self.origins.get_mut(&context.origin) {
                    // in the middle of a line, too: its file was finished there
                    work.finish(now_ms, &mut self.fill, output);
                    work.cut(&mut self.pieces, output);
                    work.change(&context, &mut self.parsers)?;
                }
            }
            Input::Chunk(chunk) => {
                if let Some(work) = self.origins.get_mut(&chunk.origin) {
                    work.chunk(chunk.start, &chunk.bytes, now_ms, &mut self.fill, output);
                    work.cut(&mut self.pieces, output);
                }
                self.buffers.give(chunk.bytes);
            }
            Input::Finish { origin } => {
                if let Some(mut work) = self.origins.remove(&origin) {
                    work.finish(now_ms, &mut self.fill, output);
                    work.cut(&mut self.pieces, output);
                }
            }
            Input::Rest { origin } => {
                let work = self.origins.remove(&origin);
                assert!(!work.is_some_and(|work| work.has_open()), "an open record is committed");
            }
        }
        Ok(())
    }

    /// Hands out open records that were quiet for their source's wait (in milliseconds), and
    /// batches that are old; with `all`, every batch.
    pub fn tick(
        &mut self,
        now_ms: u64,
        multiline_wait_ms: &dyn Fn(&str) -> u64,
        all: bool,
        output: &mut Output,
    ) {
        for work in self.origins.values_mut().filter(|work| work.has_open()) {
            if let Some(before_ms) = now_ms.checked_sub(multiline_wait_ms(work.source())) {
                work.ship_early(before_ms, now_ms, &mut self.fill, output);
                work.cover(&mut self.pieces, output);
            }
        }
        self.fill.flush(now_ms, all, &mut output.batches);
    }

    /// Hands out everything that is there, open records as far as they have come: at a stop.
    pub fn ship_all(&mut self, now_ms: u64, output: &mut Output) {
        self.tick(now_ms, &|_| 0, true, output);
    }

    /// Whether rows wait in batches that are not full.
    #[must_use]
    pub fn has_open_batches(&self) -> bool {
        self.fill.has_open()
    }

    /// Whether [`Worker::tick`] has anything to do before the next input. Looks at every origin.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.has_open_batches() && !self.origins.values().any(|work| work.has_open())
    }

    /// Forgets an origin whose reading was broken off.
    pub fn forget(&mut self, origin: OriginId) {
        self.origins.remove(&origin);
    }

    /// Gives a batch back whose rows are stored.
    pub fn recycle(&mut self, batch: Batch) {
        self.fill.recycle(batch);
    }
}

/// The format of a name in a context.
fn format_of(origin: OriginId, name: &str) -> Result<Format, WorkerError> {
    Format::of_context(name).ok_or_else(|| WorkerError::Format { origin, format: name.to_owned() })
}
