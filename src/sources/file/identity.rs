//! What the kernel says of a file: which one it is, and how large.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, StatxTimestamp};
use rustix::ioctl;

use crate::ledger::KernelIdentity;

/// One look at a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Birth time in nanoseconds since 1970, where the file system has it.
    pub born_ns: Option<i64>,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last write, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Time of the last change of the file's attributes, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// How many names it has.
    pub links: u32,
    /// A regular file: no directory, pipe or device.
    pub regular: bool,
    /// A directory.
    pub directory: bool,
}

/// Device, inode and birth time: enough to know a file again while this process runs.
pub type FileKey = (u64, u64, i64);

impl Look {
    /// See [`FileKey`].
    #[must_use]
    pub fn key(&self) -> FileKey {
        (self.device, self.inode, self.born_ns.unwrap_or(0))
    }

    /// The identity, with the generation that only an open file tells.
    #[must_use]
    pub const fn kernel(&self, generation: Option<u64>) -> KernelIdentity {
        KernelIdentity { device: self.device, inode: self.inode, generation, born_ns: self.born_ns }
    }
}

/// Looks at what `path` leads to.
///
/// # Errors
///
/// There is nothing, or it may not be looked at.
pub fn look(path: &Path) -> io::Result<Look> {
    look_at(CWD, path, AtFlags::empty())
}

/// Looks at an open file.
///
/// # Errors
///
/// The kernel refuses.
pub fn look_open(file: &File) -> io::Result<Look> {
    look_at(file, Path::new(""), AtFlags::EMPTY_PATH)
}

fn look_at(at: impl AsFd, path: &Path, flags: AtFlags) -> io::Result<Look> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let found = rustix::fs::statx(at, path, flags | AtFlags::STATX_DONT_SYNC, mask)?;
    let born = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
    let kind = u32::from(found.stx_mode) & 0o170_000;
    Ok(Look {
        device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        born_ns: born.then(|| nanoseconds(found.stx_btime)),
        size: found.stx_size,
        mtime_ns: nanoseconds(found.stx_mtime),
        ctime_ns: nanoseconds(found.stx_ctime),
        links: found.stx_nlink,
        regular: kind == 0o100_000,
        directory: kind == 0o040_000,
    })
}

fn nanoseconds(time: StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}

/// `FS_IOC_GETVERSION`: declared with a `long`, but the kernel writes an `int`.
const GET_VERSION: ioctl::Opcode = ioctl::opcode::read::<std::ffi::c_long>(b'v', 1);

/// The inode's generation: another one each time ext4 uses an inode number again. `None` where
/// the file system has none (tmpfs answers `ENOTTY`).
#[must_use]
#[allow(unsafe_code)] // no crate offers this call safely; see each reason below
pub fn generation(file: &File) -> Option<u64> {
    let mut value = [0_u32; 2];
    // SAFETY: the kernel writes 4 bytes for this opcode (8 at most, by its declaration), and
    // `value` has 8 that are initialised.
    let call = unsafe { ioctl::Updater::<GET_VERSION, [u32; 2]>::new(&mut value) };
    // SAFETY: this opcode only reads a number of the inode into `value`.
    let answer = unsafe { ioctl::ioctl(file, call) };
    answer.ok().map(|()| u64::from(value[0]))
}

/// Whether a file that was known is one that is seen now. Device numbers differ across boots, so
/// they count only where neither generation nor birth time can be compared.
#[must_use]
pub fn same_file(known: &KernelIdentity, seen: &KernelIdentity) -> bool {
    let generations = known.generation.zip(seen.generation);
    let births = known.born_ns.zip(seen.born_ns);
    known.inode == seen.inode
        && generations.is_none_or(|(a, b)| a == b)
        && births.is_none_or(|(a, b)| a == b)
        && (generations.is_some() || births.is_some() || known.device == seen.device)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // files are moved as their owners move them
mod tests {
    use std::fs;

    use super::*;

    fn identity(path: &Path) -> KernelIdentity {
        let file = File::open(path).unwrap();
        look_open(&file).unwrap().kernel(generation(&file))
    }

    #[test]
    fn a_rename_keeps_the_identity_and_a_new_file_of_the_same_name_has_another() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "one").unwrap();
        let first = identity(&a);
        fs::rename(&a, &b).unwrap();
        assert!(same_file(&first, &identity(&b)));
        fs::remove_file(&b).unwrap();
        fs::write(&a, "two").unwrap();
        assert!(!same_file(&first, &identity(&a)), "even if the inode number is used again");
    }

    #[test]
    fn another_boot_may_number_devices_anew() {
        let known = KernelIdentity { device: 1, inode: 7, generation: Some(3), born_ns: Some(9) };
        assert!(same_file(&known, &KernelIdentity { device: 2, ..known }));
        assert!(!same_file(&known, &KernelIdentity { generation: Some(4), ..known }));
        assert!(!same_file(&known, &KernelIdentity { born_ns: Some(8), ..known }));
        let bare = KernelIdentity { generation: None, born_ns: None, ..known };
        assert!(!same_file(&bare, &KernelIdentity { device: 2, ..bare }));
    }
}
