//! The timers and what they start.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::site::{BINARY, told};
use super::support::{has, skip};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");

pub fn units(kind: &str) -> Vec<(String, String)> {
    let mut found: Vec<_> = fs::read_dir(UNITS)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == kind))
        .map(|path| {
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (stem, fs::read_to_string(path).unwrap())
        })
        .collect();
    found.sort();
    found
}

/// The values of a setting of a unit.
pub fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

fn in_project(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The next times at which a calendar expression comes, in UTC from a Sunday's noon on.
fn next(expression: &str, count: usize) -> Vec<String> {
    let output = Command::new("systemd-analyze")
        .args(["calendar", "--base-time=2026-11-22 12:00:00 UTC", "--iterations"])
        .arg(count.to_string())
        .arg(expression)
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let times = text.lines().filter_map(|line| line.trim().split_once(": "));
    let times = times.filter(|(what, _)| what.starts_with("Next") || what.starts_with("Iter"));
    times.map(|(_, time)| time.trim().to_owned()).collect()
}

#[test]
fn calendars_say_what_they_should() {
    const NAME: &str = "calendars_say_what_they_should";
    if !has("systemd-analyze") {
        return skip(NAME, "systemd-analyze is not here");
    }
    let expected = [
        ("bitacora-alerts", ["Sun 2026-11-22 12:05:00 UTC", "Sun 2026-11-22 12:10:00 UTC"]),
        ("bitacora-backup", ["Mon 2026-11-23 02:00:00 UTC", "Tue 2026-11-24 02:00:00 UTC"]),
        (
            "bitacora-cassandra-repair",
            ["Sat 2026-11-28 22:00:00 UTC", "Sat 2026-12-05 22:00:00 UTC"],
        ),
        (
            "bitacora-cassandra-snapshots",
            ["Tue 2026-12-01 05:00:00 UTC", "Fri 2027-01-01 05:00:00 UTC"],
        ),
        (
            "bitacora-cassandra-stats",
            ["Mon 2026-11-23 06:00:00 UTC", "Tue 2026-11-24 06:00:00 UTC"],
        ),
        ("bitacora-drill", ["Sun 2026-11-29 04:30:00 UTC", "Sun 2026-12-06 04:30:00 UTC"]),
        ("bitacora-retention", ["Mon 2026-11-23 03:15:00 UTC", "Tue 2026-11-24 03:15:00 UTC"]),
    ];
    let timers = units("timer");
    let names: Vec<&str> = timers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, expected.map(|(name, _)| name));
    for ((name, text), (_, times)) in timers.iter().zip(expected) {
        let [expression] = values(text, "OnCalendar")[..] else { panic!("{name}: one time") };
        assert_eq!(next(expression, 2), times, "{name}");
        let kept = if name == "bitacora-alerts" { "no" } else { "yes" };
        assert_eq!(values(text, "Persistent"), [kept], "{name}");
        assert_eq!(values(text, "FixedRandomDelay"), ["yes"], "{name}");
    }
}

#[test]
fn units_are_sound_and_their_sandboxes_tight() {
    const NAME: &str = "units_are_sound_and_their_sandboxes_tight";
    if !has("systemd-analyze") {
        return skip(NAME, "systemd-analyze is not here");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut paths: Vec<PathBuf> = Vec::new();
    for kind in ["service", "timer", "socket"] {
        for (name, text) in units(kind) {
            let path = dir.path().join(format!("{name}.{kind}"));
            fs::write(&path, text.replace("/usr/bin/bitacora", BINARY)).unwrap();
            paths.push(path);
        }
    }
    let verify = |paths: &[PathBuf]| {
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).args(paths);
        let said = told(&command.env("SYSTEMD_LOG_LEVEL", "warning").output().unwrap());
        said.lines().filter(|line| line.contains("bitacora")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(verify(&paths), "");
    for (name, text) in units("service") {
        let path = dir.path().join(format!("{name}.service"));
        // nodetool's Java makes code, and reads /proc
        let threshold = if text.contains("MemoryDenyWriteExecute") { "15" } else { "25" };
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager", "--threshold", threshold])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{name}: {}", told(&output));
    }
    // and a fault is seen
    let bad = dir.path().join("bitacora-bad.service");
    fs::write(&bad, "[Service]\nType=oneshot\nExecStart=/no/such/program\nNoSuch=1\n").unwrap();
    assert!(verify(&[bad]).contains("NoSuch"));
}

#[test]
fn what_timers_start_is_there_is_understood_and_its_failure_is_told() {
    let timers: BTreeSet<String> = units("timer").into_iter().map(|(name, _)| name).collect();
    for (name, text) in units("service") {
        let started = timers.contains(&name);
        assert_eq!(started, text.contains("Type=oneshot") && !name.ends_with('@'), "{name}");
        let tells = values(&text, "OnFailure") == ["bitacora-alert@%n.service"];
        assert_eq!(tells, name != "bitacora-alert@", "{name}");
        for command in values(&text, "ExecStart") {
            let mut words = command.replace("%i", "x.service").replace("${KEYSPACE}", "logging");
            assert!(!words.contains('%') && !words.contains('$'), "{command}");
            if words.starts_with("/usr/bin/bitacora") {
                words += " --help";
                let output = Command::new(BINARY).args(words.split(' ').skip(1)).output().unwrap();
                assert!(output.status.success(), "{command}: {}", told(&output));
            }
        }
        // both need the archives' lock, or what a backup is about to hold
        if ["bitacora-drill", "bitacora-retention"].contains(&name.as_str()) {
            let after = values(&text, "After").join(" ");
            assert!(after.contains("bitacora-backup.service"), "{name}: {after}");
        }
        if started {
            assert!(!values(&text, "TimeoutStartSec").is_empty(), "{name} could go on for ever");
        }
    }
}

#[test]
fn packages_bring_every_timer_and_enable_those_that_every_host_needs() {
    let preset = in_project("packaging/bitacora.preset");
    let (rules, spec) = (in_project("debian/rules"), in_project("packaging/bitacora.spec"));
    for (name, _) in units("timer") {
        let timer = format!("{name}.timer");
        let off = name.contains("cassandra");
        let word = if off { "disable" } else { "enable" };
        assert!(preset.lines().any(|line| line == format!("{word} {timer}")), "{timer}: preset");
        for (what, text, list) in [("rules", &rules, "TIMERS"), ("spec", &spec, "%global timers")] {
            let list = if off && list == "TIMERS" { "TIMERS_OFF =" } else { list };
            let list = if off && list.starts_with('%') { "%global timers_off " } else { list };
            let named = text.lines().find(|line| line.starts_with(list) && line.contains(&timer));
            assert!(named.is_some(), "{timer}: {what}");
        }
    }
    assert_eq!(in_project("systemd/bitacora.tmpfiles"), in_project("debian/bitacora.tmpfiles"));
}
