//! Rows as the tables give them back.

use scylla::DeserializeRow;
use scylla::value::CqlTimestamp;
use uuid::Uuid;

use crate::key::{RowKey, Table};
use crate::record::Level;
use crate::stores::{RowQuery, StoredRow};

/// The columns of [`InfrastructureRow`] or [`ApplicationRow`].
pub(super) fn columns(table: Table) -> String {
    let all = "source, timestamp, origin, offset_bytes, level, message, host, metadata";
    let further = ", logger, request_id, user_id, session_id, traceback, duration_ms";
    match table {
        Table::Infrastructure | Table::Events => all.to_owned(),
        Table::Application => format!("{all}{further}"),
    }
}

/// A row of `infrastructure_logs`.
#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct InfrastructureRow {
    source: String,
    timestamp: CqlTimestamp,
    origin: i64,
    offset_bytes: i64,
    level: Option<String>,
    message: Option<String>,
    host: Option<String>,
    metadata: Option<String>,
}

/// A row of `application_logs`.
#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct ApplicationRow {
    source: String,
    timestamp: CqlTimestamp,
    origin: i64,
    offset_bytes: i64,
    level: Option<String>,
    message: Option<String>,
    host: Option<String>,
    metadata: Option<String>,
    logger: Option<String>,
    request_id: Option<Uuid>,
    user_id: Option<i32>,
    session_id: Option<String>,
    traceback: Option<String>,
    duration_ms: Option<f64>,
}

impl InfrastructureRow {
    /// The row; `None` for what a delete has left behind.
    pub(super) fn stored(self) -> Option<StoredRow> {
        Some(StoredRow {
            table: Table::Infrastructure,
            key: RowKey {
                timestamp_ms: self.timestamp.0,
                origin: self.origin,
                offset_bytes: self.offset_bytes,
            },
            source: self.source,
            level: Level::from_name(&self.level?).unwrap_or_default(),
            message: self.message.unwrap_or_default(),
            host: self.host.unwrap_or_default(),
            metadata: self.metadata.unwrap_or_default(),
            further: Vec::new(),
        })
    }
}

impl ApplicationRow {
    /// See [`InfrastructureRow::stored`].
    pub(super) fn stored(self) -> Option<StoredRow> {
        let further = [
            ("logger", self.logger),
            ("request_id", self.request_id.map(|id| id.to_string())),
            ("user_id", self.user_id.map(|id| id.to_string())),
            ("session_id", self.session_id),
            ("traceback", self.traceback),
            ("duration_ms", self.duration_ms.map(|duration| duration.to_string())),
        ];
        let row = InfrastructureRow {
            source: self.source,
            timestamp: self.timestamp,
            origin: self.origin,
            offset_bytes: self.offset_bytes,
            level: self.level,
            message: self.message,
            host: self.host,
            metadata: self.metadata,
        };
        let mut row = row.stored()?;
        row.table = Table::Application;
        row.further =
            further.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        Some(row)
    }
}

/// Whether a row is asked for.
pub(super) fn accepts(query: &RowQuery, row: &StoredRow) -> bool {
    let time = row.key.timestamp_ms;
    let after = |cursor| if query.newest_first { row.key < cursor } else { row.key > cursor };
    query.since_ms.is_none_or(|since| time >= since)
        && query.until_ms.is_none_or(|until| time < until)
        && (query.levels.is_empty() || query.levels.contains(&row.level))
        && (query.hosts.is_empty() || query.hosts.contains(&row.host))
        && (query.sources.is_empty() || query.sources.contains(&row.source))
        && query.after.is_none_or(after)
}
