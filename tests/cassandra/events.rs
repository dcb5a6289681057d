//! User events in a real Cassandra.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bitacora::batch::{Batch, EventColumns, Row};
use bitacora::key::{DAY_MS, Partition, RowKey, Table, day_of};
use bitacora::record::Level;
use bitacora::stores::cassandra::{CassandraStore, schema};
use bitacora::stores::{LogReader, RowQuery, Store, StoreError, StoredRow};
use uuid::Uuid;

use crate::lines::*;
use crate::node::{keyspace, shared, skipped};

const ANA: u128 = 0x0b0d_7a0e_5a51_4c4b_9d0a_0123_4567_89ab;
const ORIGIN: i64 = i64::MAX - 5;

fn key(number: i64) -> RowKey {
    // three of each moment, from October to December
    let timestamp_ms = DAY_START + (number / 3 - 20) * DAY_MS * 3 / 2;
    RowKey { timestamp_ms, origin: ORIGIN, offset_bytes: number }
}

/// An event with all columns, or one that says nothing.
fn event(user: u128, number: i64) -> Batch {
    let key = key(number);
    let day = day_of(key.timestamp_ms);
    let source = Arc::from("user_events");
    let partition = Partition { table: Table::Events, day, source, bucket: 0, user: Some(user) };
    let mut batch = Batch::new(partition, Arc::from("web1"));
    let mut row = Row {
        rung: None,
        key,
        level: Level::Info,
        message: 0..0,
        metadata: 0..0,
        further: Some(0),
    };
    let mut columns = EventColumns { user_id: user, ..EventColumns::default() };
    if number % 2 == 0 {
        row.message = append(&mut batch, b"sale");
        row.metadata = append(&mut batch, format!("{{\"n\":\"{number}\"}}").as_bytes());
        columns.session_id = Some(append(&mut batch, b"s1"));
        columns.ip_address = Some(if number % 4 == 0 {
            IpAddr::from([192, 0, 2, 7])
        } else {
            "2001:db8::1".parse().unwrap()
        });
        columns.user_agent = Some(append(&mut batch, b"curl"));
    }
    batch.rows.push(row);
    batch.events.push(columns);
    batch.stamp = 1000 + number;
    batch
}

/// Writes events of two users and of nobody, and the span that counts them.
async fn written(store: &Arc<CassandraStore>) -> Vec<(u128, RowKey)> {
    let mut all = Vec::new();
    let mut spans = Vec::new();
    for number in 0..120 {
        let user = [ANA, 7, 0][usize::try_from(number % 3).unwrap()];
        let batch = Arc::new(event(user, number));
        store.write(Arc::clone(&batch)).await.unwrap();
        store.write(batch).await.unwrap();
        all.push((user, key(number)));
        let mut span = span(&[], "user_events", number.cast_unsigned() * 1000);
        span.table = Table::Events;
        span.minutes.insert((key(number).timestamp_ms / 60_000, Level::Info), 1);
        spans.push(span);
    }
    store.put_spans(&spans, 1).await.unwrap();
    all
}

async fn paged(store: &CassandraStore, mut query: RowQuery) -> Vec<StoredRow> {
    let mut found = Vec::new();
    loop {
        let page = store.rows(&query).await.unwrap();
        assert!(page.rows.len() <= query.limit);
        query.after = page.rows.last().map(|row| row.key).or(query.after);
        found.extend(page.rows);
        if page.exhausted {
            return found;
        }
    }
}

#[test]
fn events_come_back_user_by_user_once_and_whole_over_months() {
    let name = "events_come_back_user_by_user_once_and_whole_over_months";
    on_tables(name, |_, store| async move {
        let events = written(&store).await;
        let query = RowQuery { tables: vec![Table::Events], limit: 7, ..RowQuery::default() };
        for user in [ANA, 7, 0, 99] {
            let of_user = events.iter().filter(|(whose, _)| *whose == user);
            let mut expected: Vec<RowKey> = of_user.map(|(_, key)| *key).collect();
            expected.sort_unstable();
            for newest_first in [false, true] {
                let query = RowQuery { user: Some(user), newest_first, ..query.clone() };
                let rows = paged(&store, query).await;
                let keys: Vec<RowKey> = rows.iter().map(|row| row.key).collect();
                assert_eq!(keys, expected, "{user} {newest_first}");
                expected.reverse();
            }
        }
        let (since, until) = (key(50).timestamp_ms, key(70).timestamp_ms);
        let some = RowQuery {
            user: Some(ANA),
            since_ms: Some(since),
            until_ms: Some(until),
            ..query.clone()
        };
        let rows = paged(&store, some).await;
        let numbers: Vec<i64> = rows.iter().map(|row| row.key.offset_bytes).collect();
        assert_eq!(numbers, [48, 51, 54, 57, 60, 63, 66]);
        let (bare, full) = (&rows[1], &rows[2]);
        assert_eq!((bare.message.as_str(), bare.metadata.as_str()), ("", ""));
        let further = |row: &StoredRow| -> Vec<String> {
            row.further.iter().map(|(name, value)| format!("{name}={value}")).collect()
        };
        let ana = format!("user_id={}", Uuid::from_u128(ANA));
        assert_eq!(further(bare), [ana.as_str()]);
        assert_eq!((full.message.as_str(), full.metadata.as_str()), ("sale", "{\"n\":\"54\"}"));
        let expected = [&ana, "session_id=s1", "ip_address=2001:db8::1", "user_agent=curl"];
        assert_eq!(further(full), expected);

        let of_all = store.rows(&query).await.unwrap_err();
        assert!(matches!(of_all, StoreError::Invalid { .. }), "{of_all}");
        assert!(store.needs_user());
        assert!(rows_of_logs(&store).await.is_empty(), "events are no log rows");
    });
}

async fn rows_of_logs(store: &CassandraStore) -> Vec<StoredRow> {
    rows(store, &all()).await
}

#[test]
fn keys_texts_and_counts_of_events_are_found_without_a_user() {
    let name = "keys_texts_and_counts_of_events_are_found_without_a_user";
    on_tables(name, |_, store| async move {
        let events = written(&store).await;
        let mut keys = BTreeSet::new();
        let mut visit = |table: Table, key: RowKey| keys.insert((table, key));
        store.visit_keys(&mut visit).await.unwrap();
        let wanted: BTreeSet<_> = events.iter().map(|(_, key)| (Table::Events, *key)).collect();
        assert_eq!(keys, wanted);

        let there = event(ANA, 0);
        let gone = RowKey { offset_bytes: 1, ..key(0) };
        let asked = [(there.partition.clone(), key(0)), (there.partition, gone)];
        let texts = store.texts(&asked).await.unwrap();
        assert_eq!(texts[0].as_ref().unwrap().message, "sale");
        assert_eq!(texts[1], None);

        let counts = store.counts(0, i64::MAX).await.unwrap();
        let all: u64 = counts.iter().map(|(_, rows)| rows).sum();
        assert_eq!(all, 120);
        let ours = |table: Table, source: &str| table == Table::Events && source == "user_events";
        assert!(counts.iter().all(|(key, _)| ours(key.table, &key.source)));
    });
}

#[test]
fn the_events_table_of_version_4_is_made_anew() {
    let name = "the_events_table_of_version_4_is_made_anew";
    let node = match shared() {
        Ok(node) => node,
        Err(why) => return skipped(name, why),
    };
    let config = node.config(&keyspace());
    block_on(async {
        schema::apply(&config, "test", DAY_START).await.unwrap();
        let session = session(&config).await;
        let keyspace = &config.keyspace;
        cql(&session, &format!("DROP TABLE {keyspace}.user_events")).await;
        let old = "(user_id uuid, month date, event_timestamp timestamp, event_id bigint, \
                   PRIMARY KEY ((user_id, month), event_timestamp, event_id))";
        cql(&session, &format!("CREATE TABLE {keyspace}.user_events {old}")).await;
        let delete = "DELETE FROM $.schema_version WHERE name = 'migration' AND version >= 5";
        cql(&session, &delete.replace('$', keyspace)).await;

        let store = Arc::new(CassandraStore::new(config.clone()));
        let waits = store.check().await.unwrap_err();
        assert!(waits.to_string().contains("schema apply"), "{waits}");
        let done = schema::apply(&config, "test", DAY_START).await.unwrap();
        assert_eq!(done.iter().map(|step| step.version).collect::<Vec<_>>(), [5, 6, 7, 8]);
        store.check().await.unwrap();
        store.write(Arc::new(event(ANA, 0))).await.unwrap();
        assert!(schema::apply(&config, "test", DAY_START).await.unwrap().is_empty());
        let mut found = 0;
        let mut visit = |_: Table, _: RowKey| {
            found += 1;
            true
        };
        store.visit_keys(&mut visit).await.unwrap();
        assert_eq!(found, 1);
        cql(&session, &format!("DROP KEYSPACE {keyspace}")).await;
    });
}
