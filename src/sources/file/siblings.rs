//! Names of rotated files: `access.log.1`, `access.log-20261122.gz`, `access-2026-11-22.log`.
//!
//! A name only makes a file a candidate. Whether it is read is decided by its identity, its
//! content and its age.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::ledger::Encoding;

/// How the bytes of a file of this name stand in it, and the name without that ending.
#[must_use]
pub fn encoding(name: &OsStr) -> (Encoding, &OsStr) {
    let bytes = name.as_bytes();
    for (ending, encoding) in [(&b".gz"[..], Encoding::Gzip), (b".zst", Encoding::Zstd)] {
        if let Some(plain) = bytes.strip_suffix(ending).filter(|plain| !plain.is_empty()) {
            return (encoding, OsStr::from_bytes(plain));
        }
    }
    (Encoding::Plain, name)
}

/// The names of the logs that a file of this name may have been rotated from.
#[must_use]
pub fn bases(name: &OsStr) -> Vec<OsString> {
    let (encoding, plain) = encoding(name);
    let mut found = Vec::new();
    if encoding != Encoding::Plain {
        found.push(plain.to_owned());
    }
    let plain = plain.as_bytes();
    found.extend(without_suffix(plain).map(|base| OsString::from_vec(base.to_vec())));
    // `access-2026-11-22.log` and logrotate's `extension`: the ending stays last
    let dot = plain.iter().rposition(|&byte| byte == b'.').filter(|&dot| dot > 0);
    if let Some((stem, ending)) = dot.map(|dot| plain.split_at(dot))
        && !ending.iter().skip(1).all(u8::is_ascii_digit)
    {
        found.extend(without_suffix(stem).map(|base| OsString::from_vec([base, ending].concat())));
    }
    found
}

/// Whether `name` is `base` with a rotation's suffix: a number, a date, `old`.
#[must_use]
pub fn is_rotated(name: &OsStr, base: &OsStr) -> bool {
    let (_, plain) = encoding(name);
    plain != name && plain == base
        || without_suffix(plain.as_bytes()).any(|found| found == base.as_bytes())
}

fn without_suffix(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    name.iter().enumerate().filter(|(at, byte)| *at > 0 && b".-_".contains(byte)).filter_map(
        move |(at, separator)| {
            let (base, suffix) = (name.get(..at)?, name.get(at + 1..)?);
            is_suffix(*separator, suffix).then_some(base)
        },
    )
}

/// A number of few digits is a rotation only after a dot: `app-2.log` is another log.
fn is_suffix(separator: u8, suffix: &[u8]) -> bool {
    if separator == b'.' && (suffix == b"old" || suffix == b"0") {
        return true;
    }
    let digits = suffix.iter().filter(|byte| byte.is_ascii_digit()).count();
    let enough = if separator == b'.' { digits > 0 } else { digits >= 6 };
    enough && suffix.iter().all(|byte| byte.is_ascii_digit() || b"-_.:T".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_names_lead_to_the_name_of_their_log() {
        for (name, base) in [
            ("access.log.1", "access.log"),
            ("access.log.2.gz", "access.log"),
            ("access.log.gz", "access.log"),
            ("access.log-20261122", "access.log"),
            ("access.log-20261122.zst", "access.log"),
            ("access.log-2026-11-22_03", "access.log"),
            ("access-2026-11-22.log", "access.log"),
            ("access.1.log.gz", "access.log"),
            ("syslog.1", "syslog"),
            ("syslog.old", "syslog"),
        ] {
            let found = bases(OsStr::new(name));
            assert!(found.iter().any(|found| found == base), "{name}: {found:?}");
        }
    }

    #[test]
    fn other_logs_and_copies_are_no_rotated_names() {
        for (name, base) in [
            ("app-2.log", "app.log"),
            ("app_2.log", "app.log"),
            ("access.log.bak", "access.log"),
            ("access.log", "access.log"),
            ("error.log.1", "access.log"),
            ("access.log.1.xz", "access.log"),
        ] {
            let found = bases(OsStr::new(name));
            assert!(!found.iter().any(|found| found == base), "{name}: {found:?}");
        }
        assert!(is_rotated(OsStr::new("a.log.1.gz"), OsStr::new("a.log")));
        assert!(!is_rotated(OsStr::new("a-20261122.log"), OsStr::new("a.log")));
    }
}
