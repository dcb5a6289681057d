//! Words for times, as people type them after `--since` and `--until`.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Unit, Zoned};

/// Why a word is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{word:?} is no time; write for example today, yesterday, -2h, \"2h ago\", 07:00, \
     2026-11-22, \"2026-11-22 07:00\", 2026-11-22T07:00:00Z or @1795305600"
)]
pub struct NotATime {
    word: String,
}

/// Reads a time, in the zone of `now` where it names none. Milliseconds since 1970.
///
/// # Errors
///
/// With examples of what is possible.
pub fn read(word: &str, now: &Zoned) -> Result<i64, NotATime> {
    instant(word.trim(), now)
        .map(Timestamp::as_millisecond)
        .ok_or_else(|| NotATime { word: word.to_owned() })
}

fn instant(word: &str, now: &Zoned) -> Option<Timestamp> {
    let midnight = |days: i64| {
        let day = now.date().checked_add(Span::new().days(days)).ok()?;
        day.to_zoned(now.time_zone().clone()).ok().map(|zoned| zoned.timestamp())
    };
    match word {
        "now" => return Some(now.timestamp()),
        "today" => return midnight(0),
        "yesterday" => return midnight(-1),
        "tomorrow" => return midnight(1),
        _ => {}
    }
    if let Some(seconds) = word.strip_prefix('@') {
        return epoch(seconds);
    }
    if let Some(ago) = word.strip_suffix(" ago") {
        return now.checked_sub(span(ago)?).ok().map(|zoned| zoned.timestamp());
    }
    // a sign makes a span; "2026-…" has none in front
    if let Some(back) = word.strip_prefix('-') {
        return now.checked_sub(span(back)?).ok().map(|zoned| zoned.timestamp());
    }
    if let Some(ahead) = word.strip_prefix('+') {
        return now.checked_add(span(ahead)?).ok().map(|zoned| zoned.timestamp());
    }
    if let Some(utc) = word.strip_suffix(" UTC") {
        return civil(utc, now.date(), &TimeZone::UTC);
    }
    word.parse::<Timestamp>().ok().or_else(|| civil(word, now.date(), now.time_zone()))
}

fn epoch(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    let seconds: i64 = seconds.parse().ok()?;
    Timestamp::new(seconds, if text.starts_with('-') { -nanos } else { nanos }).ok()
}

/// A day, a time of today, or both.
fn civil(word: &str, today: Date, zone: &TimeZone) -> Option<Timestamp> {
    let at: DateTime = if word.len() <= 8 || (word.contains(':') && !word.contains('-')) {
        if !word.contains(':') {
            return None;
        }
        today.to_datetime(word.parse::<Time>().ok()?)
    } else {
        word.parse().ok()?
    };
    at.to_zoned(zone.clone()).ok().map(|zoned| zoned.timestamp())
}

/// `2h`, `1h30m`, `2 hours`, `1 day 2 hours`.
fn span(text: &str) -> Option<Span> {
    let mut total = Span::new();
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(digits)?;
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (name, next) = after.split_at_checked(letters)?;
        let number: i64 = number.parse().ok()?;
        let unit = unit(name)?;
        let old = total.get_units(unit);
        total = total.try_units(unit, old.checked_add(number)?).ok()?;
        rest = next.trim_start();
    }
    Some(total)
}

fn unit(name: &str) -> Option<Unit> {
    Some(match name {
        "ms" | "msec" => Unit::Millisecond,
        "s" | "sec" | "second" | "seconds" => Unit::Second,
        "m" | "min" | "minute" | "minutes" => Unit::Minute,
        "h" | "hr" | "hour" | "hours" => Unit::Hour,
        "d" | "day" | "days" => Unit::Day,
        "w" | "week" | "weeks" => Unit::Week,
        "M" | "month" | "months" => Unit::Month,
        "y" | "year" | "years" => Unit::Year,
        _ => return None,
    })
}

/// A span as people say it: `41 s`, `3 min`, `2 h`, `5 d`.
#[must_use]
pub fn spoken(milliseconds: i64) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

trait Units: Sized {
    fn get_units(&self, unit: Unit) -> i64;
    fn try_units(self, unit: Unit, number: i64) -> Result<Self, jiff::Error>;
}

impl Units for Span {
    fn get_units(&self, unit: Unit) -> i64 {
        match unit {
            Unit::Millisecond => self.get_milliseconds(),
            Unit::Second => self.get_seconds(),
            Unit::Minute => self.get_minutes(),
            Unit::Hour => i64::from(self.get_hours()),
            Unit::Day => i64::from(self.get_days()),
            Unit::Week => i64::from(self.get_weeks()),
            Unit::Month => i64::from(self.get_months()),
            Unit::Year => i64::from(self.get_years()),
            Unit::Microsecond | Unit::Nanosecond => 0,
        }
    }

    fn try_units(self, unit: Unit, number: i64) -> Result<Self, jiff::Error> {
        match unit {
            Unit::Millisecond => self.try_milliseconds(number),
            Unit::Second => self.try_seconds(number),
            Unit::Minute => self.try_minutes(number),
            Unit::Hour => self.try_hours(number),
            Unit::Day => self.try_days(number),
            Unit::Week => self.try_weeks(number),
            Unit::Month => self.try_months(number),
            Unit::Year => self.try_years(number),
            Unit::Microsecond | Unit::Nanosecond => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time in the zone of Madrid; by its rule, because a machine may have no zone database.
    fn in_madrid(time: &str) -> Zoned {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        time.parse::<Timestamp>().unwrap().to_zoned(zone)
    }

    /// A Sunday, 12:30:15 in Madrid.
    fn now() -> Zoned {
        in_madrid("2026-11-22T12:30:15+01:00")
    }

    #[test]
    fn every_word_of_the_manual_is_understood() {
        let cases = [
            ("now", "2026-11-22T11:30:15Z"),
            ("today", "2026-11-21T23:00:00Z"),
            ("yesterday", "2026-11-20T23:00:00Z"),
            ("tomorrow", "2026-11-22T23:00:00Z"),
            ("-2h", "2026-11-22T09:30:15Z"),
            ("-1h30m", "2026-11-22T10:00:15Z"),
            ("2h ago", "2026-11-22T09:30:15Z"),
            ("2 hours ago", "2026-11-22T09:30:15Z"),
            ("1 day 2 hours ago", "2026-11-21T09:30:15Z"),
            ("+5min", "2026-11-22T11:35:15Z"),
            ("-1w", "2026-11-15T11:30:15Z"),
            ("07:00", "2026-11-22T06:00:00Z"),
            ("07:00:05.25", "2026-11-22T06:00:05.25Z"),
            ("2026-11-22", "2026-11-21T23:00:00Z"),
            ("2026-11-22 07:00", "2026-11-22T06:00:00Z"),
            ("2026-11-22 07:00:01.5", "2026-11-22T06:00:01.5Z"),
            ("2026-11-22 07:00 UTC", "2026-11-22T07:00:00Z"),
            ("2026-11-22T07:00:00Z", "2026-11-22T07:00:00Z"),
            ("2026-11-22T07:00:00-05:00", "2026-11-22T12:00:00Z"),
            ("@1795305600", "2026-11-22T00:00:00Z"),
            ("@1795305600.125", "2026-11-22T00:00:00.125Z"),
            ("@-1.5", "1969-12-31T23:59:58.5Z"),
        ];
        for (word, expected) in cases {
            let expected: Timestamp = expected.parse().unwrap();
            assert_eq!(read(word, &now()), Ok(expected.as_millisecond()), "{word}");
        }
    }

    #[test]
    fn other_words_are_refused_with_examples() {
        for word in ["", "soon", "-", "-2", "2h", "25:00", "2026-13-01", "@", "@x", "@1.x", "-2 q"]
        {
            let error = read(word, &now()).unwrap_err().to_string();
            assert!(error.contains("write for example"), "{word}: {error}");
        }
    }

    #[test]
    fn a_day_back_over_a_change_of_the_clock_is_a_day_of_the_calendar() {
        let now = in_madrid("2026-10-25T12:00:00+01:00");
        let before: Timestamp = "2026-10-24T12:00:00+02:00".parse().unwrap();
        assert_eq!(read("-1d", &now), Ok(before.as_millisecond()));
    }
}
