//! `bitacora backup`: makes archives, reads them again, and ends old ones.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::exit;
use crate::config::{Compression, Config, Machine};
use crate::daemon::wall_ms;
use crate::maintain::backup::{
    self, Action as Pruned, Archive, ArchiveReader, BackupError, PartRecord, Request, Verdict,
};

const AFTER_HELP: &str = "\
`create` writes one archive of everything that [backup] names, reads all of it again, and notes
that beside it: only an archive with this note is good. A part that fails does not stop the
others; the archive then keeps its name, says which part it lacks, and never counts as good.

Archives are not encrypted. Directory and file are for this user and its group alone; to send
them elsewhere, pipe them through a tool such as age or gpg.

Exits with 0 if all is well, 1 if a part failed or is damaged or there is nothing, 74 if the disk
is full, 75 if another backup, drill or restore is at work.";

/// Arguments of `bitacora backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with archives.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Make an archive and verify it
    Create {
        /// Another compression than that of the configuration
        #[arg(long, value_enum)]
        compression: Option<Compressed>,
        /// Do not read the archive again; it then does not count as good yet
        #[arg(long)]
        no_verify: bool,
        /// End old archives afterwards, if this one is good
        #[arg(long)]
        prune: bool,
        /// Say what would go into it, and make nothing
        #[arg(long)]
        dry_run: bool,
        /// Answer as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List archives, oldest first
    List {
        /// Answer as one JSON object an archive
        #[arg(long)]
        json: bool,
    },
    /// Read an archive again and compare all of it with its manifest
    Verify {
        /// Its path, or its name in [backup] dir; the newest without
        archive: Option<PathBuf>,
        /// Note nothing beside it: what counted as good still does, what did not does not
        #[arg(long)]
        dry_run: bool,
        /// Answer as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// End archives and parts that are older than they are kept for
    Prune {
        /// Say what would go, and delete nothing
        #[arg(long)]
        dry_run: bool,
        /// Answer as one JSON object a deletion
        #[arg(long)]
        json: bool,
    },
}

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Compressed {
    /// .tar.zst
    Zstd,
    /// .tar.gz
    Gzip,
}

/// Does what is asked.
///
/// # Errors
///
/// The configuration is wrong, or an archive cannot be read or written.
pub fn run(args: &Args, path: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(path, &Machine::here())?;
    match &args.action {
        Action::Create { dry_run: true, json, .. } => would_create(&config, *json, &mut output),
        Action::Create { compression, no_verify, prune, json, .. } => {
            let compression = compression.map(|compression| match compression {
                Compressed::Zstd => Compression::Zstd,
                Compressed::Gzip => Compression::Gzip,
            });
            let config_path = path;
            let request = Request { config: &config, config_path, compression, clock: wall_ms };
            create(&request, !no_verify, *prune, *json, &mut output)
        }
        Action::List { json } => list(&config, *json, &mut output),
        Action::Verify { archive, dry_run, json } => {
            verify(&config, archive.as_deref(), *dry_run, *json, &mut output)
        }
        Action::Prune { dry_run, json } => prune(&config, *dry_run, *json, &mut output),
    }
}

fn would_create(
    config: &Config,
    as_json: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let dir = &config.backup.dir;
    let parts = backup::wanted(config);
    if as_json {
        let parts: Vec<_> =
            parts.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
        writeln!(output, "{}", json!({"dir": dir, "parts": parts}))?;
    } else {
        for (name, kind) in parts {
            writeln!(output, "{name} ({kind})")?;
        }
        writeln!(output, "would go into an archive in {}; nothing was made", dir.display())?;
    }
    Ok(ExitCode::from(exit::DONE))
}

fn create(
    request: &Request<'_>,
    verify: bool,
    prune: bool,
    as_json: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let created = backup::create(request, &mut |part| {
        if !as_json {
            show_part(part, output).unwrap_or(());
        }
    })?;
    let verdict = if verify { Some(backup::verify(&created.path, wall_ms())?) } else { None };
    let intact = verdict.as_ref().is_none_or(Verdict::intact);
    let well = created.manifest.complete && intact;
    if as_json {
        let verified = verdict.as_ref().and_then(|verdict| verdict.verified.as_ref());
        let said = json!({
            "archive": created.path,
            "complete": created.manifest.complete,
            "verified": verified.is_some(),
            "manifest": created.manifest,
        });
        writeln!(output, "{said}")?;
    } else {
        if let Some(verdict) = &verdict {
            show_faults(verdict, output)?;
        }
        let word = match (well, verify) {
            (true, true) => "good",
            (true, false) => "complete, not verified",
            (false, _) if intact => "INCOMPLETE: it does not count as good",
            (false, _) => "DAMAGED: it does not count as good",
        };
        writeln!(output, "{}: {word}", created.path.display())?;
    }
    if prune && well && verify {
        backup::apply_prune(&request.config.backup, wall_ms(), &mut |done| {
            if !as_json {
                writeln!(output, "{}", words(done, true)).unwrap_or(());
            }
        })?;
    }
    Ok(ExitCode::from(if well { exit::DONE } else { exit::NOT_CLEAN }))
}

fn show_part(part: &PartRecord, output: &mut impl Write) -> std::io::Result<()> {
    if let Some(why) = &part.failed {
        writeln!(output, "{:<12} FAILED: {why}", part.name)?;
    } else {
        let (files, bytes, rows) = (part.files.len(), part.bytes(), part.rows());
        let ms = part.ended_ms - part.begun_ms;
        writeln!(output, "{:<12} {files} files, {bytes} bytes, {rows} rows, {ms} ms", part.name)?;
    }
    part.notes.iter().try_for_each(|note| writeln!(output, "{:<12} note: {note}", ""))
}

/// What the files beside an archive and its manifest say, in one word.
fn word(archive: &Archive) -> &'static str {
    if archive.verified.is_some() {
        return if archive.drilled.is_some() { "drilled" } else { "verified" };
    }
    match ArchiveReader::open(&archive.path) {
        Ok(reader) if reader.manifest().complete => "unverified",
        Ok(_) => "incomplete",
        Err(_) => "damaged",
    }
}

fn parts(archive: &Archive) -> Vec<String> {
    if let Some(verified) = &archive.verified {
        return verified.parts.iter().map(|part| part.name.clone()).collect();
    }
    let there = |reader: ArchiveReader| {
        let parts = reader.manifest().parts.iter().filter(|part| part.is_there());
        parts.map(|part| part.name.clone()).collect()
    };
    ArchiveReader::open(&archive.path).map(there).unwrap_or_default()
}

fn list(config: &Config, as_json: bool, output: &mut impl Write) -> anyhow::Result<ExitCode> {
    let archives = backup::list(&config.backup.dir)?;
    let now_ms = wall_ms();
    for archive in &archives {
        let (state, parts) = (word(archive), parts(archive));
        if as_json {
            let said = json!({
                "archive": archive.name,
                "path": archive.path,
                "begun_ms": archive.begun_ms,
                "bytes": archive.bytes,
                "state": state,
                "good": archive.verified.is_some(),
                "parts": parts,
                "verified_ms": archive.verified.as_ref().map(|one| one.verified_ms),
                "drilled_ms": archive.drilled.as_ref().map(|one| one.drilled_ms),
            });
            writeln!(output, "{said}")?;
        } else {
            let (name, bytes) = (&archive.name, archive.bytes);
            let age = age(now_ms - archive.begun_ms);
            writeln!(output, "{name}  {age:>7} {bytes:>14}  {state:<10}  {}", parts.join(" "))?;
        }
    }
    if archives.is_empty() && !as_json {
        eprintln!("there is no archive in {}", config.backup.dir.display());
    }
    Ok(ExitCode::from(if archives.is_empty() { exit::NOT_CLEAN } else { exit::DONE }))
}

fn age(ms: i64) -> String {
    let minutes = ms.max(0) / 60_000;
    match minutes {
        0..120 => format!("{minutes}min"),
        120..2880 => format!("{}h", minutes / 60),
        _ => format!("{}d", minutes / 1440),
    }
}

fn verify(
    config: &Config,
    given: Option<&Path>,
    dry_run: bool,
    as_json: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let archive = match given {
        Some(_) => backup::find(&config.backup.dir, given)?,
        None => backup::list(&config.backup.dir)?.pop().ok_or_else(|| {
            let dir = config.backup.dir.display();
            BackupError::NotFound(format!("there is no archive in {dir}"))
        })?,
    };
    let verdict = if dry_run {
        backup::examine(&archive.path, &archive.name, wall_ms())?
    } else {
        backup::verify(&archive.path, wall_ms())?
    };
    let good = verdict.verified.is_some();
    if as_json {
        let parts: Vec<_> = verdict
            .parts
            .iter()
            .map(|part| json!({"name": part.part, "fault": part.fault}))
            .collect();
        let said = json!({
            "archive": archive.path,
            "good": good,
            "complete": verdict.manifest.complete,
            "parts": parts,
        });
        writeln!(output, "{said}")?;
    } else {
        show_faults(&verdict, output)?;
        for part in verdict.manifest.parts.iter().filter(|part| part.failed.is_some()) {
            show_part(part, output)?;
        }
        let word = match (good, verdict.intact()) {
            (true, _) => "good",
            (false, true) => "INCOMPLETE: what it holds is in order",
            (false, false) => "DAMAGED",
        };
        writeln!(output, "{}: {word}", archive.path.display())?;
    }
    Ok(ExitCode::from(if good { exit::DONE } else { exit::NOT_CLEAN }))
}

fn show_faults(verdict: &Verdict, output: &mut impl Write) -> std::io::Result<()> {
    let faults = verdict.parts.iter().filter_map(|part| part.fault.as_ref());
    faults.into_iter().try_for_each(|fault| writeln!(output, "{fault}"))
}

fn prune(
    config: &Config,
    dry_run: bool,
    as_json: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let mut show = |action: &Pruned| {
        let said = if as_json { object(action).to_string() } else { words(action, !dry_run) };
        writeln!(output, "{said}").unwrap_or(());
    };
    if dry_run {
        backup::plan_prune(&config.backup, wall_ms())?.iter().for_each(&mut show);
    } else {
        backup::apply_prune(&config.backup, wall_ms(), &mut show)?;
    }
    Ok(ExitCode::from(exit::DONE))
}

fn words(action: &Pruned, done: bool) -> String {
    let would = if done { "" } else { "would be " };
    match action {
        Pruned::Delete { archive, bytes } => {
            format!("{}: {would}deleted, {bytes} bytes", archive.display())
        }
        Pruned::Rewrite { archive, without } => {
            format!("{}: {would}made anew without {}", archive.display(), without.join(", "))
        }
        Pruned::Tidy { note } => format!("{}: {would}deleted, its archive is gone", note.display()),
    }
}

fn object(action: &Pruned) -> serde_json::Value {
    match action {
        Pruned::Delete { archive, bytes } => {
            json!({"action": "delete", "path": archive, "bytes": bytes})
        }
        Pruned::Rewrite { archive, without } => {
            json!({"action": "rewrite", "path": archive, "without": without})
        }
        Pruned::Tidy { note } => json!({"action": "tidy", "path": note}),
    }
}
