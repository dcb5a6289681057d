//! How a span grows by a piece.

use crate::crc;
use crate::duration::DurationCounts;
use crate::key::Table;
use crate::ledger::{Marker, MinuteCounts, NotRow, OriginId, Piece, Reasons, Span};

/// A span that has so many rows is closed.
pub(super) const SPAN_ROWS_MAX: u64 = 100_000;
/// A span with rows of so many distinct minutes is closed.
pub(super) const SPAN_MINUTES_MAX: usize = 256;

/// The marker at a span's end.
pub(super) fn end_marker(span: &Span, at_ms: i64) -> Marker {
    Marker { at_ms, position: span.end_bytes, hash: span.marker }
}

/// A span of nothing, that begins where the piece does.
pub(super) fn empty_span(
    origin: OriginId,
    piece: &Piece,
    first_write_ms: i64,
    (table, source): (Table, String),
    ttl_s: Option<i64>,
) -> Span {
    Span {
        origin,
        start_bytes: piece.start_bytes,
        end_bytes: piece.start_bytes,
        rows: 0,
        lines: 0,
        reasons: Reasons::default(),
        minutes: MinuteCounts::new(),
        durations: Some(DurationCounts::new()),
        running_ms: None,
        crc: 0,
        marker: piece.marker,
        markers: Vec::new(),
        first_write_ms,
        last_write_ms: first_write_ms,
        ttl_s,
        closed: false,
        carried: Vec::new(),
        table,
        source,
    }
}

/// Adds a piece that touches the span's end.
pub(super) fn grow(span: &mut Span, piece: &Piece, now_ms: i64) {
    span.crc = crc::combine(span.crc, piece.crc, piece.end_bytes - piece.start_bytes);
    span.end_bytes = piece.end_bytes;
    span.rows += piece.rows;
    span.lines += piece.lines;
    span.reasons.merge(&piece.reasons);
    for (key, rows) in &piece.minutes {
        *span.minutes.entry(*key).or_default() += rows;
    }
    if let Some(durations) = &mut span.durations {
        for (minute, more) in &piece.durations {
            durations.entry(*minute).or_default().merge(more);
        }
    }
    span.marker = piece.marker;
    span.carried.clone_from(&piece.carried);
    span.last_write_ms = span.last_write_ms.max(now_ms);
}

/// A row that was counted is none: it counts under a reason.
pub(super) fn leave_out(span: &mut Span, (reason, key, level, rung): NotRow) {
    let minute = (key.timestamp_ms.div_euclid(60_000), level);
    let counted = span.minutes.get_mut(&minute);
    assert!(
        span.rows > 0 && counted.as_ref().is_some_and(|rows| **rows > 0),
        "row {} of origin {} was never counted",
        key.offset_bytes,
        span.origin
    );
    if let Some(rows) = counted {
        *rows -= 1;
        if *rows == 0 {
            span.minutes.remove(&minute);
        }
    }
    if let (Some(rung), Some(durations)) = (rung, &mut span.durations)
        && let Some(of_minute) = durations.get_mut(&minute.0)
    {
        of_minute.remove(rung);
        if of_minute.is_empty() {
            durations.remove(&minute.0);
        }
    }
    span.rows -= 1;
    span.reasons.add(reason, 1);
}

/// Whether the span has to be closed.
pub(super) fn is_full(span: &Span) -> bool {
    span.rows >= SPAN_ROWS_MAX || distinct_minutes(&span.minutes) >= SPAN_MINUTES_MAX
}

fn distinct_minutes(minutes: &MinuteCounts) -> usize {
    if minutes.len() < SPAN_MINUTES_MAX {
        return minutes.len();
    }
    let mut last = None;
    minutes.keys().filter(|(minute, _)| last.replace(*minute) != Some(*minute)).count()
}
