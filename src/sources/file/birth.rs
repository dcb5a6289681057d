//! New origins, and the end of those whose bytes cannot be had any more.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::examine::{Examination, HEAD_BYTES_MAX, head_hash};
use super::follow::{FileIx, LogIx, Lost, Origin, Phase};
use super::identity;
use super::marker;
use super::reader;
use super::state::{Change, KnownOrigin, NewOrigin};
use super::tailer::Tailer;
use super::{FileEvent, Happening, REACH_BYTES_MAX};
use crate::config::Start;
use crate::ledger::{Cause, Encoding, LossReceipt, OriginId, OriginRecord};

/// Origins that one step makes, in one transaction.
const BIRTHS_MAX: usize = 256;

/// How far back from its end a file is searched for the start of its last line.
const LAST_LINE_BYTES_MAX: u64 = 16 << 20;

/// How long a file may be away without another in its place, after a start: its file system may
/// not be mounted yet.
const AWAY_MS: u64 = 60_000;

impl Tailer {
    /// Makes origins for new files; says whether there are more that could be made.
    pub(super) fn give_birth(&mut self, out: &mut Vec<FileEvent>) -> bool {
        let mut waiting = std::mem::take(&mut self.births);
        waiting.retain(|&ix| self.files.get(ix).is_some_and(|file| file.phase == Phase::Birth));
        waiting.sort_by_key(|&ix| self.files.get(ix).map(|file| (file.mtime_ns, ix)));
        waiting.dedup();
        let mut decided: HashMap<LogIx, u32> = HashMap::new();
        for file in waiting.iter().filter_map(|&ix| self.files.get(ix)) {
            *decided.entry(file.log).or_default() += u32::from(file.pending);
        }
        let mut batch: Vec<(FileIx, NewOrigin)> = Vec::new();
        let mut later = Vec::new();
        for ix in waiting {
            if batch.len() >= BIRTHS_MAX || !self.may_be_born(ix, &decided) {
                later.push(ix);
                continue;
            }
            match self.new_origin(ix, out) {
                Ok(Some(new)) => batch.push((ix, new)),
                Ok(None) => {}
                Err(error) => {
                    let path = self.path_of(ix);
                    self.refused(ix, &path, &error, out);
                }
            }
        }
        self.births.extend(later);
        if batch.is_empty() {
            return false;
        }
        let origins: Vec<NewOrigin> = batch.iter().map(|(_, new)| new.clone()).collect();
        if let Err(error) = self.state.add_origins(&origins) {
            self.state_failed(&error, out);
            self.births.extend(batch.iter().map(|(ix, _)| *ix));
            return false;
        }
        self.state_works();
        for (ix, new) in batch {
            self.born(ix, &new, out);
        }
        true
    }

    /// An origin's birth makes all that is older uninteresting to a later run. So the unseen
    /// siblings of a log are born together, when it is known of all of them what they are, and
    /// its current file after them.
    fn may_be_born(&self, ix: FileIx, decided: &HashMap<LogIx, u32>) -> bool {
        let Some(file) = self.files.get(ix) else { return false };
        let pending = self.logs.get(file.log).map_or(0, |log| log.pending);
        pending == 0 || file.pending && decided.get(&file.log) == Some(&pending)
    }

    fn new_origin(
        &mut self,
        ix: FileIx,
        out: &mut Vec<FileEvent>,
    ) -> io::Result<Option<NewOrigin>> {
        let path = self.path_of(ix);
        let Some(known) = self.files.get(ix) else { return Ok(None) };
        let Some(log) = self.logs.get(known.log) else { return Ok(None) };
        let Some(rules) = log.source.and_then(|source| self.sources.get(source)) else {
            self.forget(ix);
            return Ok(None);
        };
        let rules = Arc::clone(&rules.rules);
        let log_path = Arc::clone(&log.path);
        let file = (self.config.open)(&path)?;
        let look = identity::look_open(&file)?;
        if look.key() != known.key {
            self.hinted = true;
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        if self.is_replaced(ix) {
            self.is_other_by_now(ix, out);
            return Ok(None);
        }
        let Some(known) = self.files.get(ix) else { return Ok(None) };
        let (current, lix) = (known.current, known.log);
        if current && self.frees_copies(lix, &file)? {
            self.births.push(ix);
            return Ok(None);
        }
        let Some(known) = self.files.get(ix) else { return Ok(None) };
        let to_end = rules.start == Start::End && known.first_sight;
        let first = known.extra.as_ref().and_then(|extra| extra.first);
        let examination = known.extra.as_ref().and_then(|extra| extra.examination.as_ref());
        let (head, first_offset, marker) = match examination {
            Some(one) if known.encoding != Encoding::Plain => compressed_start(one, to_end),
            None if known.encoding != Encoding::Plain => {
                let marker = known.extra.as_ref().map_or(0, |extra| extra.first_marker);
                (reader::head(&path, known.encoding)?, first.unwrap_or(0), marker)
            }
            _ => plain_start(&file, look.size, to_end, first)?,
        };
        // until its first line is whole there is nothing to read, and little to know it by
        let early = head.len() < HEAD_BYTES_MAX && !head.contains(&b'\n');
        let early = early && known.encoding == Encoding::Plain && first.is_none();
        if head.is_empty() || early && known.current {
            if let Some(known) = self.files.get_mut(ix) {
                known.phase = Phase::Fresh;
            }
            return Ok(None);
        }
        if early && self.now.mono_ms.saturating_sub(known.moved_ms) < rules.rotate_wait_ms {
            self.births.push(ix); // its writer may end the line
            return Ok(None);
        }
        let id = (self.config.ids)();
        let record = OriginRecord {
            id,
            machine: self.config.machine.clone(),
            host: self.config.host.clone(),
            path: log_path.to_path_buf(),
            kernel: look.kernel(identity::generation(&file)),
            head_hash: head_hash(&head),
            head_bytes: head.len() as u64,
            first_offset,
            born_ms: self.now.wall_ms,
            encoding: known.encoding,
        };
        let context = rules.context(id, first_offset, self.now.wall_ms);
        self.saw(ix, &look); // it may be shorter than at the last look
        // what was rotated away since the last listing is younger, even if it is older than this
        let mtime_ns = look.mtime_ns.min(self.listed_ns);
        Ok(Some(NewOrigin { record, path, mtime_ns, marker, context }))
    }

    /// The file does not hold what its new origin was to begin with.
    fn is_other_by_now(&mut self, ix: FileIx, out: &mut Vec<FileEvent>) {
        let Some(file) = self.files.get_mut(ix) else { return };
        if file.origin != 0 {
            return self.truncated(ix, out);
        }
        (file.phase, file.extra) = (Phase::Fresh, None);
        self.fresh.push_back(ix);
    }

    fn born(&mut self, ix: FileIx, new: &NewOrigin, out: &mut Vec<FileEvent>) {
        let id = new.record.id;
        let first = new.record.first_offset;
        let known = KnownOrigin {
            record: new.record.clone(),
            path: new.path.clone(),
            mtime_ns: new.mtime_ns,
            end: first,
            marker: new.marker,
            reach: first,
            reach_marker: None,
            finished: false,
            retired: false,
        };
        let mut origin = Origin::known(&known, &mut self.interned);
        origin.file = Some(ix);
        self.add_origin(id, origin);
        let Some(file) = self.files.get_mut(ix) else { return };
        let before = std::mem::replace(&mut file.origin, id);
        file.handed = first;
        file.marker = new.marker;
        file.phase = Phase::Announcing;
        file.opened = false;
        file.mid_line = false;
        file.tried = u64::MAX;
        file.extra = None;
        (file.sure, file.verify) = (first, true);
        let lix = file.log;
        if let Some(log) = self.logs.get_mut(lix) {
            log.threshold_ns = Some(log.threshold_ns.unwrap_or(i64::MIN).max(new.mtime_ns));
        }
        self.set_pending(ix, false);
        if before != 0 {
            self.close_cut_back(before, ix, first, out);
        }
        self.happened(lix, Happening::Born, out);
        if self.older_untold(ix).is_some() {
            // its turn comes when it is to be read
            if let Some(file) = self.files.get_mut(ix) {
                file.phase = Phase::Following;
            }
            return self.activate(ix);
        }
        let contexts = vec![new.context.clone()];
        out.push(FileEvent::Announce { record: new.record.clone(), contexts });
    }

    /// The origin of a file that was cut back ends; its rest may be in a copy.
    fn close_cut_back(&mut self, id: OriginId, ix: FileIx, first: u64, out: &mut Vec<FileEvent>) {
        let Some(file) = self.files.get(ix) else { return };
        let lix = file.log;
        let Some(origin) = self.origins.get_mut(&id) else { return };
        origin.file = None;
        origin.detached = true;
        let (handed, marker) = (origin.end, origin.marker);
        // with a marker there, bytes up to the reach were on disk
        let known = origin.reach_marker.is_some() || origin.end > first;
        let to = known.then(|| origin.reach_marker.map_or(handed, |_| origin.reach.max(handed)));
        let detail = format!(
            "the file was cut back, by a power cut or a restored disk; rows from byte {first} on \
             may be stored that it does not have any more; nothing needs to be done"
        );
        self.receipt(id, lix, (first, to), Cause::CutBack, detail, out);
        self.lost.push(Lost {
            said: true,
            truncated: true,
            ..Lost::new(id, lix, (handed, marker), self.now.mono_ms)
        });
        self.force_dirs(lix);
        self.examine_copies_of(id);
    }

    /// What a start or a reload has left open: origins without a file, first sights, losses.
    pub(super) fn account(&mut self, out: &mut Vec<FileEvent>) {
        if !self.fresh.is_empty() || !self.examining.is_empty() {
            return;
        }
        if self.unaccounted {
            self.unaccounted = false;
            self.account_for_origins();
        }
        if self.births.is_empty() {
            self.mark_seen(out);
        }
        let mut lost = std::mem::take(&mut self.lost);
        lost.retain(|one| {
            let settled = self.is_hopeless(one);
            if settled {
                self.settle(one, out);
            }
            !settled
        });
        self.lost.append(&mut lost);
    }

    fn account_for_origins(&mut self) {
        let mut missing = Vec::new();
        for (&id, origin) in &mut self.origins {
            let ended = origin.finished || self.ending.contains_key(&id);
            if origin.file.is_some() || ended || origin.detached {
                continue;
            }
            let log = self.log_of.get(&origin.path).copied();
            match log.filter(|&lix| self.logs.get(lix).is_some_and(|log| log.source.is_some())) {
                Some(lix) => missing.push(Lost {
                    size: origin.reach,
                    unwatched: true,
                    ..Lost::new(id, lix, (origin.end, origin.marker), self.now.mono_ms)
                }),
                None if !origin.retired => {
                    origin.retired = true;
                    self.changes.push(Change::Retired { origin: id, retired: true });
                }
                None => {}
            }
        }
        missing.retain(|lost| !self.lost.iter().any(|known| known.origin == lost.origin));
        for lost in missing {
            self.force_dirs(lost.log);
            self.hinted = true;
            self.examine_copies_of(lost.origin);
            self.lost.push(lost);
        }
    }

    fn mark_seen(&mut self, out: &mut Vec<FileEvent>) {
        if self.sources.iter().all(|source| !source.seen.contains(&false)) {
            return;
        }
        let keys: Vec<String> = self
            .sources
            .iter()
            .flat_map(|source| {
                let unseen = source.seen.iter().enumerate().filter(|(_, seen)| !**seen);
                unseen.map(|(wanted, _)| source.seen_key(wanted))
            })
            .collect();
        if let Err(error) = self.state.mark_seen(&keys) {
            self.state_failed(&error, out);
            return;
        }
        for source in &mut self.sources {
            source.seen.fill(true);
        }
        for lix in self.logs.indexes() {
            let Some(log) = self.logs.get_mut(lix) else { continue };
            log.first_sight = false;
            // what is written into an empty file from here on is not "there already"
            let current = log.current;
            if let Some(file) = current.and_then(|ix| self.files.get_mut(ix))
                && file.phase == Phase::Fresh
            {
                file.first_sight = false;
            }
        }
    }

    /// Whether there is no file left in which the rest of a lost origin could be.
    fn is_hopeless(&self, lost: &Lost) -> bool {
        let Some(log) = self.logs.get(lost.log) else { return true };
        if !lost.listed || log.pending > 0 {
            return false;
        }
        if lost.truncated {
            return true;
        }
        let source = log.source.and_then(|source| self.sources.get(source));
        let wait = source.map_or(0, |source| source.rules.rotate_wait_ms);
        let replaced = log.current.is_some();
        let wait = if lost.unwatched && !replaced { AWAY_MS.max(wait) } else { wait };
        let there = log.path.parent().is_some_and(Path::is_dir);
        there && self.now.mono_ms.saturating_sub(lost.since_ms) >= wait
    }

    /// What was written between `copytruncate`'s copy and its truncate is in no file.
    pub(super) fn gap_of_copy(
        &mut self,
        lost: &Lost,
        log: LogIx,
        size: u64,
        out: &mut Vec<FileEvent>,
    ) {
        // a state that was rebuilt does not know how far the origin was read
        let guess = self
            .origins
            .get(&lost.origin)
            .is_none_or(|origin| lost.unwatched && origin.reach >= origin.end + REACH_BYTES_MAX);
        // what was handed out before the truncate is on its way to the store
        let from = size.max(lost.handed);
        if guess || lost.size <= from {
            return;
        }
        let detail = "the file was truncated after it was copied, and what was written between \
                      the two is in neither; rotate without copytruncate to lose nothing"
            .to_owned();
        self.receipt(lost.origin, log, (from, Some(lost.size)), Cause::Truncated, detail, out);
    }

    /// Ends an origin whose rest cannot be had, with a receipt for what is known to be lost.
    /// What may be lost is said too: a receipt claims only what was surely there.
    fn settle(&mut self, lost: &Lost, out: &mut Vec<FileEvent>) {
        let id = lost.origin;
        let (from, known) = (lost.handed, lost.size > lost.handed && !lost.said);
        let what = if lost.truncated { "truncated" } else { "deleted" };
        if known {
            let cause = if lost.truncated { Cause::Truncated } else { Cause::Deleted };
            let end = (!lost.unwatched).then_some(lost.size);
            let detail = format!(
                "the file was {what} before everything after byte {from} was read, and no copy \
                 of it was found; more than is known of may have been written; look for a copy \
                 and use `bitacora import`"
            );
            self.receipt(id, lost.log, (from, end), cause, detail, out);
        } else if !lost.said && (lost.truncated || lost.maybe) {
            let detail = format!(
                "the file was {what} while nobody looked, and no copy of it was found; whether \
                 something was written after byte {from} cannot be known"
            );
            self.receipt(id, lost.log, (from, None), Cause::Unknown, detail, out);
        }
        if lost.opened {
            Self::say_finished(id, out);
        }
        if !lost.truncated {
            self.happened(lost.log, Happening::Deleted, out);
        }
        self.end_origin(id, lost.handed, lost.marker);
    }

    /// The origin is finished, as soon as all of it is committed.
    pub(super) fn end_origin(&mut self, id: OriginId, handed: u64, marker: u64) {
        let Some(origin) = self.origins.get_mut(&id) else { return };
        if origin.finished {
            return;
        }
        if origin.end >= handed {
            origin.finished = true;
            self.unlinked.remove(&id);
            self.changes.push(Change::Finished { origin: id, finished: true });
        } else {
            self.ending.insert(id, (handed, marker));
        }
    }

    /// The receipt is in the state's outbox together with what follows from the loss.
    pub(super) fn receipt(
        &mut self,
        origin: OriginId,
        log: LogIx,
        (start_bytes, end_bytes): (u64, Option<u64>),
        cause: Cause,
        detail: String,
        out: &mut Vec<FileEvent>,
    ) {
        let Some(log) = self.logs.get(log) else { return };
        let receipt = LossReceipt {
            origin,
            start_bytes,
            end_bytes,
            cause,
            source: self.source_name(log).to_owned(),
            host: self.config.host.clone(),
            path: log.path.to_path_buf(),
            noticed_ms: self.now.wall_ms,
            detail,
        };
        self.changes.push(Change::Lost(Box::new(receipt.clone())));
        out.push(FileEvent::Receipt(receipt));
    }
}

/// Head, first offset and its marker.
type Beginning = (Vec<u8>, u64, u64);

fn compressed_start(examination: &Examination, to_end: bool) -> Beginning {
    let head = examination.head().to_vec();
    if to_end {
        (head, examination.offset(), marker::marker(examination.tail()))
    } else {
        (head, 0, marker::marker(b""))
    }
}

fn plain_start(file: &File, size: u64, to_end: bool, first: Option<u64>) -> io::Result<Beginning> {
    let mut head = vec![0; HEAD_BYTES_MAX];
    let read = marker::read_fully_at(file, &mut head, 0)?;
    head.truncate(read);
    let first = match first {
        Some(first) => first.min(size),
        None if to_end => last_line_start(file, size)?,
        None => 0,
    };
    let marker = marker::marker(&marker::bytes_before(file, first)?);
    Ok((head, first, marker))
}

/// Where the last line, that has no newline, begins; the end of the file if there is none.
fn last_line_start(file: &File, size: u64) -> io::Result<u64> {
    let mut end = size;
    let mut block = vec![0; 64 << 10];
    while end > 0 && size - end < LAST_LINE_BYTES_MAX {
        let from = end.saturating_sub(block.len() as u64);
        let length = usize::try_from(end - from).unwrap_or(0);
        let Some(part) = block.get_mut(..length) else { break };
        let read = marker::read_fully_at(file, part, from)?;
        if let Some(newline) = part.get(..read).and_then(|part| memchr::memrchr(b'\n', part)) {
            return Ok(from + newline as u64 + 1);
        }
        end = from;
    }
    Ok(end)
}
