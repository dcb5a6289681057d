//! Keyspace and tables, as `bitacora schema` makes and checks them.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use bitacora::config::Lifetimes;
use bitacora::migration::Weight;
use bitacora::record::Level;
use bitacora::stores::cassandra::{CassandraStore, report, schema};
use bitacora::stores::{Store, StoreError};

use crate::lines::*;
use crate::node::{keyspace, shared, skipped};

#[test]
fn two_hosts_that_apply_the_schema_at_once_make_it_once() {
    let name = "two_hosts_that_apply_the_schema_at_once_make_it_once";
    let node = match shared() {
        Ok(node) => node,
        Err(why) => return skipped(name, why),
    };
    let config = node.config(&keyspace());
    block_on(async {
        let unmade = CassandraStore::new(config.clone());
        assert!(matches!(unmade.check().await, Err(StoreError::Schema { .. })));
        assert_eq!(schema::plan(&config).await.unwrap().len(), schema::MIGRATIONS.len());
        assert!(!report::check(&config, &Lifetimes::all(config.ttl)).await.unwrap().works());

        let (one, two) =
            tokio::join!(schema::apply(&config, "a", 1), schema::apply(&config, "b", 2));
        let done = one.unwrap().len() + two.unwrap().len();
        assert_eq!(done, schema::MIGRATIONS.len(), "each migration is recorded once");
        assert!(schema::plan(&config).await.unwrap().is_empty());
        assert!(schema::apply(&config, "a", 3).await.unwrap().is_empty(), "twice changes nothing");
        unmade.check().await.expect("the waiting store finds its tables");

        let report = report::check(&config, &Lifetimes::all(config.ttl)).await.unwrap();
        assert!(report.works(), "{report:?}");
        let said = report.findings.iter().any(|finding| {
            finding.weight == Weight::Warning && finding.text.contains("not promised")
        });
        assert!(said, "one replica and a periodic commit log: {report:?}");

        let session = session(&config).await;
        let newer = "INSERT INTO $.schema_version (name, version) VALUES ('migration', 99)";
        cql(&session, &newer.replace('$', &config.keyspace)).await;
        assert!(matches!(unmade.check().await, Err(StoreError::Newer { found: 99, .. })));
        assert!(matches!(schema::apply(&config, "a", 4).await, Err(StoreError::Newer { .. })));
        assert!(!report::check(&config, &Lifetimes::all(config.ttl)).await.unwrap().works());
    });
}

#[test]
fn rows_live_as_long_as_the_configuration_says() {
    on_tables("rows_live_as_long_as_the_configuration_says", |mut config, store| async move {
        write(&store, &[line(DAY_START, 0, Level::Info, "by the table")], 1).await;
        config.ttl = Some(Duration::from_hours(24));
        let shorter = CassandraStore::new(config.clone());
        write(&shorter, &[line(DAY_START, 1, Level::Info, "by the row")], 2).await;
        let session = session(&config).await;
        let text = format!(
            "SELECT offset_bytes, ttl(message) FROM {}.infrastructure_logs",
            config.keyspace
        );
        let answer = session.query_unpaged(text, ()).await.unwrap().into_rows_result().unwrap();
        let mut found: Vec<(i64, i32)> = answer.rows().unwrap().map(Result::unwrap).collect();
        found.sort_unstable();
        assert!((90 * 86_400 - 100..=90 * 86_400).contains(&found[0].1), "{found:?}");
        assert!((86_400 - 100..=86_400).contains(&found[1].1), "{found:?}");
        let report = report::check(&config, &Lifetimes::all(config.ttl)).await.unwrap();
        let warned = report.findings.iter().any(|finding| finding.text.contains("ALTER TABLE"));
        assert!(warned && report.works(), "{report:?}");
    });
}

#[test]
fn the_command_plans_makes_and_checks_the_tables() {
    let name = "the_command_plans_makes_and_checks_the_tables";
    let node = match shared() {
        Ok(node) => node,
        Err(why) => return skipped(name, why),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bitacora.toml");
    let (address, keyspace) = (node.address(), keyspace());
    let text = format!(
        "[store]\nkind = \"cassandra\"\n[store.cassandra]\nnodes = [\"{address}\"]\n\
         keyspace = \"{keyspace}\"\n"
    );
    fs::write(&path, text).unwrap();
    let schema = |args: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bitacora"));
        command.arg("schema").args(args).arg("--config").arg(&path).output().unwrap()
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let check = schema(&["check"]);
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    assert!(said(&check).contains("PROBLEM") && said(&check).contains("schema apply"));
    let plan = schema(&["apply", "--dry-run"]);
    assert!(said(&plan).contains("CREATE KEYSPACE IF NOT EXISTS"), "{plan:?}");
    assert_eq!(schema(&["check"]).status.code(), Some(1), "a dry run changes nothing");
    let apply = schema(&["apply"]);
    assert_eq!(apply.status.code(), Some(0), "{apply:?}");
    let check = schema(&["check", "--json"]);
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    let answer: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!(answer["report"]["version"], bitacora::stores::cassandra::schema::VERSION);
    assert!(said(&schema(&["plan"])).contains("up to date"));
}
