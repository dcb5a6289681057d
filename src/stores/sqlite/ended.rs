//! Origins that retention has ended: `expired_origins` of `index.db`, and how everything else of
//! them goes.

use std::path::Path;

use rusqlite::{Connection, Row, params};

use super::facts::{bits, path};
use super::index::{self, has_table, path_value};
use crate::ledger::OriginId;
use crate::stores::StoreError;
use crate::stores::expired::{ENDED_KEPT_MS, EndedOrigin};

type Sql<T> = rusqlite::Result<T>;

/// Origins that one transaction lets go: the daemon waits for its end.
const AT_ONCE: usize = 500;

pub(super) const SCHEMA: &str = "
CREATE TABLE expired_origins (
  origin INTEGER PRIMARY KEY, machine TEXT NOT NULL, host TEXT NOT NULL, path NOT NULL,
  end_bytes INTEGER NOT NULL, rows INTEGER NOT NULL, policy TEXT NOT NULL,
  ended_ms INTEGER NOT NULL);
";

/// All of them, by when they ended.
pub(super) fn all(connection: &Connection) -> Sql<Vec<EndedOrigin>> {
    // a reader may meet an index of an earlier version
    if !has_table(connection, "expired_origins")? {
        return Ok(Vec::new());
    }
    connection
        .prepare("SELECT * FROM expired_origins ORDER BY ended_ms, origin")?
        .query_and_then([], ended)?
        .collect()
}

fn ended(row: &Row<'_>) -> Sql<EndedOrigin> {
    Ok(EndedOrigin {
        origin: row.get("origin")?,
        machine: row.get("machine")?,
        host: row.get("host")?,
        path: path(row, "path")?,
        end_bytes: bits(row, "end_bytes")?,
        rows: bits(row, "rows")?,
        policy: row.get("policy")?,
        ended_ms: row.get("ended_ms")?,
    })
}

/// Those of a machine.
pub(super) fn of_machine(connection: &Connection, machine: &str) -> Sql<Vec<OriginId>> {
    connection
        .prepare("SELECT origin FROM expired_origins WHERE machine = ?")?
        .query_map([machine], |row| row.get(0))?
        .collect()
}

/// Lets origins go: in one transaction with its tombstone the record, contexts and spans (whose
/// counts are the statistics) of each. One that has moved on meanwhile stays. Answers how many
/// went.
///
/// # Errors
///
/// With the path and what to do. Asking again is harmless.
pub fn end(dir: &Path, origins: &[EndedOrigin]) -> Result<u64, StoreError> {
    let mut gone = 0;
    for some in origins.chunks(AT_ONCE) {
        gone += index::change(dir, |connection| {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let mut gone = 0;
            for origin in some {
                gone += u64::from(end_one(connection, origin)?);
            }
            connection.execute_batch("COMMIT")?;
            Ok(gone)
        })?;
    }
    Ok(gone)
}

fn end_one(connection: &Connection, ended: &EndedOrigin) -> Sql<bool> {
    let end: Option<i64> = connection
        .prepare_cached("SELECT max(end_bytes) FROM spans WHERE origin = ?")?
        .query_row([ended.origin], |row| row.get(0))?;
    if end.is_some_and(|end| end.cast_unsigned() > ended.end_bytes) {
        return Ok(false);
    }
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO expired_origins \
             (origin, machine, host, path, end_bytes, rows, policy, ended_ms) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            ended.origin,
            ended.machine,
            ended.host,
            path_value(&ended.path),
            index::bits(ended.end_bytes),
            index::bits(ended.rows),
            ended.policy,
            ended.ended_ms,
        ])?;
    for table in ["spans", "contexts", "origins"] {
        connection
            .prepare_cached(&format!("DELETE FROM {table} WHERE origin = ?"))?
            .execute([ended.origin])?;
    }
    Ok(true)
}

/// Forgets the tombstones that have stood for a year.
///
/// # Errors
///
/// With the path and what to do.
pub fn forget_old(dir: &Path, now_ms: i64) -> Result<(), StoreError> {
    index::change(dir, |connection| {
        connection
            .execute(
                "DELETE FROM expired_origins WHERE ended_ms < ?",
                [now_ms.saturating_sub(ENDED_KEPT_MS)],
            )
            .map(drop)
    })
}
