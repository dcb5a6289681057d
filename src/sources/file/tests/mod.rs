//! Rotation, driven step by step over real files with a clock of our own.

#![allow(clippy::disallowed_methods)] // files are moved as their owners move them
#![allow(clippy::single_range_in_vec_init)] // one range of lines is meant

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::*;
use crate::config::Start;
use crate::key::Table;
use crate::ledger::{Cause, Encoding, Marker};
use crate::parse::Format;
use crate::sources::{Buffers, CHUNK_BYTES_MAX};

mod contexts;
mod cuts;
mod forget;
mod lifecycle;
mod random;
mod rotations;

/// What came of one origin.
#[derive(Debug, Default, Clone)]
struct Story {
    record: Option<OriginRecord>,
    first: u64,
    bytes: Vec<u8>,
    /// How much of it the store has.
    stored: usize,
    open: bool,
    finished: bool,
    contexts: Vec<(u64, String)>,
    /// The source under which the line at each offset was handed out first.
    fates: BTreeMap<u64, String>,
}

/// A tailer with its files, and a store that checks that the chunks of an origin tile.
struct Rig {
    dir: tempfile::TempDir,
    state: Arc<state::MemoryState>,
    sources: Vec<FileSource>,
    tailer: Option<Tailer>,
    ids: Arc<AtomicI64>,
    machine: &'static str,
    now: Now,
    room: usize,
    /// Whether the store takes what comes.
    store_works: bool,
    /// The state takes what the tracker commits.
    state_works: bool,
    /// With more files than this, quiet ones rest.
    kept: usize,
    open: fn(&Path) -> std::io::Result<fs::File>,
    stories: BTreeMap<OriginId, Story>,
    receipts: Vec<LossReceipt>,
    said: Vec<String>,
    happened: Vec<Happening>,
    cuts: Vec<(OriginId, u64)>,
}

fn wall_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

impl Rig {
    fn new(paths: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sources = vec![source(dir.path(), "s", paths)];
        Self {
            dir,
            state: Arc::default(),
            sources,
            tailer: None,
            ids: Arc::new(AtomicI64::new(1)),
            machine: "m",
            now: Now { mono_ms: 0, wall_ms: wall_ms() },
            room: 64,
            store_works: true,
            state_works: true,
            kept: 512,
            open: |path| fs::File::open(path),
            stories: BTreeMap::new(),
            receipts: Vec::new(),
            said: Vec::new(),
            happened: Vec::new(),
            cuts: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn append(&self, name: &str, text: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(text.as_ref()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// As `gzip` and `zstd --rm` do: the compressed file keeps the time of the last write.
    fn compress(&self, name: &str, encoding: Encoding) {
        let plain = self.path(name);
        let text = fs::read(&plain).unwrap();
        let (ending, bytes) = if encoding == Encoding::Zstd {
            ("zst", zstd::stream::encode_all(&text[..], 1).unwrap())
        } else {
            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gz.write_all(&text).unwrap();
            ("gz", gz.finish().unwrap())
        };
        let to = self.path(&format!("{name}.{ending}"));
        fs::write(&to, bytes).unwrap();
        let written = fs::metadata(&plain).unwrap().modified().unwrap();
        OpenOptions::new().write(true).open(&to).unwrap().set_modified(written).unwrap();
        fs::remove_file(plain).unwrap();
    }

    fn copytruncate(&self, name: &str, to: &str) {
        fs::copy(self.path(name), self.path(to)).unwrap();
        self.truncate(name);
    }

    fn truncate(&self, name: &str) {
        OpenOptions::new().write(true).truncate(true).open(self.path(name)).unwrap();
    }

    /// Makes a file look as if it was written long ago.
    fn age(&self, name: &str) {
        let old = std::time::SystemTime::now() - Duration::from_hours(1);
        OpenOptions::new().write(true).open(self.path(name)).unwrap().set_modified(old).unwrap();
    }

    fn start(&mut self) {
        let ids = Arc::clone(&self.ids);
        let mut config = TailerConfig::new(self.sources.clone(), "h", self.machine);
        config.ids = Box::new(move || ids.fetch_add(1, Ordering::Relaxed));
        config.open = self.open;
        config.kept_files_max = self.kept;
        let state = Arc::clone(&self.state) as Arc<dyn TailState>;
        for story in self.stories.values_mut() {
            story.open = false;
        }
        self.tailer = Some(Tailer::new(config, state, Arc::new(Buffers::default())).unwrap());
    }

    /// kill -9: what was not stored is forgotten.
    fn kill(&mut self) {
        self.tailer = None;
        for story in self.stories.values_mut() {
            story.bytes.truncate(story.stored);
        }
    }

    fn step(&mut self) -> Pace {
        if self.tailer.is_none() {
            self.start();
        }
        let mut out = Vec::new();
        let tailer = self.tailer.as_mut().unwrap();
        let pace = tailer.step(self.now, self.room, &mut out);
        let chunks =
            out.iter().filter(|one| matches!(one, FileEvent::Input(Input::Chunk(_)))).count();
        assert!(chunks <= self.room, "more chunks than there is room for");
        for event in out {
            self.handle(event);
        }
        if self.store_works {
            self.commit();
        }
        pace
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += i64::try_from(ms).unwrap();
    }

    /// Steps on until long after everything has settled.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.step();
            self.pass(300);
        }
    }

    /// A few steps: what is there is read, but nothing is finished.
    fn read(&mut self) {
        for _ in 0..12 {
            self.step();
            self.pass(100);
        }
    }

    fn handle(&mut self, event: FileEvent) {
        match event {
            FileEvent::Announce { record, contexts } => {
                let id = record.id;
                let (known, detail) = self.state.get(id).expect("in the state before the store");
                assert_eq!(known.record.id, id);
                assert!(contexts.iter().all(|one| detail.contexts.contains(one)));
                let story = self.stories.entry(id).or_default();
                if story.record.is_none() {
                    story.first = record.first_offset;
                }
                story.record = Some(record);
                self.tailer.as_mut().unwrap().announced(id);
            }
            FileEvent::Input(input) => self.input(input),
            FileEvent::Receipt(receipt) => self.receipts.push(receipt),
            FileEvent::CutBack { origin, path, from, .. } => {
                let first = self.first_lacking(origin, &path, from);
                self.cuts.push((origin, first));
                self.tailer.as_mut().unwrap().cut_back(origin, first);
            }
            FileEvent::Happened { what, .. } => self.happened.push(what),
            FileEvent::Said { text, .. } => self.said.push(text),
        }
    }

    fn input(&mut self, input: Input) {
        let origin = input.origin();
        let story = self.stories.get_mut(&origin).expect("announced before its first byte");
        match input {
            Input::Open(opening) => {
                assert!(!story.open, "opened twice");
                let at = usize::try_from(opening.at - story.first).unwrap();
                assert_eq!(at, story.stored, "reading goes on where the store ends");
                story.bytes.truncate(at);
                assert!(story.bytes.ends_with(
                    &opening.before[opening.before.len() - at.min(opening.before.len())..]
                ));
                story.contexts.push((opening.at, opening.context.source.clone()));
                story.open = true;
                story.finished = false;
            }
            Input::Context(context) => {
                assert!(story.open);
                assert_eq!(context.from_bytes, story.first + story.bytes.len() as u64);
                story.contexts.push((context.from_bytes, context.source));
            }
            Input::Chunk(chunk) => {
                assert!(story.open, "a chunk of an origin that is not open");
                assert!(!chunk.bytes.is_empty() && chunk.bytes.len() <= CHUNK_BYTES_MAX);
                let end = story.first + story.bytes.len() as u64;
                assert_eq!(chunk.start, end, "chunks tile");
                let (_, source) = story.contexts.last().expect("a context is in force");
                let newlines = memchr::memchr_iter(b'\n', &chunk.bytes).map(|at| at as u64 + 1);
                for at in std::iter::once(0).chain(newlines) {
                    let fate =
                        story.fates.entry(chunk.start + at).or_insert_with(|| source.clone());
                    if at < chunk.bytes.len() as u64 {
                        assert_eq!(
                            fate,
                            source,
                            "a line is read again as it was read first: origin {origin}, byte {}",
                            chunk.start + at
                        );
                    } else {
                        // no line begins here yet
                        story.fates.remove(&(chunk.start + at));
                    }
                }
                story.bytes.extend_from_slice(&chunk.bytes);
                let (known, _) = self.state.get(origin).unwrap();
                assert!(chunk.start + chunk.bytes.len() as u64 <= known.reach, "the reach holds");
            }
            Input::Finish { .. } => {
                assert!(story.open, "finished but not open");
                story.open = false;
                story.finished = true;
            }
            Input::Rest { .. } => {
                assert!(story.open, "at rest but not open");
                assert_eq!(story.stored, story.bytes.len(), "at rest but not committed");
                story.open = false;
            }
        }
    }

    /// What the daemon asks the store after a cut: the first line that is not stored.
    fn first_lacking(&self, origin: OriginId, path: &Path, from: u64) -> u64 {
        let text = fs::read(path).unwrap();
        let story = &self.stories[&origin];
        let mut at = usize::try_from(from).unwrap();
        let first = usize::try_from(story.first).unwrap();
        for line in text[at..].split_inclusive(|byte| *byte == b'\n') {
            let end = at + line.len();
            if !line.ends_with(b"\n")
                || end > first + story.stored
                || story.bytes.get(at - first..end - first) != Some(line)
            {
                break;
            }
            at = end;
        }
        at as u64
    }

    fn commit(&mut self) {
        let mut ends = Vec::new();
        for (&id, story) in &mut self.stories {
            if story.bytes.len() == story.stored {
                continue;
            }
            let part = &story.bytes[story.stored..];
            let (known, detail) = self.state.get(id).unwrap();
            let start_bytes = story.first + story.stored as u64;
            let end_bytes = story.first + story.bytes.len() as u64;
            let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, part);
            let mut older = detail.markers;
            older.insert(
                0,
                Marker { at_ms: self.now.wall_ms, position: known.end, hash: known.marker },
            );
            let marker = marker(&story.bytes);
            if story.first > 0 && story.bytes.len() < MARKER_BYTES {
                continue; // the rig does not know the bytes before the first
            }
            story.stored = story.bytes.len();
            let sum = Sum { start_bytes, end_bytes, crc };
            self.state.commit(id, sum, marker, older);
            ends.push((id, end_bytes, marker));
        }
        if let Some(tailer) = &mut self.tailer {
            tailer.committed(&ends, self.state_works);
        }
    }

    /// All lines that came, of all origins, sorted.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for story in self.stories.values() {
            let text = String::from_utf8_lossy(&story.bytes).into_owned();
            lines.extend(text.lines().map(str::to_owned));
        }
        lines.sort();
        lines
    }

    #[track_caller]
    fn expect(&self, ranges: &[std::ops::Range<u32>]) {
        let mut wanted: Vec<String> =
            ranges.iter().cloned().flatten().map(|number| line(number).trim().to_owned()).collect();
        wanted.sort();
        let lines = self.lines();
        if lines != wanted {
            let missing: Vec<_> = wanted.iter().filter(|one| !lines.contains(one)).collect();
            let mut twice = lines.clone();
            twice.dedup();
            panic!(
                "{} lines came, {} were written, {} of them differ\nmissing: {missing:.10?}\n\
                 said: {:?}\nreceipts: {:?}\nhappened: {:?}",
                lines.len(),
                wanted.len(),
                twice.len(),
                self.said,
                self.receipts,
                self.happened
            );
        }
    }
}

fn line(number: u32) -> String {
    format!("2026-11-22T10:00:00Z line number {number:06} of the test\n")
}

fn text(numbers: std::ops::Range<u32>) -> String {
    numbers.map(line).collect()
}

pub(super) fn source(dir: &Path, name: &str, paths: &[&str]) -> FileSource {
    FileSource {
        source: name.into(),
        paths: paths.iter().map(|path| dir.join(path).display().to_string()).collect(),
        exclude: Vec::new(),
        format: Format::Json,
        options: BTreeMap::new(),
        table: Table::Infrastructure,
        timezone: "UTC".into(),
        start: Start::Beginning,
        max_line_bytes: 256 << 10,
        rotate_wait: Duration::from_secs(2),
        multiline_wait: Duration::from_secs(2),
    }
}
