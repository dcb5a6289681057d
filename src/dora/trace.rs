//! One cycle across both layers: its phases and deployments, and what the application logged
//! under the ids of their requests.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::events::{Deployment, Phase};
use super::json::{deployment_json, phase_json};
use super::{DoraError, DoraStore};
use crate::key::Table;
use crate::query::output::machine;
use crate::stores::{LogReader, RowQuery, StoreError, StoredRow};

/// A cycle, as far as the metrics know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cycle {
    /// Its name.
    pub id: String,
    /// Oldest first.
    pub phases: Vec<Phase>,
    /// Oldest first.
    pub deployments: Vec<Deployment>,
}

/// What was logged under one request id.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Logged {
    /// Oldest first.
    pub rows: Vec<StoredRow>,
    /// There are more.
    pub cut: bool,
}

/// The id of a phase's request, as it was written.
#[must_use]
pub fn request_of(phase: &Phase) -> Option<&str> {
    phase.metadata.get("request_id").and_then(Value::as_str).filter(|id| !id.is_empty())
}

/// What the metrics know of a cycle.
///
/// # Errors
///
/// The database's.
pub async fn cycle(store: &dyn DoraStore, id: &str) -> Result<Cycle, DoraError> {
    let phases = store.cycle(id).await?;
    let deployments = store.deployments_of(id).await?;
    Ok(Cycle { id: id.to_owned(), phases, deployments })
}

/// Rows of the application for each request of the cycle, at most `most` for each; `id_of` makes
/// the column's value of an id.
///
/// # Errors
///
/// The log store's.
pub async fn logged(
    reader: &dyn LogReader,
    cycle: &Cycle,
    most: usize,
    id_of: fn(&str) -> u128,
) -> Result<BTreeMap<String, Logged>, StoreError> {
    let mut found = BTreeMap::new();
    for request in cycle.phases.iter().filter_map(request_of) {
        if found.contains_key(request) {
            continue;
        }
        let query = RowQuery {
            tables: vec![Table::Application],
            request_id: Some(id_of(request)),
            limit: most.saturating_add(1),
            ..RowQuery::default()
        };
        let mut rows = reader.rows(&query).await?.rows;
        let cut = rows.len() > most;
        rows.truncate(most);
        found.insert(request.to_owned(), Logged { rows, cut });
    }
    Ok(found)
}

/// The cycle as one object. Each phase with a request has the rows that were logged under it;
/// without `logged`, because the log store could not be asked, none has.
#[must_use]
pub fn as_json(cycle: &Cycle, logged: Option<&BTreeMap<String, Logged>>) -> Value {
    let phase = |phase: &Phase| {
        let mut value = phase_json(phase);
        if let Some(request) = request_of(phase)
            && let Some(logged) = logged
        {
            let found = logged.get(request).cloned().unwrap_or_default();
            let rows: Value = found.rows.iter().map(machine::json).collect();
            if let Value::Object(object) = &mut value {
                object.insert("rows".to_owned(), rows);
                object.insert("more_rows".to_owned(), found.cut.into());
            }
        }
        value
    };
    json!({
        "cycle_id": cycle.id,
        "phases": cycle.phases.iter().map(phase).collect::<Vec<_>>(),
        "deployments": cycle.deployments.iter().map(deployment_json).collect::<Vec<_>>(),
        "logs_asked": logged.is_some(),
    })
}
