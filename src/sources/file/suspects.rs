//! Which origins a file may be a copy of.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::bind::BindError;
use super::examine::{HEAD_BYTES_MAX, Suspect, head_hash};
use super::follow::{FileIx, parent};
use super::marker;
use super::reader;
use super::siblings;
use super::tailer::Tailer;
use crate::ledger::{Encoding, OriginId};

/// An origin elsewhere than in the same directory is adopted only if so many bytes agree.
const STRANGE_BYTES_MIN: u64 = 1024;

impl Tailer {
    /// Origins whose content this file may be.
    pub(super) fn suspects(&mut self, ix: FileIx, file: &File) -> Result<Vec<Suspect>, BindError> {
        let Some(known) = self.files.get(ix) else { return Ok(Vec::new()) };
        let mut head = Vec::new();
        if known.encoding == Encoding::Plain {
            head.resize(HEAD_BYTES_MAX, 0);
            let read = marker::read_fully_at(file, &mut head, 0)?;
            head.truncate(read);
        } else {
            let mut stream =
                reader::decoder((self.config.open)(&self.path_of(ix))?, known.encoding)?;
            // an incomplete file gives what it has; the examination tells
            let _ = stream.by_ref().take(HEAD_BYTES_MAX as u64).read_to_end(&mut head);
        }
        let mut ids = BTreeSet::new();
        for &length in self.head_lengths.range(..=head.len() as u64).map(|(length, _)| length) {
            let part = head.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default();
            let hash = head_hash(part);
            let range = (length, hash, OriginId::MIN)..=(length, hash, OriginId::MAX);
            ids.extend(self.by_head.range(range).map(|(_, _, id)| *id));
        }
        if !known.current {
            // a copy in the making may be shorter than the head of what it copies
            let log = known.log;
            ids.extend(
                self.files.iter().filter(|(_, file)| file.log == log).map(|(_, f)| f.origin),
            );
            // what it continues may have been cut back within its head
            let path = self.logs.get(log).map(|log| &log.path);
            let lost = self.origins.iter().filter(|(_, one)| one.file.is_none() && !one.finished);
            ids.extend(lost.filter(|(_, one)| Some(&one.path) == path).map(|(id, _)| *id));
        }
        let mut suspects = self.unborn_twins(ix);
        for id in ids {
            suspects.extend(self.suspect(ix, id)?);
        }
        Ok(suspects)
    }

    /// Files that have no origin yet and of which this may be a copy: by its name (`a.log.1` or
    /// `a.log.bak` of `a.log`), or because it is a sibling that is no longer.
    fn unborn_twins(&self, ix: FileIx) -> Vec<Suspect> {
        let Some(file) = self.files.get(ix) else { return Vec::new() };
        let path = self.path_of(ix);
        let name = path.file_name().unwrap_or_default().as_bytes();
        let ends = name.iter().enumerate().filter(|(at, byte)| *at > 0 && b".-_~".contains(byte));
        let mut logs: Vec<_> = ends
            .filter_map(|(at, _)| name.get(..at))
            .filter_map(|base| self.log_of.get(&*path.with_file_name(OsStr::from_bytes(base))))
            .collect();
        if !file.current {
            logs.push(&file.log);
        }
        let unborn = |other: &FileIx| {
            *other != ix
                && self.files.get(*other).is_some_and(|file| file.origin == 0 && file.raw_size > 0)
        };
        let current = logs.into_iter().filter_map(|&lix| self.logs.get(lix)?.current);
        let mut twins: Vec<FileIx> = current.filter(unborn).take(1).collect();
        if !file.current {
            let longer = self.files.iter().filter(|(other, one)| {
                let plain = one.encoding == Encoding::Plain;
                // of two that are equal, one is the copy
                let longer = (one.raw_size, *other) > (file.raw_size, ix);
                one.log == file.log && plain && longer && unborn(other)
            });
            twins.extend(longer.map(|(other, _)| other));
        }
        let suspect = |twin: FileIx| {
            let twin = Some((self.config.open)(&self.path_of(twin)).ok()?);
            let (sums, markers) = (Vec::new(), Vec::new());
            Some(Suspect { origin: 0, twin, head: (0, 0), sums, markers, reach: None, need: 0 })
        };
        twins.into_iter().filter_map(suspect).collect()
    }

    fn suspect(&self, ix: FileIx, id: OriginId) -> Result<Option<Suspect>, BindError> {
        let (Some(known), Some(origin)) = (self.files.get(ix), self.origins.get(&id)) else {
            return Ok(None);
        };
        if origin.file == Some(ix) || self.strangers.contains(&(known.key, id)) {
            return Ok(None);
        }
        let lost = self.lost.iter().find(|lost| lost.origin == id);
        let path = self.path_of(ix);
        let twin_path = origin.file.map(|other| self.path_of(other));
        let log = self.logs.get(known.log);
        let near = log.is_some_and(|log| log.path == origin.path)
            || parent(twin_path.as_deref().unwrap_or(&origin.path)) == parent(&path);
        let other = origin.file.and_then(|other| self.files.get(other));
        let read = other.map(|other| (other.handed, other.marker));
        let read = read.or(lost.map(|lost| (lost.handed, lost.marker)));
        let read = read.or(self.ending.get(&id).copied());
        let handed = read.map_or(0, |(handed, _)| handed).max(origin.end);
        let strange = origin.file.is_some() || handed - origin.first_offset < STRANGE_BYTES_MIN;
        if !near && strange {
            return Ok(None);
        }
        let open = other.and_then(|other| other.reader.as_ref()?.file().try_clone().ok());
        let open = open.or_else(|| (self.config.open)(&twin_path?).ok());
        let twin =
            open.filter(|twin| origin.encoding == Encoding::Plain && self.is_itself(id, twin));
        let detail = self.state.detail(id)?;
        let mut markers: Vec<(u64, u64)> =
            detail.markers.iter().map(|one| (one.position, one.hash)).collect();
        markers.push((origin.end, origin.marker));
        markers.extend(read);
        markers.retain(|(position, _)| *position > 0);
        let reach = origin.reach_marker.map(|marker| (origin.reach, marker));
        let reach = reach.filter(|(reach, _)| *reach > handed);
        Ok(Some(Suspect {
            origin: id,
            twin,
            reach,
            head: (origin.head_bytes, origin.head_hash),
            sums: detail.sums,
            markers,
            need: handed,
        }))
    }

    /// Whether a file's name is that of its log, or a rotated form of it.
    pub(super) fn has_sibling_name(&self, ix: FileIx) -> bool {
        let path = self.path_of(ix);
        let log = self.files.get(ix).and_then(|file| self.logs.get(file.log));
        let (Some(log), Some(name)) = (log, path.file_name()) else { return false };
        let names = [log.path.file_name(), log.real.as_deref().and_then(Path::file_name)];
        let mut names = names.into_iter().flatten();
        names.any(|base| name == base || siblings::bases(name).iter().any(|one| one == base))
    }

    /// Whether the file of an origin still has what was handed out of it: else it was truncated,
    /// and that was not noticed yet.
    pub(super) fn is_itself(&self, id: OriginId, open: &File) -> bool {
        let Some(origin) = self.origins.get(&id) else { return false };
        let file = origin.file.and_then(|ix| self.files.get(ix));
        file.is_some_and(|file| origin.stands_in(open, file.handed, file.marker).unwrap_or(false))
    }
}
