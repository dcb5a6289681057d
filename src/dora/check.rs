//! What may be written: checked here, so that a person is told what is wrong in words, and the
//! same by both databases.

use serde_json::{Map, Value};

use super::DoraError;
use super::events::{DURATION_MAX_CS, Deployment, Incident, Pdca, Phase};

/// Names and versions.
const NAME_BYTES_MAX: usize = 100;
/// A summary, a proposal.
const TEXT_BYTES_MAX: usize = 4000;
/// Metadata of one event.
const METADATA_BYTES_MAX: usize = 64 * 1024;
/// Changes of one deployment.
const CHANGES_MAX: usize = 10_000;
/// The first millisecond of 2200: no delivery was later.
const TIME_END_MS: i64 = 7_258_118_400_000;

/// Why a value cannot be written, without the name of what it was for.
type Fault = String;

fn invalid(what: &str, fault: &str) -> DoraError {
    DoraError::Invalid(format!("{what} {fault}"))
}

/// A name that must be there.
pub(super) fn name(text: &str) -> Result<(), Fault> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    optional(text)
}

/// A name that may be empty. Blanks at its ends are refused, as some databases ignore them when
/// they compare.
pub(super) fn optional(text: &str) -> Result<(), Fault> {
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("has {} bytes; {NAME_BYTES_MAX} at most", text.len()));
    }
    if text.trim() != text {
        return Err("begins or ends with a blank".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("has a control character".to_owned());
    }
    Ok(())
}

fn sentence(text: &str) -> Result<(), Fault> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("has {} bytes; {TEXT_BYTES_MAX} at most", text.len()));
    }
    Ok(())
}

pub(super) fn time(at_ms: i64) -> Result<(), Fault> {
    if (0..TIME_END_MS).contains(&at_ms) {
        return Ok(());
    }
    Err("is not between 1970 and 2200".to_owned())
}

fn duration(hundredths: i64) -> Result<(), Fault> {
    if (0..=DURATION_MAX_CS).contains(&hundredths) {
        return Ok(());
    }
    Err("is not between 0 and 99999999.99 seconds".to_owned())
}

/// `service`, `team` and `request_id` are read by others, who expect names.
pub(super) fn metadata(metadata: &Map<String, Value>) -> Result<(), Fault> {
    for key in ["service", "team", "request_id"] {
        match metadata.get(key) {
            None => {}
            Some(Value::String(text)) => {
                optional(text).map_err(|fault| format!("{key} {fault}"))?;
            }
            Some(_) => return Err(format!("{key} is not a text")),
        }
    }
    let bytes = Value::Object(metadata.clone()).to_string().len();
    if bytes > METADATA_BYTES_MAX {
        return Err(format!("has {bytes} bytes; {METADATA_BYTES_MAX} at most"));
    }
    Ok(())
}

/// When an incident was closed.
pub(super) fn closing(closed_ms: i64) -> Result<(), DoraError> {
    time(closed_ms).map_err(|fault| invalid("closed_at", &fault))
}

/// The first of these that is wrong.
fn all(checks: &[(&str, Result<(), Fault>)]) -> Result<(), DoraError> {
    for (what, done) in checks {
        if let Err(fault) = done {
            return Err(invalid(what, fault));
        }
    }
    Ok(())
}

impl Phase {
    /// Whether it can be written.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, in words.
    pub fn check(&self) -> Result<(), DoraError> {
        all(&[
            ("cycle_id", name(&self.cycle_id)),
            ("feature_id", name(&self.feature_id)),
            ("duration_seconds", duration(self.duration_cs)),
            ("timestamp", time(self.created_ms)),
            ("metadata", metadata(&self.metadata)),
        ])
    }
}

impl Deployment {
    /// Whether it can be written.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, in words.
    pub fn check(&self) -> Result<(), DoraError> {
        all(&[
            ("id", name(&self.id)),
            ("cycle_id", self.cycle_id.as_deref().map_or(Ok(()), name)),
            ("service", optional(&self.service)),
            ("team", optional(&self.team)),
            ("version", optional(&self.version)),
            ("deployed_at", time(self.deployed_ms)),
            ("metadata", metadata(&self.metadata)),
        ])?;
        if self.changes.len() > CHANGES_MAX {
            return Err(invalid("changes", &format!("are more than {CHANGES_MAX}")));
        }
        for change in &self.changes {
            let what = format!("change {:?}", change.id);
            all(&[
                (&what, name(&change.id)),
                (&format!("committed_at of {what}"), time(change.committed_ms)),
            ])?;
            if change.committed_ms > self.deployed_ms {
                return Err(invalid(&what, "was committed after the deployment"));
            }
        }
        let mut ids: Vec<&str> = self.changes.iter().map(|change| change.id.as_str()).collect();
        ids.sort_unstable();
        match ids.windows(2).find_map(|pair| match pair {
            [one, other] if one == other => Some(one),
            _ => None,
        }) {
            Some(twice) => Err(invalid(&format!("change {twice:?}"), "is named twice")),
            None => Ok(()),
        }
    }
}

impl Incident {
    /// Whether it can be written.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, in words.
    pub fn check(&self) -> Result<(), DoraError> {
        all(&[
            ("id", name(&self.id)),
            ("service", optional(&self.service)),
            ("team", optional(&self.team)),
            ("deployment", self.deployment.as_deref().map_or(Ok(()), name)),
            ("summary", sentence(&self.summary)),
            ("opened_at", time(self.opened_ms)),
            ("closed_at", self.closed_ms.map_or(Ok(()), time)),
            ("metadata", metadata(&self.metadata)),
        ])?;
        if self.closed_ms.is_some_and(|closed| closed < self.opened_ms) {
            return Err(invalid("closed_at", "is before opened_at"));
        }
        Ok(())
    }
}

impl Pdca {
    /// The states of a proposal.
    pub const STATES: [&str; 5] =
        ["proposed", "applied_for_check", "adopted", "watching", "reverted"];

    /// Whether it can be written.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, in words.
    pub fn check(&self) -> Result<(), DoraError> {
        let known = Self::STATES.contains(&self.status.as_str());
        all(&[
            ("id", name(&self.id)),
            ("metric", name(&self.metric)),
            ("proposal", sentence(&self.proposal)),
            ("service", optional(&self.service)),
            ("team", optional(&self.team)),
            ("status", if known { Ok(()) } else { Err("is none that a proposal has".to_owned()) }),
            ("created_at", time(self.created_ms)),
            ("applied_at", self.applied_ms.map_or(Ok(()), time)),
            ("checked_at", self.checked_ms.map_or(Ok(()), time)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::dora::events::Change;

    fn deployment(changes: &[(&str, i64)]) -> Deployment {
        Deployment {
            id: "d".into(),
            cycle_id: None,
            service: String::new(),
            team: String::new(),
            version: String::new(),
            deployed_ms: 1000,
            succeeded: true,
            rework: false,
            changes: changes
                .iter()
                .map(|(id, at)| Change { id: (*id).into(), committed_ms: *at })
                .collect(),
            metadata: Map::new(),
        }
    }

    #[test]
    fn names_that_a_database_would_compare_in_its_own_way_are_refused() {
        for (text, fault) in [
            ("", "is empty"),
            ("a ", "begins or ends with a blank"),
            ("a\tb", "has a control character"),
            (&"x".repeat(101), "has 101 bytes; 100 at most"),
        ] {
            assert_eq!(name(text), Err(fault.to_owned()), "{text:?}");
        }
        assert_eq!(name("an id of ñ and blanks"), Ok(()));
    }

    #[test]
    fn what_others_read_in_the_metadata_must_be_a_name() {
        let with = |value: Value| metadata(value.as_object().unwrap());
        assert_eq!(with(json!({"team": 7})), Err("team is not a text".to_owned()));
        assert_eq!(with(json!({"other": 7})), Ok(()));
        assert!(with(json!({"text": "x".repeat(70_000)})).unwrap_err().starts_with("has 70"));
    }

    #[test]
    fn a_change_from_after_the_deployment_or_named_twice_is_refused() {
        assert!(deployment(&[("a", 1), ("b", 1000)]).check().is_ok());
        let told = deployment(&[("a", 1001)]).check().unwrap_err().to_string();
        assert_eq!(told, "change \"a\" was committed after the deployment");
        let told = deployment(&[("a", 1), ("b", 2), ("a", 3)]).check().unwrap_err().to_string();
        assert_eq!(told, "change \"a\" is named twice");
    }
}
