//! The keyspace and its tables: numbered migrations, each applied once.
//!
//! Every migration may be repeated. Which ones are done stands in `schema_version`, written by
//! light-weight transactions; a lock there, with a time to live, keeps two hosts from applying
//! at the same moment.

use std::time::Duration;

use scylla::client::session::Session;
use scylla::response::query_result::QueryRowsResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::Statement;
use scylla::value::{CqlTimestamp, CqlValue, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::{NAME, connect, fault};
use crate::config;
use crate::migration::{self, Step};
use crate::stores::StoreError;

/// One file of `cql/`.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: &'static str,
    text: &'static str,
}

/// All migrations. The last one's number is the version that this program writes.
pub const MIGRATIONS: [Migration; 8] = [
    Migration { version: 1, name: "ground", text: include_str!("../../../cql/0001_ground.cql") },
    Migration { version: 2, name: "logs", text: include_str!("../../../cql/0002_logs.cql") },
    Migration { version: 3, name: "ledger", text: include_str!("../../../cql/0003_ledger.cql") },
    Migration {
        version: 4,
        name: "user_events",
        text: include_str!("../../../cql/0004_user_events.cql"),
    },
    Migration {
        version: 5,
        name: "event_ids",
        text: include_str!("../../../cql/0005_event_ids.cql"),
    },
    Migration {
        version: 6,
        name: "health_checks",
        text: include_str!("../../../cql/0006_health_checks.cql"),
    },
    Migration {
        version: 7,
        name: "durations",
        text: include_str!("../../../cql/0007_durations.cql"),
    },
    Migration {
        version: 8,
        name: "expired_origins",
        text: include_str!("../../../cql/0008_expired_origins.cql"),
    },
];

/// The version that this program writes.
pub const VERSION: u32 = 8;

/// How long a host may hold the lock; a crashed one loses it after this time.
const LOCK_SECONDS: u32 = 300;
/// How long to wait for another host's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(330);
/// Waits between two looks at the lock.
const LOCK_POLL: Duration = Duration::from_millis(250);
/// A statement that changes tables may take longer than one that writes a row.
const DDL_TIMEOUT: Duration = Duration::from_mins(1);

impl Migration {
    /// Its statements, without comments, with the words of the configuration filled in.
    fn statements(&self, words: &[(&str, String)]) -> Vec<String> {
        let mut text = self.text.to_owned();
        for (word, value) in words {
            text = text.replace(word, value);
        }
        migration::statements(&text)
    }
}

/// What the migrations' words stand for. Longer words first: one may begin like another.
fn words(config: &config::Cassandra, scylla: bool) -> Vec<(&'static str, String)> {
    let seconds = config.ttl.map_or(0, |ttl| ttl.as_secs());
    let table = format!("bitacora/{}/schema_version", config.keyspace);
    let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, table.as_bytes());
    // ScyllaDB has its own index, and no SAI.
    let index = if scylla { "" } else { " USING 'sai'" };
    vec![
        ("$schema_version_id", id.to_string()),
        ("$using_sai", index.to_owned()),
        ("$replication", config.replication.to_string()),
        ("$datacenter", format!("'{}'", config.datacenter.replace('\'', "''"))),
        ("$keyspace", config.keyspace.clone()),
        ("$ttl", seconds.to_string()),
    ]
}

/// What is still to be done: empty when the tables are up to date.
///
/// # Errors
/// No session, or tables of a newer program.
pub async fn plan(config: &config::Cassandra) -> Result<Vec<Step>, StoreError> {
    let session = connect::session(config).await?;
    steps(&session, config).await
}

async fn steps(session: &Session, config: &config::Cassandra) -> Result<Vec<Step>, StoreError> {
    let found = version(session, &config.keyspace).await?;
    if found > VERSION {
        return Err(StoreError::Newer { store: NAME, found, known: VERSION });
    }
    let words = words(config, is_scylla(session).await?);
    let mut steps = Vec::new();
    for migration in MIGRATIONS {
        let (version, name) = (migration.version, migration.name);
        let mut statements = Vec::new();
        let mut lacks_a_column = false;
        for statement in migration.statements(&words) {
            // not every server knows `ADD IF NOT EXISTS`
            match added_column(&statement) {
                None => statements.push(statement),
                Some((table, column)) if !has_column(session, config, table, column).await? => {
                    lacks_a_column = true;
                    statements.push(statement);
                }
                Some(_) => {}
            }
        }
        // a table that someone has dropped is made again: every statement may be repeated
        let lacking = lacks_a_column || lacks_a_table(session, config, &statements).await?;
        if version > found || lacking {
            steps.push(Step { version, name, statements });
        }
    }
    Ok(steps)
}

/// Table and column of a statement that adds one column.
fn added_column(statement: &str) -> Option<(&str, &str)> {
    let rest = statement.strip_prefix("ALTER TABLE ")?;
    let (table, column) = rest.split_once(" ADD ")?;
    let (_, table) = table.split_once('.')?;
    Some((table, column.split_whitespace().next()?))
}

async fn has_column(
    session: &Session,
    config: &config::Cassandra,
    table: &str,
    column: &str,
) -> Result<bool, StoreError> {
    let text = "SELECT column_name FROM system_schema.columns \
                WHERE keyspace_name = ? AND table_name = ? AND column_name = ?";
    let rows = execute(session, text, (config.keyspace.as_str(), table, column)).await?;
    Ok(rows.is_some_and(|rows| rows.rows_num() > 0))
}

async fn lacks_a_table(
    session: &Session,
    config: &config::Cassandra,
    statements: &[String],
) -> Result<bool, StoreError> {
    let prefix = format!("CREATE TABLE IF NOT EXISTS {}.", config.keyspace);
    for made in statements.iter().filter_map(|statement| statement.strip_prefix(&prefix)) {
        let end = made.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(made.len());
        let table = made.get(..end).unwrap_or(made);
        if !has_table(session, &config.keyspace, table).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Does what is still to be done, as `host` at `now_ms`, and says what that was. It may be
/// repeated, and two hosts may do it at once: one waits for the other.
///
/// # Errors
/// No session, a statement that was refused, or tables of a newer program.
pub async fn apply(
    config: &config::Cassandra,
    host: &str,
    now_ms: i64,
) -> Result<Vec<Step>, StoreError> {
    let session = connect::session(config).await?;
    let planned = steps(&session, config).await?;
    let Some(first) = planned.first() else { return Ok(planned) };
    // The lock is a row of a table, so what makes that table cannot be under it.
    if first.version == 1 {
        for statement in &first.statements {
            change(&session, statement).await?;
        }
    }
    let owner = format!("{host}/{}", Uuid::new_v4());
    let lock = Lock { session: &session, keyspace: &config.keyspace, owner: &owner, now_ms };
    lock.take().await?;
    let done = lock.migrate(config, host).await;
    lock.release().await?;
    done
}

struct Lock<'a> {
    session: &'a Session,
    keyspace: &'a str,
    owner: &'a str,
    now_ms: i64,
}

impl Lock<'_> {
    async fn take(&self) -> Result<(), StoreError> {
        let insert = format!(
            "INSERT INTO {}.schema_version (name, version, applied_at, applied_by) \
             VALUES ('lock', 0, ?, ?) IF NOT EXISTS USING TTL {LOCK_SECONDS}",
            self.keyspace
        );
        let began = Instant::now();
        loop {
            match execute(self.session, &insert, (CqlTimestamp(self.now_ms), self.owner)).await {
                Ok(Some(rows)) if applied(&rows, self.owner)? => return Ok(()),
                // After a timeout nobody knows whether the lock is ours: the next look tells.
                Ok(_) | Err(StoreError::Timeout { .. } | StoreError::Outage { .. })
                    if began.elapsed() < LOCK_PATIENCE => {}
                Ok(_) => {
                    return Err(fault::outage(
                        "another host has been changing the tables for minutes; try again later",
                    ));
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    async fn migrate(
        &self,
        config: &config::Cassandra,
        host: &str,
    ) -> Result<Vec<Step>, StoreError> {
        let steps = steps(self.session, config).await?;
        let record = format!(
            "INSERT INTO {}.schema_version (name, version, applied_at, applied_by) \
             VALUES ('migration', ?, ?, ?) IF NOT EXISTS",
            self.keyspace
        );
        for step in &steps {
            for statement in &step.statements {
                change(self.session, statement).await?;
            }
            let version = step.version.cast_signed();
            execute(self.session, &record, (version, CqlTimestamp(self.now_ms), host)).await?;
        }
        Ok(steps)
    }

    async fn release(&self) -> Result<(), StoreError> {
        let delete = format!(
            "DELETE FROM {}.schema_version WHERE name = 'lock' AND version = 0 IF applied_by = ?",
            self.keyspace
        );
        execute(self.session, &delete, (self.owner,)).await.map(drop)
    }
}

/// Whether a light-weight transaction was applied, or had been by `owner` before.
fn applied(rows: &QueryRowsResult, owner: &str) -> Result<bool, StoreError> {
    let row: Option<Row> = rows.maybe_first_row().map_err(fault::schema)?;
    let columns = row.map(|row| row.columns).unwrap_or_default();
    Ok(columns.iter().flatten().any(|value| match value {
        CqlValue::Boolean(applied) => *applied,
        CqlValue::Text(text) => text == owner,
        _ => false,
    }))
}

/// Executes a statement that changes tables; the driver waits until all nodes agree.
async fn change(session: &Session, text: &str) -> Result<(), StoreError> {
    execute(session, text, ()).await.map(drop).map_err(|error| match error {
        StoreError::Invalid { detail, .. } => fault::schema(format!("{detail} (in: {text})")),
        other => other,
    })
}

pub(super) async fn execute(
    session: &Session,
    text: &str,
    values: impl SerializeRow,
) -> Result<Option<QueryRowsResult>, StoreError> {
    let mut statement = Statement::new(text);
    statement.set_request_timeout(Some(DDL_TIMEOUT));
    let started = Instant::now();
    let result = session
        .query_unpaged(statement, values)
        .await
        .map_err(|error| fault::execution(&error, started.elapsed()))?;
    Ok(result.is_rows().then(|| result.into_rows_result().ok()).flatten())
}

/// The version that the tables have; 0 when there are none.
pub(super) async fn version(session: &Session, keyspace: &str) -> Result<u32, StoreError> {
    if !has_table(session, keyspace, "schema_version").await? {
        return Ok(0);
    }
    let text = format!("SELECT version FROM {keyspace}.schema_version WHERE name = 'migration'");
    let rows = execute(session, &text, ()).await?;
    let Some(rows) = rows else { return Ok(0) };
    let versions = rows.rows::<(i32,)>().map_err(fault::schema)?;
    let mut newest = 0;
    for version in versions {
        let (version,) = version.map_err(fault::schema)?;
        newest = newest.max(u32::try_from(version).unwrap_or(0));
    }
    Ok(newest)
}

/// Answers only for tables of exactly this program's version.
pub(super) async fn require(session: &Session, keyspace: &str) -> Result<(), StoreError> {
    match version(session, keyspace).await? {
        VERSION => Ok(()),
        0 => Err(fault::schema(format!("keyspace '{keyspace}' has no tables of bitacora"))),
        found if found > VERSION => Err(StoreError::Newer { store: NAME, found, known: VERSION }),
        found => Err(fault::schema(format!("tables have version {found}, {VERSION} is needed"))),
    }
}

pub(super) async fn has_table(
    session: &Session,
    keyspace: &str,
    table: &str,
) -> Result<bool, StoreError> {
    let text = "SELECT table_name FROM system_schema.tables \
                WHERE keyspace_name = ? AND table_name = ?";
    let rows = execute(session, text, (keyspace, table)).await?;
    Ok(rows.is_some_and(|rows| rows.rows_num() > 0))
}

async fn is_scylla(session: &Session) -> Result<bool, StoreError> {
    has_table(session, "system", "scylla_local").await
}

/// Seconds that a table's rows live by default; 0 for ever. `None` for a table that is missing.
pub(super) async fn table_ttl(
    session: &Session,
    keyspace: &str,
    table: &str,
) -> Result<Option<i64>, StoreError> {
    let text = "SELECT default_time_to_live FROM system_schema.tables \
                WHERE keyspace_name = ? AND table_name = ?";
    let Some(rows) = execute(session, text, (keyspace, table)).await? else { return Ok(None) };
    let row: Option<(i32,)> = rows.maybe_first_row().map_err(fault::schema)?;
    Ok(row.map(|(seconds,)| i64::from(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> config::Cassandra {
        config::Cassandra {
            nodes: vec!["127.0.0.1:9042".to_owned()],
            keyspace: "logging".to_owned(),
            datacenter: "it's".to_owned(),
            replication: 3,
            consistency: "local_quorum".to_owned(),
            ttl: Some(Duration::from_hours(24)),
            username: None,
            password_file: None,
            tls: None,
        }
    }

    #[test]
    fn migrations_are_numbered_without_a_gap() {
        let versions: Vec<u32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, [1, 2, 3, 4, 5, 6, 7, VERSION]);
    }

    #[test]
    fn no_word_is_left_in_a_statement() {
        let words = words(&config(), false);
        let all: Vec<String> =
            MIGRATIONS.iter().flat_map(|migration| migration.statements(&words)).collect();
        assert_eq!(all.len(), 21);
        for statement in &all {
            let made = statement.starts_with("CREATE ") && statement.contains(" IF NOT EXISTS ");
            // the one table that was never written
            let dropped = statement == "DROP TABLE IF EXISTS logging.user_events";
            // a repetition leaves out the columns that are there
            let added = added_column(statement).is_some();
            assert!(made || dropped || added, "{statement}");
            assert!(!statement.contains('$') && !statement.contains(';'), "{statement}");
        }
        assert!(all.first().unwrap().contains("'it''s': 3"), "{all:?}");
        assert!(all.iter().any(|statement| statement.contains("default_time_to_live = 86400")));
    }
}
