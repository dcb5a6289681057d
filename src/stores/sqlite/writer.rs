//! The one thread that writes: everything that waits is committed together, day files first,
//! then `index.db`. A transaction over several WAL files is not atomic, and need not be: a span
//! is only sent here after the rows that it counts were answered.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::day::DayFile;
use super::files::{self, Inode};
use super::{NAME, Options, index, tombstones};
use crate::batch::Batch;
use crate::key::{Partition, RowKey};
use crate::stores::expired::{self, Expired};
use crate::stores::{StoreError, StoredText, Written};

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, StoreError>>;
/// A change of `index.db`; done again if its transaction is.
pub type Change = Box<dyn Fn(&Connection) -> rusqlite::Result<()> + Send>;

/// A batch and who waits for it.
type Waiting = (Arc<Batch>, Reply<Written>);

/// What the thread is asked to do.
pub enum Work {
    /// Writes the rows of a batch.
    Write(Arc<Batch>, Reply<Written>),
    /// Changes `index.db`.
    Change(Change, Reply<()>),
    /// Anything else, after the writes that wait with it.
    Ask(Box<dyn FnOnce(&mut Writer) + Send>),
    /// Closes all files and ends.
    Close(Reply<()>),
}

/// Work, and its place in the queue: held until the work is done.
pub type Job = (Work, OwnedSemaphorePermit);

/// How often files are looked after, and how long a silence lasts until then.
const ROUND: Duration = Duration::from_secs(30);
/// Rows that are committed together at most, so that an answer does not wait for ever.
const GROUP_ROWS_MAX: usize = 8000;
/// Jobs that are taken together at most.
const GROUP_JOBS_MAX: usize = 256;

/// Whether the rows of a batch have ended.
fn has(expired: &Expired, partition: &Partition) -> bool {
    expired.has(partition.day, partition.table, &partition.source, expired::NOW)
}

struct OpenDay {
    day: i32,
    file: DayFile,
    used: Instant,
}

/// See the module.
pub struct Writer {
    dir: PathBuf,
    options: Options,
    index: Option<(Connection, Option<Inode>)>,
    index_made: bool,
    days: Vec<OpenDay>,
    /// Days in WAL mode that nobody has open here: left by a crash, or read when they were closed.
    unsettled: BTreeSet<i32>,
    looked_after: Instant,
}

impl Writer {
    /// A writer that has opened nothing.
    pub fn new(dir: PathBuf, options: Options) -> Self {
        let unsettled = files::days(&dir)
            .unwrap_or_default()
            .into_iter()
            .filter(|day| files::beside(&files::day_path(&dir, *day), "-wal").exists())
            .collect();
        Self {
            dir,
            options,
            index: None,
            index_made: false,
            days: Vec::new(),
            unsettled,
            looked_after: Instant::now(),
        }
    }

    /// Works until it is told to close or nobody can ask any more.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let first = match jobs.recv_timeout(ROUND) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut rows = 0;
            let mut group = Vec::new();
            let mut next = first;
            while let Some(job) = next {
                if let Work::Write(batch, _) = &job.0 {
                    rows += batch.rows.len();
                }
                group.push(job);
                let full = rows >= GROUP_ROWS_MAX || group.len() >= GROUP_JOBS_MAX;
                next = if full { None } else { jobs.try_recv().ok() };
            }
            if let Some(reply) = self.group(group) {
                let _ = reply.send(self.close());
                return;
            }
            if self.looked_after.elapsed() >= ROUND {
                self.look_after_files();
                self.looked_after = Instant::now();
            }
        }
    }

    /// Does everything that waits; answers who asked for the end.
    fn group(&mut self, group: Vec<Job>) -> Option<Reply<()>> {
        let mut writes: BTreeMap<i32, Vec<Waiting>> = BTreeMap::new();
        let mut changes = Vec::new();
        let mut asks = Vec::new();
        let mut close = None;
        let mut permits = Vec::with_capacity(group.len());
        for (work, permit) in group {
            permits.push(permit);
            match work {
                Work::Write(batch, reply) => {
                    writes.entry(batch.partition.day).or_default().push((batch, reply));
                }
                Work::Change(change, reply) => changes.push((change, reply)),
                Work::Ask(ask) => asks.push(ask),
                Work::Close(reply) => close = Some(reply),
            }
        }
        for (day, writes) in writes {
            let (batches, replies): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
            let result = self.write_day(day, &batches);
            for (batch, reply) in batches.into_iter().zip(replies) {
                let answer = result.clone().map(|expired| {
                    let gone = has(&expired, &batch.partition);
                    let expired = if gone { (0..batch.rows.len()).collect() } else { Vec::new() };
                    Written { expired }
                });
                // before the answer: whoever gets it wants the batch for itself again
                drop(batch);
                let _ = reply.send(answer);
            }
        }
        if !changes.is_empty() {
            let (changes, replies): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
            let result = self.change(&changes);
            for reply in replies {
                let _ = reply.send(result.clone());
            }
        }
        for ask in asks {
            ask(self);
        }
        close
    }

    /// Commits all batches of one day, but for those whose rows retention has ended; answers what
    /// that is.
    fn write_day(&mut self, day: i32, batches: &[Arc<Batch>]) -> Result<Expired, StoreError> {
        let gone = |expired: &Expired| batches.iter().all(|batch| has(expired, &batch.partition));
        let expired = self.expired(day)?;
        if gone(&expired) {
            // its file may have to go
            if expired.has_day(day) {
                self.days.retain(|open| open.day != day);
            }
            return Ok(expired);
        }
        // taken out: with an error it is dropped without another word, and the next try opens a
        // new descriptor
        let open = self.take_day(day)?;
        open.file.begin()?;
        // Retention notes a part of a day first and deletes its rows then, which it cannot do
        // while we hold the file: what it notes later finds our rows.
        let expired = self.expired(day)?;
        let kept = batches.iter().filter(|batch| !has(&expired, &batch.partition));
        open.file.write(kept.map(|batch| &**batch))?;
        let in_place = open.file.in_place();
        if in_place {
            self.days.push(OpenDay { used: Instant::now(), ..open });
        }
        // asked again, because retention notes a whole day first and removes its file then
        let after = self.expired(day)?;
        if after.has_day(day) {
            return Ok(after);
        }
        if !in_place {
            let path = files::day_path(&self.dir, day);
            let detail = format!(
                "{}: it was moved or removed while it was written; its rows are written again",
                path.display()
            );
            return Err(StoreError::Outage { store: NAME, detail });
        }
        Ok(expired)
    }

    fn expired(&mut self, day: i32) -> Result<Expired, StoreError> {
        self.with_index(|connection| tombstones::of_day(connection, day))
    }

    /// The file of a day, which is not among the open ones for now.
    fn take_day(&mut self, day: i32) -> Result<OpenDay, StoreError> {
        self.day(day)?;
        match self.days.pop() {
            Some(open) => Ok(open),
            None => unreachable!("it was just opened"),
        }
    }

    /// The open file of a day. Another one is closed if too many are open.
    fn day(&mut self, day: i32) -> Result<&DayFile, StoreError> {
        if let Some(at) = self.days.iter().position(|open| open.day == day) {
            let open = self.days.remove(at);
            if open.file.in_place() {
                self.days.push(open);
            }
        }
        if self.days.last().is_none_or(|open| open.day != day) {
            while self.days.len() >= self.options.days_open_max {
                let oldest = self.days.remove(0);
                self.settle(oldest.day, oldest.file);
            }
            let file = DayFile::open(&self.dir, day)?;
            self.unsettled.remove(&day);
            self.days.push(OpenDay { day, file, used: Instant::now() });
        }
        match self.days.last_mut() {
            Some(open) => {
                open.used = Instant::now();
                Ok(&open.file)
            }
            None => unreachable!("it was pushed"),
        }
    }

    fn settle(&mut self, day: i32, file: DayFile) {
        match file.settle() {
            Ok(()) => drop(self.unsettled.remove(&day)),
            Err(error) => {
                tracing::debug!(%error, "a day file stays in WAL mode for now");
                self.unsettled.insert(day);
            }
        }
    }

    /// Closes days that are idle, and settles those that could not be settled before.
    pub fn look_after_files(&mut self) {
        let idle = self.options.settle_after;
        while let Some(at) = self.days.iter().position(|open| open.used.elapsed() >= idle) {
            let open = self.days.remove(at);
            self.settle(open.day, open.file);
        }
        for day in std::mem::take(&mut self.unsettled) {
            if self.days.iter().any(|open| open.day == day) {
                continue;
            }
            // retention may have removed it, and it must not come back empty
            if files::day_path(&self.dir, day).exists() {
                match DayFile::open(&self.dir, day) {
                    Ok(file) => self.settle(day, file),
                    Err(_) => drop(self.unsettled.insert(day)),
                }
            }
        }
    }

    /// Does something with `index.db`, opened if it is not. After an error it is closed.
    ///
    /// # Errors
    ///
    /// With the path and what to do.
    pub fn with_index<T>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let path = files::index_path(&self.dir);
        let moved = |at: Option<Inode>| at.is_none() || at != Inode::at(&path);
        if self.index.as_ref().is_some_and(|(_, inode)| moved(*inode)) {
            self.index = None;
        }
        if self.index.is_none() && self.index_made && !path.exists() {
            let detail = format!(
                "{}: it was moved or removed while it was in use; put it back, or restart \
                 bitacora to begin a new one",
                path.display()
            );
            return Err(StoreError::Outage { store: NAME, detail });
        }
        let (connection, inode) = match self.index.take() {
            Some(open) => open,
            None => (index::open(&self.dir)?, Inode::at(&path)),
        };
        self.index_made = true;
        match work(&connection) {
            Ok(value) => {
                self.index = Some((connection, inode));
                Ok(value)
            }
            Err(error) => Err(files::refused(&path, &error)),
        }
    }

    /// What these rows say, where they are there.
    ///
    /// # Errors
    ///
    /// With the path and what to do.
    pub fn texts(
        &mut self,
        rows: &[(Partition, RowKey)],
    ) -> Result<Vec<Option<StoredText>>, StoreError> {
        let mut texts = Vec::with_capacity(rows.len());
        for (Partition { table, day, source, .. }, key) in rows {
            // never makes a file: asking must leave no trace
            let there = files::day_path(&self.dir, *day).exists()
                && !self.expired(*day)?.has(*day, *table, source, expired::NOW);
            let day = if there { Some(self.day(*day)?) } else { None };
            let text = day.map(|day| day.text(*table, source, *key)).transpose()?;
            texts.push(text.flatten());
        }
        Ok(texts)
    }

    fn change(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.with_index(|connection| {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            for change in changes {
                change(connection)?;
            }
            connection.execute_batch("COMMIT")
        })
    }

    /// Leaves WAL mode everywhere.
    fn close(&mut self) -> Result<(), StoreError> {
        for open in std::mem::take(&mut self.days) {
            self.settle(open.day, open.file);
        }
        if self.index.is_some() {
            self.with_index(|connection| {
                connection.busy_timeout(Duration::from_millis(100))?;
                // a reader may hold it: then it stays as it is, and is read as such
                let _ = connection.pragma_update(None, "journal_mode", "DELETE");
                Ok(())
            })?;
        }
        self.index = None;
        Ok(())
    }
}
