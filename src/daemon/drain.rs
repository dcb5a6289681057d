//! The drain's thread: steps it, hands its inputs to the workers, and tells it what the store has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::announce::Announcement;
use super::clock::wall_ms;
use super::desks::Desks;
use super::health::Health;
use super::inbox::{Command, Inbox};
use super::track::{Looker, Seen, SeenSource, Track};
use crate::sources::drain::{Drain, DrainEvent};

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

/// What the thread works with.
pub struct Draining {
    /// The drain.
    pub drain: Drain,
    /// The workers.
    pub desks: Desks,
    /// Origins for the store.
    pub announcements: mpsc::Sender<Announcement>,
    /// To the tracker.
    pub track: mpsc::Sender<Track>,
    /// Who is told of everything.
    pub health: Arc<Health>,
}

/// Starts the thread; it ends on [`Command::Stop`].
///
/// # Errors
///
/// The thread cannot be started.
pub fn start(draining: Draining, inbox: Arc<Inbox>) -> std::io::Result<JoinHandle<()>> {
    let shift = Shift { draining, inbox, looked: None, known: BTreeSet::new() };
    thread::Builder::new().name("drain".to_owned()).spawn(move || shift.run())
}

struct Shift {
    draining: Draining,
    inbox: Arc<Inbox>,
    looked: Option<Instant>,
    /// The sources of this run.
    known: BTreeSet<String>,
}

impl Shift {
    fn run(mut self) {
        self.inbox.begin();
        let mut events = Vec::new();
        let mut failed = false;
        loop {
            for command in self.inbox.take() {
                match command {
                    Command::Announced(origin) => self.draining.drain.announced(origin),
                    Command::Committed { ends, .. } => {
                        for (origin, end, _) in ends {
                            self.draining.drain.committed(origin, end);
                        }
                    }
                    Command::Forget(ended) => self.draining.drain.forget_origins(&ended),
                    Command::Stop => return,
                    Command::CutBack(..) | Command::Reload(_) => {}
                }
            }
            let room = self.draining.desks.room();
            let began_ms = wall_ms();
            let stepped = self.draining.drain.step(room, began_ms, &mut events);
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
        self.known.extend(self.draining.drain.handed().map(|(source, _, _)| source.to_owned()));
        let caught_up = self.draining.drain.caught_up();
        for source in &self.known {
            let look = SeenSource { caught_up, ..SeenSource::default() };
            seen.sources.insert(source.clone(), look);
        }
        for (source, origin, end) in self.draining.drain.handed() {
            if let Some(look) = seen.sources.get_mut(source) {
                look.ends.push((origin, end));
            }
        }
        // a tracker that is busy gets the next look
        let _ = self.draining.track.try_send(Track::Seen(seen));
    }

    /// `false` when a receiver has ended, which ends the drain too.
    fn dispatch(&mut self, event: DrainEvent) -> bool {
        match event {
            DrainEvent::Announce(record, contexts) => {
                return self
                    .draining
                    .announcements
                    .blocking_send(Announcement { record, contexts })
                    .is_ok();
            }
            DrainEvent::Input(input) => return self.draining.desks.hand(input),
            DrainEvent::Receipt(receipt) => self.draining.health.lost(&receipt),
            DrainEvent::SetAside(path, error) => {
                tracing::error!(path = %path.display(), "{error}; it is set aside, and what was in it and not yet stored is lost");
            }
        }
        true
    }
}
