//! A JSON scanner for log lines: one object, flattened while it is read.
//!
//! It borrows wherever the text holds no escape, keeps the digits of numbers, and holds its own
//! stack, so that no nesting is too deep for it. It is a little more tolerant than the standard,
//! because loggers are: raw control bytes in strings, and Python's `NaN` and `Infinity`. A `\u`
//! escape of half a surrogate pair becomes U+FFFD.

use std::borrow::Cow;

use memchr::memchr2;

use crate::record::Text;

/// Objects nested deeper than this are kept as JSON text: every level repeats the path.
const DEPTH_MAX: usize = 32;
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// The value of a member that is no flattened object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// A string, unescaped.
    Text(Text<'a>),
    /// A number, as it is written.
    Number(&'a [u8]),
    /// `true` or `false`; also `NaN` and `Infinity`.
    Word(&'a [u8]),
    /// A list, or an object below [`DEPTH_MAX`]: its JSON text without blanks.
    Json(Vec<u8>),
    /// `null`
    Null,
}

impl<'a> Value<'a> {
    /// The value as text; `null` is empty.
    #[must_use]
    pub fn into_text(self) -> Text<'a> {
        match self {
            Self::Text(text) => text,
            Self::Number(text) | Self::Word(text) => Cow::Borrowed(text),
            Self::Json(text) => Cow::Owned(text),
            Self::Null => Cow::Borrowed(b""),
        }
    }
}

/// Reads `text` as one JSON object and calls `visit` with the path and the value of each member in
/// order; the keys of nested objects are joined by dots. Empty objects give nothing. Keys may
/// come twice.
///
/// Returns `false` if the text is not one object; what was visited before that counts for nothing.
pub fn members<'a>(text: &'a [u8], mut visit: impl FnMut(Text<'a>, Value<'a>)) -> bool {
    walk(&mut Scanner { text, at: 0 }, &mut visit).is_some()
}

fn walk<'a>(scan: &mut Scanner<'a>, visit: &mut dyn FnMut(Text<'a>, Value<'a>)) -> Option<()> {
    scan.blanks();
    scan.require(b'{')?;
    let mut path = Vec::new();
    // For each open nested object, how long the path was outside of it.
    let mut outer = Vec::new();
    let mut first = true;
    loop {
        scan.blanks();
        if scan.take(b'}') {
            let Some(len) = outer.pop() else { break };
            path.truncate(len);
        } else {
            if !first {
                scan.require(b',')?;
                scan.blanks();
            }
            let key = scan.string()?;
            scan.blanks();
            scan.require(b':')?;
            scan.blanks();
            if scan.peek() == Some(b'{') && outer.len() + 1 < DEPTH_MAX {
                scan.require(b'{')?;
                outer.push(path.len());
                path.extend_from_slice(&key);
                path.push(b'.');
                first = true;
                continue;
            }
            let value = scan.value()?;
            let key = if path.is_empty() { key } else { Cow::Owned([&path, &*key].concat()) };
            visit(key, value);
        }
        first = false;
    }
    scan.blanks();
    (scan.at == scan.text.len()).then_some(())
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn require(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Option<Value<'a>> {
        Some(match self.peek()? {
            b'"' => Value::Text(self.string()?),
            b'{' | b'[' => {
                let mut json = Vec::new();
                self.json(&mut json)?;
                Value::Json(json)
            }
            _ => self.bare()?,
        })
    }

    /// A number or a word.
    fn bare(&mut self) -> Option<Value<'a>> {
        let rest = self.rest();
        let len = rest
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
            .count();
        let word = rest.get(..len)?;
        self.at += len;
        match word {
            b"null" => Some(Value::Null),
            b"true" | b"false" | b"NaN" | b"Infinity" | b"-Infinity" => Some(Value::Word(word)),
            _ => is_number(word).then_some(Value::Number(word)),
        }
    }

    fn string(&mut self) -> Option<Text<'a>> {
        self.require(b'"')?;
        let rest = self.rest();
        let len = memchr2(b'"', b'\\', rest)?;
        let plain = rest.get(..len)?;
        self.at += len;
        if self.take(b'"') {
            return Some(Cow::Borrowed(plain));
        }
        let mut text = plain.to_vec();
        loop {
            let rest = self.rest();
            let len = memchr2(b'"', b'\\', rest)?;
            text.extend_from_slice(rest.get(..len)?);
            self.at += len;
            if self.take(b'"') {
                return Some(Cow::Owned(text));
            }
            let char = self.escape()?;
            text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    /// The character of the escape at the backslash here.
    fn escape(&mut self) -> Option<char> {
        let kind = *self.text.get(self.at + 1)?;
        self.at += 2;
        Some(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.hex4()?;
                if !(0xd800..0xdc00).contains(&unit) {
                    return Some(char::from_u32(unit).unwrap_or(REPLACEMENT));
                }
                // The first half of a pair; without a second half it stands alone.
                let back = self.at;
                let low = if self.take(b'\\') && self.take(b'u') { self.hex4() } else { None };
                let pair = low.filter(|low| (0xdc00..0xe000).contains(low)).and_then(|low| {
                    char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00))
                });
                if pair.is_none() {
                    self.at = back;
                }
                pair.unwrap_or(REPLACEMENT)
            }
            _ => return None,
        })
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        let mut unit = 0;
        for digit in digits {
            unit = unit * 16 + char::from(*digit).to_digit(16)?;
        }
        self.at += 4;
        Some(unit)
    }

    /// Appends the list or object that begins here to `out`, without blanks and with no more
    /// escapes than JSON asks for.
    fn json(&mut self, out: &mut Vec<u8>) -> Option<()> {
        // The closing bracket of each open list and object.
        let mut open = Vec::new();
        let mut first = true;
        loop {
            self.blanks();
            let byte = self.peek()?;
            if open.last() == Some(&byte) {
                self.at += 1;
                out.push(byte);
                open.pop();
                first = false;
            } else {
                if !first && !open.is_empty() {
                    self.require(b',')?;
                    out.push(b',');
                    self.blanks();
                }
                if open.last() == Some(&b'}') {
                    write_string(&self.string()?, out);
                    self.blanks();
                    self.require(b':')?;
                    out.push(b':');
                    self.blanks();
                }
                first = self.item(&mut open, out)?;
            }
            if open.is_empty() {
                return Some(());
            }
        }
    }

    /// A value inside a list or object; `true` if it opened one.
    fn item(&mut self, open: &mut Vec<u8>, out: &mut Vec<u8>) -> Option<bool> {
        match self.peek()? {
            byte @ (b'[' | b'{') => {
                self.at += 1;
                out.push(byte);
                open.push(if byte == b'[' { b']' } else { b'}' });
                return Some(true);
            }
            b'"' => write_string(&self.string()?, out),
            _ => match self.bare()? {
                Value::Null => out.extend_from_slice(b"null"),
                value => out.extend_from_slice(&value.into_text()),
            },
        }
        Some(false)
    }
}

/// Whether all of `text` is a JSON number.
fn is_number(text: &[u8]) -> bool {
    let skip_digits = |text: &mut &[u8]| {
        let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *text = text.get(len..).unwrap_or_default();
        len > 0
    };
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    if !skip_digits(&mut rest) {
        return false;
    }
    if let Some(after) = rest.strip_prefix(b".") {
        rest = after;
        if !skip_digits(&mut rest) {
            return false;
        }
    }
    if let Some((b'e' | b'E', after)) = rest.split_first() {
        rest = after.strip_prefix(b"-").or_else(|| after.strip_prefix(b"+")).unwrap_or(after);
        if !skip_digits(&mut rest) {
            return false;
        }
    }
    rest.is_empty()
}

fn write_string(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn read(text: &str) -> Option<String> {
        let mut out = String::new();
        members(text.as_bytes(), |key, value| {
            let kind = match value {
                Value::Text(_) => 't',
                Value::Number(_) => 'n',
                Value::Word(_) => 'w',
                Value::Json(_) => 'j',
                Value::Null => '0',
            };
            let key = String::from_utf8(key.into_owned()).unwrap();
            let value = String::from_utf8(value.into_text().into_owned()).unwrap();
            write!(out, "{key}={kind}:{value};").unwrap();
        })
        .then_some(out)
    }

    #[test]
    fn nested_objects_are_flattened_in_order() {
        let text = r#" { "a" : {"b":1,"c":{},"d":{"e":"x"}}, "f":null ,"g":true} "#;
        assert_eq!(read(text).unwrap(), "a.b=n:1;a.d.e=t:x;f=0:;g=w:true;");
    }

    #[test]
    fn escapes_are_read_and_half_pairs_replaced() {
        let text =
            r#"{"a":"\"\\\/\b\f\n\r\t\u00e9\ud83c\udf5e","b":"\ud83cx\udf5e\u0041","\u0061":1}"#;
        assert_eq!(
            read(text).unwrap(),
            "a=t:\"\\/\u{8}\u{c}\n\r\té🍞;b=t:\u{fffd}x\u{fffd}A;a=n:1;"
        );
    }

    #[test]
    fn lists_become_compact_text_with_few_escapes() {
        let text = r#"{"a":[ 1.50 , "\u00e9\"\n\u0001" , {"b" : [ ] , "c":null}, -2E+3 ],"d":[]}"#;
        assert_eq!(
            read(text).unwrap(),
            r#"a=j:[1.50,"é\"\n\u0001",{"b":[],"c":null},-2E+3];d=j:[];"#
        );
    }

    #[test]
    fn what_is_not_one_object_is_refused() {
        for text in [
            "",
            "{",
            "[]",
            "1",
            "{} {}",
            "{}x",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{,"a":1}"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[1 2]}"#,
            r#"{"a":[1}"#,
            r#"{"a":"x}"#,
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12"}"#,
            r#"{"a":01x}"#,
            r#"{"a":.5}"#,
            r#"{"a":1.}"#,
            r#"{"a":1e}"#,
            r#"{"a":--1}"#,
            r#"{"a":nul}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn no_nesting_is_too_deep() {
        let depth = 100_000;
        let text = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        let flat = read(&text).unwrap();
        assert!(flat.starts_with(&"a.".repeat(DEPTH_MAX - 1)), "{}", flat.len());
        assert!(flat.len() < text.len() + 200, "{}", flat.len());
        let text = format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(read(&text).unwrap().len(), "a=j:;".len() + 2 * depth);
    }
}
