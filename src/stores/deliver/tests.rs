//! Tests of delivery, under a paused clock and with a scripted store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Reaction::{Isolate, Retry, Stop, Wait};
use super::*;
use crate::batch::Row;
use crate::key::{Layout, Partition, RowKey, Table};
use crate::ledger::{
    Context, DeadLetter, LossReceipt, OriginId, OriginRecord, Reason, Span, StoredOrigin, Watermark,
};
use crate::record::Level;
use crate::state::Post;
use crate::stores::{Answer, StoredText, Written};

const NOW_MS: i64 = 1_795_341_600_000;

/// A store that answers from a script, then by its rules; it keeps key and stamp of each row.
#[derive(Default)]
struct ScriptedStore {
    answers: Mutex<VecDeque<StoreError>>,
    /// Offsets that it calls invalid.
    invalid: BTreeSet<i64>,
    /// It calls everything of this table invalid, as a server does after a column is gone.
    broken: Mutex<Option<Table>>,
    /// It never answers.
    hangs: AtomicBool,
    refuses_letters: bool,
    expires: BTreeSet<i64>,
    rows: Mutex<BTreeMap<i64, i64>>,
    letters: Mutex<Vec<DeadLetter>>,
    writes: AtomicUsize,
    now_writing: AtomicUsize,
    most_writing: AtomicUsize,
}

fn invalid() -> StoreError {
    StoreError::Invalid { store: "scripted", detail: "no such value".to_owned() }
}

fn down() -> StoreError {
    StoreError::Timeout { store: "scripted", waited: Duration::from_secs(2) }
}

impl ScriptedStore {
    async fn answer(&self, batch: &Batch) -> Result<Written, StoreError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let writing = self.now_writing.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_writing.fetch_max(writing, Ordering::Relaxed);
        sleep(Duration::from_millis(1)).await;
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.now_writing.fetch_sub(1, Ordering::Relaxed);
        if let Some(error) = self.answers.lock().unwrap().pop_front() {
            return Err(error);
        }
        if *self.broken.lock().unwrap() == Some(batch.partition.table)
            || batch.rows.iter().any(|row| self.invalid.contains(&row.key.offset_bytes))
        {
            return Err(invalid());
        }
        let mut written = Written::default();
        let mut rows = self.rows.lock().unwrap();
        for (index, row) in batch.rows.iter().enumerate() {
            if self.expires.contains(&row.key.offset_bytes) {
                written.expired.push(index);
            } else {
                rows.insert(row.key.offset_bytes, batch.row_stamp(index));
            }
        }
        Ok(written)
    }
}

fn done<T: Send + 'static>(value: T) -> Answer<'static, T> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Store for ScriptedStore {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn in_flight(&self) -> InFlight {
        InFlight { rows: 4000, bytes: 1 << 20, batches: 8 }
    }

    fn check(&self) -> Answer<'_, ()> {
        done(())
    }

    fn layout(&self, _: Table, _: &str, _: i32) -> Option<Layout> {
        None
    }

    fn write(&self, batch: Arc<Batch>) -> Answer<'_, Written> {
        Box::pin(async move { self.answer(&batch).await })
    }

    fn put_origin<'a>(&'a self, _: &'a OriginRecord, _: &'a [Context], _: i64) -> Answer<'a, ()> {
        done(())
    }

    fn put_spans<'a>(&'a self, _: &'a [Span], _: i64) -> Answer<'a, ()> {
        done(())
    }

    fn put_receipts<'a>(&'a self, _: &'a [LossReceipt], _: i64) -> Answer<'a, ()> {
        done(())
    }

    fn put_watermarks<'a>(&'a self, _: &'a [Watermark], _: i64) -> Answer<'a, ()> {
        done(())
    }

    fn put_dead_letters<'a>(&'a self, letters: &'a [DeadLetter], _: i64) -> Answer<'a, ()> {
        if self.refuses_letters {
            return Box::pin(std::future::ready(Err(invalid())));
        }
        self.letters.lock().unwrap().extend_from_slice(letters);
        done(())
    }

    fn last_spans<'a>(&'a self, _: &'a [OriginId]) -> Answer<'a, Vec<Span>> {
        done(Vec::new())
    }

    fn texts<'a>(&'a self, _: &'a [(Partition, RowKey)]) -> Answer<'a, Vec<Option<StoredText>>> {
        done(Vec::new())
    }

    fn origins<'a>(&'a self, _: Option<&'a str>) -> Answer<'a, Vec<StoredOrigin>> {
        done(Vec::new())
    }

    fn close(&self) -> Answer<'_, ()> {
        done(())
    }
}

/// A batch of rows at these offsets, whose piece is numbered by the first.
fn batch_of(table: Table, offsets: std::ops::Range<i64>) -> Batch {
    let partition = Partition { table, day: 20_779, source: "app".into(), bucket: 0, user: None };
    let mut batch = Batch::new(partition, Arc::from("web1"));
    batch.stamp = 1_000_000 + offsets.start;
    batch.pieces.push(offsets.start.unsigned_abs());
    for offset in offsets {
        let start = u32::try_from(batch.text.len()).unwrap();
        batch.text.extend_from_slice(format!("line at {offset}").as_bytes());
        let end = u32::try_from(batch.text.len()).unwrap();
        batch.rows.push(Row {
            rung: None,
            key: RowKey { timestamp_ms: NOW_MS, origin: 7, offset_bytes: offset },
            level: Level::Info,
            message: start..end,
            metadata: end..end,
            further: None,
        });
    }
    batch
}

fn batch(offsets: std::ops::Range<i64>) -> Batch {
    batch_of(Table::Infrastructure, offsets)
}

/// Delivery that runs, and the ends of its channels.
struct Running {
    store: Arc<ScriptedStore>,
    state: Arc<State>,
    spare: Arc<Spare>,
    batches: mpsc::Sender<Batch>,
    acks: mpsc::Receiver<Ack>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<Abandoned, StoreError>>,
    _dir: tempfile::TempDir,
}

fn start(store: ScriptedStore) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(State::open(dir.path(), NOW_MS).unwrap());
    let (store, spare, stop) =
        (Arc::new(store), Arc::new(Spare::default()), CancellationToken::new());
    let (batches, input) = mpsc::channel(8);
    let (output, acks) = mpsc::channel(64);
    let deliver = Deliver {
        store: Arc::clone(&store) as Arc<dyn Store>,
        state: Arc::clone(&state),
        stamps: Arc::new(Stamps::volatile(0)),
        spare: Arc::clone(&spare),
        metrics: StoreMetrics::new("scripted"),
        now_ms: || NOW_MS,
        seed: 1,
        shutdown_timeout: Duration::from_secs(10),
    };
    let task = tokio::spawn(run(deliver, input, output, stop.clone()));
    Running { store, state, spare, batches, acks, stop, task, _dir: dir }
}

impl Running {
    fn stored(&self) -> Vec<i64> {
        self.store.rows.lock().unwrap().keys().copied().collect()
    }

    async fn end(self) -> Abandoned {
        drop(self.batches);
        self.task.await.unwrap().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_three_times_is_waited_for_and_gets_the_rows_with_their_stamps() {
    let answers = Mutex::new(vec![down(); 3].into());
    let mut running = start(ScriptedStore { answers, ..ScriptedStore::default() });
    let started = Instant::now();
    running.batches.send(batch(10..12)).await.unwrap();
    let ack = running.acks.recv().await.unwrap();
    assert_eq!(ack, Ack { pieces: vec![10], not_rows: vec![] });
    let waited = started.elapsed().as_millis();
    assert!((350..=710).contains(&waited), "{waited} ms");
    assert_eq!(running.store.rows.lock().unwrap()[&11], 1_000_011);
    assert_eq!(running.store.writes.load(Ordering::Relaxed), 4);
    assert!(running.spare.take().is_some(), "the batch is used again");
    assert_eq!(running.end().await, Abandoned::default());
}

#[tokio::test(start_paused = true)]
async fn an_invalid_row_is_isolated_and_the_others_are_stored() {
    let invalid = BTreeSet::from([1000, 1700, 1701]);
    let mut running = start(ScriptedStore { invalid, ..ScriptedStore::default() });
    running.batches.send(batch(1000..2000)).await.unwrap();
    let ack = running.acks.recv().await.unwrap();
    let told: Vec<_> = ack.not_rows.iter().map(|row| (row.0, row.1.offset_bytes)).collect();
    assert_eq!(told, [1000, 1700, 1701].map(|offset| (Reason::DeadLetter, offset)));
    assert_eq!(running.stored().len(), 997);
    assert_eq!(running.store.rows.lock().unwrap()[&1999], 1_001_999, "parts keep the stamps");
    let letters = running.store.letters.lock().unwrap().clone();
    assert_eq!(
        letters.iter().map(|letter| letter.offset_bytes).collect::<Vec<_>>(),
        [1000, 1700, 1701]
    );
    assert_eq!(letters[0].message, "line at 1000");
    assert!(letters[0].reason.contains("no such value"));
    assert!(running.store.writes.load(Ordering::Relaxed) < 80, "found by halves");
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_the_store_refuses_is_kept_in_the_state() {
    let mut running = start(ScriptedStore {
        invalid: BTreeSet::from([5]),
        refuses_letters: true,
        ..ScriptedStore::default()
    });
    running.batches.send(batch(5..7)).await.unwrap();
    assert_eq!(running.acks.recv().await.unwrap().not_rows.len(), 1);
    let posts = running.state.outbox().unwrap();
    assert!(matches!(&posts[..], [Post::Letter(letter)] if letter.offset_bytes == 5), "{posts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_calls_everything_invalid_is_an_outage() {
    let mut running = start(ScriptedStore::default());
    running.batches.send(batch_of(Table::Application, 0..3)).await.unwrap();
    running.batches.send(batch(10..13)).await.unwrap();
    running.acks.recv().await.unwrap();
    running.acks.recv().await.unwrap();

    // a column is dropped: rows of the other table are taken all the same
    *running.store.broken.lock().unwrap() = Some(Table::Infrastructure);
    running.batches.send(batch(20..30)).await.unwrap();
    running.batches.send(batch_of(Table::Application, 30..33)).await.unwrap();
    assert_eq!(running.acks.recv().await.unwrap().pieces, [30]);
    sleep(Duration::from_hours(1)).await;
    assert!(running.acks.try_recv().is_err() && running.store.letters.lock().unwrap().is_empty());
    let writes = running.store.writes.load(Ordering::Relaxed);
    assert!(writes < 3000, "{writes} writes in an hour");

    *running.store.broken.lock().unwrap() = None;
    let repaired = Instant::now();
    assert_eq!(running.acks.recv().await.unwrap(), Ack { pieces: vec![20], not_rows: vec![] });
    assert!(repaired.elapsed() <= Duration::from_secs(11));
    assert_eq!(running.stored().len(), 3 + 3 + 10 + 3);
}

#[tokio::test(start_paused = true)]
async fn a_first_row_that_is_invalid_waits_for_another_row_to_be_taken() {
    let invalid = BTreeSet::from([1]);
    let mut running = start(ScriptedStore { invalid, ..ScriptedStore::default() });
    running.batches.send(batch(1..2)).await.unwrap();
    sleep(Duration::from_mins(1)).await;
    assert!(running.acks.try_recv().is_err(), "nothing shows that the store takes rows");
    running.batches.send(batch(2..3)).await.unwrap();
    assert_eq!(running.acks.recv().await.unwrap().pieces, [2]);
    let ack = running.acks.recv().await.unwrap();
    assert_eq!((ack.pieces, ack.not_rows.len()), (vec![1], 1));
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_never_a_row_that_was_amended_since() {
    let invalid = BTreeSet::from([100]);
    let mut running = start(ScriptedStore { invalid, ..ScriptedStore::default() });
    running.batches.send(batch(1..2)).await.unwrap();
    running.acks.recv().await.unwrap();
    let mut amended = batch(1..2);
    amended.stamp += 500;
    running.batches.send(amended).await.unwrap();
    running.acks.recv().await.unwrap();
    running.batches.send(batch(100..101)).await.unwrap();
    assert_eq!(running.acks.recv().await.unwrap().not_rows.len(), 1);
    assert_eq!(running.store.rows.lock().unwrap()[&1], 1_000_501);
}

#[tokio::test(start_paused = true)]
async fn rows_of_days_that_are_dropped_are_told_as_expired() {
    let mut running = start(ScriptedStore {
        expires: BTreeSet::from([3, 6]),
        invalid: BTreeSet::from([4]),
        ..ScriptedStore::default()
    });
    running.batches.send(batch(0..8)).await.unwrap();
    let mut told: Vec<_> = running.acks.recv().await.unwrap().not_rows;
    told.sort_by_key(|row| row.1.offset_bytes);
    let told: Vec<_> = told.iter().map(|row| (row.1.offset_bytes, row.0)).collect();
    assert_eq!(told, [(3, Reason::Expired), (4, Reason::DeadLetter), (6, Reason::Expired)]);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_in_flight_than_the_store_allows() {
    let mut running = start(ScriptedStore::default());
    let batches = running.batches.clone();
    let sender = tokio::spawn(async move {
        for number in 0..40 {
            batches.send(batch(number * 1000..number * 1000 + 1000)).await.unwrap();
        }
        // alone as large as all that may be in flight
        batches.send(batch(50_000..56_000)).await.unwrap();
    });
    for _ in 0..41 {
        running.acks.recv().await.unwrap();
    }
    sender.await.unwrap();
    assert_eq!(running.store.most_writing.load(Ordering::Relaxed), 4);
    assert_eq!(running.stored().len(), 46_000);
}

#[tokio::test(start_paused = true)]
async fn all_waiting_batches_go_on_at_once_when_the_store_is_back() {
    let answers = Mutex::new(vec![down(); 40].into());
    let mut running = start(ScriptedStore { answers, ..ScriptedStore::default() });
    for number in 0..4 {
        running.batches.send(batch(number..number + 1)).await.unwrap();
    }
    running.acks.recv().await.unwrap();
    let first = Instant::now();
    for _ in 0..3 {
        running.acks.recv().await.unwrap();
    }
    assert!(first.elapsed() < Duration::from_millis(50), "{:?}", first.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_store_of_a_newer_program_ends_delivery() {
    let newer = StoreError::Newer { store: "scripted", found: 9, known: 1 };
    let answers = Mutex::new(vec![newer].into());
    let running = start(ScriptedStore { answers, ..ScriptedStore::default() });
    running.batches.send(batch(0..1)).await.unwrap();
    let error = running.task.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
    assert!(running.store.rows.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn after_a_stop_what_is_in_flight_gets_its_time_and_no_more() {
    let running = start(ScriptedStore { hangs: true.into(), ..ScriptedStore::default() });
    running.batches.send(batch(0..1000)).await.unwrap();
    running.batches.send(batch(1000..1010)).await.unwrap();
    sleep(Duration::from_hours(1)).await;
    let stopped = Instant::now();
    running.stop.cancel();
    assert_eq!(running.task.await.unwrap().unwrap(), Abandoned { batches: 2, rows: 1010 });
    assert_eq!(stopped.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_what_is_on_its_way_arrive() {
    let mut running = start(ScriptedStore::default());
    for number in 0..6 {
        running.batches.send(batch(number..number + 1)).await.unwrap();
    }
    running.stop.cancel();
    let mut acks = std::mem::replace(&mut running.acks, mpsc::channel(1).1);
    assert_eq!(running.end().await, Abandoned::default());
    let mut count = 0;
    while acks.recv().await.is_some() {
        count += 1;
    }
    assert_eq!(count, 6);
}

#[test]
fn every_error_has_its_reaction() {
    let detail = String::new;
    let store = "scripted";
    let told = [
        StoreError::Unreachable { store, detail: detail() },
        down(),
        StoreError::Outage { store, detail: detail() },
        StoreError::Schema { store, detail: detail() },
        invalid(),
        StoreError::Newer { store, found: 2, known: 1 },
    ]
    .map(|error| error.reaction());
    assert_eq!(told, [Retry, Retry, Wait, Wait, Isolate, Stop]);
}
