//! `bitacora logs` over a real store.

use std::collections::BTreeMap;

use clap::Parser;
use jiff::Timestamp;

use super::*;
use crate::batch::{Batch, Row};
use crate::key::{Partition, RowKey, Table, day_of};
use crate::ledger::{Context, Encoding, KernelIdentity, OriginRecord, Watermark};
use crate::record::{Level, Record};
use crate::stores::Store;
use crate::stores::sqlite::{Options, SqliteReader, SqliteStore};
use crate::worker::{Flags, write_row};

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// 2026-11-22 12:00 UTC.
const NOON: i64 = 1_795_348_800_000;

fn args(words: &str) -> Args {
    Line::try_parse_from(std::iter::once("logs").chain(words.split_whitespace())).unwrap().args
}

fn around() -> Surroundings {
    let now = Timestamp::from_millisecond(NOON + 10_000).unwrap().to_zoned(TimeZone::UTC);
    Surroundings { now, terminal: false, colour: false }
}

/// Ten rows, a second apart, of two sources; odd ones are errors.
async fn store(dir: &std::path::Path) {
    let store = SqliteStore::start(dir.to_owned(), Options::default()).unwrap();
    for number in 0..10 {
        let source = if number < 5 { "nginx/access" } else { "syslog" };
        let time = NOON + number * 1000;
        let partition = Partition {
            table: Table::Infrastructure,
            day: day_of(time),
            source: source.into(),
            bucket: 0,
            user: None,
        };
        let mut batch = Batch::new(partition, "web1".into());
        batch.text = format!("Row {number}").into_bytes();
        batch.rows.push(Row {
            rung: None,
            key: RowKey { timestamp_ms: time, origin: 1, offset_bytes: number },
            level: if number % 2 == 1 { Level::Error } else { Level::Info },
            message: 0..u32::try_from(batch.text.len()).unwrap(),
            metadata: 0..0,
            further: None,
        });
        store.write(batch.into()).await.unwrap();
    }
    for number in 0..4_i64 {
        store.write(further_row(Table::Events, number).into()).await.unwrap();
        store.write(further_row(Table::Application, number).into()).await.unwrap();
    }
    let contexts = ["nginx/access", "syslog"].map(|source| Context {
        origin: 1,
        from_bytes: if source == "syslog" { 5 } else { 0 },
        source: source.into(),
        table: Table::Infrastructure,
        format: source.into(),
        options: BTreeMap::default(),
        timezone: "UTC".into(),
        anchor_ms: 0,
        max_line_bytes: 1 << 18,
        parser_version: 1,
    });
    let origin = OriginRecord {
        id: 1,
        machine: "m".into(),
        host: "web1".into(),
        path: dir.join("gone.log"),
        kernel: KernelIdentity::default(),
        head_hash: 0,
        head_bytes: 0,
        first_offset: 0,
        born_ms: 0,
        encoding: Encoding::Plain,
    };
    store.put_origin(&origin, &contexts, 1).await.unwrap();
    let watermarks = ["nginx/access", "syslog"].map(|source| Watermark {
        source: source.into(),
        host: "web1".into(),
        seen_ms: if source == "syslog" { NOON - 31_000 } else { NOON + 9000 },
        written_ms: NOON,
        behind_bytes: 0,
    });
    store.put_watermarks(&watermarks, 1).await.unwrap();
    store.close().await.unwrap();
}

/// A row of a table with users: of users 7 and 8 in turn, a second apart, an hour before noon.
fn further_row(table: Table, number: i64) -> Batch {
    let time = NOON - 3_600_000 + number * 1000;
    let source = if table == Table::Events { "user_events" } else { "app" };
    let partition =
        Partition { table, day: day_of(time), source: source.into(), bucket: 0, user: None };
    let mut batch = Batch::new(partition, "web1".into());
    let mut record = Record { parsed: true, ..Record::default() };
    let number_text = number.to_string();
    if table == Table::Events {
        record.push(b"event_type", if number == 3 { b"login" } else { b"sale" });
        record.push(b"event_data.number", number_text.as_bytes());
    } else {
        record.message = format!("App {number}").into_bytes().into();
        record.push(b"duration_ms", if number > 1 { b"700" } else { b"5" });
        record.push(b"request_id", b"r-1");
    }
    record.push(b"user_id", if number % 2 == 0 { b"7" } else { b"8" });
    record.push(b"session_id", if number < 2 { b"s1" } else { b"s2" });
    let key = RowKey { timestamp_ms: time, origin: 2, offset_bytes: number };
    write_row(&mut batch, key, &record, &Flags::default(), None);
    batch
}

fn answers(words: &[&str]) -> Vec<(String, Told)> {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        store(dir.path()).await;
        let reader = SqliteReader::new(dir.path().to_owned());
        let mut answers = Vec::new();
        for words in words {
            let question = Question::new(&args(words), &around().now).unwrap();
            let mut out = Vec::new();
            let told = question.answer(&reader, &around(), &mut out).await.unwrap();
            answers.push((String::from_utf8(out).unwrap(), told));
        }
        answers
    })
}

#[test]
fn the_flags_select_and_order_rows_as_journalctl_does() {
    let cases = [
        ("-n 2 -o cat", "Row 8 Row 9"),
        ("-n 2 -r -o cat", "Row 9 Row 8"),
        ("-o cat -p err", "Row 1 Row 3 Row 5 Row 7 Row 9"),
        ("-o cat -p err -s nginx", "Row 1 Row 3"),
        ("-o cat -s sys* -n 1", "Row 9"),
        ("-o cat -S 12:00:08", "Row 8 Row 9"),
        ("-o cat -S -2s", "Row 8 Row 9"),
        ("-o cat -U 12:00:02 -g ROW", ""),
        ("-o cat -U 12:00:02 -g row", "Row 0 Row 1"),
        ("-o cat level=ERROR source=syslog", "Row 5 Row 7 Row 9"),
        ("-o cat -s syslog --level info", "Row 6 Row 8"),
        ("-o cat -H web*,db1 -n 1", "Row 9"),
        ("-o cat -H db1", ""),
        ("--count source --utc -g Row", "5 nginx/access 5 syslog"),
        ("--count minute,level -g Row", "5 2026-11-22 12:00 ERROR 5 2026-11-22 12:00 INFO"),
        ("--count level=ERROR", "5"),
    ];
    check(&cases);
}

/// What each of these words answers, with all its white space as one blank.
fn check(cases: &[(&str, &str)]) {
    let words: Vec<&str> = cases.iter().map(|(words, _)| *words).collect();
    for ((words, expected), (out, told)) in cases.iter().zip(answers(&words)) {
        let out = out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(out, *expected, "{words}");
        assert_eq!(told.good, !expected.is_empty(), "{words}");
    }
}

#[test]
fn rows_of_a_user_a_session_or_a_request_are_those_of_applications() {
    let cases = [
        ("-o cat --user 7", "App 0 App 2"),
        ("-o cat --user 7 --session s2", "App 2"),
        ("-o cat --session s1 -r", "App 1 App 0"),
        ("-o cat --min-duration 500ms", "App 2 App 3"),
        ("-o cat --min-duration 0.6s --user 8", "App 3"),
        ("-o cat --request-id r-1 user_id=8 + user_id=9", "App 1 App 3"),
        ("-o cat --user 7 duration_ms=5 + duration_ms=700", "App 0 App 2"),
        ("-o cat --user 9", ""),
        ("--count --user 7", "2"),
    ];
    check(&cases);
}

#[test]
fn events_come_newest_first_and_alone() {
    let cases = [
        ("-o cat --events", "login sale sale sale"),
        ("-o cat -s user_events -n 1", "login"),
        ("-o csv --events --user 7 -n 1 -U 10:59:59", ""),
        ("-o cat --events --user 7", "sale sale"),
        ("-o cat --event-type login", "login"),
        ("-o cat --event-type login --user 7", ""),
        ("-o cat --events --session s2", "login sale"),
        ("-o cat --events number=2 + event_type=login", "login sale"),
        ("-o cat --events -g ^3$", "login"),
        ("-o cat --events event_data.number=0", "sale"),
        ("--count event_type --events", "3 sale 1 login"),
        ("-o cat --events -S 11:00:02 -U 11:00:03", "sale"),
    ];
    check(&cases);
    let (json, _) = answers(&["-o json --events --user 8 -n 1"]).remove(0);
    let event: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(event["event_data"], serde_json::json!({"number": "3", "user_id": "8"}));
    assert_eq!(event["user_id"], uuid::Uuid::from_u128(whose::id_of("8")).to_string());
}

#[test]
fn a_cursor_of_an_event_leads_to_the_next_older_one() {
    let (out, _) = answers(&["-n 2 --events -o cat --show-cursor"]).remove(0);
    let cursor = out.lines().last().unwrap().strip_prefix("-- cursor: ").unwrap();
    let words = format!("-o json -n 1 --events --after-cursor {cursor}");
    let (out, _) = answers(&[&words]).remove(0);
    assert!(out.contains("\"offset_bytes\":1}"), "{out}");
}

#[test]
fn a_store_that_keeps_events_by_user_needs_to_know_whose_to_show() {
    let asked = |words: &str| {
        let question = Question::new(&args(words), &around().now).unwrap();
        whose::check_user(&question.asked.filter, question.count.as_deref())
    };
    for words in ["--events --user 7", "--events --count", "--events --count day -S 11:00", "-n 1"]
    {
        asked(words).unwrap();
    }
    for words in
        ["--events", "--events -f", "--events --count event_type", "--events --count -S -1s"]
    {
        let error = asked(words).unwrap_err();
        assert!(error.to_string().contains("--user"), "{words}: {error}");
        assert_eq!(exit::code(&error), exit::USAGE);
    }
}

#[test]
fn an_answer_says_how_complete_it_is_and_can_be_asked_to_be() {
    let words = ["-n 1", "-n 1 --require-complete", "-n 1 -s nginx --require-complete", "-q -n 1"];
    let told: Vec<Told> = answers(&words).into_iter().map(|(_, told)| told).collect();
    let line = "complete until 11:59:29 on 0 of 1 host; web1 41 s behind";
    assert_eq!(told[0], Told { line: Some(line.into()), good: true });
    assert!(!told[1].good);
    let line = "complete until 12:00:09 on 1 of 1 host";
    assert_eq!(told[2], Told { line: Some(line.into()), good: true });
    assert_eq!(told[3].line, None);
}

#[test]
fn a_cursor_that_was_shown_leads_to_what_comes_after() {
    let (out, _) = answers(&["-n 4 -r -o cat --show-cursor"]).remove(0);
    let cursor = out.lines().last().unwrap().strip_prefix("-- cursor: ").unwrap();
    let (out, _) = answers(&[&format!("-o cat --after-cursor {cursor}")]).remove(0);
    assert_eq!(out, "Row 7\nRow 8\nRow 9\n");
    let (out, _) = answers(&[&format!("-o cat --cursor {cursor} -n 1")]).remove(0);
    assert_eq!(out, "Row 6\n");
}

#[test]
fn arguments_without_meaning_are_refused_with_what_is_possible() {
    for (words, said) in [
        ("-S soon", "is no time"),
        ("-p loud", "is no level"),
        ("-n few", "is no number of rows"),
        ("-g (", "cannot search"),
        ("word", "is not of the form FIELD=VALUE"),
        ("--cursor x", "is no cursor"),
        ("--min-duration fast", "is no duration"),
        ("-s [", "is no pattern"),
        ("--events -p err", "user events have no level"),
        ("-s user_events --request-id r", "user events have no level"),
        ("--events -s syslog", "leave out -s"),
    ] {
        let error = Question::new(&args(words), &around().now).unwrap_err();
        assert!(error.to_string().contains(said), "{words}: {error}");
        assert_eq!(exit::code(&error), exit::USAGE);
    }
    assert!(Line::try_parse_from(["logs", "-o", "loud"]).is_err());
}
