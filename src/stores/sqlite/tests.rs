//! The whole store over real files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::batch::{ApplicationColumns, Row};
use crate::key::{DAY_MS, day_of};
use crate::ledger::{Carried, Cause, Encoding, KernelIdentity, Marker, Reason, Reasons};
use crate::record::Level;
use crate::stores::{CountKey, LogReader, Page, RowQuery, StoredRow};

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
    Batch::new(Partition { table, day: day_of(time), source, bucket: 0 }, "web1".into())
}

fn push(batch: &mut Batch, time: i64, offset_bytes: i64, level: Level, message: &str) {
    let start = u32::try_from(batch.text.len()).unwrap();
    batch.text.extend(message.as_bytes());
    let end = u32::try_from(batch.text.len()).unwrap();
    batch.rows.push(Row {
        key: RowKey { timestamp_ms: time, origin: 7, offset_bytes },
        level,
        message: start..end,
        metadata: 0..0,
        application: None,
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
        key: RowKey { timestamp_ms: DAY + 5, origin: i64::MAX, offset_bytes: 3 },
        level: Level::Critical,
        message: 0..10,
        metadata: 10..19,
        application: Some(0),
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
        application: vec![
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
    let key =
        |minute, level| CountKey { minute, source: "syslog".into(), level, host: "web1".into() };
    let mut counts = block_on(reader.counts(DAY, DAY + 120_000)).unwrap();
    counts.sort();
    let expected = [
        (key(minute, Level::Info), 3),
        (key(minute + 1, Level::Info), 3),
        (key(minute + 1, Level::Critical), 2),
    ];
    assert_eq!(counts, expected);
    assert_eq!(block_on(reader.counts(i64::MIN, i64::MAX)).unwrap().len(), 6);
    SqliteStore::expire_day(dir.path(), day_of(DAY), 0).unwrap();
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

#[test]
fn rows_for_a_day_that_retention_has_dropped_are_expired_and_make_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    write(&store, &one("syslog", DAY, 0, "old", 1));
    write(&store, &one("syslog", DAY + DAY_MS, 10, "young", 2));
    // by another process, while the file is open here
    SqliteStore::expire_day(dir.path(), day_of(DAY), 5).unwrap();
    let written = block_on(store.write(one("syslog", DAY, 20, "late", 3))).unwrap();
    assert_eq!(written.expired, [0]);
    assert_eq!(messages(dir.path()), ["young"]);
    assert!(!files::day_path(dir.path(), day_of(DAY)).exists());
    let key = RowKey { timestamp_ms: DAY, origin: 7, offset_bytes: 0 };
    let old = one("syslog", DAY, 0, "", 1).partition.clone();
    let young = one("syslog", DAY + DAY_MS, 0, "", 1).partition.clone();
    let young_key = RowKey { timestamp_ms: DAY + DAY_MS, origin: 7, offset_bytes: 10 };
    let asked = [(old, key), (young.clone(), young_key), (young, key)];
    let young = Some("young".to_owned());
    assert_eq!(block_on(store.messages(&asked)).unwrap(), [None, young, None]);
}

fn in_wal_mode(path: &Path) -> bool {
    // bytes 18 and 19 of the header: 2 in WAL mode
    fs::read(path).unwrap()[18] == 2
}

#[test]
fn days_beyond_the_limit_leave_wal_mode_and_take_late_rows_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { days_open_max: 2, ..Options::default() };
    let store = SqliteStore::start(dir.path().to_owned(), options).unwrap();
    let path = |number| files::day_path(dir.path(), day_of(DAY) + number);
    for number in 0..3 {
        write(&store, &one("syslog", DAY + i64::from(number) * DAY_MS, 0, "early", 1));
    }
    assert!(!in_wal_mode(&path(0)) && !files::beside(&path(0), "-wal").exists());
    assert!(in_wal_mode(&path(1)) && in_wal_mode(&path(2)));
    write(&store, &one("syslog", DAY, 10, "late", 2));
    assert!(!in_wal_mode(&path(1)));
    assert_eq!(messages(dir.path()), ["early", "late", "early", "early"]);
    block_on(store.close()).unwrap();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.extension().unwrap() == "db" && !in_wal_mode(&path), "{}", path.display());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }
}

#[test]
fn a_day_that_was_being_read_when_it_was_closed_is_settled_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = files::day_path(dir.path(), day_of(DAY));
    let store = start(dir.path());
    write(&store, &one("syslog", DAY, 0, "one", 1));
    let reader = files::open_for_reading(&path).unwrap().unwrap();
    let mut statement = reader.prepare("SELECT message FROM infrastructure_logs").unwrap();
    let mut rows = statement.query([]).unwrap();
    rows.next().unwrap().unwrap();
    block_on(store.close()).unwrap();
    assert!(in_wal_mode(&path));
    drop(rows);
    drop(statement);
    drop(reader);
    let options = Options { settle_after: Duration::ZERO, ..Options::default() };
    let mut writer = Writer::new(dir.path().to_owned(), options);
    writer.look_after_files();
    assert!(!in_wal_mode(&path));
    assert!(messages(dir.path()) == ["one"]);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "what an operator does")]
fn a_day_file_that_was_moved_away_is_made_anew_and_nothing_goes_to_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    write(&store, &one("syslog", DAY, 0, "one", 1));
    let path = files::day_path(dir.path(), day_of(DAY));
    fs::rename(&path, dir.path().join("away")).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(files::beside(&path, suffix));
    }
    write(&store, &one("syslog", DAY, 10, "two", 2));
    assert_eq!(messages(dir.path()), ["two"]);
}

#[test]
fn a_damaged_day_is_an_outage_that_says_what_to_do_and_ends_when_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let path = files::day_path(dir.path(), day_of(DAY));
    fs::write(&path, vec![b'x'; 40_000]).unwrap();
    let store = start(dir.path());
    let batch = one("syslog", DAY, 0, "one", 1);
    let error = block_on(store.write(batch.clone())).unwrap_err();
    assert!(matches!(error, StoreError::Outage { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("2026-11-22.db: it is damaged; move it away"), "{said}");
    // other days go on meanwhile
    write(&store, &one("syslog", DAY + DAY_MS, 10, "two", 2));
    fs::remove_file(&path).unwrap();
    write(&store, &batch);
    assert_eq!(messages(dir.path()), ["one", "two"]);
}

#[test]
fn a_directory_that_cannot_be_made_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("file");
    fs::write(&blocked, "").unwrap();
    let store = start(&blocked.join("logs"));
    let batch = one("syslog", DAY, 0, "one", 1);
    let error = block_on(store.write(batch.clone())).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    fs::remove_file(&blocked).unwrap();
    write(&store, &batch);
    assert_eq!(messages(&blocked.join("logs")), ["one"]);
    let mode = fs::metadata(blocked.join("logs")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
}

#[test]
fn tables_of_a_newer_program_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    block_on(store.check()).unwrap();
    drop(store);
    let connection = Connection::open(files::index_path(dir.path())).unwrap();
    connection.execute("UPDATE schema_version SET version = 99", []).unwrap();
    let store = start(dir.path());
    let error = block_on(store.check()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, known: 1, .. }), "{error}");
    let error = block_on(SqliteReader::new(dir.path().to_owned()).sources()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
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
