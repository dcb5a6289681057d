//! What the fuzz targets share: formats to pick from, what must hold of a record, and a worker
//! that is driven over bytes in any cuts.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a panic is how a target tells what it has found"
)]

pub mod drive;
pub mod kinds;
pub mod record;
