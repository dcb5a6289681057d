//! Cassandra and `ScyllaDB`: a batch of rows is one mutation of one partition.
//!
//! The store connects when it is first asked for something, and again when all its connections
//! have been gone for a while; until then every call answers [`StoreError::Unreachable`]. It
//! never retries by itself. Call [`Store::check`] before [`Store::layout`]: the layouts are read
//! with the first connection, and again each hour.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use scylla::client::session::Session;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Answer, InFlight, Store, StoreError, StoredText, Written};
use crate::batch::Batch;
use crate::config;
use crate::key::{Layout, Partition, RowKey, Table};
use crate::ledger::{
    Context, DeadLetter, LossReceipt, OriginId, OriginRecord, Span, StoredOrigin, Watermark,
};

mod ask;
mod checks;
mod connect;
mod counts;
pub mod ended;
mod events;
pub mod expire;
mod fault;
mod keys;
mod layout;
mod marks;
pub mod nodes;
mod origins;
mod read;
pub mod report;
mod rows;
mod scan;
pub mod schema;
pub mod scratch;
mod spans;
mod stored;

pub use connect::session as open_session;

/// The store's name, in metrics and errors.
const NAME: &str = "cassandra";
/// With no connection for so long, a new session is tried: addresses may have changed.
const PATIENCE_MS: u64 = 3000;
/// How often `log_layout` is read.
const LAYOUT_MS: u64 = 3_600_000;

/// See the module. Implements [`Store`] and [`super::LogReader`].
pub struct CassandraStore {
    config: config::Cassandra,
    lifetimes: config::Lifetimes,
    /// The zero of the times below.
    born: Instant,
    link: ArcSwapOption<Link>,
    layouts: ArcSwap<layout::Layouts>,
    layouts_read_ms: AtomicU64,
    /// Since when every call has failed for want of a connection; 0 for "it works".
    troubled_ms: AtomicU64,
    /// Attempts to connect so far, so that those who wait for one share its result.
    attempts: AtomicU64,
    slot: Mutex<Slot>,
    days: read::Days,
    /// Column `host` of the rows that were written last, for the statistics.
    host: std::sync::Mutex<Option<Arc<str>>>,
}

/// What only the one who connects may touch.
#[derive(Default)]
struct Slot {
    /// A session without tables, kept for the next attempt.
    session: Option<Arc<Session>>,
    failure: Option<StoreError>,
}

/// A session and everything that is prepared on it.
struct Link {
    session: Arc<Session>,
    infrastructure: rows::Inserts,
    application: rows::Inserts,
    events: rows::Inserts,
    origins: origins::Statements,
    spans: spans::Statements,
    marks: marks::Statements,
    checks: checks::Statements,
    ended: ended::Statements,
    expire: expire::Statements,
    reads: read::Statements,
    layouts: layout::ReadLayouts,
}

impl Link {
    async fn open(
        session: Arc<Session>,
        config: &config::Cassandra,
        lifetimes: &config::Lifetimes,
    ) -> Result<Self, StoreError> {
        schema::require(&session, &config.keyspace).await?;
        let keyspace = config.keyspace.as_str();
        let session_of = &session;
        let insert =
            async |table| rows::Inserts::prepare(session_of, keyspace, table, lifetimes).await;
        Ok(Self {
            infrastructure: insert(Table::Infrastructure).await?,
            application: insert(Table::Application).await?,
            events: insert(Table::Events).await?,
            origins: origins::Statements::prepare(&session, keyspace).await?,
            spans: spans::Statements::prepare(&session, keyspace).await?,
            marks: marks::Statements::prepare(&session, keyspace).await?,
            checks: checks::Statements::prepare(&session, keyspace).await?,
            ended: ended::Statements::prepare(&session, keyspace).await?,
            expire: expire::Statements::prepare(&session, keyspace).await?,
            reads: read::Statements::prepare(&session, keyspace).await?,
            layouts: layout::ReadLayouts::prepare(&session, keyspace).await?,
            session,
        })
    }

    fn insert(&self, partition: &Partition) -> &rows::Insert {
        let inserts = match partition.table {
            Table::Infrastructure => &self.infrastructure,
            Table::Application => &self.application,
            Table::Events => &self.events,
        };
        inserts.of(&partition.source)
    }
}

impl CassandraStore {
    /// A store that is not connected yet, whose rows live as long as `ttl` says. Must be used
    /// within a tokio runtime.
    #[must_use]
    pub fn new(config: config::Cassandra) -> Self {
        let lifetimes = config::Lifetimes::all(config.ttl);
        Self::with_lifetimes(config, lifetimes)
    }

    /// The same, with rows that live as long as `lifetimes` says.
    #[must_use]
    pub fn with_lifetimes(config: config::Cassandra, lifetimes: config::Lifetimes) -> Self {
        Self {
            config,
            lifetimes,
            born: Instant::now(),
            link: ArcSwapOption::empty(),
            layouts: ArcSwap::default(),
            layouts_read_ms: AtomicU64::new(0),
            troubled_ms: AtomicU64::new(0),
            attempts: AtomicU64::new(0),
            slot: Mutex::default(),
            days: read::Days::default(),
            host: std::sync::Mutex::default(),
        }
    }

    /// Milliseconds of this store's life, never 0.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// The link, connecting if there is none.
    async fn link(&self) -> Result<Arc<Link>, StoreError> {
        if let Some(link) = self.usable_link() {
            return Ok(link);
        }
        let seen = self.attempts.load(Ordering::Acquire);
        let mut slot = self.slot.lock().await;
        if self.attempts.load(Ordering::Acquire) != seen {
            if let Some(link) = self.usable_link() {
                return Ok(link);
            }
            if let Some(failure) = &slot.failure {
                return Err(failure.clone());
            }
        }
        let result = self.connect(&mut slot).await;
        slot.failure = result.as_ref().err().cloned();
        self.attempts.fetch_add(1, Ordering::AcqRel);
        result
    }

    fn usable_link(&self) -> Option<Arc<Link>> {
        let link = self.link.load_full()?;
        let troubled = self.troubled_ms.load(Ordering::Relaxed);
        if troubled == 0 || self.now_ms().saturating_sub(troubled) < PATIENCE_MS {
            return Some(link);
        }
        let cluster = link.session.get_cluster_state();
        if cluster.get_nodes_info().iter().any(|node| node.is_connected()) {
            self.troubled_ms.store(0, Ordering::Relaxed);
            return Some(link);
        }
        None
    }

    async fn connect(&self, slot: &mut Slot) -> Result<Arc<Link>, StoreError> {
        let session = match slot.session.take() {
            Some(session) => session,
            None => Arc::new(connect::session(&self.config).await?),
        };
        let opening = Link::open(Arc::clone(&session), &self.config, &self.lifetimes);
        let link = match Box::pin(opening).await {
            Ok(link) => Arc::new(link),
            Err(error) => {
                if !matches!(error, StoreError::Unreachable { .. }) {
                    slot.session = Some(session);
                }
                return Err(error);
            }
        };
        self.read_layouts(&link).await?;
        self.troubled_ms.store(0, Ordering::Relaxed);
        self.link.store(Some(Arc::clone(&link)));
        Ok(link)
    }

    async fn read_layouts(&self, link: &Link) -> Result<(), StoreError> {
        let layouts = link.layouts.read(&link.session).await?;
        self.layouts.store(Arc::new(layouts));
        self.layouts_read_ms.store(self.now_ms(), Ordering::Relaxed);
        Ok(())
    }

    /// Reads the layouts again when an hour has passed. A layout begins two days after it was
    /// set, so a failed reading may wait for the next hour.
    async fn refresh_layouts(&self, link: &Link) {
        let (now, read) = (self.now_ms(), self.layouts_read_ms.load(Ordering::Relaxed));
        let due = now.saturating_sub(read) >= LAYOUT_MS;
        if due
            && self
                .layouts_read_ms
                .compare_exchange(read, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            && let Err(error) = self.read_layouts(link).await
        {
            tracing::warn!("the layouts of the tables could not be read again: {error}");
        }
    }

    /// Notes how a call went, for [`Self::link`].
    fn note<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok(_) => {
                if self.troubled_ms.load(Ordering::Relaxed) != 0 {
                    self.troubled_ms.store(0, Ordering::Relaxed);
                }
            }
            Err(StoreError::Unreachable { .. }) => {
                let now = self.now_ms();
                // The oldest time stands.
                let troubled = self.troubled_ms.load(Ordering::Relaxed);
                self.troubled_ms
                    .store(if troubled == 0 { now } else { troubled }, Ordering::Relaxed);
            }
            // The statements are prepared anew, and the schema is looked at again.
            Err(StoreError::Schema { .. } | StoreError::Newer { .. }) => self.link.store(None),
            Err(_) => {}
        }
        result
    }

    fn host(&self) -> Option<Arc<str>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn name_host(&self, host: &Arc<str>) {
        let mut known = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != Some(host) {
            *known = Some(Arc::clone(host));
        }
    }

    async fn write_batch(&self, batch: &Batch) -> Result<Written, StoreError> {
        if batch.rows.is_empty() {
            return Ok(Written::default());
        }
        let link = self.link().await?;
        self.refresh_layouts(&link).await;
        let fixed = 128 + batch.host.len() + batch.partition.source.len();
        let bytes = batch.text.len().saturating_add(batch.rows.len().saturating_mul(fixed));
        if bytes > fault::REQUEST_BYTES_MAX {
            return Err(fault::invalid(format!(
                "{bytes} bytes in one request, at most {} are taken",
                fault::REQUEST_BYTES_MAX
            )));
        }
        self.name_host(&batch.host);
        let insert = link.insert(&batch.partition);
        let request = insert.take(batch.rows.len());
        let started = Instant::now();
        let result = link.session.batch(&request, rows::Cells(batch)).await;
        insert.give(request);
        match result {
            Ok(_) => Ok(Written::default()),
            Err(error) => Err(fault::execution(&error, started.elapsed())),
        }
    }
}

impl Store for CassandraStore {
    fn name(&self) -> &'static str {
        NAME
    }

    fn in_flight(&self) -> InFlight {
        let nodes = self.link.load().as_ref().map_or(1, |link| {
            let cluster = link.session.get_cluster_state();
            let connected = cluster.get_nodes_info().iter().filter(|node| node.is_connected());
            connected.count().clamp(1, 4)
        });
        InFlight { rows: 3000 * nodes, bytes: (4 << 20) * nodes, batches: 256 * nodes }
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let link = self.link().await?;
            let found = schema::require(&link.session, &self.config.keyspace).await;
            self.note(found)
        })
    }

    fn layout(&self, table: Table, source: &str, day: i32) -> Option<Layout> {
        Some(self.layouts.load().of(table, source, day))
    }

    fn write(&self, batch: Arc<Batch>) -> Answer<'_, Written> {
        Box::pin(async move { self.note(self.write_batch(&batch).await) })
    }

    fn put_origin<'a>(
        &'a self,
        origin: &'a OriginRecord,
        contexts: &'a [Context],
        stamp: i64,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let link = self.link().await?;
            self.name_host(&Arc::from(origin.host.as_str()));
            self.note(link.origins.put(&link.session, origin, contexts, stamp).await)
        })
    }

    fn put_spans<'a>(&'a self, spans: &'a [Span], stamp: i64) -> Answer<'a, ()> {
        Box::pin(async move {
            let link = self.link().await?;
            let host = self.host();
            self.note(link.spans.put(&link.session, spans, host.as_ref(), stamp).await)
        })
    }

    fn put_receipts<'a>(&'a self, receipts: &'a [LossReceipt], stamp: i64) -> Answer<'a, ()> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(link.marks.put_receipts(&link.session, receipts, stamp).await)
        })
    }

    fn put_watermarks<'a>(&'a self, watermarks: &'a [Watermark], stamp: i64) -> Answer<'a, ()> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(link.marks.put_watermarks(&link.session, watermarks, stamp).await)
        })
    }

    fn put_dead_letters<'a>(&'a self, letters: &'a [DeadLetter], stamp: i64) -> Answer<'a, ()> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(link.marks.put_letters(&link.session, letters, stamp).await)
        })
    }

    fn last_spans<'a>(&'a self, origins: &'a [OriginId]) -> Answer<'a, Vec<Span>> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(link.spans.last(&link.session, origins).await)
        })
    }

    fn ended<'a>(&'a self, machine: &'a str) -> Answer<'a, Vec<OriginId>> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(link.ended.of_machine(&link.session, machine).await)
        })
    }

    fn texts<'a>(&'a self, rows: &'a [(Partition, RowKey)]) -> Answer<'a, Vec<Option<StoredText>>> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(read::Statements::texts(&link, rows).await)
        })
    }

    fn origins<'a>(&'a self, machine: Option<&'a str>) -> Answer<'a, Vec<StoredOrigin>> {
        Box::pin(async move {
            let link = self.link().await?;
            self.note(origins::all(&link, machine).await)
        })
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            self.link.store(None);
            self.slot.lock().await.session = None;
            Ok(())
        })
    }
}
