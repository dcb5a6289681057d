//! Clients of the socket: what is acknowledged arrives, once, whatever happens to the daemon, its
//! store and its disk.

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
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use support::client::Client;
use support::rows::Expected;
use support::site::{Daemon, Site};
use support::{Mounted, PATIENCE, Rng, eventually, pause_ms, seed, skip, within};

fn site_with(more: &str) -> Site {
    let mut site = Site::with_http();
    site.socket = format!(
        "stream = {:?}\ndgram = {:?}\n{more}",
        site.path("log.sock"),
        site.path("log.dgram")
    );
    site.configure(&[]);
    site
}

fn stream_of(site: &Site) -> PathBuf {
    site.path("log.sock")
}

/// Starts the daemon and waits until clients can connect.
fn start(site: &Site) -> Daemon {
    let daemon = site.start();
    eventually("the socket is there", || UnixStream::connect(stream_of(site)).is_ok());
    daemon
}

fn record(number: u64) -> String {
    format!("{{\"level\":\"INFO\",\"logger\":\"t\",\"message\":\"ln{number:08}x and more of it\"}}")
}

/// A store that takes nothing: a file stands where its directory is to be.
fn block_store(site: &Site) {
    let aside = site.path("rows.aside");
    if site.store_dir().exists() {
        fs::rename(site.store_dir(), &aside).unwrap();
    }
    fs::write(site.store_dir(), "in the way").unwrap();
}

fn unblock_store(site: &Site) {
    fs::remove_file(site.store_dir()).unwrap();
    let aside = site.path("rows.aside");
    if aside.exists() {
        fs::rename(aside, site.store_dir()).unwrap();
    }
}

#[test]
fn records_of_every_kind_arrive_with_their_columns() {
    let site = site_with("");
    let daemon = start(&site);
    let mut client = Client::new(&stream_of(&site));
    for record in [
        r#"{"message":"one","logger":"shop","level":"warn","user_id":7,"duration_ms":1.5}"#,
        r#"{"message":"two","source":"shop/web","request_id":"r-1","user_id":"anna","a":{"b":1}}"#,
        "<11>1 2026-11-22T10:11:12.345Z web1 nightly 7 - - three",
        "neither of them",
        r#"{"message":"broken"#,
    ] {
        client.send(record);
    }
    assert!(client.settle(PATIENCE));
    assert_eq!(client.acked, 5);
    let told: Vec<_> = client.errors.iter().map(|one| one["record"].as_u64().unwrap()).collect();
    assert_eq!(told, [4, 5], "{:?}", client.errors);
    let datagrams = UnixDatagram::unbound().unwrap();
    datagrams.connect(site.path("log.dgram")).unwrap();
    datagrams.send(b"<13>Nov 22 10:11:12 nightly: six").unwrap();
    datagrams.send(b"{\"message\":\"se\\nven\",\n\"level\":\"error\"}").unwrap();
    let mut plain = UnixStream::connect(stream_of(&site)).unwrap();
    plain.write_all(b"{\"message\":\"eight\"}\n\n{\"message\":\"nine, without an end\"}").unwrap();
    drop(plain);
    eventually("all rows are there", || site.logs().len() == 9);
    let logs = site.logs();
    let row = |message: &str| {
        logs.iter().find(|row| row["message"].as_str().unwrap().contains(message)).unwrap()
    };
    let pid = std::process::id().to_string();
    let one = row("one");
    assert_eq!(
        (one["source"].as_str(), one["level"].as_str(), one["user_id"].as_i64()),
        (Some("app"), Some("WARNING"), Some(7))
    );
    assert_eq!((one["logger"].as_str(), one["duration_ms"].as_f64()), (Some("shop"), Some(1.5)));
    assert_eq!(one["metadata"]["peer_pid"].as_str(), Some(&*pid));
    let two = row("two");
    assert_eq!(two["source"], "shop/web");
    assert_eq!(two["metadata"]["user_id"], "anna", "no integer: kept as text");
    assert_eq!(
        (&two["metadata"]["request_id"], &two["metadata"]["a.b"]),
        (&"r-1".into(), &"1".into())
    );
    assert!(two["request_id"].as_str().unwrap().len() == 36);
    assert_eq!(
        (&row("three")["source"], &row("three")["level"]),
        (&"syslog".into(), &"ERROR".into())
    );
    for unparsed in ["neither of them", "{\"message\":\"broken"] {
        assert_eq!(row(unparsed)["metadata"]["unparsed"], "true");
    }
    assert_eq!(row("six")["metadata"]["app_name"], "nightly");
    assert_eq!(
        (&row("se\nven")["level"], &row("eight")["level"]),
        (&"ERROR".into(), &"INFO".into())
    );
    assert_eq!(row("nine")["metadata"]["partial"], "true");
    // a reload does not forget the sources that no configuration names
    site.run(&["reload"]);
    let accounted = || {
        let sum = |name| site.metric(name, "");
        sum("bitacora_source_unaccounted_bytes") == Some(0.0)
            && site.metric("bitacora_source_rows_total", "source=\"app\",kind=\"socket\"")
                > Some(0.0)
    };
    eventually("all bytes are accounted for", accounted);
    let status = site.json(&["status", "--json"]);
    let app = status["sources"].as_array().unwrap().iter().find(|one| one["source"] == "app");
    assert!(app.unwrap()["rows"].as_u64() > Some(0), "{status}");
    eventually("it is known until when the answer is complete", || {
        let told = site.run(&["logs", "-s", "app", "-n", "1"]);
        String::from_utf8_lossy(&told.stderr).contains("complete until")
    });
    daemon.stop();
    site.audit_is_clean();
    assert!(!stream_of(&site).exists(), "a stop takes the sockets away");
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_nothing_is_there_twice() {
    let rounds = std::env::var("BITACORA_ROUNDS").ok().and_then(|text| text.parse().ok());
    let site = site_with("");
    let mut rng = Rng(seed());
    let mut clients: Vec<Client> = (0..4).map(|_| Client::new(&stream_of(&site))).collect();
    let mut expected = Expected::default();
    let mut number = 0;
    for _ in 0..rounds.unwrap_or(60) {
        let daemon = start(&site);
        // some connections outlive a daemon, some are broken off in between
        for _ in 0..rng.range(1, 120) {
            let index = rng.index(clients.len());
            number += 1;
            expected.must.insert(number);
            clients[index].send(&record(number));
            if rng.one_in(40) {
                clients[index].hang_up();
            }
        }
        pause_ms(rng.range(0, 60));
        daemon.kill();
    }
    let daemon = start(&site);
    for client in &mut clients {
        assert!(client.settle(PATIENCE), "no receipt: {}", site.said());
    }
    site.stores_all(&expected, PATIENCE);
    site.ends_well(daemon, &expected);
}

#[test]
fn a_client_is_connected_once_and_only_its_own_number_counts() {
    let site = site_with("");
    let daemon = start(&site);
    let mut client = Client::new(&stream_of(&site));
    client.send(&record(1));
    assert!(client.settle(PATIENCE));
    let ask = |first: &str| {
        let mut other = UnixStream::connect(stream_of(&site)).unwrap();
        other.write_all(first.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(other).read_line(&mut answer).unwrap();
        answer
    };
    let refused = ask(&client.hello());
    assert!(refused.contains("connected already"), "{refused}");
    assert!(ask("{\"bitacora\":9,\"ack\":true}\n").contains("version 9"));
    assert!(ask("{\"bitacora\":1,\"ack\":true,\"client\":\"me\",\"next\":1}\n").contains("UUID"));
    // the same again after a broken connection: what was stored is passed over
    let hello = client.hello();
    client.hang_up();
    let again = hello.replace("\"next\":2", "\"next\":1");
    eventually("the place is free", || {
        let mut other = UnixStream::connect(stream_of(&site)).unwrap();
        other.write_all(format!("{again}{}\n{}\n", record(1), record(2)).as_bytes()).unwrap();
        let mut answers = BufReader::new(other);
        let mut first = String::new();
        answers.read_line(&mut first).unwrap();
        let mut second = String::new();
        first.contains("\"acked\":") && {
            assert!(first.contains("\"acked\":1"), "{first}");
            answers.read_line(&mut second).unwrap();
            second.contains("\"acked\":2")
        }
    });
    let mut expected = Expected::default();
    expected.must.extend([1, 2]);
    site.stores_all(&expected, PATIENCE);
    site.ends_well(daemon, &expected);
}

#[test]
fn while_the_store_is_away_the_spool_fills_and_then_clients_are_held_back() {
    let site = site_with("spool_max = \"2MiB\"");
    block_store(&site);
    let daemon = start(&site);
    let mut plain = UnixStream::connect(stream_of(&site)).unwrap();
    plain.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut expected = Expected::default();
    let mut rest = Vec::new();
    for number in 1..200_000 {
        let line = format!("{}\n", record(number)).into_bytes();
        expected.must.insert(number);
        match write_some(&mut plain, &line) {
            written if written == line.len() => {}
            written => {
                rest = line[written..].to_vec();
                break;
            }
        }
    }
    assert!(!rest.is_empty(), "the client was never held back");
    eventually("it is said", || {
        site.json(&["status", "--json"])["problem"].as_str().is_some_and(|text| !text.is_empty())
    });
    let datagrams = UnixDatagram::unbound().unwrap();
    datagrams.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    datagrams.connect(site.path("log.dgram")).unwrap();
    eventually("datagrams are dropped and counted", || {
        let _ = datagrams.send(b"<13>no room");
        site.metric("bitacora_socket_records_total", "refused").is_some_and(|count| count > 0.0)
    });
    unblock_store(&site);
    plain.set_write_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(&rest).unwrap();
    drop(plain);
    site.stores_all(&expected, PATIENCE);
    eventually("the spool is empty again", || {
        site.metric("bitacora_spool_bytes", "").is_some_and(|bytes| bytes < 2e6)
    });
    site.ends_well(daemon, &expected);
}

/// Writes what the socket takes within its time.
fn write_some(to: &mut UnixStream, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match to.write(&bytes[written..]) {
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                return written;
            }
        }
    }
    written
}

#[test]
fn a_full_disk_holds_clients_back_and_loses_nothing_that_was_acknowledged() {
    let name = "a_full_disk_holds_clients_back_and_loses_nothing_that_was_acknowledged";
    let site = site_with("");
    let state = site.path("state");
    let Some(mounted) = Mounted::tmpfs(&state, "4m") else {
        return skip(name, "needs root and the right to mount a tmpfs");
    };
    block_store(&site);
    let daemon = start(&site);
    let mut client = Client::new(&stream_of(&site));
    let mut expected = Expected::default();
    let mut number = 0;
    let full = within(PATIENCE, || {
        for _ in 0..200 {
            number += 1;
            expected.must.insert(number);
            client.send(&format!("{}{}", record(number), " ".repeat(900)));
        }
        client.poll();
        site.json(&["status", "--json"])["problem"].to_string().contains("no room")
    });
    assert!(full, "4 MiB took {number} records of 1 kB: {}", site.said());
    unblock_store(&site);
    assert!(client.settle(PATIENCE), "{} of {number}: {}", client.acked, site.said());
    site.stores_all(&expected, PATIENCE);
    site.ends_well(daemon, &expected);
    drop(mounted);
}

#[test]
fn a_damaged_segment_is_set_aside_and_said_and_the_rest_goes_on() {
    let site = site_with("");
    block_store(&site);
    let daemon = start(&site);
    let mut client = Client::new(&stream_of(&site));
    (1..=50).for_each(|number| client.send(&record(number)));
    assert!(client.settle(PATIENCE));
    daemon.kill();
    let spool = site.path("state").join("spool");
    let segment = fs::read_dir(&spool)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|ending| ending == "db-wal"))
        .unwrap();
    // the log of what was committed is gone, and the file is no database any more
    fs::remove_file(&segment).unwrap();
    fs::write(segment.with_extension("db"), vec![7; 20_000]).unwrap();
    unblock_store(&site);
    let daemon = start(&site);
    let mut client = Client::new(&stream_of(&site));
    (51..=60).for_each(|number| client.send(&record(number)));
    assert!(client.settle(PATIENCE));
    let mut expected = Expected::default();
    expected.must.extend(51..=60);
    expected.may.extend(1..=50);
    site.stores_all(&expected, PATIENCE);
    eventually("the loss is said", || {
        site.metric("bitacora_source_loss_receipts_total", "spool").is_some_and(|count| count > 0.0)
    });
    daemon.says("set aside");
    daemon.stop();
    let audit = site.json(&["audit", "--json"]);
    assert!(audit.to_string().contains("spool"), "{audit}");
    let aside = fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(aside.into_iter().any(|name| name.to_string_lossy().contains("damaged")));
}

#[test]
fn send_waits_for_the_receipt_and_tap_shows_what_comes() {
    let site = site_with("");
    let daemon = start(&site);
    let mut tap = site.command(&["tap", "-n", "3"]);
    let tap = tap.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // a tap sees what comes once it is there: so something comes until it has seen one
    let sent = || site.run(&["send", "-l", "error", "-f", "host=db1", "ln00000001x", "failed"]);
    let mut tap = Some(tap);
    let mut keys = Vec::new();
    eventually("the tap has seen three records", || {
        let told = sent();
        assert!(told.status.success(), "{}", support::site::told(&told));
        keys.push(String::from_utf8(told.stdout).unwrap().trim().to_owned());
        tap.as_mut().is_some_and(|tap| tap.try_wait().unwrap().is_some())
    });
    let seen = tap.take().unwrap().wait_with_output().unwrap();
    let seen = String::from_utf8(seen.stdout).unwrap();
    let one = r#"{"level":"ERROR","host":"db1","message":"ln00000001x failed"}"#;
    assert_eq!(seen, format!("{one}\n{one}\n{one}\n"));
    eventually("all rows are there", || site.logs().len() == keys.len());
    let rows: std::collections::BTreeSet<String> = site
        .logs()
        .iter()
        .map(|row| format!("{} {}", row["origin"], row["offset_bytes"]))
        .collect();
    assert_eq!(rows, keys.iter().cloned().collect(), "the printed keys are those of the rows");
    for (arguments, code) in [
        (&["send", "-l", "loud", "x"][..], 2),
        (&["send", "-f", "novalue", "x"], 2),
        (&["send", "--json", "[1]"], 2),
        (&["send", "--socket", "/nowhere", "x"], 69),
    ] {
        assert_eq!(site.run(arguments).status.code(), Some(code), "{arguments:?}");
    }
    daemon.stop();
    assert_eq!(site.run(&["send", "x"]).status.code(), Some(69), "nobody is there");
    site.audit_is_clean();
}

#[test]
fn hostile_clients_do_not_keep_an_honest_one_from_its_receipts() {
    let site = site_with("");
    let daemon = start(&site);
    let connect = || UnixStream::connect(stream_of(&site)).unwrap();
    let _idle: Vec<UnixStream> = (0..400).map(|_| connect()).collect();
    let mut slow: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    let mut rng = Rng(seed());
    let mut huge = connect();
    huge.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut honest = Client::new(&stream_of(&site));
    let mut expected = Expected::default();
    for number in 1..=300 {
        expected.must.insert(number);
        honest.send(&record(number));
        for client in &mut slow {
            let _ = client.write(b"{");
        }
        let garbage: Vec<u8> =
            (0..rng.range(1, 300)).map(|_| rng.next().to_le_bytes()[0]).collect();
        let _ = connect().write(&garbage);
        let _ = huge.write(&vec![b'h'; 20_000]);
    }
    assert!(honest.settle(PATIENCE), "{} of 300 have a receipt", honest.acked);
    drop((slow, huge));
    site.stores_all(&expected, PATIENCE);
    eventually("the long line is a row", || {
        site.logs().iter().any(|row| row["metadata"]["truncated"] == "true")
    });
    // unfinished lines of 250 KiB: together more than the daemon holds
    let mut greedy: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    for client in &mut greedy {
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let _ = client.write_all(&vec![b'g'; 250 << 10]);
    }
    eventually("some of the greedy are turned away", || {
        greedy.iter_mut().any(|client| {
            let mut told = [0; 200];
            let read = std::io::Read::read(client, &mut told);
            read.is_ok_and(|length| {
                String::from_utf8_lossy(&told[..length]).contains("not ended") || length == 0
            })
        })
    });
    expected.must.insert(301);
    honest.send(&record(301));
    assert!(honest.settle(PATIENCE), "the greedy keep an honest client from its receipt");
    drop(greedy);
    site.stores_all(&expected, PATIENCE);
    daemon.stop();
    site.audit_is_clean();
    assert_eq!(expected.compare(&site.rows()), Ok(()));
}

/// What a socket unit of systemd does: the sockets stay open here, and each daemon is handed them.
struct Unit {
    stream: UnixListener,
    dgram: UnixDatagram,
}

impl Unit {
    fn of(site: &Site) -> Self {
        Self {
            stream: UnixListener::bind(stream_of(site)).unwrap(),
            dgram: UnixDatagram::bind(site.path("log.dgram")).unwrap(),
        }
    }

    fn start(&self, site: &Site) -> Daemon {
        let handed = [("stream", self.stream.as_fd()), ("dgram", self.dgram.as_fd())];
        site.start_handed(&handed, &[])
    }
}

#[test]
fn a_client_is_never_refused_while_daemons_follow_each_other_at_one_socket() {
    const RECORDS: u64 = 400;
    let site = site_with("");
    let unit = Unit::of(&site);
    let mut daemon = unit.start(&site);
    let path = stream_of(&site);
    let writer = std::thread::spawn(move || {
        let mut refused = 0;
        for number in 0..RECORDS {
            let mut client = Client::new(&path);
            client.send(&record(number));
            assert!(client.settle(PATIENCE), "record {number} has no receipt");
            refused += client.refused;
            pause_ms(5);
        }
        refused
    });
    let datagrams = UnixDatagram::unbound().unwrap();
    datagrams.connect(site.path("log.dgram")).unwrap();
    let mut sent = RECORDS;
    for round in 0..4 {
        let before = site.rows().len();
        eventually("records arrive", || site.rows().len() > before + 20);
        if round % 2 == 0 {
            daemon.stop();
        } else {
            daemon.kill();
        }
        // nobody reads now: the datagrams wait in the socket
        for _ in 0..5 {
            datagrams.send(record(sent).as_bytes()).unwrap();
            sent += 1;
        }
        daemon = unit.start(&site);
    }
    assert_eq!(writer.join().unwrap(), 0, "connections were refused");
    let mut expected = Expected::default();
    expected.must.extend(0..sent);
    site.stores_all(&expected, PATIENCE);
    site.ends_well(daemon, &expected);
    assert!(stream_of(&site).exists(), "the socket is systemd's, and stays");
}

/// Answers have to go somewhere: a client that asks for them, sends what is not understood, and
/// reads nothing, is left alone with that.
#[test]
fn clients_that_do_not_read_their_answers_keep_nobody_waiting() {
    let site = site_with("");
    let daemon = start(&site);
    let mut hostile = Vec::new();
    for _ in 0..100 {
        let mut stream = UnixStream::connect(stream_of(&site)).unwrap();
        stream.write_all(Client::new(&stream_of(&site)).hello().as_bytes()).unwrap();
        hostile.push(stream);
    }
    let garbage = "x\n".repeat(30_000);
    for stream in &mut hostile {
        stream.set_nonblocking(true).unwrap();
        // as much as the daemon takes
        for _ in 0..50 {
            if stream.write_all(garbage.as_bytes()).is_err() {
                break;
            }
        }
    }
    let mut client = Client::new(&stream_of(&site));
    for number in 0..50 {
        client.send(&record(number));
        assert!(client.settle(Duration::from_secs(15)), "record {number} waits for its receipt");
    }
    daemon.stop(); // nor does it wait for them
    drop(hostile);
}
