//! The real daemon, in a directory of its own, for each test that asks for it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "shared by tests of which each needs a part"
)]

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bitacora_tracing::{Builder, Guard, Layer};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tracing::Dispatch;
use tracing_subscriber::layer::SubscriberExt as _;

pub const DEADLINE: Duration = Duration::from_secs(30);
/// How `bitacora logs` is asked for user events.
pub const EVENTS: &[&str] = &["--source", "user_events"];
/// Names the daemon's socket to a test that runs as a program of its own.
const PROGRAM: &str = "BITACORA_TEST_PROGRAM";

/// The daemon's program: named by the environment, or built.
pub fn binary() -> Option<PathBuf> {
    if let Some(named) = env::var_os("BITACORA_BINARY") {
        return Some(named.into());
    }
    let beside = env::current_exe().ok()?;
    let built = beside.ancestors().nth(3)?.join("release/bitacora");
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/bitacora");
    [built, top].into_iter().find(|path| path.exists())
}

/// Waits until a condition gives a value.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "after {DEADLINE:?} still not: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A daemon with a SQLite store and a socket, all below one directory.
pub struct Daemon {
    program: PathBuf,
    directory: TempDir,
    process: Option<Child>,
}

impl Daemon {
    /// A daemon that runs; `None`, and a word of it, where there is no program.
    pub fn running() -> Option<Self> {
        let mut daemon = Self::stopped()?;
        daemon.start();
        Some(daemon)
    }

    /// A daemon that was never started.
    pub fn stopped() -> Option<Self> {
        let Some(program) = binary() else {
            let test = thread::current().name().unwrap_or("bench").to_owned();
            println!(
                "SKIPPED rust {test}: no daemon: BITACORA_BINARY names none, and \
                 target/release/bitacora is missing"
            );
            return None;
        };
        let directory = tempfile::Builder::new().prefix("bt").tempdir().unwrap();
        let at = directory.path().display();
        let config = format!(
            "[daemon]\nstate_dir = \"{at}/state\"\ncontrol = \"\"\nhttp = \"\"\n\
             [store]\nkind = \"sqlite\"\n[store.sqlite]\ndir = \"{at}/logs\"\n\
             [socket]\nstream = \"{at}/log.sock\"\ndgram = \"{at}/log.dgram\"\n"
        );
        fs::write(directory.path().join("bitacora.toml"), config).unwrap();
        fs::create_dir(directory.path().join("state")).unwrap();
        Some(Self { program, directory, process: None })
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("log.sock")
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("bitacora.toml")
    }

    pub fn start(&mut self) {
        let log = self.directory.path().join("stderr");
        let stderr = File::options().create(true).append(true).open(&log).unwrap();
        let mut process = Command::new(&self.program)
            .args(["run", "--config"])
            .arg(self.config())
            .stderr(stderr)
            .spawn()
            .unwrap();
        eventually("the daemon accepts connections", || {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(&log).unwrap());
            UnixStream::connect(self.socket()).ok()
        });
        self.process = Some(process);
    }

    pub fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the daemon runs");
        kill(Pid::from_raw(process.id().try_into().unwrap()), signal).unwrap();
    }

    /// kill -9: what it had not yet made safe is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// What is stored by now.
    pub fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let Output { status, stdout, stderr } = Command::new(&self.program)
            .arg("logs")
            .arg("--config")
            .arg(self.config())
            .args(["-o", "json", "-n", "all"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(matches!(status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&stderr));
        let text = String::from_utf8(stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for so many rows; more of them are given too.
    #[track_caller]
    pub fn wait_for_in(&self, count: usize, arguments: &[&str]) -> Vec<Value> {
        eventually(&format!("{count} rows"), || {
            Some(self.rows(arguments)).filter(|rows| rows.len() >= count)
        })
    }

    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Value> {
        self.wait_for_in(count, &["--source", "app"])
    }

    /// A layer to this daemon that does not wait long.
    pub fn builder(&self) -> Builder {
        Layer::builder()
            .path(self.socket())
            .exit_timeout(Duration::from_millis(200))
            .backoff(Duration::from_millis(50), Duration::from_millis(200))
    }

    /// Runs the named test as a program of its own; see [`program`].
    pub fn run_program(&self, test: &str) -> Output {
        let mut program = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(PROGRAM, self.socket())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let group = Pid::from_raw(program.id().try_into().unwrap());
        let end = Instant::now() + 2 * DEADLINE;
        while program.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                killpg(group, Signal::SIGKILL).unwrap();
                panic!("the program hangs: {:?}", program.wait_with_output().unwrap());
            }
            thread::sleep(Duration::from_millis(20));
        }
        program.wait_with_output().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.signal(Signal::SIGCONT);
        }
        self.kill();
    }
}

/// The socket, where this test runs as a program of its own.
pub fn program() -> Option<PathBuf> {
    env::var_os(PROGRAM).map(PathBuf::from)
}

/// A subscriber with one layer, for `tracing::dispatcher::with_default`.
pub fn dispatch(builder: Builder) -> (Dispatch, Guard) {
    let (layer, guard) = builder.build();
    (Dispatch::new(tracing_subscriber::registry().with(layer)), guard)
}

/// How often each message that begins so is there.
pub fn messages(rows: &[Value], beginning: &str) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for row in rows {
        let message = row["message"].as_str().unwrap_or_default();
        if message.starts_with(beginning) {
            *counted.entry(message.to_owned()).or_default() += 1;
        }
    }
    counted
}

/// Each of `number 0` and on once.
pub fn numbers(count: usize) -> BTreeMap<String, usize> {
    (0..count).map(|number| (format!("number {number}"), 1)).collect()
}
