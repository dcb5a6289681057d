//! What the tailer remembers across runs, as the one trait that it asks: `state.db` implements
//! it, tests and simulations keep it in memory.
//!
//! Every call that changes something is durable (fsynced) when it answers `Ok`, and is one
//! transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ledger::{
    Carried, Context, Encoding, KernelIdentity, LossReceipt, Marker, OriginId, OriginRecord,
};

/// Why the state could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TailStateError {
    /// It cannot be read or written for now; what was asked did not happen.
    #[error("the state cannot be used for now: {detail}")]
    Unavailable {
        /// What it said, and what to do.
        detail: String,
    },
}

/// One origin, as far as every start must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownOrigin {
    /// Its record; kernel identity and encoding are those of the last [`Change::Adopted`].
    pub record: OriginRecord,
    /// Where its file was seen last.
    pub path: PathBuf,
    /// Modification time of its file when the origin was born, in nanoseconds since 1970
    /// (`born_ms` in a state that was rebuilt from the store).
    pub mtime_ns: i64,
    /// End of its last span; its first offset while it has none.
    pub end: u64,
    /// Marker at `end`.
    pub marker: u64,
    /// Nothing at or after this offset has been handed to a worker.
    pub reach: u64,
    /// The marker at `reach`, where that is known.
    pub reach_marker: Option<u64>,
    /// Its file was rotated away and stored whole.
    pub finished: bool,
    /// Its source is not configured any more.
    pub retired: bool,
}

/// The rest of what is known of one origin, asked when it moves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// All its contexts, by offset.
    pub contexts: Vec<Context>,
    /// Older markers of its last span, newest first.
    pub markers: Vec<Marker>,
    /// Running time at the end of its last span.
    pub running_ms: Option<i64>,
    /// Records with lines on both sides of `end`, from its last span.
    pub carried: Vec<Carried>,
    /// Checksums of all its spans, by offset: they touch, from the first offset to `end`.
    pub sums: Vec<Sum>,
}

/// The checksum of one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// First byte.
    pub start_bytes: u64,
    /// One past the last byte.
    pub end_bytes: u64,
    /// CRC-64/XZ of the bytes.
    pub crc: u64,
}

/// An origin to be born.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOrigin {
    /// Its record. `end` and `reach` begin at its first offset.
    pub record: OriginRecord,
    /// Where its file is.
    pub path: PathBuf,
    /// Modification time of its file, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Marker at its first offset.
    pub marker: u64,
    /// Its first context.
    pub context: Context,
}

/// Something learnt about an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its file has another name.
    Moved {
        /// Which.
        origin: OriginId,
        /// The name.
        path: PathBuf,
    },
    /// It lives in another file: the same bytes, copied, compressed or restored.
    Adopted {
        /// Which.
        origin: OriginId,
        /// The other file's identity.
        kernel: KernelIdentity,
        /// How the bytes stand in it.
        encoding: Encoding,
        /// Its name.
        path: PathBuf,
    },
    /// See [`KnownOrigin::finished`].
    Finished {
        /// Which.
        origin: OriginId,
        /// Whether it is; an origin resumes when its file grows after all.
        finished: bool,
    },
    /// See [`KnownOrigin::retired`].
    Retired {
        /// Which.
        origin: OriginId,
        /// Whether it is; an origin resumes when its source returns.
        retired: bool,
    },
    /// Retention has ended it, and its file is gone: nothing of it is kept.
    Forgotten {
        /// Which.
        origin: OriginId,
    },
    /// Bytes of it are lost: a receipt for the store.
    Lost(Box<LossReceipt>),
}

/// The state, as the tailer sees it. Positions (`end`, `marker`, markers, running time, sums) are
/// written by the tracker; the tailer only reads them.
pub trait TailState: Send + Sync {
    /// All known origins of this machine, and those of the machine it was cloned from (their
    /// record names another machine).
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    fn origins(&self) -> Result<Vec<KnownOrigin>, TailStateError>;

    /// The rest about one origin; empty for one that is not known.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    fn detail(&self, origin: OriginId) -> Result<Detail, TailStateError>;

    /// Origins are born, each with its first context.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    fn add_origins(&self, origins: &[NewOrigin]) -> Result<(), TailStateError>;

    /// Further contexts. One at the same offset of the same origin is replaced.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    fn add_contexts(&self, contexts: &[Context]) -> Result<(), TailStateError>;

    /// Raises reaches, with the markers there; a reach never goes back.
    ///
    /// # Errors
    ///
    /// Nothing was written: nothing beyond the old reach may be handed out.
    fn raise_reaches(&self, reaches: &[(OriginId, u64, Option<u64>)])
    -> Result<(), TailStateError>;

    /// Keeps what was learnt.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    fn update(&self, changes: &[Change]) -> Result<(), TailStateError>;

    /// Whether a source's path or pattern was marked as seen: files that were there then are
    /// those of `start = "end"`.
    ///
    /// # Errors
    ///
    /// The state cannot be read.
    fn is_seen(&self, key: &str) -> Result<bool, TailStateError>;

    /// Marks them as seen, for ever.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    fn mark_seen(&self, keys: &[String]) -> Result<(), TailStateError>;
}

/// A state in memory: it survives a tailer, not a process. For tests and simulations.
#[derive(Debug, Default)]
pub struct MemoryState(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    origins: BTreeMap<OriginId, (KnownOrigin, Detail)>,
    seen: BTreeSet<String>,
    broken: bool,
}

impl MemoryState {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn whole(&self) -> Result<MutexGuard<'_, Kept>, TailStateError> {
        let kept = self.kept();
        if kept.broken {
            return Err(TailStateError::Unavailable { detail: "it was told to refuse".into() });
        }
        Ok(kept)
    }

    /// From now on every call fails (or works again).
    pub fn set_broken(&self, broken: bool) {
        self.kept().broken = broken;
    }

    /// What the tracker does: a span of `origin` ends at `sum.end_bytes`.
    pub fn commit(&self, origin: OriginId, sum: Sum, marker: u64, older: Vec<Marker>) {
        if let Some((known, detail)) = self.kept().origins.get_mut(&origin) {
            known.end = sum.end_bytes;
            known.marker = marker;
            detail.markers = older;
            detail.sums.push(sum);
        }
    }

    /// One origin with its details.
    #[must_use]
    pub fn get(&self, origin: OriginId) -> Option<(KnownOrigin, Detail)> {
        self.kept().origins.get(&origin).cloned()
    }
}

impl TailState for MemoryState {
    fn origins(&self) -> Result<Vec<KnownOrigin>, TailStateError> {
        Ok(self.whole()?.origins.values().map(|(known, _)| known.clone()).collect())
    }

    fn detail(&self, origin: OriginId) -> Result<Detail, TailStateError> {
        Ok(self.whole()?.origins.get(&origin).map(|(_, detail)| detail.clone()).unwrap_or_default())
    }

    fn add_origins(&self, origins: &[NewOrigin]) -> Result<(), TailStateError> {
        let mut kept = self.whole()?;
        for new in origins {
            let known = KnownOrigin {
                record: new.record.clone(),
                path: new.path.clone(),
                mtime_ns: new.mtime_ns,
                end: new.record.first_offset,
                marker: new.marker,
                reach: new.record.first_offset,
                reach_marker: None,
                finished: false,
                retired: false,
            };
            let detail = Detail { contexts: vec![new.context.clone()], ..Detail::default() };
            kept.origins.insert(new.record.id, (known, detail));
        }
        Ok(())
    }

    fn add_contexts(&self, contexts: &[Context]) -> Result<(), TailStateError> {
        let mut kept = self.whole()?;
        for context in contexts {
            if let Some((_, detail)) = kept.origins.get_mut(&context.origin) {
                detail.contexts.retain(|other| other.from_bytes != context.from_bytes);
                detail.contexts.push(context.clone());
                detail.contexts.sort_by_key(|other| other.from_bytes);
            }
        }
        Ok(())
    }

    fn raise_reaches(
        &self,
        reaches: &[(OriginId, u64, Option<u64>)],
    ) -> Result<(), TailStateError> {
        let mut kept = self.whole()?;
        for (origin, to, marker) in reaches {
            if let Some((known, _)) = kept.origins.get_mut(origin).filter(|one| one.0.reach < *to) {
                (known.reach, known.reach_marker) = (*to, *marker);
            }
        }
        Ok(())
    }

    fn update(&self, changes: &[Change]) -> Result<(), TailStateError> {
        let mut kept = self.whole()?;
        for change in changes {
            if let Change::Forgotten { origin } = change {
                kept.origins.remove(origin);
                continue;
            }
            let (Change::Moved { origin, .. }
            | Change::Adopted { origin, .. }
            | Change::Finished { origin, .. }
            | Change::Retired { origin, .. }) = change
            else {
                continue;
            };
            let Some((known, _)) = kept.origins.get_mut(origin) else { continue };
            match change {
                Change::Moved { path, .. } => known.path.clone_from(path),
                Change::Adopted { kernel, encoding, path, .. } => {
                    known.record.kernel = *kernel;
                    known.record.encoding = *encoding;
                    known.path.clone_from(path);
                }
                Change::Finished { finished, .. } => known.finished = *finished,
                Change::Retired { retired, .. } => known.retired = *retired,
                Change::Forgotten { .. } | Change::Lost(_) => {}
            }
        }
        Ok(())
    }

    fn is_seen(&self, key: &str) -> Result<bool, TailStateError> {
        Ok(self.whole()?.seen.contains(key))
    }

    fn mark_seen(&self, keys: &[String]) -> Result<(), TailStateError> {
        self.whole()?.seen.extend(keys.iter().cloned());
        Ok(())
    }
}
