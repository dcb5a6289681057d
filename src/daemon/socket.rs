//! The socket of a running daemon: sessions and spool from the start on, whether or not the store
//! answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::announce::Announcement;
use super::clock::wall_ms;
use super::desks::Desks;
use super::drain::Draining;
use super::health::Health;
use super::inbox::Inbox;
use super::track::Track;
use super::work::Desk;
use super::{DaemonError, drain};
use crate::config;
use crate::durable;
use crate::ledger::random_id;
use crate::metrics::SocketMetrics;
use crate::sources::drain::{Drain, DrainConfig};
use crate::sources::socket::{Counts, Handed, Limits, Listening, Places, Shared, Tap};
use crate::spool::{Spool, SpoolConfig, SpoolError, Usage};
use crate::state::State;

/// A segment of the spool is followed by another when it holds so much.
const SEGMENT_BYTES: u64 = 64 << 20;
/// The directory of the spool.
#[must_use]
pub fn spool_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("spool")
}

/// What runs from the start on.
pub struct Receiving {
    dir: PathBuf,
    usage: Arc<Usage>,
    shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
    writer: JoinHandle<()>,
    stop: CancellationToken,
    /// How the drain is reached.
    pub drain: Arc<Inbox>,
}

impl Receiving {
    /// Opens the spool and the sockets; `None` if both sockets are switched off and the spool is
    /// not there.
    ///
    /// # Errors
    ///
    /// A socket or the spool cannot be had.
    pub fn start(
        config: &config::Config,
        health: &Arc<Health>,
        handed: Handed,
    ) -> Result<Option<Self>, DaemonError> {
        let dir = spool_dir(&config.daemon.state_dir);
        let socket = &config.socket;
        if socket.stream.is_none() && socket.dgram.is_none() && !dir.exists() {
            return Ok(None);
        }
        durable::create_dir(&dir)
            .map_err(|source| SpoolError::Io { path: dir.clone(), detail: source.to_string() })?;
        let stop = CancellationToken::new();
        let drain = Arc::new(Inbox::default());
        let metrics = SocketMetrics::new();
        metrics.spool_limit_bytes.set(crate::metrics::as_f64(socket.spool_max_bytes));
        let (wakes, closes) = (Arc::clone(&drain), Arc::clone(&drain));
        let (syncs, troubles) = (metrics.fsync_seconds.clone(), Arc::clone(health));
        let (spool, writer) = Spool::start(SpoolConfig {
            dir: dir.clone(),
            limit_bytes: socket.spool_max_bytes,
            segment_bytes: SEGMENT_BYTES,
            new_origin: Box::new(random_id),
            now_ms: wall_ms,
            committed: Box::new(move |took| {
                syncs.record(took.as_secs_f64());
                wakes.wake();
            }),
            troubled: Box::new(move |error| {
                troubles.spool(error);
                closes.wake(); // a full segment was closed, and can be deleted once it is drained
            }),
            stop: stop.clone(),
        })?;
        let usage = Arc::clone(spool.usage());
        let shared = Shared::new(spool, Limits::default(), wall_ms);
        let places = Places {
            stream: socket.stream.clone().unwrap_or_default(),
            dgram: socket.dgram.clone().unwrap_or_default(),
            group: socket.group.clone(),
            mode: socket.mode,
        };
        let listening = Listening::open(&places, handed)?;
        let serving = tokio::spawn(listening.serve(Arc::clone(&shared), stop.clone()));
        let (counts, held) = (Arc::clone(shared.counts()), Arc::clone(&usage));
        health.before_scrape(Box::new(move || tell(&metrics, &counts, &held)));
        Ok(Some(Self { dir, usage, shared, serving, writer, stop, drain }))
    }

    /// Where records can be had as they come.
    #[must_use]
    pub fn tap(&self) -> &Tap {
        self.shared.tap()
    }

    /// Starts to drain the spool.
    ///
    /// # Errors
    ///
    /// The state cannot be read, or the machine refuses a thread.
    pub fn drain(
        &self,
        state: &Arc<State>,
        host: &str,
        desks: Vec<Desk>,
        announcements: mpsc::Sender<Announcement>,
        track: mpsc::Sender<Track>,
        health: &Arc<Health>,
    ) -> Result<JoinHandle<()>, DaemonError> {
        let config = DrainConfig {
            dir: self.dir.clone(),
            machine: state.machine().to_owned(),
            host: host.to_owned(),
        };
        let state: Arc<State> = Arc::clone(state);
        let drain = Drain::new(config, state, Arc::clone(&self.usage))?;
        let health = Arc::clone(health);
        let desks = Desks::new(desks, Arc::clone(&health));
        let draining = Draining { drain, desks, announcements, track, health };
        Ok(drain::start(draining, Arc::clone(&self.drain))?)
    }

    /// Ends sessions and spool: what was acknowledged is synced.
    pub async fn end(self) {
        let Self { shared, serving, writer, stop, .. } = self;
        stop.cancel();
        if let Err(error) = serving.await {
            tracing::error!(%error, "the sockets ended badly");
        }
        drop(shared);
        let ended = tokio::task::spawn_blocking(move || writer.join().is_ok());
        if !matches!(ended.await, Ok(true)) {
            tracing::error!("the spool's thread ended badly; what it acknowledged is on disk");
        }
    }
}

fn tell(metrics: &SocketMetrics, counts: &Counts, usage: &Usage) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    metrics.connections.set(crate::metrics::as_f64(read(&counts.connections)));
    metrics.stored.absolute(read(&counts.stored));
    metrics.repeated.absolute(read(&counts.repeated));
    metrics.invalid.absolute(read(&counts.invalid));
    metrics.refused.absolute(read(&counts.refused));
    metrics.turned_away.absolute(read(&counts.turned_away));
    metrics.spool_bytes.set(crate::metrics::as_f64(usage.bytes()));
}
