//! Followed files: discovery, identity, rotation, reading.

pub mod state;
