//! One host, checked again and again.

use std::time::Duration;

use super::*;
use crate::config::{Config, Machine};
use crate::maintain::alerts::finding::Finding;
use crate::maintain::alerts::memory::Silence;
use crate::maintain::alerts::notify::NotifyError;

const MINUTE: i64 = 60_000;

/// A host that is checked again and again, with one notifier.
struct Host {
    memory: Memory,
    alerts: Alerts,
    now_ms: i64,
}

impl Host {
    fn new(hourly_max: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "").unwrap();
        let mut alerts = Config::load(&path, &Machine::here()).unwrap().alerts;
        alerts.repeat = Duration::from_hours(1);
        alerts.hourly_max = hourly_max;
        Self { memory: Memory::new(0), alerts, now_ms: 0 }
    }

    /// One check: what it found, and whether the notifier works. The subjects of its messages.
    fn check(&mut self, findings: Vec<Finding>, works: bool) -> Vec<String> {
        self.memory.take(findings, self.now_ms, i64::MAX);
        let plan = plan(&self.memory, "log", "h", &self.alerts, self.now_ms);
        let subjects = plan.messages.iter().map(Message::subject).collect();
        let error = (!works).then(|| NotifyError::Refused("no".into()));
        let messages = if works { plan.messages.len() } else { 0 };
        let delivered = Delivered { messages, error };
        note(&mut self.memory, "log", &plan, &delivered, self.now_ms);
        self.now_ms += 5 * MINUTE;
        if works { subjects } else { Vec::new() }
    }
}

fn bad(rule: &str) -> Finding {
    Finding::trouble(rule, "bad")
}

fn good(rule: &str) -> Finding {
    Finding::well(rule, "good")
}

#[test]
fn a_trouble_is_told_once_and_again_after_a_while_and_then_its_end() {
    let mut host = Host::new(100);
    assert_eq!(host.check(vec![good("disk")], true), [""; 0]);
    assert_eq!(host.check(vec![bad("disk")], true), ["TROUBLE disk on h: bad"]);
    for _ in 0..11 {
        assert_eq!(host.check(vec![bad("disk")], true), [""; 0]);
    }
    assert_eq!(host.check(vec![bad("disk")], true), ["STILL TROUBLE disk on h: bad"]);
    assert_eq!(host.check(vec![good("disk")], true), ["RECOVERED disk on h: good"]);
    assert_eq!(host.check(vec![good("disk")], true), [""; 0]);
}

#[test]
fn more_of_the_same_trouble_is_told_anew() {
    let mut host = Host::new(100);
    host.check(vec![bad("losses").marked(1)], true);
    assert_eq!(host.check(vec![bad("losses").marked(1)], true), [""; 0]);
    assert_eq!(host.check(vec![bad("losses").marked(2)], true).len(), 1);
    assert_eq!(host.check(vec![bad("losses").marked(1)], true), [""; 0], "less is no news");
}

#[test]
fn a_notifier_that_fails_is_tried_again_and_hears_of_what_it_missed() {
    let mut host = Host::new(100);
    host.check(vec![bad("disk")], false);
    let since = host.memory.notifiers["log"].failing.clone().unwrap();
    assert_eq!(since, (0, "no".to_owned()));
    host.check(vec![bad("disk")], false);
    assert_eq!(host.memory.notifiers["log"].failing.clone().unwrap().0, 0);
    // the trouble ends before it could be told: its end says that it was there
    assert_eq!(host.check(vec![good("disk")], true), ["RECOVERED disk on h: good"]);
    assert_eq!(host.memory.notifiers["log"].failing, None);
}

#[test]
fn nothing_is_told_of_what_is_silenced_until_the_silence_ends() {
    let mut host = Host::new(100);
    let reason = "moving the disk".to_owned();
    let silence = Silence { rule: "disk".into(), since_ms: 0, until_ms: 12 * MINUTE, reason };
    host.memory.silences.push(silence);
    assert_eq!(host.check(vec![bad("disk"), bad("dora")], true), ["TROUBLE dora on h: bad"]);
    for _ in 0..2 {
        assert_eq!(host.check(vec![bad("disk"), bad("dora")], true), [""; 0]);
    }
    // the silence has ended while the trouble was there
    assert_eq!(host.check(vec![bad("disk"), bad("dora")], true), ["TROUBLE disk on h: bad"]);
    assert_eq!(host.memory.silences, []);
}

#[test]
fn beyond_the_hourly_limit_the_rest_is_one_summary_and_nothing_is_forgotten() {
    let mut host = Host::new(3);
    let many = || ["a", "b", "c", "d", "e"].map(bad).to_vec();
    let told = host.check(many(), true);
    assert_eq!(told[..2], ["TROUBLE a on h: bad", "TROUBLE b on h: bad"]);
    assert_eq!(told[2], "SUMMARY of h: 3 in trouble");
    // the hour is full: what comes and goes meanwhile is told when there is room
    let mut more = many();
    more.push(bad("z"));
    assert_eq!(host.check(more, true), [""; 0]);
    for _ in 0..10 {
        let mut more = many();
        more.push(good("z"));
        assert_eq!(host.check(more, true), [""; 0]);
    }
    let mut more = many();
    more.push(good("z"));
    let told = host.check(more, true);
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[2], "SUMMARY of h: 3 still in trouble, 1 recovered");
}

#[test]
fn a_trouble_that_flaps_does_not_go_over_the_limit() {
    let mut host = Host::new(4);
    let mut told = 0;
    for round in 0..12 {
        told += host.check(vec![if round % 2 == 0 { bad("x") } else { good("x") }], true).len();
    }
    assert_eq!(told, 4);
}

#[test]
fn a_notifier_is_not_told_of_its_own_failure() {
    let mut host = Host::new(9);
    let findings = || vec![bad("notifier").of("log"), bad("notifier").of("slack")];
    assert_eq!(host.check(findings(), true), ["TROUBLE notifier slack on h: bad"]);
}

#[test]
fn what_was_told_to_a_notifier_that_is_gone_is_forgotten() {
    let mut host = Host::new(9);
    host.check(vec![bad("disk")], true);
    forget(&mut host.memory, &["email"]);
    assert!(host.memory.known["disk"].told.is_empty() && host.memory.notifiers.is_empty());
}
