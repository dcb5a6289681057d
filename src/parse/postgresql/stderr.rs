//! The stderr format: primary lines, secondary lines, and lines that continue either.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::prefix::{Escape, Head, Prefix, Word};
use super::{push_message_facts, push_value, read_time};
use crate::parse::{Clock, OptionError, Role};
use crate::record::{Record, Text, Time};

/// The server's default since version 10.
const DEFAULT_PREFIX: &str = "%m [%p] ";

/// The stderr format with a compiled `log_line_prefix`.
#[derive(Debug)]
pub struct Stderr {
    prefix: Prefix,
    verbose: bool,
}

impl Stderr {
    /// Compiles the options `log_line_prefix` and `log_error_verbosity`.
    ///
    /// # Errors
    ///
    /// An option cannot be compiled.
    pub fn new(options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        const VERBOSITY: &str = "log_error_verbosity";
        let setting = options.get("log_line_prefix").map_or(DEFAULT_PREFIX, String::as_str);
        let verbosity = options.get(VERBOSITY).map_or("default", String::as_str);
        let verbose = match verbosity.to_ascii_lowercase().as_str() {
            "verbose" => true,
            "default" | "terse" => false,
            _ => {
                return Err(OptionError {
                    option: VERBOSITY.to_owned(),
                    detail: format!("{verbosity:?} is none of terse, default, verbose"),
                });
            }
        };
        Ok(Self { prefix: Prefix::new(setting)?, verbose })
    }

    /// The role of a line.
    #[must_use]
    pub fn role(&self, line: &[u8]) -> Role {
        let Some(head) = self.prefix.read(line) else { return Role::Continues };
        let thread = self.thread(&head);
        match head.word {
            Word::Severity(_) => Role::Begins { thread },
            Word::Secondary(_) => Role::Adds { thread },
        }
    }

    /// Reads one record with its secondary and continuation lines; `false` if its first line is
    /// not a primary one or its time cannot be.
    pub fn parse<'a>(&'a self, text: &'a [u8], clock: &mut Clock, record: &mut Record<'a>) -> bool {
        self.read(text, clock, record).is_some()
    }

    fn read<'a>(
        &'a self,
        text: &'a [u8],
        clock: &mut Clock,
        record: &mut Record<'a>,
    ) -> Option<()> {
        let first_end = line_end(text, 0);
        let head = self.prefix.read(text.get(..first_end)?)?;
        let Word::Severity(level) = head.word else { return None };
        record.level = level;
        record.push(b"severity", head.word_text);
        self.push_values(&head, clock, record)?;
        let mut message = head.text;
        if self.verbose
            && let Some((code, rest)) = split_sqlstate(message)
        {
            push_value(record, b"sqlstate", code);
            message = rest;
        }
        // A section is a slice of the text: from a word on to the line before the next word.
        let mut section = (None, first_end - message.len());
        let mut end = first_end;
        while end < text.len() {
            let start = end + 1;
            let next_end = line_end(text, start);
            if let Some(head) = self.prefix.read(text.get(start..next_end)?)
                && let Word::Secondary(key) = head.word
            {
                close(section, text.get(section.1..end)?, record);
                section = (Some(key), next_end - head.text.len());
            }
            end = next_end;
        }
        close(section, text.get(section.1..end)?, record);
        push_message_facts(record);
        Some(())
    }

    fn push_values<'a>(
        &self,
        head: &Head<'a>,
        clock: &mut Clock,
        record: &mut Record<'a>,
    ) -> Option<()> {
        for (escape, value) in self.prefix.values(head) {
            match escape {
                Escape::Time => record.time = record.time.or(Some(read_time(value, clock)?)),
                Escape::EpochTime => record.time = record.time.or(Some(epoch_time(value)?)),
                Escape::Pid => push_value(record, b"pid", value),
                Escape::HostPort => {
                    let (host, port) = split_port(value);
                    push_value(record, b"remote_host", host);
                    push_value(record, b"remote_port", port);
                }
                Escape::Value(key, _) => push_value(record, key, value),
            }
        }
        Some(())
    }

    /// The process that wrote a line; 0 where the prefix does not tell.
    fn thread(&self, head: &Head<'_>) -> u64 {
        let pid = self.prefix.values(head).find(|(escape, _)| *escape == Escape::Pid);
        pid.and_then(|(_, digits)| str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0)
    }
}

/// The end of the line that begins at `start`.
fn line_end(text: &[u8], start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    start + memchr::memchr(b'\n', rest).unwrap_or(rest.len())
}

/// Puts a section where its word says: into the message, or under a key.
fn close<'a>(section: (Option<&'static [u8]>, usize), text: &'a [u8], record: &mut Record<'a>) {
    let text = without_tabs(text);
    let Some(key) = section.0 else {
        record.message = text;
        return;
    };
    // Two lines with one word: both are kept.
    match record.fields.iter_mut().find(|field| &*field.key == key) {
        Some(field) => {
            let value = field.value.to_mut();
            value.push(b'\n');
            value.extend_from_slice(&text);
        }
        None => push_value(record, key, text),
    }
}

/// Takes one leading tab from each line but the first.
fn without_tabs(text: &[u8]) -> Text<'_> {
    let mut tabs = memchr::memmem::find_iter(text, b"\n\t").peekable();
    if tabs.peek().is_none() {
        return Cow::Borrowed(text);
    }
    let mut owned = Vec::with_capacity(text.len());
    let mut from = 0;
    for newline in tabs {
        owned.extend_from_slice(text.get(from..=newline).unwrap_or_default());
        from = newline + 2;
    }
    owned.extend_from_slice(text.get(from..).unwrap_or_default());
    Cow::Owned(owned)
}

/// `22012: message` of a verbose server.
fn split_sqlstate(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (code, rest) = message.split_at_checked(5)?;
    let valid = code.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    valid.then_some((code, rest.strip_prefix(b": ")?))
}

/// `host(port)`, or a host alone.
fn split_port(value: &[u8]) -> (&[u8], &[u8]) {
    let parts = value.strip_suffix(b")").and_then(|inner| {
        let open = memchr::memrchr(b'(', inner)?;
        Some((inner.get(..open)?, inner.get(open + 1..)?))
    });
    parts.unwrap_or((value, b""))
}

/// `1935655872.345`; as everywhere, outside 1970 to 2200 it is no time.
fn epoch_time(text: &[u8]) -> Option<Time> {
    const NANO_DIGITS: usize = 9;
    let (seconds, fraction) = text.split_at_checked(memchr::memchr(b'.', text)?)?;
    let digits = fraction.get(1..)?;
    let digits = digits.get(..NANO_DIGITS).unwrap_or(digits);
    let nanos = digits
        .iter()
        .chain([b'0'; NANO_DIGITS].get(digits.len()..)?)
        .try_fold(0_u32, |nanos, digit| {
            nanos.checked_mul(10)?.checked_add(u32::from(digit & 0x0f))
        })?;
    let time = Time {
        seconds: str::from_utf8(seconds).ok()?.parse().ok()?,
        nanos,
        digits: u8::try_from(digits.len()).ok()?,
    };
    time.row_millis().map(|_| time)
}

#[cfg(test)]
mod tests;
