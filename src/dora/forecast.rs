//! What the own history lets expect: deployments in the next days, and the lead time of the next
//! change. Monte Carlo over that history, no model; every answer comes with how such forecasts
//! did on history that was held out.

use serde::{Serialize, Serializer};

use super::chance::Chance;
use super::figures::{Metric, evidence, float, quantile};
use super::history::{History, Period};

/// Fewer events than this are no history to draw from.
pub const EVENTS_MIN: usize = 20;

/// A week is the block that is drawn: it keeps what days of the week have in common. So many of
/// them are the least.
pub const WEEKS_MIN: usize = 4;

/// Older weeks say little of how a team works today.
pub const WEEKS_MAX: usize = 52;

/// Days of history that are read: a year to draw from, and a year to test on.
pub const HISTORY_DAYS: u32 = 728;

/// Changes that the lead time is drawn from: the newest ones.
const CHANGES_MAX: usize = 300;

/// The part of what comes that an interval is meant to hold.
pub const MEANT: f64 = 0.8;

/// Forecasts into held-out history below which nothing is said of how they did.
pub const TESTS_MIN: usize = 5;

/// Earlier forecasts that the width of an interval is fitted to; with fewer it stays as drawn.
const FITTED_MIN: usize = 8;

const TRIALS: usize = 4000;
const TRIALS_OF_A_TEST: usize = 400;
const TESTS_MAX: usize = 120;
const DAY_MS: i64 = 86_400_000;

/// A forecast.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// Over so many days.
    pub days: u32,
    /// The numbers were drawn from this seed.
    pub seed: u64,
    /// How many deployments reach production.
    #[serde(serialize_with = "expected_or_why")]
    pub deployments: Result<Expected, Refused>,
    /// How long the next change takes, in seconds.
    #[serde(serialize_with = "expected_or_why")]
    pub lead_time: Result<Expected, Refused>,
}

fn expected_or_why<S: Serializer>(
    answer: &Result<Expected, Refused>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match answer {
        Ok(expected) => expected.serialize(serializer),
        Err(refused) => serializer.collect_map([("refused", refused.to_string())]),
    }
}

/// Why nothing is forecast.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found} {what} are too few for a forecast, {least} are needed")]
pub struct Refused {
    /// Of what there are too few.
    pub what: &'static str,
    /// So many there are.
    pub found: usize,
    /// So many are needed.
    pub least: usize,
}

/// What is to be expected.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Expected {
    /// Events of the history that it was drawn from.
    pub events: usize,
    /// As likely more as less.
    pub median: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// The part of all cases that the interval is meant to hold.
    pub meant: f64,
    /// The part of the drawn cases that it holds: what it took to hold the meant part of those
    /// that it was fitted to.
    pub drawn: f64,
    /// 5, 25, 50, 75 and 95 of 100 drawn cases are below these.
    pub percentiles: [f64; 5],
    /// How such forecasts did on held-out history.
    pub test: Test,
}

/// How forecasts did: each was made from the history before it alone, with the width that was
/// fitted to still earlier ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Test {
    /// So many were made.
    pub forecasts: usize,
    /// So many held what came.
    pub held: usize,
    /// The part of them; nothing if there are too few to say.
    pub coverage: Option<f64>,
    /// So many earlier ones the width was fitted to; 0 if it was not fitted.
    pub fitted_to: usize,
    /// The coverage can be what was meant, chance included.
    pub sound: Option<bool>,
}

/// A forecast into held-out history: what was drawn, in order, and what came.
struct Trial {
    drawn: Vec<f64>,
    came: f64,
}

/// Forecasts from a history that ends at `now_ms`.
#[must_use]
pub fn forecast(history: &History, days: u32, seed: u64, now_ms: i64) -> Forecast {
    Forecast {
        days,
        seed,
        deployments: deployments(history, days, seed, now_ms),
        lead_time: lead_time(history, seed, now_ms),
    }
}

fn deployments(history: &History, days: u32, seed: u64, now_ms: i64) -> Result<Expected, Refused> {
    let starts_ms = history.starts_ms.unwrap_or(now_ms).min(now_ms);
    let span = usize::try_from((now_ms - starts_ms) / DAY_MS).unwrap_or(0);
    // days before now, the last one first; what is older than whole weeks is left out
    let weeks = span / 7;
    let mut counts = vec![0.0; weeks * 7];
    for delivery in history.deliveries.iter().filter(|one| one.succeeded && one.at_ms < now_ms) {
        let back = usize::try_from((now_ms - 1 - delivery.at_ms) / DAY_MS).unwrap_or(usize::MAX);
        if let Some(count) = counts.get_mut(back) {
            *count += 1.0;
        }
    }
    counts.reverse();
    let blocks: Vec<&[f64]> = counts.chunks(7).collect();
    let recent = blocks.get(blocks.len().saturating_sub(WEEKS_MAX)..).unwrap_or_default();
    let events = sum(recent.iter().copied().flatten());
    refuse_below(WEEKS_MIN, weeks, "weeks of history")?;
    refuse_below(EVENTS_MIN, events, "deployments")?;
    let horizon = usize::try_from(days).unwrap_or(usize::MAX).max(1);
    let mut chance = Chance::new(seed);
    let mut trials = Vec::new();
    for cut in WEEKS_MIN..blocks.len() {
        let (before, after) = blocks.split_at(cut);
        let before = before.get(cut.saturating_sub(WEEKS_MAX)..).unwrap_or_default();
        let came: Vec<f64> = after.iter().copied().flatten().take(horizon).copied().collect();
        let known = sum(before.iter().copied().flatten());
        if came.len() == horizon && known >= EVENTS_MIN {
            let drawn = draw_weeks(before, horizon, TRIALS_OF_A_TEST, &mut chance);
            trials.push(Trial { drawn, came: came.iter().sum() });
        }
    }
    let drawn = draw_weeks(recent, horizon, TRIALS, &mut Chance::new(seed.wrapping_add(1)));
    Ok(Expected::new(events, &drawn, &trials))
}

fn lead_time(history: &History, seed: u64, now_ms: i64) -> Result<Expected, Refused> {
    let all = Period { since_ms: i64::MIN, until_ms: now_ms };
    let events = evidence(Metric::LeadTime, history, all);
    let took: Vec<(i64, f64)> =
        events.iter().filter_map(|one| one.value.map(|value| (one.at_ms, value))).collect();
    refuse_below(EVENTS_MIN, took.len(), "changes with a lead time")?;
    let mut chance = Chance::new(seed.wrapping_add(2));
    let values = |known: &[(i64, f64)]| -> Vec<f64> {
        let newest = known.get(known.len().saturating_sub(CHANGES_MAX)..).unwrap_or_default();
        newest.iter().map(|(_, value)| *value).collect()
    };
    let first = took.len().saturating_sub(TESTS_MAX).max(EVENTS_MIN);
    let mut trials = Vec::new();
    for (at_ms, came) in took.iter().skip(first) {
        // changes of the same deployment are not known before it
        let known = took.partition_point(|(known_ms, _)| known_ms < at_ms);
        let known = values(took.get(..known).unwrap_or_default());
        if known.len() >= EVENTS_MIN {
            let drawn = draw_values(&known, TRIALS_OF_A_TEST, &mut chance);
            trials.push(Trial { drawn, came: *came });
        }
    }
    let known = values(&took);
    let drawn = draw_values(&known, TRIALS, &mut Chance::new(seed.wrapping_add(3)));
    Ok(Expected::new(known.len(), &drawn, &trials))
}

/// A sum of counts, as a number of events.
fn sum<'a>(counts: impl Iterator<Item = &'a f64>) -> usize {
    // a list of deliveries in memory is shorter than 2^53
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = counts.sum::<f64>() as usize;
    whole
}

fn refuse_below(least: usize, found: usize, what: &'static str) -> Result<(), Refused> {
    if found < least { Err(Refused { what, found, least }) } else { Ok(()) }
}

/// Deployments within the horizon, in order. Each case first draws which weeks the history might
/// have had, then the coming weeks from those: so that it also holds how little a short history
/// knows of the rate.
fn draw_weeks(weeks: &[&[f64]], horizon: usize, cases: usize, chance: &mut Chance) -> Vec<f64> {
    let mut drawn = Vec::with_capacity(cases);
    for _ in 0..cases {
        let pool: Vec<&[f64]> =
            (0..weeks.len()).filter_map(|_| chance.one(weeks).copied()).collect();
        let mut sum = 0.0;
        let mut left = horizon;
        while left > 0 {
            let Some(week) = chance.one(&pool) else { break };
            sum += week.iter().take(left).sum::<f64>();
            left = left.saturating_sub(week.len());
        }
        drawn.push(sum);
    }
    drawn.sort_by(f64::total_cmp);
    drawn
}

/// One value a case, in order.
fn draw_values(known: &[f64], cases: usize, chance: &mut Chance) -> Vec<f64> {
    let mut drawn: Vec<f64> = (0..cases).filter_map(|_| chance.one(known).copied()).collect();
    drawn.sort_by(f64::total_cmp);
    drawn
}

/// The interval that holds the middle part of what was drawn.
fn interval(drawn: &[f64], part: f64) -> (f64, f64) {
    let edge = |at: f64| quantile(drawn, at).unwrap_or_default();
    (edge(0.5 - part / 2.0), edge(0.5 + part / 2.0))
}

impl Trial {
    /// The part of the drawn cases that an interval must hold to hold what came, too.
    fn needed(&self) -> f64 {
        let below = float(self.drawn.partition_point(|one| *one < self.came));
        let up_to = float(self.drawn.partition_point(|one| *one <= self.came));
        let rank = f64::midpoint(below, up_to) / float(self.drawn.len().max(1));
        (2.0 * rank - 1.0).abs()
    }

    fn held(&self, part: f64) -> bool {
        let (low, high) = interval(&self.drawn, part);
        (low..=high).contains(&self.came)
    }
}

/// The part of the drawn cases that held the meant part of earlier forecasts (split conformal
/// prediction: the place is taken among one more than there are).
fn fit(trials: &[Trial]) -> f64 {
    if trials.len() < FITTED_MIN {
        return MEANT;
    }
    let mut needed: Vec<f64> = trials.iter().map(Trial::needed).collect();
    needed.sort_by(f64::total_cmp);
    let place = (float(trials.len()) + 1.0) * MEANT;
    // a place is at most the length of a list
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let place = (place.ceil() as usize).saturating_sub(1);
    needed.get(place).copied().unwrap_or(1.0)
}

impl Expected {
    /// The older half of the trials gives the width, the newer half tells how it did.
    fn new(events: usize, drawn: &[f64], trials: &[Trial]) -> Self {
        let half = trials.len() / 2;
        let (fitted, tested) =
            if half < FITTED_MIN { trials.split_at(0) } else { trials.split_at(half) };
        let part = fit(fitted);
        let held = tested.iter().filter(|trial| trial.held(part)).count();
        let says = tested.len() >= TESTS_MIN;
        let coverage = says.then(|| float(held) / float(tested.len()));
        // two standard errors of the part that is meant; more than was meant is no harm
        let slack = 2.0 * (MEANT * (1.0 - MEANT) / float(tested.len().max(1))).sqrt();
        let (low, high) = interval(drawn, part);
        let at = |place: f64| quantile(drawn, place).unwrap_or_default();
        Self {
            events,
            median: at(0.5),
            low,
            high,
            meant: MEANT,
            drawn: part,
            percentiles: [at(0.05), at(0.25), at(0.5), at(0.75), at(0.95)],
            test: Test {
                forecasts: tested.len(),
                held,
                coverage,
                fitted_to: fitted.len(),
                sound: coverage.map(|coverage| coverage >= MEANT - slack),
            },
        }
    }
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
