//! A store in memory, for tests, and events to put into it.

use std::sync::Mutex;

use serde_json::{Map, json};

use super::events::{Change, Decision, Deployment, Incident, Pdca, Phase, PhaseName, Window};
use super::{Answer, DoraError, DoraStore};

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// Keeps what it is given, in the order in which it comes.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub phases: Vec<Phase>,
    pub deployments: Vec<Deployment>,
    pub incidents: Vec<Incident>,
    pub pdcas: Mutex<Vec<Pdca>>,
}

fn wanted(window: &Window, at_ms: i64, service: &str, team: &str) -> bool {
    (window.since_ms..window.until_ms).contains(&at_ms)
        && window.service.as_ref().is_none_or(|one| one == service)
        && window.team.as_ref().is_none_or(|one| one == team)
}

fn answer<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    Box::pin(async { Ok(value) })
}

/// Nothing here tests how events are written: they are put into the fields.
fn refused<'a, T>() -> Answer<'a, T> {
    let detail = "a store in memory takes its events by its fields".to_owned();
    Box::pin(async { Err(DoraError::Refused { place: "memory".to_owned(), detail }) })
}

impl DoraStore for Memory {
    fn add_phases<'a>(&'a self, _: &'a [Phase]) -> Answer<'a, Vec<bool>> {
        refused()
    }

    fn phases<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Phase>> {
        let fits =
            |one: &&Phase| wanted(window, one.created_ms, one.text("service"), one.text("team"));
        let mut phases: Vec<Phase> = self.phases.iter().filter(fits).cloned().collect();
        phases.sort_by_key(|one| one.created_ms);
        answer(phases)
    }

    fn cycle<'a>(&'a self, cycle_id: &'a str) -> Answer<'a, Vec<Phase>> {
        answer(self.phases.iter().filter(|one| one.cycle_id == cycle_id).cloned().collect())
    }

    fn add_deployment<'a>(&'a self, _: &'a Deployment) -> Answer<'a, bool> {
        refused()
    }

    fn deployments<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Deployment>> {
        let fits = |one: &&Deployment| wanted(window, one.deployed_ms, &one.service, &one.team);
        let mut found: Vec<Deployment> = self.deployments.iter().filter(fits).cloned().collect();
        found.sort_by_key(|one| one.deployed_ms);
        answer(found)
    }

    fn deployment<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Deployment>> {
        answer(self.deployments.iter().find(|one| one.id == id).cloned())
    }

    fn open_incident<'a>(&'a self, _: &'a Incident) -> Answer<'a, bool> {
        refused()
    }

    fn close_incident<'a>(&'a self, _: &'a str, _: i64) -> Answer<'a, bool> {
        refused()
    }

    fn incidents<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Incident>> {
        let named = |incident: &Incident| {
            self.deployments.iter().any(|one| {
                incident.deployment.as_ref() == Some(&one.id)
                    && wanted(window, one.deployed_ms, &one.service, &one.team)
            })
        };
        let fits =
            |one: &&Incident| wanted(window, one.opened_ms, &one.service, &one.team) || named(one);
        answer(self.incidents.iter().filter(fits).cloned().collect())
    }

    fn put_pdca<'a>(&'a self, pdca: &'a Pdca) -> Answer<'a, ()> {
        let mut pdcas = self.pdcas.lock().unwrap();
        match pdcas.iter_mut().find(|one| one.id == pdca.id) {
            Some(known) => {
                *known = Pdca { baseline: known.baseline.clone(), ..pdca.clone() };
            }
            None => pdcas.push(pdca.clone()),
        }
        answer(())
    }

    fn pdcas(&self) -> Answer<'_, Vec<Pdca>> {
        answer(self.pdcas.lock().unwrap().clone())
    }
}

/// A deployment that went well, of service `shop` and team `web`.
pub(crate) fn deployment(id: &str, deployed_ms: i64) -> Deployment {
    Deployment {
        id: id.into(),
        cycle_id: None,
        service: "shop".into(),
        team: "web".into(),
        version: String::new(),
        deployed_ms,
        succeeded: true,
        rework: false,
        changes: Vec::new(),
        metadata: Map::new(),
    }
}

pub(crate) fn change(id: &str, committed_ms: i64) -> Change {
    Change { id: id.into(), committed_ms }
}

/// An incident of a deployment.
pub(crate) fn incident(
    id: &str,
    deployment: Option<&str>,
    opened_ms: i64,
    closed_ms: Option<i64>,
) -> Incident {
    Incident {
        id: id.into(),
        service: "shop".into(),
        team: "web".into(),
        deployment: deployment.map(Into::into),
        summary: "it is slow".into(),
        opened_ms,
        closed_ms,
        metadata: Map::new(),
    }
}

/// A phase of service `shop` that took `duration_ms`.
pub(crate) fn phase(
    cycle_id: &str,
    name: PhaseName,
    decision: Decision,
    created_ms: i64,
    duration_ms: i64,
) -> Phase {
    let serde_json::Value::Object(metadata) = json!({ "service": "shop", "team": "web" }) else {
        unreachable!("it is an object")
    };
    Phase {
        cycle_id: cycle_id.into(),
        feature_id: "feature".into(),
        name,
        decision,
        duration_cs: duration_ms / 10,
        metadata,
        created_ms,
    }
}
