//! Acknowledgements in, spans out: how far everything is stored, per origin.
//!
//! A pure state machine. Whatever the order in which batches are acknowledged, the pieces of an
//! origin become spans strictly in order: one that is not stored holds the mark. Nothing else
//! writes spans, and a mark never goes back; a new origin begins where that would be needed.
//!
//! ```text
//! piece, acked --> Account (queue --> growing span --> closed spans) --due--> Store::put_spans
//!                                                  <--written-- state.db, tailer
//! ```

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

mod account;
mod growth;
mod markers;

use account::{Account, Pending};

use crate::config::Lifetimes;
use crate::key::Table;
use crate::ledger::{NotRow, OriginId, Piece, PieceId, Reasons, Span};

/// Span writes in any one second, over all origins.
pub const SPAN_WRITES_PER_SECOND: u32 = 500;

/// What became committed when a span was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Whose bytes.
    pub origin: OriginId,
    /// The store has everything before it.
    pub end_bytes: u64,
    /// xxh3 of the up to 256 bytes before it.
    pub marker: u64,
    /// Column `source`.
    pub source: String,
    /// Bytes since the origin's last commit in this run.
    pub bytes: u64,
    /// Rows since then.
    pub rows: u64,
    /// Lines since then.
    pub lines: u64,
    /// Lines that are no row since then.
    pub reasons: Reasons,
    /// Rows that no parser understood since then.
    pub unparsed: u64,
}

/// How an origin leaves the tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It is read to its end.
    Finished,
    /// It is quiet, and may go on later in this run.
    Rest,
}

/// Acknowledgements of a piece that is not there yet.
#[derive(Debug, Clone, Copy)]
struct Early {
    count: u32,
    first_ms: i64,
}

/// See the module.
#[derive(Debug)]
pub struct Tracker {
    lifetimes: Arc<Lifetimes>,
    /// Boxed: a table of large values that grows would be half empty.
    accounts: HashMap<OriginId, Box<Account>>,
    /// Pieces that are not stored: whose, and the number in their account.
    pieces: HashMap<PieceId, (OriginId, u64)>,
    early: HashMap<PieceId, Early>,
    /// Origins with bytes that are not committed, so that nobody has to look at the quiet ones.
    unsettled: HashSet<OriginId>,
    /// Origins that rest: all of them is committed, in spans of this run.
    resting: HashSet<OriginId>,
    /// Origins that are forgotten, or rest, once all of them is committed.
    leaving: HashMap<OriginId, Leave>,
    /// Origins with something to write, each once, the longest waiting first.
    ready: VecDeque<OriginId>,
    /// Spans that were handed out and are not answered for.
    writing: usize,
    /// Begin of the second that is counted, and span writes in it.
    second: (i64, u32),
}

impl Tracker {
    /// A tracker whose rows live so long in the store.
    #[must_use]
    pub fn new(lifetimes: Lifetimes) -> Self {
        Self {
            lifetimes: Arc::new(lifetimes),
            accounts: HashMap::new(),
            pieces: HashMap::new(),
            early: HashMap::new(),
            unsettled: HashSet::new(),
            resting: HashSet::new(),
            leaving: HashMap::new(),
            ready: VecDeque::new(),
            writing: 0,
            second: (i64::MIN, 0),
        }
    }

    /// An origin is read from `at` on: its last span's end, or its first offset. An origin that
    /// this run knows goes on where its last piece ended. `last_span` is the origin's newest, if
    /// it ends there.
    pub fn open(
        &mut self,
        origin: OriginId,
        at: u64,
        last_span: Option<Span>,
        table: Table,
        source: &str,
    ) {
        self.leaving.remove(&origin);
        if let Some(account) = self.accounts.get_mut(&origin) {
            let reached = account.next_start();
            assert!(at == reached, "origin {origin} is opened again at {at}, not at {reached}");
            account.rule(at, table, source);
            return;
        }
        let rule = (table, source.to_owned());
        let grows = self.resting.remove(&origin);
        let lifetimes = Arc::clone(&self.lifetimes);
        let account = Account::new(origin, at, last_span, grows, rule, lifetimes);
        self.accounts.insert(origin, Box::new(account));
    }

    /// From `from_bytes` on, where a piece begins, rows of the origin belong to this table and
    /// source. Comes before that piece. A span has one table and one source.
    pub fn context(&mut self, origin: OriginId, from_bytes: u64, table: Table, source: &str) {
        self.account(origin).rule(from_bytes, table, source);
    }

    /// Lets an origin go that is read to its end or quiet, once all of it is committed.
    pub fn leave(&mut self, origin: OriginId, leave: Leave) {
        let Some(account) = self.accounts.get(&origin) else { return };
        if !account.settled() {
            self.leaving.insert(origin, leave);
            return;
        }
        self.leaving.remove(&origin);
        self.accounts.remove(&origin);
        self.unsettled.remove(&origin);
        if leave == Leave::Rest {
            self.resting.insert(origin);
        }
    }

    /// A worker accounts for the next bytes of an origin. Pieces of an origin come in order;
    /// acknowledgements may be faster than their piece.
    pub fn piece(&mut self, piece: Piece, now_ms: i64) {
        let (id, origin) = (piece.id, piece.origin);
        let early = self.early.remove(&id).unwrap_or(Early { count: 0, first_ms: now_ms });
        assert!(early.count <= piece.batches, "piece {id}: more acknowledgements than batches");
        let left = piece.batches - early.count;
        let first_ms = early.first_ms.min(now_ms);
        if piece.end_bytes > piece.start_bytes {
            self.unsettled.insert(origin);
        }
        let number = self.account(origin).push(Pending { piece, left, first_ms });
        if left > 0 {
            let twice = self.pieces.insert(id, (origin, number));
            assert!(twice.is_none(), "two pieces have the number {id}");
        } else {
            self.advance(origin, now_ms);
        }
    }

    /// A batch is dealt with: the store has its rows, but for `not_rows`.
    pub fn acked(&mut self, pieces: &[PieceId], not_rows: &[NotRow], now_ms: i64) {
        for row in not_rows {
            self.account(row.1.origin).not_row(*row);
        }
        for id in pieces {
            let Some((origin, number)) = self.pieces.get(id).copied() else {
                let early = self.early.entry(*id).or_insert(Early { count: 0, first_ms: now_ms });
                early.count += 1;
                continue;
            };
            if self.account(origin).acknowledge(number) {
                self.pieces.remove(id);
                self.advance(origin, now_ms);
            }
        }
    }

    /// Spans to write, at most one an origin; each is answered for by [`Tracker::written`] or
    /// [`Tracker::unwritten`] before the origin has another.
    ///
    /// An origin's span grows at most once a second, or at once when 4 MiB are newly stored or a
    /// span was closed, and all together [`SPAN_WRITES_PER_SECOND`] times a second: with many
    /// active files the interval stretches.
    pub fn due(&mut self, now_ms: i64) -> Vec<Span> {
        if !(0..1000).contains(&now_ms.saturating_sub(self.second.0)) {
            self.second = (now_ms, 0);
        }
        let mut spans = Vec::new();
        for _ in 0..self.ready.len() {
            if self.second.1 >= SPAN_WRITES_PER_SECOND {
                break;
            }
            let Some(origin) = self.ready.pop_front() else { break };
            if self.account(origin).due(now_ms) {
                self.second.1 += 1;
                self.take(origin, now_ms, &mut spans);
            } else {
                self.ready.push_back(origin);
            }
        }
        spans
    }

    /// All spans that can be written now, whatever their age: at a stop, or when nothing else is
    /// to be done. Ask again after [`Tracker::written`], until it answers none.
    pub fn rest(&mut self, now_ms: i64) -> Vec<Span> {
        let mut spans = Vec::new();
        while let Some(origin) = self.ready.pop_front() {
            self.take(origin, now_ms, &mut spans);
        }
        spans
    }

    /// These spans are in the store.
    pub fn written(&mut self, spans: &[Span]) -> Vec<Committed> {
        let mut committed = Vec::with_capacity(spans.len());
        for span in spans {
            self.writing -= 1;
            let account = self.account(span.origin);
            committed.push(account.written(span));
            let (dirty, settled) = (account.dirty(), account.pending_bytes() == 0);
            if dirty {
                self.ready.push_back(span.origin);
            }
            if settled {
                self.unsettled.remove(&span.origin);
            }
            if let Some(&leave) = self.leaving.get(&span.origin) {
                self.leave(span.origin, leave);
            }
        }
        committed
    }

    /// These spans are not in the store: they are offered again, as far as they have come by
    /// then.
    pub fn unwritten(&mut self, spans: &[Span]) {
        for span in spans {
            self.writing -= 1;
            self.account(span.origin).untake();
            self.ready.push_back(span.origin);
        }
    }

    /// Bytes that workers have accounted for and that are not committed, by source; sources
    /// without any are left out.
    #[must_use]
    pub fn pending_bytes(&self) -> BTreeMap<String, u64> {
        let mut pending = BTreeMap::new();
        for account in self.unsettled.iter().filter_map(|origin| self.accounts.get(origin)) {
            *pending.entry(account.source().to_owned()).or_default() += account.pending_bytes();
        }
        pending
    }

    /// How far all text of an origin is in the store: past its committed end, where that is all
    /// that is stored and the records behind it may still grow. What the watermark counts.
    #[must_use]
    pub fn covered_bytes(&self, origin: OriginId) -> Option<u64> {
        self.accounts.get(&origin).map(|account| account.covered_bytes())
    }

    /// The source that the newest bytes of an origin belong to; empty for one that is not open.
    #[must_use]
    pub fn source_of(&self, origin: OriginId) -> &str {
        self.accounts.get(&origin).map_or("", |account| account.source())
    }

    /// Origins with a span that waits to be written.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether every piece is committed.
    #[must_use]
    pub fn quiescent(&self) -> bool {
        self.pieces.is_empty() && self.ready.is_empty() && self.writing == 0
    }

    fn account(&mut self, origin: OriginId) -> &mut Account {
        let account = self.accounts.get_mut(&origin);
        assert!(account.is_some(), "origin {origin} was never opened");
        account.unwrap_or_else(|| unreachable!("asserted above"))
    }

    fn advance(&mut self, origin: OriginId, now_ms: i64) {
        let account = self.account(origin);
        let before = account.dirty();
        account.advance(now_ms);
        if !before && account.dirty() {
            self.ready.push_back(origin);
        }
    }

    fn take(&mut self, origin: OriginId, now_ms: i64, spans: &mut Vec<Span>) {
        if let Some(span) = self.account(origin).take(now_ms) {
            self.writing += 1;
            spans.push(span);
        }
    }
}

#[cfg(test)]
mod tests;
