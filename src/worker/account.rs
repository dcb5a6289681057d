//! The account of an origin's bytes that are not yet in a piece.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crc_fast::{CrcAlgorithm, Digest};
use xxhash_rust::xxh3::xxh3_64;

use super::lines::Line;
use crate::crc;
use crate::duration::{DurationCounts, Durations, Rung};
use crate::ledger::{Carried, MinuteCounts, OriginId, Piece, PieceId, Reason, Reasons};
use crate::record::Level;

/// Bytes before a position that its marker hashes.
pub const MARKER_BYTES: usize = 256;

/// The marker of a position: xxh3 of the up to 256 bytes before it.
#[must_use]
pub fn marker_of(before: &[u8]) -> u64 {
    xxh3_64(before.get(before.len().saturating_sub(MARKER_BYTES)..).unwrap_or_default())
}

/// A row as it counts.
#[derive(Debug, Clone, Copy)]
pub struct Counted {
    /// Time of the row.
    pub timestamp_ms: i64,
    /// Its level.
    pub level: Level,
    /// How long something took, where it says so.
    pub rung: Option<Rung>,
    /// No parser understood it.
    pub unparsed: bool,
    /// The text itself had a time.
    pub dated: bool,
}

#[derive(Debug)]
enum What {
    Reason(Reason),
    /// A record's first line; counted once the record has ended.
    Row(Option<Counted>),
}

#[derive(Debug)]
struct Entry {
    start: u64,
    end: u64,
    /// Checksum of all bytes since the account was opened, up to `end`.
    total: u64,
    marker: u64,
    /// Running time before this line.
    running_ms: Option<i64>,
    records: Records,
    what: What,
}

/// What a line has to do with the records around it.
#[derive(Debug, Clone, Copy)]
pub struct Records {
    /// The record to which the line belongs, as far as it has come with it.
    pub of: Option<Carried>,
    /// The record that it would have continued, had that not been full.
    pub full: Option<Carried>,
}

/// See the module. Every line is entered in order; [`Account::cut`] turns the lines up to a
/// boundary into a piece.
pub struct Account {
    /// At work on the chunk at hand. It is large, and most origins are quiet: between chunks its
    /// state is enough.
    digest: Option<Box<Digest>>,
    digest_state: u64,
    /// Offset up to which bytes are in the digest.
    digested: u64,
    /// The bytes of the chunk at hand begin here.
    chunk_start: u64,
    /// The up to 256 bytes before the chunk at hand.
    before: Vec<u8>,
    /// Where the next piece begins, and the checksum of all bytes before.
    boundary: u64,
    boundary_total: u64,
    boundary_marker: u64,
    boundary_running_ms: Option<i64>,
    entries: VecDeque<Entry>,
    /// Records with lines before the boundary that may have more behind it, by their start.
    carried: BTreeMap<u64, Carried>,
    /// Lines that were summed up at once, because no record of theirs can grow.
    sum: Sum,
    /// Time of the last dated record.
    pub running_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct Sum {
    rows: u64,
    lines: u64,
    unparsed: u64,
    reasons: Reasons,
    minutes: MinuteCounts,
    /// The minute and level that were counted last, not yet in `minutes`.
    last: Option<(i64, Level, u64)>,
    durations: DurationCounts,
    /// Those of the minute that was counted last, not yet in `durations`.
    last_durations: (i64, Durations),
}

impl Sum {
    fn row(&mut self, counted: Counted) {
        self.rows += 1;
        self.unparsed += u64::from(counted.unparsed);
        let minute = counted.timestamp_ms.div_euclid(60_000);
        match &mut self.last {
            Some((of, level, count)) if *of == minute && *level == counted.level => *count += 1,
            _ => {
                self.settle_level();
                self.last = Some((minute, counted.level, 1));
            }
        }
        if let Some(rung) = counted.rung {
            if self.last_durations.0 != minute {
                self.settle_durations();
                self.last_durations.0 = minute;
            }
            self.last_durations.1.add(rung);
        }
    }

    fn settle_level(&mut self) {
        if let Some((minute, level, count)) = self.last.take() {
            *self.minutes.entry((minute, level)).or_default() += count;
        }
    }

    fn settle_durations(&mut self) {
        let (minute, durations) = std::mem::take(&mut self.last_durations);
        if !durations.is_empty() {
            self.durations.entry(minute).or_default().merge(&durations);
        }
    }
}

impl Account {
    /// An empty account from `at` on.
    #[must_use]
    pub fn new(at: u64, before: Vec<u8>, running_ms: Option<i64>, carried: &[Carried]) -> Self {
        let marker = marker_of(&before);
        Self {
            digest: None,
            digest_state: Digest::new(CrcAlgorithm::Crc64Xz).get_state(),
            digested: at,
            chunk_start: at,
            before,
            boundary: at,
            boundary_total: checksum_of_nothing(),
            boundary_marker: marker,
            boundary_running_ms: running_ms,
            entries: VecDeque::new(),
            carried: carried.iter().map(|carried| (carried.start, *carried)).collect(),
            sum: Sum::default(),
            running_ms,
        }
    }

    /// Bytes that begin at `start` are at hand. They must touch what came before.
    pub fn chunk_begins(&mut self, start: u64) {
        assert_eq!(start, self.digested, "chunks of an origin touch");
        self.chunk_start = start;
        let digest = Digest::new_with_init_state(CrcAlgorithm::Crc64Xz, self.digest_state);
        self.digest = Some(Box::new(digest));
    }

    /// All of the chunk at hand has been entered.
    pub fn chunk_ends(&mut self, bytes: &[u8]) {
        self.digest_to(self.chunk_start + bytes.len() as u64, bytes);
        self.before = self.window(bytes, self.digested).to_vec();
        self.chunk_start = self.digested;
        self.digest = None;
    }

    /// Whether the bytes so far end within a line.
    pub fn mid_line(&self) -> bool {
        self.before.last().is_some_and(|&byte| byte != b'\n')
    }

    /// The checksum of all bytes that are digested.
    const fn total(&self) -> u64 {
        self.digest_state ^ u64::MAX
    }

    fn digest_to(&mut self, end: u64, bytes: &[u8]) {
        let from = usize::try_from(self.digested - self.chunk_start).unwrap_or(usize::MAX);
        let to = usize::try_from(end - self.chunk_start).unwrap_or(usize::MAX);
        if let (Some(bytes), Some(digest)) = (bytes.get(from..to), &mut self.digest) {
            digest.update(bytes);
            self.digest_state = digest.get_state();
            self.digested = end;
        }
    }

    /// The up to 256 bytes before `end`, which lies in the chunk at hand.
    fn window<'a>(&self, bytes: &'a [u8], end: u64) -> std::borrow::Cow<'a, [u8]> {
        let to = usize::try_from(end - self.chunk_start).unwrap_or(0).min(bytes.len());
        if to >= MARKER_BYTES {
            return bytes.get(to - MARKER_BYTES..to).unwrap_or_default().into();
        }
        let keep = (MARKER_BYTES - to).min(self.before.len());
        let mut window = self.before.get(self.before.len() - keep..).unwrap_or_default().to_vec();
        window.extend_from_slice(bytes.get(..to).unwrap_or_default());
        window.into()
    }

    /// Counts a row of one line that cannot grow. No entry may be pending.
    pub fn sum_row(&mut self, counted: Counted) {
        self.sum.lines += 1;
        self.sum.row(counted);
    }

    /// Counts a line that is no row. No entry may be pending.
    pub fn sum_reason(&mut self, reason: Reason) {
        self.sum.lines += 1;
        self.sum.reasons.add(reason, 1);
    }

    /// Moves the boundary over lines that were summed up, to `end` in the chunk at hand.
    pub fn sum_to(&mut self, end: u64, bytes: &[u8]) -> u64 {
        self.digest_to(end, bytes);
        self.total()
    }

    /// Enters a line whose record may still grow.
    pub fn enter(
        &mut self,
        line: Line<'_>,
        reason: Option<Reason>,
        records: Records,
        bytes: &[u8],
    ) {
        self.digest_to(line.end, bytes);
        let marker = marker_of(&self.window(bytes, line.end));
        self.entries.push_back(Entry {
            start: line.start,
            end: line.end,
            total: self.total(),
            marker,
            running_ms: self.running_ms,
            records,
            what: reason.map_or(What::Row(None), What::Reason),
        });
    }

    /// Running time before the line at `start`.
    #[must_use]
    pub fn running_before(&self, start: u64) -> Option<i64> {
        let index = self.entries.partition_point(|entry| entry.start < start);
        self.entries.get(index).and_then(|entry| entry.running_ms)
    }

    /// Whether no record begins behind `start`.
    #[must_use]
    pub fn is_newest_row(&self, start: u64) -> bool {
        let newest = self.entries.iter().rev().find(|entry| matches!(entry.what, What::Row(_)));
        newest.is_none_or(|entry| entry.start <= start)
    }

    /// Offset up to which bytes have come.
    #[must_use]
    pub const fn digested(&self) -> u64 {
        self.digested
    }

    /// The end of all bytes that have come, with the checksum and the marker there.
    #[must_use]
    pub fn here(&self) -> (u64, u64, u64) {
        (self.digested, self.total(), marker_of(&self.before))
    }

    /// The record that begins at `start` has ended.
    pub fn row_ended(&mut self, start: u64, counted: Counted) {
        let index = self.entries.partition_point(|entry| entry.start < start);
        if let Some(entry) = self.entries.get_mut(index) {
            assert_eq!(entry.start, start, "a record ends that was never entered");
            entry.what = What::Row(Some(counted));
        }
    }

    /// Makes a piece of all lines before `oldest_open` (all, with `None`), if there are any.
    pub fn cut(
        &mut self,
        origin: OriginId,
        oldest_open: Option<u64>,
        summed: Option<(u64, u64, u64)>,
        id: PieceId,
        batches: u32,
    ) -> Option<Piece> {
        let mut end = None;
        while let Some(entry) = self.entries.front() {
            if oldest_open.is_some_and(|open| entry.end > open) {
                break;
            }
            let Some(entry) = self.entries.pop_front() else { break };
            self.sum.lines += 1;
            if let Some(record) = entry.records.of {
                self.carried.insert(record.start, record);
            }
            match entry.what {
                What::Reason(reason) => self.sum.reasons.add(reason, 1),
                What::Row(counted) => {
                    let Some(counted) = counted else { unreachable_row(entry.start) };
                    if counted.dated {
                        self.boundary_running_ms = Some(counted.timestamp_ms);
                    }
                    self.sum.row(counted);
                }
            }
            end = Some((entry.end, entry.total, entry.marker));
        }
        if let Some(summed) = summed {
            self.boundary_running_ms = self.running_ms;
            end = Some(summed);
        }
        let (end, total, marker) = end?;
        self.drop_ended();
        Some(self.piece(origin, (end, total, marker), id, batches))
    }

    /// Forgets the records that have no line behind the boundary.
    fn drop_ended(&mut self) {
        if !self.carried.is_empty() {
            let behind: BTreeSet<u64> = self
                .entries
                .iter()
                .filter_map(|entry| entry.records.of)
                .map(|of| of.start)
                .collect();
            self.carried.retain(|start, _| behind.contains(start));
        }
    }

    /// What a reader that begins at the boundary must know of the records before it.
    fn carried(&self) -> Vec<Carried> {
        let full = self.entries.front().and_then(|entry| entry.records.full);
        self.carried.values().copied().chain(full).collect()
    }

    fn piece(
        &mut self,
        origin: OriginId,
        (end, total, marker): (u64, u64, u64),
        id: PieceId,
        batches: u32,
    ) -> Piece {
        let start = self.boundary;
        let shifted = crc::combine(self.boundary_total, 0, end - start);
        let mut sum = std::mem::take(&mut self.sum);
        sum.settle_level();
        sum.settle_durations();
        assert_eq!(sum.rows + sum.reasons.total(), sum.lines, "a line counts exactly once");
        self.boundary = end;
        self.boundary_total = total;
        self.boundary_marker = marker;
        Piece {
            id,
            origin,
            start_bytes: start,
            end_bytes: end,
            covered_bytes: end,
            batches,
            rows: sum.rows,
            lines: sum.lines,
            reasons: sum.reasons,
            minutes: sum.minutes,
            durations: sum.durations,
            running_ms: self.boundary_running_ms,
            crc: total ^ shifted,
            marker,
            unparsed: sum.unparsed,
            carried: self.carried(),
        }
    }

    /// An empty piece at the boundary: all text up to `covered` is in batches, but the records
    /// after the boundary may still grow.
    #[must_use]
    pub fn cover(&self, origin: OriginId, covered: u64, id: PieceId, batches: u32) -> Piece {
        Piece {
            id,
            origin,
            start_bytes: self.boundary,
            end_bytes: self.boundary,
            covered_bytes: covered,
            batches,
            rows: 0,
            lines: 0,
            reasons: Reasons::default(),
            minutes: MinuteCounts::new(),
            durations: DurationCounts::new(),
            running_ms: self.boundary_running_ms,
            crc: checksum_of_nothing(),
            marker: self.boundary_marker,
            unparsed: 0,
            carried: self.carried(),
        }
    }

    /// Where the next piece begins.
    #[must_use]
    pub const fn boundary(&self) -> u64 {
        self.boundary
    }

    /// End of the last line that was entered.
    #[must_use]
    pub fn entered_end(&self) -> Option<u64> {
        self.entries.back().map(|entry| entry.end)
    }

    /// The marker at `end`, which lies in the chunk at hand.
    #[must_use]
    pub fn marker_at(&self, bytes: &[u8], end: u64) -> u64 {
        marker_of(&self.window(bytes, end))
    }
}

fn checksum_of_nothing() -> u64 {
    Digest::new(CrcAlgorithm::Crc64Xz).finalize()
}

fn unreachable_row(start: u64) -> ! {
    unreachable!("the record at {start} is before every open one and has not ended")
}
