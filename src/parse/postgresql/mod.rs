//! `PostgreSQL` server logs: stderr with any prefix, csvlog, jsonlog.
//!
//! The three say the same in three ways; what they share is here: severities, times, and what a
//! message of `log_duration` or `log_statement` says of its statement.

use std::borrow::Cow;
use std::ops::Range;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_till1, take_while1};
use nom::combinator::{opt, verify};
use nom::sequence::{delimited, preceded, terminated};
use nom::{IResult, Parser};

use super::Clock;
use super::time::{self, Civil, Layout, Zone};
use crate::record::{Level, Record, Text, Time};

mod csvlog;
mod jsonlog;
mod prefix;
mod stderr;

pub use csvlog::{csv_role, parse_csv};
pub use jsonlog::parse_jsonlog;
pub use stderr::Stderr;

/// What the server writes where it does not know a name yet.
const UNKNOWN: &[u8] = b"[unknown]";

/// The level of a severity's word; `None` if it is no severity. The manual names `DEBUG1` to
/// `DEBUG5`; the server writes a plain `DEBUG` for all of them (`error_severity` in `elog.c`).
fn level(severity: &[u8]) -> Option<Level> {
    Some(match severity {
        b"DEBUG" | b"DEBUG1" | b"DEBUG2" | b"DEBUG3" | b"DEBUG4" | b"DEBUG5" => Level::Debug,
        b"LOG" | b"INFO" | b"NOTICE" => Level::Info,
        b"WARNING" => Level::Warning,
        b"ERROR" => Level::Error,
        b"FATAL" | b"PANIC" => Level::Critical,
        _ => return None,
    })
}

/// Adds a value unless it is the server's word for nothing. The first value of a key stays: two
/// escapes or columns that share a key (`%h` and `%r`) say the same.
fn push_value<'a>(record: &mut Record<'a>, key: &'static [u8], value: impl Into<Text<'a>>) {
    let value = value.into();
    let nothing = match key {
        b"xid" | b"query_id" => &*value == b"0",
        // The words stand for themselves in what a client or the server says.
        b"detail" | b"hint" | b"query" | b"context" | b"statement" | b"location" => false,
        b"local_addr" => &*value == b"[none]" || &*value == UNKNOWN,
        _ => &*value == UNKNOWN,
    };
    if !nothing && record.get(key).is_none() {
        record.push_text(key, value);
    }
}

/// Adds `duration_ms` and `statement` from the record's message, where it has them. A statement
/// that is there already stays.
fn push_message_facts(record: &mut Record<'_>) {
    let (duration, statement) = message_facts(&record.message);
    for (key, range) in [(&b"duration_ms"[..], duration), (b"statement", statement)] {
        let value = match &record.message {
            Cow::Borrowed(message) => message.get(range).map(Cow::Borrowed),
            Cow::Owned(message) => message.get(range).map(|part| Cow::Owned(part.to_vec())),
        };
        if let Some(value) = value
            && record.get(key).is_none()
        {
            record.push_text(key, value);
        }
    }
}

/// Where the duration and the statement stand in a message; empty where there is none.
fn message_facts(message: &[u8]) -> (Range<usize>, Range<usize>) {
    let (after, duration) = match opt(duration).parse(message) {
        Ok((after, Some(digits))) => {
            let start = "duration: ".len();
            (after, start..start + digits.len())
        }
        _ => (message, 0..0),
    };
    let statement = match statement_label(skip_blanks(after)) {
        Ok((statement, _)) => message.len() - statement.len()..message.len(),
        Err(_) => 0..0,
    };
    (duration, statement)
}

/// `duration: N ms`
fn duration(input: &[u8]) -> IResult<&[u8], &[u8]> {
    let number = take_while1(|byte: u8| byte.is_ascii_digit() || byte == b'.');
    delimited(tag("duration: "), number, tag(" ms")).parse(input)
}

/// `statement: ` or `parse NAME: `, `bind NAME: `, `execute NAME: `, `execute fetch from NAME: `.
fn statement_label(input: &[u8]) -> IResult<&[u8], &[u8]> {
    let step = alt((tag("parse "), tag("bind "), tag("execute fetch from "), tag("execute ")));
    let label = alt((tag("statement:"), preceded(step, name)));
    terminated(label, tag(" ")).parse(input)
}

/// A statement's or portal's name with its colon.
fn name(input: &[u8]) -> IResult<&[u8], &[u8]> {
    verify(take_till1(|byte| matches!(byte, b' ' | b'\n')), |name: &[u8]| {
        name.len() > 1 && name.ends_with(b":")
    })
    .parse(input)
}

fn skip_blanks(input: &[u8]) -> &[u8] {
    let blanks = input.iter().take_while(|byte| **byte == b' ').count();
    input.get(blanks..).unwrap_or_default()
}

/// Reads all of `2031-05-04 10:11:12.345 CEST`.
fn read_time(text: &[u8], clock: &mut Clock) -> Option<Time> {
    const KEY_BYTES: usize = 48;
    const SECOND_END: usize = "2031-05-04 10:11:12".len();
    let (civil, rest) = scan_time(text)?;
    let zone = rest.strip_prefix(b" ").unwrap_or(rest);
    let read = |clock: &Clock, _: &[u8]| {
        clock.instant(&Civil { nanos: 0, digits: 0, ..civil }, Zone::read(zone))
    };
    // The text without its fraction stays the same for a whole second.
    let mut key = [0; KEY_BYTES];
    let key_len = SECOND_END + zone.len();
    let second = match key.get_mut(..key_len) {
        Some(place) => {
            let (place_second, place_zone) = place.split_at_mut_checked(SECOND_END)?;
            place_second.copy_from_slice(text.get(..SECOND_END)?);
            place_zone.copy_from_slice(zone);
            clock.remembered(Layout::Postgresql, place, read)?
        }
        None => read(clock, text)?,
    };
    Some(Time { nanos: civil.nanos, digits: civil.digits, ..second })
}

/// `2031-05-04 10:11:12.345` at the beginning of a text, and what follows it.
fn scan_time(text: &[u8]) -> Option<(Civil, &[u8])> {
    const DATE_LEN: usize = "2031-05-04".len();
    (text.get(DATE_LEN) == Some(&b' ')).then(|| time::date_time(text))?
}

#[cfg(test)]
mod tests;
