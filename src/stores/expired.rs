//! What retention has ended before its time, or where no time is set: the tombstones by which
//! `audit` tells what has expired from what is lost.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use crate::key::{DAY_MS, Table, day_of};
use crate::ledger::{OriginId, Span};

/// "The rows of this day were ended by this policy at this time."
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tombstone {
    /// Days since 1970.
    #[serde(serialize_with = "date")]
    pub day: i32,
    /// Table and source of the rows; `None` for all rows of the day.
    pub part: Option<(Table, String)>,
    /// The policy, in words.
    pub policy: String,
    /// When, in milliseconds.
    pub dropped_ms: i64,
}

/// So long the tombstone of an origin stands: rows of it that were to live longer than anyone
/// thought are told by it.
pub const ENDED_KEPT_MS: i64 = 365 * DAY_MS;

/// "All rows of this origin have ended and its file is gone, so that its record, contexts and spans
/// were let go." Stands for every byte of it up to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndedOrigin {
    /// Which.
    pub origin: OriginId,
    /// Whose machine's.
    pub machine: String,
    /// Its host.
    pub host: String,
    /// Where its file was first seen.
    pub path: PathBuf,
    /// End of its last span; its first offset, where it had none.
    pub end_bytes: u64,
    /// Rows that its spans counted, those included that had expired before.
    pub rows: u64,
    /// The policy of its last rows, in words.
    pub policy: String,
    /// When, in milliseconds.
    pub ended_ms: i64,
}

/// A day as `YYYY-MM-DD`.
#[must_use]
pub fn date_of(day: i32) -> jiff::civil::Date {
    let span = jiff::Span::new().try_days(i64::from(day)).unwrap_or_default();
    jiff::civil::Date::constant(1970, 1, 1).checked_add(span).unwrap_or(jiff::civil::Date::MAX)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn date<S: Serializer>(day: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&date_of(*day))
}

/// Days, and parts of days, that retention has ended, each with when.
///
/// A day that was ended before it began (rows of a clock that went wrong) is ended for what was
/// written by then: its own rows are yet to come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expired {
    days: BTreeMap<i32, i64>,
    parts: BTreeMap<(i32, Table), BTreeMap<String, i64>>,
}

/// For [`Expired::has`]: rows that are being written.
pub const NOW: i64 = i64::MAX;

fn covers(day: i32, dropped_ms: i64, written_ms: i64) -> bool {
    dropped_ms >= i64::from(day) * DAY_MS || written_ms <= dropped_ms
}

impl Expired {
    /// Whether all rows of the day have ended, also those that come yet.
    #[must_use]
    pub fn has_day(&self, day: i32) -> bool {
        self.days.get(&day).is_some_and(|dropped_ms| covers(day, *dropped_ms, NOW))
    }

    /// Whether the day's rows of this table and source that were written up to `written_ms` have.
    #[must_use]
    pub fn has(&self, day: i32, table: Table, source: &str, written_ms: i64) -> bool {
        self.days.get(&day).is_some_and(|dropped_ms| covers(day, *dropped_ms, written_ms))
            || self
                .parts
                .get(&(day, table))
                .and_then(|sources| sources.get(source))
                .is_some_and(|dropped_ms| covers(day, *dropped_ms, written_ms))
    }

    /// How many of the rows that a span counts have.
    #[must_use]
    pub fn rows_of(&self, span: &Span) -> u64 {
        if self.days.is_empty() && self.parts.is_empty() {
            return 0;
        }
        // minutes are in order, and most spans are of one day
        let mut last = None;
        let mut gone = |minute: i64| {
            let day = day_of(minute.saturating_mul(60_000));
            match last {
                Some((known, gone)) if known == day => gone,
                _ => {
                    let gone = self.has(day, span.table, &span.source, span.last_write_ms);
                    last = Some((day, gone));
                    gone
                }
            }
        };
        span.minutes.iter().filter(|((minute, _), _)| gone(*minute)).map(|(_, rows)| rows).sum()
    }
}

impl<'a> FromIterator<&'a Tombstone> for Expired {
    fn from_iter<T: IntoIterator<Item = &'a Tombstone>>(tombstones: T) -> Self {
        let mut expired = Self::default();
        for Tombstone { day, part, dropped_ms, .. } in tombstones {
            match part {
                None => drop(expired.days.insert(*day, *dropped_ms)),
                Some((table, source)) => {
                    let sources = expired.parts.entry((*day, *table)).or_default();
                    sources.insert(source.clone(), *dropped_ms);
                }
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tombstone(day: i32, part: Option<(Table, &str)>, dropped_ms: i64) -> Tombstone {
        let part = part.map(|(table, source)| (table, source.to_owned()));
        Tombstone { day, part, policy: String::new(), dropped_ms }
    }

    #[test]
    fn a_part_of_a_day_takes_no_other_source_table_or_day_with_it() {
        let after = 100 * DAY_MS;
        let tombstones =
            [tombstone(5, Some((Table::Application, "app")), after), tombstone(7, None, after)];
        let expired: Expired = tombstones.iter().collect();
        assert!(expired.has(5, Table::Application, "app", NOW));
        assert!(!expired.has(5, Table::Application, "other", NOW));
        assert!(!expired.has(5, Table::Infrastructure, "app", NOW));
        assert!(!expired.has(6, Table::Application, "app", NOW) && !expired.has_day(5));
        assert!(expired.has(7, Table::Events, "anything", NOW) && expired.has_day(7));
    }

    #[test]
    fn a_day_that_was_ended_before_it_began_takes_its_own_rows() {
        let tombstones =
            [tombstone(50, None, DAY_MS), tombstone(60, Some((Table::Events, "e")), 9)];
        let expired: Expired = tombstones.iter().collect();
        assert!(!expired.has_day(50));
        assert!(expired.has(50, Table::Events, "e", DAY_MS), "written before");
        assert!(
            !expired.has(50, Table::Events, "e", DAY_MS + 1)
                && !expired.has(50, Table::Events, "e", NOW)
        );
        assert!(expired.has(60, Table::Events, "e", 9) && !expired.has(60, Table::Events, "e", 10));
    }

    #[test]
    fn a_day_is_written_as_a_date() {
        let text = serde_json::to_string(&tombstone(20_779, None, 0)).unwrap();
        assert!(text.starts_with(r#"{"day":"2026-11-22","part":null"#), "{text}");
    }
}
