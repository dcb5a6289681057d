//! The Cassandra store against a bare loop over the scylla crate, both writing the same rows in
//! batches of 1000 to the same node: `cargo bench --bench cassandra [-- BATCHES [IN_FLIGHT]]`.
//!
//! Five pairs, taken in turn; the medians count, since two runs alone differ by a quarter.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a bench")]
#![allow(clippy::cast_precision_loss, reason = "rates are rounded anyway")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitacora::batch::{Batch, Row};
use bitacora::config::Cassandra;
use bitacora::duration::DurationCounts;
use bitacora::key::{DAY_MS, Layout, Partition, RowKey, Table, day_of};
use bitacora::ledger::{Reasons, Span};
use bitacora::record::Level;
use bitacora::stores::cassandra::{CassandraStore, open_session, schema};
use bitacora::stores::{LogReader, Store};

#[path = "support/bare.rs"]
mod bare_loop;
#[path = "../tests/support/cassandra.rs"]
mod node;

use bare_loop::{ROWS, Run, bare, bare_request, run};

const PAIRS: usize = 5;
/// 2026-11-22T00:00:00Z
const DAY_START: i64 = 1_795_305_600_000;

/// Batches of rows like those of an nginx access log; `round` makes their keys new.
fn batches(count: usize, round: i64) -> Vec<Batch> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(round.cast_unsigned() + 1);
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut offset_bytes = 0;
    let mut all = Vec::new();
    for _ in 0..count {
        let key = RowKey { timestamp_ms: DAY_START, origin: round, offset_bytes };
        let partition = Partition {
            table: Table::Infrastructure,
            day: day_of(DAY_START),
            source: Arc::from("nginx/access"),
            bucket: Layout::default().bucket(Level::Info, key),
            user: None,
        };
        let mut batch = Batch::new(partition, Arc::from("web1"));
        batch.stamp = round * 1_000_000_000 + offset_bytes;
        for _ in 0..ROWS {
            let path = format!("/shop/item/{}?page={}", random(50_000), random(20));
            let message = text(&mut batch, &format!("GET {path} HTTP/1.1"));
            let metadata = format!(
                "{{\"remote_addr\":\"203.0.{}.{}\",\"method\":\"GET\",\"path\":\"{path}\",\"status\":\"{}\",\
                 \"body_bytes_sent\":\"{}\",\"http_referer\":\"https://www.example.com/start\",\
                 \"http_user_agent\":\"Mozilla/5.0 (X11; Linux x86_64) Firefox/{}\"}}",
                random(256),
                random(256),
                ["200", "200", "304", "404"][usize::try_from(random(4)).unwrap()],
                random(90_000),
                100 + random(30)
            );
            let metadata = text(&mut batch, &metadata);
            let timestamp_ms = DAY_START + offset_bytes / 400;
            batch.rows.push(Row {
                rung: None,
                key: RowKey { timestamp_ms, origin: round, offset_bytes },
                level: Level::Info,
                message,
                metadata,
                further: None,
            });
            offset_bytes += 254;
        }
        all.push(batch);
    }
    all
}

fn text(batch: &mut Batch, text: &str) -> std::ops::Range<u32> {
    let start = u32::try_from(batch.text.len()).unwrap();
    batch.text.extend_from_slice(text.as_bytes());
    start..u32::try_from(batch.text.len()).unwrap()
}

async fn ours(store: &Arc<CassandraStore>, batches: Vec<Batch>, at_once: usize) -> Run {
    let writes = batches.into_iter().map(|batch| {
        let (store, batch) = (Arc::clone(store), Arc::new(batch));
        async move {
            store.write(batch).await.unwrap();
        }
    });
    run(writes.collect(), at_once).await
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn measure(config: &Cassandra, count: usize, at_once: usize) {
    let session = Arc::new(open_session(config).await.unwrap());
    let request = bare_request(&session, config).await;
    let store = Arc::new(CassandraStore::new(config.clone()));
    store.check().await.unwrap();
    // A server that has just started runs interpreted code.
    ours(&store, batches(count, 1), at_once).await;
    bare(&session, &request, &batches(count, 2), at_once).await;
    println!("{count} batches of {ROWS} rows, {at_once} in flight");
    println!("pair  bare rows/s   p50 ms  p95 ms   ours rows/s   p50 ms  p95 ms   ratio");
    let ms = |wait: Duration| wait.as_secs_f64() * 1000.0;
    let mut pairs = Vec::new();
    for pair in 0..PAIRS {
        let round = i64::try_from(pair).unwrap() * 2 + 10;
        let (bare, ours) = if pair % 2 == 0 {
            let bare = bare(&session, &request, &batches(count, round), at_once).await;
            (bare, ours(&store, batches(count, round + 1), at_once).await)
        } else {
            let ours = ours(&store, batches(count, round + 1), at_once).await;
            (bare(&session, &request, &batches(count, round), at_once).await, ours)
        };
        println!(
            "{pair:4}  {:11.0}  {:7.1} {:7.1}   {:11.0}  {:7.1} {:7.1}   {:5.2}",
            bare.rows_per_s,
            ms(bare.wait(50)),
            ms(bare.wait(95)),
            ours.rows_per_s,
            ms(ours.wait(50)),
            ms(ours.wait(95)),
            ours.rows_per_s / bare.rows_per_s
        );
        pairs.push((bare, ours));
    }
    let of = |value: &dyn Fn(&(Run, Run)) -> f64| median(pairs.iter().map(value).collect());
    println!(
        "median: {:.0} rows/s against {:.0}; ratio {:.2} (at least 0.85), p95 ratio {:.2} (at most 1.2)",
        of(&|(_, ours)| ours.rows_per_s),
        of(&|(bare, _)| bare.rows_per_s),
        of(&|(bare, ours)| ours.rows_per_s / bare.rows_per_s),
        of(&|(bare, ours)| ms(ours.wait(95)) / ms(bare.wait(95))),
    );
}

/// How long it takes to count a day of 100 hosts, a span of each in every hour.
async fn measure_counts(config: &Cassandra) {
    const HOSTS: i64 = 100;
    let writer = CassandraStore::new(config.clone());
    let hour_of = |origin: i64, hour: i64| {
        let first = DAY_START / 60_000 + hour * 60;
        let levels = [Level::Info, Level::Warning, Level::Error];
        let minutes = (first..first + 60)
            .flat_map(|minute| levels.map(|level| ((minute, level), 1000)))
            .collect();
        Span {
            origin,
            start_bytes: hour.cast_unsigned() * 1000,
            end_bytes: hour.cast_unsigned() * 1000 + 1000,
            rows: 180_000,
            lines: 180_000,
            reasons: Reasons::default(),
            minutes,
            durations: Some(DurationCounts::new()),
            running_ms: None,
            crc: 0,
            marker: 0,
            markers: Vec::new(),
            first_write_ms: DAY_START,
            last_write_ms: DAY_START,
            ttl_s: None,
            closed: true,
            carried: Vec::new(),
            table: Table::Infrastructure,
            source: "nginx/access".to_owned(),
        }
    };
    for host in 0..HOSTS {
        // The statistics take the host of the batch that was written last.
        let mut batch = batches(1, host + 1000).remove(0);
        batch.host = Arc::from(format!("web{host}"));
        batch.rows.truncate(1);
        writer.write(Arc::new(batch)).await.unwrap();
        let spans: Vec<Span> = (0..24).map(|hour| hour_of(host, hour)).collect();
        writer.put_spans(&spans, 1).await.unwrap();
    }
    let reader = CassandraStore::new(config.clone());
    for _ in 0..5 {
        let start = Instant::now();
        let counts = reader.counts(DAY_START, DAY_START + DAY_MS).await.unwrap();
        let total: u64 = counts.iter().map(|(_, count)| count).sum();
        println!(
            "a day of {HOSTS} hosts: {total} rows in {} sums, counted in {:?} (at most 200 ms)",
            counts.len(),
            start.elapsed()
        );
    }
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let count = numbers.first().copied().unwrap_or(200);
    let at_once = numbers.get(1).copied().unwrap_or(2);
    let node = match node::shared() {
        Ok(node) => node,
        Err(why) => return node::skipped("cassandra (bench)", why),
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = node.config(&node::keyspace());
        schema::apply(&config, "bench", DAY_START).await.unwrap();
        measure(&config, count, at_once).await;
        measure_counts(&config).await;
    });
    node.stop();
}
