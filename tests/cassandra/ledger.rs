//! Origins, spans, counts, receipts, watermarks and dead letters.

use bitacora::key::Table;
use bitacora::ledger::{
    Cause, Context, DeadLetter, Encoding, KernelIdentity, LossReceipt, OriginRecord, Watermark,
};
use bitacora::record::Level;
use bitacora::stores::{LogReader, Store};

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
