//! The socket of a running daemon: sessions and spool from the start on, whether or not the store
//! answers, and the thread that drains the spool once it does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::announce::Announcement;
use super::clock::wall_ms;
use super::health::Health;
use super::tail::{Command, TailHandle};
use super::track::{Looker, Seen, SeenSource, Track};
use super::work::{CHUNKS_WAITING_MAX, Desk};
use super::{DaemonError, tail};
use crate::config;
use crate::durable;
use crate::ledger::OriginId;
use crate::metrics::SocketMetrics;
use crate::sources::Input;
use crate::sources::drain::{Drain, DrainConfig, DrainEvent};
use crate::sources::file::random_id;
use crate::sources::socket::{Counts, Limits, Listening, Places, Shared, Tap};
use crate::spool::{Spool, SpoolConfig, SpoolError, Usage};
use crate::state::State;

/// A segment of the spool is followed by another when it holds so much.
const SEGMENT_BYTES: u64 = 64 << 20;
/// How often metrics are told.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How often watermarks are told what was seen.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long the drain sleeps when nothing wakes it, while clients have sent nothing in this run.
const IDLE_WAIT: Duration = Duration::from_secs(10);
/// The same once they have: their sources' watermarks move on.
const DRAIN_WAIT: Duration = Duration::from_secs(5);
/// The same after an error.
const ERROR_WAIT: Duration = Duration::from_secs(1);
/// The same while the workers are busy.
const BUSY_WAIT: Duration = Duration::from_millis(20);

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
    pub drain: Arc<TailHandle>,
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
    ) -> Result<Option<Self>, DaemonError> {
        let dir = spool_dir(&config.daemon.state_dir);
        let socket = &config.socket;
        if socket.stream.is_none() && socket.dgram.is_none() && !dir.exists() {
            return Ok(None);
        }
        durable::create_dir(&dir)
            .map_err(|source| SpoolError::Io { path: dir.clone(), detail: source.to_string() })?;
        let stop = CancellationToken::new();
        let drain = Arc::new(TailHandle::default());
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
        let listening = Listening::open(&places)?;
        let serving = tokio::spawn(listening.serve(Arc::clone(&shared), stop.clone()));
        tokio::spawn(tell(metrics, Arc::clone(shared.counts()), Arc::clone(&usage), stop.clone()));
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
        let (handle, health) = (Arc::clone(&self.drain), Arc::clone(health));
        let (sources, known) = (BTreeMap::new(), BTreeSet::new());
        let looked = None;
        let shift =
            Shift { drain, handle, desks, announcements, health, sources, track, looked, known };
        Ok(thread::Builder::new().name("drain".to_owned()).spawn(move || shift.run())?)
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

async fn tell(
    metrics: SocketMetrics,
    counts: Arc<Counts>,
    usage: Arc<Usage>,
    stop: CancellationToken,
) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    loop {
        metrics.connections.set(crate::metrics::as_f64(read(&counts.connections)));
        metrics.stored.absolute(read(&counts.stored));
        metrics.repeated.absolute(read(&counts.repeated));
        metrics.invalid.absolute(read(&counts.invalid));
        metrics.refused.absolute(read(&counts.refused));
        metrics.turned_away.absolute(read(&counts.turned_away));
        metrics.spool_bytes.set(crate::metrics::as_f64(usage.bytes()));
        tokio::select! {
            () = tokio::time::sleep(TELL_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The drain's thread.
struct Shift {
    drain: Drain,
    handle: Arc<TailHandle>,
    desks: Vec<Desk>,
    announcements: mpsc::Sender<Announcement>,
    health: Arc<Health>,
    /// Which source an origin belongs to, for the bytes that are handed out.
    sources: BTreeMap<OriginId, String>,
    track: mpsc::Sender<Track>,
    looked: Option<Instant>,
    /// The sources of this run.
    known: BTreeSet<String>,
}

impl Shift {
    fn run(mut self) {
        self.handle.begin();
        let mut events = Vec::new();
        let mut failed = false;
        loop {
            for command in self.handle.take() {
                match command {
                    Command::Announced(origin) => self.drain.announced(origin),
                    Command::Committed { ends, .. } => {
                        for (origin, end, _) in ends {
                            self.drain.committed(origin, end);
                        }
                    }
                    Command::Stop => return,
                    Command::CutBack(..) | Command::Reload(_) => {}
                }
            }
            let waiting = self.desks.iter().map(Desk::waiting).max().unwrap_or(0);
            let room = CHUNKS_WAITING_MAX.saturating_sub(waiting);
            let began_ms = wall_ms();
            let stepped = self.drain.step(room, began_ms, &mut events);
            for event in std::mem::take(&mut events) {
                if !self.dispatch(event) {
                    return;
                }
            }
            match stepped {
                Ok(more) => {
                    failed = false;
                    self.look(began_ms);
                    if room == 0 {
                        thread::park_timeout(BUSY_WAIT);
                    } else if !more {
                        let idle = self.known.is_empty();
                        thread::park_timeout(if idle { IDLE_WAIT } else { DRAIN_WAIT });
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!("{error}; what is in the spool stays there until then");
                    }
                    thread::park_timeout(ERROR_WAIT);
                }
            }
        }
    }

    /// Tells watermarks what is seen, now and then.
    fn look(&mut self, at_ms: i64) {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let mut seen = Seen { looker: Looker::Socket, at_ms, sources: BTreeMap::new() };
        self.known.extend(self.drain.handed().map(|(source, _, _)| source.to_owned()));
        let caught_up = self.drain.caught_up();
        for source in &self.known {
            let look = SeenSource { caught_up, ..SeenSource::default() };
            seen.sources.insert(source.clone(), look);
        }
        for (source, origin, end) in self.drain.handed() {
            if let Some(look) = seen.sources.get_mut(source) {
                look.ends.push((origin, end));
            }
        }
        // a tracker that is busy gets the next look
        let _ = self.track.try_send(Track::Seen(seen));
    }

    /// `false` when a receiver has ended, which ends the drain too.
    fn dispatch(&mut self, event: DrainEvent) -> bool {
        match event {
            DrainEvent::Announce(record, contexts) => {
                return self.announcements.blocking_send(Announcement { record, contexts }).is_ok();
            }
            DrainEvent::Input(input) => {
                match &input {
                    Input::Open(opening) => {
                        self.sources.insert(opening.origin, opening.context.source.clone());
                    }
                    Input::Chunk(chunk) => {
                        if let Some(source) = self.sources.get(&chunk.origin) {
                            self.health.read(source, chunk.bytes.len() as u64);
                        }
                    }
                    _ => {
                        self.sources.remove(&input.origin());
                    }
                }
                return tail::desk_of(&self.desks, input.origin())
                    .is_some_and(|desk| desk.hand(input));
            }
            DrainEvent::Receipt(receipt) => self.health.lost(&receipt),
            DrainEvent::SetAside(path, error) => {
                tracing::error!(path = %path.display(), "{error}; it is set aside, and what was in it and not yet stored is lost");
            }
        }
        true
    }
}
