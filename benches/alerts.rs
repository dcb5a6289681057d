//! How long the rules over rows take against a full day in the `SQLite` store.
//!
//! `cargo bench --bench alerts -- [ROWS] [DIR]`; 10,000,000 rows of the last 24 hours by default,
//! written by the store's own statements, into a temporary directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a benchmark that fails may panic"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitacora::batch::{ApplicationColumns, Batch, Row};
use bitacora::config::{Rule, RuleKind};
use bitacora::duration::{DurationCounts, Rung};
use bitacora::key::{DAY_MS, Partition, RowKey, Table, day_of};
use bitacora::ledger::{KernelIdentity, OriginRecord, Reasons, Span};
use bitacora::maintain::alerts::{logs, store};
use bitacora::record::Level;
use bitacora::stores::Store;
use bitacora::stores::sqlite::{Options, SqliteReader, SqliteStore};

const BATCH_ROWS: usize = 1000;
const FLIGHT: usize = 16;
const SPAN_BATCHES: usize = 100;
const SOURCES: [(Table, &str); 4] = [
    (Table::Infrastructure, "nginx/access"),
    (Table::Infrastructure, "nginx/error"),
    (Table::Application, "shop"),
    (Table::Application, "worker"),
];

fn main() {
    let given: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let rows: usize = given.first().map_or(10_000_000, |text| text.parse().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let dir = given.get(1).map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let started = Instant::now();
    runtime.block_on(fill(&dir, rows, now_ms));
    println!("{rows} rows of 24 hours, written in {:.0?}", started.elapsed());
    let reader = SqliteReader::new(dir);
    for (what, rules) in sets() {
        let mut times = Vec::new();
        let mut found = Vec::new();
        for _ in 0..11 {
            let started = Instant::now();
            found = runtime.block_on(async {
                let _ = store::ask(&reader).await;
                let mut found = logs::look(&reader, &rules, "web1", now_ms).await;
                found.push(store::dead_letters(&reader, "web1").await);
                found.push(store::losses(&reader, "web1", now_ms, now_ms).await);
                found
            });
            times.push(started.elapsed());
        }
        times.sort();
        println!("{what}: median {:.1?}, slowest {:.1?}", times[5], times[10]);
        for finding in found {
            println!("    {:?} {}: {}", finding.status, finding.name(), finding.detail);
        }
    }
}

fn seconds(seconds: u64) -> Rung {
    Rung::exactly(Duration::from_secs(seconds)).unwrap()
}

fn rule(name: &str, kind: RuleKind, minutes: u64) -> Rule {
    Rule {
        name: name.into(),
        kind,
        source: String::new(),
        level: String::new(),
        logger: String::new(),
        host: String::new(),
        per: Duration::from_mins(minutes),
        above: 10,
        slow: seconds(1),
    }
}

/// Rules that find much, and rules that find nothing, which is where all rows are looked at.
fn sets() -> [(&'static str, Vec<Rule>); 4] {
    let errors = || rule("errors", RuleKind::Errors, 5);
    let logger = |name: &str, logger: &str| Rule {
        logger: logger.into(),
        ..rule(name, RuleKind::Errors, 5)
    };
    let slow = |name: &str, rung| Rule { slow: rung, ..rule(name, RuleKind::Slow, 5) };
    let silent =
        |source: &str| Rule { source: source.into(), ..rule("silent", RuleKind::Silent, 60) };
    [
        ("errors alone, as without configuration", vec![errors()]),
        (
            "errors, logger, slow and silent, all found",
            vec![errors(), logger("pay", "pay"), slow("slow", seconds(1)), silent("shop")],
        ),
        (
            "logger and slow, nothing found",
            vec![errors(), logger("nobody", "nobody"), slow("never", seconds(60))],
        ),
        ("one of a day, by the statistics", vec![rule("a day", RuleKind::Errors, 24 * 60)]),
    ]
}

struct Growing {
    start: i64,
    end: i64,
    rows: u64,
    minutes: BTreeMap<(i64, Level), u64>,
    durations: DurationCounts,
}

async fn fill(dir: &Path, rows: usize, now_ms: i64) {
    let store = Arc::new(SqliteStore::start(dir.to_owned(), Options::default()).unwrap());
    store.check().await.unwrap();
    for (at, (_, source)) in SOURCES.iter().enumerate() {
        store.put_origin(&origin(at, source), &[], 1).await.unwrap();
    }
    let mut flying = VecDeque::new();
    let (minutes, durations) = (BTreeMap::new(), DurationCounts::new());
    let new = || {
        let (minutes, durations) = (minutes.clone(), durations.clone());
        Growing { start: 0, end: 0, rows: 0, minutes, durations }
    };
    let mut growing: Vec<Growing> = SOURCES.iter().map(|_| new()).collect();
    let batches = rows / BATCH_ROWS;
    for number in 0..batches {
        let batch = Arc::new(make(number, batches, now_ms));
        let of = &mut growing[number % SOURCES.len()];
        for row in &batch.rows {
            of.rows += 1;
            of.end = row.key.offset_bytes + 100;
            let minute = row.key.timestamp_ms.div_euclid(60_000);
            *of.minutes.entry((minute, row.level)).or_default() += 1;
            if let Some(rung) = row.rung {
                of.durations.entry(minute).or_default().add(rung);
            }
        }
        let writer = Arc::clone(&store);
        flying.push_back(tokio::spawn(async move { writer.write(batch).await.unwrap() }));
        if flying.len() == FLIGHT {
            flying.pop_front().unwrap().await.unwrap();
        }
        let round = number / SOURCES.len();
        if round % SPAN_BATCHES == SPAN_BATCHES - 1 || number + SOURCES.len() >= batches {
            let span = span(number % SOURCES.len(), of, now_ms);
            let next = Growing { start: of.end, ..new() };
            *of = Growing { end: next.start, ..next };
            store.put_spans(&[span], i64::try_from(number).unwrap() + 2).await.unwrap();
        }
    }
    for flight in flying {
        flight.await.unwrap();
    }
    store.close().await.unwrap();
}

fn origin_id(at: usize) -> i64 {
    0x1357_9bdf_2468_0000 + i64::try_from(at).unwrap()
}

fn origin(at: usize, source: &str) -> OriginRecord {
    OriginRecord {
        id: origin_id(at),
        machine: "m".into(),
        host: "web1".into(),
        path: format!("/var/log/{source}").into(),
        kernel: KernelIdentity::default(),
        head_hash: 0,
        head_bytes: 0,
        first_offset: 0,
        born_ms: 0,
        encoding: bitacora::ledger::Encoding::Plain,
    }
}

fn span(at: usize, of: &Growing, now_ms: i64) -> Span {
    let (table, source) = SOURCES[at];
    Span {
        origin: origin_id(at),
        start_bytes: of.start.unsigned_abs(),
        end_bytes: of.end.unsigned_abs(),
        rows: of.rows,
        lines: of.rows,
        reasons: Reasons::default(),
        minutes: of.minutes.clone(),
        durations: Some(of.durations.clone()),
        running_ms: None,
        crc: 0,
        marker: 0,
        markers: Vec::new(),
        first_write_ms: now_ms,
        last_write_ms: now_ms,
        ttl_s: None,
        closed: true,
        carried: Vec::new(),
        table,
        source: source.into(),
    }
}

/// The batch of this number: sources take turns, times go on evenly up to now. A batch at midnight
/// keeps the day of its first row.
fn make(number: usize, batches: usize, now_ms: i64) -> Batch {
    let (batches, number) = (i64::try_from(batches).unwrap(), i64::try_from(number).unwrap());
    let rows = i64::try_from(BATCH_ROWS).unwrap();
    let time = |row: i64| now_ms - DAY_MS + (number * rows + row) * DAY_MS / (batches * rows);
    let at = usize::try_from(number).unwrap() % SOURCES.len();
    let (table, source) = SOURCES[at];
    let day = day_of(time(0));
    let partition = Partition { table, day, source: source.into(), bucket: 0, user: None };
    let mut batch = Batch::new(partition, "web1".into());
    batch.stamp = number + 1;
    let midnight = (i64::from(day) + 1) * DAY_MS - 1;
    for row in 0..rows {
        let id = number / 4 * rows + row;
        let slice =
            |from: usize, to: usize| u32::try_from(from).unwrap()..u32::try_from(to).unwrap();
        let start = batch.text.len();
        write!(
            batch.text,
            "GET /catalogue/item/{id}?page=2&sort=price HTTP/1.1 and what else there is"
        )
        .unwrap();
        let middle = batch.text.len();
        write!(
            batch.text,
            r#"{{"remote_addr":"203.0.113.{}","method":"GET","status":"200"}}"#,
            id % 250
        )
        .unwrap();
        let end = batch.text.len();
        batch.text.extend_from_slice(if id % 2 == 0 { b"pay" } else { b"cart" });
        let logger = slice(end, batch.text.len());
        let took = if id % 1000 == 0 { 1500.0 } else { 12.5 };
        let rung = Rung::reached(took).filter(|_| table == Table::Application);
        let further = (table == Table::Application).then(|| {
            batch.application.push(ApplicationColumns {
                logger: Some(logger),
                duration_ms: Some(took),
                ..ApplicationColumns::default()
            });
            u32::try_from(batch.application.len() - 1).unwrap()
        });
        batch.rows.push(Row {
            rung,
            key: RowKey {
                timestamp_ms: time(row).min(midnight),
                origin: origin_id(at),
                offset_bytes: id * 100,
            },
            level: if id % 100 == 0 { Level::Error } else { Level::Info },
            message: slice(start, middle),
            metadata: slice(middle, end),
            further,
        });
    }
    batch
}
