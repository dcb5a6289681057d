//! `bitacora reload`: the running daemon takes the changed configuration, or says why not.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::exit;
use crate::config::{Config, Machine};
use crate::daemon::control::{self, Request};

/// Longest wait for the daemon.
const WAIT: Duration = Duration::from_secs(30);

const AFTER_HELP: &str = "\
Sources, formats and their rules change at once, without losing a line: what has been read stays
as it is, and the first line after it is read by the new rules. [store] and [daemon] need a
restart; the answer says so. A configuration that is wrong is refused, and the old one goes on.

With --dry-run the configuration is only checked.";

/// Arguments of `bitacora reload`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Check the configuration and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Asks the daemon.
///
/// # Errors
///
/// The configuration is wrong, or no daemon answers.
pub fn run(args: &Args, path: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(path, &Machine::here())?;
    if args.dry_run {
        writeln!(output, "{} is right; nothing was changed", path.display())?;
        return Ok(ExitCode::SUCCESS);
    }
    let answer = control::ask(&config.daemon.control, Request::Reload, WAIT)?;
    let answer: Value = serde_json::from_str(&answer)?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        eprintln!("the daemon refuses: {error}");
        return Ok(ExitCode::from(exit::CONFIGURATION));
    }
    writeln!(output, "reloaded: {} sources", config.files.len())?;
    for note in answer.get("notes").and_then(Value::as_array).into_iter().flatten() {
        writeln!(output, "{}", note.as_str().unwrap_or_default())?;
    }
    Ok(ExitCode::SUCCESS)
}
