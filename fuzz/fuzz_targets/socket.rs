//! `SIZE BYTES`: what clients send, cut anyhow, gives the same lines; each is one line in its
//! envelope, and comes back with all its text.
#![no_main]

use std::collections::BTreeMap;

use bitacora::parse::socket::Envelope;
use bitacora::parse::time::Clock;
use bitacora::parse::{Format, Parser};
use bitacora::record::{Record, Time};
use bitacora::sources::socket::protocol::{Decoder, hello, nature};
use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;

const AT_MS: i64 = 1_795_305_600_000;

type Lines = Vec<(Vec<u8>, Option<u64>)>;

fuzz_target!(|data: &[u8]| {
    let Some((&size, bytes)) = data.split_first() else { return };
    let whole = lines(bytes, usize::MAX);
    assert_eq!(lines(bytes, usize::from(size) + 1), whole, "lines hang on the cuts");
    if let Some((first, _)) = whole.first() {
        let _ = hello(first);
    }
    for (text, line_bytes) in &whole {
        let nature = nature(text);
        let envelope = Envelope {
            at_ms: AT_MS,
            pid: Some(1),
            uid: None,
            partial: false,
            line_bytes: *line_bytes,
        };
        let mut line = Vec::new();
        envelope.write(text, &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(!line.contains(&b'\n'), "a record is one line");
        let Ok(line) = std::str::from_utf8(&line) else { continue };
        let options = BTreeMap::from([("source".to_owned(), "app".to_owned())]);
        let parser = Parser::new(Format::Socket(nature.sent), &options).expect("known options");
        let mut record = Record::default();
        parser.parse(line.as_bytes(), &mut Clock::new(TimeZone::UTC, 0), &mut record);
        assert!(record.time.and_then(Time::row_millis).is_some(), "every record has a time");
        if !record.parsed {
            assert_eq!(&*record.message, &**text, "text was lost");
        }
        let keys: std::collections::HashSet<_> = record.fields.iter().map(|one| &one.key).collect();
        assert_eq!(keys.len(), record.fields.len(), "a key comes twice in {line:?}");
    }
});

fn lines(bytes: &[u8], size: usize) -> Lines {
    let mut decoder = Decoder::default();
    let mut found = Lines::new();
    for piece in bytes.chunks(size) {
        decoder.feed(piece, |frame| found.push((frame.text.to_vec(), frame.line_bytes)));
    }
    decoder.finish(|frame| found.push((frame.text.to_vec(), frame.line_bytes)));
    found
}
