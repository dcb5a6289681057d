//! Where a row stands: its key and its partition, both functions of the row alone.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::record::Level;

/// Milliseconds of one day.
pub const DAY_MS: i64 = 86_400_000;

/// The tables that hold rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// `infrastructure_logs`
    Infrastructure,
    /// `application_logs`
    Application,
    /// `user_events`
    #[serde(rename = "user_events")]
    Events,
}

impl Table {
    /// All tables.
    pub const ALL: [Self; 3] = [Self::Infrastructure, Self::Application, Self::Events];
    /// The tables of log rows: all but the user events, which are asked for by themselves.
    pub const LOGS: [Self; 2] = [Self::Infrastructure, Self::Application];

    /// The table's name in every store.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure_logs",
            Self::Application => "application_logs",
            Self::Events => "user_events",
        }
    }

    /// The word of the configuration: `infrastructure`, `application` or `user_events`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure",
            Self::Application => "application",
            Self::Events => "user_events",
        }
    }

    /// Reads the word or the name.
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

/// Bits of an offset within an event's id: 512 PiB.
const EVENT_OFFSET_BITS: u32 = 59;
/// The 122 bits of a uuid that are free.
const EVENT_BITS: u128 = (1 << 122) - 1;

impl RowKey {
    /// The `event_id` of a row of `user_events`: a uuid (version 8, RFC 9562) whose free bits are
    /// the origin and the offset. So a replay gives the same id, ids of one moment have the order
    /// of keys, and the key can be read back from it. Neighbours of a key that no row has are put
    /// at the next place that an id can say.
    #[must_use]
    pub const fn event_id(self) -> u128 {
        let bits = ((self.origin as i128) << EVENT_OFFSET_BITS) + self.offset_bytes as i128;
        let bits = if bits < 0 {
            0
        } else if bits.unsigned_abs() > EVENT_BITS {
            EVENT_BITS
        } else {
            bits.unsigned_abs()
        };
        let (head, middle, tail) = (bits >> 74, (bits >> 62) & 0xfff, bits & ((1 << 62) - 1));
        head << 80 | 8 << 76 | middle << 64 | 0b10 << 62 | tail
    }

    /// The key of an event with this time and this id of [`RowKey::event_id`].
    #[must_use]
    pub fn of_event(timestamp_ms: i64, id: u128) -> Self {
        let bits = (id >> 80) << 74 | ((id >> 64) & 0xfff) << 62 | id & ((1 << 62) - 1);
        let offset = bits & ((1 << EVENT_OFFSET_BITS) - 1);
        // both have fewer than 64 bits
        let number = |bits| i64::try_from(bits).unwrap_or(i64::MAX);
        let (origin, offset_bytes) = (number(bits >> EVENT_OFFSET_BITS), number(offset));
        Self { timestamp_ms, origin, offset_bytes }
    }
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

/// The first day of a day's month, both in days since 1970 (UTC).
#[must_use]
pub fn month_of(day: i32) -> i32 {
    let date = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(day));
    date.map_or(day, |date| day - i32::from(date.day()) + 1)
}

/// One partition of the store, or the day's part of one: every row of a batch belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Partition {
    /// Which table.
    pub table: Table,
    /// Days since 1970.
    pub day: i32,
    /// The source's name.
    pub source: Arc<str>,
    /// See [`Layout::bucket`]; 0 in a store that has no buckets, and for user events.
    pub bucket: i16,
    /// Whose events these are, in a store that keeps the events of each user apart.
    pub user: Option<u128>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_words_of_all_tables_are_read_back() {
        for table in Table::ALL {
            assert_eq!(Table::from_word(table.word()), Some(table));
            assert_eq!(Table::from_word(table.name()), Some(table));
            let word = serde_json::to_string(&table).unwrap();
            assert_eq!(word, format!("{:?}", table.word()));
        }
    }

    #[test]
    fn a_month_begins_with_its_first_day() {
        // 2026-11-22, 2024-02-29, 1970-01-01, 1969-12-31
        for (day, first) in [(20_779, 20_758), (19_782, 19_754), (0, 0), (-1, -31)] {
            assert_eq!(month_of(day), first, "{day}");
        }
    }

    #[test]
    fn an_event_id_is_a_uuid_and_its_edges_are_in_order() {
        let id = |origin, offset_bytes| RowKey { timestamp_ms: 5, origin, offset_bytes }.event_id();
        let uuid = uuid::Uuid::from_u128(id(i64::MAX, 77));
        assert_eq!((uuid.get_version_num(), uuid.get_variant()), (8, uuid::Variant::RFC4122));
        assert!(id(3, -1) < id(3, 0), "the place before the first");
        assert!(id(2, 1 << 40) < id(3, -1));
        assert!(id(i64::MIN, i64::MIN) <= id(0, 0));
        assert!(id(i64::MAX, i64::MAX) >= id(i64::MAX, 1 << 40));
    }

    proptest! {
        #[test]
        fn an_event_id_tells_its_key_and_has_its_order(
            a in (0..=i64::MAX, 0..1_i64 << 59), b in (0..=i64::MAX, 0..1_i64 << 59)
        ) {
            let key = |(origin, offset_bytes)| RowKey { timestamp_ms: 5, origin, offset_bytes };
            let (a, b) = (key(a), key(b));
            prop_assert_eq!(RowKey::of_event(5, a.event_id()), a);
            prop_assert_eq!(a.cmp(&b), a.event_id().cmp(&b.event_id()));
        }
    }
}
