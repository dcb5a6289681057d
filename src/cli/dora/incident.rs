//! `bitacora dora incident`: what users saw go wrong, for on-call.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use uuid::Uuid;

use super::{at, metadata, pair, store, store_for};
use crate::cli::exit;
use crate::cli::store::runtime;
use crate::config::{Config, Machine};
use crate::dora::events::Incident;
use crate::dora::{api, json};

/// Arguments of `bitacora dora incident`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with an incident.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Record that it began, and print its id
    Open(Open),
    /// Record that service is restored
    Close(Close),
}

/// Arguments of `bitacora dora incident open`.
#[derive(Debug, clap::Args)]
pub struct Open {
    /// Its name, such as the ticket's; a random one by default
    #[arg(long)]
    pub id: Option<String>,
    /// The service that users miss
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub service: String,
    /// Whose it is
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub team: String,
    /// The deployment that caused it, if one did
    #[arg(long, value_name = "ID")]
    pub deployment: Option<String>,
    /// What users see, in one sentence
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub summary: String,
    /// When it began, as `bitacora logs --since` takes it; now by default
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub at: Option<String>,
    /// A further fact; again for more
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub metadata: Vec<(String, String)>,
    /// Say what would be recorded, and record nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `bitacora dora incident close`.
#[derive(Debug, clap::Args)]
pub struct Close {
    /// Which incident
    pub id: String,
    /// When service was restored, as `bitacora logs --since` takes it; now by default
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub at: Option<String>,
    /// Say what would be recorded, and record nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Does what is asked.
///
/// # Errors
///
/// A value cannot be, or the database cannot be used.
pub fn run(args: &Args, config: &Path, output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    match &args.action {
        Action::Open(args) => open(args, &config, output),
        Action::Close(args) => close(args, &config, output),
    }
}

fn open(args: &Open, config: &Config, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let incident = Incident {
        id: args.id.clone().unwrap_or_else(|| Uuid::new_v4().to_string()),
        service: args.service.clone(),
        team: args.team.clone(),
        deployment: args.deployment.clone(),
        summary: args.summary.clone(),
        opened_ms: at(args.at.as_deref())?,
        closed_ms: None,
        metadata: metadata(&args.metadata)?,
    };
    incident.check()?;
    if args.dry_run {
        writeln!(output, "would be recorded: {}", json::incident_json(&incident))?;
        return Ok(ExitCode::SUCCESS);
    }
    runtime()?.block_on(async {
        let store = store(config).await?;
        if !store.open_incident(&incident).await? {
            eprintln!("there is an incident {} already; it stays as it is", incident.id);
        }
        if let Some(id) = &incident.deployment
            && store.deployment(id).await?.is_none()
        {
            eprintln!(
                "no deployment {id} is recorded so far; without it the incident counts for none"
            );
        }
        writeln!(output, "{}", incident.id)?;
        anyhow::Ok(ExitCode::SUCCESS)
    })
}

fn close(args: &Close, config: &Config, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let at_ms = at(args.at.as_deref())?;
    let not_clean = ExitCode::from(exit::NOT_CLEAN);
    runtime()?.block_on(async {
        let store = store_for(config, args.dry_run).await?;
        if args.dry_run {
            let found = store.incident(&args.id).await?;
            let open = found.is_some_and(|one| one.closed_ms.is_none() && one.opened_ms <= at_ms);
            if !open {
                eprintln!("{} is no open incident of that time", args.id);
                return Ok(not_clean);
            }
            writeln!(output, "{} would be closed at {}", args.id, json::time_text(at_ms))?;
            return Ok(ExitCode::SUCCESS);
        }
        if store.close_incident(&args.id, at_ms).await? {
            writeln!(output, "{} is closed at {}", args.id, json::time_text(at_ms))?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(reason) = api::not_closed(&*store, &args.id).await? {
            eprintln!("{reason}");
            return Ok(not_clean);
        }
        writeln!(output, "{} is closed already; its time stays", args.id)?;
        anyhow::Ok(ExitCode::SUCCESS)
    })
}
