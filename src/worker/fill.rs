//! Fills batches: one open batch per partition; full, old or too many, it goes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::batch::{BATCH_BYTES_MAX, Batch};
use crate::key::{Layout, Partition, RowKey, Table, day_of};
use crate::ledger::PieceId;
use crate::record::Level;

/// Limits of the open batches of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillLimits {
    /// Rows of a full batch.
    pub batch_rows: usize,
    /// Age at which a batch goes, in milliseconds.
    pub batch_age_ms: u64,
    /// Bytes of all open batches together.
    pub open_bytes: usize,
}

/// How a day of a source is cut into buckets; `None` where the store has no buckets.
pub type Layouts = Box<dyn Fn(Table, &str, i32) -> Option<Layout> + Send>;

/// Gives write timestamps: the first of `n` consecutive ones.
pub type TakeStamps = Box<dyn FnMut(usize) -> i64 + Send>;

struct Slot {
    batch: Batch,
    /// Tells whether a cached index still means this batch.
    number: u64,
    opened_ms: u64,
}

/// Where a worker's last row went, so that the next one need not search.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recent {
    day: i32,
    bucket: i16,
    slot: usize,
    number: u64,
}

/// The open batches of one worker.
pub struct Fill {
    limits: FillLimits,
    host: Arc<str>,
    layouts: Layouts,
    stamps: TakeStamps,
    slots: Vec<Slot>,
    by_partition: HashMap<Partition, usize>,
    spare: Vec<Batch>,
    bytes: usize,
    numbers: u64,
    layout: Option<(Table, Arc<str>, i32, Option<Layout>)>,
}

/// Whose row it is, for [`Fill::row`].
#[derive(Debug)]
pub struct Whose<'a> {
    /// Which table.
    pub table: Table,
    /// The source.
    pub source: &'a Arc<str>,
    /// The group that is registered with the batch.
    pub group: PieceId,
    /// The row's key.
    pub key: RowKey,
    /// The row's level.
    pub level: Level,
}

impl Fill {
    /// No open batches.
    #[must_use]
    pub fn new(limits: FillLimits, host: Arc<str>, layouts: Layouts, stamps: TakeStamps) -> Self {
        assert!(limits.batch_rows > 0);
        Self {
            limits,
            host,
            layouts,
            stamps,
            slots: Vec::new(),
            by_partition: HashMap::new(),
            spare: Vec::new(),
            bytes: 0,
            numbers: 0,
            layout: None,
        }
    }

    /// Adds a row by `write`, which appends exactly one. Returns whether `group` is new in the
    /// batch. Batches that are full go to `ready`.
    pub fn row(
        &mut self,
        whose: &Whose<'_>,
        recent: &mut Recent,
        now_ms: u64,
        ready: &mut Vec<Batch>,
        write: impl FnOnce(&mut Batch),
    ) -> bool {
        let day = day_of(whose.key.timestamp_ms);
        let bucket = self.bucket(whose, day);
        let cached = self.slots.get(recent.slot).is_some_and(|slot| slot.number == recent.number);
        if !(cached && recent.day == day && recent.bucket == bucket) {
            let slot = self.open(whose, day, bucket, now_ms);
            let number = self.slots.get(slot).map_or(0, |slot| slot.number);
            *recent = Recent { day, bucket, slot, number };
        }
        let Some(slot) = self.slots.get_mut(recent.slot) else { return false };
        let batch = &mut slot.batch;
        let before = batch.text.len();
        write(batch);
        self.bytes += batch.text.len() - before;
        let registered =
            batch.pieces.last() == Some(&whose.group) || batch.pieces.contains(&whose.group);
        if !registered {
            batch.pieces.push(whose.group);
        }
        let full =
            batch.rows.len() >= self.limits.batch_rows || batch.text.len() >= BATCH_BYTES_MAX;
        if full {
            self.seal(recent.slot, ready);
        } else if self.bytes > self.limits.open_bytes {
            self.seal_oldest(ready);
        }
        !registered
    }

    fn bucket(&mut self, whose: &Whose<'_>, day: i32) -> i16 {
        let known = self.layout.as_ref().is_some_and(|(table, source, of_day, _)| {
            *of_day == day && *table == whose.table && Arc::ptr_eq(source, whose.source)
        });
        if !known {
            let layout = (self.layouts)(whose.table, whose.source, day);
            self.layout = Some((whose.table, Arc::clone(whose.source), day, layout));
        }
        let layout = self.layout.as_ref().and_then(|(.., layout)| *layout);
        layout.map_or(0, |layout| layout.bucket(whose.level, whose.key))
    }

    fn open(&mut self, whose: &Whose<'_>, day: i32, bucket: i16, now_ms: u64) -> usize {
        let source = Arc::clone(whose.source);
        let partition = Partition { table: whose.table, day, source, bucket };
        if let Some(&slot) = self.by_partition.get(&partition) {
            return slot;
        }
        let batch = match self.spare.pop() {
            Some(mut batch) => {
                batch.reset(partition.clone());
                batch
            }
            None => Batch::new(partition.clone(), Arc::clone(&self.host)),
        };
        self.numbers += 1;
        self.slots.push(Slot { batch, number: self.numbers, opened_ms: now_ms });
        let slot = self.slots.len() - 1;
        self.by_partition.insert(partition, slot);
        slot
    }

    fn seal(&mut self, index: usize, ready: &mut Vec<Batch>) {
        let Slot { mut batch, .. } = self.slots.swap_remove(index);
        self.by_partition.remove(&batch.partition);
        if let Some(moved) = self.slots.get(index) {
            self.by_partition.insert(moved.batch.partition.clone(), index);
        }
        self.bytes -= batch.text.len();
        batch.stamp = (self.stamps)(batch.rows.len());
        ready.push(batch);
    }

    fn seal_oldest(&mut self, ready: &mut Vec<Batch>) {
        let oldest = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.number);
        if let Some((index, _)) = oldest {
            self.seal(index, ready);
        }
    }

    /// Hands out the batches that are old, or `all`.
    pub fn flush(&mut self, now_ms: u64, all: bool, ready: &mut Vec<Batch>) {
        self.layout = None;
        let old = |slot: &Slot| all || now_ms >= slot.opened_ms + self.limits.batch_age_ms;
        let mut due: Vec<(u64, usize)> = Vec::new();
        for (index, slot) in self.slots.iter().enumerate().filter(|(_, slot)| old(slot)) {
            due.push((slot.number, index));
        }
        due.sort_unstable();
        for (number, _) in due {
            if let Some(index) = self.slots.iter().position(|slot| slot.number == number) {
                self.seal(index, ready);
            }
        }
    }

    /// Whether any batch is open.
    #[must_use]
    pub fn has_open(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Takes an empty batch for use again. Batches that grew much are let go.
    pub fn recycle(&mut self, batch: Batch) {
        const KEPT_MAX: usize = 8;
        if self.spare.len() < KEPT_MAX && batch.text.capacity() <= 2 * BATCH_BYTES_MAX {
            self.spare.push(batch);
        }
    }
}
