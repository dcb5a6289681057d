//! What the logs say before and after a deployment. Errors and 5xx answers come from the
//! statistics of the log store, which know each row; slow records are not in them, and are looked
//! for row by row, up to a limit.

use std::collections::BTreeMap;

use serde::Serialize;

use super::events::Deployment;
use crate::key::Table;
use crate::query::filter::Name;
use crate::query::{Asked, Filter, Lines, QueryError, run};
use crate::record::Level;
use crate::stores::{CountKey, LogReader};

const MINUTE_MS: i64 = 60_000;

/// Rows that are read on each side to find slow ones.
pub const SCANNED_MAX: usize = 50_000;

/// A share that has at least doubled is worth a look…
const STEP: f64 = 2.0;

/// …if there are so many more rows than before would have given: a few may be chance.
const MORE_MIN: f64 = 10.0;

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// Minutes on each side.
    pub minutes: u32,
    /// Rows that took at least so long are slow, in milliseconds.
    pub slow_ms: f64,
    /// Sources and hosts whose rows are looked at; empty for all.
    pub sources: Vec<Name>,
    /// Hosts; empty for all.
    pub hosts: Vec<Name>,
    /// Sources of the format `nginx/access`: its errors are the answers of 500 and above.
    pub access: Vec<String>,
    /// Rows that are read on each side to find slow ones.
    pub scanned_max: usize,
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
    /// Slow rows among those that were read.
    pub slow: Share,
    /// There were more rows than may be read: `slow` speaks of the newest ones.
    pub slow_cut: bool,
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
    /// Rows that took at least so long are slow.
    pub slow_ms: f64,
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
        slow_ms: question.slow_ms,
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
    let counts =
        if since_ms < until_ms { reader.counts(since_ms, until_ms).await? } else { Vec::new() };
    let (mut errors, mut all, mut server_errors, mut answers) = (0, 0, 0, 0);
    let mut errors_by_source: BTreeMap<String, u64> = BTreeMap::new();
    for (key, rows) in counts.iter().filter(|(key, _)| wanted(&filter, key)) {
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
    let (slow, slow_cut) = slow(reader, &filter, question).await?;
    Ok(Side {
        since_ms,
        until_ms,
        errors: Share::new(errors, all),
        server_errors: Share::new(server_errors, answers),
        slow,
        slow_cut,
        errors_by_source,
    })
}

fn wanted(filter: &Filter, key: &CountKey) -> bool {
    key.table != Table::Events && filter.wants_source(&key.source) && filter.wants_host(&key.host)
}

/// Slow rows among the newest ones, and whether there were more than may be read.
async fn slow(
    reader: &dyn LogReader,
    filter: &Filter,
    question: &Question,
) -> Result<(Share, bool), QueryError> {
    if filter.since_ms >= filter.until_ms {
        return Ok((Share::new(0, 0), false));
    }
    let slow = Filter { min_duration_ms: Some(question.slow_ms), ..filter.clone() };
    let lines = Lines::Newest(question.scanned_max.saturating_add(1));
    let asked = Asked { filter: filter.clone(), lines, reverse: true, from: None };
    let (mut found, mut read) = (0, 0);
    let most = u64::try_from(question.scanned_max).unwrap_or(u64::MAX);
    let mut cut = false;
    run(reader, &asked, &mut |row| {
        if read == most {
            cut = true;
        } else {
            read += 1;
            found += u64::from(slow.fits(row));
        }
        Ok(())
    })
    .await?;
    Ok((Share::new(found, read), cut))
}
