//! Rules over stored rows: errors, slow records, sources that store nothing.
//!
//! Counts come from the statistics, whose unit is the minute: a window begins with its first
//! minute, so that nothing falls between two checks. What the statistics do not know (loggers,
//! the level of slow records) is counted row by row, and only until there is one too many.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::finding::Finding;
use super::text::{SAMPLES_MAX, ms, number};
use crate::config::{Alerts, Rule, RuleKind};
use crate::duration::{Durations, Rung};
use crate::query::Filter;
use crate::query::filter::{FieldIs, Name};
use crate::record::Level;
use crate::stores::{
    CountKey, DurationKey, LogReader, MinuteDurations, RowQuery, StoreError, StoredRow,
};

const MINUTE_MS: i64 = 60_000;
/// Rows that are read at once where each has to be looked at.
const PAGE_ROWS: usize = 4000;
/// How long all rules together may look at single rows.
const ROWS_WAIT: Duration = Duration::from_millis(600);

/// The rule over all errors, as if it had a section of its own.
#[must_use]
pub fn errors_rule(alerts: &Alerts) -> Rule {
    Rule {
        name: "errors".to_owned(),
        kind: RuleKind::Errors,
        source: String::new(),
        level: String::new(),
        logger: String::new(),
        host: String::new(),
        per: alerts.errors.per,
        above: alerts.errors.above,
        slow: Rung::ANY,
    }
}

/// What these rules find.
pub async fn look(reader: &dyn LogReader, rules: &[Rule], host: &str, now_ms: i64) -> Vec<Finding> {
    let statistics = match Statistics::read(reader, rules, now_ms).await {
        Ok(statistics) => statistics,
        Err(error) => {
            let unknown = |rule: &Rule| Finding::unknown(&rule.name, &error.to_string());
            return rules.iter().map(unknown).collect();
        }
    };
    let counts = &statistics.counts;
    let end = Instant::now() + ROWS_WAIT;
    let mut by_row = rules.iter().filter(|rule| is_slow(rule) || needs_rows(rule)).count();
    let mut findings = Vec::new();
    for rule in rules {
        let mut part = || {
            let left = end.saturating_duration_since(Instant::now());
            let part = left / u32::try_from(by_row).unwrap_or(1).max(1);
            by_row = by_row.saturating_sub(1);
            Instant::now() + part
        };
        let found = match filter(rule, host, now_ms) {
            Err(detail) => Ok(Finding::unknown(&rule.name, &detail)),
            Ok(filter) if rule.kind == RuleKind::Silent => Ok(silent(rule, &filter, counts)),
            Ok(filter) if needs_rows(rule) => row_by_row(reader, rule, &filter, part()).await,
            Ok(filter) if is_slow(rule) => {
                slow(reader, rule, &filter, &statistics.durations, part()).await
            }
            Ok(filter) => counted(reader, rule, &filter, counts).await,
        };
        findings
            .push(found.unwrap_or_else(|error| Finding::unknown(&rule.name, &error.to_string())));
    }
    findings
}

/// What the store knows without a look at a row.
struct Statistics {
    counts: Vec<(CountKey, u64)>,
    durations: Vec<(DurationKey, MinuteDurations)>,
}

impl Statistics {
    async fn read(reader: &dyn LogReader, rules: &[Rule], now_ms: i64) -> Result<Self, StoreError> {
        let first =
            |rules: &mut dyn Iterator<Item = &Rule>| rules.map(|rule| since(rule, now_ms)).min();
        let end = now_ms + MINUTE_MS;
        let counts = reader.counts(first(&mut rules.iter()).unwrap_or(now_ms), end).await?;
        let durations = match first(&mut rules.iter().filter(|rule| is_slow(rule))) {
            Some(since) => reader.durations(since, end).await?,
            None => Vec::new(),
        };
        Ok(Self { counts, durations })
    }
}

const fn is_slow(rule: &Rule) -> bool {
    matches!(rule.kind, RuleKind::Slow)
}

const fn needs_rows(rule: &Rule) -> bool {
    !rule.logger.is_empty() || is_slow(rule) && !rule.level.is_empty()
}

/// The beginning of the minute in which the window begins.
fn since(rule: &Rule, now_ms: i64) -> i64 {
    let since = now_ms.saturating_sub(ms(rule.per));
    since - since.rem_euclid(MINUTE_MS)
}

fn filter(rule: &Rule, host: &str, now_ms: i64) -> Result<Filter, String> {
    let names = |name: &str| {
        let named = Some(name).filter(|name| !name.is_empty());
        named.map(Name::new).transpose().map(|name| name.into_iter().collect::<Vec<_>>())
    };
    let said = |error: crate::query::FilterError| error.to_string();
    let levels = match Level::from_name(&rule.level) {
        Some(level) if !rule.level.is_empty() => vec![level],
        _ if rule.kind == RuleKind::Errors => vec![Level::Error, Level::Critical],
        _ => Vec::new(),
    };
    let hosts = match rule.host.as_str() {
        "" => vec![Name::Plain(host.to_owned())],
        "*" => Vec::new(),
        name => names(name).map_err(said)?,
    };
    let field = |value: &String| FieldIs { field: "logger".into(), values: vec![value.clone()] };
    let musts = Some(&rule.logger).filter(|logger| !logger.is_empty()).map(field);
    Ok(Filter {
        since_ms: Some(since(rule, now_ms)),
        sources: names(&rule.source).map_err(said)?,
        hosts,
        levels,
        min_duration_ms: is_slow(rule).then(|| f64::from(rule.slow.ms())),
        musts: musts.into_iter().collect(),
        ..Filter::default()
    })
}

/// Rows of the statistics by source, the most first.
fn by_source<'a>(filter: &Filter, counts: &'a [(CountKey, u64)]) -> Vec<(&'a str, u64)> {
    let first = filter.since_ms.unwrap_or(i64::MIN).div_euclid(MINUTE_MS);
    let mut sums = BTreeMap::new();
    for (key, rows) in counts {
        let fits = key.minute >= first
            && filter.wants_table(key.table)
            && filter.wants_source(&key.source)
            && filter.wants_host(&key.host)
            && filter.wants_level(key.level);
        if fits {
            *sums.entry(key.source.as_str()).or_insert(0_u64) += rows;
        }
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
    sums
}

fn silent(rule: &Rule, filter: &Filter, counts: &[(CountKey, u64)]) -> Finding {
    let rows: u64 = by_source(filter, counts).iter().map(|(_, rows)| rows).sum();
    let per = super::text::ago(ms(rule.per));
    let detail = match rows {
        0 => format!("{} has stored nothing for {per}", rule.source),
        rows => format!("{rows} rows of {} in {per}", rule.source),
    };
    Finding::judge(&rule.name, rows == 0, &detail).with(number(rows))
}

fn what(rule: &Rule) -> String {
    let level = if rule.level.is_empty() { "errors" } else { &rule.level };
    let mut what = match rule.kind {
        RuleKind::Slow => format!("records that took {} ms or longer", rule.slow.ms()),
        _ if rule.level.is_empty() => level.to_owned(),
        _ => format!("{level} rows"),
    };
    if !rule.logger.is_empty() {
        let _ = write!(what, " of logger {}", rule.logger);
    }
    what + &format!(" in {}, above {} is too many", super::text::ago(ms(rule.per)), rule.above)
}

/// What the sums by source come to, and whether that is too much.
fn judge(rule: &Rule, sums: &[(&str, u64)]) -> (Finding, bool) {
    let rows: u64 = sums.iter().map(|(_, rows)| rows).sum();
    let wrong = rows > rule.above;
    let mut detail = format!("{rows} {}", what(rule));
    if wrong {
        let most = sums.iter().take(3).map(|(source, rows)| format!("{source} {rows}"));
        let _ = write!(detail, "; {}", most.collect::<Vec<_>>().join(", "));
    }
    (Finding::judge(&rule.name, wrong, &detail).with(number(rows)), wrong)
}

/// Slow records by the statistics; of a trouble some are shown, as far as they are found in time.
async fn slow(
    reader: &dyn LogReader,
    rule: &Rule,
    filter: &Filter,
    durations: &[(DurationKey, MinuteDurations)],
    end: Instant,
) -> Result<Finding, StoreError> {
    let first = filter.since_ms.unwrap_or(i64::MIN).div_euclid(MINUTE_MS);
    let mut by_source: BTreeMap<&str, Durations> = BTreeMap::new();
    let mut unknown = 0_u64;
    for (key, of_minute) in durations {
        let fits = key.minute >= first
            && filter.wants_table(key.table)
            && filter.wants_source(&key.source)
            && filter.wants_host(&key.host);
        if fits {
            by_source.entry(&key.source).or_default().merge(&of_minute.counted);
            unknown = unknown.saturating_add(of_minute.unknown);
        }
    }
    let sums = by_source.into_iter().map(|(source, rows)| (source, rows.at_least(rule.slow)));
    let mut sums: Vec<_> = sums.filter(|(_, rows)| *rows > 0).collect();
    sums.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
    let (finding, wrong) = judge(rule, &sums);
    if !wrong && unknown > 0 {
        let detail = format!(
            "{}; of {unknown} rows more it is not known: an older version has stored them",
            finding.detail
        );
        let value = finding.value.unwrap_or_default();
        return Ok(Finding::unknown(&rule.name, &detail).with(value));
    }
    let mut found = Found::default();
    if wrong && let Some(query) = filter.query(reader).await? {
        let query = RowQuery { newest_first: true, limit: PAGE_ROWS, ..query };
        found.search(reader, query, filter, SAMPLES_MAX as u64 - 1, end).await?;
    }
    Ok(finding.showing(found.samples.iter().map(String::as_str)))
}

/// By the statistics; of a trouble the newest rows are shown.
async fn counted(
    reader: &dyn LogReader,
    rule: &Rule,
    filter: &Filter,
    counts: &[(CountKey, u64)],
) -> Result<Finding, StoreError> {
    let (finding, wrong) = judge(rule, &by_source(filter, counts));
    if !wrong {
        return Ok(finding);
    }
    let Some(mut query) = filter.query(reader).await? else { return Ok(finding) };
    query.newest_first = true;
    query.limit = SAMPLES_MAX;
    let page = reader.rows(&query).await?;
    Ok(finding.showing(page.rows.iter().map(sample).collect::<Vec<_>>().iter().map(String::as_str)))
}

fn sample(row: &StoredRow) -> String {
    // what is beyond is cut off anyhow, and a row may be long
    let head: String = row.message.chars().take(super::text::SAMPLE_MAX).collect();
    format!("{}: {head}", row.source)
}

/// Row by row from the newest on, until there is one too many, or no time is left.
async fn row_by_row(
    reader: &dyn LogReader,
    rule: &Rule,
    filter: &Filter,
    end: Instant,
) -> Result<Finding, StoreError> {
    let mut found = Found::default();
    if let Some(query) = filter.query(reader).await? {
        let query = RowQuery { newest_first: true, limit: PAGE_ROWS, ..query };
        found.search(reader, query, filter, rule.above, end).await?;
    }
    let Found { rows, looked, samples, all } = &found;
    let wrong = *rows > rule.above;
    let at_least = if wrong { "at least " } else { "" };
    let detail = format!("{at_least}{rows} {}", what(rule));
    let finding = if wrong || *all {
        Finding::judge(&rule.name, wrong, &detail).showing(samples.iter().map(String::as_str))
    } else {
        let more = format!(
            "{detail}; only the newest {looked} rows were looked at: name a source or a level, or make `per` shorter"
        );
        Finding::unknown(&rule.name, &more)
    };
    Ok(finding.with(number(*rows)))
}

#[derive(Default)]
struct Found {
    rows: u64,
    looked: usize,
    samples: Vec<String>,
    /// There are no more rows than those that were looked at.
    all: bool,
}

impl Found {
    async fn search(
        &mut self,
        reader: &dyn LogReader,
        mut query: RowQuery,
        filter: &Filter,
        above: u64,
        end: Instant,
    ) -> Result<(), StoreError> {
        loop {
            let page = reader.rows(&query).await?;
            self.looked += page.rows.len();
            for row in page.rows.iter().filter(|row| filter.fits(row)) {
                self.rows += 1;
                if self.samples.len() < SAMPLES_MAX {
                    self.samples.push(sample(row));
                }
                if self.rows > above {
                    return Ok(());
                }
            }
            match page.rows.last() {
                Some(last) if !page.exhausted => query.after = Some(last.key),
                _ => {
                    self.all = true;
                    return Ok(());
                }
            }
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }
}
