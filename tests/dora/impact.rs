//! What the logs say before and after a deployment: a real daemon, real lines, both sides.

use std::fmt::Write as _;
use std::fs;

use jiff::Timestamp;
use serde_json::json;

use super::add;
use super::support::cassandra::Node;
use super::support::site::{Files, Site};
use super::support::{eventually, skip};

const MINUTE: i64 = 60_000;

fn site(site: Site) -> Site {
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

#[test]
fn the_logs_before_and_after_a_deployment_are_compared() {
    compares(&site(Site::new()));
}

#[test]
fn the_same_on_cassandra() {
    let node = match Node::start(&[]) {
        Ok(node) => node,
        Err(why) => return skip("the_same_on_cassandra", &why),
    };
    let site = site(Site::on_cassandra(&[&node], "impact".to_owned(), ""));
    site.apply_schema();
    compares(&site);
}

fn compares(site: &Site) {
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
    eventually("all rows are counted", || {
        let counted = site.run(&["logs", "--count", "all", "-o", "json"]);
        String::from_utf8_lossy(&counted.stdout).contains(&count.to_string())
    });
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
    // the application's record says nothing of a duration
    assert_eq!(impact["before"]["slow"], json!({ "rows": 10, "of": 100, "share": 0.1 }));
    assert_eq!(impact["after"]["slow"], json!({ "rows": 20, "of": 100, "share": 0.2 }));
    assert_eq!((&impact["unfinished"], &impact["suspect"]), (&json!(false), &json!(true)));
    assert_eq!(impact["after"]["slow_unknown"], 0);
    site.answers(&asked, 1, "40.00 % (40 of 100)  WORSE");
    site.answers(&asked, 1, "slow, from 1000 ms on  10.00 % (10 of 100)");
    for (threshold, slow) in [("2000", 0), ("500", 20)] {
        let impact = site.run(&[&asked[..], &["--slow", threshold, "--json"]].concat());
        let impact: serde_json::Value = serde_json::from_slice(&impact.stdout).unwrap();
        assert_eq!(impact["after"]["slow"]["rows"], slow, "{threshold}");
    }
    site.answers(&[&asked[..], &["--slow", "1500"]].concat(), 2, "50, 100, 200, 500, 1000, 2000");
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
