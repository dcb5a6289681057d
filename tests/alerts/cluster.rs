//! A real cluster of two nodes: the rule over nodes, and what the timers for Cassandra run.

use std::time::{Duration, Instant};

use bitacora::config::{Config, Machine, RuleKind};
use bitacora::maintain::alerts::logs;
use bitacora::stores;
use bitacora::stores::health::CheckStatus;

use super::rules::rule;
use super::support::cassandra::Node;
use super::support::site::Site;
use super::support::{PATIENCE, skip, within};
use super::{Watched, now_ms, record};

#[test]
fn a_node_that_is_down_is_told_and_the_commands_of_the_timers_work() {
    const NAME: &str = "a_node_that_is_down_is_told_and_the_commands_of_the_timers_work";
    let node = match Node::start(&[]) {
        Ok(node) => node,
        Err(why) => return skip(NAME, &why),
    };
    let second = node.joined(&[]).unwrap();
    let site = Site::on_cassandra(&[&node], "alerts".to_owned(), "");
    let watched = Watched { site };
    watched.configure("");
    watched.site.apply_schema();
    let daemon = watched.site.start();
    watched.stores(&[record("INFO", "fine")], 1);
    let slow = |number: i64| {
        let mut record = record("INFO", &format!("slow {number}"));
        record["duration_ms"] = (1990 + number).into();
        record
    };
    watched.stores(&(0..20).map(slow).collect::<Vec<_>>(), 21);
    slow_records_are_counted(&watched.site);
    assert!(within(PATIENCE, || watched.site.run(&["alerts", "check"]).status.success()));
    let checked = watched.check(0);
    assert!(checked.find("nodes")["detail"].as_str().unwrap().contains("all 2 nodes"));
    runs_what_timers_start(&node);

    second.kill();
    let started = Instant::now();
    let checked = watched.check(1);
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    assert_eq!(checked.status("nodes"), "trouble");
    assert_eq!(checked.find("nodes")["value"], 1.0);
    second.restart();
    assert!(within(PATIENCE, || {
        let output = watched.site.run(&["alerts", "check", "--json"]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = answer["checks"].as_array().unwrap();
        checks.iter().any(|check| check["name"] == "nodes" && check["status"] == "ok")
    }));
    drop(second);
    node.kill();
    let started = Instant::now();
    assert_eq!(watched.check(1).status("store"), "trouble");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    daemon.kill();
}

/// Ten of them took two seconds or longer.
fn slow_records_are_counted(site: &Site) {
    let config = Config::load(&site.config(), &Machine::here()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let rules = [rule("slow", RuleKind::Slow, 9), rule("not slow", RuleKind::Slow, 10)];
    let found = runtime.block_on(async {
        let reader = stores::open::reader(&config.store).unwrap();
        logs::look(&*reader, &rules, "test-host", now_ms()).await
    });
    let told = found.iter().map(|found| (found.status, found.value, found.samples.len()));
    let wanted = [(CheckStatus::Trouble, Some(10.0), 3), (CheckStatus::Ok, Some(10.0), 0)];
    assert_eq!(told.collect::<Vec<_>>(), wanted, "{found:?}");
}

/// Each `nodetool` command of the units, as it stands there.
fn runs_what_timers_start(node: &Node) {
    node.nodetool(&["snapshot", "-t", "young", "--", "alerts"]);
    let mut count = 0;
    for (name, text) in super::units::units("service") {
        for command in super::units::values(&text, "ExecStart") {
            let Some(arguments) = command.strip_prefix("/usr/bin/env nodetool ") else { continue };
            assert!(name.starts_with("bitacora-cassandra-"), "{name}");
            let arguments = arguments.replace("${KEYSPACE}", "alerts");
            node.nodetool(&arguments.split(' ').collect::<Vec<_>>());
            count += 1;
        }
    }
    assert_eq!(count, 4);
    assert!(node.nodetool(&["listsnapshots"]).contains("young"), "it is not 30 days old");
}
