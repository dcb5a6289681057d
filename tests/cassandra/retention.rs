//! Retention: times to live as the tables and the rows have them, partitions of policies that got
//! shorter, and what `audit` says of both.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use bitacora::config::{Cassandra, Config, Machine};
use bitacora::daemon::recovery::recover;
use bitacora::key::{DAY_MS, Table};
use bitacora::ledger::{Encoding, KernelIdentity, OriginRecord, Reason, Span};
use bitacora::maintain::audit::{self, Report};
use bitacora::maintain::retention::{self, Request};
use bitacora::record::Level;
use bitacora::sources::file::{Change, TailState};
use bitacora::state::{Stamps, State};
use bitacora::stores::cassandra::CassandraStore;
use bitacora::stores::health::{CheckStatus, HealthCheck, HealthStore};
use bitacora::stores::{LogReader, Store};
use scylla::client::session::Session;

use crate::lines::*;

const DAY_S: i64 = 86_400;

fn write_config(dir: &Path, config: &Cassandra, retention: &str) -> std::path::PathBuf {
    let path = dir.join("bitacora.toml");
    let Cassandra { nodes, keyspace, .. } = config;
    let state = dir.join("state");
    let text = format!(
        "[daemon]\nstate_dir = \"{}\"\n[store]\nkind = \"cassandra\"\n[store.cassandra]\n\
         nodes = {nodes:?}\nkeyspace = {keyspace:?}\n[retention]\n{retention}\n",
        state.display()
    );
    fs::write(&path, text).unwrap();
    path
}

fn command(path: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitacora"));
    command.arg("retention").args(arguments).arg("--config").arg(path).output().unwrap()
}

async fn table_ttl(session: &Session, keyspace: &str, table: &str) -> i64 {
    let text = "SELECT default_time_to_live FROM system_schema.tables \
                WHERE keyspace_name = ? AND table_name = ?";
    let answer = session.query_unpaged(text, (keyspace, table)).await.unwrap();
    let answer = answer.into_rows_result().unwrap();
    i64::from(answer.first_row::<(i32,)>().unwrap().0)
}

/// What is left of the time to live of each row, by its message, in whole days.
async fn row_ttls(session: &Session, keyspace: &str) -> Vec<(String, i32)> {
    let text = format!("SELECT message, ttl(message) FROM {keyspace}.infrastructure_logs");
    let answer = session.query_unpaged(text, ()).await.unwrap().into_rows_result().unwrap();
    let rows = answer.rows::<(String, i32)>().unwrap().map(Result::unwrap);
    let mut found: Vec<_> = rows.map(|(message, left)| (message, (left + 3600) / 86_400)).collect();
    found.sort();
    found
}

#[test]
fn times_to_live_are_corrected_in_the_tables_and_rows_carry_those_of_their_source() {
    let name = "times_to_live_are_corrected_in_the_tables_and_rows_carry_those_of_their_source";
    on_tables(name, |cassandra, store| async move {
        let dir = tempfile::tempdir().unwrap();
        let policies = "infrastructure = \"30d\"\nhealth_checks = \"10d\"\n\
                        sources = { \"nginx/access\" = \"7d\" }";
        let path = write_config(dir.path(), &cassandra, policies);
        let keyspace = &cassandra.keyspace;
        let session = session(&cassandra).await;
        let ttl = async |table| table_ttl(&session, keyspace, table).await / DAY_S;
        let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
        write(&store, &[line(DAY_START, 0, Level::Info, "before")], 1).await;

        for look in [&["plan"][..], &["apply", "--dry-run"]] {
            let output = command(&path, look);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            assert!(said(&output).contains("7776000 s would become 2592000 s"), "{output:?}");
            assert!(said(&output).contains("the last of them goes in 90 days"), "{output:?}");
            assert_eq!(ttl("infrastructure_logs").await, 90, "a plan changes nothing");
        }
        let output = command(&path, &["apply"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(ttl("infrastructure_logs").await, 30);
        assert_eq!(ttl("health_checks").await, 10);
        for table in ["application_logs", "user_events", "log_stats"] {
            assert_eq!(ttl(table).await, 90, "{table} is not named, and lives as the store says");
        }
        let again = command(&path, &["apply", "--json"]);
        let answer: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
        let tables = answer["tables"].as_array().unwrap();
        assert!(tables.len() == 5 && tables.iter().all(|table| table["state"].is_null()));

        let config = Config::load(&path, &Machine::here()).unwrap();
        let writer = CassandraStore::with_lifetimes(cassandra.clone(), config.store.lifetimes);
        let mut other = line(DAY_START, 2, Level::Info, "of the table");
        other.source = "syslog";
        write(&writer, &[line(DAY_START, 1, Level::Info, "of the source"), other], 2).await;
        cql(
            &session,
            &format!(
                "INSERT INTO {keyspace}.infrastructure_logs (log_date, source, bucket, timestamp, \
                 origin, offset_bytes, message) VALUES ('2026-11-22', 'x', 0, 1, 1, 1, 'by hand')"
            ),
        )
        .await;
        let expected =
            [("before", 90), ("by hand", 30), ("of the source", 7), ("of the table", 30)]
                .map(|(message, days)| (message.to_owned(), days));
        assert_eq!(row_ttls(&session, keyspace).await, expected);
    });
}

/// An origin of 3000 bytes: `nginx/access` on two days, then `syslog` on the first of them.
async fn fill(store: &CassandraStore) {
    let record = origin(77, "m1", "web1", Path::new("/var/log/gone.log"));
    store.put_origin(&record, &[], 1).await.unwrap();
    for (start, day, source) in
        [(0, 0, "nginx/access"), (1000, 1, "nginx/access"), (2000, 0, "syslog")]
    {
        let lines: Vec<Line> = (0..100)
            .map(|number| {
                let at_ms = DAY_START + day * DAY_MS + number * 60_000;
                let level = Level::ALL[usize::try_from(number % 6).unwrap()];
                Line { source, ..line(at_ms, start + number, level, "line") }
            })
            .collect();
        write(store, &lines, start + 10).await;
        let mut span = span(&lines, source, start.cast_unsigned());
        span.carried = Vec::new();
        store.put_spans(&[span], start + 10).await.unwrap();
    }
}

fn origin(id: i64, machine: &str, host: &str, path: &Path) -> OriginRecord {
    OriginRecord {
        id,
        machine: machine.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        kernel: KernelIdentity::default(),
        head_hash: 0,
        head_bytes: 0,
        first_offset: 0,
        born_ms: DAY_START,
        encoding: Encoding::Plain,
    }
}

async fn audited(store: &CassandraStore, now_ms: i64) -> Report {
    audit::audit(store, now_ms).await.unwrap().report
}

async fn counted(store: &CassandraStore) -> u64 {
    store.counts(0, i64::MAX).await.unwrap().iter().map(|(_, rows)| rows).sum()
}

#[test]
fn partitions_of_a_policy_that_got_shorter_go_and_the_audit_calls_them_expired() {
    let name = "partitions_of_a_policy_that_got_shorter_go_and_the_audit_calls_them_expired";
    on_tables(name, |cassandra, store| async move {
        let dir = tempfile::tempdir().unwrap();
        let path = write_config(dir.path(), &cassandra, "sources = { \"nginx/access\" = \"7d\" }");
        let config = Config::load(&path, &Machine::here()).unwrap();
        fill(&store).await;
        let run = async |apply, days| {
            let now_ms = DAY_START + days * DAY_MS;
            let request = Request { apply, now_ms, ..Request::default() };
            let report = retention::run(&config, request).await.unwrap();
            assert!(report.clean(), "{report:?}");
            report
        };
        // a day that ended seven days ago is given one more, in which its rows go by themselves
        assert!(run(true, 8).await.items.is_empty());
        assert!(audited(&store, DAY_START + 8 * DAY_MS).await.clean());
        let planned = run(false, 9).await.items;
        assert_eq!(planned.len(), 1, "{planned:?}");
        let item = &planned[0];
        assert_eq!(
            (item.rows, item.day, item.table),
            (100, Some(20_779), Some(Table::Infrastructure))
        );
        assert_eq!(item.policy, "source nginx/access: 7 days");
        assert_eq!(
            (item.oldest_ms, item.newest_ms),
            (Some(DAY_START), Some(DAY_START + 6_000_000 - 1))
        );
        assert_eq!(rows(&store, &all()).await.len(), 300, "a plan changes nothing");

        assert_eq!(run(true, 9).await.items.len(), 1);
        let store = Arc::new(CassandraStore::new(cassandra.clone()));
        assert_eq!((rows(&store, &all()).await.len(), counted(&store).await), (200, 200));
        let report = audited(&store, DAY_START + 9 * DAY_MS).await;
        assert!(report.clean(), "{report:?}");
        assert_eq!((report.expired_rows(), report.expired.len()), (100, 1));
        assert_eq!(report.expired[0].policy, "source nginx/access: 7 days");
        assert!(run(true, 9).await.items.is_empty(), "twice changes nothing");

        let report = run(true, 20).await;
        assert_eq!(
            (report.items.len(), report.tidied.spans, report.tidied.become_spans),
            (1, 2, 1)
        );
        let spans = LogReader::origins(&*store, None).await.unwrap().pop().unwrap().spans;
        assert_eq!(
            spans.iter().map(|span| (span.start_bytes, span.end_bytes)).collect::<Vec<_>>(),
            [(0, 2000), (2000, 3000)]
        );
        assert_eq!((spans[0].rows, spans[0].reasons.get(Reason::Expired)), (0, 200));
        let report = audited(&store, DAY_START + 20 * DAY_MS).await;
        assert!(report.clean() && report.expired_rows() == 200, "{report:?}");

        // what was deleted by hand is no policy's
        let session = session(&cassandra).await;
        for bucket in 0..3 {
            let delete = format!(
                "DELETE FROM {}.infrastructure_logs WHERE log_date = '2026-11-22' \
                 AND source = 'syslog' AND bucket = {bucket}",
                cassandra.keyspace
            );
            cql(&session, &delete).await;
        }
        run(true, 20).await;
        let report = audited(&store, DAY_START + 20 * DAY_MS).await;
        assert!(!report.clean(), "{report:?}");
        let later = audited(&store, DAY_START + 91 * DAY_MS).await;
        assert!(later.clean(), "the spans say themselves how long their rows live");
    });
}

#[test]
fn results_of_health_checks_come_back_and_are_dropped_by_the_day() {
    let name = "results_of_health_checks_come_back_and_are_dropped_by_the_day";
    on_tables(name, |cassandra, store| async move {
        let check = |host: &str, checked_ms, status| HealthCheck {
            host: host.to_owned(),
            name: "disk".to_owned(),
            checked_ms,
            status,
            value: (status == CheckStatus::Trouble).then_some(0.9),
            detail: "/var".to_owned(),
        };
        let results = [
            check("a", DAY_START, CheckStatus::Ok),
            check("a", DAY_START + 300_000, CheckStatus::Trouble),
            check("a", DAY_START + DAY_MS, CheckStatus::Unknown),
            check("b", DAY_START + 5, CheckStatus::Ok),
        ];
        store.record_checks(&results).await.unwrap();
        store.record_checks(&results).await.unwrap();
        let last = store.last_checks().await.unwrap();
        assert_eq!(last, [results[2].clone(), results[3].clone()]);

        let dir = tempfile::tempdir().unwrap();
        let path = write_config(dir.path(), &cassandra, "health_checks = \"7d\"");
        let config = Config::load(&path, &Machine::here()).unwrap();
        let now_ms = DAY_START + 8 * DAY_MS;
        let request = Request { apply: true, now_ms, ..Request::default() };
        let report = retention::run(&config, request).await.unwrap();
        let item = report.items.first().unwrap();
        assert_eq!((item.rows, item.oldest_ms), (3, Some(DAY_START)));
        assert_eq!(item.newest_ms, Some(DAY_START + 300_000));
        assert_eq!(store.last_checks().await.unwrap(), [results[2].clone()]);
    });
}

/// The state of machine `m1`, which has two origins in the store.
async fn state_of_m1(dir: &Path, store: &CassandraStore) -> State {
    let machine_id = dir.join("machine-id");
    fs::write(&machine_id, "m1\n").unwrap();
    let state = State::open_on(&dir.join("state"), &machine_id, 0).unwrap();
    let stored = LogReader::origins(store, Some("m1")).await.unwrap();
    assert_eq!(state.rebuild(&stored).unwrap(), 2);
    state
}

#[test]
fn origins_end_when_their_rows_and_files_are_gone_and_a_host_that_is_gone_is_named() {
    let name = "origins_end_when_their_rows_and_files_are_gone_and_a_host_that_is_gone_is_named";
    on_tables(name, |cassandra, store| async move {
        let dir = tempfile::tempdir().unwrap();
        let path = write_config(dir.path(), &cassandra, "");
        let config = Config::load(&path, &Machine::here()).unwrap();
        fill(&store).await;
        // the file of 77 is in a directory with others, and gone; that of 78 is there
        let (gone, there) = (dir.path().join("gone.log"), dir.path().join("there.log"));
        fs::write(&there, "a line\n").unwrap();
        store.put_origin(&origin(77, "m1", "web1", &gone), &[], 2).await.unwrap();
        let look = bitacora::sources::file::identity::look(&there).unwrap();
        let kernel = look.kernel(None);
        let known = OriginRecord { kernel, ..origin(78, "m1", "web1", &there) };
        store.put_origin(&known, &[], 2).await.unwrap();
        store.put_origin(&origin(79, "m2", "web2", &gone), &[], 2).await.unwrap();
        for id in [78, 79] {
            let span = Span { origin: id, ..span(&[], "syslog", 0) };
            store.put_spans(&[span], 3).await.unwrap();
        }
        let run = async |days: i64, gone_host: Option<&str>| {
            let now_ms = DAY_START + days * DAY_MS;
            let gone_host = gone_host.map(str::to_owned);
            let request = Request { apply: true, now_ms, gone_host, ..Request::default() };
            let report = retention::run(&config, request).await.unwrap();
            assert!(report.clean(), "{report:?}");
            report
        };
        let report = run(91, None).await;
        assert_eq!(report.origins.ended, 0);
        assert!(report.notes.iter().any(|note| note.contains("state.db")), "{report:?}");

        // what the daemon of this machine has
        let state = state_of_m1(dir.path(), &store).await;
        assert_eq!(run(91, None).await.origins.ended, 0, "nobody has looked for them yet");
        let finished = |origin| Change::Finished { origin, finished: true };
        TailState::update(&state, &[finished(77), finished(78)]).unwrap();
        assert_eq!(run(80, None).await.origins.kept, 0, "their rows live");

        let report = run(91, None).await;
        let origins = &report.origins;
        assert_eq!((origins.ended, origins.kept, origins.of_others), (1, 1, 1), "{report:?}");
        assert_eq!(origins.rows, 300);
        let left = LogReader::origins(&*store, None).await.unwrap();
        assert_eq!(left.iter().map(|one| one.record.id).collect::<Vec<_>>(), [78, 79]);
        let report = audited(&store, DAY_START + 91 * DAY_MS).await;
        assert!(report.clean(), "{report:?}");
        // these rows were written today, and go by their own time
        assert_eq!((report.ended.len(), report.ended_rows_left), (1, 300));
        assert_eq!((report.ended[0].end_bytes, report.ended[0].rows), (3000, 300));
        assert_eq!(store.ended("m1").await.unwrap(), [77]);
        assert_eq!(run(91, None).await.origins.ended, 0, "twice changes nothing");

        // a daemon that starts forgets it; one that held it in memory may go on with it
        let stamps = Stamps::volatile(0);
        recover(&*store, &state, &stamps, 0).await.unwrap();
        assert_eq!(state.origin_ids().unwrap(), [78]);
        let resumed = Span { rows: 0, lines: 2, ..span(&[], "syslog", 3000) };
        store.put_origin(&origin(77, "m1", "web1", &gone), &[], 40).await.unwrap();
        store.put_spans(&[resumed], 41).await.unwrap();
        let report = audited(&store, DAY_START + 91 * DAY_MS).await;
        assert!(report.clean() && report.origins.len() == 3, "{report:?}");

        // a run that was broken off after the tombstone and the spans is taken up by the next
        let session = session(&cassandra).await;
        let keyspace = &cassandra.keyspace;
        let put = "INSERT INTO $.expired_origins (machine, origin, end_bytes, rows) \
                   VALUES ('m2', 79, 1000, 0)";
        cql(&session, &put.replace('$', keyspace)).await;
        cql(&session, &format!("DELETE FROM {keyspace}.spans WHERE origin = 79")).await;
        let report = audited(&store, DAY_START + 91 * DAY_MS).await;
        assert!(report.clean() && report.ended.len() == 2, "{report:?}");

        let report = run(93, Some("web2")).await;
        assert_eq!((report.origins.ended, report.origins.of_others), (2, 0), "{report:?}");
        let left = LogReader::origins(&*store, None).await.unwrap();
        assert_eq!(left.iter().map(|one| one.record.id).collect::<Vec<_>>(), [78]);
        // a write of the time before that comes late does not bring it back
        store.put_origin(&origin(79, "m2", "web2", &gone), &[], 1).await.unwrap();
        assert_eq!(LogReader::origins(&*store, None).await.unwrap().len(), 1);
    });
}
