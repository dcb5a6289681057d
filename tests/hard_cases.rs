//! Cases that have broken log shippers before, by name.

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

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use support::ledger::{Ledger, Rotation, Style};
use support::rows::Expected;
use support::site::{Files, Site};
use support::{PATIENCE, eventually, pause_ms, within};

/// A site that follows one nginx log, and its writer.
fn nginx(extra: &str) -> (Site, Ledger) {
    let site = Site::new();
    let path = site.log("access.log");
    site.configure(&[Files::new("nginx/access", &path).with(extra)]);
    let ledger = Ledger::new(&path, Style::Nginx, 1, 21);
    (site, ledger)
}

#[test]
fn two_files_with_equal_first_kilobytes_are_two_files() {
    let site = Site::new();
    site.configure(&[Files::new("nginx/access", site.log("*.log"))]);
    let head: String = (0..200)
        .map(|n| format!("192.0.2.1 - - [22/Nov/2026:06:00:{:02} +0000] \"GET /same HTTP/1.1\" 200 1 \"-\" \"-\"\n", n % 60))
        .collect();
    let mut one = Ledger::new(&site.log("one.log"), Style::Nginx, 1, 1);
    let mut two = Ledger::new(&site.log("two.log"), Style::Nginx, 10_001, 2);
    one.write_raw(head.as_bytes());
    two.write_raw(head.as_bytes());
    let daemon = site.start();
    one.write(100);
    two.write(100);
    site.all_arrives(&mut one, PATIENCE);
    site.all_arrives(&mut two, PATIENCE);
    daemon.kill();
    // Rotated while down, so that each must be told from the other by more than its beginning.
    for ledger in [&mut one, &mut two] {
        ledger.write(20);
        ledger.rotate(Rotation::Rename);
        ledger.write_raw(head.as_bytes());
        ledger.write(20);
    }
    let daemon = site.start();
    site.all_arrives(&mut one, PATIENCE);
    site.all_arrives(&mut two, PATIENCE);
    let mut expected = one.expected.clone();
    expected.add(&two.expected);
    site.ends_well(daemon, &expected);
    let same = site.logs().iter().filter(|row| row.to_string().contains("/same")).count();
    assert_eq!(same, 4 * 200, "the equal lines of four generations are four times as many rows");
}

#[test]
fn a_copy_beside_the_log_is_not_read_for_itself() {
    let site = Site::new();
    // The pattern takes the copy in, as a careless one would.
    site.configure(&[Files::new("nginx/access", site.log("access.log*"))]);
    let mut ledger = Ledger::new(&site.log("access.log"), Style::Nginx, 1, 5);
    ledger.write(300);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    fs::copy(&ledger.path, site.log("access.log.bak")).unwrap();
    ledger.write(50);
    site.all_arrives(&mut ledger, PATIENCE);
    daemon.stop();
    fs::copy(&ledger.path, site.log("access.log.bak2")).unwrap();
    let daemon = site.start();
    ledger.write(50);
    site.all_arrives(&mut ledger, PATIENCE);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn start_at_the_end_leaves_out_what_was_there_and_reads_every_later_generation() {
    let (site, mut ledger) = nginx("start = \"end\"");
    ledger.write(100);
    ledger.finish_line();
    let old = std::mem::take(&mut ledger.expected);
    let daemon = site.start();
    // The end that it starts at is where the file ends when it is first seen.
    eventually("the file is followed", || {
        ledger.write(1);
        ledger.finish_line();
        !site.rows().is_empty()
    });
    let first = *site.rows().keys().next().unwrap();
    let before: Vec<u64> = ledger.expected.must.range(..first).copied().collect();
    before.iter().for_each(|number| assert!(ledger.expected.must.remove(number)));
    for _ in 0..3 {
        ledger.write(30);
        ledger.rotate(Rotation::Rename);
        ledger.write(10);
        pause_ms(50);
    }
    site.all_arrives(&mut ledger, PATIENCE);
    daemon.stop();
    ledger.write(30);
    ledger.rotate(Rotation::Rename);
    ledger.write(30);
    ledger.rotate(Rotation::Gzip);
    ledger.write(5);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    let rows = site.rows();
    assert!(old.must.iter().all(|number| !rows.contains_key(number)), "old lines were read");
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn a_writer_that_outlives_rotate_wait_is_still_read() {
    let (site, mut ledger) = nginx("rotate_wait = \"200ms\"");
    ledger.write(50);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    let rotated = site.log("access.log.1");
    fs::rename(&ledger.path, &rotated).unwrap();
    let mut fresh = Ledger::new(&site.log("access.log"), Style::Nginx, 5_000, 9);
    // Several times longer than rotate_wait, with silences that are longer, too.
    for _ in 0..8 {
        ledger.write(5);
        fresh.write(5);
        pause_ms(450);
    }
    site.all_arrives(&mut ledger, PATIENCE);
    site.all_arrives(&mut fresh, PATIENCE);
    let mut expected = ledger.expected.clone();
    expected.add(&fresh.expected);
    site.ends_well(daemon, &expected);
}

#[test]
fn lines_that_are_no_text_are_kept() {
    let site = Site::new();
    let path = site.log("strange.log");
    site.configure(&[Files::new("syslog", &path).with("max_line = \"4KiB\"")]);
    let mut ledger = Ledger::new(&path, Style::Syslog, 1, 3);
    ledger.write(5);
    let stamp = "2026-11-22T06:00:00Z web1 probe[1]: ";
    let long = "y".repeat(9_000);
    ledger.write_raw(format!("{stamp}ln00100001x {long}\n").as_bytes());
    ledger.write_raw(format!("{stamp}ln00100002x with CR\r\n").as_bytes());
    ledger.write_raw(b"ln00100003x no syslog \xff\xfe\x80 at all\n");
    ledger.write_raw(format!("{stamp}ln00100004x").as_bytes());
    ledger.write_raw(b" bytes \xc3\x28 inside\n\n   \n\n");
    ledger.write_raw(&[b"ln00100005x nul ".as_slice(), &[0; 64], b" hole\n"].concat());
    ledger.write_raw(format!("{stamp}ln00100006x after all\n").as_bytes());
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    daemon.stop();
    assert_eq!(ledger.expected.compare(&site.rows()), Ok(()));
    let rows = site.logs();
    let row = |token: &str| {
        rows.iter().find(|row| row["message"].as_str().unwrap().contains(token)).unwrap()
    };
    let cut = row("ln00100001x");
    assert!(cut["message"].as_str().unwrap().len() <= 4 << 10, "over the limit");
    let told = stamp.len() + "ln00100001x ".len() + long.len();
    assert!(cut["metadata"].to_string().contains(&told.to_string()), "true length: {cut}");
    assert!(row("ln00100002x")["message"].as_str().unwrap().ends_with("with CR"));
    for bytes in ["ln00100003x", "ln00100004x"] {
        assert!(row(bytes)["metadata"]["raw_base64"].is_string(), "{}", row(bytes));
    }
    assert_eq!(row("ln00100003x")["metadata"]["unparsed"], "true");
    site.audit_is_clean();
}

#[test]
fn a_hole_of_nul_bytes_at_the_head_loses_no_line() {
    let (site, mut ledger) = nginx("");
    ledger.write(50);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    // A writer without O_APPEND after copytruncate: its offset stays, the head becomes a hole.
    let size = fs::metadata(&ledger.path).unwrap().len();
    fs::copy(&ledger.path, site.log("access.log.1")).unwrap();
    let writer = File::options().write(true).open(&ledger.path).unwrap();
    writer.set_len(0).unwrap();
    let line = "192.0.2.7 - - [22/Nov/2026:06:00:00 +0000] \"GET /ln00200001x HTTP/1.1\" 200 1 \"-\" \"-\"\n";
    writer.write_all_at(line.as_bytes(), size + 1_000_000).unwrap();
    ledger.expected.must.insert(200_001);
    ledger.write(10);
    site.all_arrives(&mut ledger, PATIENCE);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn empty_files_and_files_that_appear_later_are_followed() {
    let site = Site::new();
    let (literal, deep) = (site.log("late/access.log"), site.log("more/**/*.log"));
    let mut files = Files::new("nginx/access", &literal);
    files.paths.push(deep);
    site.configure(&[files]);
    fs::create_dir_all(site.log("more")).unwrap();
    File::create(site.log("more/empty.log")).unwrap();
    let daemon = site.start();
    let mut expected = Expected::default();
    let mut ledgers = Vec::new();
    for (number, name) in ["late/access.log", "more/a.log", "more/b/c/d.log", "more/empty.log"]
        .into_iter()
        .enumerate()
    {
        let mut ledger =
            Ledger::new(&site.log(name), Style::Nginx, 1 + 1_000 * number as u64, number as u64);
        pause_ms(100);
        ledger.write(20);
        ledger.finish_line();
        expected.add(&ledger.expected);
        ledgers.push(ledger);
    }
    eventually("all files are read", || expected.all_in(&site.rows()));
    site.ends_well(daemon, &expected);
}

/// `pid` 4000 + n begins a statement, the others write between its lines.
fn statement(pid: u32, second: u32, token: u64, lines: &[&str]) -> String {
    let mut text = format!(
        "2026-11-22 06:{:02}:{:02}.250 UTC [{pid}] ERROR:  ln{token:08}x failed\n",
        second / 60,
        second % 60
    );
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[test]
fn statements_of_many_pids_stay_whole_and_a_silent_one_holds_nothing_up() {
    let site = Site::new();
    let path = site.log("postgresql.log");
    let files = Files::new("postgresql", &path)
        .with("options = { log_line_prefix = \"%m [%p] \" }")
        .with("multiline_wait = \"300ms\"");
    site.configure(&[files]);
    let mut ledger = Ledger::new(&path, Style::Syslog, 1, 3);
    // This one says its first line and is never heard of again.
    let silent = statement(3999, 0, ledger.take_number(), &[]);
    ledger.write_raw(silent.as_bytes());
    let mut daemon = site.start();
    for turn in 0..40_u32 {
        let mut text = String::new();
        for pid in 4000..4006 {
            text.push_str(&statement(pid, turn, ledger.take_number(), &[]));
        }
        for pid in 4000..4006 {
            let time = format!("2026-11-22 06:00:{turn:02}.251 UTC [{pid}]");
            text.push_str(&format!("{time} DETAIL:  of {pid} in {turn}\n"));
            text.push_str(&format!(
                "{time} STATEMENT:  SELECT {pid},\n\t       {turn}\n\tFROM t\n"
            ));
        }
        // Half a record now, the rest after the next kill.
        let cut = text.len() * 2 / 3;
        ledger.write_raw(&text.as_bytes()[..cut]);
        if turn % 13 == 5 {
            pause_ms(400);
            daemon.kill();
            daemon = site.start();
        }
        ledger.write_raw(&text.as_bytes()[cut..]);
        ledger.expected.must.extend(support::rows::numbers(&text));
    }
    site.all_arrives(&mut ledger, PATIENCE);
    eventually("the last statement is whole", || {
        site.logs().iter().filter(|row| row.to_string().contains("FROM t")).count() == 240
    });
    daemon.stop();
    assert_eq!(ledger.expected.compare(&site.rows()), Ok(()));
    let rows = site.logs();
    assert_eq!(rows.len(), 241, "each statement is one row");
    for pid in 4000..4006 {
        for turn in [0, 5, 18, 39] {
            let detail = format!("of {pid} in {turn}\"");
            let found: Vec<&Value> =
                rows.iter().filter(|row| row.to_string().contains(&detail)).collect();
            assert_eq!(found.len(), 1, "{detail}");
            let text = found[0].to_string();
            assert!(text.contains(&format!("SELECT {pid},")), "mixed up: {text}");
        }
    }
    site.audit_is_clean();
}

/// What a row is known by, and what it says.
fn by_token(site: &Site) -> std::collections::BTreeMap<u64, Value> {
    site.logs()
        .into_iter()
        .filter_map(|row| Some((*support::rows::numbers(&row.to_string()).first()?, row)))
        .collect()
}

#[test]
fn zone_source_and_format_may_change_while_rows_are_uncommitted() {
    let site = Site::new();
    let path = site.log("app.log");
    let table = |source: &str, format: &str, zone: &str| {
        Files::new(source, &path)
            .with(&format!("format = {format:?}"))
            .with(&format!("timezone = {zone:?}"))
    };
    // A backlog that takes several commits, so that the changes meet rows on their way.
    let mut file = File::create(&path).unwrap();
    let mut expected = Expected::default();
    let mut next = 0_u64;
    let mut write = |lines: u64, expected: &mut Expected| {
        let mut text = Vec::new();
        for _ in 0..lines {
            next += 1;
            writeln!(
                text,
                "Nov 22 06:{:02}:{:02} web1 probe[7]: ln{next:08}x {}",
                next / 60 % 60,
                next % 60,
                "z".repeat(150)
            )
            .unwrap();
            expected.must.insert(next);
        }
        file.write_all(&text).unwrap();
    };
    let changes = [
        table("syslog", "syslog", "UTC"),
        table("syslog", "syslog", "America/New_York"),
        table("mail", "syslog", "America/New_York"),
        table("mail", "json", "Asia/Kolkata"),
        table("syslog", "syslog", "Asia/Kolkata"),
    ];
    for (turn, files) in changes.iter().enumerate() {
        site.configure(std::slice::from_ref(files));
        write(6_000, &mut expected);
        let daemon = site.start();
        // Killed with rows in the store that no span covers yet, most of the time.
        let some = turn * 1_000;
        within(PATIENCE, || site.rows().len() > some);
        daemon.kill();
    }
    let daemon = site.start();
    eventually("the backlog is read", || expected.all_in(&site.rows()));
    for zone in ["UTC", "Europe/Madrid", "UTC"] {
        site.configure(&[table("syslog", "syslog", zone)]);
        let mut daemon_said = daemon.said().len();
        let pid = daemon.pid().unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        within(PATIENCE, || {
            std::mem::replace(&mut daemon_said, daemon.said().len()) != daemon_said
        });
        write(500, &mut expected);
    }
    eventually("the rest is read", || expected.all_in(&site.rows()));
    site.ends_well(daemon, &expected);
    let last = by_token(&site);
    let newest = last.values().next_back().unwrap();
    assert_eq!(newest["source"], "syslog", "the last rules are in force at the end");
}

/// The daemon reads it at each look at the clock, so it is never there in half.
fn set_clock(file: &Path, time: &str) {
    let next = file.with_extension("next");
    fs::write(&next, time).unwrap();
    fs::rename(next, file).unwrap();
}

/// An environment in which a program sees another time.
fn at(time: &str, file: &Path) -> Option<Vec<(&'static str, String)>> {
    let library =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
            .map(|dir| format!("{dir}/faketime/libfaketimeMT.so.1"))
            .into_iter()
            .find(|path| Path::new(path).exists())?;
    set_clock(file, time);
    Some(vec![
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("TZ", "UTC".into()),
    ])
}

#[test]
fn a_year_less_file_lives_past_new_year() {
    let name = "a_year_less_file_lives_past_new_year";
    let site = Site::new();
    let path = site.log("syslog");
    site.configure(&[Files::new("syslog", &path).with("timezone = \"UTC\"")]);
    let clock = site.path("clock");
    let Some(environment) = at("@2026-12-31 22:00:00", &clock) else {
        return support::skip(name, "no libfaketime here");
    };
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut ledger = Ledger::new(&path, Style::Syslog, 1, 2);
    let line = |ledger: &mut Ledger, when: &str| {
        let number = ledger.take_number();
        ledger.write_raw(format!("{when} web1 probe[7]: ln{number:08}x\n").as_bytes());
    };
    for minute in 0..50 {
        line(&mut ledger, &format!("Dec 31 21:{minute:02}:07"));
    }
    let daemon = site.start_as(&[], &environment);
    site.all_arrives(&mut ledger, PATIENCE);
    // Old lines are in the store, and perhaps in no span: they will be read again next year.
    daemon.kill();
    for minute in 0..30 {
        line(&mut ledger, &format!("Dec 31 23:{minute:02}:07"));
    }
    set_clock(&clock, "@2027-01-01 00:30:00");
    let daemon = site.start_as(&[], &environment);
    line(&mut ledger, "Jan  1 00:10:00");
    site.all_arrives(&mut ledger, PATIENCE);
    // It lives on: days later the anchor of its first days would make these 2026.
    set_clock(&clock, "@2027-01-09 12:00:00");
    for minute in 0..30 {
        line(&mut ledger, &format!("Jan  9 11:{minute:02}:07"));
    }
    site.all_arrives(&mut ledger, PATIENCE);
    daemon.kill();
    set_clock(&clock, "@2027-12-01 12:00:00");
    let daemon = site.start_as(&[], &environment);
    line(&mut ledger, "Nov 30 23:59:59");
    site.all_arrives(&mut ledger, PATIENCE);
    daemon.stop();
    assert_eq!(ledger.expected.compare(&site.rows()), Ok(()));
    let mut years = std::collections::BTreeMap::<String, u32>::new();
    for row in site.logs() {
        let day = row["timestamp"].as_str().unwrap()[..10].to_owned();
        *years.entry(day).or_default() += 1;
    }
    let expected = [("2026-12-31", 80), ("2027-01-01", 1), ("2027-01-09", 30), ("2027-11-30", 1)];
    assert_eq!(years, expected.map(|(day, rows)| (day.to_owned(), rows)).into());
}
