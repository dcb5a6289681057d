//! syslog: RFC 5424, RFC 3164, ISO times and BSD variants, chosen line by line.

use super::{Clock, Role};
use crate::record::Record;

/// The role of a line.
#[must_use]
pub fn role(_line: &[u8]) -> Role {
    Role::Begins { thread: 0 }
}

/// Reads one record with its continuation lines.
pub fn parse<'a>(_: &'a [u8], _: &mut Clock, _: &mut Record<'a>) -> bool {
    false
}
