//! Which days a verified backup holds: beside each archive that was verified stands
//! `ARCHIVE.verified.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::stores::expired::date_of;

/// What stands behind the archive's name.
const SUFFIX: &str = ".verified.json";
/// The part of an archive that holds rows.
const LOGS: &str = "logs";

#[derive(Deserialize)]
struct Note {
    archive: String,
    verified_ms: i64,
    /// When the archive was begun, where the note says so.
    created_ms: Option<i64>,
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    name: String,
    #[serde(default)]
    days: Vec<String>,
}

/// Days that verified backups hold, each with the newest moment up to which one does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    days: BTreeMap<String, i64>,
    /// Notes that cannot be read or whose archive is gone, in words.
    pub useless: Vec<String>,
}

impl Verified {
    /// Reads the notes in `dir`. What cannot be read holds nothing.
    #[must_use]
    pub fn read(dir: &Path) -> Self {
        let mut verified = Self::default();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                verified.useless.push(format!("{}: {error}", dir.display()));
                return verified;
            }
        };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let is_note =
                path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(SUFFIX));
            if is_note && let Err(why) = verified.add(dir, &path) {
                verified.useless.push(format!("{}: {why}", path.display()));
            }
        }
        verified.useless.sort();
        verified
    }

    fn add(&mut self, dir: &Path, path: &Path) -> Result<(), String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        let note: Note = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let named = Path::new(&note.archive).file_name().ok_or("it names no archive")?;
        let beside = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if beside != Some(format!("{}{SUFFIX}", named.to_string_lossy())) {
            return Err(format!("it is about another archive, {}", note.archive));
        }
        if !dir.join(named).is_file() {
            return Err("its archive is gone".to_owned());
        }
        let up_to_ms = note.created_ms.unwrap_or(note.verified_ms);
        for day in
            note.parts.into_iter().filter(|part| part.name == LOGS).flat_map(|part| part.days)
        {
            let known = self.days.entry(day).or_insert(up_to_ms);
            *known = (*known).max(up_to_ms);
        }
        Ok(())
    }

    /// Why the rows of a day may not go, where nothing is newer than `written_ms`; `None` if a
    /// verified backup holds them.
    #[must_use]
    pub fn withholds(&self, day: i32, written_ms: i64) -> Option<String> {
        let date = date_of(day);
        match self.days.get(&date.to_string()) {
            None => Some(format!("no verified backup holds {date}")),
            Some(up_to_ms) if *up_to_ms < written_ms => {
                Some(format!("rows of {date} were written after the last verified backup"))
            }
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NOTE: &str = r#"{"archive":"a.tar.zst","verified_ms":500,"sha256":"00","parts":[
        {"name":"logs","days":["2026-11-22"]},{"name":"dora","days":["2026-11-21"]}]}"#;

    #[test]
    fn only_what_a_verified_archive_holds_may_go() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.tar.zst"), "").unwrap();
        fs::write(dir.path().join("a.tar.zst.verified.json"), NOTE).unwrap();
        let verified = Verified::read(dir.path());
        assert_eq!(verified.useless, Vec::<String>::new());
        assert_eq!(verified.withholds(20_779, 500), None);
        let later = verified.withholds(20_779, 501).unwrap();
        assert!(later.contains("after the last verified backup"), "{later}");
        let other = verified.withholds(20_778, 0).unwrap();
        assert!(other.contains("no verified backup holds 2026-11-21"), "{other}");
    }

    #[test]
    fn a_note_without_its_archive_or_about_another_one_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.tar.zst.verified.json"), NOTE).unwrap();
        fs::write(dir.path().join("b.tar.zst"), "").unwrap();
        fs::write(dir.path().join("b.tar.zst.verified.json"), NOTE).unwrap();
        fs::write(dir.path().join("c.tar.zst.verified.json"), "no json").unwrap();
        let verified = Verified::read(dir.path());
        assert_eq!(verified.useless.len(), 3);
        assert!(verified.withholds(20_779, 0).is_some());
        let missing = Verified::read(&dir.path().join("missing"));
        assert!(missing.withholds(20_779, 0).is_some() && missing.useless.len() == 1);
    }
}
