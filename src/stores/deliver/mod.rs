//! Brings batches into the store, whatever it takes, and says what became of their rows.
//!
//! Retries for ever, with capped and jittered waits; back-pressure does the rest. Only rows that
//! the store calls invalid are given up, and only while it takes others (see `settle`).
//!
//! ```text
//! workers --Batch--> run (in flight: rows, bytes, batches) --Store::write--> Ack --> tracker
//!    ^-------------------------- Spare --------------------------'
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{Receiver, Sender};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

mod health;
mod letters;
mod settle;

use health::Health;
use settle::{Probes, Settled, settle};

use super::{InFlight, Store, StoreError};
use crate::batch::{Batch, Spare};
use crate::ledger::Ack;
use crate::metrics::{StoreMetrics, as_f64};
use crate::state::{Stamps, State};

/// What is done about an error of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Try again soon, for ever.
    Retry,
    /// It takes a person or time: try again later, for ever.
    Wait,
    /// Find the rows that are to blame.
    Isolate,
    /// End the program.
    Stop,
}

impl StoreError {
    /// The one place where an error becomes a decision. No `_` arm: a new error must choose.
    #[must_use]
    pub const fn reaction(&self) -> Reaction {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => Reaction::Retry,
            Self::Outage { .. } | Self::Schema { .. } => Reaction::Wait,
            Self::Invalid { .. } => Reaction::Isolate,
            Self::Newer { .. } => Reaction::Stop,
        }
    }
}

/// What delivery works with.
pub struct Deliver {
    /// Where rows go.
    pub store: Arc<dyn Store>,
    /// Where dead letters go that the store refuses too.
    pub state: Arc<State>,
    /// For the dead letters.
    pub stamps: Arc<Stamps>,
    /// Where batches go when their rows are stored.
    pub spare: Arc<Spare>,
    /// Of the store.
    pub metrics: StoreMetrics,
    /// The wall clock, in milliseconds.
    pub now_ms: fn() -> i64,
    /// Seed of the jitter.
    pub seed: u64,
    /// How long batches in flight may take after a stop.
    pub shutdown_timeout: Duration,
}

/// What was not delivered when delivery ended. Nothing of it is lost: it is read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abandoned {
    /// Batches.
    pub batches: usize,
    /// Rows.
    pub rows: usize,
}

/// What the tasks of all batches share.
struct Shared {
    deliver: Deliver,
    health: Health,
    probes: Probes,
}

/// Delivers until the workers have dropped their end of `batches`, or until `shutdown_timeout`
/// after `stop`. `acks` should hold more than can be in flight.
///
/// # Errors
///
/// The store was made by a newer program: this one has to stop. Everything else is waited out.
pub async fn run(
    deliver: Deliver,
    mut batches: Receiver<Batch>,
    acks: Sender<Ack>,
    stop: CancellationToken,
) -> Result<Abandoned, StoreError> {
    let mut flight = Flight::new(deliver.store.in_flight());
    let timeout = deliver.shutdown_timeout;
    let health = Health::new(deliver.store.name(), deliver.metrics.clone());
    let shared = Arc::new(Shared { health, probes: Probes::default(), deliver });
    let deadline = async {
        stop.cancelled().await;
        sleep(timeout).await;
    };
    tokio::pin!(deadline);
    let mut tasks: JoinSet<Result<Settled, StoreError>> = JoinSet::new();
    let (mut next, mut open) = (None::<Batch>, true);
    loop {
        if let Some(batch) = next.take_if(|batch| flight.has_room_for(batch)) {
            flight.enter(&batch);
            tasks.spawn(settle(Arc::clone(&shared), batch, flight.started));
        }
        shared.deliver.metrics.in_flight.set(as_f64(flight.batches as u64));
        if !open && next.is_none() && tasks.is_empty() {
            return Ok(Abandoned::default());
        }
        tokio::select! {
            biased;
            () = &mut deadline => break,
            Some(done) = tasks.join_next() => {
                let settled = answer_of(done)?;
                flight.leave(&settled.batch);
                let ack = Ack { pieces: settled.batch.pieces.clone(), not_rows: settled.not_rows };
                shared.deliver.spare.give(settled.batch);
                tokio::select! {
                    sent = acks.send(ack) => if sent.is_err() { break },
                    () = &mut deadline => break,
                }
            }
            batch = batches.recv(), if open && next.is_none() => {
                open = batch.is_some();
                next = batch;
            }
        }
    }
    let mut left = Abandoned { batches: flight.batches, rows: flight.rows };
    while let Some(batch) = next.take().or_else(|| batches.try_recv().ok()) {
        left.batches += 1;
        left.rows += batch.rows.len();
    }
    Ok(left)
}

/// A panic of a batch's task is a panic here: the program ends, and reads the rows again.
fn answer_of(done: Result<Result<Settled, StoreError>, JoinError>) -> Result<Settled, StoreError> {
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// What is in flight, and what may be.
#[derive(Debug)]
struct Flight {
    max: InFlight,
    rows: usize,
    bytes: usize,
    batches: usize,
    /// Batches that have ever begun: a number for each.
    started: u64,
}

impl Flight {
    const fn new(max: InFlight) -> Self {
        Self { max, rows: 0, bytes: 0, batches: 0, started: 0 }
    }

    /// A batch that is larger than all that may be in flight goes alone.
    fn has_room_for(&self, batch: &Batch) -> bool {
        self.batches == 0
            || (self.batches < self.max.batches
                && self.rows + batch.rows.len() <= self.max.rows
                && self.bytes + batch.text.len() <= self.max.bytes)
    }

    fn enter(&mut self, batch: &Batch) {
        self.started += 1;
        self.batches += 1;
        self.rows += batch.rows.len();
        self.bytes += batch.text.len();
    }

    fn leave(&mut self, batch: &Batch) {
        self.batches -= 1;
        self.rows -= batch.rows.len();
        self.bytes -= batch.text.len();
    }
}

#[cfg(test)]
mod tests;
