//! When the last good backup was made, and when one was last restored in a drill.

use std::path::Path;

use super::finding::Finding;
use super::host::last_done;
use crate::config::Config;

/// The rules of backups.
pub fn look(config: &Config, first_ms: i64, now_ms: i64) -> [Finding; 2] {
    let (alerts, dir) = (&config.alerts, &config.backup.dir);
    let done = |rule, what, done_ms, most| last_done(rule, what, done_ms, most, first_ms, now_ms);
    let (backup, drill) = match latest(dir) {
        Ok((backup, drill)) => (Ok(backup), Ok(drill)),
        Err(error) => (Err(error.clone()), Err(error)),
    };
    [
        done("backup", "verified backup", backup, alerts.backup_age),
        done("drill", "drill of a backup", drill, alerts.drill_age),
    ]
}

/// When the newest verified archive was begun, and when one was last drilled.
fn latest(dir: &Path) -> Result<(Option<i64>, Option<i64>), String> {
    let refused = |error: std::io::Error| format!("cannot read {}: {error}", dir.display());
    let (mut backup, mut drill) = (None, None);
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((None, None)),
        entries => entries.map_err(refused)?,
    };
    for entry in entries {
        let entry = entry.map_err(refused)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let modified = entry.metadata().ok().and_then(|metadata| metadata.modified().ok());
        let ms = modified
            .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
            .and_then(|since| i64::try_from(since.as_millis()).ok());
        if name.ends_with(".verified.json") {
            backup = backup.max(ms);
        }
        if name.ends_with(".drilled.json") {
            drill = drill.max(ms);
        }
    }
    Ok((backup, drill))
}
