//! The databases that are backed up: whether they answer, how far replicas are behind, and how many
//! of their connections are in use. Of kinds without such figures nothing is said.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, Row, Value};

use super::finding::Finding;
use super::process;
use super::store::answered;
use super::text::number;
use crate::config::{Alerts, Database, DatabaseKind};
use crate::secret;

/// How long a database may take for all that it is asked.
const WAIT: Duration = Duration::from_secs(8);
/// The server's number for "you may not".
const MYSQL_DENIED: u16 = 1227;

/// What a database says of itself.
#[derive(Debug, Clone, PartialEq)]
struct Facts {
    took: Duration,
    connections: u64,
    connections_max: u64,
    replication: Replication,
}

#[derive(Debug, Clone, PartialEq)]
enum Replication {
    /// It is no replica.
    None,
    /// So far behind.
    Behind(Duration),
    /// It does not replicate.
    Broken(String),
    /// It does not tell us.
    Unknown(String),
}

/// What is found of one database.
pub async fn look(database: &Database, alerts: &Alerts) -> Vec<Finding> {
    let facts = async {
        match database.kind {
            DatabaseKind::Mysql => mysql(database).await,
            DatabaseKind::Postgresql => {
                let database = database.clone();
                let asked = tokio::task::spawn_blocking(move || postgresql(&database)).await;
                asked.unwrap_or_else(|error| Err(error.to_string()))
            }
            DatabaseKind::Mongodb | DatabaseKind::Command => Ok(None),
        }
    };
    let late = || Err(format!("no answer within {} s", WAIT.as_secs()));
    let facts = tokio::time::timeout(WAIT, facts).await.unwrap_or_else(|_| late());
    let name = &database.name;
    match facts {
        Ok(None) => Vec::new(),
        Err(error) => vec![Finding::trouble("database", &error).of(name)],
        Ok(Some(facts)) => judge(&facts, alerts).into_iter().map(|one| one.of(name)).collect(),
    }
}

fn judge(facts: &Facts, alerts: &Alerts) -> Vec<Finding> {
    let mut findings = vec![answered("database", Ok(facts.took), alerts.slow_answer)];
    let (used, most) = (facts.connections, facts.connections_max.max(1));
    let percent = used.saturating_mul(100).div_ceil(most);
    let limit = u64::from(alerts.connections_percent);
    let detail =
        format!("{used} of {most} connections are in use, {percent} %; over {limit} % is too many");
    findings.push(Finding::judge("connections", percent > limit, &detail).with(number(percent)));
    let rule = "replication";
    match &facts.replication {
        Replication::None => {}
        Replication::Behind(lag) => {
            let limit = alerts.replication_lag;
            let (seconds, most) = (lag.as_secs(), limit.as_secs());
            let detail = format!("{seconds} s behind; over {most} s is too much");
            findings.push(Finding::judge(rule, *lag > limit, &detail).with(number(seconds)));
        }
        Replication::Broken(why) => findings.push(Finding::trouble(rule, why)),
        Replication::Unknown(why) => findings.push(Finding::unknown(rule, why)),
    }
    findings
}

fn password(database: &Database) -> Result<Option<String>, String> {
    let file = database.password_file.as_deref();
    file.map(secret::read).transpose().map_err(|error| error.to_string())
}

async fn mysql(database: &Database) -> Result<Option<Facts>, String> {
    let mut options = OptsBuilder::default()
        .prefer_socket(false)
        .pass(password(database)?)
        .user(Some(&database.username).filter(|user| !user.is_empty()).cloned());
    options = match database.host.as_str() {
        path if path.starts_with('/') => options.socket(Some(path)),
        "" => options.ip_or_hostname("127.0.0.1"),
        host => options.ip_or_hostname(host),
    };
    if database.port != 0 {
        options = options.tcp_port(database.port);
    }
    let said = |error: mysql_async::Error| error.to_string();
    let started = Instant::now();
    let mut connection = Conn::new(options).await.map_err(said)?;
    let connections = variable(&mut connection, "SHOW GLOBAL STATUS LIKE 'Threads_connected'");
    let connections = connections.await.map_err(said)?;
    let took = started.elapsed();
    let most = variable(&mut connection, "SHOW GLOBAL VARIABLES LIKE 'max_connections'");
    let connections_max = most.await.map_err(said)?;
    let replication = mysql_replication(&mut connection).await;
    // it is closed by the server where this does not arrive
    let _ = connection.disconnect().await;
    Ok(Some(Facts { took, connections, connections_max, replication }))
}

async fn variable(connection: &mut Conn, statement: &str) -> mysql_async::Result<u64> {
    let row: Option<(String, u64)> = connection.query_first(statement).await?;
    Ok(row.map_or(0, |(_, value)| value))
}

async fn mysql_replication(connection: &mut Conn) -> Replication {
    // MariaDB 10.5 tells of all its sources by the first, MySQL 8.0.22 by the second; the third is
    // the word of those before
    let mut answer = connection.query::<Row, _>("SHOW ALL REPLICAS STATUS").await;
    for other in ["SHOW REPLICA STATUS", "SHOW SLAVE STATUS"] {
        if let Err(mysql_async::Error::Server(error)) = &answer
            && error.code != MYSQL_DENIED
        {
            answer = connection.query::<Row, _>(other).await;
        }
    }
    match answer {
        Ok(rows) => rows.iter().map(replica).reduce(worse).unwrap_or(Replication::None),
        Err(error) => Replication::Unknown(format!(
            "{error}; grant it REPLICATION CLIENT (MariaDB: REPLICA MONITOR), or switch the rule off"
        )),
    }
}

/// The worse of two sources of one replica.
fn worse(one: Replication, other: Replication) -> Replication {
    match (&one, &other) {
        (Replication::Broken(_), _) => one,
        (_, Replication::Broken(_)) => other,
        (Replication::Behind(lag), Replication::Behind(more)) if more > lag => other,
        _ => one,
    }
}

/// Reads a row of `SHOW REPLICA STATUS`, by the names of either time.
fn replica(row: &Row) -> Replication {
    let columns = row.columns_ref();
    let value = |names: [&str; 2]| {
        let at = columns.iter().position(|column| names.contains(&&*column.name_str()))?;
        match row.as_ref(at)? {
            Value::Bytes(text) => Some(String::from_utf8_lossy(text).into_owned()),
            Value::Int(number) => Some(number.to_string()),
            Value::UInt(number) => Some(number.to_string()),
            _ => None,
        }
    };
    let runs = |names| value(names).is_some_and(|word| word == "Yes");
    let io = runs(["Replica_IO_Running", "Slave_IO_Running"]);
    let sql = runs(["Replica_SQL_Running", "Slave_SQL_Running"]);
    let behind = value(["Seconds_Behind_Source", "Seconds_Behind_Master"]);
    match behind.and_then(|seconds| seconds.parse().ok()) {
        Some(seconds) if io && sql => Replication::Behind(Duration::from_secs(seconds)),
        _ => {
            let error = |names| value(names).filter(|error| !error.is_empty());
            let why = error(["Last_IO_Error", "Last_IO_Error"])
                .or_else(|| error(["Last_SQL_Error", "Last_SQL_Error"]))
                .unwrap_or_else(|| "the replica does not say how far it is behind".to_owned());
            let word = |runs| if runs { "runs" } else { "stands" };
            Replication::Broken(format!("reading {}, applying {}: {why}", word(io), word(sql)))
        }
    }
}

/// What PostgreSQL is asked, one row: is it a replica, seconds behind, connections, their limit.
const POSTGRESQL: &str = "SELECT pg_is_in_recovery()::int, \
     CASE WHEN NOT pg_is_in_recovery() OR pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() \
          THEN 0 \
          ELSE coalesce(extract(epoch FROM now() - pg_last_xact_replay_timestamp())::bigint, -1) END, \
     (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
     current_setting('max_connections')::int";

fn postgresql(database: &Database) -> Result<Option<Facts>, String> {
    let mut command = Command::new("psql");
    command.args(["-X", "-A", "-t", "-q", "-w", "-F", " ", "-d"]);
    command.arg(database.databases.first().map_or("postgres", String::as_str));
    command.args(["-c", POSTGRESQL]);
    // nothing of this process's own settings: they may be of another server
    for name in ["PGPASSWORD", "PGSERVICE", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGOPTIONS"]
    {
        command.env_remove(name);
    }
    if !database.host.is_empty() {
        command.args(["-h", &database.host]);
    }
    if database.port != 0 {
        command.args(["-p", &database.port.to_string()]);
    }
    if !database.username.is_empty() {
        command.args(["-U", &database.username]);
    }
    let passfile = password(database)?.map(|password| passfile(&password)).transpose();
    let passfile = passfile.map_err(|error| format!("cannot write a passfile: {error}"))?;
    if let Some(passfile) = &passfile {
        command.env("PGPASSFILE", &passfile.0);
    }
    command.env("PGCONNECT_TIMEOUT", "5");
    let started = Instant::now();
    let ended = process::run(&mut command, WAIT).map_err(|error| format!("psql: {error}"))?;
    let took = started.elapsed();
    if !ended.status.success() {
        return Err(ended.errors.trim().to_owned());
    }
    let said = ended.output;
    let numbers: Vec<i64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [is_replica, behind, connections, connections_max] = numbers.as_slice() else {
        return Err(format!("psql answers {:?}", said.trim()));
    };
    let replication = match (is_replica, behind) {
        (0, _) => Replication::None,
        (_, ..0) => Replication::Unknown("the replica has applied nothing yet".to_owned()),
        (_, seconds) => Replication::Behind(Duration::from_secs(seconds.unsigned_abs())),
    };
    let (connections, connections_max) =
        (connections.unsigned_abs(), connections_max.unsigned_abs());
    Ok(Some(Facts { took, connections, connections_max, replication }))
}

/// A file that libpq reads a password from; it is gone when this is dropped.
struct Passfile(std::path::PathBuf);

impl Drop for Passfile {
    fn drop(&mut self) {
        // it lies in a directory that systemd empties too
        let _ = std::fs::remove_file(&self.0);
    }
}

fn passfile(password: &str) -> std::io::Result<Passfile> {
    let path = std::env::temp_dir().join(format!("bitacora-{}", uuid::Uuid::new_v4()));
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let passfile = Passfile(path);
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    file.write_all(format!("*:*:*:*:{escaped}\n").as_bytes())?;
    Ok(passfile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::health::CheckStatus;

    fn facts(connections: u64, replication: Replication) -> Facts {
        Facts { took: Duration::from_millis(5), connections, connections_max: 100, replication }
    }

    fn alerts() -> Alerts {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "").unwrap();
        crate::config::Config::load(&path, &crate::config::Machine::here()).unwrap().alerts
    }

    fn found(facts: &Facts) -> Vec<(String, CheckStatus)> {
        let findings = judge(facts, &alerts());
        findings.into_iter().map(|finding| (finding.rule, finding.status)).collect()
    }

    #[test]
    fn connections_and_replicas_have_their_limits() {
        let (well, bad) = (CheckStatus::Ok, CheckStatus::Trouble);
        let second = Duration::from_secs;
        let told = found(&facts(80, Replication::Behind(second(60))));
        assert_eq!(told[1..], [("connections".into(), well), ("replication".into(), well)]);
        let told = found(&facts(81, Replication::Behind(second(61))));
        assert_eq!(told[1..], [("connections".into(), bad), ("replication".into(), bad)]);
        assert_eq!(found(&facts(1, Replication::None)).len(), 2);
        let broken = found(&facts(1, Replication::Broken("x".into())));
        assert_eq!(broken[2].1, bad);
    }

    #[test]
    fn a_passfile_is_ours_alone_and_goes() {
        use std::os::unix::fs::PermissionsExt;
        let file = passfile("a:b\\c").unwrap();
        let path = file.0.clone();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "*:*:*:*:a\\:b\\\\c\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(file);
        assert!(!path.exists());
    }
}
