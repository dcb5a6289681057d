//! How fast rows go into an archive, beside `tar | zstd` on the same files in the same run.
//!
//! `cargo bench --bench backup -- [ROWS] [DIR]`; 2,000,000 rows over three days into a temporary
//! directory by default. Rounds take turns, so that what the machine does besides meets both.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::unnecessary_debug_formatting,
    missing_docs,
    reason = "a benchmark"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitacora::batch::{Batch, Row};
use bitacora::config::{Config, Machine};
use bitacora::key::{Partition, RowKey, Table, day_of};
use bitacora::maintain::backup::{self, Request};
use bitacora::record::Level;
use bitacora::stores::Store;
use bitacora::stores::sqlite::{Options, SqliteStore};

const BATCH_ROWS: i64 = 1000;
const ROUNDS: usize = 5;
/// 2026-11-20 00:00 UTC.
const START_MS: i64 = 1_795_132_800_000;
const DAY_MS: i64 = 86_400_000;

fn main() {
    let given: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let rows: i64 = given.first().map_or(2_000_000, |text| text.parse().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let base = given.get(1).map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let (store, archives) = (base.join("rows"), base.join("archives"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(fill(&store, rows));
    let bytes: u64 =
        fs::read_dir(&store).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    println!("{rows} rows, {} MiB of day files", bytes >> 20);
    let text = format!(
        "[store.sqlite]\ndir = {store:?}\n[backup]\ndir = {archives:?}\nparts = [\"logs\"]\n"
    );
    let config_path = base.join("bitacora.toml");
    let texts = [(config_path.clone(), text.into_bytes())];
    let config = Config::from_texts(&texts, &Machine::here()).unwrap();
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..ROUNDS {
        times[0].push(tar_zstd(&store, &base, "-T1"));
        times[1].push(tar_zstd(&store, &base, "-T0"));
        let started = Instant::now();
        let request =
            Request { config: &config, config_path: &config_path, compression: None, clock };
        let created = backup::create(&request, &mut |_| ()).unwrap();
        times[2].push(started.elapsed());
        assert!(created.manifest.complete);
        let started = Instant::now();
        assert!(backup::verify(&created.path, clock()).unwrap().intact());
        times[3].push(started.elapsed());
        println!("archive: {} MiB", fs::metadata(&created.path).unwrap().len() >> 20);
        fs::remove_dir_all(&archives).unwrap();
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[ROUNDS / 2].as_secs_f64()
    };
    let speeds = times.each_mut().map(|times| bytes as f64 / f64::from(1 << 20) / median(times));
    for (name, speed) in
        ["tar | zstd -T1", "tar | zstd -T0", "backup create", "backup verify"].iter().zip(speeds)
    {
        println!("{name}: {speed:.0} MiB/s");
    }
    println!(
        "create at {:.2} of tar | zstd, {:.2} of tar | zstd -T0",
        speeds[2] / speeds[0],
        speeds[2] / speeds[1]
    );
}

fn clock() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn tar_zstd(store: &Path, base: &Path, threads: &str) -> Duration {
    let out = base.join("by-tar.tar.zst");
    let script =
        "set -o pipefail; tar -C \"$1\" -cf - . | zstd -q -3 \"$3\" -o \"$2\" && sync \"$2\"";
    let started = Instant::now();
    let mut shell = Command::new("bash");
    shell.args(["-c", script, "bash"]).args([store, &out]).arg(threads);
    assert!(shell.status().unwrap().success());
    let took = started.elapsed();
    fs::remove_file(out).unwrap();
    took
}

async fn fill(dir: &Path, rows: i64) {
    let store = SqliteStore::start(dir.to_owned(), Options::default()).unwrap();
    for number in 0..rows / BATCH_ROWS {
        store.write(Arc::new(batch(number, rows))).await.unwrap();
    }
    store.close().await.unwrap();
}

/// 1000 rows like those of nginx, spread over three days.
fn batch(number: i64, rows: i64) -> Batch {
    let day = number * 3 * BATCH_ROWS / rows;
    let start = START_MS + day * DAY_MS + number % 86 * 1_000_000;
    let partition = Partition {
        table: Table::Infrastructure,
        day: day_of(start),
        source: "nginx/access".into(),
        bucket: 0,
        user: None,
    };
    let mut batch = Batch::new(partition, "web1".into());
    batch.stamp = number * BATCH_ROWS;
    for row in 0..BATCH_ROWS {
        let at = number * BATCH_ROWS + row;
        let from = u32::try_from(batch.text.len()).unwrap();
        let mixed = at.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed()).cast_unsigned();
        let text = format!(
            "192.0.2.{} GET /shop/articles/{:x}?page={} HTTP/1.1 200",
            mixed % 250,
            mixed >> 20,
            mixed % 77
        );
        batch.text.extend(text.as_bytes());
        let message = from..u32::try_from(batch.text.len()).unwrap();
        let text = format!(
            "{{\"status\":200,\"bytes\":{},\"referer\":\"https://example.com/{}\",\"agent\":\"Mozilla/5.0 (X11; Linux x86_64)\"}}",
            mixed % 100_000,
            mixed % 1000
        );
        batch.text.extend(text.as_bytes());
        let metadata = message.end..u32::try_from(batch.text.len()).unwrap();
        let key = RowKey { timestamp_ms: start + row, origin: 7, offset_bytes: at * 220 };
        batch.rows.push(Row {
            rung: None,
            key,
            level: Level::Info,
            message,
            metadata,
            further: None,
        });
    }
    batch
}
