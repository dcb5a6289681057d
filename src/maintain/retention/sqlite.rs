//! Day files, and rows of a table and source within them.

use super::policy::{self, has_ended, has_outlived, is_ahead};
use super::{Item, Kind, Run, State, ended};
use crate::stores::StoreError;
use crate::stores::expired::{Tombstone, date_of};
use crate::stores::sqlite::expire::{self, DayOnDisk, DayRows, Part};

impl Run<'_> {
    /// # Errors
    ///
    /// The directory or its index cannot be read.
    pub(super) fn sqlite(&mut self) -> Result<(), StoreError> {
        let dir = self.config.store.sqlite.dir.clone();
        let now_ms = self.request.now_ms;
        let lifetimes = self.config.store.lifetimes.clone();
        let files = expire::day_files(&dir)?;
        let Some(shortest) = policy::shortest(&lifetimes) else { return Ok(()) };
        let first_kept = policy::first_kept(shortest, now_ms);
        let rows = expire::rows_before(&dir, first_kept)?;
        self.note_days_without_file(&files, &rows);
        for file in files {
            let longest = lifetimes.longest();
            if has_ended(longest, file.day, now_ms) {
                self.whole_day(file, &rows, format!("{} at most", policy::words(longest)));
            } else if file.day < first_kept || is_ahead(file.day, now_ms) {
                match expire::parts(&dir, file.day) {
                    Ok(parts) => self.parts_of_day(file, parts, &rows),
                    Err(error) => self.fail(&date_of(file.day).to_string(), &error),
                }
            }
        }
        if self.request.apply
            && let Err(error) = expire::free_room(&dir)
        {
            self.fail("the room of days that are gone", &error);
        }
        Ok(())
    }

    /// A day that nobody dropped by policy and that has no file is lost: that stays a loss.
    fn note_days_without_file(&mut self, files: &[DayOnDisk], rows: &DayRows) {
        let mut gone: Vec<i32> = rows.keys().map(|(day, ..)| *day).collect();
        gone.dedup();
        gone.retain(|day| !files.iter().any(|file| file.day == *day));
        for day in gone {
            let date = date_of(day);
            self.report.notes.push(format!(
                "{date} has rows in the index and no file, and was not dropped by retention: \
                 `bitacora audit` reports it"
            ));
        }
    }

    fn whole_day(&mut self, file: DayOnDisk, rows: &DayRows, policy: String) {
        let dir = &self.config.store.sqlite.dir;
        let counted: u64 =
            rows.iter().filter(|((day, ..), _)| *day == file.day).map(|(_, n)| n).sum();
        // a file that cannot be read may go all the same
        let parts = expire::parts(dir, file.day).unwrap_or_default();
        let mut state = self.judge(file.day, file.written_ms);
        if self.request.apply && state == State::Planned {
            state = ended(expire::drop_day(dir, file.day, &policy, self.request.now_ms));
        }
        self.report.items.push(Item {
            kind: Kind::DayFile,
            day: Some(file.day),
            table: None,
            source: None,
            policy,
            rows: counted,
            bytes: Some(file.bytes),
            oldest_ms: parts.iter().map(|part| part.oldest_ms).min(),
            newest_ms: parts.iter().map(|part| part.newest_ms).max(),
            state,
        });
    }

    /// Rows of a day that others of the same day outlive.
    fn parts_of_day(&mut self, file: DayOnDisk, parts: Vec<Part>, rows: &DayRows) {
        let lifetimes = &self.config.store.lifetimes;
        let now_ms = self.request.now_ms;
        let (gone, kept): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(|part| {
            let lifetime = lifetimes.of(part.table, &part.source);
            if is_ahead(file.day, now_ms) {
                has_outlived(lifetime, file.written_ms, now_ms)
            } else {
                has_ended(lifetime, file.day, now_ms)
            }
        });
        if gone.is_empty() {
            return;
        }
        let tombstones: Vec<Tombstone> = gone
            .iter()
            .map(|part| Tombstone {
                day: file.day,
                part: Some((part.table, part.source.clone())),
                policy: policy::name_of(lifetimes, part.table, &part.source),
                dropped_ms: now_ms,
            })
            .collect();
        let mut state = self.judge(file.day, file.written_ms);
        let mut whole = kept.is_empty();
        if self.request.apply && state == State::Planned {
            let dropped = expire::drop_parts(&self.config.store.sqlite.dir, &tombstones);
            whole = dropped.as_ref().is_ok_and(|dropped| dropped.file);
            if let Ok(dropped) = &dropped
                && !whole
            {
                self.report.notes.push(format!(
                    "{}: the file keeps its size; {} bytes in it are free for rows to come",
                    date_of(file.day),
                    dropped.reusable_bytes
                ));
            }
            state = ended(dropped.map(drop));
        }
        let kind = if whole { Kind::DayFile } else { Kind::Rows };
        let mut bytes = whole.then_some(file.bytes);
        for (part, tombstone) in gone.into_iter().zip(tombstones) {
            let key = (file.day, part.table, part.source.clone());
            self.report.items.push(Item {
                kind,
                day: Some(file.day),
                table: Some(part.table),
                source: Some(part.source),
                policy: tombstone.policy,
                rows: rows.get(&key).copied().unwrap_or(0),
                // the file's are told once
                bytes: bytes.take(),
                oldest_ms: Some(part.oldest_ms),
                newest_ms: Some(part.newest_ms),
                state: state.clone(),
            });
        }
    }
}
