//! How a cycle ends: by a last phase `maintenance` that says so. It takes no time of its own, and
//! it is no deployment: reports count none twice.

use serde_json::Value;

use super::events::{Decision, Phase, PhaseName, seconds_text};
use super::{DoraError, DoraStore, pending};

/// The key in its metadata.
pub const COMPLETED: &str = "completed";

/// What became of a completion.
#[derive(Debug, Clone, PartialEq)]
pub enum Completion {
    /// Nobody knows the cycle.
    Unknown,
    /// It is completed already, by this phase.
    Known(Phase),
    /// It is recorded.
    New {
        /// As it stands.
        phase: Phase,
        /// From the start of the cycle's first phase, in hundredths of a second.
        took_cs: i64,
    },
}

/// Completes a cycle; with `dry_run` only says how.
///
/// # Errors
///
/// The database's, or the time cannot be.
pub async fn complete(
    store: &dyn DoraStore,
    cycle_id: &str,
    decision: Decision,
    at_ms: i64,
    dry_run: bool,
) -> Result<Completion, DoraError> {
    let phases = store.cycle(cycle_id).await?;
    let done = |phase: &&Phase| phase.metadata.get(COMPLETED) == Some(&Value::Bool(true));
    if let Some(known) = phases.iter().find(done) {
        return Ok(Completion::Known(known.clone()));
    }
    let began = phases.iter().map(|phase| phase.created_ms - phase.duration_cs * 10).min();
    let (Some(began), Some(last)) = (began, phases.last()) else {
        return Ok(Completion::Unknown);
    };
    let took_cs = ((at_ms - began) / 10).max(0);
    // service and team are the cycle's, as its phase before says
    let mut metadata = serde_json::Map::new();
    for key in ["service", "team"] {
        if let Some(value) = last.metadata.get(key) {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
    metadata.insert(COMPLETED.to_owned(), Value::Bool(true));
    metadata.insert("cycle_seconds".to_owned(), Value::String(seconds_text(took_cs)));
    let phase = Phase {
        cycle_id: cycle_id.to_owned(),
        feature_id: last.feature_id.clone(),
        name: PhaseName::Maintenance,
        decision,
        duration_cs: 0,
        metadata,
        created_ms: at_ms,
    };
    phase.check()?;
    let phase = if dry_run { phase } else { pending::record(store, phase).await? };
    Ok(Completion::New { phase, took_cs })
}
