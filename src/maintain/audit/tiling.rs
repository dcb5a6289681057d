//! The fast audit: spans touch, their counts agree, and the store has as many rows as they say.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use super::{Fault, OriginAudit};
use crate::duration::Rung;
use crate::key::{RowKey, Table, day_of};
use crate::ledger::{DeadLetter, OriginId, Reason, Span, StoredOrigin};
use crate::record::Level;
use crate::stores::expired::Expired;

/// How many rows each span should have, and how many were found.
pub struct Expected {
    origins: HashMap<OriginId, Counts>,
    /// What retention has ended: rows of it are neither wanted nor counted.
    ended: Expired,
}

struct Counts {
    first_offset: u64,
    spans: Vec<Counted>,
    before: u64,
    behind: u64,
}

struct Counted {
    start: u64,
    end: u64,
    table: Table,
    source: String,
    last_write_ms: i64,
    /// Its rows have outlived their time, whichever of them are still there.
    expired: bool,
    /// Rows that it counts and that retention has ended since, or had when they were written.
    expired_rows: u64,
    /// Rows that the span counts, and rows that were dead letters and were stored after all.
    wanted: u64,
    /// So many of these may be missing: whether a dead letter was stored and has expired since
    /// is not known.
    spare: u64,
    found: u64,
    /// Sum of [`key_hash`] over the rows that were found.
    sum: u64,
}

/// A row's part of a span's sum: two sets of rows with equal sums are equal.
#[must_use]
pub fn key_hash(key: RowKey) -> u64 {
    let mut bytes = [0; 16];
    let (time, offset) = bytes.split_at_mut(8);
    time.copy_from_slice(&key.timestamp_ms.to_le_bytes());
    offset.copy_from_slice(&key.offset_bytes.to_le_bytes());
    xxh3_64(&bytes)
}

impl Expected {
    /// What the spans of `origins` promise at `now_ms`. A dead letter counts as a letter or as a
    /// row, never as both: one that is not in `letters` any more was stored or dropped by hand.
    #[must_use]
    pub fn new(
        origins: &[StoredOrigin],
        letters: &[DeadLetter],
        ended: Expired,
        now_ms: i64,
    ) -> Self {
        let origins = origins.iter().map(|origin| {
            let spans = origin.spans.iter().map(|span| counted(span, &ended, now_ms));
            let mut spans: Vec<_> = spans.collect();
            spans.sort_by_key(|span| span.start);
            let first_offset = origin.record.first_offset;
            (origin.record.id, Counts { first_offset, spans, before: 0, behind: 0 })
        });
        let mut expected = Self { origins: origins.collect(), ended };
        for letter in letters {
            let offset = u64::try_from(letter.offset_bytes).unwrap_or(0);
            if let Some(span) = expected.span(letter.origin, offset) {
                span.wanted = span.wanted.saturating_sub(1);
            }
        }
        expected
    }

    /// For each span of an origin that has not expired: start, end, and the sum over its rows.
    #[must_use]
    pub fn sums(&self, origin: OriginId) -> Vec<(u64, u64, u64)> {
        let spans = self.origins.get(&origin).map(|found| found.spans.as_slice());
        let live = spans.unwrap_or_default().iter().filter(|span| !span.expired);
        live.map(|span| (span.start, span.end, span.sum)).collect()
    }

    /// Whether retention has ended the day of a row of this origin.
    #[must_use]
    pub fn has_ended(&self, key: RowKey) -> bool {
        let offset = u64::try_from(key.offset_bytes).unwrap_or(0);
        let spans = self.origins.get(&key.origin).map(|found| found.spans.as_slice());
        let spans = spans.unwrap_or_default();
        let index = spans.partition_point(|span| span.start <= offset).checked_sub(1);
        index.and_then(|index| spans.get(index)).is_some_and(|span| {
            offset < span.end
                && self.ended.has(
                    day_of(key.timestamp_ms),
                    span.table,
                    &span.source,
                    span.last_write_ms,
                )
        })
    }

    fn span(&mut self, origin: OriginId, offset: u64) -> Option<&mut Counted> {
        let spans = &mut self.origins.get_mut(&origin)?.spans;
        let index = spans.partition_point(|span| span.start <= offset).checked_sub(1)?;
        spans.get_mut(index).filter(|span| offset < span.end)
    }

    /// Counts a row that the store has; `false` if its origin is unknown.
    pub fn row(&mut self, key: RowKey) -> bool {
        if self.has_ended(key) {
            // its tombstone is there already, and it will not be for long
            return true;
        }
        let offset = u64::try_from(key.offset_bytes).unwrap_or(0);
        if let Some(span) = self.span(key.origin, offset) {
            span.found += 1;
            span.sum = span.sum.wrapping_add(key_hash(key));
            return true;
        }
        let Some(spans) = self.origins.get_mut(&key.origin) else { return false };
        if offset < spans.first_offset {
            spans.before += 1;
        } else if spans.spans.last().is_none_or(|span| offset >= span.end) {
            spans.behind += 1;
        }
        true
    }
}

fn counted(span: &Span, ended: &Expired, now_ms: i64) -> Counted {
    let lived = span.ttl_s.is_some_and(|ttl_s| span.last_write_ms + ttl_s * 1000 <= now_ms);
    let ended_rows = ended.rows_of(span).min(span.rows);
    let letters = span.reasons.get(Reason::DeadLetter);
    let before = span.reasons.get(Reason::Expired);
    Counted {
        start: span.start_bytes,
        end: span.end_bytes,
        table: span.table,
        source: span.source.clone(),
        last_write_ms: span.last_write_ms,
        expired: lived,
        expired_rows: before + if lived { span.rows } else { ended_rows },
        wanted: span.rows - ended_rows + letters,
        spare: if ended_rows + before > 0 { letters } else { 0 },
        found: 0,
        sum: 0,
    }
}

/// Checks one origin after all rows were counted. One that retention has `ended` up to an offset,
/// and that went on after all, has its spans from there on.
#[must_use]
pub fn check_origin(origin: &StoredOrigin, ended: Option<u64>, expected: &Expected) -> OriginAudit {
    let mut spans: Vec<&Span> = origin.spans.iter().collect();
    spans.sort_by_key(|span| span.start_bytes);
    let mut faults = Vec::new();
    let mut at = origin.record.first_offset;
    if let (Some(ended), Some(first)) = (ended, spans.first()) {
        at = at.max(first.start_bytes.min(ended));
    }
    for span in &spans {
        if span.start_bytes > at {
            faults.push(Fault::Gap { start_bytes: at, end_bytes: span.start_bytes });
        }
        if span.start_bytes < at {
            let end_bytes = at.min(span.end_bytes);
            faults.push(Fault::Overlap { start_bytes: span.start_bytes, end_bytes });
        }
        at = at.max(span.end_bytes);
        faults.extend(counts(span));
    }
    let found = expected.origins.get(&origin.record.id);
    let (mut expired_spans, mut expired_rows) = (0, 0);
    for span in found.map(|found| found.spans.as_slice()).unwrap_or_default() {
        let (start_bytes, end_bytes) = (span.start, span.end);
        expired_rows += span.expired_rows;
        // nothing is left of it
        let whole = span.expired || span.expired_rows > 0 && span.wanted == span.spare;
        expired_spans += u64::from(whole);
        if span.expired {
            continue;
        }
        let least = span.wanted - span.spare;
        if span.found < least {
            let rows = least - span.found;
            faults.push(Fault::Missing { start_bytes, end_bytes, rows });
        } else if span.found > span.wanted {
            let rows = span.found - span.wanted;
            faults.push(Fault::Excess { start_bytes, end_bytes, rows });
        }
    }
    let before = found.map_or(0, |found| found.before);
    if before > 0 {
        faults.push(Fault::Outside { rows: before });
    }
    OriginAudit {
        origin: origin.record.id,
        host: origin.record.host.clone(),
        path: origin.record.path.clone(),
        bytes: spans.iter().map(|span| span.end_bytes - span.start_bytes).sum(),
        rows: spans.iter().map(|span| span.rows).sum(),
        lines: spans.iter().map(|span| span.lines).sum(),
        uncommitted_rows: found.map_or(0, |found| found.behind),
        expired_spans,
        expired_rows,
        deep: None,
        faults,
    }
}

fn counts(span: &Span) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |detail: String| {
        faults.push(Fault::Counts { start_bytes: span.start_bytes, detail });
    };
    let (rows, reasons) = (span.rows, span.reasons.total());
    if rows + reasons != span.lines {
        fault(format!("{rows} rows and {reasons} other lines are not {} lines", span.lines));
    }
    let minutes: u64 = span.minutes.values().sum();
    if minutes != rows {
        fault(format!("{minutes} rows by minute are not {rows} rows"));
    }
    for (minute, durations) in span.durations.iter().flatten() {
        let levels = span.minutes.range((*minute, Level::Trace)..=(*minute, Level::Critical));
        let (all, timed) = (levels.map(|(_, rows)| rows).sum(), durations.at_least(Rung::ANY));
        if timed > all {
            fault(format!("{timed} rows with a duration are more than the {all} of their minute"));
        }
    }
    if span.end_bytes < span.start_bytes {
        fault(format!("it ends at {} before it begins", span.end_bytes));
    }
    faults
}
