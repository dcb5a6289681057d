//! The spool as a source: its segments, in order, become inputs for the workers; a segment whose
//! lanes are all committed is deleted.
//!
//! Like the tailer a state machine without a thread: a caller steps it and tells it what the store
//! has. A lane of a segment is an origin with one context, as its bytes never change.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::file::{
    Change, KnownOrigin, MARKER_BYTES, NewOrigin, TailState, TailStateError, marker,
};
use super::socket::lane;
use super::{CHUNK_BYTES_MAX, Chunk, Input, Opening};
use crate::key::Table;
use crate::ledger::{
    Cause, Context, Encoding, KernelIdentity, LossReceipt, OriginId, OriginRecord,
};
use crate::parse::Format;
use crate::parse::socket::Sent;
use crate::spool::reader::sealed;
use crate::spool::{self, Block, Lane, SegmentReader, SpoolError, Usage};

/// Longest line of the spool: a record of the longest kind, escaped, in its envelope.
const LINE_BYTES_MAX: u64 = 768 << 10;

/// Why it cannot go on for now.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The state.
    #[error(transparent)]
    State(#[from] TailStateError),
}

/// What a step says.
#[derive(Debug)]
pub enum DrainEvent {
    /// Write this origin and its contexts to the store, then call [`Drain::announced`].
    Announce(OriginRecord, Vec<Context>),
    /// For the worker of its origin.
    Input(Input),
    /// For metrics; the state's outbox has it for the store.
    Receipt(LossReceipt),
    /// A damaged segment was set aside: for the log.
    SetAside(PathBuf, SpoolError),
}

/// What it needs to know.
#[derive(Debug, Clone)]
pub struct DrainConfig {
    /// The spool's directory.
    pub dir: PathBuf,
    /// The machine's id.
    pub machine: String,
    /// Column `host`.
    pub host: String,
}

/// See the module.
pub struct Drain {
    config: DrainConfig,
    state: Arc<dyn TailState>,
    usage: Arc<Usage>,
    known: BTreeMap<OriginId, KnownOrigin>,
    segments: BTreeMap<u64, Segment>,
    /// Segments up to this number are in `segments`.
    listed: u64,
    /// The segment and the lane of each origin.
    lanes: BTreeMap<OriginId, (u64, i64)>,
    /// Everything that was there at the last step has been handed out.
    caught_up: bool,
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").field("segments", &self.segments.len()).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Segment {
    reader: Option<SegmentReader>,
    /// It was opened while it was being written.
    opened_active: bool,
    /// The last block that was handed out, or was committed before.
    last: i64,
    lanes: BTreeMap<i64, Drained>,
    /// It grows no more, and all of it was handed out.
    whole: bool,
}

#[derive(Debug)]
struct Drained {
    origin: OriginId,
    context: Context,
    announced: bool,
    opened: bool,
    /// End of what was handed out.
    handed: u64,
    /// End of what is committed.
    end: u64,
}

impl Drain {
    /// Knows what the state knows; opens no segment yet.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn new(
        config: DrainConfig,
        state: Arc<dyn TailState>,
        usage: Arc<Usage>,
    ) -> Result<Self, TailStateError> {
        let origins = state.origins()?.into_iter();
        let ours = origins.filter(|one| one.record.encoding == Encoding::Spool && !one.finished);
        let known = ours.map(|one| (one.record.id, one)).collect();
        let (segments, lanes) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { config, state, usage, known, segments, listed: 0, lanes, caught_up: false })
    }

    /// Hands out up to about `room` chunks; answers whether there is more at once.
    ///
    /// # Errors
    ///
    /// The spool or the state cannot be used for now: it is to be tried again.
    pub fn step(
        &mut self,
        room: usize,
        now_ms: i64,
        out: &mut Vec<DrainEvent>,
    ) -> Result<bool, DrainError> {
        self.caught_up = false;
        self.list()?;
        let mut left = room;
        let numbers: Vec<u64> = self.segments.keys().copied().collect();
        for number in numbers {
            if left == 0 {
                return Ok(true);
            }
            match self.drain(number, &mut left, now_ms, out) {
                Ok(true) => {}
                Ok(false) => {
                    self.delete_done()?;
                    return Ok(left == 0); // what is younger waits its turn
                }
                Err(DrainError::Spool(error @ SpoolError::Damaged { .. }))
                    if number < self.usage.active() =>
                {
                    self.lose(number, error, now_ms, out)?;
                }
                Err(error) => return Err(error),
            }
        }
        self.caught_up = left > 0;
        self.delete_done()?;
        Ok(left == 0)
    }

    /// Whether everything that was there at the last step has been handed out.
    #[must_use]
    pub const fn caught_up(&self) -> bool {
        self.caught_up
    }

    /// The store has an origin and its contexts.
    pub fn announced(&mut self, origin: OriginId) {
        if let Some(drained) = self.of(origin) {
            drained.announced = true;
        }
    }

    /// How far the store has an origin.
    pub fn committed(&mut self, origin: OriginId, end: u64) {
        if let Some(drained) = self.of(origin) {
            drained.end = drained.end.max(end);
        }
    }

    fn of(&mut self, origin: OriginId) -> Option<&mut Drained> {
        let (number, lane) = self.lanes.get(&origin)?;
        self.segments.get_mut(number)?.lanes.get_mut(lane)
    }

    fn list(&mut self) -> Result<(), DrainError> {
        let active = self.usage.active();
        if self.listed >= active {
            return Ok(());
        }
        // the active one may not be made yet
        for number in spool::segments(&self.config.dir)? {
            if number > self.listed && number <= active {
                self.segments.insert(number, Segment::default());
                self.listed = number;
            }
        }
        Ok(())
    }

    /// Goes on with one segment; answers whether all that is there of it has been handed out.
    fn drain(
        &mut self,
        number: u64,
        left: &mut usize,
        now_ms: i64,
        out: &mut Vec<DrainEvent>,
    ) -> Result<bool, DrainError> {
        let closed = number < self.usage.active();
        self.open(number, closed, now_ms, out)?;
        while *left > 0 {
            let Some(segment) = self.segments.get_mut(&number) else { return Ok(true) };
            if segment.whole {
                return Ok(true);
            }
            let Some(reader) = &segment.reader else { return Ok(false) };
            let Some(block) = reader.block_after(segment.last)? else {
                if closed && !segment.opened_active {
                    segment.finish(out);
                }
                return Ok(true);
            };
            if !segment.lanes.contains_key(&block.lane) {
                self.begin_lanes(number, now_ms, out)?;
            }
            let Some(segment) = self.segments.get_mut(&number) else { return Ok(true) };
            if !segment.hand_out(&block, &*self.state, left, out)? {
                return Ok(false); // the store does not know its origin yet
            }
        }
        Ok(false)
    }

    fn open(
        &mut self,
        number: u64,
        closed: bool,
        now_ms: i64,
        out: &mut Vec<DrainEvent>,
    ) -> Result<(), DrainError> {
        let Some(segment) = self.segments.get_mut(&number) else { return Ok(()) };
        if segment.whole || segment.reader.is_some() && !(closed && segment.opened_active) {
            return Ok(());
        }
        // only when it grows no more is it known how much of it counts
        let seal = match self.usage.sealed(number) {
            None if closed => sealed(&self.config.dir, number)?,
            seal => seal,
        };
        let again = segment.reader.is_some();
        segment.reader = Some(SegmentReader::open(&self.config.dir, number, seal)?);
        segment.opened_active = !closed;
        if again {
            return Ok(());
        }
        self.begin_lanes(number, now_ms, out)?;
        let Some(segment) = self.segments.get_mut(&number) else { return Ok(()) };
        let ends: Vec<(i64, u64)> =
            segment.lanes.iter().map(|(id, lane)| (*id, lane.handed)).collect();
        if let Some(reader) = &segment.reader {
            segment.last = reader.block_before(&ends)?;
        }
        Ok(())
    }

    /// Lanes that are not known here yet get their origins.
    fn begin_lanes(
        &mut self,
        number: u64,
        now_ms: i64,
        out: &mut Vec<DrainEvent>,
    ) -> Result<(), DrainError> {
        let Some(segment) = self.segments.get_mut(&number) else { return Ok(()) };
        let Some(reader) = &segment.reader else { return Ok(()) };
        let path = spool::path_of(&self.config.dir, number);
        let mut new = Vec::new();
        let mut fresh = Vec::new();
        for lane in reader.lanes()? {
            if segment.lanes.contains_key(&lane.id) {
                continue;
            }
            let context = context_of(&lane).ok_or_else(|| SpoolError::Damaged {
                path: path.clone(),
                detail: format!("its lane {:?} is unknown to this program", lane.name),
            })?;
            let record = self.config.record(&path, &lane);
            let known = self.known.get(&lane.origin);
            if known.is_none() {
                let (path, context) = (record.path.clone(), context.clone());
                let (record, marker) = (record.clone(), marker(b""));
                let mtime_ns = now_ms.saturating_mul(1_000_000);
                new.push(NewOrigin { record, path, mtime_ns, marker, context });
            }
            let end = known.map_or(0, |known| known.end);
            let drained = Drained {
                origin: lane.origin,
                context,
                announced: false,
                opened: false,
                handed: end,
                end,
            };
            fresh.push((lane.id, record, drained));
        }
        if !new.is_empty() {
            self.state.add_origins(&new)?;
        }
        for (id, record, drained) in fresh {
            out.push(DrainEvent::Announce(record, vec![drained.context.clone()]));
            self.lanes.insert(drained.origin, (number, id));
            segment.lanes.insert(id, drained);
        }
        Ok(())
    }

    /// Deletes segments of which everything is committed.
    fn delete_done(&mut self) -> Result<(), DrainError> {
        while let Some((&number, segment)) = self.segments.first_key_value() {
            let done = segment.whole && segment.lanes.values().all(|lane| lane.end >= lane.handed);
            if !done {
                return Ok(());
            }
            let finished: Vec<Change> = segment
                .lanes
                .values()
                .map(|lane| Change::Finished { origin: lane.origin, finished: true })
                .collect();
            let bytes = segment.reader.as_ref().map(SegmentReader::bytes).transpose()?;
            self.state.update(&finished)?;
            spool::remove(&self.config.dir, number)?;
            self.usage.remove(bytes.unwrap_or(0));
            self.forget(number);
        }
        Ok(())
    }

    fn forget(&mut self, number: u64) {
        if let Some(segment) = self.segments.remove(&number) {
            for lane in segment.lanes.values() {
                self.lanes.remove(&lane.origin);
                self.known.remove(&lane.origin);
            }
        }
    }

    /// A damaged segment is set aside; what was not handed out of it is lost, and that is said.
    fn lose(
        &mut self,
        number: u64,
        error: SpoolError,
        now_ms: i64,
        out: &mut Vec<DrainEvent>,
    ) -> Result<(), DrainError> {
        let path = spool::path_of(&self.config.dir, number);
        let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
        let lanes = self.segments.get(&number).map(|one| one.lanes.values()).into_iter().flatten();
        let mut lost: Vec<(OriginId, u64, String)> =
            lanes.map(|lane| (lane.origin, lane.handed, lane.context.source.clone())).collect();
        if lost.is_empty() {
            lost.push((0, number, super::socket::SOURCE.to_owned()));
        }
        let aside = spool::set_aside(&self.config.dir, number, now_ms)?;
        let mut changes = Vec::new();
        for (origin, start_bytes, source) in lost {
            let receipt = LossReceipt {
                origin,
                start_bytes,
                end_bytes: None,
                cause: Cause::Spool,
                source,
                host: self.config.host.clone(),
                path: aside.clone(),
                noticed_ms: now_ms,
                detail: format!(
                    "the spool's segment was damaged ({error}) and is set aside; records in it \
                     that were not stored yet are lost"
                ),
            };
            changes.push(Change::Lost(Box::new(receipt.clone())));
            out.push(DrainEvent::Receipt(receipt));
            if origin != 0 {
                changes.push(Change::Finished { origin, finished: true });
            }
        }
        self.state.update(&changes)?;
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.finish(out);
        }
        self.usage.remove(bytes);
        self.forget(number);
        out.push(DrainEvent::SetAside(aside, error));
        Ok(())
    }

    /// Source, origin and end of what was handed out, of every lane that is not done.
    pub fn handed(&self) -> impl Iterator<Item = (&str, OriginId, u64)> {
        let lanes = self.segments.values().flat_map(|segment| segment.lanes.values());
        lanes.map(|lane| (&*lane.context.source, lane.origin, lane.handed))
    }
}

impl Segment {
    fn finish(&mut self, out: &mut Vec<DrainEvent>) {
        self.whole = true;
        for lane in self.lanes.values_mut() {
            if std::mem::take(&mut lane.opened) {
                out.push(DrainEvent::Input(Input::Finish { origin: lane.origin }));
            }
        }
    }

    /// `false` if it cannot be handed out yet.
    fn hand_out(
        &mut self,
        block: &Block,
        state: &dyn TailState,
        left: &mut usize,
        out: &mut Vec<DrainEvent>,
    ) -> Result<bool, DrainError> {
        let (Some(lane), Some(reader)) = (self.lanes.get_mut(&block.lane), &self.reader) else {
            return Ok(false);
        };
        let end = block.start + block.bytes.len() as u64;
        if end > lane.handed {
            if !lane.announced {
                return Ok(false);
            }
            if !lane.opened {
                let before = reader.bytes_before(block.lane, lane.handed, MARKER_BYTES as u64)?;
                out.push(DrainEvent::Input(Input::Open(lane.opening(before, state)?)));
                lane.opened = true;
            }
            let skip = usize::try_from(lane.handed.saturating_sub(block.start)).unwrap_or(0);
            for bytes in block.bytes.get(skip..).unwrap_or_default().chunks(CHUNK_BYTES_MAX) {
                let chunk =
                    Chunk { origin: lane.origin, start: lane.handed, bytes: bytes.to_vec() };
                lane.handed += bytes.len() as u64;
                *left = left.saturating_sub(1);
                out.push(DrainEvent::Input(Input::Chunk(chunk)));
            }
        }
        self.last = block.id;
        Ok(true)
    }
}

impl Drained {
    fn opening(&self, before: Vec<u8>, state: &dyn TailState) -> Result<Opening, DrainError> {
        let detail = state.detail(self.origin)?;
        Ok(Opening {
            origin: self.origin,
            at: self.handed,
            context: self.context.clone(),
            first_anchor_ms: self.context.anchor_ms,
            before,
            running_ms: detail.running_ms,
            carried: detail.carried,
        })
    }
}

impl DrainConfig {
    fn record(&self, segment: &std::path::Path, lane: &Lane) -> OriginRecord {
        let mut path = segment.as_os_str().to_owned();
        path.push(format!("#{}", lane.name.replace(' ', ":")));
        OriginRecord {
            id: lane.origin,
            machine: self.machine.clone(),
            host: self.host.clone(),
            path: path.into(),
            kernel: KernelIdentity::default(),
            head_hash: 0,
            head_bytes: 0,
            first_offset: 0,
            born_ms: lane.born_ms,
            encoding: Encoding::Spool,
        }
    }
}

/// What decides the rows of a lane; `None` if this program has no such lanes.
fn context_of(lane_of: &Lane) -> Option<Context> {
    let (sent, source) = lane(&lane_of.name)?;
    let format = Format::Socket(sent);
    let table = match sent {
        Sent::Json => Table::Application,
        Sent::Event => Table::Events,
        Sent::Syslog => Table::Infrastructure,
    };
    Some(Context {
        origin: lane_of.origin,
        from_bytes: 0,
        source: source.to_owned(),
        table,
        format: format.name().to_owned(),
        options: BTreeMap::from([("source".to_owned(), source.to_owned())]),
        timezone: "UTC".to_owned(),
        anchor_ms: lane_of.born_ms,
        max_line_bytes: LINE_BYTES_MAX,
        parser_version: format.version(),
    })
}
