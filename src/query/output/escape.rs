//! Text from logs on a terminal: whoever can write a log line must not steer the terminal of who
//! reads it.

use std::borrow::Cow;
use std::fmt::Write;

/// Control characters, and those that turn the direction of text or break lines unseen.
fn dangerous(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let shown = |c: char| !dangerous(c) || keep(c);
    if text.chars().all(shown) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        let _ = match c {
            c if shown(c) => {
                out.push(c);
                Ok(())
            }
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            c if u32::from(c) < 0x100 => write!(out, "\\x{:02x}", u32::from(c)),
            c => write!(out, "\\u{{{:x}}}", u32::from(c)),
        };
    }
    Cow::Owned(out)
}

/// For one line: everything but tabs is shown by its number.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, |c| c == '\t')
}

/// For several lines: line ends stay.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| c == '\t' || c == '\n')
}

/// JSON text in which the characters that a terminal would obey are escaped, as JSON allows.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    let shown = |c: char| c == '\n' || !dangerous(c);
    if text.chars().all(shown) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if shown(c) {
            out.push(c);
        } else {
            // all of them are below 0x10000: one unit
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_by_its_number() {
        assert_eq!(line("\u{1b}[31mred\u{7}\tx\r\n"), "\\x1b[31mred\\x07\tx\\r\\n");
        assert_eq!(line("\u{9b}2J \u{202e}cba"), "\\x9b2J \\u{202e}cba");
        assert_eq!(lines("a\nb\u{8}"), "a\nb\\x08");
    }

    #[test]
    fn other_text_is_left_alone() {
        for text in ["", "GET /pan HTTP/1.1", "horno frío 🥖", "日本"] {
            assert!(matches!(line(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({"a": "x\u{7f}\u{9b}\u{202e}\u{1b}[0m\n"});
        let text = value.to_string();
        let escaped = json(&text);
        assert!(escaped.is_ascii());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
