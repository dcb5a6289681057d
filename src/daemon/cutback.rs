//! A file that a power cut or a rolled-back disk has cut back: which of its lines the store has.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::announce::{FIRST_WAIT, MAX_WAIT};
use super::health::Health;
use super::tail::{Command, TailHandle};
use crate::backoff::Backoff;
use crate::key::{Partition, RowKey};
use crate::ledger::{Context, OriginId};
use crate::sources::{Buffers, CHUNK_BYTES_MAX, Chunk, Input, Opening};
use crate::stores::{Store, StoreError};
use crate::worker::{Fill, FillLimits, Numbers, Output, Worker};

/// The question of [`crate::sources::file::FileEvent::CutBack`].
#[derive(Debug)]
pub struct CutBack {
    /// Whose file it was.
    pub origin: OriginId,
    /// The file.
    pub path: PathBuf,
    /// Where a marker still holds.
    pub from: u64,
    /// End of what was committed.
    pub to: u64,
    /// The origin's contexts.
    pub contexts: Vec<Context>,
    /// Running time at the origin's end.
    pub running_ms: Option<i64>,
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
        let rows = match tokio::task::block_in_place(|| rows_of(&request, &store)) {
            Ok(rows) => rows,
            Err(error) => {
                tracing::warn!(path = %request.path.display(), %error, "a file that was cut back cannot be read; it is read from there on again");
                tail.tell(Command::CutBack(origin, request.from));
                continue;
            }
        };
        let mut backoff = Backoff::new(FIRST_WAIT, MAX_WAIT, origin.unsigned_abs());
        let at = loop {
            match rows.first_lacking(&*store).await {
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
    /// End of the last whole line that was read.
    end: u64,
}

impl Rows {
    /// The offset of the first line whose key the store lacks; the end, if it has all.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub async fn first_lacking(&self, store: &dyn Store) -> Result<u64, StoreError> {
        let present = store.present(&self.keys).await?;
        let lacking = self.keys.iter().zip(present).find(|(_, present)| !present);
        Ok(lacking.map_or(self.end, |((_, key), _)| key.offset_bytes.unsigned_abs()))
    }
}

/// The keys that the lines from the marker on would have in the origin that was cut back. What
/// stands before them decides the time of those without one, so the origin is read from its
/// beginning.
///
/// # Errors
///
/// The file cannot be read, or the origin's context is not known.
pub fn rows_of(request: &CutBack, store: &Arc<dyn Store>) -> std::io::Result<Rows> {
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
    let mut lines = Lines { request, worker, output: Output::default(), keys: Vec::new(), end: at };
    lines.take(Input::Open(Opening {
        origin: request.origin,
        at,
        first_anchor_ms: context.anchor_ms,
        context,
        before: b"\n".to_vec(),
        running_ms: None,
        carried: Vec::new(),
    }))?;
    let mut text = File::open(&request.path)?;
    text.seek(SeekFrom::Start(at))?;
    while at < request.to {
        if let Some(context) = contexts.next_if(|context| context.from_bytes <= at) {
            lines.take(Input::Context(context))?;
            continue;
        }
        let next = contexts.peek().map_or(request.to, |next| next.from_bytes.min(request.to));
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
struct Lines<'a> {
    request: &'a CutBack,
    worker: Worker,
    output: Output,
    keys: Vec<(Partition, RowKey)>,
    /// End of the last whole line.
    end: u64,
}

impl Lines<'_> {
    fn take(&mut self, input: Input) -> std::io::Result<()> {
        self.worker.take(input, 0, &mut self.output).map_err(std::io::Error::other)?;
        self.collect();
        Ok(())
    }

    fn chunk(&mut self, start: u64, bytes: Vec<u8>) -> std::io::Result<()> {
        if let Some(newline) = memchr::memrchr(b'\n', &bytes) {
            self.end = start + newline as u64 + 1;
        }
        self.take(Input::Chunk(Chunk { origin: self.request.origin, start, bytes }))
    }

    fn collect(&mut self) {
        for batch in self.output.batches.drain(..) {
            let rows = batch.rows.iter().map(|row| (batch.partition.clone(), row.key));
            let from = self.request.from;
            self.keys.extend(rows.filter(|(_, key)| key.offset_bytes.unsigned_abs() >= from));
        }
        self.output.pieces.clear();
    }

    fn finish(mut self) -> std::io::Result<Rows> {
        self.take(Input::Finish { origin: self.request.origin })?;
        self.worker.ship_all(0, &mut self.output);
        self.collect();
        let end = self.end.max(self.request.from);
        // what stands behind the last newline is no line yet
        self.keys.retain(|(_, key)| key.offset_bytes.unsigned_abs() < end);
        self.keys.sort_unstable_by_key(|(_, key)| key.offset_bytes);
        Ok(Rows { keys: self.keys, end })
    }
}
