//! Counts rows in dumps as they go by, so that a drill can compare them with what it loaded.

use std::collections::BTreeMap;

/// How a dump of `MySQL` or `MariaDB` ends.
const END: &[u8] = b"-- Dump completed";
/// So much of the end is kept to find it.
const TAIL: usize = 200;

/// Counts the rows of each table in the output of `mariadb-dump` or `mysqldump`.
#[derive(Debug, Default)]
pub struct MysqlDump {
    rows: BTreeMap<String, u64>,
    at: At,
    word: Vec<u8>,
    table: String,
    depth: u32,
    tail: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// At the beginning of a line that may be an INSERT.
    #[default]
    LineStart,
    /// In any other line.
    Line,
    /// In the values of an INSERT.
    Values,
    /// In a string of them; whether a backslash stands before.
    Text(bool),
}

impl MysqlDump {
    /// The next bytes.
    pub fn look(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.step(byte);
        }
        self.tail.extend_from_slice(bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or(bytes));
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
    }

    fn step(&mut self, byte: u8) {
        match (self.at, byte) {
            (At::LineStart, b'\n') => self.word.clear(),
            (At::LineStart, _) => {
                self.word.push(byte);
                self.head();
            }
            (At::Line, b'\n') => {
                self.word.clear();
                self.at = At::LineStart;
            }
            (At::Values, b'\'') => self.at = At::Text(false),
            (At::Values, b'(') => {
                self.depth += 1;
                if self.depth == 1
                    && let Some(rows) = self.rows.get_mut(&self.table)
                {
                    *rows += 1;
                }
            }
            (At::Values, b')') => self.depth = self.depth.saturating_sub(1),
            (At::Values, b';') if self.depth == 0 => self.at = At::Line,
            (At::Line | At::Values, _) => {}
            (At::Text(false), b'\\') => self.at = At::Text(true),
            // a quote that is written twice ends one text and begins the next
            (At::Text(false), b'\'') => self.at = At::Values,
            (At::Text(_), _) => self.at = At::Text(false),
        }
    }

    /// Looks whether what the line begins with is the head of an INSERT.
    fn head(&mut self) {
        const BEGIN: &[u8] = b"INSERT INTO `";
        let known = self.word.len().min(BEGIN.len());
        if self.word.get(..known) != BEGIN.get(..known) {
            self.at = At::Line;
            return;
        }
        let Some(rest) = self.word.get(BEGIN.len()..) else { return };
        // a backquote in a name is written twice
        let name = rest
            .strip_suffix(b"` VALUES")
            .filter(|name| !name.split(|byte| *byte == b'`').count().is_multiple_of(2));
        if let Some(name) = name {
            self.table = String::from_utf8_lossy(name).replace("``", "`");
            self.rows.entry(self.table.clone()).or_default();
            (self.at, self.depth) = (At::Values, 0);
        }
    }

    /// The counts, if the dump was written to its end.
    pub fn end(self) -> Option<BTreeMap<String, u64>> {
        let tail = String::from_utf8_lossy(&self.tail).into_owned();
        let last = tail.trim_end().lines().next_back().unwrap_or_default();
        last.as_bytes().starts_with(END).then_some(self.rows)
    }
}

/// Counts the rows of each table in a plain dump of `PostgreSQL`: the lines of each COPY.
#[derive(Debug, Default)]
pub struct CopyLines {
    rows: BTreeMap<String, u64>,
    line: Vec<u8>,
    table: Option<String>,
}

/// Lines of statements are not kept beyond this.
const LINE_BYTES_MAX: usize = 64 << 10;

impl CopyLines {
    /// The next bytes.
    pub fn look(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.line();
                self.line.clear();
            } else if self.line.len() < LINE_BYTES_MAX {
                self.line.push(byte);
            }
        }
    }

    fn line(&mut self) {
        match &self.table {
            Some(_) if self.line == b"\\." => self.table = None,
            Some(table) => {
                if let Some(rows) = self.rows.get_mut(table) {
                    *rows += 1;
                }
            }
            None => {
                let text = String::from_utf8_lossy(&self.line);
                let rest = text.strip_prefix("COPY ").filter(|_| text.ends_with(" FROM stdin;"));
                if let Some(rest) = rest {
                    let name = rest.split(" (").next().unwrap_or(rest);
                    let name = name.strip_suffix(" FROM stdin;").unwrap_or(name).to_owned();
                    self.rows.entry(name.clone()).or_default();
                    self.table = Some(name);
                }
            }
        }
    }

    /// The counts.
    pub fn end(self) -> BTreeMap<String, u64> {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_dump_are_counted_whatever_their_text_is_and_however_it_is_cut() {
        let dump = "-- MariaDB dump\nCREATE TABLE `a` (x int);\nINSERT INTO `a` VALUES\n(1,'x'),\n\
                    (2,'it\\'s (3), ''(4)'';\\\\'),\n(NULL,_binary 'a'),(5,0x00);\n/* c */;\n\
                    INSERT INTO `b` VALUES (1),(2);\nINSERT INTO `b` VALUES\n(3);\n\
                    -- Dump completed on 2026-11-22\n";
        for size in [1, 7, 4096] {
            let mut counting = MysqlDump::default();
            dump.as_bytes().chunks(size).for_each(|chunk| counting.look(chunk));
            let expected = BTreeMap::from([("a".to_owned(), 4), ("b".to_owned(), 3)]);
            assert_eq!(counting.end(), Some(expected), "{size}");
        }
        let mut cut = MysqlDump::default();
        cut.look(&dump.as_bytes()[..dump.len() - 40]);
        assert_eq!(cut.end(), None);
    }

    #[test]
    fn rows_of_a_copy_are_its_lines() {
        let dump = "COPY public.a (x, y) FROM stdin;\n1\tCOPY b FROM stdin;\n2\t\\\\.\n\\.\n\n\
                    COPY public.\"B c\" (x) FROM stdin;\n\\.\nSELECT 1;\n";
        let mut counting = CopyLines::default();
        dump.as_bytes().chunks(3).for_each(|chunk| counting.look(chunk));
        let expected =
            BTreeMap::from([("public.\"B c\"".to_owned(), 0), ("public.a".to_owned(), 2)]);
        assert_eq!(counting.end(), expected);
    }
}
