//! Results of health checks.

use super::*;
use crate::stores::health::{CheckStatus, HealthCheck, HealthStore, OldChecks};

fn found(host: &str, name: &str, checked_ms: i64, status: CheckStatus) -> HealthCheck {
    let detail = format!("{name} at {checked_ms}");
    let value = (status != CheckStatus::Unknown).then_some(0.5);
    HealthCheck { host: host.into(), name: name.into(), checked_ms, status, value, detail }
}

#[test]
fn the_last_result_of_each_check_comes_back_and_old_ones_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteReader::new(dir.path().join("logs"));
    let first = [
        found("a", "disk", 1000, CheckStatus::Trouble),
        found("a", "backup", 1000, CheckStatus::Unknown),
        found("b", "disk", 900, CheckStatus::Ok),
    ];
    block_on(store.record_checks(&first)).unwrap();
    let again = [found("a", "disk", 2000, CheckStatus::Ok)];
    block_on(store.record_checks(&again)).unwrap();
    block_on(store.record_checks(&again)).unwrap();
    let last = block_on(store.last_checks()).unwrap();
    assert_eq!(last, [first[1].clone(), again[0].clone(), first[2].clone()]);

    let old = OldChecks { rows: 2, oldest_ms: Some(1000), newest_ms: Some(1000) };
    block_on(store.drop_checks_before(1000)).unwrap();
    assert_eq!(block_on(store.checks_before(1001)).unwrap(), old);
    assert_eq!(block_on(store.drop_checks_before(1001)).unwrap(), old);
    assert_eq!(block_on(store.last_checks()).unwrap(), again);
}

#[test]
fn an_index_of_the_first_version_is_brought_up_to_date_and_keeps_what_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path();
    let connection = Connection::open(files::index_path(logs)).unwrap();
    connection.execute_batch(index::SCHEMA).unwrap();
    connection
        .execute_batch(
            "INSERT INTO schema_version VALUES (1); INSERT INTO expired_days VALUES (7, 5);",
        )
        .unwrap();
    drop(connection);
    let store = SqliteReader::new(logs.to_owned());
    assert_eq!(block_on(store.last_checks()).unwrap(), [], "a reader makes nothing");
    block_on(store.record_checks(&[found("a", "disk", 1, CheckStatus::Ok)])).unwrap();
    assert_eq!(block_on(store.last_checks()).unwrap().len(), 1);
    let connection = Connection::open(files::index_path(logs)).unwrap();
    let (day, version): (i32, u32) = connection
        .query_row("SELECT day, version FROM expired_days, schema_version", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!((day, version), (7, 3));
}
