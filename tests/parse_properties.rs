//! What holds for every format and every text: no panic, unique keys, UTF-8, and no text lost.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use bitacora::parse::{Clock, Format, Framing, Parser};
use bitacora::record::Record;
use bitacora::worker::Framer;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use proptest::sample::Index;

/// A word that no case has.
const WORD: &str = "zqxjk";
const NOW_MS: i64 = 1_935_655_872_000;

/// A parser and the texts that it must understand: all records of its cases with those options.
struct Known {
    parser: Parser,
    texts: Vec<String>,
}

/// The records of all cases of `tests/data`.
fn known() -> Vec<Known> {
    let mut all = Vec::new();
    for format in Format::ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format.name());
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        for log in paths.filter(|path| path.extension().is_some_and(|end| end == "log")) {
            let args = fs::read_to_string(log.with_extension("args")).unwrap_or_default();
            let options = args.lines().filter_map(|line| line.strip_prefix("--option="));
            let options = options.filter_map(|option| option.split_once('='));
            let options: BTreeMap<_, _> =
                options.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            let parser = Parser::new(format, &options).unwrap();
            let mut texts = Vec::new();
            let mut framer = Framer::new(&parser, 1 << 20, |framed| {
                texts.push(String::from_utf8_lossy(framed.text).into_owned());
                true
            });
            framer.feed(&fs::read(&log).unwrap());
            framer.finish();
            all.push(Known { parser, texts });
        }
    }
    assert!(all.iter().map(|known| known.texts.len()).sum::<usize>() > 100);
    all
}

fn clock() -> Clock {
    Clock::new(TimeZone::UTC, NOW_MS)
}

/// Parses and checks what holds for every record.
fn parse<'a>(parser: &'a Parser, text: &'a str) -> Record<'a> {
    let mut record = Record::default();
    parser.parse(text.as_bytes(), &mut clock(), &mut record);
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
    record
}

/// Frames and parses a text of several lines.
fn parse_all(parser: &Parser, text: &[u8]) {
    let mut framing = Framing::default();
    for line in text.split(|byte| *byte == b'\n') {
        let _ = parser.role(line, &mut framing);
    }
    let mut framer = Framer::new(parser, 1 << 20, |framed| {
        let text = String::from_utf8_lossy(framed.text);
        parse(parser, &text).time.is_some()
    });
    framer.feed(text);
    framer.finish();
}

fn holds(text: &[u8], word: &str) -> bool {
    memchr::memmem::find(text, word.as_bytes()).is_some()
}

/// Whether the contract lets the text at `at` go: a key of JSON without a value, an element of
/// structured data without parameters, the prefix of a secondary line, which repeats the first.
fn excused(format: Format, text: &str, at: usize) -> bool {
    let (before, after) = text.split_at(at);
    match format {
        Format::Json | Format::PostgresqlJsonlog => {
            let value = after.split_once("\":").map(|(_, value)| value).unwrap_or_default();
            value.starts_with("null") || value.starts_with("\"\"")
        }
        Format::Syslog => {
            let id = before.rsplit('[').next().unwrap_or_default();
            let end = after.split(']').next().unwrap_or_default();
            ![id, end].concat().contains([' ', '='])
        }
        Format::Postgresql => {
            let rest = after.split('\n').next().unwrap_or_default();
            let secondary = ["DETAIL", "HINT", "QUERY", "CONTEXT", "STATEMENT", "LOCATION"]
                .iter()
                .any(|word| rest.contains(&format!("{word}:  ")));
            before.contains('\n') && secondary
        }
        _ => false,
    }
}

#[test]
fn a_word_put_anywhere_into_a_record_is_never_lost() {
    let mut lost = Vec::new();
    for Known { parser, texts } in known() {
        for text in texts {
            for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
                let longer = [&text[..at], WORD, &text[at..]].concat();
                let record = parse(&parser, &longer);
                let kept = holds(&record.message, WORD)
                    || record
                        .fields
                        .iter()
                        .any(|field| holds(&field.key, WORD) || holds(&field.value, WORD));
                if !kept && !excused(parser.format(), &text, at) {
                    lost.push(format!("{}: {longer:?}", parser.format().name()));
                }
            }
        }
    }
    assert!(lost.is_empty(), "{} times:\n{}", lost.len(), lost.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for Known { parser, .. } in &known() {
            parse_all(parser, &bytes);
        }
    }

    #[test]
    fn no_damage_to_a_record_makes_a_parser_panic(
        which in any::<Index>(),
        damage in proptest::collection::vec((any::<Index>(), any::<Index>(), any::<u8>()), 1..6),
    ) {
        for Known { parser, texts } in &known() {
            let mut bytes = which.get(texts).clone().into_bytes();
            for (from, to, byte) in &damage {
                let from = from.index(bytes.len());
                match byte % 4 {
                    0 => bytes.truncate(from + 1),
                    1 => bytes.insert(from, *byte),
                    2 => bytes[from] = *byte,
                    _ => {
                        let part = bytes[from..=to.index(bytes.len()).max(from)].to_vec();
                        bytes.splice(from..from, part);
                    }
                }
            }
            parse_all(parser, &bytes);
        }
    }
}
