//! `bitacora alerts` end to end: real messages to a webhook, an SMTP server, a file and a command.

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

mod databases;
mod messages;
mod rules;
mod servers;
mod units;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::Output;

use serde_json::Value;

use support::site::{Files, Site, told};
use support::{PATIENCE, within};

/// A part of the webhook's address: a test looks for it where it must not be.
pub const SECRET: &str = "hook-canary-51d2";

/// A site whose daemon follows one log of JSON records.
pub struct Watched {
    pub site: Site,
}

impl Watched {
    /// `alerts` are keys of `[alerts]` and further sections.
    pub fn new(alerts: &str) -> Self {
        let watched = Self { site: Site::new() };
        watched.configure(alerts);
        watched
    }

    /// Writes the configuration. Nothing beyond the site is looked at: this machine's disk may be
    /// as full as it likes.
    pub fn configure(&self, alerts: &str) {
        let site = &self.site;
        let mut files = Files::new("shop", site.log("shop.log"));
        files = files.with("format = \"json\"\ntable = \"application\"");
        site.configure(&[files]);
        let mut config = OpenOptions::new().append(true).open(site.config()).unwrap();
        let (dora, backup) = (site.path("dora.db"), site.path("backup"));
        writeln!(config, "[dora]\nsqlite = {dora:?}\n[backup]\ndir = {backup:?}").unwrap();
        let disk = if alerts.contains("disk_percent") { "" } else { "disk_percent = 100\n" };
        let slow = if alerts.contains("slow_answer") { "" } else { "slow_answer = \"30s\"\n" };
        writeln!(config, "[alerts]\n{disk}{slow}{alerts}").unwrap();
    }

    /// Appends records to the log.
    pub fn write(&self, records: &[Value]) {
        let mut log =
            OpenOptions::new().create(true).append(true).open(self.site.log("shop.log")).unwrap();
        for record in records {
            writeln!(log, "{record}").unwrap();
        }
    }

    /// Appends records, and waits until the statistics count as many in all.
    #[track_caller]
    pub fn stores(&self, records: &[Value], in_all: u64) {
        self.write(records);
        let counted = within(PATIENCE, || {
            let output = self.site.run(&["logs", "--count", "all", "-o", "json"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .any(|count| count["count"] == in_all || count["rows"] == in_all)
        });
        let output = self.site.run(&["logs", "--count", "all", "-o", "json"]);
        assert!(counted, "{}\n{}", told(&output), self.site.said());
    }

    /// `alerts check`, which must end so.
    #[track_caller]
    pub fn check(&self, code: i32) -> Checked {
        let output = self.site.run(&["alerts", "check", "--json"]);
        assert_eq!(output.status.code(), Some(code), "{}", told(&output));
        let answer = serde_json::from_slice(&output.stdout).expect("JSON");
        Checked { answer, output }
    }
}

/// What a check answered.
pub struct Checked {
    pub answer: Value,
    pub output: Output,
}

impl Checked {
    /// The status of a rule, or of one of its things.
    #[track_caller]
    pub fn status(&self, name: &str) -> &str {
        self.find(name)["status"].as_str().unwrap()
    }

    #[track_caller]
    pub fn find(&self, name: &str) -> &Value {
        let checks = self.answer["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {:#}", self.answer))
    }

    /// What stood on stderr.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }
}

/// A file of the site with this text; its path as TOML wants it.
pub fn file(site: &Site, name: &str, text: &str) -> String {
    let path = site.path(name);
    fs::write(&path, text).unwrap();
    format!("{path:?}")
}

/// A record of the log, of now.
pub fn record(level: &str, message: &str) -> Value {
    serde_json::json!({ "timestamp": now(), "level": level, "message": message })
}

pub fn now() -> String {
    jiff::Timestamp::now().to_string()
}

pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
