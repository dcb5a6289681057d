//! Worker threads: take inputs from the tailer, hand batches to delivery and pieces to the tracker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::track::Track;
use crate::batch::{Batch, Spare};
use crate::sources::Input;
use crate::worker::{Output, Worker};

/// Chunks that wait for one worker at most.
pub const CHUNKS_WAITING_MAX: usize = 16;
/// Inputs of any kind that a worker's channel holds: room enough that the tailer, which counts
/// chunks, never waits for it.
const INPUTS_WAITING_MAX: usize = 1024;
/// How long rows wait for company while nothing else is to be done.
const LINGER: Duration = Duration::from_millis(10);
/// How often open records and old batches are looked at.
const TICK: Duration = Duration::from_millis(100);

/// The tailer's end of one worker.
#[derive(Debug, Clone)]
pub struct Desk {
    inputs: SyncSender<Input>,
    waiting: Arc<AtomicUsize>,
}

impl Desk {
    /// Chunks that the worker has not taken.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Hands an input over; `false` if the worker has ended.
    pub fn hand(&self, input: Input) -> bool {
        if matches!(input, Input::Chunk(_)) {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        self.inputs.send(input).is_ok()
    }
}

/// Where a worker's output goes.
pub struct Outlets {
    /// To delivery.
    pub batches: mpsc::Sender<Batch>,
    /// To the tracker.
    pub track: mpsc::Sender<Track>,
    /// Batches that are stored, to be used again.
    pub spare: Arc<Spare>,
    /// Wakes the sources when there is room.
    pub wake_sources: Box<dyn Fn() + Send>,
    /// How long an open record of a source waits before it is shipped early, in milliseconds.
    pub multiline_wait_ms: Arc<dyn Fn(&str) -> u64 + Send + Sync>,
}

/// Starts a worker; it ends when its desk is dropped.
///
/// # Errors
///
/// The thread cannot be started.
pub fn start(
    index: usize,
    worker: Worker,
    outlets: Outlets,
) -> std::io::Result<(Desk, JoinHandle<()>)> {
    let (inputs, receiver) = sync_channel(INPUTS_WAITING_MAX);
    let waiting = Arc::new(AtomicUsize::new(0));
    let desk = Desk { inputs, waiting: Arc::clone(&waiting) };
    let handle = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        Shift { worker, outlets, waiting, began: Instant::now() }.run(&receiver);
    })?;
    Ok((desk, handle))
}

struct Shift {
    worker: Worker,
    outlets: Outlets,
    waiting: Arc<AtomicUsize>,
    began: Instant,
}

impl Shift {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn run(mut self, inputs: &Receiver<Input>) {
        let mut output = Output::default();
        let mut ticked = Instant::now();
        // with nothing open there is nothing to do before the next input
        let mut idle = false;
        loop {
            let wait = if self.worker.has_open_batches() { LINGER } else { TICK };
            let input = if idle {
                inputs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                inputs.recv_timeout(wait)
            };
            idle = false;
            match input {
                Ok(input) => self.take(input, &mut output),
                Err(RecvTimeoutError::Timeout) => {
                    self.tick(true, &mut output);
                    idle = self.worker.is_idle();
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick(false, &mut output);
            }
            if !self.send(&mut output) {
                return;
            }
        }
        self.worker.ship_all(self.now_ms(), &mut output);
        self.send(&mut output);
    }

    fn take(&mut self, input: Input, output: &mut Output) {
        let is_chunk = matches!(input, Input::Chunk(_));
        if let Some(message) = Track::before(&input)
            && self.outlets.track.blocking_send(message).is_err()
        {
            return;
        }
        let after = Track::after(&input);
        let now_ms = self.now_ms();
        if let Err(error) = self.worker.take(input, now_ms, output) {
            tracing::error!("{error}; nothing of this file is stored until then");
        }
        if is_chunk {
            let before = self.waiting.fetch_sub(1, Ordering::Relaxed);
            if before == CHUNKS_WAITING_MAX / 2 || before == 1 {
                (self.outlets.wake_sources)();
            }
        }
        if let Some(message) = after {
            self.send(output);
            // an ended tracker means that the daemon is going down
            let _ = self.outlets.track.blocking_send(message);
        }
    }

    fn tick(&mut self, idle: bool, output: &mut Output) {
        let now_ms = self.now_ms();
        let wait = Arc::clone(&self.outlets.multiline_wait_ms);
        self.worker.tick(now_ms, &*wait, idle, output);
    }

    /// Pieces first: an acknowledgement that comes before its piece is kept, but a piece that the
    /// tracker has costs nothing. `false` when nobody takes them any more.
    fn send(&mut self, output: &mut Output) -> bool {
        let pieces = std::mem::take(&mut output.pieces);
        let amended = std::mem::take(&mut output.amended);
        if !pieces.is_empty() || !amended.is_empty() {
            let message = Track::Pieces { pieces, amended };
            if self.outlets.track.blocking_send(message).is_err() {
                return false;
            }
        }
        for batch in output.batches.drain(..) {
            if self.outlets.batches.blocking_send(batch).is_err() {
                return false;
            }
            if let Some(batch) = self.outlets.spare.take() {
                self.worker.recycle(batch);
            }
        }
        true
    }
}
