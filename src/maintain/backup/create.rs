//! `create`: one archive of everything that is asked for.

use std::path::{Path, PathBuf};

use super::archive::ArchiveWriter;
use super::manifest::{FORMAT, Manifest, PartRecord};
use super::names::{Name, Scratch, partial};
use super::parts::{Making, Wanted};
use super::{BackupError, lock};
use crate::config::{Compression, Config};

/// How often a part is made before it counts as failed: what it copies may change meanwhile.
const TRIES: u32 = 3;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Where it was read, for part `config`.
    pub config_path: &'a Path,
    /// Another compression than that of the configuration.
    pub compression: Option<Compression>,
    /// The time, asked several times.
    pub clock: fn() -> i64,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Created {
    /// The archive.
    pub path: PathBuf,
    /// What is in it. A part that failed says why, and the archive is then not complete: it has
    /// its name and can be restored from, but never counts as verified.
    pub manifest: Manifest,
}

/// The names and kinds of the parts that would be made.
#[must_use]
pub fn wanted(config: &Config) -> Vec<(&str, &'static str)> {
    let all = Wanted::all(&config.backup);
    all.iter().map(|part| (part.name(), part.kind(config))).collect()
}

/// Makes an archive. `told` hears of each part when it is done.
///
/// # Errors
///
/// Another run is at work, or the archive cannot be written; there is none then, and older ones
/// are as they were.
pub fn create(
    request: &Request<'_>,
    told: &mut dyn FnMut(&PartRecord),
) -> Result<Created, BackupError> {
    let (config, dir) = (request.config, &request.config.backup.dir);
    let _lock = lock(dir)?;
    let compression = request.compression.unwrap_or(config.backup.compression);
    let begun_ms = (request.clock)();
    let name = Name::free(dir, begun_ms, compression);
    let mut manifest = Manifest {
        format: FORMAT,
        archive: name.text(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        host: config.daemon.host.clone(),
        // not the name's time, which may be later where a name was taken
        begun_ms,
        ended_ms: 0,
        complete: true,
        parts: Vec::new(),
    };
    let mut writer = ArchiveWriter::create(&partial(dir, &name.text()), compression)?;
    for part in Wanted::all(&config.backup) {
        let record = make(&mut writer, part, request)?;
        told(&record);
        manifest.complete &= record.failed.is_none();
        manifest.parts.push(record);
    }
    manifest.ended_ms = (request.clock)();
    let path = dir.join(name.text());
    writer.finish(&manifest, &path)?;
    Ok(Created { path, manifest })
}

fn make(
    writer: &mut ArchiveWriter,
    part: Wanted<'_>,
    request: &Request<'_>,
) -> Result<PartRecord, BackupError> {
    let config = request.config;
    let mut tries = 0;
    loop {
        tries += 1;
        let mut record = PartRecord {
            name: part.name().to_owned(),
            kind: part.kind(config).to_owned(),
            begun_ms: (request.clock)(),
            ..PartRecord::default()
        };
        let scratch = Scratch::new(&config.backup.dir)?;
        let mut frame = writer.frame()?;
        let mut making = Making { frame: &mut frame, scratch: &scratch, record: &mut record };
        let made = part.copy(&mut making, config, request.config_path);
        let made = match made {
            Ok(()) => frame.finish(),
            Err(error) => Err(error),
        };
        record.ended_ms = (request.clock)();
        match made {
            Ok((at, length, files)) => {
                (record.at, record.length, record.files) = (at, length, files);
                return Ok(record);
            }
            Err(error) if error.ends_all() => return Err(error),
            Err(BackupError::Source(_)) if tries < TRIES => {}
            Err(error) => {
                record.failed = Some(error.to_string());
                record.days.clear();
                return Ok(record);
            }
        }
    }
}
