//! Origins whose rows have ended and whose files are gone: beside the daemon, and in whatever order
//! the store, the state and the file come back.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bitacora::daemon::control;
use bitacora::maintain::audit::{self, Audited};
use bitacora::maintain::retention::{self, Report, Request, State};
use bitacora::stores::LogReader;
use bitacora::stores::expired::EndedOrigin;
use bitacora::stores::sqlite::{self, SqliteReader};

use super::*;
use crate::support::PATIENCE;
use crate::support::client::Client;

/// Everything lives 30 days; whatever is called `web-*.log` is followed.
fn pattern_site(further: &str) -> Site {
    let mut site = Site::new();
    site.daemon_extra = format!(
        "[retention]\napplication = \"30d\"\ninfrastructure = \"30d\"\nuser_events = \"30d\"\n\
         {further}\n"
    );
    let files = Files::new("web", site.log("web-*.log")).with("format = \"nginx/access\"");
    site.configure(&[files]);
    site
}

/// The day after tomorrow: what was written now is settled.
fn settled_ms() -> i64 {
    now_ms() + 2 * DAY_MS
}

fn run(site: &Site, request: Request) -> Report {
    let config = Config::load(&site.config(), &Machine::here()).unwrap();
    let report = block_on(retention::run(&config, request)).unwrap();
    assert!(report.clean(), "{report:?}");
    report
}

fn apply(site: &Site) -> Report {
    run(site, Request { apply: true, now_ms: settled_ms(), ..Request::default() })
}

/// What the daemon knows of the files with this name: origin and state.
fn known(site: &Site, name: &str) -> Vec<(i64, String)> {
    let output = site.run(&["state", "show", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|one| one["first_path"].as_str().unwrap().contains(name))
        .map(|one| (one["origin"].as_i64().unwrap(), one["state"].as_str().unwrap().to_owned()))
        .collect()
}

fn is_done(site: &Site, name: &str) -> bool {
    known(site, name).iter().all(|(_, state)| state != "followed")
}

fn stored_origins(site: &Site) -> Vec<String> {
    let reader = SqliteReader::new(site.store_dir());
    let reader: &dyn LogReader = &reader;
    let origins = block_on(reader.origins(None)).unwrap();
    let mut names: Vec<String> = origins
        .iter()
        .map(|one| one.record.path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn audited_now(site: &Site) -> Audited {
    block_on(audit::audit(&SqliteReader::new(site.store_dir()), now_ms())).unwrap()
}

fn forget(site: &Site) {
    let socket = site.path("state/control.sock");
    let answer = control::ask(&socket, control::Request::Forget, Duration::from_secs(10)).unwrap();
    assert!(answer.contains("forgetting"), "{answer}");
}

#[test]
fn an_origin_ends_with_its_file_beside_the_daemon_which_forgets_it() {
    let site = pattern_site("");
    let [gone, live, there] = ["web-1.log", "web-2.log", "web-3.log"].map(|name| site.log(name));
    append(&gone, 40, 20);
    append(&live, 0, 10);
    append(&there, 41, 5);
    let text = fs::read(&gone).unwrap();
    let daemon = site.start();
    eventually("all committed", || committed(&site) == 35);
    site.answers(&["retention", "apply"], 0, "2 went: 25 rows");
    let early = site.json(&["retention", "plan", "--json"]);
    assert_eq!(early["origins"]["kept"], 0, "what was written today is not settled: {early}");

    let report = apply(&site);
    assert_eq!((report.origins.ended, report.origins.kept), (0, 2), "their files are there");
    fs::remove_file(&gone).unwrap();
    eventually("the daemon is done with it", || is_done(&site, "web-1.log"));
    let planned = run(&site, Request { now_ms: settled_ms(), ..Request::default() });
    let report = apply(&site);
    assert_eq!(planned.origins.state, Some(State::Planned));
    assert_eq!((planned.origins.ended, planned.origins.rows), (1, 20));
    assert_eq!(report.origins.state, Some(State::Done));
    assert_eq!((report.origins.ended, report.origins.kept, report.origins.rows), (1, 1, 20));
    assert_eq!(stored_origins(&site), ["web-2.log", "web-3.log"]);
    assert_eq!(expired(&site), 25, "the tombstone still counts its rows");
    site.audit_is_clean();
    site.answers(&["audit"], 0, "1 origins have ended, 0 rows of theirs still stand");
    assert_eq!(apply(&site).origins.ended, 0, "twice changes nothing");

    assert_eq!(known(&site, "web-1.log").len(), 1);
    forget(&site);
    eventually("forgotten", || known(&site, "web-1.log").is_empty());
    assert_eq!((known(&site, "web-2.log").len(), known(&site, "web-3.log").len()), (1, 1));

    // copied back from an archive it is a new file, whose rows are of a day that has ended
    fs::write(&gone, &text).unwrap();
    eventually("read as new", || expired(&site) == 45);
    append(&there, 41, 1);
    append(&live, 0, 1);
    eventually("the others go on", || expired(&site) == 46 && stored(&site, "web") == 11);
    daemon.stop();
    site.audit_is_clean();

    // a row of an origin that lives is lost when it is removed by hand, whatever has ended
    site.in_day_files("DELETE FROM infrastructure_logs WHERE offset_bytes = 0");
    site.answers(&["audit"], 1, "missing: 1 rows");
}

#[test]
fn a_daemon_that_held_the_origin_in_memory_goes_on_with_it() {
    let site = pattern_site("");
    let file = site.log("web-1.log");
    append(&site.log("web-2.log"), 0, 10);
    // a span of each run
    for run in 1..=2 {
        append(&file, 40, 10);
        let daemon = site.start();
        eventually("all committed", || committed(&site) == 10 + run * 10);
        daemon.stop();
    }
    let daemon = site.start();
    site.answers(&["retention", "apply"], 0, "1 went: 20 rows");
    let text = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    eventually("the daemon is done with it", || is_done(&site, "web-1.log"));
    let before = known(&site, "web-1.log");
    assert_eq!(apply(&site).origins.ended, 1);
    // it was not told, and the file comes back with one row more
    let back = site.log("web-1.new");
    fs::write(&back, text).unwrap();
    append(&back, 0, 1);
    fs::rename(&back, &file).unwrap();
    eventually("its new row", || stored(&site, "web") == 11);
    eventually("committed", || committed(&site) >= 11);
    daemon.stop();
    assert_eq!(known(&site, "web-1.log")[0].0, before[0].0, "the same origin");
    let report = audited_now(&site).report;
    assert_eq!(report.ended.len(), 1);
    let again = report.origins.iter().find(|one| one.path == file).unwrap();
    assert_eq!((again.rows, again.faults.len()), (11, 0), "its first span has ended: {again:?}");
    site.audit_is_clean();
    // and so does the next run, also without a state
    for state_is_lost in [false, true] {
        if state_is_lost {
            fs::remove_dir_all(site.path("state")).unwrap();
        }
        let before = stored(&site, "web");
        let daemon = site.start();
        append(&file, 0, 1);
        eventually("one more", || stored(&site, "web") == before + 1);
        daemon.stop();
        site.audit_is_clean();
    }
}

#[test]
fn store_and_state_may_each_be_older_than_the_end_of_an_origin() {
    let site = pattern_site("");
    let file = site.log("web-1.log");
    append(&file, 40, 20);
    append(&site.log("web-2.log"), 0, 10);
    let daemon = site.start();
    eventually("all committed", || committed(&site) == 30);
    site.answers(&["retention", "apply"], 0, "1 went: 20 rows");
    fs::remove_file(&file).unwrap();
    eventually("the daemon is done with it", || is_done(&site, "web-1.log"));
    daemon.stop();
    let index = site.store_dir().join("index.db");
    let (older_index, older_state) = (site.path("older.db"), site.path("older.state"));
    fs::copy(&index, &older_index).unwrap();
    fs::copy(site.path("state/state.db"), &older_state).unwrap();
    assert_eq!(apply(&site).origins.ended, 1);

    let starts = |what: &str, origins: &[&str]| {
        let daemon = site.start();
        append(&site.log("web-2.log"), 0, 1);
        let rows = stored(&site, "web") + 1;
        eventually(what, || stored(&site, "web") >= rows);
        daemon.stop();
        site.audit_is_clean();
        assert_eq!(stored_origins(&site), origins, "{what}");
    };
    starts("the state has it, the store has not", &["web-2.log"]);
    assert!(known(&site, "web-1.log").is_empty(), "forgotten at the start");
    fs::copy(&older_state, site.path("state/state.db")).unwrap();
    starts("an older state is restored", &["web-2.log"]);
    assert!(known(&site, "web-1.log").is_empty());
    fs::remove_dir_all(site.path("state")).unwrap();
    site.answers(&["state", "rebuild"], 0, "1 of 1 origins");
    starts("the state is rebuilt", &["web-2.log"]);

    // what an older index brings back ends once more
    fs::copy(&older_index, &index).unwrap();
    assert_eq!(stored_origins(&site), ["web-1.log", "web-2.log"]);
    let report = apply(&site);
    assert_eq!((report.origins.ended, report.origins.kept), (1, 0));
    assert_eq!(stored_origins(&site), ["web-2.log"]);
}

#[test]
fn a_file_that_is_there_under_another_name_or_compressed_keeps_its_origin() {
    let site = pattern_site("");
    append(&site.log("web-0.log"), 0, 10);
    for number in 1..=4 {
        append(&site.log(&format!("web-{number}.log")), 40 + number, 20);
    }
    let daemon = site.start();
    eventually("all committed", || committed(&site) == 90);
    site.answers(&["retention", "apply"], 0, "4 went: 80 rows");
    fs::rename(site.log("web-1.log"), site.log("web-1.log.1")).unwrap();
    eventually("it was rotated", || is_done(&site, "web-1.log"));
    daemon.stop();
    // nobody saw these
    let text = fs::read(site.log("web-2.log")).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&text).unwrap();
    fs::write(site.log("web-2.log.gz"), gz.finish().unwrap()).unwrap();
    fs::copy(site.log("web-3.log"), site.log("web-3.log.bak")).unwrap();
    for number in 2..=4 {
        fs::remove_file(site.log(&format!("web-{number}.log"))).unwrap();
    }
    let state = rusqlite::Connection::open(site.path("state/state.db")).unwrap();
    state.execute("UPDATE origins SET retired = 1 WHERE finished = 0", []).unwrap();
    drop(state);
    let report = apply(&site);
    assert_eq!((report.origins.ended, report.origins.kept), (1, 3), "{report:?}");
    assert!(!stored_origins(&site).contains(&"web-4.log".to_owned()));
    let daemon = site.start();
    append(&site.log("web-0.log"), 0, 1);
    eventually("one more", || stored(&site, "web") == 11);
    daemon.stop();
    assert_eq!(expired(&site), 80, "nothing was read again");
    site.audit_is_clean();
}

#[test]
fn the_newest_origin_of_a_followed_path_stays() {
    let site = site("");
    append(&site.log("short.log"), 10, 20);
    append(&site.log("web.log"), 0, 1);
    let daemon = site.start();
    eventually("all committed", || committed(&site) == 21);
    site.answers(&["retention", "apply"], 0, "1 went: 20 rows");
    fs::remove_file(site.log("short.log")).unwrap();
    append(&site.log("short.log"), 0, 2);
    eventually("the next generation", || committed(&site) == 23 && !is_done(&site, "short.log"));
    eventually("the first is done", || {
        known(&site, "short.log").iter().any(|(_, state)| state == "finished")
    });
    fs::remove_file(site.log("short.log")).unwrap();
    eventually("the second too", || is_done(&site, "short.log"));
    daemon.stop();
    assert_eq!(known(&site, "short.log").len(), 2);
    let now_ms = now_ms() + 100 * DAY_MS;
    let report = run(&site, Request { apply: true, now_ms, ..Request::default() });
    assert_eq!((report.origins.ended, report.origins.kept), (1, 2), "{report:?}");
    assert_eq!(stored_origins(&site), ["short.log", "web.log"]);
}

#[test]
fn lanes_of_the_spool_end_once_their_segment_is_gone() {
    let mut site = Site::new();
    site.socket = format!("stream = {:?}\ndgram = \"\"", site.path("log.sock"));
    site.configure(&[]);
    let send = |text: &str| {
        let socket = site.path("log.sock");
        eventually("the socket is there", || UnixStream::connect(&socket).is_ok());
        let mut client = Client::new(&socket);
        client.send(text);
        assert!(client.settle(PATIENCE));
    };
    let daemon = site.start();
    send(r#"{"message":"one","source":"shop"}"#);
    eventually("stored", || committed(&site) == 1);
    let late = now_ms() + 200 * DAY_MS;
    let at_late = Request { apply: true, now_ms: late, ..Request::default() };
    let report = run(&site, at_late.clone());
    assert_eq!((report.origins.ended, report.origins.kept), (0, 1), "its segment is there");
    daemon.stop();
    // each run begins a segment of its own, and the one before is drained and deleted
    let daemon = site.start();
    send(r#"{"message":"two","source":"shop"}"#);
    eventually("its segment is gone", || {
        known(&site, "#").len() == 2 && !site.path("state/spool/0000000001.db").exists()
    });
    let report = run(&site, at_late);
    assert_eq!((report.origins.ended, report.origins.kept), (1, 1), "{report:?}");
    forget(&site);
    eventually("forgotten", || known(&site, "#").len() == 1);
    send(r#"{"message":"three","source":"shop"}"#);
    daemon.stop();
    site.audit_is_clean();
}

#[test]
fn only_origins_that_a_verified_backup_holds_end_if_that_is_asked_for() {
    let backups = tempfile::tempdir().unwrap();
    let site = pattern_site(&format!("[backup]\ndir = {:?}\nparts = [\"logs\"]", backups.path()));
    append(&site.log("web-1.log"), 40, 20);
    append(&site.log("web-2.log"), 0, 1);
    let daemon = site.start();
    eventually("all committed", || committed(&site) == 21);
    site.answers(&["retention", "apply"], 0, "1 went: 20 rows");
    fs::remove_file(site.log("web-1.log")).unwrap();
    eventually("the daemon is done with it", || is_done(&site, "web-1.log"));
    daemon.stop();
    let with_backup =
        Request { apply: true, require_backup: true, now_ms: settled_ms(), gone_host: None };
    let report = run(&site, with_backup.clone());
    assert_eq!((report.origins.ended, report.origins.withheld), (0, 1));
    // an archive holds what was written before the second in which it was begun
    let second = now_ms() / 1000;
    eventually("the next second", || now_ms() / 1000 > second);
    site.answers(&["backup", "create"], 0, "");
    let report = run(&site, with_backup);
    assert_eq!((report.origins.ended, report.origins.withheld), (1, 0));
    assert_eq!(stored_origins(&site), ["web-2.log"]);
}

#[test]
fn rows_that_still_stand_under_an_ended_origin_are_no_strays() {
    let site = pattern_site("");
    append(&site.log("web-1.log"), 0, 7);
    let daemon = site.start();
    eventually("all committed", || committed(&site) == 7);
    daemon.stop();
    let copy = fs::read(site.store_dir().join("index.db")).unwrap();
    let (origin, _) = known(&site, "web-1.log")[0];
    let ended = EndedOrigin {
        origin,
        machine: "m".to_owned(),
        host: "h".to_owned(),
        path: "/web-1.log".into(),
        end_bytes: u64::MAX >> 1,
        rows: 7,
        policy: "infrastructure_logs: 30 days".to_owned(),
        ended_ms: now_ms(),
    };
    let moved_on = EndedOrigin { end_bytes: 10, ..ended.clone() };
    assert_eq!(sqlite::ended::end(&site.store_dir(), &[moved_on]).unwrap(), 0, "it has grown");
    assert_eq!(sqlite::ended::end(&site.store_dir(), std::slice::from_ref(&ended)).unwrap(), 1);
    let report = audited_now(&site).report;
    assert!(report.clean(), "{report:?}");
    assert_eq!((report.ended_rows_left, report.expired_rows(), report.stray_rows), (7, 7, 0));
    assert_eq!(report.ended, std::slice::from_ref(&ended));
    // tombstones of origins end as well
    sqlite::ended::forget_old(&site.store_dir(), ended.ended_ms + 365 * DAY_MS).unwrap();
    assert_eq!(audited_now(&site).report.ended.len(), 1);
    sqlite::ended::forget_old(&site.store_dir(), ended.ended_ms + 365 * DAY_MS + 1).unwrap();
    let report = audited_now(&site).report;
    assert_eq!((report.ended.len(), report.stray_rows, report.clean()), (0, 7, false));
    // the same origin, removed by hand: nothing excuses that
    fs::write(site.store_dir().join("index.db"), copy).unwrap();
    let index = rusqlite::Connection::open(site.store_dir().join("index.db")).unwrap();
    index.execute_batch("DELETE FROM origins; DELETE FROM spans; DELETE FROM contexts").unwrap();
    drop(index);
    site.answers(&["audit"], 1, "7 rows belong to no origin");
}
