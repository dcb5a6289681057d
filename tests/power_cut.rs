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

mod support;

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::client::Client;
use support::rows::Expected;
use support::site::Site;
use support::{PATIENCE, Rng, can_trace, eventually, has, is_root, pause_ms, seed, skip, within};

/// A file system in a file, on a loop device.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// `None` where that cannot be had here.
    fn new(site: &Site, kind: &str) -> Option<Self> {
        let disk = Self { image: site.path("disk.img"), at: site.path("disk") };
        fs::create_dir_all(&disk.at).unwrap();
        File::create(&disk.image).unwrap().set_len(400 << 20).unwrap();
        let (make, force) = (format!("mkfs.{kind}"), if kind == "xfs" { "-f" } else { "-F" });
        let made = is_root() && has(&make) && has("perl") && {
            run(Command::new(make).args(["-q", force]).arg(&disk.image))
        };
        (made && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        run(Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.at]))
    }

    /// Nothing that is not on disk by now ever gets there.
    fn cut(&self) {
        // FS_IOC_SHUTDOWN with FSOP_GOING_FLAGS_NOLOGFLUSH, of Linux' ext4.h and xfs_fs.h
        let cut = "my $how = pack('L', 2); open(my $disk, '<', $ARGV[0]) or die; \
                   ioctl($disk, 0x8004587d, $how) or die";
        assert!(run(Command::new("perl").args(["-e", cut]).arg(&self.at)), "the disk goes on");
    }

    fn plug_in(&self) {
        let free = within(PATIENCE, || run(Command::new("umount").arg(&self.at)));
        assert!(free && self.mount(), "the disk cannot be mounted again");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.at));
    }
}

fn run(command: &mut Command) -> bool {
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn site_on(disk: &Path) -> String {
    format!("stream = {:?}\ndgram = \"\"", disk.with_file_name("log.sock"))
}

/// State, spool and rows stand on the disk.
fn move_to(site: &Site, disk: &Disk) {
    for name in ["state", "rows"] {
        let there = disk.at.join(name);
        fs::create_dir_all(&there).unwrap();
        std::os::unix::fs::symlink(there, site.path(name)).unwrap();
    }
    assert!(run(Command::new("sync").arg("-f").arg(&disk.at)));
}

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
    move_to(&site, &disk);
    site.socket = site_on(&disk.at);
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
    move_to(&site, &disk);
    site.socket = site_on(&disk.at);
    site.configure(&[]);
    let outcome = cuts(&site, &disk, 10, false);
    assert!(outcome.is_err(), "ten cuts without a sync lost nothing: this test cannot show a loss");
}
