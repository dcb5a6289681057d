//! Origins, spans, counts, receipts, watermarks and dead letters.

use bitacora::duration::Rung;
use bitacora::key::Table;
use bitacora::ledger::{
    Cause, Context, DeadLetter, Encoding, KernelIdentity, LossReceipt, OriginRecord, Span,
    Watermark,
};
use bitacora::record::Level;
use bitacora::stores::cassandra::{CassandraStore, schema};
use bitacora::stores::{LogReader, MinuteDurations, Store, StoreError};

use crate::lines::*;

fn origin_record() -> OriginRecord {
    OriginRecord {
        id: 77,
        machine: "m1".to_owned(),
        host: "web1".to_owned(),
        path: std::path::PathBuf::from("/var/log/nginx/access.log"),
        kernel: KernelIdentity {
            device: u64::MAX,
            inode: 1 << 63,
            generation: Some(3),
            born_ns: None,
        },
        head_hash: u64::MAX - 1,
        head_bytes: 1024,
        first_offset: 10,
        born_ms: DAY_START,
        encoding: Encoding::Gzip,
    }
}

fn context(from_bytes: u64) -> Context {
    Context {
        origin: 77,
        from_bytes,
        source: "nginx/access".to_owned(),
        table: Table::Infrastructure,
        format: "nginx/access".to_owned(),
        options: [("log_format".to_owned(), "combined".to_owned())].into(),
        timezone: "Europe/Madrid".to_owned(),
        anchor_ms: DAY_START,
        max_line_bytes: 262_144,
        parser_version: 1,
    }
}

#[test]
fn origins_contexts_and_spans_come_back_as_they_were() {
    on_tables("origins_contexts_and_spans_come_back_as_they_were", |_, store| async move {
        use std::os::unix::ffi::OsStringExt;
        let (record, contexts) = (origin_record(), [context(10), context(500)]);
        store.put_origin(&record, &contexts, 1).await.unwrap();
        let mut other = origin_record();
        other.id = 78;
        other.machine = "m2".to_owned();
        other.path = std::ffi::OsString::from_vec(b"/var/log/\xff.log".to_vec()).into();
        other.kernel.born_ns = Some(-4);
        store.put_origin(&other, &[], 1).await.unwrap();

        let lines = spread();
        let first = span(&lines[..10], "nginx/access", 10);
        let mut second = span(&lines[10..20], "nginx/access", 1010);
        second.closed = false;
        second.ttl_s = None;
        second.running_ms = None;
        store.put_spans(&[first.clone(), second.clone()], 10).await.unwrap();
        // An older state of a span that arrives late changes nothing.
        let mut older = second.clone();
        older.end_bytes = 1020;
        store.put_spans(&[older], 2).await.unwrap();

        let found = store.last_spans(&[77, 78, 79]).await.unwrap();
        assert_eq!(found, std::slice::from_ref(&second));
        let found = Store::origins(&*store, Some("m1")).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].record, record);
        assert_eq!(found[0].contexts, contexts);
        assert_eq!(found[0].spans, [first, second]);
        let everyone = LogReader::origins(&*store, None).await.unwrap();
        assert_eq!(everyone.iter().map(|origin| origin.record.id).collect::<Vec<_>>(), [77, 78]);
        assert_eq!(everyone[1].record, other);
    });
}

#[test]
fn counts_follow_the_spans_and_do_not_double() {
    on_tables("counts_follow_the_spans_and_do_not_double", |_, store| async move {
        let lines = spread();
        write(&store, &lines, 100).await;
        let of = |source: &str| -> Vec<Line> {
            lines.iter().filter(|line| line.source == source).cloned().collect()
        };
        let (nginx, syslog) = (of("nginx/access"), of("syslog"));
        // The span grows, is written again, and arrives late once more.
        for (count, stamp) in [(50, 1000), (nginx.len(), 2000), (50, 1000)] {
            let span = span(&nginx[..count], "nginx/access", 0);
            store.put_spans(&[span], stamp).await.unwrap();
        }
        store.put_spans(&[span(&syslog, "syslog", 1000)], 1000).await.unwrap();

        let counts = store.counts(0, i64::MAX).await.unwrap();
        let total: u64 = counts.iter().map(|(_, count)| count).sum();
        assert_eq!(total, 600);
        let errors = |source: &str| -> u64 {
            let of =
                counts.iter().filter(|(key, _)| key.source == source && key.level == Level::Error);
            of.map(|(_, count)| count).sum()
        };
        let wanted =
            |lines: &[Line]| lines.iter().filter(|line| line.level == Level::Error).count() as u64;
        assert_eq!((errors("nginx/access"), errors("syslog")), (wanted(&nginx), wanted(&syslog)));
        assert!(counts.iter().all(|(key, _)| !key.host.is_empty()), "each count has a host");

        let (since, until) = (DAY_START + 600_000, DAY_START + 7_200_000);
        let counts = store.counts(since, until).await.unwrap();
        let total: u64 = counts.iter().map(|(_, count)| count).sum();
        let inside = lines.iter().filter(|line| (since..until).contains(&line.at_ms)).count();
        assert_eq!(total, inside as u64);
        assert!(store.counts(5, 5).await.unwrap().is_empty());
        assert_eq!(store.sources().await.unwrap(), ["nginx/access", "syslog"]);
    });
}

/// Rows that took a second or longer, that say how long, and of which it is not known.
async fn durations(store: &CassandraStore, since_ms: i64, until_ms: i64) -> [u64; 3] {
    let second = Rung::reached(1000.0).unwrap();
    let found = store.durations(since_ms, until_ms).await.unwrap();
    let mut sum = MinuteDurations::default();
    for (key, of_minute) in &found {
        assert_eq!(key.host, "web1");
        sum.merge(of_minute);
    }
    [sum.counted.at_least(second), sum.counted.at_least(Rung::ANY), sum.unknown]
}

fn wanted<'a>(lines: impl Iterator<Item = &'a Line>) -> [u64; 3] {
    let rungs: Vec<u32> = lines.filter_map(rung_of).map(Rung::ms).collect();
    [rungs.iter().filter(|ms| **ms == 1000).count() as u64, rungs.len() as u64, 0]
}

#[test]
fn durations_follow_the_spans_hour_by_hour_and_older_spans_are_not_known() {
    let name = "durations_follow_the_spans_hour_by_hour_and_older_spans_are_not_known";
    on_tables(name, |config, store| async move {
        // nothing was written that names the host: it is the origin's
        store.put_origin(&origin_record(), &[], 1).await.unwrap();
        let lines = spread();
        let (grown, rest) = lines.split_at(400);
        // it grows, is written again, and arrives late once more
        for (count, stamp) in [(50, 1000), (grown.len(), 2000), (50, 1000)] {
            let span = span(&grown[..count], "nginx/access", 0);
            store.put_spans(&[span], stamp).await.unwrap();
        }
        let all = durations(&store, 0, i64::MAX).await;
        assert_eq!(all, wanted(grown.iter()));
        assert!(all[0] > 0 && all[1] > all[0], "{all:?}");
        let (since, until) = (DAY_START + 600_000, DAY_START + 7_200_000);
        let inside = grown.iter().filter(|line| (since..until).contains(&line.at_ms));
        assert_eq!(durations(&store, since, until).await, wanted(inside));

        let old = Span { durations: None, ..span(rest, "syslog", 1000) };
        store.put_spans(std::slice::from_ref(&old), 3000).await.unwrap();
        // a reader that has just asked knows no new hours for a while
        let reader = CassandraStore::new(config);
        let [slow, timed, unknown] = durations(&reader, 0, i64::MAX).await;
        assert_eq!([slow, timed, unknown], [all[0], all[1], rest.len() as u64]);
        assert_eq!(store.last_spans(&[77]).await.unwrap(), [old]);
    });
}

#[test]
fn tables_that_did_not_count_durations_get_the_columns_also_after_a_broken_run() {
    let name = "tables_that_did_not_count_durations_get_the_columns_also_after_a_broken_run";
    on_tables(name, |config, store| async move {
        let session = session(&config).await;
        let keyspace = &config.keyspace;
        let lines = spread();
        store.put_origin(&origin_record(), &[], 1).await.unwrap();
        store.put_spans(&[span(&lines, "nginx/access", 0)], 10).await.unwrap();
        let back = [
            "ALTER TABLE $.spans DROP durations",
            "ALTER TABLE $.log_stats DROP durations",
            "DELETE FROM $.schema_version WHERE name = 'migration' AND version >= 7",
        ];
        for statement in back {
            cql(&session, &statement.replace('$', keyspace)).await;
        }
        let older = CassandraStore::new(config.clone());
        assert!(matches!(older.check().await, Err(StoreError::Schema { .. })));
        // a run that was broken off has added the first of them
        cql(&session, &format!("ALTER TABLE {keyspace}.spans ADD durations text")).await;
        let plan = schema::plan(&config).await.unwrap();
        assert_eq!(plan.iter().map(|step| step.version).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(plan[0].statements.len(), 1, "{plan:?}");
        schema::apply(&config, "test", DAY_START).await.unwrap();
        assert!(schema::plan(&config).await.unwrap().is_empty());
        let store = CassandraStore::new(config.clone());
        assert_eq!(durations(&store, 0, i64::MAX).await, [0, 0, lines.len() as u64]);
        assert_eq!(store.last_spans(&[77]).await.unwrap()[0].durations, None);
        // a column that somebody has dropped comes back
        cql(&session, &format!("ALTER TABLE {keyspace}.log_stats DROP durations")).await;
        assert_eq!(schema::apply(&config, "test", DAY_START).await.unwrap().len(), 1);
        store.put_spans(&[span(&lines, "nginx/access", 0)], 20_000_000).await.unwrap();
    });
}

#[test]
fn receipts_watermarks_and_dead_letters_are_kept() {
    on_tables("receipts_watermarks_and_dead_letters_are_kept", |_, store| async move {
        let receipt = LossReceipt {
            origin: 77,
            start_bytes: 5,
            end_bytes: None,
            cause: Cause::CutBack,
            source: "syslog".to_owned(),
            host: "web1".to_owned(),
            path: "/var/log/syslog".into(),
            noticed_ms: DAY_START,
            detail: "a power cut took bytes back".to_owned(),
        };
        let twice = [receipt.clone(), receipt.clone()];
        store.put_receipts(&twice, 1).await.unwrap();
        assert_eq!(store.receipts().await.unwrap(), [receipt]);

        let mark = |host: &str, seen_ms| Watermark {
            source: "syslog".to_owned(),
            host: host.to_owned(),
            seen_ms,
            written_ms: seen_ms + 1,
            behind_bytes: 3,
        };
        store.put_watermarks(&[mark("b", 1), mark("a", 9)], 10).await.unwrap();
        store.put_watermarks(&[mark("b", 2)], 20).await.unwrap();
        store.put_watermarks(&[mark("b", 1)], 11).await.unwrap();
        assert_eq!(store.watermarks().await.unwrap(), [mark("a", 9), mark("b", 2)]);

        let letter = |offset_bytes| DeadLetter {
            table: Table::Application,
            source: "app".to_owned(),
            host: "web1".to_owned(),
            timestamp_ms: DAY_START,
            origin: 77,
            offset_bytes,
            level: "ERROR".to_owned(),
            message: "m".to_owned(),
            metadata: "{}".to_owned(),
            reason: "too large".to_owned(),
            refused_ms: DAY_START,
        };
        // Stamps run ahead of the clock; a letter goes all the same, and stays away.
        let ahead = i64::MAX / 2;
        store.put_dead_letters(&[letter(1), letter(2)], ahead).await.unwrap();
        assert_eq!(store.dead_letters().await.unwrap(), [letter(1), letter(2)]);
        store.remove_dead_letter(&letter(1)).await.unwrap();
        store.remove_dead_letter(&letter(1)).await.unwrap();
        store.put_dead_letters(&[letter(1)], ahead).await.unwrap();
        assert_eq!(store.dead_letters().await.unwrap(), [letter(2)]);
        store.put_dead_letters(&[letter(1)], ahead + 5).await.unwrap();
        assert_eq!(store.dead_letters().await.unwrap(), [letter(1), letter(2)]);
    });
}
