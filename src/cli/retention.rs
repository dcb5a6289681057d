//! `bitacora retention`: how long rows live, what would go, and letting it go.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::exit::{self, Refusal};
use super::store::runtime;
use crate::config::{Config, Machine};
use crate::daemon::{control, wall_ms};
use crate::durable::LockError;
use crate::maintain::retention::{self, Item, Kind, Origins, Report, Request, State, TableTtl};
use crate::stores::expired::date_of;

/// How long the daemon may take to answer.
const DAEMON_WAIT: Duration = Duration::from_secs(5);

const AFTER_HELP: &str = "\
[retention] says how long rows live; DORA metrics live for ever. In SQLite whole day files go, and
the rows of a source that lives shorter than others of its day are deleted from their files, which
keep their size. In Cassandra the tables' times to live are set, which holds for rows that are
written from then on, and partitions that are older than a policy that got shorter are deleted.

An origin (one generation of a log file) all of whose rows have ended goes too, once its file and
all copies of it are gone: by it the daemon knows a file that it has read. --gone-host HOST does the
same for a host that will never come back, without a look at its files.

It works beside the running daemon and without it. `bitacora audit` tells what has expired from
what is lost.

Exits with 0 if all went well, 1 if something failed (the rest is done all the same), 69 if the
store does not answer, 75 if another run is at work.

Examples:
  bitacora retention plan                    what would go, and nothing goes
  bitacora retention apply --require-backup  only what a verified backup holds";

/// Arguments of `bitacora retention`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with what has ended.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Action {
    /// Show each policy and what would go
    Plan {
        /// Answer as one JSON object
        #[arg(long)]
        json: bool,
        /// Say what is withheld because no verified backup holds it
        #[arg(long)]
        require_backup: bool,
        /// Count the origins of this host in, which is gone for ever
        #[arg(long, value_name = "HOST")]
        gone_host: Option<String>,
    },
    /// Let it go
    Apply {
        /// Say what would go, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Answer as one JSON object
        #[arg(long)]
        json: bool,
        /// Let only that go which a verified backup holds
        #[arg(long)]
        require_backup: bool,
        /// End the origins of this host too, which is gone for ever with its files
        #[arg(long, value_name = "HOST")]
        gone_host: Option<String>,
    },
}

/// Does what is asked.
///
/// # Errors
///
/// The configuration is wrong, the store cannot be read, or another run is at work.
pub fn run(args: &Args, path: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(path, &Machine::here())?;
    let (apply, json, require_backup, gone_host) = match args.action.clone() {
        Action::Plan { json, require_backup, gone_host } => {
            (false, json, require_backup, gone_host)
        }
        Action::Apply { dry_run, json, require_backup, gone_host } => {
            (!dry_run, json, require_backup, gone_host)
        }
    };
    let _lock = if apply { Some(lock(&config)?) } else { None };
    let request = Request { apply, require_backup, gone_host, now_ms: wall_ms() };
    let report = runtime()?.block_on(retention::run(&config, request))?;
    if report.origins.state == Some(State::Done) {
        // a daemon that is not there, or not ours to ask, forgets them when it starts
        let _ = control::ask(&config.daemon.control, control::Request::Forget, DAEMON_WAIT);
    }
    if json {
        writeln!(output, "{}", serde_json::to_string(&report)?)?;
    } else {
        show(&report, &mut output)?;
    }
    Ok(ExitCode::from(if report.clean() { exit::DONE } else { exit::NOT_CLEAN }))
}

fn lock(config: &Config) -> anyhow::Result<crate::durable::DirLock> {
    match retention::lock(&config.daemon.state_dir) {
        Ok(lock) => Ok(lock),
        Err(LockError::Held { holder, .. }) => {
            let busy =
                format!("another run of retention is at work (pid {holder}); try again later");
            Err(Refusal::Busy(busy).into())
        }
        Err(LockError::Io { dir, source }) => {
            let cannot = format!("cannot lock {}", dir.display());
            Err(anyhow::Error::from(source).context(cannot))
        }
    }
}

fn show(report: &Report, output: &mut impl Write) -> std::io::Result<()> {
    for policy in &report.policies {
        writeln!(output, "{:<32} {}", policy.what, policy.lives)?;
    }
    for table in &report.tables {
        show_table(table, output)?;
    }
    for item in &report.items {
        show_item(item, output)?;
    }
    show_origins(&report.origins, output)?;
    let tidied = report.tidied;
    if tidied.spans > 0 {
        let verb = if report.applied { "became" } else { "would become" };
        writeln!(output, "{} spans without rows {verb} {}", tidied.spans, tidied.become_spans)?;
    }
    for note in &report.notes {
        writeln!(output, "note: {note}")?;
    }
    for failure in &report.failures {
        writeln!(output, "FAILED {failure}")?;
    }
    let state = if report.applied { State::Done } else { State::Planned };
    let (items, rows, bytes) = report.sum(&state);
    let verb = if report.applied { "went" } else { "would go" };
    let kept = report.items.iter().filter(|item| matches!(item.state, State::Withheld(_))).count();
    write!(output, "{items} {verb}: {rows} rows, {bytes} bytes")?;
    match kept {
        0 => writeln!(output),
        kept => writeln!(output, "; {kept} withheld"),
    }
}

fn show_origins(origins: &Origins, output: &mut impl Write) -> std::io::Result<()> {
    let Origins { ended, spans, rows, kept, of_others, withheld, state } = origins;
    let (word, why) = match state {
        Some(State::Done) => ("gone", None),
        Some(State::Failed(why)) => ("FAILED", Some(why)),
        Some(State::Planned | State::Withheld(_)) | None => ("would go", None),
    };
    if *ended > 0 {
        write!(
            output,
            "{word:<9} {ended} origins whose rows have ended and whose files are gone: {spans} \
             spans of {rows} rows"
        )?;
        match why {
            Some(why) => writeln!(output, ": {why}")?,
            None => writeln!(output)?,
        }
    }
    for (count, why) in [
        (*kept, "their files, or copies of them, are there or cannot be looked for"),
        (*of_others, "they are of other machines"),
        (*withheld, "no verified backup holds them"),
    ] {
        if count > 0 {
            writeln!(output, "stay      {count} origins without rows: {why}")?;
        }
    }
    Ok(())
}

fn show_table(table: &TableTtl, output: &mut impl Write) -> std::io::Result<()> {
    let TableTtl { table, found_s, wanted_s, state } = table;
    match state {
        None => Ok(()),
        Some(State::Failed(why)) => {
            writeln!(output, "FAILED time to live of {table}, {found_s} s to {wanted_s} s: {why}")
        }
        Some(State::Done) => {
            writeln!(output, "time to live of {table}: {wanted_s} s, was {found_s} s")
        }
        Some(State::Planned | State::Withheld(_)) => {
            writeln!(output, "time to live of {table}: {found_s} s would become {wanted_s} s")
        }
    }
}

fn show_item(item: &Item, output: &mut impl Write) -> std::io::Result<()> {
    let (word, why) = match &item.state {
        State::Planned => ("would go", None),
        State::Done => ("gone", None),
        State::Withheld(why) => ("withheld", Some(why)),
        State::Failed(why) => ("FAILED", Some(why)),
    };
    let kind = match item.kind {
        Kind::DayFile => "day file",
        Kind::Rows => "rows",
        Kind::Partitions => "partitions",
        Kind::HealthChecks => "health checks",
    };
    write!(output, "{word:<9} {kind}")?;
    if let Some(day) = item.day {
        write!(output, " {}", date_of(day))?;
    }
    if let (Some(table), Some(source)) = (item.table, &item.source) {
        write!(output, " {} {}", table.name(), source)?;
    }
    write!(output, ": {} rows", item.rows)?;
    if let Some(bytes) = item.bytes {
        write!(output, ", {bytes} bytes")?;
    }
    if let (Some(oldest), Some(newest)) = (item.oldest_ms, item.newest_ms) {
        write!(output, ", {} to {}", time(oldest), time(newest))?;
    }
    write!(output, " ({})", item.policy)?;
    match why {
        Some(why) => writeln!(output, ": {why}"),
        None => writeln!(output),
    }
}

fn time(at_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(at_ms).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
