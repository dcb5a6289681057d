//! User events: from a client's socket to rows of `user_events`, once, whatever happens between.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::pedantic,
    reason = "a test that fails may panic"
)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rusqlite::Connection;
use serde_json::{Value, json};
use uuid::Uuid;

use support::cassandra::{keyspace, shared};
use support::client::Client;
use support::rows::day_files;
use support::site::{Daemon, Site, told};
use support::{PATIENCE, Rng, eventually, pause_ms, seed, skip};

/// Columns of a row as SQLite itself gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    user_id: String,
    at_ms: i64,
    event_type: Option<String>,
    data: Value,
    session_id: Option<String>,
    ip_address: Option<String>,
    user_agent: Option<String>,
}

fn socket_of(site: &Site) -> PathBuf {
    site.path("log.sock")
}

fn site() -> Site {
    let mut site = Site::with_http();
    listening(&mut site);
    site
}

fn listening(site: &mut Site) {
    site.socket = format!("stream = {:?}\ndgram = \"\"", site.path("log.sock"));
    site.configure(&[]);
}

fn start(site: &Site) -> Daemon {
    let daemon = site.start();
    eventually("the socket is there", || UnixStream::connect(socket_of(site)).is_ok());
    daemon
}

/// All events by their id, read without the program under test.
fn try_rows(site: &Site) -> rusqlite::Result<BTreeMap<String, Row>> {
    let mut rows = BTreeMap::new();
    for file in day_files(&site.store_dir()) {
        let database = Connection::open(&file)?;
        let sql = "SELECT event_id, user_id, event_timestamp, event_type, event_data, session_id, \
                   ip_address, user_agent FROM user_events";
        let mut statement = database.prepare(sql)?;
        let found = statement.query_map([], |row| {
            let data: Option<String> = row.get(4)?;
            let row_of = Row {
                user_id: row.get(1)?,
                at_ms: row.get(2)?,
                event_type: row.get(3)?,
                data: data.map_or(Value::Null, |data| serde_json::from_str(&data).unwrap()),
                session_id: row.get(5)?,
                ip_address: row.get(6)?,
                user_agent: row.get(7)?,
            };
            Ok((row.get::<_, String>(0)?, row_of))
        })?;
        for row in found {
            let (id, row) = row?;
            assert!(rows.insert(id, row).is_none(), "an id is there twice");
        }
    }
    Ok(rows)
}

fn rows(site: &Site) -> BTreeMap<String, Row> {
    let mut rows = None;
    // a file that is being made cannot be read for a moment
    eventually("the day files can be read", || {
        rows = try_rows(site).ok();
        rows.is_some()
    });
    rows.unwrap()
}

fn lines(site: &Site, arguments: &[&str]) -> Vec<Value> {
    let output = site.run(arguments);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{}", told(&output))))
        .collect()
}

#[test]
fn events_of_every_shape_are_rows_with_their_columns() {
    const ANA: &str = "0b0d7a0e-5a51-4c4b-9d0a-0123456789ab";
    let site = site();
    let daemon = start(&site);
    let mut client = Client::new(&socket_of(&site));
    for record in [
        json!({"event_type": "sale", "user_id": ANA, "timestamp": "2026-11-22T10:11:12.345Z",
               "session_id": "s1", "ip_address": "192.0.2.7", "user_agent": "curl/8",
               "event_data": {"cart": {"total": 7}, "user_id": 9}, "shop": "north"}),
        json!({"event_type": "login", "user_id": 42, "timestamp": "2026-11-22T10:11:13Z",
               "ip_address": "2001:db8::1", "level": "error", "message": "in"}),
        json!({"event_type": "visit", "timestamp": "2026-10-01T00:00:00Z",
               "ip_address": "not told", "session_id": 5}),
        json!({"message": "no event"}),
    ] {
        client.send(&record.to_string());
    }
    assert!(client.settle(PATIENCE));
    eventually("all rows are there", || rows(&site).len() == 3 && site.logs().len() == 1);

    let (pid, uid) = (std::process::id().to_string(), rustix::process::getuid().to_string());
    let found = rows(&site);
    let of = |word: &str| {
        let row = found.values().find(|row| row.event_type.as_deref() == Some(word));
        row.cloned().unwrap()
    };
    let sale = of("sale");
    assert_eq!((sale.user_id.as_str(), sale.at_ms), (ANA, 1_795_342_272_345));
    assert_eq!(sale.ip_address.as_deref(), Some("192.0.2.7"));
    assert_eq!(
        (sale.session_id.as_deref(), sale.user_agent.as_deref()),
        (Some("s1"), Some("curl/8"))
    );
    let data = json!({"shop": "north", "peer_pid": pid, "peer_uid": uid, "cart.total": "7",
                      "user_id": "9"});
    assert_eq!(sale.data, data);
    let login = of("login");
    assert_eq!(login.user_id, Uuid::new_v5(&Uuid::NAMESPACE_OID, b"42").to_string());
    assert_eq!(login.ip_address.as_deref(), Some("2001:db8::1"));
    let data = json!({"user_id": "42", "level": "error", "message": "in", "peer_pid": pid,
                      "peer_uid": uid});
    assert_eq!(login.data, data);
    let visit = of("visit");
    assert_eq!(visit.user_id, Uuid::nil().to_string(), "nobody");
    assert_eq!((visit.ip_address, visit.session_id.as_deref()), (None, Some("5")));
    assert_eq!(visit.data["ip_address"], "not told");

    let all = lines(&site, &["logs", "--events", "-o", "json"]);
    let types: Vec<_> = all.iter().map(|row| row["event_type"].as_str().unwrap()).collect();
    assert_eq!(types, ["login", "sale", "visit"], "newest first");
    for row in &all {
        assert_eq!(row["event_data"], found[row["event_id"].as_str().unwrap()].data);
        assert!(row["origin"].is_i64() && row["offset_bytes"].is_i64());
    }
    let of_user = lines(&site, &["logs", "--events", "--user", "42", "-o", "json"]);
    assert_eq!(of_user, all[..1]);
    let named = lines(&site, &["logs", "-s", "user_events", "--user", ANA, "-o", "json"]);
    assert_eq!(named, all[1..2]);
    let typed = lines(&site, &["logs", "--event-type", "visit", "-o", "json", "-n", "5"]);
    assert_eq!(typed, all[2..]);
    // counts are those of spans, which follow their rows
    eventually("the events are counted", || {
        let counted = lines(&site, &["logs", "--events", "--count", "source", "-o", "json"]);
        counted == [json!({"source": "user_events", "count": 3})]
    });
    eventually("the log row is counted, and events are none", || {
        lines(&site, &["logs", "--count", "-o", "json"]) == [json!({"count": 1})]
    });
    daemon.stop();
    site.audit_is_clean();
}

#[test]
fn events_of_many_users_arrive_once_though_the_daemon_is_killed() {
    const EVENTS: u64 = 4000;
    let mut random = Rng(seed());
    let site = site();
    let mut daemon = start(&site);
    let mut client = Client::new(&socket_of(&site));
    for number in 0..EVENTS {
        let user = random.range(0, 699);
        let event = json!({"event_type": "click", "user_id": user, "event_data": {"n": number}});
        client.send(&event.to_string());
        if number % 700 == 699 {
            pause_ms(random.range(0, 150));
            daemon.kill();
            daemon = start(&site);
        }
    }
    assert!(client.settle(PATIENCE));
    eventually("all rows are there", || rows(&site).len() as u64 >= EVENTS);
    daemon.stop();
    let mut numbers: Vec<u64> =
        rows(&site).values().map(|row| row.data["n"].as_str().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>());
    site.audit_is_clean();
    let counted = lines(&site, &["logs", "--events", "--count", "-o", "json"]);
    assert_eq!(counted, [json!({"count": EVENTS})]);
}

#[test]
fn events_of_many_users_arrive_once_in_cassandra_though_the_daemon_is_killed() {
    const EVENTS: u64 = 1500;
    let name = "events_of_many_users_arrive_once_in_cassandra_though_the_daemon_is_killed";
    let node = match shared() {
        Ok(node) => node,
        Err(why) => return skip(name, why),
    };
    let mut site = Site::on_cassandra(&[node], keyspace(), "");
    listening(&mut site);
    site.apply_schema();
    let mut random = Rng(seed());
    let mut daemon = start(&site);
    let mut client = Client::new(&socket_of(&site));
    let mut of_user_7 = 0;
    for number in 0..EVENTS {
        let user = random.range(0, 399);
        of_user_7 += u64::from(user == 7);
        let event = json!({"event_type": "click", "user_id": user, "event_data": {"n": number}});
        client.send(&event.to_string());
        if number % 500 == 499 {
            pause_ms(random.range(0, 300));
            daemon.kill();
            daemon = start(&site);
        }
    }
    assert!(client.settle(PATIENCE));
    let count = json!({"source": "user_events", "count": EVENTS});
    eventually("all are counted", || {
        let counted = ["logs", "--events", "--count", "source", "-o", "json"];
        lines(&site, &counted) == [count.clone()]
    });
    daemon.stop();
    site.audit_is_clean();
    let named = lines(&site, &["logs", "--events", "--user", "7", "-o", "json"]);
    assert_eq!(named.len() as u64, of_user_7);
    assert!(named.iter().all(|row| row["event_data"]["user_id"] == "7"));
    site.answers(&["logs", "--events"], 2, "name one by --user");
}

#[test]
fn events_that_are_gone_are_found_and_read_again_while_their_segment_is_there() {
    let site = site();
    let daemon = start(&site);
    let mut client = Client::new(&socket_of(&site));
    for number in 0..300 {
        let event =
            json!({"event_type": "click", "user_id": number % 20, "event_data": {"n": number}});
        client.send(&event.to_string());
        client.send(&json!({"message": "between"}).to_string());
    }
    assert!(client.settle(PATIENCE));
    eventually("all rows are there", || rows(&site).len() == 300 && site.logs().len() == 300);
    daemon.stop();
    site.audit_is_clean();
    let before = rows(&site);
    site.in_day_files("DELETE FROM user_events WHERE json_extract(event_data, '$.n') % 3 = 1;");
    assert_eq!(rows(&site).len(), 200);
    site.answers(&["audit"], 1, "missing: 100 rows");
    site.answers(&["audit", "--repair"], 1, "100 rows were read again");
    assert_eq!(rows(&site), before);
    site.audit_is_clean();
}

#[test]
fn an_event_that_is_refused_is_a_dead_letter_until_the_store_takes_it() {
    let site = site();
    let daemon = start(&site);
    let mut client = Client::new(&socket_of(&site));
    let event = |word: &str| {
        json!({"event_type": word, "user_id": 42, "session_id": "s1", "ip_address": "192.0.2.7",
               "event_data": {"user_id": "inner", "a": {"b": true}}})
        .to_string()
    };
    client.send(&event("harmless"));
    assert!(client.settle(PATIENCE));
    eventually("the first is a row", || rows(&site).len() == 1);
    site.in_day_files(
        "CREATE TRIGGER refuse BEFORE INSERT ON user_events WHEN NEW.event_type = 'poison' \
         BEGIN SELECT RAISE(ABORT, 'no poison here'); END;",
    );
    for word in ["poison", "harmless"] {
        client.send(&event(word));
    }
    assert!(client.settle(PATIENCE));
    eventually("one is a dead letter", || {
        let letters = site.run(&["dead-letters", "ls", "--json"]);
        String::from_utf8_lossy(&letters.stdout).lines().count() == 1
    });
    eventually("the others are rows", || rows(&site).len() == 2);
    daemon.stop();
    site.answers(&["audit"], 0, "1 dead letters");
    site.answers(&["dead-letters", "retry", "all"], 1, "is refused again");
    site.in_day_files("DROP TRIGGER refuse;");
    site.answers(&["dead-letters", "retry", "all"], 0, "is stored");
    site.answers(&["audit"], 0, "0 dead letters");
    let mut found: Vec<Row> = rows(&site).into_values().collect();
    for row in &mut found {
        (row.at_ms, row.event_type) = (0, None);
    }
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].data["user_id.2"], "inner");
    assert!(found.iter().all(|row| *row == found[0]), "{found:?}");
}
