//! `FLAGS AT AT FILE`: a damaged or hostile compressed file is an error or its content, in whole
//! lines, from wherever reading begins.
#![no_main]

use std::fs::File;
use std::io::{Read, Write};

use bitacora::ledger::Encoding;
use bitacora::sources::CHUNK_BYTES_MAX;
use bitacora::sources::file::examine::{Examination, Verdict};
use bitacora::sources::file::marker;
use bitacora::sources::file::reader::{Ask, Got, Reader, decoder};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};

/// Of a content that is larger only the beginning is read.
const CONTENT_MAX: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let [flags, high, low, bytes @ ..] = data else { return };
    let encoding = if flags & 1 == 1 { Encoding::Zstd } else { Encoding::Gzip };
    let last = flags & 2 == 2;
    let mut expected = Vec::new();
    let Ok(stream) = decoder(file(bytes), encoding) else { return };
    let whole = stream.take(CONTENT_MAX).read_to_end(&mut expected).is_ok();
    let large = expected.len() as u64 == CONTENT_MAX;

    let verdict = examine(bytes, encoding);
    if whole && !large {
        let sound = if expected.is_empty() { Verdict::Empty } else { Verdict::Other };
        assert_eq!(verdict, Some(sound));
    } else if !whole {
        assert_eq!(verdict, Some(Verdict::Incomplete));
    }

    let at = usize::from(u16::from_be_bytes([*high, *low])) % (expected.len() + 1);
    let mut reader = Reader::new(file(bytes), encoding).expect("as it could be made before");
    let (content, ended) = drain(&mut reader, &expected[..at], last);
    // how far a decoder comes before it finds the damage hangs on how much it is asked for
    let rest = &expected[at..];
    let common = if whole { content.len() } else { content.len().min(rest.len()) };
    assert_eq!(rest.get(..common), content.get(..common), "other bytes than the decoder's");
    if whole && !large && ended {
        let rest = &rest[content.len()..];
        assert!(
            if last { rest.is_empty() } else { !rest.contains(&b'\n') },
            "too little: {rest:?}"
        );
    }
});

fn file(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("memory"));
    file.write_all(bytes).expect("memory");
    std::io::Seek::rewind(&mut file).expect("memory");
    file
}

fn examine(bytes: &[u8], encoding: Encoding) -> Option<Verdict> {
    let mut examination = Examination::new(file(bytes), encoding, Vec::new()).ok()?;
    let mut budget = 2 * CONTENT_MAX;
    examination.go_on(&mut budget).expect("errors of a decoder are verdicts")
}

/// What is behind `before`, up to an error or the end, and whether it was the end.
fn drain(reader: &mut Reader, before: &[u8], last: bool) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    let mut hash = marker::marker(before);
    loop {
        let at = (before.len() + content.len()) as u64;
        let ask = Ask { at, limit: CONTENT_MAX, marker: hash, cut: None, last, bound: false };
        let mut bytes = Vec::new();
        match reader.read(ask, &mut bytes) {
            Ok(Got::Bytes { marker: after, before }) => {
                assert!((1..=CHUNK_BYTES_MAX).contains(&bytes.len()));
                assert!(before.len() as u64 == at.min(marker::MARKER_BYTES as u64));
                hash = after;
                content.extend_from_slice(&bytes);
            }
            Ok(Got::Skipping) => assert!(bytes.is_empty()),
            Ok(Got::Nothing) => return (content, true),
            Ok(Got::Changed) => panic!("the file has not changed"),
            Err(_) => return (content, false),
        }
    }
}
