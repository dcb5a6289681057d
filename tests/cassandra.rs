//! The Cassandra store against real nodes.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitacora::batch::{ApplicationColumns, Batch, Row};
use bitacora::config::{Cassandra, Tls};
use bitacora::key::{DAY_MS, Layout, Partition, RowKey, Table, day_of};
use bitacora::ledger::{
    Cause, Context, DeadLetter, Encoding, KernelIdentity, LossReceipt, Marker, OriginRecord,
    Reason, Span, Watermark,
};
use bitacora::record::Level;
use bitacora::stores::cassandra::{CassandraStore, report, schema};
use bitacora::stores::{LogReader, RowQuery, Store, StoreError, StoredRow};
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use support::cassandra::{Node, keyspace, shared, skipped};

mod support {
    pub mod cassandra;
}

/// 2026-11-22T00:00:00Z
const DAY_START: i64 = 1_795_305_600_000;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// Runs a test on a keyspace of its own, or says why it cannot.
fn on_tables<F: Future<Output = ()>>(
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

async fn session(config: &Cassandra) -> Session {
    SessionBuilder::new().known_nodes(&config.nodes).build().await.unwrap()
}

async fn cql(session: &Session, text: &str) {
    session.query_unpaged(text, ()).await.unwrap_or_else(|error| panic!("{text}: {error}"));
}

async fn within<F: Future<Output = bool>>(
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
struct Line {
    table: Table,
    source: &'static str,
    host: &'static str,
    at_ms: i64,
    offset: i64,
    level: Level,
    text: String,
}

fn line(at_ms: i64, offset: i64, level: Level, text: &str) -> Line {
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
fn batches(store: &CassandraStore, lines: &[Line], stamp: i64) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for line in lines {
        let key = RowKey { timestamp_ms: line.at_ms, origin: 77, offset_bytes: line.offset };
        let day = day_of(line.at_ms);
        let layout = store.layout(line.table, line.source, day).unwrap();
        let bucket = layout.bucket(line.level, key);
        let partition =
            Partition { table: line.table, day, source: Arc::from(line.source), bucket };
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

fn push(batch: &mut Batch, key: RowKey, level: Level, message: &str, metadata: &str) {
    let message = append(batch, message.as_bytes());
    let metadata = append(batch, metadata.as_bytes());
    batch.rows.push(Row { key, level, message, metadata, application: None });
}

fn append(batch: &mut Batch, text: &[u8]) -> std::ops::Range<u32> {
    let start = u32::try_from(batch.text.len()).unwrap();
    batch.text.extend_from_slice(text);
    start..u32::try_from(batch.text.len()).unwrap()
}

async fn write(store: &CassandraStore, lines: &[Line], stamp: i64) {
    store.check().await.unwrap();
    for batch in batches(store, lines, stamp) {
        store.write(Arc::new(batch)).await.unwrap();
    }
}

/// A closed span with the counts of these lines, so that readers know of their partitions.
fn span(lines: &[Line], source: &str, start_bytes: u64) -> Span {
    let mut minutes = bitacora::ledger::MinuteCounts::new();
    for line in lines {
        *minutes.entry((line.at_ms.div_euclid(60_000), line.level)).or_default() += 1;
    }
    let mut reasons = bitacora::ledger::Reasons::default();
    reasons.add(Reason::Blank, 2);
    Span {
        origin: 77,
        start_bytes,
        end_bytes: start_bytes + 1000,
        rows: lines.len() as u64,
        lines: lines.len() as u64 + 2,
        reasons,
        minutes,
        running_ms: Some(DAY_START),
        crc: u64::MAX - 3,
        marker: 1 << 63,
        markers: vec![Marker { at_ms: 5, position: 6, hash: u64::MAX }],
        first_write_ms: DAY_START,
        last_write_ms: DAY_START + 1,
        ttl_s: Some(90 * 86_400),
        closed: true,
        carried: Vec::new(),
        table: Table::Infrastructure,
        source: source.to_owned(),
    }
}

fn all() -> RowQuery {
    RowQuery { limit: 10_000, ..RowQuery::default() }
}

async fn rows(store: &CassandraStore, query: &RowQuery) -> Vec<StoredRow> {
    store.rows(query).await.unwrap().rows
}

fn messages(rows: &[StoredRow]) -> Vec<&str> {
    rows.iter().map(|row| row.message.as_str()).collect()
}

#[test]
fn two_hosts_that_apply_the_schema_at_once_make_it_once() {
    let name = "two_hosts_that_apply_the_schema_at_once_make_it_once";
    let node = match shared() {
        Ok(node) => node,
        Err(why) => return skipped(name, why),
    };
    let config = node.config(&keyspace());
    block_on(async {
        let unmade = CassandraStore::new(config.clone());
        assert!(matches!(unmade.check().await, Err(StoreError::Schema { .. })));
        assert_eq!(schema::plan(&config).await.unwrap().len(), schema::MIGRATIONS.len());
        assert!(!report::check(&config).await.unwrap().works());

        let (one, two) =
            tokio::join!(schema::apply(&config, "a", 1), schema::apply(&config, "b", 2));
        let done = one.unwrap().len() + two.unwrap().len();
        assert_eq!(done, schema::MIGRATIONS.len(), "each migration is recorded once");
        assert!(schema::plan(&config).await.unwrap().is_empty());
        assert!(schema::apply(&config, "a", 3).await.unwrap().is_empty(), "twice changes nothing");
        unmade.check().await.expect("the waiting store finds its tables");

        let report = report::check(&config).await.unwrap();
        assert!(report.works(), "{report:?}");
        let said = report.findings.iter().any(|finding| {
            finding.weight == report::Weight::Warning && finding.text.contains("not promised")
        });
        assert!(said, "one replica and a periodic commit log: {report:?}");

        let session = session(&config).await;
        let newer = "INSERT INTO $.schema_version (name, version) VALUES ('migration', 99)";
        cql(&session, &newer.replace('$', &config.keyspace)).await;
        assert!(matches!(unmade.check().await, Err(StoreError::Newer { found: 99, .. })));
        assert!(matches!(schema::apply(&config, "a", 4).await, Err(StoreError::Newer { .. })));
        assert!(!report::check(&config).await.unwrap().works());
    });
}

#[test]
fn a_batch_written_twice_is_there_once_with_all_its_columns() {
    on_tables("a_batch_written_twice_is_there_once_with_all_its_columns", |_, store| async move {
        store.check().await.unwrap();
        let partition = Partition {
            table: Table::Application,
            day: day_of(DAY_START),
            source: Arc::from("app"),
            bucket: 2,
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
        batch.rows[1].application = Some(0);
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
        assert_eq!((first.metadata.as_str(), first.application.len()), ("", 0));
        assert_eq!((second.host.as_str(), second.source.as_str()), ("web1", "app"));
        assert_eq!(second.metadata, r#"{"path":"/ä"}"#);
        let further: Vec<(&str, &str)> =
            second.application.iter().map(|(name, value)| (*name, value.as_str())).collect();
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
        assert_eq!(store.present(&asked).await.unwrap(), [true, false, true]);
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

/// Lines over two days, of all levels, two sources, two hosts and both tables.
fn spread() -> Vec<Line> {
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

fn expected(lines: &[Line], wanted: impl Fn(&Line) -> bool) -> Vec<String> {
    let mut found: Vec<&Line> = lines.iter().filter(|line| wanted(line)).collect();
    found.sort_by_key(|line| (line.at_ms, line.offset));
    found.iter().map(|line| line.text.clone()).collect()
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

#[test]
fn only_rows_that_are_to_blame_are_called_invalid() {
    on_tables("only_rows_that_are_to_blame_are_called_invalid", |config, store| async move {
        let good = [line(DAY_START, 0, Level::Info, "good")];
        write(&store, &good, 1).await;
        let large = [line(DAY_START, 1, Level::Info, &"x".repeat(17 << 20))];
        let large = Arc::new(batches(&store, &large, 2).remove(0));
        let error = store.write(large).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "too large: {error}");
        let mut broken = batches(&store, &good, 3).remove(0);
        broken.text[0] = 0xff;
        let error = store.write(Arc::new(broken)).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "not UTF-8: {error}");
        write(&store, &good, 4).await;

        let session = session(&config).await;
        let table = format!("{}.infrastructure_logs", config.keyspace);
        cql(&session, &format!("DROP TABLE {table}")).await;
        let again = Arc::new(batches(&store, &good, 5).remove(0));
        for attempt in 0..3 {
            let error = store.write(Arc::clone(&again)).await.unwrap_err();
            assert!(matches!(error, StoreError::Schema { .. }), "{attempt}: {error}");
        }
        assert!(!report::check(&config).await.unwrap().works());
        // A person makes the table again: the same store goes on.
        cql(
            &session,
            &format!("DELETE FROM {}.schema_version WHERE name = 'migration'", config.keyspace),
        )
        .await;
        schema::apply(&config, "test", DAY_START).await.unwrap();
        store.write(again).await.expect("the table is back");
    });
}

#[test]
fn rows_live_as_long_as_the_configuration_says() {
    on_tables("rows_live_as_long_as_the_configuration_says", |mut config, store| async move {
        write(&store, &[line(DAY_START, 0, Level::Info, "by the table")], 1).await;
        config.ttl = Some(Duration::from_secs(86_400));
        let shorter = CassandraStore::new(config.clone());
        write(&shorter, &[line(DAY_START, 1, Level::Info, "by the row")], 2).await;
        let session = session(&config).await;
        let text = format!(
            "SELECT offset_bytes, ttl(message) FROM {}.infrastructure_logs",
            config.keyspace
        );
        let answer = session.query_unpaged(text, ()).await.unwrap().into_rows_result().unwrap();
        let mut found: Vec<(i64, i32)> = answer.rows().unwrap().map(Result::unwrap).collect();
        found.sort_unstable();
        assert!((90 * 86_400 - 100..=90 * 86_400).contains(&found[0].1), "{found:?}");
        assert!((86_400 - 100..=86_400).contains(&found[1].1), "{found:?}");
        let report = report::check(&config).await.unwrap();
        let warned = report.findings.iter().any(|finding| finding.text.contains("ALTER TABLE"));
        assert!(warned && report.works(), "{report:?}");
    });
}

#[test]
fn a_cluster_that_is_not_there_is_waited_for() {
    let name = "a_cluster_that_is_not_there_is_waited_for";
    let node = match shared() {
        Ok(node) => node,
        Err(why) => return skipped(name, why),
    };
    block_on(async {
        let mut config = node.config("nowhere");
        config.nodes = vec!["127.0.0.1:1".to_owned()];
        let store = CassandraStore::new(config);
        let error = store.check().await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");

        let mut config = node.config("nowhere");
        config.datacenter = "elsewhere".to_owned();
        let error = CassandraStore::new(config).check().await.unwrap_err();
        assert!(error.to_string().contains("datacenter1"), "it names those there are: {error}");
    });
}

#[test]
fn a_node_that_is_killed_and_comes_back_is_written_to_again() {
    let name = "a_node_that_is_killed_and_comes_back_is_written_to_again";
    let node = match Node::start(&[]) {
        Ok(node) => node,
        Err(why) => return skipped(name, &why),
    };
    let config = node.config(&keyspace());
    block_on(async {
        schema::apply(&config, "test", DAY_START).await.unwrap();
        let store = CassandraStore::new(config.clone());
        let lines = spread();
        write(&store, &lines[..300], 100).await;
        let batch = Arc::new(batches(&store, &lines[300..301], 200).remove(0));
        node.kill();
        within("a failed write", Duration::from_secs(30), async || {
            match store.write(Arc::clone(&batch)).await {
                Ok(_) => false,
                Err(error) => {
                    let waits = !matches!(error, StoreError::Invalid { .. });
                    assert!(waits, "an outage is nobody's fault: {error}");
                    true
                }
            }
        })
        .await;
        node.restart();
        within("a write after the restart", Duration::from_secs(30), async || {
            store.write(Arc::clone(&batch)).await.is_ok()
        })
        .await;
        write(&store, &lines, 300).await;
        let mut keys = 0;
        let mut visit = |_: Table, _: RowKey| {
            keys += 1;
            true
        };
        store.visit_keys(&mut visit).await.unwrap();
        assert_eq!(keys, 600, "what was there and what came later, once each");
    });
}

#[test]
fn a_password_and_certificates_are_used_and_a_lost_permission_waits() {
    let name = "a_password_and_certificates_are_used_and_a_lost_permission_waits";
    let node = match Node::start(&["--auth", "--mutual-tls"]) {
        Ok(node) => node,
        Err(why) => return skipped(name, &why),
    };
    let dir = tempfile::tempdir().unwrap();
    let password = |name: &str, text: &str| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        Some(file)
    };
    let mut admin = node.config(&keyspace());
    admin.username = Some("cassandra".to_owned());
    admin.password_file = password("admin", "cassandra\n");
    admin.tls = Some(Tls {
        ca_file: node.tls_dir().join("ca.pem"),
        cert_file: Some(node.tls_dir().join("client.pem")),
        key_file: Some(node.tls_dir().join("client.key")),
    });
    block_on(async {
        schema::apply(&admin, "test", DAY_START).await.unwrap();
        let session = bitacora::stores::cassandra::open_session(&admin).await.unwrap();
        cql(&session, "CREATE ROLE shipper WITH PASSWORD = 'kept secret' AND LOGIN = true").await;
        for permission in ["SELECT", "MODIFY"] {
            let on = format!("ON KEYSPACE {} TO shipper", admin.keyspace);
            cql(&session, &format!("GRANT {permission} {on}")).await;
        }

        let mut wrong = admin.clone();
        wrong.username = Some("shipper".to_owned());
        wrong.password_file = password("wrong", "guessed");
        let error = CassandraStore::new(wrong.clone()).check().await.unwrap_err();
        assert!(matches!(error, StoreError::Outage { .. }), "{error}");
        assert!(!error.to_string().contains("guessed"), "{error}");
        let mut anonymous = admin.clone();
        anonymous.username = None;
        let error = CassandraStore::new(anonymous).check().await.unwrap_err();
        assert!(error.to_string().contains("username"), "{error}");
        let mut plain = admin.clone();
        plain.tls = None;
        assert!(CassandraStore::new(plain).check().await.is_err());

        let mut shipper = wrong;
        shipper.password_file = password("right", "kept secret\n");
        let store = CassandraStore::new(shipper);
        let lines = [line(DAY_START, 0, Level::Info, "with a password")];
        write(&store, &lines, 1).await;
        store.put_spans(&[span(&lines, "nginx/access", 0)], 1).await.unwrap();
        assert_eq!(messages(&rows(&store, &all()).await), ["with a password"]);

        let revoked = format!("REVOKE MODIFY ON KEYSPACE {} FROM shipper", admin.keyspace);
        cql(&session, &revoked).await;
        let batch = Arc::new(batches(&store, &lines, 2).remove(0));
        let error = store.write(Arc::clone(&batch)).await.unwrap_err();
        assert!(matches!(error, StoreError::Outage { .. }), "{error}");
        let granted = format!("GRANT MODIFY ON KEYSPACE {} TO shipper", admin.keyspace);
        cql(&session, &granted).await;
        store.write(batch).await.expect("the permission is back");
    });
}

#[test]
fn a_server_with_smaller_limits_is_understood() {
    let name = "a_server_with_smaller_limits_is_understood";
    let limits = ["max_mutation_size: 512KiB", "native_transport_max_frame_size: 2MiB"];
    let node = match Node::start(&["--yaml", limits[0], "--yaml", limits[1]]) {
        Ok(node) => node,
        Err(why) => return skipped(name, &why),
    };
    let config = node.config(&keyspace());
    block_on(async {
        schema::apply(&config, "test", DAY_START).await.unwrap();
        let store = CassandraStore::new(config.clone());
        let good = [line(DAY_START, 0, Level::Info, "good")];
        write(&store, &good, 1).await;
        for size in [1 << 20, 3 << 20] {
            let large = [line(DAY_START, 1, Level::Info, &"x".repeat(size))];
            let batch = batches(&store, &large, 2).remove(0);
            let error = store.write(Arc::new(batch)).await.unwrap_err();
            assert!(matches!(error, StoreError::Invalid { .. }), "{size} bytes: {error}");
            write(&store, &good, 4).await;
        }
    });
}
