//! How it goes: progress, metrics, and what `/ready`, `/live` and `status` say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clock::wall_ms;
use super::status::{SourceStatus, Status, StoreStatus};
use crate::ledger::{LossReceipt, Piece, Watermark};
use crate::metrics::{ProcessMetrics, SourceMetrics, StoreMetrics, as_f64};
use crate::spool::SpoolError;
use crate::state::StateError;
use crate::stores::StoreError;
use crate::telemetry::ids;
use crate::tracker::Committed;

/// A loop that has not moved for so long is stuck.
const STUCK_MS: i64 = 60_000;

#[derive(Debug)]
struct Source {
    metrics: SourceMetrics,
    status: SourceStatus,
}

#[derive(Debug)]
struct Inner {
    sources: BTreeMap<String, Source>,
    /// Sources that the configuration names or has named in this run; others come by the socket.
    files: BTreeSet<String>,
    /// Bytes that workers have accounted for, and those of them that are committed: the rest must
    /// be pending in the tracker.
    pieced_bytes: u64,
    settled_bytes: u64,
    store: StoreStatus,
    tables_ready: bool,
    stopping: bool,
    state_problem: Option<String>,
    spool_problem: Option<String>,
}

/// See the module. Shared by all tasks and threads.
pub struct Health {
    inner: Mutex<Inner>,
    process: ProcessMetrics,
    store: StoreMetrics,
    started_ms: i64,
    host: String,
    tail_ms: AtomicI64,
    track_ms: AtomicI64,
    before_scrape: Mutex<Vec<Refresh>>,
}

/// Brings metrics up to date.
pub type Refresh = Box<dyn Fn() + Send>;

impl Health {
    /// Of a run that begins now.
    #[must_use]
    pub fn new(host: String, store: &'static str, sources: &[String]) -> Self {
        let started_ms = wall_ms();
        let health = Self {
            inner: Mutex::new(Inner {
                sources: BTreeMap::new(),
                files: BTreeSet::new(),
                pieced_bytes: 0,
                settled_bytes: 0,
                store: StoreStatus { kind: store.to_owned(), up: true, ..StoreStatus::default() },
                tables_ready: false,
                stopping: false,
                state_problem: None,
                spool_problem: None,
            }),
            process: ProcessMetrics::new(as_f64(started_ms.unsigned_abs()) / 1000.0),
            store: StoreMetrics::new(store),
            started_ms,
            host,
            tail_ms: AtomicI64::new(started_ms),
            track_ms: AtomicI64::new(started_ms),
            before_scrape: Mutex::default(),
        };
        health.configure(sources);
        health.process.reload_ok.set(1.0);
        health
    }

    /// Has metrics brought up to date whenever somebody reads them: nobody wakes for it otherwise.
    pub fn before_scrape(&self, refresh: Refresh) {
        self.refreshes().push(refresh);
    }

    /// Somebody is about to read the metrics.
    pub fn scraped(&self) {
        for refresh in &*self.refreshes() {
            refresh();
        }
    }

    fn refreshes(&self) -> MutexGuard<'_, Vec<Refresh>> {
        self.before_scrape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn source(&self, name: &str, change: impl FnOnce(&mut Source)) {
        change(self.inner().source(name));
    }

    /// The sources are these.
    pub fn configure(&self, sources: &[String]) {
        let mut inner = self.inner();
        let Inner { sources: known, files, .. } = &mut *inner;
        known.retain(|name, _| sources.contains(name) || !files.contains(name));
        for name in sources {
            inner.files.insert(name.clone());
            inner.source(name);
        }
    }

    /// The metrics of the store, for delivery.
    #[must_use]
    pub fn store_metrics(&self) -> &StoreMetrics {
        &self.store
    }

    /// The spool cannot be written, or can be again.
    pub fn spool(&self, error: Option<&SpoolError>) {
        if let Some(error) = error {
            tracing::error!(
                message_id = ids::SPOOL_AWAY,
                "{error}; clients of the socket are held back, datagrams are dropped and counted"
            );
        } else {
            tracing::info!(message_id = ids::SPOOL_BACK, "the spool takes records again");
        }
        self.inner().spool_problem = error.map(ToString::to_string);
    }

    /// The tailer has made a step.
    pub fn stepped(&self) {
        self.tail_ms.store(wall_ms(), Ordering::Relaxed);
    }

    /// Bytes were handed to a worker.
    pub fn read(&self, source: &str, bytes: u64) {
        self.source(source, |source| {
            source.status.read_bytes += bytes;
            source.metrics.read_bytes.increment(bytes);
        });
    }

    /// A worker has accounted for bytes.
    pub fn pieced(&self, piece: &Piece, source: &str) {
        let mut inner = self.inner();
        inner.pieced_bytes += piece.end_bytes - piece.start_bytes;
        inner.source(source).metrics.read_lines.increment(piece.lines);
    }

    /// Rows were amended.
    pub fn amended(&self, rows: &BTreeMap<String, u64>) {
        for (name, rows) in rows {
            self.source(name, |source| source.metrics.amended_rows.increment(*rows));
        }
    }

    /// A span was committed.
    pub fn committed(&self, done: &Committed) {
        let mut inner = self.inner();
        inner.settled_bytes += done.bytes;
        let source = inner.source(&done.source);
        source.status.rows += done.rows;
        source.status.stored_bytes += done.bytes;
        source.metrics.rows.increment(done.rows);
        source.metrics.row_bytes.increment(done.bytes);
        source.metrics.unparsed_lines.increment(done.unparsed);
        for (reason, lines) in done.reasons.iter() {
            source.metrics.disposed(reason.name(), lines);
        }
    }

    /// What the tracker holds, by source. The sum must close: what workers accounted for is
    /// committed or pending.
    pub fn tracked(&self, pending: &BTreeMap<String, u64>) {
        self.track_ms.store(wall_ms(), Ordering::Relaxed);
        let mut inner = self.inner();
        let total: u64 = pending.values().sum();
        // only the sum is exact: a reload may move bytes between sources
        let missing = inner.pieced_bytes.abs_diff(inner.settled_bytes + total);
        for (name, source) in &mut inner.sources {
            let own = pending.get(name).copied().unwrap_or(0);
            let unsettled = source.status.read_bytes.saturating_sub(source.status.stored_bytes);
            source.status.pending_bytes = unsettled.max(own);
            source.metrics.pending_bytes.set(as_f64(source.status.pending_bytes));
            source.status.unaccounted_bytes = missing;
            source.metrics.unaccounted_bytes.set(as_f64(missing));
        }
    }

    /// What the tailer sees of a source's files.
    pub fn files(&self, name: &str, seen: FilesSeen) {
        self.source(name, |source| {
            source.status.files = seen.watched;
            source.status.open_files = seen.open;
            source.status.backlog_bytes = seen.backlog_bytes;
            source.status.waiting = seen.waiting;
            source.metrics.files_watched.set(as_f64(seen.watched));
            source.metrics.files_open.set(as_f64(seen.open));
            source.metrics.backlog_bytes.set(as_f64(seen.backlog_bytes));
            source.metrics.deleted_open_bytes.set(as_f64(seen.deleted_open_bytes));
        });
    }

    /// Something happened to a file of a source.
    pub fn file_event(&self, name: &str, op: &'static str) {
        self.source(name, |source| source.metrics.file_event(op));
    }

    /// How old the oldest byte is that is not stored.
    pub fn lag(&self, name: &str, lag_ms: i64) {
        self.source(name, |source| {
            source.status.lag_seconds = as_f64(lag_ms.max(0).unsigned_abs()) / 1000.0;
            source.metrics.lag_seconds.set(source.status.lag_seconds);
        });
    }

    /// Watermarks are in the store.
    pub fn watermarks(&self, marks: &[Watermark]) {
        for mark in marks {
            self.source(&mark.source, |source| {
                source.status.complete_until_ms = Some(mark.seen_ms);
                source.metrics.watermark.set(as_f64(mark.seen_ms.unsigned_abs()) / 1000.0);
            });
        }
    }

    /// Something is lost.
    pub fn lost(&self, receipt: &LossReceipt) {
        let bytes = receipt.end_bytes.map_or(0, |end| end.saturating_sub(receipt.start_bytes));
        tracing::error!(
            message_id = ids::LOST,
            source = receipt.source,
            path = %receipt.path.display(),
            cause = receipt.cause.name(),
            "{}",
            receipt.detail
        );
        self.source(&receipt.source, |source| {
            source.status.loss_receipts += 1;
            source.metrics.lost(receipt.cause.name(), bytes);
        });
    }

    /// How often kernel events could not be had, and how often their queue ran over.
    pub fn wake_faults(&self, faults: u64, overflows: u64) {
        self.process.wake_faults.absolute(faults);
        self.process.inotify_overflows.absolute(overflows);
    }

    /// Spans were written.
    pub fn spans_written(&self, spans: usize) {
        self.process.span_writes.increment(spans as u64);
        self.store_answers();
    }

    /// The store has answered well. Said once.
    pub fn store_answers(&self) {
        let mut inner = self.inner();
        if !inner.store.up {
            self.store.up.set(1.0);
            inner.store.up = true;
            inner.store.problem = None;
            tracing::info!(
                message_id = ids::STORE_BACK,
                store = inner.store.kind,
                "the store answers again"
            );
        }
    }

    /// The store has refused. Said once for each kind of refusal, counted always.
    pub fn store_refused(&self, error: &StoreError) {
        self.store.error(error.reason());
        self.store.up.set(0.0);
        let mut inner = self.inner();
        let problem = error.to_string();
        if inner.store.up
            || inner.store.problem.as_deref().map(first_words) != Some(first_words(&problem))
        {
            tracing::warn!(
                message_id = ids::STORE_AWAY,
                store = inner.store.kind,
                "{problem}; nothing is lost, reading waits"
            );
        }
        inner.store.up = false;
        self.store.trouble(problem.clone());
        inner.store.problem = Some(problem);
    }

    /// The tables are there, or why not.
    pub fn tables(&self, answer: Result<(), &StoreError>) {
        match answer {
            Ok(()) => {
                self.inner().tables_ready = true;
                self.store_answers();
            }
            Err(error) => {
                self.store_refused(error);
                self.inner().tables_ready = false;
            }
        }
    }

    /// `state.db` could not be written.
    pub fn state_refused(&self, error: &StateError) {
        let mut inner = self.inner();
        let problem = error.to_string();
        if inner.state_problem.as_ref() != Some(&problem) {
            tracing::error!(message_id = ids::STATE, "{problem}");
        }
        inner.state_problem = Some(problem);
    }

    /// A reload was tried.
    pub fn reloaded(&self, taken: bool) {
        self.process.reload_ok.set(if taken { 1.0 } else { 0.0 });
        self.process.reload_at.set(as_f64(wall_ms().unsigned_abs()) / 1000.0);
    }

    /// The stop has begun.
    pub fn stopping(&self) {
        self.inner().stopping = true;
    }

    /// Whether every loop moves.
    ///
    /// # Errors
    ///
    /// Which loop is stuck.
    pub fn live(&self) -> Result<String, String> {
        let now_ms = wall_ms();
        for (name, at) in [("the tailer", &self.tail_ms), ("the tracker", &self.track_ms)] {
            let age_ms = now_ms - at.load(Ordering::Relaxed);
            // the tracker waits for a store that is away, and says so
            if age_ms > STUCK_MS && self.inner().store.up {
                return Err(format!("{name} has not moved for {} s", age_ms / 1000));
            }
        }
        Ok("live".to_owned())
    }

    /// Whether the tables are there and it is not stopping. A store that is away for a while is
    /// waited for, and is no reason not to be ready.
    ///
    /// # Errors
    ///
    /// Why it is not ready.
    pub fn ready(&self) -> Result<String, String> {
        let inner = self.inner();
        if inner.stopping {
            return Err("stopping".to_owned());
        }
        if !inner.tables_ready {
            let problem = inner.store.problem.clone();
            return Err(problem.unwrap_or_else(|| "the store has not answered yet".to_owned()));
        }
        Ok("ready".to_owned())
    }

    /// What recovery and the tracker know of the store, and what delivery knows.
    fn store_status(&self, known: &StoreStatus) -> StoreStatus {
        let (up, problem) = self.store.state();
        StoreStatus {
            kind: known.kind.clone(),
            up: up && known.up,
            problem: known.problem.clone().or(problem),
            dead_letters: self.store.dead_letters(),
        }
    }

    /// One line for `systemctl status`: what is wrong, or how much is done.
    #[must_use]
    pub fn summary(&self) -> String {
        let status = self.status();
        if let Some(problem) = status.problem.or(status.store.problem) {
            return problem;
        }
        let sum = |of: fn(&SourceStatus) -> u64| status.sources.iter().map(of).sum::<u64>();
        let behind = sum(|source| source.backlog_bytes + source.pending_bytes);
        let lost = sum(|source| source.loss_receipts);
        let losses = if lost > 0 { format!(", {lost} losses") } else { String::new() };
        format!(
            "{} rows of {} sources into {}, {behind} bytes to go{losses}",
            sum(|source| source.rows),
            status.sources.len(),
            status.store.kind
        )
    }

    /// Everything, for `bitacora status`.
    #[must_use]
    pub fn status(&self) -> Status {
        let ready = self.ready();
        let inner = self.inner();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            host: self.host.clone(),
            started_ms: self.started_ms,
            ready: ready.is_ok(),
            problem: problem(&[
                ready.err(),
                inner.state_problem.clone(),
                inner.spool_problem.clone(),
            ]),
            store: self.store_status(&inner.store),
            sources: inner
                .sources
                .iter()
                .map(|(name, source)| SourceStatus {
                    source: name.clone(),
                    ..source.status.clone()
                })
                .collect(),
        }
    }
}

/// What the tailer sees of a source's files.
#[derive(Debug, Clone, Default)]
pub struct FilesSeen {
    /// Files that match.
    pub watched: u64,
    /// Files that are held open.
    pub open: u64,
    /// Bytes on disk and not read.
    pub backlog_bytes: u64,
    /// Bytes of deleted files that are held open.
    pub deleted_open_bytes: u64,
    /// Files that cannot be read, and why.
    pub waiting: Vec<String>,
}

impl Inner {
    /// A source is known from its first byte on, or from the configuration; rows of one that has
    /// left the configuration may still be on their way.
    fn source(&mut self, name: &str) -> &mut Source {
        let kind = if self.files.contains(name) { "file" } else { "socket" };
        let new =
            || Source { metrics: SourceMetrics::new(name, kind), status: SourceStatus::default() };
        self.sources.entry(name.to_owned()).or_insert_with(new)
    }
}

/// The part of a message that says what kind of trouble it is; drivers add addresses and times.
fn first_words(problem: &str) -> &str {
    problem.split(':').next().unwrap_or(problem)
}

/// All that is wrong, in one text.
fn problem(all: &[Option<String>]) -> Option<String> {
    let all: Vec<&str> = all.iter().flatten().map(String::as_str).collect();
    (!all.is_empty()).then(|| all.join("; "))
}
