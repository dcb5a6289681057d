//! What a backup of one node needs to know of the cluster, and the keyspace that a drill fills.

use scylla::client::session::Session;
use scylla::response::PagingState;

use super::ask::{all_rows, prepare_read};
use super::schema::{self, execute};
use super::{connect, fault, report};
use crate::config;
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
/// span, and ends where it ended or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// Origins that have a span.
    pub origins: u64,
    /// The sum of where their last spans end.
    pub bytes: u64,
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
    // the newest span of a partition stands first
    let text = format!("SELECT end_bytes FROM {}.spans PER PARTITION LIMIT 1", config.keyspace);
    let ends = prepare_read(&session, text).await?;
    let ends: Vec<(i64,)> = all_rows(&session, &ends, (), PagingState::start()).await?;
    let bytes = ends.iter().fold(0_u64, |sum, (end,)| sum.saturating_add(end.cast_unsigned()));
    Ok((shape, Reach { origins: ends.len() as u64, bytes }))
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
