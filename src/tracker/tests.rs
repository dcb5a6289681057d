//! The tracker, driven by hand.

use std::collections::BTreeSet;
use std::time::Duration;

use crc_fast::{CrcAlgorithm::Crc64Xz, checksum};
use proptest::prelude::*;

use super::account::SPAN_AGE_MAX_MS;
use super::growth::SPAN_ROWS_MAX;
use super::*;
use crate::duration::{DurationCounts, Durations, Rung};
use crate::key::RowKey;
use crate::ledger::Reason;
use crate::record::Level;

const ORIGIN: OriginId = 7;
const TABLE: Table = Table::Infrastructure;

/// A piece whose rows are one byte each, the first of them at `start`, all of one minute.
fn piece(id: PieceId, start: u64, rows: u64, batches: u32) -> Piece {
    Piece {
        id,
        origin: ORIGIN,
        start_bytes: start,
        end_bytes: start + rows,
        batches,
        rows,
        lines: rows,
        reasons: Reasons::default(),
        minutes: (rows > 0).then_some(((1, Level::Info), rows)).into_iter().collect(),
        durations: durations(rung(id), rows),
        running_ms: Some(60_000),
        covered_bytes: start + rows,
        crc: checksum(Crc64Xz, &vec![b'\n'; usize::try_from(rows).unwrap()]),
        marker: id,
        unparsed: 0,
        carried: Vec::new(),
    }
}

/// How long each row of this piece took: some say it, some do not.
fn rung(id: PieceId) -> Option<Rung> {
    Rung::reached([-1.0, 7.0, 700.0][usize::try_from(id % 3).unwrap()])
}

fn durations(rung: Option<Rung>, rows: u64) -> DurationCounts {
    let (Some(rung), true) = (rung, rows > 0) else { return DurationCounts::new() };
    let mut counts = Durations::default();
    (0..rows).for_each(|_| counts.add(rung));
    [(1, counts)].into()
}

fn opened() -> Tracker {
    let mut tracker = Tracker::new(Lifetimes::all(Some(Duration::from_secs(90))));
    tracker.open(ORIGIN, 0, None, TABLE, "nginx/access");
    tracker
}

/// A row of piece `id`.
fn not_row(reason: Reason, offset: i64, id: PieceId) -> NotRow {
    let key = RowKey { timestamp_ms: 60_001, origin: ORIGIN, offset_bytes: offset };
    (reason, key, Level::Info, rung(id))
}

/// Writes everything that waits; answers the last state of each span.
fn drain(tracker: &mut Tracker, now_ms: i64) -> BTreeMap<u64, Span> {
    let mut store = BTreeMap::new();
    loop {
        let spans = tracker.rest(now_ms);
        if spans.is_empty() {
            return store;
        }
        tracker.written(&spans);
        store.extend(spans.into_iter().map(|span| (span.start_bytes, span)));
    }
}

#[test]
fn a_piece_that_is_not_acknowledged_holds_those_behind_it() {
    let mut tracker = opened();
    tracker.piece(piece(1, 0, 10, 2), 0);
    tracker.piece(piece(2, 10, 10, 1), 0);
    tracker.acked(&[2], &[], 1);
    tracker.acked(&[1], &[], 2);
    assert!(tracker.due(5000).is_empty());
    tracker.acked(&[1], &[], 3);
    let spans = tracker.due(5000);
    assert_eq!((spans[0].start_bytes, spans[0].end_bytes, spans[0].rows), (0, 20, 20));
    assert!(!tracker.quiescent());
    let committed = tracker.written(&spans);
    assert_eq!((committed[0].end_bytes, committed[0].rows, committed[0].marker), (20, 20, 2));
    assert!(tracker.quiescent());
}

#[test]
fn spans_say_how_long_the_rows_of_their_table_and_source_live() {
    let mut lifetimes = Lifetimes::all(Some(Duration::from_secs(90)));
    lifetimes.sources.insert("short".to_owned(), Duration::from_secs(7));
    lifetimes.application = None;
    let mut tracker = Tracker::new(lifetimes);
    tracker.open(ORIGIN, 0, None, TABLE, "short");
    tracker.context(ORIGIN, 10, TABLE, "other");
    tracker.context(ORIGIN, 20, Table::Application, "other");
    tracker.context(ORIGIN, 30, Table::Application, "short");
    for (id, start) in [(1, 0), (2, 10), (3, 20), (4, 30)] {
        tracker.piece(piece(id, start, 10, 0), 0);
    }
    let lives: Vec<_> = drain(&mut tracker, 5000).into_values().map(|span| span.ttl_s).collect();
    assert_eq!(lives, [Some(7), Some(90), None, Some(7)]);
}

#[test]
fn acknowledgements_may_come_before_their_piece() {
    let mut tracker = opened();
    tracker.acked(&[1], &[not_row(Reason::Expired, 3, 1)], 100);
    tracker.piece(piece(1, 0, 10, 1), 900);
    let spans = tracker.due(1000);
    assert_eq!((spans[0].rows, spans[0].reasons.get(Reason::Expired)), (9, 1));
    assert_eq!(spans[0].minutes[&(1, Level::Info)], 9);
    assert_eq!((spans[0].first_write_ms, spans[0].last_write_ms), (100, 900));
}

#[test]
fn a_row_that_was_amended_and_refused_twice_is_one_dead_letter() {
    let mut tracker = opened();
    tracker.piece(piece(1, 0, 10, 2), 0);
    tracker.acked(&[1], &[not_row(Reason::DeadLetter, 3, 1)], 0);
    tracker.acked(&[1], &[not_row(Reason::DeadLetter, 3, 1)], 0);
    let span = tracker.due(0).remove(0);
    assert_eq!((span.rows, span.reasons.get(Reason::DeadLetter), span.lines), (9, 1, 10));
}

#[test]
fn an_open_record_is_covered_once_its_text_is_stored_and_all_before_it_is_committed() {
    let mut tracker = opened();
    tracker.piece(piece(1, 0, 10, 1), 0);
    let early = Piece { covered_bytes: 50, ..piece(2, 10, 0, 1) };
    tracker.piece(early, 0);
    assert_eq!(tracker.covered_bytes(ORIGIN), Some(0));
    tracker.acked(&[1], &[], 0);
    tracker.acked(&[2], &[not_row(Reason::Expired, 12, 2)], 0);
    assert_eq!(tracker.covered_bytes(ORIGIN), Some(0), "no span says so");
    drain(&mut tracker, 0);
    assert_eq!(tracker.covered_bytes(ORIGIN), Some(50));
    tracker.piece(piece(3, 10, 40, 0), 0);
    let span = tracker.rest(0).remove(0);
    assert_eq!((span.rows, span.reasons.get(Reason::Expired)), (49, 1));
}

#[test]
fn a_span_is_written_at_most_once_a_second_unless_much_was_stored() {
    let mut tracker = opened();
    tracker.piece(piece(1, 0, 1, 0), 0);
    let first = tracker.due(0);
    tracker.written(&first);
    tracker.piece(piece(2, 1, 1, 0), 10);
    assert!(tracker.due(999).is_empty());
    let second = tracker.due(1000);
    assert_eq!((second[0].start_bytes, second[0].end_bytes), (0, 2));
    let committed = tracker.written(&second);
    assert_eq!((committed[0].bytes, committed[0].rows), (1, 1), "only what is new");
    tracker.piece(Piece { end_bytes: 2 + (4 << 20), ..piece(3, 2, 1, 0) }, 1010);
    assert_eq!(tracker.due(1010).len(), 1);
}

#[test]
fn a_clock_that_is_set_back_holds_no_span() {
    let mut tracker = opened();
    tracker.piece(piece(1, 0, 1, 0), 10_000_000);
    let spans = tracker.due(10_000_000);
    tracker.written(&spans);
    tracker.piece(piece(2, 1, 1, 0), 1000);
    assert_eq!(tracker.due(1000).len(), 1);
}

#[test]
fn an_origin_has_one_write_at_a_time_and_a_failed_one_is_offered_again() {
    let mut tracker = opened();
    tracker.piece(piece(1, 0, 1, 0), 0);
    let spans = tracker.due(0);
    tracker.piece(piece(2, 1, 1, 0), 5000);
    assert!(tracker.due(9000).is_empty() && tracker.rest(9000).is_empty());
    tracker.unwritten(&spans);
    assert_eq!(tracker.due(9000)[0].end_bytes, 2);
}

#[test]
fn the_last_span_of_the_run_before_is_closed_when_its_origin_first_moves() {
    let mut tracker = opened();
    tracker.piece(piece(1, 0, 10, 0), 0);
    let last = tracker.due(0).remove(0);
    assert!(!last.closed);

    let mut tracker = Tracker::new(Lifetimes::default());
    tracker.open(ORIGIN, 10, Some(last.clone()), TABLE, "nginx/access");
    assert!(tracker.rest(0).is_empty(), "it has not moved");
    tracker.piece(piece(1, 10, 5, 0), 1_000_000);
    let first = tracker.due(1_000_000);
    assert_eq!(first, [Span { closed: true, ..last }]);
    let committed = tracker.written(&first);
    assert_eq!((committed[0].end_bytes, committed[0].rows), (10, 0));
    let next = drain(&mut tracker, 1_000_000);
    assert_eq!((next[&10].end_bytes, next[&10].rows, next[&10].ttl_s), (15, 5, None));
    assert_eq!(next[&10].markers.iter().map(|marker| marker.position).collect::<Vec<_>>(), [10]);
}

#[test]
fn a_span_is_closed_when_it_is_full_or_old_or_of_another_source() {
    let mut tracker = opened();
    tracker.piece(piece(1, 0, SPAN_ROWS_MAX, 0), 0);
    tracker.piece(piece(2, SPAN_ROWS_MAX, 1, 0), 0);
    tracker.piece(piece(3, SPAN_ROWS_MAX + 1, 1, 0), SPAN_AGE_MAX_MS);
    tracker.context(ORIGIN, SPAN_ROWS_MAX + 2, Table::Application, "app");
    tracker.piece(piece(4, SPAN_ROWS_MAX + 2, 1, 0), SPAN_AGE_MAX_MS);
    let mut minutes = piece(5, SPAN_ROWS_MAX + 3, 300, 0);
    minutes.minutes = (0..300).map(|minute| ((minute, Level::Info), 1)).collect();
    tracker.piece(minutes, SPAN_AGE_MAX_MS);
    tracker.piece(piece(6, SPAN_ROWS_MAX + 303, 1, 0), SPAN_AGE_MAX_MS);
    let store = drain(&mut tracker, SPAN_AGE_MAX_MS);
    let told: Vec<_> =
        store.values().map(|span| (span.end_bytes, span.closed, span.table)).collect();
    assert_eq!(
        told,
        [
            (SPAN_ROWS_MAX, true, TABLE),
            (SPAN_ROWS_MAX + 1, true, TABLE),
            (SPAN_ROWS_MAX + 2, true, TABLE),
            (SPAN_ROWS_MAX + 303, true, Table::Application),
            (SPAN_ROWS_MAX + 304, false, Table::Application),
        ]
    );
    assert_eq!(store[&(SPAN_ROWS_MAX + 2)].source, "app");
}

#[test]
fn many_origins_share_the_writes_of_a_second_and_none_waits_for_ever() {
    let mut tracker = Tracker::new(Lifetimes::default());
    for origin in 0..1200 {
        tracker.open(origin, 0, None, TABLE, "app");
        tracker.piece(Piece { origin, ..piece(0, 0, 1, 0) }, 0);
    }
    let mut seen = BTreeSet::new();
    for (now_ms, due) in [(0, 500), (500, 0), (1000, 500), (2000, 200), (3000, 0)] {
        let spans = tracker.due(now_ms);
        assert_eq!(spans.len(), due, "at {now_ms}");
        seen.extend(spans.iter().map(|span| span.origin));
        tracker.written(&spans);
    }
    assert_eq!(seen.len(), 1200);
}

#[test]
fn an_origin_is_forgotten_only_when_all_of_it_is_committed() {
    let mut tracker = opened();
    tracker.piece(piece(1, 0, 10, 1), 0);
    tracker.leave(ORIGIN, Leave::Finished);
    assert_eq!(tracker.pending_bytes()["nginx/access"], 10);
    tracker.acked(&[1], &[], 0);
    assert_eq!(tracker.covered_bytes(ORIGIN), Some(0));
    drain(&mut tracker, 0);
    assert!(tracker.pending_bytes().is_empty(), "a source with nothing pending is left out");
    assert_eq!(tracker.covered_bytes(ORIGIN), None);
}

#[test]
fn the_span_of_an_origin_that_rested_goes_on_growing() {
    let mut tracker = opened();
    tracker.piece(piece(1, 0, 10, 1), 0);
    tracker.acked(&[1], &[], 0);
    let (_, before) = drain(&mut tracker, 0).pop_first().unwrap();
    tracker.leave(ORIGIN, Leave::Rest);
    assert_eq!(tracker.covered_bytes(ORIGIN), None);

    tracker.open(ORIGIN, 10, Some(before.clone()), TABLE, "nginx/access");
    tracker.piece(piece(2, 10, 10, 1), 5000);
    tracker.acked(&[2], &[], 5000);
    let spans = drain(&mut tracker, 5000);
    assert_eq!(spans.keys().collect::<Vec<_>>(), [&0]);
    assert_eq!((spans[&0].end_bytes, spans[&0].rows), (20, before.rows * 2));
}

#[test]
#[should_panic(expected = "does not touch")]
fn a_gap_between_pieces_ends_the_program() {
    opened().piece(piece(1, 5, 1, 0), 0);
}

#[test]
#[should_panic(expected = "rows and reasons are not its lines")]
fn lines_that_do_not_add_up_end_the_program() {
    opened().piece(Piece { lines: 2, ..piece(1, 0, 1, 0) }, 0);
}

/// One step of a history.
#[derive(Debug, Clone)]
enum Step {
    /// The worker's next piece: so many rows, further lines and batches.
    Piece {
        rows: u64,
        blank: u64,
        batches: u32,
    },
    /// Some acknowledgement that is owed, also of a piece that comes later.
    Ack(prop::sample::Index, bool),
    /// The source is called otherwise from here on.
    Rename,
    /// Spans that are due are handed out; a later step says that they are written.
    Due(i64),
    Answer(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..30_000_u64, 0..5_u64, 0..4_u32)
            .prop_map(|(rows, blank, batches)| Step::Piece { rows, blank, batches }),
        8 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(i, bad)| Step::Ack(i, bad)),
        1 => Just(Step::Rename),
        3 => (0..700_i64).prop_map(Step::Due),
        3 => any::<bool>().prop_map(Step::Answer),
    ];
    prop::collection::vec(step, 1..120)
}

/// Runs a history and keeps beside it what must be true.
#[derive(Default)]
struct Model {
    text: Vec<u8>,
    pieces: u64,
    /// Acknowledgements that are owed: piece id, an offset of one of its rows.
    owed: Vec<(PieceId, Option<i64>)>,
    /// Start of each piece that is not acknowledged.
    open: BTreeMap<PieceId, (u64, usize)>,
    refused: BTreeSet<(i64, PieceId)>,
    rows: u64,
    durations: Durations,
    lines: u64,
    sources: BTreeMap<u64, String>,
    store: BTreeMap<u64, Span>,
    committed: u64,
}

impl Model {
    #[allow(clippy::cast_possible_truncation, reason = "any byte will do")]
    fn piece(&mut self, rows: u64, blank: u64, batches: u32) -> Piece {
        self.pieces += 1;
        let (id, start) = (self.pieces, self.text.len() as u64);
        let batches = if rows == 0 { 0 } else { batches.max(1) };
        let bytes: Vec<u8> = (0..rows + blank).map(|n| (n ^ id) as u8).collect();
        self.text.extend(&bytes);
        let mut reasons = Reasons::default();
        reasons.add(Reason::Blank, blank);
        let offset = i64::try_from(start + rows.saturating_sub(1)).unwrap();
        for _ in 0..batches {
            self.owed.push((id, Some(offset)));
        }
        if batches > 0 {
            self.open.insert(id, (start, batches as usize));
        }
        self.rows += rows;
        self.lines += rows + blank;
        for more in durations(rung(id), rows).values() {
            self.durations.merge(more);
        }
        Piece {
            lines: rows + blank,
            end_bytes: start + rows + blank,
            covered_bytes: start + rows + blank,
            crc: checksum(Crc64Xz, &bytes),
            reasons,
            ..piece(id, start, rows, batches)
        }
    }

    fn written(&mut self, spans: &[Span], committed: &[Committed]) {
        for (span, end) in spans.iter().zip(committed) {
            let open = self.open.values().map(|(start, _)| *start).min();
            assert!(open.is_none_or(|open| span.end_bytes <= open), "ahead of a piece");
            assert!(end.end_bytes >= self.committed, "went back");
            self.committed = end.end_bytes;
            if let Some(old) = self.store.insert(span.start_bytes, span.clone()) {
                assert!(!old.closed && old.end_bytes <= span.end_bytes, "a closed span grew");
            }
        }
    }

    fn check(&self) {
        let mut at = 0;
        let (mut rows, mut lines, mut reasons) = (0, 0, Reasons::default());
        let mut durations = Durations::default();
        for span in self.store.values() {
            assert_eq!(span.start_bytes, at, "a gap or an overlap");
            at = span.end_bytes;
            let [from, to] =
                [span.start_bytes, span.end_bytes].map(|at| usize::try_from(at).unwrap());
            assert_eq!(span.crc, checksum(Crc64Xz, &self.text[from..to]));
            assert_eq!(span.minutes.values().sum::<u64>(), span.rows);
            let (from, source) = self.sources.range(..=span.start_bytes).next_back().unwrap();
            assert!(self.sources.range(from + 1..).all(|(next, _)| *next >= span.end_bytes));
            assert_eq!(&span.source, source);
            span.durations.iter().flatten().for_each(|(_, more)| durations.merge(more));
            rows += span.rows;
            lines += span.lines;
            reasons.merge(&span.reasons);
        }
        assert_eq!(at, self.text.len() as u64);
        assert_eq!((rows, lines), (self.rows - self.refused.len() as u64, self.lines));
        assert_eq!(reasons.get(Reason::DeadLetter), self.refused.len() as u64);
        assert_eq!(rows + reasons.total(), lines);
        let mut wanted = self.durations;
        self.refused.iter().filter_map(|(_, id)| rung(*id)).for_each(|rung| wanted.remove(rung));
        assert_eq!(durations, wanted);
    }

    fn ack(&mut self, tracker: &mut Tracker, index: usize, bad: bool, now_ms: i64) {
        let (id, offset) = self.owed.swap_remove(index);
        let refused: Vec<NotRow> = offset
            .filter(|_| bad)
            .map(|offset| not_row(Reason::DeadLetter, offset, id))
            .into_iter()
            .collect();
        self.refused.extend(refused.iter().map(|row| (row.1.offset_bytes, id)));
        if let Some((_, left)) = self.open.get_mut(&id) {
            *left -= 1;
            if *left == 0 {
                self.open.remove(&id);
            }
        }
        tracker.acked(&[id], &refused, now_ms);
    }
}

fn run(steps: Vec<Step>) {
    let (mut tracker, mut model) = (opened(), Model::default());
    model.sources.insert(0, "nginx/access".to_owned());
    let (mut now_ms, mut out, mut late) = (0, Vec::new(), None::<Piece>);
    for step in steps {
        match step {
            Step::Piece { rows, blank, batches } => {
                // each piece arrives when the next is made, so that acknowledgements overtake it
                let next = model.piece(rows, blank, batches);
                if let Some(piece) = late.replace(next) {
                    tracker.piece(piece, now_ms);
                }
            }
            Step::Ack(index, bad) if !model.owed.is_empty() => {
                let index = index.index(model.owed.len());
                model.ack(&mut tracker, index, bad, now_ms);
            }
            Step::Rename => {
                let from = model.text.len() as u64;
                let name = format!("source {from}");
                tracker.context(ORIGIN, from, TABLE, &name);
                model.sources.insert(from, name);
            }
            Step::Due(later) => {
                now_ms += later;
                let due = tracker.due(now_ms);
                assert!(due.is_empty() || out.is_empty(), "two writes at once");
                out.extend(due);
            }
            Step::Answer(true) => {
                let committed = tracker.written(&out);
                model.written(&out, &committed);
                out.clear();
            }
            Step::Answer(false) => {
                tracker.unwritten(&out);
                out.clear();
            }
            Step::Ack(..) => {}
        }
    }
    if let Some(piece) = late {
        tracker.piece(piece, now_ms);
    }
    while !model.owed.is_empty() {
        let last = model.owed.len() - 1;
        model.ack(&mut tracker, last, false, now_ms);
    }
    loop {
        let committed = tracker.written(&out);
        model.written(&out, &committed);
        out = tracker.rest(now_ms);
        if out.is_empty() {
            break;
        }
    }
    assert!(tracker.quiescent());
    model.check();
}

proptest! {
    #[test]
    fn whatever_the_cuts_and_the_order_the_spans_tile_the_bytes(steps in steps()) {
        run(steps);
    }
}
