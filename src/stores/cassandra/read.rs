//! The reading side: every partition of a range is asked at once with a small limit.
//!
//! Never `IN` with `ORDER BY` (it ran a server out of memory) and never ALLOW FILTERING. Which
//! days and sources there are comes from `log_stats`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use scylla::client::session::Session;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlDate, CqlTimestamp};
use uuid::Uuid;

use super::ask::{all_rows, at_once, page, prepare_read};
use super::keys::visit_table;
use super::layout::day_of_cql;
use super::rows::cql_date;
use super::scan::{Scan, StatementsOfTable};
use super::stored::{ApplicationRow, InfrastructureRow, accepts, columns};
use super::{CassandraStore, Link, events, origins};
use crate::key::{Partition, RowKey, Table};
use crate::ledger::{DeadLetter, LossReceipt, StoredOrigin, Watermark};
use crate::stores::expired::{EndedOrigin, Tombstone};
use crate::stores::{
    Answer, CountKey, DurationKey, KeyVisitor, LogReader, MinuteDurations, Page, RowQuery,
    StoreError, StoredText,
};

/// How long a list of days or sources holds: `logs -f` asks every moment.
const FRESH_MS: u64 = 2000;
/// What is prepared for reading.
pub(super) struct Statements {
    pub(super) infrastructure: StatementsOfTable,
    pub(super) application: StatementsOfTable,
    pub(super) events: events::Statements,
    by_request: PreparedStatement,
    hours: PreparedStatement,
    next_source: PreparedStatement,
    pub(super) stats: PreparedStatement,
    pub(super) durations: PreparedStatement,
}

impl Statements {
    pub(super) async fn prepare(session: &Session, keyspace: &str) -> Result<Self, StoreError> {
        let stats = format!("FROM {keyspace}.log_stats");
        Ok(Self {
            infrastructure: StatementsOfTable::prepare(session, keyspace, Table::Infrastructure)
                .await?,
            application: StatementsOfTable::prepare(session, keyspace, Table::Application).await?,
            events: events::Statements::prepare(session, keyspace).await?,
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
                    "SELECT source, origin, table_name, host, counts {stats} WHERE log_date = ? AND hour = ?"
                ),
            )
            .await?,
            durations: prepare_read(
                session,
                format!(
                    "SELECT source, origin, table_name, host, counts, durations {stats} \
                     WHERE log_date = ? AND hour = ?"
                ),
            )
            .await?,
        })
    }

    /// Those of a table of log rows.
    pub(super) fn of(&self, table: Table) -> Option<&StatementsOfTable> {
        match table {
            Table::Infrastructure => Some(&self.infrastructure),
            Table::Application => Some(&self.application),
            Table::Events => None,
        }
    }

    async fn text(
        &self,
        session: &Session,
        partition: &Partition,
        key: RowKey,
    ) -> Result<Option<StoredText>, StoreError> {
        let Some(statements) = self.of(partition.table) else {
            return self.events.text(session, partition.user.unwrap_or(0), key).await;
        };
        let values = (
            CqlDate(cql_date(partition.day)),
            &*partition.source,
            partition.bucket,
            CqlTimestamp(key.timestamp_ms),
            key.origin,
            key.offset_bytes,
        );
        let found: Vec<(Option<String>, Option<String>)> =
            all_rows(session, &statements.text, values, PagingState::start()).await?;
        Ok(found.into_iter().next().map(|(message, metadata)| StoredText {
            message: message.unwrap_or_default(),
            metadata: metadata.unwrap_or_default(),
        }))
    }

    /// What the rows with these keys say.
    pub(super) async fn texts(
        link: &Arc<Link>,
        rows: &[(Partition, RowKey)],
    ) -> Result<Vec<Option<StoredText>>, StoreError> {
        let jobs = rows.iter().enumerate().map(|(index, (partition, key))| {
            let (link, partition, key) = (Arc::clone(link), partition.clone(), *key);
            async move { Ok((index, link.reads.text(&link.session, &partition, key).await?)) }
        });
        let mut texts = vec![None; rows.len()];
        at_once(jobs.collect::<Vec<_>>(), |(index, text)| {
            if let Some(slot) = texts.get_mut(index) {
                *slot = text;
            }
            true
        })
        .await?;
        Ok(texts)
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
        if query.tables.contains(&Table::Events) {
            return self.read_events(&link, query).await;
        }
        if let Some(request) = query.request_id {
            return by_request(&link, query, request).await;
        }
        let layouts = self.layouts.load_full();
        Scan::new(self, &link, &layouts, query).run().await
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
    fn needs_user(&self) -> bool {
        true
    }

    fn rows<'a>(&'a self, query: &'a RowQuery) -> Answer<'a, Page> {
        Box::pin(async move { self.note(self.read_rows(query).await) })
    }

    fn counts(&self, since_ms: i64, until_ms: i64) -> Answer<'_, Vec<(CountKey, u64)>> {
        Box::pin(async move { self.note(self.read_counts(since_ms, until_ms).await) })
    }

    fn durations(
        &self,
        since_ms: i64,
        until_ms: i64,
    ) -> Answer<'_, Vec<(DurationKey, MinuteDurations)>> {
        Box::pin(async move { self.note(self.read_durations(since_ms, until_ms).await) })
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

    fn tombstones(&self) -> Answer<'_, Vec<Tombstone>> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(link.expire.tombstones(&link.session).await)
        })
    }

    fn ended_origins(&self) -> Answer<'_, Vec<EndedOrigin>> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(link.ended.all(&link.session).await)
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

/// Rows of either table, as they are stored.
pub(super) async fn page_of(
    link: &Link,
    table: Table,
    statement: &PreparedStatement,
    values: &impl scylla::serialize::row::SerializeRow,
    from: PagingState,
) -> Result<(Vec<crate::stores::StoredRow>, Option<PagingState>), StoreError> {
    Ok(match table {
        Table::Infrastructure | Table::Events => {
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
