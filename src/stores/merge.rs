//! Spans that have ended become one: a span whose rows all have expired says so under a reason,
//! and its neighbours need not say it again. Bytes, lines and checksums stay, so that the file is
//! known as before.

use super::expired::Expired;
use crate::crc;
use crate::duration::DurationCounts;
use crate::ledger::{MinuteCounts, Reason, Span, StoredOrigin};

/// A span that takes the place of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The span.
    pub span: Span,
    /// How many there were: all that began in its bytes.
    pub spans: u64,
}

/// Whether none of a span's rows is left at `now_ms`.
#[must_use]
pub fn has_ended(span: &Span, expired: &Expired, now_ms: i64) -> bool {
    let ttl_ms = span.ttl_s.map(|ttl_s| ttl_s.saturating_mul(1000));
    ttl_ms.is_some_and(|ttl_ms| span.last_write_ms.saturating_add(ttl_ms) <= now_ms)
        || expired.rows_of(span) == span.rows
}

/// The runs of spans of an origin that can become one each: closed, ended, written before
/// `settled_ms`, with one table and source, and without a context that begins between them.
/// Never the last span of an origin: the daemon goes on from there, and writes it once more.
#[must_use]
pub fn runs(stored: &StoredOrigin, expired: &Expired, now_ms: i64, settled_ms: i64) -> Vec<Merged> {
    let mut spans: Vec<&Span> = stored.spans.iter().collect();
    spans.sort_by_key(|span| span.start_bytes);
    spans.pop();
    let begins_context = |at: u64| stored.contexts.iter().any(|context| context.from_bytes == at);
    let mut merged: Vec<Merged> = Vec::new();
    let mut open = false;
    for span in spans {
        let ended =
            span.closed && span.last_write_ms < settled_ms && has_ended(span, expired, now_ms);
        let joins = merged.last().is_some_and(|run| {
            open && run.span.end_bytes == span.start_bytes
                && (run.span.table, &run.span.source, run.span.ttl_s)
                    == (span.table, &span.source, span.ttl_s)
                && !begins_context(span.start_bytes)
        });
        match merged.last_mut() {
            Some(run) if ended && joins => join(run, span),
            _ if ended => merged.push(alone(span)),
            _ => {}
        }
        open = ended;
    }
    // a span that already says it all, and has no neighbour, stays as it is
    merged.retain(|run| run.spans > 1 || stored.spans.iter().all(|span| *span != run.span));
    merged
}

fn alone(span: &Span) -> Merged {
    let mut ended = span.clone();
    ended.reasons.add(Reason::Expired, span.rows);
    ended.rows = 0;
    ended.minutes = MinuteCounts::new();
    ended.durations = ended.durations.map(|_| DurationCounts::new());
    Merged { span: ended, spans: 1 }
}

fn join(run: &mut Merged, span: &Span) {
    let Merged { span: into, spans } = run;
    let next = alone(span).span;
    into.crc = crc::combine(into.crc, next.crc, next.end_bytes - next.start_bytes);
    into.end_bytes = next.end_bytes;
    into.lines += next.lines;
    into.reasons.merge(&next.reasons);
    into.running_ms = next.running_ms.or(into.running_ms);
    into.marker = next.marker;
    into.markers = next.markers;
    into.carried = next.carried;
    into.first_write_ms = into.first_write_ms.min(next.first_write_ms);
    into.last_write_ms = into.last_write_ms.max(next.last_write_ms);
    *spans += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{DAY_MS, Table};
    use crate::ledger::{Context, Encoding, KernelIdentity, OriginRecord, Reasons};
    use crate::record::Level;
    use crate::stores::expired::Tombstone;

    const TEXT: &[u8] = b"one\ntwo\nthree\nfour\n";

    fn checksum(start: u64, end: u64) -> u64 {
        let bytes = &TEXT[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, bytes)
    }

    /// A closed span with two rows of a day and a blank line.
    fn span(start_bytes: u64, end_bytes: u64, day: i64) -> Span {
        let mut reasons = Reasons::default();
        reasons.add(Reason::Blank, 1);
        Span {
            origin: 7,
            start_bytes,
            end_bytes,
            rows: 2,
            lines: 3,
            reasons,
            minutes: [((day * 24 * 60, Level::Info), 2)].into(),
            durations: Some(DurationCounts::new()),
            running_ms: Some(day * DAY_MS),
            crc: checksum(start_bytes, end_bytes),
            marker: end_bytes,
            markers: Vec::new(),
            first_write_ms: day * DAY_MS,
            last_write_ms: day * DAY_MS + 5,
            ttl_s: None,
            closed: true,
            carried: Vec::new(),
            table: Table::Infrastructure,
            source: "web".to_owned(),
        }
    }

    fn stored(spans: &[Span], contexts: &[u64]) -> StoredOrigin {
        let record = OriginRecord {
            id: 7,
            machine: "m".to_owned(),
            host: "h".to_owned(),
            path: "/log".into(),
            kernel: KernelIdentity::default(),
            head_hash: 0,
            head_bytes: 0,
            first_offset: 0,
            born_ms: 0,
            encoding: Encoding::Plain,
        };
        let context = |from_bytes: &u64| Context {
            origin: 7,
            from_bytes: *from_bytes,
            source: "web".to_owned(),
            table: Table::Infrastructure,
            format: "syslog".to_owned(),
            options: std::collections::BTreeMap::default(),
            timezone: "UTC".to_owned(),
            anchor_ms: 0,
            max_line_bytes: 1,
            parser_version: 1,
        };
        let contexts = contexts.iter().map(context).collect();
        StoredOrigin { record, contexts, spans: spans.to_vec() }
    }

    /// The days up to this one have ended.
    fn ended(last: i32) -> Expired {
        let tombstone = |day| Tombstone {
            day,
            part: Some((Table::Infrastructure, "web".to_owned())),
            policy: String::new(),
            dropped_ms: 90 * DAY_MS,
        };
        (1..=last).map(tombstone).collect::<Vec<_>>().iter().collect()
    }

    fn spans() -> Vec<Span> {
        vec![span(0, 4, 1), span(4, 8, 2), span(8, 14, 3), span(14, 19, 4)]
    }

    const NOW: i64 = 100 * DAY_MS;

    #[test]
    fn a_run_becomes_one_span_of_the_same_bytes_and_lines() {
        let merged = runs(&stored(&spans(), &[0]), &ended(3), NOW, NOW);
        assert_eq!(merged.len(), 1);
        let Merged { span, spans } = &merged[0];
        assert_eq!((*spans, span.start_bytes, span.end_bytes), (3, 0, 14));
        assert_eq!(span.crc, checksum(0, 14));
        assert_eq!((span.rows, span.lines), (0, 9));
        assert_eq!(span.reasons.get(Reason::Expired), 6);
        assert_eq!(span.rows + span.reasons.total(), span.lines);
        assert_eq!((span.marker, span.running_ms), (14, Some(3 * DAY_MS)));
    }

    #[test]
    fn what_is_alive_open_lately_written_or_the_last_is_left_alone() {
        let of = |spans: &[Span], expired: &Expired, settled_ms| {
            let merged = runs(&stored(spans, &[0]), expired, NOW, settled_ms);
            merged.iter().map(|run| (run.span.start_bytes, run.spans)).collect::<Vec<_>>()
        };
        assert_eq!(of(&spans(), &ended(4), NOW), [(0, 3)], "not the last span");
        assert_eq!(of(&spans(), &Expired::default(), NOW), []);
        assert_eq!(of(&spans(), &ended(2), NOW), [(0, 2)]);
        assert_eq!(of(&spans(), &ended(4), 2 * DAY_MS), [(0, 1)], "written later");
        let mut open = spans();
        open[1].closed = false;
        assert_eq!(of(&open, &ended(4), NOW), [(0, 1), (8, 1)]);
        let mut other = spans();
        other[1].source = "other".to_owned();
        assert_eq!(of(&other, &ended(4), NOW), [(0, 1), (8, 1)], "its day has not ended");
        let mut gap = spans();
        gap.remove(1);
        assert_eq!(of(&gap, &ended(4), NOW), [(0, 1), (8, 1)], "a gap stays a gap");
    }

    #[test]
    fn a_context_keeps_its_boundary_and_nothing_is_merged_twice() {
        let of = |spans: &[Span]| runs(&stored(spans, &[0, 8]), &ended(4), NOW, NOW);
        let merged = of(&spans());
        let starts: Vec<_> = merged.iter().map(|run| (run.span.start_bytes, run.spans)).collect();
        assert_eq!(starts, [(0, 2), (8, 1)]);
        let mut after: Vec<Span> = merged.into_iter().map(|run| run.span).collect();
        after.push(span(14, 19, 4));
        assert_eq!(of(&after), []);
    }

    #[test]
    fn spans_end_by_their_time_to_live_too() {
        let mut spans = spans();
        for span in &mut spans {
            span.ttl_s = Some(86_400);
        }
        let merged = runs(&stored(&spans, &[0]), &Expired::default(), 4 * DAY_MS, NOW);
        let found: Vec<_> = merged.iter().map(|run| (run.span.start_bytes, run.spans)).collect();
        // written on day 3 and 5 ms: it lives five milliseconds more
        assert_eq!(found, [(0, 2)]);
        assert_eq!(merged[0].span.ttl_s, Some(86_400));
    }
}
