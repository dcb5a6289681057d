//! The machine's clock: read here, given as an argument everywhere below.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970; 0 before.
#[must_use]
pub fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970; 0 before.
#[must_use]
pub fn wall_ms() -> i64 {
    wall_us() / 1000
}
