//! Delivery metrics: what happened on the way to production, and what it says. Layer 1: never
//! mixed with logs, and kept for ever.

use std::future::Future;
use std::pin::Pin;

pub mod api;
mod check;
pub mod cycles;
pub mod events;
pub mod exec;
pub mod import;
pub mod json;
pub mod migrations;
mod mysql;
pub mod open;
pub mod pending;
pub mod schema;
mod sql;
mod sqlite;
pub mod trace;

pub mod bands;
pub mod chance;
pub mod explain;
pub mod figures;
pub mod forecast;
pub mod history;
pub mod impact;
#[cfg(test)]
pub(crate) mod memory;
pub mod pdca;
pub mod report;
mod report_sql;
pub mod risk;

use events::{CycleStart, Decision, Deployment, Incident, Pdca, Phase, PhaseName, Starts, Window};

/// What a store answers, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, DoraError>> + Send + 'a>>;

/// Why the database of the metrics did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DoraError {
    /// It does not answer, or its file cannot be used.
    #[error("the DORA database {place} cannot be reached: {detail}")]
    Unreachable {
        /// Address or path.
        place: String,
        /// The driver's words.
        detail: String,
    },
    /// Its tables are missing or older.
    #[error("the DORA database {place}: {detail}; run `bitacora schema apply`")]
    Schema {
        /// Address or path.
        place: String,
        /// What was found.
        detail: String,
    },
    /// Its tables were made by a newer program.
    #[error(
        "the DORA database {place} has schema version {found}, this program knows {known}; \
         install a newer bitacora"
    )]
    Newer {
        /// Address or path.
        place: String,
        /// Version found.
        found: u32,
        /// Newest version that this program knows.
        known: u32,
    },
    /// It refuses what was asked.
    #[error("the DORA database {place} refuses: {detail}")]
    Refused {
        /// Address or path.
        place: String,
        /// The driver's words.
        detail: String,
    },
    /// It holds what no program of this version wrote.
    #[error("the DORA database {place} holds {detail}, which this program does not understand")]
    Strange {
        /// Address or path.
        place: String,
        /// What, and as what.
        detail: String,
    },
    /// What is to be written cannot be.
    #[error("{0}")]
    Invalid(String),
}

/// Where delivery events are kept. Writes are idempotent by the event's key.
pub trait DoraStore: Send + Sync {
    /// Adds phases; answers for each whether it is new.
    fn add_phases<'a>(&'a self, phases: &'a [Phase]) -> Answer<'a, Vec<bool>>;

    /// Phases that ended within the window, oldest first. A phase is of the service and team that
    /// its metadata names.
    fn phases<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Phase>>;

    /// All phases of a cycle, oldest first.
    fn cycle<'a>(&'a self, cycle_id: &'a str) -> Answer<'a, Vec<Phase>>;

    /// The `deployment` phases among [`DoraStore::phases`] that ended with success or failure.
    fn deployment_phases<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Phase>> {
        Box::pin(async move {
            let mut phases = self.phases(window).await?;
            phases.retain(|phase| {
                phase.name == PhaseName::Deployment
                    && matches!(phase.decision, Decision::Success | Decision::Failed)
            });
            Ok(phases)
        })
    }

    /// When each of these cycles began; cycles that are not known are left out.
    fn cycle_starts<'a>(&'a self, cycles: &'a [String]) -> Answer<'a, Vec<CycleStart>> {
        Box::pin(async move {
            let mut starts = Vec::with_capacity(cycles.len());
            for cycle_id in cycles {
                let phases = self.cycle(cycle_id).await?;
                if let Some(started_ms) = phases.iter().map(Phase::started_ms).min() {
                    starts.push(CycleStart { cycle_id: cycle_id.clone(), started_ms });
                }
            }
            Ok(starts)
        })
    }

    /// Where the metrics of the window's service and team begin; its times do not matter.
    fn starts<'a>(&'a self, window: &'a Window) -> Answer<'a, Starts> {
        Box::pin(async move {
            let all = Window { since_ms: 0, until_ms: events::LAST_MS, service: None, team: None };
            let deployments = self.deployments(&all).await?;
            let phases = self.deployment_phases(&all).await?;
            Ok(Starts::of(&deployments, &phases, window))
        })
    }

    /// Adds a deployment; `false` if one of this name is there, which stays as it is.
    fn add_deployment<'a>(&'a self, deployment: &'a Deployment) -> Answer<'a, bool>;

    /// Deployments within the window, oldest first.
    fn deployments<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Deployment>>;

    /// The deployments that end a cycle, oldest first.
    fn deployments_of<'a>(&'a self, cycle_id: &'a str) -> Answer<'a, Vec<Deployment>> {
        let ever = Window { since_ms: 0, until_ms: i64::MAX, service: None, team: None };
        Box::pin(async move {
            let mut found = self.deployments(&ever).await?;
            found.retain(|one| one.cycle_id.as_deref() == Some(cycle_id));
            Ok(found)
        })
    }

    /// One deployment.
    fn deployment<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Deployment>>;

    /// Adds an incident; `false` if one of this name is there, which stays as it is.
    fn open_incident<'a>(&'a self, incident: &'a Incident) -> Answer<'a, bool>;

    /// One incident.
    fn incident<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Incident>> {
        let ever = Window { since_ms: 0, until_ms: i64::MAX, service: None, team: None };
        Box::pin(async move {
            let found = self.incidents(&ever).await?;
            Ok(found.into_iter().find(|one| one.id == id))
        })
    }

    /// Says when service was restored; `false` if there is no such incident, it is closed,
    /// or it was opened later than that.
    fn close_incident<'a>(&'a self, id: &'a str, closed_ms: i64) -> Answer<'a, bool>;

    /// Incidents that were opened within the window, or are named by a deployment in it, oldest
    /// first.
    fn incidents<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Incident>>;

    /// Writes a proposal as it stands: a new one, or over the one of this name. What its baseline
    /// was when it was first written stays.
    fn put_pdca<'a>(&'a self, pdca: &'a Pdca) -> Answer<'a, ()>;

    /// All proposals, oldest first.
    fn pdcas(&self) -> Answer<'_, Vec<Pdca>>;
}
