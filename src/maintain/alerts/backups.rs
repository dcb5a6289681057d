//! When the last good backup was made, and when one was last restored in a drill.

use super::finding::Finding;
use super::host::last_done;
use crate::config::Config;
use crate::maintain::backup;

/// The rules of backups.
pub fn look(config: &Config, first_ms: i64, now_ms: i64) -> [Finding; 2] {
    let (alerts, dir) = (&config.alerts, &config.backup.dir);
    let done = |rule, what, done_ms, most| last_done(rule, what, done_ms, most, first_ms, now_ms);
    let (backup, drill) = match backup::latest(dir) {
        Ok(latest) => (Ok(latest.backup_ms), Ok(latest.drill_ms)),
        Err(error) => (Err(error.to_string()), Err(error.to_string())),
    };
    [
        done("backup", "verified backup", backup, alerts.backup_age),
        done("drill", "drill of a backup", drill, alerts.drill_age),
    ]
}
