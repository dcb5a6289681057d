//! What is wrong with a configuration, and where: shown as compilers do, so that editors jump to it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Something that is set and correct, but has no effect in this release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Where it is set.
    pub place: Place,
    /// The section's name.
    pub section: &'static str,
    /// What does not happen.
    pub message: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: [{}] is set, but {}", self.place, self.section, self.message)
    }
}

/// Everything that is wrong, in the order of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such file.
    #[error(
        "{}: no such file; name another with --config, or make one: \
         bitacora check --print-default > bitacora.toml",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file or its folder `conf.d` cannot be read.
    #[error("{}: cannot read the configuration: {error}", path.display())]
    Unreadable {
        /// Which file or folder.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Its text is wrong.
    #[error(transparent)]
    Wrong(#[from] Problems),
}

/// The text of one file, for turning offsets into places.
#[derive(Debug, Clone)]
pub(super) struct Source<'a> {
    pub file: Arc<Path>,
    pub text: &'a str,
}

impl Source<'_> {
    /// The place of a byte offset.
    pub fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let in_line = before.get(line_start..).unwrap_or_default();
        Place {
            file: Arc::clone(&self.file),
            line: before.matches('\n').count() + 1,
            column: in_line.chars().count() + 1,
        }
    }
}

/// The word of `known` that was probably meant by `word`.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|other| (distance(&word, &other.to_lowercase().replace('-', "_")), other))
        .filter(|(distance, other)| *distance <= word.len().max(other.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// ` (did you mean "x"?)`, or nothing.
pub(super) fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |other| format!(" (did you mean \"{other}\"?)"))
}

/// How many characters must be put in, left out, replaced or swapped with a neighbour.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous_in_a = None;
    for (row, in_a) in a.chars().enumerate() {
        let mut current = vec![row + 1];
        let mut previous_in_b = None;
        for (column, &in_b) in b.iter().enumerate() {
            let at =
                |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&last, column) + usize::from(in_a != in_b))
                .min(at(&last, column + 1) + 1)
                .min(at(&current, column) + 1);
            if previous_in_a == Some(in_b) && previous_in_b == Some(in_a) && column > 0 {
                best = best.min(at(&before_last, column - 1) + 1);
            }
            current.push(best);
            previous_in_b = Some(in_b);
        }
        previous_in_a = Some(in_a);
        before_last = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_the_one_that_was_meant() {
        let known = ["paths", "format", "rotate_wait"];
        assert_eq!(nearest("paht", known), Some("paths"));
        assert_eq!(nearest("rotate-wait", known), Some("rotate_wait"));
        assert_eq!(nearest("colour", known), None);
    }

    #[test]
    fn swapped_neighbours_are_one_step() {
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("source", "suorce"), 1);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn columns_count_characters() {
        let source = Source { file: Path::new("a").into(), text: "x\n\"é\" = 1" };
        assert_eq!(source.place(7).to_string(), "a:2:5");
        assert_eq!(source.place(99).to_string(), "a:2:8");
    }
}
