//! The facts that prove where every byte went: origins, contexts, pieces, spans, receipts.
//!
//! These are plain values. `sources` and `worker` make them, `tracker` puts them in order,
//! `stores` and `state.db` keep them, `audit` reads them back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::duration::{DurationCounts, Rung};
use crate::key::{RowKey, Table};
use crate::record::Level;

/// The number of one generation of one file: random, positive, 63 bits.
pub type OriginId = i64;

/// The number of a new origin.
#[must_use]
pub fn random_id() -> OriginId {
    let random = uuid::Uuid::new_v4().as_u128();
    // 63 bits, of the parts of a version 4 UUID that are all random
    let (low, high) = (random & u128::from(u64::MAX), random >> 64);
    i64::try_from((low ^ high.rotate_left(32)) & u128::from(i64::MAX.unsigned_abs()))
        .unwrap_or(i64::MAX)
        .max(1)
}

/// What tells one file from another across renames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct KernelIdentity {
    /// Device number; not comparable across boots.
    pub device: u64,
    /// Inode number; used again by ext4 at once after a delete.
    pub inode: u64,
    /// Inode generation (`FS_IOC_GETVERSION`), where the file system has it.
    pub generation: Option<u64>,
    /// Birth time in nanoseconds since 1970, where the file system has it.
    pub born_ns: Option<i64>,
}

/// How the bytes of an origin stand in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As they are.
    #[default]
    Plain,
    /// A gzip file; offsets are those of the decompressed bytes.
    Gzip,
    /// A zstd file; offsets are those of the decompressed bytes.
    Zstd,
    /// A lane of a segment of the spool.
    Spool,
}

impl Encoding {
    /// The word in the stores.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Spool => "spool",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Plain, Self::Gzip, Self::Zstd, Self::Spool]
            .into_iter()
            .find(|one| one.name() == name)
    }
}

/// The record of one origin, committed to `state.db` and to the store before its first row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginRecord {
    /// Its number.
    pub id: OriginId,
    /// The machine's id: `/etc/machine-id`, or a random one kept in `state.db`.
    pub machine: String,
    /// The host's name.
    pub host: String,
    /// The path under which it was first seen.
    pub path: PathBuf,
    /// Identity at birth (or at the last adoption).
    pub kernel: KernelIdentity,
    /// xxh3 of the first `head_bytes` bytes.
    pub head_hash: u64,
    /// Length of the hashed head: min(size at birth, 1024).
    pub head_bytes: u64,
    /// Where its first span begins.
    pub first_offset: u64,
    /// Wall clock at birth, in milliseconds.
    pub born_ms: i64,
    /// Plain or compressed.
    pub encoding: Encoding,
}

/// What besides the bytes decides a row's key or fate, from an offset of an origin on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// Whose.
    pub origin: OriginId,
    /// From here on: the start of a record.
    pub from_bytes: u64,
    /// Column `source`.
    pub source: String,
    /// Which table.
    pub table: Table,
    /// The format's name.
    pub format: String,
    /// The format's options.
    pub options: BTreeMap<String, String>,
    /// IANA name of the zone of times without one.
    pub timezone: String,
    /// `now` for times without a year, and the time of records before the first dated one.
    /// Milliseconds since 1970.
    pub anchor_ms: i64,
    /// Longest line and longest multi-line record, in bytes.
    pub max_line_bytes: u64,
    /// Version of the format's parser.
    pub parser_version: u32,
}

impl Context {
    /// Whether both decide rows alike (whatever their offsets and anchors are).
    #[must_use]
    pub fn same_rules(&self, other: &Self) -> bool {
        self.source == other.source
            && self.table == other.table
            && self.format == other.format
            && self.options == other.options
            && self.timezone == other.timezone
            && self.max_line_bytes == other.max_line_bytes
            && self.parser_version == other.parser_version
    }
}

/// Why a line of a span belongs to no row of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// An empty line.
    Blank,
    /// Part of the record before it.
    Continued,
    /// A line that the format skips.
    Banner,
    /// Dropped by a rule.
    Dropped,
    /// Left out by sampling.
    Sampled,
    /// Over a rate limit.
    Limited,
    /// Kept as a dead letter.
    DeadLetter,
    /// For a day that retention has already dropped.
    Expired,
    /// Lost; a receipt says more.
    Lost,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::Blank,
        Self::Continued,
        Self::Banner,
        Self::Dropped,
        Self::Sampled,
        Self::Limited,
        Self::DeadLetter,
        Self::Expired,
        Self::Lost,
    ];

    /// The word in spans, metrics and `audit`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blank => "blank",
            Self::Continued => "continued",
            Self::Banner => "banner",
            Self::Dropped => "dropped",
            Self::Sampled => "sampled",
            Self::Limited => "limited",
            Self::DeadLetter => "dead_letter",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }
}

/// Lines by reason. Serialised as an object without the zeros. Sums end at the largest number:
/// what a store says may be damaged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, u64>", into = "BTreeMap<String, u64>")]
pub struct Reasons([u64; Reason::ALL.len()]);

impl Reasons {
    /// Counts `lines` more.
    pub fn add(&mut self, reason: Reason, lines: u64) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count = count.saturating_add(lines);
        }
    }

    /// Lines counted under `reason`.
    #[must_use]
    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
    }

    /// Lines under any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |total, count| total.saturating_add(*count))
    }

    /// The reasons that occur, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().map(|reason| (reason, self.get(reason))).filter(|(_, n)| *n > 0)
    }
}

impl From<BTreeMap<String, u64>> for Reasons {
    fn from(map: BTreeMap<String, u64>) -> Self {
        let mut reasons = Self::default();
        for reason in Reason::ALL {
            reasons.add(reason, map.get(reason.name()).copied().unwrap_or(0));
        }
        reasons
    }
}

impl From<Reasons> for BTreeMap<String, u64> {
    fn from(reasons: Reasons) -> Self {
        reasons.iter().map(|(reason, count)| (reason.name().to_owned(), count)).collect()
    }
}

/// Rows by minute (minutes since 1970) and level.
pub type MinuteCounts = BTreeMap<(i64, Level), u64>;

/// The number of one piece, unique within a run of the daemon.
pub type PieceId = u64;

/// A record that began before a boundary, was still open there, and has ended since: its row is
/// written with all its lines, so a reader that begins at the boundary passes over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Its thread, a `PostgreSQL` pid.
    pub thread: u64,
    /// Where it begins.
    pub start: u64,
    /// Bytes of its text before the boundary, which count for the size limit. `u64::MAX`: it has
    /// ended because it was full, and the line at the boundary begins its rest.
    pub text_bytes: u64,
}

/// A worker's account of consecutive bytes of one origin. Pieces of an origin touch and come in
/// order; a piece is stored once all rows that it counts are acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its number.
    pub id: PieceId,
    /// Whose bytes.
    pub origin: OriginId,
    /// First byte.
    pub start_bytes: u64,
    /// One past the last byte: the start of the oldest record that may still grow, or the end
    /// of the last line.
    pub end_bytes: u64,
    /// All text up to here is in rows, though records from `end_bytes` on may still grow; what
    /// the watermark counts. Never below `end_bytes`.
    pub covered_bytes: u64,
    /// In how many batches the rows of this piece are: it is stored after as many
    /// acknowledgements that name its id.
    pub batches: u32,
    /// Rows that begin in these bytes.
    pub rows: u64,
    /// Complete lines in these bytes, blank ones included.
    pub lines: u64,
    /// Lines that are no first line of a row. `rows + reasons.total() == lines`, always.
    pub reasons: Reasons,
    /// The rows by minute and level.
    pub minutes: MinuteCounts,
    /// Those that say how long something took, by minute and rung; none of user events.
    pub durations: DurationCounts,
    /// Time of the last dated record up to `end_bytes`, in milliseconds.
    pub running_ms: Option<i64>,
    /// CRC-64/XZ of the bytes.
    pub crc: u64,
    /// xxh3 of the up to 256 bytes before `end_bytes`.
    pub marker: u64,
    /// Rows that no parser understood.
    pub unparsed: u64,
    /// Records with lines on both sides of `end_bytes`.
    pub carried: Vec<Carried>,
}

/// A row that a batch carried and that is no row of the store: why, its key, and what it counts as.
pub type NotRow = (Reason, RowKey, Level, Option<Rung>);

/// What `stores::deliver` says of a batch that is dealt with: to the tracker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ack {
    /// The pieces that the batch named, each once.
    pub pieces: Vec<PieceId>,
    /// Its rows that are dead letters or expired.
    pub not_rows: Vec<NotRow>,
}

/// A marker that was taken earlier: to find how far a file that was cut back still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Wall clock when it was taken, in milliseconds.
    pub at_ms: i64,
    /// The position.
    pub position: u64,
    /// xxh3 of the up to 256 bytes before it.
    pub hash: u64,
}

/// The commit mark: a byte range of an origin all of whose rows are in the store.
/// Spans of an origin touch and never overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Whose bytes.
    pub origin: OriginId,
    /// First byte; with the origin, the span's key.
    pub start_bytes: u64,
    /// One past the last byte. Grows until the span is closed.
    pub end_bytes: u64,
    /// Rows that begin in these bytes.
    pub rows: u64,
    /// Lines, see [`Piece::lines`].
    pub lines: u64,
    /// Lines that are no row.
    pub reasons: Reasons,
    /// The rows by minute and level.
    pub minutes: MinuteCounts,
    /// See [`Piece::durations`]; `None` of a span that was written before they were counted.
    pub durations: Option<DurationCounts>,
    /// Time of the last dated record up to the end.
    pub running_ms: Option<i64>,
    /// CRC-64/XZ of the bytes.
    pub crc: u64,
    /// Marker at the end.
    pub marker: u64,
    /// Older markers, newest first.
    pub markers: Vec<Marker>,
    /// Wall clock of the first write of a row of it, in milliseconds.
    pub first_write_ms: i64,
    /// Wall clock of the last write of a row of it, in milliseconds.
    pub last_write_ms: i64,
    /// Seconds that its rows live; `None` for ever.
    pub ttl_s: Option<i64>,
    /// No byte will be added; the next span begins at its end.
    pub closed: bool,
    /// Records with lines on both sides of `end_bytes`.
    pub carried: Vec<Carried>,
    /// Table and source of its rows (those of its context).
    pub table: Table,
    /// Column `source` of its rows.
    pub source: String,
}

/// Why bytes are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The file was truncated before it was read.
    Truncated,
    /// The file was deleted before it was read.
    Deleted,
    /// A power cut or a rolled-back disk took bytes back that were already stored.
    CutBack,
    /// The spool was damaged.
    Spool,
    /// It cannot be known.
    Unknown,
}

impl Cause {
    /// The word in receipts and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Deleted => "deleted",
            Self::CutBack => "cut_back",
            Self::Spool => "spool",
            Self::Unknown => "unknown",
        }
    }
}

/// The row that says what was lost, where and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossReceipt {
    /// Whose bytes.
    pub origin: OriginId,
    /// From here on. With origin and cause, the receipt's key.
    pub start_bytes: u64,
    /// At least up to here, where that can be known; more may be lost.
    pub end_bytes: Option<u64>,
    /// Why.
    pub cause: Cause,
    /// Column `source`.
    pub source: String,
    /// The host.
    pub host: String,
    /// The file.
    pub path: PathBuf,
    /// When it was noticed, wall clock in milliseconds.
    pub noticed_ms: i64,
    /// What happened and what to do, in one sentence for a person.
    pub detail: String,
}

/// "All bytes of this source on this host that were seen at `seen_ms` are committed."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// Column `source`.
    pub source: String,
    /// The host.
    pub host: String,
    /// Wall clock in milliseconds.
    pub seen_ms: i64,
    /// When it was written.
    pub written_ms: i64,
    /// Bytes seen and not committed when it was written.
    pub behind_bytes: u64,
}

/// A row that the store will never take, kept with its reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Table of the row.
    pub table: Table,
    /// Column `source`.
    pub source: String,
    /// The host.
    pub host: String,
    /// Key of the row.
    pub timestamp_ms: i64,
    /// Key of the row.
    pub origin: OriginId,
    /// Key of the row.
    pub offset_bytes: i64,
    /// Level of the row.
    pub level: String,
    /// Message of the row.
    pub message: String,
    /// Metadata of the row: a JSON object.
    pub metadata: String,
    /// The store's reason.
    pub reason: String,
    /// Wall clock in milliseconds.
    pub refused_ms: i64,
}

/// Everything that a store knows of one origin, to rebuild `state.db` from.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredOrigin {
    /// Its record.
    pub record: OriginRecord,
    /// Its contexts by offset.
    pub contexts: Vec<Context>,
    /// Its spans by start.
    pub spans: Vec<Span>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_a_damaged_store_gives_do_not_overflow() {
        let text = format!("{{\"blank\":{max},\"lost\":{max}}}", max = u64::MAX);
        let mut reasons: Reasons = serde_json::from_str(&text).unwrap();
        assert_eq!(reasons.total(), u64::MAX);
        reasons.merge(&reasons.clone());
        reasons.add(Reason::Lost, 1);
        assert_eq!(reasons.get(Reason::Lost), u64::MAX);
    }
}
