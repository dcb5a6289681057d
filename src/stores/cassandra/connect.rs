//! From the configuration to a session: contact points, policies, password, TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::policies::load_balancing::DefaultPolicy;
use scylla::policies::retry::FallthroughRetryPolicy;
use scylla::statement::{Consistency, SerialConsistency};

use super::fault;
use crate::config::{Cassandra, Tls};
use crate::secret;
use crate::stores::StoreError;

/// How long one connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a whole session may take to open.
const SESSION_TIMEOUT: Duration = Duration::from_secs(20);
/// Well above the 2 s after which the server itself gives up on a write, so that its own words
/// are heard.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);

/// Opens a session with the policies, the password and the certificates of the configuration.
///
/// # Errors
/// No node answers, the login is refused, or a file that the configuration names is unusable.
pub async fn session(config: &Cassandra) -> Result<Session, StoreError> {
    keyspace(&config.keyspace)?;
    let policy = DefaultPolicy::builder()
        .prefer_datacenter(config.datacenter.clone())
        .token_aware(true)
        .permit_dc_failover(false)
        .build();
    let profile = ExecutionProfile::builder()
        .consistency(consistency(&config.consistency)?)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .request_timeout(Some(REQUEST_TIMEOUT))
        .load_balancing_policy(policy)
        // `deliver` retries, and it alone: a retry of the driver's would hide how a node fares.
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()))
        .build();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.nodes)
        .default_execution_profile_handle(profile.into_handle())
        .connection_timeout(CONNECT_TIMEOUT)
        .keepalive_interval(Duration::from_secs(10))
        .keepalive_timeout(Duration::from_secs(10))
        .keyspaces_to_fetch([config.keyspace.clone()])
        .fetch_full_schema_metadata(false)
        // LZ4 frames double the client's CPU and gain nothing on a local network.
        .compression(None)
        .schema_agreement_timeout(Duration::from_mins(1));
    if let Some(user) = &config.username {
        builder = builder.user(user, password(config.password_file.as_deref())?);
    }
    if let Some(tls) = &config.tls {
        builder = builder.tls_context(Some(tls_config(tls)?));
    }
    let session = tokio::time::timeout(SESSION_TIMEOUT, builder.build())
        .await
        .map_err(|_| fault::unreachable(format!("no session within {SESSION_TIMEOUT:?}")))?
        .map_err(|error| fault::session(&error))?;
    datacenter(&session, &config.datacenter)?;
    Ok(session)
}

/// With a datacenter that does not exist no node would ever be asked.
fn datacenter(session: &Session, wanted: &str) -> Result<(), StoreError> {
    let cluster = session.get_cluster_state();
    let nodes = cluster.get_nodes_info();
    let mut found: Vec<&str> = nodes.iter().filter_map(|node| node.datacenter.as_deref()).collect();
    if found.contains(&wanted) {
        return Ok(());
    }
    found.sort_unstable();
    found.dedup();
    Err(fault::unreachable(format!(
        "no node of datacenter '{wanted}'; the cluster has {}; set store.cassandra.datacenter",
        found.join(", ")
    )))
}

/// Reads the word of `store.cassandra.consistency`.
pub(super) fn consistency(word: &str) -> Result<Consistency, StoreError> {
    Ok(match word {
        "any" => Consistency::Any,
        "one" => Consistency::One,
        "two" => Consistency::Two,
        "three" => Consistency::Three,
        "quorum" => Consistency::Quorum,
        "all" => Consistency::All,
        "local_quorum" => Consistency::LocalQuorum,
        "each_quorum" => Consistency::EachQuorum,
        "local_one" => Consistency::LocalOne,
        _ => {
            return Err(fault::outage(format!(
                "'{word}' is no consistency; set store.cassandra.consistency to local_quorum"
            )));
        }
    })
}

/// A keyspace's name goes into statements as it is.
fn keyspace(name: &str) -> Result<(), StoreError> {
    let fits = !name.is_empty()
        && name.len() <= 48
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if fits {
        return Ok(());
    }
    Err(fault::outage(format!(
        "'{name}' is no keyspace name; store.cassandra.keyspace takes up to 48 of a-z, 0-9 and _"
    )))
}

/// The password. It is read anew for each session, and never shown.
fn password(file: Option<&Path>) -> Result<String, StoreError> {
    let Some(file) = file else {
        return Err(fault::outage(
            "store.cassandra.username is set without a password_file; set both",
        ));
    };
    secret::read(file).map_err(|error| fault::outage(error.to_string()))
}

/// Node certificates must name the node's IP address: the driver checks that one.
fn tls_config(tls: &Tls) -> Result<Arc<rustls::ClientConfig>, StoreError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(&tls.ca_file)? {
        roots.add(certificate).map_err(|error| unusable(&tls.ca_file, &error))?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fault::outage(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots);
    let config = match (&tls.cert_file, &tls.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|error| unusable(key_file, &error))?;
            builder
                .with_client_auth_cert(certificates(cert_file)?, key)
                .map_err(|error| unusable(cert_file, &error))?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => {
            return Err(fault::outage("store.cassandra.tls needs cert_file and key_file together"));
        }
    };
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(file, &error))?;
    if certificates.is_empty() {
        return Err(unusable(file, &"no certificate in it"));
    }
    Ok(certificates)
}

fn unusable(file: &Path, error: &dyn std::fmt::Display) -> StoreError {
    fault::outage(format!("cannot use {} for TLS: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyspace_name_cannot_carry_a_statement() {
        for name in ["", "Logging", "a b", "x;drop", "1st", &"x".repeat(49)] {
            assert!(keyspace(name).is_err(), "{name}");
        }
        assert!(keyspace("logging_2").is_ok());
    }

    #[test]
    fn a_missing_password_file_is_named() {
        let error = password(Some(Path::new("/nowhere/password"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/password"), "{error}");
    }
}
