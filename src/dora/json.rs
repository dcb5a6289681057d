//! Events as JSON: read from files and requests, each fault with its place; written for people
//! and for the file that keeps what could not be recorded.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::check;
use super::events::{
    Change, Decision, Deployment, Incident, Phase, PhaseName, hundredths, seconds_text,
};

/// What was not taken, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Where in the document: `cycles[3].phases[0].decision`.
    pub path: String,
    /// In words.
    pub reason: String,
}

impl Refused {
    pub(super) fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }
}

/// One event of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `phase`
    Phase(Phase),
    /// `deployment`
    Deployment(Deployment),
    /// `incident`, open or closed by now.
    Incident(Incident),
    /// `incident_closed`
    Closed {
        /// Which incident.
        id: String,
        /// When service was restored, in milliseconds.
        closed_ms: i64,
    },
}

/// An object within a document, and where it stands.
#[derive(Debug)]
pub(super) struct Object<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

type Read<T> = Result<T, Refused>;

impl<'a> Object<'a> {
    pub fn new(value: &'a Value, path: impl Into<String>) -> Read<Self> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            _ => Err(Refused::new(path, "is not an object")),
        }
    }

    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn fault<T>(&self, key: &str, reason: impl Into<String>) -> Read<T> {
        Err(Refused::new(self.path(key), reason))
    }

    /// A value that is there and not null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Nothing but these keys, for a format of our own: a slip of the pen is told.
    pub fn only(&self, keys: &[&str]) -> Read<()> {
        match self.map.keys().find(|key| !keys.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                self.fault(key, format!("is not known here; known are {}", keys.join(", ")))
            }
        }
    }

    /// The pairs with other keys than these.
    pub fn others(&self, keys: &[&str]) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter().filter(move |(key, _)| !keys.contains(&key.as_str()))
    }

    pub fn optional_text(&self, key: &str) -> Read<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => self.fault(key, "is not a text"),
        }
    }

    pub fn text(&self, key: &str) -> Read<&'a str> {
        match self.optional_text(key)? {
            Some(text) => Ok(text),
            None => self.fault(key, "is missing"),
        }
    }

    fn owned(&self, key: &str) -> Read<String> {
        Ok(self.optional_text(key)?.unwrap_or_default().to_owned())
    }

    fn flag(&self, key: &str, default: bool) -> Read<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => self.fault(key, "is neither true nor false"),
        }
    }

    fn word<T>(&self, key: &str, read: fn(&str) -> Option<T>, words: &[&str]) -> Read<T> {
        let text = self.text(key)?;
        match read(text) {
            Some(one) => Ok(one),
            None => self.fault(key, format!("{text:?} is none of {}", words.join(", "))),
        }
    }

    pub fn phase_name(&self, key: &str) -> Read<PhaseName> {
        self.word(key, PhaseName::from_word, &PhaseName::ALL.map(PhaseName::word))
    }

    pub fn decision(&self, key: &str) -> Read<Decision> {
        self.word(key, Decision::from_word, &Decision::ALL.map(Decision::word))
    }

    fn optional_time(&self, key: &str, zone: Option<&TimeZone>) -> Read<Option<i64>> {
        let Some(text) = self.optional_text(key)? else { return Ok(None) };
        match time(text, zone) {
            Some(at_ms) => Ok(Some(at_ms)),
            None => self
                .fault(key, format!("{text:?} is no time; write for example 2026-11-22T07:00:00Z")),
        }
    }

    pub fn time(&self, key: &str, zone: Option<&TimeZone>) -> Read<i64> {
        match self.optional_time(key, zone)? {
            Some(at_ms) => Ok(at_ms),
            None => self.fault(key, "is missing"),
        }
    }

    /// Seconds as hundredths; more decimals are rounded.
    pub fn duration(&self, key: &str) -> Read<i64> {
        let fault = |value: &Value| {
            self.fault(key, format!("{value} is no number of seconds from 0 to 99999999.99"))
        };
        match self.get(key) {
            None => self.fault(key, "is missing"),
            Some(value @ Value::Number(number)) => {
                let rounded = || number.as_f64().map(|seconds| format!("{seconds:.2}"));
                let read = hundredths(&number.to_string());
                match read.or_else(|| hundredths(&rounded()?)) {
                    Some(read) => Ok(read),
                    None => fault(value),
                }
            }
            Some(value) => fault(value),
        }
    }

    pub fn metadata(&self) -> Read<Map<String, Value>> {
        match self.get("metadata") {
            None => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(_) => self.fault("metadata", "is not an object"),
        }
    }

    fn changes(&self) -> Read<Vec<Change>> {
        let Some(value) = self.get("changes") else { return Ok(Vec::new()) };
        let Value::Array(list) = value else { return self.fault("changes", "is not a list") };
        let change = |(number, value): (usize, &Value)| {
            let object = Object::new(value, self.path(&format!("changes[{number}]")))?;
            object.only(&["id", "committed_at"])?;
            Ok(Change {
                id: object.text("id")?.to_owned(),
                committed_ms: object.time("committed_at", None)?,
            })
        };
        list.iter().enumerate().map(change).collect()
    }
}

/// A time with its zone, or in `zone` where it names none. Milliseconds since 1970.
pub(super) fn time(text: &str, zone: Option<&TimeZone>) -> Option<i64> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at.as_millisecond());
    }
    let civil: DateTime = text.parse().ok()?;
    Some(civil.to_zoned(zone?.clone()).ok()?.timestamp().as_millisecond())
}

/// One event; its `type` says which.
///
/// # Errors
///
/// What is wrong, and where.
pub fn event(value: &Value, path: &str) -> Result<Event, Refused> {
    let object = Object::new(value, path)?;
    let (event, checked) = match object.text("type")? {
        "phase" => {
            let phase = phase(&object)?;
            let checked = phase.check();
            (Event::Phase(phase), checked)
        }
        "deployment" => {
            let deployment = deployment(&object)?;
            let checked = deployment.check();
            (Event::Deployment(deployment), checked)
        }
        "incident" => {
            let incident = incident(&object)?;
            let checked = incident.check();
            (Event::Incident(incident), checked)
        }
        "incident_closed" => {
            object.only(&["type", "id", "closed_at"])?;
            let id = object.text("id")?.to_owned();
            let closed_ms = object.time("closed_at", None)?;
            (Event::Closed { id, closed_ms }, check::closing(closed_ms))
        }
        other => {
            return object.fault(
                "type",
                format!("{other:?} is none of phase, deployment, incident, incident_closed"),
            );
        }
    };
    match checked {
        Ok(()) => Ok(event),
        Err(error) => Err(Refused::new(path, error.to_string())),
    }
}

/// A phase with all that it needs; the inverse of [`phase_json`]. What is kept for later may have
/// no `feature_id`.
pub(super) fn phase(object: &Object<'_>) -> Read<Phase> {
    object.only(&[
        "type",
        "cycle_id",
        "feature_id",
        "phase",
        "decision",
        "duration_seconds",
        "timestamp",
        "metadata",
    ])?;
    Ok(Phase {
        cycle_id: object.text("cycle_id")?.to_owned(),
        feature_id: object.owned("feature_id")?,
        name: object.phase_name("phase")?,
        decision: object.decision("decision")?,
        duration_cs: object.duration("duration_seconds")?,
        metadata: object.metadata()?,
        created_ms: object.time("timestamp", None)?,
    })
}

fn deployment(object: &Object<'_>) -> Read<Deployment> {
    object.only(&[
        "type",
        "id",
        "cycle_id",
        "service",
        "team",
        "version",
        "deployed_at",
        "succeeded",
        "rework",
        "changes",
        "metadata",
    ])?;
    Ok(Deployment {
        id: object.text("id")?.to_owned(),
        cycle_id: object.optional_text("cycle_id")?.map(str::to_owned),
        service: object.owned("service")?,
        team: object.owned("team")?,
        version: object.owned("version")?,
        deployed_ms: object.time("deployed_at", None)?,
        succeeded: object.flag("succeeded", true)?,
        rework: object.flag("rework", false)?,
        changes: object.changes()?,
        metadata: object.metadata()?,
    })
}

fn incident(object: &Object<'_>) -> Read<Incident> {
    object.only(&[
        "type",
        "id",
        "service",
        "team",
        "deployment",
        "summary",
        "opened_at",
        "closed_at",
        "metadata",
    ])?;
    Ok(Incident {
        id: object.text("id")?.to_owned(),
        service: object.owned("service")?,
        team: object.owned("team")?,
        deployment: object.optional_text("deployment")?.map(str::to_owned),
        summary: object.owned("summary")?,
        opened_ms: object.time("opened_at", None)?,
        closed_ms: object.optional_time("closed_at", None)?,
        metadata: object.metadata()?,
    })
}

/// `2026-11-22T07:49:38.123Z`
#[must_use]
pub fn time_text(at_ms: i64) -> String {
    let at = Timestamp::from_millisecond(at_ms).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// As [`event`] reads it.
#[must_use]
pub fn phase_json(phase: &Phase) -> Value {
    let seconds: Value = serde_json::from_str(&seconds_text(phase.duration_cs)).unwrap_or_default();
    json!({
        "type": "phase",
        "cycle_id": phase.cycle_id,
        "feature_id": phase.feature_id,
        "phase": phase.name.word(),
        "decision": phase.decision.word(),
        "duration_seconds": seconds,
        "timestamp": time_text(phase.created_ms),
        "metadata": phase.metadata,
    })
}

/// As [`event`] reads it.
#[must_use]
pub fn deployment_json(one: &Deployment) -> Value {
    let changes: Vec<Value> = one
        .changes
        .iter()
        .map(|change| json!({ "id": change.id, "committed_at": time_text(change.committed_ms) }))
        .collect();
    json!({
        "type": "deployment",
        "id": one.id,
        "cycle_id": one.cycle_id,
        "service": one.service,
        "team": one.team,
        "version": one.version,
        "deployed_at": time_text(one.deployed_ms),
        "succeeded": one.succeeded,
        "rework": one.rework,
        "changes": changes,
        "metadata": one.metadata,
    })
}

/// As [`event`] reads it.
#[must_use]
pub fn incident_json(one: &Incident) -> Value {
    json!({
        "type": "incident",
        "id": one.id,
        "service": one.service,
        "team": one.team,
        "deployment": one.deployment,
        "summary": one.summary,
        "opened_at": time_text(one.opened_ms),
        "closed_at": one.closed_ms.map(time_text),
        "metadata": one.metadata,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(value: &Value) -> (String, String) {
        let Refused { path, reason } = event(value, "events[0]").unwrap_err();
        (path, reason)
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let phase = Phase {
            cycle_id: "c".into(),
            feature_id: "f".into(),
            name: PhaseName::Testing,
            decision: Decision::NoGo,
            duration_cs: 1234,
            metadata: Map::from_iter([("team".to_owned(), "pan".into())]),
            created_ms: 1_795_333_778_123,
        };
        assert_eq!(event(&phase_json(&phase), ""), Ok(Event::Phase(phase)));
        let deployment = Deployment {
            id: "d".into(),
            cycle_id: Some("c".into()),
            service: "shop".into(),
            team: "pan".into(),
            version: "1.2".into(),
            deployed_ms: 1_795_333_778_123,
            succeeded: false,
            rework: true,
            changes: vec![Change { id: "abc".into(), committed_ms: 1_795_333_770_000 }],
            metadata: Map::new(),
        };
        assert_eq!(event(&deployment_json(&deployment), ""), Ok(Event::Deployment(deployment)));
        let incident = Incident {
            id: "i".into(),
            service: "shop".into(),
            team: String::new(),
            deployment: Some("d".into()),
            summary: "no bread".into(),
            opened_ms: 1,
            closed_ms: Some(2),
            metadata: Map::new(),
        };
        assert_eq!(event(&incident_json(&incident), ""), Ok(Event::Incident(incident)));
    }

    #[test]
    fn a_fault_is_told_with_its_place() {
        let with = |key: &str, value: Value| {
            let mut phase = json!({
                "type": "phase", "cycle_id": "c", "feature_id": "f", "phase": "testing",
                "decision": "go", "duration_seconds": 1, "timestamp": "2026-11-22T07:00:00Z",
            });
            phase[key] = value;
            refused(&phase)
        };
        for (key, value, reason) in [
            (
                "decision",
                json!("GO"),
                "\"GO\" is none of go, no-go, review, blocked, success, failed",
            ),
            ("decision", Value::Null, "is missing"),
            ("duration_seconds", json!(-1), "-1 is no number of seconds from 0 to 99999999.99"),
            ("duration_seconds", json!("1"), "\"1\" is no number of seconds from 0 to 99999999.99"),
            (
                "timestamp",
                json!("2026-11-22T07:00:00"),
                "\"2026-11-22T07:00:00\" is no time; write for example 2026-11-22T07:00:00Z",
            ),
            ("metadata", json!([]), "is not an object"),
        ] {
            assert_eq!(with(key, value), (format!("events[0].{key}"), reason.to_owned()));
        }
        let (path, reason) = with("durration", json!(1));
        assert_eq!(path, "events[0].durration");
        assert!(reason.starts_with("is not known here"), "{reason}");
        assert_eq!(with("cycle_id", json!("")), ("events[0]".into(), "cycle_id is empty".into()));
        let deploy = json!({"type": "deployment", "id": "d", "deployed_at": "2026-11-22T07:00:00Z",
            "changes": [{"id": "a", "committed_at": "2026-11-22T06:00:00Z"}, {"id": "b"}]});
        let at = ("events[0].changes[1].committed_at".to_owned(), "is missing".to_owned());
        assert_eq!(refused(&deploy), at);
        assert_eq!(refused(&json!([])), ("events[0]".into(), "is not an object".into()));
    }

    #[test]
    fn a_duration_of_a_stopwatch_is_rounded_to_hundredths() {
        for (text, read) in [("12.3456789", 1235), ("1e2", 10_000), ("0.001", 0), ("7.995", 800)] {
            let value: Value = serde_json::from_str(&format!("{{\"d\":{text}}}")).unwrap();
            let object = Object::new(&value, "").unwrap();
            let near = object.duration("d").unwrap();
            // halves lie where the number's binary form does
            assert!((near - read).abs() <= 1, "{text}: {near}");
        }
    }

    #[test]
    fn a_time_without_zone_needs_one() {
        assert_eq!(time("2026-11-22T07:00:00.123456", None), None);
        assert_eq!(
            time("2026-11-22T07:00:00.123456", Some(&TimeZone::UTC)),
            Some(1_795_330_800_123)
        );
        assert_eq!(time("2026-11-22 08:00:00+01:00", None), Some(1_795_330_800_000));
    }
}
