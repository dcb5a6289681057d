//! syslog: RFC 5424, RFC 3164, ISO times and BSD variants, chosen line by line.
//!
//! ```text
//! <PRI>VERSION TIMESTAMP HOSTNAME APP PROCID MSGID SD [MSG]      rfc5424.rs
//! [<PRI>]TIME[:] [HOSTNAME] [TAG] [MSG]                          bsd.rs
//! ```
//!
//! A header is read from the first line of a record only; the message begins there and takes all
//! continuation lines with it, so that it is one slice of the text.

use nom::bytes::complete::{tag, take_while_m_n};
use nom::sequence::delimited;
use nom::{IResult, Parser};

use super::{Clock, Role};
use crate::record::{Level, Record};

mod bsd;
mod rfc5424;
#[cfg(test)]
mod tests;

/// By number (RFC 5424, table 1); 13 to 15 as logger(1) and the BSDs call them.
const FACILITIES: [&[u8]; 24] = [
    b"kern",
    b"user",
    b"mail",
    b"daemon",
    b"auth",
    b"syslog",
    b"lpr",
    b"news",
    b"uucp",
    b"cron",
    b"authpriv",
    b"ftp",
    b"ntp",
    b"security",
    b"console",
    b"solaris-cron",
    b"local0",
    b"local1",
    b"local2",
    b"local3",
    b"local4",
    b"local5",
    b"local6",
    b"local7",
];

/// By number (RFC 5424, table 2).
const SEVERITIES: [(&[u8], Level); 8] = [
    (b"emerg", Level::Critical),
    (b"alert", Level::Critical),
    (b"crit", Level::Critical),
    (b"err", Level::Error),
    (b"warning", Level::Warning),
    (b"notice", Level::Info),
    (b"info", Level::Info),
    (b"debug", Level::Debug),
];

/// The role of a line.
#[must_use]
pub fn role(line: &[u8]) -> Role {
    match line.first() {
        Some(b' ' | b'\t') => Role::Continues,
        _ => Role::Begins { thread: 0 },
    }
}

/// Reads one record with its continuation lines; `false` if its first line has no header.
pub fn parse<'a>(text: &'a [u8], clock: &mut Clock, record: &mut Record<'a>) -> bool {
    let line_len = memchr::memchr(b'\n', text).unwrap_or(text.len());
    let Some((line, _)) = text.split_at_checked(line_len) else { return false };
    let (after_pri, pri) = match priority(line) {
        Ok((rest, pri)) => (rest, Some(pri)),
        Err(_) => (line, None),
    };
    if let Some(digits) = pri {
        push_priority(digits, record);
    }
    let version = pri.and_then(|_| rfc5424::version(after_pri).ok());
    let message = match version {
        Some((header, version)) => rfc5424::parse(version, header, clock, record),
        None => bsd::parse(after_pri, pri.is_some(), clock, record),
    };
    let Some(message) = message else { return false };
    record.message = text.get(line.len() - message.len()..).unwrap_or(message).into();
    true
}

/// `<PRI>`: the digits between the brackets.
fn priority(input: &[u8]) -> IResult<&[u8], &[u8]> {
    delimited(tag("<"), take_while_m_n(1, 3, |byte: u8| byte.is_ascii_digit()), tag(">"))
        .parse(input)
}

/// Splits a priority into facility and severity; one that is over 191 is kept as `pri`.
fn push_priority<'a>(digits: &'a [u8], record: &mut Record<'a>) {
    let number =
        digits.iter().fold(0_usize, |number, digit| number * 10 + usize::from(digit & 0x0f));
    let (facility, severity) = (FACILITIES.get(number >> 3), SEVERITIES.get(number & 7));
    let (Some(facility), Some((severity, level))) = (facility, severity) else {
        record.push(b"pri", digits);
        return;
    };
    record.push(b"facility", facility);
    record.push(b"severity", severity);
    record.level = *level;
}

/// What follows the blanks at the beginning.
fn skip_blanks(input: &[u8]) -> &[u8] {
    let blanks = input.iter().take_while(|byte| **byte == b' ').count();
    input.get(blanks..).unwrap_or_default()
}

/// Text up to a blank or the end.
fn split_word(input: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b' ', input).unwrap_or(input.len());
    input.split_at_checked(end).unwrap_or((input, b""))
}
