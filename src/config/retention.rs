//! `[retention]`: how long rows live.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::Kind::{DurationOf, Options};
use super::keys::{Key, Kind, Section, key};
use super::load::Build;
use super::settings::Settings;
use super::units;

/// `[retention]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Rows of `application_logs`.
    pub application: Duration,
    /// Rows of `infrastructure_logs`.
    pub infrastructure: Duration,
    /// Rows of `user_events`.
    pub user_events: Duration,
    /// Rows of `health_checks`.
    pub health_checks: Duration,
    /// Sources that differ from their table.
    pub sources: BTreeMap<String, Duration>,
}

const DAY: Duration = Duration::from_hours(24);
/// Cassandra takes no longer time to live than 20 years.
pub(super) const AGE: Kind = DurationOf(DAY, Duration::from_hours(20 * 365 * 24));

pub(super) const SECTION: Section = Section {
    name: "retention",
    repeated: false,
    later: None,
    help: "How long rows live; `bitacora retention apply` (a timer each night) ends them. DORA metrics are kept for ever.",
    keys: KEYS,
};

const KEYS: &[Key] = &[
    key("application", AGE, "\"90d\"", "Rows of application_logs."),
    key("infrastructure", AGE, "\"90d\"", "Rows of infrastructure_logs."),
    key("user_events", AGE, "\"90d\"", "Rows of user_events."),
    key("health_checks", AGE, "\"30d\"", "Results of `bitacora alerts check`."),
    key(
        "sources",
        Options,
        "{}",
        "Sources that differ from their table, such as { \"nginx/access\" = \"30d\" }.",
    ),
];

pub(super) fn build(build: &mut Build<'_>, retention: &Settings) -> Retention {
    let mut sources = BTreeMap::new();
    for (source, said) in retention.named("sources") {
        match units::duration(said.value) {
            Ok(age) if age >= DAY => {
                sources.insert(source.to_owned(), age);
            }
            Ok(_) => {
                let message = format!("{source} is \"{}\"; it must be at least \"1d\"", said.value);
                build.problem(&said.place, message);
            }
            Err(why) => build.problem(&said.place, format!("{source} {why}")),
        }
    }
    let age = |key| retention.duration(key).unwrap_or_default();
    Retention {
        application: age("application"),
        infrastructure: age("infrastructure"),
        user_events: age("user_events"),
        health_checks: age("health_checks"),
        sources,
    }
}
