//! A store in memory that keeps its promises and nothing more: writes may be refused, may be
//! applied without an answer, may come late and twice. The newest stamp of a key holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bitacora::batch::Batch;
use bitacora::key::{Layout, Partition, RowKey, Table};
use bitacora::ledger::{
    Cause, Context, DeadLetter, LossReceipt, OriginId, OriginRecord, Span, StoredOrigin, Watermark,
};
use bitacora::stores::expired::EndedOrigin;
use bitacora::stores::{
    Answer, CountKey, DurationKey, InFlight, KeyVisitor, LogReader, MinuteDurations, Page,
    RowQuery, Store, StoreError, StoredText, Written,
};

use super::random::Random;

/// Everything of a row but its key.
#[derive(Debug, Clone)]
pub struct Cell {
    pub message: String,
    pub metadata: String,
    /// Column `duration_ms` of `application_logs`.
    pub duration_ms: Option<f64>,
}

type Place = (Table, i32, String, i16, RowKey);

#[derive(Debug, Default)]
struct Known {
    record: Option<(i64, OriginRecord)>,
    contexts: BTreeMap<u64, (i64, Context)>,
    spans: BTreeMap<u64, (i64, Span)>,
}

#[derive(Debug, Clone)]
enum Change {
    Rows(Arc<Batch>),
    Origin(OriginRecord, Vec<Context>, i64),
    Spans(Vec<Span>, i64),
    Receipts(Vec<LossReceipt>),
}

#[derive(Debug)]
struct Inner {
    rows: BTreeMap<Place, (i64, Cell)>,
    origins: BTreeMap<OriginId, Known>,
    receipts: BTreeMap<(OriginId, u64, Cause), LossReceipt>,
    /// Origins that retention has ended, with the newest stamp of what went.
    ended: BTreeMap<OriginId, (i64, EndedOrigin)>,
    /// Writes that are still on their way, or will come once more.
    late: Vec<Change>,
    random: Random,
    /// How many of a hundred writes go wrong.
    faults: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Memory {
    inner: Mutex<Inner>,
    /// Rows are cut into buckets, as in Cassandra.
    buckets: bool,
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, (i64, V)>, key: K, stamp: i64, value: V) {
    let newer = map.get(&key).is_none_or(|(held, _)| stamp > *held);
    if newer {
        map.insert(key, (stamp, value));
    }
}

impl Inner {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Rows(batch) => {
                for (index, row) in batch.rows.iter().enumerate() {
                    let text = |slice| String::from_utf8(batch.text(slice).to_vec()).unwrap();
                    let cell = Cell {
                        message: text(&row.message),
                        metadata: text(&row.metadata),
                        duration_ms: batch.application_of(row).and_then(|row| row.duration_ms),
                    };
                    let Partition { table, day, ref source, bucket, .. } = batch.partition;
                    let place = (table, day, source.to_string(), bucket, row.key);
                    put(&mut self.rows, place, batch.row_stamp(index), cell);
                }
            }
            // what was deleted stays deleted, whatever comes late
            Change::Origin(record, _, stamp) if self.is_deleted(record.id, stamp) => {}
            Change::Origin(record, contexts, stamp) => {
                let known = self.origins.entry(record.id).or_default();
                if known.record.as_ref().is_none_or(|(held, _)| stamp > *held) {
                    known.record = Some((stamp, record));
                }
                for (after, context) in (1..).zip(contexts) {
                    put(&mut known.contexts, context.from_bytes, stamp + after, context);
                }
            }
            Change::Spans(spans, stamp) => {
                for (after, span) in (0..).zip(spans) {
                    if self.is_deleted(span.origin, stamp + after) {
                        continue;
                    }
                    let known = self.origins.entry(span.origin).or_default();
                    put(&mut known.spans, span.start_bytes, stamp + after, span);
                }
            }
            Change::Receipts(receipts) => {
                for receipt in receipts {
                    let key = (receipt.origin, receipt.start_bytes, receipt.cause);
                    self.receipts.insert(key, receipt);
                }
            }
        }
    }

    fn is_deleted(&self, origin: OriginId, stamp: i64) -> bool {
        self.ended.get(&origin).is_some_and(|(newest, _)| stamp <= *newest)
    }

    /// What becomes of a write.
    fn fate(&mut self, change: Change) -> Result<(), StoreError> {
        if !self.random.percent(self.faults) {
            if self.faults > 0 && self.random.percent(5) {
                self.late.push(change.clone());
            }
            self.apply(change);
            return Ok(());
        }
        let timeout = StoreError::Timeout { store: "memory", waited: Duration::from_secs(2) };
        match self.random.below(4) {
            0 => Err(StoreError::Outage { store: "memory", detail: "told to refuse".to_owned() }),
            1 => {
                self.apply(change);
                Err(timeout)
            }
            2 => {
                self.late.push(change);
                Err(timeout)
            }
            _ => {
                self.apply(change.clone());
                self.late.push(change);
                Err(timeout)
            }
        }
    }
}

fn ready<'a, T: Send + 'a>(answer: T) -> Answer<'a, T> {
    Box::pin(std::future::ready(Ok(answer)))
}

impl Memory {
    pub fn new(seed: u64, buckets: bool) -> Self {
        let inner = Inner {
            rows: BTreeMap::new(),
            origins: BTreeMap::new(),
            receipts: BTreeMap::new(),
            ended: BTreeMap::new(),
            late: Vec::new(),
            random: Random::new(seed),
            faults: 0,
        };
        Self { inner: Mutex::new(inner), buckets }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn set_faults(&self, percent: u64) {
        self.inner().faults = percent;
    }

    /// One of the writes that are on their way arrives.
    pub fn late_write(&self) {
        let mut inner = self.inner();
        if !inner.late.is_empty() {
            let count = inner.late.len();
            let index = inner.random.below(count);
            let change = inner.late.swap_remove(index);
            inner.apply(change);
        }
    }

    /// All of them do.
    pub fn late_writes(&self) {
        let mut inner = self.inner();
        while let Some(change) = inner.late.pop() {
            inner.apply(change);
        }
    }

    /// Calls `row` with each row.
    pub fn each_row(&self, mut row: impl FnMut(RowKey, &Cell)) {
        for ((.., key), (_, cell)) in &self.inner().rows {
            row(*key, cell);
        }
    }

    /// Calls `span` with each span.
    pub fn each_span(&self, mut span: impl FnMut(&Span)) {
        for known in self.inner().origins.values() {
            known.spans.values().for_each(|(_, one)| span(one));
        }
    }

    pub fn records(&self) -> Vec<OriginRecord> {
        let inner = self.inner();
        inner.origins.values().filter_map(|known| known.record.clone()).map(|one| one.1).collect()
    }

    pub fn all_receipts(&self) -> Vec<LossReceipt> {
        self.inner().receipts.values().cloned().collect()
    }

    /// Ends an origin, as the stores do: what was seen goes, and what comes late of it.
    pub fn end(&self, ended: EndedOrigin) {
        let mut inner = self.inner();
        let Some(known) = inner.origins.remove(&ended.origin) else { return };
        let contexts = known.contexts.values().map(|(stamp, _)| *stamp);
        let spans = known.spans.values().map(|(stamp, _)| *stamp);
        let record = known.record.iter().map(|(stamp, _)| *stamp);
        let newest = contexts.chain(spans).chain(record).max().unwrap_or(0);
        inner.ended.insert(ended.origin, (newest, ended));
    }

    /// The machine of every origin, also of those that have ended.
    pub fn machines(&self) -> HashMap<OriginId, String> {
        let inner = self.inner();
        let ended = inner.ended.values().map(|(_, one)| (one.origin, one.machine.clone()));
        let records = inner.origins.values().filter_map(|known| known.record.as_ref());
        ended.chain(records.map(|(_, one)| (one.id, one.machine.clone()))).collect()
    }

    fn stored(&self, machine: Option<&str>) -> Vec<StoredOrigin> {
        let inner = self.inner();
        let stored = inner.origins.values().filter_map(|known| {
            let (_, record) = known.record.as_ref()?;
            if machine.is_some_and(|machine| machine != record.machine) {
                return None;
            }
            Some(StoredOrigin {
                record: record.clone(),
                contexts: known.contexts.values().map(|(_, one)| one.clone()).collect(),
                spans: known.spans.values().map(|(_, one)| one.clone()).collect(),
            })
        });
        stored.collect()
    }
}

impl Store for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn in_flight(&self) -> InFlight {
        InFlight { rows: 4000, bytes: 4 << 20, batches: 256 }
    }

    fn check(&self) -> Answer<'_, ()> {
        ready(())
    }

    fn layout(&self, _: Table, _: &str, _: i32) -> Option<Layout> {
        self.buckets.then_some(Layout { slot_hours: 6, shards: 2 })
    }

    fn write(&self, batch: Arc<Batch>) -> Answer<'_, Written> {
        let fate = self.inner().fate(Change::Rows(batch));
        Box::pin(std::future::ready(fate.map(|()| Written::default())))
    }

    fn put_origin<'a>(
        &'a self,
        origin: &'a OriginRecord,
        contexts: &'a [Context],
        stamp: i64,
    ) -> Answer<'a, ()> {
        let change = Change::Origin(origin.clone(), contexts.to_vec(), stamp);
        Box::pin(std::future::ready(self.inner().fate(change)))
    }

    fn put_spans<'a>(&'a self, spans: &'a [Span], stamp: i64) -> Answer<'a, ()> {
        let fate = self.inner().fate(Change::Spans(spans.to_vec(), stamp));
        Box::pin(std::future::ready(fate))
    }

    fn put_receipts<'a>(&'a self, receipts: &'a [LossReceipt], _: i64) -> Answer<'a, ()> {
        let fate = self.inner().fate(Change::Receipts(receipts.to_vec()));
        Box::pin(std::future::ready(fate))
    }

    fn put_watermarks<'a>(&'a self, _: &'a [Watermark], _: i64) -> Answer<'a, ()> {
        ready(())
    }

    fn put_dead_letters<'a>(&'a self, _: &'a [DeadLetter], _: i64) -> Answer<'a, ()> {
        ready(())
    }

    fn last_spans<'a>(&'a self, origins: &'a [OriginId]) -> Answer<'a, Vec<Span>> {
        let inner = self.inner();
        let last = |id| Some(inner.origins.get(id)?.spans.last_key_value()?.1.1.clone());
        ready(origins.iter().filter_map(last).collect())
    }

    fn ended<'a>(&'a self, machine: &'a str) -> Answer<'a, Vec<OriginId>> {
        let inner = self.inner();
        let of = inner.ended.values().filter(|(_, one)| one.machine == machine);
        ready(of.map(|(_, one)| one.origin).collect())
    }

    fn texts<'a>(&'a self, rows: &'a [(Partition, RowKey)]) -> Answer<'a, Vec<Option<StoredText>>> {
        let inner = self.inner();
        let text = |(partition, key): &(Partition, RowKey)| {
            let Partition { table, day, source, bucket, .. } = partition;
            let place = (*table, *day, source.to_string(), *bucket, *key);
            inner.rows.get(&place).map(|(_, cell)| StoredText {
                message: cell.message.clone(),
                metadata: cell.metadata.clone(),
            })
        };
        ready(rows.iter().map(text).collect())
    }

    fn origins<'a>(&'a self, machine: Option<&'a str>) -> Answer<'a, Vec<StoredOrigin>> {
        ready(self.stored(machine))
    }

    fn close(&self) -> Answer<'_, ()> {
        ready(())
    }
}

impl LogReader for Memory {
    fn rows<'a>(&'a self, _: &'a RowQuery) -> Answer<'a, Page> {
        ready(Page::default())
    }

    fn counts(&self, _: i64, _: i64) -> Answer<'_, Vec<(CountKey, u64)>> {
        ready(Vec::new())
    }

    fn durations(&self, _: i64, _: i64) -> Answer<'_, Vec<(DurationKey, MinuteDurations)>> {
        ready(Vec::new())
    }

    fn sources(&self) -> Answer<'_, Vec<String>> {
        ready(Vec::new())
    }

    fn origins<'a>(&'a self, machine: Option<&'a str>) -> Answer<'a, Vec<StoredOrigin>> {
        ready(self.stored(machine))
    }

    fn visit_keys<'a>(&'a self, visitor: KeyVisitor<'a>) -> Answer<'a, ()> {
        for (table, .., key) in self.inner().rows.keys() {
            if !visitor(*table, *key) {
                break;
            }
        }
        ready(())
    }

    fn receipts(&self) -> Answer<'_, Vec<LossReceipt>> {
        ready(self.all_receipts())
    }

    fn ended_origins(&self) -> Answer<'_, Vec<EndedOrigin>> {
        ready(self.inner().ended.values().map(|(_, one)| one.clone()).collect())
    }

    fn watermarks(&self) -> Answer<'_, Vec<Watermark>> {
        ready(Vec::new())
    }

    fn dead_letters(&self) -> Answer<'_, Vec<DeadLetter>> {
        ready(Vec::new())
    }

    fn remove_dead_letter<'a>(&'a self, _: &'a DeadLetter) -> Answer<'a, ()> {
        ready(())
    }
}
