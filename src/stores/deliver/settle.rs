//! One batch on its way: tried until the store has every row that it will ever take.
//!
//! A row is given up only if the store calls it invalid alone, and takes another row of the same
//! table after that. What looks like an invalid row while no row is taken is an outage.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::letters::{letter_of, part};
use super::{Reaction, Shared};
use crate::backoff::Backoff;
use crate::batch::{Batch, Row};
use crate::key::Table;
use crate::ledger::{NotRow, Reason};
use crate::state::Post;
use crate::stores::{StoreError, Written};

/// Waits between tries: about so long at first, never longer than so.
const RETRY_WAITS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// The same, where it takes a person or time.
const OUTAGE_WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// A probe is not replaced more often, as each costs a copy.
const PROBE_AGE_MIN: Duration = Duration::from_secs(1);

/// A batch that is dealt with.
pub(super) struct Settled {
    pub(super) batch: Batch,
    pub(super) not_rows: Vec<NotRow>,
}

/// A row of each table that the store took lately: writing it again shows whether the store takes
/// rows at all.
#[derive(Default)]
pub(super) struct Probes(Mutex<HashMap<Table, (Arc<Batch>, Instant)>>);

impl Probes {
    fn get(&self, table: Table) -> Option<Arc<Batch>> {
        let probes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        probes.get(&table).map(|(probe, _)| Arc::clone(probe))
    }

    /// The store took this batch.
    fn note(&self, batch: &Batch) {
        let mut probes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let keep = probes.get(&batch.partition.table).is_some_and(|(probe, since)| {
            // an amended row must not be written again as it was before
            let key = probe.rows.first().map(|row| row.key);
            now - *since < PROBE_AGE_MIN && !batch.rows.iter().any(|row| Some(row.key) == key)
        });
        if !keep && let Some(index) = oldest_that_holds(batch) {
            let probe = Arc::new(part(batch, index..index + 1));
            probes.insert(batch.partition.table, (probe, now));
        }
    }
}

/// Of a key that occurs twice the later row holds; and an old row is less likely to be amended.
fn oldest_that_holds(batch: &Batch) -> Option<usize> {
    let again = |index: usize, row: &Row| {
        batch.rows.iter().skip(index + 1).any(|later| later.key == row.key)
    };
    batch.rows.iter().enumerate().find(|(index, row)| !again(*index, row)).map(|(index, _)| index)
}

/// Why a try was not taken for good.
enum Refused {
    /// The store calls rows invalid.
    Invalid(StoreError),
    /// The program has to stop.
    Stop(StoreError),
}

/// Delivers one batch.
pub(super) async fn settle(
    shared: Arc<Shared>,
    batch: Batch,
    number: u64,
) -> Result<Settled, StoreError> {
    let mut tries = Tries::new(&shared, number);
    let batch = Arc::new(batch);
    let started = Instant::now();
    let settled = match tries.write(&batch).await {
        Ok(written) => Ok(expired_of(&batch, 0, &written)),
        Err(Refused::Invalid(error)) => tries.isolate(&batch, error).await,
        Err(Refused::Stop(error)) => Err(error),
    };
    let failed = tries.failed;
    let not_rows = settled?;
    if failed {
        shared.health.waits_no_more();
    }
    let refused = not_rows.iter().filter(|row| row.0 == Reason::DeadLetter).count();
    let metrics = &shared.deliver.metrics;
    let rows = (batch.rows.len() - not_rows.len().min(batch.rows.len())) as u64;
    metrics.acknowledged(rows, batch.text.len() as u64, started.elapsed().as_secs_f64());
    if failed {
        metrics.batches("retried", 1);
    }
    if !not_rows.is_empty() {
        metrics.rows("dead_letter", refused as u64);
        metrics.rows("expired", (not_rows.len() - refused) as u64);
        metrics.batches("dead_letter", u64::from(refused > 0));
    }
    // the store is done with it, so this is the last owner; if not, a copy serves as well
    let batch = Arc::try_unwrap(batch).unwrap_or_else(|shared| (*shared).clone());
    Ok(Settled { batch, not_rows })
}

/// The tries of one batch.
struct Tries<'a> {
    shared: &'a Shared,
    retry: Backoff,
    outage: Backoff,
    /// Whether a try failed and [`super::health::Health`] counts this batch as waiting.
    failed: bool,
}

impl<'a> Tries<'a> {
    fn new(shared: &'a Shared, number: u64) -> Self {
        // each batch has waits of its own, so that they do not come back in step
        let seed = shared.deliver.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9));
        let backoff = |[first, max]: [Duration; 2]| Backoff::new(first, max, seed);
        Self { shared, retry: backoff(RETRY_WAITS), outage: backoff(OUTAGE_WAITS), failed: false }
    }

    /// Writes until the store has the rows or calls them invalid.
    async fn write(&mut self, batch: &Arc<Batch>) -> Result<Written, Refused> {
        loop {
            match self.shared.deliver.store.write(Arc::clone(batch)).await {
                Ok(written) => {
                    self.shared.health.succeeded();
                    self.shared.probes.note(batch);
                    self.retry.reset();
                    self.outage.reset();
                    return Ok(written);
                }
                Err(error) if error.reaction() == Reaction::Isolate => {
                    self.shared.deliver.metrics.error(error.reason());
                    return Err(Refused::Invalid(error));
                }
                Err(error) => self.wait(error).await.map_err(Refused::Stop)?,
            }
        }
    }

    /// Waits as the error asks for.
    async fn wait(&mut self, error: StoreError) -> Result<(), StoreError> {
        let longest = match error.reaction() {
            Reaction::Retry => self.retry.next(),
            // invalid rows get here only where no row is taken
            Reaction::Wait | Reaction::Isolate => self.outage.next(),
            Reaction::Stop => return Err(error),
        };
        let first = !std::mem::replace(&mut self.failed, true);
        self.shared.health.failed(&error, first);
        self.shared.health.wait(longest).await;
        Ok(())
    }

    /// Finds the rows of a refused batch that are to blame, and makes dead letters of them.
    async fn isolate(
        &mut self,
        batch: &Arc<Batch>,
        mut error: StoreError,
    ) -> Result<Vec<NotRow>, StoreError> {
        let mut not_rows = Vec::new();
        let mut refused = std::iter::once(0..batch.rows.len()).collect::<Vec<_>>();
        loop {
            // while the store does not even take what it took before, nothing is learnt by halving
            if self.probe(batch.partition.table).await? != Some(false) {
                let found = self.halve(batch, refused, &mut not_rows).await?;
                if found.is_empty() {
                    return Ok(not_rows);
                }
                if self.probe(batch.partition.table).await? == Some(true) {
                    let letters = self.bury(batch, found).await?;
                    not_rows.extend(letters);
                    return Ok(not_rows);
                }
                error = found.first().map_or(error, |(_, error)| error.clone());
                refused = joined(found.into_iter().map(|(index, _)| index));
            }
            self.wait(error.clone()).await?;
        }
    }

    /// Whether the store takes a row of this table that it took before; `None` if there is none.
    async fn probe(&mut self, table: Table) -> Result<Option<bool>, StoreError> {
        let Some(probe) = self.shared.probes.get(table) else { return Ok(None) };
        match self.write(&probe).await {
            Ok(_) => Ok(Some(true)),
            Err(Refused::Invalid(_)) => Ok(Some(false)),
            Err(Refused::Stop(error)) => Err(error),
        }
    }

    /// Writes ranges of rows, in halves where they are refused; answers the rows that are refused
    /// alone, in order.
    async fn halve(
        &mut self,
        batch: &Batch,
        mut ranges: Vec<Range<usize>>,
        not_rows: &mut Vec<NotRow>,
    ) -> Result<Vec<(usize, StoreError)>, StoreError> {
        let mut found = Vec::new();
        ranges.reverse();
        while let Some(range) = ranges.pop() {
            match self.write(&Arc::new(part(batch, range.clone()))).await {
                Ok(written) => not_rows.extend(expired_of(batch, range.start, &written)),
                Err(Refused::Invalid(error)) if range.len() <= 1 => {
                    found.push((range.start, error));
                }
                Err(Refused::Invalid(_)) => {
                    let middle = range.start + range.len() / 2;
                    ranges.push(middle..range.end);
                    ranges.push(range.start..middle);
                }
                Err(Refused::Stop(error)) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Keeps rows as dead letters: in the store, or in the state where the store refuses that too.
    async fn bury(
        &mut self,
        batch: &Batch,
        found: Vec<(usize, StoreError)>,
    ) -> Result<Vec<NotRow>, StoreError> {
        let deliver = &self.shared.deliver;
        let now_ms = (deliver.now_ms)();
        let rows = found.iter().filter_map(|(index, error)| Some((batch.rows.get(*index)?, error)));
        let (not_rows, letters): (Vec<_>, Vec<_>) = rows
            .map(|(row, error)| {
                let letter = letter_of(batch, row, error.to_string(), now_ms);
                (not_row(Reason::DeadLetter, row), letter)
            })
            .unzip();
        let source = &*batch.partition.source;
        let count = letters.len();
        tracing::warn!(source, "{count} rows are refused for good and kept as dead letters");
        let stamp = deliver.stamps.take(count, now_ms.saturating_mul(1000));
        loop {
            let Err(error) = deliver.store.put_dead_letters(&letters, stamp).await else {
                return Ok(not_rows);
            };
            if error.reaction() != Reaction::Isolate {
                self.wait(error).await?;
                continue;
            }
            let posts: Vec<Post> = letters.iter().cloned().map(Post::Letter).collect();
            let Err(full) = deliver.state.post(&posts) else { return Ok(not_rows) };
            tracing::warn!(source, "dead letters cannot be kept: {full}");
            self.wait(error).await?;
        }
    }
}

/// Row numbers as ranges, where they follow each other.
fn joined(indexes: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some(range) if range.end == index => range.end = index + 1,
            _ => ranges.push(index..index + 1),
        }
    }
    ranges
}

fn expired_of(batch: &Batch, first: usize, written: &Written) -> Vec<NotRow> {
    let rows = written.expired.iter().filter_map(|index| batch.rows.get(first + index));
    rows.map(|row| not_row(Reason::Expired, row)).collect()
}

fn not_row(reason: Reason, row: &Row) -> NotRow {
    (reason, row.key, row.level, row.rung)
}
