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
        durations: Some(took(minute, &[20.0, 1500.0])),
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

/// Durations of rows of one minute.
fn took(minute: i64, each_ms: &[f64]) -> DurationCounts {
    let mut of_minute = Durations::default();
    for ms in each_ms {
        of_minute.add(Rung::reached(*ms).unwrap());
    }
    [(minute, of_minute)].into()
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

/// By minute: rows that took a second or longer, that say how long, and of which it is not known.
fn durations(dir: &Path, since_ms: i64, until_ms: i64) -> BTreeMap<i64, [u64; 3]> {
    let second = Rung::reached(1000.0).unwrap();
    let found = block_on(SqliteReader::new(dir.to_owned()).durations(since_ms, until_ms)).unwrap();
    let mut minutes = BTreeMap::new();
    for (key, took) in found {
        assert_eq!((&*key.source, &*key.host), ("syslog", "web1"));
        let counted = took.counted;
        let counts = [counted.at_least(second), counted.at_least(Rung::ANY), took.unknown];
        assert_eq!(minutes.insert(key.minute, counts), None);
    }
    minutes
}

#[test]
fn durations_are_those_of_the_spans_without_expired_days_and_older_spans_are_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    block_on(store.put_origin(&origin(7), &[], 1)).unwrap();
    let minute = DAY / 60_000;
    let old = Span { durations: None, ..span(7, 90, 200, minute + 1) };
    let events = Span { table: Table::Events, ..Span { start_bytes: 300, ..old.clone() } };
    let spans = [span(7, 0, 90, minute), old, span(7, 200, 300, minute - 5), events];
    block_on(store.put_spans(&spans, 10)).unwrap();
    // the same span once more, as it has grown
    let grown = Span { durations: Some(took(minute, &[1.0, 1e3, 1e4])), ..spans[0].clone() };
    block_on(store.put_spans(&[grown], 20)).unwrap();
    let day = [(minute, [2, 3, 0]), (minute + 1, [0, 0, 3]), (minute + 2, [0, 0, 2])];
    assert_eq!(durations(dir.path(), DAY, DAY + 180_000), day.into());
    assert_eq!(durations(dir.path(), DAY, DAY + 60_000), [day[0]].into());
    let before = [(minute - 5, [1, 2, 0])];
    assert_eq!(durations(dir.path(), i64::MIN, DAY), before.into());
    expire::drop_day(dir.path(), day_of(DAY), "90 days", DAY + 90 * DAY_MS).unwrap();
    assert_eq!(durations(dir.path(), i64::MIN, i64::MAX), before.into());
}

#[test]
fn an_index_that_did_not_count_durations_is_read_as_it_is_and_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    block_on(store.put_origin(&origin(7), &[], 1)).unwrap();
    let minute = DAY / 60_000;
    block_on(store.put_spans(&[span(7, 0, 90, minute)], 10)).unwrap();
    block_on(store.close()).unwrap();
    drop(store);
    let index = Connection::open(files::index_path(dir.path())).unwrap();
    index
        .execute_batch(
            "ALTER TABLE spans DROP COLUMN durations; DROP TABLE expired_origins; \
             UPDATE schema_version SET version = 2;",
        )
        .unwrap();
    drop(index);
    let unknown = [(minute, [0, 0, 3]), (minute + 1, [0, 0, 2])];
    assert_eq!(durations(dir.path(), DAY, DAY + 120_000), unknown.into());
    let reader = SqliteReader::new(dir.path().to_owned());
    let old = Span { durations: None, ..span(7, 0, 90, minute) };
    let known = block_on(reader.origins(None)).unwrap();
    assert_eq!(known[0].spans, std::slice::from_ref(&old));
    // the daemon goes on from it, and closes it with what it knows
    let store = start(dir.path());
    assert_eq!(block_on(store.last_spans(&[7])).unwrap(), std::slice::from_ref(&old));
    let next = span(7, 90, 200, minute);
    block_on(store.put_spans(&[Span { closed: true, ..old }, next], 20)).unwrap();
    let both = [(minute, [1, 2, 3]), (minute + 1, [0, 0, 2])];
    assert_eq!(durations(dir.path(), DAY, DAY + 120_000), both.into());
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
