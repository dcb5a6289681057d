//! The nodes of the cluster.

use std::net::SocketAddr;

use super::connect;
use crate::config::Cassandra;
use crate::stores::StoreError;

/// Where the nodes of the cluster listen for clients, those that are down included. The tables are
/// not asked: of them a part may be on a node that is down.
///
/// # Errors
///
/// No node answers.
pub async fn nodes(config: &Cassandra) -> Result<Vec<SocketAddr>, StoreError> {
    let session = connect::session(config).await?;
    let state = session.get_cluster_state();
    let nodes = state.get_nodes_info().iter();
    Ok(nodes.map(|node| SocketAddr::new(node.address.ip(), node.address.port())).collect())
}
