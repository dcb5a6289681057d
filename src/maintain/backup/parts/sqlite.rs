//! Copies of `SQLite` files while others write to them.
//!
//! A file in WAL mode is copied by `SQLite`'s backup interface in one step, which holds nobody
//! up. One that is not has all its bytes in one place: they go into the archive directly, under a
//! lock for reading, without a copy on the disk in between. Its writer waits that long; in that
//! mode are only days to which nothing is written any more, and files without a daemon.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::Making;
use crate::maintain::backup::BackupError;
use crate::maintain::backup::archive::seconds_of;

/// How long a lock of another process is waited for.
const BUSY_WAIT: Duration = Duration::from_secs(10);
/// Where the header says how the file is written: 2 is WAL.
const WRITE_VERSION_AT: u64 = 18;

/// Opens a file for reading beside its writer.
pub fn open(path: &Path) -> Result<Connection, BackupError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error| source_failed(path, &error);
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_WAIT).map_err(failed)?;
    Ok(connection)
}

fn source_failed(path: &Path, error: &rusqlite::Error) -> BackupError {
    BackupError::Sqlite { path: path.to_owned(), detail: error.to_string() }
}

/// Copies a database into the archive, with the rows of each table.
pub fn copy(making: &mut Making<'_, '_>, from: &Path, to: &str) -> Result<(), BackupError> {
    // opened before SQLite's, and closed after it: to close any descriptor of a file drops the
    // locks that this process has on it
    let mut file = File::open(from).map_err(|source| BackupError::read(from, source))?;
    let connection = open(from)?;
    let failed = |error| source_failed(from, &error);
    connection.execute_batch("BEGIN").map_err(failed)?;
    // a transaction for reading begins with the first look
    let look = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    look.map_err(failed)?;
    let mut version = [0; 1];
    let known = file.read_exact_at(&mut version, WRITE_VERSION_AT);
    if known.is_ok() && version == [2] {
        connection.execute_batch("COMMIT").map_err(failed)?;
        let copy = making.scratch.path("copy.db");
        step(&connection, &copy)?;
        return add_copy(making, &copy, to);
    }
    let rows = count(&connection).map_err(failed)?;
    let data = file.metadata().map_err(|source| BackupError::read(from, source))?;
    let mut reader = BufReader::with_capacity(256 << 10, &mut file);
    let added = making.frame.add(to, &mut reader as &mut dyn Read, data.len(), seconds_of(&data));
    added?.rows = rows;
    connection.execute_batch("COMMIT").map_err(failed)
}

/// Copies into a scratch file, and leaves it in a form that needs no second file.
pub fn copy_aside(from: &Path, copy: &Path) -> Result<(), BackupError> {
    step(&open(from)?, copy)
}

fn step(from: &Connection, copy: &Path) -> Result<(), BackupError> {
    let failed = |error| BackupError::sqlite(copy, &error);
    let mut to = Connection::open(copy).map_err(failed)?;
    // what happens to the copy before it is in the archive is of no interest
    to.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF").map_err(failed)?;
    {
        let backup = Backup::new(from, &mut to).map_err(failed)?;
        let mut tries = 0;
        loop {
            match backup.step(-1).map_err(failed)? {
                StepResult::Done => break,
                StepResult::Busy | StepResult::Locked if tries < 100 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(100));
                }
                _ => {
                    let detail = "another program holds a lock on it".to_owned();
                    return Err(BackupError::Sqlite { path: copy.to_owned(), detail });
                }
            }
        }
    }
    to.pragma_update(None, "journal_mode", "DELETE").map_err(failed)?;
    to.close().map_err(|(_, error)| failed(error))
}

/// Puts a scratch copy into the archive, with its counts, and removes it.
pub fn add_copy(making: &mut Making<'_, '_>, copy: &Path, to: &str) -> Result<(), BackupError> {
    let connection = open(copy)?;
    let rows = count(&connection).map_err(|error| BackupError::sqlite(copy, &error))?;
    drop(connection);
    making.frame.add_file(to, copy)?.rows = rows;
    std::fs::remove_file(copy).map_err(|source| BackupError::write(copy, source))
}

/// Rows of each table.
pub fn count(connection: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' \
               ESCAPE '\\'";
    let tables = connection
        .prepare(sql)?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    let count = |table: String| {
        let sql = format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\""));
        let rows: i64 = connection.query_row(&sql, [], |row| row.get(0))?;
        Ok((table, u64::try_from(rows).unwrap_or(0)))
    };
    tables.into_iter().map(count).collect()
}

/// Whether a file is sound, by `SQLite`'s own words.
pub fn check(path: &Path) -> Result<BTreeMap<String, u64>, String> {
    let connection = open(path).map_err(|error| error.to_string())?;
    let said = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    let said: String = said.map_err(|error| error.to_string())?;
    if said != "ok" {
        return Err(said);
    }
    count(&connection).map_err(|error| error.to_string())
}
