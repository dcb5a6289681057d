//! The tailer: its tables, its step, and what it is told.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::discover::Stamp;
use super::follow::{FileIx, Followed, Log, LogIx, Lost, Origin, Phase, Source};
use super::identity::FileKey;
use super::slab::{Interned, Slab};
use super::state::{Change, TailState, TailStateError};
use super::{FileEvent, FileStatus, Happening, Now, Pace, SourceSums, TailerConfig, Weight};
use crate::config::FileSource;
use crate::ledger::{Encoding, OriginId};
use crate::sources::{Buffers, Input};

/// Follows files. See the module's page.
#[allow(clippy::struct_excessive_bools)] // independent facts
pub struct Tailer {
    pub(super) state: Arc<dyn TailState>,
    pub(super) buffers: Arc<Buffers>,
    pub(super) config: TailerConfig,
    pub(super) sources: Vec<Source>,
    pub(super) logs: Slab<Log>,
    pub(super) log_of: HashMap<Arc<Path>, LogIx>,
    pub(super) files: Slab<Followed>,
    pub(super) file_of: HashMap<FileKey, FileIx>,
    pub(super) origins: BTreeMap<OriginId, Origin>,
    /// Origins by the inode of their file.
    pub(super) by_inode: BTreeSet<(u64, OriginId)>,
    /// Origins by length and hash of their head.
    pub(super) by_head: BTreeSet<(u64, u64, OriginId)>,
    /// The lengths of all hashed heads, with how many origins have it.
    pub(super) head_lengths: BTreeMap<u64, usize>,
    pub(super) interned: Interned,
    pub(super) dirs: BTreeMap<PathBuf, Dir>,
    /// For each path, the newest of its origins: see [`Log::threshold_ns`].
    pub(super) thresholds: HashMap<Arc<Path>, i64>,
    /// Siblings that are none of ours: they were there when their log was first seen, or are
    /// older.
    pub(super) ignored: HashSet<FileKey>,
    /// Files of which the store has nothing under these origins.
    pub(super) strangers: HashSet<(FileKey, OriginId)>,
    /// Files to bind.
    pub(super) fresh: VecDeque<FileIx>,
    pub(super) examining: VecDeque<FileIx>,
    /// Files that may continue an origin.
    pub(super) adopting: Vec<(OriginId, FileIx)>,
    pub(super) births: Vec<FileIx>,
    /// Files that are open, or have bytes to read, or are on their way out.
    pub(super) active: VecDeque<FileIx>,
    pub(super) waiting: Vec<FileIx>,
    /// Quiet files of which all may be committed.
    pub(super) resting: Vec<FileIx>,
    pub(super) lost: Vec<Lost>,
    /// Questions about files that were cut back which are not answered yet.
    pub(super) cut_asks: HashMap<OriginId, u32>,
    /// Origins that are finished once all of this is committed: the end of what was handed out,
    /// and its marker.
    pub(super) ending: HashMap<OriginId, (u64, u64)>,
    /// The files of such origins that have no name any more: nobody else has their bytes.
    pub(super) unlinked: BTreeMap<OriginId, File>,
    pub(super) changes: Vec<Change>,
    /// What was said already, and is not said again until it is over.
    pub(super) said: HashSet<(PathBuf, &'static str)>,
    pub(super) now: Now,
    pub(super) scanned_ms: Option<u64>,
    /// When the directories were last listed, by the clock of the file systems.
    pub(super) listed_ns: i64,
    /// When a file last grew.
    pub(super) grown_ms: u64,
    pub(super) hinted: bool,
    /// Events arrive, so that the full look may be rarer.
    pub(super) events: bool,
    pub(super) open: usize,
    pub(super) reloaded: bool,
    /// No scan has found all paths yet.
    pub(super) first_scan: bool,
    /// Origins without a file are not accounted for since the last start or reload.
    pub(super) unaccounted: bool,
    pub(super) stopped: bool,
}

/// A directory in which files are followed.
#[derive(Debug, Default)]
pub(super) struct Dir {
    pub stamp: Option<Stamp>,
    /// List it even if it seems unchanged.
    pub force: bool,
}

impl std::fmt::Debug for Tailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tailer").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Tailer {
    /// Knows what the state knows; looks at no file yet.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    pub fn new(
        config: TailerConfig,
        state: Arc<dyn TailState>,
        buffers: Arc<Buffers>,
    ) -> Result<Self, TailStateError> {
        let mut tailer = Self {
            state,
            buffers,
            config,
            sources: Vec::new(),
            logs: Slab::default(),
            log_of: HashMap::new(),
            files: Slab::default(),
            file_of: HashMap::new(),
            origins: BTreeMap::new(),
            by_inode: BTreeSet::new(),
            by_head: BTreeSet::new(),
            head_lengths: BTreeMap::new(),
            interned: Interned::default(),
            dirs: BTreeMap::new(),
            thresholds: HashMap::new(),
            ignored: HashSet::new(),
            strangers: HashSet::new(),
            fresh: VecDeque::new(),
            examining: VecDeque::new(),
            adopting: Vec::new(),
            births: Vec::new(),
            active: VecDeque::new(),
            waiting: Vec::new(),
            resting: Vec::new(),
            lost: Vec::new(),
            cut_asks: HashMap::new(),
            ending: HashMap::new(),
            unlinked: BTreeMap::new(),
            changes: Vec::new(),
            said: HashSet::new(),
            now: Now { mono_ms: 0, wall_ms: 0 },
            scanned_ms: None,
            listed_ns: i64::MIN,
            grown_ms: 0,
            hinted: false,
            events: false,
            open: 0,
            reloaded: false,
            first_scan: true,
            unaccounted: false,
            stopped: false,
        };
        let known = tailer.state.origins()?.into_iter();
        for known in known.filter(|known| known.record.encoding != Encoding::Spool) {
            let origin = Origin::known(&known, &mut tailer.interned);
            tailer.add_origin(known.record.id, origin);
        }
        let sources = std::mem::take(&mut tailer.config.sources);
        tailer.set_sources(&sources)?;
        Ok(tailer)
    }

    pub(super) fn add_origin(&mut self, id: OriginId, origin: Origin) {
        let threshold = self.thresholds.entry(Arc::clone(&origin.path)).or_insert(i64::MIN);
        *threshold = origin.mtime_ns.max(*threshold);
        self.by_inode.insert((origin.kernel.inode, id));
        if origin.head_bytes > 0 {
            self.by_head.insert((origin.head_bytes, origin.head_hash, id));
            *self.head_lengths.entry(origin.head_bytes).or_default() += 1;
        }
        self.origins.insert(id, origin);
    }

    /// Origins that have or had this inode.
    pub(super) fn of_inode(&self, inode: u64) -> impl Iterator<Item = OriginId> {
        let range = (inode, OriginId::MIN)..=(inode, OriginId::MAX);
        self.by_inode.range(range).map(|(_, id)| *id)
    }

    fn set_sources(&mut self, sources: &[FileSource]) -> Result<(), TailStateError> {
        let mut fresh: Vec<Source> = sources.iter().map(Source::new).collect();
        for source in &mut fresh {
            for wanted in 0..source.finder.len() {
                let seen = self.state.is_seen(&source.seen_key(wanted))?;
                if let Some(slot) = source.seen.get_mut(wanted) {
                    *slot = seen;
                }
            }
        }
        self.sources = fresh;
        Ok(())
    }

    /// Does what can be done now: at most `room_chunks` chunks are added to `out`.
    pub fn step(&mut self, now: Now, room_chunks: usize, out: &mut Vec<FileEvent>) -> Pace {
        self.now = now;
        if self.stopped {
            return Pace { wait_ms: 1000 };
        }
        self.poll(out);
        if self.scan_due() {
            self.scan(out);
        }
        self.retry_waiting();
        let mut more = self.bind_some(out);
        more |= self.examine_some(out);
        self.adopt_longest(out);
        more |= self.give_birth(out);
        self.account(out);
        self.open_active(out);
        self.raise_reaches(out);
        more |= self.read_some(room_chunks, out);
        self.finish_some(out);
        self.close_idle();
        self.rest_some(out);
        self.keep_changes(out);
        self.pace(more)
    }

    fn pace(&self, more: bool) -> Pace {
        if more {
            return Pace { wait_ms: 0 };
        }
        let since_growth = self.now.mono_ms.saturating_sub(self.grown_ms);
        let busy = !self.lost.is_empty() || !self.births.is_empty() || since_growth < 5000;
        let poll = match (busy, self.events) {
            (true, _) => 250,
            (false, true) => 2000,
            (false, false) => 1000,
        };
        let scan = self.scanned_ms.map_or(0, |at| at + self.scan_interval_ms());
        Pace { wait_ms: poll.min(scan.saturating_sub(self.now.mono_ms)).max(1) }
    }

    /// The store has the origin and the contexts of an [`FileEvent::Announce`].
    pub fn announced(&mut self, origin: OriginId) {
        let Some(known) = self.origins.get_mut(&origin) else { return };
        known.announced = true;
        let Some(ix) = known.file else { return };
        let Some(file) = self.files.get_mut(ix) else { return };
        if file.phase == Phase::Announcing {
            file.phase = Phase::Following;
            self.activate(ix);
        }
    }

    /// How far the store has these origins: end of the last span, and the marker there. `saved`:
    /// the state knows it too.
    pub fn committed(&mut self, ends: &[(OriginId, u64, u64)], saved: bool) {
        for &(id, end, marker) in ends {
            let Some(origin) = self.origins.get_mut(&id) else { continue };
            if end < origin.end {
                continue;
            }
            (origin.end, origin.marker, origin.saved) = (end, marker, saved);
            self.resting.extend(origin.file);
            if self.ending.get(&id).is_some_and(|(all, _)| *all <= end) {
                self.ending.remove(&id);
                self.unlinked.remove(&id);
                origin.finished = true;
                self.changes.push(Change::Finished { origin: id, finished: true });
            }
        }
    }

    /// Follows other sources, or the same ones under other rules. Sources that are gone retire;
    /// those that return resume; what was handed out keeps its context.
    ///
    /// # Errors
    ///
    /// The state cannot be read; the old sources stay.
    pub fn reload(&mut self, sources: &[FileSource]) -> Result<(), TailStateError> {
        self.set_sources(sources)?;
        self.reloaded = true;
        self.hinted = true;
        self.scanned_ms = None;
        Ok(())
    }

    /// Reads nothing more. What was handed out and is not committed is read again by the next
    /// run.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// An event arrived for some file: look soon.
    pub fn hint(&mut self) {
        self.hinted = true;
    }

    /// Whether events arrive for all files. Without them files are looked at more often.
    pub fn set_events(&mut self, events: bool) {
        self.events = events;
    }

    /// Literal paths, and directories of patterns, of each source: what to watch.
    #[must_use]
    pub fn to_watch(&self) -> Vec<(Vec<PathBuf>, Vec<PathBuf>)> {
        self.sources.iter().map(|one| (one.finder.literals(), one.finder.dirs())).collect()
    }

    /// All files.
    #[must_use]
    pub fn status(&self) -> Vec<FileStatus> {
        let mut all: Vec<FileStatus> =
            self.files.iter().filter_map(|(_, file)| self.file_status(file)).collect();
        all.sort_by(|a, b| (&a.source, &a.log, &a.path).cmp(&(&b.source, &b.log, &b.path)));
        all
    }

    fn file_status(&self, file: &Followed) -> Option<FileStatus> {
        let log = self.logs.get(file.log)?;
        Some(FileStatus {
            source: self.source_name(log).to_owned(),
            log: log.path.to_path_buf(),
            path: file.path.as_deref().unwrap_or(&log.path).to_path_buf(),
            origin: (file.origin != 0).then_some(file.origin),
            size: file.size,
            read: file.handed,
            committed: self.origins.get(&file.origin).map_or(0, |origin| origin.end),
            state: file.phase.name(),
            open: file.reader.is_some(),
            deleted: file.links == 0,
        })
    }

    /// Sums over the files of each source.
    #[must_use]
    pub fn sums(&self) -> Vec<SourceSums> {
        let named = |source: &Source| SourceSums {
            source: source.rules.source.clone(),
            ..SourceSums::default()
        };
        let mut sums: Vec<SourceSums> = self.sources.iter().map(named).collect();
        for (_, file) in self.files.iter() {
            let source = self.logs.get(file.log).and_then(|log| log.source);
            let Some(sum) = source.and_then(|source| sums.get_mut(source)) else { continue };
            sum.files += 1;
            sum.open += u64::from(file.reader.is_some());
            if !matches!(file.phase, Phase::Copy | Phase::Retired) {
                sum.backlog_bytes += file.backlog();
            }
            if file.links == 0 && file.reader.is_some() {
                sum.deleted_open_bytes += file.size;
            }
        }
        sums
    }

    pub(super) fn source_name(&self, log: &Log) -> &str {
        let source = log.source.and_then(|source| self.sources.get(source));
        source.map_or("", |source| &source.rules.source)
    }

    /// Puts a file on the list of those that each step looks at.
    pub(super) fn activate(&mut self, ix: FileIx) {
        if let Some(file) = self.files.get_mut(ix)
            && !file.active
        {
            file.active = true;
            self.active.push_back(ix);
        }
    }

    /// The name of a file.
    pub(super) fn path_of(&self, ix: FileIx) -> PathBuf {
        let Some(file) = self.files.get(ix) else { return PathBuf::new() };
        match &file.path {
            Some(path) => path.to_path_buf(),
            None => self.logs.get(file.log).map_or_else(PathBuf::new, |log| log.path.to_path_buf()),
        }
    }

    /// Says something about a path, once until [`Self::unsay`].
    pub(super) fn say_once(
        &mut self,
        path: &Path,
        what: &'static str,
        text: String,
        out: &mut Vec<FileEvent>,
    ) {
        if self.said.insert((path.to_owned(), what)) {
            out.push(FileEvent::Said { weight: Weight::Warning, path: path.to_owned(), text });
        }
    }

    pub(super) fn unsay(&mut self, path: &Path, what: &'static str) {
        if !self.said.is_empty() {
            self.said.remove(&(path.to_owned(), what));
        }
    }

    pub(super) fn happened(&self, log: LogIx, what: Happening, out: &mut Vec<FileEvent>) {
        let source = self.logs.get(log).map_or("", |log| self.source_name(log)).to_owned();
        out.push(FileEvent::Happened { source, what });
    }

    pub(super) fn state_failed(&mut self, error: &TailStateError, out: &mut Vec<FileEvent>) {
        let text = format!("{error}; nothing new is read until it works again");
        self.say_once(Path::new("state.db"), "state", text, out);
    }

    pub(super) fn state_works(&mut self) {
        self.unsay(Path::new("state.db"), "state");
    }

    fn keep_changes(&mut self, out: &mut Vec<FileEvent>) {
        if self.changes.is_empty() {
            return;
        }
        match self.state.update(&self.changes) {
            Ok(()) => self.changes.clear(),
            Err(error) => self.state_failed(&error, out),
        }
    }

    /// Tells the worker that an origin has no more bytes.
    pub(super) fn say_finished(origin: OriginId, out: &mut Vec<FileEvent>) {
        out.push(FileEvent::Input(Input::Finish { origin }));
    }
}

/// What to do about a file or directory that cannot be read, for the log.
pub(super) fn unreadable(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return "it may not be read; give the daemon's user or group the right to read it and to \
                enter its directories (setfacl, or adm's membership); it is tried again"
            .to_owned();
    }
    format!("it cannot be read: {error}; it is tried again")
}
