//! Files that survive a power cut: replacing one, syncing a directory, locking a directory.
//!
//! A rename is on disk only after its directory was synced: without that a power cut brought the
//! old file back in half of the cuts that were tried on ext4 and XFS.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The file in a directory whose lock says who works there.
const LOCK_NAME: &str = "lock";

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has the lock. The program ends with exit code 75.
    #[error(
        "{} is in use by another bitacora (pid {holder}); stop that one, or give this one a \
         state_dir of its own", dir.display()
    )]
    Held {
        /// The directory.
        dir: PathBuf,
        /// What the lock file says of its holder.
        holder: String,
    },
    /// The lock file cannot be made.
    #[error("cannot lock {}: {source}; make it a directory that this user may write", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// A directory that is ours until this is dropped, or the process ends in any way.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // the kernel frees it with the last descriptor, but a child that was just forked may hold
        // a copy of ours for a moment
        flock(&self.file, FlockOperation::Unlock).unwrap_or(());
    }
}

/// Takes the lock of `dir`, without waiting.
///
/// # Errors
///
/// Another process has it, or the lock file cannot be made.
pub fn lock_dir(dir: &Path) -> Result<DirLock, LockError> {
    let failed = |source| LockError::Io { dir: dir.to_owned(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(dir.join(LOCK_NAME))
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
            let holder = if known { holder.trim().to_owned() } else { "unknown".to_owned() };
            return Err(LockError::Held { dir: dir.to_owned(), holder });
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    // the pid is only a help for people: a full disk must not keep the lock from us
    let noted = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    drop(noted);
    Ok(DirLock { file })
}

/// Makes a directory (mode 0750) and its parents, and syncs the parent of the first that was new.
///
/// # Errors
///
/// What the system says.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let present = dir.ancestors().skip(1).find(|above| above.is_dir()).map(Path::to_owned);
    fs::DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    for above in dir.ancestors().skip(1) {
        sync_dir(above)?;
        if Some(above) == present.as_deref() {
            break;
        }
    }
    Ok(())
}

/// Brings the names in a directory to the disk.
///
/// # Errors
///
/// What the system says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    // `Path::ancestors` of a relative path ends in the empty path
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// Replaces a file whole: whatever happens, a reader finds the old bytes or the new ones.
///
/// # Errors
///
/// What the system says; the old file is then untouched, unless only the last sync failed.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| rename(&beside, path));
    if written.is_err() {
        // the half-written file is worth nothing, and on a full disk its room is
        drop(fs::remove_file(&beside));
    }
    written
}

/// Renames a file and syncs the directory of its new name.
///
/// # Errors
///
/// What the system says.
#[allow(clippy::disallowed_methods, reason = "this is the one place that syncs the directory")]
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// Gives what root makes in a directory to the directory's owner, who works there, too: a command
/// that an administrator runs by hand must leave nothing behind that the service cannot write.
///
/// # Errors
///
/// What the system says.
pub fn own_like(model: &Path, path: &Path) -> io::Result<()> {
    let (model, own) = (fs::metadata(model)?, fs::symlink_metadata(path)?);
    if rustix::process::geteuid().is_root() && (model.uid(), model.gid()) != (own.uid(), own.gid())
    {
        chown(path, Some(model.uid()), Some(model.gid()))?;
    }
    Ok(())
}

/// Sets a damaged SQLite file aside, with its log, under a name that says when; answers that name.
/// What is not there is passed over.
///
/// # Errors
///
/// What the system says.
pub fn set_aside(path: &Path, now_ms: i64) -> io::Result<PathBuf> {
    let time = jiff::Timestamp::from_millisecond(now_ms).unwrap_or_default();
    let name = |number: u32, part: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{}", time.strftime("%Y%m%dT%H%M%SZ")));
        if number > 0 {
            name.push(format!("-{number}"));
        }
        name.push(part);
        PathBuf::from(name)
    };
    let number = (0..u32::MAX).find(|number| !name(*number, "").exists()).unwrap_or(0);
    for part in ["", "-wal", "-shm"] {
        let mut from = path.as_os_str().to_owned();
        from.push(part);
        match rename(Path::new(&from), &name(number, part)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(name(number, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_is_refused_and_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock_dir(dir.path()).unwrap();
        let told = lock_dir(dir.path()).unwrap_err().to_string();
        assert!(told.contains(&format!("pid {}", std::process::id())), "{told}");
        drop(first);
        lock_dir(dir.path()).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_cannot_be_locked() {
        let dir = tempfile::tempdir().unwrap();
        let error = lock_dir(&dir.path().join("missing")).unwrap_err();
        assert!(matches!(error, LockError::Io { .. }), "{error}");
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        replace(&path, b"old, and much longer").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_replacement_that_fails_leaves_the_old_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_is_made_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir(&deep).unwrap();
        create_dir(&deep).unwrap();
        assert!(deep.is_dir());
    }
}
