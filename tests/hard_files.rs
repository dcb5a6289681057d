//! Machines that make it hard: no permission, no inotify, very many files, a file that is cut.

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

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::ledger::{Ledger, Rotation, Style};
use support::site::{BINARY, Files, Site};
use support::{Mounted, PATIENCE, eventually, has, is_root, pause_ms, skip};

fn can(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

const NOBODY: u32 = 65_534;
const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

#[test]
fn a_file_that_becomes_readable_is_read_from_its_beginning() {
    let name = "a_file_that_becomes_readable_is_read_from_its_beginning";
    if !is_root() || !has("setpriv") {
        return skip(name, "needs root and setpriv, to run as somebody else");
    }
    let reaches = [&AS_NOBODY[1..], &[BINARY, "--version"]].concat();
    if !can(AS_NOBODY[0], &reaches) {
        return skip(name, "another user cannot reach the program here");
    }
    let site = Site::new();
    let path = site.log("secret.log");
    site.configure(&[Files::new("nginx/access", &path)]);
    for dir in ["", "log"] {
        chown(site.path(dir), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::set_permissions(site.config(), Permissions::from_mode(0o644)).unwrap();
    let mut ledger = Ledger::new(&path, Style::Nginx, 1, 3);
    ledger.write(40);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let daemon = site.start_as(&AS_NOBODY, &[]);
    daemon.says("secret.log");
    let named = || {
        let output = site.run(&["status", "--json"]);
        String::from_utf8_lossy(&output.stdout).contains("secret.log cannot be read")
    };
    eventually("status names the file", named);
    assert!(site.rows().is_empty());
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    site.all_arrives(&mut ledger, PATIENCE);
    // Lost again while it is open, as logrotate's `create 0600` before its chmod does it.
    ledger.rotate(Rotation::Rename);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    ledger.write(40);
    eventually("status names it again", named);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    site.all_arrives(&mut ledger, PATIENCE);
    site.ends_well(daemon, &ledger.expected);
}

/// Runs with inotify limits of its own, in a user namespace.
fn with_inotify_limit(name: &str, limit: &str, value: &str) {
    let set = format!("echo {value} >/proc/sys/user/{limit} && exec \"$@\"");
    let through = ["unshare", "--user", "--map-root-user", "sh", "-c", &set, "sh"];
    if !can(through[0], &[&through[1..], &["true"]].concat()) {
        return skip(name, "no user namespaces with inotify limits here");
    }
    let site = Site::with_http();
    let (literal, pattern) = (site.log("access.log"), site.log("many/**/*.log"));
    let mut files = Files::new("nginx/access", &literal);
    files.paths.push(pattern);
    site.configure(&[files]);
    let mut ledger = Ledger::new(&literal, Style::Nginx, 1, 3);
    let mut other = Ledger::new(&site.log("many/a/b.log"), Style::Nginx, 10_000, 4);
    let daemon = site.start_as(&through, &[]);
    for turn in 0..4 {
        ledger.write(20);
        other.write(20);
        ledger.finish_line();
        other.finish_line();
        if turn > 0 {
            ledger.rotate(Rotation::Rename);
            other.rotate(Rotation::CopyTruncate);
        }
        site.all_arrives(&mut ledger, PATIENCE);
        site.all_arrives(&mut other, PATIENCE);
    }
    eventually("the failure is counted", || {
        site.metric("bitacora_wake_faults_total", "").is_some_and(|count| count > 0.0)
    });
    let said = daemon.said().lines().filter(|line| line.contains("inotify")).count();
    assert!(said <= 4, "said once and not each time: {}", daemon.said());
    ledger.expected.add(&other.expected);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn no_inotify_instance_left_means_reading_by_the_timer() {
    let name = "no_inotify_instance_left_means_reading_by_the_timer";
    with_inotify_limit(name, "max_inotify_instances", "0");
}

#[test]
fn no_inotify_watch_left_means_reading_by_the_timer() {
    let name = "no_inotify_watch_left_means_reading_by_the_timer";
    with_inotify_limit(name, "max_inotify_watches", "1");
}

#[test]
fn a_file_that_was_cut_back_by_a_power_cut_goes_on_and_doubles_nothing() {
    let site = Site::new();
    let path = site.log("access.log");
    site.configure(&[Files::new("nginx/access", &path)]);
    let mut ledger = Ledger::new(&path, Style::Nginx, 1, 6);
    let daemon = site.start();
    // Markers of some seconds ago are kept; so the file must have grown for some seconds.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(6) {
        ledger.write(10);
        ledger.finish_line();
        pause_ms(150);
    }
    site.all_arrives(&mut ledger, PATIENCE);
    daemon.kill();
    // The last lines never reached the disk, but they did reach the store.
    let bytes = fs::read(&path).unwrap();
    let keep = bytes[..bytes.len() * 9 / 10].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(keep as u64).unwrap();
    let daemon = site.start();
    let mut after = Ledger::new(&path, Style::Nginx, 700_000, 8);
    after.write(100);
    site.all_arrives(&mut after, PATIENCE);
    daemon.stop();
    ledger.expected.add(&after.expected);
    assert_eq!(ledger.expected.compare(&site.rows()), Ok(()));
    let audit = site.run(&["audit", "--json"]);
    let text = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(text.contains("receipt"), "the receipt is told: {text}");
}

#[test]
fn a_full_store_is_waited_for_and_said() {
    let name = "a_full_store_is_waited_for_and_said";
    let site = Site::new();
    let path = site.log("access.log");
    site.configure(&[Files::new("nginx/access", &path)]);
    let mut ledger = Ledger::new(&path, Style::Nginx, 1, 6);
    let Some(_mounted) = Mounted::tmpfs(&site.store_dir(), "6m") else {
        return skip(name, "needs root and the right to mount a tmpfs");
    };
    ledger.write(100);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    let ballast = site.store_dir().join("ballast");
    assert!(fs::write(&ballast, vec![b'b'; 8 << 20]).is_err(), "6 MiB hold 8 MiB?");
    ledger.write(3_000);
    eventually("status tells that the store is full", || {
        let store = &site.json(&["status", "--json"])["store"];
        store["up"] == false && store["problem"].as_str().is_some_and(|why| !why.is_empty())
    });
    eprintln!("full store: {}", site.json(&["status", "--json"])["store"]["problem"]);
    ledger.rotate(Rotation::Rename);
    fs::remove_file(&ballast).unwrap();
    site.all_arrives(&mut ledger, PATIENCE);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn many_quiet_files_cost_few_descriptors() {
    let site = Site::new();
    let files = Files::new("nginx/access", site.log("many/**/*.log"));
    site.configure(&[files]);
    for dir in 0..20 {
        let dir = site.log(&format!("many/{dir}"));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..100 {
            fs::write(dir.join(format!("{file}.log")), "").unwrap();
        }
    }
    let mut ledger = Ledger::new(&site.log("many/7/loud.log"), Style::Nginx, 1, 3);
    ledger.write(50);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    ledger.write(50);
    site.all_arrives(&mut ledger, PATIENCE);
    let pid = daemon.pid().unwrap().as_raw_nonzero();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let resident = daemon.memory_kib("VmHWM").unwrap();
    eprintln!("2,001 files: {open} descriptors, {resident} KiB at most");
    assert!(open < 200, "{open} descriptors");
    assert!(resident < 64 << 10, "{resident} KiB");
    site.ends_well(daemon, &ledger.expected);
}
