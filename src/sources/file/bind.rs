//! Whose content is this file? By its kernel identity and a marker first, by all of its content
//! else; a file that is neither is new.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::examine::{Examination, Verdict};
use super::follow::{FileIx, Lost, Phase, SIZE_UNKNOWN};
use super::identity::{self, same_file};
use super::marker;
use super::siblings;
use super::state::{Change, TailStateError};
use super::tailer::{Tailer, unreadable};
use super::{FileEvent, Happening};
use crate::ledger::{Encoding, KernelIdentity, OriginId};

/// Files that one step binds.
const BINDS_MAX: usize = 256;

/// How long newer files of a log wait for a sibling that cannot be read or is not whole.
const PENDING_MS_MAX: u64 = 60_000;

impl Tailer {
    /// Binds fresh files; says whether there are more.
    pub(super) fn bind_some(&mut self, out: &mut Vec<FileEvent>) -> bool {
        for _ in 0..BINDS_MAX {
            let Some(ix) = self.fresh.pop_front() else { return false };
            let file = self.files.get(ix);
            if file.is_some_and(|file| file.phase == Phase::Fresh && file.raw_size > 0) {
                self.bind(ix, out);
            }
        }
        !self.fresh.is_empty()
    }

    fn bind(&mut self, ix: FileIx, out: &mut Vec<FileEvent>) {
        let path = self.path_of(ix);
        let Some(encoding) = self.files.get(ix).map(|file| file.encoding) else { return };
        let (_, plain) = siblings::encoding(path.file_name().unwrap_or_default());
        if encoding != Encoding::Plain && path.with_file_name(plain).exists() {
            self.wait(ix, 1000);
            return;
        }
        let opened = (self.config.open)(&path)
            .and_then(|file| identity::look_open(&file).map(|look| (file, look)));
        let (file, look) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.refused(ix, &path, &error, out),
        };
        self.unsay(&path, "open");
        if self.files.get(ix).is_none_or(|known| known.key != look.key()) {
            // the name leads elsewhere by now: the next scan tells
            self.hinted = true;
            self.wait(ix, 250);
            return;
        }
        let kernel = look.kernel(identity::generation(&file));
        if let Err(error) = self.bind_open(ix, &file, kernel, out) {
            match error {
                BindError::Io(error) => self.refused(ix, &path, &error, out),
                BindError::State(error) => {
                    self.state_failed(&error, out);
                    self.wait(ix, 1000);
                }
            }
        }
    }

    fn bind_open(
        &mut self,
        ix: FileIx,
        file: &File,
        kernel: KernelIdentity,
        out: &mut Vec<FileEvent>,
    ) -> Result<(), BindError> {
        let candidates = self.same_kernel(&kernel);
        if candidates.iter().any(|id| self.ending.contains_key(id)) {
            // what was handed out of it is on its way to the store: then it is known where it ends
            self.wait(ix, 250);
            return Ok(());
        }
        for &id in &candidates {
            // the newest comes first: what a cut file has left of it may be all of an older one
            if self.still_holds(ix, file, id)? {
                self.learn_marker(id, file)?;
                if self.was_cut(id, file)? {
                    self.bind_to(ix, id);
                    let end = self.end_of(id);
                    self.begin_cut_back(ix, end, false, out);
                    return Ok(());
                }
                self.resume(ix, id, &kernel, out);
                return Ok(());
            }
            if let Some(from) = self.cut_position(id, file)? {
                self.bind_to(ix, id);
                self.begin_cut_back(ix, from, false, out);
                return Ok(());
            }
        }
        if let Some(&id) = candidates.first() {
            if self.is_doubtful(id) {
                self.bind_to(ix, id);
                let first = self.origins.get(&id).map_or(0, |origin| origin.first_offset);
                self.begin_cut_back(ix, first, true, out);
                return Ok(());
            }
            for &id in &candidates {
                self.detach_unwatched(ix, id);
            }
            self.happened_at(ix, Happening::Truncated, out);
            let sibling = self.has_sibling_name(ix);
            if let Some(followed) = self.files.get_mut(ix) {
                followed.unseen |= sibling; // its content is younger than what it held before
            }
        }
        let suspects = self.suspects(ix, file)?;
        let Some(followed) = self.files.get_mut(ix) else { return Ok(()) };
        let encoding = followed.encoding;
        let extra = followed.extra();
        (extra.kernel, extra.twin_end) = (kernel, None);
        if suspects.is_empty() && encoding == Encoding::Plain {
            self.judged(ix, Verdict::Other, out);
        } else {
            extra.examination = Some(Examination::new(file.try_clone()?, encoding, suspects)?);
            followed.phase = Phase::Examining;
            self.examining.push_back(ix);
        }
        Ok(())
    }

    /// Whether the file was cut back behind the origin's last span: what was handed out then may
    /// be stored, and is not what stands there now.
    fn was_cut(&self, id: OriginId, file: &File) -> io::Result<bool> {
        let Some(origin) = self.origins.get(&id) else { return Ok(false) };
        let ours = *origin.machine == *self.config.machine && !origin.finished;
        match origin.reach_marker {
            Some(marker) if ours && origin.encoding == Encoding::Plain => {
                Ok(origin.reach > origin.end && !marker::holds(file, origin.reach, marker)?)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn end_of(&self, id: OriginId) -> u64 {
        self.origins.get(&id).map_or(0, |origin| origin.end)
    }

    /// Whether a file in which no marker of the origin holds may have been cut back to less than
    /// the oldest of them.
    pub(super) fn is_doubtful(&self, id: OriginId) -> bool {
        self.origins.get(&id).is_some_and(|origin| {
            let ours = *origin.machine == *self.config.machine && !origin.finished;
            let stored = origin.end.max(origin.reach) > origin.first_offset;
            ours && stored && origin.encoding == Encoding::Plain && origin.first_offset == 0
        })
    }

    /// See [`super::follow::Origin::lacks_marker`].
    pub(super) fn learn_marker(&mut self, id: OriginId, file: &File) -> io::Result<()> {
        let Some(origin) = self.origins.get_mut(&id).filter(|one| one.lacks_marker()) else {
            return Ok(());
        };
        if origin.encoding == Encoding::Plain || origin.first_offset == 0 {
            origin.marker = marker::marker(&marker::bytes_before(file, origin.first_offset)?);
        }
        Ok(())
    }

    /// Origins without a file whose kernel identity this is, newest first.
    fn same_kernel(&self, kernel: &KernelIdentity) -> Vec<OriginId> {
        let mut found: Vec<OriginId> = self.of_inode(kernel.inode).collect();
        found.retain(|id| {
            self.origins.get(id).is_some_and(|origin| {
                origin.file.is_none() && !origin.detached && same_file(&origin.kernel, kernel)
            })
        });
        found.sort_by_key(|id| {
            let origin = self.origins.get(id);
            std::cmp::Reverse(origin.map(|origin| {
                (origin.kernel.device == kernel.device, origin.mtime_ns, origin.born_ms, *id)
            }))
        });
        found
    }

    /// Whether the file still has what was committed of the origin.
    fn still_holds(&self, ix: FileIx, file: &File, id: OriginId) -> io::Result<bool> {
        let Some(origin) = self.origins.get(&id) else { return Ok(false) };
        if self.files.get(ix).is_none_or(|known| known.encoding != origin.encoding) {
            return Ok(false);
        }
        if origin.encoding != Encoding::Plain {
            return Ok(true); // its marker is checked on the way to the position
        }
        origin.stands_in(file, origin.end, origin.marker)
    }

    /// The newest older marker of the origin that the file still has.
    pub(super) fn cut_position(&self, id: OriginId, file: &File) -> Result<Option<u64>, BindError> {
        let Some(origin) = self.origins.get(&id) else { return Ok(None) };
        if origin.encoding != Encoding::Plain || origin.end == origin.first_offset {
            return Ok(None);
        }
        let mut markers = self.state.detail(id)?.markers;
        markers.retain(|one| one.position > origin.first_offset);
        markers.push(crate::ledger::Marker { at_ms: 0, position: origin.end, hash: origin.marker });
        markers.sort_by_key(|one| std::cmp::Reverse(one.position));
        for one in markers {
            if marker::holds(file, one.position, one.hash)? {
                return Ok(Some(one.position));
            }
        }
        Ok(None)
    }

    pub(super) fn bind_to(&mut self, ix: FileIx, id: OriginId) {
        let Some(origin) = self.origins.get_mut(&id) else { return };
        origin.file = Some(ix);
        let Some(file) = self.files.get_mut(ix) else { return };
        file.origin = id;
        // what this run has handed out is on its way to the store
        let ended = self.ending.get(&id).copied();
        (file.handed, file.marker) = ended.unwrap_or((origin.end, origin.marker));
        file.encoding = origin.encoding;
        file.opened = false;
        file.extra = None;
        file.sure = file.handed;
        file.verify = true;
        if file.encoding != Encoding::Plain {
            file.size = if origin.finished { origin.end } else { SIZE_UNKNOWN };
        }
        if origin.retired {
            origin.retired = false;
            self.changes.push(Change::Retired { origin: id, retired: false });
        }
        self.lost.retain(|lost| lost.origin != id);
        self.set_pending(ix, false);
    }

    /// The file goes on where its origin ended.
    fn resume(
        &mut self,
        ix: FileIx,
        id: OriginId,
        kernel: &KernelIdentity,
        out: &mut Vec<FileEvent>,
    ) {
        if self.leave_to_other(ix, id, kernel) {
            return;
        }
        let Some(origin) = self.origins.get_mut(&id) else { return };
        let finished = origin.finished || self.ending.contains_key(&id);
        self.bind_to(ix, id);
        let path = self.path_of(ix);
        let Some(file) = self.files.get_mut(ix) else { return };
        if finished && file.size == file.handed {
            file.phase = Phase::Ended;
            return;
        }
        file.phase = Phase::Following;
        if !file.current && file.links > 0 {
            self.changes.push(Change::Moved { origin: id, path });
        }
        if finished {
            self.happened_resumed(ix);
        }
        if let Some(file) = self.files.get(ix)
            && (file.has_more() || !file.current)
        {
            self.activate(ix);
        }
        let _ = out;
    }

    /// On a cloned disk the origin is the other machine's: ours begins where it stood.
    pub(super) fn leave_to_other(
        &mut self,
        ix: FileIx,
        id: OriginId,
        kernel: &KernelIdentity,
    ) -> bool {
        let Some(origin) = self.origins.get_mut(&id) else { return false };
        if *origin.machine == *self.config.machine {
            return false;
        }
        let (first, first_marker) = (origin.end, origin.marker);
        origin.detached = true;
        origin.finished = true;
        self.changes.push(Change::Finished { origin: id, finished: true });
        if let Some(file) = self.files.get_mut(ix) {
            if file.encoding != Encoding::Plain {
                file.size = SIZE_UNKNOWN;
            }
            let plain = file.encoding == Encoding::Plain && first > 0;
            let extra = file.extra();
            (extra.first, extra.first_marker) = (Some(first), first_marker);
            (extra.kernel, extra.cut_seen) = (*kernel, plain.then_some((first, first_marker)));
        }
        self.await_birth(ix);
        true
    }

    /// The origin of a file was finished, and the file has grown after all.
    pub(super) fn happened_resumed(&mut self, ix: FileIx) {
        let Some(file) = self.files.get_mut(ix) else { return };
        let id = file.origin;
        file.extra().ends = Some(file.handed);
        if let Some(origin) = self.origins.get_mut(&id) {
            origin.finished = false;
        }
        self.ending.remove(&id);
        self.changes.push(Change::Finished { origin: id, finished: false });
    }

    /// The origin's file holds other content since an earlier run.
    pub(super) fn detach_unwatched(&mut self, ix: FileIx, id: OriginId) {
        let Some(file) = self.files.get(ix) else { return };
        let log = file.log;
        let Some(origin) = self.origins.get_mut(&id) else { return };
        origin.detached = true;
        if origin.finished {
            return;
        }
        self.lost.retain(|lost| lost.origin != id);
        self.lost.push(Lost {
            size: origin.reach,
            truncated: true,
            unwatched: true,
            ..Lost::new(id, log, (origin.end, origin.marker), self.now.mono_ms)
        });
        self.force_dirs(log);
        self.hinted = true;
        self.scanned_ms = None;
    }

    fn happened_at(&self, ix: FileIx, what: Happening, out: &mut Vec<FileEvent>) {
        if let Some(file) = self.files.get(ix) {
            self.happened(file.log, what, out);
        }
    }

    pub(super) fn await_birth(&mut self, ix: FileIx) {
        if let Some(file) = self.files.get_mut(ix) {
            file.phase = Phase::Birth;
            self.births.push(ix);
        }
    }

    pub(super) fn wait(&mut self, ix: FileIx, wait_ms: u64) {
        let now = self.now.mono_ms;
        let Some(file) = self.files.get_mut(ix) else { return };
        file.phase = Phase::Waiting;
        let extra = file.extra();
        (extra.examination, extra.twin_end) = (None, None);
        extra.retry_ms = now + wait_ms;
        extra.tries = extra.tries.saturating_add(1);
        if !self.waiting.contains(&ix) {
            self.waiting.push(ix);
        }
    }

    /// The file could not be opened or read.
    pub(super) fn refused(
        &mut self,
        ix: FileIx,
        path: &Path,
        error: &io::Error,
        out: &mut Vec<FileEvent>,
    ) {
        if error.kind() == ErrorKind::NotFound {
            self.hinted = true;
        } else {
            self.say_once(path, "open", unreadable(error), out);
        }
        let tries = self.files.get(ix).and_then(|file| file.extra.as_ref()).map_or(0, |e| e.tries);
        self.wait(ix, (250 << tries.min(7)).min(30_000));
    }

    pub(super) fn retry_waiting(&mut self) {
        let now = self.now.mono_ms;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|&ix| {
            let Some(file) = self.files.get_mut(ix).filter(|file| file.phase == Phase::Waiting)
            else {
                return false;
            };
            let too_long = now.saturating_sub(file.moved_ms) > PENDING_MS_MAX;
            if file.extra().retry_ms > now {
                return true;
            }
            file.phase = Phase::Fresh;
            self.fresh.push_back(ix);
            if too_long {
                self.set_pending(ix, false);
            }
            false
        });
        self.waiting.extend(waiting);
    }
}

/// Why a file could not be bound.
#[derive(Debug, thiserror::Error)]
pub(super) enum BindError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    State(#[from] TailStateError),
}
