//! `bitacora state`: what this machine remembers, and how to make it again.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::store::runtime;
use crate::config::{Config, Machine};
use crate::daemon::wall_ms;
use crate::sources::file::{KnownOrigin, TailState};
use crate::state::State;
use crate::stores::open;

const AFTER_HELP: &str = "\
`show` works beside the running daemon. `rebuild` needs it stopped: it fills a state that is new,
or was lost, from what the store knows of this machine, so that reading goes on where it was and
no row is written twice. The daemon does the same by itself when it finds no state.";

/// Arguments of `bitacora state`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with the state.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List the files that this machine knows, and how far each is stored
    Show {
        /// Answer as one JSON object a file
        #[arg(long)]
        json: bool,
    },
    /// Fill the state from the store
    Rebuild {
        /// Say what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Shows or rebuilds.
///
/// # Errors
///
/// The configuration is wrong, the state is in use, or the store cannot be read.
pub fn run(args: &Args, path: &Path, output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(path, &Machine::here())?;
    match &args.action {
        Action::Show { json } => show(&config, *json, output),
        Action::Rebuild { dry_run } => rebuild(&config, *dry_run, output),
    }
}

fn show(config: &Config, as_json: bool, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let state = State::look(&config.daemon.state_dir)?;
    let mut origins = state.origins()?;
    origins.sort_by(|a, b| (&a.path, a.record.born_ms).cmp(&(&b.path, b.record.born_ms)));
    for origin in &origins {
        if as_json {
            writeln!(output, "{}", object(origin))?;
        } else {
            writeln!(
                output,
                "{:<20} {:>14} {:<9} {}",
                origin.record.id,
                origin.end,
                word(origin),
                origin.path.display()
            )?;
        }
    }
    if !as_json {
        writeln!(output, "{} origins on machine {}", origins.len(), state.machine())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn word(origin: &KnownOrigin) -> &'static str {
    match (origin.retired, origin.finished) {
        (true, _) => "retired",
        (_, true) => "finished",
        _ => "followed",
    }
}

fn object(origin: &KnownOrigin) -> serde_json::Value {
    json!({
        "origin": origin.record.id,
        "path": origin.path.to_string_lossy(),
        "first_path": origin.record.path.to_string_lossy(),
        "first_offset": origin.record.first_offset,
        "end_bytes": origin.end,
        "reach_bytes": origin.reach,
        "state": word(origin),
        "born_ms": origin.record.born_ms,
    })
}

fn rebuild(config: &Config, dry_run: bool, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let store = open::writer(&config.store)?;
        let state = State::open(&config.daemon.state_dir, wall_ms())?;
        if let Some(recovered) = state.recovered() {
            writeln!(output, "{recovered}")?;
        }
        store.check().await?;
        let stored = store.origins(Some(state.machine())).await?;
        if dry_run {
            writeln!(
                output,
                "the store knows {} origins of machine {}; nothing was changed",
                stored.len(),
                state.machine()
            )?;
        } else {
            let new = tokio::task::block_in_place(|| state.rebuild(&stored))?;
            writeln!(output, "{new} of {} origins were new to this state", stored.len())?;
        }
        store.close().await?;
        anyhow::Ok(ExitCode::SUCCESS)
    })
}
