//! `bitacora dora risk`: how likely the next deployment fails.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::words::Which;
use super::{at, store};
use crate::cli::exit;
use crate::cli::store::runtime;
use crate::config::{Config, Machine};
use crate::dora::forecast::HISTORY_DAYS;
use crate::dora::history::{History, Period};
use crate::dora::risk::{self, Next, Risk};
use crate::query::output::escape;
use serde_json::json;

const AFTER_HELP: &str = "\
Learnt from the own history: the size of the deployment, failures lately, the day of the week, the
pause since the last one. The newest part of the history is held out; where the features did not
predict it better than the base rate by more than chance, the answer is the base rate and says so.
Below 20 deployments there is no answer.

Exits with 0, or 1 if there are too few deployments, 69 if the database does not answer.";

/// Arguments of `bitacora dora risk`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// So many changes it brings; the median of the history by default
    #[arg(long, value_name = "N")]
    pub changes: Option<usize>,
    /// When, as `bitacora logs --since` takes it; now by default
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub at: Option<String>,
    /// Which deliveries
    #[command(flatten)]
    pub which: Which,
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Answers.
///
/// # Errors
///
/// The configuration is wrong, or the database cannot be used.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    let at_ms = at(args.at.as_deref())?;
    let history = runtime()?.block_on(async {
        let store = store(&config).await?;
        let since_ms = Period::last_days(HISTORY_DAYS, at_ms).since_ms;
        anyhow::Ok(History::load(&*store, &args.which.scope(), since_ms, at_ms).await?)
    })?;
    let risk = match risk::risk(&history, Next { at_ms, changes: args.changes }) {
        Ok(risk) => risk,
        Err(refused) => {
            if args.json {
                writeln!(output, "{}", json!({ "refused": refused.to_string() }))?;
            } else {
                writeln!(output, "{refused}")?;
            }
            return Ok(ExitCode::from(exit::NOT_CLEAN));
        }
    };
    if args.json {
        writeln!(output, "{}", serde_json::to_string(&risk)?)?;
    } else {
        write_text(&risk, &args.which, &mut output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_text(risk: &Risk, which: &Which, output: &mut impl Write) -> io::Result<()> {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let which = which.words();
    writeln!(
        output,
        "the next deployment{} fails with a probability of {}",
        escape::line(&which),
        percent(risk.probability)
    )?;
    writeln!(
        output,
        "    base rate {}: {} of {} deployments failed",
        percent(risk.base_rate),
        risk.failures,
        risk.events
    )?;
    let test = &risk.test;
    if risk.by_features {
        for (name, adds) in &risk.reasons {
            writeln!(output, "    {name:<22} {adds:+.2}")?;
        }
    } else if test.predictions < risk::TESTS_MIN {
        writeln!(output, "    this is the base rate: there is too little history to hold out")?;
    } else {
        writeln!(output, "    this is the base rate: the features predict no better than it does")?;
    }
    if let (Some(brier), Some(base)) = (test.brier, test.brier_of_base_rate) {
        writeln!(
            output,
            "    on {} held-out deployments: Brier score {brier:.4}, base rate {base:.4}; \
             predicted {}, came {}",
            test.predictions,
            percent(test.predicted.unwrap_or_default()),
            percent(test.observed.unwrap_or_default())
        )?;
    }
    Ok(())
}
