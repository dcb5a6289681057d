//! Results of health checks, kept beside the rows: what `alerts check` found, and when.

use serde::{Deserialize, Serialize};

use super::Answer;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    /// All is well.
    Ok,
    /// Something is wrong.
    Trouble,
    /// It could not be found out.
    Unknown,
}

impl CheckStatus {
    /// The word in the stores.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Trouble => "trouble",
            Self::Unknown => "unknown",
        }
    }

    /// Reads the word; one that nobody knows is [`CheckStatus::Unknown`].
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        [Self::Ok, Self::Trouble]
            .into_iter()
            .find(|one| one.name() == name)
            .unwrap_or(Self::Unknown)
    }
}

/// What one check found on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The host that looked.
    pub host: String,
    /// What was looked at; a name that does not change.
    pub name: String,
    /// When, in milliseconds. With host and name, the key.
    pub checked_ms: i64,
    /// How it ended.
    pub status: CheckStatus,
    /// The number that was compared, where there is one.
    pub value: Option<f64>,
    /// In words for a person.
    pub detail: String,
}

/// Results that are older than their policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OldChecks {
    /// How many.
    pub rows: u64,
    /// When the first of them was found, in milliseconds.
    pub oldest_ms: Option<i64>,
    /// When the last of them was found.
    pub newest_ms: Option<i64>,
}

impl OldChecks {
    /// Adds `rows` results between two times.
    pub fn add(&mut self, rows: u64, oldest_ms: Option<i64>, newest_ms: Option<i64>) {
        self.rows += rows;
        self.oldest_ms = self.oldest_ms.into_iter().chain(oldest_ms).min();
        self.newest_ms = self.newest_ms.max(newest_ms);
    }
}

/// A store that keeps results of health checks.
pub trait HealthStore: Send + Sync {
    /// Keeps these; the same result twice is one.
    fn record_checks<'a>(&'a self, checks: &'a [HealthCheck]) -> Answer<'a, ()>;

    /// The newest result of each check of each host, by host and name.
    fn last_checks(&self) -> Answer<'_, Vec<HealthCheck>>;

    /// How many results are older than `before_ms`.
    fn checks_before(&self, before_ms: i64) -> Answer<'_, OldChecks>;

    /// Drops the results that are older than `before_ms`; answers how many there were.
    fn drop_checks_before(&self, before_ms: i64) -> Answer<'_, OldChecks>;
}
