//! Every metric that this program exports, in one table; the manual's list is printed from it.
//!
//! Labels come from the configuration or from closed lists: never a path, a host or a text of an
//! error, so that the number of series is bounded by the configuration.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// What kind of figure a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Spread over buckets.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Name, with the unit last and `_total` on counters.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// What it says to someone on call, in one sentence.
    pub help: &'static str,
}

macro_rules! table {
    ($($constant:ident $kind:ident $name:literal $help:literal;)*) => {
        $(const $constant: &str = $name;)*
        /// All of them, for `describe` and for the manual.
        pub const ALL: &[Metric] =
            &[$(Metric { name: $name, kind: Kind::$kind, help: $help }),*];
    };
}

table! {
    BUILD_INFO Gauge "bitacora_build_info" "1; the labels say which build this is.";
    START Gauge "bitacora_start_timestamp_seconds" "When this run began.";
    RELOAD_OK Gauge "bitacora_config_last_reload_successful"
        "1 if the last reload was taken over, 0 if the new configuration was refused.";
    RELOAD_AT Gauge "bitacora_config_last_reload_timestamp_seconds" "When the last reload was tried.";
    READ_BYTES Counter "bitacora_source_read_bytes_total" "Bytes handed to a worker.";
    READ_LINES Counter "bitacora_source_read_lines_total" "Lines that a worker has settled.";
    ROWS Counter "bitacora_source_rows_total" "Rows that are stored and stand in a span.";
    ROW_BYTES Counter "bitacora_source_row_bytes_total"
        "Bytes of files that are stored and stand in a span.";
    DISPOSED_LINES Counter "bitacora_source_disposed_lines_total"
        "Lines that are no row of their own, by reason.";
    LOST_BYTES Counter "bitacora_source_lost_bytes_total"
        "Bytes known to be lost, by cause; each has a loss receipt.";
    LOSSES Counter "bitacora_source_loss_receipts_total" "Loss receipts, by cause.";
    PENDING_BYTES Gauge "bitacora_source_pending_bytes" "Bytes read and not yet in a span.";
    BACKLOG_BYTES Gauge "bitacora_source_backlog_bytes" "Bytes on disk and not yet read.";
    UNACCOUNTED_BYTES Gauge "bitacora_source_unaccounted_bytes"
        "Bytes read that are neither in a span nor pending; anything but 0 is a fault in bitacora.";
    LAG Gauge "bitacora_source_lag_seconds"
        "Age of the oldest byte that is not yet stored; 0 when all is.";
    WATERMARK Gauge "bitacora_source_watermark_timestamp_seconds"
        "Up to when a source is complete in the store.";
    AMENDED_ROWS Counter "bitacora_source_amended_rows_total"
        "Rows written again because their record had grown.";
    UNPARSED_LINES Counter "bitacora_source_unparsed_lines_total"
        "Rows that no parser understood; they are kept with all their text.";
    FILES_WATCHED Gauge "bitacora_files_watched" "Files of a source.";
    FILES_OPEN Gauge "bitacora_files_open" "Files that are held open.";
    DELETED_OPEN_BYTES Gauge "bitacora_files_deleted_open_bytes"
        "Bytes of files that are deleted and held open until they are read.";
    FILE_EVENTS Counter "bitacora_file_events_total"
        "What happened to files: created, rotated, truncated, deleted, adopted.";
    WAKE_FAULTS Counter "bitacora_wake_faults_total"
        "Times that kernel events could not be had; reading goes on by timer.";
    SOCKET_CONNECTIONS Gauge "bitacora_socket_connections" "Connections that are open.";
    SOCKET_RECORDS Counter "bitacora_socket_records_total"
        "Records of clients by result: stored, repeated (sent again), invalid (kept unparsed), refused (a datagram that was dropped).";
    SOCKET_TURNED_AWAY Counter "bitacora_socket_turned_away_total"
        "Connections that were closed because there were too many.";
    SPOOL_BYTES Gauge "bitacora_spool_bytes" "Bytes of records in the spool.";
    SPOOL_LIMIT Gauge "bitacora_spool_limit_bytes" "What the spool may hold.";
    SPOOL_FSYNC Histogram "bitacora_spool_fsync_seconds" "Time that a commit of the spool took.";
    BACKUP_SUCCESS Gauge "bitacora_backup_last_success_timestamp_seconds"
        "When the newest verified backup was begun; 0 if there is none.";
    BACKUP_DRILL Gauge "bitacora_backup_last_drill_timestamp_seconds"
        "When a backup was last restored for a drill; 0 if none was.";
    INOTIFY_OVERFLOWS Counter "bitacora_inotify_overflows_total"
        "Times that the kernel's queue of events ran over; a full look makes up for it.";
    STORE_BATCHES Counter "bitacora_store_batches_total" "Batches by result: ok, retried, dead_letter.";
    STORE_ROWS Counter "bitacora_store_rows_total" "Rows by result: ok, dead_letter, expired.";
    STORE_BYTES Counter "bitacora_store_bytes_total" "Bytes of text in acknowledged batches.";
    STORE_WRITE Histogram "bitacora_store_write_seconds" "How long the store took for a batch.";
    STORE_BATCH_ROWS Histogram "bitacora_store_batch_rows" "Rows of a batch.";
    STORE_IN_FLIGHT Gauge "bitacora_store_inflight_batches" "Batches that the store has not answered.";
    STORE_UP Gauge "bitacora_store_up" "1 while the store takes batches, 0 while it is waited for.";
    STORE_ERRORS Counter "bitacora_store_errors_total"
        "Refused tries by reason: network, timeout, outage, invalid, schema.";
    DEAD_LETTERS Counter "bitacora_dead_letter_records_total"
        "Rows that the store will never take, kept as dead letters.";
    SPAN_WRITES Counter "bitacora_span_writes_total" "Spans written to the store.";
}

/// Upper ends of the buckets of `bitacora_store_write_seconds`: fine enough between 2 and 200 ms
/// that a percentile can be read to a tenth.
pub const WRITE_SECONDS: &[f64] = &[
    0.000_5, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05,
    0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
];

/// Installs the recorder of this process and describes every metric. The handle renders them.
///
/// # Errors
///
/// A recorder is installed already, or a bucket list is empty.
pub fn install() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    const ROWS_IN_BATCH: &[f64] = &[1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 999.0, 1000.0, 10_000.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(STORE_WRITE.to_owned()), WRITE_SECONDS)?
        .set_buckets_for_metric(Matcher::Full(SPOOL_FSYNC.to_owned()), WRITE_SECONDS)?
        .set_buckets_for_metric(Matcher::Full(STORE_BATCH_ROWS.to_owned()), ROWS_IN_BATCH)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

/// Gives each metric its help text.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}

/// The metrics of the process itself.
#[derive(Debug)]
pub struct ProcessMetrics {
    /// See [`ALL`].
    pub reload_ok: Gauge,
    /// See [`ALL`].
    pub reload_at: Gauge,
    /// See [`ALL`].
    pub wake_faults: Counter,
    /// See [`ALL`].
    pub inotify_overflows: Counter,
    /// See [`ALL`].
    pub span_writes: Counter,
}

impl ProcessMetrics {
    /// `start_seconds` is when the run began.
    #[must_use]
    pub fn new(start_seconds: f64) -> Self {
        metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        metrics::gauge!(START).set(start_seconds);
        Self {
            reload_ok: metrics::gauge!(RELOAD_OK),
            reload_at: metrics::gauge!(RELOAD_AT),
            wake_faults: metrics::counter!(WAKE_FAULTS),
            inotify_overflows: metrics::counter!(INOTIFY_OVERFLOWS),
            span_writes: metrics::counter!(SPAN_WRITES),
        }
    }
}

/// The metrics of the socket and its spool.
#[derive(Debug, Clone)]
pub struct SocketMetrics {
    /// See [`ALL`].
    pub connections: Gauge,
    /// See [`ALL`].
    pub stored: Counter,
    /// See [`ALL`].
    pub repeated: Counter,
    /// See [`ALL`].
    pub invalid: Counter,
    /// See [`ALL`].
    pub refused: Counter,
    /// See [`ALL`].
    pub turned_away: Counter,
    /// See [`ALL`].
    pub spool_bytes: Gauge,
    /// See [`ALL`].
    pub spool_limit_bytes: Gauge,
    /// See [`ALL`].
    pub fsync_seconds: Histogram,
}

impl SocketMetrics {
    /// All of them, at 0.
    #[must_use]
    pub fn new() -> Self {
        let records = |result: &'static str| metrics::counter!(SOCKET_RECORDS, "result" => result);
        Self {
            connections: metrics::gauge!(SOCKET_CONNECTIONS),
            stored: records("stored"),
            repeated: records("repeated"),
            invalid: records("invalid"),
            refused: records("refused"),
            turned_away: metrics::counter!(SOCKET_TURNED_AWAY),
            spool_bytes: metrics::gauge!(SPOOL_BYTES),
            spool_limit_bytes: metrics::gauge!(SPOOL_LIMIT),
            fsync_seconds: metrics::histogram!(SPOOL_FSYNC),
        }
    }
}

/// What the backups tell.
pub struct BackupMetrics {
    /// See [`ALL`].
    pub last_success: Gauge,
    /// See [`ALL`].
    pub last_drill: Gauge,
}

impl BackupMetrics {
    /// Both, at 0.
    #[must_use]
    pub fn new() -> Self {
        let gauge = |name: &'static str| metrics::gauge!(name);
        Self { last_success: gauge(BACKUP_SUCCESS), last_drill: gauge(BACKUP_DRILL) }
    }
}

impl Default for BackupMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for SocketMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The metrics of one source: made once, as looking one up by label for each piece costs more.
#[derive(Debug, Clone)]
pub struct SourceMetrics {
    source: String,
    /// See [`ALL`].
    pub read_bytes: Counter,
    /// See [`ALL`].
    pub read_lines: Counter,
    /// See [`ALL`].
    pub rows: Counter,
    /// See [`ALL`].
    pub row_bytes: Counter,
    /// See [`ALL`].
    pub pending_bytes: Gauge,
    /// See [`ALL`].
    pub backlog_bytes: Gauge,
    /// See [`ALL`].
    pub unaccounted_bytes: Gauge,
    /// See [`ALL`].
    pub lag_seconds: Gauge,
    /// See [`ALL`].
    pub watermark: Gauge,
    /// See [`ALL`].
    pub amended_rows: Counter,
    /// See [`ALL`].
    pub unparsed_lines: Counter,
    /// See [`ALL`].
    pub files_watched: Gauge,
    /// See [`ALL`].
    pub files_open: Gauge,
    /// See [`ALL`].
    pub deleted_open_bytes: Gauge,
}

impl SourceMetrics {
    /// The metrics of the source of this name; `kind` is `file` or `socket`.
    #[must_use]
    pub fn new(source: &str, kind: &'static str) -> Self {
        let counter = |name: &'static str| metrics::counter!(name, "source" => source.to_owned(), "kind" => kind);
        let gauge = |name: &'static str| metrics::gauge!(name, "source" => source.to_owned());
        Self {
            source: source.to_owned(),
            read_bytes: counter(READ_BYTES),
            read_lines: counter(READ_LINES),
            rows: counter(ROWS),
            row_bytes: counter(ROW_BYTES),
            pending_bytes: gauge(PENDING_BYTES),
            backlog_bytes: gauge(BACKLOG_BYTES),
            unaccounted_bytes: gauge(UNACCOUNTED_BYTES),
            lag_seconds: gauge(LAG),
            watermark: gauge(WATERMARK),
            amended_rows: counter(AMENDED_ROWS),
            unparsed_lines: counter(UNPARSED_LINES),
            files_watched: gauge(FILES_WATCHED),
            files_open: gauge(FILES_OPEN),
            deleted_open_bytes: gauge(DELETED_OPEN_BYTES),
        }
    }

    /// Lines that are no row, by reason.
    pub fn disposed(&self, reason: &'static str, lines: u64) {
        metrics::counter!(DISPOSED_LINES, "source" => self.source.clone(), "reason" => reason)
            .increment(lines);
    }

    /// A loss receipt; `bytes` where they are known.
    pub fn lost(&self, cause: &'static str, bytes: u64) {
        metrics::counter!(LOSSES, "source" => self.source.clone(), "cause" => cause).increment(1);
        metrics::counter!(LOST_BYTES, "source" => self.source.clone(), "cause" => cause)
            .increment(bytes);
    }

    /// Something happened to a file.
    pub fn file_event(&self, op: &'static str) {
        metrics::counter!(FILE_EVENTS, "source" => self.source.clone(), "op" => op).increment(1);
    }
}

/// The metrics of the store.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    store: &'static str,
    /// See [`ALL`].
    pub bytes: Counter,
    /// See [`ALL`].
    pub write_seconds: Histogram,
    /// See [`ALL`].
    pub batch_rows: Histogram,
    /// See [`ALL`].
    pub in_flight: Gauge,
    /// See [`ALL`], and whether it is 1.
    pub up: Up,
    batches_ok: Counter,
    rows_ok: Counter,
    dead_letters: Counter,
    trouble: Arc<Trouble>,
}

/// `bitacora_store_up`, which `bitacora status` reads too.
#[derive(Debug, Clone)]
pub struct Up {
    gauge: Gauge,
    trouble: Arc<Trouble>,
}

impl Up {
    /// 1 while the store takes batches, 0 while it does not.
    pub fn set(&self, value: f64) {
        self.gauge.set(value);
        let up = value > 0.0;
        self.trouble.down.store(!up, Ordering::Relaxed);
        if up {
            *self.trouble.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// What the store said last, while it does not take batches.
#[derive(Debug, Default)]
struct Trouble {
    down: AtomicBool,
    problem: Mutex<Option<String>>,
    dead_letters: AtomicU64,
}

impl StoreMetrics {
    /// The metrics of the store of this name.
    #[must_use]
    pub fn new(store: &'static str) -> Self {
        let trouble = Arc::new(Trouble::default());
        Self {
            store,
            bytes: metrics::counter!(STORE_BYTES, "store" => store),
            write_seconds: metrics::histogram!(STORE_WRITE, "store" => store),
            batch_rows: metrics::histogram!(STORE_BATCH_ROWS, "store" => store),
            in_flight: metrics::gauge!(STORE_IN_FLIGHT, "store" => store),
            up: Up {
                gauge: metrics::gauge!(STORE_UP, "store" => store),
                trouble: Arc::clone(&trouble),
            },
            dead_letters: metrics::counter!(DEAD_LETTERS),
            trouble,
            batches_ok: metrics::counter!(STORE_BATCHES, "store" => store, "result" => "ok"),
            rows_ok: metrics::counter!(STORE_ROWS, "store" => store, "result" => "ok"),
        }
    }

    /// A batch was acknowledged.
    pub fn acknowledged(&self, rows: u64, bytes: u64, seconds: f64) {
        self.batches_ok.increment(1);
        self.rows_ok.increment(rows);
        self.bytes.increment(bytes);
        self.batch_rows.record(as_f64(rows));
        self.write_seconds.record(seconds);
    }

    /// Batches with another result than `ok`.
    pub fn batches(&self, result: &'static str, count: u64) {
        metrics::counter!(STORE_BATCHES, "store" => self.store, "result" => result)
            .increment(count);
    }

    /// Rows with another result than `ok`.
    pub fn rows(&self, result: &'static str, count: u64) {
        if result == "dead_letter" {
            self.dead_letters.increment(count);
            self.trouble.dead_letters.fetch_add(count, Ordering::Relaxed);
        }
        metrics::counter!(STORE_ROWS, "store" => self.store, "result" => result).increment(count);
    }

    /// Whether the store takes batches, and what it said last if not.
    #[must_use]
    pub fn state(&self) -> (bool, Option<String>) {
        let problem = self.trouble.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (!self.trouble.down.load(Ordering::Relaxed), problem)
    }

    /// Rows of this run that the store will never take.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.trouble.dead_letters.load(Ordering::Relaxed)
    }

    /// Keeps what the store said, for `bitacora status`.
    pub fn trouble(&self, problem: String) {
        *self.trouble.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
    }

    /// A try was refused.
    pub fn error(&self, reason: &'static str) {
        metrics::counter!(STORE_ERRORS, "store" => self.store, "reason" => reason).increment(1);
    }
}

/// A count as a gauge's number. Exact below 2^53, which no count here reaches.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub const fn as_f64(count: u64) -> f64 {
    count as f64
}

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// The handle of the process's recorder, installed on the first call.
///
/// # Errors
///
/// See [`install`].
pub fn handle() -> Result<&'static PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    if let Some(handle) = HANDLE.get() {
        return Ok(handle);
    }
    let handle = install()?;
    Ok(HANDLE.get_or_init(|| handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_shows_what_was_counted_with_its_help() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            let source = SourceMetrics::new("nginx/access", "file");
            source.rows.increment(2);
            source.lost("truncated", 7);
            StoreMetrics::new("sqlite").acknowledged(1000, 5, 0.01);
        });
        let scrape = handle.render();
        for wanted in [
            "bitacora_source_rows_total{source=\"nginx/access\",kind=\"file\"} 2",
            "bitacora_source_lost_bytes_total{source=\"nginx/access\",cause=\"truncated\"} 7",
            "bitacora_store_rows_total{store=\"sqlite\",result=\"ok\"} 1000",
            "# HELP bitacora_source_rows_total Rows that are stored",
        ] {
            assert!(scrape.contains(wanted), "{wanted} is not in\n{scrape}");
        }
    }

    #[test]
    fn names_follow_the_conventions() {
        for metric in ALL {
            assert!(metric.name.starts_with("bitacora_"), "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{}",
                metric.name
            );
        }
    }
}
