//! `bitacora alerts`: whether all is well, and who hears of it when it is not.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::exit::{self, Refusal};
use crate::config::{Config, Machine, units};
use crate::daemon::wall_ms;
use crate::maintain::alerts::notify::{self, Message, Notifier};
use crate::maintain::alerts::text::{line, ms, time};
use crate::maintain::alerts::{self, AlertsError, Desk, Silence, host};

mod check;
mod facts;
mod list;

/// How long a command waits for a check that runs.
const WAIT: Duration = Duration::from_mins(1);

/// Longer is not silenced but forgotten: `off` in the configuration is for that.
const SILENCE_MAX: Duration = Duration::from_hours(366 * 24);

const AFTER_HELP: &str = "\
`check` looks at all rules once, records what it finds in the table health_checks, and tells the
notifiers of the section [alerts]: each trouble once, again after `repeat`, and when it has ended.
A timer starts it every five minutes (bitacora-alerts.timer).

Exits with 0 if all is well (check) or every message went out (test), 1 if not, 75 if another
check runs.

Examples:
  bitacora alerts check --dry-run          look, and tell nobody
  bitacora alerts test --notifier email    does e-mail arrive?
  bitacora alerts silence disk --for 2h --reason 'moving the archive'
  bitacora alerts silence disk --end";

/// Arguments of `bitacora alerts`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do about alerts.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Look whether all is well, and tell the notifiers what is new
    Check {
        /// Look, but record nothing and tell nobody
        #[arg(long)]
        dry_run: bool,
        /// Answer as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Send a message that says that it is a test
    Test {
        /// As if it were of this rule
        rule: Option<String>,
        /// Only by this notifier: slack, email, log or command
        #[arg(long, value_name = "NAME")]
        notifier: Option<String>,
        /// Say what would be sent, and send nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the rules, what was found last, silences and notifiers
    List {
        /// Answer as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Tell nothing of a rule for some time
    Silence {
        /// A rule, or the name of one thing as `list` shows it; all of them with `all`
        rule: String,
        /// For how long, such as 2h
        #[arg(long = "for", value_name = "TIME", required_unless_present = "end")]
        length: Option<String>,
        /// Why; the others will want to know
        #[arg(long, value_name = "TEXT", required_unless_present = "end")]
        reason: Option<String>,
        /// End the silence instead
        #[arg(long, conflicts_with_all = ["length", "reason"])]
        end: bool,
        /// Say what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Tell that a unit of systemd has failed (bitacora-alert@.service)
    #[command(hide = true)]
    Failed {
        /// The unit
        unit: String,
        /// Say what would be told, and tell nobody
        #[arg(long)]
        dry_run: bool,
    },
}

/// Does what is asked.
///
/// # Errors
///
/// The configuration is wrong, another check runs, or the memory cannot be used.
pub fn run(args: &Args, path: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Arc::new(Config::load(path, &Machine::here())?);
    match &args.action {
        Action::Check { dry_run, json } => check::run(&config, *dry_run, *json, &mut output),
        Action::List { json } => list::run(&config, *json, &mut output),
        Action::Test { rule, notifier, dry_run } => {
            test(&config, rule.as_deref(), notifier.as_deref(), *dry_run, &mut output)
        }
        Action::Silence { rule, length, reason, end, dry_run } => {
            let wanted = match (length, reason) {
                (Some(length), Some(reason)) if !end => Some((length.as_str(), reason.as_str())),
                _ => None,
            };
            silence(&config, rule, wanted, *dry_run, &mut output)
        }
        Action::Failed { unit, dry_run } => check::failed(&config, unit, *dry_run, &mut output),
    }
}

/// Takes the memory, and waits for a check that runs.
fn desk(config: &Config, wait: Duration) -> Result<Desk, AlertsError> {
    let end = Instant::now() + wait;
    loop {
        match Desk::open(host::memory_dir(config), wall_ms()) {
            Err(AlertsError::Busy { .. }) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(100));
            }
            done => {
                if let Ok(Desk { damaged: Some(why), .. }) = &done {
                    eprintln!("the memory of alerts was damaged and begins anew: {why}");
                }
                return done;
            }
        }
    }
}

/// The notifiers, or the one of this name.
fn notifiers(config: &Config, name: Option<&str>) -> Result<Vec<Arc<dyn Notifier>>, Refusal> {
    let mut all = notify::configured(&config.alerts);
    if let Some(name) = name {
        let names: Vec<&str> = all.iter().map(|notifier| notifier.name()).collect();
        if !names.contains(&name) {
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let message = format!("there is no notifier {name:?} in [alerts]; there is {there}");
            return Err(Refusal::Usage(message));
        }
        all.retain(|notifier| notifier.name() == name);
    }
    Ok(all)
}

fn test(
    config: &Config,
    rule: Option<&str>,
    notifier: Option<&str>,
    dry_run: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    if let Some(rule) = rule {
        known(config, rule, false)?;
    }
    let notifiers = notifiers(config, notifier)?;
    let message = Message::test(&config.daemon.host, wall_ms(), rule);
    if notifiers.is_empty() {
        eprintln!("no notifier is set: see `bitacora man bitacora.toml`, [alerts]");
        return Ok(ExitCode::from(exit::NOT_CLEAN));
    }
    if dry_run {
        let names: Vec<&str> = notifiers.iter().map(|notifier| notifier.name()).collect();
        writeln!(output, "would be sent by {}:\n{}", names.join(", "), message.text())?;
        return Ok(ExitCode::SUCCESS);
    }
    let work = notifiers.iter().map(|one| (Arc::clone(one), vec![message.clone()])).collect();
    let mut failed = false;
    for (notifier, delivered) in notifiers.iter().zip(notify::deliver(work, notify::WAIT)) {
        match delivered.error {
            None => writeln!(output, "{}: sent", notifier.name())?,
            Some(error) => {
                failed = true;
                writeln!(output, "{}: NOT sent: {error}", notifier.name())?;
            }
        }
    }
    Ok(ExitCode::from(if failed { exit::NOT_CLEAN } else { exit::DONE }))
}

/// Whether there is such a rule, or (for a silence) something that one looks at.
fn known(config: &Config, name: &str, or_thing: bool) -> anyhow::Result<()> {
    let rules = alerts::rules(config);
    let of_rule = |rule: &String| {
        rule == name
            || or_thing && name.strip_prefix(rule).is_some_and(|rest| rest.starts_with(' '))
    };
    if rules.iter().any(of_rule) || or_thing && name == "all" {
        return Ok(());
    }
    let message = format!("there is no rule {name:?}; there are {}", rules.join(", "));
    Err(Refusal::Usage(message).into())
}

fn silence(
    config: &Config,
    rule: &str,
    wanted: Option<(&str, &str)>,
    dry_run: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    known(config, rule, true)?;
    let now_ms = wall_ms();
    let Some((length, reason)) = wanted else {
        let mut desk = desk(config, WAIT)?;
        let before = desk.memory.silences.len();
        desk.memory.silences.retain(|silence| silence.rule != rule || silence.until_ms <= now_ms);
        if desk.memory.silences.len() == before {
            eprintln!("{rule} is not silenced; `bitacora alerts list` shows what is");
            return Ok(ExitCode::from(exit::NOT_CLEAN));
        }
        if dry_run {
            writeln!(output, "the silence of {rule} would end")?;
            return Ok(ExitCode::SUCCESS);
        }
        desk.save()?;
        writeln!(output, "the silence of {rule} has ended")?;
        return Ok(ExitCode::SUCCESS);
    };
    let length =
        units::duration(length).map_err(|why| Refusal::Usage(format!("--for {length:?} {why}")))?;
    if length.is_zero() || length > SILENCE_MAX {
        let days = SILENCE_MAX.as_secs() / 86_400;
        let message = format!("--for is to be longer than nothing, and at most {days} days");
        return Err(Refusal::Usage(message).into());
    }
    let until_ms = now_ms.saturating_add(ms(length));
    let until = time(until_ms);
    if dry_run {
        writeln!(output, "{rule} would be silent until {until}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut desk = desk(config, WAIT)?;
    desk.memory.silences.retain(|silence| silence.rule != rule);
    let (rule, reason) = (rule.to_owned(), line(reason, 200));
    desk.memory.silences.push(Silence { rule: rule.clone(), since_ms: now_ms, until_ms, reason });
    desk.save()?;
    writeln!(output, "{rule} is silent until {until}")?;
    Ok(ExitCode::SUCCESS)
}
