//! The metrics in a SQLite file, for where no server is configured.
//!
//! A rollback journal, not a WAL: whoever may only read the file needs no write access to its
//! directory, and a write a minute has nobody to wait for.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, Value};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, Row, ToSql, TransactionBehavior, params_from_iter,
};

use super::events::{CycleStart, Deployment, Incident, Pdca, Phase, Starts, Window};
use super::migrations::{SQLITE, VERSION};
use super::sql::{self, Bind, Dialect, Statement};
use super::{Answer, DoraError, DoraStore, check, report_sql};
use crate::durable;

const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

static DIALECT: Dialect = Dialect {
    time: str::to_owned,
    hundredths: |column| format!("CAST(round({column} * 100) AS INTEGER)"),
    // it reads by index what it can
    by_index: |_| String::new(),
    keep: "ON CONFLICT DO NOTHING",
    replace: |columns| {
        let set: Vec<String> =
            columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
        format!("ON CONFLICT (id) DO UPDATE SET {}", set.join(", "))
    },
};

/// See the module. The file is made by the first write, with its tables.
#[derive(Debug)]
pub(super) struct SqliteStore {
    file: Arc<File>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl SqliteStore {
    pub fn new(path: PathBuf) -> Self {
        Self { file: Arc::new(File { path, connection: Mutex::new(None) }) }
    }

    /// Does something with the open file, where it may take its time.
    fn with<T: Send + 'static>(
        &self,
        writes: bool,
        act: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Answer<'_, T> {
        let file = self.file.clone();
        Box::pin(async move {
            let place = file.path.display().to_string();
            let done = tokio::task::spawn_blocking(move || file.with(writes, act)).await;
            done.unwrap_or_else(|error| {
                Err(DoraError::Unreachable { place, detail: error.to_string() })
            })
        })
    }

    fn read<R, T: Send + 'static>(
        &self,
        statements: Vec<Statement>,
        whole: fn(Vec<R>) -> Result<Vec<T>, sql::Strange>,
    ) -> Answer<'_, Vec<T>>
    where
        R: for<'a> TryFrom<&'a Row<'a>, Error = rusqlite::Error> + Send + 'static,
    {
        self.with(false, move |connection| {
            let mut rows = Vec::new();
            for statement in &statements {
                rows.extend(select(connection, statement)?);
            }
            Ok(whole(rows)?)
        })
    }

    fn read_deployments(&self, statements: (Statement, Statement)) -> Answer<'_, Vec<Deployment>> {
        self.with(false, move |connection| {
            let (rows, changes) = statements;
            let rows = select(connection, &rows)?;
            let changes = select(connection, &changes)?;
            Ok(sql::deployments(rows, changes)?)
        })
    }
}

/// Why something was not done; the file's path is added where it is known.
enum Fault {
    Database(rusqlite::Error),
    Strange(sql::Strange),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<sql::Strange> for Fault {
    fn from(strange: sql::Strange) -> Self {
        Self::Strange(strange)
    }
}

impl File {
    fn with<T>(
        &self,
        writes: bool,
        act: impl FnOnce(&mut Connection) -> Result<T, Fault>,
    ) -> Result<T, DoraError> {
        let place = self.path.display().to_string();
        let mut held = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut connection = match held.take() {
            Some(connection) => connection,
            // what nobody has written is empty, and a question makes no file
            None if !writes && !self.path.exists() => {
                let mut empty = Connection::open_in_memory().map_err(|e| fault(&place, &e))?;
                migrate(&mut empty, &place)?;
                return act(&mut empty).map_err(|fault| fault.at(&place));
            }
            None => open(&self.path)?,
        };
        let done = act(&mut connection).map_err(|fault| fault.at(&place));
        *held = Some(connection);
        done
    }
}

impl Fault {
    fn at(self, place: &str) -> DoraError {
        match self {
            Self::Database(error) => fault(place, &error),
            Self::Strange(strange) => strange.at(place),
        }
    }
}

fn open(path: &Path) -> Result<Connection, DoraError> {
    let place = path.display().to_string();
    if let Some(dir) = path.parent() {
        durable::create_dir(dir).map_err(|error| DoraError::Unreachable {
            place: place.clone(),
            detail: error.to_string(),
        })?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(connection)
    };
    let is_new = !path.exists();
    let mut connection = open().map_err(|error| fault(&place, &error))?;
    migrate(&mut connection, &place)?;
    if let Some(dir) = path.parent().filter(|_| is_new) {
        // who made it can write it all the same
        drop(durable::own_like(dir, path));
    }
    Ok(connection)
}

/// The version of the tables; 0 where there are none.
fn version(connection: &Connection) -> rusqlite::Result<u32> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'schema_version'";
    let there: u32 = connection.query_row(there, [], |row| row.get(0))?;
    if there == 0 {
        return Ok(0);
    }
    let newest = "SELECT coalesce(max(version), 0) FROM schema_version";
    connection.query_row(newest, [], |row| row.get(0))
}

/// Brings the tables up to date. Two processes may do it at once.
fn migrate(connection: &mut Connection, place: &str) -> Result<(), DoraError> {
    let newer = |found: u32| {
        let place = place.to_owned();
        if found > VERSION {
            return Err(DoraError::Newer { place, found, known: VERSION });
        }
        Ok(found)
    };
    if newer(version(connection).map_err(|error| fault(place, &error))?)? == VERSION {
        return Ok(());
    }
    let mut migrate = || {
        let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found = version(&change)?;
        for migration in SQLITE.iter().filter(|one| one.version > found) {
            change.execute_batch(migration.text)?;
            let record = "INSERT INTO schema_version (version, name, applied_at, applied_by) \
                          VALUES (?, ?, unixepoch() * 1000, 'bitacora')";
            change.execute(record, (migration.version, migration.name))?;
        }
        change.commit()
    };
    migrate().map_err(|error| fault(place, &error))
}

fn fault(place: &str, error: &rusqlite::Error) -> DoraError {
    let (place, detail) = (place.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
            DoraError::Refused { place, detail }
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => DoraError::Refused {
            place,
            detail: format!("{detail}; let this user write the file and its directory"),
        },
        _ => DoraError::Unreachable { place, detail },
    }
}

impl ToSql for Bind {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Text(text) => ToSqlOutput::from(text.as_str()),
            Self::Time(number) | Self::Integer(number) => ToSqlOutput::from(*number),
            Self::Null => ToSqlOutput::Owned(Value::Null),
        })
    }
}

fn select<R>(connection: &Connection, statement: &Statement) -> Result<Vec<R>, Fault>
where
    R: for<'a> TryFrom<&'a Row<'a>, Error = rusqlite::Error>,
{
    let mut prepared = connection.prepare_cached(&statement.text)?;
    let rows = prepared.query_map(params_from_iter(&statement.binds), |row| R::try_from(row))?;
    Ok(rows.collect::<rusqlite::Result<Vec<R>>>()?)
}

/// Answers how many rows are new or changed.
fn execute(connection: &Connection, statement: &Statement) -> rusqlite::Result<usize> {
    connection.prepare_cached(&statement.text)?.execute(params_from_iter(&statement.binds))
}

fn one_by_one<R, T>(
    whole: impl Fn(R) -> Result<T, sql::Strange>,
    rows: Vec<R>,
) -> Result<Vec<T>, sql::Strange> {
    rows.into_iter().map(whole).collect()
}

impl DoraStore for SqliteStore {
    fn add_phases<'a>(&'a self, phases: &'a [Phase]) -> Answer<'a, Vec<bool>> {
        if let Some(error) = phases.iter().find_map(|phase| phase.check().err()) {
            return Box::pin(async { Err(error) });
        }
        let statements: Vec<Statement> =
            phases.iter().map(|phase| DIALECT.add_phase(phase)).collect();
        self.with(true, move |connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut new = Vec::with_capacity(statements.len());
            for statement in &statements {
                new.push(execute(&change, statement)? > 0);
            }
            change.commit()?;
            Ok(new)
        })
    }

    fn phases<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Phase>> {
        self.read(vec![DIALECT.phases(window)], |rows| one_by_one(sql::phase, rows))
    }

    fn cycle<'a>(&'a self, cycle_id: &'a str) -> Answer<'a, Vec<Phase>> {
        self.read(vec![DIALECT.cycle(cycle_id)], |rows| one_by_one(sql::phase, rows))
    }

    fn deployment_phases<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Phase>> {
        self.read(vec![DIALECT.deployment_phases(window)], |rows| one_by_one(sql::phase, rows))
    }

    fn cycle_starts<'a>(&'a self, cycles: &'a [String]) -> Answer<'a, Vec<CycleStart>> {
        self.read(DIALECT.cycle_starts(cycles), |rows| {
            one_by_one(|row| Ok(report_sql::cycle_start(row)), rows)
        })
    }

    fn starts<'a>(&'a self, window: &'a Window) -> Answer<'a, Starts> {
        let statements = DIALECT.first(window);
        self.with(false, move |connection| {
            let mut first = Vec::new();
            for statement in &statements {
                first.extend(select(connection, statement)?);
            }
            Ok(report_sql::starts(&first, select(connection, &DIALECT.services())?))
        })
    }

    fn add_deployment<'a>(&'a self, deployment: &'a Deployment) -> Answer<'a, bool> {
        if let Err(error) = deployment.check() {
            return Box::pin(async { Err(error) });
        }
        let (row, changes) = DIALECT.add_deployment(deployment);
        self.with(true, move |connection| {
            let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if execute(&change, &row)? == 0 {
                return Ok(false);
            }
            for brought in &changes {
                execute(&change, brought)?;
            }
            change.commit()?;
            Ok(true)
        })
    }

    fn deployments<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Deployment>> {
        self.read_deployments(DIALECT.deployments(window))
    }

    fn deployments_of<'a>(&'a self, cycle_id: &'a str) -> Answer<'a, Vec<Deployment>> {
        self.read_deployments(DIALECT.deployments_of(cycle_id))
    }

    fn deployment<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Deployment>> {
        let found = self.read_deployments(DIALECT.deployment(id));
        Box::pin(async { Ok(found.await?.pop()) })
    }

    fn open_incident<'a>(&'a self, incident: &'a Incident) -> Answer<'a, bool> {
        if let Err(error) = incident.check() {
            return Box::pin(async { Err(error) });
        }
        let row = DIALECT.open_incident(incident);
        self.with(true, move |connection| Ok(execute(connection, &row)? > 0))
    }

    fn incident<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Incident>> {
        let found = self.read(vec![DIALECT.incident(id)], sql::incidents);
        Box::pin(async { Ok(found.await?.pop()) })
    }

    fn close_incident<'a>(&'a self, id: &'a str, closed_ms: i64) -> Answer<'a, bool> {
        if let Err(error) = check::closing(closed_ms) {
            return Box::pin(async { Err(error) });
        }
        let change = DIALECT.close_incident(id, closed_ms);
        self.with(true, move |connection| Ok(execute(connection, &change)? > 0))
    }

    fn incidents<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Incident>> {
        self.read(DIALECT.incidents(window).into(), sql::incidents)
    }

    fn put_pdca<'a>(&'a self, pdca: &'a Pdca) -> Answer<'a, ()> {
        if let Err(error) = pdca.check() {
            return Box::pin(async { Err(error) });
        }
        let row = DIALECT.put_pdca(pdca);
        self.with(true, move |connection| {
            execute(connection, &row)?;
            Ok(())
        })
    }

    fn pdcas(&self) -> Answer<'_, Vec<Pdca>> {
        self.read(vec![DIALECT.pdcas()], |rows| one_by_one(sql::pdca, rows))
    }
}
