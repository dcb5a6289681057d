//! Stores: databases that take rows and give them back.
//!
//! A write is idempotent: the same batch twice is the same rows once. No store retries; only
//! [`deliver`] does. Nothing here knows sources.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::Batch;
use crate::duration::{DurationCounts, Durations};
use crate::key::{Layout, RowKey, Table};
use crate::ledger::{
    Context, DeadLetter, LossReceipt, OriginId, OriginRecord, Span, StoredOrigin, Watermark,
};
use crate::record::Level;

pub mod cassandra;
pub mod deliver;
pub mod expired;
pub mod health;
pub mod merge;
pub mod null;
pub mod open;
pub mod sqlite;

/// What a store answers, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// No node answered, or the file cannot be opened or written for now.
    #[error("{store} cannot be reached: {detail}")]
    Unreachable {
        /// The store's name.
        store: &'static str,
        /// The driver's own words.
        detail: String,
    },
    /// The write may or may not have happened; writing it again is harmless.
    #[error("{store} gave no answer to a write within {waited:?}")]
    Timeout {
        /// The store's name.
        store: &'static str,
        /// How long we waited.
        waited: Duration,
    },
    /// The server answers, but does not work now: overloaded, disk full, a table missing, a
    /// permission lost. It waits for a person or for time; no row is to blame.
    #[error("{store} refuses for now: {detail}")]
    Outage {
        /// The store's name.
        store: &'static str,
        /// The driver's own words.
        detail: String,
    },
    /// The store calls the batch (or a row of it) invalid or too large.
    #[error("{store} calls the rows invalid: {detail}")]
    Invalid {
        /// The store's name.
        store: &'static str,
        /// The driver's own words.
        detail: String,
    },
    /// The tables are missing or are not the ones that this program writes.
    #[error("{store}: {detail}; run `bitacora schema apply`")]
    Schema {
        /// The store's name.
        store: &'static str,
        /// What was found and what is needed.
        detail: String,
    },
    /// The store's tables were made by a newer program.
    #[error(
        "{store} has schema version {found}, this program knows {known}; install a newer bitacora"
    )]
    Newer {
        /// The store's name.
        store: &'static str,
        /// Version found.
        found: u32,
        /// Newest version that this program knows.
        known: u32,
    },
}

impl StoreError {
    /// A word of a closed list, for the metric.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "network",
            Self::Timeout { .. } => "timeout",
            Self::Outage { .. } => "outage",
            Self::Invalid { .. } => "invalid",
            Self::Schema { .. } | Self::Newer { .. } => "schema",
        }
    }
}

/// How much may be in flight to a store at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// Rows.
    pub rows: usize,
    /// Bytes of text.
    pub bytes: usize,
    /// Batches.
    pub batches: usize,
}

/// The writing side of a store. All calls may be repeated; each is durable when it is answered
/// with `Ok`, by the store's own notion of durable.
pub trait Store: Send + Sync {
    /// `sqlite`, `cassandra` or `null`; the label of its metrics.
    fn name(&self) -> &'static str;

    /// How much may be in flight.
    fn in_flight(&self) -> InFlight;

    /// Whether the tables are there and of this program's version. `sqlite` makes them.
    fn check(&self) -> Answer<'_, ()>;

    /// How days of `table` and `source` are cut into buckets on `day` (days since 1970). A store
    /// without buckets answers `None`; one with buckets keeps the events of each user apart.
    fn layout(&self, table: Table, source: &str, day: i32) -> Option<Layout>;

    /// Writes all rows of a batch.
    fn write(&self, batch: Arc<Batch>) -> Answer<'_, Written>;

    /// Writes an origin's record and contexts, before any row of them.
    fn put_origin<'a>(
        &'a self,
        origin: &'a OriginRecord,
        contexts: &'a [Context],
        stamp: i64,
    ) -> Answer<'a, ()>;

    /// Writes spans (the newest state of each) and projects their counts into the statistics.
    /// `stamp` is the write timestamp of the first; the others have `stamp + i`.
    fn put_spans<'a>(&'a self, spans: &'a [Span], stamp: i64) -> Answer<'a, ()>;

    /// Writes loss receipts.
    fn put_receipts<'a>(&'a self, receipts: &'a [LossReceipt], stamp: i64) -> Answer<'a, ()>;

    /// Writes watermarks.
    fn put_watermarks<'a>(&'a self, watermarks: &'a [Watermark], stamp: i64) -> Answer<'a, ()>;

    /// Writes dead letters.
    fn put_dead_letters<'a>(&'a self, letters: &'a [DeadLetter], stamp: i64) -> Answer<'a, ()>;

    /// The last span of each of these origins, where there is one. Recovery asks this.
    fn last_spans<'a>(&'a self, origins: &'a [OriginId]) -> Answer<'a, Vec<Span>>;

    /// The origins of a machine that retention has ended: see [`expired::EndedOrigin`].
    fn ended<'a>(&'a self, machine: &'a str) -> Answer<'a, Vec<OriginId>> {
        let _ = machine;
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// The texts of the rows with these keys, where there are any: to find where a file that was
    /// cut back goes on.
    fn texts<'a>(
        &'a self,
        rows: &'a [(crate::key::Partition, RowKey)],
    ) -> Answer<'a, Vec<Option<StoredText>>>;

    /// All that the store knows of a machine's origins (of all machines with `None`), with all
    /// spans.
    fn origins<'a>(&'a self, machine: Option<&'a str>) -> Answer<'a, Vec<StoredOrigin>>;

    /// Finishes what is in flight and closes the store.
    fn close(&self) -> Answer<'_, ()>;
}

/// What a stored row says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredText {
    /// Column `message`.
    pub message: String,
    /// Column `metadata`; empty where there is none.
    pub metadata: String,
}

/// What became of the rows of a batch that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// Indexes of rows for days that retention has already dropped: not kept, counted as
    /// `expired`.
    pub expired: Vec<usize>,
}

/// What a reader of stored rows asks for. Empty lists mean "any".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowQuery {
    /// From this time on (milliseconds, inclusive).
    pub since_ms: Option<i64>,
    /// Up to this time (exclusive).
    pub until_ms: Option<i64>,
    /// Tables; empty for those of log rows. User events are asked for by themselves, and where
    /// [`LogReader::needs_user`] says so, with a user.
    pub tables: Vec<Table>,
    /// Exact source names.
    pub sources: Vec<String>,
    /// Exact host names.
    pub hosts: Vec<String>,
    /// Levels.
    pub levels: Vec<Level>,
    /// `request_id` of `application_logs`.
    pub request_id: Option<u128>,
    /// `user_id` of `user_events`.
    pub user: Option<u128>,
    /// Newest rows first; else oldest first.
    pub newest_first: bool,
    /// Only rows after this one in the order asked for.
    pub after: Option<RowKey>,
    /// At most so many rows.
    pub limit: usize,
}

impl RowQuery {
    /// The tables that are asked.
    #[must_use]
    pub fn tables(&self) -> &[Table] {
        if self.tables.is_empty() { &Table::LOGS } else { &self.tables }
    }

    /// All rows that are asked for stand between these two.
    #[must_use]
    pub fn edges(&self) -> (RowKey, RowKey) {
        let edge = |timestamp_ms, rest| RowKey { timestamp_ms, origin: rest, offset_bytes: rest };
        let mut above = edge(self.since_ms.map_or(-1, |since| since.saturating_sub(1)), i64::MAX);
        let mut below = edge(self.until_ms.unwrap_or(i64::MAX), i64::MIN);
        match self.after {
            Some(after) if self.newest_first => below = below.min(after),
            Some(after) => above = above.max(after),
            None => {}
        }
        (above, below)
    }
}

/// A row as it stands in a store. A user event has its type as the message and its data as the
/// metadata, the level INFO, and no host.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRow {
    /// Which table.
    pub table: Table,
    /// Primary key within its partition.
    pub key: RowKey,
    /// Column `source`.
    pub source: String,
    /// Column `level`.
    pub level: Level,
    /// Column `message`.
    pub message: String,
    /// Column `host`.
    pub host: String,
    /// Column `metadata`: a JSON object, empty text for none.
    pub metadata: String,
    /// Further columns of `application_logs` or `user_events` that are set, by name, as text.
    pub further: Vec<(&'static str, String)>,
}

/// One answer to a [`RowQuery`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// Rows in the order asked for, at most `limit`.
    pub rows: Vec<StoredRow>,
    /// There is nothing after these.
    pub exhausted: bool,
}

/// Counts of rows, from the statistics that follow the spans.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CountKey {
    /// Minutes since 1970.
    pub minute: i64,
    /// Table.
    pub table: Table,
    /// Column `source`.
    pub source: String,
    /// Level.
    pub level: Level,
    /// Column `host`.
    pub host: String,
}

/// Whose rows a [`MinuteDurations`] counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurationKey {
    /// Minutes since 1970.
    pub minute: i64,
    /// Table.
    pub table: Table,
    /// Column `source`.
    pub source: String,
    /// Column `host`.
    pub host: String,
}

/// How long the rows of a minute took, from the statistics that follow the spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MinuteDurations {
    /// Rows that say how long something took.
    pub counted: Durations,
    /// Rows of which it is not known: a version that did not count them has written their span.
    pub unknown: u64,
}

impl MinuteDurations {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.counted.merge(&other.counted);
        self.unknown = self.unknown.saturating_add(other.unknown);
    }
}

/// What a span says of durations, by minute; `rows` are its rows by minute and level. No user
/// event has a duration.
pub(crate) fn minute_durations(
    table: Table,
    durations: Option<&DurationCounts>,
    rows: impl IntoIterator<Item = (i64, u64)>,
) -> BTreeMap<i64, MinuteDurations> {
    let mut minutes: BTreeMap<i64, MinuteDurations> = BTreeMap::new();
    match durations {
        Some(durations) => {
            let of = |counted: &Durations| MinuteDurations { counted: *counted, unknown: 0 };
            minutes.extend(durations.iter().map(|(minute, counted)| (*minute, of(counted))));
        }
        None if table == Table::Events => {}
        None => {
            for (minute, unknown) in rows {
                let of_level = MinuteDurations { unknown, ..MinuteDurations::default() };
                minutes.entry(minute).or_default().merge(&of_level);
            }
        }
    }
    minutes
}

/// Spans that have grown since somebody looked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Grown {
    /// Each with its host, by origin and start.
    pub spans: Vec<(String, Span)>,
    /// What to ask with next time.
    pub mark: i64,
}

/// Called with the key and the table of every stored row, in no order; answers `false` to stop.
pub type KeyVisitor<'a> = &'a mut (dyn FnMut(Table, RowKey) -> bool + Send);

/// The reading side of a store, for people and for `audit`.
pub trait LogReader: Send + Sync {
    /// Whether user events can only be asked for user by user.
    fn needs_user(&self) -> bool {
        false
    }

    /// Rows in time order.
    fn rows<'a>(&'a self, query: &'a RowQuery) -> Answer<'a, Page>;

    /// Counts of committed rows between two times, by minute, source, level and host.
    fn counts(&self, since_ms: i64, until_ms: i64) -> Answer<'_, Vec<(CountKey, u64)>>;

    /// How long committed rows between two times took, by minute, source and host. Rows that do
    /// not say it are in no answer.
    fn durations(
        &self,
        since_ms: i64,
        until_ms: i64,
    ) -> Answer<'_, Vec<(DurationKey, MinuteDurations)>>;

    /// Names of all sources.
    fn sources(&self) -> Answer<'_, Vec<String>>;

    /// All origins with contexts and spans, of one machine or of all.
    fn origins<'a>(&'a self, machine: Option<&'a str>) -> Answer<'a, Vec<StoredOrigin>>;

    /// Spans that were written after the answer that gave `mark`; without a mark, and from a
    /// store that cannot tell, the last span of each origin and more.
    fn grown(&self, mark: Option<i64>) -> Answer<'_, Grown> {
        Box::pin(async move {
            let mut grown = Grown { spans: Vec::new(), mark: mark.unwrap_or(i64::MIN) };
            for stored in self.origins(None).await? {
                let host = stored.record.host;
                grown.spans.extend(stored.spans.into_iter().map(|span| (host.clone(), span)));
            }
            Ok(grown)
        })
    }

    /// Visits the key of every row.
    fn visit_keys<'a>(&'a self, visitor: KeyVisitor<'a>) -> Answer<'a, ()>;

    /// All loss receipts.
    fn receipts(&self) -> Answer<'_, Vec<LossReceipt>>;

    /// The newest watermark of each source and host.
    fn watermarks(&self) -> Answer<'_, Vec<Watermark>>;

    /// What retention has ended that has no time to live of its own.
    fn tombstones(&self) -> Answer<'_, Vec<expired::Tombstone>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// The origins of all machines that retention has ended, for as long as that is kept.
    fn ended_origins(&self) -> Answer<'_, Vec<expired::EndedOrigin>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// All dead letters.
    fn dead_letters(&self) -> Answer<'_, Vec<DeadLetter>>;

    /// Removes a dead letter (it was retried or dropped).
    fn remove_dead_letter<'a>(&'a self, letter: &'a DeadLetter) -> Answer<'a, ()>;
}
