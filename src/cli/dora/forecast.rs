//! `bitacora dora forecast`: what the own history lets expect.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::words::{self, Which};
use super::{now_ms, store};
use crate::cli::exit;
use crate::cli::store::runtime;
use crate::config::{Config, Machine};
use crate::dora::forecast::{self, Expected, Forecast, HISTORY_DAYS, Refused};
use crate::dora::history::{History, Period};
use crate::query::output::escape;

const AFTER_HELP: &str = "\
Weeks and lead times are drawn again and again from the own history. The same is done for each
week of the past, from what was known before it, and compared with what came: how often the
interval held is told beside it. Below 20 events nothing is forecast.

Exits with 0, or 1 if there are too few events, 69 if the database does not answer.";

/// Arguments of `bitacora dora forecast`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Over so many days
    #[arg(long, value_name = "N", default_value_t = 14,
          value_parser = clap::value_parser!(u32).range(1..=365))]
    pub days: u32,
    /// Where the drawn numbers begin: the same seed gives the same forecast
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Which deliveries
    #[command(flatten)]
    pub which: Which,
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Forecasts.
///
/// # Errors
///
/// The configuration is wrong, or the database cannot be used.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    let now_ms = now_ms();
    let history = runtime()?.block_on(async {
        let store = store(&config).await?;
        let since_ms = Period::last_days(HISTORY_DAYS, now_ms).since_ms;
        anyhow::Ok(History::load(&*store, &args.which.scope(), since_ms, now_ms).await?)
    })?;
    let forecast = forecast::forecast(&history, args.days, args.seed, now_ms);
    if args.json {
        writeln!(output, "{}", serde_json::to_string(&forecast)?)?;
    } else {
        write_text(&forecast, args, &mut output)?;
    }
    let found = forecast.deployments.is_ok() || forecast.lead_time.is_ok();
    Ok(ExitCode::from(if found { exit::DONE } else { exit::NOT_CLEAN }))
}

fn write_text(forecast: &Forecast, args: &Args, output: &mut impl Write) -> io::Result<()> {
    let which = args.which.words();
    let days = words::counted(args.days as usize, "day");
    let title = format!("deployments{which} in the next {days}");
    write_expected(&title, &forecast.deployments, |value| format!("{value:.0}"), output)?;
    write_expected("lead time of the next change", &forecast.lead_time, words::duration, output)
}

fn write_expected(
    title: &str,
    expected: &Result<Expected, Refused>,
    say: impl Fn(f64) -> String,
    output: &mut impl Write,
) -> io::Result<()> {
    let title = escape::line(title);
    let expected = match expected {
        Ok(expected) => expected,
        Err(refused) => return writeln!(output, "{title}: {refused}"),
    };
    let Expected { median, low, high, meant, events, .. } = expected;
    writeln!(
        output,
        "{title}: {} to {} in {:.0} of 100 cases, {} in the middle (from {events} events)",
        say(*low),
        say(*high),
        meant * 100.0,
        say(*median)
    )?;
    let test = &expected.test;
    match (test.coverage, test.sound) {
        (Some(coverage), sound) => {
            writeln!(
                output,
                "    such forecasts of the past held {} of {} times ({:.0} %, {:.0} % is meant)",
                test.held,
                test.forecasts,
                coverage * 100.0,
                meant * 100.0
            )?;
            if sound == Some(false) {
                writeln!(output, "    DO NOT RELY ON IT: the history changed its pace too much")?;
            }
            Ok(())
        }
        (None, _) => writeln!(
            output,
            "    not proven: only {} of the past could be compared with what came",
            words::counted(test.forecasts, "forecast")
        ),
    }
}
