//! Origins, contexts, spans, counts and receipts.

use super::*;

fn origin(id: i64) -> OriginRecord {
    use std::os::unix::ffi::OsStringExt;
    OriginRecord {
        id,
        machine: "m1".into(),
        host: "web1".into(),
        path: std::ffi::OsString::from_vec(b"/var/log/\xff.log".to_vec()).into(),
        kernel: KernelIdentity { device: u64::MAX, inode: 2, generation: Some(3), born_ns: None },
        head_hash: u64::MAX - 1,
        head_bytes: 1024,
        first_offset: 5,
        born_ms: DAY,
        encoding: Encoding::Zstd,
    }
}

fn context(origin: i64) -> Context {
    Context {
        origin,
        from_bytes: 5,
        source: "syslog".into(),
        table: Table::Infrastructure,
        format: "syslog".into(),
        options: [("a".to_owned(), "b".to_owned())].into(),
        timezone: "UTC".into(),
        anchor_ms: DAY,
        max_line_bytes: 1 << 18,
        parser_version: 1,
    }
}

fn span(origin: i64, start_bytes: u64, end_bytes: u64, minute: i64) -> Span {
    let mut reasons = Reasons::default();
    reasons.add(Reason::Blank, 2);
    Span {
        origin,
        start_bytes,
        end_bytes,
        rows: 5,
        lines: 7,
        reasons,
        minutes: [((minute, Level::Info), 3), ((minute + 1, Level::Critical), 2)].into(),
        running_ms: Some(DAY),
        crc: u64::MAX,
        marker: u64::MAX - 7,
        markers: vec![Marker { at_ms: 1, position: 2, hash: u64::MAX }],
        first_write_ms: 1,
        last_write_ms: 2,
        ttl_s: Some(3),
        closed: false,
        carried: vec![Carried { thread: u64::MAX, start: 150, text_bytes: 9 }],
        table: Table::Infrastructure,
        source: "syslog".into(),
    }
}

#[test]
fn origins_contexts_and_spans_come_back_as_they_were_for_recovery() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    block_on(store.put_origin(&origin(7), &[context(7)], 1)).unwrap();
    let minute = DAY / 60_000;
    let spans = [span(7, 5, 90, minute), span(7, 90, 200, minute + 1)];
    block_on(store.put_spans(&spans, 10)).unwrap();
    // an older state of a span that comes late
    block_on(store.put_spans(&[span(7, 90, 100, minute)], 3)).unwrap();
    drop(store);
    let store = start(dir.path());
    assert_eq!(block_on(store.last_spans(&[6, 7])).unwrap(), [spans[1].clone()]);
    let expected =
        StoredOrigin { record: origin(7), contexts: vec![context(7)], spans: spans.to_vec() };
    assert_eq!(block_on(store.origins(None)).unwrap(), std::slice::from_ref(&expected));
    assert_eq!(block_on(store.origins(Some("m2"))).unwrap(), []);
    let reader = SqliteReader::new(dir.path().to_owned());
    assert_eq!(block_on(reader.origins(Some("m1"))).unwrap(), [expected]);
    assert_eq!(block_on(reader.sources()).unwrap(), ["syslog"]);
    let grown = block_on(reader.grown(None)).unwrap();
    assert_eq!((grown.spans, grown.mark), (vec![("web1".to_owned(), spans[1].clone())], 11));
    let grown = block_on(reader.grown(Some(10))).unwrap();
    assert_eq!(grown.spans.len(), 1);
    assert_eq!(block_on(reader.grown(Some(11))).unwrap().spans, []);
}

#[test]
fn counts_are_those_of_the_spans_without_expired_days() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    block_on(store.put_origin(&origin(7), &[], 1)).unwrap();
    let minute = DAY / 60_000;
    let spans =
        [span(7, 0, 90, minute), span(7, 90, 200, minute + 1), span(7, 200, 300, minute - 5)];
    block_on(store.put_spans(&spans, 10)).unwrap();
    let reader = SqliteReader::new(dir.path().to_owned());
    let key = |minute, level| CountKey {
        minute,
        table: Table::Infrastructure,
        source: "syslog".into(),
        level,
        host: "web1".into(),
    };
    let mut counts = block_on(reader.counts(DAY, DAY + 120_000)).unwrap();
    counts.sort();
    let expected = [
        (key(minute, Level::Info), 3),
        (key(minute + 1, Level::Info), 3),
        (key(minute + 1, Level::Critical), 2),
    ];
    assert_eq!(counts, expected);
    assert_eq!(block_on(reader.counts(i64::MIN, i64::MAX)).unwrap().len(), 6);
    expire::drop_day(dir.path(), day_of(DAY), "90 days", DAY + 90 * DAY_MS).unwrap();
    assert_eq!(block_on(reader.counts(i64::MIN, i64::MAX)).unwrap().len(), 2);
}

#[test]
fn receipts_watermarks_and_dead_letters_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    let receipt = LossReceipt {
        origin: 7,
        start_bytes: 5,
        end_bytes: None,
        cause: Cause::CutBack,
        source: "syslog".into(),
        host: "web1".into(),
        path: "/var/log/syslog".into(),
        noticed_ms: DAY,
        detail: "cut".into(),
    };
    let mut watermark = Watermark {
        source: "syslog".into(),
        host: "web1".into(),
        seen_ms: DAY,
        written_ms: DAY + 1,
        behind_bytes: 9,
    };
    let letter = DeadLetter {
        table: Table::Application,
        source: "app".into(),
        host: "web1".into(),
        timestamp_ms: DAY,
        origin: 7,
        offset_bytes: 3,
        level: "INFO".into(),
        message: "m".into(),
        metadata: "{}".into(),
        reason: "too large".into(),
        refused_ms: DAY,
    };
    block_on(store.put_receipts(std::slice::from_ref(&receipt), 1)).unwrap();
    block_on(store.put_watermarks(std::slice::from_ref(&watermark), 2)).unwrap();
    watermark.seen_ms += 5;
    block_on(store.put_watermarks(std::slice::from_ref(&watermark), 3)).unwrap();
    block_on(store.put_dead_letters(std::slice::from_ref(&letter), 4)).unwrap();
    let reader = SqliteReader::new(dir.path().to_owned());
    assert_eq!(block_on(reader.receipts()).unwrap(), [receipt]);
    assert_eq!(block_on(reader.watermarks()).unwrap(), [watermark]);
    assert_eq!(block_on(reader.dead_letters()).unwrap(), std::slice::from_ref(&letter));
    block_on(reader.remove_dead_letter(&letter)).unwrap();
    assert_eq!(block_on(reader.dead_letters()).unwrap(), []);
}
