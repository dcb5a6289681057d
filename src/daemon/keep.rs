//! Deleted files that are not stored whole yet: systemd keeps them open while the daemon restarts.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use super::systemd;
use crate::ledger::OriginId;
use crate::sources::file::Tailer;

/// What systemd keeps, with our own descriptor of what it handed over at the start.
#[derive(Debug, Default)]
pub struct Keep(BTreeMap<OriginId, Option<File>>);

impl Keep {
    /// With what was handed over.
    pub fn new(handed: Vec<(OriginId, File)>) -> Self {
        Self(handed.into_iter().map(|(origin, file)| (origin, Some(file))).collect())
    }

    /// The files that were handed over, by paths that lead to them.
    pub fn paths(&self) -> Vec<(OriginId, PathBuf)> {
        let path = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        self.0.iter().filter_map(|(origin, file)| Some((*origin, path(file.as_ref()?)))).collect()
    }

    /// Gives systemd what is deleted by now, and takes back what is stored.
    pub fn look(&mut self, tailer: &Tailer) {
        for (origin, file) in tailer.deleted() {
            self.0.entry(origin).or_insert_with(|| {
                systemd::keep(origin, file);
                None
            });
        }
        self.0.retain(|&origin, _| {
            let done = tailer.is_done(origin);
            if done {
                systemd::release(origin);
            }
            !done
        });
    }
}
