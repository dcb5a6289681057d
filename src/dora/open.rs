//! The database of the configuration.

use std::sync::Arc;

use super::mysql::MysqlStore;
use super::schema;
use super::sqlite::SqliteStore;
use super::{DoraError, DoraStore};
use crate::config::{Dora, DoraKind, Mysql};

/// The configured store, within a tokio runtime. A server is asked for the version of its tables;
/// a SQLite file is opened by the first use, and made by the first write.
///
/// # Errors
///
/// The server does not answer, refuses, or its tables are not of this version.
pub async fn open(config: &Dora) -> Result<Arc<dyn DoraStore>, DoraError> {
    match config.kind {
        DoraKind::Sqlite => Ok(Arc::new(SqliteStore::new(config.sqlite.clone()))),
        DoraKind::Mysql => {
            let store = MysqlStore::new(server(config)?)?;
            schema::require(&store).await?;
            Ok(Arc::new(store))
        }
    }
}

/// Where the database is, as people write it.
#[must_use]
pub fn place(config: &Dora) -> String {
    match (config.kind, &config.mysql) {
        (DoraKind::Mysql, Some(mysql)) => super::mysql::place(mysql),
        _ => config.sqlite.display().to_string(),
    }
}

pub(super) fn server(config: &Dora) -> Result<&Mysql, DoraError> {
    config.mysql.as_ref().ok_or_else(|| DoraError::Invalid("dora.mysql is not set".to_owned()))
}
