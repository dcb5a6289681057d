//! What an examination found: a copy, the continuation of an origin whose own file is gone, or
//! something new.

use std::fs::File;
use std::io;

use super::examine::{Examination, Verdict};
use super::follow::{FileIx, LogIx, Phase};
use super::marker;
use super::state::Change;
use super::tailer::Tailer;
use super::{FileEvent, Happening};
use crate::ledger::{Encoding, OriginId};

/// Bytes of content that one step examines.
const EXAMINED_BYTES_MAX: u64 = 4 << 20;

impl Tailer {
    /// Goes on examining; says whether there is more to do.
    pub(super) fn examine_some(&mut self, out: &mut Vec<FileEvent>) -> bool {
        let mut budget = EXAMINED_BYTES_MAX;
        while let Some(ix) = self.examining.pop_front() {
            let Some(file) = self.files.get_mut(ix).filter(|file| file.phase == Phase::Examining)
            else {
                continue;
            };
            let Some(one) = &mut file.extra().examination else { continue };
            match one.go_on(&mut budget) {
                Ok(None) => {
                    self.examining.push_front(ix);
                    return true;
                }
                Ok(Some(verdict)) => self.judged(ix, verdict, out),
                Err(error) => {
                    let path = self.path_of(ix);
                    self.refused(ix, &path, &error, out);
                }
            }
        }
        false
    }

    pub(super) fn judged(&mut self, ix: FileIx, verdict: Verdict, out: &mut Vec<FileEvent>) {
        let verdict = match verdict {
            Verdict::Diverges(id) if !self.may_be_cut(ix, id) => Verdict::Other,
            verdict => verdict,
        };
        let one = self.files.get(ix).and_then(|file| file.extra.as_ref()?.examination.as_ref());
        if verdict == Verdict::Other
            && one.is_some_and(|one| {
                one.twins().any(|(id, twin)| id != 0 && !self.is_itself(id, twin))
            })
        {
            // it may have been held against a file that was truncated in the meantime
            self.wait(ix, 0);
            return;
        }
        let Some(file) = self.files.get_mut(ix) else { return };
        let encoding = file.encoding;
        let content = file.extra().examination.as_ref().map(Examination::offset);
        if encoding != Encoding::Plain && verdict != Verdict::Incomplete {
            file.size = content.unwrap_or(0);
        }
        let one = file.extra.as_ref().and_then(|extra| extra.examination.as_ref());
        let has_twin = matches!(verdict, Verdict::Continues(id) if one
            .is_some_and(|one| one.twins().any(|(of, _)| of == id)));
        let cut =
            matches!(verdict, Verdict::Continues(id) if one.is_some_and(|one| one.was_cut(id)));
        let short = match verdict {
            Verdict::Copy(id) if !self.ending.contains_key(&id) => {
                one.and_then(|one| one.proved_short(id))
            }
            _ => None,
        };
        let is_plain =
            |id: &OriginId| self.origins.get(id).is_some_and(|one| one.encoding == Encoding::Plain);
        let has_file = |id: &OriginId| self.origins.get(id).is_some_and(|one| one.file.is_some());
        match verdict {
            Verdict::Incomplete => {
                let text = one.and_then(Examination::fault).unwrap_or_default().to_owned();
                let path = self.path_of(ix);
                self.say_once(&path, "whole", text, out);
                self.wait(ix, 1000);
            }
            Verdict::Copy(0) => {
                let end = one.map(|one| (one.offset(), marker::marker(one.tail())));
                self.wait_for_twin(ix, end);
            }
            Verdict::Continues(id) if !has_file(&id) => {
                file.extra().cut_behind = if cut { id } else { 0 };
                file.phase = Phase::Adopting;
                self.adopting.push((id, ix));
            }
            // its own file was found meanwhile, and says more than what was known of it
            Verdict::Continues(id) if !has_twin && is_plain(&id) => self.wait(ix, 50),
            Verdict::Copy(id) if short.is_some() && !has_file(&id) => {
                // what stands behind the last marker may be of another time
                let from = short.unwrap_or(0);
                self.ask_of_copy(ix, id, from, out);
                if let Some(file) = self.files.get_mut(ix) {
                    file.extra().short = true;
                }
            }
            Verdict::Continues(id) | Verdict::Copy(id) => self.is_copy(ix, id),
            // what its own file holds by now is found out first
            Verdict::Diverges(id) if has_file(&id) => self.wait(ix, 250),
            Verdict::Diverges(id) => self.ask_of_copy(ix, id, 0, out),
            Verdict::Other if file.current || file.unseen => self.await_birth(ix),
            Verdict::Empty if file.current => self.wait(ix, 30_000),
            Verdict::Other | Verdict::Empty => {
                let key = file.key;
                self.ignored.insert(key);
                self.forget(ix);
            }
        }
    }

    /// Whether the file may be what a power cut has left of the origin, copied. Not where this run
    /// has handed out what the store does not have yet.
    fn may_be_cut(&self, ix: FileIx, id: OriginId) -> bool {
        let read = self.lost.iter().any(|lost| lost.origin == id && lost.opened);
        let log = self.files.get(ix).and_then(|file| self.logs.get(file.log));
        let same = self.origins.get(&id).zip(log).is_some_and(|(one, log)| one.path == log.path);
        same && !read && !self.ending.contains_key(&id) && self.is_doubtful(id)
    }

    /// The store knows which lines of a copy are the origin's.
    fn ask_of_copy(&mut self, ix: FileIx, id: OriginId, from: u64, out: &mut Vec<FileEvent>) {
        let Some(file) = self.files.get(ix) else { return };
        let (size, encoding) = (file.size, file.encoding);
        self.bind_to(ix, id);
        if let Some(file) = self.files.get_mut(ix) {
            (file.encoding, file.size) = (encoding, size);
        }
        self.begin_cut_back(ix, from, true, out);
    }

    /// Of all files that continue an origin, it goes on in the longest: the others are copies that
    /// were made earlier.
    pub(super) fn adopt_longest(&mut self, out: &mut Vec<FileEvent>) {
        if !self.fresh.is_empty() || !self.examining.is_empty() {
            return;
        }
        let mut adopting = std::mem::take(&mut self.adopting);
        adopting.retain(|(_, ix)| {
            self.files.get(*ix).is_some_and(|file| file.phase == Phase::Adopting)
        });
        adopting.sort_by_key(|(id, ix)| {
            let file = self.files.get(*ix);
            (*id, std::cmp::Reverse(file.map(|file| (file.size, file.current, file.pending))))
        });
        for (id, ix) in adopting {
            if self.ending.contains_key(&id) {
                // the rest of its own file is on its way to the store
                self.adopting.push((id, ix));
                continue;
            }
            match self.origins.get(&id).map(|origin| (origin.file, origin.encoding)) {
                Some((None, _)) => self.adopt(ix, id, out),
                // by now there is a file to hold it against, byte by byte
                Some((Some(_), Encoding::Plain)) => {
                    if let Some(file) = self.files.get_mut(ix) {
                        file.phase = Phase::Fresh;
                        self.fresh.push_back(ix);
                    }
                }
                _ => self.is_copy(ix, id),
            }
        }
    }

    /// Once the file that this one is a copy of has its origin, it is a copy of that. Until then
    /// its own end tells whether the log's file still holds it.
    fn wait_for_twin(&mut self, ix: FileIx, end: Option<(u64, u64)>) {
        self.set_pending(ix, false);
        self.wait(ix, 250);
        let log = self.files.get(ix).and_then(|file| self.logs.get(file.log));
        let current = log.and_then(|log| log.current).map(|current| self.path_of(current));
        let Some(open) = current.and_then(|path| (self.config.open)(&path).ok()) else { return };
        let end = end.filter(|(at, hash)| marker::holds(&open, *at, *hash).unwrap_or(false));
        if let Some(file) = self.files.get_mut(ix) {
            file.extra().twin_end = end;
        }
    }

    /// Copies of the log's file that it does not hold any more are the only ones there are of
    /// what it held before: they come first. Says whether there are any.
    pub(super) fn frees_copies(&mut self, lix: LogIx, open: &File) -> io::Result<bool> {
        let mut free = Vec::new();
        for &ix in &self.waiting {
            let Some(file) = self.files.get(ix).filter(|file| file.log == lix) else { continue };
            let end = file.extra.as_ref().and_then(|extra| extra.twin_end);
            if let Some((at, hash)) = end
                && !marker::holds(open, at, hash)?
            {
                free.push(ix);
            }
        }
        for &ix in &free {
            self.free_copy(ix);
        }
        Ok(!free.is_empty())
    }

    fn free_copy(&mut self, ix: FileIx) {
        let Some(file) = self.files.get_mut(ix) else { return };
        (file.phase, file.extra) = (Phase::Fresh, None);
        let pending = !file.current;
        self.set_pending(ix, pending);
        self.fresh.push_back(ix);
    }

    pub(super) fn is_copy(&mut self, ix: FileIx, id: OriginId) {
        let Some(file) = self.files.get_mut(ix) else { return };
        file.phase = Phase::Copy;
        file.extra = None;
        file.extra().copy_of = id;
        self.set_pending(ix, false);
    }

    /// The file has the content of an origin whose own file is gone: the origin goes on in it.
    fn adopt(&mut self, ix: FileIx, id: OriginId, out: &mut Vec<FileEvent>) {
        let lost = self.lost.iter().position(|lost| lost.origin == id);
        let lost = lost.map(|at| self.lost.swap_remove(at));
        let path = self.path_of(ix);
        let Some(file) = self.files.get_mut(ix) else { return };
        let (size, encoding, kernel) = (file.size, file.encoding, file.extra().kernel);
        let cut = file.extra().cut_behind == id;
        if self.leave_to_other(ix, id, &kernel) {
            return;
        }
        let Some(origin) = self.origins.get_mut(&id) else { return };
        origin.kernel = kernel;
        origin.encoding = encoding;
        origin.detached = false;
        if let Ok(file) = (self.config.open)(&path) {
            // it was opened a moment ago; if it cannot be now, the first read says so
            let _ = self.learn_marker(id, &file);
        }
        let Some(origin) = self.origins.get_mut(&id) else { return };
        let finished = origin.finished || self.ending.contains_key(&id);
        self.by_inode.insert((kernel.inode, id));
        self.bind_to(ix, id);
        let Some(file) = self.files.get_mut(ix) else { return };
        file.size = size;
        let lix = file.log;
        if let Some(lost) = lost.as_ref().filter(|lost| lost.truncated) {
            self.gap_of_copy(lost, lix, size, out);
        }
        let Some(file) = self.files.get_mut(ix) else { return };
        let cut_back = lost.as_ref().is_some_and(|lost| lost.cut_back);
        if let Some(lost) = lost {
            if lost.handed != file.handed {
                (file.handed, file.marker) = (lost.handed, lost.marker);
            }
            file.opened = lost.opened;
        }
        let log = file.log;
        let cut = cut && !file.opened && file.handed == self.end_of(id);
        if (cut || cut_back) && !finished {
            self.happened(log, Happening::Adopted, out);
            let end = self.end_of(id);
            // the state does not learn where it lives: a later run has to see the cut again
            return self.begin_cut_back(ix, end, false, out);
        }
        self.changes.push(Change::Adopted { origin: id, kernel, encoding, path });
        let Some(file) = self.files.get_mut(ix) else { return };
        if finished && file.size == file.handed {
            file.phase = Phase::Ended;
        } else {
            file.phase = Phase::Following;
            if finished {
                self.happened_resumed(ix);
            }
            self.activate(ix);
        }
        self.happened(log, Happening::Adopted, out);
    }

    /// Files that are copies of this origin may be what it needs by now.
    pub(super) fn examine_copies_of(&mut self, id: OriginId) {
        for ix in self.files.indexes() {
            let Some(file) = self.files.get_mut(ix) else { continue };
            let Some(extra) = &file.extra else { continue };
            if file.phase == Phase::Copy && extra.copy_of == id {
                file.phase = Phase::Fresh;
                self.fresh.push_back(ix);
            } else if extra.twin_end.is_some() {
                self.free_copy(ix); // of which of them it is a copy is not known
            }
        }
    }
}
