//! `bitacora dora`: delivery metrics, from CI, on-call and people.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::Zoned;
use serde_json::{Map, Value};

use super::exit::Refusal;
use crate::config::Config;
use crate::dora::events::{Decision, PhaseName, hundredths};
use crate::dora::{DoraStore, open, pending};
use crate::query::time;

mod complete;
mod deploy;
mod exec;
mod explain;
mod forecast;
mod impact;
mod import;
mod incident;
mod pdca;
mod phase;
mod report;
mod risk;
pub mod tables;
mod trace;
mod words;

const AFTER_HELP: &str = "\
The metrics are kept in a SQLite file, or in MySQL or MariaDB (section [dora] of the
configuration; `bitacora schema apply` makes the tables there).

Examples:
  bitacora dora exec --cycle C7 --phase testing -- make test
  bitacora dora phase --cycle C7 --feature login --phase planning --decision go --duration 300
  bitacora dora deploy --service shop --version 1.4 --cycle C7 --change 3f2a=2026-11-22T07:00:00Z
  bitacora dora incident open --service shop --deployment ID --summary \"no payments\"
  bitacora dora trace C7
  bitacora dora report --days 30 --service shop
  bitacora dora explain lead_time --service shop

Exits with 0 if it is recorded or found, 1 if not, 2 for values that cannot be, 69 if the database
does not answer; `exec` ends as its command does.";

/// Arguments of `bitacora dora`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with the metrics.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Record a phase of a cycle that has ended
    Phase(phase::Args),
    /// Run a command, measure it and record it as a phase; ends as the command does
    Exec(exec::Args),
    /// Say how a cycle ended
    Complete(complete::Args),
    /// Record a deployment to production with the changes that it brought
    Deploy(deploy::Args),
    /// Record that users saw something go wrong, and when service was restored
    Incident(incident::Args),
    /// Take over the phases that an earlier tool kept in a JSON file
    Import(import::Args),
    /// Show a cycle: its phases, its deployments, and what the application logged meanwhile
    Trace(trace::Args),
    /// Report the five metrics of a period, with bands and trend
    Report(report::Args),
    /// List the events behind a figure
    Explain(explain::Args),
    /// Plan, do, check, act: propose a change, and judge it by the figures after it
    Pdca(pdca::Args),
    /// Tell what the own history lets expect of the next days
    Forecast(forecast::Args),
    /// Tell how likely the next deployment fails
    Risk(risk::Args),
    /// Compare what the logs say before and after a deployment
    Impact(impact::Args),
}

/// Does what is asked.
///
/// # Errors
///
/// The configuration is wrong, a value cannot be, or the database cannot be used.
pub fn run(args: &Args, config: &Path, output: impl Write) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::Phase(args) => phase::run(args, config, output),
        Action::Exec(args) => exec::run(args, config, output),
        Action::Complete(args) => complete::run(args, config, output),
        Action::Deploy(args) => deploy::run(args, config, output),
        Action::Incident(args) => incident::run(args, config, output),
        Action::Import(args) => import::run(args, config, output),
        Action::Trace(args) => trace::run(args, config, output),
        Action::Report(args) => report::run(args, config, output),
        Action::Explain(args) => explain::run(args, config, output),
        Action::Pdca(args) => pdca::run(args, config, output),
        Action::Forecast(args) => forecast::run(args, config, output),
        Action::Risk(args) => risk::run(args, config, output),
        Action::Impact(args) => impact::run(args, config, output),
    }
}

/// The configured database. What waited for it is recorded first, and that is told on stderr.
///
/// # Errors
///
/// It cannot be used.
pub(super) async fn store(config: &Config) -> anyhow::Result<Arc<dyn DoraStore>> {
    let store = only_store(config).await?;
    let state_dir = &config.daemon.state_dir;
    let flushed = match pending::flush(&*store, state_dir).await {
        // who may not write may read, and so may everybody while the server lets nobody write
        Err(error) => {
            eprintln!("bitacora: phases that wait in {} stay there: {error}", state_dir.display());
            return Ok(store);
        }
        Ok(flushed) => flushed,
    };
    if flushed.recorded > 0 {
        eprintln!(
            "bitacora: phases that waited for the database are recorded: {}",
            flushed.recorded
        );
    }
    for (path, reason) in flushed.set_aside {
        eprintln!("bitacora: {} cannot be recorded: {reason}", path.display());
    }
    Ok(store)
}

/// The configured database, for what changes nothing at all.
async fn only_store(config: &Config) -> anyhow::Result<Arc<dyn DoraStore>> {
    Ok(open::open(&config.dora).await?)
}

/// One or the other.
async fn store_for(config: &Config, dry_run: bool) -> anyhow::Result<Arc<dyn DoraStore>> {
    if dry_run { only_store(config).await } else { store(config).await }
}

fn usage(error: impl Into<String>) -> anyhow::Error {
    Refusal::Usage(error.into()).into()
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The time that is said, else now.
fn at(said: Option<&str>) -> anyhow::Result<i64> {
    match said {
        None => Ok(now_ms()),
        Some(word) => time::read(word, &Zoned::now()).map_err(|error| usage(error.to_string())),
    }
}

/// `K=V…` as an object of texts.
fn metadata(pairs: &[(String, String)]) -> anyhow::Result<Map<String, Value>> {
    let mut map = Map::new();
    for (key, value) in pairs {
        if map.insert(key.clone(), Value::String(value.clone())).is_some() {
            return Err(usage(format!("--metadata {key}=… is given twice")));
        }
    }
    Ok(map)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

fn duration(text: &str) -> Result<i64, String> {
    hundredths(text)
        .ok_or_else(|| "write seconds with at most two decimals, from 0 to 99999999.99".to_owned())
}

fn phase_name() -> impl TypedValueParser<Value = PhaseName> {
    PossibleValuesParser::new(PhaseName::ALL.map(PhaseName::word))
        .try_map(|word| PhaseName::from_word(&word).ok_or("there is no such phase"))
}

fn decision() -> impl TypedValueParser<Value = Decision> {
    PossibleValuesParser::new(Decision::ALL.map(Decision::word))
        .try_map(|word| Decision::from_word(&word).ok_or("there is no such decision"))
}
