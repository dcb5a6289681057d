//! Groups the lines of a multi-line format into records.
//!
//! Several records may be open at once (`PostgreSQL` interleaves the lines of its processes). When
//! a record ends is a function of the bytes alone: at the next beginning of its thread, at the
//! size limit, or [`INTERLEAVED_BYTES_MAX`] after its first byte where lines of other records
//! stand between. What comes later is a record flagged `continued`.

use super::Flags;
use super::lines::Line;
use crate::ledger::Carried;
use crate::parse::{Framing, Parser, Role};

/// How far behind its first byte a record may still grow once other records stand between.
pub const INTERLEAVED_BYTES_MAX: u64 = 64 << 10;

/// Length of a record that was full when the line at the boundary would have continued it: that
/// line begins its rest.
const FULL: u64 = u64::MAX;

/// What a line turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The first line of a record.
    First {
        /// Other records are open, so that the time of this one must be fixed now.
        among_others: bool,
        /// It is the rest of a record that had already ended.
        continued: bool,
    },
    /// A further line of a record.
    Further,
    /// An empty line.
    Blank,
}

/// What the assembler says, in this order: the line, then the records that it ended.
#[derive(Debug)]
pub enum Event<'a> {
    /// A line was placed.
    Line {
        /// The line.
        line: Line<'a>,
        /// What it is.
        class: Class,
        /// The record to which it belongs, as far as it has come with this line.
        record: Option<Carried>,
        /// The record that it would have continued, had that not been full.
        full: Option<Carried>,
    },
    /// The newest record began alone, and another one begins now while it is open: its time must
    /// be fixed before the line of the other is placed.
    Followed {
        /// Offset of its first line.
        start: u64,
        /// That line.
        line: &'a [u8],
    },
    /// A record is there: for good, or as far as it has come.
    Record(Framed<'a>),
}

/// The text of one record.
#[derive(Debug)]
pub struct Framed<'a> {
    /// Offset of its first line.
    pub start: u64,
    /// Its lines joined by LF, trailing blank ones left out. Not always UTF-8.
    pub text: &'a [u8],
    /// What to note about it.
    pub flags: Flags,
    /// Nothing can be added to it any more.
    pub closed: bool,
    /// A row of this record, with less text, may have been written already.
    pub amends: bool,
    /// The row that was written already has all of this text: nothing is left to write.
    pub unchanged: bool,
}

#[derive(Debug)]
struct Open {
    start: u64,
    thread: u64,
    /// Empty if the record's row is written already (see [`Carried`]).
    text: Vec<u8>,
    /// Length of the text, also where it is not kept.
    length: usize,
    /// Its row is written already.
    carried: bool,
    blanks: usize,
    framing: Framing,
    flags: Flags,
    interleaved: bool,
    /// It began while no other record was open, and none has begun since.
    alone: bool,
    touched_ms: u64,
    /// Length of the text that was shipped early.
    shipped: Option<usize>,
}

impl Open {
    fn carried(carried: &Carried, limit: usize) -> Self {
        let full = carried.text_bytes == FULL;
        Self {
            start: carried.start,
            thread: carried.thread,
            text: Vec::new(),
            length: usize::try_from(carried.text_bytes).unwrap_or(limit).min(limit),
            carried: true,
            blanks: 0,
            // of a CSV row only the inside of quotes goes on in another line
            framing: Framing { in_quotes: full },
            flags: Flags::default(),
            interleaved: !full,
            alone: false,
            touched_ms: 0,
            shipped: None,
        }
    }

    fn as_carried(&self) -> Carried {
        let text_bytes = (self.length + self.blanks) as u64;
        Carried { thread: self.thread, start: self.start, text_bytes }
    }

    fn as_full(&self) -> Carried {
        Carried { text_bytes: FULL, ..self.as_carried() }
    }
}

/// What adding a line to an open record came to.
enum Extended {
    /// It was added.
    By,
    /// There is no such record.
    Not,
    /// The record has no room.
    Full(Carried),
}

/// The open records of one origin.
#[derive(Debug)]
pub struct Assembler {
    /// In the order of their starts.
    open: Vec<Open>,
    /// Start of the record to which the last line belongs.
    current: Option<u64>,
    limit: usize,
}

/// What the assembler must know of a line besides its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// It is the rest of a line whose head was final.
    pub mid_line: bool,
    /// A dated record stands before it in its origin: a line without a record then continues
    /// one that has ended, and else is a record of its own.
    pub begun: bool,
    /// Monotonic milliseconds.
    pub now_ms: u64,
}

impl Assembler {
    /// Texts of at most `limit` bytes. `carried` are the records that were open before the first
    /// line, and whose rows are written.
    #[must_use]
    pub fn new(limit: usize, carried: &[Carried]) -> Self {
        let mut open: Vec<Open> = carried.iter().map(|one| Open::carried(one, limit)).collect();
        open.sort_unstable_by_key(|open| open.start);
        let current = carried.iter().find(|one| one.text_bytes == FULL).map(|one| one.start);
        Self { open, current, limit }
    }

    /// Start of the oldest record that may still grow.
    #[must_use]
    pub fn oldest_start(&self) -> Option<u64> {
        self.open.iter().find(|open| !open.carried).map(|open| open.start)
    }

    /// Places one line.
    pub fn line(
        &mut self,
        line: Line<'_>,
        place: Place,
        parser: &Parser,
        each: &mut impl FnMut(Event<'_>),
    ) {
        let Place { mid_line, begun, now_ms } = place;
        self.close_where(each, |open| {
            open.interleaved && line.start >= open.start + INTERLEAVED_BYTES_MAX
        });
        if line.bytes.is_empty() && line.hole_bytes == 0 && !mid_line {
            let record = self.current().map(|open| {
                open.blanks += 1;
                open.as_carried()
            });
            each(Event::Line { line, class: Class::Blank, record, full: None });
            return;
        }
        let mut framing = self.current().map(|open| open.framing).unwrap_or_default();
        let role = parser.role(line.bytes, &mut framing);
        let (thread, extended) = match role {
            _ if mid_line => (0, Extended::Not),
            Role::Begins { thread } => (thread, Extended::Not),
            Role::Adds { thread } => (thread, self.extend(line, Some(thread), framing, now_ms)),
            Role::Continues => (self.thread(), self.extend(line, None, framing, now_ms)),
        };
        let full = match extended {
            Extended::By => {
                let record = self.current().map(|open| open.as_carried());
                each(Event::Line { line, class: Class::Further, record, full: None });
                self.close_complete(parser, each);
                return;
            }
            Extended::Not => None,
            Extended::Full(full) => Some(full),
        };
        let orphan = mid_line || !matches!(role, Role::Begins { .. });
        let followed = self.open.iter().any(|open| open.thread == thread);
        let lead = orphan && !mid_line && !begun && !followed;
        self.close_where(each, |open| open.thread == thread);
        let continued = orphan && !lead;
        self.follow(each);
        self.begin(line, thread, framing, continued, now_ms);
        let record = self.current().map(|open| open.as_carried());
        let class = Class::First { among_others: self.open.len() > 1, continued };
        each(Event::Line { line, class, record, full });
        if lead {
            // a line before the first beginning is a record of its own
            self.close_where(each, |open| open.start == line.start);
            self.current = None;
        } else {
            self.close_complete(parser, each);
        }
    }

    /// Ends every open record: the origin, or its context, ends here.
    pub fn end(&mut self, each: &mut impl FnMut(Event<'_>)) {
        self.close_where(each, |_| true);
        self.current = None;
    }

    /// Hands out, without ending them, the records that were not touched since `before_ms` and
    /// whose text has not been handed out yet.
    pub fn ship_early(&mut self, before_ms: u64, each: &mut impl FnMut(Event<'_>)) {
        for open in &mut self.open {
            let due = !open.carried && open.touched_ms <= before_ms;
            if due && open.shipped != Some(open.text.len()) {
                let amends = open.shipped.is_some();
                open.shipped = Some(open.text.len());
                each(Event::Record(Framed {
                    start: open.start,
                    text: &open.text,
                    flags: open.flags,
                    closed: false,
                    amends,
                    unchanged: false,
                }));
            }
        }
    }

    /// Whether all text of open records has been handed out early.
    #[must_use]
    pub fn all_shipped(&self) -> bool {
        self.open.iter().all(|open| open.carried || open.shipped == Some(open.text.len()))
    }

    fn current(&mut self) -> Option<&mut Open> {
        let start = self.current?;
        self.open.iter_mut().find(|open| open.start == start)
    }

    fn thread(&mut self) -> u64 {
        self.current().map_or(0, |open| open.thread)
    }

    /// Adds the line to the open record of `thread` (of the last line, with `None`), if there is
    /// one and it has room.
    fn extend(
        &mut self,
        line: Line<'_>,
        thread: Option<u64>,
        framing: Framing,
        now_ms: u64,
    ) -> Extended {
        let limit = self.limit;
        let open = match thread {
            Some(thread) => self.open.iter_mut().rev().find(|open| open.thread == thread),
            None => self.current(),
        };
        let Some(open) = open else { return Extended::Not };
        let length = open.length + open.blanks + 1 + line.bytes.len();
        if length > limit {
            return Extended::Full(open.as_full());
        }
        open.length = length;
        if !open.carried {
            open.text.extend(std::iter::repeat_n(b'\n', open.blanks + 1));
            open.text.extend_from_slice(line.bytes);
        }
        open.blanks = 0;
        open.framing = framing;
        open.touched_ms = now_ms;
        open.flags.note(line);
        let start = open.start;
        self.touch(start);
        Extended::By
    }

    /// Another record is about to begin.
    fn follow(&mut self, each: &mut impl FnMut(Event<'_>)) {
        if let Some(open) = self.open.last_mut().filter(|open| open.alone) {
            open.alone = false;
            if !open.flags.continued {
                let end = memchr::memchr(b'\n', &open.text).unwrap_or(open.text.len());
                let line = open.text.get(..end).unwrap_or_default();
                each(Event::Followed { start: open.start, line });
            }
        }
    }

    fn begin(
        &mut self,
        line: Line<'_>,
        thread: u64,
        framing: Framing,
        continued: bool,
        now_ms: u64,
    ) {
        let mut flags = Flags { continued, ..Flags::default() };
        flags.note(line);
        self.open.push(Open {
            start: line.start,
            thread,
            text: line.bytes.to_vec(),
            length: line.bytes.len(),
            carried: false,
            blanks: 0,
            framing,
            flags,
            interleaved: false,
            alone: self.open.is_empty(),
            touched_ms: now_ms,
            shipped: None,
        });
        self.touch(line.start);
    }

    /// The last line belongs to the record at `start`; it stands between the lines of all others.
    fn touch(&mut self, start: u64) {
        self.current = Some(start);
        for open in self.open.iter_mut().filter(|open| open.start != start) {
            open.interleaved = true;
        }
    }

    fn close_complete(&mut self, parser: &Parser, each: &mut impl FnMut(Event<'_>)) {
        let current = self.current;
        self.close_where(each, |open| Some(open.start) == current && parser.complete(open.framing));
    }

    fn close_where(&mut self, each: &mut impl FnMut(Event<'_>), ends: impl Fn(&Open) -> bool) {
        self.open.retain(|open| {
            let ends = ends(open);
            if ends && !open.carried {
                each(Event::Record(Framed {
                    start: open.start,
                    text: &open.text,
                    flags: open.flags,
                    closed: true,
                    amends: open.shipped.is_some(),
                    unchanged: open.shipped == Some(open.text.len()),
                }));
            }
            !ends
        });
    }
}
