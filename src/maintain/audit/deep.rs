//! `audit --deep`: reads the files again as the daemon would, and compares bytes and keys.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use super::tiling::{Expected, key_hash};
use super::{Audited, Deep, Fault};
use crate::batch::Batch;
use crate::key::RowKey;
use crate::ledger::{Encoding, KernelIdentity, OriginId, StoredOrigin};
use crate::sources::file::reader;
use crate::sources::{Buffers, CHUNK_BYTES_MAX, Chunk, Input, Opening};
use crate::spool::LaneBytes;
use crate::stores::{LogReader, Store, StoreError};
use crate::worker::{Fill, FillLimits, Layouts, Numbers, Output, Worker};

/// Rows that a file has and the store lacks, by origin.
pub type Wanted = HashMap<OriginId, HashSet<RowKey>>;

/// Reads the files of all origins once more and adds what they say to the report. Answers which
/// rows are missing, for [`repair`].
///
/// # Errors
///
/// The store cannot be read. A file that cannot be read is "not checked".
pub async fn verify(audited: &mut Audited, reader: &dyn LogReader) -> Result<Wanted, StoreError> {
    let mut suspects: HashMap<OriginId, Truth> = HashMap::new();
    let expected = &audited.expected;
    for (origin, audit) in audited.origins.iter().zip(&mut audited.report.origins) {
        let (deep, faults, truth) = check(origin, &audited.origins, expected);
        audit.deep = Some(deep);
        audit.faults.extend(faults);
        suspects.extend(truth.map(|truth| (origin.record.id, truth)));
    }
    if suspects.is_empty() {
        return Ok(Wanted::new());
    }
    let mut stray: HashMap<OriginId, Vec<RowKey>> = HashMap::new();
    reader
        .visit_keys(&mut |_, key| {
            if let Some(truth) = suspects.get_mut(&key.origin)
                && truth.covers(key)
                && !expected.has_ended(key)
                && !truth.keys.remove(&key)
            {
                stray.entry(key.origin).or_default().push(key);
            }
            true
        })
        .await?;
    let letters: HashSet<RowKey> = reader
        .dead_letters()
        .await?
        .iter()
        .map(|letter| RowKey {
            timestamp_ms: letter.timestamp_ms,
            origin: letter.origin,
            offset_bytes: letter.offset_bytes,
        })
        .collect();
    let mut wanted = Wanted::new();
    for audit in &mut audited.report.origins {
        let Some(truth) = suspects.remove(&audit.origin) else { continue };
        let missing: HashSet<RowKey> = truth.keys.difference(&letters).copied().collect();
        let mut offsets: Vec<_> =
            missing.iter().map(|key| key.offset_bytes.unsigned_abs()).collect();
        offsets.sort_unstable();
        let missing_faults =
            offsets.into_iter().map(|offset_bytes| Fault::RowMissing { offset_bytes });
        audit.faults.extend(missing_faults);
        for key in stray.remove(&audit.origin).unwrap_or_default() {
            audit.faults.push(Fault::RowStray { offset_bytes: key.offset_bytes.unsigned_abs() });
        }
        if !missing.is_empty() {
            wanted.insert(audit.origin, missing);
        }
    }
    Ok(wanted)
}

/// Reads exactly what is missing once more and writes it under the same keys. Answers how many
/// rows were written.
///
/// # Errors
///
/// The store refuses.
pub async fn repair(
    audited: &Audited,
    wanted: &Wanted,
    store: &Arc<dyn Store>,
    stamp: i64,
) -> Result<u64, StoreError> {
    let mut written = 0;
    let mut stamp = stamp;
    for origin in audited.origins.iter().filter(|origin| wanted.contains_key(&origin.record.id)) {
        let Some(missing) = wanted.get(&origin.record.id) else { continue };
        let mut batches = Vec::new();
        let Some(file) = candidates(origin).into_iter().find_map(|path| {
            batches.clear();
            let whole = replay(origin, &path, Some(store), |batch| {
                batches.extend(only(batch, missing));
            });
            whole.is_ok_and(|whole| whole.agrees()).then_some(path)
        }) else {
            continue;
        };
        tracing::info!(path = %file.display(), origin = origin.record.id, "reading missing rows again");
        for mut batch in batches.drain(..) {
            batch.stamp = stamp;
            let rows = i64::try_from(batch.rows.len()).unwrap_or(0);
            stamp += rows;
            store.write(Arc::new(batch)).await?;
            written += rows.unsigned_abs();
        }
    }
    Ok(written)
}

fn only(batch: &Batch, missing: &HashSet<RowKey>) -> Option<Batch> {
    let mut kept = batch.clone();
    kept.rows.retain(|row| missing.contains(&row.key));
    (!kept.rows.is_empty()).then_some(kept)
}

/// The keys that a file has in spans whose sums disagree.
struct Truth {
    ranges: Vec<(u64, u64)>,
    keys: HashSet<RowKey>,
}

impl Truth {
    fn covers(&self, key: RowKey) -> bool {
        let offset = key.offset_bytes.unsigned_abs();
        self.ranges.iter().any(|(start, end)| (*start..*end).contains(&offset))
    }
}

/// Compares an origin with the file that has most of its bytes. Many files may begin alike, so a
/// file that agrees with no span is only taken where nothing but the origin can be in it.
fn check(
    origin: &StoredOrigin,
    all: &[StoredOrigin],
    expected: &Expected,
) -> (Deep, Vec<Fault>, Option<Truth>) {
    let mut why = "no file of this name has these bytes any more".to_owned();
    let mut best: Option<(u64, PathBuf, Whole, Vec<RowKey>)> = None;
    for path in candidates(origin) {
        let mut keys: Vec<RowKey> = Vec::new();
        match replay(origin, &path, None, |batch| keys.extend(batch.rows.iter().map(|row| row.key)))
        {
            Err(error) => why = format!("{}: {error}", path.display()),
            Ok(whole) if !whole.same_head => {}
            Ok(whole) => {
                let complete = whole.wrong.is_empty() && Some(whole.read_to) == end(origin);
                let better = best.as_ref().is_none_or(|(most, ..)| whole.agreed > *most);
                if complete || better && (whole.agreed > 0 || is_own(origin, all, &path)) {
                    best = Some((whole.agreed, path, whole, keys));
                }
                if complete {
                    break;
                }
            }
        }
    }
    match best {
        Some((_, path, whole, mut keys)) => {
            keys.retain(|key| !expected.has_ended(*key));
            compare(path, &whole, &keys, &expected.sums(origin.record.id))
        }
        None => (Deep::NotChecked { why }, Vec::new(), None),
    }
}

fn end(origin: &StoredOrigin) -> Option<u64> {
    origin.spans.iter().map(|span| span.end_bytes).max()
}

/// Whether this is the very file that the origin was born in, and no later origin was: content of
/// another origin that was truncated away is not missed here.
fn is_own(origin: &StoredOrigin, all: &[StoredOrigin], path: &Path) -> bool {
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    let born = metadata.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let born_ns = born.and_then(|since| i64::try_from(since.as_nanos()).ok());
    let record = &origin.record;
    let same = |other: &KernelIdentity| {
        other.inode == record.kernel.inode && other.born_ns == record.kernel.born_ns
    };
    metadata.ino() == record.kernel.inode
        && (record.kernel.born_ns.is_none() || record.kernel.born_ns == born_ns)
        && !all
            .iter()
            .any(|other| same(&other.record.kernel) && other.record.born_ms > record.born_ms)
}

fn compare(
    file: PathBuf,
    whole: &Whole,
    keys: &[RowKey],
    sums: &[(u64, u64, u64)],
) -> (Deep, Vec<Fault>, Option<Truth>) {
    let faults: Vec<Fault> = whole
        .wrong
        .iter()
        .map(|(start, end)| Fault::Checksum { start_bytes: *start, end_bytes: *end })
        .collect();
    let mut by_span: BTreeMap<u64, u64> = BTreeMap::new();
    let starts: Vec<u64> = sums.iter().map(|(start, ..)| *start).collect();
    for key in keys {
        let offset = key.offset_bytes.unsigned_abs();
        let index = starts.partition_point(|start| *start <= offset);
        if let Some(start) = index.checked_sub(1).and_then(|index| starts.get(index)) {
            let sum = by_span.entry(*start).or_default();
            *sum = sum.wrapping_add(key_hash(*key));
        }
    }
    let ranges: Vec<(u64, u64)> = sums
        .iter()
        .filter(|(start, end, sum)| {
            *end <= whole.read_to
                && !whole.wrong.contains(&(*start, *end))
                && by_span.get(start).copied().unwrap_or(0) != *sum
        })
        .map(|(start, end, _)| (*start, *end))
        .collect();
    let deep = Deep::Checked { file, bytes: whole.read_to.saturating_sub(whole.first) };
    if ranges.is_empty() {
        return (deep, faults, None);
    }
    let mut truth = Truth { ranges, keys: HashSet::new() };
    truth.keys = keys.iter().copied().filter(|key| truth.covers(*key)).collect();
    (deep, faults, Some(truth))
}

/// What a whole reading of a file found.
struct Whole {
    first: u64,
    /// The head is the one that the origin had at birth.
    same_head: bool,
    /// Bytes up to here were there.
    read_to: u64,
    /// Bytes in spans whose checksum is the same.
    agreed: u64,
    /// Spans whose checksum is another.
    wrong: Vec<(u64, u64)>,
}

impl Whole {
    fn agrees(&self) -> bool {
        self.same_head && self.wrong.is_empty()
    }
}

/// Batches of rows as the store wants them; a check, which has no store, has no buckets.
fn fill_for(store: Option<&Arc<dyn Store>>, host: &str) -> Fill {
    let layouts: Layouts = match store.cloned() {
        Some(store) => Box::new(move |table, source, day| store.layout(table, source, day)),
        None => Box::new(|_, _, _| None),
    };
    Fill::new(LIMITS, host.into(), layouts, Box::new(|_| 0))
}

const LIMITS: FillLimits = FillLimits { batch_rows: 1000, batch_age_ms: 0, open_bytes: 16 << 20 };

/// Reads the file as the daemon did, from the origin's first offset to the end of its last span.
fn replay(
    origin: &StoredOrigin,
    path: &Path,
    store: Option<&Arc<dyn Store>>,
    mut each: impl FnMut(&Batch),
) -> io::Result<Whole> {
    let first = origin.record.first_offset;
    let mut whole = Whole { first, same_head: false, read_to: first, agreed: 0, wrong: Vec::new() };
    whole.same_head = has_head(origin, path)?;
    if !whole.same_head {
        return Ok(whole);
    }
    let mut input = open(origin, path)?;
    let before = skip_to(&mut input, first)?;
    let mut replay = Replay::new(origin, fill_for(store, &origin.record.host));
    replay.open(first, before)?;
    let mut spans: Vec<_> = origin.spans.iter().collect();
    spans.sort_by_key(|span| span.start_bytes);
    for span in spans {
        if span.start_bytes != replay.at {
            break; // a gap or an overlap: the fast audit has said so
        }
        let Some(crc) = replay.span(&mut input, span.end_bytes, &mut each)? else { break };
        if crc == span.crc {
            whole.agreed += span.end_bytes - span.start_bytes;
        } else {
            whole.wrong.push((span.start_bytes, span.end_bytes));
        }
        whole.read_to = span.end_bytes;
        replay.carried.clone_from(&span.carried);
    }
    replay.finish(&mut each)?;
    Ok(whole)
}

/// Whether a file has the head that the origin had at birth. A lane of the spool is known by its
/// origin's number.
fn has_head(origin: &StoredOrigin, path: &Path) -> io::Result<bool> {
    let record = &origin.record;
    if record.encoding == Encoding::Spool {
        return Ok(true);
    }
    let head = read_exactly(&mut open(origin, path)?, record.head_bytes)?;
    Ok(head.len() as u64 == record.head_bytes
        && xxhash_rust::xxh3::xxh3_64(&head) == record.head_hash)
}

/// One origin on its way through a worker of its own.
struct Replay<'a> {
    origin: &'a StoredOrigin,
    worker: Worker,
    output: Output,
    at: u64,
    tail: Vec<u8>,
    carried: Vec<crate::ledger::Carried>,
}

impl<'a> Replay<'a> {
    fn new(origin: &'a StoredOrigin, fill: Fill) -> Self {
        let buffers = Arc::new(Buffers::default());
        let worker = Worker::new(fill, buffers, Numbers::of_worker(0, 1));
        Self {
            origin,
            worker,
            output: Output::default(),
            at: 0,
            tail: Vec::new(),
            carried: Vec::new(),
        }
    }

    fn open(&mut self, at: u64, before: Vec<u8>) -> io::Result<()> {
        self.at = at;
        self.tail.clone_from(&before);
        let in_force = self.origin.contexts.iter().rev().find(|context| context.from_bytes <= at);
        let context = in_force.or_else(|| self.origin.contexts.first()).cloned();
        let Some(context) = context else {
            return Err(io::Error::other("the store has no context of this origin"));
        };
        let running_ms = self
            .origin
            .spans
            .iter()
            .find(|span| span.end_bytes == at)
            .and_then(|span| span.running_ms);
        let opening = Opening {
            origin: self.origin.record.id,
            at,
            first_anchor_ms: self.origin.contexts.first().map_or(0, |context| context.anchor_ms),
            context,
            before,
            running_ms,
            carried: std::mem::take(&mut self.carried),
        };
        self.take(Input::Open(opening))
    }

    fn take(&mut self, input: Input) -> io::Result<()> {
        self.worker.take(input, 0, &mut self.output).map_err(io::Error::other)
    }

    /// Reads up to `end` and answers the checksum, or `None` if the file ends before.
    fn span(
        &mut self,
        input: &mut dyn Read,
        end: u64,
        each: &mut impl FnMut(&Batch),
    ) -> io::Result<Option<u64>> {
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Xz);
        while self.at < end {
            self.change_context()?;
            let next = self.origin.contexts.iter().map(|context| context.from_bytes);
            let next = next.filter(|from| *from > self.at).min().unwrap_or(end).min(end);
            let bytes = read_exactly(input, (next - self.at).min(CHUNK_BYTES_MAX as u64))?;
            if bytes.is_empty() {
                return Ok(None);
            }
            digest.update(&bytes);
            self.tail.extend_from_slice(
                bytes.get(bytes.len().saturating_sub(256)..).unwrap_or_default(),
            );
            self.tail.drain(..self.tail.len().saturating_sub(256));
            let (start, length) = (self.at, bytes.len() as u64);
            self.at += length;
            self.take(Input::Chunk(Chunk { origin: self.origin.record.id, start, bytes }))?;
            self.hand_out(false, each);
        }
        if self.tail.last() != Some(&b'\n') {
            // a partial line was final here: what follows is a record of its own
            self.take(Input::Finish { origin: self.origin.record.id })?;
            let (at, tail) = (self.at, std::mem::take(&mut self.tail));
            self.open(at, tail)?;
        }
        Ok(Some(digest.finalize()))
    }

    fn change_context(&mut self) -> io::Result<()> {
        let first = self.origin.contexts.first().map(|context| context.from_bytes);
        let here = self.origin.contexts.iter().find(|context| context.from_bytes == self.at);
        match here.filter(|context| Some(context.from_bytes) != first) {
            Some(context) => self.take(Input::Context(context.clone())),
            None => Ok(()),
        }
    }

    fn hand_out(&mut self, all: bool, each: &mut impl FnMut(&Batch)) {
        self.output.pieces.clear();
        if all {
            self.worker.ship_all(0, &mut self.output);
        }
        for batch in self.output.batches.drain(..) {
            each(&batch);
            self.worker.recycle(batch);
        }
    }

    fn finish(mut self, each: &mut impl FnMut(&Batch)) -> io::Result<()> {
        self.take(Input::Finish { origin: self.origin.record.id })?;
        self.hand_out(true, each);
        Ok(())
    }
}

/// Files that may hold an origin's bytes: its path, and names beside it that begin alike.
fn candidates(origin: &StoredOrigin) -> Vec<PathBuf> {
    let path = &origin.record.path;
    if origin.record.encoding == Encoding::Spool {
        // the segment's path with the lane's name behind it
        let segment = path.to_str().and_then(|path| path.rsplit_once('#')).map(|parts| parts.0);
        return segment.map(PathBuf::from).into_iter().collect();
    }
    let mut found = vec![path.clone()];
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = name.split('.').next().unwrap_or(&name).to_owned();
    if let Some(entries) = path.parent().and_then(|parent| std::fs::read_dir(parent).ok()) {
        let mut siblings: Vec<PathBuf> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&stem))
            .map(|entry| entry.path())
            .filter(|sibling| sibling != path)
            .collect();
        siblings.sort();
        found.extend(siblings);
    }
    found
}

fn open(origin: &StoredOrigin, path: &Path) -> io::Result<Box<dyn Read>> {
    if origin.record.encoding == Encoding::Spool {
        let lane = LaneBytes::open(path, origin.record.id).map_err(io::Error::other)?;
        return match lane {
            Some(lane) => Ok(Box::new(lane)),
            None => Err(io::Error::other("this segment has no lane of this origin")),
        };
    }
    let file = File::open(path)?;
    let encoding = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Encoding::Gzip,
        Some("zst") => Encoding::Zstd,
        _ => Encoding::Plain,
    };
    let decoder: Box<dyn Read> = reader::decoder(file, encoding)?;
    Ok(decoder)
}

fn read_exactly(input: &mut dyn Read, bytes: u64) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::new();
    input.take(bytes).read_to_end(&mut buffer)?;
    Ok(buffer)
}

/// Reads up to `offset` and answers the up to 256 bytes before it.
fn skip_to(input: &mut dyn Read, offset: u64) -> io::Result<Vec<u8>> {
    let tail = offset.min(256);
    io::copy(&mut input.take(offset - tail), &mut io::sink())?;
    read_exactly(input, tail)
}
