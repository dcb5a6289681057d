//! Lines, the batches and spans that they make, and a keyspace to write them to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitacora::batch::{Batch, Row};
use bitacora::config::Cassandra;
use bitacora::duration::{DurationCounts, Rung};
use bitacora::key::{DAY_MS, Partition, RowKey, Table, day_of};
use bitacora::ledger::{Carried, Marker, MinuteCounts, Reason, Reasons, Span};
use bitacora::record::Level;
use bitacora::stores::cassandra::{CassandraStore, schema};
use bitacora::stores::{LogReader, RowQuery, Store, StoredRow};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use crate::node::{keyspace, shared, skipped};

/// 2026-11-22T00:00:00Z
pub const DAY_START: i64 = 1_795_305_600_000;

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// Runs a test on a keyspace of its own, or says why it cannot.
pub fn on_tables<F: Future<Output = ()>>(
    name: &str,
    test: impl FnOnce(Cassandra, Arc<CassandraStore>) -> F,
) {
    let node = match shared() {
        Ok(node) => node,
        Err(why) => return skipped(name, why),
    };
    let config = node.config(&keyspace());
    block_on(async {
        schema::apply(&config, "test", DAY_START).await.unwrap();
        test(config.clone(), Arc::new(CassandraStore::new(config.clone()))).await;
        let session = session(&config).await;
        cql(&session, &format!("DROP KEYSPACE {}", config.keyspace)).await;
    });
}

pub async fn session(config: &Cassandra) -> Session {
    SessionBuilder::new().known_nodes(&config.nodes).build().await.unwrap()
}

pub async fn cql(session: &Session, text: &str) {
    session.query_unpaged(text, ()).await.unwrap_or_else(|error| panic!("{text}: {error}"));
}

pub async fn within<F: Future<Output = bool>>(
    what: &str,
    limit: Duration,
    mut holds: impl FnMut() -> F,
) {
    let deadline = Instant::now() + limit;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One line for [`batches`].
#[derive(Clone)]
pub struct Line {
    pub table: Table,
    pub source: &'static str,
    pub host: &'static str,
    pub at_ms: i64,
    pub offset: i64,
    pub level: Level,
    pub text: String,
}

pub fn line(at_ms: i64, offset: i64, level: Level, text: &str) -> Line {
    Line {
        table: Table::Infrastructure,
        source: "nginx/access",
        host: "web1",
        at_ms,
        offset,
        level,
        text: text.to_owned(),
    }
}

/// Batches as a worker makes them: one partition each.
pub fn batches(store: &CassandraStore, lines: &[Line], stamp: i64) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for line in lines {
        let key = RowKey { timestamp_ms: line.at_ms, origin: 77, offset_bytes: line.offset };
        let day = day_of(line.at_ms);
        let layout = store.layout(line.table, line.source, day).unwrap();
        let bucket = layout.bucket(line.level, key);
        let partition = Partition {
            table: line.table,
            day,
            source: Arc::from(line.source),
            bucket,
            user: None,
        };
        let found = batches
            .iter_mut()
            .position(|batch| batch.partition == partition && *batch.host == *line.host);
        let index = found.unwrap_or_else(|| {
            batches.push(Batch::new(partition, Arc::from(line.host)));
            batches.len() - 1
        });
        push(&mut batches[index], key, line.level, &line.text, r#"{"k":"v"}"#);
        batches[index].stamp = stamp;
    }
    batches
}

pub fn push(batch: &mut Batch, key: RowKey, level: Level, message: &str, metadata: &str) {
    let message = append(batch, message.as_bytes());
    let metadata = append(batch, metadata.as_bytes());
    batch.rows.push(Row { rung: None, key, level, message, metadata, further: None });
}

pub fn append(batch: &mut Batch, text: &[u8]) -> std::ops::Range<u32> {
    let start = u32::try_from(batch.text.len()).unwrap();
    batch.text.extend_from_slice(text);
    start..u32::try_from(batch.text.len()).unwrap()
}

pub async fn write(store: &CassandraStore, lines: &[Line], stamp: i64) {
    store.check().await.unwrap();
    for batch in batches(store, lines, stamp) {
        store.write(Arc::new(batch)).await.unwrap();
    }
}

/// How long a line's request took: every third says nothing, and every fifth a second and a half.
pub fn rung_of(line: &Line) -> Option<Rung> {
    let took = if line.offset % 5 == 0 { 1500.0 } else { 20.0 };
    Rung::reached(if line.offset % 3 == 0 { -1.0 } else { took })
}

/// A closed span with the counts of these lines, so that readers know of their partitions.
pub fn span(lines: &[Line], source: &str, start_bytes: u64) -> Span {
    let mut minutes = MinuteCounts::new();
    for line in lines {
        *minutes.entry((line.at_ms.div_euclid(60_000), line.level)).or_default() += 1;
    }
    let mut durations = DurationCounts::new();
    for (line, rung) in lines.iter().filter_map(|line| Some((line, rung_of(line)?))) {
        durations.entry(line.at_ms.div_euclid(60_000)).or_default().add(rung);
    }
    let mut reasons = Reasons::default();
    reasons.add(Reason::Blank, 2);
    Span {
        origin: 77,
        start_bytes,
        end_bytes: start_bytes + 1000,
        rows: lines.len() as u64,
        lines: lines.len() as u64 + 2,
        reasons,
        minutes,
        durations: Some(durations),
        running_ms: Some(DAY_START),
        crc: u64::MAX - 3,
        marker: 1 << 63,
        markers: vec![Marker { at_ms: 5, position: 6, hash: u64::MAX }],
        first_write_ms: DAY_START,
        last_write_ms: DAY_START + 1,
        ttl_s: Some(90 * 86_400),
        closed: true,
        carried: vec![Carried { thread: 9, start: start_bytes, text_bytes: 4 }],
        table: Table::Infrastructure,
        source: source.to_owned(),
    }
}

pub fn all() -> RowQuery {
    RowQuery { limit: 10_000, ..RowQuery::default() }
}

pub async fn rows(store: &CassandraStore, query: &RowQuery) -> Vec<StoredRow> {
    store.rows(query).await.unwrap().rows
}

pub fn messages(rows: &[StoredRow]) -> Vec<&str> {
    rows.iter().map(|row| row.message.as_str()).collect()
}

/// Lines over two days, of all levels, two sources, two hosts and both tables.
pub fn spread() -> Vec<Line> {
    let mut lines = Vec::new();
    for number in 0..600_i64 {
        let at_ms = DAY_START + number * 271_001 % (2 * DAY_MS);
        let level = Level::ALL[usize::try_from(number % 6).unwrap()];
        let mut line = line(at_ms, number << 14, level, &format!("line {number}"));
        line.source = if number % 2 == 0 { "nginx/access" } else { "syslog" };
        line.host = if number % 5 == 0 { "web2" } else { "web1" };
        if number % 7 == 0 {
            line.table = Table::Application;
        }
        lines.push(line);
    }
    lines
}

pub fn expected(lines: &[Line], wanted: impl Fn(&Line) -> bool) -> Vec<String> {
    let mut found: Vec<&Line> = lines.iter().filter(|line| wanted(line)).collect();
    found.sort_by_key(|line| (line.at_ms, line.offset));
    found.iter().map(|line| line.text.clone()).collect()
}
