//! What `bitacora status` shows.

use serde::{Deserialize, Serialize};

/// How the daemon does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Column `host`.
    pub host: String,
    /// When it was started, in milliseconds since 1970.
    pub started_ms: i64,
    /// Whether the tables are there and it is not stopping.
    pub ready: bool,
    /// What is wrong, if anything.
    pub problem: Option<String>,
    /// The store.
    pub store: StoreStatus,
    /// Each source of the configuration.
    pub sources: Vec<SourceStatus>,
}

/// How the store does.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StoreStatus {
    /// `sqlite`, `cassandra` or `null`.
    pub kind: String,
    /// Whether it takes batches.
    pub up: bool,
    /// What it said last, if it does not.
    pub problem: Option<String>,
    /// Rows of this run that it will never take.
    pub dead_letters: u64,
}

/// How a source does.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name.
    pub source: String,
    /// Files that match.
    pub files: u64,
    /// Files that are held open.
    pub open_files: u64,
    /// Bytes handed to a worker in this run.
    pub read_bytes: u64,
    /// Bytes committed in this run.
    pub stored_bytes: u64,
    /// Rows committed in this run.
    pub rows: u64,
    /// Bytes read and not committed.
    pub pending_bytes: u64,
    /// Bytes on disk and not read.
    pub backlog_bytes: u64,
    /// Bytes that no account explains: must be 0.
    pub unaccounted_bytes: u64,
    /// Age of the oldest byte that is not stored.
    pub lag_seconds: f64,
    /// Until when the source is complete in the store, in milliseconds since 1970.
    pub complete_until_ms: Option<i64>,
    /// Losses noticed in this run.
    pub loss_receipts: u64,
    /// Files that cannot be read, and why.
    pub waiting: Vec<String>,
}
