//! A compiled `log_line_prefix`.
//!
//! The server prints values one after another with nothing to tell where they end, so a prefix is
//! matched with backtracking: a name is the shortest text, any other value the longest of its
//! kind, for which the rest of the prefix and one of the server's words follow. Names (a database, an application) may hold
//! anything, also what looks like the rest of the prefix; the work for one line is bounded.

use crate::parse::OptionError;
use crate::record::Level;

pub(super) use values::Escape;
use values::{Kind, blanks, exact_len, is_host, is_host_byte, port_len, run, time_lengths};

mod values;

/// Values in a prefix. The server knows 19 escapes.
const VALUES_MAX: usize = 32;
/// Longest name: the server cuts its own at 63 bytes, host names have up to 255.
const NAME_BYTES_MAX: usize = 256;
/// Tries for one line. Lines that match need about as many as their prefix has bytes; a line that
/// still does not match after this many continues the record before it.
const TRIES_MAX: u32 = 20_000;

/// A part of a prefix.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    /// A value; `padded` to a width with blanks.
    Value {
        escape: Escape,
        padded: bool,
    },
    /// `%q`: background processes print nothing from here on.
    Sessions,
}

/// What follows the prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// A severity: a record begins.
    Severity(Level),
    /// The key of a secondary line.
    Secondary(&'static [u8]),
}

/// A line with a prefix, taken apart.
#[derive(Debug)]
pub(super) struct Head<'a> {
    values: [&'a [u8]; VALUES_MAX],
    count: usize,
    /// What the word says.
    pub word: Word,
    /// The word as it stands in the line.
    pub word_text: &'a [u8],
    /// What follows the word, its colon and blanks.
    pub text: &'a [u8],
}

/// A compiled `log_line_prefix`.
#[derive(Debug)]
pub(super) struct Prefix {
    parts: Vec<Part>,
    escapes: Vec<Escape>,
}

impl Prefix {
    /// Compiles the setting. Escapes that the server does not know print nothing, there and here.
    pub(super) fn new(setting: &str) -> Result<Self, OptionError> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut bytes = setting.bytes().peekable();
        while let Some(byte) = bytes.next() {
            if byte != b'%' {
                literal.push(byte);
                continue;
            }
            let mut padded = false;
            while bytes.next_if(|byte| *byte == b'-' || byte.is_ascii_digit()).is_some() {
                padded = true;
            }
            let part = match bytes.next() {
                Some(b'%') => {
                    literal.push(b'%');
                    continue;
                }
                Some(b'q') => Part::Sessions,
                Some(letter) => match Escape::from_letter(letter) {
                    Some(escape) => Part::Value { escape, padded },
                    None => continue,
                },
                None => break,
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        let escapes: Vec<_> = parts
            .iter()
            .filter_map(|part| match part {
                Part::Value { escape, .. } => Some(*escape),
                _ => None,
            })
            .collect();
        if escapes.len() > VALUES_MAX {
            return Err(OptionError {
                option: "log_line_prefix".to_owned(),
                detail: format!(
                    "it has {} escapes, at most {VALUES_MAX} are possible",
                    escapes.len()
                ),
            });
        }
        Ok(Self { parts, escapes })
    }

    /// Takes a line apart; `None` if it does not begin with this prefix and one of the words.
    pub(super) fn read<'a>(&self, line: &'a [u8]) -> Option<Head<'a>> {
        let mut search = Search { values: [b""; VALUES_MAX], tries: TRIES_MAX };
        let end = search.parts(&self.parts, 0, line)?;
        Some(Head {
            values: search.values,
            count: end.count,
            word: end.word,
            word_text: end.word_text,
            text: end.text,
        })
    }

    /// The values of a line that this prefix has read, in the order of the prefix.
    pub(super) fn values<'a>(&self, head: &Head<'a>) -> impl Iterator<Item = (Escape, &'a [u8])> {
        self.escapes.iter().copied().zip(head.values).take(head.count)
    }
}

/// Where a prefix ends.
struct End<'a> {
    count: usize,
    word: Word,
    word_text: &'a [u8],
    text: &'a [u8],
}

struct Search<'a> {
    values: [&'a [u8]; VALUES_MAX],
    tries: u32,
}

impl<'a> Search<'a> {
    /// Matches `parts` and a word at the beginning of `input`; `count` values are set already.
    fn parts(&mut self, parts: &[Part], count: usize, input: &'a [u8]) -> Option<End<'a>> {
        let Some((part, parts)) = parts.split_first() else { return end(input, count) };
        match part {
            Part::Literal(literal) => self.parts(parts, count, input.strip_prefix(&literal[..])?),
            Part::Sessions => end(input, count).or_else(|| self.parts(parts, count, input)),
            Part::Value { escape, padded } => {
                let before = if *padded { blanks(input) } else { 0 };
                let input = input.get(before..)?;
                let with_port = *escape == Escape::HostPort;
                match escape.kind() {
                    Kind::Name => self.names(parts, count, input, *padded),
                    Kind::Host => self.hosts(parts, count, input, *padded, with_port),
                    Kind::Time => {
                        let (bare, zoned) = time_lengths(input)?;
                        self.value(parts, count, input, zoned, *padded).or_else(|| {
                            (bare < zoned)
                                .then(|| self.value(parts, count, input, bare, *padded))?
                        })
                    }
                    kind => {
                        let len = exact_len(kind, input);
                        let required =
                            matches!(kind, Kind::Epoch | Kind::SessionId) || *escape == Escape::Pid;
                        if required && len == 0 {
                            return None;
                        }
                        self.value(parts, count, input, len, *padded).or_else(|| {
                            (len > 0 && !required)
                                .then(|| self.value(parts, count, input, 0, false))?
                        })
                    }
                }
            }
        }
    }

    /// Takes `len` bytes as the next value, and matches the rest.
    fn value(
        &mut self,
        parts: &[Part],
        count: usize,
        input: &'a [u8],
        len: usize,
        padded: bool,
    ) -> Option<End<'a>> {
        self.tries = self.tries.checked_sub(1)?;
        let (value, rest) = input.split_at_checked(len)?;
        *self.values.get_mut(count)? = value;
        let after = if padded { blanks(rest) } else { 0 };
        // Blanks after a padded value may as well be the beginning of the literal that follows.
        (0..=after).rev().find_map(|skip| self.parts(parts, count + 1, rest.get(skip..)?))
    }

    /// Tries one length after the other, shortest first.
    fn names(
        &mut self,
        parts: &[Part],
        count: usize,
        input: &'a [u8],
        padded: bool,
    ) -> Option<End<'a>> {
        for len in 0..=input.len().min(NAME_BYTES_MAX) {
            self.tries = self.tries.checked_sub(1)?;
            let next = input.get(len);
            let inside_character = next.is_some_and(|byte| byte & 0xc0 == 0x80);
            let may_end = match parts.first() {
                Some(Part::Literal(literal)) => {
                    next == literal.first() || (padded && next == Some(&b' '))
                }
                _ => true,
            };
            if may_end
                && !inside_character
                && let Some(end) = self.value(parts, count, input, len, padded)
            {
                return Some(end);
            }
        }
        None
    }

    /// Tries what can be a host, longest first: `fe80` is one, but not where `fe80::7` stands.
    fn hosts(
        &mut self,
        parts: &[Part],
        count: usize,
        input: &'a [u8],
        padded: bool,
        with_port: bool,
    ) -> Option<End<'a>> {
        if input.first() == Some(&b'[') {
            // `[local]`
            let word = 1 + memchr::memchr(b']', input.get(..NAME_BYTES_MAX).unwrap_or(input))?;
            return self.value(parts, count, input, word, padded);
        }
        let longest = run(input, is_host_byte).min(NAME_BYTES_MAX);
        (0..=longest).rev().find_map(|len| {
            self.tries = self.tries.checked_sub(1)?;
            let (host, rest) = input.split_at_checked(len)?;
            is_host(host).then_some(())?;
            let len = len + if with_port { port_len(rest) } else { 0 };
            self.value(parts, count, input, len, padded)
        })
    }
}

/// One of the server's words, its colon and up to two blanks.
fn end(input: &[u8], count: usize) -> Option<End<'_>> {
    const WORD_BYTES_MAX: usize = "STATEMENT:".len();
    let near = input.get(..WORD_BYTES_MAX).unwrap_or(input);
    let (word_text, rest) = input.split_at_checked(memchr::memchr(b':', near)?)?;
    let word = match word_text {
        b"DETAIL" => Word::Secondary(b"detail"),
        b"HINT" => Word::Secondary(b"hint"),
        b"QUERY" => Word::Secondary(b"query"),
        b"CONTEXT" => Word::Secondary(b"context"),
        b"STATEMENT" => Word::Secondary(b"statement"),
        b"LOCATION" => Word::Secondary(b"location"),
        severity => Word::Severity(super::level(severity)?),
    };
    let text = rest.strip_prefix(b":")?;
    let text = text.strip_prefix(b" ").map_or(text, |text| text.strip_prefix(b" ").unwrap_or(text));
    Some(End { count, word, word_text, text })
}

#[cfg(test)]
mod tests;
