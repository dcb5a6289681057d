//! The databases that are backed up: real servers.

use std::process::{Child, Command, Stdio};

use super::support::mariadb::{PASSWORD, Server, mysql};
use super::support::postgresql::{self, Cluster};
use super::support::{skip, within};
use super::{PATIENCE, Watched};

const OFF: &str =
    "off = [\"daemon\", \"backlog\", \"store\", \"errors\", \"dead-letters\", \"losses\"]\n";

#[test]
fn mariadb_is_looked_at_connections_replication_and_its_end() {
    const NAME: &str = "mariadb_is_looked_at_connections_replication_and_its_end";
    let server = match Server::start() {
        Ok(server) => server,
        Err(why) => return skip(NAME, &why),
    };
    let watched = Watched::new("");
    let alerts = format!(
        "{OFF}[[backup.database]]\nname = \"shop\"\nkind = \"mysql\"\nhost = \"127.0.0.1\"\n\
         port = {}\nusername = \"bitacora\"\npassword_file = {:?}\n",
        server.port(),
        server.password_file()
    );
    watched.configure(&alerts);
    let checked = watched.check(0);
    assert_eq!(checked.status("database shop"), "ok");
    assert_eq!(checked.status("connections shop"), "ok");
    assert!(!checked.answer.to_string().contains("replication shop"), "it is no replica");

    server.sql("SET GLOBAL max_connections = 10");
    let busy: Vec<Child> = (0..9).map(|_| sleeper(&server)).collect();
    assert!(within(PATIENCE, || {
        server.sql("SHOW STATUS LIKE 'Threads_connected'").ends_with("10")
    }));
    assert_eq!(watched.check(1).status("connections shop"), "trouble");
    busy.into_iter().for_each(end);
    server.sql("SET GLOBAL max_connections = 100");
    server.follow_port(1);
    let checked = watched.check(1);
    assert_eq!(checked.status("replication shop"), "trouble");
    server.follow_nobody();
    watched.check(0);
    // a source with a name is one, too
    let (follow, forget) = match mysql() {
        Some(_) => (
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = 1, \
             SOURCE_USER = 'nobody' FOR CHANNEL 'second'; START REPLICA FOR CHANNEL 'second'",
            "STOP REPLICA FOR CHANNEL 'second'; RESET REPLICA ALL FOR CHANNEL 'second'",
        ),
        None => (
            "CHANGE MASTER 'second' TO master_host = '127.0.0.1', master_port = 1, \
             master_user = 'nobody'; START SLAVE 'second'",
            "STOP SLAVE 'second'; RESET SLAVE 'second' ALL",
        ),
    };
    server.sql(follow);
    assert_eq!(watched.check(1).status("replication shop"), "trouble");
    server.sql(forget);
    watched.check(0);

    server.sql("CREATE USER small@'%' IDENTIFIED BY 'x'");
    let small = super::file(&watched.site, "small", "x");
    watched.configure(
        &alerts
            .replace("username = \"bitacora\"", "username = \"small\"")
            .replace(&format!("{:?}", server.password_file()), &small),
    );
    let checked = watched.check(1);
    assert_eq!(checked.status("replication shop"), "unknown");
    assert!(checked.find("replication shop")["detail"].as_str().unwrap().contains("grant"));

    watched.configure(&alerts);
    drop(server);
    let checked = watched.check(1);
    assert_eq!(checked.status("database shop"), "trouble");
    assert!(!super::told(&checked.output).contains(PASSWORD));
}

/// A connection that is held.
fn sleeper(server: &Server) -> Child {
    sleeper_with(server, "SELECT SLEEP(600)")
}

fn end(mut sleeper: Child) {
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

fn sleeper_with(server: &Server, statements: &str) -> Child {
    Command::new("mariadb")
        .args(["--no-defaults", "-u", "root", "-e", statements])
        .arg(format!("--socket={}", server.socket().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn postgresql_is_looked_at_through_psql_without_a_password_in_sight() {
    const NAME: &str = "postgresql_is_looked_at_through_psql_without_a_password_in_sight";
    let server = match Cluster::start_with(&["-c", "max_connections=20"]) {
        Ok(server) => server,
        Err(why) => return skip(NAME, &why),
    };
    let watched = Watched::new("");
    let keys = server.keys();
    let alerts = |limit: u32| {
        format!(
            "{OFF}connections_percent = {limit}\n[[backup.database]]\nname = \"orders\"\n{keys}"
        )
    };
    watched.configure(&alerts(80));
    // one of 20: the server may take its time to end the connection of the check before
    assert!(within(PATIENCE, || watched.check(0).find("connections orders")["value"] == 5.0));
    assert_eq!(watched.check(0).status("connections orders"), "ok");
    watched.configure(&alerts(4));
    assert_eq!(watched.check(1).status("connections orders"), "trouble");
    watched.configure(&alerts(80));
    drop(server);
    let checked = watched.check(1);
    assert_eq!(checked.status("database orders"), "trouble");
    assert!(!super::told(&checked.output).contains(postgresql::PASSWORD));
}

/// Whether a check says that the replica is at least so many seconds behind, and that this is
/// trouble.
fn lags(watched: &Watched, name: &str, seconds: f64) -> bool {
    let output = watched.site.run(&["alerts", "check", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = answer["checks"].as_array().unwrap();
    checks.iter().any(|check| {
        check["name"] == name
            && check["status"] == "trouble"
            && check["value"].as_f64().is_some_and(|value| value >= seconds)
    })
}

#[test]
fn a_replica_of_mariadb_that_falls_behind_is_told_in_seconds() {
    const NAME: &str = "a_replica_of_mariadb_that_falls_behind_is_told_in_seconds";
    let started = |id: &str| {
        let log = ["--log-bin=binlog".to_owned(), "--binlog-format=ROW".to_owned()];
        Server::start_with(&[&log[..], &[format!("--server-id={id}")]].concat())
    };
    let (source, replica) = match (started("1"), started("2")) {
        (Ok(source), Ok(replica)) => (source, replica),
        (Err(why), _) | (_, Err(why)) => return skip(NAME, &why),
    };
    let watched = Watched::new("");
    watched.configure(&format!(
        "{OFF}replication_lag = \"3s\"\n[[backup.database]]\nname = \"shop\"\nkind = \"mysql\"\n\
         host = \"127.0.0.1\"\nport = {}\nusername = \"bitacora\"\npassword_file = {:?}\n",
        replica.port(),
        replica.password_file()
    ));
    replica.follow(&source);
    source.sql("CREATE TABLE bitacora.t (a INT)");
    let follows = || {
        let output = watched.site.run(&["alerts", "check", "--json"]);
        output.status.success() && replica.sql("SHOW TABLES IN bitacora LIKE 't'") == "t"
    };
    assert!(within(PATIENCE, follows), "{}", super::told(&watched.site.run(&["alerts", "check"])));
    let checked = watched.check(0);
    assert_eq!(checked.status("replication shop"), "ok");
    assert_eq!(checked.find("replication shop")["value"], 0.0);

    // who holds the table on the replica holds up what is applied there
    let holder = sleeper_with(&replica, "LOCK TABLES bitacora.t READ; SELECT SLEEP(600)");
    let held = || replica.sql("SHOW PROCESSLIST").contains("SELECT SLEEP(600)");
    assert!(within(PATIENCE, held));
    source.sql("INSERT INTO bitacora.t VALUES (1)");
    assert!(within(PATIENCE, || lags(&watched, "replication shop", 4.0)), "it is never behind");
    end(holder);
    assert!(within(PATIENCE, follows), "{}", super::told(&watched.site.run(&["alerts", "check"])));
}

#[test]
fn a_replica_of_postgresql_that_falls_behind_is_told_in_seconds() {
    const NAME: &str = "a_replica_of_postgresql_that_falls_behind_is_told_in_seconds";
    let (source, replica) = match Cluster::start().and_then(|source| {
        let replica = source.standby()?;
        Ok((source, replica))
    }) {
        Ok(both) => both,
        Err(why) => return skip(NAME, &why),
    };
    let watched = Watched::new("");
    watched.configure(&format!(
        "{OFF}replication_lag = \"3s\"\n[[backup.database]]\nname = \"orders\"\n{}",
        replica.keys()
    ));
    source.sql("postgres", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let follows = || {
        let there = replica.sql("postgres", "SELECT to_regclass('t') IS NOT NULL") == "t";
        there && watched.site.run(&["alerts", "check"]).status.success()
    };
    assert!(within(PATIENCE, follows), "{}", super::told(&watched.site.run(&["alerts", "check"])));
    assert_eq!(watched.check(0).status("replication orders"), "ok");

    replica.sql("postgres", "SELECT pg_wal_replay_pause()");
    source.sql("postgres", "INSERT INTO t VALUES (2)");
    assert!(within(PATIENCE, || lags(&watched, "replication orders", 4.0)), "it is never behind");
    replica.sql("postgres", "SELECT pg_wal_replay_resume()");
    assert!(within(PATIENCE, follows), "{}", super::told(&watched.site.run(&["alerts", "check"])));
}
