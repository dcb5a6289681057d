//! A file that a power cut or a rolled-back disk has cut back: which of its lines the store has.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::announce::{FIRST_WAIT, MAX_WAIT};
use super::health::Health;
use super::tail::{Command, TailHandle};
use crate::backoff::Backoff;
use crate::batch::Row;
use crate::key::{Partition, RowKey};
use crate::ledger::{Context, Encoding, OriginId};
use crate::sources::file::reader;
use crate::sources::{Buffers, CHUNK_BYTES_MAX, Chunk, Input, Opening};
use crate::stores::{Store, StoreError};
use crate::worker::{Fill, FillLimits, Numbers, Output, Worker};

/// The question of [`crate::sources::file::FileEvent::CutBack`].
#[derive(Debug)]
pub struct CutBack {
    /// Whose file it was.
    pub origin: OriginId,
    /// The file's name.
    pub path: PathBuf,
    /// The file, at its beginning: its name may lead elsewhere by now.
    pub file: File,
    /// How the bytes stand in it.
    pub encoding: Encoding,
    /// Where a marker still holds.
    pub from: u64,
    /// End of what was committed.
    pub end: u64,
    /// End of what may be stored.
    pub to: u64,
    /// The origin's contexts.
    pub contexts: Vec<Context>,
}

/// Answers until the tailer has gone, or until the stop.
pub(super) async fn run(
    mut requests: mpsc::Receiver<CutBack>,
    store: Arc<dyn Store>,
    health: Arc<Health>,
    tail: Arc<TailHandle>,
    stop: CancellationToken,
) {
    while let Some(request) = requests.recv().await {
        let origin = request.origin;
        let (path, from) = (request.path.clone(), request.from);
        let rows = match tokio::task::block_in_place(|| rows_of(request, &store)) {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a file that was cut back cannot be read; it is read from there on again");
                tail.tell(Command::CutBack(origin, from));
                continue;
            }
        };
        let mut backoff = Backoff::new(FIRST_WAIT, MAX_WAIT, origin.unsigned_abs());
        let at = loop {
            match rows.goes_on_at(&*store).await {
                Ok(at) => break at,
                Err(error) => health.store_refused(&error),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = stop.cancelled() => return,
            }
        };
        tail.tell(Command::CutBack(origin, at));
    }
}

/// What the lines of a file that was cut back would be in the store.
#[derive(Debug)]
pub struct Rows {
    /// By offset.
    keys: Vec<(Partition, RowKey)>,
    /// Their messages.
    texts: Vec<String>,
    /// End of what was committed.
    committed: u64,
    /// End of the last whole line that was read.
    end: u64,
}

impl Rows {
    /// Where what is not the origin's begins: at the first line that the store lacks, of those
    /// that were committed; if it has them all, behind the last line that it has. What was not
    /// committed was not written in order.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn goes_on_at(&self, store: &dyn Store) -> Result<u64, StoreError> {
        let stored = store.messages(&self.keys).await?;
        let offset = |index: usize| {
            self.keys.get(index).map_or(self.end, |(_, key)| key.offset_bytes.unsigned_abs())
        };
        let has = |index: usize| {
            let texts = self.texts.get(index).zip(stored.get(index).and_then(Option::as_ref));
            // a record may have been stored with lines that are gone, or not yet with all
            texts.is_some_and(|(text, there)| {
                there.starts_with(text)
                    || offset(index) >= self.committed && text.starts_with(there)
            })
        };
        let committed = (0..self.keys.len()).take_while(|&index| offset(index) < self.committed);
        let committed = committed.count();
        if let Some(lacking) = (0..committed).find(|&index| !has(index)) {
            return Ok(offset(lacking));
        }
        let last = (committed..self.keys.len()).rev().find(|&index| has(index));
        Ok(last.map_or_else(|| self.committed.min(self.end), |last| offset(last + 1)))
    }
}

/// The keys that the lines from the marker on would have in the origin that was cut back. What
/// stands before them decides the time of those without one, so the origin is read from its
/// beginning.
///
/// # Errors
///
/// The file cannot be read, or the origin's context is not known.
pub fn rows_of(request: CutBack, store: &Arc<dyn Store>) -> std::io::Result<Rows> {
    let mut contexts = request.contexts.iter().cloned().peekable();
    let Some(context) = contexts.next() else {
        return Err(std::io::Error::other("its context is not known"));
    };
    let store = Arc::clone(store);
    let layouts = Box::new(move |table, source: &str, day| store.layout(table, source, day));
    let limits = FillLimits { batch_rows: 1000, batch_age_ms: 0, open_bytes: 16 << 20 };
    let fill = Fill::new(limits, "".into(), layouts, Box::new(|_| 0));
    let worker = Worker::new(fill, Arc::new(Buffers::default()), Numbers::of_worker(0, 1));
    let mut at = context.from_bytes;
    let mut text = reader::decoder(request.file, request.encoding)?;
    let (origin, from, to) = (request.origin, request.from, request.to);
    let (committed, rows) = (request.end, Vec::new());
    let output = Output::default();
    let mut lines = Lines { origin, from, committed, worker, output, rows, end: at };
    lines.take(Input::Open(Opening {
        origin,
        at,
        first_anchor_ms: context.anchor_ms,
        context,
        before: b"\n".to_vec(),
        running_ms: None,
        carried: Vec::new(),
    }))?;
    std::io::copy(&mut text.by_ref().take(at), &mut std::io::sink())?;
    while at < to {
        if let Some(context) = contexts.next_if(|context| context.from_bytes <= at) {
            lines.take(Input::Context(context))?;
            continue;
        }
        let next = contexts.peek().map_or(to, |next| next.from_bytes.min(to));
        let mut bytes = Vec::new();
        text.by_ref().take((next - at).min(CHUNK_BYTES_MAX as u64)).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            break; // it was cut back
        }
        let start = at;
        at += bytes.len() as u64;
        lines.chunk(start, bytes)?;
    }
    lines.finish()
}

/// The origin on its way through a worker of its own.
struct Lines {
    origin: OriginId,
    from: u64,
    committed: u64,
    worker: Worker,
    output: Output,
    rows: Vec<((Partition, RowKey), String)>,
    /// End of the last whole line.
    end: u64,
}

impl Lines {
    fn take(&mut self, input: Input) -> std::io::Result<()> {
        self.worker.take(input, 0, &mut self.output).map_err(std::io::Error::other)?;
        self.collect();
        Ok(())
    }

    fn chunk(&mut self, start: u64, bytes: Vec<u8>) -> std::io::Result<()> {
        if let Some(newline) = memchr::memrchr(b'\n', &bytes) {
            self.end = start + newline as u64 + 1;
        }
        self.take(Input::Chunk(Chunk { origin: self.origin, start, bytes }))
    }

    fn collect(&mut self) {
        for batch in self.output.batches.drain(..) {
            let later = |row: &&Row| row.key.offset_bytes.unsigned_abs() >= self.from;
            self.rows.extend(batch.rows.iter().filter(later).map(|row| {
                let text = String::from_utf8_lossy(batch.text(&row.message)).into_owned();
                ((batch.partition.clone(), row.key), text)
            }));
        }
        self.output.pieces.clear();
    }

    fn finish(mut self) -> std::io::Result<Rows> {
        self.take(Input::Finish { origin: self.origin })?;
        self.worker.ship_all(0, &mut self.output);
        self.collect();
        let end = self.end.max(self.from);
        // what stands behind the last newline is no line yet
        self.rows.retain(|((_, key), _)| key.offset_bytes.unsigned_abs() < end);
        self.rows.sort_unstable_by_key(|((_, key), _)| key.offset_bytes);
        let (keys, texts) = self.rows.into_iter().unzip();
        Ok(Rows { keys, texts, committed: self.committed, end })
    }
}
