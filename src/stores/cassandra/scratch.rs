//! What a backup of one node needs to know of the cluster, and the keyspace that a drill fills.

use std::collections::HashMap;

use scylla::client::session::Session;
use scylla::response::PagingState;

use super::ask::{all_rows, prepare_read};
use super::schema::{self, execute};
use super::{connect, fault, report};
use crate::config;
use crate::ledger::OriginId;
use crate::stores::StoreError;

/// The keyspace as the cluster has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Nodes of the configured datacenter, those that are down included.
    pub nodes: usize,
    /// Replicas that it keeps of each row.
    pub replicas: u32,
    /// The keyspace's tables.
    pub tables: Vec<String>,
}

/// How far the store has been committed. Both numbers only ever grow: an origin keeps its last
/// span, or has a tombstone that was there before its spans went, and ends where it ended or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// Origins that have a span or a tombstone.
    pub origins: u64,
    /// The sum of where they end.
    pub bytes: u64,
}

impl Reach {
    /// Of origins and where each ends; one may be named several times.
    pub fn of(ends: impl Iterator<Item = (OriginId, u64)>) -> Self {
        let mut origins: HashMap<OriginId, u64> = HashMap::new();
        for (origin, end_bytes) in ends {
            let known = origins.entry(origin).or_default();
            *known = (*known).max(end_bytes);
        }
        let bytes = origins.values().fold(0_u64, |sum, end| sum.saturating_add(*end));
        Self { origins: origins.len() as u64, bytes }
    }
}

/// The shape of the keyspace, and how far it has been committed.
///
/// # Errors
/// No node answers, or there are no tables.
pub async fn survey(config: &config::Cassandra) -> Result<(Shape, Reach), StoreError> {
    let session = connect::session(config).await?;
    let tables = tables(&session, &config.keyspace).await?;
    if tables.is_empty() {
        return Err(fault::schema(format!("keyspace '{}' has no tables", config.keyspace)));
    }
    let replicas = report::replicas(&session, config).await?;
    let shape = Shape { nodes: nodes(&session, config), replicas, tables };
    // the newest span of a partition stands first; before a tombstone is seen its spans were there
    let mut ends = Vec::new();
    let tables = [("spans", " PER PARTITION LIMIT 1"), ("expired_origins", "")];
    // tables of an earlier version are backed up too, before they are brought up to date
    for (table, newest) in tables.into_iter().filter(|(table, _)| has(&shape, table)) {
        let text = format!("SELECT origin, end_bytes FROM {}.{table}{newest}", config.keyspace);
        let statement = prepare_read(&session, text).await?;
        let found: Vec<(OriginId, Option<i64>)> =
            all_rows(&session, &statement, (), PagingState::start()).await?;
        ends.extend(found);
    }
    let ends = ends.into_iter().map(|(origin, end)| (origin, end.unwrap_or(0).cast_unsigned()));
    Ok((shape, Reach::of(ends)))
}

fn has(shape: &Shape, table: &str) -> bool {
    shape.tables.iter().any(|name| name == table)
}

fn nodes(session: &Session, config: &config::Cassandra) -> usize {
    let state = session.get_cluster_state();
    let here = |datacenter: Option<&str>| datacenter == Some(config.datacenter.as_str());
    state.get_nodes_info().iter().filter(|node| here(node.datacenter.as_deref())).count()
}

async fn tables(session: &Session, keyspace: &str) -> Result<Vec<String>, StoreError> {
    let text = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
    let Some(rows) = execute(session, text, (keyspace,)).await? else { return Ok(Vec::new()) };
    let names = rows.rows::<(String,)>().map_err(fault::schema)?;
    names.map(|name| name.map(|(name,)| name).map_err(fault::schema)).collect()
}

/// Makes a keyspace with this program's tables, empty, and answers how it is reached and what its
/// tables are called.
///
/// Every node is a replica of all of it, so that the node that loads files owns whatever is in
/// them, and reads ask all nodes: whoever answers, what was loaded is seen. Nothing is repaired
/// while reading, so that it stays where it is.
///
/// # Errors
/// The cluster refuses. Part of it may be there then.
pub async fn make(
    config: &config::Cassandra,
    keyspace: &str,
    host: &str,
    now_ms: i64,
) -> Result<(config::Cassandra, Vec<String>), StoreError> {
    let session = connect::session(config).await?;
    let replication = u32::try_from(nodes(&session, config)).unwrap_or(1);
    let keyspace = keyspace.to_owned();
    let consistency = "all".to_owned();
    let scratch = config::Cassandra { keyspace, replication, consistency, ..config.clone() };
    schema::apply(&scratch, host, now_ms).await?;
    let keyspace = &scratch.keyspace;
    let tables = tables(&session, keyspace).await?;
    for table in &tables {
        let text = format!(
            "ALTER TABLE {keyspace}.{table} WITH read_repair = 'NONE' AND compaction = \
             {{'class': 'SizeTieredCompactionStrategy', 'enabled': 'false'}}"
        );
        change(&session, &text).await?;
    }
    Ok((scratch, tables))
}

/// Drops a keyspace that [`make`] has made, if it is there; answers whether it was.
///
/// # Errors
/// The cluster refuses.
pub async fn remove(config: &config::Cassandra, keyspace: &str) -> Result<bool, StoreError> {
    let session = connect::session(config).await?;
    let text = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
    let found = execute(&session, text, (keyspace,)).await?;
    if found.is_none_or(|rows| rows.rows_num() == 0) {
        return Ok(false);
    }
    change(&session, &format!("DROP KEYSPACE IF EXISTS {keyspace}")).await?;
    Ok(true)
}

async fn change(session: &Session, text: &str) -> Result<(), StoreError> {
    execute(session, text, ()).await.map(drop)
}
