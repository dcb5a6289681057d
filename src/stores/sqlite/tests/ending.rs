//! What retention ends, beside a writer.

use std::time::Instant;

use super::*;
use crate::stores::expired::Tombstone;

fn tombstone(source: &str, dropped_ms: i64) -> Tombstone {
    let part = Some((Table::Infrastructure, source.to_owned()));
    Tombstone { day: day_of(DAY), part, policy: "short".to_owned(), dropped_ms }
}

const LATER: i64 = DAY + 90 * DAY_MS;

/// Fills the day file with rows of `source`, each of `bytes` bytes.
fn fill(dir: &Path, source: &str, rows: u32, bytes: u32) {
    let path = files::day_path(dir, day_of(DAY));
    let connection = Connection::open(path).unwrap();
    connection
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO infrastructure_logs (source, timestamp, origin, offset_bytes, level,
               message, host, written)
             SELECT ?2, ?3 + i, 1, i, 'INFO', hex(randomblob(?4 / 2)), 'h', 1 FROM n",
            (rows, source, DAY, bytes),
        )
        .unwrap();
}

#[test]
fn rows_of_one_source_go_while_others_are_written_and_late_ones_are_expired() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    write(&store, &one("web", DAY, 0, "first", 1));
    fill(dir.path(), "short", 60_000, 200);
    let path = dir.path().to_owned();
    let deleting = std::thread::spawn(move || {
        let started = Instant::now();
        let dropped = expire::drop_parts(&path, &[tombstone("short", LATER)]).unwrap();
        (dropped, started.elapsed())
    });
    let (mut written, mut longest) = (1, Duration::ZERO);
    while !deleting.is_finished() {
        let started = Instant::now();
        write(&store, &one("web", DAY, i64::from(written) * 10, "more", 2));
        longest = longest.max(started.elapsed());
        written += 1;
        // of the source that goes: refused, or found and deleted
        block_on(store.write(one("short", DAY, i64::from(written) * 10, "late", 2))).unwrap();
    }
    let (dropped, took) = deleting.join().unwrap();
    assert!(dropped.rows >= 60_000 && !dropped.file, "{dropped:?}");
    assert!(dropped.reusable_bytes > 10_000_000, "{dropped:?}");
    assert!(written > 5 && longest < Duration::from_secs(2), "{written} writes, {longest:?}");
    eprintln!("{took:?} for 60000 rows; meanwhile {written} writes, the longest took {longest:?}");
    assert_eq!(messages(dir.path()).len(), usize::try_from(written).unwrap(), "and nothing else");

    let late = block_on(store.write(one("short", DAY, 5, "late", 9))).unwrap();
    assert_eq!(late.expired, [0]);
    let beside = block_on(store.write(one("web", DAY, 7, "late", 9))).unwrap();
    assert_eq!(beside.expired, Vec::<usize>::new());
    let next_day = block_on(store.write(one("short", DAY + DAY_MS, 5, "late", 9))).unwrap();
    assert_eq!(next_day.expired, Vec::<usize>::new());
    block_on(store.close()).unwrap();
    // once more, with nobody there: nothing is left to be done
    let again = expire::drop_parts(dir.path(), &[tombstone("short", LATER)]).unwrap();
    assert_eq!((again.rows, again.file), (0, false));
}

#[test]
fn a_file_that_somebody_has_open_is_emptied_and_goes_when_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = files::day_path(dir.path(), day_of(DAY));
    let store = start(dir.path());
    write(&store, &one("short", DAY, 0, "first", 1));
    let dropped = expire::drop_parts(dir.path(), &[tombstone("short", LATER)]).unwrap();
    assert_eq!((dropped.rows, dropped.file), (1, false));
    block_on(store.close()).unwrap();
    let dropped = expire::drop_parts(dir.path(), &[tombstone("short", LATER)]).unwrap();
    assert!(dropped.file && !path.exists());
    // a row of another source makes the day anew
    let store = start(dir.path());
    write(&store, &one("web", DAY, 3, "other", 1));
    assert_eq!(messages(dir.path()), ["other"]);
}

#[test]
fn a_day_of_a_clock_that_went_wrong_takes_its_own_rows_when_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    write(&store, &one("short", DAY, 0, "from the future", 1));
    block_on(store.close()).unwrap();
    let before = DAY - 30 * DAY_MS;
    assert!(expire::drop_parts(dir.path(), &[tombstone("short", before)]).unwrap().file);
    let store = start(dir.path());
    write(&store, &one("short", DAY, 9, "of the day", 1));
    assert_eq!(messages(dir.path()), ["of the day"]);
}

#[test]
fn a_whole_day_goes_in_less_than_a_second_whatever_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    write(&store, &one("web", DAY, 0, "first", 1));
    block_on(store.close()).unwrap();
    fill(dir.path(), "web", 75_000, 4000);
    let path = files::day_path(dir.path(), day_of(DAY));
    let bytes = fs::metadata(&path).unwrap().len();
    assert!(bytes > 300_000_000, "{bytes}");
    let started = Instant::now();
    expire::drop_day(dir.path(), day_of(DAY), "90 days", LATER).unwrap();
    let took = started.elapsed();
    assert!(!path.exists());
    let others = || fs::read_dir(dir.path()).unwrap().count();
    let before = others();
    expire::free_room(dir.path()).unwrap();
    assert_eq!(others(), before - 1, "its room is free, and nothing else went");
    eprintln!("{took:?} for {bytes} bytes, {:?} with its room", started.elapsed());
    assert!(took < Duration::from_secs(1), "{took:?} for {bytes} bytes");
}
