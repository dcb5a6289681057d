//! The tables on a server: what is missing, making it, and whether it is right.
//!
//! The server knows no DDL in a transaction, so every migration may be repeated. A named lock of
//! the server keeps two hosts from applying at the same moment; it goes with its connection.

use std::collections::BTreeSet;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::DoraError;
use super::migrations::{MYSQL, Migration, TABLES, VERSION};
use super::mysql::{MysqlStore, datetime};
use super::open::{place, server};
use crate::config::{Dora, DoraKind};
use crate::migration::{Finding, Step, Weight};

/// How long to wait for another host's lock, in seconds; less than an answer may take.
const LOCK_PATIENCE_S: u32 = 45;

/// The indexes that reports need, by table.
const INDEXES: [(&str, &str); 18] = [
    ("dora_metrics", "dora_metrics_key"),
    ("dora_metrics", "dora_metrics_cycle"),
    ("dora_metrics", "dora_metrics_phase"),
    ("dora_metrics", "dora_metrics_feature"),
    ("dora_metrics", "dora_metrics_created"),
    ("dora_metrics", "dora_metrics_phase_created"),
    ("dora_metrics", "dora_metrics_service_created"),
    ("dora_metrics", "dora_metrics_team_created"),
    ("dora_deployments", "dora_deployments_cycle"),
    ("dora_deployments", "dora_deployments_deployed"),
    ("dora_deployments", "dora_deployments_service_deployed"),
    ("dora_deployments", "dora_deployments_team_deployed"),
    ("dora_incidents", "dora_incidents_deployment"),
    ("dora_incidents", "dora_incidents_opened"),
    ("dora_incidents", "dora_incidents_service_opened"),
    ("dora_incidents", "dora_incidents_team_opened"),
    ("dora_changes", "PRIMARY"),
    ("dora_pdca", "dora_pdca_created"),
];

/// What is still to be done: nothing when the tables are up to date, and nothing for SQLite.
///
/// # Errors
///
/// The server does not answer, refuses, or has tables of a newer program.
pub async fn plan(config: &Dora) -> Result<Vec<Step>, DoraError> {
    if config.kind == DoraKind::Sqlite {
        return Ok(Vec::new());
    }
    let store = MysqlStore::new(server(config)?)?;
    let mut connection = store.connection().await?;
    let (steps, _) = steps(&store, &mut connection).await?;
    Ok(steps.iter().map(Migration::step).collect())
}

/// Does what is still to be done, as `host` at `now_ms`, and says what that was. It may be
/// repeated, and two hosts may do it at once: one waits for the other.
///
/// # Errors
///
/// The server does not answer, refuses, or has tables of a newer program.
pub async fn apply(config: &Dora, host: &str, now_ms: i64) -> Result<Vec<Step>, DoraError> {
    if config.kind == DoraKind::Sqlite {
        return Ok(Vec::new());
    }
    let store = MysqlStore::new(server(config)?)?;
    let mut connection = store.connection().await?;
    let lock = format!("SELECT GET_LOCK(CONCAT(DATABASE(), '.schema'), {LOCK_PATIENCE_S})");
    let taken: Option<Option<i64>> = store.within(connection.query_first(lock)).await?;
    if taken.flatten() != Some(1) {
        return Err(DoraError::Unreachable {
            place: store.place().to_owned(),
            detail: "another host is changing the tables; try again later".to_owned(),
        });
    }
    let (missing, found) = steps(&store, &mut connection).await?;
    let mut done = Vec::new();
    for migration in missing {
        let step = migration.step();
        for statement in &step.statements {
            store.within(connection.query_drop(statement.as_str())).await?;
        }
        if migration.version > found {
            let record = "INSERT INTO schema_version (version, name, applied_at, applied_by) \
                          VALUES (?, ?, ?, ?) ON DUPLICATE KEY UPDATE version = version";
            let values = (step.version, step.name, datetime(now_ms), host);
            store.within(connection.exec_drop(record, values)).await?;
        }
        done.push(step);
    }
    // the lock would go with the connection all the same
    store.within(connection.query_drop("DO RELEASE_LOCK(CONCAT(DATABASE(), '.schema'))")).await?;
    Ok(done)
}

/// Whether the tables are right, and what the server does not promise.
///
/// # Errors
///
/// The server does not answer, or refuses; that its tables are of a newer program is a finding.
pub async fn check(config: &Dora) -> Result<Vec<Finding>, DoraError> {
    if config.kind == DoraKind::Sqlite {
        let text = format!("{} makes its own tables", place(config));
        return Ok(vec![Finding::new(Weight::Fine, text)]);
    }
    let store = MysqlStore::new(server(config)?)?;
    let mut connection = store.connection().await?;
    let present = present(&store, &mut connection).await?;
    let found = version(&store, &mut connection, &present).await?;
    let mut findings = vec![match found {
        VERSION => Finding::new(Weight::Fine, format!("the DORA tables have version {VERSION}")),
        0 => Finding::new(Weight::Problem, "there are no DORA tables; run `bitacora schema apply`"),
        _ if found > VERSION => Finding::new(
            Weight::Problem,
            format!(
                "the DORA tables have version {found}, this program knows {VERSION}; install a \
                 newer bitacora"
            ),
        ),
        _ => Finding::new(
            Weight::Problem,
            format!(
                "the DORA tables have version {found}, {VERSION} is needed; run `bitacora schema \
                 apply`"
            ),
        ),
    }];
    if found == VERSION {
        for table in TABLES.iter().filter(|table| !present.iter().any(|one| one == *table)) {
            let text = format!("table {table} is missing; run `bitacora schema apply`");
            findings.push(Finding::new(Weight::Problem, text));
        }
        findings.extend(missing_indexes(&store, &mut connection, &present).await?);
    }
    findings.extend(durability(&store, &mut connection).await?);
    Ok(findings)
}

async fn missing_indexes(
    store: &MysqlStore,
    connection: &mut Conn,
    present: &[String],
) -> Result<Vec<Finding>, DoraError> {
    let list = "SELECT DISTINCT table_name, index_name FROM information_schema.statistics \
                WHERE table_schema = DATABASE()";
    let rows: Vec<(String, String)> = store.within(connection.query(list)).await?;
    let there: BTreeSet<(String, String)> = rows.into_iter().collect();
    let missing = INDEXES.iter().filter(|(table, index)| {
        present.iter().any(|one| one == table)
            && !there.contains(&((*table).to_owned(), (*index).to_owned()))
    });
    Ok(missing
        .map(|(table, index)| {
            let text = format!("index {index} of {table} is missing; reports will be slow");
            Finding::new(Weight::Warning, text)
        })
        .collect())
}

/// What is answered is on disk only with this setting.
async fn durability(
    store: &MysqlStore,
    connection: &mut Conn,
) -> Result<Option<Finding>, DoraError> {
    let asked = "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit";
    let flushed: Option<u8> = store.within(connection.query_first(asked)).await?;
    Ok((flushed != Some(1)).then(|| {
        let text = "innodb_flush_log_at_trx_commit is not 1: a power cut may lose the events of \
                    the last second";
        Finding::new(Weight::Warning, text)
    }))
}

/// Answers only for tables of exactly this program's version.
pub(super) async fn require(store: &MysqlStore) -> Result<(), DoraError> {
    let mut connection = store.connection().await?;
    let place = store.place().to_owned();
    // one look, for each command and each request; where there is no table, it says so itself
    let asked = "SELECT MAX(version) FROM schema_version";
    let found: Option<Option<u32>> = store.within(connection.query_first(asked)).await?;
    match found.flatten().unwrap_or(0) {
        VERSION => Ok(()),
        found if found > VERSION => Err(DoraError::Newer { place, found, known: VERSION }),
        found => Err(DoraError::Schema {
            place,
            detail: format!("tables have version {found}, {VERSION} is needed"),
        }),
    }
}

async fn present(store: &MysqlStore, connection: &mut Conn) -> Result<Vec<String>, DoraError> {
    let list = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()";
    store.within(connection.query(list)).await
}

/// The version that the tables have; 0 when there are none.
async fn version(
    store: &MysqlStore,
    connection: &mut Conn,
    present: &[String],
) -> Result<u32, DoraError> {
    if !present.iter().any(|table| table == "schema_version") {
        return Ok(0);
    }
    let asked = "SELECT MAX(version) FROM schema_version";
    let found: Option<Option<u32>> = store.within(connection.query_first(asked)).await?;
    Ok(found.flatten().unwrap_or(0))
}

/// What is to be done, and the version that was found. A table that someone has dropped is made
/// again.
async fn steps(
    store: &MysqlStore,
    connection: &mut Conn,
) -> Result<(Vec<Migration>, u32), DoraError> {
    let present = present(store, connection).await?;
    let found = version(store, connection, &present).await?;
    if found > VERSION {
        let place = store.place().to_owned();
        return Err(DoraError::Newer { place, found, known: VERSION });
    }
    let missing = MYSQL
        .into_iter()
        .filter(|one| one.version > found || one.makes_other_than(&present))
        .collect();
    Ok((missing, found))
}
