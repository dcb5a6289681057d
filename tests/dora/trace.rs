//! A cycle across both layers: the metrics, and what the application wrote to the socket.

use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use super::support::eventually;
use super::support::site::{BINARY, Site, told};
use super::{add, new_database, server, words};

fn site(dora: &dyn Fn(&Site) -> String) -> Site {
    let mut site = Site::new();
    site.socket = format!("stream = {:?}\ndgram = \"\"", site.path("log.sock"));
    site.configure(&[]);
    add(&site, &dora(&site));
    site
}

fn traced(site: &Site) -> Value {
    site.json(&["dora", "trace", "C7", "--json"])
}

fn follows_a_cycle(site: &Site) {
    let daemon = site.start();
    eventually("the socket is there", || UnixStream::connect(site.path("log.sock")).is_ok());
    // the application logs under the id that it was given, once before and once after an escape
    let script = format!(
        "'{BINARY}' send --config {:?} -q -l error --logger shop.views \
         -f request_id=$BITACORA_REQUEST_ID \"$(printf 'no \\033[31mbread')\"; \
         '{BINARY}' send --config {:?} -q -f request_id=another 'not ours'; exit 5",
        site.config(),
        site.config()
    );
    let done = std::process::Command::new(BINARY)
        .arg("--config")
        .arg(site.config())
        .args(["dora", "exec", "--cycle", "C7", "--feature", "login", "--phase", "testing", "--"])
        .args(["sh", "-c", &script])
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(5), "{}", told(&done));
    let words = words(
        "dora phase --cycle C7 --feature login --phase deployment --decision success --duration \
         1 --metadata request_id=another",
    );
    site.answers(&words, 0, "recorded");
    site.answers(&["dora", "deploy", "--cycle", "C7", "--id", "d-7"], 0, "d-7");
    eventually("both rows are stored", || {
        let phases = &traced(site)["phases"];
        phases.as_array().unwrap().iter().all(|one| one["rows"].as_array().unwrap().len() == 1)
    });
    let found = traced(site);
    let row = &found["phases"][0]["rows"][0];
    assert_eq!((&row["logger"], &row["level"]), (&json!("shop.views"), &json!("ERROR")), "{found}");
    assert_eq!(row["request_id"], found["phases"][0]["metadata"]["request_id"]);
    // an id that is no uuid is found as the application's column has it
    assert_eq!(found["phases"][1]["rows"][0]["message"], "not ours");
    assert_eq!(found["deployments"][0]["id"], "d-7");
    assert_eq!(found["logs_asked"], true);
    let text = site.run(&["dora", "trace", "C7"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("app: no \\x1b[31mbread"), "no terminal obeys it: {text}");
    assert!(text.contains("testing     failed"), "{text}");
    daemon.stop();
}

#[test]
fn a_cycle_is_followed_from_the_metrics_into_the_log() {
    follows_a_cycle(&site(&|site| format!("[dora]\nsqlite = {:?}\n", site.path("dora.db"))));
}

#[test]
fn a_cycle_is_followed_from_a_server_into_the_log() {
    let Some(server) = server("trace") else { return };
    let database = new_database(server);
    let named = format!("database = {database:?}");
    let site = site(&|_| server.dora().replace("database = \"bitacora\"", &named));
    site.apply_schema();
    follows_a_cycle(&site);
}

#[test]
fn without_the_log_store_the_metrics_are_told_all_the_same() {
    let site = site(&|site| format!("[dora]\nsqlite = {:?}\n", site.path("dora.db")));
    let config = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(
        site.config(),
        config.replace("kind = \"sqlite\"\nbatch_age", "kind = \"null\"\nbatch_age"),
    )
    .unwrap();
    let words = words(
        "dora phase --cycle C7 --feature login --phase testing --decision go --duration 1 \
         --metadata request_id=r",
    );
    site.answers(&words, 0, "recorded");
    let output = site.run(&["dora", "trace", "C7", "--json"]);
    assert_eq!(output.status.code(), Some(69), "{}", told(&output));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&value["logs_asked"], value["phases"].as_array().unwrap().len()),
        (&json!(false), 1)
    );
}
