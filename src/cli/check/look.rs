//! Looks at the files of each source.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::sample::{self, Sample};
use super::{Trouble, access};
use crate::config::units::show_bytes;
use crate::config::{Config, FileSource};
use crate::parse::{Clock, Parser};

/// How names are compared with patterns: `*` does not pass a `/`.
const MATCHING: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// So many troubles of one kind are told for a source; the rest is counted.
const TOLD_MAX: usize = 10;

/// What a source looks like from here.
#[derive(Debug)]
pub(super) struct SourceLook {
    pub source: String,
    pub format: &'static str,
    pub files: BTreeSet<PathBuf>,
    pub bytes: u64,
    pub unreadable: usize,
    pub sample: Sample,
    pub troubles: Vec<Trouble>,
}

impl SourceLook {
    pub fn json(&self) -> Value {
        let troubles: Vec<_> = self.troubles.iter().map(Trouble::json).collect();
        json!({
            "source": self.source,
            "format": self.format,
            "files": self.files.len(),
            "bytes": self.bytes,
            "unreadable": self.unreadable,
            "records_tried": self.sample.records,
            "records_understood": self.sample.understood,
            "troubles": troubles,
        })
    }

    pub fn summary(&self) -> String {
        let name = &self.source;
        let size =
            show_bytes(if self.bytes >= 1 << 20 { self.bytes >> 20 << 20 } else { self.bytes });
        let read = match self.sample.records {
            0 => "nothing to parse yet".to_owned(),
            records => {
                format!("{} of the last {records} records understood", self.sample.understood)
            }
        };
        match self.files.len() {
            0 if self.troubles.is_empty() => {
                format!("{name}: no file matches yet; files are picked up when they appear")
            }
            0 => format!("{name}: no file matches"),
            1 => format!("{name}: 1 file, {size}; {read}"),
            count => format!("{name}: {count} files, {size}; {read}"),
        }
    }
}

/// Looks at every source.
pub(super) fn sources(config: &Config) -> Vec<SourceLook> {
    config.files.iter().map(look).collect()
}

fn look(source: &FileSource) -> SourceLook {
    let mut blocked = Vec::new();
    let files = matches(source, &mut blocked);
    let mut look = SourceLook {
        source: source.source.clone(),
        format: source.format.name(),
        bytes: files.iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum(),
        files,
        unreadable: 0,
        sample: Sample::default(),
        troubles: Vec::new(),
    };
    // both were compiled when the configuration was read
    let parser = Parser::new(source.format, &source.options);
    let zone = TimeZone::get(&source.timezone);
    if let (Ok(parser), Ok(zone)) = (parser, zone) {
        let clock = Clock::new(zone, Timestamp::now().as_millisecond());
        for path in &look.files {
            let compressed =
                path.extension().is_some_and(|extension| extension == "gz" || extension == "zst");
            if let Some(trouble) = access::unreadable_file(path) {
                blocked.push(trouble);
            } else if !compressed {
                match sample::last_lines(path, &parser, &clock) {
                    Ok(sample) => look.sample.add(sample),
                    Err(error) => {
                        let what = format!("{}: {error}", path.display());
                        blocked.push(Trouble { what, fix: String::new() });
                    }
                }
            }
        }
    }
    look.unreadable = blocked.len();
    let untold = blocked.len().saturating_sub(TOLD_MAX);
    look.troubles = blocked;
    if untold > 0 {
        look.troubles.truncate(TOLD_MAX);
        let what = format!("and {untold} more that cannot be read");
        look.troubles.push(Trouble { what, fix: String::new() });
    }
    look.troubles.extend(strange(source, &look.sample));
    look
}

/// A trouble if less than half was understood: it is probably another format.
fn strange(source: &FileSource, sample: &Sample) -> Option<Trouble> {
    if sample.understood * 2 >= sample.records {
        return None;
    }
    let line = sample.stranger.as_deref().unwrap_or_default();
    let format = source.format.name();
    let option = |(key, value): (&String, &String)| format!(" --option {key}='{value}'");
    let options = source.options.iter().map(option).collect::<Vec<_>>().concat();
    Some(Trouble {
        what: format!("most records are not of format {format}, such as: {line}"),
        fix: format!(
            "lines are stored whole all the same; look at format and options with: bitacora parse \
             --format {format}{options} FILE"
        ),
    })
}

/// Files of a source; what stands in the way of finding them goes to `blocked`.
fn matches(source: &FileSource, blocked: &mut Vec<Trouble>) -> BTreeSet<PathBuf> {
    let patterns: Vec<_> =
        source.exclude.iter().filter_map(|text| Pattern::new(text).ok()).collect();
    let excluded = |path: &Path| {
        patterns.iter().any(|pattern| {
            let name = path.file_name().map(Path::new);
            let subject = if pattern.as_str().contains('/') { Some(path) } else { name };
            subject.is_some_and(|subject| pattern.matches_path_with(subject, MATCHING))
        })
    };
    let mut found = BTreeSet::new();
    for text in &source.paths {
        let base = literal_base(text);
        if let Err(error) = base.metadata()
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            blocked.extend(access::unreadable_file(&base));
            continue;
        }
        let Ok(listing) = glob::glob_with(text, MATCHING) else { continue };
        for entry in listing {
            match entry {
                Ok(path) if path.is_file() && !excluded(&path) => {
                    found.insert(path);
                }
                Ok(_) => {}
                Err(error) => blocked.extend(access::unreadable_directory(error.path())),
            }
        }
    }
    found
}

/// The part of a pattern before its first component with a wildcard.
fn literal_base(text: &str) -> PathBuf {
    Path::new(text)
        .components()
        .take_while(|part| {
            !part.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte))
        })
        .collect()
}

/// Files that two sources match: each would store their lines.
pub(super) fn overlaps(sources: &[SourceLook]) -> Vec<Trouble> {
    let mut owners: BTreeMap<&Path, Vec<&str>> = BTreeMap::new();
    for source in sources {
        for path in &source.files {
            let names = owners.entry(path).or_default();
            if !names.contains(&source.source.as_str()) {
                names.push(&source.source);
            }
        }
    }
    owners.retain(|_, names| names.len() > 1);
    let told = owners.iter().take(TOLD_MAX).map(|(path, names)| Trouble {
        what: format!("{} is matched by several sources: {}", path.display(), names.join(", ")),
        fix: "leave it out of all but one with exclude".to_owned(),
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_literal_part_of_a_pattern_ends_before_the_first_wildcard() {
        assert_eq!(literal_base("/var/log/**/*.log"), Path::new("/var/log"));
        assert_eq!(literal_base("/var/log/syslog"), Path::new("/var/log/syslog"));
    }
}
