//! `bitacora dora impact`: what the logs say before and after a deployment.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{now_ms, store, usage, words};
use crate::cli::exit;
use crate::cli::store::{open_reader, runtime};
use crate::config::{Config, Machine};
use crate::dora::impact::{self, Impact, Question, Share, Side};
use crate::dora::json::time_text;
use crate::duration::Rung;
use crate::parse::Format;
use crate::query::filter::Name;
use crate::query::output::escape;

const AFTER_HELP: &str = "\
All of it comes from the statistics of the log store, which count each row. The share of slow rows
is that among the rows that say how long something took. The minute of the deployment itself
belongs to neither side.

Exits with 0, or 1 if there is no such deployment or a share has at least doubled, 69 if a
database does not answer.";

/// Arguments of `bitacora dora impact`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Which deployment
    pub deployment: String,
    /// Minutes before and after
    #[arg(long, value_name = "N", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=1440))]
    pub minutes: u32,
    /// A row that took at least so many milliseconds is slow: 50, 100, 200, 500, 1000, 2000, 5000,
    /// 10000, 30000 or 60000
    #[arg(long, value_name = "MS", default_value = "1000", value_parser = threshold)]
    pub slow: Rung,
    /// Only rows of this source, family or pattern; again for more
    #[arg(long, short, value_name = "NAME")]
    pub source: Vec<String>,
    /// Only rows of this host or pattern; again for more
    #[arg(long, short = 'H', value_name = "NAME")]
    pub host: Vec<String>,
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Compares.
///
/// # Errors
///
/// The configuration is wrong, or a database cannot be used.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    let names = |said: &[String]| -> anyhow::Result<Vec<Name>> {
        said.iter().map(|one| Name::new(one).map_err(|error| usage(error.to_string()))).collect()
    };
    let question = Question {
        minutes: args.minutes,
        slow: args.slow,
        sources: names(&args.source)?,
        hosts: names(&args.host)?,
        access: access(&config),
    };
    let impact = runtime()?.block_on(async {
        let store = store(&config).await?;
        let Some(deployment) = store.deployment(&args.deployment).await? else {
            return Ok(None);
        };
        let reader = open_reader(&config)?;
        let impact = impact::impact(&*reader, &deployment, &question, now_ms()).await?;
        anyhow::Ok(Some(impact))
    })?;
    let Some(impact) = impact else {
        eprintln!("no deployment {:?} is recorded", args.deployment);
        return Ok(ExitCode::from(exit::NOT_CLEAN));
    };
    if args.json {
        writeln!(output, "{}", serde_json::to_string(&impact)?)?;
    } else {
        write_text(&impact, &mut output)?;
    }
    Ok(ExitCode::from(if impact.suspect { exit::NOT_CLEAN } else { exit::DONE }))
}

/// Only what the statistics count by.
fn threshold(word: &str) -> Result<Rung, String> {
    let said = word.parse().ok().map(Duration::from_millis);
    said.and_then(Rung::exactly).ok_or_else(|| {
        let rungs: Vec<_> = Rung::thresholds().map(|rung| rung.ms().to_string()).collect();
        format!("the statistics count by {}", rungs.join(", "))
    })
}

/// Sources whose errors are the answers of 500 and above. The format's own name is among them: the
/// rows may come from another host, whose configuration is not here.
fn access(config: &Config) -> Vec<String> {
    let files = config.files.iter().filter(|files| files.format == Format::NginxAccess);
    let mut sources: Vec<String> = files.map(|files| files.source.clone()).collect();
    sources.push(Format::NginxAccess.name().to_owned());
    sources
}

fn write_text(impact: &Impact, output: &mut impl Write) -> io::Result<()> {
    let version = format!("{} {}", impact.service, impact.version);
    let title = format!("deployment {} {}", impact.deployment, version.trim());
    writeln!(output, "{} at {}", escape::line(title.trim_end()), time_text(impact.deployed_ms))?;
    let minutes = |side: &Side| {
        let count = usize::try_from((side.until_ms - side.since_ms) / 60_000).unwrap_or(0);
        words::counted(count, "minute")
    };
    writeln!(
        output,
        "    {:<22} {:<28} {} after{}",
        "",
        format!("{} before", minutes(&impact.before)),
        minutes(&impact.after),
        if impact.unfinished { ", which are not over" } else { "" }
    )?;
    let slow = format!("slow, from {} ms on", impact.slow_ms);
    let lines = [
        ("errors", impact.before.errors, impact.after.errors),
        ("answers of 500 on", impact.before.server_errors, impact.after.server_errors),
        (slow.as_str(), impact.before.slow, impact.after.slow),
    ];
    for ((name, before, after), step) in lines.into_iter().zip(&impact.steps) {
        let worse = if step.worse { "  WORSE" } else { "" };
        writeln!(output, "    {name:<22} {:<28} {}{worse}", share(before), share(after))?;
    }
    for (name, side) in [("before", &impact.before), ("after", &impact.after)] {
        if side.slow_unknown > 0 {
            let rows = side.slow_unknown;
            writeln!(output, "    slow {name}: not known of {rows} rows of an older version")?;
        }
    }
    for (source, rows) in &impact.after.errors_by_source {
        let before = impact.before.errors_by_source.get(source).copied().unwrap_or(0);
        if *rows > before {
            let line = format!("    {source}: {rows} errors after {before}");
            writeln!(output, "{}", escape::line(&line))?;
        }
    }
    if impact.suspect {
        writeln!(
            output,
            "did this change fail? if so: bitacora dora incident open --deployment {}",
            escape::line(&impact.deployment)
        )?;
    }
    Ok(())
}

fn share(share: Share) -> String {
    share.share.map_or_else(
        || "no rows".to_owned(),
        |part| format!("{:.2} % ({} of {})", part * 100.0, share.rows, share.of),
    )
}
