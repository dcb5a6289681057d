//! The protocol of `docs/protocol.md`, without a socket: lines, the first line, what a record is.

use uuid::Uuid;

use crate::parse::json::{self, Value};
use crate::parse::socket::Sent;

/// Longest record, in bytes; of a longer one the head is kept.
pub const RECORD_BYTES_MAX: usize = 256 << 10;
/// Longest name of a source.
const SOURCE_BYTES_MAX: usize = 64;

/// One line of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its text, without its line end; of a line over the limit the head.
    pub text: &'a [u8],
    /// Length of the whole line, if this is not all of it.
    pub line_bytes: Option<u64>,
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What is there of the line that has begun.
    begun: Vec<u8>,
    /// Bytes of it that were thrown away.
    cut: u64,
}

impl Decoder {
    /// Whether a line has begun and not ended.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        !self.begun.is_empty() || self.cut > 0
    }

    /// Bytes that are kept of a line that has begun.
    #[must_use]
    pub const fn begun_bytes(&self) -> usize {
        self.begun.len()
    }

    /// Takes the next bytes; calls `each` for every line that ends in them.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame<'_>)) {
        while let Some(newline) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(newline);
            bytes = rest.get(1..).unwrap_or_default();
            if self.has_begun() {
                self.keep(line);
                self.end(&mut each);
            } else {
                let head = line.get(..RECORD_BYTES_MAX);
                let whole = head.filter(|head| head.len() < line.len());
                let line_bytes = whole.map(|_| line.len() as u64);
                each(Frame { text: trimmed(head.unwrap_or(line), line_bytes), line_bytes });
            }
        }
        self.keep(bytes);
    }

    /// The connection has ended: what is there of a line is a record.
    pub fn finish(&mut self, mut each: impl FnMut(Frame<'_>)) {
        if self.has_begun() {
            self.end(&mut each);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = RECORD_BYTES_MAX.saturating_sub(self.begun.len());
        let (kept, cut) = bytes.split_at(room.min(bytes.len()));
        self.begun.extend_from_slice(kept);
        self.cut += cut.len() as u64;
    }

    fn end(&mut self, each: &mut impl FnMut(Frame<'_>)) {
        let line_bytes = (self.cut > 0).then(|| self.begun.len() as u64 + self.cut);
        each(Frame { text: trimmed(&self.begun, line_bytes), line_bytes });
        // an idle client holds no memory for its longest line
        (self.begun, self.cut) = (Vec::new(), 0);
    }
}

fn trimmed(line: &[u8], line_bytes: Option<u64>) -> &[u8] {
    if line_bytes.is_some() { line } else { line.strip_suffix(b"\r").unwrap_or(line) }
}

/// What a client asks for in its first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// What it calls itself, if it wants receipts.
    pub client: Option<u128>,
    /// The number of its first record.
    pub next: u64,
    /// It wants to know the keys of its rows.
    pub keys: bool,
}

/// Reads a first line; `None` if it is a record like any other.
///
/// # Errors
///
/// It cannot be honoured, and why.
#[must_use]
pub fn hello(line: &[u8]) -> Option<Result<Hello, String>> {
    memchr::memmem::find(line, b"\"bitacora\"")?;
    let (mut version, mut client, mut next) = (None, None, None);
    let (mut ack, mut keys) = (false, false);
    let understood = json::members(line, |key, value| match (&*key, value) {
        (b"bitacora", Value::Number(number)) => version = Some(number),
        (b"ack", value) => ack = &*value.into_text() == b"true",
        (b"keys", value) => keys = &*value.into_text() == b"true",
        (b"client", Value::Text(text)) => client = Some(text),
        (b"next", Value::Number(number)) => next = Some(number),
        _ => {}
    });
    let version = version.filter(|_| understood)?;
    if version != b"1" {
        let version = String::from_utf8_lossy(version);
        return Some(Err(format!(
            "version {version} of the protocol is unknown; this is version 1"
        )));
    }
    if !ack {
        return Some(Ok(Hello { client: None, next: 1, keys: false }));
    }
    let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    let id = client.as_deref().map(text).and_then(|id| Uuid::try_parse(&id).ok());
    let Some(id) = id else {
        return Some(Err("client must be a UUID".to_owned()));
    };
    let next = next.map(text).and_then(|next| next.parse().ok()).filter(|next| *next > 0);
    let Some(next) = next else {
        return Some(Err("next must be the number of the next record, from 1 on".to_owned()));
    };
    Some(Ok(Hello { client: Some(id.as_u128()), next, keys }))
}

/// What a record is, as far as it decides where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nature {
    /// Its kind.
    pub sent: Sent,
    /// The source that it names, if that can be one.
    pub source: Option<String>,
    /// Why it is not understood.
    pub fault: Option<&'static str>,
}

/// Looks at a record.
#[must_use]
pub fn nature(text: &[u8]) -> Nature {
    let blank = |byte: &u8| byte.is_ascii_whitespace();
    let first = text.iter().find(|byte| !blank(byte));
    if first != Some(&b'{') {
        let fault = (first != Some(&b'<')).then_some("it is neither JSON nor syslog");
        return Nature { sent: Sent::Syslog, source: None, fault };
    }
    let (mut event, mut source) = (false, None);
    let understood = json::members(text, |key, value| match (&*key, value) {
        (b"event_type", Value::Text(text)) => event |= !text.is_empty(),
        (b"source", Value::Text(text)) => source = Some(text),
        _ => {}
    });
    if !understood {
        return Nature { sent: Sent::Json, source: None, fault: Some("it is no JSON object") };
    }
    if event {
        return Nature { sent: Sent::Event, source: None, fault: None };
    }
    let source = source.and_then(|text| String::from_utf8(text.into_owned()).ok());
    Nature { sent: Sent::Json, source: source.filter(|source| is_source(source)), fault: None }
}

/// The rule of the configuration's `source`.
fn is_source(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    !name.is_empty() && name.len() <= SOURCE_BYTES_MAX && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<(Vec<u8>, Option<u64>)> {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for piece in pieces {
            decoder.feed(piece, |frame| found.push((frame.text.to_vec(), frame.line_bytes)));
        }
        decoder.finish(|frame| found.push((frame.text.to_vec(), frame.line_bytes)));
        found
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let long = [vec![b'x'; RECORD_BYTES_MAX + 10], b"\n".to_vec()].concat();
        let text = [&b"one\r\n\ntwo\n"[..], &long, b"rest"].concat();
        let whole = lines(&[&text]);
        assert_eq!(whole.len(), 5);
        assert_eq!(whole[0], (b"one".to_vec(), None));
        assert_eq!(whole[3].0.len(), RECORD_BYTES_MAX);
        assert_eq!(whole[3].1, Some(RECORD_BYTES_MAX as u64 + 10));
        for size in [1, 2, 3, 1000, RECORD_BYTES_MAX, RECORD_BYTES_MAX + 13] {
            let pieces: Vec<&[u8]> = text.chunks(size).collect();
            assert_eq!(lines(&pieces), whole, "in pieces of {size}");
        }
    }

    #[test]
    fn a_first_line_is_taken_refused_or_a_record() {
        let id = "6f1c6a52-8b0e-4f43-9c37-3d3ab0d1a4cd";
        let asks = format!("{{\"bitacora\":1,\"ack\":true,\"client\":\"{id}\",\"next\":5}}");
        let client = Some(Uuid::parse_str(id).unwrap().as_u128());
        assert_eq!(hello(asks.as_bytes()), Some(Ok(Hello { client, next: 5, keys: false })));
        let plain = Hello { client: None, next: 1, keys: false };
        assert_eq!(hello(b"{\"bitacora\":1}"), Some(Ok(plain)));
        for refused in [
            "{\"bitacora\":2,\"ack\":true}",
            "{\"bitacora\":1,\"ack\":true,\"client\":\"me\",\"next\":1}",
            &asks.replace(":5", ":0"),
            &asks.replace(":5", ":-1"),
        ] {
            assert!(matches!(hello(refused.as_bytes()), Some(Err(_))), "{refused}");
        }
        for record in
            ["{\"message\":\"\\\"bitacora\\\"\"}", "{\"app\":\"bitacora\"}", "\"bitacora\""]
        {
            assert_eq!(hello(record.as_bytes()), None, "{record}");
        }
    }

    #[test]
    fn a_record_goes_where_its_kind_and_source_say() {
        let of = |text: &str| nature(text.as_bytes());
        let json = Nature { sent: Sent::Json, source: None, fault: None };
        assert_eq!(of("{\"message\":\"m\"}"), json);
        assert_eq!(of(" {\"source\":\"shop/web\"}").source.as_deref(), Some("shop/web"));
        assert_eq!(of("{\"source\":\"a b\"}"), json, "that is no source's name");
        assert_eq!(of("{\"a\":{\"event_type\":\"x\"}}"), json, "that is another key");
        assert_eq!(of("{\"event_type\":\"login\"}").sent, Sent::Event);
        assert_eq!(of("<13>x").fault, None);
        assert!(of("x").fault.is_some() && of("{x").fault.is_some() && of("[1]").fault.is_some());
    }
}
