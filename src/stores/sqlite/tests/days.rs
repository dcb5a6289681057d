//! The files of the days, and what can befall them.

use super::*;

#[test]
fn rows_for_a_day_that_retention_has_dropped_are_expired_and_make_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    write(&store, &one("syslog", DAY, 0, "old", 1));
    write(&store, &one("syslog", DAY + DAY_MS, 10, "young", 2));
    // by another process, while the file is open here
    expire::drop_day(dir.path(), day_of(DAY), "90 days", DAY + 90 * DAY_MS).unwrap();
    let written = block_on(store.write(one("syslog", DAY, 20, "late", 3))).unwrap();
    assert_eq!(written.expired, [0]);
    assert_eq!(messages(dir.path()), ["young"]);
    assert!(!files::day_path(dir.path(), day_of(DAY)).exists());
    let key = RowKey { timestamp_ms: DAY, origin: 7, offset_bytes: 0 };
    let old = one("syslog", DAY, 0, "", 1).partition.clone();
    let young = one("syslog", DAY + DAY_MS, 0, "", 1).partition.clone();
    let young_key = RowKey { timestamp_ms: DAY + DAY_MS, origin: 7, offset_bytes: 10 };
    let asked = [(old, key), (young.clone(), young_key), (young, key)];
    let young = Some(StoredText { message: "young".to_owned(), metadata: String::new() });
    assert_eq!(block_on(store.texts(&asked)).unwrap(), [None, young, None]);
}

fn in_wal_mode(path: &Path) -> bool {
    // bytes 18 and 19 of the header: 2 in WAL mode
    fs::read(path).unwrap()[18] == 2
}

#[test]
fn days_beyond_the_limit_leave_wal_mode_and_take_late_rows_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { days_open_max: 2, ..Options::default() };
    let store = SqliteStore::start(dir.path().to_owned(), options).unwrap();
    let path = |number| files::day_path(dir.path(), day_of(DAY) + number);
    for number in 0..3 {
        write(&store, &one("syslog", DAY + i64::from(number) * DAY_MS, 0, "early", 1));
    }
    assert!(!in_wal_mode(&path(0)) && !files::beside(&path(0), "-wal").exists());
    assert!(in_wal_mode(&path(1)) && in_wal_mode(&path(2)));
    write(&store, &one("syslog", DAY, 10, "late", 2));
    assert!(!in_wal_mode(&path(1)));
    assert_eq!(messages(dir.path()), ["early", "late", "early", "early"]);
    block_on(store.close()).unwrap();
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.extension().unwrap() == "db" && !in_wal_mode(&path), "{}", path.display());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }
}

#[test]
fn a_day_that_was_being_read_when_it_was_closed_is_settled_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = files::day_path(dir.path(), day_of(DAY));
    let store = start(dir.path());
    write(&store, &one("syslog", DAY, 0, "one", 1));
    let reader = files::open_for_reading(&path).unwrap().unwrap();
    let mut statement = reader.prepare("SELECT message FROM infrastructure_logs").unwrap();
    let mut rows = statement.query([]).unwrap();
    rows.next().unwrap().unwrap();
    block_on(store.close()).unwrap();
    assert!(in_wal_mode(&path));
    drop(rows);
    drop(statement);
    drop(reader);
    let options = Options { settle_after: Duration::ZERO, ..Options::default() };
    let mut writer = Writer::new(dir.path().to_owned(), options);
    writer.look_after_files();
    assert!(!in_wal_mode(&path));
    assert!(messages(dir.path()) == ["one"]);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "what an operator does")]
fn a_day_file_that_was_moved_away_is_made_anew_and_nothing_goes_to_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    write(&store, &one("syslog", DAY, 0, "one", 1));
    let path = files::day_path(dir.path(), day_of(DAY));
    fs::rename(&path, dir.path().join("away")).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(files::beside(&path, suffix));
    }
    write(&store, &one("syslog", DAY, 10, "two", 2));
    assert_eq!(messages(dir.path()), ["two"]);
}

#[test]
fn a_damaged_day_is_an_outage_that_says_what_to_do_and_ends_when_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let path = files::day_path(dir.path(), day_of(DAY));
    fs::write(&path, vec![b'x'; 40_000]).unwrap();
    let store = start(dir.path());
    let batch = one("syslog", DAY, 0, "one", 1);
    let error = block_on(store.write(batch.clone())).unwrap_err();
    assert!(matches!(error, StoreError::Outage { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("2026-11-22.db: it is damaged; move it away"), "{said}");
    // other days go on meanwhile
    write(&store, &one("syslog", DAY + DAY_MS, 10, "two", 2));
    fs::remove_file(&path).unwrap();
    write(&store, &batch);
    assert_eq!(messages(dir.path()), ["one", "two"]);
}

#[test]
fn a_directory_that_cannot_be_made_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("file");
    fs::write(&blocked, "").unwrap();
    let store = start(&blocked.join("logs"));
    let batch = one("syslog", DAY, 0, "one", 1);
    let error = block_on(store.write(batch.clone())).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    fs::remove_file(&blocked).unwrap();
    write(&store, &batch);
    assert_eq!(messages(&blocked.join("logs")), ["one"]);
    let mode = fs::metadata(blocked.join("logs")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o750);
}

#[test]
fn tables_of_a_newer_program_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(dir.path());
    block_on(store.check()).unwrap();
    drop(store);
    let connection = Connection::open(files::index_path(dir.path())).unwrap();
    connection.execute("UPDATE schema_version SET version = 99", []).unwrap();
    let store = start(dir.path());
    let error = block_on(store.check()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, known: 3, .. }), "{error}");
    let error = block_on(SqliteReader::new(dir.path().to_owned()).sources()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { .. }), "{error}");
}
