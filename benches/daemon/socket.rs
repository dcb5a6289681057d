//! Clients of the socket: how many records get their receipts, how soon, and what many clients
//! that are only connected cost.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::figures::{Figures, Limit, percentile, title};
use crate::process::Daemon;
use crate::throughput::sqlite_in;

const CLIENTS: u64 = 4;
/// Records of one write.
const AT_ONCE: u64 = 100;
/// Records of one client without a receipt.
const WINDOW: u64 = 500;
/// Length of a record with its line end.
const RECORD_BYTES: usize = 300;
/// Between two writes of a client that does not send as fast as it can: 200,000 records/s in all.
const PACE: Duration = Duration::from_millis(2);
/// Connections that say nothing.
const IDLE: usize = 990;

/// Receipts without a store, rows with one, and idle connections beside both.
pub fn socket(figures: &Figures, scratch: &Path, records: u64) {
    title(&format!("socket: {CLIENTS} clients, {records} records of {RECORD_BYTES} bytes"));
    let dir = scratch.join("socket");
    // nobody listens there: everything stays in the spool
    let store = "[store]\nkind = \"cassandra\"\n[store.cassandra]\nnodes = [\"127.0.0.1:9\"]";
    let daemon = Daemon::start(&dir, store, &[]);
    let (rate, waits) = send(&dir, records, Duration::ZERO);
    figures.print("socket to spool, receipts", &[rate], "records/s", Limit::AtLeast(150_000.0));
    figures.print("receipt p99 at that", &[percentile(&waits, 99)], "ms", Limit::None);
    let (rate, waits) = send(&dir, records, PACE);
    figures.print("socket to spool, paced", &[rate], "records/s", Limit::AtLeast(150_000.0));
    figures.print("receipt p99 at that", &[percentile(&waits, 99)], "ms", Limit::AtMost(20.0));
    figures.print("receipt median at that", &[percentile(&waits, 50)], "ms", Limit::None);
    drop(daemon);
    let mut daemon = Daemon::start(&dir, &sqlite_in(&dir.join("store")), &[]);
    let idle: Vec<UnixStream> = (0..IDLE).map(|_| connect(&dir)).collect();
    let began = Instant::now();
    send(&dir, records, Duration::ZERO);
    daemon.watch(Duration::from_millis(20), |sample| sample.rows() >= records as f64);
    let rate = records as f64 / began.elapsed().as_secs_f64();
    figures.print("socket to SQLite rows", &[rate], "records/s", Limit::AtLeast(100_000.0));
    let peak = daemon.peak_mib();
    figures.print("peak RSS, 1000 clients connected", &[peak], "MiB", Limit::AtMost(64.0));
    drop(idle);
    daemon.stop();
    fs::remove_dir_all(dir).unwrap();
}

/// Connects, once somebody listens.
pub fn connect(dir: &Path) -> UnixStream {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match UnixStream::connect(dir.join("log.sock")) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "no socket: {error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Records a second, and the milliseconds from each write to its receipt.
fn send(dir: &Path, records: u64, pace: Duration) -> (f64, Vec<f64>) {
    drop(connect(dir));
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let stream = connect(dir);
            thread::spawn(move || one(stream, client, records / CLIENTS, pace))
        })
        .collect();
    let waits: Vec<f64> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    (records as f64 / began.elapsed().as_secs_f64(), waits)
}

fn one(mut stream: UnixStream, client: u64, records: u64, pace: Duration) -> Vec<f64> {
    let id = uuid::Uuid::new_v4();
    let hello = format!("{{\"bitacora\":1,\"ack\":true,\"client\":\"{id}\",\"next\":1}}\n");
    stream.write_all(hello.as_bytes()).unwrap();
    let acked = Arc::new((Mutex::new((0_u64, Vec::new())), Condvar::new()));
    let (answers, told) = (BufReader::new(stream.try_clone().unwrap()), Arc::clone(&acked));
    let reader = thread::spawn(move || {
        for line in answers.lines().map_while(Result::ok) {
            let digits: String = line.chars().filter(char::is_ascii_digit).collect();
            let number = digits.parse::<u64>().unwrap();
            if line.starts_with("{\"acked\"") {
                let mut known = told.0.lock().unwrap();
                known.0 = number;
                known.1.push((number, Instant::now()));
                told.1.notify_one();
                if number >= records {
                    return;
                }
            }
        }
    });
    let head = format!(
        "{{\"timestamp\":\"2026-11-22T10:11:12.345678Z\",\"level\":\"INFO\",\"logger\":\"shop.cart\",\
         \"request_id\":\"6f1c6a52-8b0e-4f43-9c37-3d3ab0d1a4cd\",\"user_id\":{client},\"message\":\""
    );
    let text = format!("{head}{}\"}}\n", "m".repeat(RECORD_BYTES - head.len() - 3));
    let block = text.repeat(usize::try_from(AT_ONCE).unwrap());
    let mut written = Vec::new();
    let mut due = Instant::now();
    for first in (0..records).step_by(usize::try_from(AT_ONCE).unwrap()) {
        let mut known = acked.0.lock().unwrap();
        while first + AT_ONCE > known.0 + WINDOW {
            known = acked.1.wait(known).unwrap();
        }
        drop(known);
        due += pace;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        written.push((first + AT_ONCE, Instant::now()));
        stream.write_all(block.as_bytes()).unwrap();
    }
    reader.join().unwrap();
    let receipts = std::mem::take(&mut acked.0.lock().unwrap().1);
    let mut receipts = receipts.iter().peekable();
    let wait = |(last, at): &(u64, Instant)| {
        while receipts.next_if(|(number, _)| number < last).is_some() {}
        receipts.peek().map_or(f64::NAN, |(_, came)| (*came - *at).as_secs_f64() * 1000.0)
    };
    written.iter().map(wait).collect()
}
