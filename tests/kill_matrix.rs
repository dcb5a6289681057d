//! The kill matrix: every way of rotating, with the daemon killed at random moments and at the
//! n-th write, sync and rename. Lost 0, duplicated 0.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::pedantic,
    reason = "a test that fails may panic, and moves files as their owners do"
)]

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rusqlite::{Connection, params};

use support::chaos::{self, Deaths};
use support::ledger::{Ledger, Rotation, Style};
use support::rows;
use support::site::{Files, Site, told};
use support::{PATIENCE, can_trace, cassandra, seed, skip};

/// Runs `rounds` rounds, a few at once, and tells what was found.
fn matrix(
    name: &str,
    rounds: usize,
    at_once: usize,
    trace: bool,
    site: impl Fn(usize) -> Site + Sync,
) {
    let seed = seed();
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let result = Mutex::new((Deaths::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let round = next.fetch_add(1, Ordering::Relaxed);
                    if round >= rounds {
                        return;
                    }
                    let kind = Rotation::ALL[round % Rotation::ALL.len()];
                    let own = seed.wrapping_add(round as u64 * 0x1000_0001);
                    let mut site = site(round);
                    let outcome = chaos::round(&site, kind, own, trace);
                    let mut result = result.lock().unwrap();
                    match outcome {
                        Ok(deaths) => result.0.add(deaths),
                        Err(wrong) => {
                            let place = site.keep().display().to_string();
                            result.1.push(format!("round {round} ({kind:?}) in {place}: {wrong}"));
                        }
                    }
                }
            });
        }
    });
    let (deaths, faults) = result.into_inner().unwrap();
    eprintln!(
        "{name}: {rounds} rounds in {:.0} s, killed at {} moments, {} writes, {} syncs, {} renames ({} faults never fired); {} lines, and {} that rotations may have taken away; {} rounds failed",
        began.elapsed().as_secs_f64(),
        deaths.at_moments,
        deaths.at_writes,
        deaths.at_syncs,
        deaths.at_names,
        deaths.missed,
        deaths.lines,
        deaths.forgiven,
        faults.len()
    );
    assert!(faults.is_empty(), "BITACORA_SEED={seed}\n{}", faults.join("\n\n"));
    // of a store on the network few calls are the file system's: there the figure is only shown
    let wanted = if name == "sqlite" { rounds / 4 } else { 0 };
    assert!(!trace || deaths.at_calls() as usize >= wanted, "too few faults fired: {deaths:?}");
}

fn rounds(default: usize) -> usize {
    std::env::var("BITACORA_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn no_kill_and_no_rotation_loses_or_doubles_a_line_in_sqlite() {
    let trace = can_trace();
    if !trace {
        eprintln!("no strace here: killed at random moments only");
    }
    matrix("sqlite", rounds(60), 4, trace, |_| Site::new());
}

#[test]
fn no_kill_and_no_rotation_loses_or_doubles_a_line_in_cassandra() {
    let name = "no_kill_and_no_rotation_loses_or_doubles_a_line_in_cassandra";
    let node = match cassandra::shared() {
        Ok(node) => node,
        Err(why) => return skip(name, why),
    };
    matrix("cassandra", rounds(9).min(9), 2, can_trace(), |_| {
        let site = Site::on_cassandra(&[node], cassandra::keyspace(), "");
        site.configure(&[]);
        site.apply_schema();
        site
    });
}

/// A store with some hundred rows of one file, complete and audited.
fn settled() -> (Site, Ledger) {
    let site = Site::new();
    let path = site.log("app.log");
    site.configure(&[Files::new("nginx/access", &path)]);
    let mut ledger = Ledger::new(&path, Style::Nginx, 1, 7);
    ledger.write(400);
    ledger.finish_line();
    let daemon = site.start();
    assert!(chaos::arrived(&site, &mut ledger, PATIENCE), "{}", daemon.said());
    daemon.stop();
    assert_eq!(ledger.expected.compare(&site.rows()), Ok(()));
    site.audit_is_clean();
    (site, ledger)
}

/// The database and table that hold the rows.
fn rows_of(site: &Site) -> (Connection, String) {
    for file in rows::day_files(&site.store_dir()) {
        let database = Connection::open(&file).unwrap();
        for table in rows::tables(&database).unwrap() {
            let count: i64 = database
                .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
                .unwrap();
            if count > 100 {
                return (database, table);
            }
        }
    }
    panic!("no table with rows");
}

#[track_caller]
fn audit_notices(site: &Site, what: &str) {
    for arguments in [&["audit"][..], &["audit", "--deep"]] {
        let output = site.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{what}: {arguments:?}: {}", told(&output));
    }
}

#[test]
fn a_row_that_is_taken_away_is_noticed() {
    let (site, ledger) = settled();
    let (database, table) = rows_of(&site);
    let taken =
        database.execute(&format!("DELETE FROM {table} WHERE (offset_bytes % 7) = 3"), []).unwrap();
    assert!(taken > 0);
    drop(database);
    assert!(ledger.expected.compare(&site.rows()).is_err(), "the ledger must notice");
    audit_notices(&site, "rows deleted");
}

#[test]
fn a_row_under_another_key_is_noticed() {
    let (site, ledger) = settled();
    let (database, table) = rows_of(&site);
    // As a shipper would leave it whose keys come from the clock: the same line, another time.
    let columns: Vec<String> = database
        .prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let changed: Vec<String> = columns
        .iter()
        .map(|name| if name == "timestamp" { "timestamp + 1".into() } else { name.clone() })
        .collect();
    let doubled = database
        .execute(
            &format!(
                "INSERT INTO {table} ({}) SELECT {} FROM {table} WHERE offset_bytes > ?1 LIMIT 3",
                columns.join(", "),
                changed.join(", ")
            ),
            params![500],
        )
        .unwrap();
    assert_eq!(doubled, 3);
    drop(database);
    assert!(ledger.expected.compare(&site.rows()).is_err(), "the ledger must notice");
    audit_notices(&site, "rows doubled");
}

#[test]
fn a_span_that_runs_ahead_of_its_rows_is_noticed_and_loses_lines() {
    let (site, mut ledger) = settled();
    // The program is stopped. Lines arrive, and somebody moves the commit mark over them: what a
    // shipper does that marks before it stores.
    let before = std::fs::metadata(&ledger.path).unwrap().len();
    ledger.write(20);
    ledger.finish_line();
    let after = std::fs::metadata(&ledger.path).unwrap().len();
    let index = Connection::open(site.store_dir().join("index.db")).unwrap();
    let moved = index
        .execute(
            "UPDATE spans SET end_bytes = ?1, rows = rows + 20, lines = lines + 20 WHERE end_bytes = ?2",
            params![i64::try_from(after).unwrap(), i64::try_from(before).unwrap()],
        )
        .unwrap();
    assert_eq!(moved, 1);
    drop(index);
    audit_notices(&site, "span moved");
    assert!(ledger.expected.compare(&site.rows()).is_err(), "the ledger must notice");
}
