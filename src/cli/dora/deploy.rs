//! `bitacora dora deploy`: a deployment to production.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use jiff::Zoned;
use uuid::Uuid;

use super::{at, metadata, pair, store, usage};
use crate::cli::store::runtime;
use crate::config::{Config, Machine};
use crate::dora::events::{Change, Deployment};
use crate::dora::json;
use crate::query::time;

const AFTER_HELP: &str = "\
Prints the deployment's id, for `bitacora dora incident open --deployment`. With an --id of its own
a job may be run again: what is recorded stays as it is.

Example:
  bitacora dora deploy --service shop --version 1.4 $(git log --format='--change %h=%cI' v1.3..v1.4)";

/// Arguments of `bitacora dora deploy`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What was deployed
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub service: String,
    /// Whose it is
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub team: String,
    /// Version or commit
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub version: String,
    /// The cycle that it ends
    #[arg(long, value_name = "ID")]
    pub cycle: Option<String>,
    /// A change that it brought and when that was committed; again for more
    #[arg(long, value_name = "ID=TIME")]
    pub change: Vec<String>,
    /// It was not planned: made to mend what users saw
    #[arg(long)]
    pub rework: bool,
    /// It could not be made
    #[arg(long)]
    pub failed: bool,
    /// Its name; a random one by default
    #[arg(long)]
    pub id: Option<String>,
    /// When it was in production, as `bitacora logs --since` takes it; now by default
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub at: Option<String>,
    /// A further fact; again for more
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub metadata: Vec<(String, String)>,
    /// Say what would be recorded, and record nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `ID=TIME`; an id may hold `=`, a time does not.
fn change(text: &str) -> anyhow::Result<Change> {
    let Some((id, word)) = text.rsplit_once('=').filter(|(id, _)| !id.is_empty()) else {
        return Err(usage(format!(
            "--change {text:?}: write ID=TIME, such as 3f2a=2026-11-22T07:00:00Z"
        )));
    };
    let committed_ms = time::read(word, &Zoned::now())
        .map_err(|error| usage(format!("--change {id}: {error}")))?;
    Ok(Change { id: id.to_owned(), committed_ms })
}

/// Records it.
///
/// # Errors
///
/// A value cannot be, or the database cannot be used.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    let deployment = Deployment {
        id: args.id.clone().unwrap_or_else(|| Uuid::new_v4().to_string()),
        cycle_id: args.cycle.clone(),
        service: args.service.clone(),
        team: args.team.clone(),
        version: args.version.clone(),
        deployed_ms: at(args.at.as_deref())?,
        succeeded: !args.failed,
        rework: args.rework,
        changes: args.change.iter().map(|text| change(text)).collect::<anyhow::Result<_>>()?,
        metadata: metadata(&args.metadata)?,
    };
    deployment.check()?;
    if args.dry_run {
        writeln!(output, "would be recorded: {}", json::deployment_json(&deployment))?;
        return Ok(ExitCode::SUCCESS);
    }
    runtime()?.block_on(async {
        let store = store(&config).await?;
        if !store.add_deployment(&deployment).await? {
            eprintln!("there is a deployment {} already; it stays as it is", deployment.id);
        }
        writeln!(output, "{}", deployment.id)?;
        anyhow::Ok(ExitCode::SUCCESS)
    })
}
