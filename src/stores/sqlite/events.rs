//! User events in the file of their day.
//!
//! The key begins with the user, so that a user's events are read newest first without those of
//! others; an index by time serves questions about everybody. The id of an event tells its origin
//! and offset ([`RowKey::event_id`]).

use std::fmt::Write as _;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, Statement};
use uuid::Uuid;

use super::day::{Text, text_or_null, uuid_text};
use crate::batch::{Batch, EventColumns};
use crate::key::{RowKey, Table};
use crate::record::Level;
use crate::stores::{RowQuery, StoredRow, StoredText};

type Sql<T> = rusqlite::Result<T>;

/// The table and its index.
pub const SCHEMA: &str = "
CREATE TABLE user_events (
  user_id TEXT NOT NULL, event_timestamp INTEGER NOT NULL, event_id TEXT NOT NULL,
  event_type TEXT, event_data TEXT, session_id TEXT, ip_address TEXT, user_agent TEXT,
  written INTEGER NOT NULL,
  PRIMARY KEY (user_id, event_timestamp, event_id)) WITHOUT ROWID;
CREATE INDEX user_events_by_time ON user_events (event_timestamp, event_id);
";

const INSERT: &str = "
INSERT INTO user_events (user_id, event_timestamp, event_id, event_type, event_data, session_id,
  ip_address, user_agent, written) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id, event_timestamp, event_id) DO UPDATE SET
  event_type = excluded.event_type, event_data = excluded.event_data,
  session_id = excluded.session_id, ip_address = excluded.ip_address,
  user_agent = excluded.user_agent, written = excluded.written
WHERE excluded.written >= written";

/// Writes the rows of a batch. A row that is there already is a replay.
pub fn insert(connection: &Connection, batch: &Batch) -> Sql<()> {
    let mut statement = connection.prepare_cached(INSERT)?;
    let nobody = EventColumns::default();
    for (index, row) in batch.rows.iter().enumerate() {
        let columns = batch.event_of(row).unwrap_or(&nobody);
        let text = |slice: &Option<_>| slice.as_ref().map(|slice| Text(batch.text(slice)));
        statement.raw_bind_parameter(1, uuid_text(columns.user_id))?;
        statement.raw_bind_parameter(2, row.key.timestamp_ms)?;
        statement.raw_bind_parameter(3, uuid_text(row.key.event_id()))?;
        statement.raw_bind_parameter(4, text_or_null(batch.text(&row.message)))?;
        statement.raw_bind_parameter(5, text_or_null(batch.text(&row.metadata)))?;
        statement.raw_bind_parameter(6, text(&columns.session_id))?;
        statement.raw_bind_parameter(7, columns.ip_address.map(|ip| ip.to_string()))?;
        statement.raw_bind_parameter(8, text(&columns.user_agent))?;
        statement.raw_bind_parameter(9, batch.row_stamp(index))?;
        statement.raw_execute()?;
    }
    Ok(())
}

/// What an event says, whoever's it is.
pub fn text(connection: &Connection, key: RowKey) -> Sql<Option<StoredText>> {
    let sql = "SELECT event_type, event_data FROM user_events INDEXED BY user_events_by_time \
               WHERE event_timestamp = ? AND event_id = ?";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_row((key.timestamp_ms, uuid_text(key.event_id())), |row| {
        Ok(StoredText { message: optional(row, 0)?, metadata: optional(row, 1)? })
    });
    found.optional()
}

fn optional(row: &Row<'_>, at: usize) -> Sql<String> {
    Ok(row.get::<_, Option<String>>(at)?.unwrap_or_default())
}

/// The ordered events that are asked for, in parts that follow each other.
pub fn statements<'c>(connection: &'c Connection, query: &RowQuery) -> Sql<Vec<Statement<'c>>> {
    let prepare = |part| {
        let (sql, values) = question(query, part);
        let mut statement = connection.prepare(&sql)?;
        for (at, value) in values.iter().enumerate() {
            statement.raw_bind_parameter(at + 1, value)?;
        }
        Ok(statement)
    };
    parts(query).into_iter().map(prepare).collect()
}

/// A condition on the key, with its values.
pub(super) type Part = (String, Vec<Value>);

/// The events after a key: the rest of its moment, then all other times.
pub(super) fn parts(query: &RowQuery) -> Vec<Part> {
    let Some(after) = query.after else { return vec![(String::new(), Vec::new())] };
    let than = if query.newest_first { '<' } else { '>' };
    let (time, id) = (Value::from(after.timestamp_ms), Value::from(uuid_text(after.event_id())));
    vec![
        (format!(" AND event_timestamp = ? AND event_id {than} ?"), vec![time.clone(), id]),
        (format!(" AND event_timestamp {than} ?"), vec![time]),
    ]
}

/// The words of a statement and its values. The index is named, as there are no statistics.
pub(super) fn question(query: &RowQuery, (condition, bounds): Part) -> (String, Vec<Value>) {
    let mut values: Vec<Value> = Vec::new();
    let from = match query.user {
        Some(user) => {
            values.push(uuid_text(user).into());
            "user_events WHERE user_id = ?"
        }
        None => "user_events INDEXED BY user_events_by_time WHERE 1",
    };
    let mut sql = format!(
        "SELECT event_timestamp, event_id, user_id, event_type, event_data, session_id, \
         ip_address, user_agent FROM {from}"
    );
    for (bound, than) in [(query.since_ms, ">="), (query.until_ms, "<")] {
        if let Some(bound) = bound {
            sql += " AND event_timestamp ";
            sql += than;
            sql += " ?";
            values.push(bound.into());
        }
    }
    sql += &condition;
    values.extend(bounds);
    let order = if query.newest_first { "DESC" } else { "ASC" };
    let _ = write!(sql, " ORDER BY event_timestamp {order}, event_id {order}");
    (sql, values)
}

fn key_of(row: &Row<'_>) -> Sql<RowKey> {
    let id: String = row.get(1)?;
    let id = Uuid::try_parse(&id).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(RowKey::of_event(row.get(0)?, id.as_u128()))
}

/// A row of [`statements`].
pub fn stored(row: &Row<'_>) -> Sql<StoredRow> {
    let mut further = vec![("user_id", row.get(2)?)];
    for (at, name) in [(5, "session_id"), (6, "ip_address"), (7, "user_agent")] {
        further.extend(row.get::<_, Option<String>>(at)?.map(|value| (name, value)));
    }
    Ok(StoredRow {
        table: Table::Events,
        key: key_of(row)?,
        source: Table::Events.name().to_owned(),
        level: Level::Info,
        message: optional(row, 3)?,
        host: String::new(),
        metadata: optional(row, 4)?,
        further,
    })
}

/// Gives the key of every event to `visitor`; answers `false` when it has had enough.
pub fn visit(connection: &Connection, mut visitor: impl FnMut(RowKey) -> bool) -> Sql<bool> {
    let mut statement = connection.prepare("SELECT event_timestamp, event_id FROM user_events")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if !visitor(key_of(row)?) {
            return Ok(false);
        }
    }
    Ok(true)
}
