//! Reading times: calendars, zones, abbreviations, missing years.
//!
//! How a format reads a time:
//!
//! 1. It scans the text into a [`Civil`] ([`date_time`] for `2031-05-04T10:11:12.345`, [`clock`]
//!    for `10:11:12.345`, [`month`] for `May`), and the zone into a [`Zone`] ([`offset`] for `Z`,
//!    `+02`, `+0200`, `+02:00`; any other word is [`Zone::Named`], or ask [`Zone::read`]).
//! 2. [`Clock::instant`] makes a [`Time`] of them.
//!
//! [`Clock::iso`] and [`Clock::clf`] do both for the two usual layouts and remember the last
//! second. A format with a layout of its own gets the same by [`Clock::remembered`].
//!
//! Rules: a time that a change of the clock skips is read with the offset from before the change,
//! so it lies as much after it; a time that a change repeats is its first occurrence, unless an
//! abbreviation tells. A leap second (`:60`) is the second after `:59`. Fraction digits beyond the
//! ninth are cut.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::record::Time;

pub use epoch::epoch;
pub use scan::{clock, date, date_time, month, number, offset};

mod epoch;
mod scan;

const DAY_SECONDS: i64 = 86_400;
/// Years to look back for a date without a year: 29 February is missing for eight years in a row
/// around 1900 and 2100.
const YEARS_BACK: i16 = 9;
/// Letters of the longest zone abbreviation (POSIX asks for at least six).
const ABBREVIATION_MAX: usize = 6;
/// Longest text that is remembered.
const REMEMBERED_BYTES: usize = 48;

/// A calendar date and a wall clock time as they stand in a text, not yet checked together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    /// Absent where the text has none: see [`Clock::instant`].
    pub year: Option<i16>,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60.
    pub second: u8,
    /// The fraction.
    pub nanos: u32,
    /// How many fraction digits the text had, at most 9.
    pub digits: u8,
}

/// What a text says of its zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone<'a> {
    /// Nothing: the time is in the clock's zone.
    Local,
    /// Seconds east of Greenwich.
    Offset(i32),
    /// An abbreviation such as `CEST`; an unknown one counts as [`Zone::Local`]. With anything but
    /// a few letters it is no time.
    Named(&'a [u8]),
}

impl<'a> Zone<'a> {
    /// Reads all of `text` as a zone; empty is [`Zone::Local`].
    #[must_use]
    pub fn read(text: &'a [u8]) -> Self {
        match offset(text) {
            _ if text.is_empty() => Self::Local,
            Some((seconds, [])) => Self::Offset(seconds),
            _ => Self::Named(text),
        }
    }
}

/// Layouts of times, so that one memory serves texts of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `2031-05-04T10:11:12` with the zone that follows the fraction.
    Iso,
    /// `04/May/2031:12:11:12 +0200`
    Clf,
    /// `2031/05/04 10:11:12`
    NginxError,
    /// `May  4 10:11:12`
    Bsd,
    /// `PostgreSQL`'s times, to the second.
    Postgresql,
}

/// The last text that was read and what it gave.
#[derive(Debug, Clone)]
struct Memory {
    layout: Layout,
    len: u8,
    text: [u8; REMEMBERED_BYTES],
    time: Option<Time>,
}

/// What times need besides their text: the zone of times without one, and the `now` of times
/// without a year. Both come from the context, never from the machine's clock.
#[derive(Debug, Clone)]
pub struct Clock {
    zone: TimeZone,
    now_ms: i64,
    memory: Memory,
}

impl Clock {
    /// A clock that stands at `now_ms` (milliseconds since 1970) in `zone`.
    #[must_use]
    pub fn new(zone: TimeZone, now_ms: i64) -> Self {
        // A length that no text has, so that the first look-up misses.
        let memory =
            Memory { layout: Layout::Iso, len: u8::MAX, text: [0; REMEMBERED_BYTES], time: None };
        Self { zone, now_ms, memory }
    }

    /// From here on it stands at another time.
    pub fn stand_at(&mut self, now_ms: i64) {
        if self.now_ms != now_ms {
            (self.now_ms, self.memory.len) = (now_ms, u8::MAX);
        }
    }

    /// The instant of a civil time; `None` if there is no such day or hour, and outside 1970 to
    /// 2200 ([`Time::row_millis`]). Without a year it gets
    /// the latest one for which the instant is not more than 24 hours after the clock's `now`.
    #[must_use]
    pub fn instant(&self, civil: &Civil, zone: Zone<'_>) -> Option<Time> {
        if let Some(year) = civil.year {
            return self.in_year(year, civil, zone);
        }
        let limit = self.now_ms.checked_add(DAY_SECONDS * 1000)?;
        let now = Timestamp::from_millisecond(self.now_ms).ok()?;
        // In no zone is it more than a year later than in UTC.
        let latest = self.zone.to_datetime(now).year().checked_add(1)?;
        (0..=YEARS_BACK)
            .filter_map(|back| self.in_year(latest.checked_sub(back)?, civil, zone))
            .find(|time| time.seconds * 1000 + i64::from(time.nanos / 1_000_000) <= limit)
    }

    /// Reads `text` by `read`, unless it is the text of the last call with this layout: a busy log
    /// has many lines in one second. `read` must be a function of the clock and the text.
    pub fn remembered(
        &mut self,
        layout: Layout,
        text: &[u8],
        read: impl FnOnce(&Self, &[u8]) -> Option<Time>,
    ) -> Option<Time> {
        let memory = &self.memory;
        if usize::from(memory.len) == text.len()
            && memory.layout == layout
            && memory.text.get(..text.len()) == Some(text)
        {
            return memory.time;
        }
        let time = read(self, text);
        let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        if let Some(place) = self.memory.text.get_mut(..text.len()) {
            place.copy_from_slice(text);
            (self.memory.layout, self.memory.len, self.memory.time) = (layout, len, time);
        }
        time
    }

    /// Reads an ISO 8601 time at the beginning of `text` and returns what follows it: date, `T` or
    /// one blank, time of day, a fraction after `.` or `,`, an offset directly after that.
    pub fn iso<'t>(&mut self, text: &'t [u8]) -> Option<(Time, &'t [u8])> {
        const SECOND_END: usize = "2031-05-04T10:11:12".len();
        let (_, after) = text.split_at_checked(SECOND_END)?;
        let (nanos, digits, rest) = scan::fraction(after);
        let zone_len = offset(rest).map_or(0, |(_, after)| rest.len() - after.len());
        let (zone, rest) = rest.split_at_checked(zone_len)?;
        // The text without its fraction: it stays the same for a whole second.
        let mut key = [0; SECOND_END + "+02:00:00".len()];
        let key_len = SECOND_END + zone_len;
        key.get_mut(..SECOND_END)?.copy_from_slice(text.get(..SECOND_END)?);
        key.get_mut(SECOND_END..key_len)?.copy_from_slice(zone);
        let second = self.remembered(Layout::Iso, key.get(..key_len)?, |clock, key| {
            let (civil, zone) = date_time(key)?;
            clock.instant(&civil, Zone::read(zone))
        })?;
        Some((Time { nanos, digits, ..second }, rest))
    }

    /// Reads all of `text` as `04/May/2031:12:11:12 +0200`, the time of access logs.
    pub fn clf(&mut self, text: &[u8]) -> Option<Time> {
        self.remembered(Layout::Clf, text, |clock, text| {
            let (day, rest) = number(text, 2)?;
            let (month, rest) = month(rest.strip_prefix(b"/")?)?;
            let (year, rest) = number(rest.strip_prefix(b"/")?, 4)?;
            let (civil, rest) = scan::clock(rest.strip_prefix(b":")?)?;
            let (seconds, rest) = offset(rest.strip_prefix(b" ")?)?;
            let (year, day) = (i16::try_from(year).ok(), u8::try_from(day).ok()?);
            rest.is_empty().then_some(())?;
            clock.instant(&Civil { year, month, day, ..civil }, Zone::Offset(seconds))
        })
    }

    fn in_year(&self, year: i16, civil: &Civil, zone: Zone<'_>) -> Option<Time> {
        let leap = i8::from(civil.second == 60);
        let small = |number: u8| i8::try_from(number).ok();
        let second = small(civil.second)? - leap;
        let (month, day) = (small(civil.month)?, small(civil.day)?);
        let date_time =
            DateTime::new(year, month, day, small(civil.hour)?, small(civil.minute)?, second, 0)
                .ok()?;
        let seconds = match zone {
            Zone::Offset(offset) => utc_seconds(date_time)? - i64::from(offset),
            Zone::Local => self.local_seconds(date_time)?,
            Zone::Named(name) if !is_abbreviation(name) => return None,
            Zone::Named(name) => match self.named_offset(name, date_time) {
                Some(offset) => utc_seconds(date_time)? - i64::from(offset),
                None => self.local_seconds(date_time)?,
            },
        };
        let seconds = seconds + i64::from(leap);
        in_range(Time { seconds, nanos: civil.nanos, digits: civil.digits })
    }

    fn local_seconds(&self, date_time: DateTime) -> Option<i64> {
        let instant = self.zone.to_ambiguous_timestamp(date_time).compatible().ok()?;
        Some(instant.as_second())
    }

    /// The offset that an abbreviation stands for at a date.
    fn named_offset(&self, name: &[u8], date_time: DateTime) -> Option<i32> {
        if [&b"UTC"[..], b"GMT", b"Z"].iter().any(|zero| name.eq_ignore_ascii_case(zero)) {
            return Some(0);
        }
        // The days around, too: in the hour that a change of the clock repeats, or next to the
        // one that it skips, the zone uses both of its abbreviations.
        let at = self.local_seconds(date_time)?;
        let in_zone = [0, DAY_SECONDS, -DAY_SECONDS].into_iter().find_map(|away| {
            let info = self.zone.to_offset_info(Timestamp::from_second(at + away).ok()?);
            (info.abbreviation().as_bytes() == name).then(|| info.offset().seconds())
        });
        in_zone.or_else(|| usual_offset(name))
    }
}

/// Where a row can have no such time it is none, so that its text stays in the record.
fn in_range(time: Time) -> Option<Time> {
    time.row_millis().map(|_| time)
}

fn utc_seconds(date_time: DateTime) -> Option<i64> {
    Some(TimeZone::UTC.to_ambiguous_timestamp(date_time).compatible().ok()?.as_second())
}

fn is_abbreviation(name: &[u8]) -> bool {
    (1..=ABBREVIATION_MAX).contains(&name.len()) && name.iter().all(u8::is_ascii_alphabetic)
}

/// What an abbreviation means where the clock's zone does not use it.
fn usual_offset(name: &[u8]) -> Option<i32> {
    const HOUR: i32 = 3600;
    Some(match name {
        b"WET" => 0,
        b"WEST" | b"BST" | b"CET" => HOUR,
        b"CEST" | b"EET" => 2 * HOUR,
        b"EEST" | b"MSK" => 3 * HOUR,
        b"IST" => 5 * HOUR + HOUR / 2,
        b"JST" | b"KST" => 9 * HOUR,
        b"AEST" => 10 * HOUR,
        b"AEDT" => 11 * HOUR,
        b"EDT" => -4 * HOUR,
        b"EST" | b"CDT" => -5 * HOUR,
        b"CST" | b"MDT" => -6 * HOUR,
        b"MST" | b"PDT" => -7 * HOUR,
        b"PST" => -8 * HOUR,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
