//! `[retention]`: how long rows live.

use std::collections::BTreeMap;
use std::time::Duration;

use super::keys::Kind::{DurationOf, Options};
use super::keys::{Key, Kind, Section, key};
use super::load::Build;
use super::settings::Settings;
use super::units;
use super::{Cassandra, StoreKind};
use crate::key::Table;

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

/// How long rows live, by table and source; `None` is for ever.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lifetimes {
    /// Rows of `infrastructure_logs`.
    pub infrastructure: Option<Duration>,
    /// Rows of `application_logs`.
    pub application: Option<Duration>,
    /// Rows of `user_events`.
    pub user_events: Option<Duration>,
    /// Sources that differ from their table, in whichever table they are.
    pub sources: BTreeMap<String, Duration>,
}

impl Lifetimes {
    /// The same for all rows.
    #[must_use]
    pub const fn all(lifetime: Option<Duration>) -> Self {
        Self {
            infrastructure: lifetime,
            application: lifetime,
            user_events: lifetime,
            sources: BTreeMap::new(),
        }
    }

    /// Of the rows of a table whose source has none of its own.
    #[must_use]
    pub const fn of_table(&self, table: Table) -> Option<Duration> {
        match table {
            Table::Infrastructure => self.infrastructure,
            Table::Application => self.application,
            Table::Events => self.user_events,
        }
    }

    /// Of the rows of a table and source.
    #[must_use]
    pub fn of(&self, table: Table, source: &str) -> Option<Duration> {
        self.sources.get(source).copied().or_else(|| self.of_table(table))
    }

    /// The longest of all; `None` if any row lives for ever.
    #[must_use]
    pub fn longest(&self) -> Option<Duration> {
        let mut longest = self.sources.values().copied().max().unwrap_or_default();
        for table in Table::ALL {
            longest = longest.max(self.of_table(table)?);
        }
        Some(longest)
    }
}

/// What holds in the configured store: in Cassandra, whose rows carry their time to live, the
/// tables that `[retention]` does not name live as long as `store.cassandra.ttl` says.
pub(super) fn lifetimes(
    said: &Settings,
    retention: &Retention,
    kind: StoreKind,
    cassandra: &Cassandra,
) -> Lifetimes {
    let of = |key: &str, age: Duration| match kind {
        StoreKind::Cassandra if said.said(key).is_none() => cassandra.ttl,
        _ => Some(age),
    };
    Lifetimes {
        infrastructure: of("infrastructure", retention.infrastructure),
        application: of("application", retention.application),
        user_events: of("user_events", retention.user_events),
        sources: retention.sources.clone(),
    }
}

const DAY: Duration = Duration::from_hours(24);
/// Cassandra takes no longer time to live than 20 years.
pub(super) const AGE: Kind = DurationOf(DAY, Duration::from_hours(20 * 365 * 24));

pub(super) const SECTION: Section = Section {
    name: "retention",
    repeated: false,
    later: None,
    help: "How long rows live; `bitacora retention apply` (a timer each night) ends them. DORA metrics are kept for ever. With Cassandra a table that is not named here lives as long as store.cassandra.ttl says.",
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
