//! Files of this store on the disk: names, modes, opening, and what an operator reads when
//! `SQLite` refuses.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::civil::Date;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::NAME;
use crate::stores::StoreError;
use crate::stores::expired::date_of;

/// Mode of each file: the group reads, nobody else.
const FILE_MODE: u32 = 0o640;
/// Mode of the directory, when it is made here.
const DIR_MODE: u32 = 0o750;
/// How long a lock of another process is waited for.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// The path of `index.db`.
pub fn index_path(dir: &Path) -> PathBuf {
    dir.join("index.db")
}

/// The path of the file of one day (days since 1970): `YYYY-MM-DD.db`.
pub fn day_path(dir: &Path, day: i32) -> PathBuf {
    dir.join(format!("{}.db", date_of(day)))
}

/// The day whose file has this name.
fn day_of_name(name: &[u8]) -> Option<i32> {
    let stem = std::str::from_utf8(name.strip_suffix(b".db")?).ok()?;
    if stem.len() != 10 {
        return None;
    }
    let date: Date = stem.parse().ok()?;
    date.since(Date::constant(1970, 1, 1)).ok().map(|span| span.get_days())
}

/// Whether a file of this name is that of a day.
pub fn is_day_file(name: &[u8]) -> bool {
    day_of_name(name).is_some()
}

/// All days that have a file, in order.
///
/// # Errors
///
/// The directory cannot be read.
pub fn days(dir: &Path) -> io::Result<Vec<i32>> {
    let mut days = Vec::new();
    for entry in fs::read_dir(dir)? {
        days.extend(day_of_name(entry?.file_name().as_bytes()));
    }
    days.sort_unstable();
    Ok(days)
}

/// A file beside the database: `-wal` or `-shm`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// What tells whether the path still names the file that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode(u64, u64);

impl Inode {
    /// Of the file at `path` now, if there is one.
    pub fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|data| Self(data.dev(), data.ino()))
    }
}

/// Opens a database for writing, in WAL mode, durable at each commit. Makes it, and the
/// directory, with modes for the group where they are missing.
///
/// # Errors
///
/// With the path and what to do.
pub fn open_for_writing(path: &Path, cache_kib: u32) -> Result<Connection, StoreError> {
    make(path).map_err(|error| io_refused(path, &error))?;
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        // the page size holds from the first table on; it measured 35 % faster than 4 KiB
        connection.pragma_update(None, "page_size", 16384)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
        // What a commit that failed has left in the log may be in the page cache only, where
        // another fsync would call it clean: copying it into the database writes it anew.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(connection)
    };
    open().map_err(|error| refused(path, &error))
}

/// Makes an empty file with the right mode, so that `SQLite` gives its `-wal` and `-shm` the same.
/// Never touches a file that is there: closing a descriptor would drop `SQLite`'s locks on it.
fn make(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    if !dir.try_exists()? {
        fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    }
    // the umask may have taken the group's bit away
    fs::set_permissions(path, fs::Permissions::from_mode(FILE_MODE))?;
    File::open(dir)?.sync_all()
}

/// Opens a database for reading, beside a writer and without write access. `None` if it is not
/// there (any more).
///
/// # Errors
///
/// With the path and what to do.
pub fn open_for_reading(path: &Path) -> Result<Option<Connection>, StoreError> {
    let open = |uri: &str| -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(uri, flags)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    let mut last = None;
    // a second turn: a writer may have begun or ended between the looks
    for _ in 0..3 {
        match open(&uri(path, "")) {
            Ok(connection) => return Ok(Some(connection)),
            Err(error) => last = Some(error),
        }
        if !path.exists() {
            return Ok(None);
        }
        let wal = beside(path, "-wal");
        if wal.exists() {
            continue;
        }
        // in WAL mode without a log, in a directory where we may not make one: nobody writes
        match open(&uri(path, "?immutable=1")) {
            Ok(connection) if !wal.exists() => return Ok(Some(connection)),
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(
        || unreachable(path, "it is being opened and closed; try again"),
        |error| refused(path, &error),
    ))
}

/// A `file:` address: `SQLite` takes `%`, `?` and `#` of a plain path for its own.
fn uri(path: &Path, tail: &str) -> String {
    use std::fmt::Write as _;
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri + tail
}

fn unreachable(path: &Path, detail: &str) -> StoreError {
    StoreError::Unreachable { store: NAME, detail: format!("{}: {detail}", path.display()) }
}

fn outage(path: &Path, detail: &str) -> StoreError {
    StoreError::Outage { store: NAME, detail: format!("{}: {detail}", path.display()) }
}

/// An error of the file system, with what to do.
pub fn io_refused(path: &Path, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => outage(path, FULL),
        io::ErrorKind::ReadOnlyFilesystem => outage(path, READ_ONLY),
        io::ErrorKind::PermissionDenied => unreachable(path, DENIED),
        io::ErrorKind::NotFound => unreachable(path, "there is no such directory; make it"),
        _ => unreachable(path, &error.to_string()),
    }
}

const FULL: &str = "the disk is full; free some space, it goes on by itself";
const READ_ONLY: &str =
    "it cannot be written (read-only); give the user of bitacora write access or remount";
const DENIED: &str = "permission denied; compare owner and mode with the user of bitacora \
                      (readers must be in its group)";
const DAMAGED: &str = "it is damaged; move it away with its -wal and -shm, a new one is made; \
                       then run `bitacora audit --repair`";

/// An error of `SQLite`, with the path and what to do. No row is to blame but for the two kinds
/// that say so.
pub fn refused(path: &Path, error: &rusqlite::Error) -> StoreError {
    let invalid = || StoreError::Invalid { store: NAME, detail: error.to_string() };
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => outage(path, FULL),
        Some(ErrorCode::ReadOnly) => outage(path, READ_ONLY),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => outage(path, DAMAGED),
        Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            unreachable(path, DENIED)
        }
        Some(ErrorCode::CannotOpen) => unreachable(path, DENIED),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            outage(path, "another program holds a lock on it; it goes on when that ends")
        }
        Some(ErrorCode::SystemIoFailure) if disk_is_full(path) => outage(path, FULL),
        Some(ErrorCode::TooBig | ErrorCode::ConstraintViolation) => invalid(),
        _ => outage(path, &error.to_string()),
    }
}

/// `SQLite` calls a full disk an I/O error where it met it in shared memory.
fn disk_is_full(path: &Path) -> bool {
    let dir = path.parent().unwrap_or(Path::new("."));
    rustix::fs::statvfs(dir).is_ok_and(|stat| stat.f_bavail == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_day_file_says_its_day() {
        for day in [-1, 0, 1, 20_779, 47_482] {
            let path = day_path(Path::new("/x"), day);
            let name = path.file_name().unwrap().as_bytes();
            assert_eq!(day_of_name(name), Some(day), "{}", path.display());
        }
        assert_eq!(day_path(Path::new("/x"), 20_779), Path::new("/x/2026-11-22.db"));
    }

    #[test]
    fn other_names_are_no_day_files() {
        for name in ["index.db", "2026-11-22.db-wal", "2026-13-01.db", "20261122.db", ".db"] {
            assert_eq!(day_of_name(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn an_address_keeps_characters_that_sqlite_takes_for_its_own() {
        assert_eq!(uri(Path::new("/a b/c?d%#.db"), ""), "file:/a%20b/c%3Fd%25%23.db");
    }
}
