//! Retention ends origins: here a row's life is over as soon as it is stored, so that what is left
//! to go wrong is the origins themselves. In some histories only, so that the others stay as they
//! are.

use bitacora::daemon::recovery;
use bitacora::ledger::StoredOrigin;
use bitacora::maintain::retention::of_gone_files;
use bitacora::stores::Store;
use bitacora::stores::expired::EndedOrigin;

use super::daemon::{Broken, now};
use super::history::History;
use super::random::Random;

/// Runs now and then, beside the daemon or without it, which is told or not.
pub fn play(history: &mut History, seed: u64, action: usize) {
    if !seed.is_multiple_of(3) {
        return;
    }
    let mut random = Random::new(seed ^ 0x7e57_0000 ^ ((action as u64 + 1) << 32));
    if random.percent(25) {
        end(history, &mut random);
    }
    if random.percent(15) {
        forget(history);
    }
}

fn end(history: &mut History, random: &mut Random) {
    let ground = &history.ground;
    let stored = now(Store::origins(&*ground.store, None)).unwrap();
    let all: Vec<&StoredOrigin> = stored.iter().collect();
    // there is no state before the first start
    let found = of_gone_files(&ground.state_dir, &ground.sources, &stored, all.clone());
    let Ok(found) = found else { return };
    let gone = if ground.broken == Broken::EarlyEnds { all } else { found.gone };
    for origin in gone {
        // a run may be broken off
        if random.percent(10) {
            return;
        }
        let record = &origin.record;
        let last = origin.spans.iter().map(|span| span.end_bytes).max();
        if ground.talks {
            eprintln!("  origin {} has ended", record.id);
        }
        ground.store.end(EndedOrigin {
            origin: record.id,
            machine: record.machine.clone(),
            host: record.host.clone(),
            path: record.path.clone(),
            end_bytes: last.unwrap_or(record.first_offset),
            rows: 0,
            policy: String::new(),
            ended_ms: ground.clock.wall_ms(),
        });
    }
}

fn forget(history: &mut History) {
    let Some(daemon) = &mut history.daemon else { return };
    let ended = now(recovery::ended(&*history.ground.store, &daemon.state)).unwrap();
    daemon.tailer.forget_origins(&ended);
}
