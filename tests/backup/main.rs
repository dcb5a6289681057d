//! Backups of a real daemon's rows and of real databases: destroyed, brought back, and compared.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::pedantic,
    clippy::disallowed_methods,
    reason = "a test that fails may panic"
)]

#[path = "../support/mod.rs"]
mod support;

mod cassandra;
mod damage;
mod drill;
mod everything;
mod hostile;
mod keeping;
mod secrets;

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use support::site::{Files, Site};

/// A site with one followed file, and an archive directory.
struct Backed {
    pub site: Site,
    /// Further sections.
    pub extra: String,
}

impl Backed {
    pub fn new() -> Self {
        Self { site: Site::new(), extra: String::new() }
    }

    pub fn dir(&self) -> PathBuf {
        self.site.path("archives")
    }

    /// Writes the configuration; `keys` are further ones of `[backup]`.
    pub fn configure(&self, keys: &str) {
        self.site.configure(&[Files::new("json", self.site.log("app.log"))]);
        let mut file = fs::OpenOptions::new().append(true).open(self.site.config()).unwrap();
        let dora = if self.extra.contains("[dora]") {
            String::new()
        } else {
            format!("[dora]\nsqlite = {:?}\n", self.site.path("dora.db"))
        };
        write!(file, "{dora}[backup]\ndir = {:?}\n{keys}\n{}\n", self.dir(), self.extra).unwrap();
    }

    /// The archives' paths, oldest first.
    pub fn archives(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir(self.dir())
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default();
        found.retain(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("bitacora_backup_")
                && (name.ends_with(".zst") || name.ends_with(".gz"))
        });
        found.sort();
        found
    }

    /// Everything in the directory of archives that is not an archive of a finished run.
    pub fn unfinished(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.')).collect()
    }

    /// Makes an archive that must be good.
    #[track_caller]
    pub fn create(&self) -> PathBuf {
        self.site.answers(&["backup", "create"], 0, ": good");
        self.archives().pop().unwrap()
    }

    /// Fills the store, over three days, by a daemon that then ends.
    #[track_caller]
    pub fn fill(&self, lines: u64) {
        let text: String = (0..lines).map(line).collect();
        let mut log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.site.log("app.log"))
            .unwrap();
        log.write_all(text.as_bytes()).unwrap();
        let daemon = self.site.start();
        let wanted = usize::try_from(lines).unwrap();
        support::eventually("all rows", || self.site.rows().len() >= wanted);
        daemon.stop();
    }
}

/// A line of the log, of one of three days.
pub fn line(number: u64) -> String {
    let (day, second) = (20 + number % 3, number % 60);
    format!(
        "{{\"time\":\"2026-11-{day}T10:00:{second:02}Z\",\"level\":\"info\",\"message\":\"ln{number:08}x said\"}}\n"
    )
}
