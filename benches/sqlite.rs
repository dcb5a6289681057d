//! Rows a second into the `SQLite` store, fsync included, with what an fdatasync costs beside it.
//!
//! `cargo bench --bench sqlite -- [ROWS] [DIR]`; 2,000,000 rows into a temporary directory by
//! default. Rows are those of nginx combined lines of about 220 bytes, from 1, 4 and 16 files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_precision_loss, missing_docs)]

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitacora::batch::{Batch, Row};
use bitacora::key::{Partition, RowKey, Table, day_of};
use bitacora::record::Level;
use bitacora::stores::Store;
use bitacora::stores::sqlite::{Options, SqliteStore};

const BATCH_ROWS: usize = 1000;
const FLIGHT: usize = 16;
const START_MS: i64 = 1_795_305_600_000;

fn main() {
    let given: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let rows: usize = given.first().map_or(2_000_000, |text| text.parse().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let base = given.get(1).map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    println!("fdatasync of 4 KiB: {:?} (median of 101)", fdatasync(&base));
    for files in [1, 4, 16] {
        let dir = base.join(format!("files-{files}"));
        let (started, cpu) = (Instant::now(), cpu_time());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(fill(&dir, rows, files));
        let (took, cpu) = (started.elapsed(), cpu_time().saturating_sub(cpu));
        let sizes = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        let bytes: u64 = sizes.map(|data| data.len()).sum();
        println!(
            "{files:>2} files: {:>7.0} rows/s, {:.2} CPU s a million rows, {} bytes a row, peak {}",
            rows as f64 / took.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / rows as f64,
            bytes / rows as u64,
            peak(),
        );
        fs::remove_dir_all(&dir).unwrap();
    }
}

async fn fill(dir: &Path, rows: usize, files: usize) {
    let store = Arc::new(SqliteStore::start(dir.to_owned(), Options::default()).unwrap());
    let mut flying = VecDeque::new();
    let mut spare: Option<Batch> = None;
    for number in 0..rows / BATCH_ROWS {
        let batch = Arc::new(make(spare.take(), number, files));
        let store = store.clone();
        flying.push_back(tokio::spawn(async move {
            store.write(batch.clone()).await.unwrap();
            Arc::into_inner(batch)
        }));
        tokio::task::yield_now().await;
        if flying.len() == FLIGHT {
            spare = flying.pop_front().unwrap().await.unwrap();
        }
    }
    for flight in flying {
        flight.await.unwrap();
    }
    store.close().await.unwrap();
}

/// The batch of this number: batches go round the files, times go on evenly.
fn make(spare: Option<Batch>, number: usize, files: usize) -> Batch {
    let at = i64::try_from(number * BATCH_ROWS).unwrap();
    let source: Arc<str> =
        if files > 1 && number % files == 1 { "nginx/error" } else { "nginx/access" }.into();
    let partition = Partition {
        table: Table::Infrastructure,
        day: day_of(START_MS),
        source,
        bucket: 0,
        user: None,
    };
    let mut batch = spare.unwrap_or_else(|| Batch::new(partition.clone(), "web1".into()));
    batch.reset(partition);
    batch.stamp = START_MS * 1000 + at;
    let origin = 0x1357_9bdf_2468_0000 + i64::try_from(number % files).unwrap() * 0x0101_0101_0101;
    for row in 0..i64::try_from(BATCH_ROWS).unwrap() {
        let id = at + row;
        let start = batch.text.len();
        write!(batch.text, "GET /catalogue/item/{id}?page=2&sort=price HTTP/1.1").unwrap();
        let middle = batch.text.len();
        write!(
            batch.text,
            r#"{{"remote_addr":"203.0.113.{}","method":"GET","path":"/catalogue/item/{id}?page=2&sort=price","protocol":"HTTP/1.1","status":"200","body_bytes_sent":"{}","referer":"https://shop.example/","user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"}}"#,
            id % 250,
            id % 90_000,
        )
        .unwrap();
        let slice =
            |from: usize, to: usize| u32::try_from(from).unwrap()..u32::try_from(to).unwrap();
        batch.rows.push(Row {
            rung: None,
            key: RowKey { timestamp_ms: START_MS + id / 40, origin, offset_bytes: id * 220 },
            level: if id % 100 == 0 { Level::Warning } else { Level::Info },
            message: slice(start, middle),
            metadata: slice(middle, batch.text.len()),
            further: None,
        });
    }
    batch
}

fn fdatasync(dir: &Path) -> Duration {
    fs::create_dir_all(dir).unwrap();
    let path = dir.join("fdatasync");
    let mut file = File::create(&path).unwrap();
    let mut times: Vec<Duration> = (0..101)
        .map(|_| {
            file.write_all(&[7; 4096]).unwrap();
            let started = Instant::now();
            file.sync_data().unwrap();
            started.elapsed()
        })
        .collect();
    fs::remove_file(path).unwrap();
    times.sort();
    times.swap_remove(50)
}

/// User and system time of this process.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 =
        [11, 12].map(|at| fields.get(at).unwrap().parse::<u64>().unwrap()).iter().sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

fn peak() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().to_owned()
}
