//! A file that a power cut or a rolled-back disk has cut back: which of its lines the store has.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
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

/// The keys that the lines from the marker on would have in the origin that was cut back.
///
/// # Errors
///
/// The file cannot be read, or the origin's context is not known.
pub fn rows_of(request: &CutBack, store: &Arc<dyn Store>) -> std::io::Result<Rows> {
    let context = request.contexts.iter().rev().find(|context| context.from_bytes <= request.from);
    let context = context.or_else(|| request.contexts.first()).cloned();
    let Some(context) = context else {
        return Err(std::io::Error::other("its context is not known"));
    };
    let store = Arc::clone(store);
    let layouts = Box::new(move |table, source: &str, day| store.layout(table, source, day));
    let limits = FillLimits { batch_rows: 1000, batch_age_ms: 0, open_bytes: 16 << 20 };
    let fill = Fill::new(limits, "".into(), layouts, Box::new(|_| 0));
    let mut worker = Worker::new(fill, Arc::new(Buffers::default()), Numbers::of_worker(0, 1));
    let mut output = Output::default();
    let bytes = whole_lines(&request.path, request.from, request.to)?;
    let end = request.from + bytes.len() as u64;
    let opening = Opening {
        origin: request.origin,
        at: request.from,
        first_anchor_ms: request
            .contexts
            .first()
            .map_or(context.anchor_ms, |first| first.anchor_ms),
        context,
        before: b"\n".to_vec(),
        running_ms: request.running_ms,
        carried: Vec::new(),
    };
    let mut take = |input| worker.take(input, 0, &mut output).map_err(std::io::Error::other);
    take(Input::Open(opening))?;
    for (index, part) in bytes.chunks(CHUNK_BYTES_MAX).enumerate() {
        let start = request.from + (index * CHUNK_BYTES_MAX) as u64;
        take(Input::Chunk(Chunk { origin: request.origin, start, bytes: part.to_vec() }))?;
    }
    take(Input::Finish { origin: request.origin })?;
    worker.ship_all(0, &mut output);
    let mut keys: Vec<_> = output
        .batches
        .iter()
        .flat_map(|batch| batch.rows.iter().map(|row| (batch.partition.clone(), row.key)))
        .collect();
    keys.sort_unstable_by_key(|(_, key)| key.offset_bytes);
    Ok(Rows { keys, end })
}

/// The whole lines between two offsets of a file; markers are at most 64 s old, so there are few.
fn whole_lines(path: &Path, from: u64, to: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(to.saturating_sub(from)).read_to_end(&mut bytes)?;
    let whole = memchr::memrchr(b'\n', &bytes).map_or(0, |newline| newline + 1);
    bytes.truncate(whole);
    Ok(bytes)
}
