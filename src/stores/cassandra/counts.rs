//! Counts of rows, from `log_stats` alone.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use scylla::response::PagingState;
use scylla::value::CqlDate;

use super::ask::{all_rows, at_once};
use super::rows::cql_date;
use super::spans::{counts_of, durations_of};
use super::{CassandraStore, Link};
use crate::key::Table;
use crate::ledger::OriginId;
use crate::record::Level;
use crate::stores::{CountKey, DurationKey, MinuteDurations, StoreError, minute_durations};

impl CassandraStore {
    /// See [`crate::stores::LogReader::counts`]. A minute counts whole if any of it is asked for.
    pub(super) async fn read_counts(
        &self,
        since_ms: i64,
        until_ms: i64,
    ) -> Result<Vec<(CountKey, u64)>, StoreError> {
        let link = self.link().await?;
        let Some(wanted) = minutes_between(since_ms, until_ms) else { return Ok(Vec::new()) };
        let hours = self.hours_with(&link, &wanted).await?;
        let jobs = hours.into_iter().map(|hour| {
            let link = Arc::clone(&link);
            async move { Ok((hour.first_minute, stats_of_hour(&link, hour).await?)) }
        });
        let mut totals = Totals::default();
        at_once(jobs.collect::<Vec<_>>(), |(minute, rows)| {
            for row in rows {
                totals.add(minute, row);
            }
            true
        })
        .await?;
        if totals.is_nameless() {
            totals.name(&link.origins.hosts(&link.session).await?);
        }
        Ok(totals.finish(&wanted))
    }

    /// See [`crate::stores::LogReader::durations`].
    pub(super) async fn read_durations(
        &self,
        since_ms: i64,
        until_ms: i64,
    ) -> Result<Vec<(DurationKey, MinuteDurations)>, StoreError> {
        let link = self.link().await?;
        let Some(wanted) = minutes_between(since_ms, until_ms) else { return Ok(Vec::new()) };
        let jobs = self.hours_with(&link, &wanted).await?.into_iter().map(|hour| {
            let link = Arc::clone(&link);
            async move {
                let statement = &link.reads.durations;
                let (values, start) = (hour.key(), PagingState::start());
                Ok((hour.first_minute, all_rows(&link.session, statement, values, start).await?))
            }
        });
        let mut hours: Vec<(i64, Vec<DurationsRow>)> = Vec::new();
        at_once(jobs.collect::<Vec<_>>(), |hour| {
            hours.push(hour);
            true
        })
        .await?;
        let mut rows = hours.iter().flat_map(|(_, rows)| rows);
        let nameless = rows.any(|(_, _, _, host, ..)| host.is_none());
        let hosts =
            if nameless { link.origins.hosts(&link.session).await? } else { BTreeMap::new() };
        let mut found: HashMap<DurationKey, MinuteDurations> = HashMap::new();
        for (first_minute, (source, origin, table, host, counts, text)) in
            hours.into_iter().flat_map(|(minute, rows)| rows.into_iter().map(move |r| (minute, r)))
        {
            let table =
                table.as_deref().and_then(Table::from_word).unwrap_or(Table::Infrastructure);
            let host = host.or_else(|| hosts.get(&origin).cloned()).unwrap_or_default();
            let counted = text.as_deref().and_then(durations_of);
            let levels = counts.as_deref().map(counts_of).unwrap_or_default();
            let rows = levels.into_iter().flat_map(|(_, counts)| (0..).zip(counts));
            let rows = rows.filter(|(_, rows)| *rows > 0);
            for (minute, durations) in minute_durations(table, counted.as_ref(), rows) {
                let minute = first_minute + minute;
                if wanted.contains(&minute) {
                    let (source, host) = (source.clone(), host.clone());
                    let key = DurationKey { minute, table, source, host };
                    found.entry(key).or_default().merge(&durations);
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The hours that have statistics of any of these minutes.
    async fn hours_with(
        &self,
        link: &Link,
        wanted: &RangeInclusive<i64>,
    ) -> Result<Vec<Hour>, StoreError> {
        let days = self.hours(link).await?;
        let hours =
            days.iter().flat_map(|(&day, hours)| hours.iter().map(move |&hour| (day, hour)));
        let hours = hours.map(|(day, hour)| {
            let first_minute = (i64::from(day) * 24 + i64::from(hour)) * 60;
            Hour { day, of_day: hour, first_minute }
        });
        let touches = |hour: &Hour| {
            hour.first_minute <= *wanted.end() && hour.first_minute + 59 >= *wanted.start()
        };
        Ok(hours.filter(touches).collect())
    }
}

/// The minutes of a time, also those that lie in it in part; `None` of none.
fn minutes_between(since_ms: i64, until_ms: i64) -> Option<RangeInclusive<i64>> {
    let minutes = || since_ms.div_euclid(60_000)..=(until_ms - 1).div_euclid(60_000);
    (since_ms < until_ms).then(minutes)
}

/// An hour of the statistics.
#[derive(Clone, Copy)]
struct Hour {
    day: i32,
    of_day: i8,
    first_minute: i64,
}

impl Hour {
    fn key(self) -> (CqlDate, i8) {
        (CqlDate(cql_date(self.day)), self.of_day)
    }
}

type StatsRow = (String, i64, Option<String>, Option<String>, Option<String>);
type DurationsRow = (String, i64, Option<String>, Option<String>, Option<String>, Option<String>);

async fn stats_of_hour(link: &Link, hour: Hour) -> Result<Vec<StatsRow>, StoreError> {
    all_rows(&link.session, &link.reads.stats, hour.key(), PagingState::start()).await
}

/// Numbers for names, so that a sum costs no text.
#[derive(Default)]
struct Names {
    numbers: HashMap<String, usize>,
    names: Vec<String>,
}

impl Names {
    fn number(&mut self, name: String) -> usize {
        if let Some(number) = self.numbers.get(&name) {
            return *number;
        }
        self.names.push(name.clone());
        self.numbers.insert(name, self.names.len() - 1);
        self.names.len() - 1
    }

    fn name(&self, number: usize) -> &str {
        self.names.get(number).map_or("", String::as_str)
    }
}

/// Whose rows a sum counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    /// The host with this number.
    Host(usize),
    /// Of statistics that were written before the host's name was known.
    Origin(OriginId),
}

/// Sums by hour, source, host and level, one for each minute.
#[derive(Default)]
struct Totals {
    sources: Names,
    hosts: Names,
    sums: HashMap<(i64, Table, usize, Whose, Level), [u64; 60]>,
}

impl Totals {
    /// Adds a row of statistics of the hour that begins at `minute`.
    fn add(&mut self, minute: i64, row: StatsRow) {
        let (source, origin, table, host, counts) = row;
        let table = table.as_deref().and_then(Table::from_word).unwrap_or(Table::Infrastructure);
        let source = self.sources.number(source);
        let whose = host.map_or(Whose::Origin(origin), |host| Whose::Host(self.hosts.number(host)));
        for (level, counts) in counts.as_deref().map(counts_of).unwrap_or_default() {
            let sums = self.sums.entry((minute, table, source, whose, level)).or_insert([0; 60]);
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
        }
    }

    fn is_nameless(&self) -> bool {
        self.sums.keys().any(|(_, _, _, whose, _)| matches!(whose, Whose::Origin(_)))
    }

    fn name(&mut self, hosts: &BTreeMap<OriginId, String>) {
        for ((minute, table, source, whose, level), counts) in std::mem::take(&mut self.sums) {
            let whose = match whose {
                Whose::Origin(origin) => {
                    Whose::Host(self.hosts.number(hosts.get(&origin).cloned().unwrap_or_default()))
                }
                host @ Whose::Host(_) => host,
            };
            let sums = self.sums.entry((minute, table, source, whose, level)).or_insert([0; 60]);
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
        }
    }

    /// The sums in the order of their keys: the hours are sorted, and each is read out minute by
    /// minute, since to sort what comes out takes longer than all the rest.
    fn finish(self, wanted: &RangeInclusive<i64>) -> Vec<(CountKey, u64)> {
        let mut sums: Vec<_> = self
            .sums
            .iter()
            .map(|((first, table, source, whose, level), counts)| {
                let host = match whose {
                    Whose::Host(host) => self.hosts.name(*host),
                    Whose::Origin(_) => "",
                };
                ((*first, *table, self.sources.name(*source), *level, host), counts)
            })
            .collect();
        sums.sort_unstable_by_key(|(key, _)| *key);
        let mut rows = Vec::new();
        for hour in sums.chunk_by(|(a, _), (b, _)| a.0 == b.0) {
            for index in 0..60 {
                for ((first, table, source, level, host), counts) in hour {
                    let minute = first + i64::try_from(index).unwrap_or(0);
                    let count = counts.get(index).copied().unwrap_or(0);
                    if count > 0 && wanted.contains(&minute) {
                        let (source, host) = ((*source).to_owned(), (*host).to_owned());
                        let (table, level) = (*table, *level);
                        rows.push((CountKey { minute, table, source, level, host }, count));
                    }
                }
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: &str, origin: i64, host: Option<&str>, counts: &str) -> StatsRow {
        let table = Some("application_logs".to_owned());
        (source.to_owned(), origin, table, host.map(str::to_owned), Some(counts.to_owned()))
    }

    #[test]
    fn sums_are_by_minute_source_level_and_host_and_hosts_are_found_by_origin() {
        let mut totals = Totals::default();
        totals.add(60, row("a", 1, Some("h"), r#"{"INFO":[1,0,2]}"#));
        totals.add(60, row("a", 2, Some("h"), r#"{"INFO":[5]}"#));
        totals.add(60, row("a", 3, None, r#"{"INFO":[10],"ERROR":[0,7]}"#));
        assert!(totals.is_nameless());
        totals.name(&[(3, "h".to_owned())].into());
        assert!(!totals.is_nameless());
        let found: Vec<_> = totals
            .finish(&(60..=61))
            .into_iter()
            .map(|(key, count)| (key.minute, key.level, key.host, count))
            .collect();
        let host = || "h".to_owned();
        assert_eq!(found, [(60, Level::Info, host(), 16), (61, Level::Error, host(), 7)]);
    }
}
