//! The tracker's task: pieces and acknowledgements in; spans to the store, then to `state.db`,
//! then the committed ends to the tailer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::announce::{FIRST_WAIT, MAX_WAIT};
use super::clock::{wall_ms, wall_us};
use super::health::Health;
use super::inbox::{Command, Inbox};
use crate::backoff::Backoff;
use crate::config::Lifetimes;
use crate::key::Table;
use crate::ledger::{Ack, OriginId, Piece, Span};
use crate::sources::Input;
use crate::state::{Stamps, State};
use crate::stores::Store;
use crate::tracker::{Committed, Leave, Tracker};

/// Messages that wait for the tracker at most: more than can be in flight, so that an
/// acknowledgement never waits behind what it would free.
pub const MESSAGES_WAITING_MAX: usize = 1024;
/// With so many origins whose span waits, nothing new is taken: what is known of each needs
/// memory, and only so many spans are written in a second.
const READY_MAX: usize = 1000;
/// How often spans are looked at while no message comes.
const TICK: Duration = Duration::from_millis(100);
/// The same while no span waits: often enough for watermarks.
const IDLE_TICK: Duration = Duration::from_secs(5);

/// What the tracker is told, in this order for each origin.
#[derive(Debug)]
pub enum Track {
    /// An origin is read from here on.
    Open {
        /// Which.
        origin: OriginId,
        /// From where.
        at: u64,
        /// Table of its rows.
        table: Table,
        /// Source of its rows.
        source: String,
    },
    /// Other rules from here on.
    Context {
        /// Of which origin.
        origin: OriginId,
        /// From where.
        from_bytes: u64,
        /// Table of its rows.
        table: Table,
        /// Source of its rows.
        source: String,
    },
    /// A worker's accounts, and rows that were amended, by source.
    Pieces {
        /// In order for each origin.
        pieces: Vec<Piece>,
        /// Rows by source.
        amended: BTreeMap<String, u64>,
    },
    /// No more comes of this origin, or not for a while.
    Leave(OriginId, Leave),
    /// The tailer has handed out all that it saw at this time; ends by origin of each source that
    /// are not known to be committed.
    Seen(Seen),
}

/// Whose look it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Looker {
    /// The tailer.
    Files,
    /// The drain of the spool.
    Socket,
}

/// See [`Track::Seen`].
#[derive(Debug, Clone)]
pub struct Seen {
    /// Whose look it is.
    pub looker: Looker,
    /// Wall clock.
    pub at_ms: i64,
    /// By source: whether everything that was seen has been handed out, the ends of origins that
    /// are not committed, and the bytes that are left on disk.
    pub sources: BTreeMap<String, SeenSource>,
}

/// What was seen of one source.
#[derive(Debug, Clone, Default)]
pub struct SeenSource {
    /// Nothing is left to be read.
    pub caught_up: bool,
    /// Ends that were handed out and are not committed.
    pub ends: Vec<(OriginId, u64)>,
    /// Bytes that are left to be read.
    pub backlog_bytes: u64,
}

impl Track {
    /// What the tracker must hear before a worker works on an input.
    pub fn before(input: &Input) -> Option<Self> {
        match input {
            Input::Open(opening) => Some(Self::Open {
                origin: opening.origin,
                at: opening.at,
                table: opening.context.table,
                source: opening.context.source.clone(),
            }),
            _ => None,
        }
    }

    /// What the tracker must hear after a worker has worked on an input, and its pieces.
    pub fn after(input: &Input) -> Option<Self> {
        match input {
            Input::Context(context) => Some(Self::Context {
                origin: context.origin,
                from_bytes: context.from_bytes,
                table: context.table,
                source: context.source.clone(),
            }),
            Input::Finish { origin } => Some(Self::Leave(*origin, Leave::Finished)),
            Input::Rest { origin } => Some(Self::Leave(*origin, Leave::Rest)),
            Input::Open(_) | Input::Chunk(_) => None,
        }
    }
}

/// What the task works with.
pub struct Tracking {
    /// Where spans go.
    pub store: Arc<dyn Store>,
    /// Where positions go.
    pub state: Arc<State>,
    /// Write timestamps.
    pub stamps: Arc<Stamps>,
    /// Who is told of committed ends.
    pub tail: Arc<Inbox>,
    /// Who is told of everything.
    pub health: Arc<Health>,
    /// Column `host`.
    pub host: String,
    /// Set when the stop has taken too long.
    pub give_up: CancellationToken,
}

struct Desk {
    tracking: Tracking,
    tracker: Tracker,
    watch: super::watermarks::Watch,
}

/// Runs until all senders are gone and everything that can be committed is.
pub async fn run(
    tracking: Tracking,
    lifetimes: Lifetimes,
    mut messages: mpsc::Receiver<Track>,
    mut acks: mpsc::Receiver<Ack>,
) {
    let watch = super::watermarks::Watch::new(tracking.host.clone());
    let tracker = Tracker::new(lifetimes);
    let mut desk = Desk { tracking, tracker, watch };
    let (mut more, mut more_acks) = (true, true);
    while more || more_acks {
        let tick = if desk.tracker.quiescent() { IDLE_TICK } else { TICK };
        tokio::select! {
            message = messages.recv(), if more && desk.tracker.ready() < READY_MAX => match message {
                Some(message) => desk.take(message),
                None => more = false,
            },
            ack = acks.recv(), if more_acks => match ack {
                Some(ack) => desk.acked(&ack),
                None => more_acks = false,
            },
            () = tokio::time::sleep(tick) => {}
        }
        while desk.tracker.ready() < READY_MAX
            && let Ok(message) = messages.try_recv()
        {
            desk.take(message);
        }
        while let Ok(ack) = acks.try_recv() {
            desk.acked(&ack);
        }
        let spans = desk.tracker.due(wall_ms());
        if !desk.commit(spans).await {
            return;
        }
        desk.tracking.health.tracked(&desk.tracker.pending_bytes());
        let marks = desk.watch.due(&desk.tracker, wall_ms());
        desk.put_watermarks(marks).await;
    }
    loop {
        let spans = desk.tracker.rest(wall_ms());
        if spans.is_empty() {
            return;
        }
        if !desk.commit(spans).await {
            return;
        }
    }
}

impl Desk {
    fn take(&mut self, message: Track) {
        let now_ms = wall_ms();
        match message {
            Track::Open { origin, at, table, source } => {
                let span = self.last_span(origin, at);
                self.tracker.open(origin, at, span, table, &source);
            }
            Track::Context { origin, from_bytes, table, source } => {
                self.tracker.context(origin, from_bytes, table, &source);
            }
            Track::Pieces { pieces, amended } => {
                self.tracking.health.amended(&amended);
                for piece in pieces {
                    self.tracking.health.pieced(&piece, self.tracker.source_of(piece.origin));
                    self.tracker.piece(piece, now_ms);
                }
            }
            Track::Leave(origin, leave) => self.tracker.leave(origin, leave),
            Track::Seen(seen) => self.watch.seen(&seen, &self.tracking.health),
        }
    }

    /// A batch is dealt with.
    fn acked(&mut self, ack: &Ack) {
        self.tracker.acked(&ack.pieces, &ack.not_rows, wall_ms());
    }

    /// The last span of the run before, if reading goes on at its end.
    fn last_span(&self, origin: OriginId, at: u64) -> Option<Span> {
        match self.tracking.state.last_span(origin) {
            Ok(span) => span.filter(|span| span.end_bytes == at),
            Err(error) => {
                tracing::error!("{error}; the last span of origin {origin} stays open");
                None
            }
        }
    }

    /// Brings spans into the store, whatever it takes; `false` when the stop has taken too long.
    async fn commit(&mut self, spans: Vec<Span>) -> bool {
        if spans.is_empty() {
            return true;
        }
        let stamp = self.tracking.stamps.take(spans.len(), wall_us());
        let mut backoff = Backoff::new(FIRST_WAIT, MAX_WAIT, stamp.unsigned_abs());
        loop {
            let written = tokio::select! {
                written = self.tracking.store.put_spans(&spans, stamp) => written,
                () = self.tracking.give_up.cancelled() => return false,
            };
            let Err(error) = written else { break };
            self.tracking.health.store_refused(&error);
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = self.tracking.give_up.cancelled() => return false,
            }
        }
        self.tracking.health.spans_written(spans.len());
        let saved = tokio::task::block_in_place(|| self.tracking.state.put_spans(&spans));
        if let Err(error) = &saved {
            // the store has them, and the next start asks the store
            self.tracking.health.state_refused(error);
        }
        let committed = self.tracker.written(&spans);
        self.tell(&committed, saved.is_ok());
        true
    }

    fn tell(&mut self, committed: &[Committed], saved: bool) {
        for done in committed {
            self.tracking.health.committed(done);
            self.watch.committed(done.origin, done.end_bytes);
        }
        let ends =
            committed.iter().map(|done| (done.origin, done.end_bytes, done.marker)).collect();
        self.tracking.tail.tell(Command::Committed { ends, saved });
    }

    async fn put_watermarks(&mut self, marks: Vec<crate::ledger::Watermark>) {
        if marks.is_empty() {
            return;
        }
        let stamp = self.tracking.stamps.take(marks.len(), wall_us());
        match self.tracking.store.put_watermarks(&marks, stamp).await {
            Ok(()) => self.tracking.health.watermarks(&marks),
            // the next one says more; that the store is away is said elsewhere
            Err(error) => tracing::debug!(%error, "a watermark was not written"),
        }
    }
}
