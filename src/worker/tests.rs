//! Rows of texts that come in awkward chunks, and of texts that are read again from the middle.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Fill, FillLimits, Numbers, Output, Worker};
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
