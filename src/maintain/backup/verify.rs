//! `verify`: reads everything of an archive again and compares it with the manifest.

use std::path::Path;

use super::catalog::{VERIFIED, Verified, VerifiedPart, beside_path, put_beside};
use super::reader::{ArchiveReader, Nobody};
use super::{BackupError, Manifest};

/// What is said of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its name.
    pub part: String,
    /// What is wrong; `None` if it is as the manifest says.
    pub fault: Option<String>,
}

/// What is said of an archive.
#[derive(Debug)]
pub struct Verdict {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Each part that is in it.
    pub parts: Vec<Finding>,
    /// Written beside the archive, if all is in order.
    pub verified: Option<Verified>,
}

impl Verdict {
    /// Whether all that it holds is as the manifest says.
    #[must_use]
    pub fn intact(&self) -> bool {
        self.parts.iter().all(|part| part.fault.is_none())
    }
}

/// Reads an archive whole. If it is in order and nothing failed when it was made, this is noted
/// beside it; if not, an older note is removed.
///
/// # Errors
///
/// It cannot be read at all, its manifest is damaged, or the note cannot be written.
pub fn verify(path: &Path, now_ms: i64) -> Result<Verdict, BackupError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let verdict = examine(path, &name, now_ms);
    match &verdict {
        Ok(Verdict { verified: Some(verified), .. }) => put_beside(path, VERIFIED, verified)?,
        Ok(_) | Err(BackupError::Damaged { .. }) => {
            let note = beside_path(path, VERIFIED);
            match std::fs::remove_file(&note) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(BackupError::write(&note, error));
                }
                _ => {}
            }
        }
        Err(_) => {}
    }
    verdict
}

/// The same without a note; `name` is the one that the archive has or will have.
///
/// # Errors
///
/// It cannot be read at all, or its manifest is damaged.
pub fn examine(path: &Path, name: &str, now_ms: i64) -> Result<Verdict, BackupError> {
    let reader = ArchiveReader::open(path)?;
    // what was just written is to come from the disk, and not from the memory that it came from
    let _ = rustix::fs::fadvise(reader.file(), 0, None, rustix::fs::Advice::DontNeed);
    let manifest = reader.manifest();
    let mut parts = Vec::new();
    for part in manifest.parts.iter().filter(|part| part.is_there()) {
        let fault = match reader.read_part(part, &mut Nobody) {
            Ok(()) => None,
            Err(BackupError::Damaged { detail, .. }) => Some(detail),
            Err(error) => return Err(error),
        };
        parts.push(Finding { part: part.name.clone(), fault });
    }
    let mut verdict = Verdict { manifest: manifest.clone(), parts, verified: None };
    if verdict.intact() && manifest.complete {
        let there = manifest.parts.iter().filter(|part| part.is_there());
        verdict.verified = Some(Verified {
            archive: name.to_owned(),
            created_ms: manifest.begun_ms,
            verified_ms: now_ms,
            bytes: reader.bytes(),
            sha256: reader.sha256()?,
            parts: there
                .map(|part| VerifiedPart {
                    name: part.name.clone(),
                    days: part.days.clone(),
                    kind: part.kind.clone(),
                    details: part.details.clone(),
                })
                .collect(),
        });
    }
    Ok(verdict)
}
