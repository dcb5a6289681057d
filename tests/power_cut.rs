//! Power cuts: the file system that holds state, spool and store stops in mid-flight, as when the
//! plug is pulled, and is mounted again. What a client was told is safe has to be there.
//!
//! `BITACORA_CUTS=N` makes so many cuts on each file system.

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

use std::os::unix::net::UnixStream;

use disk::{Disk, socket_at};
use support::client::Client;
use support::rows::Expected;
use support::site::Site;
use support::{PATIENCE, Rng, can_trace, eventually, pause_ms, seed, skip, within};

/// Cuts the power so many times while a client sends; answers what is missing and what is there
/// twice at the end.
fn cuts(site: &Site, disk: &Disk, count: u64, synced: bool) -> Result<(), String> {
    let mut rng = Rng(seed());
    let stream = site.path("log.sock");
    let mut client = Client::new(&stream);
    let mut expected = Expected::default();
    let mut number = 0;
    for _ in 0..count {
        let lies = "inject=fsync,fdatasync,sync_file_range,msync:retval=0";
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", lies];
        let daemon = site.start_as(if synced { &[] } else { &strace }, &[]);
        eventually("the socket is there", || UnixStream::connect(&stream).is_ok());
        for _ in 0..rng.range(50, 600) {
            number += 1;
            expected.must.insert(number);
            client.send(&format!("{{\"message\":\"ln{number:08}x of a sale\"}}"));
            if rng.one_in(20) {
                client.poll();
            }
        }
        pause_ms(rng.range(0, 80));
        client.poll();
        // a receipt that comes during the cut says nothing
        disk.cut();
        client.hang_up();
        daemon.kill();
        disk.plug_in();
        if let Some((receipt, later)) = client.taken_back {
            return Err(format!("receipt {receipt} was taken back: now it is {later}"));
        }
    }
    let daemon = site.start();
    eventually("the socket is there", || UnixStream::connect(&stream).is_ok());
    assert!(client.settle(PATIENCE), "no receipt: {}", site.said());
    within(PATIENCE / if synced { 1 } else { 6 }, || expected.all_in(&site.rows()));
    daemon.stop();
    if synced {
        site.audit_is_clean();
    }
    expected.compare(&site.rows())
}

fn power_cuts(name: &str, kind: &str) {
    let count = std::env::var("BITACORA_CUTS").ok().and_then(|text| text.parse().ok());
    let mut site = Site::new();
    let Some(disk) = Disk::new(&site, kind) else {
        return skip(name, "needs root, loop devices and this file system's tools");
    };
    disk.take_over(&site, &["state", "rows"]);
    site.socket = socket_at(&site.path("log.sock"));
    site.configure(&[]);
    assert_eq!(cuts(&site, &disk, count.unwrap_or(20), true), Ok(()));
}

#[test]
fn what_was_acknowledged_survives_power_cuts_on_ext4() {
    power_cuts("what_was_acknowledged_survives_power_cuts_on_ext4", "ext4");
}

#[test]
fn what_was_acknowledged_survives_power_cuts_on_xfs() {
    power_cuts("what_was_acknowledged_survives_power_cuts_on_xfs", "xfs");
}

/// The negative control: where every sync is a lie, the same cuts must lose something.
#[test]
fn without_syncs_power_cuts_lose_what_was_acknowledged() {
    let name = "without_syncs_power_cuts_lose_what_was_acknowledged";
    let mut site = Site::new();
    let disk = if can_trace() { Disk::new(&site, "ext4") } else { None };
    let Some(disk) = disk else {
        return skip(name, "needs root, strace, loop devices and ext4's tools");
    };
    disk.take_over(&site, &["state", "rows"]);
    site.socket = socket_at(&site.path("log.sock"));
    site.configure(&[]);
    let outcome = cuts(&site, &disk, 10, false);
    assert!(outcome.is_err(), "ten cuts without a sync lost nothing: this test cannot show a loss");
}

/// A daemon is killed between a commit's write and its sync; the next one finds the commit, and
/// tells the client so. The power is cut at once.
#[test]
fn what_a_restart_calls_stored_survives_a_power_cut() {
    let name = "what_a_restart_calls_stored_survives_a_power_cut";
    let mut site = Site::new();
    let disk = if can_trace() { Disk::new(&site, "ext4") } else { None };
    let Some(disk) = disk else {
        return skip(name, "needs root, strace, loop devices and ext4's tools");
    };
    disk.take_over(&site, &["state"]);
    // a file stands where the store is to be: the spool alone has it
    std::fs::write(site.store_dir(), "in the way").unwrap();
    let stream = site.path("log.sock");
    site.socket = socket_at(&stream);
    site.configure(&[]);
    let log = disk.at.join("state/spool/0000000001.db-wal");
    // the first record has two, with that of the log's head; here it is the fourth's
    let kills = "inject=fsync,fdatasync:error=EIO:signal=SIGKILL:when=5";
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", kills, "-P"];
    let mut daemon = site.start_as(&[&strace[..], &[log.to_str().unwrap()]].concat(), &[]);
    eventually("the socket is there", || UnixStream::connect(&stream).is_ok());
    let mut client = Client::new(&stream);
    let mut expected = Expected::default();
    for number in 1..=4 {
        expected.must.insert(number);
        client.send(&format!("{{\"message\":\"ln{number:08}x of a sale\"}}"));
        if number < 4 {
            assert!(client.settle(PATIENCE), "no receipt: {}", site.said());
        }
    }
    eventually("it is killed", || daemon.ended().is_some());
    assert_eq!(client.acked, 3);
    client.hang_up();
    let daemon = site.start();
    eventually("the client is greeted", || client.connect());
    assert_eq!(client.acked, 4, "the fourth was not found: this test shows nothing");
    disk.cut();
    client.hang_up();
    daemon.kill();
    disk.plug_in();
    std::fs::remove_file(site.store_dir()).unwrap();
    let daemon = site.start();
    eventually("the client is greeted", || client.connect());
    assert_eq!(client.taken_back, None, "a receipt that was lost");
    eventually("all rows are there", || expected.all_in(&site.rows()));
    site.ends_well(daemon, &expected);
}
