//! Histories that fail: open faults, each to be mended and taken off this list.

/// See `docs/open-faults.md`.
pub const SEEDS: &[u64] = &[3213, 3699, 4426, 4591, 5348, 6290, 8373, 8942, 9430, 13496, 17564];
