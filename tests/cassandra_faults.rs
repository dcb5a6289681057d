//! The daemon over a real Cassandra that fails: killed and restarted, a table gone, a permission
//! revoked. Lost 0, duplicated 0, and said in the log and in the status.

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

use std::time::Duration;

use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use support::cassandra::{Node, keyspace, shared};
use support::ledger::{Ledger, Rotation, Style};
use support::site::{Files, Kind, Site};
use support::{PATIENCE, eventually, pause_ms, skip, within};

/// A node's first start and a driver's reconnection take longer than files do.
const LONG: Duration = Duration::from_mins(2);

fn on(nodes: &[&Node], extra: &str) -> (Site, Ledger) {
    let site = Site::on_cassandra(nodes, keyspace(), extra);
    let path = site.log("access.log");
    site.configure(&[Files::new("nginx/access", &path)]);
    let ledger = Ledger::new(&path, Style::Nginx, 1, 31);
    (site, ledger)
}

/// Waits until `status` tells of a store that does not take rows, with its reason.
#[track_caller]
fn status_tells_of_an_outage(site: &Site) -> String {
    let mut problem = String::new();
    eventually("status tells that the store is down", || {
        let status = site.json(&["status", "--json"]);
        problem = status["store"]["problem"].as_str().unwrap_or_default().to_owned();
        status["store"]["up"] == false && !problem.is_empty()
    });
    problem
}

fn status_is_well(site: &Site) {
    eventually("status tells that the store is back", || {
        let status = site.json(&["status", "--json"]);
        status["store"]["up"] == true && status["store"]["problem"].is_null()
    });
}

#[track_caller]
fn there_are_no_dead_letters(site: &Site) {
    let letters = site.run(&["dead-letters", "ls", "--json"]);
    assert_eq!(letters.status.code(), Some(1), "{}", support::site::told(&letters));
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(future)
}

async fn administrator(node: &Node, password: bool) -> Session {
    let builder = SessionBuilder::new().known_node(node.address());
    let builder = if password { builder.user("cassandra", "cassandra") } else { builder };
    builder.build().await.unwrap()
}

fn cql(node: &Node, password: bool, statements: &[String]) {
    block_on(async {
        let session = administrator(node, password).await;
        for text in statements {
            session
                .query_unpaged(text.as_str(), ())
                .await
                .unwrap_or_else(|e| panic!("{text}: {e}"));
        }
    });
}

fn keyspace_of(site: &Site) -> &str {
    match &site.kind {
        Kind::Cassandra { keyspace, .. } => keyspace,
        Kind::Sqlite => panic!("no keyspace"),
    }
}

#[test]
fn a_node_that_is_killed_and_restarted_loses_and_doubles_nothing() {
    let name = "a_node_that_is_killed_and_restarted_loses_and_doubles_nothing";
    // One replica: only a commit log that is synced before the answer survives the kill whole.
    let node = match Node::start(&["--commitlog", "batch"]) {
        Ok(node) => node,
        Err(why) => return skip(name, &why),
    };
    let (site, mut ledger) = on(&[&node], "");
    site.apply_schema();
    ledger.write(200);
    let daemon = site.start();
    site.all_arrives(&mut ledger, LONG);
    for turn in 0..2 {
        ledger.write(2_000);
        pause_ms(30 * turn);
        node.kill();
        ledger.write(500);
        ledger.rotate(Rotation::Rename);
        ledger.write(500);
        status_tells_of_an_outage(&site);
        node.restart();
        site.all_arrives(&mut ledger, LONG);
        status_is_well(&site);
    }
    let said = daemon.said();
    let outages = said.lines().filter(|line| line.contains("cannot be reached")).count();
    assert!((2..=6).contains(&outages), "an outage is said once, not {outages} times:\n{said}");
    assert!(said.lines().count() < 20, "the log is full of it:\n{said}");
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn a_daemon_that_is_killed_during_an_outage_reads_all_of_it_afterwards() {
    let name = "a_daemon_that_is_killed_during_an_outage_reads_all_of_it_afterwards";
    let node = match Node::start(&["--commitlog", "batch"]) {
        Ok(node) => node,
        Err(why) => return skip(name, &why),
    };
    let (site, mut ledger) = on(&[&node], "");
    site.apply_schema();
    ledger.write(100);
    let daemon = site.start();
    site.all_arrives(&mut ledger, LONG);
    ledger.write(1_000);
    node.kill();
    ledger.write(1_000);
    daemon.kill();
    ledger.rotate(Rotation::Gzip);
    ledger.write(100);
    // Started while the store is away: it waits, and answers for itself meanwhile.
    let daemon = site.start();
    // 1: it answers, and says that not all is well
    eventually("status answers", || site.run(&["status"]).status.code() == Some(1));
    ledger.rotate(Rotation::Rename);
    ledger.write(100);
    node.restart();
    site.all_arrives(&mut ledger, LONG);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn a_cluster_goes_on_without_one_node_and_is_waited_for_without_two() {
    let name = "a_cluster_goes_on_without_one_node_and_is_waited_for_without_two";
    let nodes = Node::start(&["--commitlog", "batch"]).and_then(|first| {
        let second = first.joined(&["--commitlog", "batch"])?;
        let third = first.joined(&["--commitlog", "batch"])?;
        Ok([first, second, third])
    });
    let [first, second, third] = match nodes {
        Ok(nodes) => nodes,
        Err(why) => return skip(name, &why),
    };
    let (site, mut ledger) = on(&[&first, &second, &third], "replication = 3");
    site.apply_schema();
    ledger.write(500);
    let daemon = site.start();
    site.all_arrives(&mut ledger, LONG);
    // The one that was configured goes: the driver knows the others by then.
    ledger.write(500);
    first.kill();
    ledger.write(2_000);
    ledger.rotate(Rotation::Rename);
    ledger.write(500);
    site.all_arrives(&mut ledger, LONG);
    second.kill();
    ledger.write(500);
    status_tells_of_an_outage(&site);
    // The seed first: a node that finds no seed does not start.
    first.restart();
    site.all_arrives(&mut ledger, LONG);
    status_is_well(&site);
    second.restart();
    third.kill();
    ledger.write(500);
    site.all_arrives(&mut ledger, LONG);
    third.restart();
    there_are_no_dead_letters(&site);
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn a_missing_table_is_waited_for_and_no_row_becomes_a_dead_letter() {
    let name = "a_missing_table_is_waited_for_and_no_row_becomes_a_dead_letter";
    let node = match shared() {
        Ok(node) => node,
        Err(why) => return skip(name, why),
    };
    let (site, mut ledger) = on(&[node], "");
    // Started before there is a schema: it says what to do, and is not ready.
    ledger.write(100);
    let daemon = site.start();
    daemon.says("schema apply");
    site.apply_schema();
    site.all_arrives(&mut ledger, LONG);
    let keyspace = keyspace_of(&site).to_owned();
    let table = format!("{keyspace}.infrastructure_logs");
    let before = ledger.expected.clone();
    cql(node, false, &[format!("DROP TABLE {table}")]);
    ledger.expected = support::rows::Expected::default();
    ledger.write(500);
    let problem = status_tells_of_an_outage(&site);
    eprintln!("missing table: {problem}");
    let applied = site.run(&["schema", "apply"]);
    eprintln!("schema apply: {}", support::site::told(&applied));
    site.all_arrives(&mut ledger, LONG);
    status_is_well(&site);
    there_are_no_dead_letters(&site);
    daemon.stop();
    assert_eq!(ledger.expected.compare(&site.rows()), Ok(()));
    // What stood in the table that was dropped is gone, and audit says so.
    assert_eq!(site.run(&["audit"]).status.code(), Some(1));
    let repaired = site.run(&["audit", "--repair"]);
    eprintln!("audit --repair: {}", support::site::told(&repaired));
    let mut all = before;
    all.add(&ledger.expected);
    assert_eq!(all.compare(&site.rows()), Ok(()), "repaired from the file");
    site.audit_is_clean();
}

#[test]
fn a_revoked_permission_is_an_outage_and_said() {
    let name = "a_revoked_permission_is_an_outage_and_said";
    let node = match Node::start(&[
        "--auth",
        "--yaml",
        "permissions_validity: 100ms",
        "--yaml",
        "roles_validity: 100ms",
    ]) {
        Ok(node) => node,
        Err(why) => return skip(name, &why),
    };
    let (mut site, mut ledger) = on(&[&node], "");
    let secret = site.path("password");
    std::fs::write(&secret, "ship-canary-7\n").unwrap();
    let keyspace = keyspace_of(&site).to_owned();
    let login = |user: &str, file: &std::path::Path| {
        format!("username = {user:?}\npassword_file = {file:?}")
    };
    let root_secret = site.path("root-password");
    std::fs::write(&root_secret, "cassandra").unwrap();
    let files = [Files::new("nginx/access", site.log("access.log"))];
    let nodes = vec![node.address().to_owned()];
    let kind = |extra| Kind::Cassandra { nodes: nodes.clone(), keyspace: keyspace.clone(), extra };
    site.kind = kind(login("cassandra", &root_secret));
    site.configure(&files);
    site.apply_schema();
    cql(
        &node,
        true,
        &[
            "CREATE ROLE ship WITH PASSWORD = 'ship-canary-7' AND LOGIN = true".into(),
            format!("GRANT SELECT ON KEYSPACE {keyspace} TO ship"),
            format!("GRANT MODIFY ON KEYSPACE {keyspace} TO ship"),
        ],
    );
    site.kind = kind(login("ship", &secret));
    site.configure(&files);
    ledger.write(100);
    let daemon = site.start();
    site.all_arrives(&mut ledger, LONG);
    cql(&node, true, &[format!("REVOKE MODIFY ON KEYSPACE {keyspace} FROM ship")]);
    let refused = within(PATIENCE, || {
        ledger.write(20);
        pause_ms(200);
        site.json(&["status", "--json"])["store"]["up"] == false
    });
    assert!(refused, "writes go on without the permission: {}", daemon.said());
    let problem = status_tells_of_an_outage(&site);
    assert!(problem.contains("MODIFY") || problem.contains("permission"), "{problem}");
    ledger.write(200);
    cql(&node, true, &[format!("GRANT MODIFY ON KEYSPACE {keyspace} TO ship")]);
    site.all_arrives(&mut ledger, LONG);
    there_are_no_dead_letters(&site);
    assert!(!site.said().contains("ship-canary-7"), "the password is in the log");
    site.ends_well(daemon, &ledger.expected);
}
