//! Rows that were written come back: once, whole and in order.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitacora::batch::{ApplicationColumns, Batch};
use bitacora::key::{DAY_MS, Layout, Partition, RowKey, Table, day_of};
use bitacora::record::Level;
use bitacora::stores::cassandra::CassandraStore;
use bitacora::stores::{LogReader, RowQuery, Store};

use crate::lines::*;

#[test]
fn a_batch_written_twice_is_there_once_with_all_its_columns() {
    on_tables("a_batch_written_twice_is_there_once_with_all_its_columns", |_, store| async move {
        store.check().await.unwrap();
        let partition = Partition {
            table: Table::Application,
            day: day_of(DAY_START),
            source: Arc::from("app"),
            bucket: 2,
            user: None,
        };
        let mut batch = Batch::new(partition.clone(), Arc::from("web1"));
        let key = |offset_bytes| RowKey { timestamp_ms: DAY_START + 5, origin: 77, offset_bytes };
        push(&mut batch, key(0), Level::Error, "first of a millisecond", "");
        push(&mut batch, key(99), Level::Critical, "second of it", r#"{"path":"/ä"}"#);
        let logger = append(&mut batch, b"shop.views");
        let traceback = append(&mut batch, b"Traceback\n  line");
        batch.application.push(ApplicationColumns {
            logger: Some(logger),
            request_id: Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            user_id: Some(-7),
            session_id: None,
            traceback: Some(traceback),
            duration_ms: Some(12.5),
        });
        batch.rows[1].further = Some(0);
        batch.stamp = 1000;
        let batch = Arc::new(batch);
        store.write(Arc::clone(&batch)).await.unwrap();
        store.write(Arc::clone(&batch)).await.unwrap();
        let mut span = span(&[], "app", 0);
        span.minutes.insert((DAY_START / 60_000, Level::Error), 2);
        store.put_spans(&[span], 1).await.unwrap();

        let found = rows(&store, &all()).await;
        assert_eq!(messages(&found), ["first of a millisecond", "second of it"]);
        let (first, second) = (&found[0], &found[1]);
        assert_eq!(
            (first.key, first.level, first.table),
            (key(0), Level::Error, Table::Application)
        );
        assert_eq!((first.metadata.as_str(), first.further.len()), ("", 0));
        assert_eq!((second.host.as_str(), second.source.as_str()), ("web1", "app"));
        assert_eq!(second.metadata, r#"{"path":"/ä"}"#);
        let further: Vec<(&str, &str)> =
            second.further.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(
            further,
            [
                ("logger", "shop.views"),
                ("request_id", "01234567-89ab-cdef-0123-456789abcdef"),
                ("user_id", "-7"),
                ("traceback", "Traceback\n  line"),
                ("duration_ms", "12.5"),
            ]
        );

        let by_request =
            RowQuery { request_id: Some(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), ..all() };
        assert_eq!(messages(&rows(&store, &by_request).await), ["second of it"]);
        let nobody = RowQuery { request_id: Some(1), ..all() };
        assert!(rows(&store, &nobody).await.is_empty());

        let asked =
            [(partition.clone(), key(0)), (partition.clone(), key(1)), (partition, key(99))];
        let found = store.texts(&asked).await.unwrap();
        assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    });
}

#[test]
fn an_amended_row_holds_against_a_late_repetition_of_the_older_one() {
    let name = "an_amended_row_holds_against_a_late_repetition_of_the_older_one";
    on_tables(name, |_, store| async move {
        let short = [line(DAY_START, 0, Level::Info, "Traceback")];
        let long = [line(DAY_START, 0, Level::Info, "Traceback\n  File")];
        write(&store, &short, 100).await;
        write(&store, &long, 200).await;
        write(&store, &short, 100).await;
        store.put_spans(&[span(&long, "nginx/access", 0)], 1).await.unwrap();
        assert_eq!(messages(&rows(&store, &all()).await), ["Traceback\n  File"]);

        // Within one batch the later row holds.
        let twice =
            [line(DAY_START, 5, Level::Info, "one"), line(DAY_START, 5, Level::Info, "one\ntwo")];
        write(&store, &twice, 300).await;
        assert_eq!(messages(&rows(&store, &all()).await), ["Traceback\n  File", "one\ntwo"]);
    });
}

/// All pages of a query.
async fn paged(store: &CassandraStore, query: &RowQuery) -> Vec<String> {
    let mut query = query.clone();
    let mut found = Vec::new();
    loop {
        let page = store.rows(&query).await.unwrap();
        assert!(page.rows.len() <= query.limit);
        assert!(page.exhausted || !page.rows.is_empty());
        query.after = page.rows.last().map(|row| row.key);
        found.extend(page.rows.into_iter().map(|row| row.message));
        if page.exhausted {
            return found;
        }
    }
}

async fn reads_agree_with_the_lines(store: &CassandraStore, lines: &[Line]) {
    write(store, lines, 1000).await;
    for (number, source) in (0_u64..).zip(["nginx/access", "syslog"]) {
        let of_source: Vec<Line> =
            lines.iter().filter(|line| line.source == source).cloned().collect();
        let span = span(&of_source, source, number * 1000);
        store.put_spans(&[span], 1).await.unwrap();
    }
    let oldest = expected(lines, |_| true);
    let newest: Vec<String> = oldest.iter().rev().cloned().collect();
    assert_eq!(paged(store, &all()).await, oldest);
    for limit in [1, 7, 100, 600] {
        if limit == 1 && lines.len() > 100 {
            continue;
        }
        let query = RowQuery { limit, ..RowQuery::default() };
        assert_eq!(paged(store, &query).await, oldest, "pages of {limit}, oldest first");
        let query = RowQuery { limit, newest_first: true, ..RowQuery::default() };
        assert_eq!(paged(store, &query).await, newest, "pages of {limit}, newest first");
    }
    let (since, until) = (DAY_START + 3_600_000, DAY_START + DAY_MS + 60_000);
    let query = RowQuery { since_ms: Some(since), until_ms: Some(until), limit: 40, ..all() };
    let inside = expected(lines, |line| (since..until).contains(&line.at_ms));
    assert!(!inside.is_empty());
    assert_eq!(paged(store, &query).await, inside, "between two times");

    let levels = vec![Level::Critical, Level::Warning];
    let query = RowQuery { levels: levels.clone(), newest_first: true, limit: 9, ..all() };
    let mut graver = expected(lines, |line| levels.contains(&line.level));
    graver.reverse();
    assert_eq!(paged(store, &query).await, graver, "of some levels");

    let query = RowQuery {
        sources: vec!["syslog".to_owned()],
        hosts: vec!["web2".to_owned()],
        tables: vec![Table::Infrastructure],
        limit: 4,
        ..all()
    };
    let few = expected(lines, |line| {
        line.source == "syslog" && line.host == "web2" && line.table == Table::Infrastructure
    });
    assert_eq!(paged(store, &query).await, few, "of a source and a host");

    let query = RowQuery { since_ms: Some(DAY_START + 30 * DAY_MS), ..all() };
    assert_eq!(paged(store, &query).await, Vec::<String>::new(), "after everything");
}

#[test]
fn rows_come_in_time_order_page_by_page_whatever_is_asked() {
    on_tables("rows_come_in_time_order_page_by_page_whatever_is_asked", |_, store| async move {
        let lines = spread();
        reads_agree_with_the_lines(&store, &lines).await;

        let mut keys = BTreeSet::new();
        let mut visit = |table: Table, key: RowKey| keys.insert((table, key));
        store.visit_keys(&mut visit).await.unwrap();
        let wanted: BTreeSet<(Table, RowKey)> = lines
            .iter()
            .map(|line| {
                let key =
                    RowKey { timestamp_ms: line.at_ms, origin: 77, offset_bytes: line.offset };
                (line.table, key)
            })
            .collect();
        assert_eq!(keys, wanted);
        let mut visits = 0;
        let mut once = |_: Table, _: RowKey| {
            visits += 1;
            false
        };
        store.visit_keys(&mut once).await.unwrap();
        assert_eq!(visits, 1, "a visitor that has had enough is not asked again");
    });
}

#[test]
fn a_day_that_is_cut_into_slots_and_shards_reads_like_any_other() {
    let name = "a_day_that_is_cut_into_slots_and_shards_reads_like_any_other";
    on_tables(name, |config, store| async move {
        let session = session(&config).await;
        for (source, slot_hours, shards) in [("nginx/access", 6, 2), ("syslog", 1, 3)] {
            for table in Table::ALL {
                let text = format!(
                    "INSERT INTO {}.log_layout (table_name, source, from_date, slot_hours, shards) \
                     VALUES ('{}', '{source}', '2026-11-23', {slot_hours}, {shards})",
                    config.keyspace,
                    table.name()
                );
                cql(&session, &text).await;
            }
        }
        store.check().await.unwrap();
        let day = day_of(DAY_START);
        let of = |day| store.layout(Table::Infrastructure, "nginx/access", day).unwrap();
        assert_eq!(of(day), Layout::default());
        assert_eq!(of(day + 1), Layout { slot_hours: 6, shards: 2 });
        reads_agree_with_the_lines(&store, &spread()[..200]).await;
    });
}
