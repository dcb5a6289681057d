//! Bytes to record texts: lines, then, for multi-line formats, their grouping.
//!
//! The daemon, `bitacora parse` and `audit --deep` all frame with this.

use super::Flags;
use super::assemble::{Assembler, Class, Event, Framed, Place};
use super::lines::{Line, Lines};
use crate::ledger::Carried;
use crate::parse::Parser;

/// What follows the framing.
pub(super) trait Handler {
    /// A line was placed, or a record is there.
    fn event(&mut self, event: Event<'_>);

    /// A dated record stands before the next line.
    fn begun(&self) -> bool;
}

/// The framing state of one origin.
#[derive(Debug)]
pub(super) struct Framing {
    pub lines: Lines,
    assembler: Option<Assembler>,
    /// The next line is the rest of a line whose head was final.
    mid_line: bool,
}

impl Framing {
    pub fn new(parser: &Parser, limit: usize, mid_line: bool, carried: &[Carried]) -> Self {
        let assembler = (!parser.single_line()).then(|| Assembler::new(limit, carried));
        Self { lines: Lines::new(limit), assembler, mid_line }
    }

    /// Whether every line is a record of its own.
    pub const fn single(&self) -> bool {
        self.assembler.is_none()
    }

    pub const fn assembler(&self) -> Option<&Assembler> {
        self.assembler.as_ref()
    }

    pub const fn assembler_mut(&mut self) -> Option<&mut Assembler> {
        self.assembler.as_mut()
    }

    /// Frames bytes that begin at `start`.
    pub fn feed(
        &mut self,
        start: u64,
        bytes: &[u8],
        parser: &Parser,
        now_ms: u64,
        handler: &mut impl Handler,
    ) {
        let Self { lines, assembler, mid_line } = self;
        lines.feed(start, bytes, |line| {
            let place =
                Place { mid_line: std::mem::take(mid_line), begun: handler.begun(), now_ms };
            one(line, place, parser, assembler.as_mut(), handler);
        });
    }

    /// The origin ends at `end`: its last line needs no newline, and all records end.
    pub fn finish(&mut self, end: u64, parser: &Parser, now_ms: u64, handler: &mut impl Handler) {
        let Self { lines, assembler, mid_line } = self;
        lines.end(end, |line| {
            let place =
                Place { mid_line: std::mem::take(mid_line), begun: handler.begun(), now_ms };
            one(line, place, parser, assembler.as_mut(), handler);
        });
        self.end_records(handler);
    }

    /// All open records end.
    pub fn end_records(&mut self, handler: &mut impl Handler) {
        if let Some(assembler) = &mut self.assembler {
            assembler.end(&mut |event| handler.event(event));
        }
    }
}

#[inline]
fn one(
    line: Line<'_>,
    place: Place,
    parser: &Parser,
    assembler: Option<&mut Assembler>,
    handler: &mut impl Handler,
) {
    if let Some(assembler) = assembler {
        assembler.line(line, place, parser, &mut |event| handler.event(event));
        return;
    }
    if line.bytes.is_empty() && line.hole_bytes == 0 {
        handler.event(Event::Line { line, class: Class::Blank, record: None, full: None });
        return;
    }
    let mut flags = Flags { continued: place.mid_line, ..Flags::default() };
    flags.note(line);
    handler.event(Event::Record(Framed {
        start: line.start,
        text: line.bytes,
        flags,
        closed: true,
        amends: false,
        unchanged: false,
    }));
}

/// One record's text, for those who only read: `bitacora parse` and `check`.
#[derive(Debug)]
pub struct FramedRecord<'a> {
    /// Offset of its first line.
    pub start: u64,
    /// Its lines joined by LF. Not always UTF-8.
    pub text: &'a [u8],
    /// What to note about it.
    pub flags: Flags,
}

/// Frames a whole text from its beginning; the records come in the order in which they end.
/// `each` answers whether the record has a time.
pub struct Framer<'a, F> {
    framing: Framing,
    parser: &'a Parser,
    at: u64,
    handler: Each<F>,
}

struct Each<F> {
    each: F,
    begun: bool,
}

impl<F: FnMut(FramedRecord<'_>) -> bool> Handler for Each<F> {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Record(Framed { start, text, flags, .. }) = event {
            self.begun |= (self.each)(FramedRecord { start, text, flags });
        }
    }

    fn begun(&self) -> bool {
        self.begun
    }
}

impl<'a, F: FnMut(FramedRecord<'_>) -> bool> Framer<'a, F> {
    /// Frames with `parser`, lines and records of at most `limit` bytes.
    pub fn new(parser: &'a Parser, limit: usize, each: F) -> Self {
        let framing = Framing::new(parser, limit, false, &[]);
        Self { framing, parser, at: 0, handler: Each { each, begun: false } }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.framing.feed(self.at, bytes, self.parser, 0, &mut self.handler);
        self.at += bytes.len() as u64;
    }

    /// The text ends here.
    pub fn finish(mut self) {
        self.framing.finish(self.at, self.parser, 0, &mut self.handler);
    }
}
