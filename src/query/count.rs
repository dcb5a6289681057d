//! Counts rows: from the statistics where they answer exactly, else row by row.

use std::collections::HashMap;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::filter::{field, metadata};
use super::run::Scan;
use super::{Filter, QueryError};
use crate::record::Level;
use crate::stores::{LogReader, StoredRow};

const MINUTE_MS: i64 = 60_000;

/// Different values that are counted at most; the rest is counted together.
const VALUES_MAX: usize = 100_000;

/// The name under which values beyond the limit are counted.
pub const OTHERS: &str = "(other)";

/// By what is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// Column `source`.
    Source,
    /// Column `level`.
    Level,
    /// Column `host`.
    Host,
    /// Minutes of the local zone.
    Minute,
    /// Hours of the local zone.
    Hour,
    /// Days of the local zone.
    Day,
    /// A column or a key of the metadata.
    Field(String),
}

impl By {
    /// Reads a list like `source,hour`; `all` is none.
    #[must_use]
    pub fn list(words: &str) -> Vec<Self> {
        let words = words.split(',').map(str::trim);
        words.filter(|word| !word.is_empty() && *word != "all").map(Self::new).collect()
    }

    fn new(word: &str) -> Self {
        match word {
            "source" => Self::Source,
            "level" => Self::Level,
            "host" => Self::Host,
            "minute" => Self::Minute,
            "hour" => Self::Hour,
            "day" => Self::Day,
            other => Self::Field(other.to_owned()),
        }
    }

    /// The word for it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Source => "source",
            Self::Level => "level",
            Self::Host => "host",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Field(name) => name,
        }
    }

    const fn is_time(&self) -> bool {
        matches!(self, Self::Minute | Self::Hour | Self::Day)
    }
}

/// One line of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The values counted by, in the order asked for.
    pub values: Vec<String>,
    /// How many rows.
    pub rows: u64,
}

struct Counter<'a> {
    by: &'a [By],
    zone: &'a TimeZone,
    counts: HashMap<Vec<String>, u64>,
    /// The last time that was turned into words: rows come in order of time.
    last: Option<(i64, Zoned)>,
}

impl Counter<'_> {
    fn add(&mut self, values: Vec<String>, rows: u64) {
        if self.counts.len() >= VALUES_MAX && !self.counts.contains_key(&values) {
            let others = vec![OTHERS.to_owned(); values.len()];
            *self.counts.entry(others).or_default() += rows;
        } else {
            *self.counts.entry(values).or_default() += rows;
        }
    }

    fn time(&mut self, by: &By, minute: i64) -> String {
        if self.last.as_ref().is_none_or(|(last, _)| *last != minute) {
            let at = Timestamp::from_second(minute.saturating_mul(60)).unwrap_or_default();
            self.last = Some((minute, at.to_zoned(self.zone.clone())));
        }
        let format = match by {
            By::Day => "%Y-%m-%d",
            By::Hour => "%Y-%m-%d %H:00",
            _ => "%Y-%m-%d %H:%M",
        };
        self.last.as_ref().map(|(_, zoned)| zoned.strftime(format).to_string()).unwrap_or_default()
    }

    fn row(&mut self, row: &StoredRow) {
        let metadata = metadata(row);
        let mut values = Vec::with_capacity(self.by.len());
        for by in self.by {
            values.push(match by {
                By::Source => row.source.clone(),
                By::Level => row.level.name().to_owned(),
                By::Host => row.host.clone(),
                By::Field(name) => field(row, &metadata, name)
                    .map(std::borrow::Cow::into_owned)
                    .unwrap_or_default(),
                time => self.time(time, row.key.timestamp_ms.div_euclid(MINUTE_MS)),
            });
        }
        self.add(values, 1);
    }

    fn statistic(&mut self, minute: i64, source: &str, level: Level, host: &str, rows: u64) {
        let mut values = Vec::with_capacity(self.by.len());
        for by in self.by {
            values.push(match by {
                By::Source => source.to_owned(),
                By::Level => level.name().to_owned(),
                By::Host | By::Field(_) => host.to_owned(),
                time => self.time(time, minute),
            });
        }
        self.add(values, rows);
    }
}

/// Whether the statistics answer a question, but for pieces of minutes at its ends.
fn by_statistics(filter: &Filter, by: &[By]) -> bool {
    filter.only_names_and_levels() && !by.iter().any(|by| matches!(by, By::Field(_)))
}

/// Whether the statistics alone answer a question.
#[must_use]
pub fn needs_no_rows(filter: &Filter, by: &[By]) -> bool {
    let whole = |at: Option<i64>| at.is_none_or(|ms| ms % MINUTE_MS == 0);
    by_statistics(filter, by) && whole(filter.since_ms) && whole(filter.until_ms)
}

/// Counts what fits the filter. Answers by time in order of time, others by number.
///
/// # Errors
///
/// The store's.
pub async fn count(
    reader: &dyn LogReader,
    filter: &Filter,
    by: &[By],
    zone: &TimeZone,
) -> Result<Vec<Count>, QueryError> {
    let mut counter = Counter { by, zone, counts: HashMap::new(), last: None };
    if by_statistics(filter, by) {
        statistics(reader, filter, &mut counter).await?;
    } else {
        rows(reader, filter, &mut counter).await?;
    }
    let mut counts: Vec<Count> =
        counter.counts.into_iter().map(|(values, rows)| Count { values, rows }).collect();
    if by.first().is_some_and(By::is_time) {
        counts.sort_by(|a, b| a.values.cmp(&b.values));
    } else {
        counts.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.values.cmp(&b.values)));
    }
    Ok(counts)
}

/// Whole minutes from the statistics; the pieces of minutes at both ends row by row.
async fn statistics(
    reader: &dyn LogReader,
    filter: &Filter,
    counter: &mut Counter<'_>,
) -> Result<(), QueryError> {
    let ceiling = |ms: i64| ms.saturating_add(MINUTE_MS - 1).div_euclid(MINUTE_MS);
    let first = filter.since_ms.map_or(i64::MIN / MINUTE_MS, ceiling);
    let end = filter.until_ms.map_or(i64::MAX / MINUTE_MS, |ms| ms.div_euclid(MINUTE_MS));
    if first >= end {
        return rows(reader, filter, counter).await;
    }
    let (since_ms, until_ms) = (first * MINUTE_MS, end * MINUTE_MS);
    for (key, rows) in reader.counts(since_ms, until_ms).await? {
        let fits = filter.wants_table(key.table)
            && filter.wants_source(&key.source)
            && filter.wants_host(&key.host)
            && filter.wants_level(key.level);
        if fits {
            counter.statistic(key.minute, &key.source, key.level, &key.host, rows);
        }
    }
    if filter.since_ms.is_some_and(|since| since < since_ms) {
        rows(reader, &Filter { until_ms: Some(since_ms), ..filter.clone() }, counter).await?;
    }
    if filter.until_ms.is_some_and(|until| until > until_ms) {
        rows(reader, &Filter { since_ms: Some(until_ms), ..filter.clone() }, counter).await?;
    }
    Ok(())
}

async fn rows(
    reader: &dyn LogReader,
    filter: &Filter,
    counter: &mut Counter<'_>,
) -> Result<(), QueryError> {
    let Some(query) = filter.query(reader).await? else { return Ok(()) };
    let mut add = |row: &StoredRow| {
        counter.row(row);
        Ok(())
    };
    Scan { reader, filter, query }.each(u64::MAX, &mut add).await.map(drop)
}
