//! Sections whose work belongs to later releases: checked for keys and types, so that a
//! configuration can be prepared, and named as having no effect, so that nobody relies on them.

use super::keys::{Kind, Section, key};

/// All of them.
pub const LATER: &[Section] = &[Section {
    name: "redact",
    repeated: false,
    later: Some("this release masks nothing: secrets in log lines are stored as they stand"),
    help: "",
    keys: &[key("rules", Kind::Texts, "[\"default\"]", "")],
}];
