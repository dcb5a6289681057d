//! `retention`: how long rows live, what would go, and letting it go.
//!
//! ```text
//! SQLite     whole day files; rows of one table and source that others outlive
//! Cassandra  the tables' times to live; partitions older than a policy that got shorter
//! both       results of health checks; origins whose rows have ended and whose files are gone;
//!            spans whose rows have ended become one
//! ```
//!
//! What goes leaves a tombstone, so that `audit` tells what has expired from what is lost. A
//! failure of one item is told and stops no other.

mod cassandra;
mod gone;
mod origins;
mod policy;
mod present;
mod sqlite;
mod tidy;
mod verified;

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use serde::{Serialize, Serializer};

pub use gone::{Gone, of_gone_files};
pub use origins::Origins;
pub use policy::Policy;

use crate::config::{Config, StoreKind};
use crate::durable::{self, DirLock, LockError};
use crate::key::Table;
use crate::stores::{StoreError, open};
use verified::Verified;

/// What is asked of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Let it go; else only say what would go.
    pub apply: bool,
    /// Only what a verified backup holds.
    pub require_backup: bool,
    /// A host that is gone for ever: its origins end without a look at its files.
    pub gone_host: Option<String>,
    /// Wall clock in milliseconds.
    pub now_ms: i64,
}

/// What kind of thing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The file of a day.
    DayFile,
    /// Rows of a table and source in the file of a day.
    Rows,
    /// Partitions of a day, table and source.
    Partitions,
    /// Results of health checks.
    HealthChecks,
}

/// What became of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum State {
    /// It would go.
    Planned,
    /// It is gone.
    Done,
    /// It stays for now.
    Withheld(String),
    /// It could not be removed.
    Failed(String),
}

/// Something that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Days since 1970, written as a date.
    #[serde(serialize_with = "date")]
    pub day: Option<i32>,
    /// The table, where it is one table's.
    pub table: Option<Table>,
    /// The source, where it is one source's.
    pub source: Option<String>,
    /// The policy, in words.
    pub policy: String,
    /// Rows, as the spans count them.
    pub rows: u64,
    /// Bytes on disk that become free, where that is known.
    pub bytes: Option<u64>,
    /// Time of the first row in milliseconds, where it is known.
    pub oldest_ms: Option<i64>,
    /// Time of the last row.
    pub newest_ms: Option<i64>,
    /// What became of it.
    #[serde(flatten)]
    pub state: State,
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde hands it over")]
fn date<S: Serializer>(day: &Option<i32>, serializer: S) -> Result<S::Ok, S::Error> {
    match day {
        Some(day) => serializer.collect_str(&crate::stores::expired::date_of(*day)),
        None => serializer.serialize_none(),
    }
}

/// The time to live of a table in Cassandra.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableTtl {
    /// The table.
    pub table: String,
    /// What the table says, in seconds; 0 is for ever.
    pub found_s: i64,
    /// What the policy says.
    pub wanted_s: i64,
    /// What becomes of it; `None` where both are equal.
    pub state: Option<State>,
}

/// Spans that say nothing any more that one of them could not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tidied {
    /// Spans whose rows have all ended.
    pub spans: u64,
    /// Spans that take their place.
    pub become_spans: u64,
}

/// What a run found and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The store's name.
    pub store: &'static str,
    /// Whether anything was to be changed.
    pub applied: bool,
    /// All policies.
    pub policies: Vec<Policy>,
    /// What has ended.
    pub items: Vec<Item>,
    /// Times to live of tables.
    pub tables: Vec<TableTtl>,
    /// Origins that have come to their end.
    pub origins: Origins,
    /// Spans that become fewer.
    pub tidied: Tidied,
    /// What a person should know.
    pub notes: Vec<String>,
    /// What went wrong besides the items.
    pub failures: Vec<String>,
}

impl Report {
    /// Whether nothing failed.
    #[must_use]
    pub fn clean(&self) -> bool {
        let failed = |state: &State| matches!(state, State::Failed(_));
        self.failures.is_empty()
            && !self.origins.state.as_ref().is_some_and(failed)
            && !self.items.iter().any(|item| failed(&item.state))
            && !self.tables.iter().any(|table| table.state.as_ref().is_some_and(failed))
    }

    /// Items in this state: how many, their rows, their bytes.
    #[must_use]
    pub fn sum(&self, state: &State) -> (usize, u64, u64) {
        self.items.iter().filter(|item| item.state == *state).fold((0, 0, 0), |sum, item| {
            (sum.0 + 1, sum.1 + item.rows, sum.2 + item.bytes.unwrap_or(0))
        })
    }
}

/// Takes the lock of retention in the state directory: two runs must not meet.
///
/// # Errors
///
/// Another run has it, or the directory cannot be written.
pub fn lock(state_dir: &Path) -> Result<DirLock, LockError> {
    let dir = state_dir.join("retention");
    durable::create_dir(&dir).map_err(|source| LockError::Io { dir: dir.clone(), source })?;
    let lock = durable::lock_dir(&dir)?;
    // made by root, it is the daemon's user's all the same, whose timer comes next
    if let Ok(owner) = std::fs::metadata(state_dir) {
        for path in [dir.join("lock"), dir] {
            let _ = chown(path, Some(owner.uid()), Some(owner.gid()));
        }
    }
    Ok(lock)
}

/// What a run works with.
struct Run<'a> {
    config: &'a Config,
    request: Request,
    verified: Option<Verified>,
    report: Report,
}

impl Run<'_> {
    /// What happens with an item of a day: planned, or withheld until a backup holds it.
    fn judge(&self, day: i32, written_ms: i64) -> State {
        let withheld =
            self.verified.as_ref().and_then(|verified| verified.withholds(day, written_ms));
        withheld.map_or(State::Planned, State::Withheld)
    }

    fn fail(&mut self, what: &str, error: &StoreError) {
        self.report.failures.push(format!("{what}: {error}"));
    }
}

/// What became of something that was tried.
fn ended(result: Result<(), StoreError>) -> State {
    match result {
        Ok(()) => State::Done,
        Err(error) => State::Failed(error.to_string()),
    }
}

/// Says what has ended, and lets it go if asked to. Takes no lock.
///
/// # Errors
///
/// The store cannot be read at all. Everything else is in the report.
pub async fn run(config: &Config, request: Request) -> Result<Report, StoreError> {
    let store = match config.store.kind {
        StoreKind::Sqlite => "sqlite",
        StoreKind::Cassandra => "cassandra",
        StoreKind::Null => "null",
    };
    let report = Report {
        store,
        applied: request.apply,
        policies: policy::all(config),
        items: Vec::new(),
        tables: Vec::new(),
        origins: Origins::default(),
        tidied: Tidied::default(),
        notes: Vec::new(),
        failures: Vec::new(),
    };
    let dir = &config.backup.dir;
    let verified = request.require_backup.then(|| match config.store.kind {
        StoreKind::Cassandra => Verified::of_keyspace(dir, &config.store.cassandra.keyspace),
        StoreKind::Sqlite | StoreKind::Null => Verified::read(dir),
    });
    let mut run = Run { config, request, verified, report };
    if let Some(verified) = &run.verified {
        let useless = verified.useless.iter().map(|why| format!("no help from a backup: {why}"));
        run.report.notes.extend(useless);
    }
    match config.store.kind {
        StoreKind::Sqlite if !config.store.sqlite.dir.exists() => {
            run.report.notes.push("nothing was ever stored".to_owned());
            return Ok(run.report);
        }
        StoreKind::Null => {
            run.report.notes.push("the null store keeps nothing".to_owned());
            return Ok(run.report);
        }
        StoreKind::Sqlite => run.sqlite()?,
        StoreKind::Cassandra => Box::pin(run.cassandra()).await?,
    }
    Box::pin(run.health_checks()).await;
    Box::pin(run.tidy()).await;
    Ok(run.report)
}

impl Run<'_> {
    async fn health_checks(&mut self) {
        let lifetime = self.config.retention.health_checks;
        // whole days, as all stores can tell them
        let before_ms = i64::from(policy::first_kept(lifetime, self.request.now_ms))
            .saturating_mul(crate::key::DAY_MS);
        let found = async {
            let store = open::health(&self.config.store)?;
            store.checks_before(before_ms).await.map(|old| (store, old))
        };
        let (store, old) = match found.await {
            Ok(found) => found,
            Err(error) => return self.fail("health_checks", &error),
        };
        if old.rows == 0 {
            return;
        }
        let state = if self.request.apply {
            ended(store.drop_checks_before(before_ms).await.map(drop))
        } else {
            State::Planned
        };
        self.report.items.push(Item {
            kind: Kind::HealthChecks,
            day: None,
            table: None,
            source: None,
            policy: format!("health_checks: {}", policy::words(Some(lifetime))),
            rows: old.rows,
            bytes: None,
            oldest_ms: old.oldest_ms,
            newest_ms: old.newest_ms,
            state,
        });
    }
}
