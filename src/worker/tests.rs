//! Rows of texts that come in awkward chunks, and of texts that are read again from the middle.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Fill, FillLimits, Numbers, Output, Worker};
use crate::duration::{Durations, Rung};
use crate::key::Table;
use crate::ledger::{Context, Piece};
use crate::sources::{Buffers, Chunk, Input, Opening};

/// 2031-05-04.
const NOW_MS: i64 = 1_935_655_872_000;

/// By offset: time, message and metadata.
type Rows = BTreeMap<i64, (i64, String, String)>;

struct Text<'a> {
    format: &'a str,
    max_line_bytes: u64,
    chunks: &'a [&'a str],
}

impl Text<'_> {
    fn rows(&self) -> Rows {
        let chunks: Vec<_> = self.chunks.iter().map(|chunk| chunk.as_bytes()).collect();
        self.read(&chunks, None).0
    }

    /// Reads the chunks behind `from`, which stands at the end of one.
    fn read(&self, chunks: &[&[u8]], from: Option<&Piece>) -> (Rows, Vec<Piece>) {
        let limits = FillLimits { batch_rows: 100, batch_age_ms: 1000, open_bytes: 1 << 20 };
        let fill = Fill::new(limits, "ship".into(), Box::new(|_, _, _| None), Box::new(|_| 0));
        let mut worker = Worker::new(fill, Arc::new(Buffers::default()), Numbers::of_worker(0, 1));
        let bytes = chunks.concat();
        let at = from.map_or(0, |piece| usize::try_from(piece.end_bytes).unwrap());
        let mut inputs = vec![Input::Open(Opening {
            origin: 7,
            at: at as u64,
            context: self.context(),
            first_anchor_ms: NOW_MS,
            before: bytes[..at].to_vec(),
            running_ms: from.and_then(|piece| piece.running_ms),
            carried: from.map(|piece| piece.carried.clone()).unwrap_or_default(),
        })];
        let mut start = 0;
        for chunk in chunks {
            let (begin, end) = (at.max(start), start + chunk.len());
            if begin < end {
                let bytes = bytes[begin..end].to_vec();
                inputs.push(Input::Chunk(Chunk { origin: 7, start: begin as u64, bytes }));
            }
            start = end;
        }
        inputs.push(Input::Finish { origin: 7 });
        let mut output = Output::default();
        for input in inputs {
            worker.take(input, 0, &mut output).unwrap();
        }
        worker.ship_all(0, &mut output);
        let mut rows = Rows::new();
        for batch in &output.batches {
            let text = |slice| String::from_utf8(batch.text(slice).to_vec()).unwrap();
            for row in &batch.rows {
                let texts = (row.key.timestamp_ms, text(&row.message), text(&row.metadata));
                rows.insert(row.key.offset_bytes, texts);
            }
        }
        (rows, output.pieces)
    }

    fn context(&self) -> Context {
        Context {
            origin: 7,
            from_bytes: 0,
            source: "test".to_owned(),
            table: Table::Infrastructure,
            format: self.format.to_owned(),
            options: BTreeMap::new(),
            timezone: "UTC".to_owned(),
            anchor_ms: NOW_MS,
            max_line_bytes: self.max_line_bytes,
            parser_version: 1,
        }
    }

    /// Reads line by line, and again from the end of every piece.
    fn assert_same_from_every_piece(&self) -> Rows {
        let text = self.chunks.concat();
        let lines: Vec<_> = text.split_inclusive('\n').map(str::as_bytes).collect();
        let (rows, pieces) = self.read(&lines, None);
        assert_eq!(rows, self.read(&[text.as_bytes()], None).0);
        for piece in &pieces {
            let (again, _) = self.read(&lines, Some(piece));
            let rest = rows.clone().split_off(&i64::try_from(piece.end_bytes).unwrap());
            assert_eq!(again, rest, "from {}", piece.end_bytes);
        }
        rows
    }
}

#[test]
fn a_record_that_began_in_bytes_that_are_not_utf8_is_converted_when_a_later_chunk_ends_it() {
    let text = Text { format: "syslog", max_line_bytes: 1000, chunks: &[] };
    let chunks: [&[u8]; 2] =
        [b"May  4 10:11:12 faro pan: \xff\n", b" more\nMay  4 10:11:13 faro b\n"];
    let (rows, _) = text.read(&chunks, None);
    assert_eq!(rows, text.read(&[&chunks.concat()], None).0);
    assert_eq!(rows[&0].1, "\u{fffd}\n more");
    assert!(rows[&0].2.contains("\"raw_base64\""), "{}", rows[&0].2);
}

#[test]
fn a_line_that_is_cut_in_mid_character_is_converted() {
    for format in ["json", "syslog"] {
        let rows = Text { format, max_line_bytes: 4, chunks: &["abcé and more\n"] }.rows();
        assert_eq!(rows[&0].1, "abc\u{fffd}", "{format}");
        assert!(rows[&0].2.contains("\"truncated\":\"true\""), "{}", rows[&0].2);
    }
}

#[test]
fn a_record_without_a_time_behind_a_continuation_line_keeps_its_time_in_a_replay() {
    let lines = "May  4 10:11:12 faro a\nMay  4 10:11:13 faro b\n more\nno time\nnor here\n";
    let text = Text { format: "syslog", max_line_bytes: 1000, chunks: &[lines] };
    let rows = text.assert_same_from_every_piece();
    assert_eq!(rows.values().last().unwrap().0, NOW_MS + 1000);
}

#[test]
fn a_record_without_a_time_among_others_takes_the_time_before_it_in_a_replay_too() {
    let of_nobody = "2031-05-04 10:11:13 UTC [72] HINT:  of nobody\n";
    let lines = [
        "2031-05-04 10:11:13 UTC [71] LOG:  a\n",
        of_nobody,
        "2031-05-04 10:11:14 UTC [71] LOG:  b\n",
        "2031-05-04 10:11:15 UTC [71] LOG:  c\n",
        "2031-05-04 10:11:16 UTC [72] LOG:  d\n",
    ];
    for before in ["", "2031-05-04 10:11:12 UTC [71] LOG:  earlier\n"] {
        let lines = [before, &lines.concat()].concat();
        let text = Text { format: "postgresql", max_line_bytes: 1000, chunks: &[&lines] };
        let rows = text.assert_same_from_every_piece();
        let row = &rows[&i64::try_from(lines.find(of_nobody).unwrap()).unwrap()];
        assert_eq!(row.0, NOW_MS + 1000, "the time of the record before it");
        assert!(row.2.contains("\"continued\":\"true\""), "{}", row.2);
    }
}

#[test]
fn the_rest_of_a_record_that_was_full_is_the_same_in_a_replay() {
    let postgresql = "\
        2031-05-04 10:11:12 UTC [71] LOG:  a\n\tmore of it, up to the limit\n\tthe rest\n\
        2031-05-04 10:11:12 UTC [71] HINT:  of the rest\n2031-05-04 10:11:13 UTC [71] LOG:  b\n";
    let csv = "2031-05-04 10:11:12 UTC,\"a long field\nmore of it, up to the limit of a row\n\
               the rest\nwhich goes on, and ends\",here\n2031-05-04 10:11:13 UTC,b\n";
    let syslog = "no time\n more of it, which is over the limit of a record, is the rest\n x\nb\n";
    for (format, lines) in
        [("postgresql", postgresql), ("postgresql/csvlog", csv), ("syslog", syslog)]
    {
        let rows =
            Text { format, max_line_bytes: 70, chunks: &[lines] }.assert_same_from_every_piece();
        let mut rests = rows.values().filter(|row| row.2.contains("\"continued\":\"true\""));
        assert!(rests.next().is_some(), "{format}: {rows:?}");
    }
}

#[test]
fn a_record_that_is_amended_counts_once_and_as_its_row_does() {
    let limits = FillLimits { batch_rows: 100, batch_age_ms: 1000, open_bytes: 1 << 20 };
    let fill = Fill::new(limits, "ship".into(), Box::new(|_, _, _| None), Box::new(|_| 0));
    let mut worker = Worker::new(fill, Arc::new(Buffers::default()), Numbers::of_worker(0, 1));
    let text = Text { format: "postgresql", max_line_bytes: 1000, chunks: &[] };
    let opening = Opening {
        origin: 7,
        at: 0,
        context: text.context(),
        first_anchor_ms: NOW_MS,
        before: Vec::new(),
        running_ms: None,
        carried: Vec::new(),
    };
    let mut output = Output::default();
    worker.take(Input::Open(opening), 0, &mut output).unwrap();
    let mut start = 0;
    for line in [
        "2031-05-04 10:11:12 UTC [71] LOG:  duration: 1500.5 ms  statement: select\n",
        "\t1\n",
        "\t+ 1\n",
        "2031-05-04 10:11:13 UTC [71] LOG:  duration: 0.5 ms\n",
        "2031-05-04 10:11:14 UTC [71] LOG:  none\n",
    ] {
        let bytes = line.as_bytes().to_vec();
        worker.take(Input::Chunk(Chunk { origin: 7, start, bytes }), 0, &mut output).unwrap();
        start += line.len() as u64;
        // each time it is shipped as far as it has come
        worker.ship_all(0, &mut output);
    }
    worker.take(Input::Finish { origin: 7 }, 0, &mut output).unwrap();
    worker.ship_all(0, &mut output);
    let rows: Vec<_> = output.batches.iter().flat_map(|batch| &batch.rows).collect();
    let rungs = |offset: i64| -> Vec<_> {
        let of_record = rows.iter().filter(|row| row.key.offset_bytes == offset);
        of_record.map(|row| row.rung.map(Rung::ms)).collect()
    };
    assert_eq!(rungs(0), [Some(1000); 3], "the first row and two that amend it");
    let mut counted = Durations::default();
    output.pieces.iter().flat_map(|piece| piece.durations.values()).for_each(|of_minute| {
        counted.merge(of_minute);
    });
    let mut wanted = Durations::default();
    for ms in [1500.5, 0.5] {
        wanted.add(Rung::reached(ms).unwrap());
    }
    assert_eq!(counted, wanted);
    assert_eq!(output.pieces.iter().map(|piece| piece.rows).sum::<u64>(), 3);
}
