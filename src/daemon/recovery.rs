//! Before reading begins: the store's tables are there, and it has said how far each origin is
//! stored.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use super::announce::{FIRST_WAIT, MAX_WAIT};
use super::clock::wall_ms;
use super::health::Health;
use crate::backoff::Backoff;
use crate::ledger::{OriginId, Span};
use crate::state::{Stamps, State, StateError};
use crate::stores::{Store, StoreError};

/// Origins that are asked for at once.
const ORIGINS_AT_ONCE: usize = 1000;

/// A state that was lost may have been so far ahead of the clock with its write timestamps.
const STAMPS_AHEAD_MS: i64 = 600_000;

/// Key in `state.db`: the store was asked what this machine has read before.
const FILLED: &str = "filled_from_store";

/// What recovery works with.
pub(super) struct Recovery {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The state that is filled.
    pub state: Arc<State>,
    /// Write timestamps.
    pub stamps: Arc<Stamps>,
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
        recover(&*self.store, &self.state, &self.stamps, wall_ms()).await.map_err(|error| {
            match error {
                RecoveryError::Store(error) => error,
                // an outage like any other, until someone has made room
                RecoveryError::State(error) => {
                    self.health.state_refused(&error);
                    StoreError::Outage { store: "state.db", detail: error.to_string() }
                }
            }
        })
    }
}

/// Why a start has to wait.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Fills a state that is new with what the store knows of this machine, and sets every position
/// to the end of the origin's last span in the store. May be called again after an error.
///
/// # Errors
///
/// The store or the state cannot be used for now.
pub async fn recover(
    store: &dyn Store,
    state: &State,
    stamps: &Stamps,
    now_ms: i64,
) -> Result<(), RecoveryError> {
    store.check().await?;
    if store.name() == "null" {
        // state.db is all that remembers
        return Ok(());
    }
    if block_in_place(|| state.meta::<bool>(FILLED))? != Some(true) {
        fill(store, state, stamps, now_ms).await?;
    }
    let ended = ended(store, state).await?;
    if !ended.is_empty() {
        block_in_place(|| state.forget(&ended))?;
        tracing::info!(origins = ended.len(), "forgot origins that retention has ended");
    }
    let ids = block_in_place(|| state.origin_ids())?;
    for ids in ids.chunks(ORIGINS_AT_ONCE) {
        let mut spans: Vec<Span> = store.last_spans(ids).await?;
        let positions: Vec<_> = ids
            .iter()
            .map(|id| {
                let found = spans.iter().position(|span| span.origin == *id);
                (*id, found.map(|index| spans.swap_remove(index)))
            })
            .collect();
        block_in_place(|| state.set_positions(&positions))?;
    }
    Ok(())
}

/// The origins of this state that retention has ended: their tombstones are there, and nothing else
/// is in the store of them. An origin that went on after all has spans again.
///
/// # Errors
///
/// The store or the state cannot be used for now.
pub async fn ended(store: &dyn Store, state: &State) -> Result<Vec<OriginId>, RecoveryError> {
    let tombstones: BTreeSet<OriginId> = store.ended(state.machine()).await?.into_iter().collect();
    let mut ended = block_in_place(|| state.origin_ids())?;
    ended.retain(|id| tombstones.contains(id));
    let mut gone = Vec::new();
    for ids in ended.chunks(ORIGINS_AT_ONCE) {
        let spans = store.last_spans(ids).await?;
        let live: BTreeSet<OriginId> = spans.iter().map(|span| span.origin).collect();
        gone.extend(ids.iter().filter(|id| !live.contains(id)));
    }
    Ok(gone)
}

/// A state that is new, or was set aside, learns from the store what this machine has read.
async fn fill(
    store: &dyn Store,
    state: &State,
    stamps: &Stamps,
    now_ms: i64,
) -> Result<(), RecoveryError> {
    let stored = store.origins(Some(state.machine())).await?;
    let filled = block_in_place(|| {
        let origins = state.rebuild(&stored)?;
        state.put_meta(FILLED, &true).map(|()| origins)
    });
    match filled? {
        0 => {}
        origins => {
            // rows that are written again must beat those that the lost state has stamped
            let spans = stored.iter().flat_map(|origin| &origin.spans);
            let newest_ms = spans.map(|span| span.last_write_ms).max().unwrap_or(now_ms);
            stamps.begin_after(newest_ms.max(now_ms).saturating_add(STAMPS_AHEAD_MS) * 1000);
            tracing::info!(origins, "the state was rebuilt from the store");
        }
    }
    Ok(())
}
