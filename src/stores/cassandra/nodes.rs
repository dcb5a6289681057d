//! The nodes of the cluster.

use std::net::SocketAddr;

use super::CassandraStore;
use crate::stores::StoreError;

impl CassandraStore {
    /// Where the nodes of this cluster listen for clients, those that are down included.
    ///
    /// # Errors
    ///
    /// No node answers.
    pub async fn nodes(&self) -> Result<Vec<SocketAddr>, StoreError> {
        let link = self.link().await?;
        let state = link.session.get_cluster_state();
        let nodes = state.get_nodes_info().iter();
        Ok(nodes.map(|node| SocketAddr::new(node.address.ip(), node.address.port())).collect())
    }
}
