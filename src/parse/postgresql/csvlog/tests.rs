//! Tests of csvlog.

use proptest::prelude::*;

use super::super::tests::{Seen, compiled, read};
use crate::parse::{Format, Framing, Role};
use crate::record::Level;

fn read_csv(text: &str) -> Seen {
    read(&compiled(Format::PostgresqlCsvlog, &[]), text)
}

/// All columns of version 14 and later, each different.
const FULL: &str = concat!(
    r#"2031-05-04 12:11:12.345 CEST,"ana","pan",71,"192.0.2.7:5000",6ad1.47,3,"#,
    r#""SELECT",2031-05-04 12:00:00 CEST,2/9,12,ERROR,22012,"division ""by"" zero,"#,
    "\nnext line",
    r#"","a detail","a hint","select inner",5,"a context","select outer",7,"#,
    r#""int4div, int.c:870","psql","client backend",70,-99"#,
);

#[test]
fn every_column_has_its_key() {
    let seen = read_csv(FULL);
    assert!(seen.parsed);
    assert_eq!(seen.time, Some((1_935_655_872, 345_000_000, 3)));
    assert_eq!(seen.level, Level::Error);
    assert_eq!(seen.message, "division \"by\" zero,\nnext line");
    let expected = [
        ("application_name", "psql"),
        ("backend_type", "client backend"),
        ("command_tag", "SELECT"),
        ("context", "a context"),
        ("cursor_position", "7"),
        ("database", "pan"),
        ("detail", "a detail"),
        ("hint", "a hint"),
        ("internal_position", "5"),
        ("leader_pid", "70"),
        ("line_num", "3"),
        ("location", "int4div, int.c:870"),
        ("pid", "71"),
        ("query", "select inner"),
        ("query_id", "-99"),
        ("remote_host", "192.0.2.7"),
        ("remote_port", "5000"),
        ("session_id", "6ad1.47"),
        ("session_start", "2031-05-04 12:00:00 CEST"),
        ("severity", "ERROR"),
        ("sqlstate", "22012"),
        ("statement", "select outer"),
        ("user", "ana"),
        ("virtual_xid", "2/9"),
        ("xid", "12"),
    ];
    let seen: Vec<_> = seen.fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(seen, expected);
}

/// A row of the old 23 columns with this connection, message and query.
fn row(connection: &str, message: &str, query: &str) -> String {
    format!(
        "2031-05-04 12:11:12 CEST,\"[unknown]\",,71,{connection},6ad1.47,3,\"\",,,0,LOG,00000,\
         {message},,,,,,{query},,,\"\""
    )
}

#[test]
fn rows_of_all_versions_are_read() {
    let old = row("", "a", "");
    for more in ["", ",\"walwriter\"", ",,,0", ",\"walwriter\",,0,new,\"last\""] {
        let seen = read_csv(&format!("{old}{more}"));
        assert!(seen.parsed, "{more}");
        assert_eq!(seen.get("backend_type").is_some(), more.contains("wal"));
        assert_eq!(seen.get("query_id"), None);
        assert_eq!(seen.get("user"), None);
        assert_eq!(seen.get("column_28").is_some(), more.contains("last"));
    }
}

#[test]
fn a_connection_is_split_at_its_last_colon() {
    for (connection, host, port) in [
        ("\"faro.example:5000\"", Some("faro.example"), Some("5000")),
        ("\"fe80::7:5000\"", Some("fe80::7"), Some("5000")),
        ("\"[local]\"", Some("[local]"), None),
        ("\"a\"\"b:1\"", Some("a\"b"), Some("1")),
        ("\"faro:\"", Some("faro:"), None),
        ("", None, None),
    ] {
        let seen = read_csv(&row(connection, "a", ""));
        assert!(seen.parsed, "{connection}");
        assert_eq!((seen.get("remote_host"), seen.get("remote_port")), (host, port));
    }
}

#[test]
fn a_query_column_wins_over_the_statement_of_the_message() {
    let message = "\"duration: 1.5 ms  statement: select \"\"x\"\"\"";
    let seen = read_csv(&row("", message, ""));
    assert_eq!(seen.get("duration_ms"), Some("1.5"));
    assert_eq!(seen.get("statement"), Some("select \"x\""));
    assert_eq!(read_csv(&row("", message, "\"q\"")).get("statement"), Some("q"));
}

#[test]
fn what_is_no_row_is_not_understood() {
    for text in [
        "",
        "plain text",
        "2031-05-04 12:11:12 CEST,\"ana\"",
        "2031-02-30 12:11:12 CEST,,,,,,,,,,,,,,,,,,,,,,",
        ",,,,,,,,,,,,,,,,,,,,,,",
    ] {
        let seen = read_csv(text);
        assert!(!seen.parsed, "{text}");
        assert_eq!(seen.message, text);
    }
    for fault in ["\"a\"b", "a\"b", "\"a", "a\nb"] {
        assert!(!read_csv(&row("", fault, "")).parsed, "{fault}");
    }
    for end in 0..FULL.len() - r#","psql","client backend",70,-99"#.len() {
        assert!(!read_csv(&FULL[..end]).parsed, "{end}");
    }
}

#[test]
fn an_open_quote_keeps_a_record_open() {
    let parser = compiled(Format::PostgresqlCsvlog, &[]);
    let mut framing = Framing::default();
    let mut roles = |line: &str| {
        let role = parser.role(line.as_bytes(), &mut framing);
        (role, parser.complete(framing))
    };
    let begins = Role::Begins { thread: 0 };
    assert_eq!(roles("2031-05-04 12:11:12 CEST,\"a\"\"b\",\"open"), (begins, false));
    assert_eq!(roles("2031-05-04 12:11:13 CEST,\"\"quoted\"\" row"), (Role::Continues, false));
    assert_eq!(roles("end\",x"), (Role::Continues, true));
    assert_eq!(roles("2031-05-04 12:11:14 CEST,\"a\""), (begins, true));
    // The rest of a row whose beginning is gone must not turn the quotes round.
    assert_eq!(roles("tail of a row\",x"), (begins, true));
    assert_eq!(roles("2031-05-04 12:11:15 CEST,\"a\""), (begins, true));
}

proptest! {
    #[test]
    fn fields_come_back_as_they_were_written(
        message in any::<String>(),
        detail in any::<String>(),
        cut in 0_usize..200,
    ) {
        let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let head = "2031-05-04 12:11:12 CEST,,,,,,,,,,,LOG,00000";
        let text = format!("{head},{},{},,,,,,,,", quote(&message), quote(&detail));
        let seen = read_csv(&text);
        prop_assert!(seen.parsed);
        prop_assert_eq!(&seen.message, &message);
        prop_assert_eq!(seen.get("detail").unwrap_or_default(), &detail);
        // Cut short it is still a record that has all its text.
        if text.is_char_boundary(cut) && cut < text.len() {
            let seen = read_csv(&text[..cut]);
            prop_assert!(seen.parsed || seen.message == text[..cut]);
        }
    }
}
