//! Spans and the statistics that follow them: `spans`, `log_stats`.

use std::collections::BTreeMap;
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlDate, CqlTimestamp, MaybeUnset};
use scylla::{DeserializeRow, SerializeRow};

use super::ask::{all_rows, at_once, for_each, prepare};
use super::origins::unset;
use super::rows::cql_date;
use crate::duration::{self, DurationCounts};
use crate::key::Table;
use crate::ledger::{Carried, Marker, MinuteCounts, OriginId, Reasons, Span};
use crate::record::Level;
use crate::stores::StoreError;

const COLUMNS: &str = "origin, start_bytes, end_bytes, rows, lines, reasons, minutes, running, \
     crc, marker, markers, first_write, last_write, ttl_seconds, closed, carried, \
     table_name, source, durations";

#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
pub(super) struct SpanValues {
    origin: i64,
    start_bytes: i64,
    end_bytes: i64,
    rows: i64,
    lines: i64,
    reasons: String,
    minutes: String,
    running: MaybeUnset<CqlTimestamp>,
    crc: i64,
    marker: i64,
    markers: String,
    first_write: CqlTimestamp,
    last_write: CqlTimestamp,
    ttl_seconds: MaybeUnset<i64>,
    closed: bool,
    carried: String,
    table_name: &'static str,
    source: String,
    durations: MaybeUnset<String>,
    stamp: i64,
}

#[derive(DeserializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct SpanRow {
    origin: i64,
    start_bytes: i64,
    end_bytes: Option<i64>,
    rows: Option<i64>,
    lines: Option<i64>,
    reasons: Option<String>,
    minutes: Option<String>,
    running: Option<CqlTimestamp>,
    crc: Option<i64>,
    marker: Option<i64>,
    markers: Option<String>,
    first_write: Option<CqlTimestamp>,
    last_write: Option<CqlTimestamp>,
    ttl_seconds: Option<i64>,
    closed: Option<bool>,
    carried: Option<String>,
    table_name: Option<String>,
    source: Option<String>,
    durations: Option<String>,
}

#[derive(SerializeRow)]
#[scylla(flavor = "enforce_order", skip_name_checks)]
struct StatsValues {
    log_date: CqlDate,
    hour: i8,
    source: String,
    origin: i64,
    span_start: i64,
    table_name: &'static str,
    host: MaybeUnset<Arc<str>>,
    counts: String,
    durations: MaybeUnset<String>,
    stamp: i64,
}

/// Rows by level and minute: `{"INFO":{"29384756":12}}`.
fn minutes_text(minutes: &MinuteCounts) -> String {
    let mut by_level: BTreeMap<&str, BTreeMap<i64, u64>> = BTreeMap::new();
    for (&(minute, level), &rows) in minutes {
        by_level.entry(level.name()).or_default().insert(minute, rows);
    }
    serde_json::to_string(&by_level).unwrap_or_default()
}

fn minutes_of(text: &str) -> MinuteCounts {
    let by_level: BTreeMap<String, BTreeMap<i64, u64>> =
        serde_json::from_str(text).unwrap_or_default();
    let levels = by_level
        .into_iter()
        .filter_map(|(name, minutes)| Level::from_name(&name).map(|level| (level, minutes)));
    levels
        .flat_map(|(level, minutes)| {
            minutes.into_iter().map(move |(minute, rows)| ((minute, level), rows))
        })
        .collect()
}

/// A span's rows by hour since 1970, each as [`counts_of`] reads it: by level, one number a
/// minute of the hour up to the last that has rows.
fn hours(minutes: &MinuteCounts) -> BTreeMap<i64, String> {
    let mut hours: BTreeMap<i64, BTreeMap<&str, Vec<u64>>> = BTreeMap::new();
    for (&(minute, level), &rows) in minutes {
        let counts = hours.entry(minute.div_euclid(60)).or_default();
        let counts = counts.entry(level.name()).or_default();
        let index = usize::try_from(minute.rem_euclid(60)).unwrap_or(0);
        if counts.len() <= index {
            counts.resize(index + 1, 0);
        }
        if let Some(count) = counts.get_mut(index) {
            *count += rows;
        }
    }
    hours
        .into_iter()
        .map(|(hour, counts)| (hour, serde_json::to_string(&counts).unwrap_or_default()))
        .collect()
}

/// Rows by minute and rung: `[[29384756,3,0,1]]`.
fn durations_text(counts: &DurationCounts) -> String {
    serde_json::to_string(&duration::to_lines(counts)).unwrap_or_default()
}

/// Rows by minute and rung, in `log_stats` by minute of the hour; `None` where an older version
/// has written.
pub(super) fn durations_of(text: &str) -> Option<DurationCounts> {
    let lines: Vec<Vec<i64>> = serde_json::from_str(text).ok()?;
    Some(duration::from_lines(&lines))
}

/// What a span says of durations in the hour that is so many hours after 1970, by minute of it.
fn durations_of_hour(counts: &DurationCounts, hour: i64) -> String {
    let first = hour * 60;
    let minutes = counts.range(first..first + 60);
    durations_text(&minutes.map(|(minute, rows)| (minute - first, *rows)).collect())
}

/// Rows by level and minute of the hour, from the text in `log_stats`.
pub(super) fn counts_of(text: &str) -> Vec<(Level, Vec<u64>)> {
    let by_level: BTreeMap<&str, Vec<u64>> = serde_json::from_str(text).unwrap_or_default();
    by_level
        .into_iter()
        .filter_map(|(name, counts)| Level::from_name(name).map(|level| (level, counts)))
        .collect()
}

impl SpanValues {
    pub(super) fn new(span: &Span, stamp: i64) -> Self {
        Self {
            origin: span.origin,
            start_bytes: span.start_bytes.cast_signed(),
            end_bytes: span.end_bytes.cast_signed(),
            rows: span.rows.cast_signed(),
            lines: span.lines.cast_signed(),
            reasons: serde_json::to_string(&span.reasons).unwrap_or_default(),
            minutes: minutes_text(&span.minutes),
            running: unset(span.running_ms.map(CqlTimestamp)),
            crc: span.crc.cast_signed(),
            marker: span.marker.cast_signed(),
            markers: serde_json::to_string(&span.markers).unwrap_or_default(),
            first_write: CqlTimestamp(span.first_write_ms),
            last_write: CqlTimestamp(span.last_write_ms),
            ttl_seconds: unset(span.ttl_s),
            closed: span.closed,
            carried: serde_json::to_string(&span.carried).unwrap_or_default(),
            table_name: span.table.name(),
            source: span.source.clone(),
            durations: unset(span.durations.as_ref().map(durations_text)),
            stamp,
        }
    }
}

impl From<SpanRow> for Span {
    fn from(row: SpanRow) -> Self {
        let unsigned = |value: Option<i64>| value.unwrap_or(0).cast_unsigned();
        let markers: Vec<Marker> =
            row.markers.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let carried: Vec<Carried> =
            row.carried.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let reasons: Reasons =
            row.reasons.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let table = row.table_name.as_deref().and_then(Table::from_word);
        Self {
            origin: row.origin,
            start_bytes: row.start_bytes.cast_unsigned(),
            end_bytes: unsigned(row.end_bytes),
            rows: unsigned(row.rows),
            lines: unsigned(row.lines),
            reasons,
            minutes: row.minutes.as_deref().map(minutes_of).unwrap_or_default(),
            running_ms: row.running.map(|running| running.0),
            crc: unsigned(row.crc),
            marker: unsigned(row.marker),
            markers,
            first_write_ms: row.first_write.map_or(0, |time| time.0),
            last_write_ms: row.last_write.map_or(0, |time| time.0),
            ttl_s: row.ttl_seconds,
            closed: row.closed.unwrap_or(false),
            carried,
            table: table.unwrap_or(Table::Infrastructure),
            source: row.source.unwrap_or_default(),
            durations: row.durations.as_deref().and_then(durations_of),
        }
    }
}

/// What is prepared for the two tables.
pub(super) struct Statements {
    put: PreparedStatement,
    put_stats: PreparedStatement,
    last: PreparedStatement,
    of_origin: PreparedStatement,
}

/// The statement that writes [`SpanValues`].
pub(super) fn put_text(keyspace: &str) -> String {
    let marks = vec!["?"; COLUMNS.split(',').count()].join(", ");
    format!("INSERT INTO {keyspace}.spans ({COLUMNS}) VALUES ({marks}) USING TIMESTAMP ?")
}

impl Statements {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let get = format!("SELECT {COLUMNS} FROM {keyspace}.spans WHERE origin = ?");
        Ok(Self {
            put: prepare(session, put_text(keyspace)).await?,
            put_stats: prepare(
                session,
                format!(
                    "INSERT INTO {keyspace}.log_stats (log_date, hour, source, origin, span_start, \
                     table_name, host, counts, durations) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) \
                     USING TIMESTAMP ?"
                ),
            )
            .await?,
            last: prepare(session, format!("{get} LIMIT 1")).await?,
            of_origin: prepare(session, get).await?,
        })
    }

    /// Writes the spans, and after them their counts: absolute, under the span's key, so that
    /// writing them again changes nothing.
    pub(super) async fn put(
        &self,
        session: &Arc<Session>,
        spans: &[Span],
        host: Option<&Arc<str>>,
        stamp: i64,
    ) -> Result<(), StoreError> {
        let stamped: Vec<(&Span, i64)> = spans.iter().zip(stamp..).collect();
        let values = stamped.iter().map(|(span, stamp)| SpanValues::new(span, *stamp));
        for_each(session, &self.put, values.collect::<Vec<_>>()).await?;
        let stats = stamped.iter().flat_map(|(span, stamp)| {
            hours(&span.minutes).into_iter().map(|(hour, counts)| StatsValues {
                log_date: CqlDate(cql_date(i32::try_from(hour.div_euclid(24)).unwrap_or(0))),
                hour: i8::try_from(hour.rem_euclid(24)).unwrap_or(0),
                source: span.source.clone(),
                origin: span.origin,
                span_start: span.start_bytes.cast_signed(),
                table_name: span.table.name(),
                host: unset(host.cloned()),
                counts,
                durations: unset(
                    span.durations.as_ref().map(|durations| durations_of_hour(durations, hour)),
                ),
                stamp: *stamp,
            })
        });
        for_each(session, &self.put_stats, stats.collect::<Vec<_>>()).await
    }

    /// The last span of each origin that has one.
    pub(super) async fn last(
        &self,
        session: &Arc<Session>,
        origins: &[OriginId],
    ) -> Result<Vec<Span>, StoreError> {
        let jobs = origins.iter().map(|&origin| {
            let (session, statement) = (Arc::clone(session), self.last.clone());
            async move {
                let start = PagingState::start();
                all_rows::<SpanRow>(&session, &statement, (origin,), start).await
            }
        });
        let mut spans = Vec::new();
        at_once(jobs.collect::<Vec<_>>(), |rows| {
            spans.extend(rows.into_iter().map(Span::from));
            true
        })
        .await?;
        Ok(spans)
    }

    /// All spans of an origin, in the order of their bytes.
    pub(super) async fn of_origin(
        &self,
        session: &Session,
        origin: OriginId,
    ) -> Result<Vec<Span>, StoreError> {
        let start = PagingState::start();
        let rows: Vec<SpanRow> = all_rows(session, &self.of_origin, (origin,), start).await?;
        Ok(rows.into_iter().rev().map(Span::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duration::{Durations, Rung};

    fn minutes() -> MinuteCounts {
        [((59, Level::Info), 3), ((60, Level::Info), 5), ((62, Level::Error), 1)].into()
    }

    #[test]
    fn minutes_come_back_from_their_text() {
        assert_eq!(minutes_of(&minutes_text(&minutes())), minutes());
        assert_eq!(minutes_of("no json"), MinuteCounts::new());
    }

    #[test]
    fn hours_split_the_minutes_and_lose_none() {
        let hours = hours(&minutes());
        assert_eq!(hours.keys().copied().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(hours[&1], r#"{"ERROR":[0,0,1],"INFO":[5]}"#);
        let total: u64 =
            hours.values().flat_map(|text| counts_of(text)).flat_map(|(_, counts)| counts).sum();
        assert_eq!(total, 9);
    }

    #[test]
    fn durations_come_back_from_their_text_and_each_hour_has_its_own() {
        let mut of_minute = Durations::default();
        of_minute.add(Rung::ANY);
        let counts: DurationCounts = [59, 60, 119, 120].map(|minute| (minute, of_minute)).into();
        assert_eq!(durations_of(&durations_text(&counts)), Some(counts.clone()));
        assert_eq!(durations_of_hour(&counts, 1), "[[0,1],[59,1]]");
        assert_eq!(durations_of_hour(&counts, 3), "[]", "counted, and none");
        assert_eq!(durations_of("no json"), None);
    }
}
