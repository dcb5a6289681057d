//! Spans that have ended become one: a span whose rows all have expired says so under a reason,
//! and its neighbours need not say it again. Bytes, lines and checksums stay, so that the file is
//! known as before.

use super::expired::Expired;
use crate::crc;
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
