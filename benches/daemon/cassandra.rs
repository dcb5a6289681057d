//! A file of nginx lines into a real Cassandra, against the bare loop over the same rows: pairs in
//! turn, on a node of its own, with the same number of batches in flight.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitacora::batch::Batch;
use bitacora::config::Cassandra;
use bitacora::key::{Layout, Table};
use bitacora::ledger::Context;
use bitacora::sources::{Buffers, Chunk, Input, Opening};
use bitacora::stores::cassandra::open_session;
use bitacora::worker::{Fill, FillLimits, Numbers, Output, Worker};
use scylla::client::session::Session;
use scylla::statement::batch::Batch as Request;

use crate::bare_loop::{ROWS, bare, bare_request};
use crate::figures::{Figures, Limit, title};
use crate::lines;
use crate::node::{self, Node};
use crate::process::Daemon;

const POLL: Duration = Duration::from_millis(5);
/// What the daemon has in flight to one node.
const IN_FLIGHT: usize = 3;
const HEAP: &str = "2G";

/// Upper ends of buckets with the count up to each.
type Buckets = Vec<(f64, f64)>;

struct Bench {
    runtime: tokio::runtime::Runtime,
    session: Arc<Session>,
    request: Arc<Request>,
    config: Cassandra,
}

/// File to Cassandra.
pub fn ship(figures: &Figures, scratch: &Path, rows: u64, pairs: usize) {
    title(&format!(
        "cassandra: {rows} nginx combined lines into one node of {HEAP}, {pairs} pairs"
    ));
    let node = match Node::start_with_heap(HEAP, &[]) {
        Ok(node) => node,
        Err(why) => return node::skipped("cassandra (bench)", &why),
    };
    let config = node.config(&node::keyspace());
    let dir = scratch.join("cassandra");
    Daemon::command(&dir, &format!("{}\n", section(&config)), &["schema", "apply"]);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let session = Arc::new(runtime.block_on(open_session(&config)).unwrap());
    let request = runtime.block_on(bare_request(&session, &config));
    let bench = Bench { runtime, session, request, config };
    // a server that has just started runs interpreted code
    let mut written = 0;
    for round in 0..2 {
        written += bench.bare(&dir, rows, round).1;
        written += bench.daemon(&dir, rows, round).1;
    }
    let (mut bare, mut ours, mut ratio, mut late) = (vec![], vec![], vec![], vec![]);
    for pair in 0..pairs as u64 {
        let bare_first = pair.is_multiple_of(2);
        let early = bare_first.then(|| bench.bare(&dir, rows, 10 + pair));
        let (our_run, our_rows) = bench.daemon(&dir, rows, 10 + pair);
        let (bare_run, bare_rows) = early.unwrap_or_else(|| bench.bare(&dir, rows, 10 + pair));
        written += our_rows + bare_rows;
        ratio.push(our_run.rows_per_s / bare_run.rows_per_s);
        late.push(our_run.p95_ms / bare_run.p95_ms);
        bare.push(bare_run);
        ours.push(our_run);
    }
    let rates = |runs: &[Shipped]| runs.iter().map(|run| run.rows_per_s).collect::<Vec<_>>();
    let waits = |runs: &[Shipped]| runs.iter().map(|run| run.p95_ms).collect::<Vec<_>>();
    figures.print("cassandra rate", &rates(&ours), "rows/s", Limit::None);
    figures.print("bare loop rate", &rates(&bare), "rows/s", Limit::None);
    figures.print("cassandra rate to bare loop", &ratio, "", Limit::AtLeast(0.85));
    figures.print("cassandra p95 of a batch", &waits(&ours), "ms", Limit::None);
    figures.print("bare loop p95 of a batch", &waits(&bare), "ms", Limit::None);
    figures.print("cassandra p95 to bare loop", &late, "", Limit::AtMost(1.2));
    let cpu: Vec<f64> = ours.iter().map(|run| run.cpu_s_per_million).collect();
    figures.print("cassandra CPU of the daemon", &cpu, "s a million rows", Limit::None);
    let peak: Vec<f64> = ours.iter().map(|run| run.peak_mib).collect();
    figures.print("cassandra peak RSS", &peak, "MiB", Limit::AtMost(64.0));
    let size = table_bytes(&node, &bench.config.keyspace) / written as f64;
    figures.print("cassandra size after compaction", &[size], "bytes a row", Limit::AtMost(75.0));
    node.stop();
}

struct Shipped {
    rows_per_s: f64,
    p95_ms: f64,
    cpu_s_per_million: f64,
    peak_mib: f64,
}

fn section(config: &Cassandra) -> String {
    format!(
        "[store]\nkind = \"cassandra\"\n[store.cassandra]\nnodes = {:?}\nkeyspace = {:?}",
        config.nodes, config.keyspace
    )
}

impl Bench {
    /// The daemon over a file of its own; the rate from its first batch to its last.
    fn daemon(&self, dir: &Path, rows: u64, seed: u64) -> (Shipped, u64) {
        fs::create_dir_all(dir).unwrap();
        let log = dir.with_extension("log");
        lines::write(&log, rows, 1000 + seed);
        lines::warm(&log);
        let mut daemon = Daemon::start(dir, &section(&self.config), &[log.to_str().unwrap()]);
        let (mut first, mut last) = (None, None);
        let all = rows as f64;
        daemon.watch(POLL, |sample| {
            let (now, taken) = (Instant::now(), sample.rows_taken());
            if taken > 0.0 && first.is_none() {
                first = Some((now, taken));
            }
            if taken >= all && last.is_none() {
                last = Some((now, sample.write_seconds()));
            }
            sample.rows() >= all
        });
        let ((from, before), (to, waits)) = (first.unwrap(), last.unwrap());
        let shipped = Shipped {
            rows_per_s: (all - before) / (to - from).as_secs_f64(),
            p95_ms: p95_ms(&waits),
            cpu_s_per_million: daemon.cpu_seconds() * 1e6 / all,
            peak_mib: daemon.peak_mib(),
        };
        daemon.stop();
        fs::remove_file(log).unwrap();
        (shipped, rows)
    }

    /// The bare loop over rows of a file like the daemon's, parsed before the clock starts.
    fn bare(&self, dir: &Path, rows: u64, seed: u64) -> (Shipped, u64) {
        let log = dir.with_extension("bare.log");
        lines::write(&log, rows, 2000 + seed);
        let batches = parsed(&log, seed);
        fs::remove_file(log).unwrap();
        let (session, request) = (&self.session, &self.request);
        let run = self.runtime.block_on(bare(session, request, &batches, IN_FLIGHT));
        let shipped = Shipped {
            rows_per_s: run.rows_per_s,
            p95_ms: p95_ms(&in_buckets(&run.waits)),
            cpu_s_per_million: 0.0,
            peak_mib: 0.0,
        };
        (shipped, (batches.len() * ROWS) as u64)
    }
}

/// The full batches that a worker makes of a file.
fn parsed(log: &Path, seed: u64) -> Vec<Batch> {
    let bytes = fs::read(log).unwrap();
    let origin = 0x1234_5678_9abc_0000 + i64::try_from(seed).unwrap();
    let mut stamp = 1;
    let take = move |rows: usize| {
        stamp += i64::try_from(rows).unwrap();
        stamp
    };
    let limits = FillLimits { batch_rows: ROWS, batch_age_ms: 1000, open_bytes: 16 << 20 };
    let layouts = Box::new(|_: Table, _: &str, _: i32| Some(Layout::default()));
    let fill = Fill::new(limits, "bench1".into(), layouts, Box::new(take));
    let mut worker = Worker::new(fill, Arc::new(Buffers::default()), Numbers::of_worker(0, 1));
    let context = Context {
        origin,
        from_bytes: 0,
        source: "nginx/access".to_owned(),
        table: Table::Infrastructure,
        format: "nginx/access".to_owned(),
        options: BTreeMap::new(),
        timezone: "UTC".to_owned(),
        anchor_ms: 0,
        max_line_bytes: 256 << 10,
        parser_version: 1,
    };
    let opening = Opening {
        origin,
        at: 0,
        context,
        first_anchor_ms: 0,
        before: Vec::new(),
        running_ms: None,
        carried: Vec::new(),
    };
    let mut output = Output::default();
    worker.take(Input::Open(opening), 0, &mut output).unwrap();
    worker.take(Input::Chunk(Chunk { origin, start: 0, bytes }), 0, &mut output).unwrap();
    output.batches.retain(|batch| batch.rows.len() == ROWS);
    output.batches
}

/// Bare waits as the daemon's metrics would show them, so that both percentiles are read alike.
fn in_buckets(waits: &[Duration]) -> Buckets {
    let ends = bitacora::metrics::WRITE_SECONDS.iter().copied().chain([f64::INFINITY]);
    ends.map(|end| {
        let below = waits.iter().filter(|wait| wait.as_secs_f64() <= end).count();
        (end, below as f64)
    })
    .collect()
}

/// Between the ends of a bucket as if its values lay evenly.
fn p95_ms(buckets: &Buckets) -> f64 {
    let wanted = buckets.last().unwrap().1 * 0.95;
    let (mut low, mut below) = (0.0, 0.0);
    for &(end, count) in buckets {
        if count >= wanted && end.is_finite() {
            return 1000.0 * (low + (end - low) * (wanted - below) / (count - below));
        }
        (low, below) = (end, count);
    }
    f64::INFINITY
}

/// Bytes of the rows' table after a flush and a major compaction.
fn table_bytes(node: &Node, keyspace: &str) -> f64 {
    let table = "infrastructure_logs";
    node.nodetool(&["flush", keyspace, table]);
    node.nodetool(&["compact", keyspace, table]);
    let stats = node.nodetool(&["tablestats", &format!("{keyspace}.{table}")]);
    let live = stats.lines().find_map(|line| line.trim().strip_prefix("Space used (live): "));
    live.unwrap().trim().parse().unwrap()
}
