//! `state.db`: what this machine remembers between runs. A cache of what the store knows, but for
//! reaches and stamps; with the null store it is all there is.
//!
//! One `SQLite` file (WAL, `synchronous=FULL`) in a directory that is locked. Each changing call
//! is one transaction, and on disk when it answers `Ok`. A damaged file is set aside, never
//! repaired, and a new one is begun that the daemon fills from the store.
//!
//! ```text
//! origins   record, path, position (end, marker, last span), reach, finished, retired
//! contexts  by origin and offset            sums    checksum of each span, by origin and offset
//! seen      what start = "end" has seen     outbox  receipts and letters that the store lacks
//! meta      JSON by key: machine, stamps    watermarks
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Notify;

use crate::durable::{DirLock, LockError, create_dir, lock_dir};

mod db;
pub(crate) mod outbox;
pub(crate) mod positions;
pub(crate) mod rows;
mod stamps;

use db::Db;
pub use outbox::Post;
pub use positions::REACH_STEP_BYTES;
pub use stamps::Stamps;

/// The file's name in the state directory.
pub const STATE_FILE: &str = "state.db";
/// Where a machine says who it is.
pub const MACHINE_ID: &str = "/etc/machine-id";

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another instance holds it, or its directory cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The directory cannot be made or written.
    #[error("the state directory {} cannot be used: {source}; give this user write access to it", dir.display())]
    Directory {
        /// Which.
        dir: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A newer program made it.
    #[error(
        "{} has version {found}, this program knows {known}; install a newer bitacora", path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: i64,
        /// Newest version that this program knows.
        known: i64,
    },
    /// The disk (or the quota) is full.
    #[error("no room for {}: free space on its file system, reading goes on by itself", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// It may not be written.
    #[error("{} cannot be written ({detail}): give this user write access to it and its directory", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// `SQLite`'s words.
        detail: String,
    },
    /// It was damaged while it was in use.
    #[error(
        "{} is damaged ({detail}): restart bitacora, which sets the file aside and fills a new one from the store",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// `SQLite`'s words.
        detail: String,
    },
    /// Anything else.
    #[error("{} cannot be used for now: {detail}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `SQLite`'s words.
        detail: String,
    },
}

impl StateError {
    fn of(path: &Path, error: &rusqlite::Error) -> Self {
        let (path, detail) = (path.to_owned(), error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self::ReadOnly { path, detail }
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path, detail }
            }
            _ => Self::Io { path, detail },
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct State {
    db: Mutex<Db>,
    dir: PathBuf,
    machine: String,
    cloned_from: Option<String>,
    new: bool,
    recovered: Option<String>,
    /// The outbox may have something: it was written since it was found empty.
    posts: AtomicBool,
    /// Told of each write.
    written: Notify,
    // a reader beside the daemon has none
    _lock: Option<DirLock>,
}

impl State {
    /// Locks the directory (which is made if it is missing) and opens its `state.db`.
    ///
    /// # Errors
    ///
    /// Another instance holds it, a newer program made it, or it cannot be written. A damaged
    /// file is no error, see [`State::recovered`].
    pub fn open(dir: &Path, now_ms: i64) -> Result<Self, StateError> {
        Self::open_on(dir, Path::new(MACHINE_ID), now_ms)
    }

    /// [`State::open`] on a machine whose id stands in the file `machine_id`.
    ///
    /// # Errors
    ///
    /// As [`State::open`].
    pub fn open_on(dir: &Path, machine_id: &Path, now_ms: i64) -> Result<Self, StateError> {
        create_dir(dir).map_err(|source| StateError::Directory { dir: dir.to_owned(), source })?;
        let lock = lock_dir(dir)?;
        let (db, new, recovered) = Db::open(dir.join(STATE_FILE), now_ms)?;
        let mut state = Self {
            db: Mutex::new(db),
            dir: dir.to_owned(),
            machine: String::new(),
            cloned_from: None,
            new,
            recovered,
            posts: AtomicBool::new(true),
            written: Notify::new(),
            _lock: Some(lock),
        };
        state.know_machine(machine_id)?;
        Ok(state)
    }

    /// Looks at the state beside the daemon that holds it: every change is refused.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    pub fn look(dir: &Path) -> Result<Self, StateError> {
        let db = Db::look(dir.join(STATE_FILE))?;
        let mut state = Self {
            db: Mutex::new(db),
            dir: dir.to_owned(),
            machine: String::new(),
            cloned_from: None,
            new: false,
            recovered: None,
            posts: AtomicBool::new(true),
            written: Notify::new(),
            _lock: None,
        };
        state.machine = state.meta("machine")?.unwrap_or_default();
        Ok(state)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The id of this machine: of `/etc/machine-id`, or a random one that is kept here.
    #[must_use]
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// The machine that this state was copied from, said once: its origins are left to it, and
    /// new ones begin where they ended.
    #[must_use]
    pub fn cloned_from(&self) -> Option<&str> {
        self.cloned_from.as_deref()
    }

    /// Whether nothing was known: the first start, or the state was lost or set aside. The store
    /// may know this machine's origins ([`State::rebuild`]).
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.new
    }

    /// What was set aside and why, in words for the log: this state is new and has to be filled
    /// from the store ([`State::rebuild`]).
    #[must_use]
    pub fn recovered(&self) -> Option<&str> {
        self.recovered.as_deref()
    }

    /// The value under a key.
    ///
    /// # Errors
    ///
    /// The state cannot be read, or the value is of another type.
    pub fn meta<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StateError> {
        self.read(|db| {
            let sql = "SELECT value FROM meta WHERE key = ?1";
            let text: Option<String> =
                db.prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?;
            text.map(|text| rows::from_json(&text)).transpose()
        })
    }

    /// Keeps a value under a key.
    ///
    /// # Errors
    ///
    /// Nothing was written.
    pub fn put_meta<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<(), StateError> {
        let text = rows::to_json(value);
        self.write(|tx| {
            let sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)";
            tx.prepare_cached(sql)?.execute((key, &text)).map(drop)
        })
    }

    /// Reads. The closure must not write.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        self.db().with(|connection| read(connection))
    }

    /// One transaction, on disk when this answers `Ok`.
    pub(crate) fn write<T>(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StateError> {
        self.db().with(|connection| {
            // under the lock, so that who finds the outbox empty afterwards has seen this write
            self.posts.store(true, Ordering::Release);
            self.written.notify_one();
            let tx =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let answer = write(&tx)?;
            tx.commit()?;
            Ok(answer)
        })
    }

    fn db(&self) -> MutexGuard<'_, Db> {
        // a panic elsewhere rolled its transaction back: the connection is as good as before
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn know_machine(&mut self, machine_id: &Path) -> Result<(), StateError> {
        let text = std::fs::read_to_string(machine_id).unwrap_or_default();
        let given = Some(text.trim()).filter(|id| !id.is_empty() && *id != "uninitialized");
        let kept: Option<String> = self.meta("machine")?;
        let random: bool = self.meta("machine_is_random")?.unwrap_or(false);
        match (given, kept) {
            // a machine that got its id after our first start is still the same machine
            (None, Some(kept)) => self.machine = kept,
            (Some(_), Some(kept)) if random => self.machine = kept,
            (Some(given), Some(kept)) => {
                given.clone_into(&mut self.machine);
                if kept != given {
                    self.put_meta("machine", given)?;
                    self.cloned_from = Some(kept);
                }
            }
            (Some(given), None) => {
                given.clone_into(&mut self.machine);
                self.put_meta("machine", given)?;
            }
            (None, None) => {
                self.machine = uuid::Uuid::new_v4().simple().to_string();
                self.put_meta("machine_is_random", &true)?;
                self.put_meta("machine", &self.machine)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
