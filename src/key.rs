//! Where a row stands: its key and its partition, both functions of the row alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::record::Level;

/// Milliseconds of one day.
pub const DAY_MS: i64 = 86_400_000;

/// The tables that hold log rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// `infrastructure_logs`
    Infrastructure,
    /// `application_logs`
    Application,
}

impl Table {
    /// Both tables.
    pub const ALL: [Self; 2] = [Self::Infrastructure, Self::Application];

    /// The table's name in every store.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure_logs",
            Self::Application => "application_logs",
        }
    }

    /// The word of the configuration: `infrastructure` or `application`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure",
            Self::Application => "application",
        }
    }

    /// Reads either word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.word() == word || table.name() == word)
    }
}

/// The clustering part of a row's primary key. Same line, same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The origin's number.
    pub origin: i64,
    /// Where the record's first line begins, in bytes.
    pub offset_bytes: i64,
}

/// How a source's day is cut into buckets. Rows never change their bucket: a layout holds for
/// whole days from its first day on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Hours of one time slot: a divisor of 24.
    pub slot_hours: u8,
    /// Shards of one slot, 1 to 64.
    pub shards: u8,
}

impl Default for Layout {
    fn default() -> Self {
        Self { slot_hours: 24, shards: 1 }
    }
}

/// Severity classes: 0 TRACE, DEBUG and INFO, 1 WARNING, 2 ERROR and CRITICAL.
pub const CLASSES: i16 = 3;

/// The severity class of a level, so that "the errors of today" are few, small partitions.
#[must_use]
pub const fn class(level: Level) -> i16 {
    match level {
        Level::Trace | Level::Debug | Level::Info => 0,
        Level::Warning => 1,
        Level::Error | Level::Critical => 2,
    }
}

impl Layout {
    /// The bucket of a row: `(shard * 24 + slot) * 3 + class`.
    #[must_use]
    pub fn bucket(self, level: Level, key: RowKey) -> i16 {
        let hour = key.timestamp_ms.rem_euclid(DAY_MS) / 3_600_000;
        let slot = hour / i64::from(self.slot_hours.max(1));
        let neighbourhood = key.origin.wrapping_add(key.offset_bytes >> 20);
        let shard = neighbourhood.rem_euclid(i64::from(self.shards.max(1)));
        // at most (63 * 24 + 23) * 3 + 2, which fits
        i16::try_from((shard * 24 + slot) * i64::from(CLASSES)).unwrap_or(0) + class(level)
    }

    /// Every bucket of one severity class in a day of this layout.
    pub fn buckets(self, class: i16) -> impl Iterator<Item = i16> {
        let slots = 24 / i16::from(self.slot_hours.clamp(1, 24));
        let shards = i16::from(self.shards.max(1));
        (0..shards).flat_map(move |shard| {
            (0..slots).map(move |slot| (shard * 24 + slot) * CLASSES + class)
        })
    }
}

/// The day of a time, in days since 1970 (UTC).
#[must_use]
pub fn day_of(timestamp_ms: i64) -> i32 {
    i32::try_from(timestamp_ms.div_euclid(DAY_MS)).unwrap_or(0)
}

/// One partition of the store: every row of a batch belongs to the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Partition {
    /// Which table.
    pub table: Table,
    /// Days since 1970.
    pub day: i32,
    /// The source's name.
    pub source: Arc<str>,
    /// See [`Layout::bucket`]; 0 in a store that has no buckets.
    pub bucket: i16,
}
