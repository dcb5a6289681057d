//! The tailer's thread: steps it, hands its inputs to the workers, and tells it what it must know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::announce::Announcement;
use super::clock::wall_ms;
use super::cutback::CutBack;
use super::desks::Desks;
use super::health::{FilesSeen, Health};
use super::inbox::{Command, Inbox};
use super::keep::Keep;
use super::track::{Looker, Seen, SeenSource, Track};
use crate::sources::file::wake::Wake;
use crate::sources::file::{FileEvent, Now, Tailer, Weight};

/// How often the tailer's view goes to metrics and watermarks.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The same while nothing happens.
const LOOK_EVERY_QUIET: Duration = Duration::from_secs(5);
/// A tailer that may sleep so long has nothing to do.
const QUIET_WAIT_MS: u64 = 1000;
/// Shortest sleep while the workers are busy: they wake the tailer when there is room.
const FULL_WAIT: Duration = Duration::from_millis(20);

/// What the thread works with.
pub struct Tailing {
    /// The tailer.
    pub tailer: Tailer,
    /// The workers.
    pub desks: Desks,
    /// Origins for the store.
    pub announcements: mpsc::Sender<Announcement>,
    /// Files that were cut back.
    pub cut_backs: mpsc::Sender<CutBack>,
    /// To the tracker.
    pub track: mpsc::Sender<Track>,
    /// Who is told of everything.
    pub health: Arc<Health>,
    /// Kernel events.
    pub wake: Wake,
    /// Deleted files.
    pub keep: Keep,
}

/// Starts the thread; it ends on [`Command::Stop`].
///
/// # Errors
///
/// The thread cannot be started.
pub fn start(tailing: Tailing, inbox: Arc<Inbox>) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("tailer".to_owned()).spawn(move || {
        inbox.begin();
        Shift { tailing, inbox, began: Instant::now(), looked: None }.run();
    })
}

struct Shift {
    tailing: Tailing,
    inbox: Arc<Inbox>,
    began: Instant,
    looked: Option<Instant>,
}

impl Shift {
    fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { mono_ms, wall_ms: wall_ms() }
    }

    fn run(mut self) {
        let mut events = Vec::new();
        loop {
            if self.obey() {
                return;
            }
            let room = self.tailing.desks.room();
            if self.tailing.wake.take() {
                self.tailing.tailer.hint();
            }
            let pace = self.tailing.tailer.step(self.now(), room, &mut events);
            self.tailing.health.stepped();
            for event in std::mem::take(&mut events) {
                if !self.dispatch(event) {
                    return;
                }
            }
            self.look(pace.wait_ms >= QUIET_WAIT_MS);
            let wait = Duration::from_millis(pace.wait_ms);
            if wait.is_zero() && room == 0 {
                thread::park_timeout(FULL_WAIT);
            } else if !wait.is_zero() {
                thread::park_timeout(wait);
            }
        }
    }

    /// Does what it is told; answers whether it is to stop.
    fn obey(&mut self) -> bool {
        for command in self.inbox.take() {
            match command {
                Command::Announced(origin) => self.tailing.tailer.announced(origin),
                Command::Committed { ends, saved } => {
                    self.tailing.tailer.committed(&ends, saved);
                }
                Command::CutBack(origin, at) => self.tailing.tailer.cut_back(origin, at),
                Command::Forget(ended) => self.tailing.tailer.forget_origins(&ended),
                Command::Reload(sources) => {
                    if let Err(error) = self.tailing.tailer.reload(&sources) {
                        tracing::error!("{error}; the sources are as they were");
                    }
                    self.watch();
                }
                Command::Stop => {
                    self.tailing.tailer.stop();
                    return true;
                }
            }
        }
        false
    }

    /// Watches what is followed; where that cannot be done, reading goes by timer alone.
    fn watch(&mut self) {
        let wake = &mut self.tailing.wake;
        wake.watch(&self.tailing.tailer.to_watch());
        if let Some(fault) = wake.fault() {
            tracing::warn!("{fault}; files are read by timer, nothing is lost");
        }
        self.tailing.tailer.set_events(wake.is_complete());
        self.tailing.health.wake_faults(wake.faults(), wake.overflows());
    }

    /// Hands an event on; `false` when a receiver has ended, which ends the tailer too.
    fn dispatch(&mut self, event: FileEvent) -> bool {
        match event {
            FileEvent::Input(input) => return self.tailing.desks.hand(input),
            FileEvent::Announce { record, contexts } => {
                let announcement = Announcement { record, contexts };
                return self.tailing.announcements.blocking_send(announcement).is_ok();
            }
            FileEvent::Receipt(receipt) => self.tailing.health.lost(&receipt),
            FileEvent::CutBack { origin, path, file, encoding, from, end, to, contexts } => {
                let request = CutBack { origin, path, file, encoding, from, end, to, contexts };
                return self.tailing.cut_backs.blocking_send(request).is_ok();
            }
            FileEvent::Happened { source, what } => {
                self.tailing.health.file_event(&source, what.name());
            }
            FileEvent::Said { weight, path, text } => match weight {
                Weight::Info => tracing::info!(path = %path.display(), "{text}"),
                Weight::Warning => tracing::warn!(path = %path.display(), "{text}"),
            },
        }
        true
    }

    /// Tells metrics and watermarks what is seen, now and then.
    fn look(&mut self, quiet: bool) {
        let every = if quiet { LOOK_EVERY_QUIET } else { LOOK_EVERY };
        if self.looked.is_some_and(|looked| looked.elapsed() < every) {
            return;
        }
        self.looked = Some(Instant::now());
        self.watch();
        self.tailing.keep.look(&self.tailing.tailer);
        let mut seen = Seen { looker: Looker::Files, at_ms: wall_ms(), sources: BTreeMap::new() };
        for sums in self.tailing.tailer.sums() {
            let entry: &mut SeenSource = seen.sources.entry(sums.source.clone()).or_default();
            entry.backlog_bytes += sums.backlog_bytes;
            entry.caught_up = self.tailing.tailer.caught_up(&sums.source);
            let waiting = self.tailing.tailer.waiting_files(&sums.source);
            let files = FilesSeen {
                watched: sums.files,
                open: sums.open,
                backlog_bytes: sums.backlog_bytes,
                deleted_open_bytes: sums.deleted_open_bytes,
                waiting,
            };
            self.tailing.health.files(&sums.source, files);
        }
        for (source, origin, end) in self.tailing.tailer.unsettled() {
            if let Some(source) = seen.sources.get_mut(&source) {
                source.ends.push((origin, end));
            }
        }
        // a tracker that is busy gets the next look
        let _ = self.tailing.track.try_send(Track::Seen(seen));
    }
}
