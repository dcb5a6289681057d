//! Files that hold other content than was read: truncated, or cut back to an earlier end.

use std::fs::File;
use std::io;

use super::bind::BindError;
use super::examine::{HEAD_BYTES_MAX, head_hash};
use super::follow::{FileIx, Lost, Phase};
use super::identity;
use super::marker;
use super::reader;
use super::tailer::Tailer;
use super::{FileEvent, Happening};
use crate::ledger::{Cause, Encoding, OriginId};

impl Tailer {
    /// Whether the file is known to hold other content before `handed` than was read.
    pub(super) fn is_truncated(&mut self, ix: FileIx) -> bool {
        let Some(file) = self.files.get_mut(ix) else { return false };
        if file.phase == Phase::CutBack {
            let seen = file.extra.as_ref().and_then(|extra| extra.cut_seen);
            let shorter = seen.is_some_and(|(at, _)| file.size < at);
            return shorter || std::mem::take(&mut file.verify) && self.is_replaced(ix);
        }
        let bound = matches!(file.phase, Phase::Following | Phase::Announcing | Phase::Ended);
        if !bound || file.encoding != Encoding::Plain {
            return false;
        }
        let (handed, marker) = (file.handed, file.marker);
        let Some(origin) = self.origins.get(&file.origin) else { return false };
        if file.size < handed || handed == 0 && file.size < origin.head_bytes {
            return true;
        }
        // within a tick of the clock a write leaves the file's time as it was
        if !std::mem::take(&mut file.verify) && file.size >= file.sure {
            return false;
        }
        let Some(file) = self.files.get(ix) else { return false };
        let holds = match &file.reader {
            Some(reader) => origin.stands_in(reader.file(), handed, marker),
            None => self.open_itself(ix).and_then(|file| origin.stands_in(&file, handed, marker)),
        };
        if let (Ok(true), Some(file)) = (&holds, self.files.get_mut(ix)) {
            file.sure = file.sure.max(file.size);
        }
        matches!(holds, Ok(false))
    }

    /// Whether a file that was cut back holds other content by now than when that was found.
    pub(super) fn is_replaced(&mut self, ix: FileIx) -> bool {
        let seen = self.files.get(ix).and_then(|file| file.extra.as_ref()?.cut_seen);
        let Some((at, hash)) = seen else { return false };
        let holds = self.open_itself(ix).and_then(|open| marker::holds(&open, at, hash));
        if let (Err(_), Some(file)) = (&holds, self.files.get_mut(ix)) {
            file.verify = true; // its name may lead elsewhere: asked again
        }
        matches!(holds, Ok(false))
    }

    /// A file that is shorter than it was, but not shorter than what was read of it: nothing of
    /// the origin moves, but bytes are gone.
    pub(super) fn note_cut(&mut self, ix: FileIx, out: &mut Vec<FileEvent>) {
        let Some(file) = self.files.get_mut(ix) else { return };
        let bound = matches!(file.phase, Phase::Following | Phase::Announcing);
        if !bound || file.encoding != Encoding::Plain || file.size >= file.sure {
            return;
        }
        let sure = std::mem::replace(&mut file.sure, file.size);
        let (id, log, from) = (file.origin, file.log, file.size);
        let detail = format!(
            "the file was cut to {from} bytes before what stood behind them was read: at least \
             up to byte {sure}"
        );
        self.receipt(id, log, (from, Some(sure)), Cause::Truncated, detail, out);
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
            Ok(Some(from)) => return self.begin_cut_back(ix, from, false, out),
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
            let lost = Lost::of(file, self.now.mono_ms);
            self.lost.push(Lost { maybe: true, truncated: true, ..lost });
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
        file.sure = 0;
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
    /// With `doubtful`, no marker holds, and the store decides whether it was cut back at all.
    pub(super) fn begin_cut_back(
        &mut self,
        ix: FileIx,
        from: u64,
        doubtful: bool,
        out: &mut Vec<FileEvent>,
    ) {
        let Some(file) = self.files.get_mut(ix) else { return };
        if std::mem::take(&mut file.opened) {
            Self::say_finished(file.origin, out);
        }
        self.open -= usize::from(file.reader.take().is_some());
        file.phase = Phase::CutBack;
        file.extra = None;
        let (lix, size, plain) = (file.log, file.size, file.encoding == Encoding::Plain);
        let seen = plain.then(|| self.open_itself(ix).ok()).flatten();
        let seen = seen.and_then(|open| marker::bytes_before(&open, size).ok());
        let Some(file) = self.files.get_mut(ix) else { return };
        let extra = file.extra();
        (extra.cut_from, extra.doubtful) = (from, doubtful);
        extra.cut_seen = seen.map(|bytes| (size, marker::marker(&bytes)));
        self.activate(ix);
        if !doubtful {
            self.happened(lix, Happening::Truncated, out);
        }
    }

    pub(super) fn ask_cut_back(&mut self, ix: FileIx, out: &mut Vec<FileEvent>) {
        let Some(file) = self.files.get(ix).filter(|file| file.phase == Phase::CutBack) else {
            return;
        };
        let (id, handed) = (file.origin, file.handed);
        let (from, asked) =
            file.extra.as_ref().map_or((0, true), |extra| (extra.cut_from, extra.cut_asked));
        let encoding = file.encoding;
        let Some(origin) = self.origins.get(&id) else { return };
        let (end, to) = (origin.end, origin.end.max(origin.reach));
        if asked || end < handed {
            return;
        }
        // its name may lead elsewhere soon; what cannot be opened now is asked for again
        let Ok(open) = self.open_itself(ix) else { return };
        match self.state.detail(id) {
            Ok(detail) => {
                let path = self.path_of(ix);
                let (origin, file, contexts) = (id, open, detail.contexts);
                let asks =
                    FileEvent::CutBack { origin, path, file, encoding, from, end, to, contexts };
                out.push(asks);
                *self.cut_asks.entry(id).or_default() += 1;
                if let Some(file) = self.files.get_mut(ix) {
                    file.extra().cut_asked = true;
                }
            }
            Err(error) => self.state_failed(&error, out),
        }
    }

    /// Answers [`FileEvent::CutBack`]: what is not the origin's begins here.
    pub fn cut_back(&mut self, id: OriginId, first: u64) {
        if let Some(asks) = self.cut_asks.get_mut(&id) {
            *asks -= 1;
            if *asks > 0 {
                return; // the file was cut or replaced since: the answer to that comes later
            }
            self.cut_asks.remove(&id);
        }
        let Some(origin) = self.origins.get(&id) else { return };
        let (end, nothing, ix) = (origin.end, origin.first_offset, origin.file);
        let Some(ix) = ix else { return };
        let replaced = self.is_replaced(ix);
        let Some(file) = self.files.get_mut(ix).filter(|file| file.phase == Phase::CutBack) else {
            return;
        };
        if replaced {
            (file.verify, file.extra().cut_asked) = (true, false);
            return;
        }
        let (doubtful, short, encoding) =
            (file.extra().doubtful, file.extra().short, file.encoding);
        let mut marker = file.marker;
        if short || encoding != Encoding::Plain {
            let looked = self
                .open_itself(ix)
                .and_then(|open| reader::line_end_and_marker(open, encoding, first));
            let Ok((whole, there)) = looked else {
                // asked again when it can be read
                if let Some(file) = self.files.get_mut(ix) {
                    file.extra().cut_asked = false;
                }
                return;
            };
            if short && first >= whole {
                if let Some(origin) = self.origins.get_mut(&id) {
                    origin.file = None;
                }
                if let Some(file) = self.files.get_mut(ix) {
                    (file.origin, file.handed, file.marker) = (0, 0, 0);
                }
                self.unaccounted = true;
                return self.is_copy(ix, id);
            }
            marker = there;
        }
        if doubtful && first <= nothing {
            return self.regrown(ix, id);
        }
        let Some(file) = self.files.get_mut(ix) else { return };
        if first <= end {
            let extra = file.extra();
            (extra.first, extra.first_marker) = (Some(first), marker);
            file.phase = Phase::Birth;
            self.births.push(ix);
            return;
        }
        // rows behind the last span are stored: the origin is read up to them once more
        file.phase = Phase::Following;
        file.extra = None;
        file.extra().stop_at = Some(first);
        (file.tried, file.verify) = (u64::MAX, false);
        if doubtful && end == nothing {
            self.learn_head(ix, id, first);
        }
        self.activate(ix);
    }

    /// The head that an origin was born with is gone in part: what is left of it is known by the
    /// rows that the store has.
    fn learn_head(&mut self, ix: FileIx, id: OriginId, upto: u64) {
        let Ok(open) = self.open_itself(ix) else { return };
        let length = upto.min(HEAD_BYTES_MAX as u64);
        let mut head = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = marker::read_fully_at(&open, &mut head, 0);
        let Some(origin) = self.origins.get_mut(&id).filter(|_| read.is_ok()) else { return };
        (origin.head_bytes, origin.head_hash) = (length, head_hash(&head));
        self.by_head.insert((length, origin.head_hash, id));
        *self.head_lengths.entry(length).or_default() += 1;
    }

    /// The store has nothing of the file: it was truncated and has grown again.
    fn regrown(&mut self, ix: FileIx, id: OriginId) {
        if let Some(origin) = self.origins.get_mut(&id) {
            origin.file = None;
        }
        self.detach_unwatched(ix, id);
        let sibling = self.has_sibling_name(ix);
        let Some(file) = self.files.get_mut(ix) else { return };
        self.strangers.insert((file.key, id));
        file.unseen |= sibling; // its content is younger than what it held before
        (file.origin, file.handed, file.marker, file.sure) = (0, 0, 0, 0);
        file.extra = None;
        file.phase = Phase::Fresh;
        let unborn = !file.current && file.raw_size > 0;
        self.set_pending(ix, unborn);
        self.fresh.push_back(ix);
        self.examine_copies_of(id);
    }

    /// The origin of a file that was cut back ends where its new one begins, once all of it is
    /// committed.
    pub(super) fn begin_rest(&mut self, ix: FileIx, out: &mut Vec<FileEvent>) {
        let Some(file) = self.files.get_mut(ix).filter(|file| file.phase == Phase::Following)
        else {
            return;
        };
        let stop_at = file.extra.as_ref().and_then(|extra| extra.stop_at);
        if stop_at != Some(file.handed) {
            return;
        }
        if std::mem::take(&mut file.opened) {
            Self::say_finished(file.origin, out);
        }
        self.open -= usize::from(file.reader.take().is_some());
        if self.origins.get(&file.origin).is_some_and(|origin| origin.end >= file.handed) {
            let marker = file.marker;
            file.extra = None;
            let plain = file.encoding == Encoding::Plain;
            let seen = plain.then_some((file.handed, marker));
            let extra = file.extra();
            (extra.first, extra.first_marker, extra.cut_seen) = (stop_at, marker, seen);
            file.phase = Phase::Birth;
            self.births.push(ix);
        }
    }
}
