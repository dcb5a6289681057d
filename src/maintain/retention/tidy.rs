//! The ledger of what has ended: a span stays for every byte, but many that have nothing left
//! become one, and an origin goes whole when its file is gone too.

use super::{Item, Run, State, StoreError};
use crate::config::StoreKind;
use crate::stores::cassandra::CassandraStore;
use crate::stores::expired::{Expired, Tombstone};
use crate::stores::merge::{self, Merged};
use crate::stores::{open, sqlite::expire};

/// Spans that were written so lately may still be written again.
const SETTLED_MS: i64 = 3_600_000;
/// Runs that one transaction replaces: the daemon waits for its end.
const AT_ONCE: usize = 200;

impl Run<'_> {
    pub(super) async fn tidy(&mut self) {
        let merged = match self.origins_and_runs().await {
            Ok(merged) => merged,
            Err(error) => return self.fail("the ledger", &error),
        };
        self.report.tidied.spans = merged.iter().map(|run| run.spans).sum();
        self.report.tidied.become_spans = merged.len() as u64;
        if !self.request.apply || merged.is_empty() {
            return;
        }
        if let Err(error) = Box::pin(self.merge(&merged)).await {
            self.fail("spans", &error);
        }
    }

    async fn origins_and_runs(&mut self) -> Result<Vec<Merged>, StoreError> {
        let reader = open::reader(&self.config.store)?;
        let mut tombstones = reader.tombstones().await?;
        let now_ms = self.request.now_ms;
        tombstones.extend(self.report.items.iter().filter_map(|item| planned(item, now_ms)));
        let expired: Expired = tombstones.iter().collect();
        let origins = reader.origins(None).await?;
        let gone = Box::pin(self.origins(&*reader, &origins, &expired)).await?;
        let runs = origins
            .iter()
            .filter(|origin| !gone.contains(&origin.record.id))
            .flat_map(|origin| merge::runs(origin, &expired, now_ms, now_ms - SETTLED_MS));
        Ok(runs.collect())
    }

    async fn merge(&self, merged: &[Merged]) -> Result<(), StoreError> {
        let stamp = self.request.now_ms.saturating_mul(1000);
        let store = &self.config.store;
        if store.kind == StoreKind::Cassandra {
            let cassandra = CassandraStore::new(store.cassandra.clone());
            return cassandra.merge_spans(merged, stamp).await;
        }
        for merged in merged.chunks(AT_ONCE) {
            expire::merge_spans(&store.sqlite.dir, merged, stamp)?;
        }
        Ok(())
    }
}

/// The tombstone that would be there if this were applied.
fn planned(item: &Item, dropped_ms: i64) -> Option<Tombstone> {
    let part = item.table.zip(item.source.clone());
    let day = item.day.filter(|_| item.state == State::Planned)?;
    Some(Tombstone { day, part, policy: String::new(), dropped_ms })
}
