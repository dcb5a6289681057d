//! Histories that fail: open faults, each to be mended and taken off this list.

/// See `docs/open-faults.md`.
pub const SEEDS: &[u64] = &[];
