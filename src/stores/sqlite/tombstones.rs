//! What retention has ended: `expired_days` and `expired_sources` of `index.db`. A tombstone is
//! committed before a row is deleted, so that a writer that still holds the file sees it.

use rusqlite::{Connection, Row, params};

use super::index::has_table;
use crate::key::Table;
use crate::stores::expired::{Expired, Tombstone};

type Sql<T> = rusqlite::Result<T>;

/// All of them, by day.
pub fn all(connection: &Connection) -> Sql<Vec<Tombstone>> {
    // a reader may meet an index of the first version
    let with_parts = has_table(connection, "expired_sources")?;
    let policy = if with_parts { "policy" } else { "'' AS policy" };
    let mut found: Vec<Tombstone> = connection
        .prepare_cached(&format!(
            "SELECT day, {policy}, dropped_ms FROM expired_days ORDER BY day"
        ))?
        .query_and_then([], |row| tombstone(row, None))?
        .collect::<Sql<_>>()?;
    if with_parts {
        let mut parts = connection.prepare_cached(
            "SELECT day, log_table, source, policy, dropped_ms FROM expired_sources ORDER BY day",
        )?;
        for one in parts.query_and_then([], part)? {
            found.push(one?);
        }
    }
    Ok(found)
}

fn tombstone(row: &Row<'_>, part: Option<(Table, String)>) -> Sql<Tombstone> {
    Ok(Tombstone {
        day: row.get("day")?,
        part,
        policy: row.get("policy")?,
        dropped_ms: row.get("dropped_ms")?,
    })
}

fn part(row: &Row<'_>) -> Sql<Tombstone> {
    let word: String = row.get("log_table")?;
    // a table that this program does not know has no rows that it could read
    let table = Table::from_word(&word).unwrap_or(Table::Infrastructure);
    tombstone(row, Some((table, row.get("source")?)))
}

/// What has ended of one day, for the writer: asked before and after each of its commits.
pub fn of_day(connection: &Connection, day: i32) -> Sql<Expired> {
    let mut found = Vec::new();
    let mut whole = connection
        .prepare_cached("SELECT day, policy, dropped_ms FROM expired_days WHERE day = ?")?;
    for one in whole.query_and_then([day], |row| tombstone(row, None))? {
        found.push(one?);
    }
    let mut parts = connection.prepare_cached(
        "SELECT day, log_table, source, policy, dropped_ms FROM expired_sources WHERE day = ?",
    )?;
    for one in parts.query_and_then([day], part)? {
        found.push(one?);
    }
    Ok(found.iter().collect())
}

/// Notes these. One that is there already stays as it is.
pub fn put(connection: &Connection, tombstones: &[Tombstone]) -> Sql<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for Tombstone { day, part, policy, dropped_ms } in tombstones {
        match part {
            None => connection
                .prepare_cached(
                    "INSERT OR IGNORE INTO expired_days (day, dropped_ms, policy) VALUES (?, ?, ?)",
                )?
                .execute(params![day, dropped_ms, policy])?,
            Some((table, source)) => connection
                .prepare_cached(
                    "INSERT OR IGNORE INTO expired_sources \
                     (day, log_table, source, policy, dropped_ms) VALUES (?, ?, ?, ?, ?)",
                )?
                .execute(params![day, table.word(), source, policy, dropped_ms])?,
        };
    }
    connection.execute_batch("COMMIT")
}
