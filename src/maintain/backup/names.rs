//! Names: of archives, of what is unfinished, and of files inside an archive.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::BackupError;
use crate::config::Compression;

const STEM: &str = "bitacora_backup_";
const TIME: &str = "%Y%m%d_%H%M%S";
/// The file that is written until it is renamed.
const PARTIAL: &str = ".partial";
/// A directory for dumps and copies on their way into or out of an archive.
const SCRATCH: &str = ".scratch";

/// What the name of an archive says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// When it was begun.
    pub begun_ms: i64,
    /// How it is compressed.
    pub compression: Compression,
}

impl Name {
    /// The name as it stands in the directory.
    pub fn text(self) -> String {
        let time = Timestamp::from_millisecond(self.begun_ms).unwrap_or_default();
        format!("{STEM}{}{}", time.strftime(TIME), ending(self.compression))
    }

    /// From a file's name; `None` for anything that is not exactly one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(STEM)?;
        let (stem, compression) = [Compression::Zstd, Compression::Gzip]
            .into_iter()
            .find_map(|one| Some((rest.strip_suffix(ending(one))?, one)))?;
        let digits = |c: (usize, u8)| if c.0 == 8 { c.1 == b'_' } else { c.1.is_ascii_digit() };
        if stem.len() != 15 || !stem.bytes().enumerate().all(digits) {
            return None;
        }
        let time = DateTime::strptime(TIME, stem).ok()?;
        let begun_ms = TimeZone::UTC.to_timestamp(time).ok()?.as_millisecond();
        Some(Self { begun_ms, compression })
    }

    /// The first name from this time on that nothing has taken.
    pub fn free(dir: &Path, now_ms: i64, compression: Compression) -> Self {
        let mut name = Self { begun_ms: now_ms - now_ms.rem_euclid(1000), compression };
        let taken = |begun_ms| {
            [Compression::Zstd, Compression::Gzip].into_iter().any(|compression| {
                fs::symlink_metadata(dir.join(Self { begun_ms, compression }.text())).is_ok()
            })
        };
        while taken(name.begun_ms) {
            name.begun_ms += 1000;
        }
        name
    }
}

const fn ending(compression: Compression) -> &'static str {
    match compression {
        Compression::Zstd => ".tar.zst",
        Compression::Gzip => ".tar.gz",
    }
}

/// Where an archive is written until it is whole.
pub fn partial(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}{PARTIAL}"))
}

/// Removes what was unfinished when a run was ended. Only under the lock of the directory.
pub fn sweep(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_prefix('.')) else { continue };
        let unfinished = name.strip_suffix(PARTIAL).and_then(Name::parse).is_some();
        let scratch = name.strip_prefix(STEM).is_some_and(|rest| rest.ends_with(SCRATCH));
        if unfinished && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        } else if scratch && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// A directory that nobody else can look into, removed when this is dropped. One that a killed
/// run has left is removed by [`sweep`].
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it below `dir`.
    pub fn new(dir: &Path) -> Result<Self, BackupError> {
        let number = uuid::Uuid::new_v4().simple();
        let path = dir.join(format!(".{STEM}{number}{SCRATCH}"));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| BackupError::write(&path, source))?;
        Ok(Self(path))
    }

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove");
        }
    }
}

/// Bytes of a name that stand for themselves inside an archive.
fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._-@+=:,~".contains(&byte)
}

/// A path or name in letters that are safe in an archive: others are written `%41`.
pub fn escaped(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if plain(byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The other way round; `None` if it was not written by [`escaped`].
pub fn unescaped(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// A path below the root, as it stands in part `files`; `None` if it is not absolute or goes up.
pub fn file_in_archive(path: &Path) -> Option<String> {
    let inside = path.strip_prefix("/").ok()?;
    let plain = inside.components().all(|one| matches!(one, std::path::Component::Normal(_)));
    let named = plain && !inside.as_os_str().is_empty();
    named.then(|| format!("files/{}", escaped(inside.as_os_str().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_when_in_utc_and_how_and_nothing_else_is_a_name() {
        let name = Name { begun_ms: 1_795_312_800_000, compression: Compression::Zstd };
        assert_eq!(name.text(), "bitacora_backup_20261122_020000.tar.zst");
        assert_eq!(Name::parse(&name.text()), Some(name));
        for other in [
            "bitacora_backup_20261122_020000.tar",
            "bitacora_backup_20261122_020000.tar.zst.verified.json",
            "bitacora_backup_20261322_020000.tar.zst",
            "bitacora_backup_20261122-020000.tar.zst",
            "bitacora_backup_2026112_020000.tar.zst",
            "my_bitacora_backup_20261122_020000.tar.zst",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_second_archive_of_the_same_second_gets_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let first = Name::free(dir.path(), 1_795_312_800_123, Compression::Zstd);
        fs::write(dir.path().join(first.text()), "").unwrap();
        let second = Name::free(dir.path(), 1_795_312_800_456, Compression::Gzip);
        assert_eq!(second.begun_ms, first.begun_ms + 1000);
    }

    #[test]
    fn only_what_a_run_of_ours_has_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let keep = ["bitacora_backup_20261122_020000.tar.zst", ".partial", ".other.partial"];
        for name in keep.iter().chain(&[".bitacora_backup_20261122_020000.tar.zst.partial"]) {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        std::mem::forget(Scratch::new(dir.path()).unwrap());
        sweep(dir.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|one| one.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".other.partial", ".partial", keep[0]]);
    }

    #[test]
    fn a_path_survives_its_way_through_an_archive() {
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/var/log/a b%\xff\n.log"));
        let inside = file_in_archive(path).unwrap();
        assert_eq!(inside, "files/var/log/a%20b%25%FF%0A.log");
        let back = unescaped(inside.strip_prefix("files").unwrap()).unwrap();
        assert_eq!(back, path);
        assert_eq!(file_in_archive(Path::new("/a/../b")), None);
        assert_eq!(file_in_archive(Path::new("a")), None);
    }
}
