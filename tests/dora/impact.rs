//! What the logs say before and after a deployment: a real daemon, real lines, both sides.

use std::fmt::Write as _;
use std::fs;

use bitacora::config::{Config, Machine};
use bitacora::dora::impact::{Question, impact};
use bitacora::dora::open;
use bitacora::stores;
use jiff::Timestamp;
use serde_json::json;

use super::support::eventually;
use super::support::site::{Files, Site};
use super::{add, runtime};

const MINUTE: i64 = 60_000;

fn site() -> Site {
    let site = Site::new();
    let format = "options = { log_format = '$remote_addr [$time_iso8601] \"$request\" $status $request_time' }";
    site.configure(&[
        Files::new("web/front", site.log("access.log"))
            .with("format = \"nginx/access\"")
            .with(format),
        Files::new("app", site.log("app.log")).with("format = \"json\""),
    ]);
    add(&site, &format!("[dora]\nsqlite = {:?}\n", site.path("dora.db")));
    site
}

/// `rows` requests a minute from `since` on; of each ten so many fail, and so many are slow.
fn requests(since: i64, minutes: i64, fail: i64, slow: i64) -> String {
    let mut text = String::new();
    for number in 0..minutes * 10 {
        let at = Timestamp::from_millisecond(since + number * 6_000).unwrap();
        let status = if number % 10 < fail { 502 } else { 200 };
        let took = if number % 10 < slow { "1.250" } else { "0.020" };
        writeln!(text, "192.0.2.7 [{at:.0}] \"GET /{number} HTTP/1.1\" {status} {took}").unwrap();
    }
    text
}

/// With at most 30 rows read on each side, the newest ones are, and the share is of those.
fn a_cut_scan_says_so(site: &Site) {
    let config = Config::load(&site.config(), &Machine::here()).unwrap();
    let question = Question {
        minutes: 10,
        slow_ms: 1000.0,
        sources: Vec::new(),
        hosts: Vec::new(),
        access: vec!["web/front".into()],
        scanned_max: 30,
    };
    runtime().block_on(async {
        let store = open::open(&config.dora).await.unwrap();
        let deployment = store.deployment("d-7").await.unwrap().unwrap();
        let reader = stores::open::reader(&config.store).unwrap();
        let now_ms = Timestamp::now().as_millisecond();
        let found = impact(&*reader, &deployment, &question, now_ms).await.unwrap();
        for (side, slow) in [(&found.before, 3), (&found.after, 6)] {
            assert_eq!((side.slow.rows, side.slow.of, side.slow_cut), (slow, 30, true));
        }
        // exactly as many rows as may be read are no cut
        let exact = Question { scanned_max: 101, ..question };
        let found = impact(&*reader, &deployment, &exact, now_ms).await.unwrap();
        assert_eq!((found.after.slow.of, found.after.slow_cut), (101, false));
    });
}

#[test]
fn the_logs_before_and_after_a_deployment_are_compared() {
    let site = site();
    let now = Timestamp::now().as_millisecond();
    let deployed = now.div_euclid(MINUTE) * MINUTE - 20 * MINUTE + 10_000;
    let minute = deployed - 10_000;
    // 1 of 10 fails before and 4 of 10 after; 1 and 2 are slow. The minute itself is all failures.
    let mut lines = requests(minute - 10 * MINUTE, 10, 1, 1);
    lines += &requests(minute, 1, 10, 10);
    lines += &requests(minute + MINUTE, 10, 4, 2);
    // further away than the ten minutes that are asked for
    lines += &requests(minute + 12 * MINUTE, 2, 10, 10);
    fs::write(site.log("access.log"), &lines).unwrap();
    let at = Timestamp::from_millisecond(minute + 2 * MINUTE).unwrap();
    let app =
        format!("{{\"timestamp\":\"{at}\",\"level\":\"CRITICAL\",\"message\":\"no bread\"}}\n");
    fs::write(site.log("app.log"), app).unwrap();
    let daemon = site.start();
    let count = lines.lines().count() + 1;
    eventually("all rows are stored", || site.logs().len() == count);
    let when = Timestamp::from_millisecond(deployed).unwrap().to_string();
    let words =
        ["dora", "deploy", "--id", "d-7", "--service", "shop", "--version", "1.4", "--at", &when];
    site.answers(&words, 0, "d-7");

    let asked = ["dora", "impact", "d-7", "--minutes", "10"];
    let output = site.run(&[&asked[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1), "a share has doubled");
    let impact: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(impact["before"]["server_errors"], json!({ "rows": 10, "of": 100, "share": 0.1 }));
    assert_eq!(impact["after"]["server_errors"], json!({ "rows": 40, "of": 100, "share": 0.4 }));
    assert_eq!(impact["after"]["errors"]["rows"], 41, "{impact}");
    assert_eq!(impact["after"]["errors_by_source"], json!({ "app": 1, "web/front": 40 }));
    assert_eq!(impact["before"]["slow"]["rows"], 10);
    assert_eq!(impact["after"]["slow"]["rows"], 20);
    assert_eq!((&impact["unfinished"], &impact["suspect"]), (&json!(false), &json!(true)));
    assert_eq!(impact["after"]["slow_cut"], false);
    site.answers(&asked, 1, "40.00 % (40 of 100)  WORSE");

    a_cut_scan_says_so(&site);
    // the application alone has one error, which is no step
    let app = [&asked[..], &["--source", "app", "--json"]].concat();
    let impact = site.json(&app);
    assert_eq!(
        (&impact["after"]["errors"]["rows"], &impact["suspect"]),
        (&json!(1), &json!(false))
    );
    // half an hour after it is not over
    let impact = site.json(&["dora", "impact", "d-7", "--json"]);
    assert_eq!(impact["unfinished"], true);
    site.answers(&["dora", "impact", "d-8"], 1, "no deployment \"d-8\" is recorded");
    daemon.stop();
}
