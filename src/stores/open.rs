//! The store of the configuration.

use std::sync::Arc;

use super::cassandra::CassandraStore;
use super::health::HealthStore;
use super::null::NullStore;
use super::sqlite::{Options, SqliteReader, SqliteStore};
use super::{LogReader, Store, StoreError};
use crate::config::{self, Lifetimes, StoreKind};

/// The writing side of the configured store. For Cassandra within a tokio runtime.
///
/// # Errors
///
/// The machine gives no thread.
pub fn writer(config: &config::Store) -> std::io::Result<Arc<dyn Store>> {
    Ok(match config.kind {
        StoreKind::Sqlite => {
            Arc::new(SqliteStore::start(config.sqlite.dir.clone(), Options::default())?)
        }
        StoreKind::Cassandra => Arc::new(cassandra(config)),
        StoreKind::Null => Arc::new(NullStore),
    })
}

/// The reading side of the configured store. For Cassandra within a tokio runtime.
///
/// # Errors
///
/// The null store keeps nothing that could be read.
pub fn reader(config: &config::Store) -> Result<Arc<dyn LogReader>, StoreError> {
    match config.kind {
        StoreKind::Sqlite => Ok(Arc::new(SqliteReader::new(config.sqlite.dir.clone()))),
        StoreKind::Cassandra => Ok(Arc::new(cassandra(config))),
        StoreKind::Null => Err(StoreError::Outage {
            store: "null",
            detail: "it counts rows and forgets them; there is nothing to read".to_owned(),
        }),
    }
}

/// Where results of health checks are kept. For Cassandra within a tokio runtime.
///
/// # Errors
///
/// None today: a store that cannot be reached says so when it is asked.
pub fn health(config: &config::Store) -> Result<Arc<dyn HealthStore>, StoreError> {
    Ok(match config.kind {
        StoreKind::Sqlite => Arc::new(SqliteReader::new(config.sqlite.dir.clone())),
        StoreKind::Cassandra => Arc::new(cassandra(config)),
        StoreKind::Null => Arc::new(NullStore),
    })
}

/// How long the store keeps rows by itself; for ever, where that is left to `retention`.
#[must_use]
pub fn lifetimes(config: &config::Store) -> Lifetimes {
    match config.kind {
        StoreKind::Cassandra => config.lifetimes.clone(),
        StoreKind::Sqlite | StoreKind::Null => Lifetimes::default(),
    }
}

fn cassandra(config: &config::Store) -> CassandraStore {
    CassandraStore::with_lifetimes(config.cassandra.clone(), config.lifetimes.clone())
}
