//! `audit`: proves from the store alone that every byte of a followed file lies in exactly one
//! span and every line of a span is one row or is counted under a reason; with `deep`, against
//! the file's own bytes.

mod deep;
mod tiling;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use serde::Serialize;

pub use deep::{Wanted, repair, verify};
pub use tiling::{Expected, check_origin, key_hash};

use crate::ledger::{LossReceipt, OriginId, StoredOrigin};
use crate::stores::expired::{EndedOrigin, Tombstone};
use crate::stores::{LogReader, StoreError};

/// What is wrong with one origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Fault {
    /// Bytes between two spans belong to none.
    Gap {
        /// First byte.
        start_bytes: u64,
        /// One past the last byte.
        end_bytes: u64,
    },
    /// Bytes belong to two spans.
    Overlap {
        /// First byte.
        start_bytes: u64,
        /// One past the last byte.
        end_bytes: u64,
    },
    /// A span's own counts disagree.
    Counts {
        /// Where the span begins.
        start_bytes: u64,
        /// How they disagree.
        detail: String,
    },
    /// Rows that a span counts are not in the store.
    Missing {
        /// Where the span begins.
        start_bytes: u64,
        /// Where it ends.
        end_bytes: u64,
        /// How many.
        rows: u64,
    },
    /// The store has more rows in a span's bytes than the span counts.
    Excess {
        /// Where the span begins.
        start_bytes: u64,
        /// Where it ends.
        end_bytes: u64,
        /// How many.
        rows: u64,
    },
    /// Rows before the origin's first byte.
    Outside {
        /// How many.
        rows: u64,
    },
    /// The file's bytes are not those that were read.
    Checksum {
        /// Where the span begins.
        start_bytes: u64,
        /// Where it ends.
        end_bytes: u64,
    },
    /// A line of the file has no row, though its span counts one.
    RowMissing {
        /// Where the line begins.
        offset_bytes: u64,
    },
    /// A row stands where no record begins, or under another time.
    RowStray {
        /// Its offset.
        offset_bytes: u64,
    },
}

/// The audit of one origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OriginAudit {
    /// Its number.
    pub origin: OriginId,
    /// Its host.
    pub host: String,
    /// Where its file was first seen.
    pub path: PathBuf,
    /// Bytes in spans.
    pub bytes: u64,
    /// Rows that the spans count.
    pub rows: u64,
    /// Lines that the spans count.
    pub lines: u64,
    /// Rows behind the last span: written, not yet committed.
    pub uncommitted_rows: u64,
    /// Spans whose rows have all expired.
    pub expired_spans: u64,
    /// Rows that have expired: of those spans, and of days that retention has ended.
    pub expired_rows: u64,
    /// With `deep`: whether the file was there to be read.
    pub deep: Option<Deep>,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// What `deep` could check of an origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "checked")]
pub enum Deep {
    /// Its bytes up to here agree, or faults say where not.
    Checked {
        /// The file that was read.
        file: PathBuf,
        /// Bytes that were read.
        bytes: u64,
    },
    /// The file is gone: not checked, not failed.
    NotChecked {
        /// Why.
        why: String,
    },
}

/// The whole audit.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Each origin, by path.
    pub origins: Vec<OriginAudit>,
    /// Rows of origins that the store does not know.
    pub stray_rows: u64,
    /// Losses that are known and have a receipt.
    pub receipts: Vec<LossReceipt>,
    /// Rows kept as dead letters.
    pub dead_letters: u64,
    /// What retention has ended, by which policy and when.
    pub expired: Vec<Tombstone>,
    /// Origins that retention has ended: nothing but this is known of them.
    pub ended: Vec<EndedOrigin>,
    /// Rows of those that still stand, and go by themselves.
    pub ended_rows_left: u64,
}

impl Report {
    /// Whether nothing is wrong. Receipts are no faults: what they say was lost is accounted for.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.stray_rows == 0 && self.origins.iter().all(|origin| origin.faults.is_empty())
    }

    /// Rows that have expired, of all origins, those included that have ended.
    #[must_use]
    pub fn expired_rows(&self) -> u64 {
        let known: HashSet<OriginId> = self.origins.iter().map(|origin| origin.origin).collect();
        let ended = self.ended.iter().filter(|ended| !known.contains(&ended.origin));
        let live: u64 = self.origins.iter().map(|origin| origin.expired_rows).sum();
        live + ended.map(|ended| ended.rows).sum::<u64>()
    }

    /// Sums over all origins: bytes, lines, rows.
    #[must_use]
    pub fn totals(&self) -> (u64, u64, u64) {
        self.origins.iter().fold((0, 0, 0), |(bytes, lines, rows), origin| {
            (bytes + origin.bytes, lines + origin.lines, rows + origin.rows)
        })
    }
}

/// What the store says, counted: the input of [`verify`].
pub struct Audited {
    /// The report so far.
    pub report: Report,
    /// All origins, in the report's order.
    pub origins: Vec<StoredOrigin>,
    /// Rows by span.
    pub expected: Expected,
    /// Rows that are in the store.
    pub rows: u64,
}

/// Audits everything in the store. `now_ms` decides which spans have expired.
///
/// # Errors
///
/// The store cannot be read.
pub async fn audit(reader: &dyn LogReader, now_ms: i64) -> Result<Audited, StoreError> {
    let mut origins = reader.origins(None).await?;
    origins.sort_by(|a, b| {
        (&a.record.path, a.record.born_ms).cmp(&(&b.record.path, b.record.born_ms))
    });
    let letters = reader.dead_letters().await?;
    let tombstones = reader.tombstones().await?;
    let ended = reader.ended_origins().await?;
    let ended_at: HashMap<OriginId, u64> =
        ended.iter().map(|ended| (ended.origin, ended.end_bytes)).collect();
    let mut expected = Expected::new(&origins, &letters, tombstones.iter().collect(), now_ms);
    let (mut rows, mut stray_rows, mut ended_rows_left) = (0, 0, 0);
    reader
        .visit_keys(&mut |_, key| {
            rows += 1;
            if !expected.row(key) {
                let ended = ended_at.contains_key(&key.origin);
                ended_rows_left += u64::from(ended);
                stray_rows += u64::from(!ended);
            }
            true
        })
        .await?;
    let audits = origins
        .iter()
        .map(|origin| check_origin(origin, ended_at.get(&origin.record.id).copied(), &expected))
        .collect();
    let receipts = reader.receipts().await?;
    let dead_letters = letters.len() as u64;
    let report = Report {
        origins: audits,
        stray_rows,
        receipts,
        dead_letters,
        expired: tombstones,
        ended,
        ended_rows_left,
    };
    Ok(Audited { report, origins, expected, rows })
}
