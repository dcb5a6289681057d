//! What is remembered from one check to the next: `memory.json`, below the state directory.
//!
//! It is padded, so that on a full disk it can be written over in place: just then every check has
//! something to tell, and must know that it has told it. A copy that a power cut tore is given up:
//! what was told is told once more.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::finding::Finding;
use crate::durable;
use crate::stores::health::CheckStatus;

/// The size is a multiple of this.
const PAD_BYTES: usize = 16 << 10;
/// Version of the file.
const VERSION: u32 = 1;

/// All of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    version: u32,
    /// When the first check was made, in milliseconds.
    pub first_ms: i64,
    /// When the last one was made.
    pub last_ms: i64,
    /// Each thing that is looked at, by its name.
    pub known: BTreeMap<String, Known>,
    /// Rules that are silenced.
    pub silences: Vec<Silence>,
    /// Each notifier.
    pub notifiers: BTreeMap<String, Sent>,
}

/// What is known of one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// What was found last.
    pub finding: Finding,
    /// Whether it is in trouble; what cannot be found out leaves this as it was.
    pub trouble: bool,
    /// Since when.
    pub since_ms: i64,
    /// Since when it cannot be found out.
    pub unknown_since_ms: Option<i64>,
    /// What each notifier was told, while there is trouble or its end is to be told.
    pub told: BTreeMap<String, Told>,
}

/// What a notifier was told of a trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When the trouble began.
    pub since_ms: i64,
    /// When it was told last; `None` where it has not been possible.
    pub at_ms: Option<i64>,
    /// The finding's mark then.
    pub mark: i64,
}

/// A rule of which nothing is told for some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// A rule, the name of one thing, or `all`.
    pub rule: String,
    /// From when, in milliseconds.
    pub since_ms: i64,
    /// Until when.
    pub until_ms: i64,
    /// Why.
    pub reason: String,
}

/// How it goes with a notifier.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// When messages went out, of the last hour.
    pub sent_ms: Vec<i64>,
    /// Since when it fails, and why.
    pub failing: Option<(i64, String)>,
}

impl Memory {
    /// Of a host on which nothing was ever checked.
    #[must_use]
    pub const fn new(now_ms: i64) -> Self {
        Self {
            version: VERSION,
            first_ms: now_ms,
            last_ms: now_ms,
            known: BTreeMap::new(),
            silences: Vec::new(),
            notifiers: BTreeMap::new(),
        }
    }

    /// The silence that covers a finding at this time.
    #[must_use]
    pub fn silence(&self, finding: &Finding, now_ms: i64) -> Option<&Silence> {
        let name = finding.name();
        self.silences.iter().find(|silence| {
            let fits =
                silence.rule == "all" || silence.rule == finding.rule || silence.rule == name;
            fits && silence.until_ms > now_ms
        })
    }

    /// Takes what a check found. What is not looked at any more is well; what cannot be found out
    /// for `patience_ms` is trouble.
    pub fn take(&mut self, findings: Vec<Finding>, now_ms: i64, patience_ms: i64) {
        let names: Vec<String> = findings.iter().map(Finding::name).collect();
        for finding in findings {
            self.learn(finding, now_ms, patience_ms);
        }
        for (name, known) in &mut self.known {
            if !names.contains(name) {
                let gone = Finding::well(&known.finding.rule, "it is not looked at any more");
                let gone = gone.of(&known.finding.subject);
                known.enter(false, now_ms);
                known.finding = gone;
                known.unknown_since_ms = None;
            }
        }
        self.known.retain(|name, known| names.contains(name) || !known.told.is_empty());
        self.silences.retain(|silence| silence.until_ms > now_ms);
        self.last_ms = now_ms;
    }

    /// Takes one finding.
    pub fn learn(&mut self, mut finding: Finding, now_ms: i64, patience_ms: i64) {
        let known = self.known.entry(finding.name()).or_insert_with(|| Known {
            finding: finding.clone(),
            trouble: false,
            since_ms: now_ms,
            unknown_since_ms: None,
            told: BTreeMap::new(),
        });
        if finding.status == CheckStatus::Unknown {
            let since = *known.unknown_since_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since) >= patience_ms {
                known.enter(true, now_ms);
            }
            finding.mark = known.finding.mark;
        } else {
            known.unknown_since_ms = None;
            known.enter(finding.status == CheckStatus::Trouble, now_ms);
        }
        known.finding = finding;
    }
}

impl Known {
    fn enter(&mut self, trouble: bool, now_ms: i64) {
        if self.trouble != trouble {
            self.trouble = trouble;
            self.since_ms = now_ms;
        }
    }
}

/// Where the memory is.
#[must_use]
pub fn path(dir: &Path) -> PathBuf {
    dir.join("memory.json")
}

/// Reads the memory; `None` where there is none.
///
/// # Errors
///
/// What the system says. A file that is damaged is [`io::ErrorKind::InvalidData`].
pub fn read(dir: &Path) -> io::Result<Option<Memory>> {
    let text = match fs::read(path(dir)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match serde_json::from_slice::<Memory>(&text) {
        Ok(memory) if memory.version == VERSION => Ok(Some(memory)),
        Ok(memory) => {
            let version = memory.version;
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has version {version}")))
        }
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string())),
    }
}

/// Writes the memory.
///
/// # Errors
///
/// What the system says.
pub fn write(dir: &Path, memory: &Memory) -> io::Result<()> {
    let mut text = serde_json::to_vec(memory)?;
    text.push(b'\n');
    text.resize(text.len().next_multiple_of(PAD_BYTES), b' ');
    let path = path(dir);
    durable::replace(&path, &text).or_else(|error| {
        let full =
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if full && fs::metadata(&path).is_ok_and(|there| there.len() >= text.len() as u64) {
            over(&path, &text)
        } else {
            Err(error)
        }
    })
}

/// Writes over a file that is at least as long.
fn over(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(text)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn trouble(rule: &str) -> Finding {
        Finding::trouble(rule, "bad")
    }

    #[test]
    fn it_comes_back_as_it_was_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let mut memory = Memory::new(5);
        memory.take(vec![trouble("errors").of("a").showing(["x"])], 7, MINUTE);
        write(dir.path(), &memory).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(memory));
        let bytes = fs::read(path(dir.path())).unwrap();
        assert_eq!(bytes.len() % PAD_BYTES, 0);
        fs::write(path(dir.path()), &bytes[..100]).unwrap();
        let error = read(dir.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_cannot_be_found_out_changes_nothing_until_it_lasts() {
        let mut memory = Memory::new(0);
        let unknown = || vec![Finding::unknown("store", "no answer")];
        memory.take(unknown(), 0, 2 * MINUTE);
        assert!(!memory.known["store"].trouble);
        memory.take(unknown(), 2 * MINUTE, 2 * MINUTE);
        assert!(memory.known["store"].trouble, "it lasts");
        memory.take(vec![Finding::well("store", "")], 3 * MINUTE, 2 * MINUTE);
        assert!(!memory.known["store"].trouble);
        memory.take(vec![trouble("store")], 4 * MINUTE, 2 * MINUTE);
        memory.take(unknown(), 5 * MINUTE, 2 * MINUTE);
        assert!(memory.known["store"].trouble, "trouble stays until it is known to have ended");
        assert_eq!(memory.known["store"].since_ms, 4 * MINUTE);
    }

    #[test]
    fn what_is_not_looked_at_any_more_is_forgotten_once_its_end_is_told() {
        let mut memory = Memory::new(0);
        memory.take(vec![trouble("backlog").of("x")], 0, MINUTE);
        let told = Told { since_ms: 0, at_ms: Some(0), mark: 0 };
        memory.known.get_mut("backlog x").unwrap().told.insert("log".into(), told);
        memory.take(Vec::new(), 1, MINUTE);
        assert!(!memory.known["backlog x"].trouble);
        memory.known.get_mut("backlog x").unwrap().told.clear();
        memory.take(Vec::new(), 2, MINUTE);
        assert!(memory.known.is_empty());
    }

    #[test]
    fn a_silence_covers_a_rule_a_thing_or_all_and_ends() {
        let mut memory = Memory::new(0);
        let finding = trouble("disk").of("/srv");
        for (rule, covers) in [("disk", true), ("disk /srv", true), ("all", true), ("dis", false)] {
            let reason = String::new();
            memory.silences =
                vec![Silence { rule: rule.to_owned(), since_ms: 0, until_ms: 10, reason }];
            assert_eq!(memory.silence(&finding, 9).is_some(), covers, "{rule}");
            assert!(memory.silence(&finding, 10).is_none(), "{rule}");
        }
    }
}
