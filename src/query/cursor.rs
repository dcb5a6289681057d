//! A place in the rows, as a word that can be kept and given back.

use crate::key::RowKey;

/// What is wrong with a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is no cursor; take one that --show-cursor printed")]
pub struct NotACursor {
    word: String,
}

/// The word for a row's place.
#[must_use]
pub fn write(key: RowKey) -> String {
    format!("t={:x};o={:x};b={:x}", key.timestamp_ms, key.origin, key.offset_bytes)
}

/// Reads the word.
///
/// # Errors
///
/// It is not one of [`write`].
pub fn read(word: &str) -> Result<RowKey, NotACursor> {
    let number = |part: Option<&str>, name: &str| {
        let digits = part?.strip_prefix(name)?.strip_prefix('=')?;
        // negative numbers are written in two's complement
        u64::from_str_radix(digits, 16).ok().map(u64::cast_signed)
    };
    let mut parts = word.trim().split(';');
    let key = (|| {
        Some(RowKey {
            timestamp_ms: number(parts.next(), "t")?,
            origin: number(parts.next(), "o")?,
            offset_bytes: number(parts.next(), "b")?,
        })
    })();
    key.filter(|_| parts.next().is_none()).ok_or_else(|| NotACursor { word: word.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was() {
        for timestamp_ms in [0, -5, 1_795_305_600_000] {
            let key = RowKey { timestamp_ms, origin: i64::MAX, offset_bytes: 7 };
            assert_eq!(read(&write(key)), Ok(key));
        }
    }

    #[test]
    fn other_words_are_no_cursors() {
        for word in ["", "t=1", "t=1;o=2", "t=1;o=2;b=x", "t=1;o=2;b=3;c=4", "o=1;t=2;b=3"] {
            assert!(read(word).is_err(), "{word}");
        }
    }
}
