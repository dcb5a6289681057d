//! The socket: clients' records, received, put into envelopes and handed to the spool.
//!
//! ```text
//! listen -> a session for each connection: lines -> Load (by lane) -> spool -> receipt
//! ```
//!
//! A session never says that something is stored before the spool has synced it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::spool::{ClientKey, Spool};

mod listen;
mod load;
pub mod protocol;
mod session;
#[cfg(test)]
mod tests;

pub use listen::{Handed, Listening, SocketError};
pub use load::{Load, SOURCE, Sources, lane};

/// What clients may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one user.
    pub connections_of_user: usize,
    /// A line that has begun must end within this.
    pub line: Duration,
    /// A connection that says nothing for so long is closed.
    pub idle: Duration,
    /// So many connections read at once; the others wait their turn.
    pub readers: usize,
    /// Bytes of all lines that have begun and not ended; a connection that goes over is closed.
    pub begun_bytes: usize,
    /// A line that has begun may be so long whatever others hold.
    pub begun_bytes_free: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2000,
            connections_of_user: 1000,
            line: Duration::from_secs(30),
            idle: Duration::from_mins(15),
            readers: 64,
            begun_bytes: 16 << 20,
            begun_bytes_free: 4 << 10,
        }
    }
}

/// Where it listens; an empty path is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The stream socket.
    pub stream: PathBuf,
    /// The datagram socket.
    pub dgram: PathBuf,
    /// The group that may use them; empty for the daemon's own.
    pub group: String,
    /// Their mode.
    pub mode: u32,
}

/// What happened, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that are open.
    pub connections: AtomicU64,
    /// Records that are synced.
    pub stored: AtomicU64,
    /// Records that were stored before and came again.
    pub repeated: AtomicU64,
    /// Records that were not understood, or too long; they are stored all the same.
    pub invalid: AtomicU64,
    /// Datagrams that were dropped because the spool was full or slow.
    pub refused: AtomicU64,
    /// Connections that were closed because there were too many.
    pub turned_away: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// Copies of records, to whoever subscribes.
pub type Tap = tokio::sync::broadcast::Sender<Arc<[u8]>>;

/// What all sessions share.
pub struct Shared {
    spool: Spool,
    limits: Limits,
    sources: Sources,
    counts: Arc<Counts>,
    now_ms: fn() -> i64,
    /// Copies of records as they come, for `bitacora tap`.
    tap: Tap,
    /// Connections by user, and the clients that are connected.
    present: Mutex<Present>,
    /// Who reads holds one: a full spool holds few buffers, however many clients there are.
    readers: Semaphore,
    /// Bytes of lines that have begun.
    begun: AtomicUsize,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("counts", &self.counts).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Present {
    users: BTreeMap<Option<u32>, usize>,
    all: usize,
    clients: std::collections::BTreeSet<ClientKey>,
}

/// Taps that lag behind so many records miss some.
const TAPPED_MAX: usize = 1024;

impl Shared {
    /// For sessions that hand over to `spool`.
    #[must_use]
    pub fn new(spool: Spool, limits: Limits, now_ms: fn() -> i64) -> Arc<Self> {
        Arc::new(Self {
            spool,
            limits,
            sources: Sources::default(),
            counts: Arc::default(),
            now_ms,
            tap: Tap::new(TAPPED_MAX),
            present: Mutex::default(),
            readers: Semaphore::new(limits.readers),
            begun: AtomicUsize::new(0),
        })
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Where records can be had as they come.
    #[must_use]
    pub const fn tap(&self) -> &Tap {
        &self.tap
    }

    fn tapped(&self, text: &[u8]) {
        if self.tap.receiver_count() > 0 {
            // the last tap may have gone just now
            let _ = self.tap.send(text.into());
        }
    }

    fn enter(self: &Arc<Self>, uid: Option<u32>) -> Option<Seat> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = present.users.get(&uid).copied().unwrap_or(0);
        if present.all >= self.limits.connections || of_user >= self.limits.connections_of_user {
            Counts::add(&self.counts.turned_away, 1);
            return None;
        }
        present.users.insert(uid, of_user + 1);
        present.all += 1;
        Counts::add(&self.counts.connections, 1);
        Some(Seat { shared: Arc::clone(self), uid, client: None, begun: 0 })
    }
}

/// A connection's place among the others; given back when it is dropped.
struct Seat {
    shared: Arc<Shared>,
    uid: Option<u32>,
    client: Option<ClientKey>,
    /// Bytes of its line that has begun.
    begun: usize,
}

impl Seat {
    /// Its line that has begun is so long; `false` if there is no room for it.
    fn begun(&mut self, bytes: usize) -> bool {
        let all = &self.shared.begun;
        let before = std::mem::replace(&mut self.begun, bytes);
        let sum = if bytes >= before {
            all.fetch_add(bytes - before, Ordering::Relaxed) + (bytes - before)
        } else {
            all.fetch_sub(before - bytes, Ordering::Relaxed)
        };
        let limits = &self.shared.limits;
        bytes <= before.max(limits.begun_bytes_free) || sum <= limits.begun_bytes
    }

    /// Whether no other connection has this client.
    fn claim(&mut self, client: ClientKey) -> bool {
        let mut present = self.shared.present.lock().unwrap_or_else(PoisonError::into_inner);
        let free = present.clients.insert(client);
        if free {
            self.client = Some(client);
        }
        free
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.begun(0);
        let mut present = self.shared.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.all = present.all.saturating_sub(1);
        if let Some(count) = present.users.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                present.users.remove(&self.uid);
            }
        }
        if let Some(client) = self.client {
            present.clients.remove(&client);
        }
        self.shared.counts.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
