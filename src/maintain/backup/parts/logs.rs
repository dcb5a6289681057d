//! The rows of the `SQLite` store, so that `audit` is clean on what is restored.
//!
//! The spans come first: a span is written after the rows that it counts, so day files that are
//! copied later have them all. Rows behind the last span are read and written once more after a
//! restore, under the same keys. Origins and contexts are completed at the end: each is written
//! before its first row, so no copied row is of an origin that the copy does not know.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

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
            .map_err(|error| if dir.join(&name).exists() { error } else { expired(day) })?;
        making.record.days.push(day.clone());
    }
    complete(&index, &live).map_err(|error| BackupError::sqlite(&index, &error))??;
    let version = Connection::open(&index).and_then(|index| {
        index.query_row("SELECT version FROM schema_version", [], |row| row.get(0))
    });
    let version: i64 = version.map_err(|error| BackupError::sqlite(&index, &error))?;
    making.detail("schema", version.to_string());
    sqlite::add_copy(making, &index, "logs/index.db")
}

fn expired(day: &str) -> BackupError {
    BackupError::Source(format!("retention dropped {day} meanwhile"))
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

/// Adds origins and contexts that are younger than the copy. If retention has dropped a day since,
/// the copy's spans claim rows that no day file has: the part is then made again.
fn complete(copy: &Path, live: &Path) -> rusqlite::Result<Result<(), BackupError>> {
    let index = Connection::open(copy)?;
    index.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")?;
    index.execute("ATTACH ? AS live", [live.to_string_lossy()])?;
    let dropped: i64 = index.query_row(
        "SELECT count(*) FROM (SELECT day FROM live.expired_days EXCEPT SELECT day FROM main.expired_days)",
        [],
        |row| row.get(0),
    )?;
    if dropped > 0 {
        return Ok(Err(expired("a day")));
    }
    index.execute_batch(
        "INSERT OR IGNORE INTO main.origins SELECT * FROM live.origins;
         INSERT OR IGNORE INTO main.contexts SELECT * FROM live.contexts;
         DETACH live",
    )?;
    Ok(Ok(()))
}
