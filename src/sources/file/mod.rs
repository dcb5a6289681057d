//! Followed files: discovery, identity, rotation, reading.

pub mod state;
mod state_db;
