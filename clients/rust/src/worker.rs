//! The thread that makes lines of records and sends them.
//!
//! It wakes for the first record, waits a moment for company, and sends up to `batch_records`
//! records in one write.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::client::{Life, NEVER, State};
use crate::connection::{Connection, InFlight};
use crate::layer::{self, Record};
use crate::line;

/// While something is urgent the daemon is tried again this often.
const URGENT_RETRY: Duration = Duration::from_millis(100);
/// The longest wait for the socket; a caller that flushes or closes is noticed after it.
const LOOK_UP: Duration = Duration::from_millis(50);
/// While records are dropped, a record says so this often.
const TELL_AGAIN: Duration = Duration::from_secs(1);

pub(crate) struct Worker {
    life: Arc<Life>,
    connection: Connection,
    /// The wait before the last attempt to connect, without its jitter.
    wait: Duration,
    retry_at: Instant,
    taken_at: Instant,
    told_at: Option<Instant>,
    dropped_told: u64,
    acked_before: u64,
}

impl Worker {
    pub(crate) fn new(life: Arc<Life>) -> Self {
        let options = &life.options;
        let now = Instant::now();
        Self {
            connection: Connection::new(
                options.path.clone(),
                options.window_records,
                options.window_bytes,
            ),
            wait: Duration::ZERO,
            retry_at: now,
            taken_at: now,
            told_at: None,
            dropped_told: 0,
            acked_before: 0,
            life,
        }
    }

    pub(crate) fn run(mut self) {
        layer::become_worker();
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.step())) {
                Ok(true) => break,
                Ok(false) => {}
                // A fault of ours costs a connection and the records at hand, not the thread.
                Err(_) => {
                    let mut state = self.life.lock();
                    state.dropped += state.in_hand as u64;
                    state.count_error("a fault in the client, which goes on");
                    drop(state);
                    self.failed(None);
                }
            }
        }
        self.connection.disconnect();
        self.life.lock().finished = true;
        self.life.tell_settled();
        self.life.tell_room();
    }

    /// One turn; true when there is nothing left to do for ever.
    fn step(&mut self) -> bool {
        let options = Arc::clone(&self.life.options);
        let Some((idle, queued, urgent)) = self.settle() else { return true };
        let now = Instant::now();
        if !self.connection.is_open() {
            if idle {
                self.life.sleep(1, None);
            } else if now < self.retry_at {
                self.life.sleep(NEVER, Some(self.retry_at - now));
            } else if let Err(error) = self.connection.connect() {
                self.failed(Some(&error));
            }
            return false;
        }
        if idle {
            self.life.sleep(1, None);
            self.taken_at = Instant::now(); // the first record waits for company
            return false;
        }
        let room = self.connection.room();
        let waited = now - self.taken_at;
        let mut wait = options.linger.saturating_sub(waited);
        if room > 0 && queued > 0 {
            if wait.is_zero() || urgent || queued >= options.batch_records {
                self.send(room.min(options.batch_records));
                return false;
            }
        } else {
            let quiet = room == 0 || waited > Duration::from_secs(1);
            wait = if quiet { LOOK_UP } else { options.linger };
        }
        if self.connection.is_waiting() {
            self.pump(wait.min(LOOK_UP));
        } else {
            self.life.sleep(options.batch_records, Some(wait));
        }
        false
    }

    /// Tells those who wait what has its receipt. Says whether nothing is left, how many records
    /// are queued and whether somebody waits; `None` at the end.
    fn settle(&mut self) -> Option<(bool, usize, bool)> {
        let mut state = self.life.lock();
        state.in_hand = 0;
        count(&mut self.connection, &mut state);
        let settled = self
            .connection
            .in_flight
            .front()
            .map_or(state.head, |oldest| oldest.position.saturating_sub(1));
        let moved = settled > state.settled;
        state.settled = state.settled.max(settled);
        let idle = state.is_idle();
        if idle {
            state.urgent = false;
        }
        if std::mem::take(&mut state.retry_now) {
            self.retry_at = Instant::now();
        }
        let end = state.abandoned || (idle && state.closing);
        let found = (idle, state.queue.len(), state.urgent);
        drop(state);
        if moved {
            self.life.tell_settled();
        }
        (!end).then_some(found)
    }

    fn pump(&mut self, time: Duration) {
        let pumped = self.connection.pump(time);
        if self.connection.acked != self.acked_before {
            self.acked_before = self.connection.acked;
            self.wait = Duration::ZERO;
        }
        if let Err(error) = pumped {
            self.failed(Some(&error));
        }
    }

    fn send(&mut self, most: usize) {
        let (mut position, records, untold) = self.take(most);
        self.taken_at = Instant::now();
        let pid = self.life.pid;
        let source = self.life.options.source.as_deref();
        let mut lines = Vec::with_capacity(records.len() + 1);
        if untold > 0 {
            // It stands at the place of the record before, so that nobody waits for it alone.
            lines.push(InFlight { position, line: line::of_dropped(untold, pid, source) });
        }
        for record in records {
            position += 1;
            lines.push(InFlight { position, line: line::of_record(&record, pid, source) });
        }
        let sent = self.connection.add(lines);
        let mut state = self.life.lock();
        state.in_hand = 0;
        count(&mut self.connection, &mut state);
        drop(state);
        if let Err(error) = sent {
            self.failed(Some(&error));
        }
    }

    /// The oldest records, the position before the first of them, and how many drops are to be told.
    fn take(&mut self, most: usize) -> (u64, Vec<Record>, u64) {
        let life = Arc::clone(&self.life);
        let mut state = life.lock();
        let number = most.min(state.queue.len());
        let mut bytes = 0;
        let records = state.queue.drain(..number).map(|(size, record)| {
            bytes += size;
            record
        });
        let records: Vec<_> = records.collect();
        state.bytes -= bytes;
        let before = state.head;
        state.head += number as u64;
        state.in_hand = number;
        let untold = self.dropped_untold(&state);
        let blocked = state.blocked > 0;
        drop(state);
        if blocked {
            life.tell_room();
        }
        (before, records, untold)
    }

    /// How many dropped records the daemon is told of now: once a second, and at the end.
    fn dropped_untold(&mut self, state: &State) -> u64 {
        let untold = state.dropped - self.dropped_told;
        let recent = self.told_at.is_some_and(|told| told.elapsed() < TELL_AGAIN);
        if untold == 0 || (recent && !state.queue.is_empty()) {
            return 0;
        }
        self.told_at = Some(Instant::now());
        self.dropped_told = state.dropped;
        untold
    }

    /// Gives the connection up, and says when the next is tried.
    fn failed(&mut self, error: Option<&io::Error>) {
        self.connection.disconnect();
        let options = &self.life.options;
        self.wait = (self.wait * 2).clamp(options.backoff_first, options.backoff_max);
        let mut wait = self.wait.mul_f64(0.5 + 0.5 * random());
        let mut state = self.life.lock();
        if state.urgent {
            wait = wait.min(URGENT_RETRY);
        }
        if let Some(error) = error {
            state.last_error = error.to_string();
        }
        drop(state);
        self.retry_at = Instant::now() + wait;
    }
}

/// Copies the connection's counters to where others see them.
fn count(connection: &mut Connection, state: &mut State) {
    state.in_flight = connection.in_flight.len();
    state.sent = connection.sent;
    state.acked = connection.acked;
    state.connects = connection.connects;
    for words in connection.refused.drain(..) {
        state.count_error(&words);
    }
}

/// From 0 to 1, other in each process, so that many clients do not come back in step.
fn random() -> f64 {
    let (high, _) = Uuid::new_v4().as_u64_pair();
    u32::try_from(high >> 32).map_or(0.0, |bits| f64::from(bits) / f64::from(u32::MAX))
}
