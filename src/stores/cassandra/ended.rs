//! Origins that retention has ended: `expired_origins`, and how everything else of them goes.

use std::sync::Arc;

use scylla::client::session::Session;
use scylla::response::PagingState;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlTimestamp, MaybeUnset};
use scylla::{DeserializeRow, SerializeRow};
use tokio::time::Instant;

use super::ask::{all_rows, at_once, for_each, prepare, prepare_read};
use super::origins::{path_bytes, path_of, unset};
use super::{CassandraStore, Link, fault};
use crate::ledger::OriginId;
use crate::stores::StoreError;
use crate::stores::expired::EndedOrigin;

const COLUMNS: &str =
    "machine, origin, host, path, path_bytes, end_bytes, rows, policy, expired_at";

#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct Values {
    machine: String,
    origin: i64,
    host: String,
    path: String,
    path_bytes: MaybeUnset<Vec<u8>>,
    end_bytes: i64,
    rows: i64,
    policy: String,
    expired_at: CqlTimestamp,
}

#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct Row {
    machine: String,
    origin: i64,
    host: Option<String>,
    path: Option<String>,
    path_bytes: Option<Vec<u8>>,
    end_bytes: Option<i64>,
    rows: Option<i64>,
    policy: Option<String>,
    expired_at: Option<CqlTimestamp>,
}

impl From<&EndedOrigin> for Values {
    fn from(ended: &EndedOrigin) -> Self {
        Self {
            machine: ended.machine.clone(),
            origin: ended.origin,
            host: ended.host.clone(),
            path: ended.path.to_string_lossy().into_owned(),
            path_bytes: unset(path_bytes(&ended.path)),
            end_bytes: ended.end_bytes.cast_signed(),
            rows: ended.rows.cast_signed(),
            policy: ended.policy.clone(),
            expired_at: CqlTimestamp(ended.ended_ms),
        }
    }
}

impl From<Row> for EndedOrigin {
    fn from(row: Row) -> Self {
        Self {
            origin: row.origin,
            machine: row.machine,
            host: row.host.unwrap_or_default(),
            path: path_of(row.path, row.path_bytes),
            end_bytes: row.end_bytes.unwrap_or(0).cast_unsigned(),
            rows: row.rows.unwrap_or(0).cast_unsigned(),
            policy: row.policy.unwrap_or_default(),
            ended_ms: row.expired_at.map_or(0, |at| at.0),
        }
    }
}

/// What is prepared for the table.
pub(super) struct Statements {
    all: PreparedStatement,
    of_machine: PreparedStatement,
    put: PreparedStatement,
    span_stamps: PreparedStatement,
    context_stamps: PreparedStatement,
    record_stamps: PreparedStatement,
    drop_spans: PreparedStatement,
    drop_contexts: PreparedStatement,
    drop_record: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let table = format!("{keyspace}.expired_origins");
        let of_record = "WHERE machine = ? AND origin = ?";
        let stamps = |what: &str, key: &str| format!("SELECT {what} FROM {keyspace}.{key}");
        let drop = |key: &str| {
            let (table, key) = key.split_once(' ').unwrap_or((key, ""));
            format!("DELETE FROM {keyspace}.{table} USING TIMESTAMP ? {key}")
        };
        let (spans, contexts) = ("spans WHERE origin = ?", "contexts WHERE origin = ?");
        let record = format!("origins {of_record}");
        Ok(Self {
            all: prepare_read(session, format!("SELECT {COLUMNS} FROM {table}")).await?,
            of_machine: prepare(session, format!("SELECT origin FROM {table} WHERE machine = ?"))
                .await?,
            put: prepare(
                session,
                format!("INSERT INTO {table} ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"),
            )
            .await?,
            span_stamps: prepare(session, stamps("end_bytes, writetime(end_bytes)", spans)).await?,
            context_stamps: prepare(session, stamps("writetime(source)", contexts)).await?,
            record_stamps: prepare(session, stamps("writetime(host)", &record)).await?,
            drop_spans: prepare(session, drop(spans)).await?,
            drop_contexts: prepare(session, drop(contexts)).await?,
            drop_record: prepare(session, drop(&record)).await?,
        })
    }

    pub(super) async fn all(&self, session: &Session) -> Result<Vec<EndedOrigin>, StoreError> {
        let rows: Vec<Row> = all_rows(session, &self.all, (), PagingState::start()).await?;
        let mut found: Vec<EndedOrigin> = rows.into_iter().map(EndedOrigin::from).collect();
        found.sort_by_key(|ended| (ended.ended_ms, ended.origin));
        Ok(found)
    }

    pub(super) async fn of_machine(
        &self,
        session: &Session,
        machine: &str,
    ) -> Result<Vec<OriginId>, StoreError> {
        let rows: Vec<(i64,)> =
            all_rows(session, &self.of_machine, (machine,), PagingState::start()).await?;
        Ok(rows.into_iter().map(|(origin,)| origin).collect())
    }
}

/// Lets origins go: their tombstones are written first, then spans, contexts and at last the record
/// of each go, so that a run that is broken off is gone on with by the next. One that has moved on
/// meanwhile stays. Its statistics go with the rows that they count. Answers how many went.
///
/// # Errors
///
/// The cluster refuses. Asking again is harmless.
pub async fn end(store: &CassandraStore, origins: &[EndedOrigin]) -> Result<u64, StoreError> {
    let link = store.link().await?;
    let values = origins.iter().map(Values::from).collect::<Vec<_>>();
    store.note(for_each(&link.session, &link.ended.put, values).await)?;
    let jobs = origins.iter().map(|ended| {
        let (link, ended) = (Arc::clone(&link), ended.clone());
        async move { end_one(&link, &ended).await }
    });
    let mut gone = 0;
    let done = at_once(jobs.collect::<Vec<_>>(), |went| {
        gone += u64::from(went);
        true
    });
    store.note(done.await)?;
    Ok(gone)
}

/// Each delete has the newest write timestamp of what was seen: it beats every repetition of those
/// writes, whatever the clocks say, and no later one.
async fn end_one(link: &Link, ended: &EndedOrigin) -> Result<bool, StoreError> {
    let (session, statements) = (&link.session, &link.ended);
    let (id, start) = (ended.origin, PagingState::start);
    let spans: Vec<(Option<i64>, Option<i64>)> =
        all_rows(session, &statements.span_stamps, (id,), start()).await?;
    let end = spans.iter().filter_map(|(end, _)| *end).max();
    if end.is_some_and(|end| end.cast_unsigned() > ended.end_bytes) {
        return Ok(false);
    }
    if let Some(stamp) = spans.into_iter().filter_map(|(_, stamp)| stamp).max() {
        execute(session, &statements.drop_spans, (stamp, id)).await?;
    }
    let contexts: Vec<(Option<i64>,)> =
        all_rows(session, &statements.context_stamps, (id,), start()).await?;
    if let Some(stamp) = newest(contexts) {
        execute(session, &statements.drop_contexts, (stamp, id)).await?;
    }
    let machine = ended.machine.as_str();
    let records: Vec<(Option<i64>,)> =
        all_rows(session, &statements.record_stamps, (machine, id), start()).await?;
    if let Some(stamp) = newest(records) {
        execute(session, &statements.drop_record, (stamp, machine, id)).await?;
    }
    Ok(true)
}

fn newest(stamps: Vec<(Option<i64>,)>) -> Option<i64> {
    stamps.into_iter().filter_map(|(stamp,)| stamp).max()
}

async fn execute(
    session: &Session,
    statement: &PreparedStatement,
    values: impl SerializeRow,
) -> Result<(), StoreError> {
    let started = Instant::now();
    let done = session.execute_unpaged(statement, values).await;
    done.map(drop).map_err(|error| fault::execution(&error, started.elapsed()))
}
