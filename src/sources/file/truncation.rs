//! Files that hold other content than was read: truncated, or cut back to an earlier end.

use std::fs::File;
use std::io;

use super::bind::BindError;
use super::follow::{FileIx, Lost, Phase};
use super::identity;
use super::tailer::Tailer;
use super::{FileEvent, Happening};
use crate::ledger::Encoding;

impl Tailer {
    /// Whether the file is known to hold other content before `handed` than was read.
    pub(super) fn is_truncated(&mut self, ix: FileIx) -> bool {
        let Some(file) = self.files.get_mut(ix) else { return false };
        let bound = matches!(file.phase, Phase::Following | Phase::Announcing | Phase::Ended);
        if !bound || file.encoding != Encoding::Plain {
            return false;
        }
        let (handed, marker) = (file.handed, file.marker);
        let Some(origin) = self.origins.get(&file.origin) else { return false };
        if file.size < handed || handed == 0 && file.size < origin.head_bytes {
            return true;
        }
        if !std::mem::take(&mut file.verify) {
            return false;
        }
        let Some(file) = self.files.get(ix) else { return false };
        let holds = match &file.reader {
            Some(reader) => origin.stands_in(reader.file(), handed, marker),
            None => self.open_itself(ix).and_then(|file| origin.stands_in(&file, handed, marker)),
        };
        matches!(holds, Ok(false))
    }

    /// Opens a file by its name, if that still leads to it.
    fn open_itself(&self, ix: FileIx) -> io::Result<File> {
        let open = (self.config.open)(&self.path_of(ix))?;
        let look = identity::look_open(&open)?;
        if self.files.get(ix).is_none_or(|file| file.key != look.key()) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(open)
    }

    /// The file holds other content before `handed`: its origin goes on in a copy, or not at all.
    pub(super) fn truncated(&mut self, ix: FileIx, out: &mut Vec<FileEvent>) {
        let Some(file) = self.files.get(ix) else { return };
        let id = file.origin;
        let open = match &file.reader {
            Some(reader) => reader.file().try_clone(),
            None => self.open_itself(ix),
        };
        let open = open.map_err(BindError::from);
        match open.and_then(|file| self.cut_position(id, &file)) {
            Ok(Some(from)) => return self.begin_cut_back(ix, from, out),
            Ok(None) | Err(BindError::Io(_)) => {}
            // asked again in the next step
            Err(BindError::State(error)) => {
                if let Some(file) = self.files.get_mut(ix) {
                    file.verify = true;
                }
                return self.state_failed(&error, out);
            }
        }
        let ended = self.origins.get(&id).is_some_and(|origin| origin.finished)
            || self.ending.contains_key(&id);
        if let Some(origin) = self.origins.get_mut(&id) {
            origin.file = None;
            origin.detached = true;
        }
        let sibling = self.has_sibling_name(ix);
        let Some(file) = self.files.get_mut(ix) else { return };
        let lix = file.log;
        if !ended {
            self.lost.push(Lost {
                origin: id,
                log: lix,
                handed: file.handed,
                marker: file.marker,
                opened: file.opened,
                size: if file.size < file.peak { file.peak } else { file.peak_before },
                since_ms: self.now.mono_ms,
                truncated: true,
                unwatched: false,
                listed: false,
            });
        }
        self.open -= usize::from(file.reader.take().is_some());
        file.origin = 0;
        file.handed = 0;
        file.marker = 0;
        file.opened = false;
        file.mid_line = false;
        file.last = false;
        file.unseen |= sibling;
        file.first_sight = false;
        file.tried = u64::MAX;
        (file.peak, file.peak_before) = (file.size, 0);
        file.extra = None;
        file.phase = Phase::Fresh;
        let unborn = !file.current && file.raw_size > 0;
        self.set_pending(ix, unborn);
        self.fresh.push_back(ix);
        self.force_dirs(lix);
        self.hinted = true;
        self.scanned_ms = None;
        self.examine_copies_of(id);
        self.happened(lix, Happening::Truncated, out);
    }

    /// An older marker holds: once all that was handed out is committed, the daemon is asked from
    /// where on the store lacks the file's lines.
    pub(super) fn begin_cut_back(&mut self, ix: FileIx, from: u64, out: &mut Vec<FileEvent>) {
        let Some(file) = self.files.get_mut(ix) else { return };
        if std::mem::take(&mut file.opened) {
            Self::say_finished(file.origin, out);
        }
        self.open -= usize::from(file.reader.take().is_some());
        file.phase = Phase::CutBack;
        file.extra = None;
        file.extra().cut_from = from;
        let lix = file.log;
        self.activate(ix);
        self.happened(lix, Happening::Truncated, out);
    }

    pub(super) fn ask_cut_back(&mut self, ix: FileIx, out: &mut Vec<FileEvent>) {
        let Some(file) = self.files.get(ix).filter(|file| file.phase == Phase::CutBack) else {
            return;
        };
        let (id, handed) = (file.origin, file.handed);
        let (from, asked) =
            file.extra.as_ref().map_or((0, true), |extra| (extra.cut_from, extra.cut_asked));
        let Some(to) = self.origins.get(&id).map(|origin| origin.end) else { return };
        if asked || to < handed {
            return;
        }
        match self.state.detail(id) {
            Ok(detail) => {
                let path = self.path_of(ix);
                let (contexts, running_ms) = (detail.contexts, detail.running_ms);
                out.push(FileEvent::CutBack { origin: id, path, from, to, contexts, running_ms });
                if let Some(file) = self.files.get_mut(ix) {
                    file.extra().cut_asked = true;
                }
            }
            Err(error) => self.state_failed(&error, out),
        }
    }
}
