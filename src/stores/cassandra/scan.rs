//! Rows in time order over many partitions: a merge that opens a partition only when the front
//! of the merge reaches the time that it covers.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use scylla::client::session::Session;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlDate, CqlTimestamp};

use super::ask::{at_once, prepare_read};
use super::layout::Layouts;
use super::read::page_of;
use super::rows::cql_date;
use super::stored::{accepts, columns};
use super::{CassandraStore, Link};
use crate::key::{CLASSES, DAY_MS, RowKey, Table, class, day_of};
use crate::record::Level;
use crate::stores::{Page, RowQuery, StoreError, StoredRow};

/// Rows of one answer of a partition.
const PAGE_ROWS_MAX: usize = 1000;
/// How many times of the day, or days, are opened at once when those before had no row.
const AHEAD_MAX: usize = 8;

/// What is prepared for one table of rows.
pub(super) struct StatementsOfTable {
    newest: PreparedStatement,
    oldest: PreparedStatement,
    pub(super) text: PreparedStatement,
    pub(super) keys: PreparedStatement,
}

impl StatementsOfTable {
    pub(super) async fn prepare(
        session: &Session,
        keyspace: &str,
        table: Table,
    ) -> Result<Self, StoreError> {
        let from = format!("FROM {keyspace}.{}", table.name());
        let partition = "WHERE log_date = ? AND source = ? AND bucket = ?";
        let range = "AND (timestamp, origin, offset_bytes) > (?, ?, ?) \
             AND (timestamp, origin, offset_bytes) < (?, ?, ?)";
        let rows = format!("SELECT {} {from} {partition} {range}", columns(table));
        let mut keys = prepare_read(
            session,
            format!(
                "SELECT timestamp, origin, offset_bytes {from} \
                 WHERE token(log_date, source, bucket) > ? AND token(log_date, source, bucket) <= ?"
            ),
        )
        .await?;
        keys.set_page_size(5000);
        Ok(Self {
            newest: prepare_read(session, format!("{rows} LIMIT ?")).await?,
            oldest: prepare_read(
                session,
                format!("{rows} ORDER BY timestamp ASC, origin ASC, offset_bytes ASC LIMIT ?"),
            )
            .await?,
            text: prepare_read(
                session,
                format!(
                    "SELECT message, metadata {from} {partition} \
                     AND timestamp = ? AND origin = ? AND offset_bytes = ?"
                ),
            )
            .await?,
            keys,
        })
    }
}

/// One partition and the times that it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    table: Table,
    day: i32,
    source: Arc<str>,
    bucket: i16,
    from_ms: i64,
    to_ms: i64,
}

impl Part {
    /// The end of its time at which the merge meets it.
    fn meets(&self, newest_first: bool) -> i64 {
        if newest_first { self.to_ms } else { self.from_ms }
    }
}

/// A partition that is being read.
struct Cursor {
    part: Part,
    rows: VecDeque<StoredRow>,
    next: Option<PagingState>,
}

/// See the module.
pub(super) struct Scan<'a> {
    store: &'a CassandraStore,
    link: &'a Arc<Link>,
    layouts: &'a Layouts,
    query: &'a RowQuery,
    above: RowKey,
    below: RowKey,
    days: VecDeque<i32>,
    waiting: VecDeque<Part>,
    open: Vec<Cursor>,
    ahead: usize,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        store: &'a CassandraStore,
        link: &'a Arc<Link>,
        layouts: &'a Layouts,
        query: &'a RowQuery,
    ) -> Self {
        let (above, below) = query.edges();
        Self {
            store,
            link,
            layouts,
            query,
            above,
            below,
            days: VecDeque::new(),
            waiting: VecDeque::new(),
            open: Vec::new(),
            ahead: 1,
        }
    }

    pub(super) async fn run(mut self) -> Result<Page, StoreError> {
        let hours = self.store.hours(self.link).await?;
        let (first, last) =
            (day_of(self.above.timestamp_ms.saturating_add(1)), day_of(self.below.timestamp_ms));
        self.days = hours.keys().copied().filter(|day| (first..=last).contains(day)).collect();
        if self.below.timestamp_ms == i64::MAX {
            self.days = hours.keys().copied().filter(|day| *day >= first).collect();
        }
        if self.query.newest_first {
            self.days.make_contiguous().reverse();
        }
        let mut rows = Vec::new();
        while rows.len() < self.query.limit {
            let Some(head) = self.head(&hours, self.query.limit - rows.len()).await? else {
                return Ok(Page { rows, exhausted: true });
            };
            let Some(cursor) = self.open.get_mut(head) else { break };
            let Some(row) = cursor.rows.pop_front() else { break };
            if accepts(self.query, &row) {
                rows.push(row);
            }
            if cursor.rows.is_empty() {
                self.refill(head).await?;
            }
        }
        let exhausted = self.open.is_empty() && self.waiting.is_empty() && self.days.is_empty();
        Ok(Page { rows, exhausted })
    }

    /// The open partition whose row is next, once no partition that waits can have an earlier
    /// one. `wanted` rows are still missing.
    async fn head(
        &mut self,
        hours: &std::collections::BTreeMap<i32, Vec<i8>>,
        wanted: usize,
    ) -> Result<Option<usize>, StoreError> {
        let newest_first = self.query.newest_first;
        loop {
            let keys = self.open.iter().map(|cursor| cursor.rows.front().map(|row| row.key));
            let indexed = keys.enumerate().filter_map(|(index, key)| Some((key?, index)));
            let head = if newest_first {
                indexed.max_by_key(|(key, index)| (*key, Reverse(*index)))
            } else {
                indexed.min()
            };
            // A day that has not been looked at is met like a partition that covers all of it.
            let waiting = match (self.waiting.front(), self.days.front()) {
                (Some(part), _) => Some(part.meets(newest_first)),
                (None, Some(day)) => {
                    let start = i64::from(*day) * DAY_MS;
                    Some(if newest_first { start + DAY_MS } else { start })
                }
                (None, None) => None,
            };
            let (Some(meets), head) = (waiting, head) else { return Ok(head.map(|head| head.1)) };
            if let Some((key, index)) = head {
                let reached =
                    if newest_first { meets > key.timestamp_ms } else { meets <= key.timestamp_ms };
                if !reached {
                    return Ok(Some(index));
                }
                self.ahead = 1;
            }
            if self.waiting.is_empty() {
                self.plan(hours).await?;
            }
            self.open_next(wanted).await?;
            if head.is_none() {
                self.ahead = (self.ahead * 2).min(AHEAD_MAX);
            }
        }
    }

    /// Lists the partitions of the next days.
    async fn plan(
        &mut self,
        hours: &std::collections::BTreeMap<i32, Vec<i8>>,
    ) -> Result<(), StoreError> {
        for _ in 0..self.ahead {
            let Some(day) = self.days.pop_front() else { return Ok(()) };
            let known;
            let names: Vec<&str> = if self.query.sources.is_empty() {
                let hours = hours.get(&day).map(Vec::as_slice).unwrap_or_default();
                known = self.store.sources_of(self.link, day, hours).await?;
                known.iter().map(String::as_str).collect()
            } else {
                self.query.sources.iter().map(String::as_str).collect()
            };
            let mut parts = parts_of_day(self.query, self.layouts, day, &names);
            parts.retain(|part| {
                part.to_ms > self.above.timestamp_ms && part.from_ms <= self.below.timestamp_ms
            });
            self.waiting.extend(parts);
        }
        Ok(())
    }

    /// Opens the partitions that are met next, those that are met at the same time together.
    async fn open_next(&mut self, wanted: usize) -> Result<(), StoreError> {
        let newest_first = self.query.newest_first;
        let mut parts = Vec::new();
        let mut times = 0;
        let mut last = None;
        while let Some(part) = self.waiting.front() {
            let meets = part.meets(newest_first);
            if last != Some(meets) {
                times += 1;
                if times > self.ahead {
                    break;
                }
                last = Some(meets);
            }
            parts.extend(self.waiting.pop_front());
        }
        let jobs = parts.into_iter().map(|part| {
            let link = Arc::clone(self.link);
            let ask = self.ask(&part, wanted);
            async move {
                let (rows, next) = ask.page(&link, &part, PagingState::start()).await?;
                Ok(Cursor { part, rows: rows.into(), next })
            }
        });
        let mut opened = Vec::new();
        at_once(jobs.collect::<Vec<_>>(), |cursor| {
            opened.push(cursor);
            true
        })
        .await?;
        for cursor in opened {
            self.open.push(cursor);
            let index = self.open.len() - 1;
            if self.open.get(index).is_some_and(|cursor| cursor.rows.is_empty()) {
                self.refill(index).await?;
            }
        }
        Ok(())
    }

    /// Reads the next page of a partition that has no row left, and closes it after the last.
    async fn refill(&mut self, index: usize) -> Result<(), StoreError> {
        while let Some(cursor) = self.open.get_mut(index) {
            let Some(from) = cursor.next.take() else {
                self.open.swap_remove(index);
                return Ok(());
            };
            let part = cursor.part.clone();
            let ask = self.ask(&part, self.query.limit);
            let (rows, next) = ask.page(self.link, &part, from).await?;
            if let Some(cursor) = self.open.get_mut(index) {
                cursor.next = next;
                cursor.rows = rows.into();
                if !cursor.rows.is_empty() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn ask(&self, part: &Part, wanted: usize) -> Ask {
        let statements = match part.table {
            Table::Application => &self.link.reads.application,
            Table::Infrastructure | Table::Events => &self.link.reads.infrastructure,
        };
        let statement =
            if self.query.newest_first { &statements.newest } else { &statements.oldest };
        let mut statement = statement.clone();
        let rows = if filtered(self.query, part.bucket % CLASSES) {
            PAGE_ROWS_MAX
        } else {
            // One more than is missing, to know whether there is more.
            wanted.saturating_add(1).min(PAGE_ROWS_MAX)
        };
        statement.set_page_size(i32::try_from(rows).unwrap_or(1000));
        // The limit holds for all pages of a partition together, so it is that of the query.
        let limit = if filtered(self.query, part.bucket % CLASSES) {
            i32::MAX
        } else {
            i32::try_from(self.query.limit.saturating_add(1)).unwrap_or(i32::MAX)
        };
        Ask { statement, above: self.above, below: self.below, limit }
    }
}

/// One question to a partition.
struct Ask {
    statement: PreparedStatement,
    above: RowKey,
    below: RowKey,
    limit: i32,
}

impl Ask {
    async fn page(
        &self,
        link: &Link,
        part: &Part,
        from: PagingState,
    ) -> Result<(Vec<StoredRow>, Option<PagingState>), StoreError> {
        let values = (
            CqlDate(cql_date(part.day)),
            &*part.source,
            part.bucket,
            CqlTimestamp(self.above.timestamp_ms),
            self.above.origin,
            self.above.offset_bytes,
            CqlTimestamp(self.below.timestamp_ms),
            self.below.origin,
            self.below.offset_bytes,
            self.limit,
        );
        page_of(link, part.table, &self.statement, &values, from).await
    }
}

/// Whether rows of a severity class have to be looked at one by one.
fn filtered(query: &RowQuery, of_class: i16) -> bool {
    let all_levels = query.levels.is_empty()
        || Level::ALL
            .into_iter()
            .filter(|level| class(*level) == of_class)
            .all(|level| query.levels.contains(&level));
    !all_levels || !query.hosts.is_empty()
}

/// The partitions of a day, in the order in which the merge meets them.
fn parts_of_day(query: &RowQuery, layouts: &Layouts, day: i32, sources: &[&str]) -> Vec<Part> {
    let classes: Vec<i16> = (0..CLASSES)
        .filter(|wanted| {
            query.levels.is_empty() || query.levels.iter().any(|level| class(*level) == *wanted)
        })
        .collect();
    let mut parts = Vec::new();
    for &name in sources {
        let source: Arc<str> = Arc::from(name);
        for &table in query.tables() {
            let layout = layouts.of(table, name, day);
            let slot_ms = i64::from(layout.slot_hours.max(1)) * 3_600_000;
            for bucket in classes.iter().flat_map(|&class| layout.buckets(class)) {
                let slot = i64::from(bucket / CLASSES % 24);
                let from_ms = i64::from(day) * DAY_MS + slot * slot_ms;
                let to_ms = from_ms + slot_ms;
                let source = Arc::clone(&source);
                parts.push(Part { table, day, source, bucket, from_ms, to_ms });
            }
        }
    }
    if query.newest_first {
        parts.sort_by_key(|part| Reverse(part.to_ms));
    } else {
        parts.sort_by_key(|part| part.from_ms);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_day_are_one_partition_a_source_and_table() {
        let query = RowQuery {
            levels: vec![Level::Error, Level::Critical],
            tables: vec![Table::Infrastructure],
            ..RowQuery::default()
        };
        let parts = parts_of_day(&query, &Layouts::default(), 7, &["a", "b"]);
        let found: Vec<_> = parts.iter().map(|part| (&*part.source, part.bucket)).collect();
        assert_eq!(found, [("a", 2), ("b", 2)]);
        assert!(!filtered(&query, 2));
    }

    #[test]
    fn one_level_of_a_class_is_looked_for_row_by_row() {
        let query = RowQuery { levels: vec![Level::Critical], ..RowQuery::default() };
        assert!(filtered(&query, 2));
        let query = RowQuery { levels: vec![Level::Warning], ..RowQuery::default() };
        assert!(!filtered(&query, 1));
    }

    #[test]
    fn every_bucket_that_a_row_can_have_is_asked() {
        let query = RowQuery::default();
        let parts = parts_of_day(&query, &Layouts::default(), 0, &["a"]);
        assert_eq!(parts.len(), 6, "three classes in two tables");
        assert!(parts.iter().all(|part| part.from_ms == 0 && part.to_ms == DAY_MS));
    }
}
