//! Which files a source means: literal paths, patterns, exclusions.
//!
//! A pattern is walked again only when one of its directories has changed, so that a look at
//! 20,000 quiet files costs no listing.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use glob::{MatchOptions, Pattern};

use super::identity::{self, FileKey};
use crate::config::FileSource;

/// As in a shell: a star crosses no slash and matches no hidden name.
const MATCH: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// What is excluded may be hidden.
const EXCLUDE: MatchOptions = MatchOptions { require_literal_leading_dot: false, ..MATCH };

/// Deepest directory below a `**`.
const DEPTH_MAX: usize = 64;

/// A directory's state: while it is the same, so are the names in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    key: FileKey,
    mtime_ns: i64,
    /// A change within one tick of the file system's clock leaves no trace, so a directory that
    /// has just changed is not believed to be unchanged.
    settled: bool,
}

/// How long ago a directory must have changed before its time stamp is believed.
const SETTLED_NS: i64 = 100_000_000;

/// The clock that the kernel stamps files with. It is compared with those stamps only: waits and
/// records have their time from the caller.
pub(super) fn file_clock_ns() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

impl Stamp {
    /// The state of a directory; `None` if there is none. Take it before listing.
    #[must_use]
    pub fn of(dir: &Path) -> Option<Self> {
        let look = identity::look(dir).ok().filter(|look| look.directory)?;
        let settled = file_clock_ns().saturating_sub(look.mtime_ns) > SETTLED_NS;
        Some(Self { key: look.key(), mtime_ns: look.mtime_ns, settled })
    }

    /// Whether what was listed under `known` still stands.
    #[must_use]
    pub fn unchanged(known: Option<Self>, now: Option<Self>) -> bool {
        match (known, now) {
            (None, None) => true,
            (Some(a), Some(b)) => a.settled && a.key == b.key && a.mtime_ns == b.mtime_ns,
            _ => false,
        }
    }
}

/// One path or pattern of a source.
#[derive(Debug)]
enum Wanted {
    Path(PathBuf),
    Pattern { text: String, root: PathBuf, parts: Vec<Part>, dirs: Vec<(PathBuf, Option<Stamp>)> },
}

#[derive(Debug)]
enum Part {
    Name(String),
    Match(Pattern),
    /// `**`
    Any,
}

/// What a look around found.
#[derive(Debug, Default)]
pub struct Found {
    /// Paths, with the number of the path or pattern that means them. A path that is configured
    /// literally is here even if there is no such file.
    pub paths: Vec<(PathBuf, usize)>,
    /// Directories that could not be listed.
    pub faults: Vec<(PathBuf, io::Error)>,
}

/// Finds the files of one source.
#[derive(Debug)]
pub struct Finder {
    wanted: Vec<Wanted>,
    exclude: Vec<(bool, Pattern)>,
}

impl Finder {
    /// For one configured source.
    #[must_use]
    pub fn new(source: &FileSource) -> Self {
        let wanted = source.paths.iter().map(|text| Wanted::new(text)).collect();
        let exclude = source
            .exclude
            .iter()
            .filter_map(|text| Some((text.contains('/'), Pattern::new(text).ok()?)))
            .collect();
        Self { wanted, exclude }
    }

    /// The literal path or pattern of a number in [`Found::paths`].
    #[must_use]
    pub fn text(&self, number: usize) -> Option<String> {
        match self.wanted.get(number)? {
            Wanted::Path(path) => Some(path.display().to_string()),
            Wanted::Pattern { text, .. } => Some(text.clone()),
        }
    }

    /// How many paths and patterns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wanted.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Whether a directory has changed since [`Self::find`] was called.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.wanted.iter().any(Wanted::is_stale)
    }

    /// The files that are meant.
    pub fn find(&mut self) -> Found {
        let mut found = Found::default();
        for (number, wanted) in self.wanted.iter_mut().enumerate() {
            wanted.find(number, &mut found);
        }
        found.paths.retain(|(path, _)| {
            !self.exclude.iter().any(|(whole, pattern)| {
                let text = if *whole { Some(path.as_os_str()) } else { path.file_name() };
                text.is_some_and(|text| pattern.matches_path_with(Path::new(text), EXCLUDE))
            })
        });
        found
    }

    /// Literal paths, for watches on files.
    #[must_use]
    pub fn literals(&self) -> Vec<PathBuf> {
        let literal = |wanted: &Wanted| match wanted {
            Wanted::Path(path) => Some(path.clone()),
            Wanted::Pattern { .. } => None,
        };
        self.wanted.iter().filter_map(literal).collect()
    }

    /// Directories that the patterns lead through, for watches on directories.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        let mut dirs: Vec<PathBuf> = Vec::new();
        for wanted in &self.wanted {
            if let Wanted::Pattern { dirs: seen, .. } = wanted {
                dirs.extend(
                    seen.iter().filter(|(_, stamp)| stamp.is_some()).map(|(dir, _)| dir.clone()),
                );
            }
        }
        dirs.sort();
        dirs.dedup();
        dirs
    }
}

impl Wanted {
    fn new(text: &str) -> Self {
        if !text.contains(['*', '?', '[']) {
            return Self::Path(PathBuf::from(text));
        }
        let mut root = PathBuf::from("/");
        let mut parts = Vec::new();
        for name in text.split('/').filter(|name| !name.is_empty()) {
            let literal = !name.contains(['*', '?', '[']);
            if parts.is_empty() && literal {
                root.push(name);
            } else if name == "**" {
                parts.push(Part::Any);
            } else if literal {
                parts.push(Part::Name(name.to_owned()));
            } else if let Ok(pattern) = Pattern::new(name) {
                parts.push(Part::Match(pattern));
            }
        }
        Self::Pattern { text: text.to_owned(), root, parts, dirs: Vec::new() }
    }

    fn is_stale(&self) -> bool {
        match self {
            Self::Path(_) => false,
            Self::Pattern { dirs, .. } => {
                dirs.iter().any(|(dir, stamp)| !Stamp::unchanged(*stamp, Stamp::of(dir)))
            }
        }
    }

    fn find(&mut self, number: usize, found: &mut Found) {
        match self {
            Self::Path(path) => found.paths.push((path.clone(), number)),
            Self::Pattern { root, parts, dirs, .. } => {
                dirs.clear();
                let mut walk = Walk { number, dirs, found };
                walk.step(root, parts, 0);
                dirs.sort_by(|(a, _), (b, _)| a.cmp(b));
                dirs.dedup_by(|(a, _), (b, _)| a == b);
            }
        }
    }
}

struct Walk<'a> {
    number: usize,
    dirs: &'a mut Vec<(PathBuf, Option<Stamp>)>,
    found: &'a mut Found,
}

impl Walk<'_> {
    fn step(&mut self, dir: &Path, parts: &[Part], depth: usize) {
        let Some((part, rest)) = parts.split_first() else { return };
        if depth > DEPTH_MAX {
            return;
        }
        match part {
            Part::Name(name) => {
                let path = dir.join(name);
                if rest.is_empty() {
                    self.found.paths.push((path, self.number));
                } else {
                    self.step(&path, rest, depth + 1);
                }
            }
            Part::Match(pattern) => self.list(dir, |walk, name, is_dir| {
                if !pattern.matches_path_with(Path::new(name), MATCH) {
                    return;
                }
                let path = dir.join(name);
                if rest.is_empty() {
                    if is_dir != Some(true) {
                        walk.found.paths.push((path, walk.number));
                    }
                } else if is_dir.unwrap_or_else(|| path.is_dir()) {
                    walk.step(&path, rest, depth + 1);
                }
            }),
            Part::Any => {
                if rest.is_empty() {
                    self.step(dir, &[Part::Match(all())], depth);
                } else {
                    self.step(dir, rest, depth);
                }
                // symbolic links are not followed below `**`: they may lead round in circles
                self.list(dir, |walk, name, is_dir| {
                    if is_dir == Some(true) && !name.as_bytes().starts_with(b".") {
                        walk.step(&dir.join(name), parts, depth + 1);
                    }
                });
            }
        }
    }

    /// Calls `visit` with each name and whether it is a directory (`None`: a symbolic link, or
    /// not known).
    fn list(&mut self, dir: &Path, mut visit: impl FnMut(&mut Self, &OsStr, Option<bool>)) {
        let stamp = Stamp::of(dir);
        self.dirs.push((dir.to_owned(), stamp));
        if stamp.is_none() {
            return;
        }
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                self.found.faults.push((dir.to_owned(), error));
                return;
            }
        };
        for entry in entries.flatten() {
            let kind = entry.file_type().ok().filter(|kind| !kind.is_symlink());
            visit(self, &entry.file_name(), kind.map(|kind| kind.is_dir()));
        }
    }
}

fn all() -> Pattern {
    Pattern::new("*").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::Start;
    use crate::key::Table;
    use crate::parse::Format;

    fn finder(paths: &[String], exclude: &[&str]) -> Finder {
        Finder::new(&FileSource {
            source: "s".into(),
            paths: paths.to_vec(),
            exclude: exclude.iter().map(|text| (*text).to_owned()).collect(),
            format: Format::Json,
            options: BTreeMap::new(),
            table: Table::Infrastructure,
            timezone: "UTC".into(),
            start: Start::Beginning,
            max_line_bytes: 1 << 18,
            rotate_wait: std::time::Duration::from_secs(5),
            multiline_wait: std::time::Duration::from_secs(2),
        })
    }

    fn names(root: &Path, found: &Found) -> Vec<String> {
        let mut names: Vec<String> = found
            .paths
            .iter()
            .map(|(path, _)| path.strip_prefix(root).unwrap().display().to_string())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn patterns_with_two_stars_find_files_at_any_depth_without_the_excluded() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        for name in ["x.log", "a/y.log", "a/b/z.log", "a/b/z.log.gz", "a/.h.log", "a/secret.log"] {
            fs::write(root.join(name), "").unwrap();
        }
        fs::create_dir(root.join("d.log")).unwrap();
        let pattern = format!("{}/**/*.log*", root.display());
        let mut finder = finder(&[pattern], &["*.gz", "**/secret.log"]);
        let found = finder.find();
        assert_eq!(names(root, &found), ["a/b/z.log", "a/y.log", "x.log"]);
    }

    #[test]
    fn a_pattern_is_walked_again_when_a_directory_of_it_appears_or_changes() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let mut finder = finder(&[format!("{}/late/*/x.log", root.display())], &[]);
        assert!(finder.find().paths.is_empty());
        assert!(!finder.is_stale(), "nothing has changed");
        fs::create_dir_all(root.join("late/one")).unwrap();
        fs::write(root.join("late/one/x.log"), "").unwrap();
        assert!(finder.is_stale());
        assert_eq!(names(root, &finder.find()), ["late/one/x.log"]);
        fs::remove_dir_all(root.join("late/one")).unwrap();
        assert!(finder.is_stale());
        assert!(names(root, &finder.find()).is_empty());
    }

    #[test]
    fn a_literal_path_is_meant_even_if_there_is_no_file() {
        let mut finder = finder(&["/nowhere/x.log".into()], &[]);
        assert_eq!(finder.find().paths, [(PathBuf::from("/nowhere/x.log"), 0)]);
        assert!(!finder.is_stale());
    }
}
