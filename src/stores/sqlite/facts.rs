//! Reads `index.db` back: for recovery, for `audit` and for counts.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, Row};

use super::tombstones;
use crate::duration::{self, DurationCounts};
use crate::key::{Table, day_of};
use crate::ledger::{
    Cause, Context, DeadLetter, Encoding, KernelIdentity, LossReceipt, MinuteCounts, OriginId,
    OriginRecord, Span, StoredOrigin, Watermark,
};
use crate::record::Level;
use crate::stores::expired::Expired;
use crate::stores::{CountKey, DurationKey, Grown, MinuteDurations, minute_durations};

type Sql<T> = rusqlite::Result<T>;

const MINUTES_OF_DAY: i64 = 24 * 60;

/// A value that this program never writes.
#[derive(Debug, thiserror::Error)]
#[error("unknown {what} {word}")]
struct Unknown {
    what: &'static str,
    word: String,
}

fn known<T>(
    row: &Row<'_>,
    column: &str,
    what: &'static str,
    read: impl Fn(&str) -> Option<T>,
) -> Sql<T> {
    let word: String = row.get(column)?;
    read(&word).ok_or_else(|| {
        let at = row.as_ref().column_index(column).unwrap_or(0);
        let unknown = Unknown { what, word };
        rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(unknown))
    })
}

fn parsed<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: &str) -> Sql<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        let at = row.as_ref().column_index(column).unwrap_or(0);
        rusqlite::Error::FromSqlConversionFailure(at, Type::Text, Box::new(error))
    })
}

pub(super) fn bits(row: &Row<'_>, column: &str) -> Sql<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

pub(super) fn path(row: &Row<'_>, column: &str) -> Sql<PathBuf> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => OsString::from_vec(bytes.to_vec()).into(),
        _ => PathBuf::new(),
    })
}

fn table(row: &Row<'_>) -> Sql<Table> {
    known(row, "log_table", "table", Table::from_word)
}

fn origin(row: &Row<'_>) -> Sql<OriginRecord> {
    Ok(OriginRecord {
        id: row.get("origin")?,
        machine: row.get("machine")?,
        host: row.get("host")?,
        path: path(row, "path")?,
        kernel: KernelIdentity {
            device: bits(row, "device")?,
            inode: bits(row, "inode")?,
            generation: row.get::<_, Option<i64>>("generation")?.map(i64::cast_unsigned),
            born_ns: row.get("inode_born_ns")?,
        },
        head_hash: bits(row, "head_hash")?,
        head_bytes: bits(row, "head_bytes")?,
        first_offset: bits(row, "first_offset")?,
        born_ms: row.get("born_ms")?,
        encoding: known(row, "encoding", "encoding", Encoding::from_name)?,
    })
}

fn context(row: &Row<'_>) -> Sql<Context> {
    Ok(Context {
        origin: row.get("origin")?,
        from_bytes: bits(row, "from_bytes")?,
        source: row.get("source")?,
        table: table(row)?,
        format: row.get("format")?,
        options: parsed(row, "options")?,
        timezone: row.get("timezone")?,
        anchor_ms: row.get("anchor_ms")?,
        max_line_bytes: bits(row, "max_line_bytes")?,
        parser_version: row.get("parser_version")?,
    })
}

fn minutes(row: &Row<'_>) -> Sql<MinuteCounts> {
    let lines: Vec<Vec<i64>> = parsed(row, "minutes")?;
    let mut counts = MinuteCounts::new();
    for line in lines {
        let Some((&minute, cells)) = line.split_first() else { continue };
        for (level, &count) in Level::ALL.into_iter().zip(cells).filter(|(_, count)| **count != 0) {
            counts.insert((minute, level), count.cast_unsigned());
        }
    }
    Ok(counts)
}

/// What a span of an older version does not say, nor an index of one, which has no such column.
fn durations_of(row: &Row<'_>) -> Sql<Option<DurationCounts>> {
    match row.get_ref("durations") {
        Ok(ValueRef::Null) | Err(rusqlite::Error::InvalidColumnName(_)) => Ok(None),
        Ok(_) => parsed(row, "durations").map(|lines: Vec<_>| Some(duration::from_lines(&lines))),
        Err(error) => Err(error),
    }
}

fn span(row: &Row<'_>) -> Sql<Span> {
    Ok(Span {
        origin: row.get("origin")?,
        start_bytes: bits(row, "start_bytes")?,
        end_bytes: bits(row, "end_bytes")?,
        rows: bits(row, "rows")?,
        lines: bits(row, "lines")?,
        reasons: parsed(row, "reasons")?,
        minutes: minutes(row)?,
        durations: durations_of(row)?,
        running_ms: row.get("running_ms")?,
        crc: bits(row, "crc")?,
        marker: bits(row, "marker")?,
        markers: parsed(row, "markers")?,
        first_write_ms: row.get("first_write_ms")?,
        last_write_ms: row.get("last_write_ms")?,
        ttl_s: row.get("ttl_s")?,
        closed: row.get("closed")?,
        carried: parsed(row, "carried")?,
        table: table(row)?,
        source: row.get("source")?,
    })
}

/// All origins, contexts and spans, of one machine or of all.
pub fn origins(connection: &Connection, machine: Option<&str>) -> Sql<Vec<StoredOrigin>> {
    // one moment for the three questions
    let moment = connection.unchecked_transaction()?;
    let mut of: BTreeMap<OriginId, StoredOrigin> = moment
        .prepare("SELECT * FROM origins WHERE ?1 IS NULL OR machine = ?1")?
        .query_and_then([machine], |row| {
            let record = origin(row)?;
            Ok((record.id, StoredOrigin { record, contexts: Vec::new(), spans: Vec::new() }))
        })?
        .collect::<Sql<_>>()?;
    let mut statement = moment.prepare("SELECT * FROM contexts ORDER BY origin, from_bytes")?;
    for context in statement.query_and_then([], context)? {
        let context = context?;
        if let Some(stored) = of.get_mut(&context.origin) {
            stored.contexts.push(context);
        }
    }
    let mut statement = moment.prepare("SELECT * FROM spans ORDER BY origin, start_bytes")?;
    for span in statement.query_and_then([], span)? {
        let span = span?;
        if let Some(stored) = of.get_mut(&span.origin) {
            stored.spans.push(span);
        }
    }
    Ok(of.into_values().collect())
}

/// The last span of each of these origins.
pub fn last_spans(connection: &Connection, origins: &[OriginId]) -> Sql<Vec<Span>> {
    let mut statement = connection
        .prepare_cached("SELECT * FROM spans WHERE origin = ? ORDER BY start_bytes DESC LIMIT 1")?;
    let mut spans = Vec::new();
    for id in origins {
        spans.extend(statement.query_and_then([id], span)?.next().transpose()?);
    }
    Ok(spans)
}

/// Spans that were written after `mark`, with their hosts; without a mark the last span of each
/// origin.
pub fn grown(connection: &Connection, mark: Option<i64>) -> Sql<Grown> {
    let moment = connection.unchecked_transaction()?;
    let select = "SELECT spans.*, coalesce(host, '') AS host FROM spans LEFT JOIN origins \
                  USING (origin)";
    let read = |row: &Row<'_>| Ok((row.get("host")?, span(row)?));
    let newest: Option<i64> =
        moment.query_row("SELECT max(written) FROM spans", [], |row| row.get(0))?;
    let spans: Vec<(String, Span)> = match mark {
        Some(mark) => moment
            .prepare_cached(&format!(
                "{select} WHERE spans.written > ? ORDER BY origin, start_bytes"
            ))?
            .query_and_then([mark], read)?
            .collect::<Sql<_>>()?,
        None => moment
            .prepare(&format!(
                "{select} WHERE (origin, start_bytes) IN \
                 (SELECT origin, max(start_bytes) FROM spans GROUP BY origin)"
            ))?
            .query_and_then([], read)?
            .collect::<Sql<_>>()?,
    };
    Ok(Grown { spans, mark: newest.max(mark).unwrap_or(i64::MIN) })
}

const MINUTE_MS: i64 = 60_000;

/// Whose rows a span counts, and which of its minutes are asked for and have not ended.
struct Counting<'a> {
    table: Table,
    source: String,
    host: String,
    written_ms: i64,
    minutes: &'a RangeInclusive<i64>,
    expired: &'a Expired,
}

impl Counting<'_> {
    fn wants(&self, minute: i64) -> bool {
        let day = day_of(minute.saturating_mul(MINUTE_MS));
        self.minutes.contains(&minute)
            && !self.expired.has(day, self.table, &self.source, self.written_ms)
    }
}

/// Visits the spans with rows between two times. A minute that lies in the range in part is asked
/// for as a whole; days that retention has dropped are not.
fn each_counted(
    connection: &Connection,
    since: i64,
    until: i64,
    mut visit: impl FnMut(&Row<'_>, &Counting<'_>) -> Sql<()>,
) -> Sql<()> {
    let moment = connection.unchecked_transaction()?;
    let asked = since.div_euclid(MINUTE_MS)..=until.saturating_sub(1).div_euclid(MINUTE_MS);
    let expired: Expired = tombstones::all(&moment)?.iter().collect();
    let mut statement = moment.prepare(
        "SELECT spans.*, coalesce(host, '') AS host FROM spans LEFT JOIN origins \
         USING (origin) WHERE last_minute >= ? AND first_minute <= ?",
    )?;
    let mut rows = statement.query([asked.start(), asked.end()])?;
    while let Some(row) = rows.next()? {
        let of = Counting {
            table: table(row)?,
            source: row.get("source")?,
            host: row.get("host")?,
            written_ms: row.get("last_write_ms")?,
            minutes: &asked,
            expired: &expired,
        };
        visit(row, &of)?;
    }
    Ok(())
}

/// Rows by minute, source, level and host.
pub fn counts(connection: &Connection, since: i64, until: i64) -> Sql<Vec<(CountKey, u64)>> {
    let mut counts: HashMap<CountKey, u64> = HashMap::new();
    each_counted(connection, since, until, |row, of| {
        for ((minute, level), count) in minutes(row)? {
            if of.wants(minute) {
                let (source, host) = (of.source.clone(), of.host.clone());
                let key = CountKey { minute, table: of.table, source, level, host };
                *counts.entry(key).or_default() += count;
            }
        }
        Ok(())
    })?;
    Ok(counts.into_iter().collect())
}

/// How long rows took, by minute, source and host.
pub fn durations(
    connection: &Connection,
    since: i64,
    until: i64,
) -> Sql<Vec<(DurationKey, MinuteDurations)>> {
    let mut found: HashMap<DurationKey, MinuteDurations> = HashMap::new();
    each_counted(connection, since, until, |row, of| {
        let counted = durations_of(row)?;
        let rows = if counted.is_none() { minutes(row)? } else { MinuteCounts::new() };
        let rows = rows.into_iter().map(|((minute, _), rows)| (minute, rows));
        for (minute, durations) in minute_durations(of.table, counted.as_ref(), rows) {
            if of.wants(minute) {
                let (source, host) = (of.source.clone(), of.host.clone());
                let key = DurationKey { minute, table: of.table, source, host };
                found.entry(key).or_default().merge(&durations);
            }
        }
        Ok(())
    })?;
    Ok(found.into_iter().collect())
}

/// Rows by day, table and source.
pub type DayRows = BTreeMap<(i32, Table, String), u64>;

/// Rows of days before this one, as the spans count them, without those that have ended.
pub fn rows_before(connection: &Connection, day: i32) -> Sql<DayRows> {
    let moment = connection.unchecked_transaction()?;
    let expired: Expired = tombstones::all(&moment)?.iter().collect();
    let mut statement = moment.prepare(
        "SELECT minutes, log_table, source, last_write_ms FROM spans WHERE first_minute < ?",
    )?;
    let mut rows = statement.query([i64::from(day) * MINUTES_OF_DAY])?;
    let mut found = DayRows::new();
    while let Some(row) = rows.next()? {
        let (table, source): (Table, String) = (table(row)?, row.get("source")?);
        let written_ms = row.get("last_write_ms")?;
        for ((minute, _), count) in minutes(row)? {
            let of = i32::try_from(minute.div_euclid(MINUTES_OF_DAY)).unwrap_or(i32::MAX);
            if of < day && !expired.has(of, table, &source, written_ms) {
                *found.entry((of, table, source.clone())).or_default() += count;
            }
        }
    }
    Ok(found)
}

/// Names of all sources.
pub fn sources(connection: &Connection) -> Sql<Vec<String>> {
    connection
        .prepare("SELECT source FROM contexts UNION SELECT source FROM spans ORDER BY 1")?
        .query_and_then([], |row| row.get(0))?
        .collect()
}

/// All loss receipts.
pub fn receipts(connection: &Connection) -> Sql<Vec<LossReceipt>> {
    const CAUSES: [Cause; 5] =
        [Cause::Truncated, Cause::Deleted, Cause::CutBack, Cause::Spool, Cause::Unknown];
    connection
        .prepare("SELECT * FROM loss_receipts ORDER BY noticed_ms")?
        .query_and_then([], |row| {
            Ok(LossReceipt {
                origin: row.get("origin")?,
                start_bytes: bits(row, "start_bytes")?,
                end_bytes: row.get::<_, Option<i64>>("end_bytes")?.map(i64::cast_unsigned),
                cause: known(row, "cause", "cause", |word| {
                    CAUSES.into_iter().find(|cause| cause.name() == word)
                })?,
                source: row.get("source")?,
                host: row.get("host")?,
                path: path(row, "path")?,
                noticed_ms: row.get("noticed_ms")?,
                detail: row.get("detail")?,
            })
        })?
        .collect()
}

/// The newest watermark of each source and host.
pub fn watermarks(connection: &Connection) -> Sql<Vec<Watermark>> {
    connection
        .prepare("SELECT * FROM watermarks")?
        .query_and_then([], |row| {
            Ok(Watermark {
                source: row.get("source")?,
                host: row.get("host")?,
                seen_ms: row.get("seen_ms")?,
                written_ms: row.get("written_ms")?,
                behind_bytes: bits(row, "behind_bytes")?,
            })
        })?
        .collect()
}

/// All dead letters.
pub fn dead_letters(connection: &Connection) -> Sql<Vec<DeadLetter>> {
    connection
        .prepare("SELECT * FROM dead_letters ORDER BY refused_ms")?
        .query_and_then([], |row| {
            Ok(DeadLetter {
                table: table(row)?,
                source: row.get("source")?,
                host: row.get("host")?,
                timestamp_ms: row.get("timestamp")?,
                origin: row.get("origin")?,
                offset_bytes: row.get("offset_bytes")?,
                level: row.get("level")?,
                message: row.get("message")?,
                metadata: row.get("metadata")?,
                reason: row.get("reason")?,
                refused_ms: row.get("refused_ms")?,
            })
        })?
        .collect()
}
