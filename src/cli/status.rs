//! `bitacora status`: how the running daemon does, on one screen.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::exit;
use crate::config::units::show_bytes;
use crate::config::{Config, Machine};
use crate::daemon::control::{self, Request};
use crate::daemon::status::{SourceStatus, Status};
use crate::daemon::wall_ms;

/// Longest wait for the daemon.
const WAIT: Duration = Duration::from_secs(10);

const AFTER_HELP: &str = "\
Exits with 0 if the daemon is ready and its store answers, 1 if something is wrong, 69 if no
daemon answers.

Columns: files (open ones in brackets), rows and bytes committed since the start, bytes read and
not committed (pending), bytes on disk and not read (backlog), age of the oldest byte that is not
stored (lag), and until when the source is complete in the store.";

/// Arguments of `bitacora status`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Asks the daemon and tells.
///
/// # Errors
///
/// The configuration is wrong, or no daemon answers.
pub fn run(args: &Args, path: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(path, &Machine::here())?;
    let answer = control::ask(&config.daemon.control, Request::Status, WAIT)?;
    let status: Status = serde_json::from_str(&answer)?;
    if args.json {
        output.write_all(answer.as_bytes())?;
    } else {
        show(&status, wall_ms(), &mut output)?;
    }
    let well = status.ready && status.store.up && status.problem.is_none();
    Ok(ExitCode::from(if well { exit::DONE } else { exit::NOT_CLEAN }))
}

fn show(status: &Status, now_ms: i64, output: &mut impl Write) -> std::io::Result<()> {
    let up = ago(now_ms - status.started_ms);
    writeln!(
        output,
        "bitacora {} on {}, pid {}, up {up}",
        status.version, status.host, status.pid
    )?;
    let store = match (&status.store.problem, status.store.up) {
        (_, true) => "takes rows".to_owned(),
        (Some(problem), false) => format!("does not take rows: {problem}"),
        (None, false) => "does not take rows".to_owned(),
    };
    writeln!(output, "store {}: {store}", status.store.kind)?;
    if status.store.dead_letters > 0 {
        let letters = status.store.dead_letters;
        writeln!(output, "{letters} rows were refused for good: see `bitacora dead-letters ls`")?;
    }
    if let Some(problem) = &status.problem {
        writeln!(output, "not well: {problem}")?;
    }
    writeln!(
        output,
        "\n{:<24} {:>10} {:>12} {:>10} {:>10} {:>10} {:>8}  complete until",
        "source", "files", "rows", "stored", "pending", "backlog", "lag"
    )?;
    for source in &status.sources {
        line(source, output)?;
    }
    Ok(())
}

fn line(source: &SourceStatus, output: &mut impl Write) -> std::io::Result<()> {
    let until = source.complete_until_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let until = until.map_or_else(
        || "not yet".to_owned(),
        |at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%F %T").to_string(),
    );
    writeln!(
        output,
        "{:<24} {:>10} {:>12} {:>10} {:>10} {:>10} {:>7.1}s  {until}",
        source.source,
        format!("{} ({})", source.files, source.open_files),
        source.rows,
        about(source.stored_bytes),
        about(source.pending_bytes),
        about(source.backlog_bytes),
        source.lag_seconds,
    )?;
    if source.loss_receipts > 0 {
        let losses = source.loss_receipts;
        writeln!(output, "  {losses} losses since the start: `bitacora audit` lists them")?;
    }
    if source.unaccounted_bytes > 0 {
        let bytes = source.unaccounted_bytes;
        writeln!(
            output,
            "  {bytes} bytes are unaccounted for: a fault in bitacora, please report it"
        )?;
    }
    for waiting in &source.waiting {
        writeln!(output, "  {waiting}")?;
    }
    Ok(())
}

/// A size with three digits at most, for a column.
fn about(bytes: u64) -> String {
    const STEPS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match STEPS.into_iter().find(|(step, _)| bytes >= *step) {
        Some((step, unit)) => format!("{}.{}{unit}", bytes / step, bytes % step * 10 / step),
        None => show_bytes(bytes),
    }
}

fn ago(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fit_their_column() {
        assert_eq!(about((1 << 20) + (1 << 19)), "1.5MiB");
        assert_eq!(about(1023), show_bytes(1023));
    }

    #[test]
    fn a_time_that_is_long_is_told_shortly() {
        assert_eq!(ago(59_000), "59 s");
        assert_eq!(ago(90_000_000), "1 d 1 h");
    }
}
