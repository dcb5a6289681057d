//! jsonlog: one JSON object a line.

use std::borrow::Cow;

use super::{UNKNOWN, level, push_message_facts, read_time};
use crate::parse::json::members;
use crate::parse::{Clock, keys};
use crate::record::{Record, Text};

/// Reads one jsonlog record; `false` if the line is not a JSON object.
pub fn parse_jsonlog<'a>(text: &'a [u8], clock: &mut Clock, record: &mut Record<'a>) -> bool {
    let mut message = None;
    let understood = members(text, |name, value| {
        let value = value.into_text();
        match &*name {
            b"timestamp" if record.time.is_none() => {
                record.time = read_time(&value, clock);
                if record.time.is_none() {
                    record.push_text(name, value);
                }
            }
            b"message" if message.is_none() => message = Some(value),
            b"error_severity" => {
                record.level = level(&value).unwrap_or_default();
                record.push_text(&b"severity"[..], value);
            }
            _ => push(record, renamed(name), value),
        }
    });
    record.message = message.unwrap_or_default();
    keys::number_repeated(&mut record.fields);
    push_message_facts(record);
    understood
}

/// The key of a name of jsonlog, where it differs from the name.
fn renamed(name: Text<'_>) -> Text<'_> {
    Cow::Borrowed(match &*name {
        b"dbname" => b"database",
        b"vxid" => b"virtual_xid",
        b"txid" => b"xid",
        b"state_code" => b"sqlstate",
        b"ps" => b"command_tag",
        b"internal_query" => b"query",
        _ => return name,
    })
}

fn push<'a>(record: &mut Record<'a>, key: Text<'a>, value: Text<'a>) {
    let nothing = match &*key {
        b"xid" | b"query_id" => &*value == b"0",
        b"user" | b"database" | b"application_name" | b"remote_host" => &*value == UNKNOWN,
        _ => false,
    };
    if !nothing {
        record.push_text(key, value);
    }
}

#[cfg(test)]
mod tests;
