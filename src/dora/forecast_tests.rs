//! Forecasts against histories whose distribution is known.

use super::*;
use crate::dora::history::Delivery;
use crate::dora::memory::{DAY, HOUR, change};

const START: i64 = 1_767_225_600_000;

fn delivery(number: usize, at_ms: i64, took_ms: i64) -> Delivery {
    Delivery {
        id: format!("d{number}"),
        explicit: true,
        service: "shop".into(),
        team: String::new(),
        at_ms,
        succeeded: true,
        rework: false,
        changes: vec![change(&format!("c{number}"), at_ms - took_ms)],
        incidents: Vec::new(),
        first: false,
    }
}

/// `weeks` weeks in which each day has a deployment with a chance of `per_day`, and lead times are
/// spread evenly between 1 and 101 hours.
fn random_history(weeks: i64, per_day: f64, seed: u64) -> History {
    let mut chance = Chance::new(seed);
    let mut deliveries = Vec::new();
    for day in 0..weeks * 7 {
        if day == 0 || chance.fraction() < per_day {
            let took = HOUR + i64::try_from(chance.below(100 * 3600)).unwrap() * 1000;
            deliveries.push(delivery(deliveries.len(), START + day * DAY + HOUR, took));
        }
    }
    History { deliveries, starts_ms: Some(START), stray_incidents: Vec::new() }
}

fn now(weeks: i64) -> i64 {
    START + weeks * 7 * DAY
}

#[test]
fn a_steady_history_gives_its_rate_and_its_spread() {
    // 60 weeks; 28 days of chance 0.5 each: 14 expected, standard deviation 2.65
    let forecast = forecast(&random_history(60, 0.5, 11), 28, 1, now(60));
    let deployments = forecast.deployments.unwrap();
    assert!((11.0..=17.0).contains(&deployments.median), "{deployments:?}");
    let width = deployments.percentiles[4] - deployments.percentiles[0];
    // 5 to 95 % of a normal distribution is 3.3 standard deviations: 8.7
    assert!((6.0..14.0).contains(&width), "{deployments:?}");
    assert!(deployments.low < deployments.median && deployments.median < deployments.high);
    let lead = forecast.lead_time.unwrap();
    // evenly between 1 h and 101 h
    assert!((40.0 * 3600.0..62.0 * 3600.0).contains(&lead.median), "{lead:?}");
    assert!(lead.percentiles[0] < 14.0 * 3600.0 && lead.percentiles[4] > 88.0 * 3600.0, "{lead:?}");
}

#[test]
fn held_out_history_falls_into_the_intervals_as_often_as_is_meant() {
    let (mut held, mut made) = ([0, 0], [0, 0]);
    for seed in 0..20 {
        let forecast = forecast(&random_history(52, 0.6, seed), 14, seed, now(52));
        let both = [forecast.deployments.unwrap().test, forecast.lead_time.unwrap().test];
        for (index, test) in both.into_iter().enumerate() {
            assert!(test.fitted_to >= FITTED_MIN && test.coverage.is_some(), "{test:?}");
            held[index] += test.held;
            made[index] += test.forecasts;
        }
    }
    for (held, made) in held.into_iter().zip(made) {
        let coverage = float(held) / float(made);
        // whole numbers of deployments make intervals hold somewhat more
        assert!((0.74..0.95).contains(&coverage), "{coverage} of {made}");
    }
}

#[test]
fn a_history_that_changed_its_pace_says_that_its_forecasts_failed() {
    // one deployment in a week for 40 weeks, then 3 a day for 12
    let mut history = random_history(40, 1.0 / 7.0, 3);
    for day in 280..364 {
        for hour in [1, 9, 17] {
            let number = history.deliveries.len();
            let at_ms = START + day * DAY + hour * HOUR;
            history.deliveries.push(delivery(number, at_ms, HOUR));
        }
    }
    let test = forecast(&history, 14, 1, now(52)).deployments.unwrap().test;
    assert_eq!(test.sound, Some(false), "{test:?}");
    // and the steady one does not
    let steady = forecast(&random_history(52, 0.6, 3), 14, 1, now(52)).deployments.unwrap().test;
    assert_eq!(steady.sound, Some(true), "{steady:?}");
}

#[test]
fn the_same_seed_gives_the_same_forecast() {
    let history = random_history(30, 0.5, 5);
    let of = |seed| forecast(&history, 28, seed, now(30));
    assert_eq!(of(7), of(7));
    assert_ne!(of(7), of(8));
}

#[test]
fn fewer_than_20_events_are_refused() {
    let mut history = random_history(30, 0.5, 5);
    history.deliveries.truncate(19);
    let forecast = forecast(&history, 28, 1, now(30));
    let refused = forecast.deployments.unwrap_err();
    assert_eq!((refused.found, refused.least), (19, 20));
    assert_eq!(
        forecast.lead_time.unwrap_err().to_string(),
        "19 changes with a lead time are too few for a forecast, 20 are needed"
    );
    // many in a few days are no weeks
    let deliveries = (0..40).map(|n| delivery(n, START + i64::try_from(n).unwrap() * HOUR, HOUR));
    let history = History {
        deliveries: deliveries.collect(),
        starts_ms: Some(START),
        stray_incidents: Vec::new(),
    };
    let forecast = super::forecast(&history, 7, 1, START + 20 * DAY);
    assert_eq!(forecast.deployments.unwrap_err().what, "weeks of history");
    assert!(forecast.lead_time.unwrap().test.coverage.is_some());
}

#[test]
fn what_is_after_now_is_not_known() {
    let history = random_history(60, 0.5, 11);
    let mut cut = history.clone();
    cut.deliveries.retain(|one| one.at_ms < now(40));
    assert_eq!(forecast(&history, 28, 1, now(40)), forecast(&cut, 28, 1, now(40)));
}
