//! One segment as it is drained.

use std::collections::BTreeMap;

use super::{DrainError, DrainEvent};
use crate::key::Table;
use crate::ledger::{Context, OriginId};
use crate::parse::Format;
use crate::parse::socket::Sent;
use crate::sources::file::{Change, MARKER_BYTES, TailState};
use crate::sources::socket::lane;
use crate::sources::{CHUNK_BYTES_MAX, Chunk, Input, Opening};
use crate::spool::{Block, Lane, SegmentReader, SpoolError};

/// Longest line of the spool: a record of the longest kind, escaped, in its envelope.
const LINE_BYTES_MAX: u64 = 768 << 10;

#[derive(Debug, Default)]
pub(super) struct Segment {
    pub reader: Option<SegmentReader>,
    /// It was opened while it was being written.
    pub opened_active: bool,
    /// The last block that was handed out, or was committed before.
    pub last: i64,
    pub lanes: BTreeMap<i64, Drained>,
    /// It grows no more, and all that can be had of it was handed out.
    pub whole: bool,
    /// Why the rest of it cannot be had.
    pub damage: Option<SpoolError>,
}

#[derive(Debug)]
pub(super) struct Drained {
    pub origin: OriginId,
    pub context: Context,
    pub announced: bool,
    pub opened: bool,
    /// End of what was handed out.
    pub handed: u64,
    /// End of what is committed.
    pub end: u64,
}

impl Segment {
    /// Everything that was handed out is committed, and nothing more will be.
    pub fn is_settled(&self) -> bool {
        self.whole && self.lanes.values().all(|lane| lane.end >= lane.handed)
    }

    /// Its origins grow no more.
    pub fn finished(&self) -> Vec<Change> {
        let finished = |lane: &Drained| Change::Finished { origin: lane.origin, finished: true };
        self.lanes.values().map(finished).collect()
    }

    /// No more is handed out.
    pub fn finish(&mut self, out: &mut Vec<DrainEvent>) {
        self.whole = true;
        for lane in self.lanes.values_mut() {
            if std::mem::take(&mut lane.opened) {
                out.push(DrainEvent::Input(Input::Finish { origin: lane.origin }));
            }
        }
    }

    /// `false` if it cannot be handed out yet.
    pub fn hand_out(
        &mut self,
        block: &Block,
        state: &dyn TailState,
        left: &mut usize,
        out: &mut Vec<DrainEvent>,
    ) -> Result<bool, DrainError> {
        let (Some(lane), Some(reader)) = (self.lanes.get_mut(&block.lane), &self.reader) else {
            return Ok(false);
        };
        if block.start > lane.handed {
            let (id, start) = (block.id, block.start);
            let detail = format!("block {id} begins at {start}, not at {}", lane.handed);
            return Err(reader.damaged(detail).into());
        }
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

/// What decides the rows of a lane; `None` if this program has no such lanes.
pub(super) fn context_of(lane_of: &Lane) -> Option<Context> {
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
