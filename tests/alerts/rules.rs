//! Each rule turns to trouble, and back.

use std::fs;
use std::time::Duration;

use bitacora::config::{Rule, RuleKind};
use bitacora::duration::{Durations, Rung};
use bitacora::key::Table;
use bitacora::ledger::{Cause, DeadLetter, LossReceipt, Reasons, Span};
use bitacora::maintain::alerts::{Finding, logs, store};
use bitacora::record::Level;
use bitacora::stores::Store;
use bitacora::stores::health::{CheckStatus, HealthStore};
use bitacora::stores::sqlite::{Options, SqliteReader, SqliteStore};
use serde_json::json;

use super::support::{Mounted, PATIENCE, skip, within};
use super::{Watched, now, now_ms, record};

const MINUTE_MS: i64 = 60_000;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn seconds(seconds: u64) -> Rung {
    Rung::exactly(Duration::from_secs(seconds)).unwrap()
}

pub fn rule(name: &str, kind: RuleKind, above: u64) -> Rule {
    Rule {
        name: name.into(),
        kind,
        source: String::new(),
        level: String::new(),
        logger: String::new(),
        host: String::new(),
        per: Duration::from_mins(5),
        above,
        slow: seconds(2),
    }
}

/// Rules, and whether each is in trouble while the rows are in its window.
fn rules() -> Vec<(Rule, bool)> {
    let (errors, slow, silent) = (RuleKind::Errors, RuleKind::Slow, RuleKind::Silent);
    let of = |mut rule: Rule, source: &str, level: &str, logger: &str| {
        rule.source = source.into();
        rule.level = level.into();
        rule.logger = logger.into();
        rule
    };
    let at = |host: &str| Rule { host: host.into(), ..rule(host, errors, 10) };
    let slower = Rule { slow: seconds(5), ..rule("slower", slow, 0) };
    vec![
        (rule("errors", errors, 10), true),
        (rule("more errors", errors, 11), false),
        (of(rule("errors of shop", errors, 10), "shop", "", ""), true),
        (of(rule("errors of all shops", errors, 10), "sh*", "", ""), true),
        (of(rule("errors of sho", errors, 0), "sho", "", ""), false),
        (of(rule("warnings", errors, 2), "", "WARNING", ""), true),
        (of(rule("more warnings", errors, 3), "", "WARNING", ""), false),
        (of(rule("errors of pay", errors, 6), "", "", "pay"), true),
        (of(rule("more errors of pay", errors, 7), "", "", "pay"), false),
        (of(rule("errors of nobody", errors, 0), "shop", "", "nobody"), false),
        (rule("slow", slow, 4), true),
        (rule("more slow", slow, 5), false),
        (of(rule("slow INFO", slow, 4), "", "INFO", ""), true),
        (of(rule("slow WARNING", slow, 0), "", "WARNING", ""), false),
        (of(rule("slow of shop", slow, 4), "shop", "", ""), true),
        (of(rule("slow of others", slow, 0), "other", "", ""), false),
        (slower, false),
        (of(rule("silence", silent, 0), "shop", "", ""), false),
        (of(rule("silence of nobody", silent, 0), "nobody", "", ""), true),
        (at("*"), true),
        (at("test-host"), true),
        (at("elsewhere"), false),
    ]
}

fn found(watched: &Watched, now_ms: i64) -> Vec<Finding> {
    let reader = SqliteReader::new(watched.site.store_dir());
    let rules: Vec<Rule> = rules().into_iter().map(|(rule, _)| rule).collect();
    runtime().block_on(logs::look(&reader, &rules, "test-host", now_ms))
}

#[test]
fn rules_over_rows_are_in_trouble_while_the_rows_are_in_their_window() {
    let watched = Watched::new("");
    let daemon = watched.site.start();
    let mut records = Vec::new();
    for number in 0..11 {
        let mut error = record("ERROR", &format!("error {number}\u{1b}"));
        error["logger"] = json!(if number < 7 { "pay" } else { "cart" });
        records.push(error);
    }
    records.extend((0..3).map(|_| record("WARNING", "low on stock")));
    for took in [2000, 2001, 2500, 2600, 2900, 5] {
        let at = now();
        records.push(
            json!({ "timestamp": at, "level": "INFO", "message": "sold", "duration_ms": took }),
        );
    }
    watched.stores(&records, 20);
    daemon.stop();
    for (finding, (rule, trouble)) in found(&watched, now_ms()).iter().zip(rules()) {
        assert_eq!(finding.status == CheckStatus::Trouble, trouble, "{}: {finding:?}", rule.name);
        assert_ne!(finding.status, CheckStatus::Unknown, "{finding:?}");
        if trouble && rule.kind != RuleKind::Silent {
            let shown = finding.samples.len();
            assert_eq!(shown, 3, "{finding:?}");
            assert!(!finding.samples.concat().contains('\u{1b}'), "{finding:?}");
        }
    }
    // the window has passed; and before it began
    for now_ms in [now_ms() + 20 * MINUTE_MS, now_ms() - 20 * MINUTE_MS] {
        for (finding, (rule, _)) in found(&watched, now_ms).iter().zip(rules()) {
            let trouble = rule.kind == RuleKind::Silent;
            if now_ms > super::now_ms() || rule.kind == RuleKind::Silent {
                assert_eq!(finding.status == CheckStatus::Trouble, trouble, "{finding:?}");
            }
        }
    }
}

#[test]
fn slow_records_that_an_older_version_has_stored_are_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let writer = SqliteStore::start(dir.path().to_owned(), Options::default()).unwrap();
    let reader = SqliteReader::new(dir.path().to_owned());
    let now_ms = now_ms();
    let minute = now_ms.div_euclid(MINUTE_MS);
    let slow = |start_bytes, durations| Span {
        origin: 1,
        start_bytes,
        end_bytes: start_bytes + 10,
        rows: 3,
        lines: 3,
        reasons: Reasons::default(),
        minutes: [((minute, Level::Info), 3)].into(),
        durations,
        running_ms: None,
        crc: 0,
        marker: 0,
        markers: Vec::new(),
        first_write_ms: now_ms,
        last_write_ms: now_ms,
        ttl_s: None,
        closed: true,
        carried: Vec::new(),
        table: Table::Application,
        source: "shop".into(),
    };
    let mut took = Durations::default();
    [seconds(2), seconds(5), Rung::ANY].iter().for_each(|rung| took.add(*rung));
    let spans = [slow(0, None), slow(10, Some([(minute, took)].into()))];
    runtime().block_on(async {
        writer.check().await.unwrap();
        writer.put_spans(&spans, 1).await.unwrap();
        for (above, status) in [(1, CheckStatus::Trouble), (2, CheckStatus::Unknown)] {
            let rule = Rule { host: "*".into(), ..rule("slow", RuleKind::Slow, above) };
            let found = &logs::look(&reader, &[rule], "test-host", now_ms).await[0];
            assert_eq!((found.status, found.value), (status, Some(2.0)), "{found:?}");
        }
        writer.close().await.unwrap();
    });
}

fn letter(number: i64) -> DeadLetter {
    DeadLetter {
        table: Table::Application,
        source: "shop".into(),
        host: "test-host".into(),
        timestamp_ms: number,
        origin: 1,
        offset_bytes: number,
        level: "ERROR".into(),
        message: "x".into(),
        metadata: String::new(),
        reason: "too large".into(),
        refused_ms: number,
    }
}

fn receipt(noticed_ms: i64) -> LossReceipt {
    LossReceipt {
        origin: 1,
        start_bytes: noticed_ms.unsigned_abs(),
        end_bytes: None,
        cause: Cause::Truncated,
        source: "shop".into(),
        host: "test-host".into(),
        path: "/var/log/shop.log".into(),
        noticed_ms,
        detail: "it was cut".into(),
    }
}

#[test]
fn dead_letters_are_trouble_until_none_is_left_and_losses_for_a_day() {
    const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
    let dir = tempfile::tempdir().unwrap();
    let writer = SqliteStore::start(dir.path().to_owned(), Options::default()).unwrap();
    let reader = SqliteReader::new(dir.path().to_owned());
    runtime().block_on(async {
        writer.check().await.unwrap();
        let letters = || store::dead_letters(&reader, "test-host");
        assert_eq!(letters().await.status, CheckStatus::Ok);
        writer.put_dead_letters(&[letter(1), letter(2)], 1).await.unwrap();
        let found = letters().await;
        assert_eq!((found.status, found.value, found.mark), (CheckStatus::Trouble, Some(2.0), 2));
        assert!(found.detail.contains("too large"), "{found:?}");
        let elsewhere = store::dead_letters(&reader, "other-host").await;
        assert_eq!(elsewhere.status, CheckStatus::Ok);
        use bitacora::stores::LogReader as _;
        for number in [1, 2] {
            reader.remove_dead_letter(&letter(number)).await.unwrap();
        }
        assert_eq!(letters().await.status, CheckStatus::Ok);

        let losses = |last, now| store::losses(&reader, "test-host", last, now);
        let noticed = now_ms();
        assert_eq!(losses(noticed, noticed).await.status, CheckStatus::Ok);
        writer.put_receipts(&[receipt(noticed)], 1).await.unwrap();
        let found = losses(noticed, noticed + DAY_MS).await;
        assert_eq!((found.status, found.mark), (CheckStatus::Trouble, noticed));
        let later = noticed + DAY_MS + 1;
        assert_eq!(losses(later, later).await.status, CheckStatus::Ok);
        let unseen = losses(noticed - 1, later + 9 * DAY_MS).await;
        assert_eq!(unseen.status, CheckStatus::Trouble, "no check has looked since it was noticed");
        writer.close().await.unwrap();
    });
}

#[test]
fn a_store_that_is_away_is_one_trouble_and_the_rest_is_unknown() {
    let watched = Watched::new("");
    let site = &watched.site;
    let daemon = site.start();
    watched.stores(&[record("INFO", "fine")], 1);
    daemon.stop();
    watched.configure("off = [\"daemon\", \"backlog\"]\n");
    watched.check(0);
    let (rows, aside) = (site.store_dir(), site.path("aside"));
    fs::rename(&rows, &aside).unwrap();
    fs::write(&rows, "no directory").unwrap();
    let checked = watched.check(1);
    assert_eq!(checked.status("store"), "trouble");
    for unknown in ["errors", "dead-letters", "losses"] {
        assert_eq!(checked.status(unknown), "unknown", "{unknown}");
    }
    assert!(checked.stderr().contains("not in health_checks"), "{}", checked.stderr());
    fs::remove_file(&rows).unwrap();
    fs::rename(&aside, &rows).unwrap();
    assert_eq!(watched.check(0).status("store"), "ok");
    watched.configure("off = [\"daemon\", \"backlog\"]\nslow_answer = \"1ms\"\n");
    // whether a millisecond is enough is this machine's affair: it is judged as it was measured
    let output = site.run(&["alerts", "check", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = answer["checks"].as_array().unwrap();
    let store = checks.iter().find(|check| check["name"] == "store").unwrap();
    let slow = store["value"].as_f64().unwrap() > 0.001;
    assert_eq!(store["status"] == "trouble", slow, "{store}");
}

#[test]
fn a_source_that_cannot_be_read_or_is_behind_is_trouble() {
    let watched = Watched::new("backlog = \"1m\"\n");
    let site = &watched.site;
    let daemon = site.start();
    watched.stores(&[record("INFO", "fine")], 1);
    assert_eq!(watched.check(0).status("backlog shop"), "ok");
    // where nobody answers, the store's own mark is asked
    let at = |now_ms| {
        let reader = SqliteReader::new(site.store_dir());
        let limit = Duration::from_mins(1);
        runtime().block_on(store::backlog(&reader, "test-host", limit, now_ms))
    };
    assert!(within(PATIENCE, || !at(now_ms()).is_empty()), "the daemon leaves a mark");
    daemon.stop();
    assert_eq!(at(now_ms())[0].status, CheckStatus::Ok);
    assert_eq!(at(now_ms() + 10 * MINUTE_MS)[0].status, CheckStatus::Trouble);
    assert_eq!(watched.check(1).status("backlog shop"), "ok");
}

#[test]
fn what_was_found_is_in_the_table_and_in_the_list() {
    let watched = Watched::new(
        "[[alerts.rule]]\nname = \"shop is quiet\"\nkind = \"silent\"\nsource = \"shop\"\n",
    );
    let site = &watched.site;
    site.answers(&["alerts", "list"], 0, "no check yet");
    watched.check(1);
    let checks =
        runtime().block_on(SqliteReader::new(site.store_dir()).last_checks()).expect("the table");
    let quiet = checks.iter().find(|check| check.name == "shop is quiet");
    // nothing has made the store before the first check
    if let Some(quiet) = quiet {
        assert_eq!(quiet.host, "test-host");
    }
    let daemon = site.start();
    watched.stores(&[record("INFO", "fine")], 1);
    watched.check(0);
    let checks = runtime().block_on(SqliteReader::new(site.store_dir()).last_checks()).unwrap();
    let quiet = checks.iter().find(|check| check.name == "shop is quiet").unwrap();
    assert_eq!((quiet.status, quiet.value), (CheckStatus::Ok, Some(1.0)));
    let listed = site.json(&["alerts", "list", "--json"]);
    let rules = listed["rules"].as_array().unwrap();
    let rule = rules.iter().find(|rule| rule["rule"] == "shop is quiet").unwrap();
    assert_eq!(rule["last"][0]["status"], "ok");
    daemon.stop();
}

#[test]
fn backups_and_drills_have_an_age() {
    let watched = Watched::new(
        "off = [\"daemon\", \"store\", \"errors\", \"dead-letters\", \"losses\"]\nbackup_age = \"1m\"\ndrill_age = \"2m\"\n",
    );
    let checked = watched.check(0);
    assert!(checked.find("backup")["detail"].as_str().unwrap().contains("no verified backup yet"));
    // an hour ago somebody looked for the first time
    let path = watched.site.path("state/alerts/memory.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut memory: serde_json::Value = serde_json::from_str(&text).unwrap();
    memory["first_ms"] = json!(now_ms() - 60 * MINUTE_MS);
    fs::write(&path, memory.to_string()).unwrap();
    let checked = watched.check(1);
    assert_eq!((checked.status("backup"), checked.status("drill")), ("trouble", "trouble"));
    // what is copied must be there
    let daemon = watched.site.start();
    watched.stores(&[record("INFO", "fine")], 1);
    daemon.stop();
    watched.site.answers(&["backup", "create"], 0, "");
    let checked = watched.check(1);
    assert_eq!((checked.status("backup"), checked.status("drill")), ("ok", "trouble"));
    watched.site.answers(&["restore", "--drill"], 0, "");
    watched.check(0);
}

#[test]
fn a_file_system_that_fills_up_is_trouble_and_its_news_are_told_once() {
    const NAME: &str = "a_file_system_that_fills_up_is_trouble_and_its_news_are_told_once";
    let watched = Watched::new("");
    let site = &watched.site;
    let Some(_mounted) = Mounted::tmpfs(&site.path("state"), "4m") else {
        return skip(NAME, "needs root, to mount a file system");
    };
    let log = site.path("alerts.log");
    watched.configure(&format!(
        "disk_percent = 80\noff = [\"daemon\", \"backup\", \"drill\"]\nlog = {{ file = {log:?} }}\n"
    ));
    let name = format!("disk {}", site.path("state").display());
    let status = || {
        let output = site.run(&["alerts", "check", "--json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = answer["checks"].as_array().unwrap().clone();
        let check = checks.iter().find(|check| check["name"] == name.as_str()).unwrap();
        (check["status"].as_str().unwrap().to_owned(), output)
    };
    assert_eq!(status().0, "ok");
    let told = || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter(|line| line.contains(&name)).count()
    };
    // to the last byte, so that the memory cannot be written beside its old copy
    let ballast = site.path("state/ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
    for _ in 0..3 {
        let (found, output) = status();
        assert_eq!(found, "trouble");
        assert_eq!(output.status.code(), Some(1), "{}", super::told(&output));
    }
    assert_eq!(told(), 1);
    drop(file);
    fs::remove_file(ballast).unwrap();
    assert_eq!(status().0, "ok");
    assert_eq!(told(), 2);
}
