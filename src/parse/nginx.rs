//! nginx access and error logs.

use std::collections::BTreeMap;

use super::{Clock, OptionError, Role};
use crate::record::Record;

/// A compiled `log_format`.
#[derive(Debug)]
pub struct AccessFormat {}

impl AccessFormat {
    /// Compiles the option `log_format`.
    ///
    /// # Errors
    ///
    /// The format string cannot be compiled.
    pub fn new(_options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        Ok(Self {})
    }

    /// Reads one line; `false` if it does not match.
    pub fn parse<'a>(&'a self, _: &'a [u8], _: &mut Clock, _: &mut Record<'a>) -> bool {
        false
    }
}

/// The role of a line of an error log.
#[must_use]
pub fn error_role(_line: &[u8]) -> Role {
    Role::Continues
}

/// Reads one record of an error log; `false` if it is none.
pub fn parse_error<'a>(_: &'a [u8], _: &mut Clock, _: &mut Record<'a>) -> bool {
    false
}
