//! `bitacora run`: the daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::config::{Config, Machine};
use crate::maintain::backup;
use crate::metrics::{BackupMetrics, as_f64};
use crate::{daemon, telemetry};

/// Starts the daemon and stays with it until it ends.
///
/// # Errors
///
/// The configuration is wrong, the state is held by another instance, or the machine refuses.
pub fn run(path: &Path) -> anyhow::Result<ExitCode> {
    few_arenas();
    telemetry::start();
    end_on_panic();
    let config = load(path)?;
    telemetry::set_level(&config.daemon.log);
    let again: PathBuf = path.to_owned();
    let backups = config.backup.dir.clone();
    let reload = Box::new(move || load(&again).map_err(|error| format!("{error:#}")));
    daemon::run(config, reload, Box::new(move || tell_backups(&backups)))
        .context("bitacora run")?;
    Ok(ExitCode::SUCCESS)
}

/// Two arenas of glibc's allocator serve all threads: each further one keeps some MiB that were
/// freed. Whoever sets `MALLOC_ARENA_MAX` decides.
#[allow(unsafe_code, reason = "glibc can be told by the environment of the start or by this alone")]
fn few_arenas() {
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // SAFETY: it sets a number of the allocator, before any other thread is started.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 2);
        }
    }
}

/// Metrics of the sidecar's archives. A directory that cannot be read is told by the alerts.
fn tell_backups(dir: &Path) {
    let metrics = BackupMetrics::new();
    if let Ok(latest) = backup::latest(dir) {
        let seconds = |ms: Option<i64>| as_f64(ms.unwrap_or(0).unsigned_abs()) / 1000.0;
        metrics.last_success.set(seconds(latest.backup_ms));
        metrics.last_drill.set(seconds(latest.drill_ms));
    }
}

fn load(path: &Path) -> anyhow::Result<Config> {
    let config = Config::load(path, &Machine::here())?;
    for notice in &config.later {
        tracing::warn!("{notice}");
    }
    let socket = &config.socket;
    if config.files.is_empty() && socket.stream.is_none() && socket.dgram.is_none() {
        tracing::warn!("{} names no files and no socket: there is nothing to read", path.display());
    }
    Ok(config)
}

/// A panic of any thread ends the process: systemd starts it again, and it reads again what was
/// not acknowledged. A daemon that has lost a part of itself is worse than a restart.
fn end_on_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        say(info);
        std::process::exit(i32::from(super::exit::INTERNAL));
    }));
}
