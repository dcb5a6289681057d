//! How a client is made, and what the application holds of it.

use std::env;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::layer::Layer;

/// Where the daemon's stream socket is, if nobody says otherwise.
pub const DEFAULT_PATH: &str = "/run/bitacora/log.sock";

/// What an event does when the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// The oldest record is given up and counted; the event does not wait.
    #[default]
    DropOldest,
    /// The event waits, and so does the application; nothing is given up.
    Block,
}

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) path: PathBuf,
    pub(crate) source: Option<String>,
    pub(crate) when_full: WhenFull,
    pub(crate) queue_records: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) batch_records: usize,
    pub(crate) window_records: usize,
    pub(crate) window_bytes: usize,
    pub(crate) linger: Duration,
    pub(crate) backoff_first: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) exit_timeout: Duration,
}

/// Options of a [`Layer`]. A number of 0 counts as 1.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder {
    pub(crate) options: Options,
}

impl Default for Builder {
    fn default() -> Self {
        let named = env::var_os("BITACORA_SOCKET").filter(|path| !path.is_empty());
        let options = Options {
            path: named.unwrap_or_else(|| DEFAULT_PATH.into()).into(),
            source: None,
            when_full: WhenFull::DropOldest,
            queue_records: 10_000,
            queue_bytes: 64 << 20,
            batch_records: 100,
            window_records: 1_000,
            window_bytes: 4 << 20,
            linger: Duration::from_millis(10),
            backoff_first: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            exit_timeout: Duration::from_secs(2),
        };
        Self { options }
    }
}

impl Builder {
    /// The daemon's stream socket. By default the environment's `BITACORA_SOCKET`, else
    /// [`DEFAULT_PATH`].
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.path = path.into();
        self
    }

    /// What the rows' column `source` says; the daemon's word without it is `app`.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.options.source = Some(source.into());
        self
    }

    /// What an event does when the queue is full; by default the oldest record is dropped.
    pub fn when_full(mut self, policy: WhenFull) -> Self {
        self.options.when_full = policy;
        self
    }

    /// How many records may wait in memory; 10,000 by default.
    pub fn queue_records(mut self, records: usize) -> Self {
        self.options.queue_records = records.max(1);
        self
    }

    /// How much memory waiting records may take, about; 64 MiB by default.
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.options.queue_bytes = bytes.max(1);
        self
    }

    /// How many records go out in one write; 100 by default.
    pub fn batch_records(mut self, records: usize) -> Self {
        self.options.batch_records = records.max(1);
        self
    }

    /// How many records may be sent and not yet acknowledged; 1,000 by default.
    pub fn window_records(mut self, records: usize) -> Self {
        self.options.window_records = records.max(1);
        self
    }

    /// How many bytes may be sent and not yet acknowledged; 4 MiB by default.
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.options.window_bytes = bytes.max(1);
        self
    }

    /// How long the first record of a batch waits for company; 10 ms by default.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.options.linger = linger;
        self
    }

    /// The first and the longest wait between attempts to connect, 50 ms and 5 s by default. The
    /// wait doubles each time, and is shortened by up to a half at random.
    pub fn backoff(mut self, first: Duration, max: Duration) -> Self {
        self.options.backoff_first = first.max(Duration::from_millis(1));
        self.options.backoff_max = max.max(self.options.backoff_first);
        self
    }

    /// How long the end of the [`Guard`] waits for receipts; 2 s by default.
    pub fn exit_timeout(mut self, timeout: Duration) -> Self {
        self.options.exit_timeout = timeout;
        self
    }

    /// Makes the layer, and the guard that ends it. Nothing is connected before the first event.
    #[must_use = "without its guard the layer takes no events"]
    pub fn build(self) -> (Layer, Guard) {
        let client = Arc::new(Client::new(self.options));
        (Layer::new(Arc::clone(&client)), Guard { client })
    }
}

/// What a client has done since the process began, or was forked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Records that wait in memory.
    pub queued: usize,
    /// Records that were sent and have no receipt yet.
    pub in_flight: usize,
    /// Records that were written to the socket; sending one again does not count.
    pub sent: u64,
    /// Records that the daemon has on its disk.
    pub acked: u64,
    /// Records that were given up because the queue was full, or the guard was dropped.
    pub dropped: u64,
    /// Connections after the first.
    pub reconnects: u64,
    /// Values that could not be formatted, and records that the daemon did not understand.
    pub errors: u64,
    /// The last fault of a record or of the connection; empty if there was none.
    pub last_error: String,
}

/// Ends the client of a [`Layer`] when it is dropped: keep it to the end of `main`.
///
/// Dropping it waits for receipts, for `exit_timeout` at most, and says on stderr, in one line, how
/// many records are lost, if any. What is logged afterwards counts as dropped.
#[derive(Debug)]
#[must_use = "dropped at once, it ends the client: bind it to a name"]
pub struct Guard {
    client: Arc<Client>,
}

impl Guard {
    /// Waits until what was logged so far is on the daemon's disk; false if it took too long.
    /// Records that were dropped count as done: [`Guard::stats`] has their number.
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        self.client.flush(timeout)
    }

    /// Counters since the process began, or was forked.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.client.stats()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let options = self.client.options();
        let lost = self.client.close(options.exit_timeout);
        let Stats { dropped, last_error, .. } = self.client.stats();
        if lost == 0 && dropped == 0 {
            return;
        }
        let path = options.path.display();
        let cause = if last_error.is_empty() { "" } else { "; last error: " };
        // Where there is no stderr, there is nobody to tell; `eprintln!` would panic.
        let _ = writeln!(
            io::stderr(),
            "bitacora-tracing: {} records lost ({lost} without a receipt from {path}, \
             {dropped} dropped as the queue was full){cause}{last_error}",
            lost + dropped
        );
    }
}
