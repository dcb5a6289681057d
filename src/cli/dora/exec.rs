//! `bitacora dora exec`: a command as a phase.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;
use uuid::Uuid;

use super::{metadata, now_ms, pair, phase_name, store};
use crate::cli::store::runtime;
use crate::config::{Config, Machine};
use crate::dora::events::{Decision, Phase, PhaseName};
use crate::dora::exec::{self, End, Ended};
use crate::dora::{json, pending};

const AFTER_HELP: &str = "\
The command has BITACORA_REQUEST_ID in its environment; an application that logs it as request_id
is found by `bitacora dora trace`. Of the command only its name is recorded: arguments may hold
secrets.

Signals that are sent to bitacora go on to the command. It ends with the command's code, or by the
signal that ended the command; 127 if there is no such command. If the database does not answer,
that is said, the phase waits in the state directory, and the next dora command records it.

Example:
  bitacora dora exec --cycle C7 --feature login --phase testing -- make test";

/// Arguments of `bitacora dora exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The cycle that it belongs to
    #[arg(long, value_name = "ID")]
    pub cycle: String,
    /// The feature that the cycle is for; by default as in the cycle's phase before
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub feature: String,
    /// Which phase
    #[arg(long, value_parser = phase_name())]
    pub phase: PhaseName,
    /// A further fact; again for more. `service` and `team` are what reports filter by
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub metadata: Vec<(String, String)>,
    /// Say what would be run and recorded, and do neither
    #[arg(long)]
    pub dry_run: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Runs the command and records it, whatever became of it.
///
/// # Errors
///
/// The configuration or a value is wrong: then nothing is run.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    let request_id = Uuid::new_v4().to_string();
    let mut phase = draft(args, &request_id)?;
    if args.dry_run {
        let command: Vec<_> = args.command.iter().map(|word| word.to_string_lossy()).collect();
        let command = command.join(" ");
        writeln!(
            output,
            "would be run: {command}\nwould be recorded: {}",
            json::phase_json(&phase)
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let ended = exec::run(&args.command, &request_id)?;
    measured(&mut phase, ended);
    record(&config, &phase);
    Ok(match ended.end {
        End::Code(code) => ExitCode::from(code),
        End::Signal(signal) => {
            exec::die_of(signal);
            // as a shell says it
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
        }
    })
}

/// The phase before its command is run, checked: afterwards it would be too late.
fn draft(args: &Args, request_id: &str) -> anyhow::Result<Phase> {
    let mut metadata = metadata(&args.metadata)?;
    let program = args.command.first().map(Path::new).and_then(Path::file_name);
    let program = program.unwrap_or_default().to_string_lossy().into_owned();
    for (key, value) in [("request_id", request_id), ("command", program.as_str())] {
        if metadata.insert(key.to_owned(), Value::from(value)).is_some() {
            return Err(super::usage(format!("--metadata {key}=… is set by exec itself")));
        }
    }
    let phase = Phase {
        cycle_id: args.cycle.clone(),
        feature_id: args.feature.clone(),
        name: args.phase,
        decision: Decision::Failed,
        duration_cs: 0,
        metadata,
        created_ms: now_ms(),
    };
    let feature_id = if phase.feature_id.is_empty() { "later" } else { &phase.feature_id };
    Phase { feature_id: feature_id.to_owned(), ..phase.clone() }.check()?;
    Ok(phase)
}

fn measured(phase: &mut Phase, ended: Ended) {
    phase.duration_cs = ended.hundredths();
    phase.created_ms = now_ms();
    let (key, value) = match ended.end {
        End::Code(code) => ("exit_code", Value::from(code)),
        End::Signal(signal) => ("signal", Value::from(signal)),
    };
    if ended.end == End::Code(0) {
        phase.decision = Decision::Success;
    }
    phase.metadata.insert(key.to_owned(), value);
}

/// The command's result counts, whatever becomes of this.
fn record(config: &Config, phase: &Phase) {
    let recorded = runtime().map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let store = store(config).await?;
            pending::record(&*store, phase.clone()).await?;
            Ok(())
        })
    });
    let Err(error) = recorded else { return };
    eprintln!("bitacora: the phase is not recorded: {error:#}");
    match pending::keep(&config.daemon.state_dir, phase) {
        Ok(path) => {
            eprintln!("bitacora: it waits in {}; the next dora command records it", path.display());
        }
        Err(error) => eprintln!(
            "bitacora: nor can it wait in {}: {error}; what is lost: {}",
            config.daemon.state_dir.display(),
            json::phase_json(phase)
        ),
    }
}
