//! The null store counts and forgets: for measuring. `state.db` is all that remembers.

use std::sync::Arc;

use super::health::{HealthCheck, HealthStore, OldChecks};
use super::{Answer, InFlight, Store, StoredText, Written};
use crate::batch::{BATCH_BYTES_MAX, Batch};
use crate::key::{Layout, Partition, RowKey, Table};
use crate::ledger::{
    Context, DeadLetter, LossReceipt, OriginId, OriginRecord, Span, StoredOrigin, Watermark,
};

/// See the module.
#[derive(Debug, Default)]
pub struct NullStore;

fn done<T: Send + 'static>(value: T) -> Answer<'static, T> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Store for NullStore {
    fn name(&self) -> &'static str {
        "null"
    }

    fn in_flight(&self) -> InFlight {
        InFlight { rows: 8000, bytes: 8 * BATCH_BYTES_MAX, batches: 8 }
    }

    fn check(&self) -> Answer<'_, ()> {
        done(())
    }

    fn layout(&self, _table: Table, _source: &str, _day: i32) -> Option<Layout> {
        None
    }

    fn write(&self, _batch: Arc<Batch>) -> Answer<'_, Written> {
        done(Written::default())
    }

    fn put_origin<'a>(&'a self, _: &'a OriginRecord, _: &'a [Context], _: i64) -> Answer<'a, ()> {
        done(())
    }

    fn put_spans<'a>(&'a self, _: &'a [Span], _: i64) -> Answer<'a, ()> {
        done(())
    }

    fn put_receipts<'a>(&'a self, _: &'a [LossReceipt], _: i64) -> Answer<'a, ()> {
        done(())
    }

    fn put_watermarks<'a>(&'a self, _: &'a [Watermark], _: i64) -> Answer<'a, ()> {
        done(())
    }

    fn put_dead_letters<'a>(&'a self, _: &'a [DeadLetter], _: i64) -> Answer<'a, ()> {
        done(())
    }

    fn last_spans<'a>(&'a self, _: &'a [OriginId]) -> Answer<'a, Vec<Span>> {
        done(Vec::new())
    }

    fn texts<'a>(&'a self, rows: &'a [(Partition, RowKey)]) -> Answer<'a, Vec<Option<StoredText>>> {
        done(vec![None; rows.len()])
    }

    fn origins<'a>(&'a self, _: Option<&'a str>) -> Answer<'a, Vec<StoredOrigin>> {
        done(Vec::new())
    }

    fn close(&self) -> Answer<'_, ()> {
        done(())
    }
}

impl HealthStore for NullStore {
    fn record_checks<'a>(&'a self, _: &'a [HealthCheck]) -> Answer<'a, ()> {
        done(())
    }

    fn last_checks(&self) -> Answer<'_, Vec<HealthCheck>> {
        done(Vec::new())
    }

    fn checks_before(&self, _: i64) -> Answer<'_, OldChecks> {
        done(OldChecks::default())
    }

    fn drop_checks_before(&self, _: i64) -> Answer<'_, OldChecks> {
        done(OldChecks::default())
    }
}
