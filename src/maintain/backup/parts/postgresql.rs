//! `PostgreSQL`: `pg_dump` in its own form for each database that is named, else `pg_dumpall`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use super::counting::CopyLines;
use super::{Making, SCRATCH, tool};
use crate::config::Database;
use crate::maintain::backup::BackupError;
use crate::maintain::backup::names::{Scratch, escaped};

/// A tool of `PostgreSQL` that reaches the server. It asks for no password: that is in a file
/// which only this user may read.
pub fn command(
    program: &str,
    server: &Database,
    scratch: &Scratch,
) -> Result<Command, BackupError> {
    let mut command = Command::new(program);
    command.arg("--no-password");
    for (option, value) in [("--host", &server.host), ("--username", &server.username)] {
        if !value.is_empty() {
            command.arg(format!("{option}={value}"));
        }
    }
    if server.port != 0 {
        command.arg(format!("--port={}", server.port));
    }
    if let Some(file) = &server.password_file {
        let password = crate::secret::read(file);
        let password = password.map_err(|error| BackupError::Source(error.to_string()))?;
        let path = scratch.path("pgpass");
        let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
        tool::private_file(&path, &format!("*:*:*:*:{escaped}\n"))?;
        command.env("PGPASSFILE", path);
    }
    Ok(command)
}

/// Asks a database; answers lines with `|` between columns.
pub fn ask(
    server: &Database,
    scratch: &Scratch,
    database: &str,
    statement: &str,
) -> Result<String, BackupError> {
    let mut command = command("psql", server, scratch)?;
    command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--dbname", database]);
    command.args(["--set=ON_ERROR_STOP=1", "--command", statement]);
    tool::ask("psql", &mut command)
}

/// Dumps what is asked for.
pub fn copy(making: &mut Making<'_, '_>, server: &Database) -> Result<(), BackupError> {
    if server.databases.is_empty() {
        let path = making.scratch.path("all.sql");
        let mut command = command("pg_dumpall", server, making.scratch)?;
        // those that a killed drill has left
        command.arg(format!("--exclude-database={SCRATCH}*"));
        let mut counting = CopyLines::default();
        tool::dump("pg_dumpall", &mut command, &path, &mut |bytes| counting.look(bytes))?;
        making.frame.add_file(&format!("{}/all.sql", server.name), &path)?.rows = counting.end();
        return Ok(());
    }
    for database in &server.databases {
        let path = making.scratch.path("dump");
        let mut command = command("pg_dump", server, making.scratch)?;
        command.args(["--format=custom", "--dbname", database]);
        tool::dump("pg_dump", &mut command, &path, &mut |_| ())?;
        let rows = rows(&path)?;
        let to = format!("{}/{}.dump", server.name, escaped(database.as_bytes()));
        making.frame.add_file(&to, &path)?.rows = rows;
        std::fs::remove_file(&path).map_err(|source| BackupError::write(&path, source))?;
    }
    Ok(())
}

/// Reads a dump as `pg_restore` would, which shows that it can, and counts its rows.
fn rows(dump: &Path) -> Result<BTreeMap<String, u64>, BackupError> {
    let mut command = Command::new("pg_restore");
    command.args(["--data-only", "--file=-"]).arg(dump);
    let mut counting = CopyLines::default();
    tool::read("pg_restore", &mut command, &mut |bytes| {
        counting.look(bytes);
        Ok(())
    })?;
    Ok(counting.end())
}
