//! Looks that programs read: JSON and CSV.

use std::io::{self, Write};

use serde_json::{Map, Value};

use super::super::count::{By, Count};
use super::time_of;
use crate::key::Table;
use crate::stores::StoredRow;

/// Columns that only `application_logs` has.
const APPLICATION: [&str; 6] =
    ["logger", "request_id", "user_id", "session_id", "traceback", "duration_ms"];

/// RFC 3339, UTC, with milliseconds.
fn time(row: &StoredRow) -> String {
    format!("{:.3}", time_of(row))
}

/// The columns of `user_events` in the order of the table; the month is that of the time.
const EVENT: [&str; 8] = [
    "user_id",
    "event_timestamp",
    "event_id",
    "event_type",
    "event_data",
    "session_id",
    "ip_address",
    "user_agent",
];

/// A column of a user event as text.
fn of_event(row: &StoredRow, name: &str) -> Option<String> {
    match name {
        "event_timestamp" => Some(time(row)),
        "event_id" => Some(uuid::Uuid::from_u128(row.key.event_id()).to_string()),
        "event_type" => Some(row.message.clone()).filter(|word| !word.is_empty()),
        "event_data" => Some(row.metadata.clone()).filter(|data| !data.is_empty()),
        _ => row.further.iter().find(|(column, _)| *column == name).map(|(_, value)| value.clone()),
    }
}

fn event_json(row: &StoredRow) -> Value {
    let mut object = Map::new();
    for name in EVENT {
        if name == "event_data" {
            object.insert(name.into(), Value::Object(super::metadata(row)));
        } else if let Some(value) = of_event(row, name) {
            object.insert(name.into(), value.into());
        }
    }
    place(&mut object, row);
    Value::Object(object)
}

fn place(object: &mut Map<String, Value>, row: &StoredRow) {
    object.insert("origin".into(), row.key.origin.into());
    object.insert("offset_bytes".into(), row.key.offset_bytes.into());
}

/// A row as one object.
#[must_use]
pub fn json(row: &StoredRow) -> Value {
    if row.table == Table::Events {
        return event_json(row);
    }
    let mut object = Map::new();
    object.insert("timestamp".into(), time(row).into());
    object.insert("source".into(), row.source.clone().into());
    object.insert("level".into(), row.level.name().into());
    object.insert("message".into(), row.message.clone().into());
    object.insert("metadata".into(), Value::Object(super::metadata(row)));
    object.insert("host".into(), row.host.clone().into());
    for (name, value) in &row.further {
        let number = matches!(*name, "user_id" | "duration_ms");
        let value = if number { serde_json::from_str(value).ok() } else { None }
            .unwrap_or_else(|| Value::from(value.clone()));
        object.insert((*name).into(), value);
    }
    place(&mut object, row);
    Value::Object(object)
}

/// The line of names, above a row like this.
pub(super) fn csv_head(out: &mut dyn Write, row: &StoredRow) -> io::Result<()> {
    let columns = ["timestamp", "source", "level", "message", "metadata", "host"];
    let columns: Vec<&str> = match row.table {
        Table::Events => EVENT.to_vec(),
        _ => columns.into_iter().chain(APPLICATION).collect(),
    };
    let columns: Vec<&str> = columns.into_iter().chain(["origin", "offset_bytes"]).collect();
    writeln!(out, "{}", columns.join(","))
}

/// A row as one line of CSV (RFC 4180).
pub(super) fn csv(out: &mut dyn Write, row: &StoredRow) -> io::Result<()> {
    if row.table == Table::Events {
        for name in EVENT {
            write!(out, "{},", cell(&of_event(row, name).unwrap_or_default()))?;
        }
        return writeln!(out, "{},{}", row.key.origin, row.key.offset_bytes);
    }
    let metadata = if row.metadata.is_empty() { "{}" } else { &row.metadata };
    let columns = [&time(row), &row.source, row.level.name(), &row.message, metadata, &row.host];
    for column in columns {
        write!(out, "{},", cell(column))?;
    }
    for name in APPLICATION {
        let value = row.further.iter().find(|(column, _)| *column == name);
        write!(out, "{},", cell(value.map_or("", |(_, value)| value)))?;
    }
    writeln!(out, "{},{}", row.key.origin, row.key.offset_bytes)
}

fn cell(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\"")).into()
    } else {
        text.into()
    }
}

/// One object a count.
pub(super) fn json_counts(out: &mut dyn Write, by: &[By], counts: &[Count]) -> io::Result<()> {
    for count in counts {
        let mut object = Map::new();
        for (by, value) in by.iter().zip(&count.values) {
            object.insert(by.name().to_owned(), value.clone().into());
        }
        object.insert("count".into(), count.rows.into());
        writeln!(out, "{}", super::escape::json(&Value::Object(object).to_string()))?;
    }
    Ok(())
}

/// One line of CSV a count.
pub(super) fn csv_counts(out: &mut dyn Write, by: &[By], counts: &[Count]) -> io::Result<()> {
    for by in by {
        write!(out, "{},", cell(by.name()))?;
    }
    writeln!(out, "count")?;
    for count in counts {
        for value in &count.values {
            write!(out, "{},", cell(value))?;
        }
        writeln!(out, "{}", count.rows)?;
    }
    Ok(())
}
