//! What commands share that read a store.

use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};

use crate::config::Config;
use crate::stores::{LogReader, StoreError, open};

/// A runtime for one command.
///
/// # Errors
///
/// The machine gives no thread.
pub fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// The reading side of the configured store; within a runtime.
///
/// # Errors
///
/// The store keeps nothing.
pub fn open_reader(config: &Config) -> Result<Arc<dyn LogReader>, StoreError> {
    open::reader(&config.store)
}
