//! Cuts the bytes of one origin into lines, whatever the chunks are.
//!
//! The cuts, the lengths and the flags depend on the file's bytes alone, never on how reads were
//! split, because a row's key is made of a line's start. A line longer than the limit keeps its
//! head and its true length; a run of NUL bytes at a line's start (the hole that a writer leaves
//! after copytruncate) is skipped and counted.

use memchr::memchr;

/// NUL bytes at the start of a line are a hole, not text, from so many on.
const HOLE_BYTES_MIN: u64 = 64;

/// One line without its line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the newline (after the last byte where there is none).
    pub end: u64,
    /// The bytes without LF, without one CR before it, without a hole before them, at most the
    /// limit.
    pub bytes: &'a [u8],
    /// True length in bytes, without the line end, if the head alone is in `bytes`.
    pub cut_from: Option<u64>,
    /// NUL bytes that were skipped at the start.
    pub hole_bytes: u64,
    /// There is no newline: the file ended.
    pub partial: bool,
}

/// The unfinished line between two chunks.
#[derive(Debug, Default)]
pub struct Lines {
    /// Head of the unfinished line, at most the limit and two bytes.
    head: Vec<u8>,
    /// NUL bytes before the head.
    hole: u64,
    /// True length so far, hole included.
    length: u64,
    /// Bytes of a line that are kept.
    limit: usize,
}

impl Lines {
    /// Lines of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        assert!(limit > 0, "a line limit of 0 keeps nothing");
        Self { limit, ..Self::default() }
    }

    /// How many bytes of an unfinished line have come.
    #[must_use]
    pub const fn unfinished_bytes(&self) -> u64 {
        self.length
    }

    /// Calls `each` for every line that ends in `bytes`, which begin at `start`.
    pub fn feed(&mut self, start: u64, bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        let mut rest = bytes;
        let mut at = start;
        if self.length > 0 {
            let Some(newline) = memchr(b'\n', rest) else {
                self.keep(rest);
                return;
            };
            let (tail, after) = rest.split_at(newline);
            self.keep(tail);
            at += newline as u64 + 1;
            self.finish(at, 1, &mut each);
            rest = after.get(1..).unwrap_or_default();
        }
        while let Some(newline) = memchr(b'\n', rest) {
            let (line, after) = rest.split_at(newline);
            let end = at + newline as u64 + 1;
            if line.len() > self.limit || line.first() == Some(&0) {
                self.keep(line);
                self.finish(end, 1, &mut each);
            } else {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                each(Line {
                    start: at,
                    end,
                    bytes: line,
                    cut_from: None,
                    hole_bytes: 0,
                    partial: false,
                });
            }
            at = end;
            rest = after.get(1..).unwrap_or_default();
        }
        self.keep(rest);
    }

    /// The origin has no more bytes: the unfinished line ends at `end`.
    pub fn end(&mut self, end: u64, mut each: impl FnMut(Line<'_>)) {
        if self.length > 0 {
            self.finish(end, 0, &mut each);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        let mut bytes = bytes;
        if self.head.is_empty() {
            let nuls = bytes.iter().take_while(|&&byte| byte == 0).count();
            self.hole += nuls as u64;
            bytes = bytes.get(nuls..).unwrap_or_default();
        }
        // two bytes over the limit, so that a CR behind exactly `limit` bytes is seen
        let room = (self.limit + 2).saturating_sub(self.head.len());
        self.head.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
    }

    fn finish(&mut self, end: u64, newline_bytes: u64, each: &mut impl FnMut(Line<'_>)) {
        let start = end - newline_bytes - self.length;
        if self.hole > 0 && self.hole < HOLE_BYTES_MIN {
            let nuls = usize::try_from(self.hole).unwrap_or(0);
            self.head.splice(0..0, std::iter::repeat_n(0, nuls));
            self.hole = 0;
        }
        let length = self.length - self.hole;
        let whole = self.head.len() as u64 == length;
        let head = self.head.as_slice();
        let stripped = head.strip_suffix(b"\r").filter(|_| whole && newline_bytes > 0);
        let line = stripped.unwrap_or(head);
        let true_length = if stripped.is_some() { length - 1 } else { length };
        let cut = true_length > self.limit as u64;
        each(Line {
            start,
            end,
            bytes: line.get(..self.limit.min(line.len())).unwrap_or_default(),
            cut_from: cut.then_some(true_length),
            hole_bytes: self.hole,
            partial: newline_bytes == 0,
        });
        self.head.clear();
        self.hole = 0;
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Seen = (u64, u64, Vec<u8>, Option<u64>, u64, bool);

    fn seen(line: Line<'_>) -> Seen {
        let Line { start, end, bytes, cut_from, hole_bytes, partial } = line;
        (start, end, bytes.to_vec(), cut_from, hole_bytes, partial)
    }

    fn cut(text: &[u8], sizes: &[usize], limit: usize) -> Vec<Seen> {
        let mut lines = Lines::new(limit);
        let mut all = Vec::new();
        let mut at = 0;
        let mut sizes = sizes.iter().cycle();
        while at < text.len() {
            let size = (*sizes.next().unwrap()).clamp(1, text.len() - at);
            lines.feed(100 + at as u64, &text[at..at + size], |line| all.push(seen(line)));
            at += size;
        }
        lines.end(100 + text.len() as u64, |line| all.push(seen(line)));
        all
    }

    #[test]
    fn a_long_line_keeps_its_head_and_its_true_length() {
        let all = cut(b"abcdefgh\nxy\r\n", &[100], 4);
        assert_eq!(all[0], (100, 109, b"abcd".to_vec(), Some(8), 0, false));
        assert_eq!(all[1], (109, 113, b"xy".to_vec(), None, 0, false));
    }

    #[test]
    fn a_carriage_return_behind_a_line_of_exactly_the_limit_is_a_line_end() {
        let all = cut(b"abcd\r\n", &[1], 4);
        assert_eq!(all, [(100, 106, b"abcd".to_vec(), None, 0, false)]);
    }

    #[test]
    fn a_hole_of_nul_bytes_is_skipped_and_a_few_nul_bytes_are_text() {
        let mut text = vec![0; 70];
        text.extend_from_slice(b"after\n\0\0few\n");
        let all = cut(&text, &[7], 1000);
        assert_eq!(all[0], (100, 176, b"after".to_vec(), None, 70, false));
        assert_eq!(all[1].2, b"\0\0few");
    }

    #[test]
    fn the_last_line_of_a_finished_file_needs_no_newline() {
        let all = cut(b"a\nb", &[2], 9);
        assert_eq!(all[1], (102, 103, b"b".to_vec(), None, 0, true));
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_reads_were_split(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(0u8), Just(b'x')], 0..300),
            sizes in proptest::collection::vec(1usize..90, 1..6),
            limit in 1usize..40,
        ) {
            let whole = cut(&text, &[text.len().max(1)], limit);
            prop_assert_eq!(&cut(&text, &sizes, limit), &whole);
            let mut next = 100;
            for line in &whole {
                prop_assert_eq!(line.0, next);
                next = line.1;
            }
            prop_assert_eq!(next, 100 + text.len() as u64);
        }
    }
}
