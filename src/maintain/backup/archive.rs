//! The writing side of an archive: a compressed frame for each part, whole tar entries in each.
//!
//! The entries are written here and not by the crate `tar`, whose builder ends each stream with
//! the two empty blocks at which a reader would stop; only the frame of the manifest has those.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::BackupError;
use super::manifest::{FileRecord, MANIFEST, Manifest, PartRecord};
use crate::config::Compression;
use crate::durable::own_like;

const BLOCK: usize = 512;
/// What is read at once.
const CHUNK: usize = 256 << 10;
/// The level of zstd: its own default. Higher ones cost much time for few bytes.
const LEVEL: i32 = 3;
/// Names up to here stand in the header itself.
const NAME_BYTES_MAX: usize = 100;

/// An archive under a name of its own until it is whole. Dropped before, it is removed.
#[derive(Debug)]
pub struct ArchiveWriter {
    file: File,
    path: PathBuf,
    compression: Compression,
    at: u64,
    kept: bool,
}

impl ArchiveWriter {
    /// Begins an archive at `path`, which must not be there.
    pub fn create(path: &Path, compression: Compression) -> Result<Self, BackupError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(path)
            .map_err(|source| BackupError::write(path, source))?;
        // whatever the umask took away
        let mode = std::fs::Permissions::from_mode(0o640);
        file.set_permissions(mode)
            .and_then(|()| own_like(path.parent().unwrap_or(Path::new(".")), path))
            .map_err(|source| BackupError::write(path, source))?;
        Ok(Self { file, path: path.to_owned(), compression, at: 0, kept: false })
    }

    /// Begins the frame of a part. A frame that is not ended leaves nothing.
    pub fn frame(&mut self) -> Result<Frame<'_>, BackupError> {
        let start = self.at;
        let rewound =
            self.file.set_len(start).and_then(|()| self.file.seek(SeekFrom::Start(start)));
        rewound.map_err(|source| BackupError::write(&self.path, source))?;
        let encoder = Encoder::new(&self.file, self.compression);
        let encoder = encoder.map_err(|source| BackupError::write(&self.path, source))?;
        Ok(Frame {
            encoder,
            path: &self.path,
            end: &mut self.at,
            start,
            files: Vec::new(),
            chunk: vec![0; CHUNK],
        })
    }

    /// Copies the frame of a part from another archive as it is.
    pub fn copy_frame(&mut self, from: &File, part: &PartRecord) -> Result<u64, BackupError> {
        let start = self.at;
        let failed = |source| BackupError::write(&self.path, source);
        let mut chunk = vec![0; CHUNK];
        let mut copied = 0;
        while copied < part.length {
            let wanted = usize::try_from(part.length - copied).unwrap_or(CHUNK).min(CHUNK);
            let chunk = chunk.get_mut(..wanted).unwrap_or_default();
            from.read_exact_at(chunk, part.at + copied).map_err(failed)?;
            self.file.write_all_at(chunk, start + copied).map_err(failed)?;
            copied += wanted as u64;
        }
        self.at += copied;
        Ok(start)
    }

    /// Writes the manifest, brings everything to the disk, and gives the archive its name.
    pub fn finish(mut self, manifest: &Manifest, name: &Path) -> Result<(), BackupError> {
        self.seal(manifest)?;
        self.name(name)
    }

    /// Writes the manifest and brings everything to the disk.
    pub fn seal(&mut self, manifest: &Manifest) -> Result<(), BackupError> {
        let path = self.path.clone();
        let failed = |source| BackupError::write(&path, source);
        let text = serde_json::to_vec_pretty(manifest).map_err(|error| failed(error.into()))?;
        let seconds = u64::try_from(manifest.ended_ms / 1000).unwrap_or(0);
        let mut frame = self.frame()?;
        frame.add(MANIFEST, &mut &*text, text.len() as u64, seconds)?;
        frame.encoder.write_all(&[0; 2 * BLOCK]).map_err(failed)?;
        frame.finish()?;
        self.file.sync_all().map_err(failed)
    }

    /// Gives a sealed archive its name.
    pub fn name(mut self, name: &Path) -> Result<(), BackupError> {
        crate::durable::rename(&self.path, name)
            .map_err(|error| BackupError::write(name, error))?;
        self.kept = true;
        Ok(())
    }

    /// Where it is until it has its name.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ArchiveWriter {
    fn drop(&mut self) {
        if !self.kept {
            // what is left is removed by the next run
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// The frame of one part while it is written.
pub struct Frame<'a> {
    encoder: Encoder<'a>,
    path: &'a Path,
    end: &'a mut u64,
    start: u64,
    files: Vec<FileRecord>,
    chunk: Vec<u8>,
}

impl Frame<'_> {
    /// Adds a file of `bytes` bytes. What `source` has more is left; if it has less, the rest is
    /// filled with zeros, and the record says so.
    pub fn add(
        &mut self,
        path: &str,
        source: &mut dyn Read,
        bytes: u64,
        modified_s: u64,
    ) -> Result<&mut FileRecord, BackupError> {
        let failed = |error| BackupError::write(self.path, error);
        self.encoder.header(path, bytes, modified_s).map_err(failed)?;
        let mut hash = Sha256::new();
        let (mut done, mut true_bytes) = (0, None);
        while done < bytes {
            let wanted = usize::try_from(bytes - done).unwrap_or(CHUNK).min(CHUNK);
            let chunk = self.chunk.get_mut(..wanted).unwrap_or_default();
            let read = match true_bytes {
                None => read_up_to(source, chunk)
                    .map_err(|error| BackupError::read(Path::new(path), error))?,
                Some(_) => 0,
            };
            if let Some(rest) = chunk.get_mut(read..).filter(|rest| !rest.is_empty()) {
                true_bytes.get_or_insert(done + read as u64);
                rest.fill(0);
            }
            hash.update(&*chunk);
            self.encoder.write_all(chunk).map_err(failed)?;
            done += wanted as u64;
        }
        let over = usize::try_from(bytes % BLOCK as u64).unwrap_or(0);
        if over > 0 {
            self.encoder.write_all([0; BLOCK].get(over..).unwrap_or_default()).map_err(failed)?;
        }
        let sha256 = hex(&hash.finalize());
        let path = path.to_owned();
        let record =
            FileRecord { path, bytes, sha256, modified_s, true_bytes, ..FileRecord::default() };
        self.files.push(record);
        self.files.last_mut().ok_or_else(|| failed(io::Error::other("no file")))
    }

    /// Adds a file of the disk whole, as it is.
    pub fn add_file(&mut self, path: &str, from: &Path) -> Result<&mut FileRecord, BackupError> {
        let failed = |source| BackupError::read(from, source);
        let file = File::open(from).map_err(failed)?;
        let data = file.metadata().map_err(failed)?;
        self.add(path, &mut BufReader::with_capacity(CHUNK, file), data.len(), seconds_of(&data))
    }

    /// Ends the frame; answers where it stands and what is in it.
    pub fn finish(self) -> Result<(u64, u64, Vec<FileRecord>), BackupError> {
        let failed = |source| BackupError::write(self.path, source);
        let mut file = self.encoder.finish().map_err(failed)?;
        *self.end = file.stream_position().map_err(failed)?;
        Ok((self.start, *self.end - self.start, self.files))
    }
}

/// When a file was changed last.
pub fn seconds_of(data: &std::fs::Metadata) -> u64 {
    let since = data.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

/// Fills as much of `buffer` as the source has.
fn read_up_to(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

enum Encoder<'a> {
    Zstd(zstd::Encoder<'static, &'a File>),
    Gzip(GzEncoder<&'a File>),
}

impl<'a> Encoder<'a> {
    fn new(file: &'a File, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(file, LEVEL)?;
                encoder.include_checksum(true)?;
                let threads = std::thread::available_parallelism().map_or(1, usize::from);
                encoder.multithread(u32::try_from(threads.min(4)).unwrap_or(1))?;
                Self::Zstd(encoder)
            }
            Compression::Gzip => Self::Gzip(GzEncoder::new(file, flate2::Compression::default())),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<&'a File> {
        match self {
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }

    /// The header of a regular file; a long name in an entry before it, as GNU tar does.
    fn header(&mut self, path: &str, bytes: u64, modified_s: u64) -> io::Result<()> {
        let name = path.as_bytes();
        if name.len() > NAME_BYTES_MAX {
            let mut text = name.to_vec();
            text.push(0);
            let mut long = header(b"././@LongLink", text.len() as u64, 0, EntryType::GNULongName);
            long.set_cksum();
            self.write_all(long.as_bytes())?;
            text.resize(text.len().next_multiple_of(BLOCK), 0);
            self.write_all(&text)?;
        }
        let short = name.get(..name.len().min(NAME_BYTES_MAX)).unwrap_or_default();
        let mut header = header(short, bytes, modified_s, EntryType::Regular);
        header.set_cksum();
        self.write_all(header.as_bytes())
    }
}

fn header(name: &[u8], bytes: u64, modified_s: u64, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    if let Some(place) = header.as_old_mut().name.get_mut(..name.len()) {
        place.copy_from_slice(name);
    }
    header.set_entry_type(kind);
    header.set_size(bytes);
    header.set_mode(0o640);
    header.set_mtime(modified_s);
    header.set_uid(0);
    header.set_gid(0);
    header
}
