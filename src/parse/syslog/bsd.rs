//! `TIME[:] [HOSTNAME] [TAG] [MSG]`: RFC 3164, the ISO times of rsyslog, and what the BSDs write.

use super::rfc5424::iso_time;
use super::{skip_blanks, split_word};
use crate::parse::Clock;
use crate::parse::time::{self, Civil, Layout, Zone};
use crate::record::{Record, Time};

/// Reads what follows the priority; returns the message.
pub(super) fn parse<'a>(
    line: &'a [u8],
    after_priority: bool,
    clock: &mut Clock,
    record: &mut Record<'a>,
) -> Option<&'a [u8]> {
    let line = if after_priority { skip_blanks(line) } else { line };
    let (time, rest) = iso_time(line, clock).or_else(|| bsd_time(line, clock))?;
    record.time = Some(time);
    let rest = rest.strip_prefix(b":").unwrap_or(rest);
    matches!(rest.first(), None | Some(b' ')).then_some(())?;
    let rest = skip_blanks(rest);
    if split_word(rest).0 == b"---" {
        return Some(rest);
    }
    if let Some(tag) = Tag::read(rest, Blanks::End) {
        return Some(tag.push(record));
    }
    let (hostname, rest) = split_word(rest);
    record.push(b"hostname", hostname);
    let rest = skip_blanks(rest);
    let tag = Tag::read(rest, Blanks::End).or_else(|| Tag::read(rest, Blanks::Belong));
    Some(tag.map_or(rest, |tag| tag.push(record)))
}

/// `Mmm [d]d [yyyy ]HH:MM:SS[.frac]`, and what follows it.
fn bsd_time<'a>(input: &'a [u8], clock: &mut Clock) -> Option<(Time, &'a [u8])> {
    let (civil, rest) = bsd_civil(input)?;
    // The memory holds a whole second: its key is the text up to the fraction.
    let fraction = if civil.digits == 0 { 0 } else { fraction_len(input, rest)? };
    let second = input.get(..input.len() - rest.len() - fraction)?;
    let time = clock.remembered(Layout::Bsd, second, |clock, _| {
        clock.instant(&Civil { nanos: 0, digits: 0, ..civil }, Zone::Local)
    })?;
    Some((Time { nanos: civil.nanos, digits: civil.digits, ..time }, rest))
}

fn fraction_len(input: &[u8], rest: &[u8]) -> Option<usize> {
    let time = input.get(..input.len() - rest.len())?;
    Some(time.len() - memchr::memrchr2(b'.', b',', time)?)
}

fn bsd_civil(input: &[u8]) -> Option<(Civil, &[u8])> {
    let (month, rest) = time::month(input)?;
    let (day, rest) = number_to_31(skip_some_blanks(rest)?)?;
    let rest = skip_some_blanks(rest)?;
    let (year, rest) = match time::number(rest, 4) {
        Some((year, after)) => (Some(i16::try_from(year).ok()?), skip_some_blanks(after)?),
        None => (None, rest),
    };
    let (civil, rest) = time::clock(rest)?;
    Some((Civil { year, month, day, ..civil }, rest))
}

/// One or two digits.
fn number_to_31(input: &[u8]) -> Option<(u8, &[u8])> {
    let (day, rest) = time::number(input, 2).or_else(|| time::number(input, 1))?;
    Some((u8::try_from(day).ok()?, rest))
}

fn skip_some_blanks(input: &[u8]) -> Option<&[u8]> {
    let rest = skip_blanks(input);
    (rest.len() < input.len()).then_some(rest)
}

/// Whether blanks end a tag's name or belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blanks {
    End,
    Belong,
}

/// `name: `, `name[pid]:`, or `name with blanks[digits]:`
#[derive(Debug)]
struct Tag<'a> {
    name: &'a [u8],
    pid: &'a [u8],
    message: &'a [u8],
}

impl<'a> Tag<'a> {
    fn read(input: &'a [u8], blanks: Blanks) -> Option<Self> {
        let (name, rest) = input.split_at_checked(name_len(input, blanks)?)?;
        if let Some(message) = rest.strip_prefix(b":") {
            let ended = matches!(message.first(), None | Some(b' '));
            return (ended && blanks == Blanks::End).then(|| Tag {
                name,
                pid: b"",
                message: skip_blanks(message),
            });
        }
        let rest = rest.strip_prefix(b"[")?;
        let (pid, rest) = rest
            .split_at_checked(rest.iter().position(|byte| matches!(byte, b' ' | b'[' | b']'))?)?;
        let message = rest.strip_prefix(b"]:")?;
        if blanks == Blanks::Belong {
            let digits = !pid.is_empty() && pid.iter().all(u8::is_ascii_digit);
            (digits && name.last() != Some(&b' ')).then_some(())?;
        }
        Some(Tag { name, pid, message: skip_blanks(message) })
    }

    fn push(self, record: &mut Record<'a>) -> &'a [u8] {
        record.push(b"app_name", self.name);
        record.push(b"procid", self.pid);
        self.message
    }
}

/// Length of the name at the beginning: up to a colon or `[`, but `::` may stand within it.
fn name_len(input: &[u8], blanks: Blanks) -> Option<usize> {
    let ends = |byte: u8| matches!(byte, b':' | b'[') || (byte == b' ' && blanks == Blanks::End);
    let mut from = 0;
    loop {
        let end = from + input.get(from..)?.iter().position(|byte| ends(*byte))?;
        match input.get(end..)? {
            _ if end == 0 => return None,
            [b':', b':', next, ..] if !matches!(next, b' ' | b':' | b'[') => from = end + 2,
            [b' ', ..] => return None,
            _ => return Some(end),
        }
    }
}
