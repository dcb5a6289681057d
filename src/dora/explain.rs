//! The events behind a figure, one by one.

use serde::Serialize;

use super::figures::{DEFINITIONS, Evidence, Figure, Metric, days, evidence, figure};
use super::history::{Period, Scope};
use super::{DoraError, DoraStore, report};

/// A figure and its events.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explained {
    /// Version of the definitions.
    pub definitions: u32,
    /// First moment, in milliseconds.
    pub since_ms: i64,
    /// First moment after it, in milliseconds.
    pub until_ms: i64,
    /// The figure of the report.
    pub figure: Figure,
    /// Its events, oldest first; those that do not count say why.
    pub events: Vec<Evidence>,
}

/// Explains a figure of the last `days_back` days before `now_ms`.
///
/// # Errors
///
/// The store's.
pub async fn explain(
    store: &dyn DoraStore,
    metric: Metric,
    scope: &Scope,
    days_back: u32,
    now_ms: i64,
) -> Result<Explained, DoraError> {
    let period = Period::last_days(days_back, now_ms);
    let history = report::load(store, scope, period, now_ms).await?;
    let events = evidence(metric, &history, period);
    Ok(Explained {
        definitions: DEFINITIONS,
        since_ms: period.since_ms,
        until_ms: period.until_ms,
        figure: figure(metric, &events, days(&history, period)),
        events,
    })
}
