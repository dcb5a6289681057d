//! The Cassandra store against real nodes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of it is tests"
)]

#[path = "../support/cassandra.rs"]
mod node;

mod events;
mod faults;
mod ledger;
mod lines;
mod reading;
mod retention;
mod tables;
