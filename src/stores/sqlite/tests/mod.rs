//! The whole store over real files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::batch::{ApplicationColumns, Row};
use crate::duration::{DurationCounts, Durations, Rung};
use crate::key::{DAY_MS, day_of};
use crate::ledger::{Carried, Cause, Encoding, KernelIdentity, Marker, Reason, Reasons};
use crate::record::Level;
use crate::stores::{CountKey, LogReader, Page, RowQuery, StoredRow};

mod checks;
mod days;
mod ending;
mod events;
mod facts;

/// 2026-11-22 00:00 UTC.
const DAY: i64 = 1_795_305_600_000;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn start(dir: &Path) -> SqliteStore {
    SqliteStore::start(dir.to_owned(), Options::default()).unwrap()
}

fn empty(table: Table, source: &str, time: i64) -> Batch {
    let source = Arc::from(source);
    Batch::new(Partition { table, day: day_of(time), source, bucket: 0, user: None }, "web1".into())
}

fn push(batch: &mut Batch, time: i64, offset_bytes: i64, level: Level, message: &str) {
    let start = u32::try_from(batch.text.len()).unwrap();
    batch.text.extend(message.as_bytes());
    let end = u32::try_from(batch.text.len()).unwrap();
    batch.rows.push(Row {
        rung: None,
        key: RowKey { timestamp_ms: time, origin: 7, offset_bytes },
        level,
        message: start..end,
        metadata: 0..0,
        further: None,
    });
}

fn one(source: &str, time: i64, offset: i64, message: &str, stamp: i64) -> Arc<Batch> {
    let mut batch = empty(Table::Infrastructure, source, time);
    push(&mut batch, time, offset, Level::Info, message);
    batch.stamp = stamp;
    Arc::new(batch)
}

fn write(store: &SqliteStore, batch: &Arc<Batch>) {
    let written = block_on(store.write(batch.clone())).unwrap();
    assert_eq!(written, Written::default());
}

fn page(dir: &Path, query: &RowQuery) -> Page {
    block_on(SqliteReader::new(dir.to_owned()).rows(query)).unwrap()
}

fn everything() -> RowQuery {
    RowQuery { limit: 10_000, ..RowQuery::default() }
}

fn messages(dir: &Path) -> Vec<String> {
    page(dir, &everything()).rows.into_iter().map(|row| row.message).collect()
}

#[test]
fn a_batch_that_is_written_twice_is_there_once_also_after_a_crash_before_its_span() {
    let dir = tempfile::tempdir().unwrap();
    let batch = one("syslog", DAY, 0, "one", 1);
    let store = start(dir.path());
    write(&store, &batch);
    write(&store, &batch);
    // dropped without close, and no span was written
    drop(store);
    let store = start(dir.path());
    assert_eq!(block_on(store.last_spans(&[7])).unwrap(), []);
    write(&store, &one("syslog", DAY, 0, "one", 5));
    assert_eq!(messages(dir.path()), ["one"]);
}

#[test]
fn an_amended_row_stays_amended_when_the_earlier_write_comes_late() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    write(&store, &one("syslog", DAY, 0, "one\ntwo", 20));
    write(&store, &one("syslog", DAY, 0, "one", 10));
    assert_eq!(messages(dir.path()), ["one\ntwo"]);
    write(&store, &one("syslog", DAY, 0, "one\ntwo\nthree", 30));
    assert_eq!(messages(dir.path()), ["one\ntwo\nthree"]);
}

#[test]
fn a_later_row_of_the_same_batch_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    let mut batch = empty(Table::Infrastructure, "syslog", DAY);
    push(&mut batch, DAY, 0, Level::Info, "one");
    push(&mut batch, DAY, 0, Level::Info, "one\ntwo");
    write(&store, &Arc::new(batch));
    assert_eq!(messages(dir.path()), ["one\ntwo"]);
}

#[test]
fn rows_of_all_columns_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    let mut batch = empty(Table::Application, "app", DAY);
    batch.text = br#"horno frio{"a":"b"}panaderosid"#.to_vec();
    let id = uuid::Uuid::from_u128(0x1234_5678).as_u128();
    batch.application.push(ApplicationColumns {
        logger: Some(19..27),
        request_id: Some(id),
        user_id: Some(-7),
        session_id: Some(27..30),
        traceback: None,
        duration_ms: Some(12.5),
    });
    batch.rows.push(Row {
        rung: None,
        key: RowKey { timestamp_ms: DAY + 5, origin: i64::MAX, offset_bytes: 3 },
        level: Level::Critical,
        message: 0..10,
        metadata: 10..19,
        further: Some(0),
    });
    write(&store, &Arc::new(batch));
    let expected = StoredRow {
        table: Table::Application,
        key: RowKey { timestamp_ms: DAY + 5, origin: i64::MAX, offset_bytes: 3 },
        source: "app".into(),
        level: Level::Critical,
        message: "horno frio".into(),
        host: "web1".into(),
        metadata: r#"{"a":"b"}"#.into(),
        further: vec![
            ("logger", "panadero".into()),
            ("request_id", "00000000-0000-0000-0000-000012345678".into()),
            ("user_id", "-7".into()),
            ("session_id", "sid".into()),
            ("duration_ms", "12.5".into()),
        ],
    };
    assert_eq!(page(dir.path(), &everything()).rows, std::slice::from_ref(&expected));
    let query = RowQuery { request_id: Some(id), ..everything() };
    assert_eq!(page(dir.path(), &query).rows, [expected]);
    let query = RowQuery { request_id: Some(id + 1), ..everything() };
    assert_eq!(page(dir.path(), &query).rows, []);
}

/// 60 rows of two sources over three days, in mixed order.
fn fill(dir: &Path) -> SqliteStore {
    let store = start(dir);
    for number in 0..60 {
        let number = (number * 37) % 60;
        let time = DAY + number % 3 * DAY_MS + number / 3 * 1000;
        let source = if number % 2 == 0 { "syslog" } else { "nginx/error" };
        let mut batch = empty(Table::Infrastructure, source, time);
        let level = if number % 5 == 0 { Level::Error } else { Level::Info };
        push(&mut batch, time, number, level, &format!("row {number}"));
        write(&store, &Arc::new(batch));
    }
    store
}

#[test]
fn pages_go_on_where_the_last_one_ended_over_days_and_sources_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let _store = fill(dir.path());
    let all = page(dir.path(), &everything());
    assert!(all.exhausted);
    let mut sorted = all.rows.clone();
    sorted.sort_by_key(|row| row.key);
    assert_eq!((all.rows.len(), &all.rows), (60, &sorted));
    for newest_first in [false, true] {
        for levels in [vec![], vec![Level::Error], vec![Level::Info, Level::Error]] {
            let wanted = |row: &&StoredRow| levels.is_empty() || levels.contains(&row.level);
            let mut expected: Vec<&StoredRow> = sorted.iter().filter(wanted).collect();
            if newest_first {
                expected.reverse();
            }
            let mut query =
                RowQuery { limit: 7, newest_first, levels: levels.clone(), ..everything() };
            let mut found = Vec::new();
            loop {
                let page = page(dir.path(), &query);
                assert!(page.rows.len() <= 7);
                query.after = page.rows.last().map(|row| row.key).or(query.after);
                found.extend(page.rows);
                if page.exhausted {
                    break;
                }
            }
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{levels:?} {newest_first}");
        }
    }
    let query = RowQuery {
        since_ms: Some(DAY + DAY_MS),
        until_ms: Some(DAY + 2 * DAY_MS),
        sources: vec!["nginx/error".into()],
        hosts: vec!["web1".into()],
        ..everything()
    };
    let rows = page(dir.path(), &query).rows;
    assert_eq!(rows.len(), 10);
    assert!(
        rows.iter()
            .all(|row| row.source == "nginx/error"
                && day_of(row.key.timestamp_ms) == day_of(DAY) + 1)
    );
    let mut keys = Vec::new();
    let mut visit = |_: Table, key: RowKey| {
        keys.push(key);
        true
    };
    block_on(SqliteReader::new(dir.path().to_owned()).visit_keys(&mut visit)).unwrap();
    keys.sort();
    assert_eq!(keys, sorted.iter().map(|row| row.key).collect::<Vec<_>>());
}

#[test]
fn a_store_of_a_directory_in_which_nothing_was_written_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let reader = SqliteReader::new(dir.path().to_owned());
    assert_eq!(page(dir.path(), &everything()), Page { rows: Vec::new(), exhausted: true });
    assert_eq!(block_on(reader.sources()).unwrap(), Vec::<String>::new());
    let reader = SqliteReader::new(dir.path().join("nowhere"));
    let error = block_on(reader.rows(&everything())).unwrap_err();
    assert!(error.to_string().contains("there is no such directory"), "{error}");
}

#[test]
fn questions_for_grave_rows_and_for_pages_are_answered_from_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let _store = fill(dir.path());
    let path = files::day_path(dir.path(), day_of(DAY));
    let connection = files::open_for_reading(&path).unwrap().unwrap();
    let plan = |table, query: &RowQuery, part: &read::Part| -> String {
        let (sql, _) = read::question(table, "syslog", query, part);
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let lines = statement.raw_query().mapped(|row| row.get::<_, String>(3));
        lines.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    };
    let key = RowKey { timestamp_ms: 1, origin: 2, offset_bytes: 3 };
    let grave = vec![Level::Error, Level::Critical];
    let asked = [
        (Table::Infrastructure, RowQuery::default(), "PRIMARY KEY"),
        (
            Table::Infrastructure,
            RowQuery { levels: grave.clone(), ..RowQuery::default() },
            "INDEX infrastructure_logs_grave",
        ),
        (
            Table::Application,
            RowQuery { levels: grave, request_id: Some(1), ..RowQuery::default() },
            "INDEX application_logs_request",
        ),
    ];
    let ranges = ["offset_bytes>?", "origin>?", "timestamp>?"];
    for (table, mut query, index) in asked {
        query.after = Some(key);
        for (part, range) in read::parts(&query).iter().zip(ranges) {
            let plan = plan(table, &query, part);
            assert!(plan.contains(index) && plan.contains("source=?"), "{plan}");
            assert!(plan.contains(range), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}

#[test]
fn more_writes_at_once_than_the_queue_holds_are_all_answered() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(start(dir.path()));
    let many = i64::try_from(QUEUE).unwrap() * 2;
    block_on(async {
        let writes: Vec<_> = (0..many)
            .map(|number| {
                let store = store.clone();
                let batch = one("syslog", DAY + number, number, "x", 2);
                tokio::spawn(async move { store.write(batch).await })
            })
            .collect();
        for write in writes {
            write.await.unwrap().unwrap();
        }
    });
    assert_eq!(messages(dir.path()).len(), QUEUE * 2);
}
