//! `bitacora dora pdca`: plan, do, check, act, with the figures before and after.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use uuid::Uuid;

use super::words::{self, Which};
use super::{at, now_ms, store_for};
use crate::cli::exit::{self, Refusal};
use crate::cli::store::runtime;
use crate::config::{Config, Machine};
use crate::dora::DoraStore;
use crate::dora::events::Pdca;
use crate::dora::figures::Metric;
use crate::dora::json::time_text;
use crate::dora::pdca::{self, PdcaError, Proposal, status};
use crate::query::output::escape;

const AFTER_HELP: &str = "\
`propose` measures the metric now and freezes that figure. `apply` says that the change is made.
After as many days `check` measures again: more than 15 % better is adopted, more than 15 % worse
is to be reverted, anything between is kept under watch and may be checked again after one more
window. A check before the window ends is refused, and so is one with too few events.

Exits with 0, 1 if there is no such proposal or too few events, 75 if the window still runs, 69 if
the database does not answer.

Examples:
  bitacora dora pdca propose lead_time \"review within a day\" --service shop --window-days 28
  bitacora dora pdca apply ID
  bitacora dora pdca check ID";

/// Arguments of `bitacora dora pdca`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// The steps.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Plan: freeze the figure that is to get better, and print the proposal's id
    Propose(Propose),
    /// Do: say that the change is made; its window begins
    Apply(Apply),
    /// Check and act: measure again after the window, and judge
    Check(Check),
    /// List all proposals
    List {
        /// Answer as one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `bitacora dora pdca propose`.
#[derive(Debug, clap::Args)]
pub struct Propose {
    /// What is to get better
    #[arg(value_parser = words::metric)]
    pub metric: Metric,
    /// What will be changed, in a sentence
    pub text: String,
    /// Its name; a random one by default
    #[arg(long)]
    pub id: Option<String>,
    /// So many days are measured before, and after
    #[arg(long, value_name = "N", default_value_t = 28,
          value_parser = clap::value_parser!(u32).range(1..=365))]
    pub window_days: u32,
    /// Which deliveries
    #[command(flatten)]
    pub which: Which,
    /// Say what would be recorded, and record nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bitacora dora pdca apply`.
#[derive(Debug, clap::Args)]
pub struct Apply {
    /// Which proposal
    pub id: String,
    /// When the change was made, as `bitacora logs --since` takes it; now by default
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub at: Option<String>,
    /// Say what would be recorded, and record nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bitacora dora pdca check`.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Which proposal
    pub id: String,
    /// Say what would be recorded, and record nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Does what is asked.
///
/// # Errors
///
/// The configuration is wrong, the step is out of order, or the database cannot be used.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    runtime()?.block_on(async {
        let dry_run = match &args.action {
            Action::List { .. } => false,
            Action::Propose(args) => args.dry_run,
            Action::Apply(args) => args.dry_run,
            Action::Check(args) => args.dry_run,
        };
        let store = store_for(&config, dry_run).await?;
        let (step, dry_run, as_json) = match &args.action {
            Action::List { json } => return list(&*store, *json, &mut output).await,
            Action::Propose(args) => (propose(&*store, args).await, args.dry_run, args.json),
            Action::Apply(args) => {
                let at_ms = at(args.at.as_deref())?;
                (pdca::apply(&*store, &args.id, at_ms).await, args.dry_run, args.json)
            }
            Action::Check(args) => {
                (pdca::check(&*store, &args.id, now_ms()).await, args.dry_run, args.json)
            }
        };
        let pdca = match step {
            Ok(pdca) => pdca,
            Err(error) => return refused(error),
        };
        if !dry_run {
            store.put_pdca(&pdca).await?;
        }
        if as_json {
            writeln!(output, "{}", of(&pdca))?;
        } else {
            write_step(&pdca, dry_run, &mut output)?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn propose(store: &dyn DoraStore, args: &Propose) -> Result<Pdca, PdcaError> {
    let proposal = Proposal {
        id: args.id.clone().unwrap_or_else(|| Uuid::new_v4().to_string()),
        metric: args.metric,
        text: args.text.clone(),
        scope: args.which.scope(),
        window_days: args.window_days,
    };
    pdca::propose(store, &proposal, now_ms()).await
}

fn refused(error: PdcaError) -> anyhow::Result<ExitCode> {
    match error {
        PdcaError::Store(error) => Err(error.into()),
        early @ PdcaError::TooEarly { .. } => Err(Refusal::Busy(early.to_string()).into()),
        none @ (PdcaError::Unknown { .. } | PdcaError::TooFew { .. }) => {
            eprintln!("{none}");
            Ok(ExitCode::from(exit::NOT_CLEAN))
        }
        other => Err(Refusal::Usage(other.to_string()).into()),
    }
}

async fn list(
    store: &dyn DoraStore,
    as_json: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let pdcas = store.pdcas().await?;
    if as_json {
        let all: Vec<Value> = pdcas.iter().map(of).collect();
        writeln!(output, "{}", json!({ "proposals": all }))?;
    } else {
        for pdca in &pdcas {
            let line = format!(
                "{}  {:<10} {:<21} {}  {}",
                time_text(pdca.created_ms),
                state(pdca),
                pdca.metric,
                pdca.id,
                pdca.proposal
            );
            writeln!(output, "{}", escape::line(&line))?;
        }
    }
    Ok(ExitCode::from(if pdcas.is_empty() { exit::NOT_CLEAN } else { exit::DONE }))
}

fn of(pdca: &Pdca) -> Value {
    json!({
        "id": pdca.id,
        "metric": pdca.metric,
        "proposal": pdca.proposal,
        "service": pdca.service,
        "team": pdca.team,
        "window_days": pdca.window_days,
        "status": pdca.status,
        "created_ms": pdca.created_ms,
        "applied_ms": pdca.applied_ms,
        "checked_ms": pdca.checked_ms,
        "baseline": pdca.baseline,
        "result": pdca.result,
    })
}

/// The status for people.
fn state(pdca: &Pdca) -> &str {
    if pdca.status == status::APPLIED { "applied" } else { &pdca.status }
}

fn write_step(pdca: &Pdca, dry_run: bool, output: &mut impl Write) -> io::Result<()> {
    let would = if dry_run { "would be " } else { "" };
    let id = escape::line(&pdca.id);
    writeln!(output, "{id} {would}{}", state(pdca))?;
    let measured = |name: &str, figure: &Value| {
        let metric = Metric::from_word(&pdca.metric)?;
        let value = words::value(metric.unit(), figure.get("value")?.as_f64()?);
        let events = figure.get("events")?.as_u64()?;
        let of = match figure.get("of").and_then(Value::as_u64) {
            Some(of) => format!("{events} of {of} deployments"),
            None => format!("{events} events"),
        };
        let time = |key| Some(time_text(figure.get(key)?.as_i64()?));
        let (since, until) = (time("since_ms")?, time("until_ms")?);
        Some(format!("    {name} {since} to {until}: {} {value} ({of})", metric.name()))
    };
    for line in [measured("before", &pdca.baseline), measured("after ", &pdca.result)] {
        line.map_or(Ok(()), |line| writeln!(output, "{line}"))?;
    }
    let better = pdca.result.get("better_percent").and_then(Value::as_f64);
    let by = |percent: f64| {
        let word = if percent < 0.0 { "worse" } else { "better" };
        format!("{word} by {:.1} %", percent.abs())
    };
    match pdca.status.as_str() {
        status::PROPOSED => writeln!(output, "    make the change, then: dora pdca apply {id}"),
        status::APPLIED => {
            let days = i64::from(pdca.window_days) * 86_400_000;
            let ends_ms = pdca.applied_ms.unwrap_or_default().saturating_add(days);
            writeln!(output, "    check it after {}: dora pdca check {id}", time_text(ends_ms))
        }
        status::ADOPTED => {
            writeln!(output, "    {}: keep the change", better.map_or_else(String::new, by))
        }
        status::WATCHING => writeln!(
            output,
            "    {}: neither better nor worse by more than 15 %; check it after one more window",
            better.map_or_else(String::new, by)
        ),
        _ => writeln!(
            output,
            "    {}: take the change back",
            better.map_or_else(|| "worse than nothing before".to_owned(), by)
        ),
    }
}
