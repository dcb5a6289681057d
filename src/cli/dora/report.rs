//! `bitacora dora report`: the five metrics of a period.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::words::{self, DAYS_MAX, Which};
use super::{now_ms, store};
use crate::cli::exit;
use crate::cli::store::runtime;
use crate::config::{Config, Machine};
use crate::dora::figures::{Metric, Unit};
use crate::dora::json::time_text;
use crate::dora::report::{self, Direction, Line, Report, Trend};
use crate::query::output::escape;

const AFTER_HELP: &str = "\
Times are UTC. A figure of few events says so: fewer than 10 deployments for a rate, fewer than 5
durations for a median. `bitacora dora explain METRIC` lists the events behind a figure. The bands
are those of a survey: a place to look from, no aim, and no way to compare teams.

Exits with 0, or 1 if there is nothing to report, 69 if the database does not answer.";

/// Arguments of `bitacora dora report`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// So many days back from now; the trend compares with as many days before
    #[arg(long, value_name = "N", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=DAYS_MAX))]
    pub days: u32,
    /// Which deliveries
    #[command(flatten)]
    pub which: Which,
    /// Answer as one JSON object
    #[arg(long, conflicts_with = "csv")]
    pub json: bool,
    /// Answer as CSV, one metric a line
    #[arg(long)]
    pub csv: bool,
}

/// Reports.
///
/// # Errors
///
/// The configuration is wrong, or the database cannot be used.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    let report = runtime()?.block_on(async {
        let store = store(&config).await?;
        let scope = args.which.scope();
        anyhow::Ok(report::report(&*store, &scope, args.days, now_ms()).await?)
    })?;
    if args.json {
        writeln!(output, "{}", serde_json::to_string(&report)?)?;
    } else if args.csv {
        write_csv(&report, &mut output)?;
    } else {
        write_text(&report, args, &mut output)?;
    }
    let found = report.figures.iter().any(|line| line.figure.value.is_some());
    Ok(ExitCode::from(if found { exit::DONE } else { exit::NOT_CLEAN }))
}

fn write_text(report: &Report, args: &Args, output: &mut impl Write) -> io::Result<()> {
    let days = words::counted(args.days as usize, "day");
    let which = args.which.words();
    writeln!(
        output,
        "deliveries{} in the {days} from {} to {}",
        escape::line(&which),
        time_text(report.since_ms),
        time_text(report.until_ms)
    )?;
    match report.starts_ms {
        None => writeln!(output, "no deployment was declared so far")?,
        Some(starts_ms) if starts_ms > report.since_ms => {
            writeln!(output, "counted from the first deployment on, {}", time_text(starts_ms))?;
        }
        Some(_) => {}
    }
    for line in &report.figures {
        write_line(line, output)?;
    }
    if report.stray_incidents > 0 {
        let noun = words::counted(report.stray_incidents, "incident");
        writeln!(output, "\n{noun} of this time are told of no deployment: they count for none")?;
    }
    writeln!(output, "\ndefinitions {}; bands: {}", report.definitions, report.bands)
}

fn write_line(line: &Line, output: &mut impl Write) -> io::Result<()> {
    let figure = &line.figure;
    let metric = figure.metric;
    let median = if figure.unit == Unit::Seconds { "median " } else { "" };
    write!(output, "\n{:<32}", metric.name())?;
    if figure.value.is_none() {
        writeln!(output, "no events")?;
    } else {
        write!(output, "{median}{}", words::figure(figure))?;
        if figure.enough {
            writeln!(output, "  ({})", words::events(figure))?;
        } else {
            writeln!(output, "  (only {})", words::events(figure))?;
        }
    }
    if let Some(spread) = figure.spread {
        let what = if metric == Metric::DeploymentFrequency { "between two: median " } else { "" };
        let median = if what.is_empty() { String::new() } else { words::duration(spread.median) };
        let comma = if what.is_empty() { "" } else { ", " };
        writeln!(
            output,
            "    {what}{median}{comma}9 of 10 below {}, mean {}",
            words::duration(spread.p90),
            words::duration(spread.mean)
        )?;
    }
    if let Some(band) = &line.band {
        let name = band.name.map_or_else(String::new, |name| format!("{name}: "));
        writeln!(output, "    DORA {}: {name}{}", band.year, band.words)?;
    }
    writeln!(output, "    before: {}", trend(&line.trend, figure.value))?;
    let left_out = words::left_out(figure);
    if left_out.is_empty() { Ok(()) } else { writeln!(output, "    not counted: {left_out}") }
}

fn trend(trend: &Trend, now: Option<f64>) -> String {
    let previous = &trend.previous;
    let Some(value) = previous.value else { return "no events".to_owned() };
    let like = now.filter(|now| *now > 0.0).unwrap_or(value);
    let told = words::value_like(previous.unit, value, like);
    let before = format!("{told} ({})", words::events(previous));
    let Some(moved) = trend.direction.map(direction) else { return before };
    let by = trend.percent.filter(|percent| *percent != 0.0);
    let by = by.map_or_else(String::new, |percent| format!(" by {:.0} %", percent.abs()));
    let few = if trend.enough { "" } else { ", of too few events to mean much" };
    format!("{before}; {moved}{by}{few}")
}

fn write_csv(report: &Report, output: &mut impl Write) -> io::Result<()> {
    writeln!(
        output,
        "definitions,since,until,service,team,metric,unit,value,median,p90,mean,events,of,enough,\
         band,band_year,previous,change_percent,trend"
    )?;
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let name = |text: &Option<String>| words::csv(text.as_deref().unwrap_or_default());
    for line in &report.figures {
        let (figure, trend) = (&line.figure, &line.trend);
        let spread = figure.spread;
        let unit = match figure.unit {
            Unit::PerDay => "per_day",
            Unit::Seconds => "seconds",
            Unit::Share => "share",
        };
        let fields = [
            report.definitions.to_string(),
            time_text(report.since_ms),
            time_text(report.until_ms),
            name(&report.service),
            name(&report.team),
            figure.metric.word().to_owned(),
            unit.to_owned(),
            number(figure.value),
            number(spread.map(|spread| spread.median)),
            number(spread.map(|spread| spread.p90)),
            number(spread.map(|spread| spread.mean)),
            figure.events.to_string(),
            figure.of.map_or_else(String::new, |of| of.to_string()),
            figure.enough.to_string(),
            line.band.as_ref().and_then(|band| band.name).unwrap_or_default().to_owned(),
            line.band.as_ref().map_or_else(String::new, |band| band.year.to_string()),
            number(trend.previous.value),
            number(trend.percent),
            trend.direction.map_or("", direction).to_owned(),
        ];
        writeln!(output, "{}", fields.join(","))?;
    }
    Ok(())
}

const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Better => "better",
        Direction::Worse => "worse",
        Direction::Same => "same",
    }
}
