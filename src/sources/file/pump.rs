//! Reading: reaches, contexts, chunks in turn, the end of a rotated file.

use std::io;

use super::follow::{FileIx, Followed, Phase, SIZE_UNKNOWN};
use super::identity;
use super::marker::{self, MARKER_BYTES};
use super::reader::{Ask, Got, Reader};
use super::state::TailStateError;
use super::tailer::{Tailer, unreadable};
use super::{FileEvent, REACH_BYTES_MAX};
use crate::ledger::Encoding;
use crate::sources::{CHUNK_BYTES_MAX, Chunk, Input, Opening};

/// Chunks that one file may give in its turn, so that a loud file does not starve a quiet one.
const QUANTUM: usize = 4;

/// A reach is raised when less than this is left of it, so that a loud file costs few commits.
const REACH_BYTES_LOW: u64 = 4 << 20;

/// What came of one turn of a file.
#[derive(Debug, Default, Clone, Copy)]
struct Turn {
    chunks: usize,
    /// It may have more at once, also without chunks: a compressed file is skipped through.
    more: bool,
}

impl Tailer {
    /// Looks at every active file.
    pub(super) fn poll(&mut self, out: &mut Vec<FileEvent>) {
        for _ in 0..self.active.len() {
            let Some(ix) = self.active.pop_front() else { break };
            if !self.files.get(ix).is_some_and(|file| file.active) {
                continue;
            }
            self.look_open(ix);
            if self.is_truncated(ix) {
                self.truncated(ix, out);
            }
            self.note_cut(ix, out);
            self.ask_cut_back(ix, out);
            self.begin_rest(ix, out);
            let keep = self.files.get(ix).is_some_and(|file| {
                let bound = matches!(
                    file.phase,
                    Phase::Following | Phase::Announcing | Phase::Ended | Phase::CutBack
                );
                let busy = file.has_more() || file.last || file.phase == Phase::CutBack;
                let leaving = self.is_leaving(file) && file.phase == Phase::Following;
                bound && (file.reader.is_some() || busy || leaving)
            });
            if keep {
                self.active.push_back(ix);
            } else if let Some(file) = self.files.get_mut(ix) {
                file.active = false;
            }
        }
    }

    /// Opens the active files that are to be read.
    pub(super) fn open_active(&mut self, out: &mut Vec<FileEvent>) {
        for at in 0..self.active.len() {
            if let Some(&ix) = self.active.get(at) {
                self.reopen(ix, out);
            }
        }
    }

    fn look_open(&mut self, ix: FileIx) {
        let Some(file) = self.files.get(ix) else { return };
        let Some(reader) = &file.reader else { return };
        if let Ok(look) = identity::look_open(reader.file()) {
            if file.encoding == Encoding::Plain && look.size > file.size {
                self.grown_ms = self.now.mono_ms;
            }
            self.saw(ix, &look);
        }
    }

    /// A rotated or unlinked file, that will be finished.
    fn is_leaving(&self, file: &Followed) -> bool {
        !file.current
            || file.links == 0
            || self.logs.get(file.log).is_some_and(|log| log.rotated_name)
    }

    fn reopen(&mut self, ix: FileIx, out: &mut Vec<FileEvent>) {
        let Some(file) = self.files.get_mut(ix) else { return };
        if file.phase == Phase::Ended && file.has_more() {
            // a writer that outlived `rotate_wait`
            file.phase = Phase::Following;
            self.happened_resumed(ix);
        }
        let Some(file) = self.files.get(ix) else { return };
        let later = file.extra.as_ref().is_some_and(|extra| extra.retry_ms > self.now.mono_ms);
        if file.phase != Phase::Following || file.reader.is_some() || later {
            return;
        }
        if self.open >= self.config.open_files_max {
            return;
        }
        let (key, encoding, path) = (file.key, file.encoding, self.path_of(ix));
        let opened = (self.config.open)(&path).and_then(|file| {
            let look = identity::look_open(&file)?;
            if look.key() != key {
                return Err(io::Error::from(io::ErrorKind::NotFound));
            }
            Reader::new(file, encoding)
        });
        match opened {
            Ok(reader) => {
                self.unsay(&path, "open");
                self.open += 1;
                if let Some(file) = self.files.get_mut(ix) {
                    file.reader = Some(Box::new(reader));
                    file.tried = u64::MAX;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.hinted = true,
            Err(error) => self.read_failed(ix, &error, out),
        }
    }

    fn read_failed(&mut self, ix: FileIx, error: &io::Error, out: &mut Vec<FileEvent>) {
        let path = self.path_of(ix);
        self.say_once(&path, "open", unreadable(error), out);
        let now = self.now.mono_ms;
        let Some(file) = self.files.get_mut(ix) else { return };
        self.open -= usize::from(file.reader.take().is_some());
        let extra = file.extra();
        extra.retry_ms = now + (250 << extra.tries.min(7)).min(30_000);
        extra.tries = extra.tries.saturating_add(1);
    }

    /// Reserves what will be read, for all files in one commit.
    pub(super) fn raise_reaches(&mut self, out: &mut Vec<FileEvent>) {
        let (mut raised, mut changed) = (Vec::new(), Vec::new());
        for &ix in &self.active {
            let Some(file) = self.files.get(ix) else { continue };
            if file.phase != Phase::Following || file.reader.is_none() || file.size <= file.handed {
                continue;
            }
            let Some(origin) = self.origins.get(&file.origin).filter(|one| one.announced) else {
                continue;
            };
            let mut reach = file.size.min(origin.end + REACH_BYTES_MAX);
            if file.mid_line {
                // no span can pass the start of a line before its end is known
                reach = reach.max(file.size.min(file.handed + CHUNK_BYTES_MAX as u64));
            }
            let left = origin.reach.saturating_sub(file.handed);
            let stops = file.extra.as_ref().is_some_and(|extra| extra.stop_at.is_some());
            if reach <= origin.reach || left >= REACH_BYTES_LOW || stops {
                continue;
            }
            // by it a file is known that was cut back behind its last span
            let marker = match &file.reader {
                Some(reader) if file.encoding == Encoding::Plain => {
                    let before = marker::bytes_before(reader.file(), reach).unwrap_or_default();
                    let holds = origin.stands_in(reader.file(), file.handed, file.marker);
                    // of other content there is no reach
                    if before.len() as u64 != reach.min(MARKER_BYTES as u64)
                        || !holds.unwrap_or(false)
                    {
                        changed.push(ix);
                        continue;
                    }
                    Some(marker::marker(&before))
                }
                _ => None,
            };
            raised.push((file.origin, reach, marker));
        }
        for ix in changed {
            if let Some(file) = self.files.get_mut(ix) {
                file.verify = true;
            }
        }
        if raised.is_empty() {
            return;
        }
        if let Err(error) = self.state.raise_reaches(&raised) {
            return self.state_failed(&error, out);
        }
        self.state_works();
        for (id, reach, marker) in raised {
            if let Some(origin) = self.origins.get_mut(&id) {
                (origin.reach, origin.reach_marker) = (reach, marker);
            }
        }
    }

    /// Reads from each file in turn; says whether it got somewhere.
    pub(super) fn read_some(&mut self, room: usize, out: &mut Vec<FileEvent>) -> bool {
        let mut left = room;
        let mut more = false;
        for _ in 0..self.active.len() {
            if left == 0 {
                break;
            }
            let Some(ix) = self.active.pop_front() else { break };
            self.active.push_back(ix);
            match self.read_file(ix, left.min(QUANTUM), out) {
                Ok(turn) => {
                    left -= turn.chunks.min(left);
                    more |= turn.more || turn.chunks > 0;
                }
                Err(ReadError::State(error)) => self.state_failed(&error, out),
                Err(ReadError::Io(error)) => self.read_failed(ix, &error, out),
            }
        }
        more
    }

    fn read_file(
        &mut self,
        ix: FileIx,
        quantum: usize,
        out: &mut Vec<FileEvent>,
    ) -> Result<Turn, ReadError> {
        let mut turn = Turn::default();
        if !self.is_readable(ix) || !self.prepare(ix, out)? {
            return Ok(turn);
        }
        while turn.chunks < quantum {
            if !self.turn_context(ix, out)? {
                return Ok(turn);
            }
            let Some((ask, whole)) = self.ask(ix) else { break };
            let mut bytes = self.buffers.take();
            let Some(file) = self.files.get_mut(ix) else { break };
            let Some(reader) = &mut file.reader else { break };
            let mut got = reader.read(ask, &mut bytes);
            if ask.at == 0 && file.encoding == Encoding::Plain {
                // no marker stands before the first byte: the head is it
                let origin = self.origins.get(&file.origin);
                let holds = origin.map(|origin| origin.stands_in(reader.file(), 0, 0));
                if !holds.unwrap_or(Ok(false))? {
                    got = Ok(Got::Changed);
                }
            }
            if !matches!(got, Ok(Got::Bytes { .. })) {
                self.buffers.give(std::mem::take(&mut bytes));
            }
            match got? {
                Got::Bytes { marker, before } => {
                    turn.chunks += 1;
                    self.hand_out(ix, bytes, marker, before, out);
                }
                Got::Nothing => {
                    file.tried = if whole { file.size } else { u64::MAX };
                    if file.encoding != Encoding::Plain && whole {
                        turn.more |= !file.last;
                        let ended = file.last;
                        file.last = true;
                        file.tried = u64::MAX;
                        if ended {
                            file.size = file.handed;
                        }
                    }
                    break;
                }
                Got::Skipping => {
                    turn.more = true;
                    break;
                }
                Got::Changed if file.encoding == Encoding::Plain => {
                    self.truncated(ix, out);
                    break;
                }
                Got::Changed => {
                    return Err(ReadError::Io(io::Error::other(
                        "its decompressed content is not what was read of it before",
                    )));
                }
            }
        }
        Ok(turn)
    }

    fn is_readable(&self, ix: FileIx) -> bool {
        self.files.get(ix).is_some_and(|file| {
            let ends = file.extra.as_ref().is_some_and(|extra| extra.ends.is_some());
            file.phase == Phase::Following && file.reader.is_some() && (file.has_more() || ends)
        })
    }

    /// What to read next, and whether that goes up to the end of the file as far as it is known.
    fn ask(&self, ix: FileIx) -> Option<(Ask, bool)> {
        let file = self.files.get(ix)?;
        let origin = self.origins.get(&file.origin)?;
        let extra = file.extra.as_ref()?;
        let next = extra.later.front().map_or(u64::MAX, |context| context.from_bytes);
        let next = next.min(extra.stop_at.unwrap_or(u64::MAX));
        let limit = origin.reach.min(next);
        if limit <= file.handed {
            return None;
        }
        let room = limit - file.handed;
        let whole =
            limit >= file.size || file.size == SIZE_UNKNOWN && room >= CHUNK_BYTES_MAX as u64;
        // a cut at a line start that `handed` is itself was taken already
        let last = file.last && whole && file.backlog() <= CHUNK_BYTES_MAX as u64;
        let (marker, cut, bound) = (file.marker, extra.cut, limit == next);
        let ask = Ask { at: file.handed, limit, marker, cut, last, bound };
        Some((ask, whole))
    }

    fn hand_out(
        &mut self,
        ix: FileIx,
        bytes: Vec<u8>,
        marker: u64,
        before: Vec<u8>,
        out: &mut Vec<FileEvent>,
    ) {
        let now = self.now.mono_ms;
        let Some(file) = self.files.get_mut(ix) else { return };
        let (origin, start) = (file.origin, file.handed);
        let Some(extra) = &mut file.extra else { return };
        extra.tries = 0;
        if !file.opened {
            let Some(context) = extra.context.clone() else { return };
            let running_ms = extra.running_ms;
            let opening = Opening {
                origin,
                at: start,
                first_anchor_ms: extra.first_anchor_ms.unwrap_or(context.anchor_ms),
                context,
                before,
                running_ms,
                carried: std::mem::take(&mut extra.carried),
            };
            out.push(FileEvent::Input(Input::Open(opening)));
            file.opened = true;
        }
        assert!(
            self.origins.get(&origin).is_some_and(|one| start + bytes.len() as u64 <= one.reach),
            "bytes beyond the reach were read"
        );
        file.mid_line = bytes.last() != Some(&b'\n');
        file.handed = start + bytes.len() as u64;
        file.marker = marker;
        if !file.mid_line {
            file.moved_ms = now; // the rest of a file that was waited for is no growth
        }
        if file.size != SIZE_UNKNOWN {
            file.size = file.size.max(file.handed);
            file.sure = file.sure.max(file.size);
        }
        self.grown_ms = now;
        out.push(FileEvent::Input(Input::Chunk(Chunk { origin, start, bytes })));
    }

    /// Ends the origins of rotated files that are read to their end and quiet.
    pub(super) fn finish_some(&mut self, out: &mut Vec<FileEvent>) {
        let leaving: Vec<FileIx> = self
            .active
            .iter()
            .copied()
            .filter(|&ix| {
                self.files.get(ix).is_some_and(|file| {
                    let stops = file.extra.as_ref().is_some_and(|extra| extra.stop_at.is_some());
                    let leaves = file.phase == Phase::Following && self.is_leaving(file);
                    leaves && !stops && self.is_quiet(file)
                })
            })
            .collect();
        for ix in leaving {
            let ends = self.ends_records(ix);
            let Some(file) = self.files.get_mut(ix) else { continue };
            if file.handed < file.size || !ends {
                // the last line will get no newline; that it ends here is for good
                file.extra().ends = Some(file.size);
                file.tried = u64::MAX;
                continue;
            }
            file.last = false;
            file.phase = Phase::Ended;
            file.extra = None;
            let reader = file.reader.take();
            self.open -= usize::from(reader.is_some());
            let (id, handed, unlinked) = (file.origin, file.handed, file.links == 0);
            let marker = file.marker;
            if std::mem::take(&mut file.opened) {
                Self::say_finished(id, out);
            }
            if unlinked {
                // without a descriptor more, the file cannot be kept for the next run
                let copy = reader.and_then(|reader| reader.file().try_clone().ok());
                self.unlinked.extend(copy.map(|file| (id, file)));
                self.forget(ix);
            }
            self.end_origin(id, handed, marker);
        }
    }

    /// Whether all records end where the file does in every later reading too, should it grow
    /// after all: a context begins there, or none can be open.
    fn ends_records(&self, ix: FileIx) -> bool {
        let Some(file) = self.files.get(ix) else { return true };
        let grows = file.opened && file.links > 0 && file.encoding == Encoding::Plain;
        let single = self.rules_of(ix).is_none_or(|rules| rules.single_line);
        let newest = file.extra.as_ref().and_then(|extra| {
            let newest = extra.later.back().or(extra.context.as_ref())?;
            Some(newest.from_bytes)
        });
        !grows || single || newest == Some(file.size)
    }

    fn is_quiet(&self, file: &Followed) -> bool {
        if file.last || file.encoding != Encoding::Plain {
            return file.handed == file.size;
        }
        let rules = self.logs.get(file.log).and_then(|log| log.source);
        let wait =
            rules.and_then(|at| self.sources.get(at)).map_or(0, |one| one.rules.rotate_wait_ms);
        file.reader.is_some()
            && !file.has_more()
            && self.now.mono_ms.saturating_sub(file.moved_ms) >= wait
    }

    /// Closes files that are read to their end and quiet, sooner when many are open.
    pub(super) fn close_idle(&mut self) {
        let crowded = self.open > self.config.open_files_max / 2;
        for &ix in &self.active {
            let Some(file) = self.files.get(ix) else { continue };
            let idle = self.now.mono_ms.saturating_sub(file.moved_ms) >= self.config.idle_ms;
            let stops = file.extra.as_ref().is_some_and(|extra| extra.stop_at.is_some());
            let drained = file.phase == Phase::Following && !file.has_more() && !file.last;
            let drained = drained && !stops;
            if file.reader.is_some()
                && drained
                && (idle || crowded)
                && !self.is_leaving(file)
                && let Some(file) = self.files.get_mut(ix)
            {
                file.reader = None;
                file.extra = None;
                self.open -= 1;
                self.resting.push(ix);
            }
        }
    }

    /// Where there are many files, lets the quiet ones go of which all is committed.
    pub(super) fn rest_some(&mut self, out: &mut Vec<FileEvent>) {
        let many = self.files.len() > self.config.kept_files_max;
        for ix in std::mem::take(&mut self.resting) {
            let Some(file) = self.files.get_mut(ix).filter(|file| many && file.opened) else {
                continue;
            };
            let origin = self.origins.get(&file.origin);
            let whole = origin.is_some_and(|origin| origin.saved && origin.end == file.handed);
            let stops = file.extra.as_ref().is_some_and(|extra| extra.stop_at.is_some());
            if whole && !stops && file.reader.is_none() && file.phase == Phase::Following {
                (file.opened, file.extra) = (false, None);
                out.push(FileEvent::Input(Input::Rest { origin: file.origin }));
            }
        }
    }
}

/// Why a file's turn ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    State(#[from] TailStateError),
}
