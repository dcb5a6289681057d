//! The spool as a source: its segments, in order, become inputs for the workers; a segment whose
//! lanes are all committed is deleted.
//!
//! Like the tailer a state machine without a thread: a caller steps it and tells it what the store
//! has. A lane of a segment is an origin with one context, as its bytes never change.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use self::segment::{Drained, Segment, context_of};
use super::Input;
use super::file::{Change, KnownOrigin, NewOrigin, TailState, TailStateError, marker};
use crate::ledger::{
    Cause, Context, Encoding, KernelIdentity, LossReceipt, OriginId, OriginRecord,
};
use crate::spool::reader::sealed;
use crate::spool::{self, Lane, SegmentReader, SpoolError, Usage};

mod segment;
#[cfg(test)]
mod tests;

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
        // finished ones too: a crash may have come before their segment was deleted
        let ours = origins.filter(|one| one.record.encoding == Encoding::Spool);
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
                    self.end_segments(now_ms, out)?;
                    return Ok(left == 0); // what is younger waits its turn
                }
                Err(DrainError::Spool(error @ SpoolError::Damaged { .. }))
                    if number < self.usage.active() =>
                {
                    if let Some(segment) = self.segments.get_mut(&number) {
                        segment.finish(out);
                        segment.damage = Some(error);
                    }
                }
                Err(error) => {
                    if matches!(error, DrainError::Spool(SpoolError::Damaged { .. })) {
                        self.usage.give_up(number);
                    }
                    return Err(error);
                }
            }
        }
        self.caught_up = left > 0;
        self.end_segments(now_ms, out)?;
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

    /// Forgets origins that retention has ended.
    pub fn forget_origins(&mut self, ended: &[OriginId]) {
        let lanes = &self.lanes;
        self.known.retain(|id, _| lanes.contains_key(id) || !ended.contains(id));
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
            let upto = if closed { i64::MAX } else { self.usage.readable(number) };
            let Some(block) = reader.block_after(segment.last, upto)? else {
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
        let ends = segment.lanes.iter().map(|(id, lane)| (*id, lane.handed)).collect();
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
            let context = context_of(&lane).ok_or_else(|| SpoolError::Newer {
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

    /// Ends segments, in their order, of which everything that was handed out is committed: a
    /// whole one is deleted, a damaged one set aside.
    fn end_segments(&mut self, now_ms: i64, out: &mut Vec<DrainEvent>) -> Result<(), DrainError> {
        while let Some((&number, segment)) = self.segments.first_key_value() {
            if !segment.is_settled() {
                return Ok(());
            }
            if let Some(error) = segment.damage.clone() {
                self.lose(number, error, now_ms, out)?;
            } else {
                self.state.update(&segment.finished())?;
                spool::remove(&self.config.dir, number)?;
            }
            self.usage.remove(number);
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

    /// A damaged segment is set aside; what could not be handed out of it is lost, and that is
    /// said first: after a crash between the two it is said again, in the same words.
    fn lose(
        &mut self,
        number: u64,
        error: SpoolError,
        now_ms: i64,
        out: &mut Vec<DrainEvent>,
    ) -> Result<(), DrainError> {
        let Some(segment) = self.segments.get(&number) else { return Ok(()) };
        let path = spool::path_of(&self.config.dir, number);
        let receipt = |origin, start_bytes, source: &str| LossReceipt {
            origin,
            start_bytes,
            end_bytes: None,
            cause: Cause::Spool,
            source: source.to_owned(),
            host: self.config.host.clone(),
            path: path.clone(),
            noticed_ms: now_ms,
            detail: format!(
                "the spool's segment was damaged ({error}) and is set aside; records in it that \
                 were not stored yet are lost"
            ),
        };
        let lanes = segment.lanes.values();
        let mut lost: Vec<LossReceipt> =
            lanes.map(|lane| receipt(lane.origin, lane.handed, &lane.context.source)).collect();
        if lost.is_empty() {
            lost.push(receipt(0, number, super::socket::SOURCE));
        }
        let said = lost.iter().map(|receipt| Change::Lost(Box::new(receipt.clone())));
        let changes: Vec<Change> = said.chain(segment.finished()).collect();
        self.state.update(&changes)?;
        let aside = spool::set_aside(&self.config.dir, number, now_ms)?;
        out.extend(lost.into_iter().map(DrainEvent::Receipt));
        out.push(DrainEvent::SetAside(aside, error));
        Ok(())
    }

    /// Source, origin and end of what was handed out, of every lane that is not done.
    pub fn handed(&self) -> impl Iterator<Item = (&str, OriginId, u64)> {
        let lanes = self.segments.values().flat_map(|segment| segment.lanes.values());
        lanes.map(|lane| (&*lane.context.source, lane.origin, lane.handed))
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
