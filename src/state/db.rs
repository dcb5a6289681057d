//! The connection to `state.db`: opened, checked, set aside, opened again after an I/O error.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::StateError;
use crate::durable;

/// "bita", so that `file` and we tell it from another database.
const APPLICATION_ID: i64 = 0x6269_7461;
/// Version of the tables.
const VERSION: i64 = 2;
/// From version 1 on, what makes the next one of each.
const UPGRADES: [&str; 1] = ["ALTER TABLE origins ADD COLUMN reach_marker INTEGER"];
/// A reader of ours may hold the file for a moment.
const BUSY_WAIT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE origins (
  id INTEGER PRIMARY KEY, machine TEXT NOT NULL, host TEXT NOT NULL, first_path BLOB NOT NULL,
  device INTEGER NOT NULL, inode INTEGER NOT NULL, generation INTEGER, born_ns INTEGER,
  head_hash INTEGER NOT NULL, head_bytes INTEGER NOT NULL, first_offset INTEGER NOT NULL,
  born_ms INTEGER NOT NULL, encoding TEXT NOT NULL,
  path BLOB NOT NULL, mtime_ns INTEGER NOT NULL, first_marker INTEGER NOT NULL,
  end_bytes INTEGER NOT NULL, marker INTEGER NOT NULL, span TEXT, reach INTEGER NOT NULL,
  reach_marker INTEGER,
  finished INTEGER NOT NULL DEFAULT 0, retired INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE contexts (
  origin INTEGER NOT NULL, from_bytes INTEGER NOT NULL, context TEXT NOT NULL,
  PRIMARY KEY (origin, from_bytes)
) STRICT, WITHOUT ROWID;
CREATE TABLE sums (
  origin INTEGER NOT NULL, start_bytes INTEGER NOT NULL, end_bytes INTEGER NOT NULL,
  crc INTEGER NOT NULL, PRIMARY KEY (origin, start_bytes)
) STRICT, WITHOUT ROWID;
CREATE TABLE seen (key TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE outbox (
  kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE watermarks (
  source TEXT NOT NULL, host TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (source, host)
) STRICT, WITHOUT ROWID;
";

/// An open `state.db`.
#[derive(Debug)]
pub(super) struct Db {
    path: PathBuf,
    flags: OpenFlags,
    /// `None` after an I/O error, until the next use.
    connection: Option<Connection>,
}

impl Db {
    /// Opens the file for writing; makes it if it is missing, and again if it is damaged or
    /// another program's. Answers whether it is new, and in words what was set aside.
    pub(super) fn open(
        path: PathBuf,
        now_ms: i64,
    ) -> Result<(Self, bool, Option<String>), StateError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Self { path, flags, connection: None };
        let why = match db.prepare() {
            Ok(new) => return Ok((db, new, None)),
            Err(StateError::Damaged { detail, .. }) => detail,
            Err(error) => return Err(error),
        };
        db.connection = None;
        let aside = durable::set_aside(&db.path, now_ms)
            .map_err(|source| failed_dir(db.path.parent().unwrap_or(&db.path), source))?;
        db.prepare()?;
        let path = db.path.display();
        let told = format!(
            "{path} was damaged ({why}); it was set aside as {}, and a new one is filled from \
             the store",
            aside.display()
        );
        Ok((db, true, Some(told)))
    }

    /// Opens the file for reading beside the daemon that writes it.
    pub(super) fn look(path: PathBuf) -> Result<Self, StateError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut db = Self { path, flags, connection: None };
        db.with(|connection| connection.query_row("SELECT count(*) FROM meta", [], |_| Ok(())))?;
        Ok(db)
    }

    /// Uses the connection. After an I/O error it is not used again: the kernel may have dropped
    /// pages that were never written, and would call the next sync a success.
    pub(super) fn with<T>(
        &mut self,
        run: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        let failed = |error: &rusqlite::Error| StateError::of(&self.path, error);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.path, self.flags).map_err(|error| failed(&error))?,
        };
        let answer = run(&mut connection);
        let broken = answer.as_ref().is_err_and(|error| {
            matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt)
            )
        });
        let answer = answer.map_err(|error| failed(&error));
        if !broken {
            self.connection = Some(connection);
        }
        answer
    }

    /// Makes or checks the tables; answers whether they are new.
    fn prepare(&mut self) -> Result<bool, StateError> {
        // made by us, because SQLite would make it readable for all
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(&self.path);
        made.map_err(|error| StateError::ReadOnly {
            path: self.path.clone(),
            detail: error.to_string(),
        })?;
        let path = self.path.clone();
        let damaged = |detail: &str| StateError::Damaged { path, detail: detail.to_owned() };
        let (application, version, tables) = self.with(|db| {
            let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
            Ok((
                number("PRAGMA application_id")?,
                number("PRAGMA user_version")?,
                number("SELECT count(*) FROM sqlite_schema")?,
            ))
        })?;
        if (application, version, tables) == (0, 0, 0) {
            self.with(|db| {
                let tx = db.transaction()?;
                tx.execute_batch(SCHEMA)?;
                tx.pragma_update(None, "application_id", APPLICATION_ID)?;
                tx.pragma_update(None, "user_version", VERSION)?;
                tx.commit()
            })?;
            let dir = self.path.parent().unwrap_or(&self.path);
            durable::sync_dir(dir).map_err(|source| failed_dir(dir, source))?;
            return Ok(true);
        }
        if application != APPLICATION_ID {
            return Err(damaged("it is the database of another program"));
        }
        if version > VERSION {
            let path = self.path.clone();
            return Err(StateError::Newer { path, found: version, known: VERSION });
        }
        let check: String =
            self.with(|db| db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)))?;
        if check != "ok" {
            return Err(damaged(&check));
        }
        self.upgrade(version)?;
        Ok(false)
    }

    /// Brings an older version up to this one.
    fn upgrade(&mut self, version: i64) -> Result<(), StateError> {
        let done = usize::try_from(version - 1).unwrap_or(0);
        if done >= UPGRADES.len() {
            return Ok(());
        }
        self.with(|db| {
            let tx = db.transaction()?;
            for step in UPGRADES.iter().skip(done) {
                tx.execute_batch(step)?;
            }
            tx.pragma_update(None, "user_version", VERSION)?;
            tx.commit()
        })
    }
}

fn failed_dir(dir: &Path, source: std::io::Error) -> StateError {
    StateError::Directory { dir: dir.to_owned(), source }
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    // KiB; the file is small and most calls are writes
    connection.pragma_update(None, "cache_size", -512)?;
    if flags.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
        let mode: String =
            connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
            let why = "its file system has no shared memory, which WAL needs";
            return Err(rusqlite::Error::SqliteFailure(code, Some(why.to_owned())));
        }
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "journal_size_limit", 4 << 20)?;
    }
    Ok(connection)
}
