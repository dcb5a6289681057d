//! A store that stands still: it neither answers nor refuses. Clients of the socket do not notice,
//! and everything is there afterwards, once.
//!
//! `BITACORA_FROZEN=SECONDS` freezes it for so long.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::pedantic,
    reason = "a test that fails may panic, and moves files as their owners do"
)]

mod support;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use support::cassandra::{Node, keyspace};
use support::client::Client;
use support::rows::{Expected, day_files};
use support::site::Site;
use support::{PATIENCE, eventually, pause_ms, skip};

/// Between two records of a client.
const PACE_MS: u64 = 20;
/// No receipt and no write may take longer: a spool with room makes nobody wait for the store.
const PROMPT: Duration = Duration::from_secs(2);

fn frozen_for(usual: u64) -> Duration {
    let chosen = std::env::var("BITACORA_FROZEN").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(chosen.unwrap_or(usual))
}

fn stream_of(site: &Site) -> PathBuf {
    site.path("log.sock")
}

fn listen(site: &mut Site) {
    site.socket = format!("stream = {:?}\ndgram = \"\"", stream_of(site));
    site.configure(&[]);
}

/// A client with receipts, one without, and some that come and go.
struct Clients {
    stream: PathBuf,
    numbered: Client,
    plain: UnixStream,
    expected: Expected,
    number: u64,
    /// Milliseconds to each receipt.
    waits: Vec<f64>,
}

impl Clients {
    fn new(site: &Site) -> Self {
        let stream = stream_of(site);
        eventually("the socket is there", || UnixStream::connect(&stream).is_ok());
        let (numbered, plain) = (Client::new(&stream), UnixStream::connect(&stream).unwrap());
        plain.set_write_timeout(Some(PROMPT)).unwrap();
        let expected = Expected::default();
        Self { stream, numbered, plain, expected, number: 0, waits: Vec::new() }
    }

    fn record(&mut self) -> String {
        self.number += 1;
        self.expected.must.insert(self.number);
        format!("{{\"logger\":\"t\",\"message\":\"ln{:08}x while it stands still\"}}", self.number)
    }

    /// Each says something, and nobody waits.
    fn turn(&mut self) {
        let record = self.record();
        let began = Instant::now();
        self.numbered.send(&record);
        assert!(self.numbered.settle(PROMPT), "no receipt within {PROMPT:?}");
        self.waits.push(began.elapsed().as_secs_f64() * 1000.0);
        let record = self.record();
        writeln!(self.plain, "{record}").expect("the plain client is held back");
        if self.number.is_multiple_of(20) {
            let record = self.record();
            let mut passing = UnixStream::connect(&self.stream).expect("a client is refused");
            writeln!(passing, "{record}").expect("a passing client is held back");
        }
        pause_ms(PACE_MS);
    }

    fn turns(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn();
        }
    }

    fn report(&mut self, store: &str, time: Duration) {
        self.waits.sort_by(f64::total_cmp);
        let at = |share: usize| self.waits[(self.waits.len() - 1) * share / 100];
        let (median, p99, most) = (at(50), at(99), at(100));
        eprintln!(
            "{store} frozen for {} s: {} records, receipts after {median:.1} ms (median), \
             {p99:.1} ms (p99), {most:.1} ms (most)",
            time.as_secs(),
            self.number
        );
        assert!(median < 50.0, "the store's time-outs are in the receipts: median {median} ms");
    }
}

fn problem_of_store(site: &Site) -> bool {
    let status = site.json(&["status", "--json"]);
    status["store"]["up"] == false && status["store"]["problem"].is_string()
}

#[test]
fn while_sqlite_is_locked_by_another_clients_are_served_and_nothing_is_lost_or_twice() {
    let mut site = Site::new();
    listen(&mut site);
    let daemon = site.start();
    let mut clients = Clients::new(&site);
    clients.turn();
    site.stores_all(&clients.expected, PATIENCE);
    let time = frozen_for(20);
    let day = day_files(&site.store_dir()).pop().unwrap();
    let holder = rusqlite::Connection::open(day).unwrap();
    holder.busy_timeout(PATIENCE).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    clients.turns(time);
    assert!(problem_of_store(&site), "the lock was not noticed: {}", daemon.said());
    assert!(!clients.expected.all_in(&site.rows()), "the store was not frozen");
    holder.execute_batch("ROLLBACK").unwrap();
    drop(holder);
    clients.turns(Duration::from_secs(2));
    clients.report("SQLite", time);
    site.stores_all(&clients.expected, PATIENCE);
    eventually("the store is back", || !problem_of_store(&site));
    site.ends_well(daemon, &clients.expected);
}

/// The node's process, stopped until this is dropped.
struct Frozen(Pid);

impl Frozen {
    /// The only node that this process has started.
    fn node() -> Self {
        let ours = format!("/cassandra/{}-", std::process::id());
        let processes = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            let is_node =
                |word: &str| word.starts_with("-Dcassandra.storagedir=") && word.contains(&*ours);
            words.any(|word| is_node(&word)).then(|| Pid::from_raw(pid))?
        });
        let nodes: Vec<Pid> = processes.collect();
        assert_eq!(nodes.len(), 1, "one node was started");
        kill_process(nodes[0], Signal::STOP).unwrap();
        Self(nodes[0])
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn while_cassandra_stands_still_clients_are_served_and_nothing_is_lost_or_twice() {
    let name = "while_cassandra_stands_still_clients_are_served_and_nothing_is_lost_or_twice";
    let node = match Node::start(&["--commitlog", "batch"]) {
        Ok(node) => node,
        Err(why) => return skip(name, &why),
    };
    let mut site = Site::on_cassandra(&[&node], keyspace(), "");
    listen(&mut site);
    site.apply_schema();
    let daemon = site.start();
    let mut clients = Clients::new(&site);
    clients.turn();
    site.stores_all(&clients.expected, 2 * PATIENCE);
    let time = frozen_for(30);
    let frozen = Frozen::node();
    clients.turns(time);
    assert!(problem_of_store(&site), "it was not noticed: {}", daemon.said());
    drop(frozen);
    clients.turns(Duration::from_secs(2));
    clients.report("Cassandra", time);
    site.stores_all(&clients.expected, 2 * PATIENCE);
    eventually("the store is back", || !problem_of_store(&site));
    site.ends_well(daemon, &clients.expected);
}
