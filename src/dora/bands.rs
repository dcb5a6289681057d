//! The bands that DORA published, with their year. They describe who answered a survey in that
//! year: a place to look from, no aim, and no way to compare teams.

use serde::Serialize;

use super::figures::{Figure, Metric};

/// The year of the report.
pub const YEAR: u32 = 2024;

/// The report, and the page that it can be had from.
pub const SOURCE: &str = "DORA, Accelerate State of DevOps Report 2024 (dora.dev/research/2024)";

const HOUR: f64 = 3600.0;
const DAY: f64 = 24.0 * HOUR;
const WEEK: f64 = 7.0 * DAY;
/// The report says "a month"; we take 30 days.
const MONTH: f64 = 30.0 * DAY;
const SIX_MONTHS: f64 = 182.0 * DAY;

/// Where a figure stands among those of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Band {
    /// `elite`, `high`, `medium` or `low`, as the report calls its groups; nothing if the figure
    /// lies where it has no group.
    pub name: Option<&'static str>,
    /// What the report says of the group.
    pub words: &'static str,
    /// The year of the report.
    pub year: u32,
}

const fn band(name: &'static str, words: &'static str) -> Band {
    Band { name: Some(name), words, year: YEAR }
}

const OUTSIDE: Band = Band { name: None, words: "outside the published bands", year: YEAR };

/// The band of a figure. None without a value or with too few events, and none for the rework
/// rate: the report has no groups for it.
#[must_use]
pub fn of(figure: &Figure) -> Option<Band> {
    let value = figure.value.filter(|_| figure.enough)?;
    match figure.metric {
        Metric::DeploymentFrequency => Some(frequency(value)),
        Metric::LeadTime => Some(lead_time(value)),
        Metric::ChangeFailureRate => Some(failure_rate(value)),
        Metric::RecoveryTime => Some(recovery(value)),
        Metric::ReworkRate => None,
    }
}

fn frequency(per_day: f64) -> Band {
    match per_day {
        rate if rate > 1.0 => band("elite", "on demand, several a day"),
        rate if rate >= DAY / WEEK => band("high", "between once a day and once a week"),
        rate if rate >= DAY / MONTH => band("medium", "between once a week and once a month"),
        rate if rate >= DAY / SIX_MONTHS => {
            band("low", "between once a month and once in six months")
        }
        _ => OUTSIDE,
    }
}

fn lead_time(seconds: f64) -> Band {
    match seconds {
        ..DAY => band("elite", "less than a day"),
        ..=WEEK => band("high", "between a day and a week"),
        ..=MONTH => band("medium", "between a week and a month"),
        ..=SIX_MONTHS => band("low", "between one month and six"),
        _ => OUTSIDE,
    }
}

/// The report gives one rate a group, no ranges, and that of `high` is above that of `medium`. So
/// this names the group whose rate is nearest; between two, the lower rate.
fn failure_rate(share: f64) -> Band {
    match share {
        ..=0.075 => band("elite", "nearest to that group's 5 %"),
        ..=0.15 => band("medium", "nearest to that group's 10 %"),
        ..=0.3 => band("high", "nearest to that group's 20 %"),
        _ => band("low", "nearest to that group's 40 %"),
    }
}

fn recovery(seconds: f64) -> Band {
    match seconds {
        ..HOUR => band("elite", "less than an hour"),
        // `medium` has the same words in this year
        ..DAY => band("high", "less than a day, as the medium group"),
        ..WEEK => OUTSIDE,
        ..=MONTH => band("low", "between a week and a month"),
        _ => OUTSIDE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dora::figures::figure;

    fn name(metric: Metric, value: f64) -> Option<&'static str> {
        let mut figure = figure(metric, &[], None);
        figure.value = Some(value);
        figure.enough = true;
        of(&figure).and_then(|band| band.name)
    }

    #[test]
    fn limits_are_those_of_the_report() {
        use Metric::{ChangeFailureRate, DeploymentFrequency, LeadTime, RecoveryTime, ReworkRate};
        for (metric, value, expected) in [
            (DeploymentFrequency, 1.01, Some("elite")),
            (DeploymentFrequency, 1.0, Some("high")),
            (DeploymentFrequency, 1.0 / 7.0, Some("high")),
            (DeploymentFrequency, 1.0 / 8.0, Some("medium")),
            (DeploymentFrequency, 1.0 / 31.0, Some("low")),
            (DeploymentFrequency, 1.0 / 200.0, None),
            (DeploymentFrequency, 0.0, None),
            (LeadTime, 86_399.0, Some("elite")),
            (LeadTime, 86_400.0, Some("high")),
            (LeadTime, 8.0 * DAY, Some("medium")),
            (LeadTime, 31.0 * DAY, Some("low")),
            (LeadTime, 200.0 * DAY, None),
            (ChangeFailureRate, 0.0, Some("elite")),
            (ChangeFailureRate, 0.1, Some("medium")),
            (ChangeFailureRate, 0.2, Some("high")),
            (ChangeFailureRate, 0.4, Some("low")),
            (RecoveryTime, 3_599.0, Some("elite")),
            (RecoveryTime, 3_600.0, Some("high")),
            (RecoveryTime, 2.0 * DAY, None),
            (RecoveryTime, 8.0 * DAY, Some("low")),
            (ReworkRate, 0.1, None),
        ] {
            assert_eq!(name(metric, value), expected, "{metric:?} {value}");
        }
    }

    #[test]
    fn a_figure_of_few_events_has_no_band() {
        let mut few = figure(Metric::LeadTime, &[], None);
        few.value = Some(10.0);
        assert_eq!(of(&few), None);
    }
}
