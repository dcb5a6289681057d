//! Origins that have come to their end: all their rows have ended, and their files are gone. Their
//! records, contexts and spans go, and a tombstone says so for a year.
//!
//! By its origin the daemon knows a file that it has read, so one stays as long as its file, or a
//! copy of it, is somewhere where the daemon may meet it. What `state.db` knows of it goes last:
//! the daemon forgets what has a tombstone and nothing else in the store.

use std::collections::{BTreeSet, HashSet};

use serde::Serialize;

use super::gone::{self, Gone, last_span};
use super::policy::{self, has_outlived};
use super::{Run, State, StoreError, ended};
use crate::config::StoreKind;
use crate::key::DAY_MS;
use crate::ledger::{OriginId, Reason, Span, StoredOrigin};
use crate::state::STATE_FILE;
use crate::stores::cassandra::{self, CassandraStore};
use crate::stores::expired::{EndedOrigin, Expired};
use crate::stores::{LogReader, merge, sqlite};

/// An origin that was written to so lately stays: what was on its way may still come.
const SETTLED_MS: i64 = DAY_MS;

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
        let (count, state_dir) = (over.len(), &self.config.daemon.state_dir);
        let Gone { mut gone, kept, others } =
            match gone::of_gone_files(state_dir, &self.config.files, stored, over) {
                Ok(gone) => gone,
                Err(why) => {
                    self.report.notes.push(format!(
                        "{count} origins without rows stay: {STATE_FILE} in {} tells which of them \
                         are this machine's, and cannot be read: {why}",
                        state_dir.display()
                    ));
                    return Vec::new();
                }
            };
        let named = self.request.gone_host.as_ref();
        let (of_named, of_others): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|origin| named.is_some_and(|host| origin.record.host == *host));
        gone.extend(of_named);
        self.report.origins.kept = kept;
        self.report.origins.of_others = of_others.len() as u64;
        gone
    }

    /// Only what a verified backup holds goes, if that is asked for.
    fn held_by_backup<'a>(&mut self, mut gone: Vec<&'a StoredOrigin>) -> Vec<&'a StoredOrigin> {
        let Some(verified) = &self.verified else { return gone };
        let all = gone.len();
        gone.retain(|origin| verified.holds_ledger(last_write_ms(origin)));
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

fn last_write_ms(origin: &StoredOrigin) -> i64 {
    let writes = origin.spans.iter().map(|span| span.last_write_ms);
    writes.max().unwrap_or(origin.record.born_ms)
}
