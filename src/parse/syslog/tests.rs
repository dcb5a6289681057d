//! Tests of syslog.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;

/// 2031-05-10T00:00:00Z
const NOW_MS: i64 = 1_936_137_600_000;
/// 2031-05-04T10:11:12Z
const SECOND: i64 = 1_935_655_872;

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    parsed: bool,
    time: Option<(i64, u32, u8)>,
    level: Level,
    message: String,
    fields: BTreeMap<String, String>,
}

impl Seen {
    fn get(&self, key: &str) -> Option<&str> {
        self.fields.get(key).map(String::as_str)
    }
}

fn read_at(text: &str, now_ms: i64) -> Seen {
    let mut record = Record::default();
    let parsed = parse(text.as_bytes(), &mut Clock::new(TimeZone::UTC, now_ms), &mut record);
    if !parsed {
        record.not_understood(text.as_bytes());
    }
    let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let fields: BTreeMap<_, _> =
        record.fields.iter().map(|field| (string(&field.key), string(&field.value))).collect();
    assert_eq!(fields.len(), record.fields.len(), "a key came twice");
    Seen {
        parsed,
        time: record.time.map(|time| (time.seconds, time.nanos, time.digits)),
        level: record.level,
        message: string(&record.message),
        fields,
    }
}

fn read(text: &str) -> Seen {
    read_at(text, NOW_MS)
}

/// Host, application, pid and message of a line without priority.
fn parts(rest: &str) -> [String; 4] {
    let seen = read(&format!("May  4 10:11:12 {rest}"));
    assert!(seen.parsed, "{rest}");
    let field = |key| seen.get(key).unwrap_or_default().to_owned();
    [field("hostname"), field("app_name"), field("procid"), seen.message.clone()]
}

#[test]
fn a_blank_or_a_tab_continues_and_all_else_begins() {
    assert_eq!(role(b" at pan.rs:7"), Role::Continues);
    assert_eq!(role(b"\tat pan.rs:7"), Role::Continues);
    assert_eq!(role(b"no header at all"), Role::Begins { thread: 0 });
}

#[test]
fn a_5424_line_gives_all_its_header_fields() {
    let seen = read(concat!(
        "<27>1 2031-05-04T12:11:12.0630+02:00 mill kneader 44 RISE ",
        "[dough@32473 kg=\"12\" note=\"a \\\"b\\\" \\\\ \\] \\n\"][oven@32473 door=\"\"] \u{feff}done [x y=\"z\"]"
    ));
    assert_eq!(seen.time, Some((SECOND, 63_000_000, 4)));
    assert_eq!(seen.level, Level::Error);
    assert_eq!(seen.message, "done [x y=\"z\"]");
    let expected = [
        ("facility", "daemon"),
        ("severity", "err"),
        ("version", "1"),
        ("hostname", "mill"),
        ("app_name", "kneader"),
        ("procid", "44"),
        ("msgid", "RISE"),
        ("sd.dough@32473.kg", "12"),
        ("sd.dough@32473.note", "a \"b\" \\ ] \\n"),
        ("sd.oven@32473.door", ""),
    ];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(seen.fields, BTreeMap::from(expected));
}

#[test]
fn a_5424_line_of_dashes_has_its_priority_and_version_only() {
    for end in ["", " "] {
        let seen = read(&format!("<0>212 - - - - - -{end}"));
        assert!(seen.parsed);
        assert_eq!((seen.time, seen.message.as_str()), (None, ""));
        assert_eq!(seen.fields.len(), 3);
        assert_eq!(seen.get("version"), Some("212"));
    }
}

#[test]
fn structured_data_may_have_blanks_empty_elements_and_repeated_names() {
    let seen =
        read("<14>1 - - - - - [empty][a b=  \"1\"  c=\"2\" ][a b=\"3\" b=\"]\"] two  blanks ");
    assert_eq!(seen.message, "two  blanks ");
    assert_eq!(seen.get("sd.a.b"), Some("1"));
    assert_eq!(seen.get("sd.a.c"), Some("2"));
    assert_eq!(seen.get("sd.a.b.2"), Some("3"));
    assert_eq!(seen.get("sd.a.b.3"), Some("]"));
    assert_eq!(seen.fields.len(), 7);
}

#[test]
fn a_5424_header_with_a_fault_is_not_understood() {
    for line in [
        "<14>1 yesterday h a p m - text",
        "<14>1 2031-02-30T10:11:12Z h a p m - text",
        "<14>1 2031-05-04T10:11:12Zulu h a p m - text",
        "<14>1 2031-05-04 10:11:12Z h a p m - text",
        "<14>1 - h a p m",
        "<14>1 - h a p m [open text",
        "<14>1 - h a p m [a b=\"1] text",
        "<14>1 - h a p m [a b=1] text",
        "<14>1 - h a p m [a b=\"1\"c=\"2\"] text",
        "<14>1 - h a p m [a b=\"1\"]text",
        "<14>1 - h a p m -text",
        "<14>1  - h a p m - text",
        "<14>1234 - h a p m - text",
    ] {
        let seen = read(line);
        assert!(!seen.parsed, "{line}");
        assert_eq!(seen.message, line);
    }
}

#[test]
fn a_priority_decides_facility_severity_and_level() {
    for (pri, facility, severity, level) in [
        (0, "kern", "emerg", Level::Critical),
        (9, "user", "alert", Level::Critical),
        (18, "mail", "crit", Level::Critical),
        (83, "authpriv", "err", Level::Error),
        (108, "security", "warning", Level::Warning),
        (117, "console", "notice", Level::Info),
        (126, "solaris-cron", "info", Level::Info),
        (191, "local7", "debug", Level::Debug),
    ] {
        for line in [format!("<{pri}>May  4 10:11:12 h a: m"), format!("<{pri}>1 - - - - - -")] {
            let seen = read(&line);
            assert_eq!(seen.get("facility"), Some(facility), "{line}");
            assert_eq!(seen.get("severity"), Some(severity), "{line}");
            assert_eq!(seen.level, level, "{line}");
        }
    }
}

#[test]
fn a_priority_over_191_is_kept_as_a_number() {
    let seen = read("<192>May  4 10:11:12 h a: m");
    assert_eq!(seen.get("pri"), Some("192"));
    assert_eq!((seen.get("facility"), seen.level), (None, Level::Info));
    assert!(!read("<1234>May  4 10:11:12 h a: m").parsed);
    assert!(!read("<>May  4 10:11:12 h a: m").parsed);
}

#[test]
fn times_come_with_or_without_year_fraction_and_colon() {
    for (time, expected) in [
        ("May  4 10:11:12", (SECOND, 0, 0)),
        ("May 4 10:11:12", (SECOND, 0, 0)),
        ("may 04 10:11:12.5", (SECOND, 500_000_000, 1)),
        ("MAY  4 2031 10:11:12:", (SECOND, 0, 0)),
        ("<13>  May  4 10:11:12:", (SECOND, 0, 0)),
        ("May 11 00:00:00", (SECOND + 568_128, 0, 0)),
        ("May 11 00:00:01", (SECOND + 568_129 - 365 * 86_400, 0, 0)),
        ("2031-05-04T10:11:12", (SECOND, 0, 0)),
        ("2031-05-04T10:11:12.345678Z", (SECOND, 345_678_000, 6)),
        ("2031-05-04T12:11:12+0200:", (SECOND, 0, 0)),
        ("<13> 2031-05-04T12:11:12+02:00", (SECOND, 0, 0)),
    ] {
        let seen = read(&format!("{time} faro app: m"));
        assert_eq!(seen.time, Some(expected), "{time}");
        assert_eq!((seen.get("hostname"), seen.get("app_name")), (Some("faro"), Some("app")));
        assert_eq!(seen.message, "m");
    }
}

#[test]
fn a_second_that_is_remembered_does_not_keep_another_lines_fraction() {
    let mut clock = Clock::new(TimeZone::UTC, NOW_MS);
    for (line, nanos) in [("May  4 10:11:12.25 a b", 250_000_000), ("May  4 10:11:12 a b", 0)] {
        let mut record = Record::default();
        assert!(parse(line.as_bytes(), &mut clock, &mut record));
        assert_eq!(record.time.map(|time| time.nanos), Some(nanos));
    }
}

#[test]
fn a_line_without_a_readable_time_is_not_understood() {
    for line in [
        "",
        "plain text",
        "<13>plain text",
        " May  4 10:11:12 h a: m",
        "May 32 10:11:12 h a: m",
        "Mai  4 10:11:12 h a: m",
        "May4 10:11:12 h a: m",
        "May  4 25:11:12 h a: m",
        "May  4 10:11:12x h a: m",
        "May  4 10:11:12:x h a: m",
        "2031-05-04 10:11:12 h a: m",
    ] {
        let seen = read(line);
        assert!(!seen.parsed, "{line}");
        assert_eq!(seen.message, line);
        assert!(seen.fields.is_empty());
    }
}

#[test]
fn tags_are_told_from_hosts_and_messages() {
    for (rest, expected) in [
        ("faro baker[71]: oven off", ["faro", "baker", "71", "oven off"]),
        ("faro baker[71]:oven off", ["faro", "baker", "71", "oven off"]),
        ("faro baker[main-2.1]: x", ["faro", "baker", "main-2.1", "x"]),
        ("faro baker[]: x", ["faro", "baker", "", "x"]),
        ("faro baker:  oven off", ["faro", "baker", "", "oven off"]),
        ("faro baker:", ["faro", "baker", "", ""]),
        ("faro cron(pam_unix)[7]: x", ["faro", "cron(pam_unix)", "7", "x"]),
        ("faro Bread::Dough: x", ["faro", "Bread::Dough", "", "x"]),
        ("faro Bread::Dough[3]: x", ["faro", "Bread::Dough", "3", "x"]),
        ("faro %OVEN-6-HOT: x", ["faro", "%OVEN-6-HOT", "", "x"]),
        ("faro night shift[12]: x: y", ["faro", "night shift", "12", "x: y"]),
        // The tag comes first: there is no host.
        ("baker[71]: oven off", ["", "baker", "71", "oven off"]),
        ("baker: oven off", ["", "baker", "", "oven off"]),
        // No tag.
        ("faro oven off", ["faro", "", "", "oven off"]),
        ("faro   two blanks", ["faro", "", "", "two blanks"]),
        ("faro baker:oven off", ["faro", "", "", "baker:oven off"]),
        ("faro baker[7] off", ["faro", "", "", "baker[7] off"]),
        ("faro baker[7 8]: off", ["faro", "", "", "baker[7 8]: off"]),
        ("faro Bread:: x", ["faro", "", "", "Bread:: x"]),
        ("faro night shift: x", ["faro", "", "", "night shift: x"]),
        ("faro night shift [12]: x", ["faro", "", "", "night shift [12]: x"]),
        ("faro night shift[ab]: x", ["faro", "", "", "night shift[ab]: x"]),
        ("faro [a b=\"c\"] x", ["faro", "", "", "[a b=\"c\"] x"]),
        ("fe80::7 baker: x", ["fe80::7", "baker", "", "x"]),
        ("::1 baker: x", ["::1", "baker", "", "x"]),
        ("faro last message repeated 3 times", ["faro", "", "", "last message repeated 3 times"]),
        ("--- said twice ---", ["", "", "", "--- said twice ---"]),
        ("faro", ["faro", "", "", ""]),
        ("", ["", "", "", ""]),
    ] {
        assert_eq!(parts(rest), expected, "{rest}");
    }
}

#[test]
fn continuation_lines_stay_as_they_are_in_the_message() {
    let seen = read("May  4 10:11:12 faro baker: panic\n\tat oven\n\n  at door");
    assert_eq!(seen.message, "panic\n\tat oven\n\n  at door");
    let seen = read("<14>1 - - - - - -\n more");
    assert_eq!(seen.message, "\n more");
    let seen = read("<14>1 - - - - - [a b=\"1\n 2\"] x");
    assert!(!seen.parsed, "a header ends with its line");
}

#[test]
fn a_line_cut_anywhere_keeps_its_text() {
    for line in [
        "<165>1 2031-05-04T10:11:12.003Z faro baker 71 OVEN [h@1 k=\"2\\\"10\" n=\"\"] ready",
        "<13>May  4 2031 10:11:12.5: faro night shift[71]: off :: --- [x]",
    ] {
        for end in 0..line.len() {
            let seen = read(&line[..end]);
            assert!(seen.parsed || seen.message == line[..end], "{end}");
        }
    }
}

/// Text that is full of what the grammars look for.
fn tricky() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(" "),
        Just(":"),
        Just("::"),
        Just("["),
        Just("]"),
        Just("]:"),
        Just("---"),
        Just("<13>"),
        Just("="),
        Just("\""),
        Just("\\"),
        Just("\n"),
        Just("\t"),
        Just("é"),
        Just("-"),
    ];
    let piece = prop_oneof![3 => piece.prop_map(str::to_owned), 2 => "[a-z0-9]{1,4}"];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), tail in tricky()) {
        let _ = read(&text);
        let _ = read(&tail);
        let _ = read(&format!("<1>1 - {tail}"));
        let _ = read(&format!("<1>1 - - - - - [{tail}"));
    }

    #[test]
    fn what_follows_a_bsd_time_is_in_the_fields_and_the_message(tail in tricky()) {
        let text = format!("<13>May  4 10:11:12 {tail}");
        let seen = read(&text);
        prop_assert!(seen.parsed);
        let kept = format!(
            "{}{}{}{}",
            seen.get("hostname").unwrap_or_default(),
            seen.get("app_name").unwrap_or_default(),
            seen.get("procid").unwrap_or_default(),
            seen.message,
        );
        // Only blanks and the punctuation of a tag may be missing.
        let word = |text: &str| {
            text.chars().filter(|c| !matches!(c, ' ' | ':' | '[' | ']')).collect::<String>()
        };
        prop_assert_eq!(word(&kept), word(&tail));
        prop_assert!(tail.ends_with(&seen.message));
    }

    #[test]
    fn structured_data_comes_back_as_it_was_written(
        elements in proptest::collection::vec(
            ("[a-c@.]{1,3}", proptest::collection::vec(("[a-c.]{1,2}", any::<String>()), 1..4)),
            1..4,
        ),
        message in any::<String>(),
    ) {
        let clean = |text: &str| text.replace('\n', " ");
        let mut text = "<13>1 - h a p m ".to_owned();
        let mut values = Vec::new();
        for (id, parameters) in &elements {
            text.extend(["[", id]);
            for (name, value) in parameters {
                let value = clean(value);
                let escaped =
                    value.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]");
                text.extend([" ", name, "=\"", &escaped, "\""]);
                values.push(value);
            }
            text += "]";
        }
        let message = clean(&message);
        let message = message.trim_start_matches('\u{feff}');
        text.extend([" ", message]);
        let seen = read(&text);
        prop_assert!(seen.parsed);
        prop_assert_eq!(&seen.message, message);
        let mut kept: Vec<_> = seen
            .fields
            .iter()
            .filter(|(key, _)| key.starts_with("sd."))
            .map(|(_, value)| value.clone())
            .collect();
        kept.sort();
        values.sort();
        prop_assert_eq!(kept, values);
    }
}
