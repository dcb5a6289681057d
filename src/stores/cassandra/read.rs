//! The reading side: every partition of a range is asked at once with a small limit.
//!
//! Never `IN` with `ORDER BY` (it ran a server out of memory) and never ALLOW FILTERING. Which
//! days and sources there are comes from `log_stats`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use scylla::client::session::Session;
use scylla::policies::retry::DefaultRetryPolicy;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlDate, CqlTimestamp};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::layout::day_of_cql;
use super::rows::cql_date;
use super::scan::{Scan, StatementsOfTable};
use super::spans::counts_of;
use super::stored::{ApplicationRow, InfrastructureRow, accepts, columns};
use super::{CassandraStore, Link, all_rows, at_once, origins, page};
use crate::key::{Partition, RowKey, Table};
use crate::ledger::{DeadLetter, LossReceipt, StoredOrigin, Watermark};
use crate::stores::{Answer, CountKey, KeyVisitor, LogReader, Page, RowQuery, StoreError};

/// How long a list of days or sources holds: `logs -f` asks every moment.
const FRESH_MS: u64 = 2000;
/// Into how many ranges of tokens a full scan is cut, and how many are read at once.
const RANGES: i64 = 64;
const RANGES_AT_ONCE: usize = 4;

/// What is prepared for reading.
pub(super) struct Statements {
    pub(super) infrastructure: StatementsOfTable,
    pub(super) application: StatementsOfTable,
    by_request: PreparedStatement,
    hours: PreparedStatement,
    next_source: PreparedStatement,
    stats: PreparedStatement,
}

/// Prepares a statement for people: the driver may ask another node.
pub(super) async fn prepare_read(
    session: &Session,
    text: String,
) -> Result<PreparedStatement, StoreError> {
    let mut statement = super::prepare(session, text).await?;
    statement.set_retry_policy(Some(Arc::new(DefaultRetryPolicy::new())));
    Ok(statement)
}

impl Statements {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let stats = format!("FROM {keyspace}.log_stats");
        Ok(Self {
            infrastructure: StatementsOfTable::prepare(session, keyspace, Table::Infrastructure)
                .await?,
            application: StatementsOfTable::prepare(session, keyspace, Table::Application).await?,
            by_request: prepare_read(
                session,
                format!(
                    "SELECT {} FROM {keyspace}.application_logs WHERE request_id = ?",
                    columns(Table::Application)
                ),
            )
            .await?,
            hours: prepare_read(session, format!("SELECT DISTINCT log_date, hour {stats}")).await?,
            next_source: prepare_read(
                session,
                format!(
                    "SELECT source {stats} WHERE log_date = ? AND hour = ? AND source > ? LIMIT 1"
                ),
            )
            .await?,
            stats: prepare_read(
                session,
                format!(
                    "SELECT source, origin, host, counts {stats} WHERE log_date = ? AND hour = ?"
                ),
            )
            .await?,
        })
    }

    pub(super) fn of(&self, table: Table) -> &StatementsOfTable {
        match table {
            Table::Infrastructure => &self.infrastructure,
            Table::Application => &self.application,
        }
    }

    /// Which of these keys have a row.
    pub(super) async fn present(
        &self,
        session: &Arc<Session>,
        rows: &[(Partition, RowKey)],
    ) -> Result<Vec<bool>, StoreError> {
        let jobs = rows.iter().enumerate().map(|(index, (partition, key))| {
            let (session, partition, key) = (Arc::clone(session), partition.clone(), *key);
            let statement = self.of(partition.table).present.clone();
            async move {
                let values = (
                    CqlDate(cql_date(partition.day)),
                    &*partition.source,
                    partition.bucket,
                    CqlTimestamp(key.timestamp_ms),
                    key.origin,
                    key.offset_bytes,
                );
                let found: Vec<(i64,)> =
                    all_rows(&session, &statement, values, PagingState::start()).await?;
                Ok((index, !found.is_empty()))
            }
        });
        let mut present = vec![false; rows.len()];
        at_once(jobs.collect::<Vec<_>>(), |(index, is_there)| {
            if let Some(slot) = present.get_mut(index) {
                *slot = is_there;
            }
            true
        })
        .await?;
        Ok(present)
    }
}

/// Lists that are asked for again and again: days with their hours, and the sources of a day.
#[derive(Default)]
pub(super) struct Days {
    all: Mutex<Option<(u64, Hours)>>,
    sources: Mutex<HashMap<i32, (u64, Sources)>>,
}

type Hours = Arc<BTreeMap<i32, Vec<i8>>>;
type Sources = Arc<BTreeSet<String>>;

impl CassandraStore {
    /// The days that have statistics, with their hours.
    pub(super) async fn hours(&self, link: &Link) -> Result<Hours, StoreError> {
        let now = self.now_ms();
        {
            let kept = self.days.all.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, hours)) = kept.as_ref()
                && now.saturating_sub(*at) < FRESH_MS
            {
                return Ok(Arc::clone(hours));
            }
        }
        let rows: Vec<(CqlDate, i8)> =
            all_rows(&link.session, &link.reads.hours, (), PagingState::start()).await?;
        let mut days: BTreeMap<i32, Vec<i8>> = BTreeMap::new();
        for (date, hour) in rows {
            days.entry(day_of_cql(date)).or_default().push(hour);
        }
        let days = Arc::new(days);
        *self.days.all.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((now, Arc::clone(&days)));
        Ok(days)
    }

    /// The sources of a day: in each of its hours from one name to the next, so that no more
    /// rows are read than there are names.
    pub(super) async fn sources_of(
        &self,
        link: &Arc<Link>,
        day: i32,
        hours: &[i8],
    ) -> Result<Sources, StoreError> {
        let now = self.now_ms();
        {
            let kept = self.days.sources.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, sources)) = kept.get(&day)
                && now.saturating_sub(*at) < FRESH_MS
            {
                return Ok(Arc::clone(sources));
            }
        }
        let jobs = hours.iter().map(|&hour| names_of_hour(Arc::clone(link), day, hour));
        let mut sources = BTreeSet::new();
        at_once(jobs.collect::<Vec<_>>(), |names| {
            sources.extend(names);
            true
        })
        .await?;
        let sources = Arc::new(sources);
        let mut kept = self.days.sources.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (at, _)| now.saturating_sub(*at) < FRESH_MS);
        kept.insert(day, (now, Arc::clone(&sources)));
        Ok(sources)
    }

    async fn read_rows(&self, query: &RowQuery) -> Result<Page, StoreError> {
        let link = self.link().await?;
        if let Some(request) = query.request_id {
            return by_request(&link, query, request).await;
        }
        let layouts = self.layouts.load_full();
        Scan::new(self, &link, &layouts, query).run().await
    }

    async fn read_counts(
        &self,
        since_ms: i64,
        until_ms: i64,
    ) -> Result<Vec<(CountKey, u64)>, StoreError> {
        let link = self.link().await?;
        let (first, last) = (since_ms.div_euclid(60_000), (until_ms - 1).div_euclid(60_000));
        if until_ms <= since_ms {
            return Ok(Vec::new());
        }
        let hours = self.hours(&link).await?;
        let wanted =
            hours.iter().flat_map(|(&day, hours)| hours.iter().map(move |&hour| (day, hour)));
        let jobs = wanted
            .map(|(day, hour)| (day, hour, (i64::from(day) * 24 + i64::from(hour)) * 60))
            .filter(|(_, _, minute)| *minute <= last && minute + 59 >= first)
            .map(|(day, hour, minute)| {
                let link = Arc::clone(&link);
                async move { Ok((minute, stats_of_hour(&link, day, hour).await?)) }
            });
        let mut totals = Totals::default();
        at_once(jobs.collect::<Vec<_>>(), |(minute, rows)| {
            for row in rows {
                totals.add(minute, first..=last, row);
            }
            true
        })
        .await?;
        totals.finish(&link).await
    }
}

async fn names_of_hour(link: Arc<Link>, day: i32, hour: i8) -> Result<Vec<String>, StoreError> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let last = names.last().map_or("", String::as_str);
        let next: Vec<(String,)> = all_rows(
            &link.session,
            &link.reads.next_source,
            (CqlDate(cql_date(day)), hour, last),
            PagingState::start(),
        )
        .await?;
        match next.into_iter().next() {
            Some((name,)) => names.push(name),
            None => return Ok(names),
        }
    }
}

type StatsRow = (String, i64, Option<String>, Option<String>);

async fn stats_of_hour(link: &Link, day: i32, hour: i8) -> Result<Vec<StatsRow>, StoreError> {
    let values = (CqlDate(cql_date(day)), hour);
    all_rows(&link.session, &link.reads.stats, values, PagingState::start()).await
}

/// Sums by minute, source, level and host.
#[derive(Default)]
struct Totals {
    rows: HashMap<CountKey, u64>,
    /// Rows of statistics that were written before the host's name was known.
    nameless: Vec<(i64, CountKey, u64)>,
}

impl Totals {
    fn add(&mut self, hour: i64, wanted: std::ops::RangeInclusive<i64>, row: StatsRow) {
        let (source, origin, host, counts) = row;
        let Some(counts) = counts else { return };
        for (level, counts) in counts_of(&counts) {
            for (minute, count) in (hour..).zip(counts) {
                if count == 0 || !wanted.contains(&minute) {
                    continue;
                }
                let named = host.clone().unwrap_or_default();
                let key = CountKey { minute, source: source.clone(), level, host: named };
                if host.is_some() {
                    *self.rows.entry(key).or_default() += count;
                } else {
                    self.nameless.push((origin, key, count));
                }
            }
        }
    }

    async fn finish(mut self, link: &Link) -> Result<Vec<(CountKey, u64)>, StoreError> {
        if !self.nameless.is_empty() {
            let hosts = link.origins.hosts(&link.session).await?;
            for (origin, mut key, count) in self.nameless {
                key.host = hosts.get(&origin).cloned().unwrap_or_default();
                *self.rows.entry(key).or_default() += count;
            }
        }
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        rows.sort_unstable();
        Ok(rows)
    }
}

/// The rows of one request, by the index on `request_id`.
async fn by_request(link: &Link, query: &RowQuery, request: u128) -> Result<Page, StoreError> {
    if !query.tables.is_empty() && !query.tables.contains(&Table::Application) {
        return Ok(Page { rows: Vec::new(), exhausted: true });
    }
    let found: Vec<ApplicationRow> = all_rows(
        &link.session,
        &link.reads.by_request,
        (Uuid::from_u128(request),),
        PagingState::start(),
    )
    .await?;
    let mut rows: Vec<_> = found.into_iter().filter_map(ApplicationRow::stored).collect();
    rows.retain(|row| accepts(query, row));
    rows.sort_unstable_by_key(|row| row.key);
    if query.newest_first {
        rows.reverse();
    }
    let exhausted = rows.len() <= query.limit;
    rows.truncate(query.limit);
    Ok(Page { rows, exhausted })
}

impl LogReader for CassandraStore {
    fn rows<'a>(&'a self, query: &'a RowQuery) -> Answer<'a, Page> {
        Box::pin(async move { self.note(self.read_rows(query).await) })
    }

    fn counts<'a>(&'a self, since_ms: i64, until_ms: i64) -> Answer<'a, Vec<(CountKey, u64)>> {
        Box::pin(async move { self.note(self.read_counts(since_ms, until_ms).await) })
    }

    fn sources(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async move {
            let link = self.link().await?;
            let hours = self.hours(&link).await?;
            let jobs =
                hours.iter().flat_map(|(&day, hours)| hours.iter().map(move |&hour| (day, hour)));
            let jobs: Vec<_> =
                jobs.map(|(day, hour)| names_of_hour(Arc::clone(&link), day, hour)).collect();
            let mut sources = BTreeSet::new();
            at_once(jobs, |names| {
                sources.extend(names);
                true
            })
            .await?;
            Ok(sources.into_iter().collect())
        })
    }

    fn origins<'a>(&'a self, machine: Option<&'a str>) -> Answer<'a, Vec<StoredOrigin>> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(origins::all(&link, machine).await)
        })
    }

    fn visit_keys<'a>(&'a self, visitor: KeyVisitor<'a>) -> Answer<'a, ()> {
        Box::pin(async move {
            let link = self.link().await?;
            for table in Table::ALL {
                if !visit_table(&link, table, visitor).await? {
                    break;
                }
            }
            Ok(())
        })
    }

    fn receipts(&self) -> Answer<'_, Vec<LossReceipt>> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(link.marks.receipts(&link.session).await)
        })
    }

    fn watermarks(&self) -> Answer<'_, Vec<Watermark>> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(link.marks.watermarks(&link.session).await)
        })
    }

    fn dead_letters(&self) -> Answer<'_, Vec<DeadLetter>> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(link.marks.letters(&link.session).await)
        })
    }

    fn remove_dead_letter<'a>(&'a self, letter: &'a DeadLetter) -> Answer<'a, ()> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(link.marks.remove_letter(&link.session, letter).await)
        })
    }
}

/// Reads all keys of a table, range of tokens by range of tokens; `false` when the visitor has
/// had enough.
async fn visit_table(
    link: &Arc<Link>,
    table: Table,
    visitor: &mut (dyn FnMut(Table, RowKey) -> bool + Send),
) -> Result<bool, StoreError> {
    let (sender, mut pages) = mpsc::channel::<Result<Vec<RowKey>, StoreError>>(RANGES_AT_ONCE);
    let next = Arc::new(std::sync::atomic::AtomicI64::new(0));
    for _ in 0..RANGES_AT_ONCE {
        let (link, sender, next) = (Arc::clone(link), sender.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let range = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if range >= RANGES {
                    return;
                }
                let result = send_range(&link, table, range, &sender).await;
                if let Err(error) = result {
                    // Without a receiver nobody wants to know.
                    drop(sender.send(Err(error)).await);
                    return;
                }
            }
        });
    }
    drop(sender);
    while let Some(keys) = pages.recv().await {
        if !keys?.into_iter().all(|key| visitor(table, key)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The tokens of a range: above the first, up to the second. No token is `i64::MIN`.
fn tokens(range: i64) -> (i64, i64) {
    const WIDTH: i64 = i64::MAX / RANGES * 2;
    let start = |range: i64| i64::MIN.wrapping_add(WIDTH.wrapping_mul(range));
    (start(range), if range == RANGES - 1 { i64::MAX } else { start(range + 1) })
}

async fn send_range(
    link: &Link,
    table: Table,
    range: i64,
    sender: &mpsc::Sender<Result<Vec<RowKey>, StoreError>>,
) -> Result<(), StoreError> {
    let (above, to) = tokens(range);
    let mut next = Some(PagingState::start());
    while let Some(from) = next.take() {
        let statement = &link.reads.of(table).keys;
        let (rows, more) =
            page::<(CqlTimestamp, i64, i64)>(&link.session, statement, &(above, to), from).await?;
        next = more;
        let keys = rows.into_iter().map(|(timestamp, origin, offset_bytes)| RowKey {
            timestamp_ms: timestamp.0,
            origin,
            offset_bytes,
        });
        if sender.send(Ok(keys.collect())).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Rows of either table, as they are stored.
pub(super) async fn page_of(
    link: &Link,
    table: Table,
    statement: &PreparedStatement,
    values: &impl scylla::serialize::row::SerializeRow,
    from: PagingState,
) -> Result<(Vec<crate::stores::StoredRow>, Option<PagingState>), StoreError> {
    Ok(match table {
        Table::Infrastructure => {
            let (rows, next) =
                page::<InfrastructureRow>(&link.session, statement, values, from).await?;
            (rows.into_iter().filter_map(InfrastructureRow::stored).collect(), next)
        }
        Table::Application => {
            let (rows, next) =
                page::<ApplicationRow>(&link.session, statement, values, from).await?;
            (rows.into_iter().filter_map(ApplicationRow::stored).collect(), next)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_cover_all_tokens_and_touch() {
        assert_eq!(tokens(0).0, i64::MIN);
        assert_eq!(tokens(RANGES - 1).1, i64::MAX);
        for range in 1..RANGES {
            assert_eq!(tokens(range - 1).1, tokens(range).0);
            assert!(tokens(range).0 < tokens(range).1);
        }
    }
}
