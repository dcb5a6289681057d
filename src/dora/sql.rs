//! The statements that both databases take, and what their rows mean. They differ in how a time
//! and a DECIMAL are read, and in how a row that is there already is left as it is.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::DoraError;
use super::events::{
    Change, Decision, Deployment, Incident, Pdca, Phase, PhaseName, Window, seconds_text,
};

/// A value for a `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bind {
    Text(String),
    Time(i64),
    Integer(i64),
    Null,
}

/// Text with a `?` for each value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    pub text: String,
    pub binds: Vec<Bind>,
}

/// What the databases say differently.
#[derive(Debug)]
pub(super) struct Dialect {
    /// Milliseconds since 1970 of a column.
    pub time: fn(&str) -> String,
    /// Hundredths of a column of seconds.
    pub hundredths: fn(&str) -> String,
    /// After a table: read it by one of these indexes. Some optimisers read a whole table sooner
    /// than a tenth of it by index, and then a report takes the longer the more history there is.
    pub by_index: fn(&[String]) -> String,
    /// After an INSERT: a row of this key stays as it is.
    pub keep: &'static str,
    /// After an INSERT: these columns of the row of this key are replaced.
    pub replace: fn(&[&str]) -> String,
}

pub(super) type PhaseRow = (String, String, String, String, i64, String, i64);
pub(super) type DeploymentRow =
    (String, Option<String>, String, String, String, i64, bool, bool, String);
pub(super) type ChangeRow = (String, String, i64);
pub(super) type IncidentRow =
    (String, String, String, Option<String>, String, i64, Option<i64>, String);
pub(super) type PdcaRow = (
    String,
    String,
    String,
    String,
    String,
    String,
    i64,
    String,
    i64,
    Option<i64>,
    Option<i64>,
    String,
);

pub(super) fn text(value: &str) -> Bind {
    Bind::Text(value.to_owned())
}

fn optional(value: Option<&str>) -> Bind {
    value.map_or(Bind::Null, text)
}

fn json(value: &Map<String, Value>) -> Bind {
    Bind::Text(Value::Object(value.clone()).to_string())
}

fn time(value: Option<i64>) -> Bind {
    value.map_or(Bind::Null, Bind::Time)
}

/// `column` lies in the window, and the row, of this table or alias, is of its service and team.
pub(super) fn within(of: &str, column: &str, window: &Window) -> Statement {
    let mut text = format!("{of}.{column} >= ? AND {of}.{column} < ?");
    let mut binds = vec![Bind::Time(window.since_ms), Bind::Time(window.until_ms)];
    for (column, wanted) in [("service", &window.service), ("team", &window.team)] {
        if let Some(wanted) = wanted {
            text = format!("{text} AND {of}.{column} = ?");
            binds.push(Bind::Text(wanted.clone()));
        }
    }
    Statement { text, binds }
}

impl Dialect {
    /// The indexes that [`within`] can use: those of the table that begin with what it asks for.
    fn hint(&self, table: &str, column: &str, window: &Window) -> String {
        let moment = column.trim_end_matches("_at");
        let mut indexes = vec![format!("{table}_{moment}")];
        for (column, wanted) in [("service", &window.service), ("team", &window.team)] {
            if wanted.is_some() {
                indexes.push(format!("{table}_{column}_{moment}"));
            }
        }
        (self.by_index)(&indexes)
    }

    pub fn add_phase(&self, phase: &Phase) -> Statement {
        Statement {
            text: format!(
                "INSERT INTO dora_metrics (cycle_id, feature_id, phase_name, decision, \
                 duration_seconds, metadata, created_at) VALUES (?, ?, ?, ?, ?, ?, ?) {}",
                self.keep
            ),
            binds: vec![
                text(&phase.cycle_id),
                text(&phase.feature_id),
                text(phase.name.word()),
                text(phase.decision.word()),
                Bind::Text(seconds_text(phase.duration_cs)),
                json(&phase.metadata),
                Bind::Time(phase.created_ms),
            ],
        }
    }

    pub fn select_phases(&self, condition: Statement) -> Statement {
        self.select_phases_by("", condition)
    }

    fn select_phases_by(&self, hint: &str, condition: Statement) -> Statement {
        let text = format!(
            "SELECT cycle_id, feature_id, phase_name, decision, {}, metadata, {} \
             FROM dora_metrics m{hint} WHERE {} ORDER BY m.created_at, m.id",
            (self.hundredths)("duration_seconds"),
            (self.time)("created_at"),
            condition.text
        );
        Statement { text, ..condition }
    }

    pub fn phases(&self, window: &Window) -> Statement {
        let hint = self.hint("dora_metrics", "created_at", window);
        self.select_phases_by(&hint, within("m", "created_at", window))
    }

    pub fn cycle(&self, id: &str) -> Statement {
        self.select_phases(Statement { text: "m.cycle_id = ?".to_owned(), binds: vec![text(id)] })
    }

    /// The deployment, which decides, and then its changes.
    pub fn add_deployment(&self, one: &Deployment) -> (Statement, Vec<Statement>) {
        let row = Statement {
            text: format!(
                "INSERT INTO dora_deployments (id, cycle_id, service, team, version, deployed_at, \
                 succeeded, rework, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) {}",
                self.keep
            ),
            binds: vec![
                text(&one.id),
                optional(one.cycle_id.as_deref()),
                text(&one.service),
                text(&one.team),
                text(&one.version),
                Bind::Time(one.deployed_ms),
                Bind::Integer(one.succeeded.into()),
                Bind::Integer(one.rework.into()),
                json(&one.metadata),
            ],
        };
        let change = |change: &Change| Statement {
            text: format!(
                "INSERT INTO dora_changes (deployment_id, id, committed_at) VALUES (?, ?, ?) {}",
                self.keep
            ),
            binds: vec![text(&one.id), text(&change.id), Bind::Time(change.committed_ms)],
        };
        (row, one.changes.iter().map(change).collect())
    }

    /// The deployments that fit, and their changes.
    fn select_deployments(&self, hint: &str, condition: &Statement) -> (Statement, Statement) {
        let rows = format!(
            "SELECT d.id, d.cycle_id, d.service, d.team, d.version, {}, d.succeeded, d.rework, \
             d.metadata FROM dora_deployments d{hint} WHERE {} ORDER BY d.deployed_at, d.id",
            (self.time)("d.deployed_at"),
            condition.text
        );
        let changes = format!(
            "SELECT c.deployment_id, c.id, {} FROM dora_deployments d{hint} \
             JOIN dora_changes c ON c.deployment_id = d.id WHERE {} ORDER BY c.committed_at, c.id",
            (self.time)("c.committed_at"),
            condition.text
        );
        let with = |text| Statement { text, binds: condition.binds.clone() };
        (with(rows), with(changes))
    }

    pub fn deployments(&self, window: &Window) -> (Statement, Statement) {
        let hint = self.hint("dora_deployments", "deployed_at", window);
        self.select_deployments(&hint, &within("d", "deployed_at", window))
    }

    pub fn deployment(&self, id: &str) -> (Statement, Statement) {
        let condition = Statement { text: "d.id = ?".to_owned(), binds: vec![text(id)] };
        self.select_deployments("", &condition)
    }

    pub fn deployments_of(&self, cycle_id: &str) -> (Statement, Statement) {
        let condition =
            Statement { text: "d.cycle_id = ?".to_owned(), binds: vec![text(cycle_id)] };
        self.select_deployments("", &condition)
    }

    pub fn open_incident(&self, one: &Incident) -> Statement {
        Statement {
            text: format!(
                "INSERT INTO dora_incidents (id, service, team, deployment_id, summary, \
                 opened_at, closed_at, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?) {}",
                self.keep
            ),
            binds: vec![
                text(&one.id),
                text(&one.service),
                text(&one.team),
                optional(one.deployment.as_deref()),
                text(&one.summary),
                Bind::Time(one.opened_ms),
                time(one.closed_ms),
                json(&one.metadata),
            ],
        }
    }

    /// Closes it unless it is closed, or was opened later.
    #[allow(clippy::unused_self, reason = "asked of a dialect like its neighbours")]
    pub fn close_incident(&self, id: &str, closed_ms: i64) -> Statement {
        Statement {
            text: "UPDATE dora_incidents SET closed_at = ? \
                   WHERE id = ? AND closed_at IS NULL AND opened_at <= ?"
                .to_owned(),
            binds: vec![Bind::Time(closed_ms), text(id), Bind::Time(closed_ms)],
        }
    }

    fn select_incidents(&self, condition: &str) -> String {
        format!(
            "SELECT i.id, i.service, i.team, i.deployment_id, i.summary, {}, {}, i.metadata \
             FROM dora_incidents i{condition}",
            (self.time)("i.opened_at"),
            (self.time)("i.closed_at"),
        )
    }

    pub fn incident(&self, id: &str) -> Statement {
        Statement { text: self.select_incidents(" WHERE i.id = ?"), binds: vec![text(id)] }
    }

    /// Opened in the window, or caused by a deployment in it; each by its own index. A row that
    /// fits both ways comes twice: [`incidents`] takes one.
    pub fn incidents(&self, window: &Window) -> [Statement; 2] {
        let opened = within("i", "opened_at", window);
        let hint = self.hint("dora_incidents", "opened_at", window);
        let in_time = format!("{hint} WHERE {}", opened.text);
        let deployed = within("d", "deployed_at", window);
        let hint = self.hint("dora_deployments", "deployed_at", window);
        let caused = format!(
            " JOIN dora_deployments d{hint} ON d.id = i.deployment_id WHERE {}",
            deployed.text
        );
        [
            Statement { text: self.select_incidents(&in_time), binds: opened.binds },
            Statement { text: self.select_incidents(&caused), binds: deployed.binds },
        ]
    }

    pub fn put_pdca(&self, one: &Pdca) -> Statement {
        // what it was measured by stays as it was proposed
        let replaced = self.replace;
        let after = replaced(&[
            "metric",
            "proposal",
            "service",
            "team",
            "window_days",
            "status",
            "applied_at",
            "checked_at",
            "result",
        ]);
        Statement {
            text: format!(
                "INSERT INTO dora_pdca (id, metric, proposal, service, team, baseline, \
                 window_days, status, created_at, applied_at, checked_at, result) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) {after}"
            ),
            binds: vec![
                text(&one.id),
                text(&one.metric),
                text(&one.proposal),
                text(&one.service),
                text(&one.team),
                Bind::Text(one.baseline.to_string()),
                Bind::Integer(one.window_days.into()),
                text(&one.status),
                Bind::Time(one.created_ms),
                time(one.applied_ms),
                time(one.checked_ms),
                Bind::Text(one.result.to_string()),
            ],
        }
    }

    pub fn pdcas(&self) -> Statement {
        let text = format!(
            "SELECT id, metric, proposal, service, team, baseline, window_days, status, {}, {}, \
             {}, result FROM dora_pdca p ORDER BY p.created_at, p.id",
            (self.time)("created_at"),
            (self.time)("applied_at"),
            (self.time)("checked_at"),
        );
        Statement { text, binds: Vec::new() }
    }
}

/// What a table holds and this program does not understand.
#[derive(Debug)]
pub(super) struct Strange(String);

impl Strange {
    pub fn at(self, place: &str) -> DoraError {
        DoraError::Strange { place: place.to_owned(), detail: self.0 }
    }
}

fn strange(what: &str, value: &str) -> Strange {
    Strange(format!("{value:?} as {what}"))
}

fn object(text: &str) -> Result<Map<String, Value>, Strange> {
    serde_json::from_str(text).map_err(|_| strange("metadata", text))
}

fn any_json(text: &str) -> Result<Value, Strange> {
    serde_json::from_str(text).map_err(|_| strange("JSON", text))
}

pub(super) fn phase(row: PhaseRow) -> Result<Phase, Strange> {
    let (cycle_id, feature_id, name, decision, duration_cs, metadata, created_ms) = row;
    Ok(Phase {
        cycle_id,
        feature_id,
        name: PhaseName::from_word(&name).ok_or_else(|| strange("phase", &name))?,
        decision: Decision::from_word(&decision).ok_or_else(|| strange("decision", &decision))?,
        duration_cs,
        metadata: object(&metadata)?,
        created_ms,
    })
}

/// Deployments with their changes.
pub(super) fn deployments(
    rows: Vec<DeploymentRow>,
    changes: Vec<ChangeRow>,
) -> Result<Vec<Deployment>, Strange> {
    let mut brought: HashMap<String, Vec<Change>> = HashMap::new();
    for (deployment, id, committed_ms) in changes {
        brought.entry(deployment).or_default().push(Change { id, committed_ms });
    }
    let whole = |row: DeploymentRow| {
        let (id, cycle_id, service, team, version, deployed_ms, succeeded, rework, metadata) = row;
        let changes = brought.remove(&id).unwrap_or_default();
        let metadata = object(&metadata)?;
        Ok(Deployment {
            id,
            cycle_id,
            service,
            team,
            version,
            deployed_ms,
            succeeded,
            rework,
            changes,
            metadata,
        })
    };
    rows.into_iter().map(whole).collect()
}

/// Incidents, each once, oldest first.
pub(super) fn incidents(rows: Vec<IncidentRow>) -> Result<Vec<Incident>, Strange> {
    let whole = |row: IncidentRow| {
        let (id, service, team, deployment, summary, opened_ms, closed_ms, metadata) = row;
        let metadata = object(&metadata)?;
        Ok(Incident { id, service, team, deployment, summary, opened_ms, closed_ms, metadata })
    };
    let mut found = rows.into_iter().map(whole).collect::<Result<Vec<Incident>, Strange>>()?;
    found.sort_by(|one, other| (one.opened_ms, &one.id).cmp(&(other.opened_ms, &other.id)));
    found.dedup_by(|one, other| one.id == other.id);
    Ok(found)
}

pub(super) fn pdca(row: PdcaRow) -> Result<Pdca, Strange> {
    let (
        id,
        metric,
        proposal,
        service,
        team,
        baseline,
        window,
        status,
        created,
        applied,
        checked,
        result,
    ) = row;
    Ok(Pdca {
        id,
        metric,
        proposal,
        service,
        team,
        baseline: any_json(&baseline)?,
        window_days: u32::try_from(window).map_err(|_| strange("window", &window.to_string()))?,
        status,
        created_ms: created,
        applied_ms: applied,
        checked_ms: checked,
        result: any_json(&result)?,
    })
}
