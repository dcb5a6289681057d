//! How long something took: where a record says it, and the rungs by which the statistics count
//! it. The rungs are fixed, so that the statistics depend on the bytes alone: no threshold of a
//! configuration is in them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::record::Field;

/// The keys by which the formats say it, each with what one of its units is in milliseconds. The
/// first that is there and a number holds.
const NAMES: [(&str, f64); 4] =
    [("duration_ms", 1.0), ("request_time", 1e3), ("query_time_s", 1e3), ("time_total", 1.0)];

/// The shortest duration of each rung, in milliseconds. The stores keep counts by the place in
/// this list: another list needs other columns.
const LADDER_MS: [u32; 11] = [0, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000];

fn number(text: &str, unit: f64) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    Some(value * unit).filter(|ms| ms.is_finite())
}

/// What a row says of its duration, by the values of its columns and metadata, in milliseconds.
pub fn of_row<'a>(value: impl Fn(&str) -> Option<Cow<'a, str>>) -> Option<f64> {
    NAMES.into_iter().find_map(|(name, unit)| number(&value(name)?, unit))
}

/// The same of a record as it was parsed: one pass, as most records say nothing.
#[must_use]
pub fn of_fields(fields: &[Field<'_>]) -> Option<f64> {
    let mut found: Option<(usize, f64)> = None;
    for field in fields {
        let Some(place) = place_of(&field.key) else { continue };
        let Some((_, unit)) = NAMES.get(place) else { continue };
        if found.is_none_or(|(known, _)| place < known)
            && let Some(ms) = std::str::from_utf8(&field.value).ok().and_then(|t| number(t, *unit))
        {
            found = Some((place, ms));
        }
    }
    found.map(|(_, ms)| ms)
}

#[inline]
fn place_of(key: &[u8]) -> Option<usize> {
    // lengths first: keys of other lengths are passed by without a look at their bytes
    match key {
        b"duration_ms" => Some(0),
        b"request_time" => Some(1),
        b"query_time_s" => Some(2),
        b"time_total" => Some(3),
        _ => None,
    }
}

/// A step of the ladder: "at least so long".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rung(u8);

impl Rung {
    /// The lowest: every row that says how long something took.
    pub const ANY: Self = Self(0);

    /// The highest rung that a duration reaches; none for one below zero.
    #[must_use]
    pub fn reached(ms: f64) -> Option<Self> {
        let above = LADDER_MS.iter().take_while(|rung| ms >= f64::from(**rung)).count();
        u8::try_from(above.checked_sub(1)?).ok().map(Self)
    }

    /// The rung that the fields of a record reach.
    #[inline]
    #[must_use]
    pub fn of_fields(fields: &[Field<'_>]) -> Option<Self> {
        of_fields(fields).and_then(Self::reached)
    }

    /// The rung of exactly this threshold; what takes no time is no threshold.
    #[must_use]
    pub fn exactly(threshold: Duration) -> Option<Self> {
        Self::thresholds().find(|rung| rung.threshold() == threshold)
    }

    /// All but the lowest, which is no threshold.
    pub fn thresholds() -> impl Iterator<Item = Self> {
        (0_u8..).zip(LADDER_MS).skip(1).map(|(place, _)| Self(place))
    }

    /// The shortest duration that reaches it, in milliseconds.
    #[must_use]
    pub fn ms(self) -> u32 {
        LADDER_MS.get(usize::from(self.0)).copied().unwrap_or(u32::MAX)
    }

    /// The same as a duration.
    #[must_use]
    pub fn threshold(self) -> Duration {
        Duration::from_millis(u64::from(self.ms()))
    }
}

/// Rows that say how long something took, by the highest rung that each reached. Sums end at the
/// largest number: what a store says may be damaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durations([u64; LADDER_MS.len()]);

impl Durations {
    /// Counts one row more.
    #[inline]
    pub fn add(&mut self, rung: Rung) {
        if let Some(rows) = self.0.get_mut(usize::from(rung.0)) {
            *rows = rows.saturating_add(1);
        }
    }

    /// Counts one row less.
    pub fn remove(&mut self, rung: Rung) {
        if let Some(rows) = self.0.get_mut(usize::from(rung.0)) {
            *rows = rows.saturating_sub(1);
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (rows, more) in self.0.iter_mut().zip(other.0) {
            *rows = rows.saturating_add(more);
        }
    }

    /// Rows that took at least as long as this rung says.
    #[must_use]
    pub fn at_least(&self, rung: Rung) -> u64 {
        let rows = self.0.iter().skip(usize::from(rung.0));
        rows.fold(0, |sum, rows| sum.saturating_add(*rows))
    }

    /// Whether no row is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|rows| *rows == 0)
    }
}

/// Rows by minute (minutes since 1970) and rung. A minute without such rows is not there.
pub type DurationCounts = BTreeMap<i64, Durations>;

/// One array a minute, as the stores and the state keep them: the minute, then the rows of each
/// rung up to the last that has any.
#[must_use]
pub fn to_lines(counts: &DurationCounts) -> Vec<Vec<i64>> {
    let line = |(minute, Durations(rows)): (&i64, &Durations)| {
        let used = rows.iter().rposition(|rows| *rows > 0).map_or(0, |last| last + 1);
        let rows = rows.iter().take(used).map(|rows| rows.cast_signed());
        std::iter::once(*minute).chain(rows).collect()
    };
    counts.iter().map(line).collect()
}

/// The counts of such arrays.
#[must_use]
pub fn from_lines(lines: &[Vec<i64>]) -> DurationCounts {
    let mut counts = DurationCounts::new();
    for (minute, cells) in lines.iter().filter_map(|line| line.split_first()) {
        let mut durations = Durations::default();
        for (rows, cell) in durations.0.iter_mut().zip(cells) {
            *rows = cell.cast_unsigned();
        }
        counts.entry(*minute).or_default().merge(&durations);
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields<'a>(entries: &'a [(&str, &str)]) -> Vec<Field<'a>> {
        let field = |(key, value): &(&'a str, &'a str)| Field {
            key: Cow::Borrowed(key.as_bytes()),
            value: Cow::Borrowed(value.as_bytes()),
        };
        entries.iter().map(field).collect()
    }

    #[test]
    fn a_duration_stands_on_the_highest_rung_that_it_reaches() {
        for (ms, rung) in [
            (0.0, Some(0)),
            (49.999, Some(0)),
            (50.0, Some(50)),
            (999.9, Some(500)),
            (1000.0, Some(1000)),
            (1e12, Some(60_000)),
            (-1.0, None),
            (f64::NAN, None),
        ] {
            assert_eq!(Rung::reached(ms).map(Rung::ms), rung, "{ms}");
        }
        assert!(LADDER_MS.is_sorted());
        assert_eq!(Rung::exactly(Duration::from_mins(1)).map(Rung::ms), Some(60_000));
        for no_rung in [0, 1, 51, 3000, 120_000] {
            assert_eq!(Rung::exactly(Duration::from_millis(no_rung)), None, "{no_rung}");
        }
    }

    #[test]
    fn the_first_name_with_a_number_holds() {
        for (entries, ms) in [
            (&[("request_time", "0.050")][..], Some(50.0)),
            (&[("time_total", "7"), ("duration_ms", "9.5")], Some(9.5)),
            (&[("request_time", "2"), ("duration_ms", "-")], Some(2000.0)),
            (&[("duration_ms", "inf"), ("query_time_s", "1")], Some(1000.0)),
            (&[("duration_ms", "NaN")], None),
            (&[("remote_addr", "1"), ("durations_ms", "1")], None),
        ] {
            assert_eq!(of_fields(&fields(entries)), ms, "{entries:?}");
        }
    }

    #[test]
    fn counts_go_up_and_down_and_never_below_none() {
        let (slow, fast) = (Rung::reached(1500.0).unwrap(), Rung::ANY);
        let mut durations = Durations::default();
        for rung in [slow, fast, fast, Rung::reached(70_000.0).unwrap()] {
            durations.add(rung);
        }
        let at_least = |durations: &Durations, ms| durations.at_least(Rung::reached(ms).unwrap());
        assert_eq!([0.0, 50.0, 1000.0, 2000.0].map(|ms| at_least(&durations, ms)), [4, 2, 2, 1]);
        durations.remove(slow);
        durations.remove(slow);
        assert_eq!((at_least(&durations, 0.0), at_least(&durations, 50.0)), (3, 1));
        assert!(!durations.is_empty() && Durations::default().is_empty());
    }

    proptest! {
        /// What the worker counts is what a search for rows finds.
        #[test]
        fn a_record_and_its_row_say_the_same(
            entries in proptest::collection::btree_map(
                proptest::sample::select(vec![
                    "duration_ms", "request_time", "query_time_s", "time_total", "status",
                ]),
                proptest::sample::select(vec!["0.05", "1e3", "-1", "x", "inf", "2", "0.2", "60"]),
                0..5,
            )
        ) {
            let list: Vec<_> = entries.iter().map(|(key, value)| (*key, *value)).collect();
            let row = of_row(|name| entries.get(name).map(|value| Cow::Borrowed(*value)));
            prop_assert_eq!(of_fields(&fields(&list)), row);
        }

        #[test]
        fn counts_come_back_from_their_lines(
            rows in proptest::collection::vec((0_i64..5, 0_f64..100_000.0), 0..30)
        ) {
            let mut counts = DurationCounts::new();
            for (minute, ms) in rows {
                counts.entry(minute).or_default().add(Rung::reached(ms).unwrap());
            }
            prop_assert_eq!(from_lines(&to_lines(&counts)), counts);
        }
    }
}
