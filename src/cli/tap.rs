//! `bitacora tap`: what clients send to the socket, as it comes.

use std::io::{BufRead, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::exit;
use crate::config::{Config, Machine};
use crate::daemon::control::{self, Request};

const AFTER_HELP: &str = "\
Shows each record as its client wrote it, before it is parsed and stored; `bitacora logs -f` shows
rows. Only root and the daemon's user may ask. A tap that is too slow misses records, and says
how many; the daemon and its clients never wait for it.";

/// Arguments of `bitacora tap`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// End after so many records
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<u64>,
    /// One JSON object a record: {"record": "..."}
    #[arg(long)]
    pub json: bool,
}

/// Shows records until the reader has gone, or the daemon.
///
/// # Errors
///
/// The configuration is wrong, or no daemon answers.
pub fn run(args: &Args, path: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(path, &Machine::here())?;
    let answers = control::listen_to(&config.daemon.control, Request::Tap)?;
    let mut shown = 0;
    for line in answers.lines() {
        let line = line?;
        let told: Value = serde_json::from_str(&line)?;
        if let Some(error) = told.get("error").and_then(Value::as_str) {
            eprintln!("the daemon refuses: {error}");
            return Ok(ExitCode::from(exit::CONFIGURATION));
        }
        if let Some(missed) = told.get("missed") {
            eprintln!("-- {missed} records were missed: this reader is too slow");
            continue;
        }
        let record = told.get("record").and_then(Value::as_str).unwrap_or_default();
        let written = writeln!(output, "{}", if args.json { &line } else { record });
        match written.and_then(|()| output.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            written => written?,
        }
        shown += 1;
        if args.lines.is_some_and(|lines| shown >= lines) {
            return Ok(ExitCode::SUCCESS);
        }
    }
    eprintln!("-- the daemon has gone");
    Ok(ExitCode::from(exit::UNAVAILABLE))
}
