//! `bitacora restore`: brings an archive back, or shows in a drill that this would work.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::exit::{self, Refusal};
use crate::config::{Config, LoadError, Machine};
use crate::daemon::wall_ms;
use crate::maintain::backup::{self, Archive, Drill, DrilledPart, Outcome, Restore, Restored};

const AFTER_HELP: &str = "\
Each part goes to where the configuration of this host has it: on a fresh server, put the
configuration there first (`bitacora restore ARCHIVE --part config --to DIR` unpacks it), then
the files of its secrets, which no archive holds, and for Cassandra the tables (`bitacora schema
apply`). Stop the daemon. Everything is unpacked and compared with the manifest before anything
takes its place.

A dump of a database is a program: restore only archives that you trust. That an archive was
verified says that it is whole, not who made it.

Exits with 0 if all is done, 1 if the archive is damaged or a drill failed, 2 if --unverified or
--overwrite is needed, 69 if a database refuses, 75 if the daemon runs.";

/// Arguments of `bitacora restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
#[allow(clippy::struct_excessive_bools)] // switches of a command line
pub struct Args {
    /// Its path, or its name in [backup] dir; the newest verified one without
    pub archive: Option<PathBuf>,
    /// Only this part; may be given again
    #[arg(long = "part", value_name = "NAME")]
    pub parts: Vec<String>,
    /// Load it into scratch databases, compare, and leave everything as it is
    #[arg(long, conflicts_with_all = ["to", "overwrite"])]
    pub drill: bool,
    /// In a drill, load so many day files only; others each time
    #[arg(long, value_name = "N", requires = "drill")]
    pub sample: Option<usize>,
    /// Unpack into this directory, and load nothing
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Also an archive that was not verified
    #[arg(long)]
    pub unverified: bool,
    /// Also over what is there
    #[arg(long)]
    pub overwrite: bool,
    /// Say what would be restored or loaded, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Answer as one JSON object a part
    #[arg(long)]
    pub json: bool,
}

/// Restores, or drills.
///
/// # Errors
///
/// The configuration is wrong, the archive is damaged, or it is refused.
pub fn run(args: &Args, path: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = match Config::load(path, &Machine::here()) {
        // to unpack, nothing needs to be known of this host
        Err(LoadError::Missing { .. }) if args.to.is_some() && args.archive.is_some() => {
            Config::from_texts(&[], &Machine::here())
                .map_err(|problems| anyhow::anyhow!("{problems}"))?
        }
        config => config?,
    };
    let archive = backup::find(&config.backup.dir, args.archive.as_deref())?;
    if args.drill {
        return drill(args, &config, &archive, &mut output);
    }
    let asked = Restore {
        config: &config,
        archive: &archive,
        parts: &args.parts,
        to: args.to.as_deref(),
        unverified: args.unverified,
        overwrite: args.overwrite,
        dry_run: args.dry_run,
    };
    let restored = backup::restore(&asked, &mut |part| {
        if !args.dry_run {
            show(args, part, &mut output).unwrap_or(());
        }
    })?;
    if args.dry_run {
        restored.iter().try_for_each(|part| show(args, part, &mut output))?;
    }
    Ok(ExitCode::from(exit::DONE))
}

fn show(args: &Args, part: &Restored, output: &mut impl Write) -> std::io::Result<()> {
    let Restored { part, place, files, bytes, notes } = part;
    if args.json {
        let said = json!({
            "part": part, "place": place, "files": files, "bytes": bytes, "notes": notes,
            "restored": !args.dry_run,
        });
        return writeln!(output, "{said}");
    }
    let word = if args.dry_run { "would go to" } else { "is in" };
    writeln!(output, "{part}: {files} files, {bytes} bytes, {word} {place}")?;
    notes.iter().try_for_each(|note| writeln!(output, "  note: {note}"))
}

fn would_load(
    asked: &Drill<'_>,
    as_json: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    for part in backup::would_load(asked)? {
        let (name, kind, files, bytes) = (&part.name, &part.kind, part.files.len(), part.bytes());
        if as_json {
            let said = json!({"part": name, "kind": kind, "files": files, "bytes": bytes});
            writeln!(output, "{said}")?;
        } else {
            writeln!(output, "{name:<12} would be loaded: {kind}, {files} files, {bytes} bytes")?;
        }
    }
    Ok(ExitCode::from(exit::DONE))
}

fn drill(
    args: &Args,
    config: &Config,
    archive: &Archive,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    if archive.verified.is_none() && !args.unverified {
        let path = archive.path.display();
        let text = format!(
            "{path} was not verified: run `bitacora backup verify` first, or say --unverified"
        );
        return Err(Refusal::Usage(text).into());
    }
    let (parts, sample) = (&args.parts, args.sample);
    let asked = Drill { config, archive, parts, sample, now_ms: wall_ms() };
    if args.dry_run {
        return would_load(&asked, args.json, output);
    }
    let drilled = backup::drill(&asked, &mut |part| {
        let DrilledPart { name, outcome, detail } = part;
        let said = if args.json {
            json!({"part": name, "outcome": outcome, "detail": detail}).to_string()
        } else {
            let word = match outcome {
                Outcome::Loaded => "loaded",
                Outcome::Skipped => "skipped",
                Outcome::Failed => "FAILED",
            };
            format!("{name:<12} {word}: {detail}")
        };
        writeln!(output, "{said}").unwrap_or(());
    })?;
    let count = |outcome| drilled.parts.iter().filter(|part| part.outcome == outcome).count();
    let (loaded, failed) = (count(Outcome::Loaded), count(Outcome::Failed));
    let well = failed == 0 && loaded > 0;
    if !args.json {
        let word = if well { "can be restored" } else { "DRILL FAILED" };
        writeln!(output, "{}: {word}", archive.path.display())?;
    }
    Ok(ExitCode::from(if well { exit::DONE } else { exit::NOT_CLEAN }))
}
