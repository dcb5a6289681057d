//! A real cluster of two nodes: the rule over nodes, and what the timers for Cassandra run.

use std::time::{Duration, Instant};

use super::support::cassandra::Node;
use super::support::site::Site;
use super::support::{PATIENCE, skip, within};
use super::{Watched, record};

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
