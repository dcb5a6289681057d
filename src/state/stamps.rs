//! Write timestamps: strictly increasing, also across restarts and clocks that are set back.

use std::sync::{Arc, Mutex, PoisonError};

use super::{State, StateError};

const RESERVED: &str = "stamps_reserved_us";
/// How far ahead of the clock stamps are reserved: one write a minute.
const AHEAD_US: i64 = 60_000_000;
/// How far ahead of themselves, where they are ahead of the clock: a daemon that crashes again
/// and again must not run away from the clock by a minute each time.
const AHEAD_OF_CLOCK_US: i64 = 1_000_000;

/// Where stamps come from. One a process: each start begins after all that were reserved.
#[derive(Debug)]
pub struct Stamps {
    // `None`: nothing outlives the process, as in tests and measurements
    state: Option<Arc<State>>,
    range: Mutex<Range>,
}

#[derive(Debug, Clone, Copy)]
struct Range {
    /// The last stamp that was given.
    last: i64,
    /// No stamp beyond this is given before the state has a larger one.
    reserved: i64,
}

impl Stamps {
    /// The stamps of this run.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn new(state: Arc<State>) -> Result<Self, StateError> {
        let reserved = state.meta(RESERVED)?.unwrap_or(0);
        Ok(Self { state: Some(state), range: Mutex::new(Range { last: reserved, reserved }) })
    }

    /// Stamps after `last` that are not remembered.
    #[must_use]
    pub fn volatile(last: i64) -> Self {
        Self { state: None, range: Mutex::new(Range { last, reserved: i64::MAX }) }
    }

    /// The first of `count` consecutive stamps, in microseconds: by the clock, or after the last
    /// one where the clock is behind.
    ///
    /// When the reservation cannot be written the stamp is given all the same: it would take a
    /// crash, and a clock set back, before an old write could beat a newer one.
    pub fn take(&self, count: usize, now_us: i64) -> i64 {
        let mut range = self.range.lock().unwrap_or_else(PoisonError::into_inner);
        let count = i64::try_from(count.max(1)).unwrap_or(i64::MAX);
        let first = now_us.max(range.last.saturating_add(1));
        let last = first.saturating_add(count - 1);
        if last > range.reserved {
            let reserved = now_us.saturating_add(AHEAD_US);
            let reserved = reserved.max(last.saturating_add(AHEAD_OF_CLOCK_US));
            let kept = self.state.as_ref().map(|state| state.put_meta(RESERVED, &reserved));
            match kept {
                Some(Err(error)) => tracing::debug!("write timestamps are not reserved: {error}"),
                Some(Ok(())) | None => range.reserved = reserved,
            }
        }
        assert!(first > range.last, "write timestamps went back");
        range.last = last;
        first
    }

    /// Begins after `last`, which a state that was lost may have given.
    pub fn begin_after(&self, last: i64) {
        let mut range = self.range.lock().unwrap_or_else(PoisonError::into_inner);
        range.last = range.last.max(last);
    }

    /// Gives back what was reserved and not used, at a stop.
    ///
    /// # Errors
    ///
    /// Nothing was written, which is harmless.
    pub fn release(&self) -> Result<(), StateError> {
        let mut range = self.range.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = &self.state {
            state.put_meta(RESERVED, &range.last)?;
            range.reserved = range.last;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_US: i64 = 1_800_000_000_000_000;

    fn state(dir: &tempfile::TempDir) -> Arc<State> {
        Arc::new(State::open(dir.path(), 0).unwrap())
    }

    #[test]
    fn stamps_increase_across_crashes_and_a_clock_that_is_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        for start in 0..5 {
            let stamps = Stamps::new(state(&dir)).unwrap();
            for _ in 0..3 {
                let first = stamps.take(1000, NOW_US - start * 3_600_000_000);
                assert!(first > last, "{first} after {last}");
                last = first + 999;
            }
        }
    }

    #[test]
    fn a_daemon_that_crashes_often_stays_near_the_clock() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            Stamps::new(state(&dir)).unwrap().take(1, NOW_US);
        }
        let ahead = Stamps::new(state(&dir)).unwrap().take(1, NOW_US) - NOW_US;
        assert!(ahead < AHEAD_US + 21 * (AHEAD_OF_CLOCK_US + 2), "{ahead} us ahead");
    }

    #[test]
    fn after_a_stop_the_clock_leads_again() {
        let dir = tempfile::tempdir().unwrap();
        let stamps = Stamps::new(state(&dir)).unwrap();
        assert_eq!(stamps.take(10, NOW_US), NOW_US);
        stamps.release().unwrap();
        drop(stamps);
        assert_eq!(Stamps::new(state(&dir)).unwrap().take(1, NOW_US + 10), NOW_US + 10);
    }
}
