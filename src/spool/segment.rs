//! One segment: its tables, and what is written in one commit.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use super::{ClientKey, SpoolError, path_of};
use crate::durable;
use crate::ledger::OriginId;

/// "bits", so that `file` and we tell it from another database.
const APPLICATION_ID: i64 = 0x6269_7473;
const VERSION: i64 = 1;
/// The reader holds a segment for a moment.
const BUSY_WAIT: Duration = Duration::from_secs(10);
/// Bytes of a log that are written again at once.
const SETTLE_BYTES: usize = 1 << 20;

const SCHEMA: &str = "
CREATE TABLE lanes (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, origin INTEGER NOT NULL, born_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE blocks (
  id INTEGER PRIMARY KEY, lane INTEGER NOT NULL, start INTEGER NOT NULL, crc INTEGER NOT NULL,
  bytes BLOB NOT NULL
) STRICT;
CREATE TABLE clients (
  uid INTEGER NOT NULL, id BLOB NOT NULL, acked INTEGER NOT NULL, used_ms INTEGER NOT NULL,
  PRIMARY KEY (uid, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE sealed (segment INTEGER PRIMARY KEY, blocks INTEGER NOT NULL) STRICT;
";

/// A segment whose last commit failed: only its first blocks count, as what came after them was
/// written again to the next segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Number of the segment.
    pub segment: u64,
    /// The number of the last block that counts.
    pub blocks: i64,
}

/// What is known of a client: its last number that is stored, and when it was used.
pub(super) type Clients = BTreeMap<ClientKey, (u64, i64)>;

/// A lane of the segment that is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub id: i64,
    pub origin: OriginId,
    pub end: u64,
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Segment {
    pub number: u64,
    path: PathBuf,
    db: Connection,
    pub lanes: BTreeMap<std::sync::Arc<str>, Written>,
    /// Bytes in all lanes.
    pub bytes: u64,
    /// The number of the last block that is committed.
    pub blocks: i64,
}

/// A block of a lane that is to be written.
pub(super) struct NewBlock<'a> {
    pub lane: &'a std::sync::Arc<str>,
    pub bytes: &'a [u8],
}

impl Segment {
    /// Makes a new segment that knows all clients, and which segment before it is sealed.
    pub fn create(
        dir: &Path,
        number: u64,
        clients: &Clients,
        sealed: Option<Sealed>,
    ) -> Result<Self, SpoolError> {
        let path = path_of(dir, number);
        let made = Self::make(dir, &path, clients, sealed).and_then(|()| {
            let db = open_to_write(&path).map_err(|error| SpoolError::of(&path, &error))?;
            Ok(Self { number, path, db, lanes: BTreeMap::new(), bytes: 0, blocks: 0 })
        });
        if made.is_err() {
            // what may be there of it holds nothing
            let _ = super::remove(dir, number);
        }
        made
    }

    /// Makes it under another name: one that a kill left half made would be taken for damaged.
    fn make(
        dir: &Path,
        path: &Path,
        clients: &Clients,
        sealed: Option<Sealed>,
    ) -> Result<(), SpoolError> {
        let beside = path.with_extension("db.new");
        for left in [beside.clone(), path.with_extension("db.new-journal")] {
            match fs::remove_file(&left) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SpoolError::io(&left, &error));
                }
                _ => {}
            }
        }
        // made by us, because SQLite would make it readable for all
        let made = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&beside);
        made.map_err(|error| SpoolError::io(&beside, &error))?;
        Self::fill(&beside, clients, sealed).map_err(|error| SpoolError::of(&beside, &error))?;
        durable::rename(&beside, path).map_err(|error| SpoolError::io(dir, &error))
    }

    fn fill(path: &Path, clients: &Clients, sealed: Option<Sealed>) -> rusqlite::Result<()> {
        let mut db = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.pragma_update(None, "page_size", 16_384)?;
        db.pragma_update(None, "synchronous", "full")?;
        let transaction = db.transaction()?;
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        for (key, (acked, used_ms)) in clients {
            put_client(&transaction, *key, *acked, *used_ms)?;
        }
        if let Some(Sealed { segment, blocks }) = sealed {
            transaction.execute(
                "INSERT INTO sealed VALUES (?1, ?2)",
                params![segment.cast_signed(), blocks],
            )?;
        }
        transaction.commit()
    }

    /// Writes everything in one commit; after an error nothing is known of what was written.
    pub fn write(
        &mut self,
        blocks: &[NewBlock<'_>],
        clients: &Clients,
        now_ms: i64,
        new_origin: &mut dyn FnMut() -> OriginId,
    ) -> Result<u64, SpoolError> {
        let Self { db, lanes, .. } = self;
        let mut next = lanes.clone();
        let mut last = self.blocks;
        let mut added = 0;
        let mut run = || -> rusqlite::Result<()> {
            let transaction = db.transaction()?;
            {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO blocks (id, lane, start, crc, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?;
                for block in blocks {
                    let lane = match next.entry(block.lane.clone()) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => {
                            let origin = new_origin();
                            let id = new_lane(&transaction, block.lane, origin, now_ms)?;
                            new.insert(Written { id, origin, end: 0 })
                        }
                    };
                    last += 1;
                    insert.execute(params![
                        last,
                        lane.id,
                        lane.end.cast_signed(),
                        crc(block.bytes).cast_signed(),
                        block.bytes
                    ])?;
                    lane.end += block.bytes.len() as u64;
                    added += block.bytes.len() as u64;
                }
            }
            for (key, (acked, used_ms)) in clients {
                put_client(&transaction, *key, *acked, *used_ms)?;
            }
            transaction.commit()
        };
        run().map_err(|error| SpoolError::of(&self.path, &error))?;
        (self.lanes, self.blocks) = (next, last);
        self.bytes += added;
        Ok(added)
    }
}

/// Opens the segment that is written from now on.
fn open_to_write(path: &Path) -> rusqlite::Result<Connection> {
    let db = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "wal_autocheckpoint", 1000)?;
    Ok(db)
}

fn new_lane(
    transaction: &Transaction<'_>,
    name: &str,
    origin: OriginId,
    now_ms: i64,
) -> rusqlite::Result<i64> {
    let sql = "INSERT INTO lanes (name, origin, born_ms) VALUES (?1, ?2, ?3)";
    transaction.execute(sql, params![name, origin, now_ms])?;
    Ok(transaction.last_insert_rowid())
}

fn put_client(
    transaction: &Transaction<'_>,
    key: ClientKey,
    acked: u64,
    used_ms: i64,
) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO clients (uid, id, acked, used_ms) VALUES (?1, ?2, ?3, ?4)";
    let id = key.id.to_be_bytes();
    transaction.prepare_cached(sql)?.execute(params![
        key.uid,
        &id[..],
        acked.cast_signed(),
        used_ms
    ])?;
    Ok(())
}

/// The checksum of a block.
pub(super) fn crc(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Xz, bytes)
}

/// Opens a segment. A connection that is dropped writes nothing more: after a failed sync the
/// kernel may call the next one a success.
pub(super) fn open(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY_WAIT)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(db)
}

/// Whether this is a segment that this program can read.
pub(super) fn check(path: &Path, db: &Connection) -> Result<(), SpoolError> {
    let of = |error: rusqlite::Error| SpoolError::of(path, &error);
    let number = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) =
        (number("application_id").map_err(of)?, number("user_version").map_err(of)?);
    let path = path.to_owned();
    match (application, version) {
        (APPLICATION_ID, VERSION) => Ok(()),
        (APPLICATION_ID, newer) if newer > VERSION => {
            let detail = format!("it is of version {newer}, and this program knows {VERSION}");
            Err(SpoolError::Newer { path, detail })
        }
        _ => Err(SpoolError::Damaged { path, detail: "it is no segment of a spool".to_owned() }),
    }
}

/// What can be read of a segment's log by now is on disk afterwards. The process before this one
/// may have ended between its write and its sync; and where a sync had failed, the next one
/// succeeds without writing, so that all of it is written again.
pub(super) fn settle(path: &Path) -> Result<(), SpoolError> {
    let mut log = path.to_owned().into_os_string();
    log.push("-wal");
    let write_again = || -> io::Result<()> {
        let file = match OpenOptions::new().read(true).write(true).open(&log) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut buffer = vec![0; SETTLE_BYTES];
        let mut at = 0;
        loop {
            let read = file.read_at(&mut buffer, at)?;
            if read == 0 {
                return file.sync_all();
            }
            file.write_all_at(buffer.get(..read).unwrap_or_default(), at)?;
            at += read as u64;
        }
    };
    write_again().map_err(|error| SpoolError::io(path, &error))
}

/// The clients that a segment knows.
pub(super) fn clients_of(path: &Path) -> Result<Clients, SpoolError> {
    let read = || -> rusqlite::Result<Clients> {
        let db = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let mut statement = db.prepare("SELECT uid, id, acked, used_ms FROM clients")?;
        let rows = statement.query_map([], |row| {
            let id: [u8; 16] = row.get(1)?;
            let key = ClientKey { uid: row.get(0)?, id: u128::from_be_bytes(id) };
            Ok((key, (row.get::<_, i64>(2)?.cast_unsigned(), row.get(3)?)))
        })?;
        rows.collect()
    };
    read().map_err(|error| SpoolError::of(path, &error))
}

/// What a segment says of the one before it.
pub(super) fn sealed_by(path: &Path) -> Result<Option<Sealed>, SpoolError> {
    let read = || {
        let db = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let sql = "SELECT segment, blocks FROM sealed";
        let sealed = db.query_row(sql, [], |row| {
            let segment = row.get::<_, i64>(0)?.cast_unsigned();
            Ok(Sealed { segment, blocks: row.get(1)? })
        });
        sealed.optional()
    };
    read().map_err(|error| SpoolError::of(path, &error))
}
