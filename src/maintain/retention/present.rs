//! Which files are there that an origin may be known by: an origin whose file could be read again
//! must not be forgotten.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::ledger::{Encoding, KernelIdentity};
use crate::sources::file::examine::{HEAD_BYTES_MAX, head_hash};
use crate::sources::file::identity::{self, same_file};
use crate::sources::file::{marker, reader, siblings};

/// What an origin is known by.
#[derive(Debug, Clone)]
pub struct Traces<'a> {
    /// Where its file was seen, first and last.
    pub paths: Vec<&'a Path>,
    /// The identities that its file had.
    pub kernels: Vec<KernelIdentity>,
    /// Length and hash of its head.
    pub head: (u64, u64),
    /// Its end, and the marker there where it is known.
    pub end: (u64, Option<u64>),
}

/// A file that belongs to no origin by its identity: perhaps a copy of one.
#[derive(Debug)]
struct Stray {
    path: PathBuf,
    encoding: Encoding,
    size: u64,
}

/// The files of all directories in which the daemon looks, or an origin's file was.
#[derive(Debug, Default)]
pub struct Present {
    /// Whether anything can be said of what is missing from a directory.
    seen: BTreeMap<PathBuf, bool>,
    kernels: HashMap<u64, Vec<KernelIdentity>>,
    /// Files of no origin, by length and hash of their beginnings.
    strays: HashMap<(u64, u64), Vec<Stray>>,
    /// Files of which not even the beginning can be read.
    closed: HashSet<PathBuf>,
}

impl Present {
    /// Looks at all files in `dirs`. Of those that have none of the identities in `known`, the
    /// beginnings of these `lengths` are kept.
    pub fn look(
        dirs: &BTreeSet<PathBuf>,
        known: &HashMap<u64, Vec<KernelIdentity>>,
        lengths: &BTreeSet<u64>,
    ) -> Self {
        let mut present = Self::default();
        for dir in dirs {
            let tells = present.list(dir, known, lengths);
            present.seen.insert(dir.clone(), tells);
        }
        present
    }

    /// A directory that is empty, or hidden from this process, says nothing of what was there: its
    /// file system may not be mounted, or not for us.
    fn list(
        &mut self,
        dir: &Path,
        known: &HashMap<u64, Vec<KernelIdentity>>,
        lengths: &BTreeSet<u64>,
    ) -> bool {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return is_gone(dir),
            Err(_) => return false,
        };
        let mut any = false;
        for entry in entries {
            let Ok(entry) = entry else { return false };
            any = true;
            self.add(&entry.path(), known, lengths);
        }
        any
    }

    fn add(
        &mut self,
        path: &Path,
        known: &HashMap<u64, Vec<KernelIdentity>>,
        lengths: &BTreeSet<u64>,
    ) {
        let Ok(look) = identity::look(path) else {
            // what a link leads to is gone; anything else is there and cannot be known
            if !fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                self.closed.insert(path.to_owned());
            }
            return;
        };
        if !look.regular {
            return;
        }
        let open = File::open(path);
        let kernel = look.kernel(open.as_ref().ok().and_then(identity::generation));
        self.kernels.entry(look.inode).or_default().push(kernel);
        let of_origin = known
            .get(&look.inode)
            .is_some_and(|known| known.iter().any(|known| same_file(known, &kernel)));
        if of_origin || look.size == 0 {
            return;
        }
        let encoding = siblings::encoding(path.file_name().unwrap_or_default()).0;
        let Ok(head) = open.and_then(|file| head(&file, path, encoding)) else {
            self.closed.insert(path.to_owned());
            return;
        };
        for &length in lengths.range(1..=head.len() as u64) {
            let part = head.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
            let stray = Stray { path: path.to_owned(), encoding, size: look.size };
            self.strays.entry((length, head_hash(part))).or_default().push(stray);
        }
    }

    /// Whether an origin's file is surely gone: it is in none of the directories, under whatever
    /// name, nor is a copy of it.
    pub fn lacks(&self, origin: &Traces<'_>) -> bool {
        let told = origin.paths.iter().all(|path| {
            path.parent().is_some_and(|dir| self.seen.get(dir).copied().unwrap_or(false))
        });
        told && !origin.kernels.iter().any(|kernel| {
            let seen = self.kernels.get(&kernel.inode);
            seen.is_some_and(|seen| seen.iter().any(|seen| same_file(kernel, seen)))
        }) && !self
            .strays
            .get(&origin.head)
            .is_some_and(|strays| strays.iter().any(|stray| stray.may_be(origin.end)))
            && !self
                .closed
                .iter()
                .any(|closed| origin.paths.iter().any(|path| named_so(closed, path)))
    }
}

impl Stray {
    /// A plain file that is longer than an origin, and has other bytes before the origin's end, is
    /// no copy of it, however they begin.
    fn may_be(&self, (end, hash): (u64, Option<u64>)) -> bool {
        let Some(hash) = hash else { return true };
        if self.encoding != Encoding::Plain || self.size < end {
            return true;
        }
        File::open(&self.path).and_then(|file| marker::holds(&file, end, hash)).unwrap_or(true)
    }
}

fn head(file: &File, path: &Path, encoding: Encoding) -> std::io::Result<Vec<u8>> {
    if encoding != Encoding::Plain {
        return reader::head(path, encoding);
    }
    let mut head = vec![0; HEAD_BYTES_MAX];
    let read = marker::read_fully_at(file, &mut head, 0)?;
    head.truncate(read);
    Ok(head)
}

/// Whether a directory that is not there was removed: the one above it is there, and has others.
fn is_gone(dir: &Path) -> bool {
    let above = dir.ancestors().skip(1).find_map(|above| match fs::read_dir(above) {
        Ok(mut entries) => Some(entries.next().is_some()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(_) => Some(false),
    });
    above.unwrap_or(false)
}

/// Whether a file has the name of a log, or a rotated form of it.
fn named_so(file: &Path, log: &Path) -> bool {
    let (Some(name), Some(base)) = (file.file_name(), log.file_name()) else { return false };
    file.parent() == log.parent()
        && (name == base
            || siblings::is_rotated(name, base)
            || siblings::bases(base).iter().any(|base| siblings::is_rotated(name, base)))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    const HEADER: &[u8] = b"the server has started\n";

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("log")).unwrap();
            Self(dir)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join("log").join(name)
        }

        /// Whether the file of an origin is gone that was `app.log`, had these bytes, and began
        /// with the header; `known` are files of other origins.
        fn lacks(&self, bytes: &[u8], known: &[&str]) -> bool {
            let path = self.path("app.log");
            let dirs = BTreeSet::from([path.parent().unwrap().to_owned()]);
            let mut kernels: HashMap<u64, Vec<KernelIdentity>> = HashMap::new();
            for name in known {
                let file = File::open(self.path(name)).unwrap();
                let look = identity::look_open(&file).unwrap();
                kernels
                    .entry(look.inode)
                    .or_default()
                    .push(look.kernel(identity::generation(&file)));
            }
            let head = (HEADER.len() as u64, head_hash(HEADER));
            let before = &bytes[bytes.len().saturating_sub(256)..];
            let traces = Traces {
                paths: vec![&path],
                kernels: vec![KernelIdentity { inode: u64::MAX, ..KernelIdentity::default() }],
                head,
                end: (bytes.len() as u64, Some(marker::marker(before))),
            };
            Present::look(&dirs, &kernels, &BTreeSet::from([head.0])).lacks(&traces)
        }
    }

    fn text(lines: &[&str]) -> Vec<u8> {
        let lines = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat());
        HEADER.iter().copied().chain(lines).collect()
    }

    #[test]
    fn a_directory_that_is_empty_or_hidden_says_nothing() {
        let place = Place::new();
        assert!(!place.lacks(HEADER, &[]), "its file system may not be mounted");
        fs::write(place.path("other"), "x").unwrap();
        assert!(place.lacks(HEADER, &[]));
        fs::remove_dir_all(place.0.path().join("log")).unwrap();
        assert!(!place.lacks(HEADER, &[]), "the one above it is empty now");
        fs::write(place.0.path().join("other"), "x").unwrap();
        assert!(place.lacks(HEADER, &[]), "it was removed with all that was in it");
    }

    #[test]
    fn files_that_begin_alike_are_copies_only_if_they_go_on_alike() {
        let place = Place::new();
        let ours = text(&["one", "two"]);
        let write = |name: &str, bytes: &[u8]| fs::write(place.path(name), bytes).unwrap();
        write("app.log", &text(&["One", "Two", "three"]));
        assert!(place.lacks(&ours, &[]), "the next generation with the same header");
        write("copy", &text(&["one", "two", "three"]));
        assert!(!place.lacks(&ours, &[]), "a copy that is longer");
        write("copy", &text(&["one"]));
        assert!(!place.lacks(&ours, &[]), "a shorter one may be a part");
        assert!(place.lacks(&ours, &["copy"]), "but not where it is another origin's file");
        write("copy", &text(&["one"])[..5]);
        assert!(place.lacks(&ours, &[]), "without even the head it is not known again");
    }

    #[test]
    fn a_compressed_file_is_known_by_its_beginning_and_a_broken_one_by_its_name() {
        let place = Place::new();
        let ours = text(&["one", "two"]);
        let packed = zstd::stream::encode_all(&ours[..], 1).unwrap();
        fs::write(place.path("any.zst"), &packed).unwrap();
        assert!(!place.lacks(&ours, &[]));
        fs::write(place.path("any.zst"), "no zstd at all").unwrap();
        assert!(place.lacks(&ours, &[]), "another name");
        fs::write(place.path("app.log.3.zst"), "no zstd at all").unwrap();
        assert!(!place.lacks(&ours, &[]));
        OpenOptions::new().write(true).truncate(true).open(place.path("app.log.3.zst")).unwrap();
        assert!(place.lacks(&ours, &[]), "an empty file is nobody's");
    }
}
