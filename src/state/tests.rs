//! `state.db` through its whole life.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::duration;
use crate::key::Table;
use crate::ledger::{
    Carried, Cause, Context, DeadLetter, Encoding, KernelIdentity, LossReceipt, Marker, OriginId,
    OriginRecord, Reason, Reasons, Span, StoredOrigin, Watermark,
};
use crate::record::Level;

const NOW_MS: i64 = 1_795_341_600_000;

pub(crate) fn record(id: OriginId) -> OriginRecord {
    OriginRecord {
        id,
        machine: "m".to_owned(),
        host: "web1".to_owned(),
        path: PathBuf::from(std::ffi::OsStr::from_bytes(b"/var/log/\xff.log")),
        kernel: KernelIdentity {
            device: u64::MAX,
            inode: 12,
            generation: Some(u64::MAX - 1),
            born_ns: Some(-5),
        },
        head_hash: u64::MAX - 2,
        head_bytes: 1024,
        first_offset: 100,
        born_ms: NOW_MS,
        encoding: Encoding::Gzip,
    }
}

fn context(origin: OriginId, from_bytes: u64) -> Context {
    Context {
        origin,
        from_bytes,
        source: "nginx/access".to_owned(),
        table: Table::Infrastructure,
        format: "nginx/access".to_owned(),
        options: BTreeMap::from([("log_format".to_owned(), "combined".to_owned())]),
        timezone: "Europe/Madrid".to_owned(),
        anchor_ms: NOW_MS,
        max_line_bytes: 256 << 10,
        parser_version: 1,
    }
}

fn span(origin: OriginId, start_bytes: u64, end_bytes: u64) -> Span {
    let mut reasons = Reasons::default();
    reasons.add(Reason::Blank, 3);
    Span {
        origin,
        start_bytes,
        end_bytes,
        rows: 7,
        lines: 10,
        reasons,
        minutes: BTreeMap::from([((5, Level::Error), 4), ((5, Level::Info), 3)]),
        durations: Some(duration::from_lines(&[vec![5, 3, 0, 1]])),
        running_ms: Some(NOW_MS),
        crc: u64::MAX - 3,
        marker: u64::MAX - end_bytes,
        markers: vec![Marker { at_ms: 1, position: 2, hash: u64::MAX }],
        first_write_ms: 1,
        last_write_ms: 2,
        ttl_s: Some(90),
        closed: false,
        carried: vec![Carried { thread: u64::MAX, start: 150, text_bytes: 9 }],
        table: Table::Application,
        source: "app".to_owned(),
    }
}

/// An origin as the store has it, with these spans.
fn stored(id: OriginId, spans: Vec<Span>) -> StoredOrigin {
    StoredOrigin { record: record(id), contexts: vec![context(id, 100)], spans }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn machine(&self, id: &str) -> PathBuf {
        let path = self.0.path().join("machine-id");
        fs::write(&path, id).unwrap();
        path
    }

    fn open(&self) -> State {
        State::open_on(&self.dir(), &self.machine("m\n"), NOW_MS).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.dir().join(STATE_FILE)
    }
}

#[test]
fn a_second_instance_is_refused_and_the_files_are_not_for_all() {
    let place = Place::new();
    let state = place.open();
    assert!(state.is_new());
    let error = State::open(&place.dir(), NOW_MS).unwrap_err();
    assert!(matches!(error, StateError::Lock(LockError::Held { .. })), "{error}");
    for (path, mode) in [(place.dir(), 0o750), (place.file(), 0o640)] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777 & !mode, 0);
    }
    drop(state);
    assert!(!place.open().is_new());
}

#[test]
fn a_position_survives_and_never_goes_back_by_the_tracker() {
    let place = Place::new();
    let state = place.open();
    assert_eq!(state.rebuild(&[stored(1, vec![])]).unwrap(), 1);
    state.put_spans(&[span(1, 100, 200), span(1, 200, 300)]).unwrap();
    state.put_spans(&[Span { closed: true, ..span(1, 100, 200) }]).unwrap();
    drop(state);
    let state = place.open();
    assert_eq!(state.last_span(1).unwrap(), Some(span(1, 200, 300)));
    assert_eq!(state.last_span(2).unwrap(), None);
    assert_eq!(state.origin_ids().unwrap(), [1]);
}

#[test]
fn the_store_decides_also_when_it_knows_less() {
    let place = Place::new();
    let state = place.open();
    state.rebuild(&[stored(1, vec![]), stored(2, vec![])]).unwrap();
    state.put_spans(&[span(1, 100, 200), span(1, 200, 300), span(2, 100, 200)]).unwrap();
    state.set_positions(&[(1, Some(span(1, 100, 150))), (2, None)]).unwrap();
    assert_eq!(state.last_span(1).unwrap(), Some(span(1, 100, 150)));
    assert_eq!(state.last_span(2).unwrap(), None);
    state.put_spans(&[span(1, 100, 170)]).unwrap();
    assert_eq!(state.last_span(1).unwrap(), Some(span(1, 100, 170)));
}

#[test]
fn a_damaged_file_is_set_aside_and_said_and_the_store_fills_the_new_one() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 3] = [
        ("not a database", |path| fs::write(path, "these are no tables\n".repeat(500)).unwrap()),
        ("another program", |path| {
            fs::remove_file(path).unwrap();
            let other = Connection::open(path).unwrap();
            other.execute_batch("CREATE TABLE cookies (id INTEGER)").unwrap();
        }),
        ("", |path| {
            let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
            let bytes = file.metadata().unwrap().len();
            for page in 1..bytes / 4096 {
                file.seek(SeekFrom::Start(page * 4096)).unwrap();
                file.write_all(&[0xa5; 4096]).unwrap();
            }
        }),
    ];
    for (word, damage) in damages {
        let place = Place::new();
        let state = place.open();
        state.rebuild(&[stored(1, vec![span(1, 100, 200)])]).unwrap();
        drop(state);
        damage(&place.file());
        let state = place.open();
        let told = state.recovered().unwrap();
        assert!(told.contains("state.db.damaged-20261122T") && told.contains(word), "{told}");
        assert!(state.is_new() && state.origin_ids().unwrap().is_empty());
        assert_eq!(state.rebuild(&[stored(1, vec![span(1, 100, 200)])]).unwrap(), 1);
        assert_eq!(state.rebuild(&[stored(1, vec![])]).unwrap(), 0, "what is known is kept");
        drop(state);
        let state = place.open();
        assert_eq!((state.recovered(), state.is_new()), (None, false));
        assert_eq!(state.last_span(1).unwrap(), Some(span(1, 100, 200)));
    }
}

#[test]
fn two_damages_in_one_second_are_set_aside_under_two_names() {
    let place = Place::new();
    for _ in 0..2 {
        drop(place.open());
        fs::write(place.file(), "no database, but long enough to be read as one".repeat(9))
            .unwrap();
    }
    drop(place.open());
    let names = fs::read_dir(place.dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let aside = names.filter(|name| name.as_bytes().starts_with(b"state.db.damaged-")).count();
    assert_eq!(aside, 2);
}

#[test]
fn a_newer_state_is_refused_and_left_as_it_is() {
    let place = Place::new();
    drop(place.open());
    let other = Connection::open(place.file()).unwrap();
    other.pragma_update(None, "user_version", 99).unwrap();
    drop(other);
    let error = State::open(&place.dir(), NOW_MS).unwrap_err();
    assert!(matches!(error, StateError::Newer { found: 99, .. }), "{error}");
    assert!(place.file().exists());
}

#[test]
fn an_older_state_is_brought_up_to_this_version_with_what_is_in_it() {
    let place = Place::new();
    let state = place.open();
    state.rebuild(&[stored(1, vec![])]).unwrap();
    drop(state);
    let other = Connection::open(place.file()).unwrap();
    other.execute_batch("ALTER TABLE origins DROP COLUMN reach_marker").unwrap();
    other.pragma_update(None, "user_version", 1).unwrap();
    drop(other);
    let state = place.open();
    assert_eq!((state.is_new(), state.recovered()), (false, None));
    assert_eq!(state.origin_ids().unwrap(), [1]);
    state.set_positions(&[(1, Some(span(1, 100, 150)))]).unwrap();
    drop(state);
    let other = Connection::open(place.file()).unwrap();
    let version: i64 = other
        .query_row(
            "SELECT user_version, reach_marker FROM pragma_user_version, origins",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(version, 2);
}

#[test]
fn a_cloned_disk_is_noticed_once() {
    let place = Place::new();
    drop(place.open());
    let other = place.machine("other\n");
    let state = State::open_on(&place.dir(), &other, NOW_MS).unwrap();
    assert_eq!((state.machine(), state.cloned_from()), ("other", Some("m")));
    drop(state);
    let state = State::open_on(&place.dir(), &other, NOW_MS).unwrap();
    assert_eq!((state.machine(), state.cloned_from()), ("other", None));
}

#[test]
fn a_machine_without_an_id_keeps_a_random_one() {
    let place = Place::new();
    let nowhere = place.dir().join("no-machine-id");
    let state = State::open_on(&place.dir(), &nowhere, NOW_MS).unwrap();
    let id = state.machine().to_owned();
    assert_eq!(id.len(), 32);
    drop(state);
    for path in [nowhere, place.machine("uninitialized\n"), place.machine("given later\n")] {
        let state = State::open_on(&place.dir(), &path, NOW_MS).unwrap();
        assert_eq!((state.machine(), state.cloned_from()), (&*id, None));
    }
}

#[test]
fn what_is_posted_twice_is_there_once_until_it_is_removed() {
    let place = Place::new();
    let state = place.open();
    let receipt = LossReceipt {
        origin: 1,
        start_bytes: 5,
        end_bytes: None,
        cause: Cause::Truncated,
        source: "app".to_owned(),
        host: "web1".to_owned(),
        path: "/var/log/app.log".into(),
        noticed_ms: NOW_MS,
        detail: "truncated".to_owned(),
    };
    let letter = DeadLetter {
        table: Table::Application,
        source: "app".to_owned(),
        host: "web1".to_owned(),
        timestamp_ms: NOW_MS,
        origin: 1,
        offset_bytes: 9,
        level: "INFO".to_owned(),
        message: "a\u{0}b".to_owned(),
        metadata: "{}".to_owned(),
        reason: "too large".to_owned(),
        refused_ms: NOW_MS,
    };
    let posts = [Post::Letter(letter), Post::Receipt(receipt.clone())];
    state.post(&posts).unwrap();
    state.post(&posts).unwrap();
    assert_eq!(state.outbox().unwrap(), posts);
    state.remove_posts(&posts[..1]).unwrap();
    assert_eq!(state.outbox().unwrap(), posts[1..]);
    let path = record(1).path;
    state.post(&[Post::Receipt(LossReceipt { path, ..receipt })]).unwrap();
    assert_eq!(state.outbox().unwrap().len(), 1, "a name that is no text is no obstacle");
}

#[test]
fn the_newest_watermark_of_each_source_is_kept() {
    let place = Place::new();
    let state = place.open();
    let watermark = |source: &str, seen_ms| Watermark {
        source: source.to_owned(),
        host: "web1".to_owned(),
        seen_ms,
        written_ms: NOW_MS,
        behind_bytes: 0,
    };
    state.put_watermarks(&[watermark("a", 1), watermark("b", 1)]).unwrap();
    state.put_watermarks(&[watermark("a", 2)]).unwrap();
    assert_eq!(state.watermarks().unwrap(), [watermark("a", 2), watermark("b", 1)]);
}

#[test]
fn a_reader_beside_the_daemon_sees_the_state_and_changes_nothing() {
    let place = Place::new();
    assert!(State::look(&place.dir()).is_err(), "there is none");
    let state = place.open();
    state.put_meta("answer", &42).unwrap();
    let reader = State::look(&place.dir()).unwrap();
    assert_eq!((reader.meta("answer").unwrap(), reader.machine()), (Some(42), "m"));
    let error = reader.put_meta("answer", &43).unwrap_err();
    assert!(matches!(error, StateError::ReadOnly { .. }), "{error}");
}

#[test]
fn a_full_disk_is_said_and_nothing_is_half_written() {
    let place = Place::new();
    let state = place.open();
    state.put_meta("small", &1).unwrap();
    let pages: i64 = state
        .read(|db| {
            let pages: i64 = db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get(0))
        })
        .unwrap();
    let error = state.put_meta("large", &"x".repeat(1 << 20)).unwrap_err();
    assert!(matches!(error, StateError::Full { .. }), "{error}");
    assert!(error.to_string().contains("free space"), "{error}");
    assert_eq!(state.meta::<String>("large").unwrap(), None);
    state
        .read(|db| {
            db.query_row(&format!("PRAGMA max_page_count = {}", pages + 1000), [], |_| Ok(()))
        })
        .unwrap();
    state.put_meta("large", &"x".repeat(1 << 20)).unwrap();
}

#[test]
fn after_an_io_error_the_file_is_opened_anew() {
    let place = Place::new();
    let state = place.open();
    let count = |state: &State| -> Result<i64, StateError> {
        state.read(|db| {
            db.query_row("SELECT count(*) FROM sqlite_temp_schema", [], |row| row.get(0))
        })
    };
    state.read(|db| db.execute_batch("CREATE TEMP TABLE of_this_connection (id)")).unwrap();
    assert_eq!(count(&state).unwrap(), 1);
    let failure = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
    let error =
        state.write::<()>(|_| Err(rusqlite::Error::SqliteFailure(failure, None))).unwrap_err();
    assert!(matches!(error, StateError::Io { .. }), "{error}");
    assert_eq!(count(&state).unwrap(), 0);
}

/// A small file system of its own; `None` where this user may not mount one.
struct Mount(PathBuf);

impl Mount {
    fn new(test: &str, dir: PathBuf) -> Option<Self> {
        fs::create_dir_all(&dir).unwrap();
        if mount(&["-t", "tmpfs", "-o", "size=160k", "none"], &dir) {
            return Some(Self(dir));
        }
        eprintln!("SKIPPED {test}: a tmpfs cannot be mounted here");
        None
    }

    fn again(&self, options: &str) {
        assert!(mount(&["-o", &format!("remount,{options}")], &self.0));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let done = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()));
    }
}

fn mount(options: &[&str], dir: &Path) -> bool {
    let mut command = std::process::Command::new("mount");
    command.args(options).arg(dir).stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn a_full_file_system_is_said_and_work_goes_on_when_there_is_room() {
    let place = Place::new();
    let test = "a_full_file_system_is_said_and_work_goes_on_when_there_is_room";
    let Some(mount) = Mount::new(test, place.dir()) else { return };
    let state = place.open();
    let mut stored_up_to = 0;
    let error = loop {
        match state.put_meta(&format!("key {stored_up_to}"), &"x".repeat(3000)) {
            Ok(()) => stored_up_to += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StateError::Full { .. } | StateError::Io { .. }), "{error}");
    for _ in 0..3 {
        assert!(state.put_meta("more", &"x".repeat(3000)).is_err());
    }
    mount.again("size=4m");
    state.put_meta("more", &"there is room").unwrap();
    drop(state);
    let state = place.open();
    assert_eq!(state.recovered(), None);
    assert_eq!(state.meta("more").unwrap(), Some("there is room".to_owned()));
    for key in 0..stored_up_to {
        assert!(state.meta::<String>(&format!("key {key}")).unwrap().is_some(), "key {key}");
    }
}

#[test]
fn a_file_system_that_became_read_only_is_said() {
    let place = Place::new();
    let test = "a_file_system_that_became_read_only_is_said";
    let Some(mount) = Mount::new(test, place.dir()) else { return };
    drop(place.open());
    mount.again("ro");
    let error = State::open(&place.dir(), NOW_MS).unwrap_err();
    assert!(error.to_string().contains("Read-only file system"), "{error}");
    mount.again("rw");
    place.open().put_meta("more", &1).unwrap();
}

#[test]
fn a_span_of_a_version_that_did_not_count_durations_is_read() {
    let span = span(1, 100, 200);
    let text = rows::span_text(&span);
    assert_eq!(rows::span_of(1, &text).unwrap(), span);
    let mut older: serde_json::Value = serde_json::from_str(&text).unwrap();
    older.as_object_mut().unwrap().remove("durations").unwrap();
    let read = rows::span_of(1, &older.to_string()).unwrap();
    assert_eq!(read, Span { durations: None, ..span });
}
