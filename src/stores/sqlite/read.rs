//! Reads beside the running daemon, also for another user of its group: nothing here writes, not
//! even a lock file, but for [`LogReader::remove_dead_letter`].
//!
//! Calls block their thread until they are answered: they are for commands and for threads that
//! may wait. Each call opens what it needs and closes it again, so that it holds no day back from
//! leaving WAL mode.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, Row, Rows, Statement};

use super::day::{GRAVE, uuid_text};
use super::{NAME, ended, events, facts, files, index, tombstones};
use crate::key::{DAY_MS, RowKey, Table};
use crate::ledger::{DeadLetter, LossReceipt, StoredOrigin, Watermark};
use crate::record::Level;
use crate::stores::expired::{EndedOrigin, Tombstone};
use crate::stores::{
    Answer, CountKey, DurationKey, Grown, KeyVisitor, LogReader, MinuteDurations, Page, RowQuery,
    StoreError, StoredRow,
};

/// The reading side.
#[derive(Debug, Clone)]
pub struct SqliteReader {
    dir: PathBuf,
}

type Sql<T> = rusqlite::Result<T>;

fn done<'a, T: Send + 'a>(answer: Result<T, StoreError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(answer))
}

impl SqliteReader {
    /// A reader of the store in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Reads `index.db`; a store in which nothing was ever written has none.
    fn index<T: Default>(&self, read: impl FnOnce(&Connection) -> Sql<T>) -> Result<T, StoreError> {
        let path = files::index_path(&self.dir);
        let Some(connection) = files::open_for_reading(&path)? else {
            self.dir.read_dir().map_err(|error| files::io_refused(&self.dir, &error))?;
            return Ok(T::default());
        };
        let refused = |error| files::refused(&path, &error);
        // made by a writer that has not come to its tables yet
        if !has_tables(&connection).map_err(refused)? {
            return Ok(T::default());
        }
        if let Some(newer) = index::check_version(&connection).map_err(refused)? {
            return Err(newer);
        }
        read(&connection).map_err(refused)
    }

    /// Where the store is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads a table of `index.db` that earlier versions did not have.
    pub(super) fn index_table<T: Default>(
        &self,
        table: &str,
        read: impl FnOnce(&Connection) -> Sql<T>,
    ) -> Result<T, StoreError> {
        self.index(|connection| {
            if index::has_table(connection, table)? { read(connection) } else { Ok(T::default()) }
        })
    }

    fn days(&self) -> Result<Vec<i32>, StoreError> {
        files::days(&self.dir).map_err(|error| files::io_refused(&self.dir, &error))
    }

    fn page(&self, query: &RowQuery) -> Result<Page, StoreError> {
        let mut page = Page::default();
        if query.limit == 0 {
            return Ok(page);
        }
        let mut days = self.days()?;
        let (since, until) = bounds(query);
        days.retain(|day| {
            let start = i64::from(*day) * DAY_MS;
            start < until && start + DAY_MS > since
        });
        if query.newest_first {
            days.reverse();
        }
        for day in days {
            let path = files::day_path(&self.dir, day);
            let Some(connection) = files::open_for_reading(&path)? else { continue };
            let full = has_tables(&connection)
                .and_then(|made| Ok(made && read_day(&connection, query, &mut page)?))
                .map_err(|error| files::refused(&path, &error))?;
            if full {
                return Ok(page);
            }
        }
        page.exhausted = true;
        Ok(page)
    }

    fn keys(&self, visitor: KeyVisitor<'_>) -> Result<(), StoreError> {
        for day in self.days()? {
            let path = files::day_path(&self.dir, day);
            let Some(connection) = files::open_for_reading(&path)? else { continue };
            let go_on = has_tables(&connection)
                .and_then(|made| Ok(!made || visit_day(&connection, visitor)?))
                .map_err(|error| files::refused(&path, &error))?;
            if !go_on {
                break;
            }
        }
        Ok(())
    }
}

fn has_tables(connection: &Connection) -> Sql<bool> {
    connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| Ok(row.get::<_, i64>(0)? > 0))
}

/// First and last time asked for, made narrower by the row after which the page begins.
fn bounds(query: &RowQuery) -> (i64, i64) {
    let mut since = query.since_ms.unwrap_or(i64::MIN);
    let mut until = query.until_ms.unwrap_or(i64::MAX);
    if let Some(after) = query.after {
        if query.newest_first {
            until = until.min(after.timestamp_ms.saturating_add(1));
        } else {
            since = since.max(after.timestamp_ms);
        }
    }
    (since, until)
}

/// Text of one page: a page may end early, because rows may be long.
const PAGE_BYTES_MAX: usize = 4 << 20;

fn text_bytes(row: &StoredRow) -> usize {
    row.message.len() + row.metadata.len()
}

/// Adds the rows of one day to the page; answers whether the page is full.
fn read_day(connection: &Connection, query: &RowQuery, page: &mut Page) -> Sql<bool> {
    // all runs of the merge see one moment
    let moment = connection.unchecked_transaction()?;
    let mut runs = Vec::new();
    for &table in query.tables() {
        if query.request_id.is_some() && table != Table::Application {
            continue;
        }
        if table == Table::Events {
            if has_table(&moment, table)? {
                runs.push((table, events::statements(&moment, query)?));
            }
            continue;
        }
        let sources = if query.sources.is_empty() {
            sources_of(&moment, table)?
        } else {
            query.sources.clone()
        };
        for source in sources {
            let parts = parts(query)
                .into_iter()
                .map(|part| statement(&moment, table, &source, query, &part))
                .collect::<Sql<Vec<_>>>()?;
            runs.push((table, parts));
        }
    }
    let mut merge: Vec<Run<'_>> = Vec::new();
    for (table, parts) in &mut runs {
        let parts = parts.iter_mut().map(Statement::raw_query).collect();
        let mut run = Run { table: *table, parts, head: None };
        if run.advance()? {
            merge.push(run);
        }
    }
    let mut bytes: usize = page.rows.iter().map(text_bytes).sum();
    while let Some(at) = first_run(&merge, query.newest_first) {
        if page.rows.len() >= query.limit || bytes >= PAGE_BYTES_MAX {
            return Ok(true);
        }
        let Some(run) = merge.get_mut(at) else { break };
        if let Some(row) = run.head.take() {
            bytes += text_bytes(&row);
            page.rows.push(row);
        }
        if !run.advance()? {
            merge.swap_remove(at);
        }
    }
    Ok(false)
}

/// One ordered run of the merge: a source of a table, in parts that follow each other.
struct Run<'a> {
    table: Table,
    parts: VecDeque<Rows<'a>>,
    head: Option<StoredRow>,
}

impl Run<'_> {
    fn advance(&mut self) -> Sql<bool> {
        self.head = None;
        while let Some(part) = self.parts.front_mut() {
            if let Some(row) = part.next()? {
                self.head = Some(match self.table {
                    Table::Events => events::stored(row)?,
                    table => stored_row(table, row)?,
                });
                break;
            }
            self.parts.pop_front();
        }
        Ok(self.head.is_some())
    }
}

fn first_run(runs: &[Run<'_>], newest_first: bool) -> Option<usize> {
    let order = |a: &Run<'_>, b: &Run<'_>| {
        let keys = a.head.as_ref().map(|row| row.key).cmp(&b.head.as_ref().map(|row| row.key));
        if newest_first { keys.reverse() } else { keys }
    };
    (0..runs.len()).min_by(|a, b| match (runs.get(*a), runs.get(*b)) {
        (Some(a), Some(b)) => order(a, b),
        _ => Ordering::Equal,
    })
}

/// Sources that have a row in a table: one jump in the key's tree for each.
pub(super) fn sources_of(connection: &Connection, table: Table) -> Sql<Vec<String>> {
    let name = table.name();
    let mut statement = connection
        .prepare(&format!("SELECT source FROM {name} WHERE source > ? ORDER BY source LIMIT 1"))?;
    let mut sources: Vec<String> = Vec::new();
    loop {
        let after = sources.last().map_or("", String::as_str);
        let mut rows = statement.query([after])?;
        let Some(row) = rows.next()? else { break };
        let source = row.get(0)?;
        drop(rows);
        sources.push(source);
    }
    // an empty name is no name, but it would be a row all the same
    let mut unnamed = connection.prepare(&format!("SELECT 1 FROM {name} WHERE source = ''"))?;
    if unnamed.exists([])? {
        sources.push(String::new());
    }
    Ok(sources)
}

const APPLICATION: [&str; 6] =
    ["logger", "request_id", "user_id", "session_id", "traceback", "duration_ms"];

/// A condition on the key, with its values.
pub(super) type Part = (String, Vec<i64>);

/// The rows after a key, in parts of which each is one range of the key's tree. (A comparison of
/// row values would say it in one, but it is not always planned as a range.)
pub(super) fn parts(query: &RowQuery) -> Vec<Part> {
    let Some(RowKey { timestamp_ms, origin, offset_bytes }) = query.after else {
        return vec![(String::new(), Vec::new())];
    };
    let than = if query.newest_first { '<' } else { '>' };
    vec![
        (
            format!(" AND timestamp = ? AND origin = ? AND offset_bytes {than} ?"),
            vec![timestamp_ms, origin, offset_bytes],
        ),
        (format!(" AND timestamp = ? AND origin {than} ?"), vec![timestamp_ms, origin]),
        (format!(" AND timestamp {than} ?"), vec![timestamp_ms]),
    ]
}

/// The ordered rows of one source. There is no LIMIT: a statement does no work for rows that
/// nobody steps to.
fn statement<'c>(
    connection: &'c Connection,
    table: Table,
    source: &str,
    query: &RowQuery,
    part: &Part,
) -> Sql<Statement<'c>> {
    let (sql, values) = question(table, source, query, part);
    let mut statement = connection.prepare(&sql)?;
    for (at, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(at + 1, value)?;
    }
    Ok(statement)
}

/// The words of a statement and its values. Indexes are named: without statistics the planner
/// takes the key, and there are none.
pub(super) fn question(
    table: Table,
    source: &str,
    query: &RowQuery,
    (condition, bounds): &Part,
) -> (String, Vec<Value>) {
    let name = table.name();
    let more = match table {
        Table::Infrastructure | Table::Events => String::new(),
        Table::Application => format!(", {}", APPLICATION.join(", ")),
    };
    let is_grave = |level: &Level| *level >= Level::Warning;
    let grave = !query.levels.is_empty() && query.levels.iter().all(is_grave);
    let index = match query.request_id {
        Some(_) => format!("INDEXED BY {name}_request"),
        None if grave => format!("INDEXED BY {name}_grave"),
        None => String::new(),
    };
    let mut sql = format!(
        "SELECT timestamp, origin, offset_bytes, source, level, message, host, metadata{more} \
         FROM {name} {index} WHERE source = ?"
    );
    let mut values: Vec<Value> = vec![source.to_owned().into()];
    if let Some(since) = query.since_ms {
        sql += " AND timestamp >= ?";
        values.push(since.into());
    }
    if let Some(until) = query.until_ms {
        sql += " AND timestamp < ?";
        values.push(until.into());
    }
    sql += condition;
    values.extend(bounds.iter().copied().map(Value::from));
    if grave {
        // word for word what the partial index says, or it cannot be used
        let _ = write!(sql, " AND {GRAVE}");
    }
    if !query.levels.is_empty() {
        one_of(&mut sql, "level", query.levels.len());
        values.extend(query.levels.iter().map(|level| level.name().to_owned().into()));
    }
    if !query.hosts.is_empty() {
        one_of(&mut sql, "host", query.hosts.len());
        values.extend(query.hosts.iter().cloned().map(Value::from));
    }
    if let Some(id) = query.request_id {
        sql += " AND request_id = ?";
        values.push(uuid_text(id).into());
    }
    let order = if query.newest_first { "DESC" } else { "ASC" };
    let _ = write!(sql, " ORDER BY timestamp {order}, origin {order}, offset_bytes {order}");
    (sql, values)
}

fn one_of(sql: &mut String, column: &str, count: usize) {
    let _ = write!(sql, " AND {column} IN ({})", vec!["?"; count].join(", "));
}

fn stored_row(table: Table, row: &Row<'_>) -> Sql<StoredRow> {
    let level: String = row.get(4)?;
    let mut further = Vec::new();
    if table == Table::Application {
        for (at, name) in APPLICATION.into_iter().enumerate() {
            match row.get::<_, Value>(8 + at)? {
                Value::Null | Value::Blob(_) => {}
                Value::Text(text) => further.push((name, text)),
                Value::Integer(number) => further.push((name, number.to_string())),
                Value::Real(number) => further.push((name, number.to_string())),
            }
        }
    }
    Ok(StoredRow {
        table,
        key: RowKey { timestamp_ms: row.get(0)?, origin: row.get(1)?, offset_bytes: row.get(2)? },
        source: row.get(3)?,
        level: Level::from_name(&level).unwrap_or_default(),
        message: row.get(5)?,
        host: row.get(6)?,
        metadata: row.get::<_, Option<String>>(7)?.unwrap_or_default(),
        further,
    })
}

/// The tables that a day file has.
pub(super) fn tables_of(connection: &Connection) -> Sql<Vec<Table>> {
    let mut tables = Vec::new();
    for table in Table::ALL {
        if has_table(connection, table)? {
            tables.push(table);
        }
    }
    Ok(tables)
}

/// A file of an earlier version has no user events.
fn has_table(connection: &Connection, table: Table) -> Sql<bool> {
    index::has_table(connection, table.name())
}

fn visit_day(connection: &Connection, visitor: KeyVisitor<'_>) -> Sql<bool> {
    for table in Table::LOGS {
        let mut statement = connection
            .prepare(&format!("SELECT timestamp, origin, offset_bytes FROM {}", table.name()))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key = RowKey {
                timestamp_ms: row.get(0)?,
                origin: row.get(1)?,
                offset_bytes: row.get(2)?,
            };
            if !visitor(table, key) {
                return Ok(false);
            }
        }
    }
    Ok(!has_table(connection, Table::Events)?
        || events::visit(connection, |key| visitor(Table::Events, key))?)
}

/// Removing needs write access, and its own connection.
fn remove_letter(dir: &Path, letter: &DeadLetter) -> Result<(), StoreError> {
    let path = files::index_path(dir);
    if !path.exists() {
        let detail = format!("{}: there is no such file", path.display());
        return Err(StoreError::Unreachable { store: NAME, detail });
    }
    let connection = index::open(dir)?;
    index::remove_dead_letter(&connection, letter).map_err(|error| files::refused(&path, &error))
}

impl LogReader for SqliteReader {
    fn rows<'a>(&'a self, query: &'a RowQuery) -> Answer<'a, Page> {
        done(self.page(query))
    }

    fn counts(&self, since_ms: i64, until_ms: i64) -> Answer<'_, Vec<(CountKey, u64)>> {
        done(self.index(|connection| facts::counts(connection, since_ms, until_ms)))
    }

    fn durations(
        &self,
        since_ms: i64,
        until_ms: i64,
    ) -> Answer<'_, Vec<(DurationKey, MinuteDurations)>> {
        done(self.index(|connection| facts::durations(connection, since_ms, until_ms)))
    }

    fn sources(&self) -> Answer<'_, Vec<String>> {
        done(self.index(facts::sources))
    }

    fn origins<'a>(&'a self, machine: Option<&'a str>) -> Answer<'a, Vec<StoredOrigin>> {
        done(self.index(|connection| facts::origins(connection, machine)))
    }

    fn grown(&self, mark: Option<i64>) -> Answer<'_, Grown> {
        done(self.index(|connection| facts::grown(connection, mark)))
    }

    fn visit_keys<'a>(&'a self, visitor: KeyVisitor<'a>) -> Answer<'a, ()> {
        done(self.keys(visitor))
    }

    fn receipts(&self) -> Answer<'_, Vec<LossReceipt>> {
        done(self.index(facts::receipts))
    }

    fn tombstones(&self) -> Answer<'_, Vec<Tombstone>> {
        done(self.index(tombstones::all))
    }

    fn ended_origins(&self) -> Answer<'_, Vec<EndedOrigin>> {
        done(self.index(ended::all))
    }

    fn watermarks(&self) -> Answer<'_, Vec<Watermark>> {
        done(self.index(facts::watermarks))
    }

    fn dead_letters(&self) -> Answer<'_, Vec<DeadLetter>> {
        done(self.index(facts::dead_letters))
    }

    fn remove_dead_letter<'a>(&'a self, letter: &'a DeadLetter) -> Answer<'a, ()> {
        done(remove_letter(&self.dir, letter))
    }
}
