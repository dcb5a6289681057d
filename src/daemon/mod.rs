//! The daemon: its tasks and threads, the order in which they start and stop.
//!
//! ```text
//! [tailer thread] --inputs--> [workers] --batches--> [deliver] --> store
//!        ^                        '--pieces--> [tracker] <--acks--'
//!        '----------- committed ends -------------'
//! [signals] [control] -> wishes        [http] metrics, live, ready
//! ```
//!
//! Only the tailer hears "stop"; everything else ends because its input ended. Past
//! `shutdown_timeout` the process ends all the same: what was not acknowledged is read again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

mod announce;
mod clock;
pub mod control;
pub mod cutback;
mod desks;
mod drain;
mod health;
mod http;
mod inbox;
mod keep;
mod pipeline;
pub mod recovery;
mod signals;
mod socket;
pub mod status;
mod systemd;
mod tail;
mod track;
mod watermarks;
mod work;

pub use clock::{wall_ms, wall_us};

use self::control::{Question, Request, error_line};
use self::health::Health;
use self::inbox::{Command, Inbox};
use self::keep::Keep;
use self::pipeline::Pipeline;
use self::signals::Wish;
use self::socket::Receiving;
use crate::config::{self, Config, FileSource};
use crate::state::{Stamps, State, StateError};
use crate::stores::{Store, StoreError, open};
use crate::telemetry::{self, ids};

/// Why the daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// `state.db`.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store is of a newer program.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tailer cannot read what it knows.
    #[error(transparent)]
    Tail(#[from] crate::sources::file::TailStateError),
    /// The http address.
    #[error(
        "cannot listen on {address} for /metrics ({source}); set daemon.http to a free address or to \"\""
    )]
    Http {
        /// The address.
        address: SocketAddr,
        /// The system's words.
        source: std::io::Error,
    },
    /// The control socket.
    #[error("cannot make the control socket {}: {source}", path.display())]
    Control {
        /// The socket.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The machine gives no thread, or no signal handler.
    #[error("the machine refuses a thread, a runtime or a signal handler: {0}")]
    Machine(#[from] std::io::Error),
    /// The socket.
    #[error(transparent)]
    Socket(#[from] crate::sources::socket::SocketError),
    /// The spool.
    #[error("the spool cannot be had: {0}")]
    Spool(#[from] crate::spool::SpoolError),
    /// The metrics recorder.
    #[error("metrics cannot be set up: {0}")]
    Metrics(String),
}

/// Reads the configuration again, for a reload; the error is for people.
pub type Reload = Box<dyn Fn() -> Result<Config, String> + Send>;

pub use health::Refresh;

/// Tokio's threads; workers and the tailer have their own.
const RUNTIME_THREADS: usize = 2;

/// Runs until SIGTERM or SIGINT; `refresh` brings metrics up to date that are not the daemon's own.
///
/// # Errors
///
/// It cannot start, or the store turned out to be of a newer program.
pub fn run(config: Config, reload: Reload, refresh: Refresh) -> Result<(), DaemonError> {
    let (wishes, heard) = mpsc::channel(8);
    // first: a signal that comes while the state is opened must not end the process
    signals::listen(move |wish| {
        // a full channel holds the same wish already
        let _ = wishes.try_send(wish);
    })?;
    let state = Arc::new(State::open(&config.daemon.state_dir, wall_ms())?);
    say_state(&state);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .max_blocking_threads(4)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(live(config, state, heard, reload, refresh));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

fn say_state(state: &State) {
    if let Some(recovered) = state.recovered() {
        tracing::error!(message_id = ids::STATE, "{recovered}");
    }
    if let Some(other) = state.cloned_from() {
        tracing::warn!(
            "the state is of machine {other}: this is a clone, and goes on under origins of its own"
        );
    }
}

async fn live(
    config: Config,
    state: Arc<State>,
    wishes: mpsc::Receiver<Wish>,
    reload: Reload,
    refresh: Refresh,
) -> Result<(), DaemonError> {
    let metrics =
        crate::metrics::handle().map_err(|error| DaemonError::Metrics(error.to_string()))?;
    let store = open::writer(&config.store)?;
    let names: Vec<String> = config.files.iter().map(|files| files.source.clone()).collect();
    let health = Arc::new(Health::new(config.daemon.host.clone(), store.name(), &names));
    health.before_scrape(refresh);
    let last = CancellationToken::new();
    if let Some(address) = config.daemon.http {
        let listener =
            http::bind(address).await.map_err(|source| DaemonError::Http { address, source })?;
        tokio::spawn(http::serve(listener, metrics.clone(), Arc::clone(&health), last.clone()));
    }
    let (questions, asked) = mpsc::channel(8);
    let control = config.daemon.control.clone();
    let listener = control::bind(&control)
        .map_err(|source| DaemonError::Control { path: control.clone(), source })?;
    let handed = systemd::handed();
    let receiving = Receiving::start(&config, &health, handed.sockets)?;
    let keep = Keep::new(handed.deleted);
    let tap = receiving.as_ref().map(Receiving::tap).cloned();
    tokio::spawn(control::serve(listener, questions, tap, last.clone()));
    let stamps = Arc::new(Stamps::new(Arc::clone(&state))?);
    let tail = Arc::new(Inbox::default());
    let daemon =
        Daemon { config, state, store, health, stamps, tail, receiving, keep, last, reload };
    let ended = daemon.run(wishes, asked).await;
    // the socket's absence tells `status` that nobody is there
    let _ = std::fs::remove_file(&control);
    ended
}

/// How long open records of each source wait; replaced by a reload.
type Waits = Arc<Mutex<HashMap<String, u64>>>;

fn waits_of(files: &[FileSource]) -> HashMap<String, u64> {
    let wait = |files: &FileSource| {
        let ms = u64::try_from(files.multiline_wait.as_millis()).unwrap_or(u64::MAX);
        (files.source.clone(), ms)
    };
    files.iter().map(wait).collect()
}

struct Daemon {
    config: Config,
    state: Arc<State>,
    store: Arc<dyn Store>,
    health: Arc<Health>,
    stamps: Arc<Stamps>,
    tail: Arc<Inbox>,
    receiving: Option<Receiving>,
    keep: Keep,
    /// Ends what ends last.
    last: CancellationToken,
    reload: Reload,
}

impl Daemon {
    async fn run(
        mut self,
        mut wishes: mpsc::Receiver<Wish>,
        mut asked: mpsc::Receiver<Question>,
    ) -> Result<(), DaemonError> {
        systemd::ready("waiting for the store");
        let stop = CancellationToken::new();
        let waits: Waits = Arc::new(Mutex::new(waits_of(&self.config.files)));
        let mut pipeline = None;
        let mut alive = tokio::time::interval(systemd::beat());
        let recovery = recovery::Recovery {
            store: Arc::clone(&self.store),
            state: Arc::clone(&self.state),
            stamps: Arc::clone(&self.stamps),
            health: Arc::clone(&self.health),
            stop: stop.clone(),
        };
        let recovering = tokio::spawn(recovery.run());
        tokio::pin!(recovering);
        let mut recovered = false;
        let mut said = String::new();
        let ended = loop {
            tokio::select! {
                done = &mut recovering, if !recovered => {
                    recovered = true;
                    match done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
                        Ok(true) => pipeline = Some(self.start(&waits)?),
                        Ok(false) => break Ok(()),
                        Err(error) => break Err(error.into()),
                    }
                }
                failed = failure_of(&mut pipeline) => break Err(failed.into()),
                wish = wishes.recv() => match wish {
                    Some(Wish::Reload) => {
                        if let Err(error) = self.take_over(&waits) {
                            tracing::error!(message_id = ids::REFUSED, "the reload is refused, the old configuration goes on:\n{error}");
                        }
                    }
                    Some(Wish::Stop) | None => break Ok(()),
                },
                question = asked.recv() => {
                    if let Some((request, answer)) = question {
                        // an asker that has gone needs no answer
                        let _ = answer.send(self.answer(request, &waits));
                    }
                }
                _ = alive.tick() => self.beat(&mut said),
            }
        };
        self.stop(&stop, pipeline).await;
        ended
    }

    fn start(&mut self, waits: &Waits) -> Result<Pipeline, DaemonError> {
        let keep = std::mem::take(&mut self.keep);
        let parts = pipeline::Parts {
            config: &self.config,
            state: &self.state,
            store: &self.store,
            health: &self.health,
            stamps: &self.stamps,
            tail: &self.tail,
            waits,
            receiving: self.receiving.as_ref(),
        };
        let pipeline = Pipeline::start(&parts, keep)?;
        let sources = self.config.files.len();
        tracing::info!(
            message_id = ids::STARTED,
            sources,
            store = self.store.name(),
            "reading begins"
        );
        Ok(pipeline)
    }

    fn beat(&self, said: &mut String) {
        let summary = self.health.summary();
        if *said != summary {
            systemd::status(&summary);
            *said = summary;
        }
        for one in telemetry::left_out() {
            tracing::warn!("{} further messages of {} were left out", one.messages, one.place);
        }
        if self.health.live().is_ok() {
            systemd::alive();
        }
    }

    fn answer(&mut self, request: Request, waits: &Waits) -> String {
        match request {
            Request::Status => serde_json::to_string(&self.health.status())
                .unwrap_or_else(|error| error_line(&error.to_string())),
            Request::Forget => {
                let (store, state) = (Arc::clone(&self.store), Arc::clone(&self.state));
                let tail = Arc::clone(&self.tail);
                tokio::spawn(async move {
                    match recovery::ended(&*store, &state).await {
                        Ok(ended) => tail.tell(Command::Forget(ended)),
                        Err(error) => {
                            tracing::warn!(%error, "ended origins are forgotten at the next start");
                        }
                    }
                });
                serde_json::json!({ "forgetting": true }).to_string()
            }
            Request::Tap => error_line("a tap is no question"),
            Request::Reload => match self.take_over(waits) {
                Ok(notes) => serde_json::json!({ "reloaded": true, "notes": notes }).to_string(),
                Err(error) => error_line(&error),
            },
        }
    }

    /// Takes a changed configuration over; answers what a restart is needed for.
    fn take_over(&mut self, waits: &Waits) -> Result<Vec<String>, String> {
        systemd::reloading();
        let loaded = (self.reload)();
        self.health.reloaded(loaded.is_ok());
        systemd::ready(&self.health.summary());
        let new = loaded?;
        let mut notes = Vec::new();
        if new.store != self.config.store {
            notes.push("[store] has changed: restart bitacora for it".to_owned());
        }
        if new.socket != self.config.socket {
            notes.push("[socket] has changed: restart bitacora for it".to_owned());
        }
        let log = self.config.daemon.log.clone();
        if (config::Daemon { log, ..new.daemon.clone() }) != self.config.daemon {
            notes.push("[daemon] has changed: restart bitacora for it".to_owned());
        }
        for note in &notes {
            tracing::warn!("{note}");
        }
        let names: Vec<String> = new.files.iter().map(|files| files.source.clone()).collect();
        self.health.configure(&names);
        *waits.lock().unwrap_or_else(PoisonError::into_inner) = waits_of(&new.files);
        telemetry::set_level(&new.daemon.log);
        self.config.daemon.log = new.daemon.log;
        self.config.files = new.files;
        self.tail.tell(Command::Reload(self.config.files.clone()));
        tracing::info!(
            message_id = ids::RELOADED,
            sources = names.len(),
            "the configuration was read again"
        );
        Ok(notes)
    }

    /// See the module: the tailer stops, and everything after it ends by itself.
    async fn stop(mut self, stop: &CancellationToken, pipeline: Option<Pipeline>) {
        tracing::info!("stopping");
        systemd::stopping();
        self.health.stopping();
        stop.cancel();
        if let Some(receiving) = self.receiving.take() {
            receiving.end().await;
        }
        if let Some(pipeline) = pipeline {
            self.tail.tell(Command::Stop);
            pipeline.end(self.config.daemon.shutdown_timeout).await;
        }
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the store did not close well");
        }
        if let Err(error) = self.stamps.release() {
            tracing::debug!(%error, "stamps were not given back");
        }
        self.last.cancel();
        tracing::info!(message_id = ids::STOPPED, "stopped");
    }
}

/// Waits for the delivery to fail; for ever, while there is none.
async fn failure_of(pipeline: &mut Option<Pipeline>) -> StoreError {
    match pipeline {
        Some(pipeline) => pipeline.failure().await,
        None => std::future::pending().await,
    }
}
