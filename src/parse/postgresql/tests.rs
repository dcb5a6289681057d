//! Tests that all PostgreSQL formats share.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::parse::{Format, Parser as Compiled};

/// A record as owned text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub parsed: bool,
    pub time: Option<(i64, u32, u8)>,
    pub level: Level,
    pub message: String,
    pub fields: BTreeMap<String, String>,
}

impl Seen {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields.get(key).map(String::as_str)
    }

    /// Everything that is kept of the text.
    pub fn all(&self) -> String {
        let values: Vec<_> = self.fields.values().map(String::as_str).collect();
        format!("{}\n{}", self.message, values.join("\n"))
    }
}

pub(super) fn compiled(format: Format, options: &[(&str, &str)]) -> Compiled {
    let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Compiled::new(format, &options.collect()).unwrap()
}

pub(super) fn read(parser: &Compiled, text: &str) -> Seen {
    let mut clock = Clock::new(TimeZone::get("Europe/Madrid").unwrap(), 0);
    let mut record = Record::default();
    parser.parse(text.as_bytes(), &mut clock, &mut record);
    let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let fields: BTreeMap<_, _> =
        record.fields.iter().map(|field| (string(&field.key), string(&field.value))).collect();
    assert_eq!(fields.len(), record.fields.len(), "a key came twice");
    assert!(
        record.fields.iter().all(|field| !field.value.is_empty()),
        "an empty value has no key: {fields:?}"
    );
    Seen {
        parsed: record.parsed,
        time: record.time.map(|time| (time.seconds, time.nanos, time.digits)),
        level: record.level,
        message: string(&record.message),
        fields,
    }
}

#[test]
fn a_message_tells_its_duration_and_statement() {
    for (message, duration, statement) in [
        ("duration: 1.5 ms  statement: select 1", "1.5", "select 1"),
        ("duration: 12 ms", "12", ""),
        ("duration: 0.681 ms  plan:\n{", "0.681", ""),
        ("statement: select 1;\nselect 2", "", "select 1;\nselect 2"),
        ("statement: \nselect 1", "", "\nselect 1"),
        ("duration: 1 ms  parse <unnamed>: select $1", "1", "select $1"),
        ("duration: 1 ms  bind S_1/P_2: select $1", "1", "select $1"),
        ("execute S_1: update pan set a = 'b: c'", "", "update pan set a = 'b: c'"),
        ("execute fetch from C_3: fetch 10 from c", "", "fetch 10 from c"),
        ("execute fetch: select 1", "", "select 1"),
        // Not of the form.
        ("the duration: 1 ms", "", ""),
        ("duration: soon ms  statement: x", "", ""),
        ("parse error at: x", "", ""),
        ("execute : x", "", ""),
        ("execute S_1:x", "", ""),
        ("execute permission denied for: x", "", ""),
        ("disconnection: session time: 0:00:01.2", "", ""),
        ("", "", ""),
    ] {
        let (duration_at, statement_at) = message_facts(message.as_bytes());
        assert_eq!(&message[duration_at], duration, "{message}");
        assert_eq!(&message[statement_at], statement, "{message}");
    }
}

#[test]
fn a_severity_gives_the_level() {
    for (word, expected) in [
        ("DEBUG", Level::Debug),
        ("DEBUG1", Level::Debug),
        ("DEBUG5", Level::Debug),
        ("LOG", Level::Info),
        ("INFO", Level::Info),
        ("NOTICE", Level::Info),
        ("WARNING", Level::Warning),
        ("ERROR", Level::Error),
        ("FATAL", Level::Critical),
        ("PANIC", Level::Critical),
    ] {
        assert_eq!(level(word.as_bytes()), Some(expected));
    }
    for word in ["DEBUG6", "Log", "STATEMENT", ""] {
        assert_eq!(level(word.as_bytes()), None, "{word}");
    }
}

#[test]
fn a_time_is_read_in_its_zone() {
    let mut clock = Clock::new(TimeZone::get("Europe/Madrid").unwrap(), 0);
    let mut read = |text: &str| {
        read_time(text.as_bytes(), &mut clock).map(|time| (time.seconds, time.nanos, time.digits))
    };
    // 2031-05-04T10:11:12Z
    let second = 1_935_655_872;
    assert_eq!(read("2031-05-04 10:11:12 UTC"), Some((second, 0, 0)));
    assert_eq!(read("2031-05-04 10:11:12.340 UTC"), Some((second, 340_000_000, 3)));
    assert_eq!(read("2031-05-04 12:11:12.345 CEST"), Some((second, 345_000_000, 3)));
    assert_eq!(read("2031-05-04 12:11:12"), Some((second, 0, 0)));
    assert_eq!(read("2031-05-04 07:11:12 -03"), Some((second, 0, 0)));
    assert_eq!(read("2031-05-04 15:41:12 +0530"), Some((second, 0, 0)));
    assert_eq!(read("2031-05-04 05:11:12 EST"), Some((second, 0, 0)));
    assert_eq!(read("2031-05-04 12:11:12 NOWHR"), Some((second, 0, 0)));
    let long = format!("2031-05-04 12:11:12 {}", "X".repeat(60));
    assert_eq!(read(&long), None);
    assert_eq!(read("2031-02-29 10:11:12 UTC"), None);
    assert_eq!(read("2031-05-04T10:11:12 UTC"), None);
    assert_eq!(read("2031-05-04"), None);
}

proptest! {
    #[test]
    fn no_text_makes_any_of_the_formats_panic(text in any::<String>()) {
        for format in [Format::Postgresql, Format::PostgresqlCsvlog, Format::PostgresqlJsonlog] {
            let parser = compiled(format, &[]);
            let _ = parser.role(text.as_bytes(), &mut crate::parse::Framing::default());
            let seen = read(&parser, &text);
            prop_assert!(seen.parsed || seen.message == text);
        }
    }
}
