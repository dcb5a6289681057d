//! Which origins have no file any more, by what `state.db` and the directories say.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::present::{Present, Traces};
use crate::config::FileSource;
use crate::ledger::{Encoding, KernelIdentity, OriginId, Span, StoredOrigin};
use crate::sources::file::discover::Finder;
use crate::sources::file::{KnownOrigin, TailState as _};
use crate::state::{Post, State};

/// The directory of the spool in the state directory.
const SPOOL_DIR: &str = "spool";

/// What this machine's daemon knows, read beside it.
struct Here {
    machine: String,
    known: HashMap<OriginId, KnownOrigin>,
    /// Origins that still have something to say to the store.
    posting: HashSet<OriginId>,
}

impl Here {
    fn look(dir: &Path) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let state = State::look(dir).map_err(|error| failed(&error))?;
        let known = state.origins().map_err(|error| failed(&error))?;
        let posts = state.outbox().map_err(|error| failed(&error))?;
        let of = |post: Post| match post {
            Post::Receipt(receipt) => receipt.origin,
            Post::Letter(letter) => letter.origin,
        };
        Ok(Self {
            machine: state.machine().to_owned(),
            known: known.into_iter().map(|known| (known.record.id, known)).collect(),
            posting: posts.into_iter().map(of).collect(),
        })
    }

    /// Whether the daemon is done with an origin. A lane of the spool is done when its segment is
    /// gone; the state of a file that was lost and rebuilt may not know it yet.
    fn is_done(&self, id: OriginId) -> bool {
        let known = self.known.get(&id);
        !self.posting.contains(&id)
            && known.is_none_or(|known| {
                known.finished || known.retired || known.record.encoding == Encoding::Spool
            })
    }
}

/// Origins, by whether their files are gone.
#[derive(Debug)]
pub struct Gone<'a> {
    /// Their files are gone for good, and so is every copy.
    pub gone: Vec<&'a StoredOrigin>,
    /// How many have files, or may have.
    pub kept: u64,
    /// Those of other machines.
    pub others: Vec<&'a StoredOrigin>,
}

/// Which of the origins `over` have no file any more that the daemon, whose state is in
/// `state_dir` and which follows `sources`, could read again. `stored` is all that the store knows.
///
/// # Errors
///
/// Why the state cannot be read, in words.
pub fn of_gone_files<'a>(
    state_dir: &Path,
    sources: &[FileSource],
    stored: &[StoredOrigin],
    over: Vec<&'a StoredOrigin>,
) -> Result<Gone<'a>, String> {
    let here = Here::look(state_dir)?;
    let (ours, others): (Vec<_>, Vec<_>) =
        over.into_iter().partition(|origin| origin.record.machine == here.machine);
    let count = ours.len();
    let done: Vec<&StoredOrigin> =
        ours.into_iter().filter(|origin| here.is_done(origin.record.id)).collect();
    let young = newest_of_literal_paths(sources, stored, &here.machine);
    let present = look_at_files(sources, stored, &done, &here);
    let spool = state_dir.join(SPOOL_DIR);
    let gone = done.into_iter().filter(|origin| {
        if origin.record.encoding == Encoding::Spool {
            return lacks_segment(&origin.record.path, &spool);
        }
        !young.contains(&origin.record.id) && present.lacks(&traces(origin, &here))
    });
    let gone: Vec<&StoredOrigin> = gone.collect();
    Ok(Gone { kept: (count - gone.len()) as u64, gone, others })
}

/// By the newest origin of a path that is followed the daemon knows which of the rotated files
/// beside it are older: it stays.
fn newest_of_literal_paths(
    sources: &[FileSource],
    stored: &[StoredOrigin],
    machine: &str,
) -> HashSet<OriginId> {
    let literals: HashSet<PathBuf> =
        sources.iter().flat_map(|source| Finder::new(source).literals()).collect();
    let mut newest: BTreeMap<&Path, (i64, OriginId)> = BTreeMap::new();
    for StoredOrigin { record, .. } in stored {
        if record.machine == machine && literals.contains(&record.path) {
            let known = newest.entry(&record.path).or_insert((record.born_ms, record.id));
            *known = (*known).max((record.born_ms, record.id));
        }
    }
    newest.into_values().map(|(_, id)| id).collect()
}

fn look_at_files(
    sources: &[FileSource],
    stored: &[StoredOrigin],
    done: &[&StoredOrigin],
    here: &Here,
) -> Present {
    let mut dirs: BTreeSet<PathBuf> = BTreeSet::new();
    let mut lengths = BTreeSet::new();
    for origin in done.iter().filter(|origin| origin.record.encoding != Encoding::Spool) {
        let traces = traces(origin, here);
        dirs.extend(traces.paths.iter().filter_map(|path| path.parent()).map(Path::to_owned));
        lengths.insert(traces.head.0);
    }
    if dirs.is_empty() {
        return Present::default();
    }
    // and wherever else the daemon looks
    for source in sources {
        let mut finder = Finder::new(source);
        let found = finder.find().paths;
        dirs.extend(found.iter().filter_map(|(path, _)| path.parent()).map(Path::to_owned));
        dirs.extend(finder.dirs());
    }
    let mut kernels: HashMap<u64, Vec<KernelIdentity>> = HashMap::new();
    let records = stored.iter().map(|origin| &origin.record);
    for record in records.chain(here.known.values().map(|known| &known.record)) {
        if record.machine == here.machine && record.encoding != Encoding::Spool {
            kernels.entry(record.kernel.inode).or_default().push(record.kernel);
        }
    }
    Present::look(&dirs, &kernels, &lengths)
}

pub(super) fn last_span(origin: &StoredOrigin) -> Option<&Span> {
    origin.spans.iter().max_by_key(|span| span.start_bytes)
}

fn traces<'a>(origin: &'a StoredOrigin, here: &'a Here) -> Traces<'a> {
    let record = &origin.record;
    let known = here.known.get(&record.id);
    let mut paths = vec![record.path.as_path()];
    paths.extend(known.map(|known| known.path.as_path()));
    let mut kernels = vec![record.kernel];
    kernels.extend(known.map(|known| known.record.kernel));
    let last = last_span(origin);
    let end = last.map_or((0, None), |span| (span.end_bytes, Some(span.marker)));
    Traces { paths, kernels, head: (record.head_bytes, record.head_hash), end }
}

/// Whether the segment of a lane is gone, `PATH/NUMBER.db#LANE`: from where it was, and from the
/// spool as it is configured now.
fn lacks_segment(lane: &Path, spool: &Path) -> bool {
    let text = lane.as_os_str().as_bytes();
    let segment = text.rsplitn(2, |byte| *byte == b'#').last().unwrap_or(text);
    let segment = Path::new(OsStr::from_bytes(segment));
    let moved = segment.file_name().map(|name| spool.join(name));
    let missing = |path: &Path| matches!(path.try_exists(), Ok(false));
    missing(segment) && moved.is_none_or(|moved| missing(&moved))
}
