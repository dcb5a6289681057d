//! Tests of jsonlog.

use proptest::prelude::*;

use super::super::tests::{Seen, compiled, read};
use crate::parse::Format;
use crate::record::Level;

fn read_json(text: &str) -> Seen {
    read(&compiled(Format::PostgresqlJsonlog, &[]), text)
}

#[test]
fn every_name_of_the_manual_has_its_key() {
    let seen = read_json(concat!(
        r#"{"timestamp":"2031-05-04 12:11:12.345 CEST","user":"ana","dbname":"pan","pid":71,"#,
        r#""remote_host":"192.0.2.7","remote_port":5000,"session_id":"6ad1.47","line_num":3,"#,
        r#""ps":"SELECT","session_start":"2031-05-04 12:00:00 CEST","vxid":"2/9","txid":12,"#,
        r#""error_severity":"PANIC","state_code":"22012","message":"division \"by\"\nzero","#,
        r#""detail":"d","hint":"h","internal_query":"select inner","internal_position":5,"#,
        r#""context":"c","statement":"select outer","cursor_position":7,"func_name":"int4div","#,
        r#""file_name":"int.c","file_line_num":870,"application_name":"psql","#,
        r#""backend_type":"client backend","leader_pid":70,"query_id":-99}"#,
    ));
    assert!(seen.parsed);
    assert_eq!(seen.time, Some((1_935_655_872, 345_000_000, 3)));
    assert_eq!(seen.level, Level::Critical);
    assert_eq!(seen.message, "division \"by\"\nzero");
    let expected = [
        ("application_name", "psql"),
        ("backend_type", "client backend"),
        ("command_tag", "SELECT"),
        ("context", "c"),
        ("cursor_position", "7"),
        ("database", "pan"),
        ("detail", "d"),
        ("file_line_num", "870"),
        ("file_name", "int.c"),
        ("func_name", "int4div"),
        ("hint", "h"),
        ("internal_position", "5"),
        ("leader_pid", "70"),
        ("line_num", "3"),
        ("pid", "71"),
        ("query", "select inner"),
        ("query_id", "-99"),
        ("remote_host", "192.0.2.7"),
        ("remote_port", "5000"),
        ("session_id", "6ad1.47"),
        ("session_start", "2031-05-04 12:00:00 CEST"),
        ("severity", "PANIC"),
        ("sqlstate", "22012"),
        ("statement", "select outer"),
        ("user", "ana"),
        ("virtual_xid", "2/9"),
        ("xid", "12"),
    ];
    let seen: Vec<_> = seen.fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(seen, expected);
}

#[test]
fn placeholders_zeros_and_nothing_have_no_key() {
    let seen = read_json(
        r#"{"user":"[unknown]","dbname":"","txid":0,"query_id":0,"hint":null,"detail":"[unknown]"}"#,
    );
    assert!(seen.parsed);
    assert_eq!((seen.time, seen.level, seen.message.as_str()), (None, Level::Info, ""));
    assert_eq!(seen.all(), "\n[unknown]");
    assert_eq!(seen.get("detail"), Some("[unknown]"));
}

#[test]
fn a_message_tells_its_duration_and_statement_unless_there_is_one() {
    let seen = read_json(r#"{"message":"duration: 1.5 ms  statement: select \"x\""}"#);
    assert_eq!(seen.get("duration_ms"), Some("1.5"));
    assert_eq!(seen.get("statement"), Some("select \"x\""));
    let seen = read_json(r#"{"message":"statement: a","statement":"b"}"#);
    assert_eq!(seen.get("statement"), Some("b"));
}

#[test]
fn what_has_no_place_of_its_own_is_kept() {
    let seen = read_json(
        r#"{"timestamp":"soon","message":"a","message":"b","pid":1,"pid":2,"error_severity":"FEHLER"}"#,
    );
    assert_eq!((seen.message.as_str(), seen.level), ("a", Level::Info));
    assert_eq!(seen.get("timestamp"), Some("soon"));
    assert_eq!(seen.get("message"), Some("b"));
    assert_eq!((seen.get("pid"), seen.get("pid.2")), (Some("1"), Some("2")));
    assert_eq!(seen.get("severity"), Some("FEHLER"));
}

#[test]
fn what_is_no_object_is_not_understood() {
    for text in ["", "plain", "[1]", "3", r#"{"message":"a""#, r#"{"message":"a"} b"#] {
        let seen = read_json(text);
        assert!(!seen.parsed, "{text}");
        assert_eq!(seen.message, text);
    }
}

proptest! {
    #[test]
    fn texts_come_back_as_they_were_written(message in any::<String>(), hint in any::<String>()) {
        let text = serde_json::json!({"message": message, "hint": hint}).to_string();
        let seen = read_json(&text);
        prop_assert!(seen.parsed);
        prop_assert_eq!(&seen.message, &message);
        prop_assert_eq!(seen.get("hint").unwrap_or_default(), &hint);
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            let cut = read_json(&text[..end]);
            prop_assert!(!cut.parsed);
            prop_assert_eq!(&cut.message, &text[..end]);
        }
    }
}
