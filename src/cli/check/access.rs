//! Why a path cannot be used, and the command that changes it.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, access};

use super::Trouble;

/// Whether this process may do everything anyway.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `None` if the file can be read.
pub(super) fn unreadable_file(path: &Path) -> Option<Trouble> {
    let error = File::open(path).err()?;
    Some(explain(path, &error, 0o040, "r"))
}

/// `None` if the directory can be listed.
pub(super) fn unreadable_directory(path: &Path) -> Option<Trouble> {
    let error = fs::read_dir(path).err()?;
    Some(explain(path, &error, 0o050, "rx"))
}

/// `None` if files can be made in the directory, or if it is missing and can be made.
pub(super) fn unwritable_directory(path: &Path) -> Option<Trouble> {
    let existing = path.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok())?;
    if !existing.is_dir() {
        let what = format!("{} is not a directory", existing.display());
        return Some(Trouble { what, fix: String::new() });
    }
    let error = access(existing, Access::WRITE_OK | Access::EXEC_OK).err()?;
    let what = if existing == path {
        format!("{} cannot be written by user {}: {error}", path.display(), user())
    } else {
        let parent = existing.display();
        format!(
            "{} is missing and user {} cannot make it in {parent}: {error}",
            path.display(),
            user()
        )
    };
    let fix = format!("install -d -o {} -m 0750 {}", user(), path.display());
    Some(Trouble { what, fix })
}

/// Finds what stands in the way: a directory on the path, or the path itself.
fn explain(path: &Path, error: &io::Error, wanted: u32, letters: &str) -> Trouble {
    let what = format!("{}: {error}", path.display());
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Trouble { what, fix: String::new() };
    }
    let mut directories: Vec<_> = path.ancestors().skip(1).collect();
    directories.reverse();
    for directory in directories {
        if access(directory, Access::EXEC_OK).is_err() {
            let what = format!("{what}, because of the directory {}", directory.display());
            return Trouble { what, fix: fix(directory, 0o010, "x") };
        }
    }
    Trouble { what: format!("{what} (as user {})", user()), fix: fix(path, wanted, letters) }
}

fn fix(path: &Path, wanted: u32, letters: &str) -> String {
    let Ok(metadata) = path.metadata() else { return String::new() };
    fix_for(path, &metadata, wanted, letters, &user())
}

/// Joining the file's group is right where the group may read and is not root's; else an entry in
/// the access list, also as the directory's default, so that the next file after a rotation has it.
fn fix_for(path: &Path, metadata: &Metadata, wanted: u32, letters: &str, user: &str) -> String {
    if metadata.mode() & wanted == wanted && metadata.gid() != 0 {
        let group = name_of(metadata.gid(), "/etc/group");
        return format!("usermod -aG {group} {user}, then restart the service");
    }
    let entry = format!("setfacl -m u:{user}:{letters} {}", path.display());
    match path.parent().filter(|_| metadata.is_file()) {
        Some(parent) => {
            format!("{entry} && setfacl -d -m u:{user}:{letters} {}", parent.display())
        }
        None => entry,
    }
}

/// The name of the user that this process acts as.
pub(super) fn user() -> String {
    name_of(rustix::process::geteuid().as_raw(), "/etc/passwd")
}

/// The name of a number in `/etc/passwd` or `/etc/group`; the number where it has none.
fn name_of(number: u32, file: &str) -> String {
    let number = number.to_string();
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let name = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then_some(name)
    });
    name.map_or(number.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn the_fix_is_the_group_where_the_group_may_read_and_an_entry_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        fs::write(&path, "").unwrap();
        let told = |mode: u32, group: Option<u32>| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            if chown(&path, None, group).is_err() {
                return None; // only root gives files to other groups
            }
            Some(fix_for(&path, &path.metadata().unwrap(), 0o040, "r", "bitacora"))
        };
        let entry = format!(
            "setfacl -m u:bitacora:r {} && setfacl -d -m u:bitacora:r {}",
            path.display(),
            dir.path().display()
        );
        assert_eq!(told(0o600, None).unwrap(), entry);
        if let Some(fix) = told(0o640, Some(4)) {
            assert_eq!(
                fix,
                format!(
                    "usermod -aG {} bitacora, then restart the service",
                    name_of(4, "/etc/group")
                )
            );
        }
    }

    #[test]
    fn a_directory_that_can_be_made_is_no_trouble_and_one_below_a_file_is() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unwritable_directory(&dir.path().join("a/b")), None);
        fs::write(dir.path().join("file"), "").unwrap();
        let trouble = unwritable_directory(&dir.path().join("file/b")).unwrap();
        assert!(trouble.what.ends_with("file is not a directory"), "{}", trouble.what);
    }

    #[test]
    fn numbers_have_names() {
        assert_eq!(name_of(0, "/etc/passwd"), "root");
        assert_eq!(name_of(4_000_000_000, "/etc/passwd"), "4000000000");
    }
}
