//! JSON lines of applications.

use std::collections::BTreeMap;

use super::{Clock, OptionError};
use crate::record::Record;

/// The compiled options of the format.
#[derive(Debug)]
pub struct Options {}

impl Options {
    /// Compiles the option `level_scheme`.
    ///
    /// # Errors
    ///
    /// The scheme is unknown.
    pub fn new(_options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        Ok(Self {})
    }
}

/// Reads one line.
pub fn parse<'a>(_: &'a [u8], _: &'a Options, _: &mut Clock, _: &mut Record<'a>) -> bool {
    false
}
