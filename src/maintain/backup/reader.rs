//! The reading side of an archive. Nothing in it is believed: an entry must be the one that the
//! manifest names at its place, a regular file of just that size, and the manifest itself is
//! checked before anything is read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Take};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::BackupError;
use super::archive::hex;
use super::manifest::{
    FileRecord, MANIFEST, MANIFEST_BYTES_MAX, Manifest, PATH_BYTES_MAX, PartRecord,
};
use crate::config::Compression;

const BLOCK: usize = 512;
const CHUNK: usize = 256 << 10;
/// The manifest's frame is looked for in so many bytes at the end.
const TAIL_BYTES_MAX: u64 = 16 << 20;
/// Places that look like the beginning of a frame and are tried.
const TRIES_MAX: usize = 32;
/// A frame of zstd that asks for a larger window (2 to the power of this) is not ours.
const WINDOW_LOG_MAX: u32 = 25;

/// An archive whose manifest was read and is sound.
#[derive(Debug)]
pub struct ArchiveReader {
    path: PathBuf,
    file: File,
    bytes: u64,
    compression: Compression,
    manifest: Manifest,
}

/// Who takes the files of a part, one after the other.
pub trait Receiver {
    /// A file begins.
    ///
    /// # Errors
    ///
    /// It cannot be taken; nothing more is read.
    fn begin(&mut self, file: &FileRecord) -> Result<(), BackupError>;

    /// Its next bytes.
    ///
    /// # Errors
    ///
    /// As for `begin`.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), BackupError>;

    /// It ends, and is as the manifest says.
    ///
    /// # Errors
    ///
    /// As for `begin`.
    fn end(&mut self, file: &FileRecord) -> Result<(), BackupError>;
}

/// Lets everything go: for reading alone.
pub struct Nobody;

impl Receiver for Nobody {
    fn begin(&mut self, _: &FileRecord) -> Result<(), BackupError> {
        Ok(())
    }

    fn bytes(&mut self, _: &[u8]) -> Result<(), BackupError> {
        Ok(())
    }

    fn end(&mut self, _: &FileRecord) -> Result<(), BackupError> {
        Ok(())
    }
}

impl ArchiveReader {
    /// Finds and checks the manifest. Nothing else is read.
    ///
    /// # Errors
    ///
    /// It cannot be read, or it is no archive of ours, or one that is damaged at its end.
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        let failed = |source| BackupError::read(path, source);
        let file = File::open(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let damaged = |detail: String| BackupError::Damaged { archive: path.to_owned(), detail };
        let mut magic = [0; 4];
        let known = file.read_exact_at(&mut magic, 0).ok().and_then(|()| compression_of(magic));
        let compression = known.ok_or_else(|| damaged("this is no archive of bitacora".into()))?;
        let (at, manifest) =
            find_manifest(&file, bytes, compression).map_err(failed)?.ok_or_else(|| {
                damaged("its manifest is missing or damaged: it cannot be used".into())
            })?;
        manifest.check(at).map_err(|why| damaged(format!("its manifest is wrong: {why}")))?;
        Ok(Self { path: path.to_owned(), file, bytes, compression, manifest })
    }

    /// What it says of itself.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its size.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How it is compressed.
    #[must_use]
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// The file itself.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }

    /// SHA-256 of the archive itself.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn sha256(&self) -> Result<String, BackupError> {
        let (mut hash, mut at, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
        loop {
            let read = self.file.read_at(&mut chunk, at);
            let read = read.map_err(|source| BackupError::read(&self.path, source))?;
            if read == 0 {
                return Ok(hex(&hash.finalize()));
            }
            hash.update(chunk.get(..read).unwrap_or_default());
            at += read as u64;
        }
    }

    /// Reads a part and hands its files over. What was received is only known to be whole and
    /// nothing else when this answers `Ok`.
    ///
    /// # Errors
    ///
    /// With the part and the file that are damaged, or what the receiver said.
    pub fn read_part(&self, part: &PartRecord, to: &mut dyn Receiver) -> Result<(), BackupError> {
        let damaged = |detail: String| BackupError::Damaged {
            archive: self.path.clone(),
            detail: format!("part {} is damaged: {detail}", part.name),
        };
        let io = |error: io::Error| damaged(error.to_string());
        let mut frame = self.frame(part).map_err(io)?;
        let mut chunk = vec![0; CHUNK];
        for file in &part.files {
            let at = |error: io::Error| damaged(format!("{}: {error}", file.path));
            let (path, bytes) = entry(&mut frame).map_err(at)?;
            if path != file.path.as_bytes() || bytes != file.bytes {
                let found = String::from_utf8_lossy(&path).escape_debug().to_string();
                return Err(damaged(format!(
                    "where {} should be is \"{found}\" of {bytes} bytes",
                    file.path
                )));
            }
            to.begin(file)?;
            let mut hash = Sha256::new();
            let mut left = bytes;
            while left > 0 {
                let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let chunk = chunk.get_mut(..wanted).unwrap_or_default();
                frame.read_exact(chunk).map_err(at)?;
                hash.update(&*chunk);
                to.bytes(chunk)?;
                left -= wanted as u64;
            }
            let over = usize::try_from(bytes % BLOCK as u64).unwrap_or(0);
            if over > 0 {
                let padding = chunk.get_mut(..BLOCK - over).unwrap_or_default();
                frame.read_exact(padding).map_err(at)?;
            }
            if hex(&hash.finalize()) != file.sha256 {
                return Err(damaged(format!("{} has another checksum", file.path)));
            }
            to.end(file)?;
        }
        match frame.read(&mut [0]).map_err(io)? {
            0 => frame.end().map_err(io),
            _ => Err(damaged("it holds more than the manifest names".into())),
        }
    }

    fn frame(&self, part: &PartRecord) -> io::Result<Decoder> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(part.at))?;
        Decoder::new(file.take(part.length), self.compression)
    }
}

const fn compression_of(magic: [u8; 4]) -> Option<Compression> {
    match magic {
        ZSTD => Some(Compression::Zstd),
        GZIP => Some(Compression::Gzip),
        _ => None,
    }
}

const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP: [u8; 4] = [0x1f, 0x8b, 8, 0];

/// The manifest is the last frame of the file: one that can be read up to the file's last byte,
/// and holds one entry of that name.
fn find_manifest(
    file: &File,
    bytes: u64,
    compression: Compression,
) -> io::Result<Option<(u64, Manifest)>> {
    let start = bytes.saturating_sub(TAIL_BYTES_MAX);
    let mut tail = vec![0; usize::try_from(bytes - start).unwrap_or(0)];
    file.read_exact_at(&mut tail, start)?;
    let magic = match compression {
        Compression::Zstd => ZSTD,
        Compression::Gzip => GZIP,
    };
    let places = tail.windows(magic.len()).enumerate().rev();
    let places = places.filter(|(_, window)| **window == magic).take(TRIES_MAX);
    for (place, _) in places {
        let frame = io::Cursor::new(tail.get(place..).unwrap_or_default().to_vec());
        let length = tail.len() - place;
        let frame = Decoder::over(Box::new(frame), length as u64, compression);
        if let Ok(manifest) = frame.and_then(read_manifest) {
            return Ok(Some((start + place as u64, manifest)));
        }
    }
    Ok(None)
}

fn read_manifest(mut frame: Decoder) -> io::Result<Manifest> {
    let (path, bytes) = entry(&mut frame)?;
    if path != MANIFEST.as_bytes() || bytes > MANIFEST_BYTES_MAX {
        return Err(io::Error::other("this is no manifest"));
    }
    let mut text = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    frame.read_exact(&mut text)?;
    let padding = text.len().next_multiple_of(BLOCK) - text.len();
    let mut rest = vec![0; padding + 2 * BLOCK];
    frame.read_exact(&mut rest)?;
    if rest.iter().any(|byte| *byte != 0) || frame.read(&mut [0])? != 0 {
        return Err(io::Error::other("something stands behind the manifest"));
    }
    frame.end()?;
    Ok(serde_json::from_slice(&text)?)
}

/// Reads the header of a regular file: its name and its size.
fn entry(frame: &mut Decoder) -> io::Result<(Vec<u8>, u64)> {
    let first = header(frame)?;
    if first.entry_type() != EntryType::GNULongName {
        return regular(&first, first.path_bytes().into_owned());
    }
    let bytes = usize::try_from(first.entry_size()?).unwrap_or(usize::MAX);
    if bytes > PATH_BYTES_MAX + 1 {
        return Err(io::Error::other("a name is longer than any of ours"));
    }
    let mut name = vec![0; bytes.next_multiple_of(BLOCK)];
    frame.read_exact(&mut name)?;
    name.truncate(bytes);
    if name.pop() != Some(0) {
        return Err(io::Error::other("a long name has no end"));
    }
    regular(&header(frame)?, name)
}

fn header(frame: &mut Decoder) -> io::Result<Header> {
    let mut header = Header::new_gnu();
    frame.read_exact(header.as_mut_bytes())?;
    let bytes = header.as_bytes();
    // the sum counts its own eight bytes as spaces
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    let own: u32 = bytes.iter().skip(148).take(8).map(|byte| u32::from(*byte)).sum();
    if header.cksum()? != sum - own + 8 * u32::from(b' ') {
        return Err(io::Error::other("the header of an entry is wrong"));
    }
    Ok(header)
}

fn regular(header: &Header, name: Vec<u8>) -> io::Result<(Vec<u8>, u64)> {
    match header.entry_type() {
        EntryType::Regular => Ok((name, header.entry_size()?)),
        other => Err(io::Error::other(format!("there is an entry that is no file ({other:?})"))),
    }
}

/// The seekable file, or what was read of it.
type Source = BufReader<Take<Box<dyn Read>>>;

/// One frame, which must end where it is said to end.
enum Decoder {
    Zstd(Box<zstd::Decoder<'static, Source>>),
    Gzip(Box<GzDecoder<Source>>),
}

impl Decoder {
    fn new(file: Take<File>, compression: Compression) -> io::Result<Self> {
        let limit = file.limit();
        Self::over(Box::new(file.into_inner()), limit, compression)
    }

    fn over(source: Box<dyn Read>, limit: u64, compression: Compression) -> io::Result<Self> {
        let source = BufReader::with_capacity(CHUNK, source.take(limit));
        Ok(match compression {
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(source)?.single_frame();
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Self::Zstd(Box::new(decoder))
            }
            Compression::Gzip => Self::Gzip(Box::new(GzDecoder::new(source))),
        })
    }

    /// After the last byte was read: nothing may follow.
    fn end(self) -> io::Result<()> {
        let mut source = match self {
            Self::Zstd(decoder) => decoder.finish(),
            Self::Gzip(decoder) => decoder.into_inner(),
        };
        if source.fill_buf()?.is_empty() {
            return Ok(());
        }
        Err(io::Error::other("something stands behind its frame"))
    }
}

impl Read for Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
        }
    }
}
