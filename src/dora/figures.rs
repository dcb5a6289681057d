//! The five metrics, as pure functions: from deliveries to the events behind a figure, and from
//! these events to the figure, so that `report` and `explain` can never disagree.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::history::{Delivery, History, Period};

/// Version of the definitions. Whoever compares figures compares this first.
pub const DEFINITIONS: u32 = 1;

/// Durations behind a median. The true median lies between the smallest and the largest of 5
/// with 94 % (1 - 2 * 0.5^5); with fewer it may be anywhere.
pub const MEDIAN_EVENTS_MIN: usize = 5;

/// Deployments behind a rate: with fewer, one of them moves a share by more than 10 points.
pub const RATE_EVENTS_MIN: usize = 10;

const DAY_MS: i64 = 86_400_000;

/// The metrics, in the order of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// How often deployments reach production.
    DeploymentFrequency,
    /// From a change's commit until it is in production.
    LeadTime,
    /// The share of deployments that needed mending.
    ChangeFailureRate,
    /// From a failed deployment until service is restored.
    RecoveryTime,
    /// The share of deployments that were not planned, but made to mend.
    ReworkRate,
}

/// In what a figure is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Deployments a day.
    PerDay,
    /// Seconds.
    Seconds,
    /// A fraction of 1.
    Share,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::DeploymentFrequency,
        Self::LeadTime,
        Self::ChangeFailureRate,
        Self::RecoveryTime,
        Self::ReworkRate,
    ];

    /// The word of commands and of JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::DeploymentFrequency => "deployment_frequency",
            Self::LeadTime => "lead_time",
            Self::ChangeFailureRate => "change_failure_rate",
            Self::RecoveryTime => "recovery_time",
            Self::ReworkRate => "rework_rate",
        }
    }

    /// The name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeploymentFrequency => "deployment frequency",
            Self::LeadTime => "lead time for changes",
            Self::ChangeFailureRate => "change failure rate",
            Self::RecoveryTime => "failed deployment recovery time",
            Self::ReworkRate => "rework rate",
        }
    }

    /// From its word, also with dashes for underscores.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.replace('-', "_");
        Self::ALL.into_iter().find(|one| one.word() == word)
    }

    /// In what it is given.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Self::DeploymentFrequency => Unit::PerDay,
            Self::LeadTime | Self::RecoveryTime => Unit::Seconds,
            Self::ChangeFailureRate | Self::ReworkRate => Unit::Share,
        }
    }

    /// Fewer events than this are said beside the figure.
    #[must_use]
    pub const fn events_min(self) -> usize {
        match self.unit() {
            Unit::Seconds => MEDIAN_EVENTS_MIN,
            Unit::PerDay | Unit::Share => RATE_EVENTS_MIN,
        }
    }

    /// Whether more of it is better.
    #[must_use]
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::DeploymentFrequency)
    }
}

/// One event that was looked at for a figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evidence {
    /// The deployment, or the cycle.
    pub deployment: String,
    /// Its service.
    pub service: String,
    /// Its team.
    pub team: String,
    /// When it was in production, in milliseconds.
    pub at_ms: i64,
    /// What it adds: seconds, or 1 and 0 for a share; nothing if it does not count.
    pub value: Option<f64>,
    /// The change, the incidents, or why it does not count.
    pub detail: String,
    /// Why it does not count, in words of a closed list.
    pub left_out: Option<LeftOut>,
}

/// Why an event does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// It never reached production.
    NotInProduction,
    /// Nobody said what it brought.
    NoChanges,
    /// The first deployment of a service brings what gathered before anybody counted.
    BeforeAdoption,
    /// The change was in production already.
    DeployedBefore,
    /// The clock of the commit or of the incident is wrong, or the name is.
    TimesDisagree,
    /// It is not mended yet.
    NotRestored,
}

impl LeftOut {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotInProduction => "did not reach production",
            Self::NoChanges => "names no changes",
            Self::BeforeAdoption => "came with the first deployment of its service",
            Self::DeployedBefore => "was in production already",
            Self::TimesDisagree => "ends before it begins",
            Self::NotRestored => "is not restored yet",
        }
    }
}

/// Median and its like, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Half are shorter.
    pub median: f64,
    /// 9 of 10 are shorter.
    pub p90: f64,
    /// The arithmetic mean.
    pub mean: f64,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Of what.
    pub metric: Metric,
    /// In what.
    pub unit: Unit,
    /// The figure: a rate, a share, or the median of durations; nothing without events.
    pub value: Option<f64>,
    /// Of the durations; for the frequency, of the times between deployments.
    pub spread: Option<Spread>,
    /// Events that the figure counts: deployments, changes, failed deployments.
    pub events: usize,
    /// For a share: of so many deployments.
    pub of: Option<usize>,
    /// For the frequency: over so many days.
    pub days: Option<f64>,
    /// There are as many events as such a figure needs.
    pub enough: bool,
    /// Events that do not count, by reason.
    pub left_out: BTreeMap<LeftOut, usize>,
}

/// The number as a float: no list of ours is longer than 2^32.
#[must_use]
pub fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

/// Milliseconds as seconds.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "exact for 285,000 years")]
pub fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

/// The quantile of numbers in order, between the neighbours of its place in proportion. The
/// median of an even number of them is the middle of the two in the middle.
#[must_use]
pub fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = float(last) * part.clamp(0.0, 1.0);
    // a place is at most the length of a list
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let below = place.floor() as usize;
    let (low, high) = (sorted.get(below)?, sorted.get((below + 1).min(last))?);
    Some(low + (high - low) * (place - float(below)))
}

impl Spread {
    /// Of these; nothing of none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let mean = sorted.iter().sum::<f64>() / float(sorted.len());
        Some(Self { median: quantile(&sorted, 0.5)?, p90: quantile(&sorted, 0.9)?, mean })
    }
}

/// The events behind a figure of a period, oldest first, those that do not count included.
#[must_use]
pub fn evidence(metric: Metric, history: &History, period: Period) -> Vec<Evidence> {
    let within = || history.deliveries.iter().filter(|one| period.has(one.at_ms));
    match metric {
        Metric::DeploymentFrequency => within().map(reached).collect(),
        Metric::LeadTime => lead_times(history, period),
        Metric::ChangeFailureRate => within().map(failure).collect(),
        Metric::RecoveryTime => recoveries(history, period),
        Metric::ReworkRate => within()
            .map(|one| {
                let word = if one.rework { "not planned" } else { "planned" };
                counted(one, f64::from(u8::from(one.rework)), word.to_owned())
            })
            .collect(),
    }
}

fn counted(delivery: &Delivery, value: f64, detail: String) -> Evidence {
    Evidence {
        deployment: delivery.id.clone(),
        service: delivery.service.clone(),
        team: delivery.team.clone(),
        at_ms: delivery.at_ms,
        value: Some(value),
        detail,
        left_out: None,
    }
}

fn left_out(delivery: &Delivery, why: LeftOut, what: &str) -> Evidence {
    let detail =
        if what.is_empty() { why.words().into() } else { format!("{what} {}", why.words()) };
    Evidence { value: None, left_out: Some(why), ..counted(delivery, 0.0, detail) }
}

fn reached(delivery: &Delivery) -> Evidence {
    if delivery.succeeded {
        counted(delivery, 1.0, String::new())
    } else {
        left_out(delivery, LeftOut::NotInProduction, "")
    }
}

fn failure(delivery: &Delivery) -> Evidence {
    let incidents: Vec<&str> = delivery.incidents.iter().map(|one| one.id.as_str()).collect();
    let detail = match (delivery.succeeded, incidents.as_slice()) {
        (true, []) => "went well".to_owned(),
        (true, incidents) => format!("incident {}", incidents.join(", ")),
        (false, []) => "could not be made".to_owned(),
        (false, incidents) => format!("could not be made, incident {}", incidents.join(", ")),
    };
    counted(delivery, f64::from(u8::from(delivery.failed())), detail)
}

/// Each change once a service: when it first reached production.
fn lead_times(history: &History, period: Period) -> Vec<Evidence> {
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    let mut found = Vec::new();
    for delivery in &history.deliveries {
        let within = period.has(delivery.at_ms);
        if !delivery.succeeded || delivery.changes.is_empty() {
            let why =
                if delivery.succeeded { LeftOut::NoChanges } else { LeftOut::NotInProduction };
            found.extend(within.then(|| left_out(delivery, why, "")));
            continue;
        }
        for change in &delivery.changes {
            let is_new = seen.insert((&delivery.service, &change.id));
            if !within {
                continue;
            }
            let took_ms = delivery.at_ms.saturating_sub(change.committed_ms);
            let why = match (is_new, delivery.first, took_ms) {
                (false, _, _) => Some(LeftOut::DeployedBefore),
                (_, true, _) => Some(LeftOut::BeforeAdoption),
                (_, _, ..0) => Some(LeftOut::TimesDisagree),
                _ => None,
            };
            found.push(match why {
                Some(why) => left_out(delivery, why, &change.id),
                None => counted(delivery, seconds(took_ms), change.id.clone()),
            });
        }
    }
    found
}

/// From each failed deployment until its last incident was closed; without incidents, until the
/// next deployment of the service that went well.
fn recoveries(history: &History, period: Period) -> Vec<Evidence> {
    let mut mended: BTreeMap<&str, &Delivery> = BTreeMap::new();
    let mut found = Vec::new();
    for delivery in history.deliveries.iter().rev() {
        if !delivery.failed() {
            mended.insert(&delivery.service, delivery);
            continue;
        }
        if !period.has(delivery.at_ms) {
            continue;
        }
        let incidents = &delivery.incidents;
        let (end_ms, detail) = if incidents.is_empty() {
            let next = mended.get(delivery.service.as_str()).copied();
            let detail = next.map(|next| format!("until deployment {}", next.id));
            (next.map(|next| next.at_ms), detail)
        } else {
            let closed: Option<Vec<i64>> = incidents.iter().map(|one| one.closed_ms).collect();
            let last = incidents.iter().max_by_key(|one| one.closed_ms);
            let detail = last.map(|one| format!("until incident {} was closed", one.id));
            (closed.and_then(|closed| closed.into_iter().max()), detail)
        };
        found.push(match end_ms {
            None => left_out(delivery, LeftOut::NotRestored, ""),
            Some(end_ms) if end_ms < delivery.at_ms => {
                left_out(delivery, LeftOut::TimesDisagree, "the incident")
            }
            Some(end_ms) => counted(
                delivery,
                seconds(end_ms.saturating_sub(delivery.at_ms)),
                detail.unwrap_or_default(),
            ),
        });
    }
    found.reverse();
    found
}

/// Days of a period since the first declared delivery; at least one, so that a first hour does
/// not promise a rate.
#[must_use]
pub fn days(history: &History, period: Period) -> Option<f64> {
    let starts_ms = history.starts_ms.filter(|starts| *starts < period.until_ms)?;
    let length = period.until_ms.saturating_sub(period.since_ms.max(starts_ms));
    Some(seconds(length.max(DAY_MS)) / seconds(DAY_MS))
}

/// The figure that these events give.
#[must_use]
pub fn figure(metric: Metric, evidence: &[Evidence], days: Option<f64>) -> Figure {
    let values: Vec<f64> = evidence.iter().filter_map(|one| one.value).collect();
    let mut left_out: BTreeMap<LeftOut, usize> = BTreeMap::new();
    for why in evidence.iter().filter_map(|one| one.left_out) {
        *left_out.entry(why).or_default() += 1;
    }
    let (value, spread) = match metric.unit() {
        Unit::PerDay => (days.map(|days| float(values.len()) / days), Spread::of(&gaps(evidence))),
        Unit::Seconds => {
            let spread = Spread::of(&values);
            (spread.map(|spread| spread.median), spread)
        }
        Unit::Share if values.is_empty() => (None, None),
        Unit::Share => (Some(values.iter().sum::<f64>() / float(values.len())), None),
    };
    let is_share = metric.unit() == Unit::Share;
    let failed = values.iter().filter(|value| **value > 0.0).count();
    Figure {
        metric,
        unit: metric.unit(),
        value,
        spread,
        events: if is_share { failed } else { values.len() },
        of: is_share.then_some(values.len()),
        days: if metric.unit() == Unit::PerDay { days } else { None },
        enough: values.len() >= metric.events_min(),
        left_out,
    }
}

/// Seconds between the events that count.
fn gaps(evidence: &[Evidence]) -> Vec<f64> {
    let times: Vec<i64> =
        evidence.iter().filter(|one| one.value.is_some()).map(|one| one.at_ms).collect();
    times.iter().zip(times.iter().skip(1)).map(|(a, b)| seconds(b.saturating_sub(*a))).collect()
}

/// All of it for one metric and period.
#[must_use]
pub fn measure(metric: Metric, history: &History, period: Period) -> Figure {
    figure(metric, &evidence(metric, history, period), days(history, period))
}

#[cfg(test)]
#[path = "figures_tests.rs"]
mod tests;
