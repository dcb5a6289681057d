//! The `SQLite` store: one file a day and `index.db`, no server.
//!
//! ```text
//! DIR/index.db        origins contexts spans loss_receipts watermarks dead_letters expired_days
//! DIR/YYYY-MM-DD.db   infrastructure_logs application_logs user_events
//! ```
//!
//! One thread writes ([`writer`]); any number of processes read beside it ([`SqliteReader`]).
//! Everything is opened when it is needed and opened anew after an error, so that a full disk or
//! a missing directory is waited for like any other outage.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use super::{Answer, InFlight, Store, StoreError, StoredText, Written};
use crate::batch::{BATCH_BYTES_MAX, Batch};
use crate::key::{Layout, Partition, RowKey, Table};
use crate::ledger::{
    Context, DeadLetter, LossReceipt, OriginId, OriginRecord, Span, StoredOrigin, Watermark,
};

mod checks;
mod day;
pub mod ended;
mod events;
pub mod expire;
mod facts;
mod files;
mod index;
mod read;
#[cfg(test)]
mod tests;
mod tombstones;
mod writer;

pub use read::SqliteReader;
use writer::{Job, Work, Writer};

const NAME: &str = "sqlite";

/// Jobs that wait at most.
const QUEUE: usize = 256;

/// What a test may want otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Days that are open for writing at once.
    pub days_open_max: usize,
    /// A day file to which nothing was written for so long leaves WAL mode.
    pub settle_after: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { days_open_max: 8, settle_after: Duration::from_mins(10) }
    }
}

/// The writing side. Dropped without [`Store::close`] it ends as a crash would.
#[derive(Debug)]
pub struct SqliteStore {
    jobs: SyncSender<Job>,
    places: Arc<Semaphore>,
}

impl SqliteStore {
    /// A store in `dir`. Nothing is opened before it is needed.
    ///
    /// # Errors
    ///
    /// The machine gives no thread.
    pub fn start(dir: PathBuf, options: Options) -> std::io::Result<Self> {
        // as many places as the channel holds: a send never waits in an async task
        let (jobs, waiting) = sync_channel(QUEUE);
        let writer = Writer::new(dir, options);
        std::thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || writer.run(&waiting))?;
        Ok(Self { jobs, places: Arc::new(Semaphore::new(QUEUE)) })
    }

    async fn ask<T>(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Work,
    ) -> Result<T, StoreError> {
        let ended = || StoreError::Outage {
            store: NAME,
            detail: "the writing thread has ended; restart bitacora".into(),
        };
        let place = self.places.clone().acquire_owned().await.map_err(|_| ended())?;
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send((work(reply), place)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    fn change(
        &self,
        change: impl Fn(&Connection) -> rusqlite::Result<()> + Send + 'static,
    ) -> Answer<'_, ()> {
        Box::pin(self.ask(|reply| Work::Change(Box::new(change), reply)))
    }

    /// Writes each of `items` with the next stamp.
    fn put_all<T: Clone + Send + 'static>(
        &self,
        items: &[T],
        stamp: i64,
        put: fn(&Connection, &T, i64) -> rusqlite::Result<()>,
    ) -> Answer<'_, ()> {
        let items = items.to_vec();
        self.change(move |connection| {
            items.iter().zip(stamp..).try_for_each(|(item, stamp)| put(connection, item, stamp))
        })
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<'_, T> {
        Box::pin(self.ask(|reply| {
            Work::Ask(Box::new(move |writer| drop(reply.send(writer.with_index(read)))))
        }))
    }
}

impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn in_flight(&self) -> InFlight {
        InFlight { rows: 16_000, bytes: 12 * BATCH_BYTES_MAX, batches: QUEUE }
    }

    fn check(&self) -> Answer<'_, ()> {
        self.read(|_| Ok(()))
    }

    fn layout(&self, _table: Table, _source: &str, _day: i32) -> Option<Layout> {
        None
    }

    fn write(&self, batch: Arc<Batch>) -> Answer<'_, Written> {
        Box::pin(self.ask(|reply| Work::Write(batch, reply)))
    }

    fn put_origin<'a>(
        &'a self,
        origin: &'a OriginRecord,
        contexts: &'a [Context],
        stamp: i64,
    ) -> Answer<'a, ()> {
        let (origin, contexts) = (origin.clone(), contexts.to_vec());
        self.change(move |connection| {
            index::put_origin(connection, &origin, stamp)?;
            contexts.iter().try_for_each(|context| index::put_context(connection, context, stamp))
        })
    }

    fn put_spans<'a>(&'a self, spans: &'a [Span], stamp: i64) -> Answer<'a, ()> {
        self.put_all(spans, stamp, index::put_span)
    }

    fn put_receipts<'a>(&'a self, receipts: &'a [LossReceipt], stamp: i64) -> Answer<'a, ()> {
        self.put_all(receipts, stamp, index::put_receipt)
    }

    fn put_watermarks<'a>(&'a self, watermarks: &'a [Watermark], stamp: i64) -> Answer<'a, ()> {
        self.put_all(watermarks, stamp, index::put_watermark)
    }

    fn put_dead_letters<'a>(&'a self, letters: &'a [DeadLetter], stamp: i64) -> Answer<'a, ()> {
        self.put_all(letters, stamp, index::put_dead_letter)
    }

    fn last_spans<'a>(&'a self, origins: &'a [OriginId]) -> Answer<'a, Vec<Span>> {
        let origins = origins.to_vec();
        self.read(move |connection| facts::last_spans(connection, &origins))
    }

    fn ended<'a>(&'a self, machine: &'a str) -> Answer<'a, Vec<OriginId>> {
        let machine = machine.to_owned();
        self.read(move |connection| ended::of_machine(connection, &machine))
    }

    fn texts<'a>(&'a self, rows: &'a [(Partition, RowKey)]) -> Answer<'a, Vec<Option<StoredText>>> {
        let rows = rows.to_vec();
        Box::pin(
            self.ask(|reply| {
                Work::Ask(Box::new(move |writer| drop(reply.send(writer.texts(&rows)))))
            }),
        )
    }

    fn origins<'a>(&'a self, machine: Option<&'a str>) -> Answer<'a, Vec<StoredOrigin>> {
        let machine = machine.map(str::to_owned);
        self.read(move |connection| facts::origins(connection, machine.as_deref()))
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(self.ask(Work::Close))
    }
}
