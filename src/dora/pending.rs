//! Phases that could not be recorded when they ended: a file each in the state directory, until a
//! later command records them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use uuid::Uuid;

use super::events::Phase;
use super::json::{self, Object};
use super::{DoraError, DoraStore};
use crate::durable;

const DIR: &str = "dora-pending";

/// What became of the phases that waited.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// So many are recorded.
    pub recorded: usize,
    /// Files that hold none, or one that the database refuses: set aside, with the reason.
    pub set_aside: Vec<(PathBuf, String)>,
}

/// Keeps a phase for later; answers where.
///
/// # Errors
///
/// What the system says.
pub fn keep(state_dir: &Path, phase: &Phase) -> io::Result<PathBuf> {
    let dir = state_dir.join(DIR);
    durable::create_dir(&dir)?;
    let path = dir.join(format!("{}.json", Uuid::new_v4()));
    durable::replace(&path, json::phase_json(phase).to_string().as_bytes())?;
    // as the directory's owner may be somebody else, who records it; if it cannot be, root does
    drop(durable::own_like(state_dir, &dir));
    drop(durable::own_like(state_dir, &path));
    Ok(path)
}

/// The files that wait, oldest name first; none where there is no directory, or none of ours.
fn waiting(state_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(state_dir.join(DIR)) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    files
}

/// Records what waits. It may be done twice and by two at once: a phase is known by its request.
///
/// # Errors
///
/// The database does not answer; what is not recorded goes on waiting.
pub async fn flush(store: &dyn DoraStore, state_dir: &Path) -> Result<Flushed, DoraError> {
    let mut flushed = Flushed::default();
    for path in waiting(state_dir) {
        let text = match fs::read(&path) {
            Ok(text) => text,
            // another command has recorded it
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                flushed.set_aside.push((path, error.to_string()));
                continue;
            }
        };
        let done = match read(&text) {
            Ok(phase) => record(store, phase).await,
            Err(reason) => Err(DoraError::Invalid(reason)),
        };
        match done {
            Ok(_) => {
                flushed.recorded += 1;
                drop(fs::remove_file(&path));
            }
            Err(error @ (DoraError::Invalid(_) | DoraError::Strange { .. })) => {
                let aside = path.with_extension("refused");
                let kept = durable::rename(&path, &aside).map_or(path, |()| aside);
                flushed.set_aside.push((kept, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(flushed)
}

fn read(text: &[u8]) -> Result<Phase, String> {
    let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Object::new(&value, "")
        .and_then(|object| json::phase(&object))
        .map_err(|refused| format!("{} {}", refused.path, refused.reason))
}

/// Records a phase that has just ended, under the next free millisecond of its cycle; answers it
/// as it is recorded. Without a feature it gets that of its cycle, else the cycle's name.
///
/// # Errors
///
/// The database's.
pub async fn record(store: &dyn DoraStore, mut phase: Phase) -> Result<Phase, DoraError> {
    if phase.feature_id.is_empty() {
        let earlier = store.cycle(&phase.cycle_id).await?;
        let feature = earlier.into_iter().next_back().map(|last| last.feature_id);
        phase.feature_id = feature.unwrap_or_else(|| phase.cycle_id.clone());
    }
    loop {
        if store.add_phases(std::slice::from_ref(&phase)).await?.first() == Some(&true) {
            return Ok(phase);
        }
        let there = store.cycle(&phase.cycle_id).await?;
        let same = |one: &&Phase| one.name == phase.name && one.created_ms == phase.created_ms;
        let request = phase.metadata.get("request_id");
        if request.is_some()
            && there.iter().find(same).is_some_and(|one| one.metadata.get("request_id") == request)
        {
            return Ok(phase);
        }
        let taken =
            |at: i64| there.iter().any(|one| one.name == phase.name && one.created_ms == at);
        phase.created_ms += 1;
        while taken(phase.created_ms) {
            phase.created_ms += 1;
        }
    }
}
