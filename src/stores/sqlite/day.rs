//! The file of one day: the tables of log rows, and the user events (see [`super::events`]).
//!
//! ```text
//! YYYY-MM-DD.db            days are UTC days of the column `timestamp` (milliseconds)
//!   infrastructure_logs    key (source, timestamp, origin, offset_bytes), rows inside the key's tree
//!   application_logs       the same, and the columns of applications
//!   user_events            key (user_id, event_timestamp, event_id)
//! ```
//!
//! The key begins with the source, so that one source is read without the others, and all of them
//! are read by merging a few ordered runs. WARNING and above have a partial index by time: they
//! are few, and a full index on the level cost about a quarter of the speed of writing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Statement, ToSql};

use super::events;
use super::files::{self, Inode};
use crate::batch::{ApplicationColumns, Batch, Row};
use crate::key::Table;
use crate::stores::{StoreError, StoredText};

/// Version of the tables, in `user_version`. Version 1 had no user events.
const VERSION: u32 = 2;

/// Page cache of one open day. Eight days are open at most.
const CACHE_KIB: u32 = 2048;

/// Pages of the write-ahead log after which it is copied into the database.
const CHECKPOINT_PAGES: u32 = 2000;

/// What a query must say word for word for the partial index to be used.
pub const GRAVE: &str = "level IN ('WARNING','ERROR','CRITICAL')";

fn schema(found: u32) -> String {
    let mut sql = String::new();
    if found == 0 {
        sql += &log_tables();
    }
    sql += events::SCHEMA;
    let _ = write!(sql, "PRAGMA user_version = {VERSION};");
    sql
}

fn log_tables() -> String {
    let mut sql = String::new();
    for table in Table::LOGS {
        let name = table.name();
        let more = match table {
            Table::Infrastructure | Table::Events => "",
            Table::Application => {
                "logger TEXT, request_id TEXT, user_id INTEGER, session_id TEXT, \
                 traceback TEXT, duration_ms REAL,"
            }
        };
        let _ = write!(
            sql,
            "CREATE TABLE {name} (
               source TEXT NOT NULL, timestamp INTEGER NOT NULL, origin INTEGER NOT NULL,
               offset_bytes INTEGER NOT NULL, level TEXT NOT NULL, message TEXT NOT NULL,
               host TEXT NOT NULL, metadata TEXT, {more} written INTEGER NOT NULL,
               PRIMARY KEY (source, timestamp, origin, offset_bytes)) WITHOUT ROWID;
             CREATE INDEX {name}_grave ON {name} (source, timestamp) WHERE {GRAVE};"
        );
    }
    sql += "CREATE INDEX application_logs_request ON application_logs (request_id)
              WHERE request_id IS NOT NULL;";
    sql
}

/// An open day file. One that failed is dropped and opened anew: its descriptor may have lost
/// pages that a later sync would call written.
#[derive(Debug)]
pub struct DayFile {
    connection: Connection,
    path: PathBuf,
    inode: Option<Inode>,
}

impl DayFile {
    /// Opens the file of a day, and makes it where it is missing.
    ///
    /// # Errors
    ///
    /// With the path and what to do.
    pub fn open(dir: &Path, day: i32) -> Result<Self, StoreError> {
        let path = files::day_path(dir, day);
        let connection = files::open_for_writing(&path, CACHE_KIB)?;
        let refused = |error| files::refused(&path, &error);
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(refused)?;
        let found: u32 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(refused)?;
        if found > VERSION {
            return Err(StoreError::Newer { store: super::NAME, found, known: VERSION });
        }
        if found < VERSION {
            connection
                .execute_batch(&format!("BEGIN IMMEDIATE; {} COMMIT;", schema(found)))
                .map_err(refused)?;
        }
        let inode = Inode::at(&path);
        Ok(Self { connection, path, inode })
    }

    /// Whether the path still names this file: someone may have moved or removed it.
    pub fn in_place(&self) -> bool {
        self.inode.is_some() && Inode::at(&self.path) == self.inode
    }

    /// Begins a transaction: from here on nobody else writes or deletes rows of the day. With an
    /// error of this or of [`Self::write`] nothing is written, and the file must be dropped.
    ///
    /// # Errors
    ///
    /// With the path and what to do.
    pub fn begin(&self) -> Result<(), StoreError> {
        let begun = self.connection.execute_batch("BEGIN IMMEDIATE");
        begun.map_err(|error| files::refused(&self.path, &error))
    }

    /// Writes all rows of all batches, and commits.
    ///
    /// # Errors
    ///
    /// With the path and what to do.
    pub fn write<'a>(&self, batches: impl Iterator<Item = &'a Batch>) -> Result<(), StoreError> {
        let write = || -> rusqlite::Result<()> {
            for batch in batches {
                insert(&self.connection, batch)?;
            }
            self.connection.execute_batch("COMMIT")
        };
        write().map_err(|error| files::refused(&self.path, &error))
    }

    /// Deletes rows, in transactions of `work`'s own.
    ///
    /// # Errors
    ///
    /// With the path and what to do.
    pub fn delete<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        work(&self.connection).map_err(|error| files::refused(&self.path, &error))
    }

    /// Which of these keys have a row.
    ///
    /// # Errors
    ///
    /// With the path and what to do.
    pub fn text(
        &self,
        table: Table,
        source: &str,
        key: crate::key::RowKey,
    ) -> Result<Option<StoredText>, StoreError> {
        let ask = || {
            if table == Table::Events {
                return events::text(&self.connection, key);
            }
            let sql = format!(
                "SELECT message, metadata FROM {} WHERE source = ? AND timestamp = ? AND origin = ? \
                 AND offset_bytes = ?",
                table.name()
            );
            let key = (source, key.timestamp_ms, key.origin, key.offset_bytes);
            let mut statement = self.connection.prepare_cached(&sql)?;
            let found = statement.query_row(key, |row| {
                let metadata: Option<String> = row.get(1)?;
                Ok(StoredText { message: row.get(0)?, metadata: metadata.unwrap_or_default() })
            });
            rusqlite::OptionalExtension::optional(found)
        };
        ask().map_err(|error| files::refused(&self.path, &error))
    }

    /// Copies the log into the database and leaves WAL mode, so that a reader needs no write
    /// access. Not done while somebody reads: then it is tried again later.
    ///
    /// # Errors
    ///
    /// With the path and what to do.
    pub fn settle(self) -> Result<(), StoreError> {
        let settle = || -> rusqlite::Result<()> {
            self.connection.busy_timeout(std::time::Duration::from_millis(100))?;
            self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            self.connection.pragma_update(None, "journal_mode", "DELETE")
        };
        settle().map_err(|error| files::refused(&self.path, &error))
    }
}

const COLUMNS: &str =
    "source, host, timestamp, origin, offset_bytes, level, message, metadata, written";
const APPLICATION_COLUMNS: &str = "logger, request_id, user_id, session_id, traceback, duration_ms";

/// One row a statement: several rows a statement gained nothing. A row that is there already is
/// a replay or an amendment: the later stamp holds, whatever order the writes come in.
fn insert_sql(table: Table) -> String {
    let columns = match table {
        Table::Infrastructure | Table::Events => COLUMNS.to_owned(),
        Table::Application => format!("{COLUMNS}, {APPLICATION_COLUMNS}"),
    };
    let marks = vec!["?"; columns.split(',').count()].join(",");
    let set: Vec<String> = columns
        .split(", ")
        .filter(|column| !["source", "timestamp", "origin", "offset_bytes"].contains(column))
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    format!(
        "INSERT INTO {name} ({columns}) VALUES ({marks})
         ON CONFLICT (source, timestamp, origin, offset_bytes) DO UPDATE SET {set}
         WHERE excluded.written >= written",
        name = table.name(),
        set = set.join(", ")
    )
}

fn insert(connection: &Connection, batch: &Batch) -> rusqlite::Result<()> {
    let table = batch.partition.table;
    let mut statement = connection.prepare_cached(match table {
        Table::Infrastructure => INFRASTRUCTURE.get_or_init(|| insert_sql(table)),
        Table::Application => APPLICATION.get_or_init(|| insert_sql(table)),
        Table::Events => return events::insert(connection, batch),
    })?;
    // bindings stay from row to row
    statement.raw_bind_parameter(1, &*batch.partition.source)?;
    statement.raw_bind_parameter(2, &*batch.host)?;
    for (index, row) in batch.rows.iter().enumerate() {
        statement.raw_bind_parameter(3, row.key.timestamp_ms)?;
        statement.raw_bind_parameter(4, row.key.origin)?;
        statement.raw_bind_parameter(5, row.key.offset_bytes)?;
        statement.raw_bind_parameter(6, row.level.name())?;
        statement.raw_bind_parameter(7, Text(batch.text(&row.message)))?;
        statement.raw_bind_parameter(8, text_or_null(batch.text(&row.metadata)))?;
        statement.raw_bind_parameter(9, batch.row_stamp(index))?;
        if table == Table::Application {
            bind_application(&mut statement, batch, row)?;
        }
        statement.raw_execute()?;
    }
    Ok(())
}

static INFRASTRUCTURE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
static APPLICATION: std::sync::OnceLock<String> = std::sync::OnceLock::new();

fn bind_application(
    statement: &mut Statement<'_>,
    batch: &Batch,
    row: &Row,
) -> rusqlite::Result<()> {
    let none = ApplicationColumns::default();
    let columns = batch.application_of(row).unwrap_or(&none);
    let text = |slice: &Option<crate::batch::Slice>| slice.as_ref().map(|s| Text(batch.text(s)));
    statement.raw_bind_parameter(10, text(&columns.logger))?;
    statement.raw_bind_parameter(11, columns.request_id.map(uuid_text))?;
    statement.raw_bind_parameter(12, columns.user_id)?;
    statement.raw_bind_parameter(13, text(&columns.session_id))?;
    statement.raw_bind_parameter(14, text(&columns.traceback))?;
    statement.raw_bind_parameter(15, columns.duration_ms)
}

/// A uuid as it stands in its column.
pub fn uuid_text(id: u128) -> String {
    uuid::Uuid::from_u128(id).to_string()
}

/// UTF-8 bytes as a text.
pub(super) struct Text<'a>(pub(super) &'a [u8]);

impl ToSql for Text<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(self.0)))
    }
}

pub(super) fn text_or_null(bytes: &[u8]) -> ToSqlOutput<'_> {
    if bytes.is_empty() {
        ToSqlOutput::Owned(Value::Null)
    } else {
        ToSqlOutput::Borrowed(ValueRef::Text(bytes))
    }
}
