//! What the report asks of both databases, so that it reads what it needs and no more.

use super::events::{CycleStart, Starts, Window};
use super::sql::{Bind, Dialect, Statement, text, within};

/// Cycles that are asked for at once.
const CYCLES_MAX: usize = 500;

/// A service or a cycle, and a time.
pub(super) type TimeRow = (String, i64);

const DEPLOYED: &str = "m.phase_name = 'deployment' AND m.decision IN ('success', 'failed')";

impl Dialect {
    /// By the index on name and time.
    pub fn deployment_phases(&self, window: &Window) -> Statement {
        let mut condition = within("m", "created_at", window);
        condition.text = format!("{DEPLOYED} AND {}", condition.text);
        self.select_phases(condition)
    }

    /// When cycles began, by the unique index, which begins with them.
    pub fn cycle_starts(&self, cycles: &[String]) -> Vec<Statement> {
        let began = format!(
            "{} - {} * 10",
            (self.time)("m.created_at"),
            (self.hundredths)("m.duration_seconds")
        );
        let some = |cycles: &[String]| Statement {
            text: format!(
                "SELECT m.cycle_id, MIN({began}) FROM dora_metrics m \
                 WHERE m.cycle_id IN ({}) GROUP BY m.cycle_id",
                vec!["?"; cycles.len()].join(", ")
            ),
            binds: cycles.iter().map(|id| text(id)).collect(),
        };
        cycles.chunks(CYCLES_MAX).map(some).collect()
    }

    /// The first deployment and the first phase of the window's service and team.
    pub fn first(&self, window: &Window) -> [Statement; 2] {
        let of = |alias: &str| {
            let wanted = [("service", &window.service), ("team", &window.team)];
            let said: Vec<(&str, &String)> = wanted
                .into_iter()
                .filter_map(|(column, one)| Some((column, one.as_ref()?)))
                .collect();
            Statement {
                text: said.iter().map(|(column, _)| format!(" AND {alias}.{column} = ?")).collect(),
                binds: said.into_iter().map(|(_, one)| text(one)).collect(),
            }
        };
        let (deployment, phase) = (of("d"), of("m"));
        [
            Statement {
                text: format!(
                    "SELECT d.service, {} FROM dora_deployments d WHERE d.deployed_at >= ?{} \
                     ORDER BY d.deployed_at LIMIT 1",
                    (self.time)("d.deployed_at"),
                    deployment.text
                ),
                binds: [vec![Bind::Time(0)], deployment.binds].concat(),
            },
            Statement {
                text: format!(
                    "SELECT m.cycle_id, {} FROM dora_metrics m WHERE {DEPLOYED}{} \
                     ORDER BY m.created_at LIMIT 1",
                    (self.time)("m.created_at"),
                    phase.text
                ),
                binds: phase.binds,
            },
        ]
    }

    /// The first deployment of each service.
    pub fn services(&self) -> Statement {
        Statement {
            text: format!(
                "SELECT d.service, {} FROM dora_deployments d GROUP BY d.service",
                (self.time)("MIN(d.deployed_at)")
            ),
            binds: Vec::new(),
        }
    }
}

pub(super) fn cycle_start((cycle_id, started_ms): TimeRow) -> CycleStart {
    CycleStart { cycle_id, started_ms }
}

pub(super) fn starts(first: &[TimeRow], services: Vec<TimeRow>) -> Starts {
    let first_ms = first.iter().map(|(_, at_ms)| *at_ms).min();
    Starts { first_ms, services: services.into_iter().collect() }
}
