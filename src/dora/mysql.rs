//! The metrics in MySQL 8 or MariaDB.

use std::path::PathBuf;
use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{
    Conn, DriverError, Error, OptsBuilder, Params, Pool, PoolConstraints, PoolOpts, SslOpts,
    TxOpts, Value,
};

use super::events::{CycleStart, Deployment, Incident, Pdca, Phase, Starts, Window};
use super::sql::{self, Bind, Dialect, Statement};
use super::{Answer, DoraError, DoraStore, check, report_sql};
use crate::config::Mysql;
use crate::secret;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one answer may take; an import asks for many.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// The server waits no longer for a lock than this program for the server.
const SESSION: &str = "SET SESSION time_zone = '+00:00', innodb_lock_wait_timeout = 20, \
                       sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,\
                       ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'";
const CONNECTIONS_MAX: usize = 4;

static DIALECT: Dialect = Dialect {
    time: |column| format!("TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {column}) DIV 1000"),
    hundredths: |column| format!("CAST({column} * 100 AS SIGNED)"),
    by_index: |indexes| format!(" FORCE INDEX ({})", indexes.join(", ")),
    // not INSERT IGNORE, which takes wrong values too
    keep: "ON DUPLICATE KEY UPDATE id = id",
    replace: |columns| {
        let set: Vec<String> =
            columns.iter().map(|column| format!("{column} = VALUES({column})")).collect();
        format!("ON DUPLICATE KEY UPDATE {}", set.join(", "))
    },
};

/// See the module.
#[derive(Debug)]
pub(super) struct MysqlStore {
    pool: Pool,
    place: String,
}

/// Where the server is, as people write it. Never with a password.
pub(super) fn place(config: &Mysql) -> String {
    let Mysql { host, port, database, .. } = config;
    if host.starts_with('/') {
        format!("{host} {database}")
    } else {
        format!("{host}:{port}/{database}")
    }
}

/// The password is read anew for each store, and never shown.
fn options(config: &Mysql) -> Result<OptsBuilder, DoraError> {
    let refused = |detail: String| DoraError::Refused { place: place(config), detail };
    let password = match &config.password_file {
        Some(file) => Some(secret::read(file).map_err(|error| refused(error.to_string()))?),
        None => None,
    };
    let one = PoolConstraints::new(0, CONNECTIONS_MAX).unwrap_or_default();
    let mut options = OptsBuilder::default()
        .user(Some(&config.username))
        .pass(password)
        .db_name(Some(&config.database))
        // the driver would ask the server for its socket and leave TCP, and TLS with it
        .prefer_socket(false)
        .init(vec![SESSION])
        .pool_opts(
            PoolOpts::default()
                .with_constraints(one)
                // its statements stay prepared, and no session of ours changes its settings
                .with_reset_connection(false),
        );
    options = if config.host.starts_with('/') {
        options.socket(Some(&config.host))
    } else {
        options.ip_or_hostname(&config.host).tcp_port(config.port)
    };
    if let Some(ca_file) = &config.ca_file {
        let authorities = vec![PathBuf::from(ca_file).into()];
        options = options.ssl_opts(
            SslOpts::default().with_root_certs(authorities).with_disable_built_in_roots(true),
        );
    }
    Ok(options)
}

impl MysqlStore {
    pub fn new(config: &Mysql) -> Result<Self, DoraError> {
        Ok(Self { pool: Pool::new(options(config)?), place: place(config) })
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    pub async fn connection(&self) -> Result<Conn, DoraError> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.pool.get_conn()).await;
        let connected = connected.map_err(|_| DoraError::Unreachable {
            place: self.place.clone(),
            detail: format!("no connection within {CONNECT_TIMEOUT:?}"),
        })?;
        connected.map_err(|error| self.fault(&error))
    }

    /// Answers within the time, or says that nobody knows.
    pub async fn within<T>(
        &self,
        act: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, DoraError> {
        match tokio::time::timeout(ANSWER_TIMEOUT, act).await {
            Ok(done) => done.map_err(|error| self.fault(&error)),
            Err(_) => Err(DoraError::Unreachable {
                place: self.place.clone(),
                detail: format!("no answer within {ANSWER_TIMEOUT:?}"),
            }),
        }
    }

    /// The server's words, and what a person may do.
    pub fn fault(&self, error: &Error) -> DoraError {
        let place = self.place.clone();
        if let Error::Driver(DriverError::UnknownAuthPlugin { name }) = error {
            let detail = format!(
                "it asks for a password in the way {name}, as MySQL does also of users that it \
                 does not have; look at username of dora.mysql, and let the user be IDENTIFIED \
                 WITH caching_sha2_password"
            );
            return DoraError::Refused { place, detail };
        }
        let Error::Server(said) = error else {
            let detail = match error {
                Error::Io(error) => error.to_string(),
                Error::Driver(error) => error.to_string(),
                other => other.to_string(),
            };
            return DoraError::Unreachable { place, detail };
        };
        let detail = format!("{} (error {})", said.message, said.code);
        match said.code {
            // no table, no column
            1146 | 1054 => DoraError::Schema { place, detail },
            1049 => DoraError::Refused {
                place,
                detail: format!(
                    "{detail}; create it with CREATE DATABASE … CHARACTER SET utf8mb4 and grant \
                     it to the user of dora.mysql"
                ),
            },
            1044 | 1045 | 1698 => DoraError::Refused {
                place,
                detail: format!("{detail}; look at username and password_file of dora.mysql"),
            },
            1142 | 1143 | 1227 => DoraError::Refused {
                place,
                detail: format!("{detail}; GRANT it to the user of dora.mysql"),
            },
            // too many connections, shutting down, waited for a lock, deadlock, disk full, read only
            1040 | 1053 | 1205 | 1213 | 1021 | 1290 | 3169 => {
                DoraError::Unreachable { place, detail }
            }
            _ => DoraError::Refused { place, detail },
        }
    }

    pub async fn select<R: FromRow + Send + 'static>(
        &self,
        connection: &mut Conn,
        statement: &Statement,
    ) -> Result<Vec<R>, DoraError> {
        self.within(connection.exec(statement.text.as_str(), params(statement))).await
    }

    /// Answers how many rows are new or changed.
    async fn execute(
        &self,
        connection: &mut Conn,
        statement: &Statement,
    ) -> Result<u64, DoraError> {
        let act = async {
            let done = connection.exec_iter(statement.text.as_str(), params(statement)).await?;
            let rows = done.affected_rows();
            done.drop_result().await?;
            Ok(rows)
        };
        self.within(act).await
    }

    /// Executes these together or not at all; the first decides whether the others are.
    async fn execute_all(
        &self,
        first: Option<&Statement>,
        others: &[Statement],
    ) -> Result<Option<Vec<bool>>, DoraError> {
        let mut connection = self.connection().await?;
        let mut change = self.within(connection.start_transaction(TxOpts::default())).await?;
        let mut run = async |statement: &Statement| {
            let act = async {
                let done = change.exec_iter(statement.text.as_str(), params(statement)).await?;
                let rows = done.affected_rows();
                done.drop_result().await?;
                Ok(rows > 0)
            };
            self.within(act).await
        };
        if let Some(first) = first
            && !run(first).await?
        {
            self.within(change.rollback()).await?;
            return Ok(None);
        }
        let mut new = Vec::with_capacity(others.len());
        for statement in others {
            new.push(run(statement).await?);
        }
        self.within(change.commit()).await?;
        Ok(Some(new))
    }

    async fn read_deployments(
        &self,
        (rows, changes): (Statement, Statement),
    ) -> Result<Vec<Deployment>, DoraError> {
        let mut connection = self.connection().await?;
        let rows = self.select(&mut connection, &rows).await?;
        let changes = self.select(&mut connection, &changes).await?;
        sql::deployments(rows, changes).map_err(|strange| strange.at(&self.place))
    }

    async fn read_phases(&self, statement: Statement) -> Result<Vec<Phase>, DoraError> {
        let mut connection = self.connection().await?;
        let rows = self.select(&mut connection, &statement).await?;
        let phases: Result<_, _> = rows.into_iter().map(sql::phase).collect();
        phases.map_err(|strange| strange.at(&self.place))
    }

    async fn read_incidents(&self, statements: &[Statement]) -> Result<Vec<Incident>, DoraError> {
        let mut connection = self.connection().await?;
        let mut rows = Vec::new();
        for statement in statements {
            rows.extend(self.select(&mut connection, statement).await?);
        }
        sql::incidents(rows).map_err(|strange| strange.at(&self.place))
    }
}

/// `2026-11-22 07:49:38.123`, UTC, as a DATETIME(3) takes it.
pub(super) fn datetime(at_ms: i64) -> String {
    // a window may end at the end of all times
    let at = jiff::Timestamp::from_millisecond(at_ms.clamp(0, 253_402_207_200_000));
    at.unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

fn params(statement: &Statement) -> Params {
    if statement.binds.is_empty() {
        return Params::Empty;
    }
    let value = |bind: &Bind| match bind {
        Bind::Text(text) => Value::from(text.as_str()),
        Bind::Time(at_ms) => Value::from(datetime(*at_ms)),
        Bind::Integer(number) => Value::from(*number),
        Bind::Null => Value::NULL,
    };
    Params::Positional(statement.binds.iter().map(value).collect())
}

impl DoraStore for MysqlStore {
    fn add_phases<'a>(&'a self, phases: &'a [Phase]) -> Answer<'a, Vec<bool>> {
        Box::pin(async move {
            phases.iter().try_for_each(Phase::check)?;
            if let [phase] = phases {
                let mut connection = self.connection().await?;
                let row = DIALECT.add_phase(phase);
                return Ok(vec![self.execute(&mut connection, &row).await? > 0]);
            }
            let rows: Vec<Statement> =
                phases.iter().map(|phase| DIALECT.add_phase(phase)).collect();
            Ok(self.execute_all(None, &rows).await?.unwrap_or_default())
        })
    }

    fn phases<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Phase>> {
        Box::pin(self.read_phases(DIALECT.phases(window)))
    }

    fn cycle<'a>(&'a self, cycle_id: &'a str) -> Answer<'a, Vec<Phase>> {
        Box::pin(self.read_phases(DIALECT.cycle(cycle_id)))
    }

    fn deployment_phases<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Phase>> {
        Box::pin(self.read_phases(DIALECT.deployment_phases(window)))
    }

    fn cycle_starts<'a>(&'a self, cycles: &'a [String]) -> Answer<'a, Vec<CycleStart>> {
        Box::pin(async move {
            let mut connection = self.connection().await?;
            let mut starts = Vec::new();
            for statement in DIALECT.cycle_starts(cycles) {
                let rows = self.select(&mut connection, &statement).await?;
                starts.extend(rows.into_iter().map(report_sql::cycle_start));
            }
            Ok(starts)
        })
    }

    fn starts<'a>(&'a self, window: &'a Window) -> Answer<'a, Starts> {
        Box::pin(async move {
            let mut connection = self.connection().await?;
            let mut first = Vec::new();
            for statement in &DIALECT.first(window) {
                first.extend(self.select(&mut connection, statement).await?);
            }
            let services = self.select(&mut connection, &DIALECT.services()).await?;
            Ok(report_sql::starts(&first, services))
        })
    }

    fn add_deployment<'a>(&'a self, deployment: &'a Deployment) -> Answer<'a, bool> {
        Box::pin(async move {
            deployment.check()?;
            let (row, changes) = DIALECT.add_deployment(deployment);
            Ok(self.execute_all(Some(&row), &changes).await?.is_some())
        })
    }

    fn deployments<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Deployment>> {
        Box::pin(self.read_deployments(DIALECT.deployments(window)))
    }

    fn deployments_of<'a>(&'a self, cycle_id: &'a str) -> Answer<'a, Vec<Deployment>> {
        Box::pin(self.read_deployments(DIALECT.deployments_of(cycle_id)))
    }

    fn deployment<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Deployment>> {
        Box::pin(async move { Ok(self.read_deployments(DIALECT.deployment(id)).await?.pop()) })
    }

    fn open_incident<'a>(&'a self, incident: &'a Incident) -> Answer<'a, bool> {
        Box::pin(async move {
            incident.check()?;
            let mut connection = self.connection().await?;
            Ok(self.execute(&mut connection, &DIALECT.open_incident(incident)).await? > 0)
        })
    }

    fn incident<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Incident>> {
        Box::pin(async move { Ok(self.read_incidents(&[DIALECT.incident(id)]).await?.pop()) })
    }

    fn close_incident<'a>(&'a self, id: &'a str, closed_ms: i64) -> Answer<'a, bool> {
        Box::pin(async move {
            check::closing(closed_ms)?;
            let mut connection = self.connection().await?;
            let change = DIALECT.close_incident(id, closed_ms);
            Ok(self.execute(&mut connection, &change).await? > 0)
        })
    }

    fn incidents<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Incident>> {
        Box::pin(async move { self.read_incidents(&DIALECT.incidents(window)).await })
    }

    fn put_pdca<'a>(&'a self, pdca: &'a Pdca) -> Answer<'a, ()> {
        Box::pin(async move {
            pdca.check()?;
            let mut connection = self.connection().await?;
            self.execute(&mut connection, &DIALECT.put_pdca(pdca)).await.map(drop)
        })
    }

    fn pdcas(&self) -> Answer<'_, Vec<Pdca>> {
        Box::pin(async move {
            let mut connection = self.connection().await?;
            let rows = self.select(&mut connection, &DIALECT.pdcas()).await?;
            let pdcas: Result<_, _> = rows.into_iter().map(sql::pdca).collect();
            pdcas.map_err(|strange| strange.at(&self.place))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_utc_with_milliseconds_and_none_overflows() {
        assert_eq!(datetime(1_795_333_778_123), "2026-11-22 07:49:38.123");
        assert_eq!(datetime(-1), "1970-01-01 00:00:00.000");
        assert!(datetime(i64::MAX).starts_with("9999-12-3"));
    }
}
