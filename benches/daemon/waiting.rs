//! What happens when little happens: how soon a line is readable, and what silence costs.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use crate::figures::{Figures, Limit, percentile, title};
use crate::lines::{Lines, Random};
use crate::process::Daemon;
use crate::throughput::{fdatasync_ms, sqlite_in};

const POLL: Duration = Duration::from_millis(100);
/// What is still to be done after the last row is done by then.
const SETTLED: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_mins(1);

/// Appended line to readable row.
pub fn latency(figures: &Figures, scratch: &Path, lines: usize) {
    title(&format!("latency: {lines} single lines into SQLite"));
    let dir = scratch.join("latency");
    let log = scratch.join("quiet-access.log");
    let store = sqlite_in(&dir.join("store"));
    let (mut text, mut random) = (Lines::new(5), Random::new(7));
    // every line has a second of its own, by which its row is known
    let mut second = 1;
    text.at(second, &mut File::create(&log).unwrap()).unwrap();
    let mut daemon = Daemon::start(&dir, &store, &[log.to_str().unwrap()]);
    daemon.watch(POLL, |sample| sample.rows() >= 1.0);
    let day = dir.join("store").join(text.time(0).strftime("%Y-%m-%d.db").to_string());
    let rows = Connection::open_with_flags(day, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut append = OpenOptions::new().append(true).open(&log).unwrap();
    let mut measure = |count: usize, wait_ms: &mut dyn FnMut() -> u64| {
        let mut waits = Vec::new();
        for _ in 0..count {
            sleep(Duration::from_millis(wait_ms()));
            second += 1;
            let began = Instant::now();
            text.at(second, &mut append).unwrap();
            wait_for_row(&rows, text.time(second).as_millisecond());
            waits.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        waits
    };
    let waits = measure(lines, &mut || 300 + random.below(400));
    let (median, late) = (percentile(&waits, 50), percentile(&waits, 99));
    figures.print("latency median", &[median], "ms", Limit::AtMost(150.0));
    figures.print("latency p99", &[late], "ms", Limit::None);
    let waits = measure(lines.div_ceil(10), &mut || 6000);
    let median = percentile(&waits, 50);
    figures.print("latency median after 6 s of silence", &[median], "ms", Limit::AtMost(150.0));
    figures.print("fdatasync of 4 KiB", &[fdatasync_ms(scratch)], "ms", Limit::None);
    daemon.stop();
    drop(rows);
    fs::remove_dir_all(dir).unwrap();
}

fn wait_for_row(rows: &Connection, timestamp_ms: i64) {
    let sql = "SELECT 1 FROM infrastructure_logs WHERE source = 'nginx/access' AND timestamp = ?1";
    let mut statement = rows.prepare_cached(sql).unwrap();
    let deadline = Instant::now() + MINUTE;
    while !statement.exists([timestamp_ms]).unwrap() {
        assert!(Instant::now() < deadline, "a line did not arrive within a minute");
        sleep(Duration::from_millis(1));
    }
}

/// Files that nobody writes to.
pub fn quiet(figures: &Figures, scratch: &Path, many: usize) {
    title("quiet: 10 files that nobody writes to, for a minute");
    let few = Silence::of(scratch, 10);
    figures.print("quiet CPU, 10 files", &[few.cpu_ms], "ms a minute", Limit::AtMost(20.0));
    figures.print("quiet peak RSS, 10 files", &[few.peak_mib], "MiB", Limit::AtMost(64.0));
    title(&format!("quiet: {many} files that nobody writes to, for a minute"));
    let crowd = Silence::of(scratch, many);
    let percent = crowd.cpu_ms / 600.0;
    figures.print("quiet CPU, many files", &[percent], "% of a core", Limit::AtMost(0.5));
    figures.print("quiet peak RSS, many files", &[crowd.peak_mib], "MiB", Limit::AtMost(64.0));
    figures.print("quiet descriptors, many files", &[crowd.descriptors], "", Limit::None);
    figures.print("start to the last row, many files", &[crowd.start_s], "s", Limit::None);
}

struct Silence {
    cpu_ms: f64,
    peak_mib: f64,
    descriptors: f64,
    start_s: f64,
}

impl Silence {
    fn of(scratch: &Path, files: usize) -> Self {
        const LINES: usize = 3;
        let (dir, logs) = (scratch.join("quiet"), scratch.join("quiet-logs"));
        let _ = fs::remove_dir_all(&logs);
        let mut text = Lines::new(files as u64);
        for number in 0..files {
            let folder = logs.join(format!("host-{}", number / 100));
            if number.is_multiple_of(100) {
                fs::create_dir_all(&folder).unwrap();
            }
            let mut file = File::create(folder.join(format!("{number}-access.log"))).unwrap();
            for _ in 0..LINES {
                text.next(&mut file).unwrap();
            }
        }
        let store = sqlite_in(&dir.join("store"));
        let pattern = logs.join("**/*access.log");
        let began = Instant::now();
        let mut daemon = Daemon::start(&dir, &store, &[pattern.to_str().unwrap()]);
        daemon.watch(POLL, |sample| sample.rows() >= (files * LINES) as f64);
        let start_s = began.elapsed().as_secs_f64();
        sleep(SETTLED);
        let before = daemon.cpu_seconds();
        sleep(MINUTE);
        let silence = Self {
            cpu_ms: (daemon.cpu_seconds() - before) * 1000.0,
            peak_mib: daemon.peak_mib(),
            descriptors: daemon.descriptors() as f64,
            start_s,
        };
        daemon.stop();
        fs::remove_dir_all(dir).unwrap();
        fs::remove_dir_all(logs).unwrap();
        silence
    }
}
