//! The rows of the `SQLite` store, so that `audit` is clean on what is restored.
//!
//! The spans come first: a span is written after the rows that it counts, so day files that are
//! copied later have them all. Rows behind the last span are read and written once more after a
//! restore, under the same keys. Origins, contexts and tombstones are completed at the end: each is
//! written before its first row, or before its rows go, so no copied row is of an origin that the
//! copy does not know, and none is missing that retention has ended meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::{Making, sqlite};
use crate::maintain::backup::BackupError;

/// The day that a file's name says, as it stands there.
pub fn day_of(name: &str) -> Option<&str> {
    let day = name.strip_suffix(".db")?;
    let date: jiff::civil::Date = day.parse().ok()?;
    (date.to_string() == day).then_some(day)
}

/// Copies day files and `index.db`.
pub fn copy(making: &mut Making<'_, '_>, dir: &Path) -> Result<(), BackupError> {
    let live = dir.join("index.db");
    if !live.exists() {
        let detail =
            format!("there is no {}: no rows were stored yet, or not there", live.display());
        return Err(BackupError::Source(detail));
    }
    let index = making.scratch.path("index.db");
    sqlite::copy_aside(&live, &index)?;
    let days = days(dir)?;
    for day in &days {
        let name = format!("{day}.db");
        sqlite::copy(making, &dir.join(&name), &format!("logs/{name}"))
            .map_err(|error| if dir.join(&name).exists() { error } else { gone(day) })?;
        making.record.days.push(day.clone());
    }
    complete(&index, &live).map_err(|error| BackupError::sqlite(&index, &error))?;
    let version = Connection::open(&index).and_then(|index| {
        index.query_row("SELECT version FROM schema_version", [], |row| row.get(0))
    });
    let version: i64 = version.map_err(|error| BackupError::sqlite(&index, &error))?;
    making.detail("schema", version.to_string());
    sqlite::add_copy(making, &index, "logs/index.db")
}

/// The part is then made again.
fn gone(day: &str) -> BackupError {
    BackupError::Source(format!("{day} was dropped while it was copied"))
}

fn days(dir: &Path) -> Result<BTreeSet<String>, BackupError> {
    let failed = |source| BackupError::read(dir, source);
    let mut days = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        days.extend(name.to_str().and_then(day_of).map(str::to_owned));
    }
    Ok(days)
}

/// Adds what was written since the copy was made and is needed to understand the days: origins and
/// contexts, and the tombstones of retention, which are there before a row goes. Spans stay as
/// they were.
fn complete(copy: &Path, live: &Path) -> rusqlite::Result<()> {
    let index = Connection::open(copy)?;
    index.busy_timeout(Duration::from_secs(10))?;
    index.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")?;
    index.execute("ATTACH ? AS live", [live.to_string_lossy()])?;
    let tables = index
        .prepare(
            "SELECT name FROM live.sqlite_schema WHERE type = 'table'
             AND (name IN ('origins', 'contexts') OR name LIKE 'expired\\_%' ESCAPE '\\')",
        )?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    for table in tables {
        // an origin stays what it was; a tombstone may say more than it did
        let word = if table.starts_with("expired") { "REPLACE" } else { "IGNORE" };
        let sql = format!("INSERT OR {word} INTO main.\"{table}\" SELECT * FROM live.\"{table}\"");
        index.execute(&sql, [])?;
    }
    index.execute_batch("DETACH live")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_learns_of_younger_origins_and_tombstones_but_not_of_younger_spans() {
        let dir = tempfile::tempdir().unwrap();
        let (live, copy) = (dir.path().join("index.db"), dir.path().join("copy.db"));
        let database = Connection::open(&live).unwrap();
        database
            .execute_batch(
                "PRAGMA journal_mode = WAL; CREATE TABLE origins (origin INTEGER PRIMARY KEY);
                 CREATE TABLE contexts (origin INTEGER PRIMARY KEY);
                 CREATE TABLE spans (origin INTEGER PRIMARY KEY);
                 CREATE TABLE expired_days (day INTEGER PRIMARY KEY);
                 INSERT INTO origins VALUES (1); INSERT INTO spans VALUES (1)",
            )
            .unwrap();
        sqlite::copy_aside(&live, &copy).unwrap();
        database
            .execute_batch(
                "INSERT INTO origins VALUES (2); INSERT INTO contexts VALUES (2);
                 INSERT INTO spans VALUES (2); INSERT INTO expired_days VALUES (7)",
            )
            .unwrap();
        complete(&copy, &live).unwrap();
        let counted = sqlite::check(&copy).unwrap();
        let counted: Vec<_> = counted.iter().map(|(name, rows)| (name.as_str(), *rows)).collect();
        assert_eq!(counted, [("contexts", 1), ("expired_days", 1), ("origins", 2), ("spans", 1)]);
    }

    #[test]
    fn only_names_of_days_are_days() {
        assert_eq!(day_of("2026-11-22.db"), Some("2026-11-22"));
        for name in ["index.db", "2026-13-01.db", "20261122.db", "2026-11-22.db-wal", ".db"] {
            assert_eq!(day_of(name), None, "{name}");
        }
    }
}
