//! Followed files: discovery, identity, rotation, reading.

pub mod discover;
pub mod examine;
pub mod identity;
pub mod marker;
pub mod reader;
pub mod siblings;
pub mod state;
