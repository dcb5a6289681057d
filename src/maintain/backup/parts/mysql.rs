//! `MySQL` and `MariaDB`: dumps by the server's own tool, one file a database.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::counting::MysqlDump;
use super::{Making, SCRATCH, tool};
use crate::config::{self, Database};
use crate::maintain::backup::BackupError;
use crate::maintain::backup::names::{Scratch, escaped};

/// Databases of the server itself.
const SYSTEM: [&str; 4] = ["information_schema", "performance_schema", "sys", "mysql"];

/// A server, and who we are there.
#[derive(Debug, Clone)]
pub struct Server {
    host: String,
    port: u16,
    username: String,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

impl Server {
    /// That of the delivery metrics.
    pub fn of_dora(server: &config::Mysql) -> Self {
        Self {
            host: server.host.clone(),
            port: server.port,
            username: server.username.clone(),
            password_file: server.password_file.clone(),
            ca_file: server.ca_file.clone(),
        }
    }

    /// That of a `[[backup.database]]`.
    pub fn of(database: &Database) -> Self {
        Self {
            host: database.host.clone(),
            port: database.port,
            username: database.username.clone(),
            password_file: database.password_file.clone(),
            ca_file: None,
        }
    }

    /// Writes the option file by which a tool reaches it, for this user alone.
    fn options(&self, scratch: &Scratch) -> Result<PathBuf, BackupError> {
        let mut text = String::from("[client]\n");
        let mut option = |name: &str, value: &str| {
            let _ = writeln!(text, "{name}=\"{}\"", quoted(value));
        };
        if self.host.starts_with('/') {
            option("socket", &self.host);
        } else if !self.host.is_empty() {
            option("host", &self.host);
            // "localhost" would mean the socket of the tool's own default
            option("protocol", "tcp");
        }
        if self.port != 0 {
            option("port", &self.port.to_string());
        }
        if !self.username.is_empty() {
            option("user", &self.username);
        }
        if let Some(file) = &self.password_file {
            let password = crate::secret::read(file);
            option("password", &password.map_err(|error| BackupError::Source(error.to_string()))?);
        }
        if let Some(file) = &self.ca_file {
            option("ssl-ca", &file.to_string_lossy());
            // how the two clients are told not to go on without TLS
            option("loose-ssl-mode", "VERIFY_IDENTITY");
            option("loose-ssl-verify-server-cert", "1");
        }
        let path = scratch.path("client.cnf");
        tool::private_file(&path, &text)?;
        Ok(path)
    }

    fn command(&self, program: &str, scratch: &Scratch) -> Result<Command, BackupError> {
        let mut option = std::ffi::OsString::from("--defaults-file=");
        option.push(self.options(scratch)?);
        let mut command = Command::new(program);
        command.arg(option);
        Ok(command)
    }

    /// Asks the server; answers lines with tabs between columns.
    pub fn ask(&self, scratch: &Scratch, statement: &str) -> Result<String, BackupError> {
        let program = tool::first_of(&["mariadb", "mysql"]);
        let mut command = self.command(&program, scratch)?;
        command.args(["--batch", "--skip-column-names", "--execute", statement]);
        tool::ask(&program, &mut command)
    }

    /// Loads a dump into a database. The client is told to take nothing for a command of its own:
    /// a dump could otherwise run programs here.
    pub fn load(
        &self,
        scratch: &Scratch,
        database: Option<&str>,
        dump: &Path,
    ) -> Result<(), BackupError> {
        let program = tool::first_of(&["mariadb", "mysql"]);
        let mut command = self.command(&program, scratch)?;
        command.args(["--binary-mode", "--default-character-set=utf8mb4"]);
        if let Some(database) = database {
            command.arg(format!("--database={database}"));
        }
        tool::feed(&program, &mut command, dump)
    }

    /// Tables in a database.
    pub fn tables(&self, scratch: &Scratch, database: &str) -> Result<u64, BackupError> {
        let statement = format!(
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = {}",
            text(database)
        );
        Ok(self.ask(scratch, &statement)?.trim().parse().unwrap_or(0))
    }

    /// The databases of its users.
    pub fn databases(&self, scratch: &Scratch) -> Result<Vec<String>, BackupError> {
        let all = self.ask(scratch, "SHOW DATABASES")?;
        let own = |name: &&str| {
            let name = name.to_lowercase();
            // what a drill that was killed has left is nobody's data
            !SYSTEM.contains(&name.as_str()) && !name.starts_with(SCRATCH)
        };
        Ok(all.lines().filter(own).map(str::to_owned).collect())
    }
}

/// A value as an option file takes it between double quotes.
fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"")
}

/// A text in a statement, in a form that no mode of the server reads otherwise.
pub fn text(value: &str) -> String {
    let hex = crate::maintain::backup::archive::hex(value.as_bytes());
    if hex.is_empty() { "''".to_owned() } else { format!("CONVERT(0x{hex} USING utf8mb4)") }
}

/// A name in a statement.
pub fn name(value: &str) -> String {
    format!("`{}`", value.replace('`', "``"))
}

/// Dumps one database into one file of the archive.
pub fn copy_one(
    making: &mut Making<'_, '_>,
    server: &Server,
    database: &str,
    to: &str,
) -> Result<(), BackupError> {
    let program = tool::first_of(&["mariadb-dump", "mysqldump"]);
    let mut command = server.command(&program, making.scratch)?;
    command.args([
        "--single-transaction",
        "--quick",
        "--triggers",
        "--hex-blob",
        "--no-tablespaces",
        "--skip-dump-date",
        "--default-character-set=utf8mb4",
        // one of the two tools knows these, and the other says so on stderr
        "--loose-set-gtid-purged=OFF",
        "--loose-column-statistics=0",
    ]);
    if making.record.name != "dora" {
        command.args(["--routines", "--events"]);
    }
    command.arg("--").arg(database);
    let path = making.scratch.path("dump.sql");
    let mut counting = MysqlDump::default();
    tool::dump(&program, &mut command, &path, &mut |bytes| counting.look(bytes))?;
    let rows = counting.end().ok_or_else(|| BackupError::Tool {
        program,
        detail: format!("the dump of {database} has no end: it was cut short"),
    })?;
    making.frame.add_file(to, &path)?.rows = rows;
    std::fs::remove_file(&path).map_err(|source| BackupError::write(&path, source))
}

/// Dumps the databases that are named, or all but the server's own.
pub fn copy_databases(
    making: &mut Making<'_, '_>,
    server: &Server,
    databases: &[String],
) -> Result<(), BackupError> {
    let all;
    let databases = if databases.is_empty() {
        making.note("users of the server and their rights are not in it");
        all = server.databases(making.scratch)?;
        &all
    } else {
        databases
    };
    for database in databases {
        let to = format!("{}/{}.sql", making.record.name, escaped(database.as_bytes()));
        copy_one(making, server, database, &to)?;
    }
    Ok(())
}
