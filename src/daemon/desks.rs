//! All workers, as the thread of a source sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::health::Health;
use super::work::{CHUNKS_WAITING_MAX, Desk};
use crate::ledger::OriginId;
use crate::sources::Input;

/// Hands inputs to the worker of their origin, and says how much is handed out.
pub struct Desks {
    workers: Vec<Desk>,
    health: Arc<Health>,
    /// Which source an origin belongs to, for the bytes that are handed out.
    sources: BTreeMap<OriginId, String>,
}

impl Desks {
    /// Over these workers.
    pub const fn new(workers: Vec<Desk>, health: Arc<Health>) -> Self {
        Self { workers, health, sources: BTreeMap::new() }
    }

    /// How many chunks the busiest worker still takes.
    pub fn room(&self) -> usize {
        let waiting = self.workers.iter().map(Desk::waiting).max().unwrap_or(0);
        CHUNKS_WAITING_MAX.saturating_sub(waiting)
    }

    /// Hands an input over; `false` if the worker has ended. An origin keeps to one worker, so
    /// that its lines stay in order.
    pub fn hand(&mut self, input: Input) -> bool {
        let origin = input.origin();
        match &input {
            Input::Open(opening) => {
                self.sources.insert(origin, opening.context.source.clone());
            }
            Input::Context(context) => {
                self.sources.insert(origin, context.source.clone());
            }
            Input::Chunk(chunk) => {
                if let Some(source) = self.sources.get(&origin) {
                    self.health.read(source, chunk.bytes.len() as u64);
                }
            }
            Input::Finish { .. } | Input::Rest { .. } => {
                self.sources.remove(&origin);
            }
        }
        let count = self.workers.len().max(1) as u64;
        let at = usize::try_from(origin.unsigned_abs() % count).unwrap_or(0);
        self.workers.get(at).is_some_and(|desk| desk.hand(input))
    }
}
