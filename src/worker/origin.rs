//! The reading state of one origin: framing, parsing, accounting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::account::{Account, Counted, Records};
use super::assemble::{Class, Event, Framed};
use super::event::user_of;
use super::fill::{Fill, Recent, Whose};
use super::frame::{Framing, Handler};
use super::{Numbers, Output, WorkerError, format_of, row};
use crate::duration::Rung;
use crate::key::{RowKey, Table};
use crate::ledger::{Context, OriginId, PieceId, Reason};
use crate::parse::{Clock, Parser};
use crate::record::{Field, Record};
use crate::sources::Opening;

/// See the module.
pub(super) struct OriginWork {
    origin: OriginId,
    framing: Framing,
    core: Core,
}

/// Everything that an event of the framing touches.
struct Core {
    parser: Arc<Parser>,
    clock: Clock,
    source: Arc<str>,
    table: Table,
    anchor_ms: i64,
    account: Account,
    /// Where the account's summed lines end, with the checksum and marker there.
    summed: Option<(u64, u64, u64)>,
    /// The group that rows register with their batches: the id of the next piece.
    group: PieceId,
    group_batches: u32,
    recent: Recent,
    fields: Vec<Field<'static>>,
    /// End of the text that was handed out early, and whether a piece has said so.
    covered: Option<u64>,
}

/// What an event needs from outside, while a chunk is worked on.
struct Step<'a> {
    core: &'a mut Core,
    parser: &'a Parser,
    origin: OriginId,
    single: bool,
    /// The bytes at hand.
    bytes: &'a [u8],
    /// Lines that begin at or after this offset are UTF-8, as far as they are not cut.
    utf8_from: Option<u64>,
    now_ms: u64,
    fill: &'a mut Fill,
    output: &'a mut Output,
}

impl OriginWork {
    pub fn open(
        opening: Opening,
        group: PieceId,
        parsers: &mut Parsers,
    ) -> Result<Self, WorkerError> {
        let Opening { origin, at, context, first_anchor_ms, before, running_ms, carried } = opening;
        let mid_line = at > 0 && before.last().is_some_and(|&byte| byte != b'\n');
        let limit = limit_of(&context);
        let core = Core {
            parser: parsers.of(&context)?,
            clock: clock_of(&context)?,
            source: context.source.as_str().into(),
            table: context.table,
            anchor_ms: first_anchor_ms,
            account: Account::new(at, before, running_ms, &carried),
            summed: None,
            group,
            group_batches: 0,
            recent: Recent::default(),
            fields: Vec::new(),
            covered: None,
        };
        let framing = Framing::new(&core.parser, limit, mid_line, &carried);
        Ok(Self { origin, framing, core })
    }

    /// From here on another context is in force. All lines have been cut into pieces.
    pub fn change(&mut self, context: &Context, parsers: &mut Parsers) -> Result<(), WorkerError> {
        let limit = limit_of(context);
        self.core.parser = parsers.of(context)?;
        self.core.clock = clock_of(context)?;
        if *self.core.source != *context.source {
            self.core.source = context.source.as_str().into();
            self.core.recent = Recent::default();
        }
        if self.core.table != context.table {
            self.core.table = context.table;
            self.core.recent = Recent::default();
        }
        assert_eq!(self.framing.lines.unfinished_bytes(), 0, "all lines have ended");
        let mid_line = self.core.account.mid_line();
        self.framing = Framing::new(&self.core.parser, limit, mid_line, &[]);
        Ok(())
    }

    pub fn chunk(
        &mut self,
        start: u64,
        bytes: &[u8],
        now_ms: u64,
        fill: &mut Fill,
        output: &mut Output,
    ) {
        self.core.account.chunk_begins(start);
        self.core.covered = None;
        let utf8 = self.framing.lines.unfinished_bytes() == 0 && std::str::from_utf8(bytes).is_ok();
        let utf8_from = utf8.then_some(start);
        let parser = Arc::clone(&self.core.parser);
        let single = self.framing.single();
        let mut step = Step {
            core: &mut self.core,
            parser: &parser,
            origin: self.origin,
            single,
            bytes,
            utf8_from,
            now_ms,
            fill,
            output,
        };
        self.framing.feed(start, bytes, &parser, now_ms, &mut step);
        if single {
            let end = start + bytes.len() as u64 - self.framing.lines.unfinished_bytes();
            if end > self.core.account.boundary() {
                let total = self.core.account.sum_to(end, bytes);
                let marker = self.core.account.marker_at(bytes, end);
                self.core.summed = Some((end, total, marker));
            }
        }
        self.core.account.chunk_ends(bytes);
        // an origin that is quiet from now on needs no room for them
        self.core.fields = Vec::new();
    }

    /// The origin, or its context, ends: the last line is final, and so are all records.
    pub fn finish(&mut self, now_ms: u64, fill: &mut Fill, output: &mut Output) {
        let end = self.core.account.digested();
        let parser = Arc::clone(&self.core.parser);
        let single = self.framing.single();
        let unfinished = self.framing.lines.unfinished_bytes() > 0;
        let mut step = self.core.step(&parser, self.origin, single, now_ms, fill, output);
        self.framing.finish(end, &parser, now_ms, &mut step);
        if single && unfinished {
            self.core.summed = Some(self.core.account.here());
        }
    }

    /// Whether a record is open whose row is not written with all its text.
    pub fn has_open(&self) -> bool {
        self.framing.assembler().is_some_and(|assembler| assembler.oldest_start().is_some())
    }

    /// The source of its rows.
    pub fn source(&self) -> &str {
        &self.core.source
    }

    pub fn ship_early(
        &mut self,
        before_ms: u64,
        now_ms: u64,
        fill: &mut Fill,
        output: &mut Output,
    ) {
        if !self.core.parser.first_line_decides() {
            return;
        }
        let Self { origin, framing, core } = self;
        let Some(assembler) = framing.assembler_mut() else { return };
        let parser = Arc::clone(&core.parser);
        let mut step = core.step(&parser, *origin, false, now_ms, fill, output);
        assembler.ship_early(before_ms, &mut |event| step.event(event));
    }

    /// Makes a piece of all lines that are settled.
    pub fn cut(&mut self, pieces: &mut Numbers, output: &mut Output) {
        let open = self.framing.assembler().and_then(super::assemble::Assembler::oldest_start);
        let summed = self.core.summed.take();
        let (group, batches) = (self.core.group, self.core.group_batches);
        if let Some(piece) = self.core.account.cut(self.origin, open, summed, group, batches) {
            output.pieces.push(piece);
            self.core.next_group(pieces);
        }
    }

    /// Says once, by an empty piece, that all text of open records has been handed out.
    pub fn cover(&mut self, pieces: &mut Numbers, output: &mut Output) {
        let shipped = self.framing.assembler().is_some_and(super::assemble::Assembler::all_shipped);
        let end = self.core.account.entered_end();
        let Some(end) = end.filter(|_| shipped && self.framing.lines.unfinished_bytes() == 0)
        else {
            return;
        };
        if self.core.covered != Some(end) {
            self.core.covered = Some(end);
            let (group, batches) = (self.core.group, self.core.group_batches);
            output.pieces.push(self.core.account.cover(self.origin, end, group, batches));
            self.core.next_group(pieces);
        }
    }
}

impl Core {
    fn next_group(&mut self, pieces: &mut Numbers) {
        self.group = pieces.take();
        self.group_batches = 0;
    }

    fn step<'a>(
        &'a mut self,
        parser: &'a Parser,
        origin: OriginId,
        single: bool,
        now_ms: u64,
        fill: &'a mut Fill,
        output: &'a mut Output,
    ) -> Step<'a> {
        let (bytes, utf8_from) = (&b""[..], None);
        Step { core: self, parser, origin, single, bytes, utf8_from, now_ms, fill, output }
    }
}

impl Handler for Step<'_> {
    #[inline]
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Record(framed) => self.record(&framed),
            Event::Line { class: Class::Blank, .. } if self.single => {
                self.core.account.sum_reason(Reason::Blank);
            }
            Event::Line { line, class, record, full } => {
                let reason = match class {
                    Class::Blank => Some(Reason::Blank),
                    Class::Further => Some(Reason::Continued),
                    Class::First { .. } => None,
                };
                self.core.account.enter(line, reason, Records { of: record, full }, self.bytes);
                // framing asks whether any dated record has begun, not whether it has ended
                let first_of_all = self.core.account.running_ms.is_none();
                if let Class::First { among_others, continued: false } = class
                    && (among_others || first_of_all)
                {
                    self.fix_time(line.bytes);
                }
            }
            Event::Followed { start, line } => {
                if self.core.account.is_newest_row(start) {
                    self.fix_time(line);
                }
            }
        }
    }

    fn begun(&self) -> bool {
        self.core.account.running_ms.is_some()
    }
}

impl Step<'_> {
    /// Where records overlap, they end in another order than they begin, but the running time
    /// follows the order of the bytes: so it is taken from the first line at once.
    fn fix_time(&mut self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let mut record = Record::default();
        self.parser.parse(text.as_bytes(), &mut self.core.clock, &mut record);
        if let Some(ms) = record.time.and_then(crate::record::Time::row_millis) {
            self.core.account.running_ms = Some(ms);
        }
    }

    fn record(&mut self, framed: &Framed<'_>) {
        let lossy;
        // an open record may have begun in other bytes, and a cut may stand in mid-character
        let known = self.utf8_from.is_some_and(|from| framed.start >= from)
            && framed.flags.line_bytes.is_none();
        let (text, raw) = if known || std::str::from_utf8(framed.text).is_ok() {
            (framed.text, None)
        } else {
            lossy = String::from_utf8_lossy(framed.text);
            (lossy.as_bytes(), Some(framed.text))
        };
        let fields = reuse(std::mem::take(&mut self.core.fields));
        let mut record = Record { fields, ..Record::default() };
        if framed.flags.continued {
            record.not_understood(text);
        } else {
            self.parser.parse(text, &mut self.core.clock, &mut record);
        }
        let dated = record.time.and_then(crate::record::Time::row_millis);
        let running = if self.single {
            self.core.account.running_ms
        } else {
            self.core.account.running_before(framed.start)
        };
        let timestamp_ms = dated.or(running).unwrap_or(self.core.anchor_ms);
        let rung = if framed.unchanged {
            row::rung(self.core.table, &record)
        } else {
            self.write(framed, timestamp_ms, &record, raw)
        };
        let counted = Counted {
            timestamp_ms,
            level: record.level,
            rung,
            unparsed: !record.parsed,
            dated: dated.is_some(),
        };
        let fields = reuse(record.fields);
        self.core.fields = fields;
        if !framed.closed {
            return;
        }
        if self.single {
            if dated.is_some() {
                self.core.account.running_ms = dated;
            }
            self.core.account.sum_row(counted);
        } else {
            self.core.account.row_ended(framed.start, counted);
            // a record that ends behind the beginning of later ones has fixed its time already
            if dated.is_some() && self.core.account.is_newest_row(framed.start) {
                self.core.account.running_ms = dated;
            }
        }
    }

    /// Puts the row into a batch; answers on which rung it counts.
    fn write(
        &mut self,
        framed: &Framed<'_>,
        timestamp_ms: i64,
        record: &Record<'_>,
        raw: Option<&[u8]>,
    ) -> Option<Rung> {
        let offset_bytes = i64::try_from(framed.start).unwrap_or(i64::MAX);
        let key = RowKey { timestamp_ms, origin: self.origin, offset_bytes };
        let Core { source, table, group, recent, group_batches, .. } = &mut *self.core;
        let user = if *table == Table::Events { user_of(&record.fields) } else { 0 };
        let whose = Whose { table: *table, source, group: *group, key, level: record.level, user };
        let ready = &mut self.output.batches;
        let mut rung = None;
        let new = self.fill.row(&whose, recent, self.now_ms, ready, |batch| {
            row::write(batch, key, record, &framed.flags, raw);
            rung = batch.rows.last().and_then(|row| row.rung);
        });
        *group_batches += u32::from(new);
        if framed.amends {
            *self.output.amended.entry(self.core.source.to_string()).or_default() += 1;
        }
        rung
    }
}

/// Empties a list of fields for another lifetime and keeps its memory: an empty vector has
/// nothing to convert, and collecting in place keeps the allocation.
fn reuse<'b>(mut fields: Vec<Field<'_>>) -> Vec<Field<'b>> {
    fields.clear();
    fields.into_iter().map(|_| unreachable!("the list is empty")).collect()
}

fn limit_of(context: &Context) -> usize {
    usize::try_from(context.max_line_bytes).unwrap_or(usize::MAX).max(1)
}

/// Compiled parsers, one for all origins with the same format and options: with thousands of quiet
/// files they would be most of the memory.
#[derive(Default)]
pub(super) struct Parsers(HashMap<String, Vec<Known>>);

type Known = (BTreeMap<String, String>, Arc<Parser>);

impl Parsers {
    fn of(&mut self, context: &Context) -> Result<Arc<Parser>, WorkerError> {
        let known = self.0.entry(context.format.clone()).or_default();
        if let Some((_, parser)) = known.iter().find(|(options, _)| *options == context.options) {
            return Ok(Arc::clone(parser));
        }
        let format = format_of(context.origin, &context.format)?;
        let parser = Parser::new(format, &context.options)
            .map(Arc::new)
            .map_err(|source| WorkerError::Option { origin: context.origin, source })?;
        // of another configuration, before a reload
        known.retain(|(_, parser)| Arc::strong_count(parser) > 1);
        known.push((context.options.clone(), Arc::clone(&parser)));
        Ok(parser)
    }
}

fn clock_of(context: &Context) -> Result<Clock, WorkerError> {
    let zone = TimeZone::get(&context.timezone).map_err(|_| WorkerError::TimeZone {
        origin: context.origin,
        timezone: context.timezone.clone(),
    })?;
    Ok(Clock::new(zone, context.anchor_ms))
}
