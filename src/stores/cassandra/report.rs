//! `bitacora schema check`: what the cluster is, and what it does not promise.

use std::cmp::Ordering;
use std::time::Duration;

use scylla::client::session::Session;
use scylla::value::{CqlValue, Row};
use serde::Serialize;

use super::schema::{VERSION, execute, has_table, table_ttl, version};
use super::{connect, fault};
use crate::config;
use crate::key::Table;
use crate::migration::{Finding, Weight};
use crate::stores::StoreError;

/// All that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The tables' version; 0 when there are none.
    pub version: u32,
    /// The version that this program writes.
    pub known: u32,
    /// In the order in which they were looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether bitacora can work with it.
    #[must_use]
    pub fn works(&self) -> bool {
        self.findings.iter().all(|finding| finding.weight != Weight::Problem)
    }

    fn add(&mut self, weight: Weight, text: impl Into<String>) {
        self.findings.push(Finding::new(weight, text));
    }
}

const TABLES: [&str; 13] = [
    "infrastructure_logs",
    "application_logs",
    "user_events",
    "log_layout",
    "origins",
    "contexts",
    "spans",
    "loss_receipts",
    "dead_letters",
    "watermarks",
    "log_stats",
    "health_checks",
    "expired_sources",
];

/// Looks at the keyspace without changing anything.
///
/// # Errors
/// No session, or a table of the server's own that cannot be read.
pub async fn check(
    config: &config::Cassandra,
    lifetimes: &config::Lifetimes,
) -> Result<Report, StoreError> {
    let session = connect::session(config).await?;
    let found = version(&session, &config.keyspace).await?;
    let mut report = Report { version: found, known: VERSION, findings: Vec::new() };
    if found == 0 {
        report.add(
            Weight::Problem,
            format!(
                "keyspace '{}' has no tables of bitacora; run `bitacora schema apply`",
                config.keyspace
            ),
        );
        return Ok(report);
    }
    check_version(&mut report);
    for table in TABLES {
        if !has_table(&session, &config.keyspace, table).await? {
            report.add(Weight::Problem, format!("table {table} is missing; was it dropped?"));
        }
    }
    check_ttl(&session, &config.keyspace, lifetimes, &mut report).await?;
    let replicas = check_replicas(&session, config, &mut report).await?;
    check_commit_log(&session, replicas, &mut report).await;
    Ok(report)
}

fn check_version(report: &mut Report) {
    let found = report.version;
    match found.cmp(&VERSION) {
        Ordering::Equal => report.add(Weight::Fine, format!("the tables have version {found}")),
        Ordering::Greater => report.add(
            Weight::Problem,
            format!(
                "the tables have version {found}, this program knows {VERSION}; \
                 install a newer bitacora"
            ),
        ),
        Ordering::Less => report.add(
            Weight::Problem,
            format!(
                "the tables have version {found}, {VERSION} is needed; run `bitacora schema apply`"
            ),
        ),
    }
}

async fn check_ttl(
    session: &Session,
    keyspace: &str,
    lifetimes: &config::Lifetimes,
    report: &mut Report,
) -> Result<(), StoreError> {
    for table in Table::ALL {
        let wanted = ttl_seconds(lifetimes.of_table(table));
        let Some(found) = table_ttl(session, keyspace, table.name()).await? else {
            continue;
        };
        if found == wanted {
            let text = format!("rows of {} live {}", table.name(), lifetime(found));
            report.add(Weight::Fine, text);
        } else {
            report.add(
                Weight::Warning,
                format!(
                    "rows of {0} live {1} by the table's default; bitacora writes {2} with each \
                     row, as the configuration says; `bitacora retention apply` makes them \
                     equal: ALTER TABLE {keyspace}.{0} WITH default_time_to_live = {wanted}",
                    table.name(),
                    lifetime(found),
                    lifetime(wanted),
                ),
            );
        }
    }
    Ok(())
}

/// A time to live as Cassandra has it: 0 is for ever.
pub(super) fn ttl_seconds(lifetime: Option<Duration>) -> i64 {
    lifetime.map_or(0, |lifetime| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX))
}

fn lifetime(seconds: i64) -> String {
    match seconds {
        0 => "for ever".to_owned(),
        days if days % 86_400 == 0 => format!("{} days", days / 86_400),
        _ => format!("{seconds} s"),
    }
}

/// How many replicas of the keyspace the configured datacenter has; 0 where it has none.
pub(super) async fn replicas(
    session: &Session,
    config: &config::Cassandra,
) -> Result<u32, StoreError> {
    let text = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let rows = execute(session, text, (config.keyspace.as_str(),)).await?;
    let row: Option<(std::collections::BTreeMap<String, String>,)> = match &rows {
        Some(rows) => rows.maybe_first_row().map_err(fault::schema)?,
        None => None,
    };
    let options = row.map(|(options,)| options).unwrap_or_default();
    let replicas = options.get(&config.datacenter).or_else(|| options.get("replication_factor"));
    Ok(replicas.and_then(|count| count.parse().ok()).unwrap_or(0))
}

async fn check_replicas(
    session: &Session,
    config: &config::Cassandra,
    report: &mut Report,
) -> Result<u32, StoreError> {
    let replicas = replicas(session, config).await?;
    if replicas == 0 {
        report.add(
            Weight::Problem,
            format!(
                "datacenter '{}' has no replica of keyspace '{}'; add it by ALTER KEYSPACE",
                config.datacenter, config.keyspace
            ),
        );
    } else if replicas == config.replication {
        report.add(Weight::Fine, format!("{replicas} replicas in '{}'", config.datacenter));
    } else {
        report.add(
            Weight::Warning,
            format!(
                "{replicas} replicas in '{}', the configuration says {}; the keyspace stays as it \
                 is until you ALTER it",
                config.datacenter, config.replication
            ),
        );
    }
    Ok(replicas)
}

/// With one replica an acknowledged row is as safe as that node's commit log.
async fn check_commit_log(session: &Session, replicas: u32, report: &mut Report) {
    let Ok(Some(sync)) = setting(session, "commitlog_sync").await else {
        report.add(
            Weight::Warning,
            "the node does not say how it syncs its commit log; with one replica and a \
             periodic sync a power cut may lose rows that were acknowledged",
        );
        return;
    };
    if sync != "periodic" {
        report
            .add(Weight::Fine, format!("an acknowledged row is on disk (commitlog_sync: {sync})"));
        return;
    }
    let period = match setting(session, "commitlog_sync_period").await {
        Ok(Some(period)) => period,
        Ok(None) | Err(_) => "10 s".to_owned(),
    };
    if replicas > 1 {
        report.add(
            Weight::Fine,
            format!(
                "the commit log is synced each {period}; rows survive the power cut of one of \
                 {replicas} replicas, not of all at once"
            ),
        );
        return;
    }
    report.add(
        Weight::Warning,
        format!(
            "not promised: with one replica and commitlog_sync: periodic a power cut of the node \
             may lose the acknowledged rows of the last {period}; set commitlog_sync: batch (or \
             group) in cassandra.yaml, or keep more replicas"
        ),
    );
}

/// A setting of the node that answers.
async fn setting(session: &Session, name: &str) -> Result<Option<String>, StoreError> {
    let text = "SELECT value FROM system_views.settings WHERE name = ?";
    let Some(rows) = execute(session, text, (name,)).await? else { return Ok(None) };
    let row: Option<Row> = rows.maybe_first_row().map_err(fault::schema)?;
    Ok(row.and_then(|row| row.columns.into_iter().next().flatten()).and_then(|value| match value {
        CqlValue::Text(text) => Some(text),
        _ => None,
    }))
}
