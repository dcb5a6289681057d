//! What the tailer shows of itself, for metrics and watermarks.

use std::fs::File;

use super::follow::Phase;
use super::tailer::Tailer;
use crate::ledger::OriginId;

impl Tailer {
    /// Whether everything of a source that is on disk has been handed out, but for a last line
    /// that has no newline yet.
    #[must_use]
    pub fn caught_up(&self, source: &str) -> bool {
        !self.files.iter().any(|(_, file)| {
            let busy = match file.phase {
                Phase::Fresh
                | Phase::Examining
                | Phase::Adopting
                | Phase::Birth
                | Phase::Announcing => file.size > 0,
                Phase::Waiting | Phase::CutBack => true,
                Phase::Following => file.has_more(),
                Phase::Copy | Phase::Ended | Phase::Retired => false,
            };
            busy && self.logs.get(file.log).is_some_and(|log| self.source_name(log) == source)
        })
    }

    /// Origins of which more was handed out than is committed: source, origin, end.
    #[must_use]
    pub fn unsettled(&self) -> Vec<(String, OriginId, u64)> {
        let unsettled = self.files.iter().filter(|(_, file)| {
            let committed = self.origins.get(&file.origin).map_or(0, |origin| origin.end);
            file.opened && file.handed > committed
        });
        unsettled
            .filter_map(|(_, file)| {
                let log = self.logs.get(file.log)?;
                Some((self.source_name(log).to_owned(), file.origin, file.handed))
            })
            .collect()
    }

    /// Deleted files that are not stored whole: their origins, and the files.
    pub fn deleted(&self) -> impl Iterator<Item = (OriginId, &File)> {
        let read = self.unlinked.iter().map(|(origin, file)| (*origin, file));
        let reading = self.files.iter().filter_map(|(_, file)| {
            let reader = file.reader.as_ref().filter(|_| file.links == 0 && file.origin != 0)?;
            Some((file.origin, reader.file()))
        });
        reading.chain(read)
    }

    /// Whether all of an origin is committed, and no more will come of it.
    #[must_use]
    pub fn is_done(&self, origin: OriginId) -> bool {
        self.origins.get(&origin).is_none_or(|origin| origin.finished)
    }

    /// Files of a source that cannot be read, each with what was said of it; a few at most.
    #[must_use]
    pub fn waiting_files(&self, source: &str) -> Vec<String> {
        const SHOWN_MAX: usize = 5;
        self.waiting
            .iter()
            .filter_map(|ix| self.files.get(*ix))
            .filter_map(|file| {
                let log = self.logs.get(file.log)?;
                let path = file.path.as_deref().unwrap_or(&log.path);
                (self.source_name(log) == source)
                    .then(|| format!("{} cannot be read yet; the log says why", path.display()))
            })
            .take(SHOWN_MAX)
            .collect()
    }
}
