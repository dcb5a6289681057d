//! Until when each source is complete: "all bytes seen at T are committed".

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::health::Health;
use super::track::{Looker, Seen};
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
    behind_bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Watch {
    host: String,
    /// By name and by who looks: the same source may be a file's and the socket's.
    sources: BTreeMap<(String, Looker), Source>,
    /// When each source's watermark was written.
    written_ms: HashMap<String, i64>,
    /// Committed ends, also of origins that the tracker has let go.
    committed: HashMap<OriginId, u64>,
}

impl Watch {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(host: String) -> Self {
        let (written_ms, committed) = (HashMap::new(), HashMap::new());
        Self { host, sources: BTreeMap::new(), written_ms, committed }
    }

    /// An origin is committed up to here.
    pub fn committed(&mut self, origin: OriginId, end_bytes: u64) {
        self.committed.insert(origin, end_bytes);
    }

    /// The tailer has looked, or the drain.
    pub fn seen(&mut self, seen: &Seen, health: &Health) {
        self.sources
            .retain(|(name, looker), _| *looker != seen.looker || seen.sources.contains_key(name));
        for (name, look) in &seen.sources {
            let source = self.sources.entry((name.clone(), seen.looker)).or_default();
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
        let mut complete: BTreeMap<&str, (Option<i64>, u64)> = BTreeMap::new();
        for ((name, _), source) in &mut self.sources {
            source.settle(tracker, &self.committed);
            let own = source.complete_ms;
            let all = complete.entry(name).or_insert((own, 0));
            // a source is as complete as the least complete of those that look
            *all = (all.0.min(own), all.1 + source.behind_bytes);
        }
        let mut due = Vec::new();
        for (name, (complete_ms, behind_bytes)) in complete {
            let Some(seen_ms) = complete_ms else { continue };
            let written_ms = self.written_ms.entry(name.to_owned()).or_insert(i64::MIN);
            if now_ms.saturating_sub(*written_ms) >= EVERY_MS {
                *written_ms = now_ms;
                let (source, host) = (name.to_owned(), self.host.clone());
                due.push(Watermark { source, host, seen_ms, written_ms: now_ms, behind_bytes });
            }
        }
        due
    }
}

impl Source {
    /// Takes looks away whose bytes are all stored.
    fn settle(&mut self, tracker: &Tracker, committed: &HashMap<OriginId, u64>) {
        while let Some(wanted) = self.waiting.front() {
            let stored = |(origin, end): (&OriginId, &u64)| {
                let committed = committed.get(origin).copied();
                let covered = tracker.covered_bytes(*origin).max(committed);
                covered.is_some_and(|covered| covered >= *end)
            };
            if !wanted.ends.iter().all(stored) {
                return;
            }
            self.complete_ms = Some(wanted.at_ms);
            self.waiting.pop_front();
        }
    }
}
