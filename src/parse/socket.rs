//! What clients send to the socket, as it stands in the spool: one line a record, the text of the
//! client behind an *envelope* that says when it came and from whom.
//!
//! ```text
//! 1795305600000 4711 33 - {"message":"one"}
//! time it came  pid  uid flags  text
//! ```
//!
//! Pid and uid are `-` where the kernel does not tell. Flags are `-`, or of `e` (the text is
//! escaped, as it has line breaks: `\n` and `\\`), `p` (partial: its line never ended) and `t`
//! with the true length of a text that was cut (`t300000`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Clock, OptionError, json, syslog};
use crate::record::{Field, Record, Text, Time};

/// A record's time may be so much later than its arrival.
const AHEAD_MS_MAX: i64 = 86_400_000;

/// What the daemon notes of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Envelope {
    /// When it came, wall clock in milliseconds.
    pub at_ms: i64,
    /// The sender's process.
    pub pid: Option<u32>,
    /// The sender's user.
    pub uid: Option<u32>,
    /// Its line never ended.
    pub partial: bool,
    /// Length of the whole text, of which only the head is here.
    pub line_bytes: Option<u64>,
}

impl Envelope {
    /// Appends the line of a record.
    pub fn write(&self, text: &[u8], out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(digits.format(self.at_ms.unsigned_abs()).as_bytes());
        for number in [self.pid, self.uid] {
            out.push(b' ');
            match number {
                Some(number) => out.extend_from_slice(digits.format(number).as_bytes()),
                None => out.push(b'-'),
            }
        }
        out.push(b' ');
        let flags = out.len();
        let escaped = memchr::memchr(b'\n', text).is_some();
        if escaped {
            out.push(b'e');
        }
        if self.partial {
            out.push(b'p');
        }
        if let Some(bytes) = self.line_bytes {
            out.push(b't');
            out.extend_from_slice(digits.format(bytes).as_bytes());
        }
        if out.len() == flags {
            out.push(b'-');
        }
        out.push(b' ');
        if escaped {
            for &byte in text {
                match byte {
                    b'\n' => out.extend_from_slice(b"\\n"),
                    b'\\' => out.extend_from_slice(b"\\\\"),
                    byte => out.push(byte),
                }
            }
        } else {
            out.extend_from_slice(text);
        }
        out.push(b'\n');
    }

    /// Takes a line apart; `None` if it has no envelope.
    fn read(line: &[u8]) -> Option<(Self, Text<'_>)> {
        let mut parts = line.splitn(5, |&byte| byte == b' ');
        let mut part = || parts.next();
        let (at, pid, uid, flags, text) = (part()?, part()?, part()?, part()?, part()?);
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
        let at_ms = std::str::from_utf8(at).ok()?.parse().ok()?;
        let mut envelope = Self { at_ms, pid: number(pid), uid: number(uid), ..Self::default() };
        let mut escaped = false;
        let mut rest = flags;
        while let Some((&flag, more)) = rest.split_first() {
            rest = more;
            match flag {
                b'e' => escaped = true,
                b'p' => envelope.partial = true,
                b't' => {
                    envelope.line_bytes = Some(std::str::from_utf8(more).ok()?.parse().ok()?);
                    rest = b"";
                }
                b'-' => {}
                _ => return None,
            }
        }
        let text = if escaped { Cow::Owned(unescape(text)) } else { Cow::Borrowed(text) };
        Some((envelope, text))
    }
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        plain.push(match (byte, byte == b'\\') {
            (_, true) => match bytes.next() {
                Some(b'n') => b'\n',
                Some(other) => other,
                None => b'\\',
            },
            (byte, false) => byte,
        });
    }
    plain
}

/// What kind of records a lane of the spool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sent {
    /// JSON objects.
    Json,
    /// JSON objects with an `event_type`.
    Event,
    /// Syslog lines.
    Syslog,
}

/// The compiled options of one of the formats.
#[derive(Debug)]
pub struct Options {
    sent: Sent,
    json: json::Options,
    /// What the column `source` says already.
    source: String,
}

impl Options {
    /// Compiles the option `source`.
    ///
    /// # Errors
    ///
    /// None; as with the other formats.
    pub fn new(sent: Sent, options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        let json = json::Options::new(&BTreeMap::new())?;
        Ok(Self { sent, json, source: options.get("source").cloned().unwrap_or_default() })
    }
}

/// Reads one line of the spool. `record` is set in any case: of a text that is not understood all
/// is the message, and what its envelope says is kept.
pub fn parse<'a>(text: &'a [u8], options: &Options, clock: &mut Clock, record: &mut Record<'a>) {
    let Some((envelope, sent)) = Envelope::read(text) else {
        return record.not_understood(text);
    };
    match sent {
        Cow::Borrowed(sent) => read(sent, &envelope, options, clock, record),
        Cow::Owned(sent) => {
            let mut inner = Record::default();
            read(&sent, &envelope, options, clock, &mut inner);
            (record.time, record.level, record.parsed) = (inner.time, inner.level, inner.parsed);
            record.message = Cow::Owned(inner.message.into_owned());
            record.fields.extend(inner.fields.into_iter().map(|field| Field {
                key: Cow::Owned(field.key.into_owned()),
                value: Cow::Owned(field.value.into_owned()),
            }));
        }
    }
    envelope.note(options, record);
}

fn read<'a>(
    sent: &'a [u8],
    envelope: &Envelope,
    options: &Options,
    clock: &mut Clock,
    record: &mut Record<'a>,
) {
    let understood = envelope.line_bytes.is_none()
        && match options.sent {
            Sent::Json => json::parse(sent, &options.json, clock, record),
            Sent::Event => json::parse_event(sent, &options.json, clock, record),
            Sent::Syslog => {
                clock.stand_at(envelope.at_ms);
                syslog::parse(sent, clock, record)
            }
        };
    if understood {
        record.parsed = true;
    } else {
        record.not_understood(sent);
    }
}

impl Envelope {
    /// Adds what is known besides the record's own words. Names of ours win over the client's.
    fn note(&self, options: &Options, record: &mut Record<'_>) {
        let told = record.time.and_then(Time::row_millis);
        if told.is_none_or(|told| told > self.at_ms.saturating_add(AHEAD_MS_MAX)) {
            if let Some(told) = told {
                record.push_text(&b"time_ahead_ms"[..], told.to_string().into_bytes());
            }
            record.time = Some(Time {
                seconds: self.at_ms.div_euclid(1000),
                nanos: u32::try_from(self.at_ms.rem_euclid(1000) * 1_000_000).unwrap_or(0),
                digits: 3,
            });
        }
        let source = options.source.as_bytes();
        record.fields.retain(|field| {
            !(matches!(
                &*field.key,
                b"peer_pid" | b"peer_uid" | b"partial" | b"truncated" | b"line_bytes"
            ) || &*field.key == b"source" && *field.value == *source)
        });
        let mut add = |key: &'static [u8], value: Option<String>| {
            if let Some(value) = value {
                record.push_text(key, value.into_bytes());
            }
        };
        add(b"peer_pid", self.pid.map(|pid| pid.to_string()));
        add(b"peer_uid", self.uid.map(|uid| uid.to_string()));
        add(b"partial", self.partial.then(|| "true".to_owned()));
        add(b"truncated", self.line_bytes.map(|_| "true".to_owned()));
        add(b"line_bytes", self.line_bytes.map(|bytes| bytes.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;
    use crate::record::Level;

    const AT_MS: i64 = 1_795_305_600_000;

    fn envelope() -> Envelope {
        Envelope { at_ms: AT_MS, pid: Some(4711), uid: Some(33), ..Envelope::default() }
    }

    fn row(envelope: Envelope, sent: Sent, text: &str) -> (Option<i64>, Level, String, String) {
        let mut line = Vec::new();
        envelope.write(text.as_bytes(), &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(!line.contains(&b'\n'), "a record is one line");
        let options = BTreeMap::from([("source".to_owned(), "shop".to_owned())]);
        let options = Options::new(sent, &options).unwrap();
        let mut record = Record::default();
        // a zone and a time that decide nothing
        let mut clock = Clock::new(TimeZone::UTC, 0);
        parse(&line, &options, &mut clock, &mut record);
        let fields: Vec<String> = record
            .fields
            .iter()
            .map(|one| {
                let (key, value) = (&one.key, &one.value);
                format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value))
            })
            .collect();
        let message = String::from_utf8_lossy(&record.message).into_owned();
        let message = if record.parsed { message } else { format!("? {message}") };
        (record.time.and_then(Time::row_millis), record.level, message, fields.join(" "))
    }

    #[test]
    fn a_record_comes_back_with_its_sender_and_the_time_it_came() {
        let json = r#"{"level":"error","message":"no","source":"shop","peer_uid":0,"n":7}"#;
        let expected = "n=7 peer_pid=4711 peer_uid=33".to_owned();
        assert_eq!(
            row(envelope(), Sent::Json, json),
            (Some(AT_MS), Level::Error, "no".to_owned(), expected)
        );
        let unknown = Envelope { pid: None, uid: None, ..envelope() };
        let told = r#"{"timestamp":"2026-11-21T23:00:00Z","source":"other"}"#;
        let (time, _, _, fields) = row(unknown, Sent::Json, told);
        assert_eq!((time, &*fields), (Some(AT_MS - 3_600_000), "source=other"));
    }

    #[test]
    fn a_time_more_than_a_day_ahead_is_none_and_stays_to_be_read() {
        let day_after = r#"{"timestamp":"2026-11-23T00:00:00Z"}"#;
        assert_eq!(row(envelope(), Sent::Json, day_after).0, Some(AT_MS + 86_400_000));
        let later = r#"{"timestamp":"2026-11-23T00:00:01Z"}"#;
        let (time, _, _, fields) = row(envelope(), Sent::Json, later);
        assert_eq!(time, Some(AT_MS));
        assert!(fields.contains("time_ahead_ms=1795392001000"), "{fields}");
    }

    #[test]
    fn an_event_keeps_all_its_members_but_the_time() {
        let text = r#"{"event_type":"sale","timestamp":1795305599,"level":"error","name":"Ana",
            "message":"two","user_id":7,"event_data":{"bread":2,"user_id":"x"}}"#;
        let text = text.replace('\n', "");
        let (time, level, message, fields) = row(envelope(), Sent::Event, &text);
        assert_eq!((time, level, &*message), (Some(AT_MS - 1000), Level::Info, ""));
        assert_eq!(
            fields,
            "event_type=sale level=error name=Ana message=two user_id=7 event_data.bread=2 \
             event_data.user_id=x peer_pid=4711 peer_uid=33"
        );
    }

    #[test]
    fn syslog_takes_its_year_from_the_time_it_came() {
        let (time, level, message, _) =
            row(envelope(), Sent::Syslog, "<11>Nov 21 10:11:12 web1 shop[7]: no");
        assert_eq!(time, Some(AT_MS - 86_400_000 + 36_672_000));
        assert_eq!((level, &*message), (Level::Error, "no"));
    }

    #[test]
    fn what_is_not_understood_or_cut_or_has_line_breaks_keeps_all_its_text() {
        let (time, level, message, fields) = row(envelope(), Sent::Json, "{\"a\": nonsense");
        assert_eq!((time, level, &*message), (Some(AT_MS), Level::Info, "? {\"a\": nonsense"));
        assert_eq!(fields, "peer_pid=4711 peer_uid=33");
        let cut = Envelope { line_bytes: Some(300_000), partial: true, ..envelope() };
        let (_, _, message, fields) = row(cut, Sent::Json, r#"{"message":"one"}"#);
        assert_eq!(message, r#"? {"message":"one"}"#);
        assert!(fields.ends_with("partial=true truncated=true line_bytes=300000"), "{fields}");
        let text = "two\nlines \\n of \\ text";
        assert_eq!(row(envelope(), Sent::Syslog, text).2.trim_start_matches("? "), text);
    }
}
