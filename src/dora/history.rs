//! Deliveries: deployments that were declared, and the deployments of cycles that none of them
//! names, each once, with the incidents that name it.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::events::{Change, Decision, Deployment, Incident, Phase, Starts, Window};
use super::{DoraError, DoraStore};

/// A deployment and the phase of the cycle that it ends may stand on both sides of a border.
const MARGIN_MS: i64 = 7 * 86_400_000;

/// Which deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Of this service only.
    pub service: Option<String>,
    /// Of this team only.
    pub team: Option<String>,
}

/// From `since_ms` (included) to `until_ms` (excluded).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// First moment, in milliseconds.
    pub since_ms: i64,
    /// First moment after it, in milliseconds.
    pub until_ms: i64,
}

/// One deployment to production, whoever declared it.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Delivery {
    /// The deployment's name, or the cycle's.
    pub id: String,
    /// A deployment that was declared; else the phase of a cycle.
    pub explicit: bool,
    /// The service; empty if nobody said.
    pub service: String,
    /// Whose it is; empty if nobody said.
    pub team: String,
    /// When it was in production, in milliseconds.
    pub at_ms: i64,
    /// Whether it could be made at all.
    pub succeeded: bool,
    /// It was not planned.
    pub rework: bool,
    /// What it brought. A cycle stands for one change, which began with its first phase.
    pub changes: Vec<Change>,
    /// What users saw go wrong because of it.
    pub incidents: Vec<Incident>,
    /// The first that was declared of its service: it brings what gathered before anybody counted.
    pub first: bool,
}

/// What is known of deliveries from one moment to another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Oldest first.
    pub deliveries: Vec<Delivery>,
    /// When the first delivery within the scope was declared, in milliseconds.
    pub starts_ms: Option<i64>,
    /// Incidents of the scope that name no delivery of this history: they are nobody's failure.
    pub stray_incidents: Vec<Incident>,
}

/// What the store tells of a window, and of some time around it.
struct Told {
    deployments: Vec<Deployment>,
    phases: Vec<Phase>,
    incidents: Vec<Incident>,
    starts: Starts,
    /// When cycles began.
    began: HashMap<String, i64>,
}

impl Period {
    /// The last `days` days before `until_ms`.
    #[must_use]
    pub fn last_days(days: u32, until_ms: i64) -> Self {
        Self { since_ms: until_ms.saturating_sub(i64::from(days) * 86_400_000), until_ms }
    }

    /// Whether a moment lies within.
    #[must_use]
    pub const fn has(&self, at_ms: i64) -> bool {
        at_ms >= self.since_ms && at_ms < self.until_ms
    }

    /// The period of the same length that ends where this one begins.
    #[must_use]
    pub const fn before(&self) -> Self {
        let length = self.until_ms.saturating_sub(self.since_ms);
        Self { since_ms: self.since_ms.saturating_sub(length), until_ms: self.since_ms }
    }
}

impl Delivery {
    /// Whether it needed mending: it could not be made, or an incident names it.
    #[must_use]
    pub const fn failed(&self) -> bool {
        !self.succeeded || !self.incidents.is_empty()
    }

    /// Whether that was known at a moment.
    #[must_use]
    pub fn failed_by(&self, at_ms: i64) -> bool {
        (!self.succeeded && self.at_ms < at_ms)
            || self.incidents.iter().any(|incident| incident.opened_ms < at_ms)
    }
}

impl History {
    /// Reads what was declared from `since_ms` up to `until_ms`. Lead times of cycles are right from
    /// `lead_ms` on: when a cycle began is a question of its own, and the dearest one.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn load(
        store: &dyn DoraStore,
        scope: &Scope,
        since_ms: i64,
        lead_ms: i64,
        until_ms: i64,
    ) -> Result<Self, DoraError> {
        let since_ms = since_ms.max(0);
        let (service, team) = (scope.service.clone(), scope.team.clone());
        let window = Window { since_ms, until_ms, service, team };
        let wider = Window {
            since_ms: since_ms.saturating_sub(MARGIN_MS).max(0),
            until_ms: until_ms.saturating_add(MARGIN_MS),
            ..window.clone()
        };
        let deployments = store.deployments(&wider).await?;
        let phases = store.deployment_phases(&window).await?;
        // an incident need not say the service of the deployment that it names
        let any = Window { service: None, team: None, ..window.clone() };
        let incidents = store.incidents(&any).await?;
        let starts = store.starts(&window).await?;
        let recent = phases.iter().filter(|phase| phase.created_ms >= lead_ms);
        let mut cycles: Vec<String> = recent.map(|phase| phase.cycle_id.clone()).collect();
        let bare = |one: &&Deployment| one.changes.is_empty() && one.deployed_ms >= lead_ms;
        cycles.extend(deployments.iter().filter(bare).filter_map(|one| one.cycle_id.clone()));
        cycles.sort_unstable();
        cycles.dedup();
        let began = store.cycle_starts(&cycles).await?;
        let began: HashMap<String, i64> =
            began.into_iter().map(|one| (one.cycle_id, one.started_ms)).collect();
        let told = Told { deployments, phases, incidents, starts, began };
        Ok(Self::new(&window, told))
    }

    /// From events.
    fn new(window: &Window, told: Told) -> Self {
        let Told { deployments, phases, incidents, starts, began } = told;
        let period = Period { since_ms: window.since_ms, until_ms: window.until_ms };
        // a declared deployment stands for the attempt that ended like it: one that failed before
        // stays a failure
        let named: HashSet<(&str, bool)> = deployments
            .iter()
            .filter_map(|one| Some((one.cycle_id.as_deref()?, one.succeeded)))
            .collect();
        let unnamed: Vec<&Phase> = phases
            .iter()
            .filter(|phase| {
                let succeeded = phase.decision == Decision::Success;
                !named.contains(&(phase.cycle_id.as_str(), succeeded))
            })
            .collect();
        let within = deployments.iter().filter(|one| period.has(one.deployed_ms));
        let cycles: HashMap<String, String> =
            within.filter_map(|one| Some((one.id.clone(), one.cycle_id.clone()?))).collect();
        let mut deliveries: Vec<Delivery> = deployments
            .into_iter()
            .filter(|one| period.has(one.deployed_ms))
            .map(|one| explicit(one, &began, &starts.services))
            .collect();
        let within = unnamed.into_iter().filter(|phase| period.has(phase.created_ms));
        deliveries.extend(within.map(|phase| of_cycle(phase, &began)));
        deliveries.sort_by(|a, b| (a.at_ms, &a.id, a.explicit).cmp(&(b.at_ms, &b.id, b.explicit)));
        first_in_production(&mut deliveries, &cycles);
        let starts_ms = starts.first_ms;
        let mut history = Self { deliveries, starts_ms, stray_incidents: Vec::new() };
        history.attach(incidents, &cycles, window);
        history
    }

    /// Gives each incident to the one delivery that it names, by its own name or that of its cycle.
    /// A cycle that was deployed several times is meant as it stood when the incident was opened.
    fn attach(
        &mut self,
        mut incidents: Vec<Incident>,
        cycles: &HashMap<String, String>,
        window: &Window,
    ) {
        incidents.sort_by(|a, b| (a.opened_ms, &a.id).cmp(&(b.opened_ms, &b.id)));
        let mut places: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, delivery) in self.deliveries.iter().enumerate() {
            places.entry(delivery.id.clone()).or_default().push(place);
            let cycle = cycles.get(&delivery.id).filter(|cycle| **cycle != delivery.id);
            if let Some(cycle) = cycle.filter(|_| delivery.explicit) {
                places.entry(cycle.clone()).or_default().push(place);
            }
        }
        for incident in incidents {
            let named = incident.deployment.as_ref().and_then(|id| places.get(id));
            let place = named.and_then(|places| {
                let before = |place: &&usize| {
                    let delivery = self.deliveries.get(**place);
                    delivery.is_some_and(|one| one.at_ms <= incident.opened_ms)
                };
                places.iter().rev().find(before).or_else(|| places.first())
            });
            match place.and_then(|place| self.deliveries.get_mut(*place)) {
                Some(delivery) => delivery.incidents.push(incident),
                None if window.is_of(&incident.service, &incident.team) => {
                    self.stray_incidents.push(incident);
                }
                None => {}
            }
        }
    }
}

/// Where the first deployment of a service could not be made, the first that was brings what
/// gathered. Deliveries come oldest first.
fn first_in_production(deliveries: &mut [Delivery], cycles: &HashMap<String, String>) {
    let mut waiting: HashSet<String> = HashSet::new();
    for one in deliveries.iter_mut().filter(|one| one.explicit) {
        if one.first && !one.succeeded {
            waiting.insert(one.service.clone());
        } else if one.succeeded && waiting.remove(&one.service) {
            // a cycle that stands for its changes says itself when the work began
            let by_cycle =
                matches!(one.changes.as_slice(), [only] if cycles.get(&one.id) == Some(&only.id));
            one.first = !by_cycle;
        }
    }
}

fn explicit(
    one: Deployment,
    starts: &HashMap<String, i64>,
    first_of: &BTreeMap<String, i64>,
) -> Delivery {
    let started = one.cycle_id.as_ref().and_then(|id| starts.get(id).map(|ms| (id.clone(), *ms)));
    let mut changes = one.changes;
    // without a list the cycle that it ends says when the work began
    let by_cycle = changes.is_empty() && started.is_some();
    if by_cycle {
        changes.extend(started.map(|(id, committed_ms)| Change { id, committed_ms }));
    }
    let first = !by_cycle && first_of.get(&one.service) == Some(&one.deployed_ms);
    Delivery {
        id: one.id,
        explicit: true,
        service: one.service,
        team: one.team,
        at_ms: one.deployed_ms,
        succeeded: one.succeeded,
        rework: one.rework,
        changes,
        incidents: Vec::new(),
        first,
    }
}

fn of_cycle(phase: &Phase, starts: &HashMap<String, i64>) -> Delivery {
    let id = phase.cycle_id.clone();
    let committed_ms = starts.get(&id).copied().unwrap_or_else(|| phase.started_ms());
    let rework = match phase.metadata.get("rework") {
        Some(Value::Bool(rework)) => *rework,
        Some(Value::String(text)) => text == "true",
        _ => false,
    };
    Delivery {
        changes: vec![Change { id: id.clone(), committed_ms }],
        id,
        explicit: false,
        service: phase.text("service").to_owned(),
        team: phase.text("team").to_owned(),
        at_ms: phase.created_ms,
        succeeded: phase.decision == Decision::Success,
        rework,
        incidents: Vec::new(),
        first: false,
    }
}
