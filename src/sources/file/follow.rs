//! What the tailer holds in memory of each file, log and origin. There may be 20,000 quiet ones:
//! what only an active file needs is boxed, and fetched from the state again when it moves.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::examine::{Examination, head_hash};
use super::identity::{FileKey, Look};
use super::marker;
use super::reader::Reader;
use super::slab::Interned;
use super::state::KnownOrigin;
use crate::config::{FileSource, Start};
use crate::key::Table;
use crate::ledger::{Carried, Context, Encoding, KernelIdentity, OriginId, OriginRecord};

/// Index of a [`Followed`].
pub(super) type FileIx = usize;
/// Index of a [`Log`].
pub(super) type LogIx = usize;

/// Size of a compressed file whose content was not read to its end.
pub(super) const SIZE_UNKNOWN: u64 = u64::MAX - 1; // `tried` is u64::MAX at first

/// Where a file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is not known yet whose content it is.
    Fresh,
    /// Its content is held against what is known.
    Examining,
    /// It continues an origin, if no longer file does.
    Adopting,
    /// A new origin will be made for it.
    Birth,
    /// It cannot be read, or is not whole; until `Extra::retry_ms`.
    Waiting,
    /// It is a copy of an origin and not read.
    Copy,
    /// The store is being told of its origin, or of a context.
    Announcing,
    /// It is read.
    Following,
    /// It was cut back: the daemon is asked what the store has of it.
    CutBack,
    /// It was rotated away and handed out whole.
    Ended,
    /// Its source is not configured any more.
    Retired,
}

impl Phase {
    /// The word in `bitacora status`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Fresh | Self::Examining | Self::Adopting | Self::Birth => "new",
            Self::Waiting => "waiting",
            Self::Copy => "copy",
            Self::Announcing | Self::Following => "followed",
            Self::CutBack => "cut_back",
            Self::Ended => "finished",
            Self::Retired => "retired",
        }
    }
}

/// One file that exists, or is still open.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts, and there are many of these
pub(super) struct Followed {
    pub log: LogIx,
    /// Its name, if that is not the log's.
    pub path: Option<Box<Path>>,
    pub key: FileKey,
    /// Size of its content, as far as that is known.
    pub size: u64,
    /// So long its origin's content surely was: what stood before was checked after this size was
    /// seen.
    pub sure: u64,
    /// Size of the file itself; another one than `size` if it is compressed.
    pub raw_size: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub links: u32,
    pub encoding: Encoding,
    pub phase: Phase,
    /// 0 while it has none.
    pub origin: OriginId,
    /// The end of what was handed out.
    pub handed: u64,
    /// Marker at `handed`.
    pub marker: u64,
    /// The log's path leads to it.
    pub current: bool,
    /// Its birth, or the births of newer files of its log, wait for what it turns out to be.
    pub pending: bool,
    /// It appeared among the siblings after the log was first seen, so it is read if it is new.
    pub unseen: bool,
    /// It was there when its source was first configured.
    pub first_sight: bool,
    /// A worker has its `Open`.
    pub opened: bool,
    /// `handed` is within a line.
    pub mid_line: bool,
    /// It is on the list of files that each step looks at.
    pub active: bool,
    /// It is finished: a last line without newline is taken too.
    pub last: bool,
    /// It was written without growing: the marker is to be checked.
    pub verify: bool,
    /// At this size there was no further line to be had.
    pub tried: u64,
    /// When it last grew, or was rotated.
    pub moved_ms: u64,
    pub reader: Option<Box<Reader>>,
    pub extra: Option<Box<Extra>>,
}

/// What few files need.
#[derive(Debug, Default)]
pub(super) struct Extra {
    pub examination: Option<Examination>,
    /// The context in force at `handed`.
    pub context: Option<Context>,
    /// Contexts from later offsets on.
    pub later: VecDeque<Context>,
    /// A new context begins at the first line start at or after this offset.
    pub cut: Option<u64>,
    /// Line and records end here, because the file was finished here: a context is to begin, so
    /// that they end here in every later reading too.
    pub ends: Option<u64>,
    /// Running time at the origin's committed end.
    pub running_ms: Option<i64>,
    /// Anchor of the origin's first context.
    pub first_anchor_ms: Option<i64>,
    /// Records with lines on both sides of the origin's committed end.
    pub carried: Vec<Carried>,
    pub retry_ms: u64,
    pub tries: u32,
    /// Where its new origin begins, if that is given.
    pub first: Option<u64>,
    /// The marker there, of a compressed file.
    pub first_marker: u64,
    /// Its identity, when it was examined.
    pub kernel: KernelIdentity,
    /// Whose copy it is.
    pub copy_of: OriginId,
    /// It is a copy of its log's file, which has no origin yet: its end, and the marker there.
    pub twin_end: Option<(u64, u64)>,
    /// Where a file that was cut back still holds; the daemon was asked.
    pub cut_from: u64,
    pub cut_asked: bool,
    /// So far it went when it was found to be cut back, and the marker there: while that holds,
    /// it is still the file that was asked about.
    pub cut_seen: Option<(u64, u64)>,
    /// No marker of its origin holds: only the store can tell whether it was cut back.
    pub doubtful: bool,
    /// It is shorter than its origin: if the store has all of it, it is a copy.
    pub short: bool,
    /// The origin that it continues, if it was cut back behind its last span before.
    pub cut_behind: OriginId,
    /// Its origin ends here, and a new one begins.
    pub stop_at: Option<u64>,
}

impl Followed {
    pub(super) fn new(log: LogIx, path: Option<Box<Path>>, look: &Look) -> Self {
        Self {
            log,
            path,
            key: look.key(),
            size: look.size,
            sure: 0,
            raw_size: look.size,
            mtime_ns: look.mtime_ns,
            ctime_ns: look.ctime_ns,
            links: look.links,
            encoding: Encoding::Plain,
            phase: Phase::Fresh,
            origin: 0,
            handed: 0,
            marker: 0,
            current: false,
            pending: false,
            unseen: false,
            first_sight: false,
            opened: false,
            mid_line: false,
            active: false,
            last: false,
            verify: false,
            tried: u64::MAX,
            moved_ms: 0,
            reader: None,
            extra: None,
        }
    }

    pub(super) fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// Whether there are bytes that were not handed out and not found wanting a newline.
    pub(super) const fn has_more(&self) -> bool {
        self.size > self.handed && self.tried != self.size
    }

    /// A power cut or a restored disk has surely cut it back, and the origin of what stands behind
    /// is not born yet.
    pub(super) fn is_cut_back(&self) -> bool {
        let extra = self.extra.as_ref();
        match self.phase {
            Phase::CutBack => extra.is_some_and(|extra| !extra.doubtful),
            Phase::Birth => self.origin != 0,
            _ => extra.is_some_and(|extra| extra.stop_at.is_some()),
        }
    }

    /// Bytes that were not handed out.
    pub(super) const fn backlog(&self) -> u64 {
        if self.size == SIZE_UNKNOWN { 0 } else { self.size.saturating_sub(self.handed) }
    }
}

/// A followed path, through all its rotations.
#[derive(Debug)]
pub(super) struct Log {
    /// Index of its source; `None` if no source means it.
    pub source: Option<usize>,
    pub path: Arc<Path>,
    pub current: Option<FileIx>,
    /// The file that the path leads to, where that is another name.
    pub real: Option<Box<Path>>,
    /// A sibling that was written at or after this time (file system's clock) and belongs to no
    /// origin has not been seen. `None`: the path is seen for the first time.
    pub threshold_ns: Option<i64>,
    /// Siblings whose nature is not known yet: newer files of the log wait for them.
    pub pending: u32,
    /// Number of files in the table.
    pub files: u32,
    /// It was there when its source was first configured.
    pub first_sight: bool,
    /// The number of the path or pattern that means it.
    pub wanted: usize,
    /// A source's paths and patterns lead to it at present.
    pub meant: bool,
    /// The newest of the siblings that were left alone when the log was first seen.
    pub ignored_ns: i64,
    /// Its name looks like a rotated form of another followed path.
    pub rotated_name: bool,
}

/// An origin, as far as it is always kept.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub(super) struct Origin {
    pub path: Arc<Path>,
    pub machine: Arc<str>,
    pub host: Arc<str>,
    pub kernel: KernelIdentity,
    pub head_hash: u64,
    pub head_bytes: u64,
    pub first_offset: u64,
    pub born_ms: i64,
    pub mtime_ns: i64,
    pub encoding: Encoding,
    /// End of what is committed.
    pub end: u64,
    /// Marker at `end`.
    pub marker: u64,
    pub reach: u64,
    /// Marker at `reach`, where that is known.
    pub reach_marker: Option<u64>,
    /// The reach that an earlier run left.
    pub reach_before: u64,
    /// The state knows `end`.
    pub saved: bool,
    pub finished: bool,
    pub retired: bool,
    /// The store was told of it in this run.
    pub announced: bool,
    /// Its kernel identity is that of a file which holds other content by now.
    pub detached: bool,
    pub file: Option<FileIx>,
}

impl Origin {
    pub(super) fn known(known: &KnownOrigin, interned: &mut Interned) -> Self {
        let record = &known.record;
        // see `lacks_marker`: before the first byte there is nothing
        let marker = if known.end == 0 { marker::marker(b"") } else { known.marker };
        Self {
            path: Arc::from(record.path.as_path()),
            machine: interned.get(&record.machine),
            host: interned.get(&record.host),
            kernel: record.kernel,
            head_hash: record.head_hash,
            head_bytes: record.head_bytes,
            first_offset: record.first_offset,
            born_ms: record.born_ms,
            mtime_ns: known.mtime_ns,
            encoding: record.encoding,
            end: known.end,
            marker,
            reach: known.reach,
            reach_marker: known.reach_marker,
            reach_before: known.reach,
            saved: true,
            finished: known.finished,
            retired: known.retired,
            announced: false,
            detached: false,
            file: None,
        }
    }

    /// The store does not have the marker of a first offset: after `state.db` was rebuilt, it is
    /// not known of an origin of which nothing is committed.
    pub(super) const fn lacks_marker(&self) -> bool {
        self.end == self.first_offset && self.marker == 0
    }

    /// Whether a plain file has what was handed out of the origin up to `handed`; while that is
    /// nothing, whether it has the origin's head.
    pub(super) fn stands_in(&self, file: &File, handed: u64, marker: u64) -> io::Result<bool> {
        if handed > 0 && !self.lacks_marker() {
            return marker::holds(file, handed, marker);
        }
        let mut head = vec![0; usize::try_from(self.head_bytes).unwrap_or(0)];
        let read = marker::read_fully_at(file, &mut head, 0)?;
        Ok(read == head.len() && head_hash(&head) == self.head_hash)
    }

    pub(super) fn record(&self, id: OriginId) -> OriginRecord {
        OriginRecord {
            id,
            machine: self.machine.to_string(),
            host: self.host.to_string(),
            path: self.path.to_path_buf(),
            kernel: self.kernel,
            head_hash: self.head_hash,
            head_bytes: self.head_bytes,
            first_offset: self.first_offset,
            born_ms: self.born_ms,
            encoding: self.encoding,
        }
    }
}

/// An origin whose bytes are not all handed out, and whose file is gone or holds other content.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts
pub(super) struct Lost {
    pub origin: OriginId,
    pub log: LogIx,
    pub handed: u64,
    pub marker: u64,
    pub opened: bool,
    /// Its content surely was so long.
    pub size: u64,
    /// It was longer when it was last seen, but whether that was its content was not checked.
    pub maybe: bool,
    /// It was cut back: see [`Followed::is_cut_back`].
    pub cut_back: bool,
    /// There is a receipt.
    pub said: bool,
    pub since_ms: u64,
    pub truncated: bool,
    /// It was lost in an earlier run: nobody looked at the file for a while.
    pub unwatched: bool,
    /// The siblings were listed after it was lost.
    pub listed: bool,
}

impl Lost {
    pub(super) const fn new(origin: OriginId, log: LogIx, handed: (u64, u64), now_ms: u64) -> Self {
        Self {
            origin,
            log,
            handed: handed.0,
            marker: handed.1,
            opened: false,
            size: handed.0,
            maybe: false,
            said: false,
            since_ms: now_ms,
            truncated: false,
            unwatched: false,
            listed: false,
            cut_back: false,
        }
    }

    /// The rest of a file that is gone or holds other content.
    pub(super) fn of(file: &Followed, now_ms: u64) -> Self {
        let extra = file.extra.as_deref();
        // in doubt it may have been other content already
        let seen = extra.filter(|extra| !extra.doubtful).and_then(|extra| extra.cut_seen);
        let seen = seen.map_or(0, |(at, _)| at);
        Self {
            opened: file.opened,
            size: file.sure.max(seen),
            maybe: file.size > file.handed,
            cut_back: file.is_cut_back(),
            ..Self::new(file.origin, file.log, (file.handed, file.marker), now_ms)
        }
    }
}

/// What a source asks of its files.
#[derive(Debug)]
pub(super) struct Rules {
    pub source: String,
    pub table: Table,
    pub format: &'static str,
    pub version: u32,
    pub year_less: bool,
    pub single_line: bool,
    pub options: std::collections::BTreeMap<String, String>,
    pub timezone: String,
    pub max_line_bytes: u64,
    pub start: Start,
    pub rotate_wait_ms: u64,
}

impl Rules {
    pub(super) fn new(source: &FileSource) -> Self {
        Self {
            source: source.source.clone(),
            table: source.table,
            format: source.format.name(),
            version: source.format.version(),
            year_less: source.format.year_less(),
            single_line: source.format.single_line(),
            options: source.options.clone(),
            timezone: source.timezone.clone(),
            max_line_bytes: source.max_line_bytes,
            start: source.start,
            rotate_wait_ms: u64::try_from(source.rotate_wait.as_millis()).unwrap_or(u64::MAX),
        }
    }

    pub(super) fn context(&self, origin: OriginId, from_bytes: u64, anchor_ms: i64) -> Context {
        Context {
            origin,
            from_bytes,
            source: self.source.clone(),
            table: self.table,
            format: self.format.to_owned(),
            options: self.options.clone(),
            timezone: self.timezone.clone(),
            anchor_ms,
            max_line_bytes: self.max_line_bytes,
            parser_version: self.version,
        }
    }
}

/// One source with its finder.
#[derive(Debug)]
pub(super) struct Source {
    pub rules: Arc<Rules>,
    pub finder: super::discover::Finder,
    /// For each path and pattern: whether it was seen in an earlier run, or is marked.
    pub seen: Vec<bool>,
}

impl Source {
    pub(super) fn new(source: &FileSource) -> Self {
        let finder = super::discover::Finder::new(source);
        let seen = vec![false; finder.len()];
        Self { rules: Arc::new(Rules::new(source)), finder, seen }
    }

    pub(super) fn seen_key(&self, wanted: usize) -> String {
        format!("{}\n{}", self.rules.source, self.finder.text(wanted).unwrap_or_default())
    }
}

/// The directory of a path; itself for one without.
pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_path_buf()
}
