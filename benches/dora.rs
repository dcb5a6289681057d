//! What one event costs, and the questions of a report, with 100,000 phases in a real `MariaDB`;
//! ends with an error if p95 of an insert is 10 ms or more, or that of a question 100 ms or more.
//! The same in `SQLite` is printed beside it and not judged.
//!
//! `cargo bench --bench dora -- [PHASES]`. The phases are of one year; a question is for 30 days
//! of it, at a place that moves. An insert is one statement that the server has synced
//! (`innodb_flush_log_at_trx_commit` = 1): what an fdatasync costs here stands beside it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::pedantic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "all of it measures"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bitacora::config::{Dora, DoraKind, Mysql};
use bitacora::dora::events::{Change, Decision, Deployment, Incident, Phase, PhaseName, Window};
use bitacora::dora::history::Scope;
use bitacora::dora::report::report;
use bitacora::dora::{DoraStore, open, schema};
use serde_json::{Map, Value};

const START_MS: i64 = 1_767_225_600_000;
const DAY_MS: i64 = 86_400_000;
const YEAR_MS: i64 = 365 * DAY_MS;
const INSERTS: usize = 500;
const QUESTIONS: i64 = 50;
const INSERT_MAX: Duration = Duration::from_millis(10);
const QUESTION_MAX: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let phases: i64 = given.first().map_or(100_000, |text| text.parse().unwrap());
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    println!("fdatasync of 4 KiB: {:?} (median of 101)", fdatasync(scratch.path()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let file = Dora { kind: DoraKind::Sqlite, sqlite: scratch.path().join("dora.db"), mysql: None };
    runtime.block_on(measure("sqlite", &file, phases));
    let server = match support::mariadb::Server::start() {
        Ok(server) => server,
        Err(why) => {
            println!("SKIPPED mariadb: {why}");
            return ExitCode::SUCCESS;
        }
    };
    let mysql = Mysql {
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        database: "bitacora".to_owned(),
        username: "bitacora".to_owned(),
        password_file: Some(server.password_file()),
        ca_file: None,
    };
    let on_server = Dora { kind: DoraKind::Mysql, mysql: Some(mysql), ..file };
    let (insert, question) = runtime.block_on(measure("mariadb", &on_server, phases));
    println!("limits: insert p95 {INSERT_MAX:?}, question p95 {QUESTION_MAX:?}");
    if insert < INSERT_MAX && question < QUESTION_MAX {
        return ExitCode::SUCCESS;
    }
    println!("TOO SLOW");
    ExitCode::FAILURE
}

/// Answers p95 of an insert, and the worst p95 of the questions.
async fn measure(name: &str, config: &Dora, phases: i64) -> (Duration, Duration) {
    schema::apply(config, "bench", START_MS).await.unwrap();
    let store = open::open(config).await.unwrap();
    let filled = Instant::now();
    fill(&*store, phases).await;
    println!(
        "{name}: {phases} phases in {:.1} s, by chunks of 500",
        filled.elapsed().as_secs_f64()
    );
    let mut inserts = Vec::new();
    for number in 0..INSERTS {
        let one = phase(phases + i64::try_from(number).unwrap(), START_MS + YEAR_MS);
        let began = Instant::now();
        assert_eq!(store.add_phases(&[one]).await.unwrap(), [true]);
        inserts.push(began.elapsed());
    }
    let insert = tell(name, "insert of a phase", 1, inserts);
    let mut worst = Duration::ZERO;
    for (what, service) in [("", None), (" of a service", Some("s7"))] {
        let mut times: [Vec<Duration>; 4] = Default::default();
        let mut found = [0; 4];
        for number in 0..QUESTIONS {
            let since_ms = START_MS + number * (YEAR_MS - 30 * DAY_MS) / QUESTIONS;
            let service = service.map(str::to_owned);
            let scope = Scope { service: service.clone(), team: None };
            let window = Window { since_ms, until_ms: since_ms + 30 * DAY_MS, service, team: None };
            let mut began = Instant::now();
            let mut lap = |slot: usize, rows: usize| {
                if let (Some(times), Some(found)) = (times.get_mut(slot), found.get_mut(slot)) {
                    times.push(began.elapsed());
                    *found = rows;
                }
                began = Instant::now();
            };
            lap(0, store.phases(&window).await.unwrap().len());
            lap(1, store.deployments(&window).await.unwrap().len());
            lap(2, store.incidents(&window).await.unwrap().len());
            let whole = report(&*store, &scope, 30, window.until_ms).await.unwrap();
            lap(3, whole.figures.len());
        }
        let kinds = ["phases", "deployments", "incidents", "report"];
        for ((times, rows), kind) in times.into_iter().zip(found).zip(kinds) {
            worst = worst.max(tell(name, &format!("30 days, {kind}{what}"), rows, times));
        }
    }
    (insert, worst)
}

fn phase(number: i64, created_ms: i64) -> Phase {
    let name = *PhaseName::ALL.get(usize::try_from(number % 4).unwrap()).unwrap();
    let metadata = [
        ("service", Value::from(format!("s{}", number / 4 % 20))),
        ("team", Value::from(format!("t{}", number / 4 % 7))),
        (
            "request_id",
            Value::from(uuid::Uuid::from_u128(number.cast_unsigned().into()).to_string()),
        ),
        ("command", Value::from("make")),
        ("exit_code", Value::from(0)),
    ];
    Phase {
        cycle_id: format!("cycle-{:06}", number / 4),
        feature_id: format!("feature-{}", number / 400),
        name,
        decision: Decision::Success,
        duration_cs: number % 100_000,
        metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        created_ms,
    }
}

async fn fill(store: &dyn DoraStore, phases: i64) {
    let numbers: Vec<i64> = (0..phases).collect();
    for chunk in numbers.chunks(500) {
        let at = |number: i64| START_MS + number * (YEAR_MS / phases);
        let chunk: Vec<Phase> = chunk.iter().map(|number| phase(*number, at(*number))).collect();
        store.add_phases(&chunk).await.unwrap();
    }
    // a deployment for 20 phases, an incident for ten deployments
    for number in 0..phases / 20 {
        let deployed_ms = START_MS + number * (YEAR_MS / (phases / 20));
        let change = |of: i64| Change {
            id: format!("{number:08x}{of}"),
            committed_ms: deployed_ms - of * 3_600_000,
        };
        let deployment = Deployment {
            id: format!("deployment-{number}"),
            cycle_id: None,
            service: format!("s{}", number % 20),
            team: format!("t{}", number % 7),
            version: format!("1.{number}"),
            deployed_ms,
            succeeded: number % 12 > 0,
            rework: false,
            changes: (0..3).map(change).collect(),
            metadata: Map::new(),
        };
        store.add_deployment(&deployment).await.unwrap();
        if number % 10 == 0 {
            let incident = Incident {
                id: format!("incident-{number}"),
                service: deployment.service,
                team: deployment.team,
                deployment: Some(deployment.id),
                summary: "errors at the till".to_owned(),
                opened_ms: deployed_ms + 600_000,
                closed_ms: Some(deployed_ms + 4_200_000),
                metadata: Map::new(),
            };
            store.open_incident(&incident).await.unwrap();
        }
    }
}

/// Prints the percentiles; answers p95.
fn tell(name: &str, what: &str, rows: usize, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let at =
        |percent: usize| *times.get((times.len() * percent / 100).min(times.len() - 1)).unwrap();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{name}: {what:<32} p50 {:>7.2} ms, p95 {:>7.2} ms, p99 {:>7.2} ms ({rows} rows)",
        ms(at(50)),
        ms(at(95)),
        ms(at(99))
    );
    at(95)
}

fn fdatasync(dir: &Path) -> Duration {
    let mut file = File::create(dir.join("fdatasync")).unwrap();
    let mut times: Vec<Duration> = (0..101)
        .map(|_| {
            file.write_all(&[7; 4096]).unwrap();
            let began = Instant::now();
            file.sync_data().unwrap();
            began.elapsed()
        })
        .collect();
    times.sort();
    *times.get(50).unwrap()
}
