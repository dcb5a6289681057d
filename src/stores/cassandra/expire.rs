//! What retention ends in this store: times to live of tables, and whole partitions of days.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::response::PagingState;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlDate, CqlTimestamp};
use tokio::time::Instant;

use super::ask::{all_rows, at_once, for_each, prepare, prepare_read};
use super::layout::day_of_cql;
use super::rows::cql_date;
use super::schema::execute;
use super::spans::{SpanValues, counts_of, put_text};
use super::{CassandraStore, Link, fault, schema};
use crate::key::{CLASSES, Table};
use crate::stores::StoreError;
use crate::stores::expired::Tombstone;
use crate::stores::merge::Merged;

/// What is prepared for retention.
pub(super) struct Statements {
    tombstones: PreparedStatement,
    put_tombstone: PreparedStatement,
    stats: PreparedStatement,
    drop_stats: PreparedStatement,
    drop_infrastructure: PreparedStatement,
    drop_application: PreparedStatement,
    span_stamps: PreparedStatement,
    put_span: PreparedStatement,
    drop_spans: PreparedStatement,
}

/// The rows of a day, a table and a source, as the statistics count them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRows {
    /// Days since 1970.
    pub day: i32,
    /// The table.
    pub table: Table,
    /// The source.
    pub source: String,
    /// How many.
    pub rows: u64,
    /// The minute of the first of them, in milliseconds.
    pub oldest_ms: i64,
    /// The end of the minute of the last of them.
    pub newest_ms: i64,
    /// When their statistics were written last.
    pub written_ms: i64,
    /// The hours of the day that have any.
    hours: BTreeSet<i8>,
}

type TombstoneRow = (CqlDate, String, String, Option<String>, Option<CqlTimestamp>);
type StatsRow = (String, Option<String>, Option<String>, Option<i64>);

impl Statements {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let table = format!("{keyspace}.expired_sources");
        let stats = format!("{keyspace}.log_stats");
        let hour = "WHERE log_date = ? AND hour = ?";
        let rows = |table: Table| {
            format!(
                "DELETE FROM {keyspace}.{} WHERE log_date = ? AND source = ? AND bucket = ?",
                table.name()
            )
        };
        let columns = "log_date, table_name, source, policy, expired_at";
        let tombstones = format!("SELECT {columns} FROM {table}");
        let put = format!("INSERT INTO {table} ({columns}) VALUES (?, ?, ?, ?, ?)");
        let counts =
            format!("SELECT source, table_name, counts, writetime(counts) FROM {stats} {hour}");
        let spans = format!(
            "DELETE FROM {keyspace}.spans USING TIMESTAMP ? \
             WHERE origin = ? AND start_bytes > ? AND start_bytes < ?"
        );
        let stamps = format!(
            "SELECT writetime(end_bytes) FROM {keyspace}.spans \
             WHERE origin = ? AND start_bytes >= ? AND start_bytes < ?"
        );
        Ok(Self {
            tombstones: prepare_read(session, tombstones).await?,
            put_tombstone: prepare(session, put).await?,
            stats: prepare_read(session, counts).await?,
            drop_stats: prepare(session, format!("DELETE FROM {stats} {hour} AND source = ?"))
                .await?,
            drop_infrastructure: prepare(session, rows(Table::Infrastructure)).await?,
            drop_application: prepare(session, rows(Table::Application)).await?,
            span_stamps: prepare_read(session, stamps).await?,
            put_span: prepare(session, put_text(keyspace)).await?,
            drop_spans: prepare(session, spans).await?,
        })
    }

    pub(super) async fn tombstones(&self, session: &Session) -> Result<Vec<Tombstone>, StoreError> {
        let rows: Vec<TombstoneRow> =
            all_rows(session, &self.tombstones, (), PagingState::start()).await?;
        let mut found: Vec<Tombstone> = rows
            .into_iter()
            .filter_map(|(date, table, source, policy, at)| {
                Some(Tombstone {
                    day: day_of_cql(date),
                    part: Some((Table::from_word(&table)?, source)),
                    policy: policy.unwrap_or_default(),
                    dropped_ms: at.map_or(0, |at| at.0),
                })
            })
            .collect();
        found.sort_by(|a, b| (a.day, &a.part).cmp(&(b.day, &b.part)));
        Ok(found)
    }
}

/// Seconds that a table's rows live by default; 0 for ever.
///
/// # Errors
///
/// The cluster does not answer, or there is no such table.
pub async fn table_ttl(store: &CassandraStore, table: &str) -> Result<i64, StoreError> {
    let link = store.link().await?;
    let keyspace = &store.config.keyspace;
    let found = schema::table_ttl(&link.session, keyspace, table).await?;
    found.ok_or_else(|| fault::schema(format!("table {table} is missing")))
}

/// Makes the rows that are written from now on live so many seconds by default; 0 is for ever.
///
/// # Errors
///
/// The cluster refuses.
pub async fn set_table_ttl(
    store: &CassandraStore,
    table: &str,
    seconds: i64,
) -> Result<(), StoreError> {
    let link = store.link().await?;
    let text = format!(
        "ALTER TABLE {}.{table} WITH default_time_to_live = {seconds}",
        store.config.keyspace
    );
    execute(&link.session, &text, ()).await.map(drop)
}

/// What the statistics count of days before this one.
///
/// # Errors
///
/// The cluster does not answer.
pub async fn parts_before(store: &CassandraStore, day: i32) -> Result<Vec<PartRows>, StoreError> {
    let link = store.link().await?;
    let days = store.hours(&link).await?;
    let hours = days.range(..day).flat_map(|(day, hours)| hours.iter().map(|hour| (*day, *hour)));
    let jobs = hours.map(|(day, hour)| {
        let link = Arc::clone(&link);
        async move {
            let key = (CqlDate(cql_date(day)), hour);
            let start = PagingState::start();
            let rows: Vec<StatsRow> =
                all_rows(&link.session, &link.expire.stats, key, start).await?;
            Ok((day, hour, rows))
        }
    });
    let mut parts: BTreeMap<(i32, Table, String), PartRows> = BTreeMap::new();
    at_once(jobs.collect::<Vec<_>>(), |(day, hour, rows)| {
        for row in rows {
            add(&mut parts, day, hour, row);
        }
        true
    })
    .await?;
    Ok(parts.into_values().collect())
}

fn add(parts: &mut BTreeMap<(i32, Table, String), PartRows>, day: i32, hour: i8, row: StatsRow) {
    let (source, table, counts, written) = row;
    let table = table.as_deref().and_then(Table::from_word).unwrap_or(Table::Infrastructure);
    let part = parts.entry((day, table, source.clone())).or_insert_with(|| PartRows {
        day,
        table,
        source,
        rows: 0,
        oldest_ms: i64::MAX,
        newest_ms: i64::MIN,
        written_ms: i64::MIN,
        hours: BTreeSet::new(),
    });
    part.hours.insert(hour);
    part.written_ms = part.written_ms.max(written.unwrap_or(0) / 1000);
    let hour_ms = (i64::from(day) * 24 + i64::from(hour)) * 3_600_000;
    for (_, minutes) in counts.as_deref().map(counts_of).unwrap_or_default() {
        for (minute, rows) in (0..).zip(minutes).filter(|(_, rows)| *rows > 0) {
            let minute_ms = hour_ms + minute * 60_000;
            part.rows += rows;
            part.oldest_ms = part.oldest_ms.min(minute_ms);
            part.newest_ms = part.newest_ms.max(minute_ms + 59_999);
        }
    }
}

/// Deletes the partitions of a day, a table and a source, after its tombstone was written, and
/// with `with_stats` what the statistics count of the day's source.
///
/// # Errors
///
/// The cluster refuses. Asking again is harmless.
pub async fn drop_partitions(
    store: &CassandraStore,
    part: &PartRows,
    tombstone: &Tombstone,
    with_stats: bool,
) -> Result<(), StoreError> {
    let link = store.link().await?;
    let statements = &link.expire;
    let date = CqlDate(cql_date(part.day));
    let statement = match part.table {
        Table::Infrastructure => &statements.drop_infrastructure,
        Table::Application => &statements.drop_application,
        Table::Events => return Ok(()),
    };
    let name = part.table.name().to_owned();
    let at = CqlTimestamp(tombstone.dropped_ms);
    let note = [(date, name, part.source.clone(), tombstone.policy.clone(), at)];
    store.note(for_each(&link.session, &statements.put_tombstone, note).await)?;
    let layout = store.layouts.load().of(part.table, &part.source, part.day);
    let buckets = (0..CLASSES).flat_map(|class| layout.buckets(class));
    let keys: Vec<_> = buckets.map(|bucket| (date, part.source.clone(), bucket)).collect();
    store.note(for_each(&link.session, statement, keys).await)?;
    if with_stats {
        let keys: Vec<_> =
            part.hours.iter().map(|hour| (date, *hour, part.source.clone())).collect();
        store.note(for_each(&link.session, &statements.drop_stats, keys).await)?;
    }
    Ok(())
}

impl CassandraStore {
    /// Replaces runs of spans that have ended by one span each: a mutation of one partition.
    ///
    /// # Errors
    ///
    /// The cluster refuses. Asking again is harmless.
    pub async fn merge_spans(&self, merged: &[Merged], stamp: i64) -> Result<(), StoreError> {
        let link = self.link().await?;
        let jobs = merged.iter().map(|Merged { span, .. }| {
            let (link, span) = (Arc::clone(&link), span.clone());
            async move { replace(&link, &span, stamp).await }
        });
        self.note(at_once(jobs.collect::<Vec<_>>(), |()| true).await)
    }
}

async fn replace(link: &Link, span: &crate::ledger::Span, stamp: i64) -> Result<(), StoreError> {
    let mut batch = Batch::new(BatchType::Unlogged);
    batch.set_is_idempotent(true);
    batch.append_statement(link.expire.drop_spans.clone());
    batch.append_statement(link.expire.put_span.clone());
    let (start, end) = (span.start_bytes.cast_signed(), span.end_bytes.cast_signed());
    // stamps of a clock that was wrong may lie ahead, and ours must be the latest
    let stamps: Vec<(Option<i64>,)> = all_rows(
        &link.session,
        &link.expire.span_stamps,
        (span.origin, start, end),
        PagingState::start(),
    )
    .await?;
    let newest = stamps.into_iter().filter_map(|(stamp,)| stamp).max().unwrap_or(0);
    let stamp = stamp.max(newest.saturating_add(1));
    let values = ((stamp, span.origin, start, end), SpanValues::new(span, stamp));
    let started = Instant::now();
    let done = link.session.batch(&batch, values).await;
    done.map(drop).map_err(|error| fault::execution(&error, started.elapsed()))
}
