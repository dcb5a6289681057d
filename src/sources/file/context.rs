//! Which context is in force where: what may have been handed out keeps its own.

use std::collections::VecDeque;

use super::FileEvent;
use super::follow::{FileIx, Phase};
use super::marker;
use super::pump::ReadError;
use super::tailer::Tailer;
use crate::ledger::{Context, Encoding, OriginId};
use crate::sources::Input;

/// The anchor of times without a year is renewed at this age.
const ANCHOR_MS_MAX: i64 = 12 * 3_600_000;

impl Tailer {
    /// Has the store told and the contexts at hand; says whether reading may begin.
    pub(super) fn prepare(
        &mut self,
        ix: FileIx,
        out: &mut Vec<FileEvent>,
    ) -> Result<bool, ReadError> {
        let Some(file) = self.files.get(ix) else { return Ok(false) };
        let Some(origin) = self.origins.get(&file.origin) else { return Ok(false) };
        let id = file.origin;
        if !origin.announced {
            if let Some((other, older)) = self.older_untold(ix) {
                return self.tell_older(other, older, out).map(|()| false);
            }
            let Some(origin) = self.origins.get(&id) else { return Ok(false) };
            let detail = self.state.detail(id)?;
            out.push(FileEvent::Announce { record: origin.record(id), contexts: detail.contexts });
            if let Some(file) = self.files.get_mut(ix) {
                file.phase = Phase::Announcing;
            }
            return Ok(false);
        }
        if !file.opened && origin.end != file.handed {
            return Ok(false); // what was finished before is on its way to the store
        }
        if file.extra.as_ref().is_some_and(|extra| extra.context.is_some()) {
            return Ok(true);
        }
        let detail = self.state.detail(id)?;
        let (handed, plain) = (file.handed, file.encoding == Encoding::Plain);
        let mut last = *b"\n";
        if let Some(reader) = file.reader.as_ref().filter(|_| plain && handed > 0) {
            marker::read_fully_at(reader.file(), &mut last, handed - 1)?;
        }
        let rules = self.rules_of(ix);
        let Some(file) = self.files.get_mut(ix) else { return Ok(false) };
        file.mid_line = last != *b"\n";
        let first_anchor_ms = detail.contexts.first().map(|context| context.anchor_ms);
        let mut later: VecDeque<Context> = detail.contexts.into();
        let mut context = later.pop_front();
        // a context that begins at `handed` may not have been told to the worker
        let told = handed.saturating_sub(u64::from(file.opened));
        while later.front().is_some_and(|next| next.from_bytes <= told) {
            context = later.pop_front();
        }
        let (Some(context), Some(_)) = (context, rules) else { return Ok(false) };
        let extra = file.extra();
        extra.context = Some(context);
        extra.later = later;
        extra.running_ms = detail.running_ms;
        extra.carried = detail.carried;
        extra.first_anchor_ms = first_anchor_ms;
        Ok(true)
    }

    /// An older origin of the same log of which the store does not know. It is told of them in
    /// the order of their births: should the state be lost, all that is older than what the store
    /// knows counts as known.
    pub(super) fn older_untold(&self, ix: FileIx) -> Option<(FileIx, OriginId)> {
        let file = self.files.get(ix)?;
        let alone = self.logs.get(file.log).is_none_or(|log| log.files < 2);
        let origin = self.origins.get(&file.origin).filter(|_| !alone)?;
        if origin.announced || origin.end > origin.first_offset {
            return None;
        }
        let born = (origin.born_ms, origin.mtime_ns);
        let older = self.files.iter().filter(|(_, other)| {
            let bound = matches!(other.phase, Phase::Following | Phase::Announcing);
            bound && other.log == file.log && other.origin != file.origin
        });
        let untold = older.filter_map(|(at, other)| {
            let one = self.origins.get(&other.origin)?;
            let told = one.announced || one.finished || one.end > one.first_offset;
            let older = (one.born_ms, one.mtime_ns) < born;
            (!told && older).then_some((one.born_ms, one.mtime_ns, at, other.origin))
        });
        untold.min().map(|(.., at, id)| (at, id))
    }

    fn tell_older(
        &mut self,
        ix: FileIx,
        id: OriginId,
        out: &mut Vec<FileEvent>,
    ) -> Result<(), ReadError> {
        let waits = self.files.get(ix).is_some_and(|file| file.phase == Phase::Following);
        let Some(origin) = self.origins.get(&id).filter(|_| waits) else { return Ok(()) };
        let contexts = self.state.detail(id)?.contexts;
        out.push(FileEvent::Announce { record: origin.record(id), contexts });
        if let Some(file) = self.files.get_mut(ix) {
            file.phase = Phase::Announcing;
        }
        Ok(())
    }

    pub(super) fn rules_of(&self, ix: FileIx) -> Option<std::sync::Arc<super::follow::Rules>> {
        let source = self.logs.get(self.files.get(ix)?.log)?.source?;
        Some(std::sync::Arc::clone(&self.sources.get(source)?.rules))
    }

    /// Brings the context at `handed` into force; `false` while the store is told of a new one.
    pub(super) fn turn_context(
        &mut self,
        ix: FileIx,
        out: &mut Vec<FileEvent>,
    ) -> Result<bool, ReadError> {
        let Some(rules) = self.rules_of(ix) else { return Ok(false) };
        let wall_ms = self.now.wall_ms;
        let Some(file) = self.files.get_mut(ix) else { return Ok(false) };
        let Some(origin) = self.origins.get(&file.origin) else { return Ok(false) };
        let (id, handed, opened, mid_line) = (file.origin, file.handed, file.opened, file.mid_line);
        let size = file.size;
        let Some(extra) = &mut file.extra else { return Ok(false) };
        while extra.later.front().is_some_and(|next| next.from_bytes <= handed) {
            extra.context = extra.later.pop_front();
            if let Some(context) = extra.context.clone().filter(|_| opened) {
                out.push(FileEvent::Input(Input::Context(context)));
            }
        }
        let Some(newest) = extra.later.back().or(extra.context.as_ref()) else { return Ok(false) };
        // what has grown since does not end there
        let ends = extra.ends.take().filter(|at| *at == handed || *at > handed && *at == size);
        if let Some(at) = ends.filter(|at| *at > newest.from_bytes) {
            let context = Context { from_bytes: at, ..newest.clone() };
            if let Err(error) = self.state.add_contexts(std::slice::from_ref(&context)) {
                extra.ends = Some(at);
                return Err(error.into());
            }
            if opened || at > handed {
                extra.later.push_back(context.clone());
            } else {
                extra.context = Some(context.clone());
            }
            file.phase = Phase::Announcing;
            out.push(FileEvent::Announce { record: origin.record(id), contexts: vec![context] });
            return Ok(false);
        }
        let old = rules.year_less && wall_ms - newest.anchor_ms >= ANCHOR_MS_MAX;
        if !old && newest.same_rules(&rules.context(id, 0, 0)) {
            extra.cut = None;
            return Ok(true);
        }
        if extra.cut.is_none() {
            // what may have been handed out keeps its context, also by an earlier run
            let handed = handed.max(origin.reach_before);
            extra.cut = Some(handed.max(newest.from_bytes));
        }
        if mid_line || extra.cut.is_some_and(|cut| cut > handed) {
            return Ok(true);
        }
        let context = rules.context(id, handed, wall_ms);
        self.state.add_contexts(std::slice::from_ref(&context))?;
        extra.cut = None;
        extra.later.clear();
        if opened {
            extra.later.push_back(context.clone());
        } else {
            if handed == origin.first_offset {
                extra.first_anchor_ms = Some(wall_ms); // it takes the first one's place
            }
            extra.context = Some(context.clone());
        }
        file.phase = Phase::Announcing;
        out.push(FileEvent::Announce { record: origin.record(id), contexts: vec![context] });
        Ok(false)
    }
}
