//! User events.

use std::net::IpAddr;

use super::*;
use crate::batch::EventColumns;

const ANA: u128 = 0x0b0d_7a0e_5a51_4c4b_9d0a_0123_4567_89ab;

/// An event of a user; its offset is its number.
fn event(user: u128, time: i64, number: i64, stamp: i64) -> Arc<Batch> {
    let mut batch = empty(Table::Events, "user_events", time);
    batch.text = format!("sale{{\"number\":\"{number}\"}}s1curl").into_bytes();
    let end = u32::try_from(batch.text.len()).unwrap();
    batch.events.push(EventColumns {
        user_id: user,
        session_id: Some(end - 6..end - 4),
        ip_address: Some(IpAddr::from([192, 0, 2, 7])),
        user_agent: Some(end - 4..end),
    });
    batch.rows.push(Row {
        rung: None,
        key: RowKey { timestamp_ms: time, origin: i64::MAX - 1, offset_bytes: number },
        level: Level::Info,
        message: 0..4,
        metadata: 4..end - 6,
        further: Some(0),
    });
    batch.stamp = stamp;
    Arc::new(batch)
}

fn events() -> RowQuery {
    RowQuery { tables: vec![Table::Events], ..everything() }
}

fn offsets(rows: &[StoredRow]) -> Vec<i64> {
    rows.iter().map(|row| row.key.offset_bytes).collect()
}

#[test]
fn an_event_comes_back_as_it_was_once_and_never_among_log_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    write(&store, &event(ANA, DAY + 5, 3, 7));
    write(&store, &event(ANA, DAY + 5, 3, 9));
    write(&store, &one("syslog", DAY, 0, "a log row", 1));
    let row = StoredRow {
        table: Table::Events,
        key: RowKey { timestamp_ms: DAY + 5, origin: i64::MAX - 1, offset_bytes: 3 },
        source: "user_events".into(),
        level: Level::Info,
        message: "sale".into(),
        host: String::new(),
        metadata: r#"{"number":"3"}"#.into(),
        further: vec![
            ("user_id", "0b0d7a0e-5a51-4c4b-9d0a-0123456789ab".into()),
            ("session_id", "s1".into()),
            ("ip_address", "192.0.2.7".into()),
            ("user_agent", "curl".into()),
        ],
    };
    assert_eq!(page(dir.path(), &events()).rows, std::slice::from_ref(&row));
    assert_eq!(messages(dir.path()), ["a log row"]);

    let batch = event(ANA, DAY + 5, 3, 9);
    let there = (batch.partition.clone(), row.key);
    let gone = (batch.partition.clone(), RowKey { offset_bytes: 4, ..row.key });
    let texts = block_on(store.texts(&[there, gone])).unwrap();
    let text = StoredText { message: "sale".into(), metadata: r#"{"number":"3"}"#.into() };
    assert_eq!(texts, [Some(text), None]);
}

#[test]
fn pages_of_all_and_of_one_user_go_on_where_the_last_one_ended_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    for number in 0..40 {
        let number = (number * 17) % 40;
        // four of each moment, over two days
        let time = DAY + number / 20 * DAY_MS + number / 4 * 1000;
        write(&store, &event(if number % 3 == 0 { ANA } else { 0 }, time, number, 1));
    }
    for user in [None, Some(ANA), Some(0), Some(5)] {
        let whose = |number: &i64| match user {
            None => true,
            Some(ANA) => number % 3 == 0,
            Some(user) => user == 0 && number % 3 != 0,
        };
        for newest_first in [false, true] {
            let mut expected: Vec<i64> = (0..40).filter(whose).collect();
            if newest_first {
                expected.reverse();
            }
            let mut query = RowQuery { user, newest_first, limit: 3, ..events() };
            let mut found = Vec::new();
            loop {
                let page = page(dir.path(), &query);
                query.after = page.rows.last().map(|row| row.key).or(query.after);
                found.extend(offsets(&page.rows));
                if page.exhausted {
                    break;
                }
            }
            assert_eq!(found, expected, "{user:?} {newest_first}");
        }
    }
    let some = RowQuery { since_ms: Some(DAY + 2000), until_ms: Some(DAY + 4000), ..events() };
    assert_eq!(offsets(&page(dir.path(), &some).rows), (8..16).collect::<Vec<_>>());
    let mut keys = 0;
    let mut visit = |table: Table, key: RowKey| {
        assert_eq!((table, key.origin), (Table::Events, i64::MAX - 1));
        keys += 1;
        true
    };
    block_on(SqliteReader::new(dir.path().to_owned()).visit_keys(&mut visit)).unwrap();
    assert_eq!(keys, 40);
}

#[test]
fn events_of_a_user_and_of_all_are_read_in_order_from_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    write(&store, &event(ANA, DAY, 1, 1));
    let path = files::day_path(dir.path(), day_of(DAY));
    let connection = files::open_for_reading(&path).unwrap().unwrap();
    for (user, index) in [(Some(ANA), "PRIMARY KEY"), (None, "INDEX user_events_by_time")] {
        let after = Some(RowKey { timestamp_ms: DAY, origin: 1, offset_bytes: 2 });
        let query = RowQuery { user, after, newest_first: true, ..events() };
        for part in super::super::events::parts(&query) {
            let (sql, _) = super::super::events::question(&query, part);
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let lines = statement.raw_query().mapped(|row| row.get::<_, String>(3));
            let plan = lines.map(Result::unwrap).collect::<Vec<_>>().join("; ");
            assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}

#[test]
fn a_day_of_an_earlier_version_gets_the_table_when_it_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    write(&store, &one("syslog", DAY, 0, "old", 1));
    block_on(store.close()).unwrap();
    let path = files::day_path(dir.path(), day_of(DAY));
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("DROP TABLE user_events; PRAGMA user_version = 1;").unwrap();
    drop(connection);
    assert_eq!(page(dir.path(), &events()).rows, []);
    let reader = SqliteReader::new(dir.path().to_owned());
    block_on(reader.visit_keys(&mut |_, _| true)).unwrap();

    let store = start(dir.path());
    write(&store, &event(0, DAY, 1, 1));
    assert_eq!(offsets(&page(dir.path(), &events()).rows), [1]);
    assert_eq!(messages(dir.path()), ["old"]);
}
