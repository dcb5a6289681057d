//! How likely the next deployment fails, by what the own history shows: its size, the day of the
//! week, what failed lately. A logistic regression, drawn towards the base rate as far as held-out
//! history asks for; where it is no better than the base rate, that is the answer.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::figures::{float, seconds};
use super::forecast::{EVENTS_MIN, Refused};
use super::history::{Delivery, History};

/// Deployments that are learnt from: the newest ones.
const EVENTS_MAX: usize = 400;

/// Held-out deployments below which nothing is said of how the model does.
pub const TESTS_MIN: usize = 10;

/// So many deployments are "lately".
const LATELY: usize = 5;

/// Standard errors by which the model must beat the base rate: by chance alone 1 in 20 does.
const ERRORS_MIN: f64 = 1.645;

/// How strongly weights are held to 0; a small history must not learn its noise.
const RIDGE: f64 = 2.0;

const STEPS_FIRST: usize = 300;
const STEPS_MORE: usize = 25;
const SHRINKS: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];
const FEATURES: usize = 6;

/// What the features are called, in order.
pub const NAMES: [&str; FEATURES] =
    ["constant", "size", "the last one failed", "failures lately", "day of the week", "pause"];

type Features = [f64; FEATURES];

/// What is known of the next deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// When, in milliseconds.
    pub at_ms: i64,
    /// How many changes it brings; the median of the history if nobody says.
    pub changes: Option<usize>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Risk {
    /// Deployments that were learnt from.
    pub events: usize,
    /// So many of them failed.
    pub failures: usize,
    /// The share of failures, whatever the deployment is.
    pub base_rate: f64,
    /// That the next one fails.
    pub probability: f64,
    /// The features tell more than the base rate does, and the probability is by them.
    pub by_features: bool,
    /// Changes that were reckoned with.
    pub changes: usize,
    /// What each feature adds to the log odds of this deployment; empty if they tell nothing.
    pub reasons: Vec<(&'static str, f64)>,
    /// How it did on held-out history.
    pub test: Test,
}

/// How the predictions did: each was made from what was known before its deployment alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Test {
    /// So many were made.
    pub predictions: usize,
    /// Mean squared error of the model (Brier score; less is better).
    pub brier: Option<f64>,
    /// That of the base rate.
    pub brier_of_base_rate: Option<f64>,
    /// The model is better by more than chance explains.
    pub better: bool,
    /// The mean of what was predicted.
    pub predicted: Option<f64>,
    /// The share that failed.
    pub observed: Option<f64>,
    /// How much of the model's difference from the base rate is believed, fitted to still earlier
    /// history: 0 is none, 1 all.
    pub believed: f64,
}

/// A prediction of held-out history.
struct Guess {
    model: f64,
    base: f64,
    failed: f64,
}

/// The risk of the next deployment.
///
/// # Errors
///
/// There are fewer than 20 deployments.
pub fn risk(history: &History, next: Next) -> Result<Risk, Refused> {
    let known: Vec<&Delivery> =
        history.deliveries.iter().filter(|one| one.at_ms < next.at_ms).collect();
    let known = known.get(known.len().saturating_sub(EVENTS_MAX)..).unwrap_or_default();
    if known.len() < EVENTS_MIN {
        return Err(Refused { what: "deployments", found: known.len(), least: EVENTS_MIN });
    }
    let changes = next.changes.unwrap_or_else(|| median_size(known));
    let rows = rows(known);
    let guesses = guesses(known, &rows);
    let half = guesses.len() / 2;
    let (fitted, tested) = guesses.split_at(half);
    let believed = believe(fitted);
    let test = Test::of(tested, believed);
    let labels = labels(known, next.at_ms);
    let base_rate = base_rate(&labels);
    let mut weights = [0.0; FEATURES];
    learn(&mut weights, &rows, &labels, STEPS_FIRST * 2);
    let features = within(features(known, next.at_ms, changes), &rows);
    let model = probability(&weights, &features);
    let probability = if test.better { shrunk(model, base_rate, believed) } else { base_rate };
    let adds = weights.iter().zip(&features).map(|(weight, feature)| weight * feature);
    let reasons = NAMES.into_iter().zip(adds).skip(1);
    Ok(Risk {
        events: known.len(),
        failures: labels.iter().filter(|failed| **failed > 0.0).count(),
        base_rate,
        probability,
        by_features: test.better,
        changes,
        reasons: if test.better { reasons.collect() } else { Vec::new() },
        test,
    })
}

fn median_size(known: &[&Delivery]) -> usize {
    let mut sizes: Vec<usize> = known.iter().map(|one| one.changes.len()).collect();
    sizes.sort_unstable();
    sizes.get(sizes.len() / 2).copied().unwrap_or(0)
}

/// 1 for each that was known to have failed at a moment.
fn labels(known: &[&Delivery], at_ms: i64) -> Vec<f64> {
    known.iter().map(|one| f64::from(u8::from(one.failed_by(at_ms)))).collect()
}

/// The share of failures, with half a failure and half a success more, so that a clean history
/// does not promise a clean future.
fn base_rate(labels: &[f64]) -> f64 {
    (labels.iter().sum::<f64>() + 0.5) / (float(labels.len()) + 1.0)
}

fn weekday(at_ms: i64) -> i8 {
    let at = Timestamp::from_millisecond(at_ms).unwrap_or_default();
    at.to_zoned(TimeZone::UTC).weekday().to_monday_zero_offset()
}

/// What is known of a deployment before it is made. All features are about between -1 and 2.
fn features(before: &[&Delivery], at_ms: i64, changes: usize) -> Features {
    let labels = labels(before, at_ms);
    let base = base_rate(&labels);
    let lately = labels.get(labels.len().saturating_sub(LATELY)..).unwrap_or_default();
    let day = weekday(at_ms);
    let of_day = before.iter().zip(&labels).filter(|(one, _)| weekday(one.at_ms) == day);
    let (count, failed) =
        of_day.fold((0.0, 0.0), |(count, sum), (_, failed)| (count + 1.0, sum + failed));
    let pause_h = before.last().map_or(0.0, |one| seconds(at_ms - one.at_ms) / 3600.0);
    [
        1.0,
        float(changes).ln_1p() / 2.0,
        lately.last().copied().unwrap_or(0.0),
        base_rate(lately) - base,
        // drawn to the base rate as if two more weeks had behaved like it
        2.0 * ((failed + 2.0 * base) / (count + 2.0) - base),
        pause_h.max(0.0).ln_1p() / 4.0,
    ]
}

/// What the history has never seen is reckoned as the furthest that it has: a line that was drawn
/// through what was says nothing of what lies far beyond.
fn within(mut features: Features, rows: &[Features]) -> Features {
    for (place, feature) in features.iter_mut().enumerate() {
        let seen = || rows.iter().skip(1).filter_map(|row| row.get(place)).copied();
        let (low, high) = (seen().fold(f64::INFINITY, f64::min), seen().fold(f64::MIN, f64::max));
        if low <= high {
            *feature = feature.clamp(low, high);
        }
    }
    features
}

fn rows(known: &[&Delivery]) -> Vec<Features> {
    known
        .iter()
        .enumerate()
        .map(|(place, one)| {
            features(known.get(..place).unwrap_or_default(), one.at_ms, one.changes.len())
        })
        .collect()
}

fn probability(weights: &Features, features: &Features) -> f64 {
    let odds: f64 = weights.iter().zip(features).map(|(weight, one)| weight * one).sum();
    1.0 / (1.0 + (-odds).exp())
}

/// Steps down the slope of the log loss; the constant is free, the other weights are held to 0.
fn learn(weights: &mut Features, rows: &[Features], labels: &[f64], steps: usize) {
    // the slope changes by at most a quarter of a row's square, which is below 8
    let step = 1.0 / (2.0 * float(rows.len()) + RIDGE);
    for _ in 0..steps {
        let mut slope = [0.0; FEATURES];
        for (row, label) in rows.iter().zip(labels) {
            let error = probability(weights, row) - label;
            for (slope, feature) in slope.iter_mut().zip(row) {
                *slope += error * feature;
            }
        }
        for (place, (weight, slope)) in weights.iter_mut().zip(slope).enumerate() {
            let held = if place == 0 { 0.0 } else { RIDGE * *weight };
            *weight -= step * (slope + held);
        }
    }
}

/// Predictions for the newer half of the history, each from what was known before it.
fn guesses(known: &[&Delivery], rows: &[Features]) -> Vec<Guess> {
    let mut weights = [0.0; FEATURES];
    let mut steps = STEPS_FIRST;
    let mut guesses = Vec::new();
    for (place, (one, row)) in known.iter().zip(rows).enumerate().skip(known.len() / 2) {
        let before = known.get(..place).unwrap_or_default();
        let labels = labels(before, one.at_ms);
        learn(&mut weights, rows.get(..place).unwrap_or_default(), &labels, steps);
        steps = STEPS_MORE;
        guesses.push(Guess {
            model: probability(&weights, row),
            base: base_rate(&labels),
            failed: f64::from(u8::from(one.failed())),
        });
    }
    guesses
}

fn shrunk(model: f64, base: f64, believed: f64) -> f64 {
    base + believed * (model - base)
}

fn errors(guesses: &[Guess], believed: f64) -> Vec<f64> {
    let square = |guess: &Guess| (shrunk(guess.model, guess.base, believed) - guess.failed).powi(2);
    guesses.iter().map(square).collect()
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / float(values.len()))
}

/// How much of the model these guesses ask to believe.
fn believe(guesses: &[Guess]) -> f64 {
    let mut best = (f64::INFINITY, 0.0);
    for believed in SHRINKS {
        let error = mean(&errors(guesses, believed)).unwrap_or(f64::INFINITY);
        if error < best.0 {
            best = (error, believed);
        }
    }
    best.1
}

impl Test {
    fn of(guesses: &[Guess], believed: f64) -> Self {
        let (model, base) = (errors(guesses, believed), errors(guesses, 0.0));
        let gains: Vec<f64> = base.iter().zip(&model).map(|(base, model)| base - model).collect();
        let gain = mean(&gains).unwrap_or(0.0);
        let squares: Vec<f64> = gains.iter().map(|one| (one - gain).powi(2)).collect();
        let error = (mean(&squares).unwrap_or(0.0) / float(guesses.len().max(1))).sqrt();
        let column = |of: fn(&Guess, f64) -> f64| -> Option<f64> {
            mean(&guesses.iter().map(|guess| of(guess, believed)).collect::<Vec<_>>())
        };
        Self {
            predictions: guesses.len(),
            brier: mean(&model),
            brier_of_base_rate: mean(&base),
            better: guesses.len() >= TESTS_MIN && gain > 0.0 && gain > ERRORS_MIN * error,
            predicted: column(|guess, believed| shrunk(guess.model, guess.base, believed)),
            observed: column(|guess, _| guess.failed),
            believed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dora::chance::Chance;
    use crate::dora::memory::{DAY, HOUR, change, incident};

    const START: i64 = 1_767_225_600_000;

    /// A deployment each 7 hours, of 1 to 20 changes, that fails with the chance that its size
    /// gives.
    fn history(count: i64, seed: u64, chance_of: impl Fn(usize) -> f64) -> History {
        let mut chance = Chance::new(seed);
        let deliveries = (0..count).map(|number| {
            let at_ms = START + number * 7 * HOUR;
            let size = 1 + chance.below(20);
            Delivery {
                id: format!("d{number}"),
                explicit: true,
                service: "shop".into(),
                team: String::new(),
                at_ms,
                succeeded: chance.fraction() >= chance_of(size),
                rework: false,
                changes: (0..size).map(|n| change(&format!("{number}-{n}"), at_ms - DAY)).collect(),
                incidents: Vec::new(),
                first: false,
            }
        });
        History { deliveries: deliveries.collect(), ..History::default() }
    }

    fn next(changes: usize) -> Next {
        Next { at_ms: START + 3000 * HOUR, changes: Some(changes) }
    }

    #[test]
    fn what_decides_in_the_history_decides_the_answer() {
        let by_size = |size: usize| if size > 10 { 0.7 } else { 0.05 };
        let history = history(400, 1, by_size);
        let (big, small) = (risk(&history, next(20)).unwrap(), risk(&history, next(1)).unwrap());
        assert!(big.by_features && small.by_features, "{:?}", big.test);
        assert!(big.probability > 0.5 && small.probability < 0.15, "{big:?} {small:?}");
        assert!(big.test.brier < big.test.brier_of_base_rate);
        // calibrated: what was predicted is what came, within three standard errors of 100
        let (predicted, observed) = (big.test.predicted.unwrap(), big.test.observed.unwrap());
        assert!((predicted - observed).abs() < 0.15, "{predicted} {observed}");
        let (strongest, _) = big.reasons.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        assert_eq!(*strongest, "size");
    }

    #[test]
    fn where_nothing_decides_the_answer_is_the_base_rate() {
        let mut fooled = 0;
        for seed in 0..20 {
            let risk = risk(&history(200, seed, |_| 0.2), next(20)).unwrap();
            if risk.by_features {
                fooled += 1;
            } else {
                assert!((risk.probability - risk.base_rate).abs() < 1e-12);
                assert!(risk.reasons.is_empty());
            }
        }
        // one in twenty is meant
        assert!(fooled <= 4, "{fooled} of 20");
    }

    #[test]
    fn fewer_than_20_deployments_are_refused_and_few_held_out_ones_prove_nothing() {
        let refused = risk(&history(19, 1, |_| 0.5), next(1)).unwrap_err();
        assert_eq!(refused.to_string(), "19 deployments are too few for a forecast, 20 are needed");
        let few = risk(&history(20, 1, |size| if size > 10 { 1.0 } else { 0.0 }), next(1)).unwrap();
        assert_eq!((few.test.predictions, few.by_features), (5, false));
        let clean = risk(&history(20, 1, |_| 0.0), next(1)).unwrap();
        assert!(clean.probability > 0.0 && clean.probability < 0.05);
    }

    #[test]
    fn an_incident_is_known_from_its_opening_on() {
        let mut history = history(40, 1, |_| 0.0);
        let at_ms = history.deliveries[38].at_ms;
        // opened a day after the next deployment
        history.deliveries[38].incidents.push(incident("i", None, at_ms + DAY, None));
        let soon = Next { at_ms: at_ms + 8 * HOUR, changes: Some(1) };
        assert_eq!(risk(&history, soon).unwrap().failures, 0);
        let late = Next { at_ms: at_ms + 2 * DAY, changes: Some(1) };
        assert_eq!(risk(&history, late).unwrap().failures, 1);
    }
}
