//! What the tracker knows of one origin: pieces that wait, spans that grow.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Committed;
use super::growth::{empty_span, end_marker, grow, is_full, leave_out};
use super::markers::Markers;
use crate::config::Lifetimes;
use crate::key::Table;
use crate::ledger::{NotRow, OriginId, Piece, Reasons, Span};

/// A span so old is closed.
pub(super) const SPAN_AGE_MAX_MS: i64 = 3_600_000;
/// Bytes newly stored that make a span due at once.
const DUE_BYTES: u64 = 4 << 20;
/// Shortest time between two writes of an origin's spans.
const DUE_AGE_MS: i64 = 1000;

/// A piece that is not stored.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) piece: Piece,
    /// Acknowledgements that are missing.
    pub(super) left: u32,
    /// When the first of its rows may have been written.
    pub(super) first_ms: i64,
}

/// What the store has been told of a span.
#[derive(Debug, Clone, Default)]
struct Told {
    bytes: u64,
    rows: u64,
    lines: u64,
    reasons: Reasons,
    unparsed: u64,
}

/// A span, and how much of it is in the store.
#[derive(Debug)]
struct Draft {
    span: Span,
    unparsed: u64,
    told: Told,
}

impl Draft {
    fn now(&self) -> Told {
        Told {
            bytes: self.span.end_bytes - self.span.start_bytes,
            rows: self.span.rows,
            lines: self.span.lines,
            reasons: self.span.reasons.clone(),
            unparsed: self.unparsed,
        }
    }
}

/// The account of one origin.
#[derive(Debug)]
pub(super) struct Account {
    origin: OriginId,
    lifetimes: Arc<Lifetimes>,
    /// Table and source from an offset on: the one in force, and those that come.
    rules: Vec<(u64, (Table, String))>,
    /// Pieces in order.
    queue: VecDeque<Pending>,
    /// Number of the queue's first piece, counted from the first of this run.
    front: u64,
    /// Where the next piece begins.
    next_start: u64,
    /// Up to here every row is acknowledged.
    stored: u64,
    /// Up to here all text is in rows that are acknowledged.
    covered: u64,
    /// Up to here the store has the span.
    committed: u64,
    /// Rows of pieces that are not stored, by offset, that the store does not have.
    not_rows: BTreeMap<u64, NotRow>,
    /// The last span of the run before, until the origin first moves.
    before: Option<Box<Span>>,
    /// Closed spans that the store has not or not in their last state, in order.
    closed: VecDeque<Draft>,
    growing: Option<Draft>,
    /// What is being written: a state of the oldest draft.
    writing: Option<Box<(Span, Told)>>,
    taken_ms: Option<i64>,
    /// Time of the last dated record before `stored`.
    running_ms: Option<i64>,
    markers: Markers,
}

impl Account {
    /// With `grows`, the last span is one of this run and goes on growing.
    pub(super) fn new(
        origin: OriginId,
        at: u64,
        last_span: Option<Span>,
        grows: bool,
        rule: (Table, String),
        lifetimes: Arc<Lifetimes>,
    ) -> Self {
        let mut markers = Markers::default();
        if let Some(last) = &last_span {
            assert!(last.origin == origin, "span of {} for origin {origin}", last.origin);
            assert!(last.end_bytes == at, "origin {origin} goes on at {at}, not at its span's end");
            markers = Markers::resume(last.markers.clone());
            markers.note(end_marker(last, last.last_write_ms));
        }
        let running_ms = last_span.as_ref().and_then(|last| last.running_ms);
        let (growing, before) = match last_span {
            Some(span) if grows && !span.closed => {
                let mut draft = Draft { unparsed: 0, told: Told::default(), span };
                draft.told = draft.now();
                (Some(draft), None)
            }
            before => (None, before.map(Box::new)),
        };
        Self {
            origin,
            lifetimes,
            rules: vec![(at, rule)],
            queue: VecDeque::new(),
            front: 0,
            next_start: at,
            stored: at,
            covered: at,
            committed: at,
            not_rows: BTreeMap::new(),
            running_ms,
            before,
            closed: VecDeque::new(),
            growing,
            writing: None,
            taken_ms: None,
            markers,
        }
    }

    /// Where the next piece begins.
    pub(super) const fn next_start(&self) -> u64 {
        self.next_start
    }

    /// From `from` on rows belong to this table and source.
    pub(super) fn rule(&mut self, from: u64, table: Table, source: &str) {
        assert!(from >= self.next_start, "a context of {} in the past: {from}", self.origin);
        self.rules.retain(|(at, _)| *at < from);
        self.rules.push((from, (table, source.to_owned())));
    }

    /// The source that the newest bytes belong to.
    pub(super) fn source(&self) -> &str {
        let rule = self.rules.iter().rfind(|(at, _)| *at <= self.next_start);
        rule.map_or("", |(_, (_, source))| source)
    }

    /// Bytes of pieces that are not committed.
    pub(super) const fn pending_bytes(&self) -> u64 {
        self.next_start - self.committed
    }

    /// See [`super::Tracker::covered_bytes`].
    pub(super) fn covered_bytes(&self) -> u64 {
        if self.committed == self.stored { self.covered.max(self.stored) } else { self.committed }
    }

    /// Queues a piece; answers its number.
    pub(super) fn push(&mut self, pending: Pending) -> u64 {
        let piece = &pending.piece;
        assert!(
            piece.start_bytes == self.next_start && piece.end_bytes >= piece.start_bytes,
            "piece {}..{} of origin {} does not touch {}",
            piece.start_bytes,
            piece.end_bytes,
            self.origin,
            self.next_start
        );
        assert!(
            piece.rows + piece.reasons.total() == piece.lines,
            "piece at {} of origin {}: rows and reasons are not its lines",
            piece.start_bytes,
            self.origin
        );
        self.next_start = piece.end_bytes;
        self.queue.push_back(pending);
        self.front + self.queue.len() as u64 - 1
    }

    /// Counts one acknowledgement for the piece of this number; answers whether it was the last.
    pub(super) fn acknowledge(&mut self, number: u64) -> bool {
        let index = usize::try_from(number - self.front).unwrap_or(usize::MAX);
        let pending = self.queue.get_mut(index);
        assert!(
            pending.as_ref().is_some_and(|pending| pending.left > 0),
            "origin {}: more acknowledgements than batches",
            self.origin
        );
        pending.is_some_and(|pending| {
            pending.left -= 1;
            pending.left == 0
        })
    }

    /// Notes a row that the store does not have.
    pub(super) fn not_row(&mut self, row: NotRow) {
        let offset = u64::try_from(row.1.offset_bytes).unwrap_or(0);
        assert!(offset >= self.stored, "origin {}: row {offset} is accounted for", self.origin);
        self.not_rows.insert(offset, row);
    }

    /// Moves the mark over every piece that is stored. A piece that is not holds it.
    pub(super) fn advance(&mut self, now_ms: i64) {
        while self.queue.front().is_some_and(|pending| pending.left == 0) {
            let Some(pending) = self.queue.pop_front() else { break };
            self.front += 1;
            assert!(self.stored == pending.piece.start_bytes, "the mark of an origin jumped");
            self.stored = pending.piece.end_bytes;
            self.absorb(pending, now_ms);
        }
        if self.queue.is_empty() {
            // most origins are quiet most of the time
            self.queue = VecDeque::new();
        }
    }

    fn absorb(&mut self, pending: Pending, now_ms: i64) {
        let Pending { piece, first_ms, .. } = pending;
        self.covered = self.covered.max(piece.covered_bytes);
        if piece.end_bytes == piece.start_bytes {
            assert!(piece.lines == 0, "lines without bytes at {}", piece.start_bytes);
            return;
        }
        if let Some(mut span) = self.before.take() {
            span.closed = true;
            let mut draft = Draft { unparsed: 0, told: Told::default(), span: *span };
            draft.told = draft.now();
            self.closed.push_back(draft);
        }
        let (table, source) = self.rule_of(&piece);
        if self.growing.as_ref().is_some_and(|draft| {
            (draft.span.table, &draft.span.source) != (table, &source)
                || now_ms - draft.span.first_write_ms >= SPAN_AGE_MAX_MS
        }) {
            self.close(now_ms);
        }
        let ttl = self.lifetimes.of(table, &source);
        let ttl_s = ttl.and_then(|ttl| i64::try_from(ttl.as_secs()).ok());
        let empty =
            || empty_span(self.origin, &piece, first_ms.min(now_ms), (table, source), ttl_s);
        let draft = self.growing.get_or_insert_with(|| Draft {
            span: empty(),
            unparsed: 0,
            told: Told::default(),
        });
        self.running_ms = piece.running_ms.or(self.running_ms);
        draft.span.running_ms = self.running_ms;
        grow(&mut draft.span, &piece, now_ms);
        draft.unparsed += piece.unparsed;
        // rows that were not kept are taken out of the counts as if the worker had known
        while let Some(entry) = self.not_rows.first_entry()
            && *entry.key() < piece.end_bytes
        {
            leave_out(&mut draft.span, entry.remove());
        }
        let span = &draft.span;
        assert!(span.rows + span.reasons.total() == span.lines, "a span's lines do not add up");
        if is_full(span) {
            self.close(now_ms);
        }
    }

    /// Table and source of a piece; forgets those before them.
    fn rule_of(&mut self, piece: &Piece) -> (Table, String) {
        let inside = piece.start_bytes + 1..piece.end_bytes.max(piece.start_bytes + 1);
        assert!(
            !self.rules.iter().any(|(at, _)| inside.contains(at)),
            "a context of {} begins inside of a piece",
            self.origin
        );
        let in_force = self.rules.iter().rposition(|(at, _)| *at <= piece.start_bytes);
        self.rules.drain(..in_force.unwrap_or(0));
        let first = self.rules.first();
        first.map_or((Table::Infrastructure, String::new()), |(_, rule)| rule.clone())
    }

    fn close(&mut self, now_ms: i64) {
        if let Some(mut draft) = self.growing.take() {
            draft.span.closed = true;
            draft.span.markers = self.markers.list();
            self.markers.note(end_marker(&draft.span, now_ms));
            self.closed.push_back(draft);
        }
    }

    /// Whether the store lacks something of its spans, that is not being written.
    pub(super) fn dirty(&self) -> bool {
        let grown =
            |draft: &Draft| draft.told.bytes < draft.span.end_bytes - draft.span.start_bytes;
        self.writing.is_none()
            && (!self.closed.is_empty() || self.growing.as_ref().is_some_and(grown))
    }

    /// Whether there is no piece and no span that the store lacks.
    pub(super) fn settled(&self) -> bool {
        self.queue.is_empty() && self.writing.is_none() && !self.dirty()
    }

    /// Whether it is time to write.
    pub(super) fn due(&self, now_ms: i64) -> bool {
        // a clock that was set back must not hold a span for as long as it was set back
        let rested = self.taken_ms.is_none_or(|at| !(0..DUE_AGE_MS).contains(&(now_ms - at)));
        let much = self.growing.as_ref().is_some_and(|draft| {
            let bytes = draft.span.end_bytes - draft.span.start_bytes;
            bytes - draft.told.bytes >= DUE_BYTES
        });
        rested || much || !self.closed.is_empty()
    }

    /// The oldest span that the store lacks, to be written. One at a time: the counts of a span
    /// are projected before the next span begins.
    pub(super) fn take(&mut self, now_ms: i64) -> Option<Span> {
        assert!(self.writing.is_none(), "two writes at once for origin {}", self.origin);
        if self.closed.is_empty() {
            let markers = self.markers.list();
            if let Some(draft) = &mut self.growing {
                draft.span.markers = markers;
                self.markers.note(end_marker(&draft.span, now_ms));
            }
        }
        let draft = self.closed.front().or(self.growing.as_ref())?;
        self.taken_ms = Some(now_ms);
        self.writing = Some(Box::new((draft.span.clone(), draft.now())));
        Some(draft.span.clone())
    }

    /// What was taken was not written, and is offered again.
    pub(super) fn untake(&mut self) {
        self.writing = None;
    }

    /// What was taken is in the store.
    pub(super) fn written(&mut self, span: &Span) -> Committed {
        let taken = self.writing.take();
        let told = taken.filter(|taken| taken.0 == *span).map(|taken| taken.1);
        assert!(told.is_some(), "origin {}: a span was written that nobody took", self.origin);
        let told = told.unwrap_or_default();
        assert!(
            span.end_bytes >= self.committed && span.end_bytes <= self.stored,
            "the committed end of origin {} went from {} to {}",
            self.origin,
            self.committed,
            span.end_bytes
        );
        self.committed = span.end_bytes;
        let grown =
            self.growing.as_mut().filter(|draft| draft.span.start_bytes == span.start_bytes);
        let before = if let Some(draft) = grown {
            std::mem::replace(&mut draft.told, told.clone())
        } else {
            self.written_closed(span, &told)
        };
        let mut reasons = Reasons::default();
        for (reason, lines) in told.reasons.iter() {
            reasons.add(reason, lines - before.reasons.get(reason));
        }
        Committed {
            origin: self.origin,
            end_bytes: span.end_bytes,
            marker: span.marker,
            source: span.source.clone(),
            bytes: told.bytes - before.bytes,
            rows: told.rows - before.rows,
            lines: told.lines - before.lines,
            reasons,
            unparsed: told.unparsed - before.unparsed,
        }
    }

    /// The oldest closed span was written, in its last state or in one before it was closed.
    fn written_closed(&mut self, span: &Span, told: &Told) -> Told {
        let front = self.closed.front_mut();
        assert!(
            front.as_ref().is_some_and(|draft| draft.span.start_bytes == span.start_bytes),
            "origin {}: spans are written in order",
            self.origin
        );
        let before = front.map(|draft| std::mem::replace(&mut draft.told, told.clone()));
        if span.closed {
            self.closed.pop_front();
        }
        before.unwrap_or_default()
    }
}
