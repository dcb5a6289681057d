//! The full look: which paths there are, which files they lead to, what else is in their
//! directories. Correctness rests on this alone; events only make it come sooner.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::follow::{FileIx, Followed, Log, LogIx, Lost, Origin, Phase, parent};
use super::identity::{self, Look};
use super::siblings;
use super::state::Change;
use super::tailer::{Dir, Tailer, unreadable};
use super::{FileEvent, Happening};
use crate::ledger::Encoding;

/// So many files may be looked at on every hint.
const FILES_FEW: u64 = 500;

impl Tailer {
    /// How long quiet files are left alone: a look at 20,000 of them takes some 40 ms.
    pub(super) fn scan_interval_ms(&self) -> u64 {
        let files = self.files.len() as u64;
        if self.events { (files * 3 / 2).clamp(2000, 30_000) } else { files.clamp(1000, 10_000) }
    }

    pub(super) fn scan_due(&mut self) -> bool {
        let Some(scanned) = self.scanned_ms else { return true };
        let age = self.now.mono_ms.saturating_sub(scanned);
        let files = self.files.len() as u64;
        if self.hinted && files > FILES_FEW && self.grown_ms == self.now.mono_ms {
            self.hinted = false; // an open file grew: that explains it
        }
        // a hint says that *some* file moved; looking at all of them may cost a few per cent
        self.hinted && age >= files / 10 || age >= self.scan_interval_ms()
    }

    pub(super) fn scan(&mut self, out: &mut Vec<FileEvent>) {
        self.hinted = false;
        self.scanned_ms = Some(self.now.mono_ms);
        self.discover(out);
        for lix in self.logs.indexes() {
            self.look_at_log(lix, out);
        }
        self.take_kept();
        let moved = self.look_at_others();
        self.list_dirs(moved, out);
        self.first_scan = false;
    }

    /// Which paths are meant, and by which source: the first one wins.
    fn discover(&mut self, out: &mut Vec<FileEvent>) {
        let stale = self.sources.iter().any(|source| source.finder.is_stale());
        if !(stale || self.reloaded || self.first_scan) {
            return;
        }
        let mut meant: BTreeMap<PathBuf, (usize, usize)> = BTreeMap::new();
        for index in 0..self.sources.len() {
            let Some(found) = self.sources.get_mut(index).map(|source| source.finder.find()) else {
                continue;
            };
            for (path, wanted) in found.paths {
                meant.entry(path).or_insert((index, wanted));
            }
            for (dir, error) in found.faults {
                self.say_once(&dir, "list", unreadable(&error), out);
            }
        }
        for lix in self.logs.indexes() {
            let Some(log) = self.logs.get_mut(lix) else { continue };
            if let Some((source, wanted)) = meant.remove(&*log.path) {
                let returns = log.source.is_none();
                (log.source, log.wanted, log.meant) = (Some(source), wanted, true);
                if returns {
                    self.resume_log(lix);
                }
                continue;
            }
            log.meant = false;
            if self.reloaded {
                self.retire_log(lix, out);
            } else if log.files == 0 {
                let path = Arc::clone(&log.path);
                self.logs.remove(lix);
                self.log_of.remove(&path);
            }
        }
        for (path, (source, wanted)) in meant {
            self.add_log(&path, source, wanted);
        }
        self.find_rotated_names();
        self.watch_dirs();
        if self.reloaded || self.first_scan {
            self.unaccounted = true;
        }
        self.reloaded = false;
    }

    /// Deleted files that were kept open since an earlier run go on where their origins ended.
    fn take_kept(&mut self) {
        for (id, path) in std::mem::take(&mut self.config.kept) {
            let wanted = |origin: &&Origin| !origin.finished && origin.encoding == Encoding::Plain;
            let Some(origin) = self.origins.get(&id).filter(wanted) else { continue };
            let Some(&lix) = self.log_of.get(&origin.path) else { continue };
            let Ok(look) = identity::look(&path) else { continue };
            let same = (look.device, look.inode) == (origin.kernel.device, origin.kernel.inode);
            if !same || !look.regular || self.file_of.contains_key(&look.key()) {
                continue;
            }
            let ix = self.add_file(lix, Some(Box::from(path)), &look);
            if let Some(file) = self.files.get_mut(ix) {
                file.first_sight = false;
            }
            self.set_pending(ix, true);
        }
    }

    fn add_log(&mut self, path: &Path, source: usize, wanted: usize) {
        let path: Arc<Path> = Arc::from(path);
        let threshold_ns = self.thresholds.get(&path).copied();
        let seen = self.sources.get(source).and_then(|one| one.seen.get(wanted).copied());
        let log = Log {
            source: Some(source),
            path: Arc::clone(&path),
            current: None,
            real: None,
            threshold_ns,
            pending: 0,
            files: 0,
            first_sight: seen == Some(false) && threshold_ns.is_none(),
            wanted,
            meant: true,
            ignored_ns: i64::MIN,
            rotated_name: false,
        };
        let lix = self.logs.add(log);
        self.log_of.insert(path, lix);
    }

    fn find_rotated_names(&mut self) {
        for lix in self.logs.indexes() {
            let Some(path) = self.logs.get(lix).map(|log| Arc::clone(&log.path)) else { continue };
            let Some(name) = path.file_name() else { continue };
            let rotated = siblings::bases(name).iter().any(|base| {
                siblings::is_rotated(name, base)
                    && self.log_of.contains_key(&*path.with_file_name(base))
            });
            if let Some(log) = self.logs.get_mut(lix) {
                log.rotated_name = rotated;
            }
        }
    }

    /// Knows the directories in which siblings are looked for.
    pub(super) fn watch_dirs(&mut self) {
        let mut dirs = std::mem::take(&mut self.dirs);
        for lix in self.logs.indexes() {
            let Some(log) = self.logs.get(lix) else { continue };
            for path in [Some(&*log.path), log.real.as_deref()].into_iter().flatten() {
                let Some(dir) = path.parent() else { continue };
                if !self.dirs.contains_key(dir) {
                    let known = dirs.remove(dir).unwrap_or(Dir { stamp: None, force: true });
                    self.dirs.insert(dir.to_owned(), known);
                }
            }
        }
    }

    pub(super) fn force_dirs(&mut self, lix: LogIx) {
        let Some(log) = self.logs.get(lix) else { return };
        let paths = [Some(parent(&log.path)), log.real.as_deref().map(parent)];
        for dir in paths.into_iter().flatten() {
            self.dirs.entry(dir).or_default().force = true;
        }
    }

    fn look_at_log(&mut self, lix: LogIx, out: &mut Vec<FileEvent>) {
        let Some(log) = self.logs.get(lix).filter(|log| log.source.is_some()) else { return };
        let path = Arc::clone(&log.path);
        match identity::look(&path) {
            Ok(look) if look.regular => {
                self.unsay(&path, "look");
                self.at_path(lix, &look, out);
            }
            Ok(_) => {
                let text = "it is no regular file and is not followed".to_owned();
                self.say_once(&path, "look", text, out);
                self.vacate(lix, out);
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                self.vacate(lix, out);
            }
            Err(error) => self.say_once(&path, "look", unreadable(&error), out),
        }
    }

    /// The log's path leads to this file.
    fn at_path(&mut self, lix: LogIx, look: &Look, out: &mut Vec<FileEvent>) {
        let key = look.key();
        let current = self.logs.get(lix).and_then(|log| log.current);
        if let Some(ix) = current
            && self.files.get(ix).is_some_and(|file| file.key == key)
        {
            self.saw(ix, look);
            return;
        }
        if let Some(&ix) = self.file_of.get(&key)
            && self.files.get(ix).is_some_and(|file| file.current)
        {
            // another followed path leads to the same file, and has it
            let other = self.files.get(ix).and_then(|file| self.logs.get(file.log));
            if other.is_some_and(|other| still_leads_to(&other.path, look)) {
                return;
            }
            let before = self.files.get(ix).map(|file| file.log);
            if let Some(before) = before {
                self.vacate(before, out);
            }
        }
        self.vacate(lix, out);
        let Some(path) = self.logs.get(lix).map(|log| Arc::clone(&log.path)) else { return };
        let real = fs::canonicalize(&path).ok().filter(|real| **real != *path);
        let real: Option<Box<Path>> = real.map(PathBuf::into_boxed_path);
        let ix = match self.file_of.get(&key) {
            Some(&ix) => self.take_over(ix, lix, real.clone()),
            None => self.add_file(lix, real.clone(), look),
        };
        let mut new_dir = false;
        if let Some(log) = self.logs.get_mut(lix) {
            log.current = Some(ix);
            new_dir = real.is_some() && log.real != real;
            log.real = real;
        }
        if let Some(file) = self.files.get_mut(ix) {
            file.current = true;
        }
        if new_dir {
            self.watch_dirs();
        }
        self.force_dirs(lix);
        self.happened(lix, Happening::Created, out);
        self.saw(ix, look);
    }

    /// A file that was known under another name is the log's current one.
    fn take_over(&mut self, ix: FileIx, lix: LogIx, real: Option<Box<Path>>) -> FileIx {
        let Some(file) = self.files.get_mut(ix) else { return ix };
        let before = std::mem::replace(&mut file.log, lix);
        file.path = real;
        if before != lix {
            if let Some(log) = self.logs.get_mut(before) {
                log.files = log.files.saturating_sub(1);
                log.pending = log.pending.saturating_sub(u32::from(file.pending));
            }
            if let Some(log) = self.logs.get_mut(lix) {
                log.files += 1;
                log.pending += u32::from(file.pending);
            }
        }
        self.set_pending(ix, false);
        ix
    }

    pub(super) fn add_file(&mut self, lix: LogIx, path: Option<Box<Path>>, look: &Look) -> FileIx {
        let mut file = Followed::new(lix, path, look);
        file.moved_ms = self.now.mono_ms;
        if let Some(log) = self.logs.get_mut(lix) {
            log.files += 1;
            file.first_sight = log.first_sight;
            let name = file.path.as_deref().unwrap_or(&log.path).file_name();
            file.encoding = name.map_or(Encoding::Plain, |name| siblings::encoding(name).0);
        }
        let key = file.key;
        let ix = self.files.add(file);
        self.file_of.insert(key, ix);
        self.fresh.push_back(ix);
        ix
    }

    /// The log's path leads to its current file no longer.
    fn vacate(&mut self, lix: LogIx, out: &mut Vec<FileEvent>) {
        let Some(log) = self.logs.get_mut(lix) else { return };
        let Some(ix) = log.current.take() else { return };
        log.first_sight = false;
        let path = Arc::clone(&log.path);
        let Some(file) = self.files.get_mut(ix) else { return };
        file.current = false;
        file.first_sight = false;
        file.unseen = true;
        file.moved_ms = self.now.mono_ms;
        file.path.get_or_insert_with(|| Box::from(&*path));
        let unborn = file.origin == 0 && file.raw_size > 0 && file.phase != Phase::Copy;
        if matches!(file.phase, Phase::Following | Phase::Announcing) {
            self.activate(ix);
        }
        self.set_pending(ix, unborn);
        self.force_dirs(lix);
        self.happened(lix, Happening::Rotated, out);
        // it may have been truncated before: what it holds then is to be born before its successor
        if let Some(file) = self.files.get_mut(ix) {
            file.verify = true;
        }
        if self.is_truncated(ix) {
            self.truncated(ix, out);
        }
    }

    /// Notes what a look at a file said.
    pub(super) fn saw(&mut self, ix: FileIx, look: &Look) {
        let Some(file) = self.files.get_mut(ix) else { return };
        let raw_grown = look.size != file.raw_size || look.mtime_ns != file.mtime_ns;
        let touched = look.ctime_ns != file.ctime_ns;
        file.links = look.links;
        file.ctime_ns = look.ctime_ns;
        let written = look.mtime_ns != file.mtime_ns;
        file.mtime_ns = look.mtime_ns;
        file.raw_size = look.size;
        if file.encoding == Encoding::Plain {
            if look.size > file.size {
                file.moved_ms = self.now.mono_ms;
            }
            file.size = look.size;
        }
        let (current, phase) = (file.current, file.phase);
        if phase == Phase::Fresh {
            self.set_pending(ix, !current && look.size > 0);
        }
        let Some(file) = self.files.get_mut(ix) else { return };
        match phase {
            Phase::Fresh if look.size > 0 => self.fresh.push_back(ix),
            Phase::Waiting if raw_grown || touched => file.extra().retry_ms = 0,
            Phase::Copy if raw_grown => {
                file.phase = Phase::Fresh;
                self.fresh.push_back(ix);
            }
            Phase::Following | Phase::Announcing | Phase::Ended | Phase::CutBack
                if file.encoding == Encoding::Plain =>
            {
                file.verify |= written;
                if file.verify || file.has_more() {
                    self.activate(ix);
                }
            }
            _ => {}
        }
    }

    /// Looks at files that no followed path leads to; those whose name leads elsewhere or nowhere
    /// are returned by inode.
    fn look_at_others(&mut self) -> BTreeMap<u64, FileIx> {
        let mut moved = BTreeMap::new();
        for ix in self.files.indexes() {
            let Some(file) = self.files.get(ix).filter(|file| !file.current) else { continue };
            let key = file.key;
            let path = self.path_of(ix);
            let open = file.reader.as_ref().and_then(|one| identity::look_open(one.file()).ok());
            let here = identity::look(&path).ok().filter(|look| look.key() == key);
            if here.is_none() {
                moved.insert(key.1, ix);
                self.dirs.entry(parent(&path)).or_default().force = true;
            }
            if let Some(look) = here.or(open) {
                self.saw(ix, &look);
            }
        }
        moved
    }

    pub(super) fn set_pending(&mut self, ix: FileIx, pending: bool) {
        let Some(file) = self.files.get_mut(ix) else { return };
        if file.pending == pending {
            return;
        }
        file.pending = pending;
        if let Some(log) = self.logs.get_mut(file.log) {
            log.pending = if pending { log.pending + 1 } else { log.pending.saturating_sub(1) };
        }
    }

    /// A file that is not open has no name that we can find.
    pub(super) fn gone(&mut self, ix: FileIx, out: &mut Vec<FileEvent>) {
        let Some(file) = self.files.get(ix) else { return };
        let (lix, phase, origin) = (file.log, file.phase, file.origin);
        let cut_back = file.is_cut_back();
        if cut_back || matches!(phase, Phase::Following | Phase::Announcing | Phase::CutBack) {
            let mut lost = Lost::of(file, self.now.mono_ms);
            if file.extra.as_ref().is_some_and(|extra| extra.doubtful) {
                // what became of the origin's content since an earlier run was not found out
                lost.unwatched = true;
                lost.size = self.origins.get(&origin).map_or(0, |one| one.reach);
            }
            self.lost.push(lost);
            self.examine_copies_of(origin);
            self.force_dirs(lix);
        } else if phase != Phase::Ended
            && file.size > 0
            && phase != Phase::Retired
            && phase != Phase::Copy
        {
            let (path, text) = (self.path_of(ix), "it was deleted before it could be read");
            out.push(FileEvent::Said {
                weight: super::Weight::Warning,
                path,
                text: text.to_owned(),
            });
        }
        self.forget(ix);
    }

    /// Removes a file from the tables; its origin stays known.
    pub(super) fn forget(&mut self, ix: FileIx) {
        self.set_pending(ix, false);
        let Some(file) = self.files.remove(ix) else { return };
        if file.active {
            self.active.retain(|&other| other != ix);
        }
        self.open -= usize::from(file.reader.is_some());
        if self.file_of.get(&file.key) == Some(&ix) {
            self.file_of.remove(&file.key);
        }
        if let Some(log) = self.logs.get_mut(file.log) {
            log.files = log.files.saturating_sub(1);
            if log.current == Some(ix) {
                log.current = None;
            }
        }
        if let Some(origin) = self.origins.get_mut(&file.origin)
            && origin.file == Some(ix)
        {
            origin.file = None;
        }
    }

    /// No source means the log any more.
    fn retire_log(&mut self, lix: LogIx, out: &mut Vec<FileEvent>) {
        let Some(log) = self.logs.get_mut(lix) else { return };
        log.source = None;
        for ix in self.files.indexes() {
            let Some(file) = self.files.get_mut(ix).filter(|file| file.log == lix) else {
                continue;
            };
            if std::mem::take(&mut file.opened) {
                Self::say_finished(file.origin, out);
            }
            self.open -= usize::from(file.reader.take().is_some());
            file.extra = None;
            if file.origin == 0 {
                self.forget(ix);
            } else if file.phase != Phase::Ended {
                file.phase = Phase::Retired;
                let origin = file.origin;
                self.changes.push(Change::Retired { origin, retired: true });
            }
        }
    }

    /// A source means the log again.
    fn resume_log(&mut self, lix: LogIx) {
        for ix in self.files.indexes() {
            let Some(file) = self.files.get_mut(ix) else { continue };
            if file.log == lix && file.phase == Phase::Retired {
                file.phase = Phase::Following;
                file.tried = u64::MAX;
                let origin = file.origin;
                self.changes.push(Change::Retired { origin, retired: false });
                self.activate(ix);
            }
        }
    }
}

fn still_leads_to(path: &Path, look: &Look) -> bool {
    identity::look(path).is_ok_and(|other| other.key() == look.key())
}
