//! The drain over a real spool, crashes and damage included.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::sources::file::{MemoryState, Sum};
use crate::spool::{Part, Spool, SpoolConfig};

const NOW_MS: i64 = 1_795_305_600_000;

fn spool_config(dir: &Path, first_origin: i64) -> SpoolConfig {
    let mut next = first_origin;
    SpoolConfig {
        dir: dir.to_owned(),
        limit_bytes: 1 << 30,
        segment_bytes: 64 << 10,
        new_origin: Box::new(move || {
            next += 1;
            next
        }),
        now_ms: || NOW_MS,
        committed: Box::new(|_| {}),
        troubled: Box::new(|_| {}),
        stop: CancellationToken::new(),
    }
}

/// Writes lines of one lane, each in a commit of its own; a line of 60,000 bytes fills a segment
/// with its successor.
fn write(spool: &Spool, lane: &str, lines: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for line in lines {
            let (done, synced) = tokio::sync::oneshot::channel();
            let parts = vec![Part { lane: lane.into(), bytes: line.clone().into_bytes() }];
            let done = Box::new(move |_: &[_]| done.send(()).unwrap());
            assert!(spool.append(crate::spool::Append { client: None, parts, done }).await);
            synced.await.unwrap();
        }
    });
}

fn line(number: usize) -> String {
    format!("{number:06}{}\n", "x".repeat(40_000))
}

/// A spool with the lines 0 to `count`, as the run before left it.
fn filled(dir: &Path, count: usize) {
    let (spool, thread) = Spool::start(spool_config(dir, 0)).unwrap();
    write(&spool, "json app", &(0..count).map(line).collect::<Vec<_>>());
    drop(spool);
    thread.join().unwrap();
}

/// A run of the daemon: spool, drain, and what it handed out.
struct Run {
    spool: Option<(Spool, std::thread::JoinHandle<()>)>,
    drain: Drain,
    state: Arc<MemoryState>,
    /// The bytes of each origin, in the order of their first.
    handed: Vec<(OriginId, u64, Vec<u8>)>,
    receipts: Vec<LossReceipt>,
    aside: usize,
}

impl Run {
    fn start(dir: &Path, state: &Arc<MemoryState>, first_origin: i64) -> Self {
        let (spool, thread) = Spool::start(spool_config(dir, first_origin)).unwrap();
        let usage = Arc::clone(spool.usage());
        let config = DrainConfig { dir: dir.to_owned(), machine: "m".into(), host: "h".into() };
        let kept = Arc::clone(state) as Arc<dyn TailState>;
        let drain = Drain::new(config, kept, usage).unwrap();
        Self {
            spool: Some((spool, thread)),
            drain,
            state: Arc::clone(state),
            handed: Vec::new(),
            receipts: Vec::new(),
            aside: 0,
        }
    }

    /// Steps until nothing more comes; the store takes everything at once if `store` says so.
    fn steps(&mut self, store: bool) -> Result<(), DrainError> {
        for _ in 0..1000 {
            let mut out = Vec::new();
            let stepped = self.drain.step(16, NOW_MS, &mut out);
            let quiet = out.is_empty();
            for event in out {
                self.hear(event, store);
            }
            if !stepped? && quiet {
                return Ok(());
            }
        }
        panic!("it never comes to rest");
    }

    fn hear(&mut self, event: DrainEvent, store: bool) {
        match event {
            DrainEvent::Announce(record, _) => self.drain.announced(record.id),
            DrainEvent::Input(Input::Open(opening)) => {
                self.handed.push((opening.origin, opening.at, Vec::new()));
            }
            DrainEvent::Input(Input::Chunk(chunk)) => {
                let one = self.handed.iter_mut().rev().find(|one| one.0 == chunk.origin).unwrap();
                assert_eq!(one.1 + one.2.len() as u64, chunk.start, "chunks touch");
                one.2.extend(&chunk.bytes);
                let end = chunk.start + chunk.bytes.len() as u64;
                if store {
                    let sum = Sum { start_bytes: chunk.start, end_bytes: end, crc: 0 };
                    self.state.commit(chunk.origin, sum, 0, Vec::new());
                    self.drain.committed(chunk.origin, end);
                }
            }
            DrainEvent::Input(_) => {}
            DrainEvent::Receipt(receipt) => self.receipts.push(receipt),
            DrainEvent::SetAside(..) => self.aside += 1,
        }
    }

    fn numbers(&self) -> Vec<usize> {
        let text: Vec<u8> = self.handed.iter().flat_map(|one| one.2.clone()).collect();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| String::from_utf8_lossy(&line[..6]).parse().unwrap()).collect()
    }

    fn end(mut self) {
        if let Some((spool, thread)) = self.spool.take() {
            drop(spool);
            thread.join().unwrap();
        }
    }
}

/// Changes a byte of the record of this number, in a segment that nobody has open.
fn damage(dir: &Path, segment: u64, number: usize) {
    let path = spool::path_of(dir, segment);
    let db = rusqlite::Connection::open(&path).unwrap();
    let sql = "UPDATE blocks SET bytes = CAST('Z' || substr(bytes, 2) AS BLOB) WHERE substr(bytes, 1, 6) = ?1";
    let changed = db.execute(sql, [format!("{number:06}").into_bytes()]).unwrap();
    assert_eq!(changed, 1);
}

/// A spool whose second record, in its first segment, is damaged; the number of that segment.
fn damaged(dir: &Path, count: usize) -> u64 {
    filled(dir, count);
    let first = spool::segments(dir).unwrap()[0];
    damage(dir, first, 1);
    first
}

#[test]
fn segments_are_drained_in_order_and_deleted_once_the_store_has_them() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 9);
    assert!(spool::segments(dir.path()).unwrap().len() > 3);
    let state = Arc::new(MemoryState::default());
    let mut run = Run::start(dir.path(), &state, 100);
    run.steps(true).unwrap();
    assert_eq!(run.numbers(), (0..9).collect::<Vec<_>>());
    let left = spool::segments(dir.path()).unwrap();
    assert_eq!(left, [run.drain.usage.active()], "only the active segment is left");
    assert_eq!(run.drain.usage.bytes(), 0);
    assert!(run.drain.caught_up());
    run.end();
}

#[test]
fn nothing_is_deleted_that_the_store_does_not_have_and_it_is_handed_out_again() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 5);
    let before = spool::segments(dir.path()).unwrap();
    let state = Arc::new(MemoryState::default());
    let mut run = Run::start(dir.path(), &state, 100);
    run.steps(false).unwrap();
    assert_eq!(run.numbers(), (0..5).collect::<Vec<_>>());
    run.end();
    let after = spool::segments(dir.path()).unwrap();
    assert!(before.iter().all(|number| after.contains(number)), "{before:?} {after:?}");
    let mut run = Run::start(dir.path(), &state, 200);
    run.steps(true).unwrap();
    assert_eq!(run.numbers(), (0..5).collect::<Vec<_>>());
    run.end();
}

/// A crash between the state's word that an origin is finished and the segment's end.
#[test]
fn a_segment_whose_origins_are_finished_is_not_handed_out_again() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3);
    let kept = tempfile::tempdir().unwrap();
    for number in spool::segments(dir.path()).unwrap() {
        for suffix in ["", "-wal", "-shm"] {
            let name = format!("{number:010}.db{suffix}");
            if dir.path().join(&name).exists() {
                std::fs::copy(dir.path().join(&name), kept.path().join(&name)).unwrap();
            }
        }
    }
    let state = Arc::new(MemoryState::default());
    let mut run = Run::start(dir.path(), &state, 100);
    run.steps(true).unwrap();
    assert_eq!(run.numbers(), [0, 1, 2]);
    run.end();
    // the same segments, as if they had not been deleted
    let mut again = Run::start(kept.path(), &state, 200);
    again.steps(true).unwrap();
    assert_eq!(again.numbers(), [0_usize; 0], "they are known to be stored");
    assert_eq!(spool::segments(kept.path()).unwrap().len(), 1);
    again.end();
}

#[test]
fn what_stands_before_the_damage_is_stored_and_the_rest_is_a_receipt_that_is_not_said_twice() {
    let dir = tempfile::tempdir().unwrap();
    damaged(dir.path(), 6);
    let state = Arc::new(MemoryState::default());
    let mut run = Run::start(dir.path(), &state, 100);
    run.steps(true).unwrap();
    assert_eq!(run.numbers(), [0, 2, 3, 4, 5], "a damaged segment holds up no other");
    assert_eq!((run.receipts.len(), run.aside), (1, 1));
    assert_eq!(run.receipts[0].start_bytes, line(0).len() as u64);
    run.end();
    let mut run = Run::start(dir.path(), &state, 200);
    run.steps(true).unwrap();
    assert_eq!((run.receipts.len(), run.aside), (0, 0));
    assert_eq!(run.drain.usage.bytes(), 0);
    run.end();
}

/// A receipt that says "from here on" while rows before it are not committed yet would leave out
/// what a crash then loses.
#[test]
fn a_damaged_segment_is_kept_until_what_was_handed_out_of_it_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let first = damaged(dir.path(), 6);
    let state = Arc::new(MemoryState::default());
    let mut run = Run::start(dir.path(), &state, 100);
    run.steps(false).unwrap();
    assert_eq!((run.receipts.len(), run.aside), (0, 0));
    assert!(spool::segments(dir.path()).unwrap().contains(&first));
    let (origin, at, bytes) = run.handed[0].clone();
    run.drain.committed(origin, at + bytes.len() as u64);
    run.steps(false).unwrap();
    assert_eq!((run.receipts.len(), run.aside), (1, 1));
    run.end();
}

/// The state refuses while a segment is to be set aside: then nothing is renamed, and it works
/// later, with one receipt.
#[test]
fn a_block_that_is_missing_is_damage_and_what_comes_after_it_is_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(MemoryState::default());
    filled(dir.path(), 2);
    let db = rusqlite::Connection::open(crate::spool::path_of(dir.path(), 1)).unwrap();
    db.execute_batch("DELETE FROM blocks WHERE id = 1; UPDATE blocks SET id = 1").unwrap();
    drop(db);
    let mut run = Run::start(dir.path(), &state, 10);
    run.steps(true).unwrap();
    assert_eq!(run.numbers(), [0_usize; 0]);
    assert_eq!((run.receipts.len(), run.aside), (1, 1));
    run.end();
}

#[test]
fn a_receipt_that_cannot_be_written_keeps_the_damaged_segment_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let first = damaged(dir.path(), 3);
    let state = Arc::new(MemoryState::default());
    let mut run = Run::start(dir.path(), &state, 100);
    run.steps(false).unwrap();
    let handed: Vec<_> = run.handed.iter().map(|one| (one.0, one.1 + one.2.len() as u64)).collect();
    for (origin, end) in handed {
        run.drain.committed(origin, end);
    }
    state.set_broken(true);
    assert!(run.steps(true).is_err());
    assert!(spool::path_of(dir.path(), first).exists());
    assert_eq!((run.receipts.len(), run.aside), (0, 0));
    state.set_broken(false);
    run.steps(true).unwrap();
    assert_eq!((run.receipts.len(), run.aside), (1, 1));
    run.end();
}

#[test]
fn damage_in_the_active_segment_ends_it_at_the_next_write_and_no_later_record_waits() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(MemoryState::default());
    let mut run = Run::start(dir.path(), &state, 0);
    let spool = run.spool.as_ref().unwrap().0.clone();
    let small = |number: usize| format!("{number:06}\n");
    write(&spool, "json app", &[small(0)]);
    run.steps(true).unwrap();
    write(&spool, "json app", &[small(1)]);
    damage(dir.path(), run.drain.usage.active(), 1);
    assert!(matches!(run.steps(true), Err(DrainError::Spool(SpoolError::Damaged { .. }))));
    write(&spool, "json app", &[small(2)]);
    drop(spool);
    run.steps(true).unwrap();
    assert_eq!(run.numbers(), [0, 2]);
    assert_eq!((run.receipts.len(), run.aside), (1, 1));
    run.end();
}

#[test]
fn a_damaged_segment_does_not_take_the_one_before_it_along() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 4);
    let numbers = spool::segments(dir.path()).unwrap();
    let second = spool::path_of(dir.path(), numbers[1]);
    let wal = format!("{}-wal", second.display());
    drop(std::fs::remove_file(wal));
    std::fs::write(&second, vec![7; 4096]).unwrap();
    let state = Arc::new(MemoryState::default());
    let mut run = Run::start(dir.path(), &state, 100);
    run.steps(true).unwrap();
    assert!(run.numbers().starts_with(&[0, 1]), "{:?}", run.numbers());
    assert_eq!((run.receipts.len(), run.aside), (1, 1));
    assert_eq!((run.receipts[0].origin, run.receipts[0].start_bytes), (0, numbers[1]));
    run.end();
}

#[test]
fn a_segment_of_a_newer_program_waits_and_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3);
    let first = spool::path_of(dir.path(), spool::segments(dir.path()).unwrap()[0]);
    rusqlite::Connection::open(&first).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let state = Arc::new(MemoryState::default());
    let mut run = Run::start(dir.path(), &state, 100);
    assert!(matches!(run.steps(true), Err(DrainError::Spool(SpoolError::Newer { .. }))));
    assert!(first.exists() && run.aside == 0);
    run.end();
}
