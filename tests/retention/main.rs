//! `bitacora retention` beside the real daemon, and what `audit` says afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::pedantic,
    reason = "a test that fails may panic"
)]

mod origins;
#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bitacora::config::{Config, Machine};
use bitacora::maintain::audit;
use bitacora::maintain::retention::{self, Report, Request};
use bitacora::stores::sqlite::SqliteReader;
use support::eventually;
use support::site::{Files, Site, told};

const DAY_MS: i64 = 86_400_000;

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A line of an access log, so many days ago.
fn line(days_ago: i64, number: usize) -> String {
    // the middle of the day, so that a test that runs at midnight sees the same days
    let noon = (now_ms() / DAY_MS - days_ago) * DAY_MS + DAY_MS / 2;
    let time = jiff::Timestamp::from_millisecond(noon + i64::try_from(number).unwrap()).unwrap();
    let time = time.strftime("%d/%b/%Y:%H:%M:%S +0000");
    format!("192.0.2.7 - - [{time}] \"GET /{number} HTTP/1.1\" 200 5 \"-\" \"-\"\n")
}

fn append(path: &Path, days_ago: i64, rows: usize) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    for number in 0..rows {
        file.write_all(line(days_ago, number).as_bytes()).unwrap();
    }
}

fn day_file(site: &Site, days_ago: i64) -> PathBuf {
    let time = jiff::Timestamp::from_millisecond((now_ms() / DAY_MS - days_ago) * DAY_MS).unwrap();
    site.store_dir().join(format!("{}.db", time.strftime("%Y-%m-%d")))
}

/// Two sources; everything lives 30 days, but for `short`, which lives a week.
fn site(further: &str) -> Site {
    let mut site = Site::new();
    site.daemon_extra = format!(
        "[retention]\napplication = \"30d\"\ninfrastructure = \"30d\"\nuser_events = \"30d\"\n\
         sources = {{ short = \"7d\" }}\n{further}\n"
    );
    let format = "format = \"nginx/access\"";
    site.configure(&[
        Files::new("web", site.log("web.log")).with(format),
        Files::new("short", site.log("short.log")).with(format),
    ]);
    site
}

fn stored(site: &Site, source: &str) -> usize {
    site.logs().iter().filter(|row| row["source"] == source).count()
}

/// A number of the audit; 0 while there is no store yet.
fn audited(site: &Site, name: &str) -> u64 {
    let output = site.run(&["audit", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    answer[name].as_u64().unwrap_or(0)
}

/// How many rows the spans count.
fn committed(site: &Site) -> u64 {
    audited(site, "rows")
}

/// How many rows the audit counts as expired.
fn expired(site: &Site) -> u64 {
    audited(site, "expired_rows")
}

#[test]
fn what_has_ended_goes_beside_the_daemon_and_the_audit_calls_it_expired() {
    let site = site("");
    let (web, short) = (site.log("web.log"), site.log("short.log"));
    for days_ago in [40, 10, 0] {
        append(&web, days_ago, 20);
        append(&short, days_ago, 30);
    }
    let daemon = site.start();
    eventually("all rows", || stored(&site, "web") == 60 && stored(&site, "short") == 90);
    eventually("all committed", || committed(&site) == 150);

    let before = site.json(&["retention", "plan", "--json"]);
    let dry = site.json(&["retention", "apply", "--dry-run", "--json"]);
    assert_eq!(before, dry);
    assert_eq!(stored(&site, "web"), 60, "a plan changes nothing");
    let items = before["items"].as_array().unwrap();
    let of = |kind: &str| items.iter().find(|item| item["kind"] == kind).unwrap();
    assert_eq!(
        (items.len(), &of("day_file")["rows"], &of("rows")["rows"]),
        (2, &50.into(), &30.into())
    );
    assert!(of("day_file")["bytes"].as_u64().unwrap() > 0);
    assert_eq!(of("rows")["source"], "short");
    assert_eq!(of("rows")["policy"], "source short: 7 days");
    let noon = of("rows")["oldest_ms"].as_i64().unwrap();
    assert_eq!(noon, (now_ms() / DAY_MS - 10) * DAY_MS + DAY_MS / 2);

    site.answers(&["retention", "apply"], 0, "2 went: 80 rows");
    assert!(!day_file(&site, 40).exists());
    assert_eq!((stored(&site, "web"), stored(&site, "short")), (40, 30));
    site.audit_is_clean();
    assert_eq!(expired(&site), 80);
    site.answers(&["audit"], 0, "80 rows have expired; retention has ended 2 days");
    site.answers(&["retention", "apply"], 0, "0 went");

    // late rows of what has ended are counted and kept by nobody, those beside them are stored
    append(&web, 40, 5);
    append(&short, 10, 6);
    append(&web, 10, 7);
    eventually("late rows", || expired(&site) == 91 && stored(&site, "web") == 47);
    assert_eq!(stored(&site, "short"), 30);
    assert!(!day_file(&site, 40).exists());
    site.audit_is_clean();
    site.answers(&["retention", "plan"], 0, "0 would go");
    daemon.stop();
    site.audit_is_clean();

    // the same days, removed by hand: nothing excuses that
    fs::remove_file(day_file(&site, 10)).unwrap();
    site.answers(&["audit"], 1, "missing: 27 rows");
    site.answers(&["retention", "apply"], 0, "0 went");
    site.answers(&["audit"], 1, "NOT CLEAN");
}

#[test]
fn a_day_that_was_removed_by_hand_stays_a_loss_also_when_it_is_old() {
    let site = site("");
    append(&site.log("web.log"), 40, 20);
    append(&site.log("web.log"), 41, 20);
    let daemon = site.start();
    eventually("all rows", || committed(&site) == 40);
    daemon.stop();
    fs::remove_file(day_file(&site, 40)).unwrap();
    site.answers(&["retention", "apply"], 0, "has rows in the index and no file");
    assert!(!day_file(&site, 41).exists());
    site.answers(&["audit"], 1, "missing: 20 rows");
}

#[test]
fn without_the_daemon_a_file_with_nothing_else_goes_whole() {
    let site = site("");
    append(&site.log("short.log"), 10, 20);
    append(&site.log("short.log"), 8, 20);
    append(&site.log("web.log"), 8, 20);
    let daemon = site.start();
    eventually("all rows", || committed(&site) == 60);
    daemon.stop();
    let report = site.json(&["retention", "apply", "--json"]);
    let kinds: Vec<_> =
        report["items"].as_array().unwrap().iter().map(|item| &item["kind"]).collect();
    assert_eq!(kinds, ["day_file", "rows"]);
    assert!(!day_file(&site, 10).exists() && day_file(&site, 8).exists());
    let left = ["-wal", "-shm"].map(|end| day_file(&site, 8).with_extension(format!("db{end}")));
    assert!(left.iter().all(|path| !path.exists()), "it has left WAL mode again");
    let index = site.store_dir().join("index.db");
    assert_eq!(fs::read(&index).unwrap()[18], 1, "and so has the index");
    site.audit_is_clean();
    // the day of the whole file is only ended for its source
    let daemon = site.start();
    append(&site.log("web.log"), 10, 3);
    append(&site.log("short.log"), 10, 4);
    eventually("late rows", || stored(&site, "web") == 23 && expired(&site) == 44);
    assert_eq!(stored(&site, "short"), 0);
    daemon.stop();
    site.audit_is_clean();
}

fn run_at(site: &Site, now_ms: i64) -> Report {
    let config = Config::load(&site.config(), &Machine::here()).unwrap();
    let request = Request { apply: true, now_ms, ..Request::default() };
    block_on(retention::run(&config, request)).unwrap()
}

#[test]
fn spans_without_rows_become_one_and_the_file_is_not_read_again() {
    let site = site("");
    let web = site.log("web.log");
    for run in 1..=4 {
        append(&web, 0, 10);
        let daemon = site.start();
        eventually("its rows", || committed(&site) == run * 10);
        daemon.stop();
    }
    let spans = || {
        let reader = SqliteReader::new(site.store_dir());
        let reader: &dyn bitacora::stores::LogReader = &reader;
        block_on(reader.origins(None)).unwrap().pop().unwrap().spans
    };
    let before = spans();
    assert!(before.len() >= 4, "{before:?}");
    let later = now_ms() + 100 * DAY_MS;
    let report = run_at(&site, later);
    assert!(report.clean() && report.items.len() == 1, "{report:?}");
    assert_eq!((report.tidied.spans, report.tidied.become_spans), (before.len() as u64 - 1, 1));
    let after = spans();
    assert_eq!(after.len(), 2);
    assert_eq!(after[0].end_bytes, before[before.len() - 2].end_bytes);
    assert_eq!(after[1], before[before.len() - 1], "the last span stays as it is");
    assert_eq!(after[0].lines, 10 * (before.len() as u64 - 1));
    site.audit_is_clean();
    assert_eq!(expired(&site), 40);
    assert_eq!(run_at(&site, later).tidied.spans, 0, "twice changes nothing");

    // neither this state nor one that is rebuilt from the store reads the file once more
    for state_is_lost in [false, true] {
        if state_is_lost {
            fs::remove_dir_all(site.path("state")).unwrap();
        }
        let daemon = site.start();
        let fresh = if state_is_lost { 2 } else { 1 };
        append(&web, 0, 1); // its day has ended by the clock of the run above
        eventually("one more", || expired(&site) == 40 + fresh);
        daemon.stop();
        site.audit_is_clean();
        assert_eq!(stored(&site, "web"), 0);
    }
}

#[test]
fn only_what_a_verified_backup_holds_goes_if_that_is_asked_for() {
    let backups = tempfile::tempdir().unwrap();
    let site = site(&format!("[backup]\ndir = {:?}\nparts = [\"logs\"]", backups.path()));
    append(&site.log("web.log"), 40, 20);
    append(&site.log("web.log"), 41, 20);
    let daemon = site.start();
    eventually("all rows", || committed(&site) == 40);
    daemon.stop();
    let apply = ["retention", "apply", "--require-backup"];
    site.answers(&apply, 0, "no verified backup holds");
    site.answers(&apply, 0, "2 withheld");
    // an archive holds what was written before the second in which it was begun
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    for days_ago in [40, 41] {
        let file = OpenOptions::new().write(true).open(day_file(&site, days_ago)).unwrap();
        file.set_modified(hour_ago).unwrap();
    }
    site.answers(&["backup", "create"], 0, "");
    site.answers(&["retention", "plan", "--require-backup"], 0, "2 would go: 40 rows");
    let daemon = site.start();
    append(&site.log("web.log"), 40, 3);
    eventually("more rows", || committed(&site) == 43);
    daemon.stop();
    site.answers(&apply, 0, "1 went: 20 rows");
    assert!(!day_file(&site, 41).exists() && day_file(&site, 40).exists());
    site.answers(&apply, 0, "were written after the last verified backup began");
    site.audit_is_clean();
    site.answers(&["retention", "apply"], 0, "1 went: 23 rows");
    site.audit_is_clean();
}

#[test]
fn a_second_run_is_told_to_try_later() {
    let site = site("");
    let lock = retention::lock(&site.path("state")).unwrap();
    site.answers(&["retention", "apply"], 75, "another run of retention");
    site.answers(&["retention", "plan"], 0, "dora");
    drop(lock);
    site.answers(&["retention", "apply"], 0, "0 went");
}

#[test]
fn what_fails_for_one_day_is_told_and_stops_no_other() {
    let site = site("");
    append(&site.log("short.log"), 10, 20);
    append(&site.log("web.log"), 10, 20);
    append(&site.log("web.log"), 40, 20);
    let daemon = site.start();
    eventually("all rows", || committed(&site) == 60);
    daemon.stop();
    fs::write(day_file(&site, 10), vec![b'x'; 40_000]).unwrap();
    let output = site.run(&["retention", "apply"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("it is damaged"), "{}", told(&output));
    assert!(!day_file(&site, 40).exists(), "the other day has gone all the same");
}

#[test]
fn the_audit_at_a_time_of_its_own_agrees() {
    let site = site("");
    append(&site.log("web.log"), 0, 5);
    let daemon = site.start();
    eventually("all rows", || committed(&site) == 5);
    daemon.stop();
    run_at(&site, now_ms() + 31 * DAY_MS + DAY_MS);
    let reader = SqliteReader::new(site.store_dir());
    let audited = block_on(audit::audit(&reader, now_ms())).unwrap();
    assert!(audited.report.clean());
    assert_eq!((audited.report.expired_rows(), audited.report.expired.len()), (5, 1));
    assert_eq!(audited.report.expired[0].policy, "30 days at most");
}
