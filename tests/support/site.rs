//! A directory with configuration, state, logs and store, and the daemon that runs there.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::cassandra::Node;
use super::chaos::arrived;
use super::ledger::Ledger;
use super::rows::{self, Expected, Rows};
use super::{PATIENCE, eventually, within};

pub const BINARY: &str = env!("CARGO_BIN_EXE_bitacora");

/// Where rows go.
#[derive(Debug, Clone)]
pub enum Kind {
    Sqlite,
    Cassandra { nodes: Vec<String>, keyspace: String, extra: String },
}

/// One `[[files]]` table.
#[derive(Debug, Clone)]
pub struct Files {
    pub source: String,
    pub paths: Vec<PathBuf>,
    /// Further lines of the table.
    pub extra: String,
}

impl Files {
    pub fn new(source: &str, path: impl Into<PathBuf>) -> Self {
        Self { source: source.into(), paths: vec![path.into()], extra: String::new() }
    }

    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.extra.push_str(line);
        self.extra.push('\n');
        self
    }
}

/// A place where a daemon runs.
#[derive(Debug)]
pub struct Site {
    dir: tempfile::TempDir,
    pub kind: Kind,
    /// Address of `/metrics`, `/live` and `/ready`; empty where the test needs none.
    pub http: String,
    /// Lines for `[daemon]` beyond those that every test has.
    pub daemon_extra: String,
    /// Keys of `[socket]`; both sockets are switched off where this is empty.
    pub socket: String,
    runs: AtomicU32,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("site").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        let runs = AtomicU32::new(0);
        let (http, daemon_extra) = (String::new(), String::new());
        Self { dir, kind: Kind::Sqlite, http, daemon_extra, socket: String::new(), runs }
    }

    /// With `/metrics` and its neighbours on a free port.
    pub fn with_http() -> Self {
        let mut site = Self::new();
        site.http = format!("127.0.0.1:{}", super::server::free_port());
        site
    }

    /// With a keyspace of its own on these nodes; `extra` are lines of `[store.cassandra]`.
    pub fn on_cassandra(nodes: &[&Node], keyspace: String, extra: &str) -> Self {
        let mut site = Self::new();
        let nodes = nodes.iter().map(|node| node.address().to_owned()).collect();
        site.kind = Kind::Cassandra { nodes, keyspace, extra: extra.into() };
        site
    }

    /// Makes the tables; needs a configuration.
    #[track_caller]
    pub fn apply_schema(&self) {
        let output = self.run(&["schema", "apply"]);
        assert!(output.status.success(), "schema apply: {}", told(&output));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path where logs are written.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join("log").join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("bitacora.toml")
    }

    pub fn store_dir(&self) -> PathBuf {
        self.path("rows")
    }

    /// Writes the configuration.
    pub fn configure(&self, files: &[Files]) {
        let mut text = format!(
            "[daemon]\nstate_dir = {:?}\nhttp = {:?}\nhost = \"test-host\"\n{}\n",
            self.path("state"),
            self.http,
            self.daemon_extra
        );
        match &self.kind {
            Kind::Sqlite => write!(
                text,
                "[store]\nkind = \"sqlite\"\nbatch_age = \"100ms\"\n[store.sqlite]\ndir = {:?}\n",
                self.store_dir()
            ),
            Kind::Cassandra { nodes, keyspace, extra } => write!(
                text,
                "[store]\nkind = \"cassandra\"\nbatch_age = \"100ms\"\n[store.cassandra]\nnodes = {nodes:?}\nkeyspace = {keyspace:?}\n{extra}\n"
            ),
        }
        .unwrap();
        let off = "stream = \"\"\ndgram = \"\"";
        let socket = if self.socket.is_empty() { off } else { &self.socket };
        writeln!(text, "[socket]\n{socket}").unwrap();
        for table in files {
            let Files { source, paths, extra } = table;
            let wait = if extra.contains("rotate_wait") { "" } else { "rotate_wait = \"400ms\"" };
            write!(text, "[[files]]\nsource = {source:?}\npaths = {paths:?}\n{wait}\n{extra}\n")
                .unwrap();
        }
        fs::write(self.config(), text).unwrap();
    }

    /// A command of the binary, with this configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(self.config());
        command.env_remove("BITACORA_CONFIG").env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Runs a command of the binary to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must answer JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("{arguments:?} answers no JSON ({error}): {}", told(&output))
        })
    }

    /// Starts the daemon.
    pub fn start(&self) -> Daemon {
        self.start_as(&[], &[])
    }

    /// Starts the daemon through another program (`strace …`), with further environment.
    pub fn start_as(&self, through: &[&str], environment: &[(&str, &str)]) -> Daemon {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let log = self.path(&format!("daemon-{run}.log"));
        let out = File::create(&log).unwrap();
        let mut command = match through {
            [] => Command::new(BINARY),
            [program, rest @ ..] => {
                let mut command = Command::new(program);
                command.args(rest).arg(BINARY);
                command
            }
        };
        command.arg("run").arg("--config").arg(self.config());
        command.env_remove("BITACORA_CONFIG").envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
        let child = command.spawn().unwrap();
        Daemon { child, through: !through.is_empty(), log, ended: None }
    }

    /// Starts the daemon as systemd does that hands it these descriptors.
    pub fn start_handed(
        &self,
        handed: &[(&str, BorrowedFd<'_>)],
        environment: &[(&str, &str)],
    ) -> Daemon {
        let mut script = "export LISTEN_PID=$$; exec \"$0\" \"$@\"".to_owned();
        // far from the numbers that the daemon gets them under, and open for its process
        let copy = |descriptor: &BorrowedFd<'_>| -> OwnedFd {
            let copy = rustix::io::fcntl_dupfd_cloexec(descriptor, 50).unwrap();
            rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).unwrap();
            copy
        };
        let copies: Vec<OwnedFd> = handed.iter().map(|(_, one)| copy(one)).collect();
        for (number, copy) in copies.iter().enumerate() {
            write!(script, " {}<&{}", number + 3, copy.as_raw_fd()).unwrap();
        }
        let names: Vec<&str> = handed.iter().map(|(name, _)| *name).collect();
        let (count, names) = (names.len().to_string(), names.join(":"));
        let mut told = environment.to_vec();
        if !handed.is_empty() {
            told.extend([("LISTEN_FDS", &*count), ("LISTEN_FDNAMES", &*names)]);
        }
        self.start_as(&["bash", "-c", &script], &told) // dash knows descriptors up to 9
    }

    /// Starts the daemon and waits until it says that it is ready. Needs `with_http`.
    pub fn start_ready(&self) -> Daemon {
        let daemon = self.start();
        eventually("ready", || self.get("/ready").is_some_and(|(status, _)| status == 200));
        daemon
    }

    /// `GET` from the daemon's own server: status and body.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.http).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http)
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// The value of a metric, summed over its series that contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics")?;
        let mut sum = None;
        for line in body.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            if series.split('{').next() == Some(name) && series.contains(label) {
                *sum.get_or_insert(0.0) += value.parse::<f64>().ok()?;
            }
        }
        sum
    }

    /// All stored rows, by the number that each carries.
    pub fn rows(&self) -> Rows {
        match &self.kind {
            Kind::Sqlite => rows::of_sqlite(&self.store_dir()),
            Kind::Cassandra { .. } => {
                rows::of_json(&self.run(&["logs", "-o", "json", "-n", "all"]))
            }
        }
    }

    /// All stored rows, as `bitacora logs -o json` tells them.
    #[track_caller]
    pub fn logs(&self) -> Vec<serde_json::Value> {
        let output = self.run(&["logs", "-o", "json", "-n", "all"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs SQL in every day file.
    #[track_caller]
    pub fn in_day_files(&self, sql: &str) {
        let files = rows::day_files(&self.store_dir());
        assert!(!files.is_empty(), "no day file");
        for file in files {
            rusqlite::Connection::open(file).unwrap().execute_batch(sql).unwrap();
        }
    }

    /// A command that must end with this code and say this.
    #[track_caller]
    pub fn answers(&self, arguments: &[&str], code: i32, text: &str) {
        let output = self.run(arguments);
        let said = told(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(text), "{arguments:?} does not say {text:?}: {said}");
    }

    /// `bitacora audit`, which must find everything in order.
    #[track_caller]
    pub fn audit_is_clean(&self) {
        let deep = self.run(&["audit", "--deep"]);
        assert!(deep.status.success(), "audit --deep: {}", told(&deep));
        let shallow = self.run(&["audit", "--json"]);
        assert!(shallow.status.success(), "audit: {}", told(&shallow));
    }

    /// Waits until every row that must be there is.
    #[track_caller]
    pub fn stores_all(&self, expected: &Expected, patience: Duration) {
        let arrived = within(patience, || expected.all_in(&self.rows()));
        assert!(arrived, "{:?}\n{}", expected.compare(&self.rows()), self.said());
    }

    /// Waits until every line of the writer's ledger is a row, after ending its last line.
    #[track_caller]
    pub fn all_arrives(&self, ledger: &mut Ledger, patience: Duration) {
        ledger.finish_line();
        if !arrived(self, ledger, patience) {
            let wrong = ledger.expected.compare(&self.rows());
            panic!("not all arrived: {wrong:?}\n{}", self.said());
        }
    }

    /// Stops the daemon; lost 0, duplicated 0, and the audit agrees.
    #[track_caller]
    pub fn ends_well(&self, daemon: Daemon, expected: &Expected) {
        daemon.stop();
        assert_eq!(expected.compare(&self.rows()), Ok(()));
        self.audit_is_clean();
    }

    /// The daemons' own words, of all runs.
    pub fn said(&self) -> String {
        (0..self.runs.load(Ordering::Relaxed))
            .map(|run| self.path(&format!("daemon-{run}.log")))
            .map(|log| String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned())
            .collect()
    }

    /// Leaves the directory where it is, for someone to look at.
    pub fn keep(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("BITACORA_KEEP").is_some() {
            eprintln!("kept: {}", self.keep().display());
        }
    }
}

/// What a command printed, for the message of an assertion.
pub fn told(output: &Output) -> String {
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    format!("{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
}

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    through: bool,
    pub log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// The daemon's own process, also when it was started through another program.
    pub fn pid(&self) -> Option<Pid> {
        let own = self.child.id();
        let itself =
            fs::read_link(format!("/proc/{own}/exe")).is_ok_and(|exe| exe == Path::new(BINARY));
        if itself || !self.through {
            return Pid::from_raw(i32::try_from(own).ok()?);
        }
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).ok()?;
        children.split_whitespace().find_map(|child| {
            let program = fs::read_link(format!("/proc/{child}/exe")).ok()?;
            (program == Path::new(BINARY)).then(|| Pid::from_raw(child.parse().ok()?))?
        })
    }

    fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Some(pid) = self.pid()
        {
            // It may end at this very moment.
            let _ = kill_process(pid, signal);
        }
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(mut self) {
        self.kill_now();
    }

    fn kill_now(&mut self) {
        // Again and again: a tracer that has just begun has not started the daemon yet, and what is
        // not killed outlives its tracer.
        let gone = within(Duration::from_secs(5), || {
            self.signal(Signal::KILL);
            self.ended().is_some()
        });
        if !gone {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// SIGHUP.
    #[track_caller]
    pub fn reload(&mut self) {
        self.until_it_listens();
        self.signal(Signal::HUP);
    }

    /// SIGTERM, without waiting for the end.
    #[track_caller]
    pub fn ask_to_stop(&mut self) {
        self.until_it_listens();
        self.signal(Signal::TERM);
    }

    /// A process that has just begun has no handlers yet: a signal would end it as it ends any.
    #[track_caller]
    fn until_it_listens(&mut self) {
        let terminate = 1 << (Signal::TERM.as_raw() - 1);
        let listens = within(PATIENCE, || {
            self.ended().is_some()
                || self.pid().is_some_and(|pid| {
                    let status = format!("/proc/{}/status", pid.as_raw_nonzero());
                    let status = fs::read_to_string(status).unwrap_or_default();
                    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
                    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
                    caught.is_some_and(|mask| mask & terminate != 0)
                })
        });
        assert!(listens, "it does not listen to signals: {}", self.said());
    }

    /// SIGTERM, and waits for the end.
    #[track_caller]
    pub fn stop(mut self) {
        self.ask_to_stop();
        let status = self.wait();
        assert!(status.success(), "SIGTERM ended in {status}: {}", self.said());
    }

    /// Waits for an end of its own accord.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        assert!(within(PATIENCE, || self.ended().is_some()), "it does not end: {}", self.said());
        self.ended.unwrap()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// What it wrote to its log so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until its log holds a text.
    #[track_caller]
    pub fn says(&self, text: &str) {
        let found = within(PATIENCE, || self.said().contains(text));
        assert!(found, "it never said {text:?}, but:\n{}", self.said());
    }

    /// A figure of its `/proc/PID/status`, in KiB (`VmRSS`, `VmHWM`).
    pub fn memory_kib(&self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find(|line| line.starts_with(field))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill_now();
        if std::thread::panicking() {
            let said = self.said();
            let from = said.lines().count().saturating_sub(60);
            let tail: Vec<&str> = said.lines().skip(from).collect();
            eprintln!("--- end of {}\n{}", self.log.display(), tail.join("\n"));
        }
    }
}
