//! What must hold of every record, whatever its text is.

use std::collections::HashSet;
use std::sync::LazyLock;

use bitacora::parse::json::members;
use bitacora::parse::{Clock, Format, Framing, Parser, Role};
use bitacora::record::Record;
use bitacora::worker::Framer;
use jiff::tz::TimeZone;
use memchr::memmem::find;

/// Put into texts to see where it goes. Too long to be the abbreviation of a time zone: of those
/// an unknown one counts as the local zone and leaves no trace.
pub const WORD: &str = "zqxjkzqxjk";

/// The zone of all times without one. Its clocks change.
pub const ZONE: &str = "Europe/Madrid";
/// 2031-05-04.
pub const NOW_MS: i64 = 1_935_655_872_000;

/// A clock that has read nothing yet.
#[must_use]
pub fn clock() -> Clock {
    static MADRID: LazyLock<TimeZone> =
        LazyLock::new(|| TimeZone::get(ZONE).expect("the zones are part of the program"));
    Clock::new(MADRID.clone(), NOW_MS)
}

/// Parses by a clock that has read other texts, and checks what holds for every record.
pub fn parse<'a>(parser: &'a Parser, text: &'a str, used: &mut Clock) -> Record<'a> {
    let mut record = Record::default();
    parser.parse(text.as_bytes(), used, &mut record);
    let mut again = record.clone();
    parser.parse(text.as_bytes(), &mut clock(), &mut again);
    assert_eq!(record, again, "what was read before shows in {text:?}");
    let mut keys = HashSet::new();
    assert!(std::str::from_utf8(&record.message).is_ok(), "{text:?}");
    for field in &record.fields {
        assert!(keys.insert(&field.key), "{:?} comes twice in {text:?}", field.key);
        assert!(std::str::from_utf8(&field.key).is_ok(), "{text:?}");
        assert!(std::str::from_utf8(&field.value).is_ok(), "{text:?}");
    }
    if !record.parsed {
        assert_eq!(&*record.message, text.as_bytes());
        assert!(record.fields.is_empty() && record.time.is_none(), "{text:?}");
    }
    if let Some(time) = record.time {
        assert!(time.row_millis().is_some() && time.digits <= 9, "{time:?} of {text:?}");
    }
    record
}

/// Frames and parses a text of several lines, then the whole of it as one record.
pub fn parse_all(parser: &Parser, bytes: &[u8]) {
    let mut framing = Framing::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        let _ = parser.role(line, &mut framing);
    }
    let mut used = clock();
    let mut framer = Framer::new(parser, 1 << 20, |framed| {
        let text = String::from_utf8_lossy(framed.text);
        parse(parser, &text, &mut used).time.is_some()
    });
    framer.feed(bytes);
    framer.finish();
    parse(parser, &String::from_utf8_lossy(bytes), &mut clock());
}

/// Puts the word into the text and looks for it in the record.
pub fn loses_no_word(parser: &Parser, text: &str, place: usize) {
    let mut at = place % (text.len() + 1);
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let (before, after) = text.split_at(at);
    let longer = [before, WORD, after].concat();
    let record = parse(parser, &longer, &mut clock());
    let kept = holds(&record.message)
        || record.fields.iter().any(|field| holds(&field.key) || holds(&field.value));
    assert!(
        kept || excused(parser, &longer, at),
        "{}: the word is lost in {longer:?}: {record:?}",
        parser.format().name()
    );
}

fn holds(text: &[u8]) -> bool {
    find(text, WORD.as_bytes()).is_some()
}

/// Whether the contract lets the word at `at` go.
fn excused(parser: &Parser, text: &str, at: usize) -> bool {
    let (before, after) = (&text[..at], &text[at + WORD.len()..]);
    match parser.format() {
        Format::Json | Format::PostgresqlJsonlog => is_key_without_value(after),
        Format::Syslog => {
            // an element of structured data without parameters
            let id = before.rsplit('[').next().unwrap_or_default();
            let end = after.split(']').next().unwrap_or_default();
            ![id, end.trim_end()].concat().contains([' ', '='])
        }
        Format::Postgresql => {
            // the prefix of a secondary line, which repeats the one of the first
            let start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line = text[start..].split('\n').next().unwrap_or_default();
            let rest = after.split('\n').next().unwrap_or_default();
            let role = parser.role(line.as_bytes(), &mut Framing::default());
            start > 0
                && matches!(role, Role::Adds { .. })
                && ["DETAIL:", "HINT:", "QUERY:", "CONTEXT:", "STATEMENT:", "LOCATION:"]
                    .iter()
                    .any(|word| rest.contains(word))
        }
        _ => false,
    }
}

/// Whether `after` begins inside a key of JSON that has no text below it.
fn is_key_without_value(after: &str) -> bool {
    let mut escaped = false;
    let end = after.find(|char| {
        let ends = char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        ends
    });
    let json_blanks = [' ', '\t', '\n', '\r'];
    let value =
        end.and_then(|end| after[end + 1..].trim_start_matches(json_blanks).strip_prefix(':'));
    let Some(value) = value.map(|value| value.trim_start_matches(json_blanks)) else {
        return false;
    };
    if value.starts_with("null") || value.starts_with("\"\"") {
        return true;
    }
    // of a nested object: whatever stands before a closing bracket may be all of it
    value.starts_with('{')
        && value.match_indices('}').any(|(end, _)| {
            let mut empty = true;
            let whole = members(&value.as_bytes()[..=end], |_, value| {
                empty &= value.into_text().is_empty();
            });
            whole && empty
        })
}
