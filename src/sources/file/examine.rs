//! Is this file the same content as an origin that is known: copied, compressed or restored?
//!
//! The file is read once, a few MiB a step, and held against every origin that it may be. Where
//! an origin's own file is still there, the bytes are compared directly; else with what is known
//! of it: the hash of its head, the checksums of its spans, its markers. A beginning alone is
//! never enough.

use std::fs::File;
use std::io::{self, Read};

use crc_fast::{CrcAlgorithm, Digest};

use super::marker::{self, MARKER_BYTES};
use super::reader;
use super::state::Sum;
use crate::ledger::{Encoding, OriginId};

/// The longest hashed head of a file.
pub const HEAD_BYTES_MAX: usize = 1024;

const BLOCK_BYTES: usize = 128 << 10;

/// The hash of a head.
#[must_use]
pub fn head_hash(head: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(head)
}

/// What is known of an origin that the file may be.
#[derive(Debug)]
pub struct Suspect {
    /// Which.
    pub origin: OriginId,
    /// Its file, if that is still there and plain.
    pub twin: Option<File>,
    /// Length and hash of its head.
    pub head: (u64, u64),
    /// Its spans, by offset.
    pub sums: Vec<Sum>,
    /// Positions and their markers.
    pub markers: Vec<(u64, u64)>,
    /// Its reach and the marker there: behind `need` a file that was cut back has other bytes.
    pub reach: Option<(u64, u64)>,
    /// How far it has been handed out: a file that agrees up to here is its continuation.
    pub need: u64,
}

/// What a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// None of the suspects.
    Other,
    /// It agrees with an origin as far as both go, but the origin does not need it.
    Copy(OriginId),
    /// It is the content of an origin whose own file is gone.
    Continues(OriginId),
    /// It agrees with such an origin for a while, but not up to its position: a power cut may have
    /// cut back what it is a copy of. The store can tell: two files may begin alike.
    Diverges(OriginId),
    /// Compressed, and not (yet) whole.
    Incomplete,
    /// Compressed, and nothing.
    Empty,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts
struct Compare {
    suspect: Suspect,
    digest: Option<Digest>,
    next_sum: usize,
    agrees: bool,
    /// The origin's head is no whole line: many files begin like that.
    tiny: bool,
    /// Other bytes stand before its reach than did.
    cut: bool,
    /// Other bytes stand before its position than did, behind some that agree.
    diverges: bool,
    /// Bytes that were compared with the twin, or proved by a checksum or marker.
    proved: u64,
}

/// An examination in progress.
pub struct Examination {
    stream: Box<dyn Read + Send>,
    encoding: Encoding,
    offset: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
    compares: Vec<Compare>,
    /// Why a compressed file cannot be read to its end.
    fault: Option<String>,
}

impl std::fmt::Debug for Examination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Examination").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Examination {
    /// Begins at the beginning of `file`.
    ///
    /// # Errors
    ///
    /// A decoder cannot be made.
    pub fn new(file: File, encoding: Encoding, suspects: Vec<Suspect>) -> io::Result<Self> {
        Ok(Self {
            stream: reader::decoder(file, encoding)?,
            encoding,
            offset: 0,
            head: Vec::new(),
            tail: Vec::new(),
            compares: suspects.into_iter().map(Compare::new).collect(),
            fault: None,
        })
    }

    /// Bytes of content seen so far; all of them after a verdict on a compressed file.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Why a compressed file is [`Verdict::Incomplete`], and what to do.
    #[must_use]
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// The first bytes, up to 1024.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The last bytes seen, up to 256.
    #[must_use]
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// Whether the file has other bytes before this origin's reach than there were, or ends
    /// before it.
    #[must_use]
    pub fn was_cut(&self, origin: OriginId) -> bool {
        let of = |one: &&Compare| one.suspect.origin == origin;
        self.compares.iter().find(of).is_some_and(|one| {
            one.cut || one.suspect.reach.is_some_and(|(reach, _)| reach > self.offset)
        })
    }

    /// Up to where a file that is shorter than this origin is known to be a copy of it, if that
    /// is not its end.
    #[must_use]
    pub fn proved_short(&self, origin: OriginId) -> Option<u64> {
        let one = self.compares.iter().find(|one| one.suspect.origin == origin)?;
        let short = one.suspect.twin.is_none() && one.proved < self.offset;
        short.then_some(one.proved)
    }

    /// The files that it is compared with directly.
    pub fn twins(&self) -> impl Iterator<Item = (OriginId, &File)> {
        self.compares
            .iter()
            .filter_map(|one| Some((one.suspect.origin, one.suspect.twin.as_ref()?)))
    }

    /// Reads on, up to about `budget` bytes, which it lowers; `None` if there is more to do.
    ///
    /// # Errors
    ///
    /// The file, or the file of a suspect, cannot be read.
    pub fn go_on(&mut self, budget: &mut u64) -> io::Result<Option<Verdict>> {
        let mut block = vec![0; BLOCK_BYTES];
        while *budget > 0 {
            // a compressed file is read to its end in any case: that proves that it is whole
            if self.encoding == Encoding::Plain && !self.compares.iter().any(|one| one.agrees) {
                return Ok(Some(Verdict::Other));
            }
            let read = match self.stream.read(&mut block) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if self.encoding != Encoding::Plain => {
                    self.fault = Some(reader::undecodable(&error));
                    return Ok(Some(Verdict::Incomplete));
                }
                Err(error) => return Err(error),
            };
            let bytes = block.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                if self.encoding != Encoding::Plain && self.offset == 0 {
                    return Ok(Some(Verdict::Empty));
                }
                return Ok(Some(self.verdict()));
            }
            self.feed(bytes)?;
            *budget = budget.saturating_sub(bytes.len() as u64);
        }
        Ok(None)
    }

    fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = HEAD_BYTES_MAX.saturating_sub(self.head.len());
        self.head.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        for compare in self.compares.iter_mut().filter(|one| one.agrees) {
            compare.feed(self.offset, bytes, &self.head, &self.tail)?;
        }
        self.offset += bytes.len() as u64;
        self.tail.extend_from_slice(
            bytes.get(bytes.len().saturating_sub(MARKER_BYTES)..).unwrap_or(bytes),
        );
        let surplus = self.tail.len().saturating_sub(MARKER_BYTES);
        self.tail.drain(..surplus);
        Ok(())
    }

    fn verdict(&self) -> Verdict {
        let size = self.offset;
        let best = self.compares.iter().filter(|one| one.agrees && one.is_proved(size)).max_by_key(
            |one| {
                let proved = one.proved.max(one.suspect.head.0);
                (one.suspect.twin.is_some(), proved, one.suspect.need)
            },
        );
        let Some(best) = best else {
            let diverges = self.compares.iter().filter(|one| one.agrees && one.diverges);
            let best = diverges.max_by_key(|one| one.proved);
            return best.map_or(Verdict::Other, |one| Verdict::Diverges(one.suspect.origin));
        };
        match best {
            one if one.suspect.twin.is_none() && size >= one.suspect.need => {
                Verdict::Continues(one.suspect.origin)
            }
            one => Verdict::Copy(one.suspect.origin),
        }
    }
}

impl Compare {
    fn new(mut suspect: Suspect) -> Self {
        suspect.markers.sort_unstable();
        Self {
            suspect,
            digest: None,
            next_sum: 0,
            agrees: true,
            tiny: false,
            cut: false,
            diverges: false,
            proved: 0,
        }
    }

    /// Whether a file of this size that never disagreed agrees for a reason.
    fn is_proved(&self, size: u64) -> bool {
        let suspect = &self.suspect;
        if self.diverges {
            return false;
        }
        if suspect.twin.is_some() {
            // a copy is never longer than its original, which may begin like any file
            return size > 0 && self.proved == size;
        }
        if suspect.head.0 == 0 || self.head_counts() && size < suspect.head.0 {
            return false;
        }
        if self.tiny && suspect.need <= suspect.head.0 {
            return size == suspect.head.0;
        }
        // up to the position, every span must have agreed; a shorter file needs any proof
        if size >= suspect.need {
            self.proved >= suspect.need
        } else {
            self.proved > 0 || size == suspect.head.0 // the head is all there is of it
        }
    }

    /// A head that is longer than what was stored may have been cut back since.
    const fn head_counts(&self) -> bool {
        self.suspect.head.0 <= self.suspect.need || self.suspect.need == 0
    }

    fn feed(&mut self, at: u64, bytes: &[u8], head: &[u8], tail: &[u8]) -> io::Result<()> {
        let end = at + bytes.len() as u64;
        if let Some(twin) = &self.suspect.twin {
            let mut other = vec![0; bytes.len()];
            let read = marker::read_fully_at(twin, &mut other, at)?;
            self.agrees = other.get(..read) == bytes.get(..read);
            self.proved += read as u64;
            return Ok(());
        }
        let (head_bytes, head_hashed) = self.suspect.head;
        if at < head_bytes && end >= head_bytes {
            let length = usize::try_from(head_bytes).unwrap_or(usize::MAX);
            let head = head.get(..length).unwrap_or_default();
            let agrees = head.len() == length && head_hash(head) == head_hashed;
            self.agrees &= agrees || !self.head_counts();
            self.tiny = length < HEAD_BYTES_MAX && !head.contains(&b'\n');
        }
        self.check_markers(at, bytes, tail);
        self.check_sums(at, bytes);
        Ok(())
    }

    fn check_markers(&mut self, at: u64, bytes: &[u8], tail: &[u8]) {
        let end = at + bytes.len() as u64;
        let found = |position: u64| {
            let inside = usize::try_from(position - at).unwrap_or(0);
            let upto = bytes.get(..inside).unwrap_or_default();
            if inside >= MARKER_BYTES {
                marker::marker(upto)
            } else {
                marker::marker(&[tail, upto].concat())
            }
        };
        let here = at + 1..=end;
        if let Some((reach, expected)) =
            self.suspect.reach.filter(|(reach, _)| here.contains(reach))
        {
            self.cut = found(reach) != expected;
        }
        let markers = self.suspect.markers.iter().filter(|(position, _)| here.contains(position));
        let checked: Vec<_> = markers.map(|&(at, expected)| (found(at) == expected, at)).collect();
        for (agrees, position) in checked {
            self.check(agrees, position);
        }
    }

    fn check(&mut self, agrees: bool, position: u64) {
        if agrees && !self.diverges {
            self.proved = self.proved.max(position);
        } else if !agrees {
            self.diverges = true;
            self.agrees &= self.proved >= HEAD_BYTES_MAX as u64;
        }
    }

    fn check_sums(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        while let Some(sum) = self.suspect.sums.get(self.next_sum) {
            if sum.start_bytes >= end {
                return;
            }
            let (from, to) = (sum.start_bytes.max(at), sum.end_bytes.min(end));
            let index = |offset: u64| usize::try_from(offset - at).unwrap_or(usize::MAX);
            let part = bytes.get(index(from)..index(to)).unwrap_or_default();
            let digest = self.digest.get_or_insert_with(|| Digest::new(CrcAlgorithm::Crc64Xz));
            digest.update(part);
            if sum.end_bytes > end {
                return;
            }
            let (agrees, end) = (digest.finalize() == sum.crc, sum.end_bytes);
            self.check(agrees, end);
            self.digest = None;
            self.next_sum += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn file(text: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        file.rewind().unwrap();
        file
    }

    fn text(lines: std::ops::Range<u32>) -> Vec<u8> {
        lines.flat_map(|number| format!("line {number}\n").into_bytes()).collect()
    }

    /// An origin of which `done` bytes are stored in spans of 1000 bytes.
    fn gone(text: &[u8], done: usize) -> Suspect {
        let head = text.get(..HEAD_BYTES_MAX).unwrap_or(text);
        let sums = text[..done].chunks(1000).scan(0, |at, part| {
            let start_bytes = *at;
            *at += part.len() as u64;
            let crc = crc_fast::checksum(CrcAlgorithm::Crc64Xz, part);
            Some(Sum { start_bytes, end_bytes: *at, crc })
        });
        Suspect {
            origin: 1,
            twin: None,
            head: (head.len() as u64, head_hash(head)),
            sums: sums.collect(),
            markers: vec![(done as u64, marker::marker(&text[..done]))],
            reach: None,
            need: done as u64,
        }
    }

    fn judge(content: &[u8], suspects: Vec<Suspect>) -> Verdict {
        let mut one = Examination::new(file(content), Encoding::Plain, suspects).unwrap();
        loop {
            // the smallest steps there are
            if let Some(verdict) = one.go_on(&mut 1).unwrap() {
                return verdict;
            }
        }
    }

    #[test]
    fn a_copy_of_a_gone_file_continues_it_and_a_shorter_one_does_not() {
        let whole = text(0..50_000);
        assert_eq!(judge(&whole, vec![gone(&whole, 300_000)]), Verdict::Continues(1));
        assert_eq!(judge(&whole[..100_000], vec![gone(&whole, 300_000)]), Verdict::Copy(1));
    }

    #[test]
    fn an_equal_beginning_is_not_enough() {
        let (a, mut b) = (text(0..50_000), text(0..50_000));
        b[200_000] = b'!';
        assert_eq!(judge(&b, vec![gone(&a, 300_000)]), Verdict::Diverges(1));
        assert_eq!(judge(&b, vec![gone(&a, 100_000)]), Verdict::Continues(1));
        let live = Suspect { twin: Some(file(&a)), ..gone(&a, 0) };
        assert_eq!(judge(&b, vec![live]), Verdict::Other);
        b[1900] = b'!';
        assert_eq!(judge(&b, vec![gone(&a, 300_000)]), Verdict::Other, "of 1000 bytes");
    }

    #[test]
    fn a_file_that_agrees_with_one_that_is_there_is_its_copy() {
        let whole = text(0..20_000);
        let live = || Suspect { twin: Some(file(&whole)), ..gone(&whole, 0) };
        assert_eq!(judge(&whole, vec![live()]), Verdict::Copy(1));
        assert_eq!(judge(&whole[..10], vec![live()]), Verdict::Copy(1));
    }

    #[test]
    fn a_zstd_file_that_would_take_too_much_memory_is_not_read_and_it_is_said_what_to_do() {
        let mut verdicts = Vec::new();
        for window_log in [23, 24] {
            let mut encoder = zstd::stream::Encoder::new(tempfile::tempfile().unwrap(), 1).unwrap();
            encoder.window_log(window_log).unwrap();
            encoder.write_all(&text(0..1000)).unwrap();
            let mut packed = encoder.finish().unwrap();
            packed.rewind().unwrap();
            let mut one = Examination::new(packed, Encoding::Zstd, Vec::new()).unwrap();
            verdicts.push(one.go_on(&mut u64::MAX.clone()).unwrap());
            assert_eq!(window_log > 23, one.fault().is_some_and(|text| text.contains("8 MiB")));
        }
        assert_eq!(verdicts, [Some(Verdict::Other), Some(Verdict::Incomplete)]);
    }

    #[test]
    fn a_compressed_file_counts_only_when_it_is_whole() {
        let whole = text(0..50_000);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let bytes = match encoding {
                Encoding::Gzip => {
                    let level = flate2::Compression::fast();
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                    encoder.write_all(&whole).unwrap();
                    encoder.finish().unwrap()
                }
                _ => zstd::stream::encode_all(&whole[..], 1).unwrap(),
            };
            for (length, expected) in
                [(bytes.len(), Verdict::Continues(1)), (bytes.len() - 1, Verdict::Incomplete)]
            {
                let suspects = vec![gone(&whole, 300_000)];
                let mut one = Examination::new(file(&bytes[..length]), encoding, suspects).unwrap();
                assert_eq!(one.go_on(&mut u64::MAX.clone()).unwrap(), Some(expected));
            }
        }
    }
}
