//! Reading a segment, beside the thread that writes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::segment::{self, Sealed};
use super::{SpoolError, path_of};
use crate::ledger::OriginId;

/// A lane of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Its number in the segment.
    pub id: i64,
    /// What its writer calls it.
    pub name: String,
    /// Its origin.
    pub origin: OriginId,
    /// When it was begun, wall clock in milliseconds.
    pub born_ms: i64,
}

/// Some lines of one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its number in the segment: blocks are in the order in which they came.
    pub id: i64,
    /// Of which lane.
    pub lane: i64,
    /// Offset of its first byte in the lane.
    pub start: u64,
    /// Whole lines.
    pub bytes: Vec<u8>,
}

/// An open segment.
#[derive(Debug)]
pub struct SegmentReader {
    path: PathBuf,
    db: Connection,
    /// The last block that counts.
    upto: i64,
}

impl SegmentReader {
    /// Opens a segment; `sealed` says how much of it counts, if the one after it says so.
    ///
    /// # Errors
    ///
    /// It cannot be opened, or is no segment.
    pub fn open(dir: &Path, number: u64, sealed: Option<Sealed>) -> Result<Self, SpoolError> {
        let path = path_of(dir, number);
        // a reader of a WAL file writes to its index
        let db = segment::open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)
            .map_err(|error| SpoolError::of(&path, &error))?;
        segment::check(&path, &db)?;
        let upto = sealed.filter(|one| one.segment == number).map_or(i64::MAX, |one| one.blocks);
        Ok(Self { path, db, upto })
    }

    /// Its lanes, as far as they have been begun.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn lanes(&self) -> Result<Vec<Lane>, SpoolError> {
        let read = || -> rusqlite::Result<Vec<Lane>> {
            let sql = "SELECT id, name, origin, born_ms FROM lanes ORDER BY id";
            let mut statement = self.db.prepare_cached(sql)?;
            let rows = statement.query_map([], |row| {
                Ok(Lane {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    origin: row.get(2)?,
                    born_ms: row.get(3)?,
                })
            })?;
            rows.collect()
        };
        read().map_err(|error| self.failed(&error))
    }

    /// The block after `after`, if it is there and not behind `upto`.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is damaged.
    pub fn block_after(&self, after: i64, upto: i64) -> Result<Option<Block>, SpoolError> {
        let read = || {
            let sql = "SELECT id, lane, start, crc, bytes FROM blocks WHERE id > ?1 AND id <= ?2 \
                       ORDER BY id LIMIT 1";
            let mut statement = self.db.prepare_cached(sql)?;
            let found = statement.query_row(params![after, self.upto.min(upto)], |row| {
                let crc: i64 = row.get(3)?;
                let block = Block {
                    id: row.get(0)?,
                    lane: row.get(1)?,
                    start: row.get::<_, i64>(2)?.cast_unsigned(),
                    bytes: row.get(4)?,
                };
                Ok((block, crc.cast_unsigned()))
            });
            found.optional()
        };
        let Some((block, crc)) = read().map_err(|error| self.failed(&error))? else {
            return Ok(None);
        };
        if block.id != after + 1 || segment::crc(&block.bytes) != crc {
            let detail = format!("block {} is not as it was written", after + 1);
            return Err(self.damaged(detail));
        }
        Ok(Some(block))
    }

    /// The last block up to which all blocks stand before these ends of their lanes: reading goes
    /// on behind it. One statement sees one state of a segment that is being written; a lane that
    /// `ends` does not name was begun after they were read.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn block_before(&self, ends: &BTreeMap<i64, u64>) -> Result<i64, SpoolError> {
        let read = || -> rusqlite::Result<i64> {
            let sql = "SELECT id, lane, start + length(bytes) FROM blocks WHERE id <= ?1 \
                       ORDER BY id";
            let mut statement = self.db.prepare_cached(sql)?;
            let mut rows = statement.query([self.upto])?;
            let mut last = 0;
            while let Some(row) = rows.next()? {
                let end = row.get::<_, i64>(2)?.cast_unsigned();
                if ends.get(&row.get(1)?).is_none_or(|known| end > *known) {
                    break;
                }
                last = row.get(0)?;
            }
            Ok(last)
        };
        read().map_err(|error| self.failed(&error))
    }

    /// The up to `length` bytes before `at` in a lane.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn bytes_before(&self, lane: i64, at: u64, length: u64) -> Result<Vec<u8>, SpoolError> {
        let from = at.saturating_sub(length);
        let read = || -> rusqlite::Result<Vec<u8>> {
            let sql = "SELECT start, bytes FROM blocks WHERE lane = ?1 AND start < ?2 \
                       AND start + length(bytes) > ?3 ORDER BY id";
            let mut statement = self.db.prepare_cached(sql)?;
            let mut rows = statement.query(params![lane, at.cast_signed(), from.cast_signed()])?;
            let mut before = Vec::new();
            while let Some(row) = rows.next()? {
                let start = row.get::<_, i64>(0)?.cast_unsigned();
                let bytes = row.get_ref(1)?.as_blob()?;
                let index =
                    |offset: u64| usize::try_from(offset.saturating_sub(start)).unwrap_or(0);
                let part = bytes.get(index(from)..index(at).min(bytes.len()));
                before.extend_from_slice(part.unwrap_or_default());
            }
            Ok(before)
        };
        read().map_err(|error| self.failed(&error))
    }

    /// Bytes of all its blocks.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn bytes(&self) -> Result<u64, SpoolError> {
        let sql = "SELECT coalesce(sum(length(bytes)), 0) FROM blocks WHERE id <= ?1";
        let sum = self.db.query_row(sql, [self.upto], |row| row.get::<_, i64>(0));
        sum.map(i64::cast_unsigned).map_err(|error| self.failed(&error))
    }

    /// What was read cannot be.
    #[must_use]
    pub fn damaged(&self, detail: String) -> SpoolError {
        SpoolError::Damaged { path: self.path.clone(), detail }
    }

    fn failed(&self, error: &rusqlite::Error) -> SpoolError {
        SpoolError::of(&self.path, error)
    }
}

/// What the segment after `number` says of it, if it is there and says anything; one that is
/// damaged says nothing.
///
/// # Errors
///
/// That segment cannot be read for now.
pub fn sealed(dir: &Path, number: u64) -> Result<Option<Sealed>, SpoolError> {
    let path = path_of(dir, number + 1);
    if !path.exists() {
        return Ok(None);
    }
    match segment::sealed_by(&path) {
        Err(SpoolError::Damaged { .. }) => Ok(None),
        answer => Ok(answer?.filter(|one| one.segment == number)),
    }
}
