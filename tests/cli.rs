//! Commands, exit codes, signals and what the daemon tells of itself.

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

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use support::ledger::{Ledger, Rotation, Style};
use support::site::{BINARY, Files, Site, told};
use support::{Mounted, PATIENCE, eventually, pause_ms, skip, within};

fn site_with(site: Site) -> (Site, Ledger) {
    let path = site.log("access.log");
    site.configure(&[Files::new("nginx/access", &path)]);
    let ledger = Ledger::new(&path, Style::Nginx, 1, 41);
    (site, ledger)
}

fn nginx() -> (Site, Ledger) {
    site_with(Site::new())
}

#[track_caller]
fn exits(site: &Site, arguments: &[&str], code: i32) -> String {
    let output = site.run(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", told(&output));
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn every_command_explains_itself() {
    let top = Command::new(BINARY).arg("--help").output().unwrap();
    assert!(top.status.success());
    let text = String::from_utf8(top.stdout).unwrap();
    for command in [
        "run",
        "check",
        "parse",
        "logs",
        "audit",
        "status",
        "state",
        "schema",
        "dead-letters",
        "completions",
        "man",
        "reload",
    ] {
        assert!(text.contains(command), "--help does not name {command}");
        let help = Command::new(BINARY).args([command, "--help"]).output().unwrap();
        assert!(help.status.success(), "{command}: {}", told(&help));
        assert!(help.stdout.len() > 120, "{command}: {}", told(&help));
        let wrong = Command::new(BINARY).args([command, "--no-such-flag"]).output().unwrap();
        assert_eq!(wrong.status.code(), Some(2), "{command}: {}", told(&wrong));
    }
    assert_eq!(Command::new(BINARY).arg("sail").output().unwrap().status.code(), Some(2));
}

#[test]
fn exit_codes_say_what_happened() {
    let (site, mut ledger) = nginx();
    // Nothing runs, nothing is stored.
    assert_ne!(site.run(&["status"]).status.code(), Some(0));
    assert_ne!(site.run(&["reload"]).status.code(), Some(0));
    ledger.write(50);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    exits(&site, &["status"], 0);
    exits(&site, &["check"], 0);
    exits(&site, &["logs", "-n", "5"], 0);
    exits(&site, &["logs", "-g", "no such text anywhere"], 1);
    exits(&site, &["logs", "-o", "no-such-format"], 2);
    exits(&site, &["logs", "--since", "the day of never"], 2);
    exits(&site, &["logs", "--since", "-1h", "--until", "-2h"], 2);
    exits(&site, &["logs", "--count", "source"], 0);
    exits(&site, &["dead-letters", "ls"], 1);
    exits(&site, &["state", "show"], 0);
    exits(&site, &["schema", "check"], 0);
    exits(&site, &["completions", "bash"], 0);
    exits(&site, &["man"], 0);
    exits(&site, &["reload"], 0);
    exits(&site, &["parse", "--format", "nginx/access", ledger.path.to_str().unwrap()], 0);
    assert_ne!(site.run(&["parse", "--format", "nginx/access", "/no/such"]).status.code(), Some(0));
    // Before and after the command's name.
    let mut before = Command::new(BINARY);
    before.arg("--config").arg(site.config()).args(["logs", "-n", "1"]);
    assert!(before.output().unwrap().status.success());
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn rows_are_told_as_json_with_their_place() {
    let (site, mut ledger) = nginx();
    ledger.write(30);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    let rows = site.logs();
    assert_eq!(rows.len(), ledger.expected.must.len());
    let bytes = fs::read(&ledger.path).unwrap();
    for row in &rows {
        let offset = usize::try_from(row["offset_bytes"].as_u64().unwrap()).unwrap();
        assert!(bytes[offset..].starts_with(b"192.0.2.7 - - ["), "{row}");
        assert_eq!(row["source"], "nginx/access");
        assert_eq!(row["host"], "test-host");
        assert_eq!(row["metadata"]["status"], "200");
        assert!(row["origin"].as_i64().is_some_and(|origin| origin > 0));
    }
    let raw = site.run(&["logs", "-o", "raw", "-n", "all"]).stdout;
    let mut lines: Vec<&[u8]> = raw.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
    let mut own: Vec<&[u8]> = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
    lines.sort_unstable();
    own.sort_unstable();
    let without_cr = |lines: Vec<&[u8]>| -> Vec<String> {
        lines.iter().map(|l| String::from_utf8_lossy(l).trim_end().to_owned()).collect()
    };
    assert_eq!(without_cr(lines), without_cr(own), "-o raw is the line as it stands in its file");
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn a_second_instance_is_refused() {
    let (site, mut ledger) = nginx();
    ledger.write(5);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    let mut second = site.start();
    assert_eq!(second.wait().code(), Some(75), "{}", second.said());
    ledger.write(5);
    site.all_arrives(&mut ledger, PATIENCE);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn a_wrong_configuration_is_refused_with_its_places() {
    let site = Site::new();
    let config = site.config();
    fs::write(&config, "[daemon]\nstate_dirr = \"/tmp\"\n[store]\nkind = \"oracle\"\n").unwrap();
    let mut daemon = site.start();
    assert_eq!(daemon.wait().code(), Some(78));
    let said = daemon.said();
    for place in ["2:1:", "4:8:"] {
        let told = format!("{}:{place} ", config.display());
        assert!(said.contains(&told), "no {told} in {said}");
    }
    exits(&site, &["check"], 78);
    exits(&site, &["logs"], 78);
}

#[test]
fn sighup_takes_a_good_configuration_over_and_refuses_a_bad_one() {
    let (site, mut ledger) = site_with(Site::with_http());
    ledger.write(20);
    let mut daemon = site.start_ready();
    site.all_arrives(&mut ledger, PATIENCE);
    let good = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), good.replace("nginx/access", "nginx/excess")).unwrap();
    daemon.reload();
    daemon.says("nginx/excess");
    let metric = "bitacora_config_last_reload_successful";
    eventually("the refusal is counted", || site.metric(metric, "") == Some(0.0));
    assert_ne!(site.run(&["reload"]).status.code(), Some(0), "the command tells of the refusal");
    ledger.write(20);
    site.all_arrives(&mut ledger, PATIENCE);
    // A further source, without losing a line of the first.
    let mut other = Ledger::new(&site.log("other.log"), Style::Json, 50_000, 8);
    other.write(20);
    site.configure(&[
        Files::new("nginx/access", &ledger.path),
        Files::new("json", &other.path).with("table = \"application\""),
    ]);
    ledger.write(10);
    daemon.reload();
    ledger.write(10);
    site.all_arrives(&mut other, PATIENCE);
    site.all_arrives(&mut ledger, PATIENCE);
    assert_eq!(site.metric(metric, ""), Some(1.0));
    // The source goes, and comes back where it was.
    site.configure(&[Files::new("nginx/access", &ledger.path)]);
    exits(&site, &["reload"], 0);
    other.write(20);
    ledger.write(10);
    site.all_arrives(&mut ledger, PATIENCE);
    site.configure(&[
        Files::new("nginx/access", &ledger.path),
        Files::new("json", &other.path).with("table = \"application\""),
    ]);
    exits(&site, &["reload"], 0);
    site.all_arrives(&mut other, PATIENCE);
    ledger.expected.add(&other.expected);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn sigterm_stores_what_was_read_and_a_second_one_ends_at_once() {
    let (site, mut ledger) = nginx();
    ledger.write(2_000);
    let daemon = site.start();
    within(PATIENCE, || !site.rows().is_empty());
    let began = Instant::now();
    daemon.stop();
    eprintln!("SIGTERM: stopped in {:?}", began.elapsed());
    site.audit_is_clean();
    let mut daemon = site.start();
    ledger.write(4_000);
    pause_ms(50);
    daemon.ask_to_stop();
    daemon.ask_to_stop();
    let began = Instant::now();
    daemon.wait();
    assert!(began.elapsed() < Duration::from_secs(8), "the second SIGTERM did not end it");
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn signals_that_come_while_it_starts_are_heard() {
    let (site, mut ledger) = nginx();
    for _ in 0..5 {
        ledger.write(100);
        let mut daemon = site.start();
        daemon.reload();
        daemon.stop();
    }
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn http_tells_of_life_readiness_and_a_sum_that_adds_up() {
    let (site, mut ledger) = site_with(Site::with_http());
    ledger.write(300);
    let daemon = site.start_ready();
    site.all_arrives(&mut ledger, PATIENCE);
    assert_eq!(site.get("/live").unwrap().0, 200);
    let read = fs::metadata(&ledger.path).unwrap().len();
    let label = "source=\"nginx/access\"";
    let stored = |site: &Site| site.metric("bitacora_source_row_bytes_total", label);
    #[allow(clippy::cast_precision_loss, reason = "small")]
    let whole = read as f64;
    eventually("all bytes are in spans", || stored(&site) == Some(whole));
    assert_eq!(site.metric("bitacora_source_unaccounted_bytes", label), Some(0.0));
    assert_eq!(site.metric("bitacora_source_pending_bytes", label), Some(0.0));
    assert_eq!(site.metric("bitacora_source_read_bytes_total", label), Some(whole));
    #[allow(clippy::cast_precision_loss, reason = "small")]
    let rows = ledger.expected.must.len() as f64;
    assert_eq!(site.metric("bitacora_source_rows_total", label), Some(rows));
    let (_, page) = site.get("/metrics").unwrap();
    assert!(!page.contains("access.log") && !page.contains("test-host"), "unbounded labels");
    let status = site.json(&["status", "--json"]);
    assert_eq!(status["ready"], true, "{status}");
    assert_eq!(status["sources"][0]["unaccounted_bytes"], 0);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn a_line_is_readable_soon_after_it_was_written() {
    let (site, mut ledger) = nginx();
    ledger.write(1);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            pause_ms(ledger.rng.range(100, 400));
            ledger.write(1);
            ledger.finish_line();
            let began = Instant::now();
            eventually("readable", || ledger.expected.all_in(&site.rows()));
            began.elapsed()
        })
        .collect();
    times.sort();
    eprintln!("append to readable: median {:?}, worst {:?}", times[7], times[14]);
    assert!(times[7] < Duration::from_secs(2), "median {:?}", times[7]);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn the_state_is_rebuilt_from_the_store_when_it_is_gone_or_damaged() {
    let (site, mut ledger) = nginx();
    ledger.write(200);
    ledger.rotate(Rotation::Rename);
    // Older than the minute for which a rebuilt state looks back.
    let old = SystemTime::now() - Duration::from_hours(1);
    fs::File::options()
        .write(true)
        .open(site.log("access.log.1"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    ledger.write(100);
    let daemon = site.start();
    within(PATIENCE, || site.rows().len() > 50);
    daemon.stop();
    // A generation beside the file at its first sight is not the daemon's.
    let rows = site.rows();
    ledger.expected.must.retain(|number| *number > 200 || rows.contains_key(number));
    fs::remove_dir_all(site.path("state")).unwrap();
    exits(&site, &["state", "rebuild"], 0);
    ledger.write(50);
    ledger.rotate(Rotation::Rename);
    ledger.write(50);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    daemon.stop();
    assert_eq!(ledger.expected.compare(&site.rows()), Ok(()));
    // Gone, and nobody asks for a rebuild.
    fs::remove_dir_all(site.path("state")).unwrap();
    ledger.write(50);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    daemon.stop();
    assert_eq!(ledger.expected.compare(&site.rows()), Ok(()));
    // Damaged: set aside, rebuilt, and said.
    let state = site.path("state").join("state.db");
    fs::write(&state, b"not a database, however long it may be ".repeat(400)).unwrap();
    for tail in ["-wal", "-shm"] {
        let _ = fs::remove_file(site.path("state").join(format!("state.db{tail}")));
    }
    ledger.write(50);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    daemon.says("set aside");
    let aside = fs::read_dir(site.path("state"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("damaged"));
    assert_eq!(aside.count(), 1);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn a_full_state_directory_loses_nothing_and_is_said() {
    let name = "a_full_state_directory_loses_nothing_and_is_said";
    let (site, mut ledger) = nginx();
    let state = site.path("state");
    let Some(mounted) = Mounted::tmpfs(&state, "1m") else {
        return skip(name, "needs root and the right to mount a tmpfs");
    };
    ledger.write(100);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    let ballast = state.join("ballast");
    let full = fs::write(&ballast, vec![b'b'; 2 << 20]);
    assert!(full.is_err(), "1 MiB holds 2 MiB?");
    for _ in 0..20 {
        ledger.write(100);
        ledger.rotate(Rotation::Rename);
        pause_ms(50);
    }
    eventually("the full directory is said", || {
        let said = daemon.said().to_lowercase();
        said.contains("no room") || said.contains("no space")
    });
    fs::remove_file(&ballast).unwrap();
    site.all_arrives(&mut ledger, PATIENCE);
    site.ends_well(daemon, &ledger.expected);
    // Read-only from the start.
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&state).status().unwrap();
    assert!(remounted.success());
    let mut daemon = site.start();
    let code = daemon.wait().code();
    assert!(matches!(code, Some(74 | 77)), "{code:?}: {}", daemon.said());
    assert!(daemon.said().contains("state"), "{}", daemon.said());
    drop(mounted);
}

#[test]
fn how_much_the_daemon_says_changes_with_a_reload() {
    let mut site = Site::new();
    site.daemon_extra = "log = \"error\"".to_owned();
    let log = site.log("access.log");
    fs::write(&log, "").unwrap();
    site.configure(&[Files::new("nginx/access", &log)]);
    let daemon = site.start();
    eventually("it runs", || site.run(&["status"]).status.success());
    assert_eq!(site.said(), "", "it starts well, and that is no error");
    site.daemon_extra = "log = \"info\"".to_owned();
    site.configure(&[Files::new("nginx/access", &log)]);
    let told = site.run(&["reload"]);
    assert_eq!(String::from_utf8_lossy(&told.stdout), "reloaded: 1 sources\n", "no restart needed");
    daemon.says("the configuration was read again sources=1");
    assert!(!site.said().contains("message_id"), "people need no ids: {}", site.said());
    daemon.stop();
}
