//! Times to live of tables, and partitions that are older than a policy that got shorter.

use std::collections::BTreeMap;
use std::time::Duration;

use super::policy::{self, has_ended};
use super::{Item, Kind, Run, State, TableTtl, ended};
use crate::key::{DAY_MS, Table};
use crate::stores::LogReader;
use crate::stores::StoreError;
use crate::stores::cassandra::CassandraStore;
use crate::stores::cassandra::expire::{self, PartRows};
use crate::stores::expired::{Expired, Tombstone};

/// Rows live from when they arrive: those of a day are given one more before they are deleted, so
/// that nothing is deleted that goes by itself.
const GRACE_MS: i64 = DAY_MS;

impl Run<'_> {
    /// # Errors
    ///
    /// The cluster does not answer.
    pub(super) async fn cassandra(&mut self) -> Result<(), StoreError> {
        let store = &self.config.store;
        let cassandra =
            CassandraStore::with_lifetimes(store.cassandra.clone(), store.lifetimes.clone());
        self.times_to_live(&cassandra).await?;
        Box::pin(self.partitions(&cassandra)).await?;
        self.report.notes.push(
            "the running daemon writes the times to live that it read when it started; restart it \
             after a policy was changed"
                .to_owned(),
        );
        Ok(())
    }

    async fn times_to_live(&mut self, cassandra: &CassandraStore) -> Result<(), StoreError> {
        let lifetimes = self.config.store.lifetimes.clone();
        let seconds = |lifetime: Option<Duration>| {
            lifetime.map_or(0, |lifetime| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX))
        };
        let mut wanted: Vec<(&str, i64)> = Table::ALL
            .into_iter()
            .map(|table| (table.name(), seconds(lifetimes.of_table(table))))
            .collect();
        // counts are needed as long as any row is
        wanted.push(("log_stats", seconds(lifetimes.longest())));
        wanted.push(("health_checks", seconds(Some(self.config.retention.health_checks))));
        for (table, wanted_s) in wanted {
            let found_s = expire::table_ttl(cassandra, table).await?;
            let state = if found_s == wanted_s {
                None
            } else if self.request.apply {
                Some(ended(expire::set_table_ttl(cassandra, table, wanted_s).await))
            } else {
                Some(State::Planned)
            };
            if state.is_some() {
                self.note_when(table, found_s, wanted_s);
            }
            self.report.tables.push(TableTtl { table: table.to_owned(), found_s, wanted_s, state });
        }
        Ok(())
    }

    /// Rows keep the time to live that they were written with.
    fn note_when(&mut self, table: &str, found_s: i64, wanted_s: i64) {
        let until = if found_s == 0 {
            "those for ever".to_owned()
        } else {
            format!("theirs: the last of them goes in {} days", (found_s + 86_399) / 86_400)
        };
        let lives = |seconds: i64| {
            let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
            policy::words(seconds.map(Duration::from_secs))
        };
        self.report.notes.push(format!(
            "{table}: {} instead of {} holds for rows that are written from now on; rows that are \
             there keep {until}{}",
            lives(wanted_s),
            lives(found_s),
            if table == Table::Events.name() {
                " (events are kept by user and month: none are deleted before)"
            } else {
                ""
            }
        ));
    }

    async fn partitions(&mut self, cassandra: &CassandraStore) -> Result<(), StoreError> {
        let lifetimes = self.config.store.lifetimes.clone();
        let Some(shortest) = policy::shortest(&lifetimes) else { return Ok(()) };
        let now_ms = self.request.now_ms - GRACE_MS;
        let ended_already: Expired = cassandra.tombstones().await?.iter().collect();
        let before = policy::first_kept(shortest, now_ms);
        let parts = expire::parts_before(cassandra, before).await?;
        let mut by_source: BTreeMap<(i32, String), Vec<PartRows>> = BTreeMap::new();
        for part in parts {
            by_source.entry((part.day, part.source.clone())).or_default().push(part);
        }
        for ((day, source), parts) in by_source {
            let gone = |table: Table| has_ended(lifetimes.of(table, &source), day, now_ms);
            // the statistics of a source are one range for all its tables
            let all = parts.iter().all(|part| gone(part.table));
            for part in parts.iter().filter(|part| gone(part.table) && part.table != Table::Events)
            {
                let tombstone = Tombstone {
                    day,
                    part: Some((part.table, source.clone())),
                    policy: policy::name_of(&lifetimes, part.table, &source),
                    dropped_ms: self.request.now_ms,
                };
                // deleted before, and its statistics have to stay for another table's sake
                if !all && ended_already.has(day, part.table, &source, part.written_ms) {
                    continue;
                }
                let item = self.partition(cassandra, part, tombstone, all).await;
                self.report.items.push(item);
            }
        }
        Ok(())
    }

    async fn partition(
        &self,
        cassandra: &CassandraStore,
        part: &PartRows,
        tombstone: Tombstone,
        with_stats: bool,
    ) -> Item {
        let mut state = self.judge(part.day, part.written_ms);
        if self.request.apply && state == State::Planned {
            let dropped = expire::drop_partitions(cassandra, part, &tombstone, with_stats).await;
            state = ended(dropped);
        }
        Item {
            kind: Kind::Partitions,
            day: Some(part.day),
            table: Some(part.table),
            source: Some(part.source.clone()),
            policy: tombstone.policy,
            rows: part.rows,
            bytes: None,
            oldest_ms: Some(part.oldest_ms),
            newest_ms: Some(part.newest_ms),
            state,
        }
    }
}
