//! `bitacora dora complete`: how a cycle ended.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::{at, store_for};
use crate::cli::exit;
use crate::cli::store::runtime;
use crate::config::{Config, Machine};
use crate::dora::cycles::{Completion, complete};
use crate::dora::events::{Decision, seconds_text};
use crate::dora::json;

/// Arguments of `bitacora dora complete`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cycle
    #[arg(value_name = "CYCLE")]
    pub cycle: String,
    /// How it ended
    #[arg(value_parser = ["success", "failed"])]
    pub result: String,
    /// When it ended, as `bitacora logs --since` takes it; now by default
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub at: Option<String>,
    /// Say what would be recorded, and record nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Records it.
///
/// # Errors
///
/// A value cannot be, or the database cannot be used.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    let decision = if args.result == "success" { Decision::Success } else { Decision::Failed };
    let at_ms = at(args.at.as_deref())?;
    runtime()?.block_on(async {
        let store = store_for(&config, args.dry_run).await?;
        let not_clean = ExitCode::from(exit::NOT_CLEAN);
        match complete(&*store, &args.cycle, decision, at_ms, args.dry_run).await? {
            Completion::Unknown => {
                eprintln!("there is no phase of cycle {}", args.cycle);
                Ok(not_clean)
            }
            Completion::Known(phase) if phase.decision == decision => {
                writeln!(output, "cycle {} is completed already", args.cycle)?;
                Ok(ExitCode::SUCCESS)
            }
            Completion::Known(phase) => {
                eprintln!(
                    "cycle {} was completed as {} at {}; that stays",
                    args.cycle,
                    phase.decision.word(),
                    json::time_text(phase.created_ms)
                );
                Ok(not_clean)
            }
            Completion::New { phase, took_cs } if args.dry_run => {
                let took = seconds_text(took_cs);
                writeln!(
                    output,
                    "would be recorded, {took} s after its start: {}",
                    json::phase_json(&phase)
                )?;
                Ok(ExitCode::SUCCESS)
            }
            Completion::New { took_cs, .. } => {
                writeln!(
                    output,
                    "cycle {} is completed: {}, {} s after its start",
                    args.cycle,
                    args.result,
                    seconds_text(took_cs)
                )?;
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}
