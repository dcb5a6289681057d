//! The clock of a history.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Time passes when the history says so.
#[derive(Debug)]
pub struct Clock {
    mono_ms: AtomicU64,
    wall_ms: AtomicI64,
}

impl Clock {
    pub fn new(wall_ms: i64) -> Self {
        Self { mono_ms: AtomicU64::new(1000), wall_ms: AtomicI64::new(wall_ms) }
    }

    pub fn advance(&self, ms: u64) {
        self.mono_ms.fetch_add(ms, Ordering::Relaxed);
        self.jump(i64::try_from(ms).unwrap());
    }

    /// Somebody sets the clock.
    pub fn jump(&self, ms: i64) {
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
    }

    pub fn mono_ms(&self) -> u64 {
        self.mono_ms.load(Ordering::Relaxed)
    }

    pub fn wall_ms(&self) -> i64 {
        self.wall_ms.load(Ordering::Relaxed)
    }
}
