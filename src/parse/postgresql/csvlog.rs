//! csvlog: one record a row, with newlines inside quotes.

use std::borrow::Cow;

use super::{level, push_message_facts, push_value, read_time, scan_time};
use crate::parse::{Clock, Framing, Role};
use crate::record::{Record, Text};

/// Columns before version 13.
const COLUMNS_MIN: usize = 23;

/// What a column becomes.
#[derive(Debug, Clone, Copy)]
enum Column {
    Time,
    Connection,
    Severity,
    Message,
    /// A field under a key.
    Field(&'static [u8]),
}

/// The columns in the order of the manual.
const COLUMNS: [Column; 26] = [
    Column::Time,
    Column::Field(b"user"),
    Column::Field(b"database"),
    Column::Field(b"pid"),
    Column::Connection,
    Column::Field(b"session_id"),
    Column::Field(b"line_num"),
    Column::Field(b"command_tag"),
    Column::Field(b"session_start"),
    Column::Field(b"virtual_xid"),
    Column::Field(b"xid"),
    Column::Severity,
    Column::Field(b"sqlstate"),
    Column::Message,
    Column::Field(b"detail"),
    Column::Field(b"hint"),
    Column::Field(b"query"),
    Column::Field(b"internal_position"),
    Column::Field(b"context"),
    Column::Field(b"statement"),
    Column::Field(b"cursor_position"),
    Column::Field(b"location"),
    Column::Field(b"application_name"),
    Column::Field(b"backend_type"),
    Column::Field(b"leader_pid"),
    Column::Field(b"query_id"),
];

/// The role of a physical line of a csvlog; updates `framing`.
///
/// A line that cannot begin a row opens no quotes: the head of a row that lost its beginning would
/// turn inside and outside round for all that follows.
pub fn csv_role(line: &[u8], framing: &mut Framing) -> Role {
    let continues = framing.in_quotes;
    if continues || scan_time(line).is_some() {
        framing.in_quotes ^= memchr::memchr_iter(b'"', line).count() % 2 == 1;
    }
    if continues { Role::Continues } else { Role::Begins { thread: 0 } }
}

/// Reads one csvlog record; `false` if it is not a row with the columns of some version.
pub fn parse_csv<'a>(text: &'a [u8], clock: &mut Clock, record: &mut Record<'a>) -> bool {
    read(text, clock, record).is_some()
}

fn read<'a>(text: &'a [u8], clock: &mut Clock, record: &mut Record<'a>) -> Option<()> {
    let mut rest = Some(text);
    let mut count = 0;
    while let Some(input) = rest {
        let (value, after) = field(input)?;
        match COLUMNS.get(count) {
            Some(Column::Time) => record.time = Some(read_time(&value, clock)?),
            Some(Column::Message) => record.message = value,
            Some(Column::Connection) => push_connection(value, record),
            Some(Column::Severity) => {
                record.level = level(&value).unwrap_or_default();
                push_value(record, b"severity", value);
            }
            Some(Column::Field(key)) => push_value(record, key, value),
            // Of a version to come.
            None => record.push_text(format!("column_{}", count + 1).into_bytes(), value),
        }
        count += 1;
        rest = after;
    }
    (count >= COLUMNS_MIN).then_some(())?;
    push_message_facts(record);
    Some(())
}

/// One field and, if a comma follows it, what follows the comma.
fn field(input: &[u8]) -> Option<(Text<'_>, Option<&[u8]>)> {
    let (value, rest) = if let Some(inside) = input.strip_prefix(b"\"") {
        quoted(inside)?
    } else {
        let end = memchr::memchr(b',', input).unwrap_or(input.len());
        let (value, rest) = input.split_at_checked(end)?;
        memchr::memchr2(b'"', b'\n', value).is_none().then_some(())?;
        (Cow::Borrowed(value), rest)
    };
    match rest.split_first() {
        None => Some((value, None)),
        Some((b',', after)) => Some((value, Some(after))),
        Some(_) => None,
    }
}

/// Text up to the quote that ends it, and what follows that quote.
fn quoted(input: &[u8]) -> Option<(Text<'_>, &[u8])> {
    let mut owned = Vec::new();
    let mut rest = input;
    loop {
        let (plain, after) = rest.split_at_checked(memchr::memchr(b'"', rest)?)?;
        if let Some(after) = after.strip_prefix(b"\"\"") {
            owned.extend_from_slice(plain);
            owned.push(b'"');
            rest = after;
            continue;
        }
        let after = after.strip_prefix(b"\"")?;
        if owned.is_empty() {
            return Some((Cow::Borrowed(plain), after));
        }
        owned.extend_from_slice(plain);
        return Some((Cow::Owned(owned), after));
    }
}

/// `host:port`, or `[local]`.
fn push_connection<'a>(value: Text<'a>, record: &mut Record<'a>) {
    let port_at = memchr::memrchr(b':', &value).map(|colon| colon + 1).filter(|start| {
        let port = value.get(*start..).unwrap_or_default();
        !port.is_empty() && port.iter().all(u8::is_ascii_digit)
    });
    let Some(port_at) = port_at else {
        push_value(record, b"remote_host", value);
        return;
    };
    let part = |from: usize, to: usize| -> Text<'a> {
        match &value {
            Cow::Borrowed(value) => Cow::Borrowed(value.get(from..to).unwrap_or_default()),
            Cow::Owned(value) => Cow::Owned(value.get(from..to).unwrap_or_default().to_vec()),
        }
    };
    push_value(record, b"remote_host", part(0, port_at - 1));
    push_value(record, b"remote_port", part(port_at, value.len()));
}

#[cfg(test)]
mod tests;
