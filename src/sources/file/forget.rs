//! Origins that retention has ended are let go.

use std::collections::BTreeSet;

use super::state::Change;
use super::tailer::Tailer;
use crate::ledger::OriginId;

impl Tailer {
    /// Forgets origins of which the store has nothing any more, those of the spool included. One
    /// that a file may still need is kept. The age of their files stays known to this run: a
    /// sibling that is older is not read for that.
    pub fn forget_origins(&mut self, ended: &[OriginId]) {
        let needed = self.needed();
        let gone: BTreeSet<OriginId> =
            ended.iter().copied().filter(|id| !needed.contains(id)).collect();
        if gone.is_empty() {
            return;
        }
        self.origins.retain(|id, _| !gone.contains(id));
        self.by_inode.retain(|(_, id)| !gone.contains(id));
        self.by_head.retain(|(_, _, id)| !gone.contains(id));
        self.head_lengths.clear();
        for (length, _, _) in &self.by_head {
            *self.head_lengths.entry(*length).or_default() += 1;
        }
        self.strangers.retain(|(_, id)| !gone.contains(id));
        self.changes.extend(gone.into_iter().map(|origin| Change::Forgotten { origin }));
    }

    /// Origins that a file, or what is under way, still needs.
    fn needed(&self) -> BTreeSet<OriginId> {
        // what is looked at yet may turn out to be any of them
        let unsure = self.first_scan || !self.fresh.is_empty() || !self.examining.is_empty();
        let open = self.origins.iter().filter(|(_, origin)| {
            unsure || origin.file.is_some() || !origin.finished && !origin.retired
        });
        let mut needed: BTreeSet<OriginId> = open.map(|(id, _)| *id).collect();
        for (_, file) in self.files.iter() {
            needed.insert(file.origin);
            if let Some(extra) = &file.extra {
                needed.extend([extra.copy_of, extra.cut_behind]);
            }
        }
        needed.extend(self.lost.iter().map(|lost| lost.origin));
        needed.extend(self.ending.keys().chain(self.unlinked.keys()).chain(self.cut_asks.keys()));
        needed.extend(self.adopting.iter().map(|(id, _)| *id));
        needed
    }
}
