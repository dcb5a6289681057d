//! Tests of the stderr format.

use proptest::prelude::*;

use super::super::tests::{Seen, compiled, read};
use crate::parse::{Format, Framing, Parser, Role};
use crate::record::Level;

const TIME: &str = "2031-05-04 12:11:12.345 CEST";
/// [`TIME`] in UTC.
const SECOND: i64 = 1_935_655_872;

fn with_prefix(prefix: &str) -> Parser {
    compiled(Format::Postgresql, &[("log_line_prefix", prefix)])
}

fn read_with(prefix: &str, text: &str) -> Seen {
    read(&with_prefix(prefix), text)
}

fn role(parser: &Parser, line: &str) -> Role {
    parser.role(line.as_bytes(), &mut Framing::default())
}

#[test]
fn the_default_prefix_is_that_of_the_server() {
    let seen = read(&compiled(Format::Postgresql, &[]), &format!("{TIME} [71] FATAL:  no oven"));
    assert!(seen.parsed);
    assert_eq!(seen.time, Some((SECOND, 345_000_000, 3)));
    assert_eq!(seen.level, Level::Critical);
    assert_eq!(seen.message, "no oven");
    assert_eq!((seen.get("pid"), seen.get("severity")), (Some("71"), Some("FATAL")));
    assert_eq!(seen.fields.len(), 2);
}

#[test]
fn lines_are_framed_by_the_pid_of_their_prefix() {
    let parser = with_prefix("%m [%p] %q%u@%d ");
    let line = |rest: &str| role(&parser, &format!("{TIME} {rest}"));
    assert_eq!(line("[71] LOG:  a"), Role::Begins { thread: 71 });
    assert_eq!(line("[72] ana@pan ERROR:  a"), Role::Begins { thread: 72 });
    for word in ["DETAIL", "HINT", "QUERY", "CONTEXT", "STATEMENT", "LOCATION"] {
        assert_eq!(line(&format!("[72] ana@pan {word}:  a")), Role::Adds { thread: 72 });
    }
    assert_eq!(line("[72] ana@pan and more"), Role::Continues);
    assert_eq!(role(&parser, "\tfrom ovens"), Role::Continues);
    let without_pid = with_prefix("%u ");
    assert_eq!(role(&without_pid, "ana LOG:  a"), Role::Begins { thread: 0 });
    assert_eq!(role(&without_pid, "ana HINT:  a"), Role::Adds { thread: 0 });
}

#[test]
fn secondary_lines_become_fields_and_lose_one_tab_a_line() {
    let text = [
        "71 ERROR:  no such oven",
        "\tat all",
        "\t\tnowhere",
        "71 DETAIL:  It is gone.",
        "71 HINT:  Buy one.",
        "plain",
        "71 QUERY:  select 2",
        "71 CONTEXT:  while baking",
        "71 LOCATION:  bake, oven.c:7",
        "71 STATEMENT:    select bread",
        "\tfrom ovens",
        "",
        "\twhere hot",
    ];
    let seen = read_with("%p ", &text.join("\n"));
    assert_eq!(seen.message, "no such oven\nat all\n\tnowhere");
    assert_eq!(seen.get("detail"), Some("It is gone."));
    assert_eq!(seen.get("hint"), Some("Buy one.\nplain"));
    assert_eq!(seen.get("query"), Some("select 2"));
    assert_eq!(seen.get("context"), Some("while baking"));
    assert_eq!(seen.get("location"), Some("bake, oven.c:7"));
    assert_eq!(seen.get("statement"), Some("  select bread\nfrom ovens\n\nwhere hot"));
}

#[test]
fn a_word_that_comes_twice_keeps_both_texts() {
    let seen = read_with("%p ", "71 ERROR:  a\n71 CONTEXT:  b\n71 HINT:  c\n71 CONTEXT:  d\n\te");
    assert_eq!(seen.get("context"), Some("b\nd\ne"));
    assert_eq!(seen.get("hint"), Some("c"));
}

#[test]
fn a_statement_line_wins_over_the_statement_of_the_message() {
    let logged = "71 LOG:  duration: 1.50 ms  execute S_1: select $1\n\tfrom b";
    let seen = read_with("%p ", logged);
    assert_eq!(seen.message, "duration: 1.50 ms  execute S_1: select $1\nfrom b");
    assert_eq!(seen.get("duration_ms"), Some("1.50"));
    assert_eq!(seen.get("statement"), Some("select $1\nfrom b"));
    let seen = read_with("%p ", &format!("{logged}\n71 STATEMENT:  select 2"));
    assert_eq!(seen.get("duration_ms"), Some("1.50"));
    assert_eq!(seen.get("statement"), Some("select 2"));
}

#[test]
fn a_verbose_server_tells_the_code_before_the_message() {
    let parser = compiled(
        Format::Postgresql,
        &[("log_line_prefix", "%p "), ("log_error_verbosity", "VERBOSE")],
    );
    let seen = read(&parser, "71 LOG:  00000: duration: 2 ms  statement: select 1\n\t, 2");
    assert_eq!(seen.message, "duration: 2 ms  statement: select 1\n, 2");
    assert_eq!(seen.get("sqlstate"), Some("00000"));
    assert_eq!(seen.get("statement"), Some("select 1\n, 2"));
    let seen = read(&parser, "71 LOG:  not a code: x");
    assert_eq!((seen.message.as_str(), seen.get("sqlstate")), ("not a code: x", None));
    let seen = read_with("%p ", "71 LOG:  22012: x");
    assert_eq!((seen.message.as_str(), seen.get("sqlstate")), ("22012: x", None));
}

#[test]
fn placeholders_and_zeros_have_no_key() {
    let seen = read_with(
        "%p u=%u d=%d a=%a h=%h x=%x q=%Q L=%L ",
        "71 u=[unknown] d=[unknown] a=[unknown] h=[local] x=0 q=0 L=[none] LOG:  a",
    );
    assert!(seen.parsed);
    assert_eq!(seen.get("remote_host"), Some("[local]"));
    assert_eq!(seen.fields.len(), 3, "{:?}", seen.fields);
    let seen = read_with("%x %Q ", "12 -5 LOG:  a");
    assert_eq!((seen.get("xid"), seen.get("query_id")), (Some("12"), Some("-5")));
}

#[test]
fn a_host_with_its_port_is_split() {
    for (value, host, port) in [
        ("192.0.2.7(5000)", Some("192.0.2.7"), Some("5000")),
        ("fe80::7(5000)", Some("fe80::7"), Some("5000")),
        ("[local]", Some("[local]"), None),
        ("", None, None),
    ] {
        let seen = read_with("%r|%h ", &format!("{value}| LOG:  a"));
        assert!(seen.parsed, "{value}");
        assert_eq!((seen.get("remote_host"), seen.get("remote_port")), (host, port));
    }
}

#[test]
fn seconds_since_1970_are_a_time() {
    for (text, expected) in
        [("1935655872.345", (SECOND, 345_000_000, 3)), ("1935655872.0000000019", (SECOND, 1, 9))]
    {
        assert_eq!(read_with("%n ", &format!("{text} LOG:  a")).time, Some(expected));
    }
    let impossible = "19356558721.5 LOG:  a";
    let seen = read_with("%n ", impossible);
    assert_eq!((seen.time, seen.parsed, seen.message.as_str()), (None, false, impossible));
    // The first of several counts.
    let seen = read_with("%n %m ", "5.5 2031-05-04 12:11:12.345 CEST LOG:  a");
    assert_eq!(seen.time, Some((5, 500_000_000, 1)));
    let seen = read_with("%s %p ", "2031-05-04 12:11:12 CEST 71 LOG:  a");
    assert_eq!((seen.time, seen.get("session_start")), (None, Some("2031-05-04 12:11:12 CEST")));
}

#[test]
fn lines_before_the_first_beginning_are_not_understood() {
    for text in ["\tfrom ovens", "71 DETAIL:  a", "pg_ctl: could not start", "x\n71 LOG:  a"] {
        let seen = read_with("%p ", text);
        assert!(!seen.parsed, "{text}");
        assert_eq!(seen.message, text);
    }
    let impossible = "2031-02-30 12:11:12 CEST LOG:  a";
    assert_eq!(read_with("%t ", impossible).message, impossible);
}

#[test]
fn an_option_that_is_no_setting_is_refused() {
    let options = [("log_error_verbosity".to_owned(), "loud".to_owned())].into();
    let error = Parser::new(Format::Postgresql, &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "option log_error_verbosity: \"loud\" is none of terse, default, verbose"
    );
}

#[test]
fn a_record_cut_anywhere_keeps_its_text() {
    let text = "71 ana LOG:  duration: 1 ms  statement: é\n\tb\n71 ana STATEMENT:  c\nd";
    let parser = with_prefix("%p %u ");
    for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
        let seen = read(&parser, &text[..end]);
        let kept = seen.all();
        for word in text[..end].split([' ', '\n', '\t', ':']) {
            assert!(kept.contains(word) || word == "STATEMENT", "{end}: {word:?} in {kept:?}");
        }
    }
}

proptest! {
    #[test]
    fn all_lines_of_a_record_are_kept(
        message in "[ -~]{0,30}",
        lines in proptest::collection::vec((0..3_u8, "[ -9;-~\t]{0,30}"), 0..8),
    ) {
        let mut text = format!("71 LOG:  {message}");
        for (kind, line) in &lines {
            let head = match kind {
                0 => "\t",
                1 => "71 DETAIL:  ",
                _ => "71 STATEMENT:  ",
            };
            text.extend(["\n", head, line]);
        }
        let seen = read_with("%p ", &text);
        prop_assert!(seen.parsed);
        let all = seen.all();
        prop_assert!(all.contains(&message));
        for (_, line) in &lines {
            prop_assert!(all.contains(line), "{:?} in {:?}", line, all);
        }
    }
}
