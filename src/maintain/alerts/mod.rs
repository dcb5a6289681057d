//! Alerts: looks whether all is well, remembers what it found, and tells those who want to know.
//!
//! ```text
//! rules --look--> findings --> memory.json --plan--> messages, for each notifier by itself
//!                     '------> health_checks
//! ```
//!
//! Nothing here runs beside the daemon all the time: a timer starts a check every five minutes, and
//! what a check must know of the one before is in the memory.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{BUILT_IN, Config, Rule, StoreKind};
use crate::dora;
use crate::durable::{self, DirLock, LockError};
use crate::stores::health::{CheckStatus, HealthCheck};
use crate::stores::{StoreError, open};

mod backups;
pub mod databases;
pub mod finding;
pub mod host;
pub mod logs;
pub mod memory;
pub mod notify;
mod process;
pub mod store;
pub mod text;

pub use finding::Finding;
pub use host::{DaemonFacts, NoFacts, SourceFacts};
pub use memory::{Known, Memory, Silence};

/// How long one part of a check may take before it counts as unknown.
const PART_WAIT: Duration = Duration::from_secs(15);

/// What the store tells, which comes first.
const STORE_RULES: [&str; 4] = ["store", "errors", "dead-letters", "losses"];
/// What this host tells.
const HOST_RULES: [&str; 4] = ["disk", "daemon", "backup", "drill"];

/// Why alerts cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AlertsError {
    /// Another check runs.
    #[error("another `bitacora alerts` is at work (pid {holder}); try again later")]
    Busy {
        /// Its process.
        holder: String,
    },
    /// The memory is damaged.
    #[error("{} is damaged: {why}; the next `bitacora alerts check` begins it anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The memory cannot be read or written.
    #[error("cannot use {}: {source}", path.display())]
    Memory {
        /// The file or its directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// The memory, which is ours until this is dropped.
#[derive(Debug)]
pub struct Desk {
    dir: PathBuf,
    _lock: DirLock,
    /// What is remembered.
    pub memory: Memory,
    /// The memory was damaged and begins anew: why.
    pub damaged: Option<String>,
}

impl Desk {
    /// Takes the memory.
    ///
    /// # Errors
    ///
    /// Another check runs, or the directory cannot be used.
    pub fn open(dir: PathBuf, now_ms: i64) -> Result<Self, AlertsError> {
        let failed = |source| AlertsError::Memory { path: dir.clone(), source };
        durable::create_dir(&dir).map_err(failed)?;
        let lock = durable::lock_dir(&dir).map_err(|error| match error {
            LockError::Held { holder, .. } => AlertsError::Busy { holder },
            LockError::Io { source, .. } => failed(source),
        })?;
        let above = dir.parent().unwrap_or(&dir);
        for made in [&dir, &dir.join("lock")] {
            // whoever made it can use it all the same
            drop(durable::own_like(above, made));
        }
        let (memory, damaged) = match memory::read(&dir) {
            Ok(memory) => (memory.unwrap_or_else(|| Memory::new(now_ms)), None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                (Memory::new(now_ms), Some(error.to_string()))
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { dir, _lock: lock, memory, damaged })
    }

    /// Keeps what is remembered.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn save(&self) -> Result<(), AlertsError> {
        let path = memory::path(&self.dir);
        memory::write(&self.dir, &self.memory)
            .map_err(|source| AlertsError::Memory { path: path.clone(), source })?;
        drop(durable::own_like(&self.dir, &path));
        Ok(())
    }
}

/// What is remembered, without taking it; `None` before the first check.
///
/// # Errors
///
/// It is damaged, or cannot be read.
pub fn remembered(config: &Config) -> Result<Option<Memory>, AlertsError> {
    let dir = host::memory_dir(config);
    let path = memory::path(&dir);
    memory::read(&dir).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => AlertsError::Damaged { path, why: source.to_string() },
        _ => AlertsError::Memory { path, source },
    })
}

/// The rules that are looked at, by name: the built-in ones that are not off, and the
/// configuration's own.
#[must_use]
pub fn rules(config: &Config) -> Vec<String> {
    let off = |name: &&str| !config.alerts.off.iter().any(|off| off == name);
    let built_in = BUILT_IN.into_iter().filter(off).map(str::to_owned);
    built_in.chain(config.alerts.rules.iter().map(|rule| rule.name.clone())).collect()
}

/// Looks at everything. Within a runtime of several threads: a part that hangs is given up.
pub async fn look(
    config: &Arc<Config>,
    daemon: Result<DaemonFacts, NoFacts>,
    memory: &Memory,
    now_ms: i64,
) -> Vec<Finding> {
    let (here, known, daemon_answers) = (Arc::clone(config), memory.clone(), daemon.is_ok());
    let parts = vec![
        part(&STORE_RULES, of_store(Arc::clone(config), memory.last_ms, daemon_answers, now_ms)),
        part(&["nodes"], of_nodes(Arc::clone(config))),
        part(&["dora"], of_dora(Arc::clone(config))),
        part(&["database"], of_databases(Arc::clone(config))),
        part(&HOST_RULES, async move {
            let host = tokio::task::spawn_blocking(move || of_host(&here, &daemon, &known, now_ms));
            host.await.unwrap_or_else(|error| vec![Finding::unknown("disk", &error.to_string())])
        }),
    ];
    let mut findings = Vec::new();
    for part in parts {
        match part.await {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(Finding::unknown("daemon", &error.to_string())),
        }
    }
    findings.extend(of_notifiers(memory));
    findings.extend(unseen(&findings, memory, config));
    findings.retain(|finding| !config.alerts.off.contains(&finding.rule));
    findings
}

/// What is known from before, was not seen now, and is not known to have gone: where the store, the
/// daemon or a database did not answer, that says nothing of what else it would have told.
fn unseen(findings: &[Finding], memory: &Memory, config: &Config) -> Vec<Finding> {
    let names: Vec<String> = findings.iter().map(Finding::name).collect();
    let status = |name: &str| {
        let found = findings.iter().find(|finding| finding.name() == name);
        found.map(|finding| finding.status)
    };
    let down = |name: &str| status(name).is_some_and(|status| status != CheckStatus::Ok);
    let lost = |finding: &&Finding| {
        let (rule, subject) = (finding.rule.as_str(), finding.subject.as_str());
        let own = config.alerts.rules.iter().any(|own| own.name == rule);
        match rule {
            "backlog" => down("daemon") && down("store"),
            "replication" | "connections" => {
                down(&format!("database {subject}")) || down("database")
            }
            "disk" => down("disk"),
            "database" => down("database"),
            _ => (own || STORE_RULES.contains(&rule)) && down("store"),
        }
    };
    let known = memory.known.values().map(|known| &known.finding);
    let known = known.filter(|finding| !names.contains(&finding.name())).filter(lost);
    let why = "what would tell it does not answer";
    known.map(|finding| Finding::unknown(&finding.rule, why).of(&finding.subject)).collect()
}

/// One part of a check, in a task of its own; these rules are what it looks at.
fn part(
    rules: &'static [&'static str],
    work: impl Future<Output = Vec<Finding>> + Send + 'static,
) -> tokio::task::JoinHandle<Vec<Finding>> {
    let work = tokio::spawn(work);
    tokio::spawn(async move {
        match tokio::time::timeout(PART_WAIT, work).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => of_all(rules, &|rule| Finding::unknown(rule, &error.to_string())),
            Err(_) => {
                let late = format!("no answer within {} s", PART_WAIT.as_secs());
                of_all(rules, &|rule| Finding::trouble(rule, &late))
            }
        }
    })
}

/// The first rule is judged, as the others hang on it: they are unknown.
fn of_all(rules: &[&str], judged: &dyn Fn(&str) -> Finding) -> Vec<Finding> {
    let mut rules = rules.iter();
    let first = rules.next().map(|rule| judged(rule));
    let rest = rules.map(|rule| Finding::unknown(rule, "what would tell it does not answer"));
    first.into_iter().chain(rest).collect()
}

async fn of_store(
    config: Arc<Config>,
    last_ms: i64,
    daemon_answers: bool,
    now_ms: i64,
) -> Vec<Finding> {
    let host = &config.daemon.host;
    if config.store.kind == StoreKind::Null {
        // it keeps nothing that could be looked at
        return Vec::new();
    }
    let mut rules: Vec<Rule> = vec![logs::errors_rule(&config.alerts)];
    rules.extend(config.alerts.rules.iter().cloned());
    let reader = open::reader(&config.store);
    let asked = match &reader {
        Ok(reader) => store::ask(&**reader).await,
        Err(error) => Err(error.to_string()),
    };
    let failed = asked.as_ref().err().cloned();
    let mut findings = vec![store::answered("store", asked, config.alerts.slow_answer)];
    match (reader, failed) {
        (Ok(reader), None) => {
            findings.extend(logs::look(&*reader, &rules, host, now_ms).await);
            findings.push(store::dead_letters(&*reader, host).await);
            findings.push(store::losses(&*reader, host, last_ms, now_ms).await);
            if !daemon_answers {
                findings
                    .extend(store::backlog(&*reader, host, config.alerts.backlog, now_ms).await);
            }
        }
        (_, why) => {
            // one message says that the store is away; the rest is not known
            let why = why.unwrap_or_default();
            findings.extend(rules.iter().map(|rule| Finding::unknown(&rule.name, &why)));
            findings.extend(store::unknown(&why));
        }
    }
    findings
}

async fn of_nodes(config: Arc<Config>) -> Vec<Finding> {
    if config.store.kind != StoreKind::Cassandra {
        return Vec::new();
    }
    vec![store::nodes(&config.store.cassandra).await]
}

async fn of_dora(config: Arc<Config>) -> Vec<Finding> {
    let started = Instant::now();
    let asked = async {
        let store = dora::open::open(&config.dora).await?;
        store.cycle("").await
    };
    let asked = asked.await.map(|_| started.elapsed()).map_err(|error| error.to_string());
    vec![store::answered("dora", asked, config.alerts.slow_answer)]
}

async fn of_databases(config: Arc<Config>) -> Vec<Finding> {
    let tasks: Vec<_> = config
        .backup
        .databases
        .iter()
        .cloned()
        .map(|database| {
            let alerts = config.alerts.clone();
            tokio::spawn(async move { databases::look(&database, &alerts).await })
        })
        .collect();
    let mut findings = Vec::new();
    for task in tasks {
        match task.await {
            Ok(found) => findings.extend(found),
            Err(error) => findings.push(Finding::unknown("database", &error.to_string())),
        }
    }
    findings
}

fn of_host(
    config: &Config,
    daemon: &Result<DaemonFacts, NoFacts>,
    memory: &Memory,
    now_ms: i64,
) -> Vec<Finding> {
    let alerts = &config.alerts;
    let mut findings = host::daemon(daemon, alerts.backlog);
    findings.extend(host::disks(config));
    findings.extend(backups::look(config, memory.first_ms, now_ms));
    let reported = memory.known.values().filter(|known| known.finding.rule == "unit");
    let reported: Vec<String> = reported.map(|known| known.finding.subject.clone()).collect();
    findings.extend(host::units(&reported));
    findings
}

/// A notifier that failed last time is told by the other ones.
fn of_notifiers(memory: &Memory) -> Vec<Finding> {
    let all = memory.notifiers.iter().map(|(name, sent)| match &sent.failing {
        Some((_, why)) => Finding::trouble("notifier", why).of(name),
        None => Finding::well("notifier", "its last message went out").of(name),
    });
    all.collect()
}

/// Findings as the stores keep them.
#[must_use]
pub fn checks(findings: &[Finding], host: &str, now_ms: i64) -> Vec<HealthCheck> {
    let check = |finding: &Finding| HealthCheck {
        host: host.to_owned(),
        name: finding.name(),
        checked_ms: now_ms,
        status: finding.status,
        value: finding.value,
        detail: finding.detail.clone(),
    };
    findings.iter().map(check).collect()
}

/// Keeps what was found in the store, where retention ends it.
///
/// # Errors
///
/// The store's.
pub async fn record(config: &Config, checks: &[HealthCheck]) -> Result<(), StoreError> {
    open::health(&config.store)?.record_checks(checks).await
}

/// How a notifier fared in one round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Its name.
    pub notifier: String,
    /// Messages that went out.
    pub sent: usize,
    /// News that wait for a later check, as the hour is full.
    pub held: usize,
    /// Why the next message did not go out.
    pub error: Option<String>,
}

/// Tells all notifiers what they do not know yet, and notes it in the memory.
#[must_use]
pub fn tell(
    notifiers: &[Arc<dyn notify::Notifier>],
    config: &Config,
    memory: &mut Memory,
    now_ms: i64,
) -> Vec<Round> {
    let names: Vec<&str> = notifiers.iter().map(|notifier| notifier.name()).collect();
    notify::plan::forget(memory, &names);
    let host = &config.daemon.host;
    let plan = |name: &&str| notify::plan::plan(memory, name, host, &config.alerts, now_ms);
    let plans: Vec<_> = names.iter().map(plan).collect();
    let work = notifiers.iter().zip(&plans);
    let work = work.map(|(notifier, plan)| (Arc::clone(notifier), plan.messages.clone()));
    let delivered = notify::deliver(work.collect(), notify::WAIT);
    let mut rounds = Vec::new();
    for ((name, plan), delivered) in names.iter().zip(&plans).zip(&delivered) {
        notify::plan::note(memory, name, plan, delivered, now_ms);
        rounds.push(Round {
            notifier: (*name).to_owned(),
            sent: delivered.messages,
            held: plan.held,
            error: delivered.error.as_ref().map(ToString::to_string),
        });
    }
    rounds
}

/// Whether all is well, but for what is silenced.
#[must_use]
pub fn all_well(memory: &Memory, now_ms: i64) -> bool {
    memory.known.values().all(|known| {
        known.finding.status == CheckStatus::Ok && !known.trouble
            || memory.silence(&known.finding, now_ms).is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Machine;

    fn config() -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "[[alerts.rule]]\nname = \"mine\"\n").unwrap();
        Config::load(&path, &Machine::here()).unwrap()
    }

    #[test]
    fn what_cannot_be_seen_is_not_called_well() {
        let mut memory = Memory::new(0);
        let names = [("mine", ""), ("backlog", "a"), ("replication", "db"), ("nodes", "")];
        let before = names.map(|(rule, subject)| Finding::trouble(rule, "bad").of(subject));
        memory.take(before.to_vec(), 0, i64::MAX);
        let lost = |findings: &[Finding]| {
            let unseen = unseen(findings, &memory, &config());
            unseen.iter().map(Finding::name).collect::<Vec<_>>()
        };
        let store = Finding::trouble("store", "away");
        let daemon = Finding::trouble("daemon", "down");
        let database = Finding::trouble("database", "down").of("db");
        assert_eq!(lost(&[]), [""; 0], "what is not looked at any more has gone");
        assert_eq!(lost(std::slice::from_ref(&store)), ["mine"]);
        assert_eq!(lost(&[store.clone(), daemon.clone()]), ["backlog a", "mine"]);
        assert_eq!(lost(&[daemon, database]), ["replication db"]);
        assert_eq!(lost(&[Finding::well("store", "")]), [""; 0]);
    }

    #[tokio::test]
    async fn a_part_that_breaks_down_leaves_its_rules_unknown() {
        let broken = part(&STORE_RULES, async { panic!("on purpose") }).await.unwrap();
        assert_eq!(broken.len(), 4);
        assert!(broken.iter().all(|finding| finding.status == CheckStatus::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_hangs_is_trouble() {
        let hung = part(&STORE_RULES, std::future::pending()).await.unwrap();
        assert_eq!((hung[0].rule.as_str(), hung[0].status), ("store", CheckStatus::Trouble));
        assert!(hung[1..].iter().all(|finding| finding.status == CheckStatus::Unknown));
    }
}
