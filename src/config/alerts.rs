//! `[alerts]` and `[[alerts.rule]]`: what is trouble, and who hears of it.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;

use super::keys::Kind::{Integer, Path, Switch, Table, Text, Texts, Word};
use super::keys::{HOUR_MS, Key, Kind, Section, example, key, millis};
use super::load::Build;
use super::problem::Place;
use super::settings::Settings;
use super::units;
use super::walk::{Entries, Located};
use crate::duration::Rung;

/// `[alerts]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alerts {
    /// Errors of all sources together.
    pub errors: ErrorsRule,
    /// Built-in rules that are not looked at.
    pub off: Vec<String>,
    /// `[[alerts.rule]]`
    pub rules: Vec<Rule>,
    /// The backlog of a source is trouble when its oldest byte is older.
    pub backlog: Duration,
    /// The last backup is trouble when it is older.
    pub backup_age: Duration,
    /// The last drill is trouble when it is older.
    pub drill_age: Duration,
    /// A file system is trouble when more of it is used, in percent.
    pub disk_percent: u8,
    /// A database is slow when its answer takes longer.
    pub slow_answer: Duration,
    /// A replica is trouble when it is further behind.
    pub replication_lag: Duration,
    /// A database is trouble when more of its connections are used, in percent.
    pub connections_percent: u8,
    /// Trouble that lasts is told again after this.
    pub repeat: Duration,
    /// Messages of one notifier in an hour at most.
    pub hourly_max: u32,
    /// A Slack-compatible webhook.
    pub slack: Option<Webhook>,
    /// E-mail.
    pub email: Option<Email>,
    /// A file that each message is appended to.
    pub log: Option<PathBuf>,
    /// A command that gets each message as JSON on its input.
    pub command: Vec<String>,
}

/// So many errors in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorsRule {
    /// The window.
    pub per: Duration,
    /// Trouble when there are more.
    pub above: u64,
}

/// One `[[alerts.rule]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What the rule is called.
    pub name: String,
    /// What it counts.
    pub kind: RuleKind,
    /// Rows of this source only; empty for all.
    pub source: String,
    /// Rows of this level only; empty for `ERROR` and `CRITICAL`.
    pub level: String,
    /// Rows of this logger only; empty for all.
    pub logger: String,
    /// Rows of this host only; empty for this one, `*` for all.
    pub host: String,
    /// The window.
    pub per: Duration,
    /// Trouble when there are more; for [`RuleKind::Silent`] it is not looked at.
    pub above: u64,
    /// A record is slow when it took so long or longer.
    pub slow: Rung,
}

/// `kind` of an `[[alerts.rule]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleKind {
    /// Rows of a level.
    Errors,
    /// Rows that say that something took long.
    Slow,
    /// A source that stores nothing.
    Silent,
}

/// `alerts.slack`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// File that holds the address: it is a secret.
    pub webhook_file: PathBuf,
}

/// `alerts.email`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    /// `host:port` of the server.
    pub server: String,
    /// `starttls`, `tls` or `none`.
    pub tls: String,
    /// Sender.
    pub from: String,
    /// Recipients.
    pub to: Vec<String>,
    /// User name, if the server asks for one.
    pub username: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// Authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// The rules that need no section of their own: what each looks at is in
/// `docs/operations.md`.
pub const BUILT_IN: [&str; 16] = [
    "errors",
    "daemon",
    "backlog",
    "dead-letters",
    "losses",
    "store",
    "nodes",
    "dora",
    "disk",
    "backup",
    "drill",
    "database",
    "replication",
    "connections",
    "notifier",
    "unit",
];

const WINDOW: Kind = millis(60_000, 24 * HOUR_MS);
const AGE: Kind = millis(60_000, 366 * 24 * HOUR_MS);

pub(super) const SECTION: Section = Section {
    name: "alerts",
    repeated: false,
    later: None,
    help: "What is trouble, and who hears of it; `bitacora alerts check` (a timer every 5 minutes) looks.",
    keys: KEYS,
};

const KEYS: &[Key] = &[
    key(
        "errors",
        Table(ERRORS),
        "{ per = \"5m\", above = 10 }",
        "Rows of level ERROR and CRITICAL of all sources: trouble when there are more than above.",
    ),
    key(
        "off",
        Texts,
        "[]",
        "Built-in rules that are not looked at, such as [\"drill\"]; `bitacora alerts list` names them.",
    ),
    key("backlog", AGE, "\"15m\"", "How old the oldest byte that is not stored may be, by source."),
    key("backup_age", AGE, "\"25h\"", "How old the last good backup may be."),
    key("drill_age", AGE, "\"8d\"", "How old the last `bitacora restore --drill` may be."),
    key(
        "disk_percent",
        Integer(1, 100),
        "80",
        "How full the file systems of logs, state and backups may be.",
    ),
    key(
        "slow_answer",
        millis(1, HOUR_MS),
        "\"1s\"",
        "How long store and DORA database may take to answer.",
    ),
    key(
        "replication_lag",
        millis(1000, 24 * HOUR_MS),
        "\"60s\"",
        "How far a replica of a database may be behind.",
    ),
    key(
        "connections_percent",
        Integer(1, 100),
        "80",
        "How many of a database's connections may be in use.",
    ),
    key("repeat", AGE, "\"4h\"", "Trouble that lasts is told again after this."),
    key(
        "hourly_max",
        Integer(1, 10_000),
        "20",
        "Messages of one notifier in an hour; what is more comes as one summary.",
    ),
    example(
        "slack",
        Table(SLACK),
        "{ webhook_file = \"/etc/bitacora/credentials/slack\" }",
        "A Slack-compatible webhook: the file that holds its address.",
    ),
    example(
        "email",
        Table(EMAIL),
        "{ server = \"mail.example.org:587\", from = \"bitacora@example.org\", to = [\"ops@example.org\"] }",
        "E-mail: server, tls (starttls, tls or none), from, to, username, password_file, ca_file.",
    ),
    example(
        "log",
        Table(LOG),
        "{ file = \"/var/log/bitacora/alerts.log\" }",
        "A file that each message is appended to.",
    ),
    example(
        "command",
        Table(COMMAND),
        "{ run = [\"/usr/local/bin/page\", \"--urgent\"] }",
        "A command that gets each message as JSON on its input.",
    ),
];

const ERRORS: &[Key] = &[
    key("per", WINDOW, "\"5m\"", "The window."),
    key("above", Integer(0, i64::MAX), "10", "Trouble when there are more."),
];
const SLACK: &[Key] = &[example(
    "webhook_file",
    Path,
    "\"/etc/bitacora/credentials/slack\"",
    "File that holds the address.",
)];
const EMAIL: &[Key] = &[
    example("server", Text, "\"mail.example.org:587\"", "host:port."),
    key(
        "tls",
        Word(&["starttls", "tls", "none"]),
        "\"starttls\"",
        "How the connection is protected.",
    ),
    example("from", Text, "\"bitacora@example.org\"", "Sender."),
    example("to", Texts, "[\"ops@example.org\"]", "Recipients."),
    example("username", Text, "\"bitacora\"", "User name, if the server asks for one."),
    example(
        "password_file",
        Path,
        "\"/etc/bitacora/credentials/smtp\"",
        "File that holds the password on its first line.",
    ),
    example(
        "ca_file",
        Path,
        "\"/etc/bitacora/ca.pem\"",
        "Authorities to trust instead of the system's.",
    ),
];
const LOG: &[Key] = &[example("file", Path, "\"/var/log/bitacora/alerts.log\"", "The file.")];
const COMMAND: &[Key] =
    &[example("run", Texts, "[\"/usr/local/bin/page\"]", "The command and its arguments.")];

pub(super) const RULE: Section = Section {
    name: "alerts.rule",
    repeated: true,
    later: None,
    help: "Further rules. Any number of [[alerts.rule]] sections.",
    keys: RULE_KEYS,
};

const RULE_KEYS: &[Key] = &[
    example("name", Text, "\"shop is slow\"", "What the rule is called."),
    key(
        "kind",
        Word(&["errors", "slow", "silent"]),
        "\"errors\"",
        "\"errors\" counts rows of a level, \"slow\" rows that took slow or longer, \"silent\" is trouble when a source stores nothing.",
    ),
    key("source", Text, "\"\"", "Rows of this source only; empty for all."),
    key(
        "level",
        Word(&["", "TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
        "\"\"",
        "Rows of this level only; empty for ERROR and CRITICAL, of kind \"slow\" for all levels.",
    ),
    key("logger", Text, "\"\"", "Rows of this logger only; empty for all."),
    key("host", Text, "\"\"", "Rows of this host only; empty for this one, \"*\" for all."),
    key("per", WINDOW, "\"5m\"", "The window."),
    key("above", Integer(0, i64::MAX), "10", "Trouble when there are more."),
    key(
        "slow",
        millis(1, HOUR_MS),
        "\"1s\"",
        "For kind \"slow\": what is too long. One of 50ms, 100ms, 200ms, 500ms, 1s, 2s, 5s, 10s, 30s and 1m, by which the statistics count.",
    ),
    key("enabled", Switch, "true", "false switches the rule off."),
];

pub(super) fn build(
    build: &mut Build<'_>,
    alerts: &Settings,
    rules: Vec<Located<Entries>>,
) -> Alerts {
    let duration = |key| alerts.duration(key).unwrap_or_default();
    let percent = |key| u8::try_from(alerts.integer(key)).unwrap_or(100);
    let errors = alerts.table("errors", ERRORS).map(|(errors, _)| errors);
    let errors = errors.unwrap_or_else(|| Settings::new(ERRORS, Entries::new()));
    Alerts {
        errors: ErrorsRule {
            per: errors.duration("per").unwrap_or_default(),
            above: errors.integer("above").unsigned_abs(),
        },
        off: off(build, alerts),
        rules: all_rules(build, rules),
        backlog: duration("backlog"),
        backup_age: duration("backup_age"),
        drill_age: duration("drill_age"),
        disk_percent: percent("disk_percent"),
        slow_answer: duration("slow_answer"),
        replication_lag: duration("replication_lag"),
        connections_percent: percent("connections_percent"),
        repeat: duration("repeat"),
        hourly_max: u32::try_from(alerts.integer("hourly_max")).unwrap_or_default(),
        slack: slack(build, alerts),
        email: email(build, alerts),
        log: alerts.table("log", LOG).and_then(|(log, place)| {
            let file = log.path("file");
            needed(build, place, "log", "file", file.is_some() || log.wrong("file"));
            file
        }),
        command: alerts.table("command", COMMAND).map_or_else(Vec::new, |(command, place)| {
            let run: Vec<String> =
                command.texts("run").iter().map(|one| one.value.clone()).collect();
            needed(build, place, "command", "run", !run.is_empty() || command.wrong("run"));
            run
        }),
    }
}

fn off(build: &mut Build<'_>, alerts: &Settings) -> Vec<String> {
    let mut off = Vec::new();
    for said in alerts.texts("off") {
        if BUILT_IN.contains(&said.value.as_str()) {
            off.push(said.value.clone());
        } else {
            let message = format!(
                "\"{}\" is no built-in rule; there are {}",
                said.value,
                BUILT_IN.join(", ")
            );
            build.problem(&said.place, message);
        }
    }
    off
}

fn all_rules(build: &mut Build<'_>, sections: Vec<Located<Entries>>) -> Vec<Rule> {
    let mut all: Vec<Rule> = Vec::new();
    for section in sections {
        let place = section.place.clone();
        let Some(one) = rule(build, section) else { continue };
        if all.iter().any(|other| other.name == one.name) {
            build.problem(&place, format!("rule \"{}\" is named twice", one.name));
        }
        all.push(one);
    }
    all
}

fn needed(build: &mut Build<'_>, place: &Place, owner: &str, key: &str, there: bool) {
    if !there {
        build.problem(place, format!("{owner} needs {key}"));
    }
}

fn slack(build: &mut Build<'_>, alerts: &Settings) -> Option<Webhook> {
    let (slack, place) = alerts.table("slack", SLACK)?;
    let file = slack.path("webhook_file");
    needed(build, place, "slack", "webhook_file", file.is_some() || slack.wrong("webhook_file"));
    Some(Webhook { webhook_file: file? })
}

fn email(build: &mut Build<'_>, alerts: &Settings) -> Option<Email> {
    let (email, place) = alerts.table("email", EMAIL)?;
    for key in ["server", "from"] {
        needed(build, place, "email", key, !email.text(key).is_empty() || email.wrong(key));
    }
    let to: Vec<String> = email.texts("to").iter().map(|one| one.value.clone()).collect();
    needed(build, place, "email", "to", !to.is_empty() || email.wrong("to"));
    for (one, other) in [("username", "password_file"), ("password_file", "username")] {
        let there = email.text(one).is_empty() || !email.text(other).is_empty();
        needed(build, place, one, &format!("{other} beside it"), there || email.wrong(other));
    }
    correspondents(build, place, &email);
    Some(Email {
        server: email.text("server").to_owned(),
        tls: email.text("tls").to_owned(),
        from: email.text("from").to_owned(),
        to,
        username: Some(email.text("username").to_owned()).filter(|name| !name.is_empty()),
        password_file: email.path("password_file"),
        ca_file: email.path("ca_file"),
    })
}

/// Addresses that can be written to, and a password that nobody else hears.
fn correspondents(build: &mut Build<'_>, place: &Place, email: &Settings) {
    let addresses = email.texts("to").iter().map(|one| one.value.as_str());
    for address in addresses.chain([email.text("from")]).filter(|address| !address.is_empty()) {
        if address.chars().any(char::is_control) || address.parse::<Mailbox>().is_err() {
            build.problem(place, format!("{address:?} is no address of e-mail"));
        }
    }
    let server = email.text("server");
    let host = server.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    let host = host.map_or("", |(host, _)| host.trim_matches(['[', ']']));
    if host.is_empty() && !server.is_empty() {
        build.problem(place, format!("server {server:?} is not host:port"));
    }
    let near = host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    if email.text("tls") == "none" && !email.text("username").is_empty() && !near {
        build.problem(place, "tls \"none\" would send the password for everybody to read");
    }
}

/// A rule; `None` if it is switched off, or a problem was told.
fn rule(build: &mut Build<'_>, section: Located<Entries>) -> Option<Rule> {
    let (header, settings) = (section.place, Settings::new(RULE_KEYS, section.value));
    if settings.text("name").is_empty() {
        needed(build, &header, "[[alerts.rule]]", "name", settings.wrong("name"));
        return None;
    }
    let name = settings.text("name");
    if BUILT_IN.contains(&name)
        || name == "all"
        || name.len() > 64
        || name.contains(char::is_control)
    {
        let message = format!("{name:?} cannot be a rule's name: it is built in, or too long");
        build.problem(&header, message);
    }
    let kind = match settings.text("kind") {
        "slow" => RuleKind::Slow,
        "silent" => RuleKind::Silent,
        _ => RuleKind::Errors,
    };
    if kind == RuleKind::Silent && settings.text("source").is_empty() {
        build.problem(&header, "kind \"silent\" needs source");
    }
    let slow = slow(build, &header, &settings);
    settings.switch("enabled").then(|| Rule {
        name: settings.text("name").to_owned(),
        kind,
        source: settings.text("source").to_owned(),
        level: settings.text("level").to_owned(),
        logger: settings.text("logger").to_owned(),
        host: settings.text("host").to_owned(),
        per: settings.duration("per").unwrap_or_default(),
        above: settings.integer("above").unsigned_abs(),
        slow,
    })
}

fn slow(build: &mut Build<'_>, header: &Place, settings: &Settings) -> Rung {
    let said = settings.duration("slow");
    if let Some(rung) = said.and_then(Rung::exactly) {
        return rung;
    }
    if !settings.wrong("slow") {
        let rungs: Vec<_> =
            Rung::thresholds().map(|rung| units::show_duration(rung.threshold())).collect();
        let said = units::show_duration(said.unwrap_or_default());
        let place = settings.said("slow").map_or(header, |slow| &slow.place);
        let rungs = rungs.join(", ");
        build.problem(place, format!("no statistics count by {said}; slow is one of {rungs}"));
    }
    Rung::ANY
}
