//! Rows that travel together: at most 1000 rows and 1 MiB, all of one partition.
//!
//! All text of a batch stands in one arena, and a batch is used again after the store has
//! acknowledged it, so that a row costs no allocation.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use crate::duration::Rung;
use crate::key::{Partition, RowKey};
use crate::ledger::PieceId;
use crate::record::Level;

/// The most text that one batch holds, in bytes.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// A range of a batch's arena.
pub type Slice = Range<u32>;

/// One row. Its texts stand in the arena of its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The primary key within the partition.
    pub key: RowKey,
    /// Column `level`.
    pub level: Level,
    /// How long something took, where the record says it; never of user events.
    pub rung: Option<Rung>,
    /// Column `message`; of a user event `event_type`, empty when there is none.
    pub message: Slice,
    /// Column `metadata`, of a user event `event_data`: a flat JSON object; empty when there is
    /// none.
    pub metadata: Slice,
    /// Index into [`Batch::application`] or [`Batch::events`], by the batch's table.
    pub further: Option<u32>,
}

/// The columns that only `application_logs` has. Absent ones are unset in the store, never null.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ApplicationColumns {
    /// `logger`
    pub logger: Option<Slice>,
    /// `request_id`, a uuid or the name-based uuid of an id of another shape.
    pub request_id: Option<u128>,
    /// `user_id`
    pub user_id: Option<i32>,
    /// `session_id`
    pub session_id: Option<Slice>,
    /// `traceback`
    pub traceback: Option<Slice>,
    /// `duration_ms`
    pub duration_ms: Option<f64>,
}

/// What stands before the members of an event's own object, where they are flattened.
pub const EVENT_DATA_PREFIX: &str = "event_data.";

/// The columns that only `user_events` has. The absent ones are unset in the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventColumns {
    /// `user_id`; the nil uuid where nobody is named.
    pub user_id: u128,
    /// `session_id`
    pub session_id: Option<Slice>,
    /// `ip_address`
    pub ip_address: Option<IpAddr>,
    /// `user_agent`
    pub user_agent: Option<Slice>,
}

/// Rows of one partition, written as one.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Where all its rows belong.
    pub partition: Partition,
    /// Column `host` of all rows.
    pub host: Arc<str>,
    /// The rows in the order in which they were made. A key may occur twice when a record was
    /// amended: the later row holds.
    pub rows: Vec<Row>,
    /// Columns of `application_logs`.
    pub application: Vec<ApplicationColumns>,
    /// Columns of `user_events`.
    pub events: Vec<EventColumns>,
    /// The arena. UTF-8.
    pub text: Vec<u8>,
    /// Write timestamp of the first row in microseconds; row `i` has `stamp + i`. Set when the
    /// batch is sealed, and the same in every retry.
    pub stamp: i64,
    /// Pieces of files whose rows are in this batch (see [`crate::ledger::Piece`]).
    pub pieces: Vec<PieceId>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new(partition: Partition, host: Arc<str>) -> Self {
        Self {
            partition,
            host,
            rows: Vec::new(),
            application: Vec::new(),
            events: Vec::new(),
            text: Vec::new(),
            stamp: 0,
            pieces: Vec::new(),
        }
    }

    /// Empties it for another partition and keeps its memory.
    pub fn reset(&mut self, partition: Partition) {
        self.partition = partition;
        self.rows.clear();
        self.application.clear();
        self.events.clear();
        self.text.clear();
        self.pieces.clear();
        self.stamp = 0;
    }

    /// About the memory that its rows take, so that many small batches are not taken for nothing.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        /// The batch itself, room for its first rows, and its place among the open ones.
        const EMPTY_BYTES: usize = 1536;
        EMPTY_BYTES
            + self.text.len()
            + self.rows.len() * size_of::<Row>()
            + self.application.len() * size_of::<ApplicationColumns>()
            + self.events.len() * size_of::<EventColumns>()
    }

    /// The text of a slice; empty if the slice is not of this batch.
    #[must_use]
    pub fn text(&self, slice: &Slice) -> &[u8] {
        self.text.get(slice.start as usize..slice.end as usize).unwrap_or_default()
    }

    /// The further columns of a row of `application_logs`.
    #[must_use]
    pub fn application_of(&self, row: &Row) -> Option<&ApplicationColumns> {
        self.application.get(row.further? as usize)
    }

    /// The further columns of a row of `user_events`.
    #[must_use]
    pub fn event_of(&self, row: &Row) -> Option<&EventColumns> {
        self.events.get(row.further? as usize)
    }

    /// The write timestamp of the row at `index`.
    #[must_use]
    pub fn row_stamp(&self, index: usize) -> i64 {
        self.stamp + i64::try_from(index).unwrap_or(i64::MAX - self.stamp)
    }
}

/// Batches whose rows are stored, to be used again: from `stores::deliver` back to the workers.
#[derive(Debug, Default)]
pub struct Spare(std::sync::Mutex<Vec<Batch>>);

impl Spare {
    const KEPT_MAX: usize = 16;

    /// One of them, as it was when it was stored.
    pub fn take(&self) -> Option<Batch> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop()
    }

    /// Keeps a batch; drops it where there are enough, and where it is one user's: those are many
    /// and small, and with the arenas of large ones they would be neither.
    pub fn give(&self, batch: Batch) {
        if batch.partition.user.is_some() {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if kept.len() < Self::KEPT_MAX {
            kept.push(batch);
        }
    }
}
