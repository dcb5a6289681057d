//! What else is in the directories of followed files: renamed ones, rotated ones, copies.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use super::FileEvent;
use super::discover::Stamp;
use super::follow::{FileIx, LogIx};
use super::identity;
use super::siblings;
use super::state::Change;
use super::tailer::{Dir, Tailer, unreadable};
use crate::ledger::Encoding;

/// Time stamps of files are at most so much older than the clock.
const TICK_NS: i64 = 20_000_000;

/// So often is a directory listed in which files are renamed meanwhile.
const LISTINGS_MAX: u32 = 4;

/// Why a file in a followed directory may be of interest.
#[derive(Debug, Clone, Copy)]
struct Why {
    /// Its inode number is that of an origin without a file.
    known: bool,
    /// Its name is that of a rotated file.
    sibling: bool,
}

impl Tailer {
    pub(super) fn list_dirs(&mut self, mut moved: BTreeMap<u64, FileIx>, out: &mut Vec<FileEvent>) {
        let listed_before_ns = self.listed_ns;
        self.listed_ns = (self.config.file_clock_ns)() - TICK_NS;
        let mut aliases: HashMap<PathBuf, LogIx> = HashMap::new();
        for (lix, log) in self.logs.iter() {
            if let Some(real) = &log.real {
                aliases.insert(real.to_path_buf(), lix);
            }
        }
        let dirs: Vec<PathBuf> = self.dirs.keys().cloned().collect();
        let mut still = true;
        for dir in &dirs {
            let stamp = Stamp::of(dir);
            let Some(known) = self.dirs.get_mut(dir) else { continue };
            if !known.force && Stamp::unchanged(known.stamp, stamp) {
                continue;
            }
            *known = Dir { stamp, force: false };
            if stamp.is_some() {
                still &= self.list(dir, &aliases, &mut moved, out);
            }
        }
        if !still && listed_before_ns != i64::MIN {
            self.listed_ns = listed_before_ns;
        }
        for lix in self.logs.indexes() {
            if let Some(log) = self.logs.get_mut(lix) {
                // what appears from here on has not been seen
                log.threshold_ns.get_or_insert(log.ignored_ns);
            }
        }
        for lost in &mut self.lost {
            lost.listed = true;
        }
        for ix in moved.into_values() {
            if self.files.get(ix).is_some_and(|file| file.reader.is_none()) {
                self.gone(ix, out);
            }
        }
    }

    /// Lists a directory. Files that a rotation renames meanwhile may be met under no name; births
    /// that follow would make them uninteresting, so it is listed again. Says whether that ended.
    fn list(
        &mut self,
        dir: &Path,
        aliases: &HashMap<PathBuf, LogIx>,
        moved: &mut BTreeMap<u64, FileIx>,
        out: &mut Vec<FileEvent>,
    ) -> bool {
        (0..LISTINGS_MAX).any(|_| self.list_once(dir, aliases, moved, out))
    }

    /// Says whether each file of interest still had the name under which it was listed.
    fn list_once(
        &mut self,
        dir: &Path,
        aliases: &HashMap<PathBuf, LogIx>,
        moved: &mut BTreeMap<u64, FileIx>,
        out: &mut Vec<FileEvent>,
    ) -> bool {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                self.say_once(dir, "list", unreadable(&error), out);
                return true;
            }
        };
        self.unsay(dir, "list");
        let mut still = true;
        for entry in entries.flatten() {
            let (name, inode) = (entry.file_name(), entry.ino());
            if let Some(&ix) = moved.get(&inode)
                && self.found_again(ix, &dir.join(&name))
            {
                moved.remove(&inode);
                continue;
            }
            let known = self.unbound_of(inode);
            let sibling = self.log_of_sibling(dir, &name, aliases);
            if let Some(lix) = known.or(sibling) {
                let why = Why { known: known.is_some(), sibling: sibling.is_some() };
                let path = dir.join(&name);
                let linked = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                still &= linked || identity::look(&path).is_ok_and(|look| look.inode == inode);
                self.consider(lix, &path, why);
            }
        }
        still
    }

    /// The log of an origin of this inode that has no file, if it is configured.
    fn unbound_of(&self, inode: u64) -> Option<LogIx> {
        let origins = self.of_inode(inode).filter_map(|id| self.origins.get(&id));
        let mut free = origins.filter(|origin| origin.file.is_none() && !origin.detached);
        free.find_map(|origin| self.log_of.get(&origin.path).copied())
    }

    fn log_of_sibling(
        &self,
        dir: &Path,
        name: &OsStr,
        aliases: &HashMap<PathBuf, LogIx>,
    ) -> Option<LogIx> {
        siblings::bases(name).iter().find_map(|base| {
            let path = dir.join(base);
            self.log_of.get(&*path).or_else(|| aliases.get(&path)).copied()
        })
    }

    fn found_again(&mut self, ix: FileIx, path: &Path) -> bool {
        let Some(file) = self.files.get_mut(ix) else { return false };
        let Ok(look) = identity::look(path) else { return false };
        if look.key() != file.key {
            return false;
        }
        file.path = Some(Box::from(path));
        if file.origin != 0 {
            let path = path.to_owned();
            self.changes.push(Change::Moved { origin: file.origin, path });
        }
        self.saw(ix, &look);
        true
    }

    /// Decides whether a sibling of a log is worth binding.
    fn consider(&mut self, lix: LogIx, path: &Path, why: Why) {
        if self.log_of.contains_key(path) {
            return; // a followed path of its own
        }
        let Ok(look) = identity::look(path) else { return };
        let key = look.key();
        if !look.regular || look.size == 0 || self.file_of.contains_key(&key) {
            return;
        }
        if self.ignored.contains(&key) {
            return;
        }
        let (encoding, plain) = siblings::encoding(path.file_name().unwrap_or_default());
        if encoding != Encoding::Plain && path.with_file_name(plain).exists() {
            return; // being written, or a copy: it counts when its plain twin is gone
        }
        let Some(log) = self.logs.get_mut(lix).filter(|log| log.source.is_some()) else { return };
        // an inode number that is known may have been used again: only a sibling may be new
        // while it is not known where the content of a file went, what is younger than that
        // may be its successor in the same file, that nobody has seen
        let lost = self.lost.iter().filter(|lost| lost.log == lix);
        let lost = lost.filter_map(|lost| self.origins.get(&lost.origin)).map(|one| one.mtime_ns);
        let threshold = log.threshold_ns.map(|at| lost.min().map_or(at, |lost| lost.min(at)));
        let younger = threshold.is_some_and(|threshold| look.mtime_ns >= threshold);
        let unseen = why.sibling && younger;
        if !why.known && !unseen {
            if log.threshold_ns.is_none() {
                log.ignored_ns = log.ignored_ns.max(look.mtime_ns.saturating_add(1));
                self.ignored.insert(key);
                return;
            }
            if !self.lost.iter().any(|lost| lost.log == lix) {
                return;
            }
        }
        let ix = self.add_file(lix, Some(Box::from(path)), &look);
        if let Some(file) = self.files.get_mut(ix) {
            file.unseen = unseen;
            file.first_sight = false;
        }
        self.set_pending(ix, true);
    }
}
