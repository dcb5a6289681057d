//! `index.db`: everything but the rows. Origins, contexts, spans with their counts, receipts,
//! watermarks, dead letters, and the days that retention has dropped.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, ToSql, params};

use super::files;
use crate::duration;
use crate::ledger::{
    Context, DeadLetter, LossReceipt, MinuteCounts, OriginRecord, Span, Watermark,
};
use crate::record::Level;
use crate::stores::StoreError;

/// Version of the tables, in `schema_version`. Version 1 had no health checks, and knew only whole
/// days that retention has dropped; version 2 kept every origin for ever, and did not count how long
/// something took.
const VERSION: u32 = 3;

const CACHE_KIB: u32 = 1024;

pub(super) const SCHEMA: &str = "
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE origins (
  origin INTEGER PRIMARY KEY, machine TEXT NOT NULL, host TEXT NOT NULL,
  path NOT NULL,                       -- text, or a blob where it is not UTF-8
  device INTEGER NOT NULL, inode INTEGER NOT NULL, generation INTEGER, inode_born_ns INTEGER,
  head_hash INTEGER NOT NULL, head_bytes INTEGER NOT NULL, first_offset INTEGER NOT NULL,
  born_ms INTEGER NOT NULL, encoding TEXT NOT NULL, written INTEGER NOT NULL);
CREATE TABLE contexts (
  origin INTEGER NOT NULL, from_bytes INTEGER NOT NULL, source TEXT NOT NULL,
  log_table TEXT NOT NULL, format TEXT NOT NULL, options TEXT NOT NULL, timezone TEXT NOT NULL,
  anchor_ms INTEGER NOT NULL, max_line_bytes INTEGER NOT NULL, parser_version INTEGER NOT NULL,
  written INTEGER NOT NULL, PRIMARY KEY (origin, from_bytes)) WITHOUT ROWID;
CREATE TABLE spans (
  origin INTEGER NOT NULL, start_bytes INTEGER NOT NULL, end_bytes INTEGER NOT NULL,
  rows INTEGER NOT NULL, lines INTEGER NOT NULL,
  reasons TEXT NOT NULL,               -- lines that are no row: {\"blank\": 3}
  minutes TEXT NOT NULL,               -- rows: [[minutes since 1970, TRACE, …, CRITICAL], …]
  first_minute INTEGER, last_minute INTEGER,
  running_ms INTEGER, crc INTEGER NOT NULL, marker INTEGER NOT NULL, markers TEXT NOT NULL,
  first_write_ms INTEGER NOT NULL, last_write_ms INTEGER NOT NULL, ttl_s INTEGER,
  closed INTEGER NOT NULL, log_table TEXT NOT NULL, source TEXT NOT NULL,
  carried TEXT NOT NULL,               -- records with lines on both sides of the end
  written INTEGER NOT NULL, PRIMARY KEY (origin, start_bytes)) WITHOUT ROWID;
CREATE INDEX spans_by_minute ON spans (last_minute, first_minute);
CREATE INDEX spans_by_write ON spans (written);
CREATE TABLE loss_receipts (
  origin INTEGER NOT NULL, start_bytes INTEGER NOT NULL, cause TEXT NOT NULL, end_bytes INTEGER,
  source TEXT NOT NULL, host TEXT NOT NULL, path NOT NULL, noticed_ms INTEGER NOT NULL,
  detail TEXT NOT NULL, written INTEGER NOT NULL,
  PRIMARY KEY (origin, start_bytes, cause)) WITHOUT ROWID;
CREATE TABLE watermarks (
  source TEXT NOT NULL, host TEXT NOT NULL, seen_ms INTEGER NOT NULL, written_ms INTEGER NOT NULL,
  behind_bytes INTEGER NOT NULL, written INTEGER NOT NULL,
  PRIMARY KEY (source, host)) WITHOUT ROWID;
CREATE TABLE dead_letters (
  log_table TEXT NOT NULL, source TEXT NOT NULL, host TEXT NOT NULL, timestamp INTEGER NOT NULL,
  origin INTEGER NOT NULL, offset_bytes INTEGER NOT NULL, level TEXT NOT NULL,
  message TEXT NOT NULL, metadata TEXT NOT NULL, reason TEXT NOT NULL,
  refused_ms INTEGER NOT NULL, written INTEGER NOT NULL,
  PRIMARY KEY (log_table, source, timestamp, origin, offset_bytes)) WITHOUT ROWID;
CREATE TABLE expired_days (day INTEGER PRIMARY KEY, dropped_ms INTEGER NOT NULL);
";

/// What version 2 has more. A source that is empty stands for all sources of the table.
const SINCE_2: &str = "
ALTER TABLE expired_days ADD COLUMN policy TEXT NOT NULL DEFAULT '';
CREATE TABLE expired_sources (
  day INTEGER NOT NULL, log_table TEXT NOT NULL, source TEXT NOT NULL,
  policy TEXT NOT NULL, dropped_ms INTEGER NOT NULL,
  PRIMARY KEY (day, log_table, source)) WITHOUT ROWID;
";

/// What version 3 has more: rows by minute and rung of [`crate::duration`]. Unset in spans that an
/// older version wrote.
const SINCE_3: &str = "
ALTER TABLE spans ADD COLUMN durations TEXT;
";

/// Opens `index.db` for writing, and makes its tables where they are missing.
///
/// # Errors
///
/// With the path and what to do; [`StoreError::Newer`] for tables of a newer program.
pub fn open(dir: &Path) -> Result<Connection, StoreError> {
    let path = files::index_path(dir);
    let connection = files::open_for_writing(&path, CACHE_KIB)?;
    let refused = |error| files::refused(&path, &error);
    make_tables(&connection).map_err(refused)?;
    check_version(&connection).map_err(refused)?.map_or(Ok(connection), Err)
}

/// Makes what is missing. Looked at again within the transaction: several programs may begin at
/// once.
fn make_tables(connection: &Connection) -> rusqlite::Result<()> {
    if version(connection)?.is_some_and(|found| found >= VERSION) {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let found = version(connection)?;
    let mut sql = String::new();
    if found.is_none() {
        sql += SCHEMA;
        sql += "INSERT INTO schema_version VALUES (1);";
    }
    if found.is_none_or(|found| found < 2) {
        sql += SINCE_2;
        sql += super::checks::SCHEMA;
    }
    if found.is_none_or(|found| found < 3) {
        sql += SINCE_3;
        sql += super::ended::SCHEMA;
    }
    let _ = write!(sql, "UPDATE schema_version SET version = {VERSION} WHERE version < {VERSION};");
    connection.execute_batch(&sql)?;
    connection.execute_batch("COMMIT")
}

fn version(connection: &Connection) -> rusqlite::Result<Option<u32>> {
    if !has_table(connection, "schema_version")? {
        return Ok(None);
    }
    connection.query_row("SELECT max(version) FROM schema_version", [], |row| row.get(0))
}

/// Whether there is a table of this name: a file of an earlier version has fewer, and a reader
/// makes none.
pub fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?";
    connection.prepare_cached(sql)?.exists([name])
}

/// Does something on a connection of its own, beside the daemon or without it.
///
/// # Errors
///
/// With the path and what to do.
pub fn change<T>(
    dir: &Path,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, StoreError> {
    let connection = open(dir)?;
    let done =
        work(&connection).map_err(|error| files::refused(&files::index_path(dir), &error))?;
    // back to where a reader needs no write access, unless somebody has it open
    let _ = connection
        .busy_timeout(std::time::Duration::ZERO)
        .and_then(|()| connection.pragma_update(None, "journal_mode", "DELETE"));
    Ok(done)
}

/// What is wrong with the version of the tables.
pub fn check_version(connection: &Connection) -> rusqlite::Result<Option<StoreError>> {
    let found: Option<u32> = connection
        .query_row("SELECT max(version) FROM schema_version", [], |row| row.get(0))
        .optional()?;
    Ok(found.filter(|found| *found > VERSION).map(|found| StoreError::Newer {
        store: super::NAME,
        found,
        known: VERSION,
    }))
}

/// An upsert in which the later stamp holds.
fn put(
    connection: &Connection,
    table: &'static str,
    key: &str,
    columns: &str,
    values: &[&dyn ToSql],
) -> rusqlite::Result<()> {
    let keys: Vec<&str> = key.split(", ").collect();
    let set: Vec<String> = columns
        .split(", ")
        .filter(|column| !keys.contains(column))
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    let marks = vec!["?"; values.len()].join(", ");
    let sql = format!(
        "INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT ({key}) DO UPDATE \
         SET {set} WHERE excluded.written >= {table}.written",
        set = set.join(", ")
    );
    connection.prepare_cached(&sql)?.execute(values).map(drop)
}

/// A path as text, or as bytes where it is not UTF-8: a file name must not stop the daemon.
pub(super) fn path_value(path: &Path) -> rusqlite::types::Value {
    match path.to_str() {
        Some(text) => text.to_owned().into(),
        None => path.as_os_str().as_bytes().to_vec().into(),
    }
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// A number of 64 bits; `SQLite` has only signed ones.
pub(super) fn bits(number: u64) -> i64 {
    number.cast_signed()
}

pub(super) fn put_origin(
    connection: &Connection,
    origin: &OriginRecord,
    stamp: i64,
) -> rusqlite::Result<()> {
    let encoding = origin.encoding.name();
    put(
        connection,
        "origins",
        "origin",
        "origin, machine, host, path, device, inode, generation, inode_born_ns, head_hash, \
         head_bytes, first_offset, born_ms, encoding, written",
        params![
            origin.id,
            origin.machine,
            origin.host,
            path_value(&origin.path),
            bits(origin.kernel.device),
            bits(origin.kernel.inode),
            origin.kernel.generation.map(bits),
            origin.kernel.born_ns,
            bits(origin.head_hash),
            bits(origin.head_bytes),
            bits(origin.first_offset),
            origin.born_ms,
            encoding,
            stamp,
        ],
    )
}

pub(super) fn put_context(
    connection: &Connection,
    context: &Context,
    stamp: i64,
) -> rusqlite::Result<()> {
    put(
        connection,
        "contexts",
        "origin, from_bytes",
        "origin, from_bytes, source, log_table, format, options, timezone, anchor_ms, \
         max_line_bytes, parser_version, written",
        params![
            context.origin,
            bits(context.from_bytes),
            context.source,
            context.table.word(),
            context.format,
            json(&context.options)?,
            context.timezone,
            context.anchor_ms,
            bits(context.max_line_bytes),
            context.parser_version,
            stamp,
        ],
    )
}

pub(super) fn put_span(connection: &Connection, span: &Span, stamp: i64) -> rusqlite::Result<()> {
    put(
        connection,
        "spans",
        "origin, start_bytes",
        "origin, start_bytes, end_bytes, rows, lines, reasons, minutes, first_minute, \
         last_minute, running_ms, crc, marker, markers, first_write_ms, last_write_ms, ttl_s, \
         closed, log_table, source, carried, durations, written",
        params![
            span.origin,
            bits(span.start_bytes),
            bits(span.end_bytes),
            bits(span.rows),
            bits(span.lines),
            json(&span.reasons)?,
            minutes_text(&span.minutes)?,
            span.minutes.keys().next().map(|(minute, _)| *minute),
            span.minutes.keys().next_back().map(|(minute, _)| *minute),
            span.running_ms,
            bits(span.crc),
            bits(span.marker),
            json(&span.markers)?,
            span.first_write_ms,
            span.last_write_ms,
            span.ttl_s,
            span.closed,
            span.table.word(),
            span.source,
            json(&span.carried)?,
            span.durations.as_ref().map(duration::to_lines).as_ref().map(json).transpose()?,
            stamp,
        ],
    )
}

/// One array a minute, with a count for each level.
fn minutes_text(minutes: &MinuteCounts) -> rusqlite::Result<String> {
    let mut lines: Vec<Vec<i64>> = Vec::new();
    for (&(minute, level), &count) in minutes {
        if lines.last().and_then(|line| line.first()) != Some(&minute) {
            let mut line = vec![0; 1 + Level::ALL.len()];
            line.splice(..1, [minute]);
            lines.push(line);
        }
        if let Some(cell) = lines.last_mut().and_then(|line| line.get_mut(1 + level as usize)) {
            *cell = bits(count);
        }
    }
    json(&lines)
}

pub(super) fn put_receipt(
    connection: &Connection,
    receipt: &LossReceipt,
    stamp: i64,
) -> rusqlite::Result<()> {
    put(
        connection,
        "loss_receipts",
        "origin, start_bytes, cause",
        "origin, start_bytes, cause, end_bytes, source, host, path, noticed_ms, detail, written",
        params![
            receipt.origin,
            bits(receipt.start_bytes),
            receipt.cause.name(),
            receipt.end_bytes.map(bits),
            receipt.source,
            receipt.host,
            path_value(&receipt.path),
            receipt.noticed_ms,
            receipt.detail,
            stamp,
        ],
    )
}

pub(super) fn put_watermark(
    connection: &Connection,
    watermark: &Watermark,
    stamp: i64,
) -> rusqlite::Result<()> {
    put(
        connection,
        "watermarks",
        "source, host",
        "source, host, seen_ms, written_ms, behind_bytes, written",
        params![
            watermark.source,
            watermark.host,
            watermark.seen_ms,
            watermark.written_ms,
            bits(watermark.behind_bytes),
            stamp,
        ],
    )
}

pub(super) fn put_dead_letter(
    connection: &Connection,
    letter: &DeadLetter,
    stamp: i64,
) -> rusqlite::Result<()> {
    put(
        connection,
        "dead_letters",
        "log_table, source, timestamp, origin, offset_bytes",
        "log_table, source, host, timestamp, origin, offset_bytes, level, message, metadata, \
         reason, refused_ms, written",
        params![
            letter.table.word(),
            letter.source,
            letter.host,
            letter.timestamp_ms,
            letter.origin,
            letter.offset_bytes,
            letter.level,
            letter.message,
            letter.metadata,
            letter.reason,
            letter.refused_ms,
            stamp,
        ],
    )
}

/// Removes a dead letter.
pub fn remove_dead_letter(connection: &Connection, letter: &DeadLetter) -> rusqlite::Result<()> {
    connection
        .execute(
            "DELETE FROM dead_letters WHERE log_table = ? AND source = ? AND timestamp = ? \
             AND origin = ? AND offset_bytes = ?",
            params![
                letter.table.word(),
                letter.source,
                letter.timestamp_ms,
                letter.origin,
                letter.offset_bytes
            ],
        )
        .map(drop)
}
