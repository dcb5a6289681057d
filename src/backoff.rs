//! How long to wait before the next try: doubling, capped, jittered from a seed.
//!
//! Jitter keeps many waiting writers from coming back in step. It is made from a given seed, so
//! that a run can be repeated.

use std::time::Duration;

/// The waits of one thing that is tried again and again.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
    seed: u64,
}

impl Backoff {
    /// Waits that begin at about `first` and are never longer than `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration, seed: u64) -> Self {
        assert!(!first.is_zero() && first <= max, "a wait of nothing is a busy loop");
        Self { first, max, next: first, seed }
    }

    /// The next wait: between half and all of a time that doubles up to the cap.
    #[allow(clippy::should_implement_trait, reason = "an endless source of waits is no iterator")]
    pub fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        let half = whole / 2;
        // a fraction in 1/1024 steps is fine enough for a wait
        let step = u32::try_from(splitmix(&mut self.seed) % 1024).unwrap_or(0);
        whole.saturating_sub(half * step / 1024)
    }

    /// Begins again with the shortest wait: something has worked.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014): one addition and a mixer; good enough for jitter.
fn splitmix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(10);

    #[test]
    fn waits_double_up_to_the_cap_and_lose_at_most_half_to_jitter() {
        let mut backoff = Backoff::new(FIRST, MAX, 7);
        let mut whole = FIRST;
        for _ in 0..20 {
            let wait = backoff.next();
            assert!(wait <= whole && wait * 2 >= whole, "{wait:?} of {whole:?}");
            whole = (whole * 2).min(MAX);
        }
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }

    #[test]
    fn the_same_seed_waits_alike_and_another_does_not() {
        let waits = |seed| {
            let mut backoff = Backoff::new(FIRST, MAX, seed);
            (0..8).map(|_| backoff.next()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
