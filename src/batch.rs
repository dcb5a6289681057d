//! Rows that travel together: at most 1000 rows and 1 MiB, all of one partition.
//!
//! All text of a batch stands in one arena, and a batch is used again after the store has
//! acknowledged it, so that a row costs no allocation.

use std::ops::Range;
use std::sync::Arc;

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
    /// Column `message`.
    pub message: Slice,
    /// Column `metadata`: a flat JSON object; empty when there is none.
    pub metadata: Slice,
    /// Index into [`Batch::application`] for the further columns of `application_logs`.
    pub application: Option<u32>,
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
        self.text.clear();
        self.pieces.clear();
        self.stamp = 0;
    }

    /// The text of a slice; empty if the slice is not of this batch.
    #[must_use]
    pub fn text(&self, slice: &Slice) -> &[u8] {
        self.text.get(slice.start as usize..slice.end as usize).unwrap_or_default()
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

    /// Keeps a batch; drops it where there are enough.
    pub fn give(&self, batch: Batch) {
        let mut kept = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if kept.len() < Self::KEPT_MAX {
            kept.push(batch);
        }
    }
}
