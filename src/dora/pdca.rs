//! Plan, do, check, act: a proposal freezes the figure that it wants to better; after its window
//! the same figure is measured again and judged.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::events::Pdca;
use super::figures::{DEFINITIONS, Figure, Metric, measure};
use super::history::{Period, Scope};
use super::{DoraError, DoraStore, report};

/// A change of less than this part of the baseline is none: figures of a few dozen events move
/// as much by chance.
pub const LEAST_CHANGE: f64 = 0.15;

/// What rounding may add to a change that is exactly [`LEAST_CHANGE`].
const ROUNDING: f64 = 1e-9;

const DAY_MS: i64 = 86_400_000;

/// The words of column `status`.
pub mod status {
    /// Nothing was changed yet.
    pub const PROPOSED: &str = "proposed";
    /// The change was made; its window runs.
    pub const APPLIED: &str = "applied_for_check";
    /// It was better by more than 15 %.
    pub const ADOPTED: &str = "adopted";
    /// Neither better nor worse; it may be checked again.
    pub const WATCHING: &str = "watching";
    /// It was worse by more than 15 %.
    pub const REVERTED: &str = "reverted";
}

/// Why a step is not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PdcaError {
    /// The database.
    #[error(transparent)]
    Store(#[from] DoraError),
    /// No such proposal.
    #[error("there is no proposal {id:?}; `bitacora dora pdca list` shows all")]
    Unknown {
        /// The name.
        id: String,
    },
    /// There is one of this name.
    #[error("there is a proposal {id:?} already; choose another --id")]
    Taken {
        /// The name.
        id: String,
    },
    /// A step out of order.
    #[error("proposal {id:?} is {status}: {advice}")]
    Order {
        /// The name.
        id: String,
        /// Where it stands.
        status: String,
        /// What to do.
        advice: &'static str,
    },
    /// Too few events for a figure that means something.
    #[error("{name} of {since} to {until} has only {events} events, {least} are needed; {advice}")]
    TooFew {
        /// The metric.
        name: &'static str,
        /// Events that count.
        events: usize,
        /// Events that are needed.
        least: usize,
        /// First moment of the period.
        since: Timestamp,
        /// Its end.
        until: Timestamp,
        /// What to do.
        advice: &'static str,
    },
    /// The window still runs.
    #[error("the window of proposal {id:?} ends at {ends}; check it then")]
    TooEarly {
        /// The name.
        id: String,
        /// When.
        ends: Timestamp,
    },
    /// What is stored is not what this program writes.
    #[error("proposal {id:?} cannot be judged: {detail}; propose it again")]
    Baseline {
        /// The name.
        id: String,
        /// What is wrong.
        detail: String,
    },
    /// What is asked cannot be.
    #[error("{0}")]
    Invalid(String),
}

/// What is proposed.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Its name.
    pub id: String,
    /// What it wants to better.
    pub metric: Metric,
    /// In a sentence or two.
    pub text: String,
    /// Whose events.
    pub scope: Scope,
    /// How long before, and how long after.
    pub window_days: u32,
}

/// Plan: measures the baseline and gives the proposal, to be put into the store.
///
/// # Errors
///
/// The name is taken, or the baseline has too few events: nothing could be judged by it.
pub async fn propose(
    store: &dyn DoraStore,
    proposal: &Proposal,
    now_ms: i64,
) -> Result<Pdca, PdcaError> {
    if store.pdcas().await?.iter().any(|one| one.id == proposal.id) {
        return Err(PdcaError::Taken { id: proposal.id.clone() });
    }
    let period = Period::last_days(proposal.window_days, now_ms);
    let advice = "take a longer --window-days, or wait";
    let figure = enough(store, proposal.metric, &proposal.scope, period, now_ms, advice).await?;
    Ok(Pdca {
        id: proposal.id.clone(),
        metric: proposal.metric.word().to_owned(),
        proposal: proposal.text.clone(),
        service: proposal.scope.service.clone().unwrap_or_default(),
        team: proposal.scope.team.clone().unwrap_or_default(),
        baseline: measured(&figure, period),
        window_days: proposal.window_days,
        status: status::PROPOSED.to_owned(),
        created_ms: now_ms,
        applied_ms: None,
        checked_ms: None,
        result: Value::Null,
    })
}

/// Do: the change is made, its window begins.
///
/// # Errors
///
/// There is no such proposal, or it was applied before.
pub async fn apply(store: &dyn DoraStore, id: &str, applied_ms: i64) -> Result<Pdca, PdcaError> {
    let pdca = find(store, id).await?;
    if pdca.status != status::PROPOSED {
        let advice = "it was applied before";
        return Err(PdcaError::Order { id: id.to_owned(), status: pdca.status, advice });
    }
    if applied_ms < pdca.created_ms {
        return Err(PdcaError::Invalid(format!(
            "proposal {id:?} cannot be applied before it was proposed"
        )));
    }
    Ok(Pdca { status: status::APPLIED.to_owned(), applied_ms: Some(applied_ms), ..pdca })
}

/// Check and act: measures again after the window and judges. What is under watch may be checked
/// again after one more window, against the same baseline.
///
/// # Errors
///
/// The window still runs, has too few events, or the proposal is not applied or decided already.
pub async fn check(store: &dyn DoraStore, id: &str, now_ms: i64) -> Result<Pdca, PdcaError> {
    let pdca = find(store, id).await?;
    let order =
        |advice| PdcaError::Order { id: id.to_owned(), status: pdca.status.clone(), advice };
    let damaged = |detail: &str| PdcaError::Baseline { id: id.to_owned(), detail: detail.into() };
    let since_ms = match pdca.status.as_str() {
        status::APPLIED => pdca.applied_ms,
        status::WATCHING => pdca.result.get("until_ms").and_then(Value::as_i64),
        status::PROPOSED => return Err(order("make the change, then run `pdca apply`")),
        _ => return Err(order("it is decided")),
    };
    let since_ms = since_ms.ok_or_else(|| damaged("nobody knows when it was applied"))?;
    let until_ms = since_ms.saturating_add(i64::from(pdca.window_days).saturating_mul(DAY_MS));
    if now_ms < until_ms {
        return Err(PdcaError::TooEarly { id: id.to_owned(), ends: at(until_ms) });
    }
    if pdca.baseline.get("definitions").and_then(Value::as_u64) != Some(u64::from(DEFINITIONS)) {
        return Err(damaged("its baseline was measured by other definitions"));
    }
    let metric = Metric::from_word(&pdca.metric).ok_or_else(|| damaged("its metric is unknown"))?;
    let baseline = pdca.baseline.get("value").and_then(Value::as_f64);
    let baseline = baseline.ok_or_else(|| damaged("its baseline has no value"))?;
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let scope = Scope { service: some(&pdca.service), team: some(&pdca.team) };
    let period = Period { since_ms, until_ms };
    let advice = "it cannot be judged; propose it again with a longer window";
    let figure = enough(store, metric, &scope, period, now_ms, advice).await?;
    let better = improvement(metric, baseline, figure.value.unwrap_or_default());
    let verdict = verdict(better);
    let mut result = measured(&figure, period);
    if let Value::Object(result) = &mut result {
        result.insert("verdict".into(), verdict.into());
        result.insert(
            "better_percent".into(),
            better.map_or(Value::Null, |part| json!(part * 100.0)),
        );
        if !pdca.result.is_null() {
            result.insert("earlier".into(), pdca.result.clone());
        }
    }
    Ok(Pdca { status: verdict.to_owned(), checked_ms: Some(now_ms), result, ..pdca })
}

/// By which part of the baseline a figure is better; below 0 it is worse. Nothing where the
/// baseline is 0 and the figure is not: any part of nothing is endless.
#[must_use]
pub fn improvement(metric: Metric, baseline: f64, after: f64) -> Option<f64> {
    let more = after - baseline;
    let better = if metric.more_is_better() { more } else { -more };
    if better == 0.0 { Some(0.0) } else { (baseline > 0.0).then(|| better / baseline) }
}

/// What follows from an improvement. A baseline of 0 can only be left for the worse: the one
/// metric of which more is better is never proposed without events.
#[must_use]
pub fn verdict(better: Option<f64>) -> &'static str {
    match better {
        Some(part) if part > LEAST_CHANGE + ROUNDING => status::ADOPTED,
        Some(part) if part >= -LEAST_CHANGE - ROUNDING => status::WATCHING,
        _ => status::REVERTED,
    }
}

async fn find(store: &dyn DoraStore, id: &str) -> Result<Pdca, PdcaError> {
    let found = store.pdcas().await?.into_iter().find(|one| one.id == id);
    found.ok_or_else(|| PdcaError::Unknown { id: id.to_owned() })
}

/// The figure of a period, if it has enough events.
async fn enough(
    store: &dyn DoraStore,
    metric: Metric,
    scope: &Scope,
    period: Period,
    now_ms: i64,
    advice: &'static str,
) -> Result<Figure, PdcaError> {
    let history = report::load(store, scope, period, now_ms).await?;
    let figure = measure(metric, &history, period);
    if figure.enough {
        return Ok(figure);
    }
    Err(PdcaError::TooFew {
        name: metric.name(),
        events: figure.of.unwrap_or(figure.events),
        least: metric.events_min(),
        since: at(period.since_ms),
        until: at(period.until_ms),
        advice,
    })
}

fn measured(figure: &Figure, period: Period) -> Value {
    json!({
        "definitions": DEFINITIONS,
        "since_ms": period.since_ms,
        "until_ms": period.until_ms,
        "value": figure.value,
        "unit": figure.unit,
        "spread": figure.spread,
        "events": figure.events,
        "of": figure.of,
    })
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or_default()
}

#[cfg(test)]
#[path = "pdca_tests.rs"]
mod tests;
