//! The bytes of one lane of a segment, one after the other: to look at what was stored once more.

use std::io::{self, Read};
use std::path::Path;

use super::reader::{SegmentReader, sealed};
use super::{SpoolError, number_of};
use crate::ledger::OriginId;

/// Reads a lane from its first byte on.
#[derive(Debug)]
pub struct LaneBytes {
    reader: SegmentReader,
    lane: i64,
    /// The last block that was looked at.
    last: i64,
    block: Vec<u8>,
    taken: usize,
}

impl LaneBytes {
    /// The lane of an origin; `None` if the segment has no such lane.
    ///
    /// # Errors
    ///
    /// The file is no segment, or cannot be read.
    pub fn open(segment: &Path, origin: OriginId) -> Result<Option<Self>, SpoolError> {
        let name = segment.file_name().and_then(|name| name.to_str());
        let place = segment.parent().zip(name.and_then(number_of));
        let Some((dir, number)) = place.filter(|_| segment.exists()) else {
            let detail = "it was drained and removed".to_owned();
            return Err(SpoolError::Io { path: segment.to_owned(), detail });
        };
        let reader = SegmentReader::open(dir, number, sealed(dir, number)?)?;
        let lane = reader.lanes()?.into_iter().find(|lane| lane.origin == origin);
        Ok(lane.map(|lane| Self { reader, lane: lane.id, last: 0, block: Vec::new(), taken: 0 }))
    }
}

impl Read for LaneBytes {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.taken >= self.block.len() {
            let next = self.reader.block_after(self.last, i64::MAX).map_err(io::Error::other)?;
            let Some(next) = next else { return Ok(0) };
            self.last = next.id;
            if next.lane == self.lane {
                (self.block, self.taken) = (next.bytes, 0);
            }
        }
        let read = self.block.get(self.taken..).unwrap_or_default().read(to)?;
        self.taken += read;
        Ok(read)
    }
}
