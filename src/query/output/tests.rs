//! Looks of rows, one by one.

use super::*;
use crate::query::tests::row;

fn printed(look: Look, row: &StoredRow, terminal: bool) -> String {
    let style = Style { look, zone: TimeZone::UTC, colour: false, terminal };
    let mut out = Vec::new();
    Printer::new(style, None).row(&mut out, row).unwrap();
    String::from_utf8(out).unwrap()
}

/// 2026-11-22 12:03:52.250 UTC.
const NOW: i64 = 1_795_349_032_250;

#[test]
fn a_json_row_has_the_columns_of_the_manual_in_order() {
    let mut row = row(NOW, "GET /pan HTTP/1.1");
    row.metadata = r#"{"status":"200","tags":["a"]}"#.into();
    row.further = vec![("request_id", "r".into()), ("user_id", "7".into())];
    let expected = concat!(
        r#"{"timestamp":"2026-11-22T12:03:52.250Z","source":"nginx/access","level":"INFO","#,
        r#""message":"GET /pan HTTP/1.1","metadata":{"status":"200","tags":["a"]},"#,
        r#""host":"web1","request_id":"r","user_id":7,"origin":1,"offset_bytes":1795349032250}"#,
        "\n"
    );
    assert_eq!(printed(Look::Json, &row, false), expected);
    row.metadata = String::new();
    assert!(printed(Look::Json, &row, false).contains(r#""metadata":{},"#));
    row.key.timestamp_ms = 0;
    assert!(printed(Look::Json, &row, false).contains("1970-01-01T00:00:00.000Z"));
}

#[test]
fn a_user_event_has_the_columns_of_its_table() {
    let mut row = row(NOW, "sale");
    row.table = crate::key::Table::Events;
    (row.source, row.host) = ("user_events".into(), String::new());
    row.metadata = r#"{"bread":"2"}"#.into();
    row.further = vec![("user_id", "u".into()), ("ip_address", "192.0.2.7".into())];
    row.key.offset_bytes = 7;
    let expected = concat!(
        r#"{"user_id":"u","event_timestamp":"2026-11-22T12:03:52.250Z","#,
        r#""event_id":"00000000-0000-8000-8800-000000000007","event_type":"sale","#,
        r#""event_data":{"bread":"2"},"ip_address":"192.0.2.7","origin":1,"offset_bytes":7}"#,
        "\n"
    );
    assert_eq!(printed(Look::Json, &row, false), expected);
    assert_eq!(printed(Look::Short, &row, true), "Nov 22 12:03:52 u: sale {\"bread\":\"2\"}\n");
    assert_eq!(
        printed(Look::Csv, &row, false),
        "user_id,event_timestamp,event_id,event_type,event_data,session_id,ip_address,user_agent,\
         origin,offset_bytes\nu,2026-11-22T12:03:52.250Z,00000000-0000-8000-8800-000000000007,sale,\
         \"{\"\"bread\"\":\"\"2\"\"}\",,192.0.2.7,,1,7\n"
    );
    assert!(printed(Look::Verbose, &row, false).contains("event_data.bread=2"));
}

#[test]
fn an_access_log_shows_who_asked_and_what_was_answered() {
    let mut row = row(NOW, "GET /pan HTTP/1.1");
    row.metadata = r#"{"remote_addr":"192.0.2.4","status":"502","body_bytes_sent":"7"}"#.into();
    row.level = Level::Error;
    let expected =
        "Nov 22 12:03:52 web1 nginx/access ERROR: 192.0.2.4 \"GET /pan HTTP/1.1\" 502 7\n";
    assert_eq!(printed(Look::Short, &row, true), expected);
}

#[test]
fn a_syslog_line_shows_its_program() {
    let mut row = row(NOW, "pan listo");
    for (metadata, said) in [
        (r#"{"app_name":"panadero","procid":"71"}"#, "panadero[71]: pan listo"),
        (r#"{"app_name":"panadero"}"#, "panadero: pan listo"),
        (r#"{"procid":"71"}"#, "pan listo"),
    ] {
        row.metadata = metadata.into();
        let expected = format!("Nov 22 12:03:52 web1 nginx/access: {said}\n");
        assert_eq!(printed(Look::Short, &row, true), expected);
    }
}

#[test]
fn further_lines_of_a_message_stand_under_the_first() {
    let row = row(NOW, "select 1\nfrom hornos");
    let expected = "2026-11-22T12:03:52.250+00:00 web1 nginx/access: select 1\n    from hornos\n";
    assert_eq!(printed(Look::ShortIso, &row, false), expected);
}

#[test]
fn no_look_for_people_lets_a_row_steer_the_terminal() {
    let mut row = row(NOW, "\u{1b}]0;owned\u{7}\u{9b}2J");
    row.host = "\u{1b}[31m".into();
    row.source = "\u{1b}c".into();
    row.metadata = r#"{"k\u001b":"\u001b[1m"}"#.into();
    for (word, look) in Look::ALL {
        if look == Look::Csv {
            continue;
        }
        let text = printed(look, &row, true);
        let obeyed = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(obeyed), "{word}: {text:?}");
    }
}

#[test]
fn csv_quotes_what_must_be_quoted_and_names_its_columns_once() {
    let style = Style { look: Look::Csv, zone: TimeZone::UTC, colour: false, terminal: false };
    let mut printer = Printer::new(style, None);
    let mut out = Vec::new();
    for _ in 0..2 {
        printer.row(&mut out, &row(NOW, "a \"b\", c")).unwrap();
    }
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("timestamp,source,level,message,metadata,host,logger,"));
    assert!(lines[1].contains(",INFO,\"a \"\"b\"\", c\",{},web1,"), "{}", lines[1]);
    assert_eq!(lines[0].matches(',').count(), 13);
}
