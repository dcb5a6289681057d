//! Which policy a row falls under, and which days have ended by it.

use std::time::Duration;

use serde::Serialize;

use crate::config::{Config, Lifetimes};
use crate::key::{DAY_MS, Table, day_of};

/// How long rows of one kind live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// A table, or a source that differs from its table.
    pub what: String,
    /// Seconds; `None` for ever.
    pub lives_s: Option<u64>,
    /// The same in words.
    pub lives: String,
}

impl Policy {
    fn new(what: impl Into<String>, lifetime: Option<Duration>) -> Self {
        let lives_s = lifetime.map(|lifetime| lifetime.as_secs());
        Self { what: what.into(), lives_s, lives: words(lifetime) }
    }
}

/// A lifetime in words.
#[must_use]
pub fn words(lifetime: Option<Duration>) -> String {
    match lifetime.map(|lifetime| lifetime.as_secs()) {
        None => "for ever".to_owned(),
        Some(86_400) => "1 day".to_owned(),
        Some(seconds) if seconds % 86_400 == 0 => format!("{} days", seconds / 86_400),
        Some(seconds) if seconds % 3600 == 0 => format!("{} hours", seconds / 3600),
        Some(seconds) => format!("{seconds} seconds"),
    }
}

/// All policies, in the order in which they are told.
#[must_use]
pub fn all(config: &Config) -> Vec<Policy> {
    let lifetimes = &config.store.lifetimes;
    let mut policies = vec![Policy::new("dora", None)];
    for table in [Table::Application, Table::Infrastructure, Table::Events] {
        policies.push(Policy::new(table.name(), lifetimes.of_table(table)));
    }
    policies.push(Policy::new("health_checks", Some(config.retention.health_checks)));
    for (source, lifetime) in &lifetimes.sources {
        policies.push(Policy::new(format!("source {source}"), Some(*lifetime)));
    }
    policies
}

/// The policy of a table and source, as tombstones say it.
#[must_use]
pub fn name_of(lifetimes: &Lifetimes, table: Table, source: &str) -> String {
    let lives = words(lifetimes.of(table, source));
    if lifetimes.sources.contains_key(source) {
        format!("source {source}: {lives}")
    } else {
        format!("{}: {lives}", table.name())
    }
}

/// The first day (since 1970) of which anything is younger than `lifetime`: the days before it
/// have ended.
#[must_use]
pub fn first_kept(lifetime: Duration, now_ms: i64) -> i32 {
    day_of(now_ms.saturating_sub(millis(lifetime)))
}

/// Whether every moment of a day is older than its rows live.
#[must_use]
pub fn has_ended(lifetime: Option<Duration>, day: i32, now_ms: i64) -> bool {
    lifetime.is_some_and(|lifetime| day < first_kept(lifetime, now_ms))
}

/// Days from here on lie in the future: no row of today or tomorrow, in whatever zone, is there.
/// Their rows end by when they were written.
#[must_use]
pub fn is_ahead(day: i32, now_ms: i64) -> bool {
    i64::from(day) * DAY_MS > now_ms.saturating_add(DAY_MS)
}

/// Whether what was written at `written_ms` is older than `lifetime`.
#[must_use]
pub fn has_outlived(lifetime: Option<Duration>, written_ms: i64, now_ms: i64) -> bool {
    lifetime.is_some_and(|lifetime| written_ms.saturating_add(millis(lifetime)) <= now_ms)
}

/// The shortest lifetime of all, if any row ends.
#[must_use]
pub fn shortest(lifetimes: &Lifetimes) -> Option<Duration> {
    let tables = Table::ALL.into_iter().filter_map(|table| lifetimes.of_table(table));
    tables.chain(lifetimes.sources.values().copied()).min()
}

fn millis(lifetime: Duration) -> i64 {
    i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAYS: fn(u64) -> Option<Duration> = |days| Some(Duration::from_hours(24 * days));

    fn lifetimes() -> Lifetimes {
        let mut lifetimes = Lifetimes::all(DAYS(90));
        lifetimes.user_events = DAYS(30);
        lifetimes.sources = [("nginx/access".to_owned(), Duration::from_hours(24 * 7))].into();
        lifetimes
    }

    #[test]
    fn a_source_goes_before_its_table() {
        let lifetimes = lifetimes();
        assert_eq!(lifetimes.of(Table::Infrastructure, "nginx/access"), DAYS(7));
        assert_eq!(lifetimes.of(Table::Infrastructure, "nginx/error"), DAYS(90));
        assert_eq!(lifetimes.of(Table::Events, "user_events"), DAYS(30));
        assert_eq!((lifetimes.longest(), shortest(&lifetimes)), (DAYS(90), DAYS(7)));
        let named = name_of(&lifetimes, Table::Infrastructure, "nginx/access");
        assert_eq!(named, "source nginx/access: 7 days");
        assert_eq!(name_of(&lifetimes, Table::Events, "user_events"), "user_events: 30 days");
    }

    #[test]
    fn what_lives_for_ever_makes_the_longest_lifetime_endless() {
        let mut lifetimes = lifetimes();
        lifetimes.application = None;
        assert_eq!(lifetimes.longest(), None);
        assert!(!has_ended(None, i32::MIN, i64::MAX));
    }

    #[test]
    fn a_day_ends_when_its_last_millisecond_is_old_enough() {
        let midnight = 100 * DAY_MS;
        // the day 89 ended at the midnight that begins day 90, ten days before day 100 begins
        assert!(has_ended(DAYS(10), 89, midnight));
        assert!(!has_ended(DAYS(10), 89, midnight - 1), "its last millisecond is too young");
        assert!(!has_ended(DAYS(10), 90, midnight + DAY_MS - 1));
        assert!(has_ended(DAYS(10), 90, midnight + DAY_MS));
        // lifetimes need not be whole days
        assert!(has_ended(Some(Duration::from_hours(36)), 98, midnight + DAY_MS / 2));
        assert!(!has_ended(Some(Duration::from_hours(36)), 98, midnight + DAY_MS / 2 - 1));
    }

    #[test]
    fn only_days_after_tomorrow_lie_ahead() {
        let now_ms = 100 * DAY_MS + 5;
        assert!(!is_ahead(100, now_ms) && !is_ahead(101, now_ms) && is_ahead(102, now_ms));
        assert!(has_outlived(DAYS(1), now_ms - DAY_MS, now_ms));
        assert!(!has_outlived(DAYS(1), now_ms - DAY_MS + 1, now_ms));
    }

    #[test]
    fn lifetimes_are_said_in_days_where_they_are_days() {
        let said = [DAYS(90), DAYS(1), Some(Duration::from_hours(36)), None].map(words);
        assert_eq!(said, ["90 days", "1 day", "36 hours", "for ever"]);
    }
}
