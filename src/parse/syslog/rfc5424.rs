//! `<PRI>VERSION TIMESTAMP HOSTNAME APP PROCID MSGID SD [MSG]`, from VERSION on.

use std::borrow::Cow;

use nom::bytes::complete::{tag, take_till1, take_while_m_n, take_while1};
use nom::sequence::terminated;
use nom::{IResult, Parser};

use super::skip_blanks;
use crate::parse::Clock;
use crate::parse::keys::number_repeated;
use crate::record::{Field, Record, Text, Time};

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The version and the blank after it.
pub(super) fn version(input: &[u8]) -> IResult<&[u8], &[u8]> {
    terminated(take_while_m_n(1, 3, |byte: u8| byte.is_ascii_digit()), tag(" ")).parse(input)
}

/// Reads what follows the version; returns the message.
pub(super) fn parse<'a>(
    version: &'a [u8],
    header: &'a [u8],
    clock: &mut Clock,
    record: &mut Record<'a>,
) -> Option<&'a [u8]> {
    let mut fields = (word, word, word, word, word);
    let (rest, (time, hostname, app_name, procid, msgid)) = fields.parse(header).ok()?;
    if time != b"-" {
        let (time, after) = iso_time(time, clock)?;
        after.is_empty().then_some(())?;
        record.time = Some(time);
    }
    record.push(b"version", version);
    for (key, value) in [
        (&b"hostname"[..], hostname),
        (b"app_name", app_name),
        (b"procid", procid),
        (b"msgid", msgid),
    ] {
        if value != b"-" {
            record.push(key, value);
        }
    }
    let rest = match rest.strip_prefix(b"-") {
        Some(rest) => rest,
        None => structured_data(rest, record)?,
    };
    let message = match rest.split_first() {
        None => rest,
        Some((b' ', message)) => message,
        Some(_) => return None,
    };
    Some(message.strip_prefix(BYTE_ORDER_MARK).unwrap_or(message))
}

/// An ISO 8601 time with its `T`, and what follows it.
pub(super) fn iso_time<'a>(input: &'a [u8], clock: &mut Clock) -> Option<(Time, &'a [u8])> {
    const DATE_LEN: usize = "2031-05-04".len();
    matches!(input.get(DATE_LEN), Some(b'T' | b't')).then(|| clock.iso(input))?
}

/// A header field and the blank after it.
fn word(input: &[u8]) -> IResult<&[u8], &[u8]> {
    terminated(take_till1(|byte| byte == b' '), tag(" ")).parse(input)
}

/// One or more elements; returns what follows the last. RFC 5424 lets a parameter repeat.
fn structured_data<'a>(input: &'a [u8], record: &mut Record<'a>) -> Option<&'a [u8]> {
    let first = record.fields.len();
    let mut rest = element(input, record)?;
    while rest.first() == Some(&b'[') {
        rest = element(rest, record)?;
    }
    number_repeated(record.fields.get_mut(first..).unwrap_or_default());
    Some(rest)
}

/// `[id name="value" …]`
fn element<'a>(input: &'a [u8], record: &mut Record<'a>) -> Option<&'a [u8]> {
    let (mut rest, id) = sd_name(input.strip_prefix(b"[")?).ok()?;
    loop {
        let parameter = skip_blanks(rest);
        if let Some(after) = parameter.strip_prefix(b"]") {
            return Some(after);
        }
        if parameter.len() == rest.len() {
            return None;
        }
        let (after_name, name) = terminated(sd_name, tag("=")).parse(parameter).ok()?;
        let (value, after) = quoted(skip_blanks(after_name).strip_prefix(b"\"")?)?;
        // An empty value counts here.
        let key = [b"sd.", id, b".", name].concat();
        record.fields.push(Field { key: Cow::Owned(key), value });
        rest = after;
    }
}

fn sd_name(input: &[u8]) -> IResult<&[u8], &[u8]> {
    take_while1(|byte: u8| !matches!(byte, b' ' | b'=' | b']' | b'"' | b'[')).parse(input)
}

/// Text up to the quote that ends it, unescaped, and what follows that quote.
fn quoted(input: &[u8]) -> Option<(Text<'_>, &[u8])> {
    let mut owned = Vec::new();
    let mut rest = input;
    loop {
        let (plain, special) = rest.split_at_checked(memchr::memchr2(b'"', b'\\', rest)?)?;
        match special {
            [b'"', after @ ..] if owned.is_empty() => {
                let value = input.get(..input.len() - special.len())?;
                return Some((Cow::Borrowed(value), after));
            }
            [b'"', after @ ..] => {
                owned.extend_from_slice(plain);
                return Some((Cow::Owned(owned), after));
            }
            [b'\\', escaped @ (b'"' | b'\\' | b']'), after @ ..] => {
                owned.extend_from_slice(plain);
                owned.push(*escaped);
                rest = after;
            }
            // A backslash before anything else is just that (RFC 5424, 6.3.3).
            [backslash, after @ ..] => {
                owned.extend_from_slice(plain);
                owned.push(*backslash);
                rest = after;
            }
            [] => return None,
        }
    }
}
