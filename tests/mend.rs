//! What a person mends: rows that are gone are read again, rows that were refused are written
//! again.

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

use std::fs;

use support::ledger::{Ledger, Rotation, Style};
use support::site::{Daemon, Files, Site};
use support::{PATIENCE, eventually};

/// A daemon that has stored some lines.
fn stored() -> (Site, Ledger, Daemon) {
    let site = Site::new();
    let path = site.log("access.log");
    site.configure(&[Files::new("nginx/access", &path)]);
    let mut ledger = Ledger::new(&path, Style::Nginx, 1, 51);
    ledger.write(300);
    let daemon = site.start();
    site.all_arrives(&mut ledger, PATIENCE);
    (site, ledger, daemon)
}

#[test]
fn rows_that_are_gone_are_found_and_read_again_from_file_and_rotated_file() {
    let (site, mut ledger, daemon) = stored();
    ledger.rotate(Rotation::Gzip);
    ledger.write(100);
    site.all_arrives(&mut ledger, PATIENCE);
    daemon.stop();
    site.in_day_files("DELETE FROM infrastructure_logs WHERE offset_bytes % 7 = 3;");
    let left = site.rows();
    let gone = ledger.expected.must.len() - left.len();
    assert!(gone > 10, "{gone} rows were deleted");

    site.answers(&["audit"], 1, "missing");
    site.answers(&["audit", "--repair", "--dry-run"], 1, &format!("{gone} rows would be"));
    assert_eq!(site.rows(), left, "a dry run writes nothing");
    site.answers(&["audit", "--repair"], 1, &format!("{gone} rows were read again"));
    assert_eq!(ledger.expected.compare(&site.rows()), Ok(()));
    site.audit_is_clean();
    site.answers(&["audit", "--repair"], 0, "0 rows were read again");
}

#[test]
fn a_refused_row_is_a_dead_letter_until_the_store_takes_it() {
    let (site, mut ledger, daemon) = stored();
    site.in_day_files("CREATE TRIGGER refuse BEFORE INSERT ON infrastructure_logs WHEN NEW.message LIKE '%poison%' \
         BEGIN SELECT RAISE(ABORT, 'no poison here'); END;",
    );
    let before = site.logs().len();
    let line = fs::read_to_string(&ledger.path).unwrap().lines().next().unwrap().to_owned();
    for word in ["poison-1", "harmless", "poison-2"] {
        ledger.write_raw(line.replace("GET /", &format!("GET /{word}/")).as_bytes());
        ledger.write_raw(b"\n");
    }
    ledger.write(50);
    eventually("two rows are dead letters", || {
        let letters = site.run(&["dead-letters", "ls", "--json"]);
        String::from_utf8_lossy(&letters.stdout).lines().count() == 2
    });
    eventually("all others are rows", || site.logs().len() == before + 51);
    site.answers(&["dead-letters", "ls"], 0, "no poison here");
    daemon.stop();
    // Two lines are rows nowhere, and accounted for.
    site.answers(&["audit", "--deep"], 0, "2 dead letters");

    site.answers(&["dead-letters", "retry", "all"], 1, "is refused again");
    site.answers(&["dead-letters", "retry", "1:2"], 1, "there is no dead letter 1:2");
    site.in_day_files("DROP TRIGGER refuse;");
    site.answers(&["dead-letters", "retry", "all", "--dry-run"], 0, "would be written again");
    site.answers(&["dead-letters", "retry", "all"], 0, "is stored");
    let logs = site.logs();
    let poison = logs.iter().filter(|row| row["message"].as_str().unwrap().contains("poison"));
    assert_eq!(poison.count(), 2);
    assert_eq!(logs.len(), before + 53);
    site.answers(&["dead-letters", "ls"], 1, "");
    site.answers(&["audit", "--deep"], 0, "0 dead letters");
}
