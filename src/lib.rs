//! bitacora: the log shipper that loses nothing and can prove it.
//!
//! The modules stand in the order a line travels. `ARCHITECTURE.md` has the map and the
//! promises; `tests/tidy.rs` holds the table of who may import whom.

// ground: imports nothing of ours but each other
pub mod backoff;
pub mod batch;
pub mod crc;
pub mod durable;
pub mod duration;
pub mod key;
pub mod ledger;
pub mod metrics;
pub mod migration;
pub mod record;
pub mod secret;

// what a line is made of, and what may be said of it
pub mod config;
pub mod parse;

// the way of a line
pub mod sources;
pub mod spool;
pub mod state;
pub mod stores;
pub mod tracker;
pub mod worker;

// what holds it
pub mod daemon;
pub mod telemetry;

// what looks at stored rows
pub mod dora;
pub mod maintain;
pub mod query;

// what people see of it
pub mod cli;
