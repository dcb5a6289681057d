//! `bitacora dora trace`: a cycle across both layers.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::store;
use crate::cli::exit;
use crate::cli::store::{open_reader, runtime};
use crate::cli::whose::id_of;
use crate::config::{Config, Machine};
use crate::dora::events::{Deployment, Phase, seconds_text};
use crate::dora::json::time_text;
use crate::dora::trace::{self, Cycle, Logged, request_of};
use crate::query::output::escape;
use crate::stores::StoredRow;

/// Arguments of `bitacora dora trace`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cycle
    #[arg(value_name = "CYCLE")]
    pub cycle: String,
    /// At most so many rows of the log for each request
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000)]
    pub lines: usize,
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Shows it. If the log store cannot be asked, the rest is shown all the same.
///
/// # Errors
///
/// The database or the log store cannot be used.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    runtime()?.block_on(async {
        let store = store(&config).await?;
        let cycle = trace::cycle(&*store, &args.cycle).await?;
        if cycle.phases.is_empty() && cycle.deployments.is_empty() {
            eprintln!("nothing is recorded of cycle {}", args.cycle);
            return Ok(ExitCode::from(exit::NOT_CLEAN));
        }
        let asks = cycle.phases.iter().any(|phase| request_of(phase).is_some());
        let logged = if asks {
            match open_reader(&config) {
                Ok(reader) => trace::logged(&*reader, &cycle, args.lines, id_of).await,
                Err(error) => Err(error),
            }
        } else {
            Ok(BTreeMap::new())
        };
        if args.json {
            writeln!(output, "{}", trace::as_json(&cycle, logged.as_ref().ok()))?;
        } else {
            tell(&cycle, logged.as_ref().ok(), &mut output)?;
        }
        // the metrics are shown; that the logs could not be asked is this command's end
        logged?;
        anyhow::Ok(ExitCode::SUCCESS)
    })
}

fn tell(
    cycle: &Cycle,
    logged: Option<&BTreeMap<String, Logged>>,
    output: &mut impl Write,
) -> std::io::Result<()> {
    let mut shown: Vec<&str> = Vec::new();
    for phase in &cycle.phases {
        phase_line(phase, output)?;
        let (Some(request), Some(logged)) = (request_of(phase), logged) else { continue };
        let Some(found) = logged.get(request) else { continue };
        if shown.contains(&request) {
            writeln!(output, "    the rows of this request stand above")?;
            continue;
        }
        shown.push(request);
        for row in &found.rows {
            row_line(row, output)?;
        }
        match (found.rows.is_empty(), found.cut) {
            (true, false) => writeln!(output, "    no row of an application has this request")?,
            (_, true) => writeln!(output, "    and more: bitacora logs --request-id {request}")?,
            _ => {}
        }
    }
    cycle.deployments.iter().try_for_each(|one| deployment_line(one, output))
}

fn phase_line(phase: &Phase, output: &mut impl Write) -> std::io::Result<()> {
    write!(
        output,
        "{} {:<11} {:<7} {:>9} s  feature {}",
        time_text(phase.created_ms),
        phase.name.word(),
        phase.decision.word(),
        seconds_text(phase.duration_cs),
        escape::line(&phase.feature_id)
    )?;
    for (key, value) in &phase.metadata {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        write!(output, "  {}={}", escape::line(key), escape::line(&value))?;
    }
    writeln!(output)
}

fn row_line(row: &StoredRow, output: &mut impl Write) -> std::io::Result<()> {
    writeln!(
        output,
        "    {} {:<8} {} {}: {}",
        time_text(row.key.timestamp_ms),
        row.level,
        escape::line(&row.host),
        escape::line(&row.source),
        escape::line(&row.message)
    )
}

fn deployment_line(one: &Deployment, output: &mut impl Write) -> std::io::Result<()> {
    let result = if one.succeeded { "success" } else { "failed" };
    let rework = if one.rework { "  rework" } else { "" };
    writeln!(
        output,
        "{} deployed    {result:<7} {} {} {} with {} changes{rework}",
        time_text(one.deployed_ms),
        escape::line(&one.id),
        escape::line(&one.service),
        escape::line(&one.version),
        one.changes.len()
    )
}
