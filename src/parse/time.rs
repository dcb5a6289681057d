//! Reading times: calendars, zones, abbreviations, missing years.

use jiff::tz::TimeZone;

/// What times need besides their text: the zone of times without one, and the `now` of times
/// without a year. Both come from the context, never from the machine's clock.
#[derive(Debug, Clone)]
pub struct Clock {
    zone: TimeZone,
    now_ms: i64,
}

impl Clock {
    /// A clock that stands at `now_ms` (milliseconds since 1970) in `zone`.
    #[must_use]
    pub fn new(zone: TimeZone, now_ms: i64) -> Self {
        Self { zone, now_ms }
    }
}
