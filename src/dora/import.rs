//! Takes over what earlier tools wrote: `.dora_sdlc_metrics.json`. It may be done again: what is
//! there stays as it is.

use std::collections::{BTreeMap, HashMap};

use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::Value;

use super::events::{Phase, PhaseName};
use super::json::{Object, Refused};
use super::{DoraError, DoraStore};

/// Phases of one transaction.
const CHUNK: usize = 500;

/// Why nothing of a file was taken.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is no JSON.
    #[error("it is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// It is something else.
    #[error("it is not a list of cycles: {path} {reason}", path = .0.path, reason = .0.reason)]
    NotCycles(Refused),
    /// The database, after a part of it may have been recorded; doing it again does the rest.
    #[error(transparent)]
    Database(#[from] DoraError),
}

/// The phases of a file, and what of it is none.
#[derive(Debug, Default)]
pub struct Document {
    /// Cycles that it lists.
    pub cycles: usize,
    /// Each with its place in the file.
    pub phases: Vec<(String, Phase)>,
    /// What was not understood.
    pub refused: Vec<Refused>,
    /// Entries that say again what another one says.
    pub repeated: usize,
    /// Keys that are not taken, and how often they were there.
    pub ignored: BTreeMap<String, usize>,
}

/// What became of a file.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Nothing was written: it tells what would be.
    pub dry_run: bool,
    /// Cycles in the file.
    pub cycles: usize,
    /// Phases that are new in the database.
    pub recorded: usize,
    /// Phases that were there already, or stand in the file twice.
    pub known: usize,
    /// What was not taken.
    pub refused: Vec<Refused>,
    /// Keys that are not taken, and how often they were there. The figures among them are computed
    /// from the events by `bitacora dora report`.
    pub ignored: BTreeMap<String, usize>,
}

/// What makes a phase one of its own.
type Key = (String, PhaseName, i64);

fn key(phase: &Phase) -> Key {
    (phase.cycle_id.clone(), phase.name, phase.created_ms)
}

/// Whether two phases of one key say the same. A database may write metadata in its own way.
fn alike(one: &Phase, other: &Phase) -> bool {
    one.feature_id == other.feature_id
        && one.decision == other.decision
        && one.duration_cs == other.duration_cs
}

/// Reads a file; times without a zone are in `zone`.
///
/// # Errors
///
/// It is no list of cycles at all.
pub fn read(text: &str, zone: &TimeZone) -> Result<Document, ImportError> {
    // some editors begin a file with a mark
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let value: Value = serde_json::from_str(text)?;
    let top = Object::new(&value, "").map_err(|mut refused| {
        "the file".clone_into(&mut refused.path);
        ImportError::NotCycles(refused)
    })?;
    let Some(Value::Array(cycles)) = top.get("cycles") else {
        return Err(ImportError::NotCycles(Refused::new("cycles", "is missing or not a list")));
    };
    let mut reading = Reading { zone, document: Document::default(), seen: HashMap::new() };
    reading.document.cycles = cycles.len();
    reading.ignore(&top, "", &["cycles"]);
    for (number, cycle) in cycles.iter().enumerate() {
        if let Err(refused) = reading.cycle(cycle, &format!("cycles[{number}]")) {
            reading.document.refused.push(refused);
        }
    }
    Ok(reading.document)
}

struct Reading<'a> {
    zone: &'a TimeZone,
    document: Document,
    seen: HashMap<Key, usize>,
}

impl Reading<'_> {
    fn ignore(&mut self, object: &Object<'_>, prefix: &str, known: &[&str]) {
        for (key, value) in object.others(known) {
            let empty = match value {
                Value::Null => true,
                Value::Object(map) => map.is_empty(),
                Value::Array(list) => list.is_empty(),
                _ => false,
            };
            if !empty {
                *self.document.ignored.entry(format!("{prefix}{key}")).or_default() += 1;
            }
        }
    }

    fn cycle(&mut self, value: &Value, path: &str) -> Result<(), Refused> {
        let cycle = Object::new(value, path)?;
        self.ignore(&cycle, "cycles[].", &["cycle_id", "feature_id", "phases"]);
        let phases = match cycle.get("phases") {
            None => return Ok(()),
            Some(Value::Array(phases)) => phases,
            Some(_) => return Err(Refused::new(cycle.path("phases"), "is not a list")),
        };
        let whole = |mut refused: Refused| {
            let lost = phases.len();
            refused.reason =
                format!("{}; the cycle's phases ({lost}) are not taken", refused.reason);
            refused
        };
        let cycle_id = cycle.text("cycle_id").map_err(whole)?;
        let feature_id = cycle.text("feature_id").map_err(whole)?;
        for (number, value) in phases.iter().enumerate() {
            let path = cycle.path(&format!("phases[{number}]"));
            match self.phase(cycle_id, feature_id, value, &path) {
                Ok(phase) => self.take(path, phase),
                Err(refused) => self.document.refused.push(refused),
            }
        }
        Ok(())
    }

    fn phase(
        &self,
        cycle_id: &str,
        feature_id: &str,
        value: &Value,
        path: &str,
    ) -> Result<Phase, Refused> {
        let object = Object::new(value, path)?;
        let mut metadata = object.metadata()?;
        let known = ["phase", "decision", "duration_seconds", "timestamp", "metadata"];
        for (key, value) in object.others(&known) {
            metadata.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let phase = Phase {
            cycle_id: cycle_id.to_owned(),
            feature_id: feature_id.to_owned(),
            name: object.phase_name("phase")?,
            decision: object.decision("decision")?,
            duration_cs: object.duration("duration_seconds")?,
            metadata,
            created_ms: object.time("timestamp", Some(self.zone))?,
        };
        phase.check().map_err(|error| Refused::new(path, error.to_string()))?;
        Ok(phase)
    }

    fn take(&mut self, path: String, phase: Phase) {
        let Some(first) = self.seen.get(&key(&phase)).copied() else {
            self.seen.insert(key(&phase), self.document.phases.len());
            self.document.phases.push((path, phase));
            return;
        };
        match self.document.phases.get(first) {
            Some((_, other)) if alike(other, &phase) => self.document.repeated += 1,
            Some((place, _)) => {
                let reason = format!(
                    "{place} is of the same cycle, phase and time to the millisecond, and says \
                     something else"
                );
                self.document.refused.push(Refused::new(path, reason));
            }
            None => {}
        }
    }
}

/// Records what a file holds; with `dry_run` only looks what of it would be new.
///
/// # Errors
///
/// The database's; a part may be recorded by then.
pub async fn record(
    store: &dyn DoraStore,
    document: Document,
    dry_run: bool,
) -> Result<Outcome, DoraError> {
    let Document { cycles, phases, refused, repeated, ignored } = document;
    let mut outcome = Outcome { dry_run, cycles, recorded: 0, known: repeated, refused, ignored };
    let mut there: HashMap<String, Vec<Phase>> = HashMap::new();
    for chunk in phases.chunks(CHUNK) {
        let new = if dry_run {
            None
        } else {
            let all: Vec<Phase> = chunk.iter().map(|(_, phase)| phase.clone()).collect();
            Some(store.add_phases(&all).await?)
        };
        for (number, (path, phase)) in chunk.iter().enumerate() {
            if new.as_ref().is_some_and(|new| new.get(number) == Some(&true)) {
                outcome.recorded += 1;
                continue;
            }
            if !there.contains_key(&phase.cycle_id) {
                there.insert(phase.cycle_id.clone(), store.cycle(&phase.cycle_id).await?);
            }
            let stored = there.get(&phase.cycle_id).into_iter().flatten();
            match stored.into_iter().find(|other| key(other) == key(phase)) {
                Some(other) if alike(other, phase) => outcome.known += 1,
                Some(_) => outcome.refused.push(Refused::new(
                    path,
                    "the database has this phase with another feature, decision or duration; \
                     that one stays",
                )),
                None => outcome.recorded += 1,
            }
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn phase(decision: &str, at: &str) -> Value {
        json!({"phase": "testing", "decision": decision, "duration_seconds": 1.5, "timestamp": at})
    }

    fn document(cycles: &Value) -> Document {
        read(&json!({ "cycles": cycles }).to_string(), &TimeZone::UTC).unwrap()
    }

    #[test]
    fn what_is_wrong_is_refused_with_its_place_and_the_rest_is_taken() {
        let read = document(&json!([
            {"cycle_id": "a", "feature_id": "f", "phases": [
                phase("go", "2026-11-22T07:00:00"),
                phase("maybe", "2026-11-22T07:00:01Z"),
                phase("go", "yesterday"),
                7,
            ], "metrics": {"lead_time": 7}},
            {"feature_id": "f", "phases": [phase("go", "2026-11-22T07:00:00Z")]},
            {"cycle_id": "empty", "feature_id": "f", "phases": [], "metrics": {}},
            "cycle",
        ]));
        let paths: Vec<&str> = read.refused.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "cycles[0].phases[1].decision",
                "cycles[0].phases[2].timestamp",
                "cycles[0].phases[3]",
                "cycles[1].cycle_id",
                "cycles[3]",
            ]
        );
        assert_eq!(read.refused[3].reason, "is missing; the cycle's phases (1) are not taken");
        assert_eq!(read.phases.len(), 1);
        assert_eq!(read.phases[0].1.created_ms, 1_795_330_800_000);
        assert_eq!(read.ignored, BTreeMap::from([("cycles[].metrics".to_owned(), 1)]));
    }

    #[test]
    fn two_entries_of_one_key_are_one_if_they_agree_and_told_if_not() {
        let at = "2026-11-22T07:00:00.000200Z";
        let read = document(&json!([{"cycle_id": "a", "feature_id": "f", "phases": [
            phase("go", at), phase("go", "2026-11-22T07:00:00.000900Z"), phase("no-go", at),
        ]}]));
        assert_eq!((read.phases.len(), read.repeated), (1, 1));
        assert_eq!(read.refused.len(), 1);
        assert_eq!(read.refused[0].path, "cycles[0].phases[2]");
        assert!(read.refused[0].reason.starts_with("cycles[0].phases[0] is of the same"));
    }

    #[test]
    fn a_file_of_something_else_is_not_taken() {
        for (text, told) in [
            ("{", "it is not JSON: "),
            ("[]", "it is not a list of cycles: the file is not an object"),
            ("{\"cycles\":{}}", "it is not a list of cycles: cycles is missing or not a list"),
        ] {
            let error = read(text, &TimeZone::UTC).unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }

    #[test]
    fn a_mark_at_the_beginning_is_no_part_of_it() {
        let document = read("\u{feff}{\"cycles\":[]}", &TimeZone::UTC).unwrap();
        assert_eq!(document.cycles, 0);
    }

    #[test]
    fn further_keys_of_a_phase_are_kept_in_its_metadata() {
        let mut one = phase("go", "2026-11-22T07:00:00Z");
        one["agent"] = json!("pan");
        one["metadata"] = json!({"team": "t"});
        let read = document(&json!([{"cycle_id": "a", "feature_id": "f", "phases": [one]}]));
        let metadata = Value::Object(read.phases[0].1.metadata.clone());
        assert_eq!(metadata, json!({"team": "t", "agent": "pan"}));
    }
}
