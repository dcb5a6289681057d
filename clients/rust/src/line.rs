//! Lines of the protocol: one JSON object each, never longer than the daemon takes.

use std::borrow::Cow;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use tracing::Level;

use crate::fields::{TEXT_BYTES_MAX, Value};
use crate::layer::Record;

/// Of a longer line the daemon keeps only the head, which is no JSON any more.
const LINE_BYTES_MAX: usize = TEXT_BYTES_MAX;
/// Columns of `application_logs` that an event, or a span around it, may fill.
const COLUMNS: &[&str] = &["request_id", "user_id", "session_id", "duration_ms", "traceback"];
/// The same of `user_events`.
const EVENT_COLUMNS: &[&str] = &["user_id", "session_id", "ip_address", "user_agent"];
/// Names of the record itself, or of the daemon: as fields they would change what the row is.
const TAKEN: &[&str] = &[
    "timestamp",
    "level",
    "logger",
    "source",
    "event_type",
    "event_data",
    "peer_pid",
    "peer_uid",
    "partial",
    "truncated",
    "line_bytes",
];

static TIME: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

/// The line of a record, with its line end.
pub(crate) fn of_record(record: &Record, pid: u32, source: Option<&str>) -> Vec<u8> {
    let mut line = Line::default();
    line.text("timestamp", timestamp(record.at));
    match record.fields.get("event_type") {
        Some(Value::Text(kind)) => event(&mut line, record, kind),
        _ => log(&mut line, record, pid, source),
    }
    line.end(record)
}

/// What the client itself says where records are missing.
pub(crate) fn of_dropped(count: u64, pid: u32, source: Option<&str>) -> Vec<u8> {
    let mut line = Line::default();
    line.text("timestamp", timestamp(SystemTime::now()));
    line.text("level", "WARNING");
    line.text(
        "message",
        format!("{count} records were dropped here: the queue to the daemon was full"),
    );
    line.text("logger", "bitacora_tracing");
    if let Some(source) = source {
        line.text("source", source);
    }
    line.value("dropped", Value::Unsigned(count));
    line.value("process", Value::Unsigned(pid.into()));
    line.encoded()
}

/// A row of `application_logs`.
fn log<'a>(line: &mut Line<'a>, record: &'a Record, pid: u32, source: Option<&'a str>) {
    let Record { metadata, fields, spans, .. } = record;
    // Records of the crate `log` say where they come from in fields.
    let by_log = metadata.target() == "log";
    let of_log = |name| match fields.get(name) {
        Some(Value::Text(text)) if by_log => Some(text.as_str()),
        _ => None,
    };
    line.text("level", level(*metadata.level()));
    line.borrowed("message", fields.get("message"));
    line.text("logger", of_log("log.target").unwrap_or(metadata.target()));
    if let Some(source) = source {
        line.text("source", source);
    }
    for column in COLUMNS {
        line.column(column, record);
    }
    for (name, value) in &fields.pairs {
        if !(by_log && name.starts_with("log.")) {
            line.field(name, value);
        }
    }
    for span in spans.iter().rev() {
        for (name, value) in &span.fields.pairs {
            if !COLUMNS.contains(name) {
                line.add(format!("span.{name}"), Cow::Borrowed(value));
            }
        }
    }
    if !spans.is_empty() {
        line.text("spans", spans.iter().map(|span| span.name).collect::<Vec<_>>().join(":"));
    }
    if let Some(file) = of_log("log.file").or(metadata.file()) {
        line.text("file", file);
    }
    match (fields.get("log.line"), metadata.line()) {
        (Some(number), _) if by_log => line.borrowed("line", Some(number)),
        (_, Some(number)) => line.value("line", Value::Unsigned(number.into())),
        _ => {}
    }
    if let Some(module) = of_log("log.module_path").or(metadata.module_path()) {
        line.text("module", module);
    }
    if let Some(thread) = &record.thread {
        let id = || Cow::Owned(format!("{:?}", thread.id()));
        line.text("thread", thread.name().map_or_else(id, Cow::Borrowed));
    }
    line.value("process", Value::Unsigned(pid.into()));
}

/// A row of `user_events`: what is no column joins `event_data`.
fn event<'a>(line: &mut Line<'a>, record: &'a Record, kind: &'a str) {
    line.text("event_type", kind);
    for column in EVENT_COLUMNS {
        line.column(column, record);
    }
    line.column("request_id", record);
    for (name, value) in &record.fields.pairs {
        if *name != "event_type" {
            line.field(name, value);
        }
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

/// RFC 3339 with microseconds; nothing for a clock beyond the calendar: the daemon takes the time
/// of its coming then.
fn timestamp(at: SystemTime) -> String {
    let Ok(time) = Timestamp::try_from(at) else { return String::new() };
    let mut text = String::with_capacity(32);
    if TIME.print_timestamp(&time, &mut text).is_err() {
        text.clear();
    }
    text
}

/// The members of an object, in order. A name that is there already keeps its value.
#[derive(Default)]
struct Line<'a> {
    members: Vec<(Cow<'a, str>, Cow<'a, Value>)>,
}

impl<'a> Line<'a> {
    fn add(&mut self, name: impl Into<Cow<'a, str>>, value: Cow<'a, Value>) {
        let name = name.into();
        if !self.members.iter().any(|(known, _)| *known == name) {
            self.members.push((name, value));
        }
    }

    fn value(&mut self, name: &'a str, value: Value) {
        self.add(name, Cow::Owned(value));
    }

    fn text(&mut self, name: &'a str, text: impl Into<String>) {
        self.value(name, Value::Text(text.into()));
    }

    fn borrowed(&mut self, name: &'a str, value: Option<&'a Value>) {
        if let Some(value) = value {
            self.add(name, Cow::Borrowed(value));
        }
    }

    /// A field of the event; one with a name of the record itself gets another.
    fn field(&mut self, name: &'a str, value: &'a Value) {
        if TAKEN.contains(&name) {
            self.add(format!("extra_{name}"), Cow::Borrowed(value));
        } else {
            self.add(name, Cow::Borrowed(value));
        }
    }

    /// A column's value: the event's, else that of the innermost span that has it.
    fn column(&mut self, name: &'a str, record: &'a Record) {
        let mut spans = record.spans.iter().rev();
        let value =
            record.fields.get(name).or_else(|| spans.find_map(|span| span.fields.get(name)));
        let Some(value) = value else { return };
        // `%id` is the only way to log a type of one's own: its digits are meant as a number.
        let number = match (name, value) {
            ("user_id", Value::Text(text)) => text.parse().ok().map(Value::Signed),
            ("duration_ms", Value::Text(text)) => text.parse().ok().map(Value::Float),
            _ => None,
        };
        self.add(name, number.map_or(Cow::Borrowed(value), Cow::Owned));
    }

    /// Adds what is to be said of the record's own faults, and makes the line.
    fn end(mut self, record: &'a Record) -> Vec<u8> {
        if let Some(fault) = &record.fields.fault {
            self.text("format_error", fault.clone());
        }
        let mut cuts: Vec<(String, usize)> = Vec::new();
        for (name, length) in &record.fields.cuts {
            cuts.push(((*name).to_owned(), *length));
        }
        for span in record.spans.iter().rev() {
            cuts.extend(span.fields.cuts.iter().map(|(name, n)| (format!("span.{name}"), *n)));
        }
        self.say(&cuts);
        let mut encoded = self.encoded();
        for _ in 0..self.members.len() {
            if encoded.len() <= LINE_BYTES_MAX {
                break;
            }
            // Room for `cut`, which grows by a name.
            self.shorten(encoded.len() + 200 - LINE_BYTES_MAX, &mut cuts);
            self.say(&cuts);
            encoded = self.encoded();
        }
        encoded
    }

    /// Says which texts were cut, and how long they were.
    fn say(&mut self, cuts: &[(String, usize)]) {
        if cuts.is_empty() {
            return;
        }
        let said = cuts.iter().map(|(name, length)| format!("{name}: {length} characters"));
        let mut text = said.collect::<Vec<_>>().join(", ");
        text.truncate(text.floor_char_boundary(1_000));
        self.members.retain(|(known, _)| known != "cut");
        self.text("cut", text);
    }

    /// Takes so many bytes away from the longest text.
    fn shorten(&mut self, excess: usize, cuts: &mut Vec<(String, usize)>) {
        let longest = self.members.iter_mut().max_by_key(|(_, value)| encoded_bytes(value));
        let Some((name, value)) = longest else { return };
        let Value::Text(text) = value.to_mut() else { return };
        if !cuts.iter().any(|(known, _)| known == name) {
            cuts.push((name.to_string(), text.chars().count()));
        }
        // Escapes make a text longer in the line than in memory, and unevenly so.
        let wanted = text_bytes(text).saturating_sub(excess).max(100);
        loop {
            let size = text_bytes(text);
            if size <= wanted {
                break;
            }
            let length = (text.len() * wanted / size).min(text.len().saturating_sub(1));
            text.truncate(text.floor_char_boundary(length));
        }
    }

    /// The object and its line end.
    fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        for (name, value) in &self.members {
            out.push(if out.is_empty() { b'{' } else { b',' });
            write_text(&mut out, name);
            out.push(b':');
            write_value(&mut out, value);
        }
        out.extend_from_slice(if out.is_empty() { b"{}\n" } else { b"}\n" });
        out
    }
}

fn encoded_bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) => text_bytes(text),
        _ => 0, // nothing that could be cut
    }
}

fn text_bytes(text: &str) -> usize {
    let mut out = Vec::with_capacity(text.len() + 2);
    write_text(&mut out, text);
    out.len()
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let begin = out.len();
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.truncate(begin); // a vector takes everything; the line stays an object all the same
        out.extend_from_slice(b"\"\"");
    }
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    let text = match value {
        Value::Bool(value) => value.to_string(),
        Value::Signed(value) => value.to_string(),
        Value::Unsigned(value) => value.to_string(),
        Value::Float(value) if value.is_nan() => "\"nan\"".to_owned(),
        Value::Float(value) if value.is_infinite() => format!("\"{value}\""),
        Value::Float(value) => serde_json::Value::from(*value).to_string(),
        Value::Digits(digits) => return out.extend_from_slice(digits.as_bytes()),
        Value::Text(text) => return write_text(out, text),
    };
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_types_and_what_json_lacks_is_text() {
        let mut line = Line::default();
        line.value("a", Value::Float(f64::NAN));
        line.value("b", Value::Float(f64::NEG_INFINITY));
        line.value("c", Value::Float(2.0));
        line.value("d", Value::Digits(u128::MAX.to_string()));
        line.text("e", "\u{0}\"\n");
        line.text("e", "not this");
        let expected = format!(
            "{{\"a\":\"nan\",\"b\":\"-inf\",\"c\":2.0,\"d\":{},\"e\":\"\\u0000\\\"\\n\"}}\n",
            u128::MAX
        );
        assert_eq!(String::from_utf8(line.encoded()).unwrap(), expected);
    }

    #[test]
    fn the_longest_texts_are_cut_until_the_line_fits() {
        let mut line = Line::default();
        line.text("short", "stays");
        line.text("quotes", "\"".repeat(200_000));
        line.text("accents", "é".repeat(120_000));
        let mut cuts = Vec::new();
        let mut rounds = 0;
        while line.encoded().len() > LINE_BYTES_MAX {
            line.shorten(line.encoded().len() + 200 - LINE_BYTES_MAX, &mut cuts);
            line.say(&cuts);
            rounds += 1;
        }
        assert!(rounds <= 3);
        let text = String::from_utf8(line.encoded()).unwrap();
        assert!(text.len() > LINE_BYTES_MAX / 2, "{} bytes", text.len());
        assert!(text.starts_with("{\"short\":\"stays\",\"quotes\":"));
        assert!(text.ends_with("\"cut\":\"quotes: 200000 characters\"}\n"), "{text:.100}");
    }

    #[test]
    fn a_time_has_six_digits_of_its_second() {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_500);
        assert_eq!(timestamp(at), "1970-01-01T00:00:01.500000Z");
    }
}
