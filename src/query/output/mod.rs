//! How rows and counts look.

use std::io::{self, Write};
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::count::{By, Count};
use super::cursor;
use super::filter::metadata;
use super::raw::Files;
use crate::key::Table;
use crate::record::Level;
use crate::stores::StoredRow;

pub mod escape;
pub mod machine;

/// The looks that an answer can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Look {
    /// One line a row, with local times.
    #[default]
    Short,
    /// The same with full times.
    ShortIso,
    /// One JSON object a row.
    Json,
    /// JSON over several lines.
    JsonPretty,
    /// The message alone.
    Cat,
    /// All columns and fields, one a line.
    Verbose,
    /// The line as it stands in its file.
    Raw,
    /// Comma-separated values, with a line of names.
    Csv,
}

impl Look {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Self); 8] = [
        ("short", Self::Short),
        ("short-iso", Self::ShortIso),
        ("json", Self::Json),
        ("json-pretty", Self::JsonPretty),
        ("cat", Self::Cat),
        ("verbose", Self::Verbose),
        ("raw", Self::Raw),
        ("csv", Self::Csv),
    ];
}

impl FromStr for Look {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, look)| look).ok_or_else(
            || {
                let names: Vec<&str> = Self::ALL.into_iter().map(|(name, _)| name).collect();
                format!("there is no such output; there are {}", names.join(", "))
            },
        )
    }
}

/// What decides how an answer looks, besides its rows.
#[derive(Debug, Clone)]
pub struct Style {
    /// The look.
    pub look: Look,
    /// Zone of the times that people read.
    pub zone: TimeZone,
    /// With colours.
    pub colour: bool,
    /// A person reads it on a terminal: nothing of a row may steer that, not even in `raw`.
    pub terminal: bool,
}

/// Writes an answer.
#[derive(Debug)]
pub struct Printer {
    style: Style,
    files: Option<Files>,
    headed: bool,
}

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[33m";
const GREY: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

impl Printer {
    /// A printer. `files` are asked for the lines of [`Look::Raw`].
    #[must_use]
    pub fn new(style: Style, files: Option<Files>) -> Self {
        Self { style, files, headed: false }
    }

    /// Writes one row.
    ///
    /// # Errors
    ///
    /// The output's.
    pub fn row(&mut self, out: &mut dyn Write, row: &StoredRow) -> io::Result<()> {
        match self.style.look {
            Look::Short => self.short(out, row, "%b %d %H:%M:%S"),
            Look::ShortIso => self.short(out, row, "%Y-%m-%dT%H:%M:%S%.3f%:z"),
            Look::Cat => writeln!(out, "{}", escape::lines(&row.message)),
            Look::Verbose => self.verbose(out, row),
            Look::Json => writeln!(out, "{}", escape::json(&machine::json(row).to_string())),
            Look::JsonPretty => {
                writeln!(out, "{}", escape::json(&format!("{:#}", machine::json(row))))
            }
            Look::Csv => {
                if !std::mem::replace(&mut self.headed, true) {
                    machine::csv_head(out, row)?;
                }
                machine::csv(out, row)
            }
            Look::Raw => self.raw(out, row),
        }
    }

    /// Writes counts.
    ///
    /// # Errors
    ///
    /// The output's.
    pub fn counts(&self, out: &mut dyn Write, by: &[By], counts: &[Count]) -> io::Result<()> {
        match self.style.look {
            Look::Json | Look::JsonPretty => machine::json_counts(out, by, counts),
            Look::Csv => machine::csv_counts(out, by, counts),
            _ => {
                for count in counts {
                    let values: Vec<_> = count
                        .values
                        .iter()
                        .map(
                            |value| if value.is_empty() { "-".into() } else { escape::line(value) },
                        )
                        .collect();
                    writeln!(out, "{:>12}  {}", count.rows, values.join("  "))?;
                }
                Ok(())
            }
        }
    }

    fn time(&self, row: &StoredRow) -> Zoned {
        time_of(row).to_zoned(self.style.zone.clone())
    }

    fn colour(&self, level: Level) -> (&'static str, &'static str) {
        match level {
            _ if !self.style.colour => ("", ""),
            Level::Error | Level::Critical => (RED, PLAIN),
            Level::Warning => (YELLOW, PLAIN),
            Level::Info => ("", ""),
            Level::Debug | Level::Trace => (GREY, PLAIN),
        }
    }

    fn short(&self, out: &mut dyn Write, row: &StoredRow, format: &str) -> io::Result<()> {
        let time = self.time(row).strftime(format).to_string();
        let (on, off) = self.colour(row.level);
        let head = if row.table == Table::Events {
            let user = row.further.iter().find(|(name, _)| *name == "user_id");
            format!("{time} {}", escape::line(user.map_or("", |(_, user)| user)))
        } else {
            format!("{time} {} {}", escape::line(&row.host), escape::line(&row.source))
        };
        let level = if row.level == Level::Info { "" } else { row.level.name() };
        let gap = if level.is_empty() { "" } else { " " };
        let text = said(row);
        let mut lines = text.split('\n');
        let first = lines.next().unwrap_or_default();
        writeln!(out, "{head}{gap}{on}{level}: {}{off}", escape::line(first))?;
        for line in lines {
            writeln!(out, "    {on}{}{off}", escape::line(line))?;
        }
        Ok(())
    }

    fn verbose(&self, out: &mut dyn Write, row: &StoredRow) -> io::Result<()> {
        let time = self.time(row).strftime("%a %Y-%m-%d %H:%M:%S%.3f %Z").to_string();
        writeln!(out, "{time} [{}]", cursor::write(row.key))?;
        let mut field = |name: &str, value: &str| {
            let value = escape::lines(value).replace('\n', "\n        ");
            writeln!(out, "    {}={value}", escape::line(name))
        };
        let of_event = row.table == Table::Events;
        field("source", &row.source)?;
        if of_event {
            field("event_type", &row.message)?;
        } else {
            field("level", row.level.name())?;
            field("host", &row.host)?;
            field("message", &row.message)?;
        }
        for (name, value) in &row.further {
            field(name, value)?;
        }
        for (name, value) in metadata(row) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let column = if of_event { "event_data" } else { "metadata" };
            field(&format!("{column}.{name}"), &value)?;
        }
        field("origin", &row.key.origin.to_string())?;
        field("offset_bytes", &row.key.offset_bytes.to_string())
    }

    fn raw(&mut self, out: &mut dyn Write, row: &StoredRow) -> io::Result<()> {
        let bytes = self.files.as_mut().and_then(|files| files.record(row));
        let bytes = bytes.as_deref().unwrap_or(row.message.as_bytes());
        if self.style.terminal {
            writeln!(out, "{}", escape::lines(&String::from_utf8_lossy(bytes)))
        } else {
            out.write_all(bytes)?;
            out.write_all(b"\n")
        }
    }
}

fn time_of(row: &StoredRow) -> Timestamp {
    Timestamp::from_millisecond(row.key.timestamp_ms).unwrap_or_default()
}

/// What a row says in one line. The message of an access log is the request alone: who asked,
/// and what the answer was, belong to it for a person; so does the program of a syslog line.
fn said(row: &StoredRow) -> String {
    if row.table == Table::Events {
        return format!("{} {}", row.message, row.metadata).trim().to_owned();
    }
    let fields = metadata(row);
    let text = |name: &str| fields.get(name).and_then(|value| value.as_str());
    let client = text("remote_addr").or_else(|| text("client_ip"));
    match (client, text("status")) {
        (Some(client), Some(status)) => {
            let mut said = format!("{client} \"{}\" {status}", row.message);
            let bytes = text("body_bytes_sent").or_else(|| text("bytes_sent"));
            for part in bytes.into_iter().chain(text("request_time")) {
                said.push(' ');
                said += part;
            }
            said
        }
        _ => match (text("app_name"), text("procid")) {
            (Some(app), Some(process)) => format!("{app}[{process}]: {}", row.message),
            (Some(app), None) => format!("{app}: {}", row.message),
            (None, _) => row.message.clone(),
        },
    }
}

#[cfg(test)]
mod tests;
