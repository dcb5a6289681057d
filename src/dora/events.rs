//! What is known of deliveries: phases of cycles, deployments with their changes, incidents.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// One phase of a cycle, as it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// The cycle that it belongs to, 1 to 100 bytes.
    pub cycle_id: String,
    /// The feature that the cycle is for, 1 to 100 bytes.
    pub feature_id: String,
    /// Which phase.
    pub name: PhaseName,
    /// How it ended.
    pub decision: Decision,
    /// How long it took, in hundredths of a second: DECIMAL(10,2) of seconds.
    pub duration_cs: i64,
    /// Further facts; `service`, `team` and `request_id` are read by the report and by `trace`.
    pub metadata: Map<String, Value>,
    /// When it ended, wall clock in milliseconds. With cycle and name it is the key.
    pub created_ms: i64,
}

/// `phase_name`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PhaseName {
    /// `planning`
    Planning,
    /// `testing`
    Testing,
    /// `deployment`
    Deployment,
    /// `maintenance`
    Maintenance,
}

/// `decision`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// `go`
    Go,
    /// `no-go`
    NoGo,
    /// `review`
    Review,
    /// `blocked`
    Blocked,
    /// `success`
    Success,
    /// `failed`
    Failed,
}

/// One deployment to production.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// Its name, unique: from the caller, or a random uuid.
    pub id: String,
    /// The cycle that it ends, if any: that cycle's `deployment` phase of the same outcome is
    /// then not counted again.
    pub cycle_id: Option<String>,
    /// What was deployed; empty if nobody said.
    pub service: String,
    /// Whose it is; empty if nobody said.
    pub team: String,
    /// Version or commit; empty if nobody said.
    pub version: String,
    /// When it was in production, in milliseconds.
    pub deployed_ms: i64,
    /// Whether it could be made at all.
    pub succeeded: bool,
    /// It was not planned: made to mend what users saw.
    pub rework: bool,
    /// What it brought.
    pub changes: Vec<Change>,
    /// Further facts.
    pub metadata: Map<String, Value>,
}

/// One change that a deployment brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Commit, or any other name.
    pub id: String,
    /// When it was committed, in milliseconds.
    pub committed_ms: i64,
}

/// Something that users saw go wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// Its name, unique.
    pub id: String,
    /// The service; empty if nobody said.
    pub service: String,
    /// Whose it is; empty if nobody said.
    pub team: String,
    /// The deployment that caused it, if one did.
    pub deployment: Option<String>,
    /// One sentence.
    pub summary: String,
    /// When it began, in milliseconds.
    pub opened_ms: i64,
    /// When service was restored, in milliseconds.
    pub closed_ms: Option<i64>,
    /// Further facts.
    pub metadata: Map<String, Value>,
}

/// One proposal of plan-do-check-act, with the figures that it is judged by.
#[derive(Debug, Clone, PartialEq)]
pub struct Pdca {
    /// Its name, unique.
    pub id: String,
    /// The metric that is to get better.
    pub metric: String,
    /// What is tried, in a sentence or two.
    pub proposal: String,
    /// Events of this service only; empty for all.
    pub service: String,
    /// Events of this team only; empty for all.
    pub team: String,
    /// The figures before, frozen when it was proposed.
    pub baseline: Value,
    /// How long the change may work before it is judged.
    pub window_days: u32,
    /// Where it stands: `proposed`, `applied_for_check`, `adopted`, `watching`, `reverted`.
    pub status: String,
    /// When it was proposed, in milliseconds.
    pub created_ms: i64,
    /// When the change was made, in milliseconds.
    pub applied_ms: Option<i64>,
    /// When it was judged last, in milliseconds.
    pub checked_ms: Option<i64>,
    /// The figures after; null until it was judged.
    pub result: Value,
}

/// What is asked of the store: events from `since_ms` (included) to `until_ms` (excluded).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// First moment, in milliseconds.
    pub since_ms: i64,
    /// First moment after it, in milliseconds.
    pub until_ms: i64,
    /// This service only.
    pub service: Option<String>,
    /// This team only.
    pub team: Option<String>,
}

/// The last moment of the year 9999: all that any of the databases can say comes before it.
pub const LAST_MS: i64 = 253_402_300_799_999;

/// When the first phase of a cycle began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CycleStart {
    /// The cycle.
    pub cycle_id: String,
    /// When its first phase began, in milliseconds.
    pub started_ms: i64,
}

/// Where the metrics begin: nothing that was before says anything of how a team works.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Starts {
    /// When the first deployment was declared, by itself or as the phase of a cycle, in
    /// milliseconds.
    pub first_ms: Option<i64>,
    /// When the first [`Deployment`] of each service was declared. Its changes are those that
    /// gathered before anybody counted.
    pub services: BTreeMap<String, i64>,
}

impl Starts {
    /// From all deployments and all phases of name `deployment` that ended with success or
    /// failure; `first_ms` for the service and team of the window.
    #[must_use]
    pub fn of(deployments: &[Deployment], phases: &[Phase], window: &Window) -> Self {
        let mut services = BTreeMap::new();
        for one in deployments {
            let first = services.entry(one.service.clone()).or_insert(one.deployed_ms);
            *first = one.deployed_ms.min(*first);
        }
        let explicit = deployments
            .iter()
            .filter(|one| window.is_of(&one.service, &one.team))
            .map(|one| one.deployed_ms);
        let of_cycles = phases
            .iter()
            .filter(|one| window.is_of(one.text("service"), one.text("team")))
            .map(|one| one.created_ms);
        Self { first_ms: explicit.chain(of_cycles).min(), services }
    }
}

impl Window {
    /// Whether it asks for this service and team.
    #[must_use]
    pub fn is_of(&self, service: &str, team: &str) -> bool {
        self.service.as_ref().is_none_or(|one| one == service)
            && self.team.as_ref().is_none_or(|one| one == team)
    }
}

impl Phase {
    /// When it began, in milliseconds.
    #[must_use]
    pub const fn started_ms(&self) -> i64 {
        self.created_ms.saturating_sub(self.duration_cs.saturating_mul(10))
    }

    /// A text of its metadata; empty if there is none.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.metadata.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

impl PhaseName {
    /// All of them, in the order of a cycle.
    pub const ALL: [Self; 4] = [Self::Planning, Self::Testing, Self::Deployment, Self::Maintenance];

    /// As it is written everywhere.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Testing => "testing",
            Self::Deployment => "deployment",
            Self::Maintenance => "maintenance",
        }
    }

    /// From its word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }
}

impl Decision {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Go, Self::NoGo, Self::Review, Self::Blocked, Self::Success, Self::Failed];

    /// As it is written everywhere.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::NoGo => "no-go",
            Self::Review => "review",
            Self::Blocked => "blocked",
            Self::Success => "success",
            Self::Failed => "failed",
        }
    }

    /// From its word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }
}

/// The longest duration that DECIMAL(10,2) holds, in hundredths of a second.
pub const DURATION_MAX_CS: i64 = 9_999_999_999;

/// Hundredths as seconds with two decimals: `300.00`.
#[must_use]
pub fn seconds_text(hundredths: i64) -> String {
    let sign = if hundredths < 0 { "-" } else { "" };
    let hundredths = hundredths.unsigned_abs();
    format!("{sign}{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Seconds with at most two decimals, as hundredths: `300`, `0.5`, `12.34`.
#[must_use]
pub fn hundredths(text: &str) -> Option<i64> {
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(decimals) || decimals.len() > 2 {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let decimals: i64 = format!("{decimals:0<2}").parse().ok()?;
    seconds
        .checked_mul(100)?
        .checked_add(decimals)
        .filter(|hundredths| *hundredths <= DURATION_MAX_CS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_to_hundredths_and_told_with_two_decimals() {
        for (text, read) in [
            ("300", Some(30_000)),
            ("0.5", Some(50)),
            ("12.34", Some(1234)),
            ("99999999.99", Some(DURATION_MAX_CS)),
            ("100000000", None),
            ("1.234", None),
            ("-1", None),
            ("", None),
            (".5", None),
            ("1.", None),
            ("1e3", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(hundredths(text), read, "{text}");
        }
        assert_eq!(seconds_text(30_000), "300.00");
        assert_eq!(seconds_text(5), "0.05");
        assert_eq!(seconds_text(-105), "-1.05");
    }

    #[test]
    fn every_word_is_read_as_it_is_written() {
        for name in PhaseName::ALL {
            assert_eq!(PhaseName::from_word(name.word()), Some(name));
        }
        for decision in Decision::ALL {
            assert_eq!(Decision::from_word(decision.word()), Some(decision));
        }
        assert_eq!(Decision::from_word("GO"), None);
    }
}
