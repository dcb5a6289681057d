//! Lines as they stand in their files, while those exist.
//!
//! A row knows its origin and its offset; the origin knows under which path its file was first
//! seen. Whether a file is that origin is never believed by its name: the hash of its head must
//! agree, and of several that agree the one with the same inode wins.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::ledger::{Encoding, OriginId, OriginRecord};
use crate::stores::{LogReader, StoreError, StoredRow};

/// Longest line that is looked for.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// Files that are kept open.
const OPEN_MAX: usize = 64;

/// Files of origins, found when they are asked for.
#[derive(Debug)]
pub struct Files {
    origins: HashMap<OriginId, OriginRecord>,
    open: HashMap<OriginId, Option<File>>,
}

impl Files {
    /// Knows all origins of the store.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn of(reader: &dyn LogReader) -> Result<Self, StoreError> {
        let origins = reader.origins(None).await?;
        Ok(Self::new(origins.into_iter().map(|stored| stored.record)))
    }

    fn new(origins: impl Iterator<Item = OriginRecord>) -> Self {
        Self { origins: origins.map(|origin| (origin.id, origin)).collect(), open: HashMap::new() }
    }

    /// The bytes of a row's record in its file, without the last line end. `None` where the file
    /// is gone, compressed or unreadable, or has something else there.
    pub fn record(&mut self, row: &StoredRow) -> Option<Vec<u8>> {
        let origin = row.key.origin;
        if !self.open.contains_key(&origin) {
            if self.open.len() >= OPEN_MAX {
                self.open.clear();
            }
            let found = self.origins.get(&origin).and_then(find);
            self.open.insert(origin, found);
        }
        let file = self.open.get(&origin)?.as_ref()?;
        let start = u64::try_from(row.key.offset_bytes).ok()?;
        let first = self.origins.get(&origin)?.first_offset;
        lines(file, start, first, &row.message)
    }
}

/// The file of an origin: at its path, or rotated beside it.
fn find(origin: &OriginRecord) -> Option<File> {
    if origin.encoding != Encoding::Plain {
        return None;
    }
    let mut candidates: Vec<PathBuf> = siblings(&origin.path);
    candidates.insert(0, origin.path.clone());
    let mut found = None;
    for path in candidates {
        let Some(file) = agrees(&path, origin) else { continue };
        if file.metadata().is_ok_and(|data| data.ino() == origin.kernel.inode) {
            return Some(file);
        }
        found.get_or_insert(file);
    }
    found
}

/// Files whose names begin with the name of this one: `access.log.1`, `access.log-20261122`.
fn siblings(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let begins = |other: &std::ffi::OsStr| {
        other != name && other.as_encoded_bytes().starts_with(name.as_encoded_bytes())
    };
    let names = entries.flatten().map(|entry| entry.file_name()).filter(|other| begins(other));
    names.map(|other| dir.join(other)).collect()
}

fn agrees(path: &Path, origin: &OriginRecord) -> Option<File> {
    // a pipe would block for ever, a device might do anything
    if !fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let file = File::open(path).ok()?;
    let mut head = vec![0; usize::try_from(origin.head_bytes.min(4096)).ok()?];
    file.read_exact_at(&mut head, 0).ok()?;
    (xxh3_64(&head) == origin.head_hash).then_some(file)
}

/// The record that begins at `start`: its first line, and the further lines of its message as far
/// as the file says the same.
fn lines(file: &File, start: u64, first: u64, message: &str) -> Option<Vec<u8>> {
    if start > first {
        let mut before = [0];
        file.read_exact_at(&mut before, start - 1).ok()?;
        if before != *b"\n" {
            return None;
        }
    }
    let mut file = file;
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut reader = BufReader::new(file.take(LINE_BYTES_MAX));
    let mut record = Vec::new();
    reader.read_until(b'\n', &mut record).ok()?;
    // a last line without newline is whole if the file ends there
    if record.is_empty() {
        return None;
    }
    for more in message.split('\n').skip(1) {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).ok()?;
        let said = line.trim_ascii_end();
        if line.is_empty() || !said.ends_with(more.trim_end().as_bytes()) {
            break;
        }
        record.extend(line);
    }
    if record.ends_with(b"\n") {
        record.pop();
    }
    if record.ends_with(b"\r") {
        record.pop();
    }
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::tests::row;

    fn origin(path: &Path) -> OriginRecord {
        let text = fs::read(path).unwrap();
        let head = &text[..text.len().min(1024)];
        OriginRecord {
            id: 1,
            machine: "m".into(),
            host: "web1".into(),
            path: path.to_owned(),
            kernel: crate::ledger::KernelIdentity {
                inode: fs::metadata(path).unwrap().ino(),
                ..Default::default()
            },
            head_hash: xxh3_64(head),
            head_bytes: head.len() as u64,
            first_offset: 0,
            born_ms: 0,
            encoding: Encoding::Plain,
        }
    }

    fn at(offset: i64, message: &str) -> StoredRow {
        let mut row = row(1, message);
        row.key.offset_bytes = offset;
        row
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "what logrotate does")]
    fn a_line_is_found_also_after_its_file_was_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        fs::write(&path, "one\r\ntwo\nthree").unwrap();
        let origin = origin(&path);
        let record =
            |offset, message| Files::new([origin.clone()].into_iter()).record(&at(offset, message));
        assert_eq!(record(0, "one").as_deref(), Some(&b"one"[..]));
        assert_eq!(record(5, "two").as_deref(), Some(&b"two"[..]));
        assert_eq!(record(9, "three").as_deref(), Some(&b"three"[..]));
        assert_eq!(record(6, "wo"), None, "not the start of a line");
        assert_eq!(record(14, ""), None, "beyond the end");
        fs::rename(&path, dir.path().join("app.log.1")).unwrap();
        fs::write(&path, "other text\nthat is longer\n").unwrap();
        assert_eq!(record(5, "two").as_deref(), Some(&b"two"[..]));
        fs::remove_file(dir.path().join("app.log.1")).unwrap();
        assert_eq!(record(5, "two"), None, "another file under the same name");
    }

    #[test]
    fn further_lines_come_as_far_as_the_message_says_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pg.log");
        fs::write(&path, "LOG: select 1\n\tfrom hornos\nLOG: other\n").unwrap();
        let mut files = Files::new([origin(&path)].into_iter());
        let whole = files.record(&at(0, "select 1\nfrom hornos")).unwrap();
        assert_eq!(whole, b"LOG: select 1\n\tfrom hornos");
        let first = files.record(&at(0, "select 1\nfrom elsewhere")).unwrap();
        assert_eq!(first, b"LOG: select 1");
    }
}
