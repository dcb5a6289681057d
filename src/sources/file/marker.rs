//! Markers: a hash of the few bytes before a position, to see that a file is still the same.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How many bytes before a position its marker covers, where there are so many.
pub const MARKER_BYTES: usize = 256;

/// The marker of a position, from the bytes before it: the last 256 of `before` count.
#[must_use]
pub fn marker(before: &[u8]) -> u64 {
    let from = before.len().saturating_sub(MARKER_BYTES);
    xxhash_rust::xxh3::xxh3_64(before.get(from..).unwrap_or_default())
}

/// The up to 256 bytes before `position`; fewer than there should be if the file ends earlier.
///
/// # Errors
///
/// The file cannot be read.
pub fn bytes_before(file: &File, position: u64) -> io::Result<Vec<u8>> {
    let length = position.min(MARKER_BYTES as u64);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = read_fully_at(file, &mut bytes, position - length)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Whether the bytes before `position` are those of `expected`.
///
/// # Errors
///
/// The file cannot be read.
pub fn holds(file: &File, position: u64, expected: u64) -> io::Result<bool> {
    let bytes = bytes_before(file, position)?;
    Ok(bytes.len() as u64 == position.min(MARKER_BYTES as u64) && marker(&bytes) == expected)
}

/// Reads until `bytes` is full or the file ends; says how much it read.
///
/// # Errors
///
/// The file cannot be read.
pub fn read_fully_at(file: &File, bytes: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset) {
            Ok(0) => break,
            Ok(read) => {
                done += read;
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_marker_holds_while_the_bytes_before_it_stand_and_the_file_reaches_it() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[b'a'; 300]).unwrap();
        let at_300 = marker(&[b'a'; 300]);
        assert_eq!(at_300, marker(&[b'a'; 256]), "only the last 256 bytes count");
        assert!(holds(&file, 300, at_300).unwrap());
        assert!(holds(&file, 0, marker(b"")).unwrap());
        assert!(!holds(&file, 400, at_300).unwrap(), "beyond the end");
        file.write_all_at(b"b", 299).unwrap();
        assert!(!holds(&file, 300, at_300).unwrap());
        assert!(holds(&file, 299, at_300).unwrap(), "256 bytes before it are as they were");
    }
}
