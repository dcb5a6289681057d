//! `MongoDB`: `mongodump` as one stream for each database that is named, or for all.

use std::process::Command;

use super::{Making, tool};
use crate::config::Database;
use crate::maintain::backup::BackupError;
use crate::maintain::backup::names::{Scratch, escaped};

/// A tool of `MongoDB` that reaches the server, with the password in a file for this user alone.
pub fn command(
    program: &str,
    server: &Database,
    scratch: &Scratch,
) -> Result<Command, BackupError> {
    let mut command = Command::new(program);
    if !server.host.is_empty() {
        command.arg(format!("--host={}", server.host));
    }
    if server.port != 0 {
        command.arg(format!("--port={}", server.port));
    }
    if !server.username.is_empty() {
        command.arg(format!("--username={}", server.username));
        command.arg("--authenticationDatabase=admin");
    }
    if let Some(file) = &server.password_file {
        let password = crate::secret::read(file);
        let password = password.map_err(|error| BackupError::Source(error.to_string()))?;
        let path = scratch.path("mongo.yaml");
        // a JSON text is a YAML text
        let text = serde_json::Value::String(password);
        tool::private_file(&path, &format!("password: {text}\n"))?;
        command.arg("--config").arg(path);
    }
    Ok(command)
}

/// Dumps what is asked for.
pub fn copy(making: &mut Making<'_, '_>, server: &Database) -> Result<(), BackupError> {
    if server.databases.is_empty() {
        return one(making, server, None);
    }
    server.databases.iter().try_for_each(|database| one(making, server, Some(database)))
}

fn one(
    making: &mut Making<'_, '_>,
    server: &Database,
    database: Option<&str>,
) -> Result<(), BackupError> {
    let mut command = command("mongodump", server, making.scratch)?;
    command.args(["--archive", "--quiet"]);
    if let Some(database) = database {
        command.arg(format!("--db={database}"));
    }
    let path = making.scratch.path("dump");
    tool::dump("mongodump", &mut command, &path, &mut |_| ())?;
    let name = database.map_or_else(|| "all".to_owned(), |name| escaped(name.as_bytes()));
    making.frame.add_file(&format!("{}/{name}.archive", server.name), &path)?;
    std::fs::remove_file(&path).map_err(|source| BackupError::write(&path, source))
}
