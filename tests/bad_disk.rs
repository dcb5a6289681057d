//! A disk that fails under the spool: what was acknowledged stands on it, nothing else is
//! acknowledged, and the daemon goes on when the disk does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::pedantic,
    reason = "a test that fails may panic, and moves files as their owners do"
)]

#[path = "support/disk.rs"]
mod disk;
mod support;

use std::fs;
use std::os::unix::net::UnixStream;

use disk::{Disk, socket_at};
use support::client::Client;
use support::rows::Expected;
use support::site::{Daemon, Site};
use support::{PATIENCE, can_trace, eventually, pause_ms, skip, within};

/// Calls that answer well and do nothing: what a daemon does that does not wait for the disk.
const LIES: [&str; 7] = [
    "strace",
    "-f",
    "-qq",
    "-o",
    "/dev/null",
    "-e",
    "inject=fsync,fdatasync,sync_file_range,msync:retval=0",
];

/// A client, and what it has sent.
struct Sender {
    client: Client,
    expected: Expected,
    number: u64,
}

impl Sender {
    fn new(site: &Site) -> Self {
        let client = Client::new(&site.path("log.sock"));
        Self { client, expected: Expected::default(), number: 0 }
    }

    fn send(&mut self, count: u64) {
        for _ in 0..count {
            self.number += 1;
            self.expected.must.insert(self.number);
            let (number, more) = (self.number, " and more".repeat(40));
            self.client.send(&format!("{{\"message\":\"ln{number:08}x of a sale{more}\"}}"));
        }
    }
}

fn site() -> Site {
    let mut site = Site::new();
    site.socket = socket_at(&site.path("log.sock"));
    site.configure(&[]);
    site
}

fn start(site: &Site, through: &[&str]) -> Daemon {
    let daemon = site.start_as(through, &[]);
    let stream = site.path("log.sock");
    eventually("the socket is there", || UnixStream::connect(&stream).is_ok());
    daemon
}

fn problem(site: &Site) -> String {
    site.json(&["status", "--json"])["problem"].as_str().unwrap_or_default().to_owned()
}

/// A file stands where the store is to be, so that everything stays in the spool.
fn block_store(site: &Site) {
    fs::write(site.store_dir(), "in the way").unwrap();
}

/// Sends until the disk fails, which is said; then it is well again, at once or when it is mounted
/// again.
fn fails(site: &Site, disk: &Disk, through: &[&str], goes_on: bool) -> Result<(), String> {
    let honest = through.is_empty();
    disk.take_over(site, &["state/spool"]);
    block_store(site);
    let daemon = start(site, through);
    let mut sender = Sender::new(site);
    sender.send(300);
    assert!(sender.client.settle(PATIENCE), "no receipt: {}", site.said());
    disk.spoil();
    let failed = within(PATIENCE / if honest { 1 } else { 6 }, || {
        sender.send(if honest { 20 } else { 300 });
        problem(site).contains("cannot be used")
    });
    assert_eq!(failed, honest, "{} of {}", sender.client.acked, sender.number);
    if honest {
        assert!(daemon.said().contains("clients of the socket are held back"));
        // what comes now is not on disk, and not acknowledged
        sender.send(20);
        pause_ms(300);
        sender.client.poll();
        assert!(sender.client.acked < sender.number, "a record is acknowledged");
    }
    if goes_on {
        disk.heal();
        daemon.says("the spool takes records again");
        sender.send(50);
        assert!(sender.client.settle(PATIENCE), "no receipt: {}", site.said());
        eventually("nothing is said any more", || !problem(site).contains("cannot be used"));
    }
    sender.client.poll();
    let acked = sender.client.acked;
    daemon.kill();
    disk.take_out();
    disk.heal();
    disk.put_in();
    fs::remove_file(site.store_dir()).unwrap();
    let daemon = start(site, &[]);
    let settled = sender.client.settle(PATIENCE);
    if let Some((receipt, later)) = sender.client.taken_back {
        return Err(format!("receipt {receipt} was taken back: now it is {later}"));
    }
    assert!(
        settled,
        "{} of {}, {acked} before: {}",
        sender.client.acked,
        sender.number,
        site.said()
    );
    within(PATIENCE / if honest { 1 } else { 6 }, || sender.expected.all_in(&site.rows()));
    let outcome = sender.expected.compare(&site.rows());
    daemon.stop();
    if honest {
        site.audit_is_clean();
    }
    outcome
}

#[test]
fn a_disk_that_fails_and_recovers_is_waited_for() {
    let name = "a_disk_that_fails_and_recovers_is_waited_for";
    let site = site();
    let Some(disk) = Disk::on_weak_ground(&site, "xfs") else {
        return skip(name, "needs root, loop devices and XFS' tools");
    };
    assert_eq!(fails(&site, &disk, &[], true), Ok(()));
}

#[test]
fn what_was_acknowledged_on_a_disk_that_failed_is_there_when_it_is_mounted_again() {
    let name = "what_was_acknowledged_on_a_disk_that_failed_is_there_when_it_is_mounted_again";
    for kind in ["ext4", "xfs"] {
        let site = site();
        let Some(disk) = Disk::on_weak_ground(&site, kind) else {
            return skip(name, "needs root, loop devices and the file systems' tools");
        };
        assert_eq!(fails(&site, &disk, &[], false), Ok(()), "{kind}");
    }
}

/// The negative control: a daemon whose syncs are lies acknowledges what that disk never held.
#[test]
fn without_syncs_a_disk_that_fails_loses_what_was_acknowledged() {
    let name = "without_syncs_a_disk_that_fails_loses_what_was_acknowledged";
    let site = site();
    let disk = if can_trace() { Disk::on_weak_ground(&site, "xfs") } else { None };
    let Some(disk) = disk else {
        return skip(name, "needs root, strace, loop devices and XFS' tools");
    };
    let outcome = fails(&site, &disk, &LIES, false);
    assert!(outcome.is_err(), "nothing was lost: this test cannot show a loss");
    eprintln!("without syncs: {outcome:?}");
}

/// Every sync of the spool's logs fails: from a segment's first records on, though it could be
/// made; the segments of the spool are made one after the other, and none takes a record.
const NO_RECORDS: &str = "inject=fsync,fdatasync:error=EIO:when=9+3";

#[test]
fn a_restart_while_the_disk_fails_makes_no_record_acknowledged_that_is_not_there() {
    let name = "a_restart_while_the_disk_fails_makes_no_record_acknowledged_that_is_not_there";
    if !can_trace() {
        return skip(name, "strace is missing or may not trace");
    }
    let site = site();
    block_store(&site);
    let logs: Vec<String> = (1..100)
        .map(|number| site.path("state").join(format!("spool/{number:010}.db-wal")))
        .map(|path| path.to_str().unwrap().to_owned())
        .collect();
    let mut strace = vec!["strace", "-f", "-qq", "-o", "/dev/null", "-e", NO_RECORDS];
    logs.iter().for_each(|log| strace.extend(["-P", log]));
    let mut daemon = start(&site, &strace);
    let mut sender = Sender::new(&site);
    let failed = within(PATIENCE, || {
        sender.send(1);
        sender.client.poll();
        problem(&site).contains("cannot be used")
    });
    assert!(failed, "it takes {} records: {}", sender.client.acked, site.said());
    daemon.says("clients of the socket are held back");
    pause_ms(500);
    daemon.ask_to_stop();
    assert!(daemon.wait().success(), "{}", site.said());
    fs::remove_file(site.store_dir()).unwrap();
    let daemon = start(&site, &[]);
    assert!(sender.client.settle(PATIENCE), "{:?}: {}", sender.client, site.said());
    within(PATIENCE / 6, || sender.expected.all_in(&site.rows()));
    site.ends_well(daemon, &sender.expected);
}
