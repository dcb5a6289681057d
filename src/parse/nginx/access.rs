//! Access lines of any `log_format`.
//!
//! Every value is the shortest text that lets the whole line match: as values may be any text, that
//! is the first place of the literal behind each variable, and for the last one the line's end.

use std::borrow::Cow;
use std::collections::BTreeMap;

use memchr::{memchr, memrchr};

use super::log_format::{Compiled, Meaning};
use super::{Clock, OptionError, keys, time};
use crate::record::{Level, Record, Time};

/// A compiled `log_format`.
#[derive(Debug)]
pub struct AccessFormat {
    compiled: Compiled,
}

impl AccessFormat {
    /// Compiles the option `log_format`: `combined` (the default) or nginx's own syntax.
    ///
    /// # Errors
    ///
    /// The format string cannot be compiled.
    pub fn new(options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        let format = options.get("log_format").map_or("combined", String::as_str);
        let compiled = Compiled::new(format)
            .map_err(|detail| OptionError { option: "log_format".to_owned(), detail })?;
        Ok(Self { compiled })
    }

    /// Reads one line; `false` if it does not match.
    pub fn parse<'a>(&'a self, text: &'a [u8], clock: &mut Clock, record: &mut Record<'a>) -> bool {
        let understood = self.read(text, clock, record).is_some();
        if self.compiled.keys_repeat {
            drop_equal(record);
            keys::number_repeated(&mut record.fields);
        }
        understood
    }

    fn read<'a>(
        &'a self,
        text: &'a [u8],
        clock: &mut Clock,
        record: &mut Record<'a>,
    ) -> Option<()> {
        let (last, steps) = self.compiled.steps.split_last()?;
        let mut rest = text.strip_prefix(&*self.compiled.prefix)?;
        // Where the format has no request, the line is the message.
        record.message = Cow::Borrowed(text);
        for step in steps {
            let (value, after) = step.shortest(rest)?;
            add(&step.key, step.meaning, value, clock, record);
            rest = after;
        }
        add(&last.key, last.meaning, last.whole(rest)?, clock, record);
        Some(())
    }
}

#[inline]
fn add<'a>(
    key: &'a [u8],
    meaning: Meaning,
    value: &'a [u8],
    clock: &mut Clock,
    record: &mut Record<'a>,
) {
    match meaning {
        Meaning::Text => {}
        Meaning::Status => record.level = level(value),
        Meaning::Request => return add_request(key, value, record),
        Meaning::Clf => return add_time(key, value, clock.clf(value), record),
        Meaning::Iso => {
            let time = clock.iso(value).filter(|(_, rest)| rest.is_empty()).map(|(time, _)| time);
            return add_time(key, value, time, record);
        }
        Meaning::Epoch => return add_time(key, value, time::epoch(value), record),
    }
    push(key, value, record);
}

/// nginx writes `-` for a variable without a value.
#[inline]
fn push<'a>(key: &'a [u8], value: &'a [u8], record: &mut Record<'a>) {
    if value != b"-" {
        record.push(key, value);
    }
}

fn level(status: &[u8]) -> Level {
    if status.is_empty() || !status.iter().all(u8::is_ascii_digit) {
        return Level::Info;
    }
    let number = status.iter().fold(0_u32, |number, digit| {
        number.saturating_mul(10).saturating_add(u32::from(digit - b'0'))
    });
    match number {
        500.. => Level::Error,
        400.. => Level::Warning,
        _ => Level::Info,
    }
}

/// Of two times in one second the one with more digits wins. What is no time, or another second
/// than the first one, stays as text.
fn add_time<'a>(key: &'a [u8], value: &'a [u8], time: Option<Time>, record: &mut Record<'a>) {
    match (time, record.time) {
        (None, _) => push(key, value, record),
        (Some(time), Some(first)) if first.seconds != time.seconds => push(key, value, record),
        (Some(time), Some(first)) if first.digits >= time.digits => {}
        (Some(_), _) => record.time = time,
    }
}

fn add_request<'a>(key: &'a [u8], value: &'a [u8], record: &mut Record<'a>) {
    record.message = Cow::Borrowed(value);
    if let Some((method, path, protocol)) = request(value) {
        record.push(b"method", method);
        record.push(b"path", path);
        record.push(b"protocol", protocol);
    } else {
        push(key, value, record);
    }
}

/// Splits METHOD SP target SP `HTTP/x`; the target may hold blanks.
fn request(value: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (method, rest) = value.split_at_checked(memchr(b' ', value)?)?;
    let (target, protocol) = rest.split_at_checked(memrchr(b' ', rest)?)?;
    let (target, protocol) = (target.get(1..)?, protocol.get(1..)?);
    let version = protocol.strip_prefix(b"HTTP/")?;
    let versioned = version.first()?.is_ascii_digit()
        && version.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let named = !method.is_empty() && method.iter().all(|byte| is_token(*byte));
    (named && versioned && !target.is_empty()).then_some((method, target, protocol))
}

/// Whether a method may hold the byte (RFC 9110, `tchar`).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A variable that a format names twice gives one field, unless the values differ.
fn drop_equal(record: &mut Record<'_>) {
    let mut at = 0;
    while let Some(field) = record.fields.get(at) {
        if record.fields.iter().take(at).any(|earlier| earlier == field) {
            record.fields.remove(at);
        } else {
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use jiff::tz::TimeZone;

    use super::*;

    fn format(text: &str) -> Result<AccessFormat, OptionError> {
        AccessFormat::new(&BTreeMap::from([("log_format".to_owned(), text.to_owned())]))
    }

    fn fields(format_text: &str, line: &str) -> Option<String> {
        let format = format(format_text).unwrap();
        let mut record = Record::default();
        let mut clock = Clock::new(TimeZone::UTC, 0);
        if !format.parse(line.as_bytes(), &mut clock, &mut record) {
            return None;
        }
        let show = |text: &[u8]| String::from_utf8(text.to_vec()).unwrap();
        let mut shown = String::new();
        for field in &record.fields {
            write!(shown, "{}={};", show(&field.key), show(&field.value)).unwrap();
        }
        Some(shown)
    }

    #[test]
    fn a_format_that_cannot_be_read_is_told_with_its_place() {
        for (text, part) in [
            ("$", "byte 1"),
            ("$status $ ", "byte 9"),
            ("$status ${host ", "byte 9"),
            ("$-", "byte 1"),
            ("mine", "no $variable"),
            ("", "no $variable"),
            ("escape=json {$status}", "escape"),
        ] {
            let error = format(text).unwrap_err();
            assert_eq!(error.option, "log_format");
            assert!(error.detail.contains(part), "{text}: {}", error.detail);
        }
    }

    #[test]
    fn each_value_is_the_shortest_that_lets_the_whole_line_match() {
        for (format, line, expected) in [
            ("$a $b", "1 2 3", Some("a=1;b=2 3;")),
            ("$a$b|", "12|3|", Some("b=12|3;")),
            ("<$a> $b", "<x>> y> z", Some("a=x>;b=y> z;")),
            ("${a}s $b", "9s -", Some("a=9;")),
            ("$a, $b;", "1, 2, 3;", Some("a=1;b=2, 3;")),
            ("$a;", "1; ", None),
            ("x$a", "y1", None),
            ("$a - $b", "1 -2", None),
        ] {
            assert_eq!(fields(format, line).as_deref(), expected, "{format} on {line}");
        }
    }

    #[test]
    fn an_escaped_quote_ends_no_quoted_value() {
        for (format, line, expected) in [
            (r#""$a" $b"#, r#""x\" y" z"#, Some(r#"a=x\" y;b=z;"#)),
            (r#""$a" $b"#, r#""x\\" y" z"#, Some(r#"a=x\\;b=y" z;"#)),
            (r#""$a""#, r#""x\""#, None),
            (r#""$a $b""#, r#""x\ y""#, Some(r"a=x\;b=y;")),
            (r#"$a "$b""#, r#"x\ "y""#, Some(r"a=x\;b=y;")),
            (r#"$a"$b"#, r#"x\"y"#, Some(r"a=x\;b=y;")),
        ] {
            assert_eq!(fields(format, line).as_deref(), expected, "{format} on {line}");
        }
    }

    #[test]
    fn a_variable_named_twice_gives_two_fields_only_if_they_differ() {
        assert_eq!(fields("$a $a", "1 1").unwrap(), "a=1;");
        assert_eq!(fields("$a $a", "1 2").unwrap(), "a=1;a.2=2;");
        assert_eq!(
            fields("$path $request", "/x GET /x HTTP/2").unwrap(),
            "path=/x;method=GET;protocol=HTTP/2;"
        );
    }

    #[test]
    fn only_a_method_a_target_and_a_version_are_a_request() {
        for line in [
            "GET /",
            "GET  HTTP/1.1",
            " / HTTP/1.1",
            "G(T / HTTP/1.1",
            "GET / HTTP/x",
            "GET / HTTP/1.1 ",
        ] {
            assert_eq!(fields("$request", line).unwrap(), format!("request={line};"));
        }
        assert_eq!(
            fields("$request", "GET /a b HTTP/1.1").unwrap(),
            "method=GET;path=/a b;protocol=HTTP/1.1;"
        );
    }
}
