//! Text of logs and servers, made fit for messages: one line, bounded, and nothing in it that a
//! terminal, a mail program or a chat would obey.

/// Characters of a detail.
pub const DETAIL_MAX: usize = 600;
/// Characters of a line of a log that is quoted.
pub const SAMPLE_MAX: usize = 240;
/// Lines of logs that one finding quotes.
pub const SAMPLES_MAX: usize = 3;

/// A text as one line of at most `most` characters: what is no plain character is written out, as
/// `\n` or `\u{1b}`.
#[must_use]
pub fn line(text: &str, most: usize) -> String {
    let mut line = String::new();
    let mut length = 0;
    for c in text.chars() {
        let escaped = if obeyed(c) { c.escape_default().to_string() } else { c.to_string() };
        length += escaped.chars().count();
        if length > most {
            line.push('…');
            break;
        }
        line.push_str(&escaped);
    }
    line
}

/// Control characters, ends of lines, and those that turn or hide what stands around them.
fn obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A length of time for people.
#[must_use]
pub fn ago(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A number of milliseconds; a duration that is longer than time is its end.
#[must_use]
pub fn ms(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A count as a number to compare; beyond 2^52 it is rounded, which no rule would notice.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "see above")]
pub const fn number(count: u64) -> f64 {
    count as f64
}

/// A time in UTC.
#[must_use]
pub fn time(ms: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_or_a_header_would_obey_is_written_out() {
        let hostile = "a\r\nBcc: x@y.z\u{1b}[31m\u{202e}evil\u{2028}b\0";
        let said = line(hostile, 1000);
        assert_eq!(said, "a\\r\\nBcc: x@y.z\\u{1b}[31m\\u{202e}evil\\u{2028}b\\u{0}");
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        assert_eq!(line(&"é".repeat(1 << 20), 5), "ééééé…");
        assert_eq!(line("12345", 5), "12345");
        assert_eq!(line("1234\n", 5), "1234…", "an escape is not cut in two");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(ago(59_000), "59 s");
        assert_eq!(ago(3_660_000), "1 h 1 min");
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
    }
}
