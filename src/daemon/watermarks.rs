//! Until when each source is complete: "all bytes seen at T are committed".

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::health::Health;
use super::track::Seen;
use crate::ledger::{OriginId, Watermark};
use crate::tracker::Tracker;

/// How often a watermark is written.
const EVERY_MS: i64 = 5000;
/// Looks that may wait for their bytes; older ones are merged into the newest.
const WAITING_MAX: usize = 64;

/// What was seen of a source at one time and must be stored.
#[derive(Debug)]
struct Wanted {
    at_ms: i64,
    ends: HashMap<OriginId, u64>,
}

#[derive(Debug, Default)]
struct Source {
    waiting: VecDeque<Wanted>,
    complete_ms: Option<i64>,
    written_ms: i64,
    behind_bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Watch {
    host: String,
    sources: BTreeMap<String, Source>,
    /// Committed ends, also of origins that the tracker has let go.
    committed: HashMap<OriginId, u64>,
}

impl Watch {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(host: String) -> Self {
        Self { host, sources: BTreeMap::new(), committed: HashMap::new() }
    }

    /// An origin is committed up to here.
    pub fn committed(&mut self, origin: OriginId, end_bytes: u64) {
        self.committed.insert(origin, end_bytes);
    }

    /// The tailer has looked.
    pub fn seen(&mut self, seen: &Seen, health: &Health) {
        self.sources.retain(|source, _| seen.sources.contains_key(source));
        for (name, look) in &seen.sources {
            let source = self.sources.entry(name.clone()).or_default();
            source.behind_bytes = look.backlog_bytes;
            if look.caught_up && source.waiting.len() < WAITING_MAX {
                let ends = look.ends.iter().copied().collect();
                source.waiting.push_back(Wanted { at_ms: seen.at_ms, ends });
            }
            let lag_ms = if look.caught_up && look.ends.is_empty() {
                0
            } else {
                source.complete_ms.map_or(0, |complete_ms| seen.at_ms - complete_ms)
            };
            health.lag(name, lag_ms);
        }
    }

    /// Watermarks to write now.
    pub fn due(&mut self, tracker: &Tracker, now_ms: i64) -> Vec<Watermark> {
        let mut due = Vec::new();
        for (name, source) in &mut self.sources {
            while let Some(wanted) = source.waiting.front() {
                let stored = |(origin, end): (&OriginId, &u64)| {
                    let committed = self.committed.get(origin).copied();
                    tracker
                        .covered_bytes(*origin)
                        .max(committed)
                        .is_some_and(|covered| covered >= *end)
                };
                if !wanted.ends.iter().all(stored) {
                    break;
                }
                source.complete_ms = Some(wanted.at_ms);
                source.waiting.pop_front();
            }
            let Some(seen_ms) = source.complete_ms else { continue };
            if now_ms - source.written_ms >= EVERY_MS {
                source.written_ms = now_ms;
                due.push(Watermark {
                    source: name.clone(),
                    host: self.host.clone(),
                    seen_ms,
                    written_ms: now_ms,
                    behind_bytes: source.behind_bytes,
                });
            }
        }
        due
    }
}
