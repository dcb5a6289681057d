//! What retention ends in this store: files of whole days, and the rows of one table and source
//! of a day that others outlive. Works beside the running daemon and without it.
//!
//! A tombstone is committed first. The daemon looks at it before and after each commit, so that
//! rows that come later count as `expired` and no file is made anew.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OpenFlags, params};

use super::day::DayFile;
use super::index::has_table;
use super::read::{sources_of, tables_of};
use super::{facts, files, index, tombstones};
use crate::durable;
use crate::key::Table;
use crate::stores::StoreError;
use crate::stores::expired::Tombstone;
use crate::stores::merge::Merged;

type Sql<T> = rusqlite::Result<T>;

pub use super::facts::DayRows;

/// Rows that one transaction deletes: the daemon waits for its end, some 10 ms.
const DELETED_AT_ONCE: usize = 4000;
/// Rest after each, at least; else as long as it took, so that a writer gets its turn.
const REST_MIN: Duration = Duration::from_millis(2);
/// What a day file is called between the moment when it goes and the one when its room is free:
/// the kernel takes about a second for two or three GB.
const GONE: &str = ".gone";
/// How long a file is asked for that somebody else has open.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// The file of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayOnDisk {
    /// Days since 1970.
    pub day: i32,
    /// Its size, with its log.
    pub bytes: u64,
    /// When it was written last, in milliseconds.
    pub written_ms: i64,
}

/// The rows of one table and source in the file of a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The table.
    pub table: Table,
    /// The source; of user events always `user_events`.
    pub source: String,
    /// The first of them, in milliseconds.
    pub oldest_ms: i64,
    /// The last of them.
    pub newest_ms: i64,
}

/// What became of the file of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// The file is gone, and its room is free.
    pub file: bool,
    /// Rows that were deleted one by one.
    pub rows: u64,
    /// Room in the file that is free for rows to come; the file itself stays as large as it is.
    pub reusable_bytes: u64,
}

/// All day files, in order.
///
/// # Errors
///
/// The directory cannot be read.
pub fn day_files(dir: &Path) -> Result<Vec<DayOnDisk>, StoreError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let refused = |error| files::io_refused(dir, &error);
    let mut found = Vec::new();
    for day in files::days(dir).map_err(refused)? {
        let path = files::day_path(dir, day);
        let mut file = DayOnDisk { day, bytes: 0, written_ms: i64::MIN };
        for path in [path.clone(), files::beside(&path, "-wal")] {
            let Ok(metadata) = std::fs::metadata(path) else { continue };
            let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let since = written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            file.bytes += metadata.len();
            let written_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
            file.written_ms = file.written_ms.max(written_ms);
        }
        found.push(file);
    }
    Ok(found)
}

/// What is in the file of a day: one jump in a tree for each source, whatever its size.
///
/// # Errors
///
/// With the path and what to do.
pub fn parts(dir: &Path, day: i32) -> Result<Vec<Part>, StoreError> {
    let path = files::day_path(dir, day);
    let Some(connection) = files::open_for_reading(&path)? else { return Ok(Vec::new()) };
    parts_of(&connection).map_err(|error| files::refused(&path, &error))
}

fn parts_of(connection: &Connection) -> Sql<Vec<Part>> {
    let mut parts = Vec::new();
    for table in tables_of(connection)? {
        if table == Table::Events {
            let edges = "SELECT min(event_timestamp), max(event_timestamp) FROM user_events";
            let (oldest, newest): (Option<i64>, Option<i64>) =
                connection.query_row(edges, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if let (Some(oldest_ms), Some(newest_ms)) = (oldest, newest) {
                let source = Table::Events.name().to_owned();
                parts.push(Part { table, source, oldest_ms, newest_ms });
            }
            continue;
        }
        let name = table.name();
        let edge = |order: &str, source: &str| -> Sql<i64> {
            let sql = format!(
                "SELECT timestamp FROM {name} WHERE source = ? ORDER BY timestamp {order} LIMIT 1"
            );
            connection.query_row(&sql, [source], |row| row.get(0))
        };
        for source in sources_of(connection, table)? {
            let (oldest_ms, newest_ms) = (edge("ASC", &source)?, edge("DESC", &source)?);
            parts.push(Part { table, source, oldest_ms, newest_ms });
        }
    }
    Ok(parts)
}

/// The rows of days before this one, by day, table and source, as the spans count them; without
/// those that have ended.
///
/// # Errors
///
/// With the path and what to do.
pub fn rows_before(dir: &Path, day: i32) -> Result<DayRows, StoreError> {
    let path = files::index_path(dir);
    let Some(connection) = files::open_for_reading(&path)? else { return Ok(DayRows::default()) };
    let read = || {
        if !has_table(&connection, "spans")? {
            return Ok(DayRows::default());
        }
        facts::rows_before(&connection, day)
    };
    read().map_err(|error: rusqlite::Error| files::refused(&path, &error))
}

/// Drops a whole day: its rows count as expired from here on, also those that come later. Takes
/// as long as renaming a file does; [`free_room`] takes the rest.
///
/// # Errors
///
/// With the path and what to do. Asking again is harmless.
pub fn drop_day(dir: &Path, day: i32, policy: &str, now_ms: i64) -> Result<(), StoreError> {
    let policy = policy.to_owned();
    let tombstone = Tombstone { day, part: None, policy, dropped_ms: now_ms };
    index::change(dir, |connection| tombstones::put(connection, &[tombstone]))?;
    remove(dir, day)
}

/// Drops the rows of these tables and sources of a day. Where nothing else is in its file and
/// nobody has it open, the file goes whole; else they are deleted in transactions between which
/// a writer gets its turn.
///
/// # Errors
///
/// With the path and what to do. Asking again is harmless.
pub fn drop_parts(dir: &Path, tombstones: &[Tombstone]) -> Result<Dropped, StoreError> {
    let Some(day) = tombstones.first().map(|tombstone| tombstone.day) else {
        return Ok(Dropped::default());
    };
    index::change(dir, |connection| tombstones::put(connection, tombstones))?;
    let gone: Vec<&(Table, String)> =
        tombstones.iter().filter_map(|tombstone| tombstone.part.as_ref()).collect();
    if !files::day_path(dir, day).exists() {
        return Ok(Dropped::default());
    }
    if drop_file_of(dir, day, &gone)? {
        return Ok(Dropped { file: true, ..Dropped::default() });
    }
    let file = DayFile::open(dir, day)?;
    let dropped = file.delete(|connection| delete(connection, &gone))?;
    // back to where a reader needs no write access, unless the daemon has it open
    let _ = file.settle();
    Ok(dropped)
}

/// Removes the file of a day if it has nothing but these rows. Needs it for itself: a log that
/// belongs to another file of the same name must never be removed with it.
fn drop_file_of(dir: &Path, day: i32, gone: &[&(Table, String)]) -> Result<bool, StoreError> {
    let path = files::day_path(dir, day);
    let refused = |error| files::refused(&path, &error);
    let left = |connection: &Connection| -> Sql<bool> {
        let parts = parts_of(connection)?;
        Ok(parts.iter().any(|part| {
            !gone.iter().any(|(table, source)| (*table, source) == (part.table, &part.source))
        }))
    };
    {
        let Some(reader) = files::open_for_reading(&path)? else { return Ok(true) };
        if left(&reader).map_err(refused)? {
            return Ok(false);
        }
    }
    // in WAL mode others may write while we hold it; it is left only where nobody has it open
    if DayFile::open(dir, day)?.settle().is_err() {
        return Ok(false);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(refused)?;
    let alone = || -> Sql<bool> {
        connection.busy_timeout(LOCK_WAIT)?;
        connection.execute_batch("BEGIN EXCLUSIVE")?;
        let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
        Ok(mode == "delete" && !left(&connection)?)
    };
    // somebody was faster: its rows are deleted one by one
    if !matches!(alone(), Ok(true)) {
        return Ok(false);
    }
    // whoever waits for our lock finds afterwards that his file is not that of the day any more
    durable::rename(&path, &files::beside(&path, GONE))
        .map_err(|error| files::io_refused(&path, &error))?;
    Ok(true)
}

fn delete(connection: &Connection, gone: &[&(Table, String)]) -> Sql<Dropped> {
    let mut dropped = Dropped::default();
    for (table, source) in gone {
        if !has_table(connection, table.name())? {
            continue;
        }
        let name = table.name();
        let (key, of_source) = match table {
            Table::Events => ("user_id, event_timestamp, event_id", "?1 = ?1"),
            _ => ("source, timestamp, origin, offset_bytes", "source = ?1"),
        };
        let sql = format!(
            "DELETE FROM {name} WHERE ({key}) IN \
             (SELECT {key} FROM {name} WHERE {of_source} LIMIT {DELETED_AT_ONCE})"
        );
        loop {
            let started = Instant::now();
            let rows = connection.execute(&sql, params![source])?;
            dropped.rows += rows as u64;
            if rows < DELETED_AT_ONCE {
                break;
            }
            std::thread::sleep(started.elapsed().max(REST_MIN));
        }
    }
    let (pages, size): (i64, i64) = connection.query_row(
        "SELECT freelist_count, page_size FROM pragma_freelist_count, pragma_page_size",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    dropped.reusable_bytes = pages.saturating_mul(size).unsigned_abs();
    Ok(dropped)
}

fn remove(dir: &Path, day: i32) -> Result<(), StoreError> {
    let path = files::day_path(dir, day);
    unless_missing(&path, durable::rename(&path, &files::beside(&path, GONE)))?;
    for path in [files::beside(&path, "-wal"), files::beside(&path, "-shm")] {
        unless_missing(&path, std::fs::remove_file(&path))?;
    }
    Ok(())
}

fn unless_missing(path: &Path, done: io::Result<()>) -> Result<(), StoreError> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(files::io_refused(path, &error))
        }
        _ => Ok(()),
    }
}

/// Frees the room of the files that have gone, in this run or in one that was broken off. A
/// reader that has one open keeps it until it is done.
///
/// # Errors
///
/// With the path and what to do.
pub fn free_room(dir: &Path) -> Result<(), StoreError> {
    let refused = |error| files::io_refused(dir, &error);
    for entry in std::fs::read_dir(dir).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        let name = path.file_name().unwrap_or_default().as_bytes();
        if name.strip_suffix(GONE.as_bytes()).is_some_and(files::is_day_file) {
            unless_missing(&path, std::fs::remove_file(&path))?;
        }
    }
    Ok(())
}

/// Replaces runs of spans that have ended by one span each, in one transaction.
///
/// # Errors
///
/// With the path and what to do.
pub fn merge_spans(dir: &Path, merged: &[Merged], stamp: i64) -> Result<(), StoreError> {
    index::change(dir, |connection| {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for Merged { span, .. } in merged {
            let (start, end) = (span.start_bytes.cast_signed(), span.end_bytes.cast_signed());
            // stamps of a clock that was wrong may lie ahead, and ours must be the latest
            let written: Option<i64> = connection
                .prepare_cached(
                    "SELECT max(written) FROM spans \
                     WHERE origin = ? AND start_bytes >= ? AND start_bytes < ?",
                )?
                .query_row([span.origin, start, end], |row| row.get(0))?;
            let stamp = stamp.max(written.unwrap_or(0).saturating_add(1));
            connection
                .prepare_cached(
                    "DELETE FROM spans WHERE origin = ? AND start_bytes > ? AND start_bytes < ?",
                )?
                .execute([span.origin, start, end])?;
            index::put_span(connection, span, stamp)?;
        }
        connection.execute_batch("COMMIT")
    })
}
