//! The bounded queue that callers fill and the worker empties.
//!
//! Callers hold one lock for a push, and make a system call only where the worker sleeps. A forked
//! child begins anew: its own client id, queue, thread and counters. What the parent has queued is
//! the parent's to send.

use std::collections::VecDeque;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::layer::Record;
use crate::options::{Options, Stats, WhenFull};
use crate::worker::Worker;

/// Nobody needs to be woken for a queue of so many records.
pub(crate) const NEVER: usize = usize::MAX;
/// After a thread could not be started, it is tried again so much later.
const START_AGAIN: Duration = Duration::from_secs(1);

/// Takes records from any thread, in each process that a fork makes of this one.
#[derive(Debug)]
pub(crate) struct Client {
    first: Arc<Life>,
}

/// The client in one process.
///
/// A child never touches its parent's life: another thread may have held its lock as the process
/// forked, and nobody in the child would ever give it back.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) pid: u32,
    pub(crate) options: Arc<Options>,
    state: Mutex<State>,
    /// The worker sleeps on it.
    bell: Condvar,
    /// Those who flush or close wait on it.
    settled: Condvar,
    /// Callers wait on it for room in the queue.
    room: Condvar,
    /// Beside the lock, as a child asks its parent's life.
    closed: AtomicBool,
    /// The life of the child that this process is.
    child: OnceLock<Arc<Life>>,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is set by another, at its own time")]
pub(crate) struct State {
    pub(crate) queue: VecDeque<(usize, Record)>,
    pub(crate) bytes: usize,
    /// Positions up to this one have left the queue, sent or dropped.
    pub(crate) head: u64,
    /// And up to this one nothing waits for a receipt either.
    pub(crate) settled: u64,
    /// Records that left the queue, and have no line yet.
    pub(crate) in_hand: usize,
    pub(crate) in_flight: usize,
    /// A queue of so many records wakes the worker.
    pub(crate) ring_at: usize,
    /// The worker is to wake.
    pub(crate) rung: bool,
    /// Somebody waits for receipts.
    pub(crate) urgent: bool,
    /// The worker is to connect without waiting longer.
    pub(crate) retry_now: bool,
    pub(crate) closing: bool,
    pub(crate) abandoned: bool,
    pub(crate) finished: bool,
    pub(crate) blocked: usize,
    has_worker: bool,
    start_after: Option<Instant>,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) dropped: u64,
    pub(crate) connects: u64,
    pub(crate) errors: u64,
    pub(crate) last_error: String,
}

impl Client {
    pub(crate) fn new(options: Options) -> Self {
        Self { first: Life::new(Arc::new(options), false) }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.first.options
    }

    /// The life of this process.
    fn life(&self) -> &Arc<Life> {
        let mut life = &self.first;
        while let Some(child) = life.child.get() {
            life = child;
        }
        let pid = process::id();
        while life.pid != pid {
            let closed = life.closed.load(Ordering::Acquire);
            life = life.child.get_or_init(|| Life::new(Arc::clone(&life.options), closed));
        }
        life
    }

    /// Queues a record, or counts it as dropped.
    pub(crate) fn put(&self, record: Record) {
        let life = self.life();
        let options = &life.options;
        let size = record.bytes();
        let mut spilt = Vec::new(); // dropped when the lock is given back
        let mut state = life.lock();
        life.start(&mut state);
        while !state.closing && state.is_full(size, options) {
            if options.when_full == WhenFull::Block && state.has_worker && !state.finished {
                state.blocked += 1;
                state = life.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.blocked -= 1;
            } else if let Some((size, record)) = state.queue.pop_front() {
                state.bytes -= size;
                state.head += 1;
                state.dropped += 1;
                spilt.push(record);
            }
        }
        if state.closing {
            state.dropped += 1;
            return;
        }
        state.queue.push_back((size, record));
        state.bytes += size;
        let ring = state.queue.len() >= state.ring_at;
        if ring {
            state.ring();
        }
        drop(state);
        if ring {
            life.bell.notify_one();
        }
    }

    /// Waits until all that was queued before has its receipt or was dropped.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        let life = self.life();
        let mut state = life.lock();
        let target = state.head + state.queue.len() as u64;
        if state.settled >= target {
            return true;
        }
        life.hurry(&mut state);
        let waited = life
            .settled
            .wait_timeout_while(state, timeout, |state| state.settled < target && !state.finished);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.settled >= target
    }

    /// Flushes, ends the worker, and says how many records are lost. Those without a receipt count
    /// as lost, though the daemon may have stored some.
    pub(crate) fn close(&self, timeout: Duration) -> u64 {
        let life = self.life();
        life.closed.store(true, Ordering::Release);
        let mut state = life.lock();
        if state.closing {
            return 0;
        }
        state.closing = true;
        life.room.notify_all();
        if !state.is_idle() || state.has_worker {
            life.hurry(&mut state);
            let waited = life.settled.wait_timeout_while(state, timeout, |state| !state.finished);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.abandoned = true;
        state.finished = true;
        let lost = state.queue.len() + state.in_hand + state.in_flight;
        let left = std::mem::take(&mut state.queue);
        life.settled.notify_all();
        drop(state);
        drop(left);
        lost as u64
    }

    pub(crate) fn count_error(&self, words: &str) {
        self.life().lock().count_error(words);
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = self.life().lock();
        Stats {
            queued: state.queue.len() + state.in_hand,
            in_flight: state.in_flight,
            sent: state.sent,
            acked: state.acked,
            dropped: state.dropped,
            reconnects: state.connects.saturating_sub(1),
            errors: state.errors,
            last_error: state.last_error.clone(),
        }
    }
}

impl Life {
    fn new(options: Arc<Options>, closed: bool) -> Arc<Self> {
        Arc::new(Self {
            pid: process::id(),
            options,
            state: Mutex::new(State::new(closed)),
            bell: Condvar::new(),
            settled: Condvar::new(),
            room: Condvar::new(),
            closed: AtomicBool::new(closed),
            child: OnceLock::new(),
        })
    }

    /// A caller that panicked left nothing half done: no code of others runs under the lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until somebody rings, or so much time has passed; `None` is without end.
    pub(crate) fn sleep(&self, ring_at: usize, time: Option<Duration>) {
        let mut state = self.lock();
        let wake = state.queue.len() >= ring_at
            || (state.urgent && state.retry_now)
            || (state.closing && time.is_none());
        if !wake {
            state.ring_at = ring_at;
            state.rung = false;
            let time = time.unwrap_or(Duration::MAX);
            let waited = self.bell.wait_timeout_while(state, time, |state| !state.rung);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.ring_at = NEVER;
    }

    /// Tells those who wait for receipts.
    pub(crate) fn tell_settled(&self) {
        self.settled.notify_all();
    }

    /// Tells those who wait for room.
    pub(crate) fn tell_room(&self) {
        self.room.notify_all();
    }

    fn hurry(self: &Arc<Self>, state: &mut State) {
        self.start(state);
        state.urgent = true;
        state.retry_now = true;
        state.ring();
        self.bell.notify_one();
    }

    /// Starts the worker where there is none. It asks for the lock first of all, and so begins when
    /// the caller has given it back.
    fn start(self: &Arc<Self>, state: &mut State) {
        if state.has_worker || state.finished {
            return;
        }
        let now = Instant::now();
        if state.start_after.is_some_and(|after| now < after) {
            return;
        }
        let worker = Worker::new(Arc::clone(self));
        match thread::Builder::new().name("bitacora-tracing".into()).spawn(|| worker.run()) {
            Ok(_) => state.has_worker = true,
            Err(error) => {
                state.start_after = Some(now + START_AGAIN);
                state.count_error(&format!("the thread could not be started: {error}"));
            }
        }
    }
}

impl State {
    fn new(closed: bool) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            head: 0,
            settled: 0,
            in_hand: 0,
            in_flight: 0,
            ring_at: NEVER,
            rung: false,
            urgent: false,
            retry_now: false,
            closing: closed, // closed before a fork stays closed
            abandoned: closed,
            finished: closed,
            blocked: 0,
            has_worker: false,
            start_after: None,
            sent: 0,
            acked: 0,
            dropped: 0,
            connects: 0,
            errors: 0,
            last_error: String::new(),
        }
    }

    /// A record that is larger than the whole queue goes into an empty one.
    fn is_full(&self, size: usize, options: &Options) -> bool {
        let many = self.queue.len() >= options.queue_records;
        many || (!self.queue.is_empty() && self.bytes + size > options.queue_bytes)
    }

    /// Nothing waits, neither here nor for a receipt.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_hand == 0 && self.in_flight == 0
    }

    fn ring(&mut self) {
        self.ring_at = NEVER;
        self.rung = true;
    }

    pub(crate) fn count_error(&mut self, words: &str) {
        self.errors += 1;
        words.clone_into(&mut self.last_error);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tracing::dispatcher::{Dispatch, with_default};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::Layer;

    /// A client as a forked child finds it: made by another process, whose lock nobody gives back.
    fn inherited(closed: bool) -> (Arc<Client>, Arc<Life>) {
        let options = Layer::builder().path("/nonexistent/log.sock").options;
        let parent = Life::new(Arc::new(options), closed);
        let parent = Arc::new(Life { pid: 0, ..Arc::into_inner(parent).unwrap() });
        (Arc::new(Client { first: Arc::clone(&parent) }), parent)
    }

    fn log(client: &Arc<Client>) {
        let subscriber = tracing_subscriber::registry().with(crate::Layer::new(Arc::clone(client)));
        with_default(&Dispatch::new(subscriber), || tracing::info!("in the child"));
    }

    #[test]
    fn a_child_never_asks_for_its_parents_lock() {
        let (client, parent) = inherited(false);
        let held = parent.lock();
        let (tell, told) = mpsc::sync_channel(1);
        let child = Arc::clone(&client);
        thread::spawn(move || {
            log(&child);
            tell.send(child.stats().queued)
        });
        assert_eq!(told.recv_timeout(Duration::from_secs(30)), Ok(1), "it waits for the lock");
        assert_eq!((held.queue.len(), held.head), (0, 0));
        assert_eq!(client.close(Duration::ZERO), 1);
    }

    #[test]
    fn what_was_closed_before_a_fork_stays_closed() {
        let (client, _parent) = inherited(true);
        log(&client);
        let stats = client.stats();
        assert_eq!((stats.queued, stats.dropped), (0, 1));
    }
}
