//! Followed files: discovery, identity, rotation, reading.
