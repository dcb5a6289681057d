//! The way of a line, wired: tailer, workers, delivery, tracker.

use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle as TaskHandle;
use tokio_util::sync::CancellationToken;

use super::announce::{ANNOUNCEMENTS_WAITING_MAX, Announcing};
use super::clock::{wall_ms, wall_us};
use super::desks::Desks;
use super::health::Health;
use super::inbox::Inbox;
use super::keep::Keep;
use super::socket::Receiving;
use super::tail::Tailing;
use super::track::{MESSAGES_WAITING_MAX, Tracking};
use super::work::{Desk, Outlets};
use super::{DaemonError, Waits, announce, cutback, tail, track, work};
use crate::batch::Spare;
use crate::config::Config;
use crate::sources::Buffers;
use crate::sources::file::wake::Wake;
use crate::sources::file::{Tailer, TailerConfig};
use crate::state::{Stamps, State};
use crate::stores::deliver::{self, Abandoned, Deliver};
use crate::stores::{Store, StoreError, open};
use crate::worker::{Fill, FillLimits, Numbers, Worker};

/// Full batches that wait for delivery.
const BATCHES_WAITING_MAX: usize = 8;
/// Acknowledgements that wait for the tracker: more than can be in flight.
const ACKS_WAITING_MAX: usize = 1024;
/// Bytes of all open batches of all workers.
const OPEN_BYTES_MAX: usize = 16 << 20;
/// Workers at most.
const WORKERS_MAX: usize = 4;

/// What a pipeline is made of.
pub struct Parts<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// `state.db`.
    pub state: &'a Arc<State>,
    /// The store.
    pub store: &'a Arc<dyn Store>,
    /// Who is told of everything.
    pub health: &'a Arc<Health>,
    /// Write timestamps.
    pub stamps: &'a Arc<Stamps>,
    /// How the tailer is reached.
    pub tail: &'a Arc<Inbox>,
    /// How long open records wait, by source.
    pub waits: &'a Waits,
    /// The spool to drain.
    pub receiving: Option<&'a Receiving>,
}

/// Everything that runs.
pub struct Pipeline {
    tailer: JoinHandle<()>,
    drain: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    deliver: TaskHandle<Result<Abandoned, StoreError>>,
    tracker: TaskHandle<()>,
    /// Ends announcements and the outbox, which wait for the store for ever.
    stop: CancellationToken,
    give_up: CancellationToken,
    delivered: bool,
}

impl Pipeline {
    /// Starts everything; the tailer last.
    ///
    /// # Errors
    ///
    /// The machine refuses a thread, or the state cannot be read.
    pub fn start(parts: &Parts<'_>, keep: Keep) -> Result<Self, DaemonError> {
        let stop = CancellationToken::new();
        let give_up = CancellationToken::new();
        let (batches, to_deliver) = mpsc::channel(BATCHES_WAITING_MAX);
        let (acks, acked) = mpsc::channel(ACKS_WAITING_MAX);
        let (track, messages) = mpsc::channel(MESSAGES_WAITING_MAX);
        let (announcements, announced) = mpsc::channel(ANNOUNCEMENTS_WAITING_MAX);
        let (cut_backs, cut_back) = mpsc::channel(16);
        let spare = Arc::new(Spare::default());
        let buffers = Arc::new(Buffers::default());

        let deliver = tokio::spawn(deliver::run(
            parts.deliver(Arc::clone(&spare)),
            to_deliver,
            acks,
            stop.clone(),
        ));
        let tracking = parts.tracking(give_up.clone());
        let lifetimes = open::lifetimes(&parts.config.store);
        let tracker = tokio::spawn(track::run(tracking, lifetimes, messages, acked));
        let announcing = parts.announcing(stop.clone());
        tokio::spawn(announce::run(announcing.clone(), announced));
        tokio::spawn(announce::post(announcing, Arc::clone(parts.state)));
        let health = Arc::clone(parts.health);
        let handle = Arc::clone(parts.tail);
        let store = Arc::clone(parts.store);
        tokio::spawn(cutback::run(cut_back, store, health, handle, stop.clone()));

        let (desks, workers) = parts.workers(&batches, &track, &spare, &buffers)?;
        drop(batches);
        let mut tailer_config = TailerConfig::new(
            parts.config.files.clone(),
            &parts.config.daemon.host,
            parts.state.machine(),
        );
        tailer_config.open_files_max = open_files_max();
        tailer_config.kept = keep.paths();
        let state = Arc::clone(parts.state);
        let tailer = Tailer::new(tailer_config, state, buffers)?;
        let wake = parts.wake();
        let drain = parts.drain(&desks, &announcements, &track)?;
        let tailing = Tailing {
            tailer,
            desks: Desks::new(desks, Arc::clone(parts.health)),
            announcements,
            cut_backs,
            track,
            health: Arc::clone(parts.health),
            wake,
            keep,
        };
        let tailer = tail::start(tailing, Arc::clone(parts.tail))?;
        Ok(Self { tailer, drain, workers, deliver, tracker, stop, give_up, delivered: false })
    }

    /// Waits for the delivery to fail.
    pub async fn failure(&mut self) -> StoreError {
        loop {
            if self.delivered {
                std::future::pending::<()>().await;
            }
            let ended = (&mut self.deliver).await;
            self.delivered = true;
            match ended {
                Ok(Err(error)) => return error,
                Ok(Ok(_)) => {}
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    /// Ends after the tailer was told to stop: everything drains, for `timeout` at most.
    pub async fn end(self, timeout: Duration) {
        let Self { tailer, drain, workers, deliver, tracker, stop, give_up, delivered } = self;
        stop.cancel();
        // delivery ends by itself after the timeout; the tracker then has the time it needs to
        // write what was acknowledged
        let late = give_up.clone();
        tokio::spawn(async move {
            tokio::time::sleep(timeout + timeout / 2).await;
            late.cancel();
        });
        let joined = tokio::task::spawn_blocking(move || {
            let mut panicked = tailer.join().is_err();
            for worker in drain.into_iter().chain(workers) {
                panicked |= worker.join().is_err();
            }
            panicked
        });
        if !delivered {
            match deliver.await {
                Ok(Ok(left)) if left.rows > 0 => {
                    tracing::warn!(
                        rows = left.rows,
                        "the store did not take these rows in time; they are read again"
                    );
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::error!("{error}"),
                Err(error) => tracing::error!(%error, "delivery ended badly"),
            }
        }
        if !matches!(joined.await, Ok(false)) {
            tracing::error!("a thread ended badly; what it had not stored is read again");
        }
        if let Err(error) = tracker.await {
            tracing::error!(%error, "the tracker ended badly; what it had not written is read again");
        }
        if give_up.is_cancelled() {
            tracing::warn!("the stop took too long; spans that were not written are read again");
        }
    }
}

impl Parts<'_> {
    fn drain(
        &self,
        desks: &[Desk],
        announcements: &mpsc::Sender<announce::Announcement>,
        track: &mpsc::Sender<track::Track>,
    ) -> Result<Option<JoinHandle<()>>, DaemonError> {
        let Some(receiving) = self.receiving else { return Ok(None) };
        self.tail.share(Arc::clone(&receiving.drain));
        let host = &self.config.daemon.host;
        let (announcements, track) = (announcements.clone(), track.clone());
        let desks = desks.to_vec();
        receiving.drain(self.state, host, desks, announcements, track, self.health).map(Some)
    }

    fn deliver(&self, spare: Arc<Spare>) -> Deliver {
        Deliver {
            store: Arc::clone(self.store),
            state: Arc::clone(self.state),
            stamps: Arc::clone(self.stamps),
            spare,
            metrics: self.health.store_metrics().clone(),
            now_ms: wall_ms,
            seed: u64::from(std::process::id()),
            shutdown_timeout: self.config.daemon.shutdown_timeout,
        }
    }

    fn tracking(&self, give_up: CancellationToken) -> Tracking {
        Tracking {
            store: Arc::clone(self.store),
            state: Arc::clone(self.state),
            stamps: Arc::clone(self.stamps),
            tail: Arc::clone(self.tail),
            health: Arc::clone(self.health),
            host: self.config.daemon.host.clone(),
            give_up,
        }
    }

    fn announcing(&self, stop: CancellationToken) -> Announcing {
        Announcing {
            store: Arc::clone(self.store),
            stamps: Arc::clone(self.stamps),
            tail: Arc::clone(self.tail),
            health: Arc::clone(self.health),
            stop,
        }
    }

    fn workers(
        &self,
        batches: &mpsc::Sender<crate::batch::Batch>,
        track: &mpsc::Sender<track::Track>,
        spare: &Arc<Spare>,
        buffers: &Arc<Buffers>,
    ) -> std::io::Result<(Vec<Desk>, Vec<JoinHandle<()>>)> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = cores.clamp(1, WORKERS_MAX);
        let mut desks = Vec::with_capacity(count);
        let mut handles = Vec::with_capacity(count);
        for index in 0..count {
            let numbers = Numbers::of_worker(index as u64, count as u64);
            let worker = Worker::new(self.fill(count), Arc::clone(buffers), numbers);
            let tail = Arc::clone(self.tail);
            let waits = Arc::clone(self.waits);
            let outlets = Outlets {
                batches: batches.clone(),
                track: track.clone(),
                spare: Arc::clone(spare),
                wake_sources: Box::new(move || tail.wake_all()),
                multiline_wait_ms: Arc::new(move |source| {
                    let waits = waits.lock().unwrap_or_else(PoisonError::into_inner);
                    waits.get(source).copied().unwrap_or(2000)
                }),
            };
            let (desk, handle) = work::start(index, worker, outlets)?;
            desks.push(desk);
            handles.push(handle);
        }
        Ok((desks, handles))
    }

    fn fill(&self, workers: usize) -> Fill {
        let limits = FillLimits {
            batch_rows: self.config.store.batch_rows,
            batch_age_ms: u64::try_from(self.config.store.batch_age.as_millis())
                .unwrap_or(u64::MAX),
            open_bytes: OPEN_BYTES_MAX / workers,
        };
        let store = Arc::clone(self.store);
        let stamps = Arc::clone(self.stamps);
        Fill::new(
            limits,
            self.config.daemon.host.as_str().into(),
            Box::new(move |table, source, day| store.layout(table, source, day)),
            Box::new(move |rows| stamps.take(rows, wall_us())),
        )
    }

    /// Kernel events, unless `BITACORA_EVENTS=off` says that reading goes by timer alone.
    fn wake(&self) -> Wake {
        if std::env::var_os("BITACORA_EVENTS").is_some_and(|value| value == "off") {
            return Wake::off();
        }
        let tail = Arc::clone(self.tail);
        Wake::on(&tokio::runtime::Handle::current(), Arc::new(move || tail.wake()))
    }
}

/// A quarter of what the process may open, and 1024 at most.
fn open_files_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(4096);
    (limit / 4).clamp(16, 1024)
}
