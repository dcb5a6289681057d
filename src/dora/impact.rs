//! What the logs say before and after a deployment, from the statistics of the log store, which
//! know each row.

use std::collections::BTreeMap;

use serde::Serialize;

use super::events::Deployment;
use crate::duration::Rung;
use crate::key::Table;
use crate::query::filter::Name;
use crate::query::{Filter, QueryError};
use crate::record::Level;
use crate::stores::{LogReader, MinuteDurations};

const MINUTE_MS: i64 = 60_000;

/// A share that has at least doubled is worth a look…
const STEP: f64 = 2.0;

/// …if there are so many more rows than before would have given: a few may be chance.
const MORE_MIN: f64 = 10.0;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// Minutes on each side.
    pub minutes: u32,
    /// Rows that took at least so long are slow.
    pub slow: Rung,
    /// Sources and hosts whose rows are looked at; empty for all.
    pub sources: Vec<Name>,
    /// Hosts; empty for all.
    pub hosts: Vec<Name>,
    /// Sources of the format `nginx/access`: its errors are the answers of 500 and above.
    pub access: Vec<String>,
}

/// Rows of one kind among others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// Rows of the kind.
    pub rows: u64,
    /// Of so many.
    pub of: u64,
    /// The one by the other; nothing of nothing.
    pub share: Option<f64>,
}

/// One side of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// First moment, in milliseconds: a whole minute.
    pub since_ms: i64,
    /// First moment after it.
    pub until_ms: i64,
    /// Rows of level ERROR and CRITICAL.
    pub errors: Share,
    /// Answers of 500 and above among those of web servers.
    pub server_errors: Share,
    /// Slow rows among those that say how long something took.
    pub slow: Share,
    /// Rows that are not in `slow`, as the version that stored them did not count durations.
    pub slow_unknown: u64,
    /// Errors by source.
    pub errors_by_source: BTreeMap<String, u64>,
}

/// How a share moved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Step {
    /// What.
    pub what: &'static str,
    /// The share before.
    pub before: Option<f64>,
    /// The share after.
    pub after: Option<f64>,
    /// It has at least doubled, by more rows than a few.
    pub worse: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Impact {
    /// The deployment.
    pub deployment: String,
    /// Its service.
    pub service: String,
    /// Its version.
    pub version: String,
    /// When it was in production, in milliseconds.
    pub deployed_ms: i64,
    /// Rows that took at least so many milliseconds are slow.
    pub slow_ms: u32,
    /// The minutes before that of the deployment.
    pub before: Side,
    /// The minutes after it.
    pub after: Side,
    /// The minutes after it are not over; the answer is of those that are.
    pub unfinished: bool,
    /// How the shares moved.
    pub steps: [Step; 3],
    /// One of them is worse: did this change fail?
    pub suspect: bool,
}

/// Compares the minutes before a deployment with those after it. The minute of the deployment
/// itself belongs to neither.
///
/// # Errors
///
/// The log store's.
pub async fn impact(
    reader: &dyn LogReader,
    deployment: &Deployment,
    question: &Question,
    now_ms: i64,
) -> Result<Impact, QueryError> {
    let minute_ms = deployment.deployed_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
    let length_ms = i64::from(question.minutes) * MINUTE_MS;
    let after_ms = minute_ms + MINUTE_MS;
    let over_ms = now_ms.div_euclid(MINUTE_MS) * MINUTE_MS;
    let until_ms = (after_ms + length_ms).min(over_ms.max(after_ms));
    let before = side(reader, question, minute_ms - length_ms, minute_ms).await?;
    let after = side(reader, question, after_ms, until_ms).await?;
    let steps = [
        step("errors", before.errors, after.errors),
        step("server_errors", before.server_errors, after.server_errors),
        step("slow", before.slow, after.slow),
    ];
    Ok(Impact {
        deployment: deployment.id.clone(),
        service: deployment.service.clone(),
        version: deployment.version.clone(),
        deployed_ms: deployment.deployed_ms,
        slow_ms: question.slow.ms(),
        unfinished: until_ms < after_ms + length_ms,
        suspect: steps.iter().any(|step| step.worse),
        before,
        after,
        steps,
    })
}

impl Share {
    fn new(rows: u64, of: u64) -> Self {
        Self { rows, of, share: (of > 0).then(|| float(rows) / float(of)) }
    }
}

#[allow(clippy::cast_precision_loss, reason = "exact below 2^53 rows")]
const fn float(rows: u64) -> f64 {
    rows as f64
}

fn step(what: &'static str, before: Share, after: Share) -> Step {
    let (was, is) = (before.share, after.share);
    let worse = match (was, is) {
        (Some(was), Some(is)) => {
            is >= was * STEP && float(after.rows) - was * float(after.of) >= MORE_MIN
        }
        _ => false,
    };
    Step { what, before: was, after: is, worse }
}

async fn side(
    reader: &dyn LogReader,
    question: &Question,
    since_ms: i64,
    until_ms: i64,
) -> Result<Side, QueryError> {
    let filter = Filter {
        since_ms: Some(since_ms),
        until_ms: Some(until_ms),
        sources: question.sources.clone(),
        hosts: question.hosts.clone(),
        ..Filter::default()
    };
    let some = since_ms < until_ms;
    let counts = if some { reader.counts(since_ms, until_ms).await? } else { Vec::new() };
    let durations = if some { reader.durations(since_ms, until_ms).await? } else { Vec::new() };
    let (mut errors, mut all, mut server_errors, mut answers) = (0, 0, 0, 0);
    let mut errors_by_source: BTreeMap<String, u64> = BTreeMap::new();
    let wanted = |table: Table, source: &str, host: &str| {
        table != Table::Events && filter.wants_source(source) && filter.wants_host(host)
    };
    let counts = counts.iter().filter(|(key, _)| wanted(key.table, &key.source, &key.host));
    for (key, rows) in counts {
        let is_error = matches!(key.level, Level::Error | Level::Critical);
        let is_answer = question.access.contains(&key.source);
        all += rows;
        answers += if is_answer { *rows } else { 0 };
        if is_error {
            errors += rows;
            server_errors += if is_answer { *rows } else { 0 };
            *errors_by_source.entry(key.source.clone()).or_default() += rows;
        }
    }
    let mut took = MinuteDurations::default();
    for (key, durations) in &durations {
        if wanted(key.table, &key.source, &key.host) {
            took.merge(durations);
        }
    }
    Ok(Side {
        since_ms,
        until_ms,
        errors: Share::new(errors, all),
        server_errors: Share::new(server_errors, answers),
        slow: Share::new(took.counted.at_least(question.slow), took.counted.at_least(Rung::ANY)),
        slow_unknown: took.unknown,
        errors_by_source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_needs_twice_the_share_and_ten_rows_more() {
        for (before, after, worse) in [
            // 1 % to 2 % of 1000: 10 more
            ((10, 1000), (20, 1000), true),
            ((10, 1000), (19, 1000), false),
            // twice the share, but only 5 more
            ((5, 1000), (10, 1000), false),
            // ten times the rows of ten times the traffic
            ((10, 1000), (100, 10_000), false),
            ((0, 1000), (10, 1000), true),
            ((0, 1000), (0, 1000), false),
            ((40, 1000), (10, 1000), false),
            ((0, 0), (50, 1000), false),
            ((10, 1000), (0, 0), false),
        ] {
            let share = |(rows, of): (u64, u64)| Share::new(rows, of);
            assert_eq!(step("x", share(before), share(after)).worse, worse, "{before:?} {after:?}");
        }
    }
}
