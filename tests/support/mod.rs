//! What the end-to-end tests share: they drive the real binary against real files and stores.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(missing_docs, clippy::missing_errors_doc, clippy::must_use_candidate, reason = "tests")]

pub mod cassandra;
pub mod chaos;
pub mod client;
pub mod ledger;
pub mod mariadb;
pub mod postgresql;
pub mod rows;
pub mod server;
pub mod site;

use std::time::{Duration, Instant};

/// Longest wait for something that must happen. Long, as two cores may be shared by everything.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Says that a test cannot be done here, and why; the test then passes and counts as skipped.
pub fn skip(name: &str, why: &str) {
    eprintln!("SKIPPED {name}: {why}");
}

/// Waits for a condition with a deadline; false when it did not come true.
pub fn within(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for a condition that must come true.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(PATIENCE, condition), "not within {PATIENCE:?}: {what}");
}

/// Lets the writer's time pass: what a test writes is spread over it.
pub fn pause_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// The seed of this run: `BITACORA_SEED`, else the clock. Printed, so that a failure repeats.
pub fn seed() -> u64 {
    let seed = std::env::var("BITACORA_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_secs() ^ u64::from(std::process::id()) << 32
    });
    eprintln!("BITACORA_SEED={seed}");
    seed
}

/// A small generator of random numbers (`SplitMix64`), as a seed must repeat for ever.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.next() % len as u64).unwrap()
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.index(list.len())]
    }
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A small file system in memory; unmounted when dropped.
#[derive(Debug)]
pub struct Mounted(std::path::PathBuf);

impl Mounted {
    /// `None` where this process may not mount.
    pub fn tmpfs(dir: &std::path::Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(dir).unwrap();
        let size = format!("size={size}");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir);
        mount.stderr(std::process::Stdio::null());
        let done = is_root() && mount.status().is_ok_and(|status| status.success());
        done.then(|| Self(dir.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Whether a program is there to be run.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|dir| dir.join(program).is_file())
    })
}

/// Whether strace may trace here.
pub fn can_trace() -> bool {
    std::process::Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fsync", "-o", "/dev/null", "true"])
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
