//! `PostgreSQL` server logs: stderr with any prefix, csvlog, jsonlog.

use std::collections::BTreeMap;

use super::{Clock, Framing, OptionError, Role};
use crate::record::Record;

/// The stderr format with a compiled `log_line_prefix`.
#[derive(Debug)]
pub struct Stderr {}

impl Stderr {
    /// Compiles the options `log_line_prefix` and `log_error_verbosity`.
    ///
    /// # Errors
    ///
    /// An option cannot be compiled.
    pub fn new(_options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        Ok(Self {})
    }

    /// The role of a line.
    #[must_use]
    pub fn role(&self, _line: &[u8]) -> Role {
        Role::Continues
    }

    /// Reads one record with its secondary and continuation lines.
    pub fn parse<'a>(&'a self, _: &'a [u8], _: &mut Clock, _: &mut Record<'a>) -> bool {
        false
    }
}

/// The role of a physical line of a csvlog; updates `framing`.
pub fn csv_role(_line: &[u8], _framing: &mut Framing) -> Role {
    Role::Begins { thread: 0 }
}

/// Reads one csvlog record.
pub fn parse_csv<'a>(_: &'a [u8], _: &mut Clock, _: &mut Record<'a>) -> bool {
    false
}

/// Reads one jsonlog record.
pub fn parse_jsonlog<'a>(_: &'a [u8], _: &mut Clock, _: &mut Record<'a>) -> bool {
    false
}
