//! Origins that have come to their end: all their rows have ended, and their files are gone. Their
//! records, contexts and spans go, and a tombstone says so for a year.
//!
//! By its origin the daemon knows a file that it has read, so one stays as long as its file, or a
//! copy of it, is somewhere where the daemon may meet it. What `state.db` knows of it goes last:
//! the daemon forgets what has a tombstone and nothing else in the store.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::policy::{self, has_outlived};
use super::present::{Present, Traces};
use super::{Run, State, StoreError, ended};
use crate::config::StoreKind;
use crate::key::DAY_MS;
use crate::ledger::{Encoding, KernelIdentity, OriginId, Reason, Span, StoredOrigin};
use crate::sources::file::discover::Finder;
use crate::sources::file::{KnownOrigin, TailState as _};
use crate::state::{Post, STATE_FILE, State as StateDb};
use crate::stores::cassandra::{self, CassandraStore};
use crate::stores::expired::{EndedOrigin, Expired};
use crate::stores::{LogReader, merge, sqlite};

/// An origin that was written to so lately stays: what was on its way may still come.
const SETTLED_MS: i64 = DAY_MS;

/// The directory of the spool in the state directory.
const SPOOL_DIR: &str = "spool";

/// What became of the origins whose rows have all ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Origins {
    /// Those that end: their files are gone.
    pub ended: u64,
    /// Their spans.
    pub spans: u64,
    /// Rows that they had.
    pub rows: u64,
    /// What became of them; `None` where there are none.
    pub state: Option<State>,
    /// Those that stay because their files, or copies of them, are there, or may be.
    pub kept: u64,
    /// Those of other machines: theirs to end.
    pub of_others: u64,
    /// Those that no verified backup holds.
    pub withheld: u64,
}

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
        let state = StateDb::look(dir).map_err(|error| failed(&error))?;
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

impl Run<'_> {
    /// Ends what has come to its end. Answers which origins that are, for those who go on with the
    /// rest.
    pub(super) async fn origins(
        &mut self,
        reader: &dyn LogReader,
        stored: &[StoredOrigin],
        expired: &Expired,
    ) -> Result<BTreeSet<OriginId>, StoreError> {
        let letters = reader.dead_letters().await?;
        let letters: HashSet<OriginId> = letters.iter().map(|letter| letter.origin).collect();
        let before = reader.ended_origins().await?;
        let before: HashSet<OriginId> = before.iter().map(|ended| ended.origin).collect();
        let over: Vec<&StoredOrigin> = stored
            .iter()
            .filter(|origin| !letters.contains(&origin.record.id))
            .filter(|origin| self.is_over(origin, expired, before.contains(&origin.record.id)))
            .collect();
        let gone = if over.is_empty() { Vec::new() } else { self.of_gone_files(stored, over) };
        let gone = self.held_by_backup(gone);
        let ids = self.end(&gone).await;
        self.forget_tombstones();
        Ok(ids)
    }

    /// Whether nothing is left of an origin, and nothing will come.
    fn is_over(&self, origin: &StoredOrigin, expired: &Expired, ended_before: bool) -> bool {
        let now_ms = self.request.now_ms;
        let lifetimes = &self.config.store.lifetimes;
        if origin.spans.is_empty() {
            let born_ms = origin.record.born_ms;
            let outlived = |lifetime| has_outlived(lifetime, born_ms, now_ms - SETTLED_MS);
            // a run that was broken off after its tombstone was written
            return ended_before
                || match origin.contexts.last() {
                    Some(context) => outlived(lifetimes.of(context.table, &context.source)),
                    None => outlived(lifetimes.longest()),
                };
        }
        origin.spans.iter().all(|span| {
            let settled = span.last_write_ms <= now_ms - SETTLED_MS;
            settled
                && if span.rows > 0 || span.reasons.get(Reason::Expired) > 0 {
                    merge::has_ended(span, expired, now_ms)
                } else {
                    // lines that were no rows are known as long as rows of that time would be
                    let lifetime = lifetimes.of(span.table, &span.source);
                    has_outlived(lifetime, span.last_write_ms, now_ms)
                }
        })
    }

    /// Those of this machine whose files are gone, and those of a host that is gone for ever.
    fn of_gone_files<'a>(
        &mut self,
        stored: &'a [StoredOrigin],
        over: Vec<&'a StoredOrigin>,
    ) -> Vec<&'a StoredOrigin> {
        let here = match Here::look(&self.config.daemon.state_dir) {
            Ok(here) => here,
            Err(why) => {
                self.report.notes.push(format!(
                    "{} origins without rows stay: {STATE_FILE} in {} tells which of them are this \
                     machine's, and cannot be read: {why}",
                    over.len(),
                    self.config.daemon.state_dir.display()
                ));
                return Vec::new();
            }
        };
        let gone_host = self.request.gone_host.clone();
        let (ours, others): (Vec<_>, Vec<_>) =
            over.into_iter().partition(|origin| origin.record.machine == here.machine);
        let (mut gone, others): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|origin| gone_host.as_ref().is_some_and(|host| origin.record.host == *host));
        self.report.origins.of_others = others.len() as u64;
        let done: Vec<&StoredOrigin> =
            ours.iter().copied().filter(|origin| here.is_done(origin.record.id)).collect();
        let young = self.newest_of_literal_paths(stored, &here.machine);
        let present = self.look_at_files(stored, &done, &here);
        let count = ours.len();
        let before = gone.len();
        let spool = self.config.daemon.state_dir.join(SPOOL_DIR);
        gone.extend(done.into_iter().filter(|origin| {
            if origin.record.encoding == Encoding::Spool {
                return lacks_segment(&origin.record.path, &spool);
            }
            !young.contains(&origin.record.id) && present.lacks(&traces(origin, &here))
        }));
        self.report.origins.kept = (count - (gone.len() - before)) as u64;
        gone
    }

    /// By the newest origin of a path that is followed the daemon knows which of the rotated files
    /// beside it are older: it stays.
    fn newest_of_literal_paths(&self, stored: &[StoredOrigin], machine: &str) -> HashSet<OriginId> {
        let literals: HashSet<PathBuf> =
            self.config.files.iter().flat_map(|source| Finder::new(source).literals()).collect();
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
        &self,
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
        for source in &self.config.files {
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

    /// Only what a verified backup holds goes, if that is asked for.
    fn held_by_backup<'a>(&mut self, mut gone: Vec<&'a StoredOrigin>) -> Vec<&'a StoredOrigin> {
        let Some(verified) = &self.verified else { return gone };
        let sqlite = self.config.store.kind == StoreKind::Sqlite;
        let all = gone.len();
        gone.retain(|origin| sqlite && verified.holds_ledger(last_write_ms(origin)));
        self.report.origins.withheld = (all - gone.len()) as u64;
        gone
    }

    async fn end(&mut self, gone: &[&StoredOrigin]) -> BTreeSet<OriginId> {
        let origins: Vec<EndedOrigin> = gone.iter().map(|origin| self.tombstone(origin)).collect();
        let report = &mut self.report.origins;
        report.ended = origins.len() as u64;
        report.spans = gone.iter().map(|origin| origin.spans.len() as u64).sum();
        report.rows = origins.iter().map(|ended| ended.rows).sum();
        if !origins.is_empty() {
            report.state = Some(State::Planned);
        }
        let ids = origins.iter().map(|ended| ended.origin).collect();
        if self.request.apply && !origins.is_empty() {
            let done = self.let_go(&origins).await;
            if let Ok(went) = done {
                // one that has moved on meanwhile
                self.report.origins.kept += self.report.origins.ended - went;
                self.report.origins.ended = went;
            }
            self.report.origins.state = Some(ended(done.map(drop)));
        }
        ids
    }

    async fn let_go(&self, origins: &[EndedOrigin]) -> Result<u64, StoreError> {
        let store = &self.config.store;
        match store.kind {
            StoreKind::Cassandra => {
                let cassandra = CassandraStore::new(store.cassandra.clone());
                Box::pin(cassandra::ended::end(&cassandra, origins)).await
            }
            StoreKind::Sqlite | StoreKind::Null => sqlite::ended::end(&store.sqlite.dir, origins),
        }
    }

    fn tombstone(&self, origin: &StoredOrigin) -> EndedOrigin {
        let last = last_span(origin);
        let lifetimes = &self.config.store.lifetimes;
        let named = last.map(|span| (span.table, &span.source));
        let named =
            named.or(origin.contexts.last().map(|context| (context.table, &context.source)));
        let rows = |span: &Span| span.rows + span.reasons.get(Reason::Expired);
        EndedOrigin {
            origin: origin.record.id,
            machine: origin.record.machine.clone(),
            host: origin.record.host.clone(),
            path: origin.record.path.clone(),
            end_bytes: last.map_or(origin.record.first_offset, |span| span.end_bytes),
            rows: origin.spans.iter().map(rows).sum(),
            policy: named.map_or_else(String::new, |(table, source)| {
                policy::name_of(lifetimes, table, source)
            }),
            ended_ms: self.request.now_ms,
        }
    }

    /// Tombstones of origins end as well; in Cassandra by a time to live.
    fn forget_tombstones(&mut self) {
        let store = &self.config.store;
        if self.request.apply
            && store.kind == StoreKind::Sqlite
            && let Err(error) = sqlite::ended::forget_old(&store.sqlite.dir, self.request.now_ms)
        {
            self.fail("tombstones of origins", &error);
        }
    }
}

fn last_span(origin: &StoredOrigin) -> Option<&Span> {
    origin.spans.iter().max_by_key(|span| span.start_bytes)
}

fn last_write_ms(origin: &StoredOrigin) -> i64 {
    let writes = origin.spans.iter().map(|span| span.last_write_ms);
    writes.max().unwrap_or(origin.record.born_ms)
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
