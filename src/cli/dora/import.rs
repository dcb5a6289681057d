//! `bitacora dora import`: what earlier tools wrote.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use jiff::tz::TimeZone;

use super::{store_for, usage};
use crate::cli::exit;
use crate::cli::store::runtime;
use crate::config::{Config, Machine};
use crate::dora::import::{ImportError, Outcome, read, record};
use crate::query::output::escape;

/// A file of years has a few megabytes, and takes ten times as much memory.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

const AFTER_HELP: &str = "\
The file is .dora_sdlc_metrics.json: {\"cycles\":[{\"cycle_id\",\"feature_id\",\"phases\":[{\"phase\",
\"decision\",\"duration_seconds\",\"timestamp\",\"metadata\"}]}]}. It may be imported again: what is
there stays as it is. Entries that are wrong are told with their place, and the others are taken.

Exits with 0 if every entry was taken or known, 1 if some were refused.";

/// Arguments of `bitacora dora import`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The file; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The zone of times that name none
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub timezone: String,
    /// Say what would be taken, and take nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Imports it.
///
/// # Errors
///
/// The file cannot be read or is something else, or the database cannot be used.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    let zone = match args.timezone.as_str() {
        "UTC" => TimeZone::UTC,
        "local" => TimeZone::system(),
        name => {
            TimeZone::get(name).map_err(|error| usage(format!("--timezone {name:?}: {error}")))?
        }
    };
    let place = || format!("cannot import {}", args.file.display());
    let text = text(&args.file).with_context(place)?;
    let document = match read(&text, &zone) {
        Ok(document) => document,
        Err(error @ ImportError::Database(_)) => return Err(error.into()),
        Err(error) => {
            eprintln!("bitacora: {}: {error}", place());
            return Ok(ExitCode::from(exit::NOT_CLEAN));
        }
    };
    let outcome = runtime()?.block_on(async {
        let store = store_for(&config, args.dry_run).await?;
        anyhow::Ok(record(&*store, document, args.dry_run).await?)
    })?;
    if args.json {
        writeln!(output, "{}", serde_json::to_string(&outcome)?)?;
    } else {
        tell(&outcome, &mut output)?;
    }
    let clean = outcome.refused.is_empty();
    Ok(ExitCode::from(if clean { exit::DONE } else { exit::NOT_CLEAN }))
}

fn text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut read: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(fs::File::open(file)?)
    };
    (&mut read).take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    if read.read(&mut [0])? > 0 {
        let most = FILE_BYTES_MAX >> 20;
        let message = format!("it is longer than {most} MiB; import it in several files");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

fn tell(outcome: &Outcome, output: &mut impl Write) -> std::io::Result<()> {
    for refused in &outcome.refused {
        let reason = escape::line(&refused.reason);
        writeln!(output, "refused {}: {reason}", escape::line(&refused.path))?;
    }
    for (key, count) in &outcome.ignored {
        writeln!(output, "not taken {} ({count} times)", escape::line(key))?;
    }
    let would = if outcome.dry_run { "would be " } else { "" };
    writeln!(
        output,
        "{} cycles: {} phases {would}recorded, {} known already, {} refused",
        outcome.cycles,
        outcome.recorded,
        outcome.known,
        outcome.refused.len()
    )
}
