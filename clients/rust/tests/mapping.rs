//! What a record becomes in the daemon's tables.

mod support;

use std::error::Error;
use std::fmt;

use support::{DEADLINE, Daemon, EVENTS, dispatch, messages, numbers};
use tracing::dispatcher::with_default;
use tracing::{error, info, info_span, warn};

const REQUEST: &str = "7c0d6f34-51cb-4f8a-8e0b-d3b0c8a4b1aa";

#[derive(Debug)]
struct Refused(std::io::Error);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the order was refused")
    }
}

impl Error for Refused {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn a_record_becomes_a_row_with_all_its_columns() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    let line = line!() + 5;
    with_default(&subscriber, || {
        error!(
            request_id = REQUEST,
            user_id = 7,
            session_id = "s-1",
            duration_ms = 12.5,
            traceback = "at shop::sell",
            customer = "ES",
            items = 3_u64,
            paid = true,
            share = 0.25,
            "sold {}",
            3
        );
    });
    assert!(guard.flush(DEADLINE));
    let rows = daemon.wait_for(1);
    let row = &rows[0];
    assert_eq!(row["level"], "ERROR");
    assert_eq!(row["message"], "sold 3");
    assert_eq!(row["source"], "app");
    assert_eq!(row["logger"], "mapping");
    assert_eq!(row["request_id"], REQUEST);
    assert_eq!(row["user_id"], 7);
    assert_eq!(row["session_id"], "s-1");
    assert_eq!(row["duration_ms"].to_string().trim_matches('"').parse(), Ok(12.5));
    assert_eq!(row["traceback"], "at shop::sell");
    let metadata = &row["metadata"];
    assert_eq!(metadata["customer"], "ES");
    assert_eq!(metadata["items"], "3");
    assert_eq!(metadata["paid"], "true");
    assert_eq!(metadata["share"], "0.25");
    assert_eq!(metadata["module"], "mapping");
    assert!(metadata["file"].as_str().unwrap().ends_with("tests/mapping.rs"), "{metadata}");
    let told: u32 = metadata["line"].as_str().unwrap().parse().unwrap();
    assert!(told.abs_diff(line) < 6, "{told}");
    assert_eq!(metadata["thread"], "a_record_becomes_a_row_with_all_its_columns");
    assert_eq!(metadata["process"], std::process::id().to_string());
    assert_eq!(metadata.get("spans"), None);
    let stats = guard.stats();
    assert_eq!((stats.sent, stats.acked, stats.dropped, stats.errors), (1, 1, 0, 0));
}

#[test]
fn what_an_event_lacks_comes_from_the_spans_around_it_innermost_first() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    with_default(&subscriber, || {
        let outer =
            info_span!("request", request_id = REQUEST, user_id = 1, route = "/a", tries = 1);
        let _outer = outer.enter();
        let empty = tracing::field::Empty;
        let inner = info_span!("load", user_id = 2, session_id = empty, tries = 2);
        inner.record("session_id", "s-2");
        let _inner = inner.enter();
        info!(duration_ms = 3, route = "own", "loaded");
        info!(user_id = 3, "again");
    });
    assert!(guard.flush(DEADLINE));
    let rows = daemon.wait_for(2);
    let row = rows.iter().find(|row| row["message"] == "loaded").unwrap();
    assert_eq!(row["request_id"], REQUEST);
    assert_eq!(row["user_id"], 2);
    assert_eq!(row["session_id"], "s-2");
    assert_eq!(row["metadata"]["spans"], "request:load");
    assert_eq!(row["metadata"]["route"], "own");
    assert_eq!(row["metadata"]["span.route"], "/a");
    assert_eq!(row["metadata"]["span.tries"], "2");
    assert_eq!(row["metadata"].get("span.user_id"), None);
    assert_eq!(rows.iter().find(|row| row["message"] == "again").unwrap()["user_id"], 3);
}

#[test]
fn records_go_to_the_source_of_their_layer_and_keep_level_and_target() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder().source("shop"));
    with_default(&subscriber, || warn!(target: "shop::cart", source = "own", level = 9, "low"));
    assert!(guard.flush(DEADLINE));
    let rows = daemon.wait_for_in(1, &["--source", "shop"]);
    assert_eq!(rows[0]["level"], "WARNING");
    assert_eq!(rows[0]["logger"], "shop::cart");
    assert_eq!(rows[0]["metadata"]["extra_source"], "own");
    assert_eq!(rows[0]["metadata"]["extra_level"], "9");
}

#[test]
fn an_event_type_makes_a_user_event_over_the_same_connection() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder().source("shop"));
    let user = "0190b6a2-4f0e-7cc1-9b1e-2f6a1c9d3e55";
    with_default(&subscriber, || {
        let span = info_span!("request", request_id = "r-1", session_id = "s-1");
        let _inside = span.enter();
        info!(
            event_type = "login",
            user_id = user,
            ip_address = "10.1.2.3",
            user_agent = "t/1",
            method = "password",
            level = 4,
            source = "app store",
            "came in"
        );
        info!(event_type = 5, "no event");
    });
    assert!(guard.flush(DEADLINE));
    let rows = daemon.wait_for_in(1, EVENTS);
    let row = &rows[0];
    assert_eq!(row["event_type"], "login");
    assert_eq!(row["user_id"], user);
    assert_eq!(row["session_id"], "s-1");
    assert_eq!(row["ip_address"], "10.1.2.3");
    assert_eq!(row["user_agent"], "t/1");
    let data = &row["event_data"];
    assert_eq!(data["method"], "password");
    assert_eq!(data["message"], "came in");
    assert_eq!(data["request_id"], "r-1");
    assert_eq!(data["extra_level"], "4");
    assert_eq!(data["extra_source"], "app store");
    assert_eq!(guard.stats().errors, 0);
    let rows = daemon.wait_for_in(1, &["--source", "shop"]);
    assert_eq!(rows[0]["metadata"]["extra_event_type"], "5");
}

#[test]
fn an_error_is_told_with_its_causes_and_displayed_ids_are_numbers() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    let refused = Refused(std::io::Error::other("no money"));
    with_default(&subscriber, || {
        let error: &(dyn Error + 'static) = &refused;
        error!(error, user_id = %7, "failed");
    });
    assert!(guard.flush(DEADLINE));
    let rows = daemon.wait_for(1);
    assert_eq!(rows[0]["metadata"]["error"], "the order was refused: no money");
    assert_eq!(rows[0]["user_id"], 7);
}

#[test]
fn values_that_json_lacks_arrive_as_text() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    with_default(&subscriber, || {
        info!(
            nan = f64::NAN, endless = f64::NEG_INFINITY, large = u128::MAX, some = ?Some(1),
            duration_ms = f64::INFINITY, user_id = "no number",
            "odd \u{2028} line\nbreak \u{1b}[0m"
        );
    });
    assert!(guard.flush(DEADLINE));
    let rows = daemon.wait_for(1);
    assert_eq!(rows[0]["message"], "odd \u{2028} line\nbreak \u{1b}[0m");
    let metadata = &rows[0]["metadata"];
    assert_eq!(metadata["nan"], "nan");
    assert_eq!(metadata["endless"], "-inf");
    assert_eq!(metadata["large"], u128::MAX.to_string());
    assert_eq!(metadata["some"], "Some(1)");
    assert_eq!(metadata["duration_ms"], "inf");
    assert_eq!(metadata["user_id"], "no number");
    assert_eq!(guard.stats().errors, 0);
}

#[test]
fn a_message_of_a_million_characters_arrives_cut_and_understood() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    with_default(&subscriber, || {
        info!(order = 7, "{}", "x".repeat(1_000_000));
        info!("number 0");
    });
    assert!(guard.flush(DEADLINE));
    let rows = daemon.wait_for(2);
    let long = rows.iter().find(|row| row["metadata"]["order"] == "7").unwrap();
    assert!(long["message"].as_str().unwrap().len() > 200_000);
    assert_eq!(long["metadata"]["cut"], "message: 1000000 characters");
    assert_eq!(long["metadata"].get("unparsed"), None);
    assert_eq!(messages(&rows, "number"), numbers(1));
    assert_eq!(guard.stats().errors, 0);
}

#[test]
fn records_of_the_crate_log_keep_their_place() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    with_default(&subscriber, || {
        // As tracing-log makes them.
        info!(
            target: "log",
            {
                log.target = "hyper::proto",
                log.module_path = "hyper::proto::h1",
                log.file = "conn.rs",
                log.line = 9
            },
            "incomplete"
        );
    });
    assert!(guard.flush(DEADLINE));
    let rows = daemon.wait_for(1);
    assert_eq!(rows[0]["logger"], "hyper::proto");
    assert_eq!(rows[0]["metadata"]["file"], "conn.rs");
    assert_eq!(rows[0]["metadata"]["line"], "9");
    assert_eq!(rows[0]["metadata"]["module"], "hyper::proto::h1");
    assert_eq!(rows[0]["metadata"].get("log.target"), None);
}

struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Err(fmt::Error)
    }
}

#[test]
fn formatting_that_fails_costs_no_record() {
    let Some(daemon) = Daemon::running() else { return };
    let (subscriber, guard) = dispatch(daemon.builder());
    with_default(&subscriber, || {
        info!(broken = %Broken, "number 0");
    });
    assert!(guard.flush(DEADLINE));
    let rows = daemon.wait_for(1);
    assert_eq!(rows[0]["message"], "number 0");
    assert_eq!(rows[0]["metadata"]["format_error"], "broken: its formatting returned an error");
    let stats = guard.stats();
    assert_eq!((stats.errors, stats.acked), (1, 1), "{stats:?}");
}
