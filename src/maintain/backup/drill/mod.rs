//! `restore --drill`: shows that an archive can be loaded, by loading it into scratch databases
//! and comparing what is there with the manifest. Nothing of this host is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::catalog::{Archive, DRILLED, Drilled, DrilledPart, Outcome, put_beside};
use super::manifest::{FileRecord, Manifest, PartRecord};
use super::names::Scratch;
use super::parts::{SCRATCH, logs, mysql, postgresql, sqlite, tool};
use super::reader::ArchiveReader;
use super::restore::{Place, load_postgresql, unpack};
use super::{BackupError, lock, waited};
use crate::config::{Config, Database, DatabaseKind};
use crate::maintain::audit;
use crate::stores::sqlite::SqliteReader;

mod cassandra;
mod sample;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Drill<'a> {
    /// The configuration of this host: its servers hold the scratch databases.
    pub config: &'a Config,
    /// The archive.
    pub archive: &'a Archive,
    /// These parts; empty for all.
    pub parts: &'a [String],
    /// Load so many day files, others each time; `None` for all.
    pub sample: Option<usize>,
    /// The time.
    pub now_ms: i64,
}

/// Loads an archive. If no part fails and one at least was loaded, this is noted beside it.
///
/// # Errors
///
/// Another run is at work, a part is not in it, or there is no room.
pub fn drill(
    asked: &Drill<'_>,
    told: &mut dyn FnMut(&DrilledPart),
) -> Result<Drilled, BackupError> {
    let _lock = lock(&asked.config.backup.dir)?;
    let reader = ArchiveReader::open(&asked.archive.path)?;
    let mut drilled = Drilled {
        archive: asked.archive.name.clone(),
        drilled_ms: asked.now_ms,
        parts: Vec::new(),
    };
    for part in wanted(asked, reader.manifest())? {
        let done = match one(asked, &reader, part) {
            Ok(done) => done,
            Err(error) if error.ends_all() => return Err(error),
            Err(error) => (Outcome::Failed, error.to_string()),
        };
        let done = DrilledPart { name: part.name.clone(), outcome: done.0, detail: done.1 };
        told(&done);
        drilled.parts.push(done);
    }
    let is = |outcome| move |part: &DrilledPart| part.outcome == outcome;
    let failed = drilled.parts.iter().any(is(Outcome::Failed));
    if !failed && asked.parts.is_empty() && drilled.parts.iter().any(is(Outcome::Loaded)) {
        put_beside(&asked.archive.path, DRILLED, &drilled)?;
    }
    Ok(drilled)
}

/// The parts that a drill would load, as far as this host has a place for them.
///
/// # Errors
///
/// The archive cannot be read, or a part is not in it.
pub fn would_load(asked: &Drill<'_>) -> Result<Vec<PartRecord>, BackupError> {
    let reader = ArchiveReader::open(&asked.archive.path)?;
    Ok(wanted(asked, reader.manifest())?.into_iter().cloned().collect())
}

fn wanted<'a>(
    asked: &Drill<'_>,
    manifest: &'a Manifest,
) -> Result<Vec<&'a PartRecord>, BackupError> {
    if let Some(name) = asked.parts.iter().find(|name| manifest.part(name).is_none()) {
        return Err(manifest.lacks(&asked.archive.path, name));
    }
    let parts = manifest.parts.iter().filter(|part| part.is_there());
    Ok(parts.filter(|part| asked.parts.is_empty() || asked.parts.contains(&part.name)).collect())
}

type Done = (Outcome, String);

fn one(asked: &Drill<'_>, reader: &ArchiveReader, part: &PartRecord) -> Result<Done, BackupError> {
    if part.kind == "cassandra" {
        return cassandra::load(asked, reader, part);
    }
    let scratch = Scratch::new(&asked.config.backup.dir)?;
    let chosen = days(part, asked);
    unpack(reader, part, scratch.dir(), &mut |file| chosen.contains(file.path.as_str()))?;
    let files = part.files.iter().filter(|file| chosen.contains(file.path.as_str()));
    let files: Vec<&FileRecord> = files.collect();
    if files.is_empty() {
        return Ok((Outcome::Skipped, "it is empty".into()));
    }
    if let Ok(Place::Server(database)) = Place::of(part, asked.config)
        && !database.drill.is_empty()
    {
        return give_to_command(&database, &scratch, &files);
    }
    match part.kind.as_str() {
        "sqlite" => load_sqlite(asked, part, &scratch, &files),
        "mysql" => match Place::of(part, asked.config) {
            Ok(Place::Dora(server, _)) => load_mysql(&server, &scratch, &files),
            Ok(Place::Server(database)) => {
                load_mysql(&mysql::Server::of(&database), &scratch, &files)
            }
            _ => Ok((Outcome::Skipped, "this host's configuration has no server for it".into())),
        },
        "postgresql" => match Place::of(part, asked.config) {
            Ok(Place::Server(database)) if database.kind == DatabaseKind::Postgresql => {
                load_postgresql_files(&database, &scratch, &files)
            }
            _ => Ok((Outcome::Skipped, "this host's configuration has no server for it".into())),
        },
        "mongodb" | "command" => {
            let why = "read whole; its [[backup.database]] names no command of its own for a drill";
            Ok((Outcome::Skipped, why.into()))
        }
        _ => Ok((Outcome::Loaded, format!("{} files unpacked, checksums equal", files.len()))),
    }
}

/// Which files are loaded: of days as many as asked for, others each time; of the rest all.
fn days<'a>(part: &'a PartRecord, asked: &Drill<'_>) -> BTreeSet<&'a str> {
    let is_day = |path: &str| path.strip_prefix("logs/").and_then(logs::day_of).is_some();
    let days = part.files.iter().filter(|file| is_day(&file.path)).count();
    let wanted = asked.sample.unwrap_or(days).min(days);
    let first = usize::try_from(asked.now_ms / 1000).unwrap_or(0) % days.max(1);
    let mut at = 0;
    let mut chosen = BTreeSet::new();
    for file in &part.files {
        let is_day = is_day(&file.path);
        if !is_day || (at + days - first) % days < wanted {
            chosen.insert(file.path.as_str());
        }
        at += usize::from(is_day);
    }
    chosen
}

/// Says where counts differ.
fn compare(
    name: &str,
    expected: &BTreeMap<String, u64>,
    found: &BTreeMap<String, u64>,
) -> Result<u64, String> {
    for (table, rows) in expected {
        match found.get(table) {
            Some(loaded) if loaded == rows => {}
            Some(loaded) => {
                return Err(format!("{name}: {table} has {loaded} rows, the manifest says {rows}"));
            }
            None => return Err(format!("{name}: there is no table {table}")),
        }
    }
    Ok(expected.values().sum())
}

fn load_sqlite(
    asked: &Drill<'_>,
    part: &PartRecord,
    scratch: &Scratch,
    files: &[&FileRecord],
) -> Result<Done, BackupError> {
    let mut rows = 0;
    for file in files {
        let checked = sqlite::check(&scratch.path(&file.path))
            .and_then(|found| compare(&file.path, &file.rows, &found));
        match checked {
            Ok(counted) => rows += counted,
            Err(why) => return Ok((Outcome::Failed, format!("{}: {why}", file.path))),
        }
    }
    let mut told = format!("{} databases sound, {rows} rows as in the manifest", files.len());
    if part.name == "logs" && files.len() == part.files.len() {
        if !audited(&scratch.path("logs"), asked.now_ms)? {
            return Ok((Outcome::Failed, "the audit of the loaded rows is not clean".into()));
        }
        told.push_str(", audit clean");
    }
    Ok((Outcome::Loaded, told))
}

fn audited(dir: &Path, now_ms: i64) -> Result<bool, BackupError> {
    let reader = SqliteReader::new(dir.to_owned());
    Ok(waited("audit", audit::audit(&reader, now_ms))?.report.clean())
}

/// A name that no database has.
fn scratch_name() -> String {
    format!("{}{}", SCRATCH, uuid::Uuid::new_v4().simple())
}

/// What the site's own command thinks of each file.
fn give_to_command(
    database: &Database,
    scratch: &Scratch,
    files: &[&FileRecord],
) -> Result<Done, BackupError> {
    for file in files {
        let (program, mut command) = tool::split(&database.drill)?;
        tool::feed(&program, &mut command, &scratch.path(&file.path))?;
    }
    let program = database.drill.first().map_or("", String::as_str);
    Ok((Outcome::Loaded, format!("{} files taken by {program}", files.len())))
}

fn load_mysql(
    server: &mysql::Server,
    scratch: &Scratch,
    files: &[&FileRecord],
) -> Result<Done, BackupError> {
    let mut rows = 0;
    for file in files {
        let name = scratch_name();
        let quoted = mysql::name(&name);
        if let Err(error) = server.ask(scratch, &format!("CREATE DATABASE {quoted}")) {
            return Ok((Outcome::Skipped, format!("no scratch database: {error}")));
        }
        let loaded = server.load(scratch, Some(&name), &scratch.path(&file.path));
        let counted = loaded.and_then(|()| {
            let mut found = BTreeMap::new();
            for table in file.rows.keys() {
                let sql = format!("SELECT count(*) FROM {quoted}.{}", mysql::name(table));
                let rows = server.ask(scratch, &sql)?.trim().parse().unwrap_or(0);
                found.insert(table.clone(), rows);
            }
            Ok(found)
        });
        server.ask(scratch, &format!("DROP DATABASE {quoted}"))?;
        match compare(&file.path, &file.rows, &counted?) {
            Ok(counted) => rows += counted,
            Err(why) => return Ok((Outcome::Failed, why)),
        }
    }
    Ok((Outcome::Loaded, format!("{} dumps loaded, {rows} rows as in the manifest", files.len())))
}

fn load_postgresql_files(
    database: &Database,
    scratch: &Scratch,
    files: &[&FileRecord],
) -> Result<Done, BackupError> {
    let mut rows = 0;
    for file in files {
        if file.path.ends_with("/all.sql") {
            let why = "a dump of a whole server; name databases, or a command for a drill";
            return Ok((Outcome::Skipped, why.into()));
        }
        let name = scratch_name();
        let mut create = postgresql::command("createdb", database, scratch)?;
        if let Err(error) = tool::ask("createdb", create.arg(&name)) {
            return Ok((Outcome::Skipped, format!("no scratch database: {error}")));
        }
        let loaded = load_postgresql(database, scratch, &name, &scratch.path(&file.path), false);
        let counted = loaded.and_then(|()| {
            let mut found = BTreeMap::new();
            for table in file.rows.keys() {
                // a name as pg_dump writes it is quoted where it has to be
                let sql = format!("SELECT count(*) FROM {table}");
                let said = postgresql::ask(database, scratch, &name, &sql)?;
                found.insert(table.clone(), said.trim().parse().unwrap_or(0));
            }
            Ok(found)
        });
        let mut drop = postgresql::command("dropdb", database, scratch)?;
        tool::ask("dropdb", drop.arg(&name))?;
        match compare(&file.path, &file.rows, &counted?) {
            Ok(counted) => rows += counted,
            Err(why) => return Ok((Outcome::Failed, why)),
        }
    }
    Ok((Outcome::Loaded, format!("{} dumps loaded, {rows} rows as in the manifest", files.len())))
}
