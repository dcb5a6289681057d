//! `bitacora dora explain`: the events behind a figure.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::words::{self, DAYS_MAX, Which};
use super::{now_ms, store};
use crate::cli::exit;
use crate::cli::store::runtime;
use crate::config::{Config, Machine};
use crate::dora::explain::{self, Explained};
use crate::dora::figures::{Evidence, Metric, Unit};
use crate::dora::json::time_text;
use crate::query::output::escape;

const AFTER_HELP: &str = "\
METRIC is deployment_frequency, lead_time, change_failure_rate, recovery_time or rework_rate.
Events that do not count are listed with the reason.

Exits with 0, or 1 if there are no events, 69 if the database does not answer.";

/// Arguments of `bitacora dora explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Which figure
    #[arg(value_parser = words::metric)]
    pub metric: Metric,
    /// So many days back from now
    #[arg(long, value_name = "N", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    pub days: u32,
    /// Which deliveries
    #[command(flatten)]
    pub which: Which,
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Explains.
///
/// # Errors
///
/// The configuration is wrong, or the database cannot be used.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    let explained = runtime()?.block_on(async {
        let store = store(&config).await?;
        let scope = args.which.scope();
        anyhow::Ok(explain::explain(&*store, args.metric, &scope, args.days, now_ms()).await?)
    })?;
    if args.json {
        writeln!(output, "{}", serde_json::to_string(&explained)?)?;
    } else {
        write_text(&explained, &mut output)?;
    }
    let found = !explained.events.is_empty();
    Ok(ExitCode::from(if found { exit::DONE } else { exit::NOT_CLEAN }))
}

fn write_text(explained: &Explained, output: &mut impl Write) -> std::io::Result<()> {
    for event in &explained.events {
        let at = time_text(event.at_ms);
        let service = if event.service.is_empty() { "-" } else { &event.service };
        let line = format!(
            "{at}  {:<12} {service:<16} {:<24} {}",
            counts(explained.figure.unit, event),
            event.deployment,
            event.detail
        );
        writeln!(output, "{}", escape::line(line.trim_end()))?;
    }
    let figure = &explained.figure;
    let only = if figure.enough || figure.value.is_none() { "" } else { "only " };
    writeln!(
        output,
        "{}: {}, from {only}{}",
        figure.metric.name(),
        words::figure(figure),
        words::events(figure)
    )
}

fn counts(unit: Unit, event: &Evidence) -> String {
    match (event.value, unit) {
        (None, _) => "-".to_owned(),
        (Some(value), Unit::Seconds) => words::duration(value),
        (Some(value), _) => if value > 0.0 { "counts" } else { "does not" }.to_owned(),
    }
}
