//! `bitacora dora phase`: a phase that somebody else measured.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::{at, decision, duration, metadata, pair, phase_name, store};
use crate::cli::store::runtime;
use crate::config::{Config, Machine};
use crate::dora::events::{Decision, Phase, PhaseName, seconds_text};
use crate::dora::{json, pending};

/// Arguments of `bitacora dora phase`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cycle that it belongs to
    #[arg(long, value_name = "ID")]
    pub cycle: String,
    /// The feature that the cycle is for
    #[arg(long, value_name = "NAME")]
    pub feature: String,
    /// Which phase
    #[arg(long, value_parser = phase_name())]
    pub phase: PhaseName,
    /// How it ended
    #[arg(long, value_parser = decision())]
    pub decision: Decision,
    /// How long it took, in seconds with up to two decimals
    #[arg(long, value_name = "SECONDS", value_parser = duration)]
    pub duration: i64,
    /// A further fact; again for more. `service` and `team` are what reports filter by
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub metadata: Vec<(String, String)>,
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
    let phase = Phase {
        cycle_id: args.cycle.clone(),
        feature_id: args.feature.clone(),
        name: args.phase,
        decision: args.decision,
        duration_cs: args.duration,
        metadata: metadata(&args.metadata)?,
        created_ms: at(args.at.as_deref())?,
    };
    phase.check()?;
    if args.dry_run {
        writeln!(output, "would be recorded: {}", json::phase_json(&phase))?;
        return Ok(ExitCode::SUCCESS);
    }
    runtime()?.block_on(async {
        let store = store(&config).await?;
        // a time that was said is part of the key: the same command again is the same phase
        if args.at.is_some() {
            if store.add_phases(std::slice::from_ref(&phase)).await?.first() == Some(&true) {
                told(&mut output, &phase)?;
            } else {
                writeln!(output, "known already, and left as it is: {}", words(&phase))?;
            }
        } else {
            told(&mut output, &pending::record(&*store, phase).await?)?;
        }
        anyhow::Ok(ExitCode::SUCCESS)
    })
}

fn told(output: &mut impl Write, phase: &Phase) -> std::io::Result<()> {
    writeln!(output, "recorded: {}", words(phase))
}

fn words(phase: &Phase) -> String {
    format!(
        "{} of cycle {}, {}, {} s, at {}",
        phase.name.word(),
        phase.cycle_id,
        phase.decision.word(),
        seconds_text(phase.duration_cs),
        json::time_text(phase.created_ms)
    )
}
