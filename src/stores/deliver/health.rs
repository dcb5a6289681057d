//! Whether the store takes batches: said once on the way down and once on the way up.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::metrics::StoreMetrics;
use crate::stores::StoreError;

/// A store that comes and goes is said at most this often.
const SAID_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Waiting batches are woken by a success after the store was silent for so long.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Health {
    store: &'static str,
    metrics: StoreMetrics,
    at: Mutex<At>,
    recovered: Notify,
}

#[derive(Debug)]
struct At {
    /// Batches that wait for another try.
    waiting: usize,
    down_since: Option<Instant>,
    /// Whether the way down was said.
    said: bool,
    /// When anything was said last.
    told: Option<Instant>,
    last_success: Option<Instant>,
}

impl Health {
    pub(super) fn new(store: &'static str, metrics: StoreMetrics) -> Self {
        metrics.up.set(1.0);
        let at = At { waiting: 0, down_since: None, said: false, told: None, last_success: None };
        Self { store, metrics, at: Mutex::new(at), recovered: Notify::new() }
    }

    /// A try failed, and its batch waits from here on ([`Health::waits_no_more`] when it was its
    /// first).
    pub(super) fn failed(&self, error: &StoreError, first: bool) {
        self.metrics.error(error.reason());
        self.metrics.trouble(error.to_string());
        let mut at = self.at();
        at.waiting += usize::from(first);
        if at.down_since.is_some() {
            return;
        }
        let now = Instant::now();
        at.down_since = Some(now);
        self.metrics.up.set(0.0);
        at.said = at.told.is_none_or(|told| now - told >= SAID_AGAIN_AFTER);
        if at.said {
            at.told = Some(now);
            let store = self.store;
            tracing::warn!(
                store,
                "{error}; waiting for it, reading stops until then, nothing is lost"
            );
        }
    }

    /// A batch that waited is dealt with.
    pub(super) fn waits_no_more(&self) {
        let mut at = self.at();
        at.waiting -= 1;
        if at.waiting > 0 {
            return;
        }
        let now = Instant::now();
        self.metrics.up.set(1.0);
        if let Some(since) = at.down_since.take().filter(|_| at.said) {
            at.told = Some(now);
            let (store, seconds) = (self.store, (now - since).as_secs());
            tracing::info!(store, "the store takes rows again after {seconds} s");
        }
    }

    /// A try succeeded: others need not wait any longer.
    pub(super) fn succeeded(&self) {
        let now = Instant::now();
        let mut at = self.at();
        let silent = at.last_success.is_none_or(|last| now - last >= SILENT_AFTER);
        at.last_success = Some(now);
        if silent && at.waiting > 0 {
            self.recovered.notify_waiters();
        }
    }

    /// Waits, but not longer than until the store works again.
    pub(super) async fn wait(&self, longest: Duration) {
        // its elapsing is the usual end
        drop(timeout(longest, self.recovered.notified()).await);
    }

    fn at(&self) -> std::sync::MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
