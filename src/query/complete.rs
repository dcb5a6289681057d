//! Says until when an answer is complete: from the watermarks, and from what is known to be lost.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::time::spoken;
use super::{Filter, QueryError};
use crate::ledger::{LossReceipt, Watermark};
use crate::stores::LogReader;

/// Watermarks are written every few seconds: a host that is this young is not behind.
const FRESH_MS: i64 = 15_000;

/// Hosts and losses that are named; more are counted.
const NAMED_MAX: usize = 3;

/// How complete an answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completeness {
    /// One line for a person.
    pub line: String,
    /// All hosts are complete for the time asked for, and nothing in it is known to be lost.
    pub complete: bool,
}

/// How complete an answer for `filter` is at `now_ms`.
///
/// # Errors
///
/// The store's.
pub async fn completeness(
    reader: &dyn LogReader,
    filter: &Filter,
    now_ms: i64,
    zone: &TimeZone,
) -> Result<Completeness, QueryError> {
    let mut watermarks = reader.watermarks().await?;
    watermarks.retain(|mark| filter.wants_source(&mark.source) && filter.wants_host(&mark.host));
    let mut receipts = reader.receipts().await?;
    receipts.retain(|receipt| {
        // when it happened is not known, only when it was noticed: later than that range or in it
        filter.wants_source(&receipt.source)
            && filter.wants_host(&receipt.host)
            && filter.since_ms.is_none_or(|since| receipt.noticed_ms >= since)
    });
    Ok(judge(&watermarks, &receipts, filter.until_ms, now_ms, zone))
}

fn judge(
    watermarks: &[Watermark],
    receipts: &[LossReceipt],
    until_ms: Option<i64>,
    now_ms: i64,
    zone: &TimeZone,
) -> Completeness {
    let mut hosts: BTreeMap<&str, i64> = BTreeMap::new();
    for mark in watermarks {
        let seen = hosts.entry(&mark.host).or_insert(mark.seen_ms);
        *seen = (*seen).min(mark.seen_ms);
    }
    // a question about the past is answered once everything up to its end is there
    let past = until_ms.filter(|until| *until <= now_ms - FRESH_MS);
    let target = past.unwrap_or(now_ms - FRESH_MS);
    let mut behind: Vec<(&str, i64)> = hosts
        .iter()
        .filter(|(_, seen)| **seen < target)
        .map(|(host, seen)| (*host, *seen))
        .collect();
    behind.sort_by_key(|(_, seen)| *seen);
    let (all, whole) = (hosts.len(), hosts.len() - behind.len());
    let until = match past {
        Some(until) => Some(until),
        None => hosts.values().filter(|seen| **seen >= target).min().copied(),
    };
    let mut line = match until.or_else(|| hosts.values().min().copied()) {
        _ if all == 0 => "how complete this is cannot be said: no watermark yet".to_owned(),
        Some(until) => {
            let plural = if all == 1 { "" } else { "s" };
            format!(
                "complete until {} on {whole} of {all} host{plural}",
                clock(until, now_ms, zone)
            )
        }
        None => String::new(),
    };
    for (host, seen) in behind.iter().take(NAMED_MAX) {
        let host = super::output::escape::line(host);
        let _ = write!(line, "; {host} {} behind", spoken(now_ms.saturating_sub(*seen)));
    }
    if behind.len() > NAMED_MAX {
        let _ = write!(line, "; {} more behind", behind.len() - NAMED_MAX);
    }
    for receipt in receipts.iter().take(NAMED_MAX) {
        let _ = write!(line, "; {}", loss(receipt));
    }
    if receipts.len() > NAMED_MAX {
        let more = receipts.len() - NAMED_MAX;
        let _ = write!(line, "; {more} more losses (bitacora audit)");
    }
    let complete = all > 0 && behind.is_empty() && receipts.is_empty();
    Completeness { line, complete }
}

/// The time of day, with the day where that is not today.
fn clock(at_ms: i64, now_ms: i64, zone: &TimeZone) -> String {
    let zoned = |ms| Timestamp::from_millisecond(ms).unwrap_or_default().to_zoned(zone.clone());
    let at = zoned(at_ms);
    let format = if at.date() == zoned(now_ms).date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" };
    at.strftime(format).to_string()
}

fn loss(receipt: &LossReceipt) -> String {
    let bytes = receipt.end_bytes.map_or_else(
        || "an unknown number of bytes".to_owned(),
        |end| format!("{} bytes", end.saturating_sub(receipt.start_bytes)),
    );
    let path = super::output::escape::line(&receipt.path.to_string_lossy()).into_owned();
    format!("lost {bytes} of {path} on {} ({})", receipt.host, receipt.cause.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Cause;

    /// 2026-11-22 12:03:52 UTC.
    const NOW: i64 = 1_795_349_032_000;

    fn mark(host: &str, source: &str, ago_s: i64) -> Watermark {
        Watermark {
            source: source.into(),
            host: host.into(),
            seen_ms: NOW - ago_s * 1000,
            written_ms: NOW,
            behind_bytes: 0,
        }
    }

    fn told(marks: &[Watermark], receipts: &[LossReceipt], until: Option<i64>) -> (String, bool) {
        let told = judge(marks, receipts, until, NOW, &TimeZone::UTC);
        (told.line, told.complete)
    }

    #[test]
    fn a_host_that_is_behind_is_named_with_its_age() {
        let marks = [mark("web1", "nginx/access", 2), mark("web3", "syslog", 41)];
        let expected = "complete until 12:03:50 on 1 of 2 hosts; web3 41 s behind";
        assert_eq!(told(&marks, &[], None), (expected.into(), false));
        let expected = "complete until 12:03:50 on 1 of 1 host";
        assert_eq!(told(&marks[..1], &[], None), (expected.into(), true));
    }

    #[test]
    fn a_host_is_as_old_as_its_oldest_source() {
        let marks = [mark("web1", "nginx/access", 2), mark("web1", "syslog", 7200)];
        let expected = "complete until 10:03:52 on 0 of 1 host; web1 2 h behind";
        assert_eq!(told(&marks, &[], None), (expected.into(), false));
    }

    #[test]
    fn a_question_about_the_past_is_complete_although_the_host_is_silent_now() {
        let until = NOW - 3 * 3_600_000;
        let marks = [mark("web1", "syslog", 7200)];
        let expected = "complete until 09:03:52 on 1 of 1 host";
        assert_eq!(told(&marks, &[], Some(until)), (expected.into(), true));
        assert!(!told(&marks, &[], Some(NOW - 3_600_000)).1);
    }

    #[test]
    fn a_loss_is_said_and_the_answer_is_not_complete() {
        let receipt = LossReceipt {
            origin: 1,
            start_bytes: 100,
            end_bytes: Some(3220),
            cause: Cause::Truncated,
            source: "syslog".into(),
            host: "db1".into(),
            path: "/var/log/\u{1b}[31msyslog".into(),
            noticed_ms: NOW,
            detail: String::new(),
        };
        let (line, complete) = told(&[mark("db1", "syslog", 1)], &[receipt], None);
        assert_eq!(
            line,
            "complete until 12:03:51 on 1 of 1 host; \
             lost 3120 bytes of /var/log/\\x1b[31msyslog on db1 (truncated)"
        );
        assert!(!complete);
    }

    #[test]
    fn without_watermarks_nothing_is_claimed() {
        let (line, complete) = told(&[], &[], None);
        assert!(line.starts_with("how complete this is cannot be said"), "{line}");
        assert!(!complete);
    }
}
