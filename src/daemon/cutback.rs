//! A file that a power cut or a rolled-back disk has cut back: which of its lines the store has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::announce::{FIRST_WAIT, MAX_WAIT};
use super::health::Health;
use super::inbox::{Command, Inbox};
use crate::backoff::Backoff;
use crate::key::{Partition, RowKey};
use crate::ledger::{Context, Encoding, OriginId};
use crate::sources::file::reader;
use crate::sources::{Buffers, CHUNK_BYTES_MAX, Chunk, Input, Opening};
use crate::stores::{Store, StoreError, StoredText};
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
    tail: Arc<Inbox>,
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
    keys: Vec<(Partition, RowKey)>,
    /// What each of them has.
    records: Vec<Record>,
    /// End of what was committed.
    committed: u64,
    /// End of the last whole line that was read.
    end: u64,
}

/// Message and metadata by name; the message has none.
type Texts = BTreeMap<String, String>;

/// One row, as far as lines from the marker on have made it.
#[derive(Debug, Default)]
struct Record {
    texts: Texts,
    /// The lines that gave it text, in order.
    lines: Vec<Line>,
}

/// One line: with it these texts are so long.
#[derive(Debug)]
struct Line {
    start: u64,
    end: u64,
    grown: Vec<(String, usize)>,
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
        let stored = store.texts(&self.keys).await?;
        let mut lacking = None;
        let mut behind = self.committed.min(self.end);
        for (record, there) in self.records.iter().zip(&stored) {
            let agreed = there.as_ref().map(|there| record.agreed(there));
            let mut has = true;
            for line in &record.lines {
                has = has && agreed.as_ref().is_some_and(|agreed| line.is_in(agreed));
                if has {
                    behind = behind.max(line.end);
                } else if line.start < self.committed {
                    lacking = Some(lacking.map_or(line.start, |at: u64| at.min(line.start)));
                }
            }
        }
        Ok(lacking.unwrap_or(behind))
    }
}

impl Record {
    /// How much of each text the store's row has too: it may have lines that are gone, or not yet
    /// all of those that are there.
    fn agreed(&self, there: &StoredText) -> BTreeMap<&str, usize> {
        let there = texts_of(there.message.as_bytes(), there.metadata.as_bytes());
        let common = |(name, text): (&'_ String, &String)| {
            let pairs = text.bytes().zip(there.get(name)?.bytes());
            Some(pairs.take_while(|(here, there)| here == there).count())
        };
        let texts = self.texts.iter();
        texts.filter_map(|one| Some((one.0.as_str(), common(one)?))).collect()
    }

    /// It has come to these texts, with the line between these offsets.
    fn grow(&mut self, texts: Texts, line: Option<(u64, u64)>) {
        if let Some((start, end)) = line {
            let grown = |(name, text): (&String, &String)| {
                let before = self.texts.get(name).map(String::len);
                (before != Some(text.len())).then(|| (name.clone(), text.len()))
            };
            let grown: Vec<_> = texts.iter().filter_map(grown).collect();
            if !grown.is_empty() {
                self.lines.push(Line { start, end, grown });
            }
        }
        self.texts = texts;
    }
}

impl Line {
    fn is_in(&self, agreed: &BTreeMap<&str, usize>) -> bool {
        self.grown.iter().all(|(name, length)| agreed.get(name.as_str()) >= Some(length))
    }
}

/// Metadata that does not begin as it did when the record grows. The message tells as much.
const NOT_GROWING: [&str; 3] = ["raw_base64", "line_bytes", "nul_bytes"];

fn texts_of(message: &[u8], metadata: &[u8]) -> Texts {
    let mut texts: Texts = serde_json::from_slice(metadata).unwrap_or_default();
    texts.retain(|name, _| !NOT_GROWING.contains(&name.as_str()));
    texts.insert(String::new(), String::from_utf8_lossy(message).into_owned());
    texts
}

/// The rows that the lines from the marker on would make, or add to, in the origin that was cut
/// back. What stands before them decides the time of those without one, and which record a line
/// continues, so the origin is read from its beginning.
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
    let first = context.from_bytes;
    let mut text = reader::decoder(request.file, request.encoding)?;
    let (origin, from, to) = (request.origin, request.from, request.to);
    let (output, records) = (Output::default(), BTreeMap::new());
    let mut reading = Reading { origin, from, worker, output, records, at: first, line: first };
    reading.take(Input::Open(Opening {
        origin,
        at: first,
        first_anchor_ms: context.anchor_ms,
        context,
        before: b"\n".to_vec(),
        running_ms: None,
        carried: Vec::new(),
    }))?;
    std::io::copy(&mut text.by_ref().take(first), &mut std::io::sink())?;
    while reading.at < to {
        let at = reading.at;
        if let Some(context) = contexts.next_if(|context| context.from_bytes <= at) {
            reading.change(context)?;
            continue;
        }
        let next = contexts.peek().map_or(to, |next| next.from_bytes.min(to));
        let next = if at < from { next.min(from) } else { next };
        let mut bytes = Vec::new();
        text.by_ref().take((next - at).min(CHUNK_BYTES_MAX as u64)).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            break; // it was cut back
        }
        reading.bytes(bytes)?;
    }
    Ok(reading.rows(request.end))
}

/// The origin on its way through a worker of its own.
struct Reading {
    origin: OriginId,
    from: u64,
    worker: Worker,
    output: Output,
    /// By key, so by offset within a partition.
    records: BTreeMap<i64, (Partition, RowKey, Record)>,
    /// End of what was read.
    at: u64,
    /// End of the last whole line.
    line: u64,
}

impl Reading {
    fn take(&mut self, input: Input) -> std::io::Result<()> {
        self.worker.take(input, 0, &mut self.output).map_err(std::io::Error::other)
    }

    /// From the marker on line by line, so that it is known which line gives a row which text.
    fn bytes(&mut self, bytes: Vec<u8>) -> std::io::Result<()> {
        let origin = self.origin;
        if self.at < self.from {
            let start = self.at;
            self.at += bytes.len() as u64;
            self.line = self.at;
            self.take(Input::Chunk(Chunk { origin, start, bytes }))?;
            self.output.batches.clear();
            if self.at == self.from {
                // of what stands before it, only records that are open here can grow
                self.worker.ship_all(0, &mut self.output);
                self.collect(None);
            }
            return Ok(());
        }
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let start = self.at;
            self.at += line.len() as u64;
            self.take(Input::Chunk(Chunk { origin, start, bytes: line.to_vec() }))?;
            if line.ends_with(b"\n") {
                self.line_ends();
            }
        }
        Ok(())
    }

    /// Line and records end here.
    fn change(&mut self, context: Context) -> std::io::Result<()> {
        self.take(Input::Context(context))?;
        self.line_ends();
        Ok(())
    }

    fn line_ends(&mut self) {
        self.worker.ship_all(0, &mut self.output);
        let line = (self.line, self.at);
        self.line = self.at;
        self.collect((self.at > self.from).then_some(line));
    }

    fn collect(&mut self, line: Option<(u64, u64)>) {
        for batch in self.output.batches.drain(..) {
            for row in &batch.rows {
                let new = || (batch.partition.clone(), row.key, Record::default());
                let entry = self.records.entry(row.key.offset_bytes).or_insert_with(new);
                entry.2.grow(texts_of(batch.text(&row.message), batch.text(&row.metadata)), line);
            }
        }
        self.output.pieces.clear();
    }

    fn rows(self, committed: u64) -> Rows {
        let grown = self.records.into_values().filter(|(.., record)| !record.lines.is_empty());
        let (keys, records) =
            grown.map(|(partition, key, record)| ((partition, key), record)).unzip();
        Rows { keys, records, committed, end: self.line.max(self.from) }
    }
}

#[cfg(test)]
mod tests;
