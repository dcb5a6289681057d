//! Counts of rows, from `log_stats` alone.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use scylla::response::PagingState;
use scylla::value::CqlDate;

use super::ask::{all_rows, at_once};
use super::rows::cql_date;
use super::spans::counts_of;
use super::{CassandraStore, Link};
use crate::key::Table;
use crate::ledger::OriginId;
use crate::record::Level;
use crate::stores::{CountKey, StoreError};

impl CassandraStore {
    /// See [`crate::stores::LogReader::counts`]. A minute counts whole if any of it is asked for.
    pub(super) async fn read_counts(
        &self,
        since_ms: i64,
        until_ms: i64,
    ) -> Result<Vec<(CountKey, u64)>, StoreError> {
        let link = self.link().await?;
        if until_ms <= since_ms {
            return Ok(Vec::new());
        }
        let wanted = since_ms.div_euclid(60_000)..=(until_ms - 1).div_euclid(60_000);
        let days = self.hours(&link).await?;
        let hours =
            days.iter().flat_map(|(&day, hours)| hours.iter().map(move |&hour| (day, hour)));
        let jobs = hours
            .map(|(day, hour)| (day, hour, (i64::from(day) * 24 + i64::from(hour)) * 60))
            .filter(|(_, _, minute)| minute <= wanted.end() && minute + 59 >= *wanted.start())
            .map(|(day, hour, minute)| {
                let link = Arc::clone(&link);
                async move { Ok((minute, stats_of_hour(&link, day, hour).await?)) }
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
}

type StatsRow = (String, i64, Option<String>, Option<String>, Option<String>);

async fn stats_of_hour(link: &Link, day: i32, hour: i8) -> Result<Vec<StatsRow>, StoreError> {
    let values = (CqlDate(cql_date(day)), hour);
    all_rows(&link.session, &link.reads.stats, values, PagingState::start()).await
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
