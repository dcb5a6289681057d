//! Before reading begins: the store's tables are there, and it has said how far each origin is
//! stored.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::announce::{FIRST_WAIT, MAX_WAIT};
use super::health::Health;
use crate::backoff::Backoff;
use crate::ledger::Span;
use crate::state::State;
use crate::stores::{Store, StoreError};

/// Origins that are asked for at once.
const ORIGINS_AT_ONCE: usize = 1000;

/// Key in `state.db`: the store was asked what this machine has read before.
const FILLED: &str = "filled_from_store";

/// What recovery works with.
pub struct Recovery {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The state that is filled.
    pub state: Arc<State>,
    /// Who is told how it goes.
    pub health: Arc<Health>,
    /// Breaks it off.
    pub stop: CancellationToken,
}

impl Recovery {
    /// Waits for the store as long as it takes; `false` if the stop came first.
    ///
    /// # Errors
    ///
    /// The store is of a newer program.
    pub async fn run(self) -> Result<bool, StoreError> {
        let mut backoff = Backoff::new(FIRST_WAIT, MAX_WAIT, u64::from(std::process::id()));
        loop {
            let answer = tokio::select! {
                answer = self.once() => answer,
                () = self.stop.cancelled() => return Ok(false),
            };
            match answer {
                Ok(()) => {
                    self.health.tables(Ok(()));
                    return Ok(true);
                }
                Err(error @ StoreError::Newer { .. }) => return Err(error),
                Err(error) => self.health.tables(Err(&error)),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = self.stop.cancelled() => return Ok(false),
            }
        }
    }

    async fn once(&self) -> Result<(), StoreError> {
        self.store.check().await?;
        if self.store.name() == "null" {
            // state.db is all that remembers
            return Ok(());
        }
        let filled = tokio::task::block_in_place(|| self.state.meta::<bool>(FILLED))
            .map_err(|error| self.refused(&error))?;
        if filled != Some(true) {
            self.fill().await?;
        }
        let ids = tokio::task::block_in_place(|| self.state.origin_ids())
            .map_err(|error| self.refused(&error))?;
        for ids in ids.chunks(ORIGINS_AT_ONCE) {
            let mut spans: Vec<Span> = self.store.last_spans(ids).await?;
            let positions: Vec<_> = ids
                .iter()
                .map(|id| {
                    let found = spans.iter().position(|span| span.origin == *id);
                    (*id, found.map(|index| spans.swap_remove(index)))
                })
                .collect();
            tokio::task::block_in_place(|| self.state.set_positions(&positions))
                .map_err(|error| self.refused(&error))?;
        }
        Ok(())
    }

    /// A state that is new, or was set aside, learns from the store what this machine has read.
    async fn fill(&self) -> Result<(), StoreError> {
        let stored = self.store.origins(Some(self.state.machine())).await?;
        let filled = tokio::task::block_in_place(|| {
            let origins = self.state.rebuild(&stored)?;
            self.state.put_meta(FILLED, &true).map(|()| origins)
        });
        match filled.map_err(|error| self.refused(&error))? {
            0 => {}
            origins => tracing::info!(origins, "the state was rebuilt from the store"),
        }
        Ok(())
    }

    /// The state cannot be written: an outage like any other, until someone has made room.
    fn refused(&self, error: &crate::state::StateError) -> StoreError {
        self.health.state_refused(error);
        StoreError::Outage { store: "state.db", detail: error.to_string() }
    }
}
