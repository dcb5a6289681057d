//! The spool over real files: synced, known again, full, damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::reader::sealed;
use super::*;

fn config(dir: &Path) -> SpoolConfig {
    let mut next = 0;
    SpoolConfig {
        dir: dir.to_owned(),
        limit_bytes: 1 << 30,
        segment_bytes: 1 << 20,
        new_origin: Box::new(move || {
            next += 1;
            next
        }),
        now_ms: || 1_795_305_600_000,
        committed: Box::new(|_| {}),
        troubled: Box::new(|_| {}),
        stop: CancellationToken::new(),
    }
}

fn client(id: u128) -> ClientKey {
    ClientKey { uid: 33, id }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Appends and waits until it is synced.
async fn append(
    spool: &Spool,
    client: Option<(ClientKey, u64)>,
    lane: &str,
    bytes: &[u8],
) -> Place {
    let (done, synced) = tokio::sync::oneshot::channel();
    let parts = vec![Part { lane: lane.into(), bytes: bytes.to_vec() }];
    let done = Box::new(move |places: &[Place]| done.send(places[0]).unwrap());
    assert!(spool.append(Append { client, parts, done }).await);
    synced.await.unwrap()
}

/// All bytes of each lane, as a reader finds them.
fn content(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for number in segments(dir).unwrap() {
        let seal = sealed(dir, number).unwrap();
        let reader = SegmentReader::open(dir, number, seal).unwrap();
        let mut last = 0;
        while let Some(block) = reader.block_after(last, i64::MAX).unwrap() {
            last = block.id;
            let lanes = reader.lanes().unwrap();
            let lane = lanes.iter().find(|lane| lane.id == block.lane).unwrap();
            match all.iter_mut().find(|(name, _)| *name == lane.name) {
                Some((_, bytes)) => bytes.extend(block.bytes),
                None => all.push((lane.name.clone(), block.bytes)),
            }
        }
    }
    all.sort();
    all
}

#[test]
fn what_was_appended_is_there_after_the_writer_has_gone_by_lane_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, thread) = Spool::start(config(dir.path())).unwrap();
    block_on(async {
        let one = append(&spool, None, "a", b"one\n").await;
        let two = append(&spool, None, "b", b"two\n").await;
        let three = append(&spool, None, "a", b"three\n").await;
        assert_eq!(three, Place { offset_bytes: 4, ..one });
        assert_eq!((one.offset_bytes, two.offset_bytes), (0, 0));
        assert_ne!(one.origin, two.origin, "each lane is an origin");
    });
    drop(spool);
    thread.join().unwrap();
    let expected =
        vec![("a".to_owned(), b"one\nthree\n".to_vec()), ("b".to_owned(), b"two\n".to_vec())];
    assert_eq!(content(dir.path()), expected);
}

#[test]
fn a_client_is_known_after_a_restart_and_in_each_new_segment() {
    let dir = tempfile::tempdir().unwrap();
    let line = [vec![b'x'; 60_000], b"\n".to_vec()].concat();
    let (spool, thread) = Spool::start(config(dir.path())).unwrap();
    block_on(async {
        append(&spool, Some((client(1), 7)), "a", b"one\n").await;
        for number in 1..=40 {
            append(&spool, Some((client(2), number)), "a", &line).await;
        }
    });
    drop(spool);
    thread.join().unwrap();
    let numbers = segments(dir.path()).unwrap();
    assert!(numbers.len() > 2, "2.4 MB make several segments of 1 MiB: {numbers:?}");
    for number in &numbers[..numbers.len() - 1] {
        remove(dir.path(), *number).unwrap();
    }
    let (spool, thread) = Spool::start(config(dir.path())).unwrap();
    let known = block_on(async {
        [spool.acked(client(1)).await, spool.acked(client(2)).await, spool.acked(client(3)).await]
    });
    assert_eq!(known, [Some(7), Some(40), Some(0)]);
    drop(spool);
    thread.join().unwrap();
}

#[test]
fn what_a_client_had_in_a_commit_that_failed_is_not_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, thread) = Spool::start(config(dir.path())).unwrap();
    block_on(append(&spool, Some((client(1), 1)), "a", b"one\n"));
    // this one failed and was left in the log: the segment after it says so, and nothing came then
    block_on(append(&spool, Some((client(1), 2)), "a", b"two\n"));
    drop(spool);
    thread.join().unwrap();
    let clients = BTreeMap::from([(client(1), (1, 1_795_305_600_000))]);
    let sealed = Some(Sealed { segment: 1, blocks: 1 });
    drop(segment::Segment::create(dir.path(), 2, &clients, sealed).unwrap());
    let (spool, thread) = Spool::start(config(dir.path())).unwrap();
    assert_eq!(block_on(spool.acked(client(1))), Some(1), "its record would be lost");
    block_on(append(&spool, Some((client(1), 2)), "a", b"two\n"));
    assert_eq!(content(dir.path()), [("a".to_owned(), b"one\ntwo\n".to_vec())]);
    drop(spool);
    thread.join().unwrap();
}

#[test]
fn a_full_spool_takes_nothing_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let says = Arc::clone(&told);
    let troubled = Box::new(move |error: Option<&SpoolError>| {
        says.lock().unwrap().push(error.map(ToString::to_string));
    });
    let config = SpoolConfig { limit_bytes: 10, troubled, ..config(dir.path()) };
    let (spool, thread) = Spool::start(config).unwrap();
    block_on(async {
        append(&spool, None, "a", b"0123456789\n").await;
        let more = append(&spool, None, "a", b"more\n");
        tokio::pin!(more);
        let early = tokio::time::timeout(Duration::from_millis(300), &mut more).await;
        assert!(early.is_err(), "it was taken although the spool is full");
        spool.usage().remove(1);
        more.await;
    });
    let told = told.lock().unwrap().clone();
    assert!(told[0].as_ref().unwrap().contains("spool_max"), "{told:?}");
    assert_eq!(told[1..], [None]);
    drop(spool);
    thread.join().unwrap();
}

#[test]
fn a_damaged_block_is_noticed_and_a_segment_can_be_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, thread) = Spool::start(config(dir.path())).unwrap();
    block_on(append(&spool, None, "a", b"one\n"));
    block_on(append(&spool, None, "a", b"two\n"));
    drop(spool);
    thread.join().unwrap();
    let db = rusqlite::Connection::open(path_of(dir.path(), 1)).unwrap();
    db.execute("UPDATE blocks SET bytes = x'00' WHERE id = 2", []).unwrap();
    drop(db);
    let reader = SegmentReader::open(dir.path(), 1, None).unwrap();
    assert_eq!(reader.block_after(0, i64::MAX).unwrap().unwrap().bytes, b"one\n");
    assert!(matches!(reader.block_after(1, i64::MAX), Err(SpoolError::Damaged { .. })));
    drop(reader);
    let aside = set_aside(dir.path(), 1, 5).unwrap();
    assert!(aside.exists());
    assert_eq!(segments(dir.path()).unwrap(), Vec::<u64>::new());
}

#[test]
fn reading_goes_on_behind_what_is_committed_of_each_lane() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, thread) = Spool::start(config(dir.path())).unwrap();
    block_on(async {
        append(&spool, None, "a", b"one\ntwo\n").await;
        append(&spool, None, "b", b"three\n").await;
        append(&spool, None, "a", b"four\n").await;
    });
    let reader = SegmentReader::open(dir.path(), 1, None).unwrap();
    let before = |a, b| reader.block_before(&BTreeMap::from([(1, a), (2, b)])).unwrap();
    assert_eq!(before(0, 0), 0);
    assert_eq!(before(4, 6), 0, "half of the first block");
    assert_eq!(before(8, 0), 1);
    assert_eq!(before(8, 6), 2);
    assert_eq!(before(13, 6), 3);
    assert_eq!(reader.bytes_before(1, 10, 256).unwrap(), b"one\ntwo\nfo");
    assert_eq!(reader.bytes_before(1, 10, 3).unwrap(), b"\nfo");
    drop(spool);
    thread.join().unwrap();
}

#[test]
fn what_is_written_while_a_segment_is_opened_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, thread) = Spool::start(config(dir.path())).unwrap();
    let reader = SegmentReader::open(dir.path(), 1, None).unwrap();
    let lanes = reader.lanes().unwrap();
    block_on(append(&spool, None, "a", b"one\n"));
    assert_eq!(reader.block_before(&lanes.iter().map(|lane| (lane.id, 0)).collect()).unwrap(), 0);
    // and the same by chance, of a lane that is known
    let stop = CancellationToken::new();
    let writes = std::thread::spawn({
        let stop = stop.clone();
        move || {
            block_on(async {
                while !stop.is_cancelled() {
                    append(&spool, None, "a", b"more\n").await;
                }
            });
        }
    });
    for _ in 0..300 {
        let reader = SegmentReader::open(dir.path(), 1, None).unwrap();
        let first = BTreeMap::from([(1, 4)]);
        assert!(reader.block_before(&first).unwrap() <= 1, "more than the first block");
    }
    stop.cancel();
    writes.join().unwrap();
    thread.join().unwrap();
}

#[test]
fn a_segment_that_a_kill_left_half_made_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("0000000001.db.new"), "half of it").unwrap();
    assert_eq!(segments(dir.path()).unwrap(), [0_u64; 0], "it is no segment yet");
    let (spool, thread) = Spool::start(config(dir.path())).unwrap();
    block_on(append(&spool, None, "a", b"one\n"));
    drop(spool);
    thread.join().unwrap();
    assert_eq!(content(dir.path()), [("a".to_owned(), b"one\n".to_vec())]);
    assert!(!dir.path().join("0000000001.db.new").exists());
}

#[test]
fn a_spool_that_cannot_be_written_at_the_start_takes_records_once_it_can() {
    let dir = tempfile::tempdir().unwrap();
    // a directory with something in it can be neither replaced nor removed
    let in_the_way = dir.path().join("0000000001.db.new");
    fs::create_dir_all(in_the_way.join("x")).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let says = Arc::clone(&told);
    let troubled = Box::new(move |error: Option<&SpoolError>| {
        says.lock().unwrap().push(error.map(ToString::to_string));
    });
    let config = SpoolConfig { troubled, ..config(dir.path()) };
    let (spool, thread) = Spool::start(config).unwrap();
    assert!(told.lock().unwrap()[0].as_ref().unwrap().contains("db.new cannot be used"));
    block_on(async {
        let waits = append(&spool, None, "a", b"one\n");
        tokio::pin!(waits);
        let early = tokio::time::timeout(Duration::from_millis(300), &mut waits).await;
        assert!(early.is_err(), "it was taken although nothing can be written");
        fs::remove_dir_all(&in_the_way).unwrap();
        waits.await;
    });
    assert_eq!(told.lock().unwrap()[1..], [None]);
    drop(spool);
    thread.join().unwrap();
    assert_eq!(content(dir.path()), [("a".to_owned(), b"one\n".to_vec())]);
}
