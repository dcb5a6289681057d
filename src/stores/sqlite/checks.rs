//! Results of health checks, in `index.db`.

use rusqlite::{Connection, Row, params};

use super::index;
use super::read::SqliteReader;
use crate::stores::health::{CheckStatus, HealthCheck, HealthStore, OldChecks};
use crate::stores::{Answer, StoreError};

type Sql<T> = rusqlite::Result<T>;

/// Rows that one transaction deletes at most: the daemon waits for its end.
const DELETED_AT_ONCE: usize = 5000;

/// The table, and the index by which old results are found.
pub(super) const SCHEMA: &str = "
CREATE TABLE health_checks (
  host TEXT NOT NULL, check_name TEXT NOT NULL, checked_ms INTEGER NOT NULL,
  status TEXT NOT NULL, value REAL, detail TEXT NOT NULL,
  PRIMARY KEY (host, check_name, checked_ms)) WITHOUT ROWID;
CREATE INDEX health_checks_by_time ON health_checks (checked_ms);
";

fn put(connection: &Connection, checks: &[HealthCheck]) -> Sql<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO health_checks (host, check_name, checked_ms, status, value, detail) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )?;
    for check in checks {
        let HealthCheck { host, name, checked_ms, status, value, detail } = check;
        statement.execute(params![host, name, checked_ms, status.name(), value, detail])?;
    }
    connection.execute_batch("COMMIT")
}

fn check(row: &Row<'_>) -> Sql<HealthCheck> {
    Ok(HealthCheck {
        host: row.get("host")?,
        name: row.get("check_name")?,
        checked_ms: row.get("checked_ms")?,
        status: CheckStatus::from_name(&row.get::<_, String>("status")?),
        value: row.get("value")?,
        detail: row.get("detail")?,
    })
}

/// `SQLite` gives the other columns of the row that has the maximum.
fn last(connection: &Connection) -> Sql<Vec<HealthCheck>> {
    connection
        .prepare(
            "SELECT host, check_name, max(checked_ms) AS checked_ms, status, value, detail \
             FROM health_checks GROUP BY host, check_name ORDER BY host, check_name",
        )?
        .query_and_then([], check)?
        .collect()
}

fn before(connection: &Connection, before_ms: i64) -> Sql<OldChecks> {
    connection.query_row(
        "SELECT count(*), min(checked_ms), max(checked_ms) FROM health_checks WHERE checked_ms < ?",
        [before_ms],
        |row| {
            let rows: i64 = row.get(0)?;
            Ok(OldChecks {
                rows: rows.unsigned_abs(),
                oldest_ms: row.get(1)?,
                newest_ms: row.get(2)?,
            })
        },
    )
}

fn drop_before(connection: &Connection, before_ms: i64) -> Sql<OldChecks> {
    let old = before(connection, before_ms)?;
    let sql = format!(
        "DELETE FROM health_checks WHERE (host, check_name, checked_ms) IN \
         (SELECT host, check_name, checked_ms FROM health_checks WHERE checked_ms < ? \
          LIMIT {DELETED_AT_ONCE})"
    );
    while connection.execute(&sql, [before_ms])? > 0 {}
    Ok(old)
}

impl HealthStore for SqliteReader {
    fn record_checks<'a>(&'a self, checks: &'a [HealthCheck]) -> Answer<'a, ()> {
        answer(index::change(self.dir(), |connection| put(connection, checks)))
    }

    fn last_checks(&self) -> Answer<'_, Vec<HealthCheck>> {
        answer(self.index_table("health_checks", last))
    }

    fn checks_before(&self, before_ms: i64) -> Answer<'_, OldChecks> {
        answer(self.index_table("health_checks", |connection| before(connection, before_ms)))
    }

    fn drop_checks_before(&self, before_ms: i64) -> Answer<'_, OldChecks> {
        answer(index::change(self.dir(), |connection| drop_before(connection, before_ms)))
    }
}

fn answer<'a, T: Send + 'a>(answer: Result<T, StoreError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(answer))
}
