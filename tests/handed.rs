//! What systemd keeps open for the daemon and hands over at its next start, and what it is told;
//! the test is systemd.

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

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use support::ledger::{Ledger, Style};
use support::rows;
use support::site::{Daemon, Files, Site};
use support::{PATIENCE, can_trace, eventually, skip, within};

/// The notification socket, and the descriptors that were given away, by name.
struct Systemd {
    socket: UnixDatagram,
    path: String,
    kept: BTreeMap<String, OwnedFd>,
    /// How often the watchdog was fed.
    fed: u32,
}

impl Systemd {
    fn new(site: &Site) -> Self {
        let path = site.path("notify").display().to_string();
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, path, kept: BTreeMap::new(), fed: 0 }
    }

    /// Does what the daemon has asked for.
    fn obey(&mut self) {
        let mut text = [0; 4096];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut text)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let got = rustix::net::recvmsg(&self.socket, &mut parts, &mut control, flags);
            let Ok(got) = got else { return };
            let mut descriptors = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(given) = message {
                    descriptors.extend(given);
                }
            }
            let said = String::from_utf8_lossy(&text[..got.bytes]).into_owned();
            self.fed += u32::from(said.contains("WATCHDOG=1"));
            let name = said.lines().find_map(|line| line.strip_prefix("FDNAME="));
            let Some(name) = name.map(str::to_owned) else { continue };
            if said.contains("FDSTOREREMOVE=1") {
                self.kept.remove(&name);
            } else if said.contains("FDSTORE=1") {
                self.kept.insert(name, descriptors.pop().expect("a descriptor comes along"));
            }
        }
    }

    /// Starts the daemon with all that is kept.
    fn start(&self, site: &Site) -> Daemon {
        let handed: Vec<_> =
            self.kept.iter().map(|(name, file)| (name.as_str(), file.as_fd())).collect();
        site.start_handed(&handed, &[("NOTIFY_SOCKET", self.path.as_str())])
    }
}

/// A log of which a part is stored when the store's files are held by another; the rest is
/// written, and the log deleted, before the daemon dies.
fn deleted_before_it_was_stored(site: &Site, systemd: &mut Systemd) -> Ledger {
    let mut ledger = Ledger::new(&site.log("access.log"), Style::Json, 1, 7);
    site.configure(&[Files::new("json", &ledger.path).with("table = \"application\"")]);
    ledger.write(500);
    let daemon = systemd.start(site);
    site.all_arrives(&mut ledger, PATIENCE);
    let held: Vec<Connection> = rows::day_files(&site.store_dir())
        .into_iter()
        .map(|file| {
            let held = Connection::open(file).unwrap();
            held.execute_batch("BEGIN IMMEDIATE").unwrap();
            held
        })
        .collect();
    ledger.write(5000);
    ledger.finish_line();
    fs::remove_file(&ledger.path).unwrap();
    eventually("the deleted file is given away", || {
        systemd.obey();
        !systemd.kept.is_empty()
    });
    daemon.kill();
    drop(held);
    ledger
}

#[test]
fn a_deleted_file_is_read_to_its_end_although_the_daemon_was_killed() {
    let site = Site::new();
    let mut systemd = Systemd::new(&site);
    let mut ledger = deleted_before_it_was_stored(&site, &mut systemd);
    let daemon = systemd.start(&site);
    site.all_arrives(&mut ledger, PATIENCE);
    eventually("it is given back once it is stored", || {
        systemd.obey();
        systemd.kept.is_empty()
    });
    site.ends_well(daemon, &ledger.expected);
    assert!(!site.said().contains("no copy of it was found"), "{}", site.said());
}

/// The negative control: without what systemd keeps, the bytes are gone, and that is said.
#[test]
fn without_what_was_kept_the_loss_is_said() {
    let site = Site::new();
    let mut systemd = Systemd::new(&site);
    let ledger = deleted_before_it_was_stored(&site, &mut systemd);
    systemd.kept.clear();
    // a file that is only missing is waited for
    fs::write(&ledger.path, "{\"message\":\"ln99999999x, of the next file\"}\n").unwrap();
    let daemon = systemd.start(&site);
    eventually("the loss is said", || site.said().contains("no copy of it was found"));
    eventually("its receipt is in the store", || {
        String::from_utf8_lossy(&site.run(&["audit"]).stdout).contains("1 loss receipts")
    });
    daemon.stop();
    let rows = site.rows();
    assert!(ledger.expected.must.iter().any(|number| !rows.contains_key(number)));
}

/// A strace that lets no system call of a thread begin, until it is dropped.
struct Held(Child);

impl Held {
    fn thread(daemon: &Daemon, name: &str) -> Self {
        let tasks = format!("/proc/{}/task", daemon.pid().unwrap().as_raw_nonzero());
        let named = |task: &PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let mut tasks = fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path());
        let thread = tasks.find(named).unwrap();
        let hold = "inject=all:delay_enter=600000000";
        let thread = thread.file_name().unwrap();
        let strace = Command::new("strace")
            .args(["-qq", "-o", "/dev/null", "-e", "trace=all", "-e", hold, "-p"])
            .arg(thread)
            .stderr(Stdio::null())
            .spawn();
        Self(strace.unwrap())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon of which only one thread stands still answers everything, and carries nothing.
#[test]
fn the_watchdog_is_not_fed_while_the_tailer_stands_still() {
    let name = "the_watchdog_is_not_fed_while_the_tailer_stands_still";
    if !can_trace() {
        return skip(name, "needs strace");
    }
    let site = Site::new();
    let mut systemd = Systemd::new(&site);
    let mut ledger = Ledger::new(&site.log("access.log"), Style::Json, 1, 7);
    site.configure(&[Files::new("json", &ledger.path).with("table = \"application\"")]);
    ledger.write(10);
    let told = [("NOTIFY_SOCKET", systemd.path.as_str()), ("WATCHDOG_USEC", "2000000")];
    let daemon = site.start_as(&[], &told);
    site.all_arrives(&mut ledger, PATIENCE);
    let fed_for = |systemd: &mut Systemd, patience: Duration| {
        let before = systemd.fed;
        within(patience, || {
            systemd.obey();
            systemd.fed > before
        })
    };
    assert!(fed_for(&mut systemd, Duration::from_secs(10)));
    let held = Held::thread(&daemon, "tailer");
    // a thread that has not moved for a minute counts as stuck
    let starved =
        within(Duration::from_secs(120), || !fed_for(&mut systemd, Duration::from_secs(6)));
    assert!(starved, "the watchdog is fed although the tailer stands still");
    assert!(site.run(&["status"]).status.success(), "all the rest of it goes on");
    drop(held);
    assert!(fed_for(&mut systemd, PATIENCE), "it moves again, and that is not seen");
    ledger.write(10);
    site.all_arrives(&mut ledger, PATIENCE);
    site.ends_well(daemon, &ledger.expected);
}
