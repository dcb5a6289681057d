//! Fills batches: one open batch per partition; full, old or too many, it goes.

use std::collections::{BTreeMap, HashMap};
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
    /// Bytes of all open batches together, by [`Batch::held_bytes`].
    pub open_bytes: usize,
}

/// How a day of a source is cut into buckets; `None` where the store has no buckets.
pub type Layouts = Box<dyn Fn(Table, &str, i32) -> Option<Layout> + Send>;

/// Gives write timestamps: the first of `n` consecutive ones.
pub type TakeStamps = Box<dyn FnMut(usize) -> i64 + Send>;

/// Which part of a source's day: its bucket, or a user's events.
type Part = (i16, Option<u128>);

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
    part: Part,
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
    /// Open batches by number, which is by age: with one for each user they are thousands.
    by_age: BTreeMap<u64, usize>,
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
    /// Whose event it is; only of `user_events`.
    pub user: u128,
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
            by_age: BTreeMap::new(),
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
        let part = self.part(whose, day);
        let cached = self.slots.get(recent.slot).is_some_and(|slot| slot.number == recent.number);
        if !(cached && recent.day == day && recent.part == part) {
            let slot = self.open(whose, day, part, now_ms);
            let number = self.slots.get(slot).map_or(0, |slot| slot.number);
            *recent = Recent { day, part, slot, number };
        }
        let Some(slot) = self.slots.get_mut(recent.slot) else { return false };
        let batch = &mut slot.batch;
        let before = batch.held_bytes();
        write(batch);
        self.bytes += batch.held_bytes() - before;
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

    fn part(&mut self, whose: &Whose<'_>, day: i32) -> Part {
        let known = self.layout.as_ref().is_some_and(|(table, source, of_day, _)| {
            *of_day == day && *table == whose.table && Arc::ptr_eq(source, whose.source)
        });
        if !known {
            let layout = (self.layouts)(whose.table, whose.source, day);
            self.layout = Some((whose.table, Arc::clone(whose.source), day, layout));
        }
        match self.layout.as_ref().and_then(|(.., layout)| *layout) {
            None => (0, None),
            Some(_) if whose.table == Table::Events => (0, Some(whose.user)),
            Some(layout) => (layout.bucket(whose.level, whose.key), None),
        }
    }

    fn open(&mut self, whose: &Whose<'_>, day: i32, (bucket, user): Part, now_ms: u64) -> usize {
        let source = Arc::clone(whose.source);
        let partition = Partition { table: whose.table, day, source, bucket, user };
        if let Some(&slot) = self.by_partition.get(&partition) {
            return slot;
        }
        // the batch of one user is small: a used one, large as it has become, would be wasted
        let spare = if user.is_none() { self.spare.pop() } else { None };
        let batch = match spare {
            Some(mut batch) => {
                batch.reset(partition.clone());
                batch
            }
            None => Batch::new(partition.clone(), Arc::clone(&self.host)),
        };
        self.numbers += 1;
        self.bytes += batch.held_bytes();
        self.slots.push(Slot { batch, number: self.numbers, opened_ms: now_ms });
        let slot = self.slots.len() - 1;
        self.by_partition.insert(partition, slot);
        self.by_age.insert(self.numbers, slot);
        slot
    }

    fn seal(&mut self, index: usize, ready: &mut Vec<Batch>) {
        let Slot { mut batch, number, .. } = self.slots.swap_remove(index);
        self.by_partition.remove(&batch.partition);
        self.by_age.remove(&number);
        if let Some(moved) = self.slots.get(index) {
            self.by_partition.insert(moved.batch.partition.clone(), index);
            self.by_age.insert(moved.number, index);
        }
        self.bytes -= batch.held_bytes();
        batch.stamp = (self.stamps)(batch.rows.len());
        ready.push(batch);
    }

    fn seal_oldest(&mut self, ready: &mut Vec<Batch>) {
        if let Some((_, &index)) = self.by_age.first_key_value() {
            self.seal(index, ready);
        }
    }

    /// Hands out the batches that are old, or `all`.
    pub fn flush(&mut self, now_ms: u64, all: bool, ready: &mut Vec<Batch>) {
        self.layout = None;
        let age_ms = self.limits.batch_age_ms;
        let old = |slot: &Slot| all || now_ms >= slot.opened_ms + age_ms;
        while let Some((_, &index)) = self.by_age.first_key_value()
            && self.slots.get(index).is_some_and(old)
        {
            self.seal(index, ready);
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
        if batch.partition.user.is_none()
            && self.spare.len() < KEPT_MAX
            && batch.text.capacity() <= 2 * BATCH_BYTES_MAX
        {
            self.spare.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::batch::{EventColumns, Row};

    const LIMITS: FillLimits =
        FillLimits { batch_rows: 1000, batch_age_ms: 1000, open_bytes: 16 << 20 };

    struct Events {
        fill: Fill,
        source: Arc<str>,
        recent: Recent,
        ready: Vec<Batch>,
        rows: i64,
    }

    impl Events {
        fn new(limits: FillLimits, layout: Option<Layout>) -> Self {
            let layouts: Layouts = Box::new(move |_, _, _| layout);
            let fill = Fill::new(limits, "web1".into(), layouts, Box::new(|_| 0));
            let (source, recent) = (Table::Events.name().into(), Recent::default());
            Self { fill, source, recent, ready: Vec::new(), rows: 0 }
        }

        fn of(&mut self, user: u128, text_bytes: usize, now_ms: u64) {
            self.rows += 1;
            let key = RowKey { timestamp_ms: 5, origin: 1, offset_bytes: self.rows };
            let (source, level) = (&self.source, Level::Info);
            let whose = Whose { table: Table::Events, source, group: 1, key, level, user };
            self.fill.row(&whose, &mut self.recent, now_ms, &mut self.ready, |batch| {
                batch.text.extend(std::iter::repeat_n(b'x', text_bytes));
                batch.events.push(EventColumns { user_id: user, ..EventColumns::default() });
                let (message, metadata, further) = (0..0, 0..0, None);
                batch.rows.push(Row { rung: None, key, level, message, metadata, further });
            });
        }

        fn users(&self) -> Vec<Option<u128>> {
            self.ready.iter().map(|batch| batch.partition.user).collect()
        }
    }

    #[test]
    fn users_have_batches_of_their_own_where_the_store_keeps_them_apart() {
        for (layout, users) in [
            (Some(Layout { slot_hours: 1, shards: 4 }), vec![Some(7), Some(0), Some(9)]),
            (None, vec![None]),
        ] {
            let mut events = Events::new(LIMITS, layout);
            for user in [7, 0, 9, 0, 7] {
                events.of(user, 10, 0);
            }
            events.fill.flush(0, true, &mut events.ready);
            assert_eq!(events.users(), users);
            let rows: usize = events.ready.iter().map(|batch| batch.rows.len()).sum();
            assert_eq!(rows, 5);
            assert!(events.ready.iter().all(|batch| batch.partition.bucket == 0));
        }
    }

    #[test]
    fn batches_go_by_age_and_those_that_are_young_stay() {
        let mut events = Events::new(LIMITS, Some(Layout::default()));
        for (user, at_ms) in [(1, 0), (2, 400), (3, 900), (1, 950)] {
            events.of(user, 10, at_ms);
        }
        events.fill.flush(999, false, &mut events.ready);
        assert_eq!(events.users(), []);
        events.fill.flush(1400, false, &mut events.ready);
        assert_eq!(events.users(), [Some(1), Some(2)]);
        events.of(1, 10, 1500);
        events.fill.flush(1900, false, &mut events.ready);
        assert_eq!(events.users(), [Some(1), Some(2), Some(3)]);
        assert!(events.fill.has_open());
    }

    #[test]
    fn open_batches_of_many_users_keep_their_limit_and_the_oldest_go_first() {
        let limits = FillLimits { open_bytes: 1 << 20, ..LIMITS };
        let mut events = Events::new(limits, Some(Layout::default()));
        for user in 0..5000 {
            events.of(user, 200, 0);
            let open: usize = events.fill.slots.iter().map(|slot| slot.batch.held_bytes()).sum();
            assert_eq!(open, events.fill.bytes);
            assert!(open <= limits.open_bytes);
        }
        assert!(events.ready.len() > 4000, "{} had to go", events.ready.len());
        let expected: Vec<_> = (0..events.ready.len() as u128).map(Some).collect();
        assert_eq!(events.users(), expected);
    }

    #[test]
    fn so_many_users_cost_no_more_each() {
        let time = |users: u128| {
            let limits = FillLimits { open_bytes: 1 << 30, ..LIMITS };
            let mut events = Events::new(limits, Some(Layout::default()));
            let began = Instant::now();
            for number in 0..users * 2 {
                events.of(number % users, 10, 0);
            }
            events.fill.flush(0, true, &mut events.ready);
            assert_eq!(events.ready.len() as u128, users);
            began.elapsed()
        };
        time(1000);
        // a search through all open batches would take about 20 times 20 times as long
        let (few, many) = (time(2000), time(40_000));
        assert!(many < few * 100 + Duration::from_millis(50), "{few:?} and {many:?}");
    }

    #[test]
    fn a_large_used_batch_is_not_wasted_on_one_user() {
        let mut events = Events::new(LIMITS, Some(Layout::default()));
        let partition = Partition {
            table: Table::Application,
            day: 0,
            source: "app".into(),
            bucket: 0,
            user: None,
        };
        let mut large = Batch::new(partition, "web1".into());
        large.text.reserve(BATCH_BYTES_MAX);
        events.fill.recycle(large);
        events.of(1, 10, 0);
        events.fill.flush(0, true, &mut events.ready);
        let batch = events.ready.pop().unwrap();
        assert!(batch.text.capacity() < 1024);
        events.fill.recycle(batch);
        assert_eq!(events.fill.spare.len(), 1, "a small one would have to grow");
    }
}
