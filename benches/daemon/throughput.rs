//! A file of nginx lines into the null store and into `SQLite`, as fast as it goes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::figures::{Figures, Limit, median, title};
use crate::lines;
use crate::process::{Daemon, bytes_below};

const SEED: u64 = 3;
const POLL: Duration = Duration::from_millis(10);
/// A rate is taken between these shares of the rows: the start of the process and the last span,
/// which waits up to a second for company, belong to no rate.
const FROM: f64 = 0.02;
const TO: f64 = 0.97;

/// One run of the daemon.
struct Run {
    rows_per_s: f64,
    whole_s: f64,
    cpu_s_per_million: f64,
    peak_mib: f64,
}

/// Starts a daemon over `log` and waits until all rows stand in spans.
fn run(dir: &Path, store: &str, log: &Path, rows: u64) -> (Run, Daemon) {
    lines::warm(log);
    let rows = rows as f64;
    let began = Instant::now();
    let mut daemon = Daemon::start(dir, store, &[log.to_str().unwrap()]);
    let (mut first, mut last) = (None, None);
    daemon.watch(POLL, |sample| {
        let (now, done) = (Instant::now(), sample.rows());
        if done >= rows * FROM && first.is_none() {
            first = Some((now, done));
        }
        if done >= rows * TO && last.is_none() {
            last = Some((now, done));
        }
        done >= rows
    });
    let whole_s = began.elapsed().as_secs_f64();
    let ((from, before), (to, after)) = (first.unwrap(), last.unwrap());
    let run = Run {
        rows_per_s: (after - before) / (to - from).as_secs_f64(),
        whole_s,
        cpu_s_per_million: daemon.cpu_seconds() * 1e6 / rows,
        peak_mib: daemon.peak_mib(),
    };
    (run, daemon)
}

fn column(runs: &[Run], value: impl Fn(&Run) -> f64) -> Vec<f64> {
    runs.iter().map(value).collect()
}

/// `wc -l`: lines a second.
fn word_count(log: &Path, rows: u64) -> f64 {
    let began = Instant::now();
    let output = Command::new("wc").arg("-l").arg(log).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with(&rows.to_string()));
    rows as f64 / began.elapsed().as_secs_f64()
}

/// The least that a shipper does with every byte: read it, find the lines, hash it.
fn bare_loop(log: &Path, rows: u64) -> f64 {
    let began = Instant::now();
    let file = File::open(log).unwrap();
    let (mut buffer, mut at, mut lines, mut hash) = (vec![0; 256 << 10], 0, 0, 0);
    loop {
        let read = file.read_at(&mut buffer, at).unwrap();
        if read == 0 {
            break;
        }
        at += read as u64;
        lines += memchr::memchr_iter(b'\n', &buffer[..read]).count() as u64;
        hash ^= xxhash_rust::xxh3::xxh3_64(&buffer[..read]);
    }
    std::hint::black_box(hash);
    assert_eq!(lines, rows);
    rows as f64 / began.elapsed().as_secs_f64()
}

/// File to nowhere.
pub fn null(figures: &Figures, scratch: &Path, rows: u64, runs: usize) {
    title(&format!("null: {rows} nginx combined lines into the null store"));
    let log = scratch.join("access.log");
    let bytes = lines::write(&log, rows, SEED);
    figures.print("line", &[bytes as f64 / rows as f64], "bytes", Limit::None);
    let (mut all, mut counted, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        counted.push(word_count(&log, rows));
        bare.push(bare_loop(&log, rows));
        let (run, daemon) = run(&scratch.join("null"), "[store]\nkind = \"null\"", &log, rows);
        daemon.stop();
        all.push(run);
    }
    let rate = column(&all, |run| run.rows_per_s);
    figures.print("null rate", &rate, "lines/s", Limit::AtLeast(2e6));
    let cpu = column(&all, |run| run.cpu_s_per_million);
    figures.print("null CPU", &cpu, "s a million lines", Limit::AtMost(0.6));
    let peak = column(&all, |run| run.peak_mib);
    figures.print("null peak RSS", &peak, "MiB", Limit::AtMost(64.0));
    let whole = column(&all, |run| run.whole_s);
    figures.print("null from start to the last span", &whole, "s", Limit::None);
    figures.print("wc -l", &counted, "lines/s", Limit::None);
    figures.print("newlines and xxh3", &bare, "lines/s", Limit::None);
    let ratio = median(&rate) / median(&bare);
    figures.print("null rate to newlines and xxh3", &[ratio], "", Limit::None);
    fs::remove_file(log).unwrap();
}

/// The section of the configuration for `SQLite` in this directory.
pub fn sqlite_in(dir: &Path) -> String {
    format!("[store]\nkind = \"sqlite\"\n[store.sqlite]\ndir = {dir:?}")
}

/// File to `SQLite`.
pub fn sqlite(figures: &Figures, scratch: &Path, rows: u64, runs: usize) {
    title(&format!("sqlite: {rows} nginx combined lines into SQLite"));
    let log = scratch.join("access.log");
    lines::write(&log, rows, SEED);
    let dir = scratch.join("sqlite");
    let store = sqlite_in(&dir.join("store"));
    let (mut all, mut size, mut sync) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        sync.push(fdatasync_ms(scratch));
        let (run, daemon) = run(&dir, &store, &log, rows);
        daemon.stop();
        size.push(bytes_below(&dir.join("store")) as f64 / rows as f64);
        all.push(run);
    }
    let rate = column(&all, |run| run.rows_per_s);
    figures.print("sqlite rate", &rate, "rows/s", Limit::AtLeast(200_000.0));
    let cpu = column(&all, |run| run.cpu_s_per_million);
    figures.print("sqlite CPU", &cpu, "s a million rows", Limit::None);
    let peak = column(&all, |run| run.peak_mib);
    figures.print("sqlite peak RSS", &peak, "MiB", Limit::AtMost(64.0));
    figures.print("sqlite size", &size, "bytes a row", Limit::None);
    figures.print("fdatasync of 4 KiB", &sync, "ms", Limit::None);
    fs::remove_file(log).unwrap();
    fs::remove_dir_all(dir).unwrap();
}

/// What the disk takes for a small durable write: the median of 101.
pub fn fdatasync_ms(dir: &Path) -> f64 {
    let path = dir.join("fdatasync");
    let mut file = File::create(&path).unwrap();
    let times: Vec<f64> = (0..101)
        .map(|_| {
            file.write_all(&[7; 4096]).unwrap();
            let began = Instant::now();
            file.sync_data().unwrap();
            began.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    fs::remove_file(path).unwrap();
    median(&times)
}
