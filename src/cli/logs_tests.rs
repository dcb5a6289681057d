//! `bitacora logs` over a real store.

use std::collections::BTreeMap;

use clap::Parser;
use jiff::Timestamp;

use super::*;
use crate::batch::{Batch, Row};
use crate::key::{Partition, RowKey, Table, day_of};
use crate::ledger::{Context, Encoding, KernelIdentity, OriginRecord, Watermark};
use crate::record::Level;
use crate::stores::Store;
use crate::stores::sqlite::{Options, SqliteReader, SqliteStore};

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
            key: RowKey { timestamp_ms: time, origin: 1, offset_bytes: number },
            level: if number % 2 == 1 { Level::Error } else { Level::Info },
            message: 0..u32::try_from(batch.text.len()).unwrap(),
            metadata: 0..0,
            further: None,
        });
        store.write(batch.into()).await.unwrap();
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
        ("--count source --utc -g .", "5 nginx/access 5 syslog"),
        ("--count minute,level -g .", "5 2026-11-22 12:00 ERROR 5 2026-11-22 12:00 INFO"),
        ("--count level=ERROR", "5"),
    ];
    let words: Vec<&str> = cases.iter().map(|(words, _)| *words).collect();
    for ((words, expected), (out, told)) in cases.iter().zip(answers(&words)) {
        let out = out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(out, *expected, "{words}");
        assert_eq!(told.good, !expected.is_empty(), "{words}");
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
    ] {
        let error = Question::new(&args(words), &around().now).unwrap_err();
        assert!(error.to_string().contains(said), "{words}: {error}");
        assert_eq!(exit::code(&error), exit::USAGE);
    }
    assert!(Line::try_parse_from(["logs", "-o", "loud"]).is_err());
}
