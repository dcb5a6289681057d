//! Histories that fail: open faults, each to be mended and taken off this list.

/// See `docs/open-faults.md`.
pub const SEEDS: &[u64] = &[
    64, 248, 266, 278, 302, 372, 413, 444, 453, 478, 500, 534, 552, 667, 707, 732, 775, 779, 880,
    919, 952, 1170, 1228, 1332, 1343, 1418, 1454, 1541, 1577, 1631, 1733, 1748, 1889, 1948, 1954,
    1978,
];
