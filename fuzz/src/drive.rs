//! A worker that reads a text in any cuts, and what it made of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bitacora::batch::Batch;
use bitacora::crc;
use bitacora::duration::{DurationCounts, Rung};
use bitacora::key::{Layout, Table, day_of};
use bitacora::ledger::{Carried, Context, MinuteCounts, OriginId, Piece, PieceId, Reasons};
use bitacora::record::Level;
use bitacora::sources::{Buffers, Chunk, Input, Opening};
use bitacora::worker::{Fill, FillLimits, Numbers, Output, Worker, marker_of};

use crate::kinds::Kind;
use crate::record::{NOW_MS, ZONE};

const ORIGIN: OriginId = 7;
const ROWS_MAX: usize = 5;
const MARKER_BYTES: usize = 256;

/// A text and the rules that it is read by.
#[derive(Debug)]
pub struct Text<'a> {
    /// All bytes of the origin.
    pub bytes: &'a [u8],
    /// By offset of their beginning, the first at 0: the formats.
    pub contexts: Vec<(usize, &'static Kind)>,
    /// The table of its rows.
    pub table: Table,
    /// Longest line and record.
    pub max_line_bytes: u64,
}

/// Where reading begins: what a span says of its end.
#[derive(Debug, Clone, Default)]
pub struct From {
    at: usize,
    running_ms: Option<i64>,
    carried: Vec<Carried>,
}

impl From {
    /// The end of a piece.
    #[must_use]
    pub fn end_of(piece: &Piece) -> Self {
        Self {
            at: usize::try_from(piece.end_bytes).unwrap(),
            running_ms: piece.running_ms,
            carried: piece.carried.clone(),
        }
    }
}

/// A row as the store has it in the end.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its time.
    pub timestamp_ms: i64,
    /// Its level.
    pub level: Level,
    /// How long something took, where it says so.
    pub rung: Option<Rung>,
    /// All its texts.
    pub texts: Vec<String>,
}

/// All pieces of an origin in one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sum {
    rows: u64,
    lines: u64,
    unparsed: u64,
    reasons: Reasons,
    minutes: MinuteCounts,
    durations: DurationCounts,
    running_ms: Option<i64>,
    crc: u64,
}

/// What came of a text.
#[derive(Debug)]
pub struct Made {
    /// Rows by the offset of their first line.
    pub rows: BTreeMap<i64, Row>,
    /// In the order in which they came.
    pub pieces: Vec<Piece>,
    /// All of them in one.
    pub sum: Sum,
}

/// Reads `text` from `from` on, in chunks of these sizes in turn. With `early`, open records are
/// handed out after each chunk.
#[must_use]
pub fn read(text: &Text<'_>, from: &From, sizes: &[usize], early: bool) -> Made {
    let mut worker = Worker::new(fill(), Arc::new(Buffers::default()), Numbers::of_worker(0, 1));
    let mut output = Output::default();
    let mut now_ms = 0;
    let mut at = from.at;
    let mut sizes = sizes.iter().cycle();
    let mut take = |worker: &mut Worker, input: Input, output: &mut Output| {
        now_ms += 1;
        worker.take(input, now_ms, output).unwrap();
        if early {
            worker.tick(now_ms, &|_| 0, now_ms % 3 == 0, output);
        }
    };
    take(&mut worker, Input::Open(text.opening(from)), &mut output);
    for index in text.context_at(at)..text.contexts.len() {
        let (begins, _) = text.contexts[index];
        if begins > from.at {
            take(&mut worker, Input::Context(text.context(index)), &mut output);
        }
        let end = text.contexts.get(index + 1).map_or(text.bytes.len(), |(next, _)| *next);
        while at < end {
            let size = (*sizes.next().unwrap()).clamp(1, end - at);
            let bytes = text.bytes[at..at + size].to_vec();
            let chunk = Chunk { origin: ORIGIN, start: at as u64, bytes };
            take(&mut worker, Input::Chunk(chunk), &mut output);
            at += size;
        }
    }
    take(&mut worker, Input::Finish { origin: ORIGIN }, &mut output);
    worker.ship_all(now_ms, &mut output);
    assert!(worker.is_idle());
    text.check(from, &output)
}

fn fill() -> Fill {
    let limits = FillLimits { batch_rows: ROWS_MAX, batch_age_ms: 50, open_bytes: 1 << 16 };
    let mut next = 0;
    let stamps = move |rows| {
        next += i64::try_from(rows).unwrap();
        next - i64::try_from(rows).unwrap() + 1
    };
    let layout = Layout { slot_hours: 6, shards: 2 };
    Fill::new(limits, "ship".into(), Box::new(move |_, _, _| Some(layout)), Box::new(stamps))
}

impl Text<'_> {
    /// Index of the context in force at `at`.
    fn context_at(&self, at: usize) -> usize {
        self.contexts.iter().rposition(|(begins, _)| *begins <= at).unwrap()
    }

    fn context(&self, index: usize) -> Context {
        let (begins, kind) = self.contexts[index];
        Context {
            origin: ORIGIN,
            from_bytes: begins as u64,
            source: "fuzz".to_owned(),
            table: self.table,
            format: kind.format.name().to_owned(),
            options: kind.options(),
            timezone: ZONE.to_owned(),
            anchor_ms: NOW_MS,
            max_line_bytes: self.max_line_bytes,
            parser_version: kind.format.version(),
        }
    }

    fn opening(&self, from: &From) -> Opening {
        Opening {
            origin: ORIGIN,
            at: from.at as u64,
            context: self.context(self.context_at(from.at)),
            first_anchor_ms: NOW_MS,
            before: self.before(from.at).to_vec(),
            running_ms: from.running_ms,
            carried: from.carried.clone(),
        }
    }

    fn before(&self, at: usize) -> &[u8] {
        &self.bytes[at.saturating_sub(MARKER_BYTES)..at]
    }

    /// Checks what holds of whatever a worker makes.
    fn check(&self, from: &From, output: &Output) -> Made {
        let rows = rows_of(&output.batches);
        let mut end = from.at as u64;
        let mut sum = Sum { running_ms: from.running_ms, ..Sum::default() };
        for piece in &output.pieces {
            assert_eq!(piece.start_bytes, end, "pieces touch");
            end = piece.end_bytes;
            assert!(piece.start_bytes <= end && end <= piece.covered_bytes);
            assert_eq!(piece.rows + piece.reasons.total(), piece.lines, "a line counts once");
            assert_eq!(piece.marker, marker_of(self.before(usize::try_from(end).unwrap())));
            let named = output.batches.iter().filter(|batch| batch.pieces.contains(&piece.id));
            assert_eq!(named.count(), usize::try_from(piece.batches).unwrap());
            sum.add(piece);
        }
        assert_eq!(end, self.bytes.len() as u64, "pieces reach the end");
        let bytes = &self.bytes[from.at..];
        let newlines = memchr::memchr_iter(b'\n', bytes).count() as u64;
        assert_eq!(
            sum.lines,
            newlines + u64::from(bytes.last().is_some_and(|byte| *byte != b'\n'))
        );
        assert_eq!(sum.rows, rows.len() as u64);
        assert_eq!(sum.crc, crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, bytes));
        let (mut minutes, mut durations) = (MinuteCounts::new(), DurationCounts::new());
        for row in rows.values() {
            let minute = row.timestamp_ms.div_euclid(60_000);
            *minutes.entry((minute, row.level)).or_default() += 1;
            if let Some(rung) = row.rung {
                durations.entry(minute).or_default().add(rung);
            }
        }
        assert_eq!(sum.minutes, minutes);
        assert_eq!(sum.durations, durations);
        assert_pieces_are_known(&output.batches, &output.pieces);
        Made { rows, pieces: output.pieces.clone(), sum }
    }
}

impl Sum {
    fn add(&mut self, piece: &Piece) {
        self.rows += piece.rows;
        self.lines += piece.lines;
        self.unparsed += piece.unparsed;
        self.reasons.merge(&piece.reasons);
        for (minute, rows) in &piece.minutes {
            *self.minutes.entry(*minute).or_default() += rows;
        }
        for (minute, rows) in &piece.durations {
            self.durations.entry(*minute).or_default().merge(rows);
        }
        self.running_ms = piece.running_ms;
        self.crc = crc::combine(self.crc, piece.crc, piece.end_bytes - piece.start_bytes);
    }
}

fn assert_pieces_are_known(batches: &[Batch], pieces: &[Piece]) {
    let known: Vec<PieceId> = pieces.iter().map(|piece| piece.id).collect();
    for batch in batches {
        assert!(batch.pieces.iter().all(|id| known.contains(id)), "a batch waits for no piece");
    }
}

/// The rows that hold in the end: of several with one key the one that was written last.
fn rows_of(batches: &[Batch]) -> BTreeMap<i64, Row> {
    let mut rows: BTreeMap<i64, (i64, Row)> = BTreeMap::new();
    for batch in batches {
        assert!((1..=ROWS_MAX).contains(&batch.rows.len()));
        assert!(std::str::from_utf8(&batch.text).is_ok());
        let text = |slice| String::from_utf8_lossy(batch.text(slice)).into_owned();
        for (index, row) in batch.rows.iter().enumerate() {
            assert_eq!(batch.partition.day, day_of(row.key.timestamp_ms));
            let mut texts = vec![text(&row.message), text(&row.metadata)];
            let columns = batch.application_of(row);
            assert_eq!(columns.is_some(), batch.partition.table == Table::Application);
            if let Some(columns) = columns {
                for slice in [&columns.logger, &columns.session_id, &columns.traceback] {
                    texts.push(slice.as_ref().map_or_else(String::new, text));
                }
                let ids = (columns.request_id, columns.user_id, columns.duration_ms);
                texts.push(format!("{ids:?}"));
            }
            let columns = batch.event_of(row);
            assert_eq!(columns.is_some(), batch.partition.table == Table::Events);
            if let Some(columns) = columns {
                for slice in [&columns.session_id, &columns.user_agent] {
                    texts.push(slice.as_ref().map_or_else(String::new, text));
                }
                texts.push(format!("{:?}", (columns.user_id, columns.ip_address)));
            }
            if !texts[1].is_empty() {
                let known: Result<BTreeMap<String, String>, _> = serde_json::from_str(&texts[1]);
                assert!(known.is_ok(), "metadata is no flat object: {}", texts[1]);
            }
            let stamp = batch.row_stamp(index);
            let (timestamp_ms, level, rung) = (row.key.timestamp_ms, row.level, row.rung);
            let row_made = Row { timestamp_ms, level, rung, texts };
            let earlier = rows.get(&row.key.offset_bytes);
            if let Some((_, earlier)) = earlier {
                assert_eq!(earlier.timestamp_ms, row_made.timestamp_ms, "an amended row moves");
            }
            if earlier.is_none_or(|(earlier, _)| *earlier < stamp) {
                rows.insert(row.key.offset_bytes, (stamp, row_made));
            }
        }
    }
    rows.into_iter().map(|(offset, (_, row))| (offset, row)).collect()
}
