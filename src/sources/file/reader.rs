//! Reads chunks of whole lines from one open file, plain or compressed.
//!
//! Every read looks at the bytes before its position too: they must be those that were there when
//! the position was reached. They are looked at *after* the read, so that a truncation between
//! the two is noticed: bytes that are handed out stood behind the right ones.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::examine::HEAD_BYTES_MAX;
use super::marker::{self, MARKER_BYTES};
use crate::ledger::Encoding;
use crate::sources::CHUNK_BYTES_MAX;

/// Decompressed bytes that one call may skip on its way to a position.
const SKIP_BYTES_MAX: u64 = 4 << 20;

/// What a read is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Offset of the first byte.
    pub at: u64,
    /// No byte at or after this offset.
    pub limit: u64,
    /// The marker of `at`.
    pub marker: u64,
    /// End at the first line start at or after this offset.
    pub cut: Option<u64>,
    /// The file is finished: a last line without newline is taken too.
    pub last: bool,
    /// A context begins at the limit: what stands before it ends there, newline or not.
    pub bound: bool,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    /// Bytes: whole lines, or a part of a line that is longer than a chunk, or the last of a
    /// finished file.
    Bytes {
        /// The marker of their end.
        marker: u64,
        /// The up to 256 bytes before their start.
        before: Vec<u8>,
    },
    /// No whole line up to the limit.
    Nothing,
    /// The bytes before the position are not those of the marker.
    Changed,
    /// On the way there in a compressed file: ask again.
    Skipping,
}

/// One open file.
pub struct Reader {
    file: File,
    stream: Option<Box<Stream>>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Reader {
    /// For a file whose bytes stand as `encoding` says.
    ///
    /// # Errors
    ///
    /// A decoder cannot be made.
    pub fn new(file: File, encoding: Encoding) -> io::Result<Self> {
        let stream = match encoding {
            Encoding::Plain => None,
            _ => Some(Box::new(Stream::new(decoder(file.try_clone()?, encoding)?))),
        };
        Ok(Self { file, stream })
    }

    /// The open file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// Fills `bytes`, which comes empty, with what was asked for.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is compressed and damaged.
    pub fn read(&mut self, ask: Ask, bytes: &mut Vec<u8>) -> io::Result<Got> {
        let got = self.read_some(ask, bytes);
        if !matches!(got, Ok(Got::Bytes { .. })) {
            bytes.clear();
        }
        got
    }

    fn read_some(&mut self, ask: Ask, bytes: &mut Vec<u8>) -> io::Result<Got> {
        let room = usize::try_from(ask.limit.saturating_sub(ask.at)).unwrap_or(usize::MAX);
        let room = room.min(CHUNK_BYTES_MAX);
        let before = match &mut self.stream {
            None => {
                fill(&self.file, bytes, room, ask.at)?;
                let before = marker::bytes_before(&self.file, ask.at)?;
                if before.len() as u64 != ask.at.min(MARKER_BYTES as u64) {
                    return Ok(Got::Changed);
                }
                before
            }
            Some(stream) => {
                if !stream.skip_to(ask.at)? {
                    return Ok(Got::Skipping);
                }
                if stream.offset < ask.at {
                    return Ok(Got::Changed);
                }
                stream.fill(bytes, room)?;
                stream.tail.clone()
            }
        };
        if marker::marker(&before) != ask.marker {
            return Ok(Got::Changed);
        }
        let end = cut(bytes, ask, room == CHUNK_BYTES_MAX);
        if let Some(stream) = &mut self.stream {
            stream.keep(bytes, end);
        }
        bytes.truncate(end);
        if end == 0 {
            return Ok(Got::Nothing);
        }
        Ok(Got::Bytes { marker: marker_after(&before, bytes), before })
    }
}

/// Where to end: see [`Ask`].
fn cut(bytes: &[u8], ask: Ask, full_room: bool) -> usize {
    if let Some(from) = ask.cut {
        // the byte before the earliest line start that will do
        let earliest = usize::try_from(from.saturating_sub(ask.at + 1)).unwrap_or(usize::MAX);
        let found = bytes.get(earliest..).and_then(|rest| memchr::memchr(b'\n', rest));
        if let Some(newline) = found {
            return earliest + newline + 1;
        }
    }
    if ask.last || ask.bound && ask.at + bytes.len() as u64 == ask.limit {
        return bytes.len();
    }
    match memchr::memrchr(b'\n', bytes) {
        Some(newline) => newline + 1,
        None if full_room && bytes.len() == CHUNK_BYTES_MAX => bytes.len(),
        None => 0,
    }
}

fn marker_after(before: &[u8], bytes: &[u8]) -> u64 {
    if bytes.len() >= MARKER_BYTES {
        return marker::marker(bytes);
    }
    marker::marker(&[before, bytes].concat())
}

fn fill(file: &File, bytes: &mut Vec<u8>, room: usize, at: u64) -> io::Result<()> {
    bytes.reserve_exact(room);
    while bytes.len() < room {
        let offset = at + bytes.len() as u64;
        let spare = rustix::buffer::spare_capacity(bytes);
        match rustix::io::pread(file, spare, offset) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(room);
    Ok(())
}

/// The largest window of a zstd frame, as a power of two: 8 MiB, which RFC 8878 asks every decoder
/// to have, and which `zstd -19` uses.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// A decoder over a compressed file, from its beginning. It fails at the end of an incomplete
/// file.
///
/// # Errors
///
/// A decoder cannot be made.
pub fn decoder(file: File, encoding: Encoding) -> io::Result<Box<dyn Read + Send>> {
    Ok(match encoding {
        Encoding::Plain => Box::new(file),
        Encoding::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file))),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(file)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        Encoding::Spool => return Err(io::Error::other("it is no file but a part of the spool")),
    })
}

/// What to do about a compressed file that cannot be read to its end.
#[must_use]
pub fn undecodable(error: &io::Error) -> String {
    let text = error.to_string();
    if text.contains("too much memory") {
        let mib = 1 << (ZSTD_WINDOW_LOG_MAX - 20);
        return format!(
            "its zstd window is larger than {mib} MiB (`zstd --ultra` or `--long`); decompress it \
             beside, so that it can be read"
        );
    }
    format!("it is compressed and not whole ({text}); it is read when it is")
}

/// The first bytes of a compressed file's content, up to 1024.
///
/// # Errors
///
/// The file cannot be read, or is damaged there.
pub fn head(path: &Path, encoding: Encoding) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    decoder(File::open(path)?, encoding)?.take(HEAD_BYTES_MAX as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// The end of the last whole line of a file, and the marker at `at`.
///
/// # Errors
///
/// The file cannot be read.
pub fn line_end_and_marker(file: File, encoding: Encoding, at: u64) -> io::Result<(u64, u64)> {
    let mut stream = decoder(file, encoding)?;
    let (mut block, mut offset, mut line_end) = (vec![0; CHUNK_BYTES_MAX], 0_u64, 0_u64);
    let mut before = Vec::new();
    loop {
        let read = stream.read(&mut block)?;
        let bytes = block.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return Ok((line_end, marker::marker(&before)));
        }
        if let Some(newline) = memchr::memrchr(b'\n', bytes) {
            line_end = offset + newline as u64 + 1;
        }
        let upto = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
        before.extend_from_slice(bytes.get(..upto.min(read)).unwrap_or_default());
        before.drain(..before.len().saturating_sub(MARKER_BYTES));
        offset += read as u64;
    }
}

/// A decompressed stream, and what was read of it and not handed out.
struct Stream {
    decoder: Box<dyn Read + Send>,
    /// Of the next byte to hand out.
    offset: u64,
    /// The bytes from `offset` on that are decompressed.
    ahead: Vec<u8>,
    /// The up to 256 bytes before `offset`.
    tail: Vec<u8>,
}

impl Stream {
    const fn new(decoder: Box<dyn Read + Send>) -> Self {
        Self { decoder, offset: 0, ahead: Vec::new(), tail: Vec::new() }
    }

    /// Whether it has got there, or to the end.
    fn skip_to(&mut self, at: u64) -> io::Result<bool> {
        let mut skipped = 0;
        while self.offset < at && skipped < SKIP_BYTES_MAX {
            let mut bytes = Vec::new();
            let room = usize::try_from(at - self.offset).unwrap_or(usize::MAX);
            self.fill(&mut bytes, room.min(CHUNK_BYTES_MAX))?;
            if bytes.is_empty() {
                return Ok(true);
            }
            skipped += bytes.len() as u64;
            let end = bytes.len();
            self.keep(&bytes, end);
        }
        Ok(self.offset >= at)
    }

    /// Moves up to `room` bytes from `offset` on into `bytes`.
    fn fill(&mut self, bytes: &mut Vec<u8>, room: usize) -> io::Result<()> {
        let taken = self.ahead.len().min(room);
        bytes.extend(self.ahead.drain(..taken));
        while bytes.len() < room {
            let wanted = (room - bytes.len()) as u64;
            let read = (&mut self.decoder).take(wanted).read_to_end(bytes)?;
            if read == 0 {
                break;
            }
        }
        Ok(())
    }

    /// The first `end` of `bytes` are handed out, the rest stays ahead.
    fn keep(&mut self, bytes: &[u8], end: usize) {
        let (out, ahead) = bytes.split_at(end.min(bytes.len()));
        self.ahead.splice(..0, ahead.iter().copied());
        self.offset += out.len() as u64;
        self.tail
            .extend_from_slice(out.get(out.len().saturating_sub(MARKER_BYTES)..).unwrap_or(out));
        let surplus = self.tail.len().saturating_sub(MARKER_BYTES);
        self.tail.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn encoded(text: &[u8], encoding: Encoding) -> File {
        let mut file = tempfile::tempfile().unwrap();
        match encoding {
            Encoding::Plain => file.write_all(text).unwrap(),
            Encoding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(&file, flate2::Compression::fast());
                encoder.write_all(text).unwrap();
                encoder.finish().unwrap();
            }
            Encoding::Zstd => {
                let bytes = zstd::stream::encode_all(text, 1).unwrap();
                file.write_all(&bytes).unwrap();
            }
            Encoding::Spool => unreachable!("it is no file"),
        }
        std::io::Seek::rewind(&mut file).unwrap();
        file
    }

    fn ask(at: u64, marker: u64) -> Ask {
        Ask { at, limit: u64::MAX, marker, cut: None, last: false, bound: false }
    }

    fn start() -> u64 {
        marker::marker(b"")
    }

    /// All chunks from `at`, and where reading stopped.
    fn drain(reader: &mut Reader, mut at: u64, mut marker: u64) -> (Vec<Vec<u8>>, u64) {
        let mut chunks = Vec::new();
        loop {
            let mut bytes = Vec::new();
            match reader.read(ask(at, marker), &mut bytes).unwrap() {
                Got::Bytes { marker: after, .. } => {
                    at += bytes.len() as u64;
                    marker = after;
                    chunks.push(bytes);
                }
                Got::Skipping => {}
                Got::Nothing => return (chunks, at),
                Got::Changed => panic!("the file has not changed"),
            }
        }
    }

    #[test]
    fn chunks_are_whole_lines_in_every_encoding_and_the_unfinished_last_one_waits() {
        let mut text = Vec::new();
        for number in 0..60_000 {
            text.extend_from_slice(format!("line {number} of the test\n").as_bytes());
        }
        let whole = text.len();
        text.extend_from_slice(b"unfinished");
        for encoding in [Encoding::Plain, Encoding::Gzip, Encoding::Zstd] {
            let mut reader = Reader::new(encoded(&text, encoding), encoding).unwrap();
            let (chunks, end) = drain(&mut reader, 0, start());
            assert_eq!(end, whole as u64);
            assert!(chunks.len() > 3);
            assert!(chunks.iter().all(|chunk| chunk.ends_with(b"\n")));
            assert_eq!(chunks.concat(), text[..whole]);
            let mut bytes = Vec::new();
            let marker = marker::marker(&text[..whole]);
            let last = Ask { last: true, ..ask(end, marker) };
            assert!(matches!(reader.read(last, &mut bytes).unwrap(), Got::Bytes { .. }));
            assert_eq!(bytes, b"unfinished");
            // from the middle, as after a restart
            let mut reader = Reader::new(encoded(&text, encoding), encoding).unwrap();
            let from = chunks[0].len();
            let (rest, _) = drain(&mut reader, from as u64, marker::marker(&chunks[0]));
            assert_eq!(rest.concat(), text[from..whole]);
        }
    }

    #[test]
    fn a_line_longer_than_a_chunk_comes_in_several() {
        let mut text = vec![b'x'; CHUNK_BYTES_MAX * 2 + 5];
        text.extend_from_slice(b"\nnext\n");
        let mut reader = Reader::new(encoded(&text, Encoding::Plain), Encoding::Plain).unwrap();
        let (chunks, _) = drain(&mut reader, 0, start());
        assert_eq!(chunks.len(), 3);
        assert_eq!(chunks.concat(), text);
    }

    #[test]
    fn other_bytes_before_the_position_are_noticed() {
        let file = encoded(b"one\ntwo\nthree\n", Encoding::Plain);
        let mut reader = Reader::new(file.try_clone().unwrap(), Encoding::Plain).unwrap();
        let mut bytes = Vec::new();
        let at_8 = ask(8, marker::marker(b"one\ntwo\n"));
        assert!(matches!(reader.read(at_8, &mut bytes).unwrap(), Got::Bytes { .. }));
        bytes.clear();
        file.write_all_at(b"ONE", 0).unwrap();
        assert_eq!(reader.read(at_8, &mut bytes).unwrap(), Got::Changed);
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_cut_is_the_first_line_start_at_or_after_its_offset() {
        let text = b"one\ntwo\nthree\n";
        for (from, expected) in [(0, 4), (1, 4), (4, 4), (5, 8), (8, 8), (9, 14)] {
            for encoding in [Encoding::Plain, Encoding::Gzip] {
                let mut reader = Reader::new(encoded(text, encoding), encoding).unwrap();
                let mut bytes = Vec::new();
                let ask = Ask { cut: Some(from), ..ask(0, start()) };
                let Got::Bytes { marker, .. } = reader.read(ask, &mut bytes).unwrap() else {
                    panic!("there are lines");
                };
                assert_eq!(bytes.len(), expected, "from {from}");
                let (rest, _) = drain(&mut reader, expected as u64, marker);
                assert_eq!([bytes, rest.concat()].concat(), text);
            }
        }
    }
}
