//! The report: the five figures of a period, their bands, and how they moved.

use serde::Serialize;

use super::bands::{self, Band};
use super::figures::{DEFINITIONS, Figure, Metric, measure};
use super::history::{History, Period, Scope};
use super::{DoraError, DoraStore};

/// Which way a figure went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Better than before.
    Better,
    /// Worse than before.
    Worse,
    /// The same figure.
    Same,
}

/// A figure against the one of the period before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trend {
    /// The figure before.
    pub previous: Figure,
    /// This one less that one, in the figure's unit.
    pub change: Option<f64>,
    /// The change in percent of the figure before, where that is not 0.
    pub percent: Option<f64>,
    /// Which way, where both have a value.
    pub direction: Option<Direction>,
    /// Both have enough events; else the difference says little.
    pub enough: bool,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The figure.
    #[serde(flatten)]
    pub figure: Figure,
    /// Where it stands among those that were published.
    pub band: Option<Band>,
    /// How it moved.
    pub trend: Trend,
}

/// The report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of the definitions.
    pub definitions: u32,
    /// First moment, in milliseconds.
    pub since_ms: i64,
    /// First moment after it, in milliseconds.
    pub until_ms: i64,
    /// This service only.
    pub service: Option<String>,
    /// This team only.
    pub team: Option<String>,
    /// When the first delivery was declared: nothing is counted before it.
    pub starts_ms: Option<i64>,
    /// Where the bands come from.
    pub bands: &'static str,
    /// The five figures.
    pub figures: Vec<Line>,
    /// Incidents of the period that name no deployment, and so are nobody's failure.
    pub stray_incidents: usize,
}

/// Reports on the last `days` days before `now_ms`.
///
/// # Errors
///
/// The store's.
pub async fn report(
    store: &dyn DoraStore,
    scope: &Scope,
    days: u32,
    now_ms: i64,
) -> Result<Report, DoraError> {
    let period = Period::last_days(days, now_ms);
    let history = load(store, scope, period, now_ms).await?;
    Ok(of(&history, scope, period))
}

/// What the figures of a period need: it, the period before, and one more, in which changes may
/// have been deployed already.
///
/// # Errors
///
/// The store's.
pub async fn load(
    store: &dyn DoraStore,
    scope: &Scope,
    period: Period,
    now_ms: i64,
) -> Result<History, DoraError> {
    let earliest = period.before().before().since_ms;
    History::load(store, scope, earliest, now_ms.max(period.until_ms)).await
}

/// The report of a history.
#[must_use]
pub fn of(history: &History, scope: &Scope, period: Period) -> Report {
    let figures = Metric::ALL.into_iter().map(|metric| line(metric, history, period)).collect();
    let strays = history.stray_incidents.iter().filter(|one| period.has(one.opened_ms));
    Report {
        definitions: DEFINITIONS,
        since_ms: period.since_ms,
        until_ms: period.until_ms,
        service: scope.service.clone(),
        team: scope.team.clone(),
        starts_ms: history.starts_ms,
        bands: bands::SOURCE,
        figures,
        stray_incidents: strays.count(),
    }
}

fn line(metric: Metric, history: &History, period: Period) -> Line {
    let figure = measure(metric, history, period);
    let previous = measure(metric, history, period.before());
    let band = bands::of(&figure);
    let trend = Trend::new(&figure, previous);
    Line { figure, band, trend }
}

impl Trend {
    /// From a figure and the one before it.
    #[must_use]
    pub fn new(figure: &Figure, previous: Figure) -> Self {
        let both = figure.value.zip(previous.value);
        let change = both.map(|(now, before)| now - before);
        let percent = both.filter(|(_, before)| *before > 0.0);
        let percent = percent.map(|(now, before)| (now - before) / before * 100.0);
        let direction = change.map(|change| match (change > 0.0, change < 0.0) {
            (false, false) => Direction::Same,
            (up, _) if up == figure.metric.more_is_better() => Direction::Better,
            _ => Direction::Worse,
        });
        let enough = figure.enough && previous.enough;
        Self { previous, change, percent, direction, enough }
    }
}
