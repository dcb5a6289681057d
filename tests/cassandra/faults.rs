//! What goes wrong: rows that are to blame, and everything else, which waits.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bitacora::config::{Lifetimes, Tls};
use bitacora::key::{RowKey, Table};
use bitacora::record::Level;
use bitacora::stores::cassandra::{CassandraStore, open_session, report, schema};
use bitacora::stores::{LogReader, Store, StoreError};

use crate::lines::*;
use crate::node::{Node, keyspace, shared, skipped};

#[test]
fn only_rows_that_are_to_blame_are_called_invalid() {
    on_tables("only_rows_that_are_to_blame_are_called_invalid", |config, store| async move {
        let good = [line(DAY_START, 0, Level::Info, "good")];
        write(&store, &good, 1).await;
        let large = [line(DAY_START, 1, Level::Info, &"x".repeat(17 << 20))];
        let large = Arc::new(batches(&store, &large, 2).remove(0));
        let error = store.write(large).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "too large: {error}");
        let mut broken = batches(&store, &good, 3).remove(0);
        broken.text[0] = 0xff;
        let error = store.write(Arc::new(broken)).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "not UTF-8: {error}");
        write(&store, &good, 4).await;

        let session = session(&config).await;
        let table = format!("{}.infrastructure_logs", config.keyspace);
        cql(&session, &format!("DROP TABLE {table}")).await;
        let again = Arc::new(batches(&store, &good, 5).remove(0));
        for attempt in 0..3 {
            let error = store.write(Arc::clone(&again)).await.unwrap_err();
            assert!(matches!(error, StoreError::Schema { .. }), "{attempt}: {error}");
        }
        assert!(!report::check(&config, &Lifetimes::all(config.ttl)).await.unwrap().works());
        // A person makes the table again: the same store goes on.
        cql(
            &session,
            &format!("DELETE FROM {}.schema_version WHERE name = 'migration'", config.keyspace),
        )
        .await;
        schema::apply(&config, "test", DAY_START).await.unwrap();
        store.write(again).await.expect("the table is back");
    });
}

#[test]
fn a_cluster_that_is_not_there_is_waited_for() {
    let name = "a_cluster_that_is_not_there_is_waited_for";
    let node = match shared() {
        Ok(node) => node,
        Err(why) => return skipped(name, why),
    };
    block_on(async {
        let mut config = node.config("nowhere");
        config.nodes = vec!["127.0.0.1:1".to_owned()];
        let store = CassandraStore::new(config);
        let error = store.check().await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");

        let mut config = node.config("nowhere");
        config.datacenter = "elsewhere".to_owned();
        let error = CassandraStore::new(config).check().await.unwrap_err();
        assert!(error.to_string().contains("datacenter1"), "it names those there are: {error}");
    });
}

#[test]
fn a_node_that_is_killed_and_comes_back_is_written_to_again() {
    let name = "a_node_that_is_killed_and_comes_back_is_written_to_again";
    let node = match Node::start(&[]) {
        Ok(node) => node,
        Err(why) => return skipped(name, &why),
    };
    let config = node.config(&keyspace());
    block_on(async {
        schema::apply(&config, "test", DAY_START).await.unwrap();
        let store = CassandraStore::new(config.clone());
        let lines = spread();
        write(&store, &lines[..300], 100).await;
        let batch = Arc::new(batches(&store, &lines[300..301], 200).remove(0));
        node.kill();
        within("a failed write", Duration::from_secs(30), async || {
            match store.write(Arc::clone(&batch)).await {
                Ok(_) => false,
                Err(error) => {
                    let waits = !matches!(error, StoreError::Invalid { .. });
                    assert!(waits, "an outage is nobody's fault: {error}");
                    true
                }
            }
        })
        .await;
        node.restart();
        within("a write after the restart", Duration::from_secs(30), async || {
            store.write(Arc::clone(&batch)).await.is_ok()
        })
        .await;
        write(&store, &lines, 300).await;
        let mut keys = 0;
        let mut visit = |_: Table, _: RowKey| {
            keys += 1;
            true
        };
        store.visit_keys(&mut visit).await.unwrap();
        assert_eq!(keys, 600, "what was there and what came later, once each");
    });
}

#[test]
fn a_password_and_certificates_are_used_and_a_lost_permission_waits() {
    let name = "a_password_and_certificates_are_used_and_a_lost_permission_waits";
    let node = match Node::start(&["--auth", "--mutual-tls"]) {
        Ok(node) => node,
        Err(why) => return skipped(name, &why),
    };
    let dir = tempfile::tempdir().unwrap();
    let password = |name: &str, text: &str| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        Some(file)
    };
    let mut admin = node.config(&keyspace());
    admin.username = Some("cassandra".to_owned());
    admin.password_file = password("admin", "cassandra\n");
    admin.tls = Some(Tls {
        ca_file: node.tls_dir().join("ca.pem"),
        cert_file: Some(node.tls_dir().join("client.pem")),
        key_file: Some(node.tls_dir().join("client.key")),
    });
    block_on(async {
        schema::apply(&admin, "test", DAY_START).await.unwrap();
        let session = open_session(&admin).await.unwrap();
        cql(&session, "CREATE ROLE shipper WITH PASSWORD = 'kept secret' AND LOGIN = true").await;
        for permission in ["SELECT", "MODIFY"] {
            let on = format!("ON KEYSPACE {} TO shipper", admin.keyspace);
            cql(&session, &format!("GRANT {permission} {on}")).await;
        }

        let mut wrong = admin.clone();
        wrong.username = Some("shipper".to_owned());
        wrong.password_file = password("wrong", "guessed");
        let error = CassandraStore::new(wrong.clone()).check().await.unwrap_err();
        assert!(matches!(error, StoreError::Outage { .. }), "{error}");
        assert!(!error.to_string().contains("guessed"), "{error}");
        let mut anonymous = admin.clone();
        anonymous.username = None;
        let error = CassandraStore::new(anonymous).check().await.unwrap_err();
        assert!(error.to_string().contains("username"), "{error}");
        let mut plain = admin.clone();
        plain.tls = None;
        assert!(CassandraStore::new(plain).check().await.is_err());

        let mut shipper = wrong;
        shipper.password_file = password("right", "kept secret\n");
        let store = CassandraStore::new(shipper);
        let lines = [line(DAY_START, 0, Level::Info, "with a password")];
        write(&store, &lines, 1).await;
        store.put_spans(&[span(&lines, "nginx/access", 0)], 1).await.unwrap();
        assert_eq!(messages(&rows(&store, &all()).await), ["with a password"]);

        let revoked = format!("REVOKE MODIFY ON KEYSPACE {} FROM shipper", admin.keyspace);
        cql(&session, &revoked).await;
        let batch = Arc::new(batches(&store, &lines, 2).remove(0));
        let error = store.write(Arc::clone(&batch)).await.unwrap_err();
        assert!(matches!(error, StoreError::Outage { .. }), "{error}");
        let granted = format!("GRANT MODIFY ON KEYSPACE {} TO shipper", admin.keyspace);
        cql(&session, &granted).await;
        store.write(batch).await.expect("the permission is back");
    });
}

#[test]
fn a_server_with_smaller_limits_is_understood() {
    let name = "a_server_with_smaller_limits_is_understood";
    let limits = ["max_mutation_size: 512KiB", "native_transport_max_frame_size: 2MiB"];
    let node = match Node::start(&["--yaml", limits[0], "--yaml", limits[1]]) {
        Ok(node) => node,
        Err(why) => return skipped(name, &why),
    };
    let config = node.config(&keyspace());
    block_on(async {
        schema::apply(&config, "test", DAY_START).await.unwrap();
        let store = CassandraStore::new(config.clone());
        let good = [line(DAY_START, 0, Level::Info, "good")];
        write(&store, &good, 1).await;
        for size in [1 << 20, 3 << 20] {
            let large = [line(DAY_START, 1, Level::Info, &"x".repeat(size))];
            let batch = batches(&store, &large, 2).remove(0);
            let error = store.write(Arc::new(batch)).await.unwrap_err();
            assert!(matches!(error, StoreError::Invalid { .. }), "{size} bytes: {error}");
            write(&store, &good, 4).await;
        }
    });
}
