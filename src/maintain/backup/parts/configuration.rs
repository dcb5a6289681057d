//! Part `config`: the configuration's files, without anything that could be a secret.

use std::fs;
use std::path::{Path, PathBuf};

use super::Making;
use crate::config::Config;
use crate::maintain::backup::BackupError;
use crate::maintain::backup::archive::seconds_of;
use crate::maintain::backup::masks;
use crate::maintain::backup::names::escaped;

/// Where the packages keep secrets.
const CREDENTIALS: &str = "/etc/bitacora/credentials";

/// Copies the file and `conf.d/*.toml` beside it. The configuration names files of secrets and
/// holds none; whatever looks like one all the same, also in a comment, is masked.
pub fn copy(making: &mut Making<'_, '_>, path: &Path) -> Result<(), BackupError> {
    let folder = path.parent().unwrap_or(Path::new(".")).join("conf.d");
    let mut more: Vec<PathBuf> = fs::read_dir(&folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    more.retain(|file| {
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        !hidden && file.extension().is_some_and(|ending| ending == "toml")
    });
    more.sort();
    one(making, path, "config")?;
    for file in more {
        one(making, &file, "config/conf.d")?;
    }
    Ok(())
}

fn one(making: &mut Making<'_, '_>, path: &Path, folder: &str) -> Result<(), BackupError> {
    let failed = |source| BackupError::read(path, source);
    let text = String::from_utf8_lossy(&fs::read(path).map_err(failed)?).into_owned();
    let seconds = seconds_of(&fs::metadata(path).map_err(failed)?);
    let (masked, times) = masks::mask(&text);
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let name = format!("{folder}/{}", escaped(name));
    making.frame.add(&name, &mut masked.as_bytes(), masked.len() as u64, seconds)?;
    if times > 0 {
        making.note(format!("{name}: {times} values that look like secrets are masked"));
    }
    Ok(())
}

/// The files of secrets that the configuration names, and those that lie with them by custom.
pub fn secrets(config: &Config) -> Vec<PathBuf> {
    let cassandra = &config.store.cassandra;
    let mut all: Vec<Option<PathBuf>> = vec![
        cassandra.password_file.clone(),
        cassandra.tls.as_ref().and_then(|tls| tls.key_file.clone()),
        config.dora.mysql.as_ref().and_then(|server| server.password_file.clone()),
        config.alerts.slack.as_ref().map(|slack| slack.webhook_file.clone()),
        config.alerts.email.as_ref().and_then(|email| email.password_file.clone()),
    ];
    all.extend(config.backup.databases.iter().map(|database| database.password_file.clone()));
    let customary = fs::read_dir(CREDENTIALS).into_iter().flatten().flatten();
    all.into_iter().flatten().chain(customary.map(|entry| entry.path())).collect()
}
