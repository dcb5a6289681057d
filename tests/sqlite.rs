//! The SQLite store among processes: readers of another user, writers that are killed, disks that
//! are full. What a machine does not permit is reported as skipped, with the reason.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitacora::batch::{Batch, Row};
use bitacora::key::{Partition, RowKey, Table, day_of};
use bitacora::record::Level;
use bitacora::stores::sqlite::{Options, SqliteReader, SqliteStore};
use bitacora::stores::{LogReader, RowQuery, Store, StoreError};

/// 2026-11-22 00:00 UTC.
const DAY: i64 = 1_795_305_600_000;
/// A user and a group that own nothing.
const STRANGER: u32 = 54_321;
const GROUP: u32 = 54_322;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn skipped(name: &str, why: &str) {
    eprintln!("SKIPPED {name}: {why}");
}

fn start(dir: &Path) -> SqliteStore {
    SqliteStore::start(dir.to_owned(), Options::default()).unwrap()
}

/// 100 rows from `number * 100` on, each a second after the other, with `bytes` of text each.
fn batch(number: i64, bytes: usize) -> Arc<Batch> {
    let partition = Partition {
        table: Table::Infrastructure,
        day: day_of(DAY),
        source: "syslog".into(),
        bucket: 0,
        user: None,
    };
    let mut batch = Batch::new(partition, "web1".into());
    batch.stamp = number * 100;
    batch.text = vec![b'x'; bytes];
    for row in number * 100..(number + 1) * 100 {
        batch.rows.push(Row {
            rung: None,
            key: RowKey { timestamp_ms: DAY + row, origin: 7, offset_bytes: row },
            level: Level::Info,
            message: 0..u32::try_from(bytes).unwrap(),
            metadata: 0..0,
            further: None,
        });
    }
    Arc::new(batch)
}

fn count(dir: &Path) -> Result<u64, StoreError> {
    let mut rows = 0;
    let mut visit = |_: Table, _: RowKey| {
        rows += 1;
        true
    };
    block_on(SqliteReader::new(dir.to_owned()).visit_keys(&mut visit))?;
    Ok(rows)
}

/// Not tests of their own: what children run. The task is `read DIR` or `write DIR`.
#[test]
fn child() {
    let Ok(task) = std::env::var("BITACORA_TEST_TASK") else { return };
    let (task, dir) = task.split_once(' ').unwrap();
    let dir = PathBuf::from(dir);
    match task {
        "read" => {
            let rows = count(&dir).unwrap();
            let reader = SqliteReader::new(dir.clone());
            let query = RowQuery { limit: 5, newest_first: true, ..RowQuery::default() };
            let newest = block_on(reader.rows(&query)).unwrap().rows.len();
            let marks = block_on(reader.watermarks()).unwrap().len();
            println!("counted {rows} newest {newest} marks {marks}");
        }
        "write" => {
            let store = start(&dir);
            for number in 0.. {
                block_on(store.write(batch(number, 100))).unwrap();
                println!("acknowledged {number}");
            }
        }
        other => panic!("no task {other}"),
    }
}

fn command(task: &str, dir: &Path) -> Command {
    // by this name a user finds the program who may not enter its directory
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--exact", "child", "--nocapture"])
        .env("BITACORA_TEST_TASK", format!("{task} {}", dir.display()))
        .current_dir("/")
        .stdout(Stdio::piped());
    command
}

fn read_as_stranger(dir: &Path) -> Result<String, String> {
    let output = command("read", dir)
        .uid(STRANGER)
        .gid(GROUP)
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().find_map(|line| Some(line.split_once("counted ")?.1.to_owned()));
    found.ok_or_else(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// A directory of the group, in which files belong to the group, as packages make it.
fn directory_of_the_group(name: &str) -> Option<tempfile::TempDir> {
    if !rustix::process::geteuid().is_root() {
        skipped(name, "only root can become another user");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).unwrap();
    chown(&logs, None, Some(GROUP)).unwrap();
    fs::set_permissions(&logs, fs::Permissions::from_mode(0o2750)).unwrap();
    Some(dir)
}

#[test]
fn a_user_of_the_group_reads_beside_the_writer_and_after_it_ended_or_was_killed() {
    let name = "a_user_of_the_group_reads_beside_the_writer_and_after_it_ended_or_was_killed";
    let Some(dir) = directory_of_the_group(name) else { return };
    let logs = dir.path().join("logs");
    let store = start(&logs);
    block_on(store.write(batch(0, 100))).unwrap();
    assert_eq!(read_as_stranger(&logs).as_deref(), Ok("100 newest 5 marks 0"), "beside it");
    block_on(store.write(batch(1, 100))).unwrap();
    block_on(store.close()).unwrap();
    drop(store);
    assert_eq!(read_as_stranger(&logs).as_deref(), Ok("200 newest 5 marks 0"), "after its end");
    let acknowledged = write_and_kill(&logs, 5);
    let said = read_as_stranger(&logs).unwrap();
    let rows: u64 = said.split(' ').next().unwrap().parse().unwrap();
    assert!(rows >= acknowledged * 100, "after it was killed: {said}, {acknowledged} batches");
    // a backup copied the databases alone
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    drop(start(&logs));
    for entry in fs::read_dir(&logs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "db") {
            let to = copy.join(path.file_name().unwrap());
            fs::copy(&path, &to).unwrap();
            chown(&to, None, Some(GROUP)).unwrap();
        }
    }
    assert!(read_as_stranger(&copy).is_ok(), "{:?}", read_as_stranger(&copy));
    fs::set_permissions(&logs, fs::Permissions::from_mode(0o700)).unwrap();
    let error = read_as_stranger(&logs).unwrap_err();
    assert!(error.contains("permission denied; compare owner and mode"), "{error}");
}

/// Kills a writing process after it has said so many batches; answers how many it had said.
fn write_and_kill(dir: &Path, batches: u64) -> u64 {
    let mut child = command("write", dir).stderr(Stdio::null()).spawn().unwrap();
    let acknowledged = follow(&mut child, batches);
    child.kill().unwrap();
    child.wait().unwrap();
    acknowledged
}

fn follow(child: &mut Child, batches: u64) -> u64 {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let said = lines.map_while(Result::ok).filter(|line| line.contains("acknowledged "));
    said.take(usize::try_from(batches).unwrap()).count() as u64
}

#[test]
fn what_a_killed_writer_has_acknowledged_is_there_once_after_a_replay() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=5 {
        let acknowledged = write_and_kill(dir.path(), round * 7);
        assert_eq!(acknowledged, round * 7);
        assert!(count(dir.path()).unwrap() >= acknowledged * 100);
    }
    let store = start(dir.path());
    let there = count(dir.path()).unwrap();
    for number in 0..i64::try_from(there / 100).unwrap() {
        block_on(store.write(batch(number, 100))).unwrap();
    }
    assert_eq!(there % 100, 0, "half a batch");
    assert_eq!(count(dir.path()).unwrap(), there);
}

#[test]
fn a_reader_in_another_process_sees_only_whole_commits_while_a_writer_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command("write", dir.path()).stderr(Stdio::null()).spawn().unwrap();
    assert_eq!(follow(&mut child, 3), 3);
    let mut last = 0;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut grown = 0;
    while grown < 5 && Instant::now() < deadline {
        let rows = count(dir.path()).unwrap();
        assert!(rows.is_multiple_of(100) && rows >= last, "{last} then {rows}");
        grown += u32::from(rows > last);
        last = rows;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(grown, 5, "it never grew");
}

/// A file system of a few MiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(name: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        if mount.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        skipped(name, "mounting a small file system is not permitted");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_an_outage_that_is_said_and_ends_by_itself() {
    let Some(disk) = SmallDisk::new("a_full_disk_is_an_outage_that_is_said_and_ends_by_itself")
    else {
        return;
    };
    let dir = disk.0.path();
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let store = start(&dir.join("logs"));
    let mut written = 0;
    let error = loop {
        match block_on(store.write(batch(written, 2000))) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "the disk was never full");
    };
    assert!(matches!(error, StoreError::Outage { .. }), "{error}");
    assert!(error.to_string().contains("the disk is full; free some space"), "{error}");
    // still full: still an outage, and nothing is damaged
    assert!(block_on(store.write(batch(written, 2000))).is_err());
    fs::remove_file(&ballast).unwrap();
    block_on(store.write(batch(written, 2000))).unwrap();
    let rows = u64::try_from(written + 1).unwrap() * 100;
    assert_eq!(count(&dir.join("logs")).unwrap(), rows);
}

#[test]
fn a_disk_that_is_full_from_the_start_is_waited_for() {
    let Some(disk) = SmallDisk::new("a_disk_that_is_full_from_the_start_is_waited_for") else {
        return;
    };
    let dir = disk.0.path();
    let ballast = dir.join("ballast");
    let mut size = 4 << 20;
    while fs::write(&ballast, vec![0; size]).is_err() {
        size -= 4096;
    }
    let store = start(&dir.join("logs"));
    let error = block_on(store.write(batch(0, 100))).unwrap_err();
    assert!(error.to_string().contains("the disk is full"), "{error}");
    fs::remove_file(&ballast).unwrap();
    block_on(store.write(batch(0, 100))).unwrap();
    assert_eq!(count(&dir.join("logs")).unwrap(), 100);
}
