//! The real program as a child, and what the kernel and `/metrics` say of it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// No benchmark waits longer for anything.
const PATIENCE: Duration = Duration::from_mins(5);

/// The program to measure.
pub fn binary() -> PathBuf {
    let chosen = std::env::var_os("BITACORA_BENCH_BINARY");
    chosen.map_or_else(|| env!("CARGO_BIN_EXE_bitacora").into(), PathBuf::from)
}

/// A running daemon in a directory of its own. Killed when dropped.
pub struct Daemon {
    child: Child,
    http: SocketAddr,
    dir: PathBuf,
}

/// What the metrics say at one moment.
pub struct Sample {
    text: String,
}

impl Sample {
    /// The sum of all series of a metric whose labels contain `label`.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let values = self.text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let own = labels.is_empty() || labels.starts_with('{');
            (own && labels.contains(label)).then(|| value.parse::<f64>().ok())?
        });
        values.sum()
    }

    /// Rows that the store has taken.
    pub fn rows_taken(&self) -> f64 {
        self.sum("bitacora_store_rows_total", "result=\"ok\"")
    }

    /// Rows that stand in a span.
    pub fn rows(&self) -> f64 {
        self.sum("bitacora_source_rows_total", "")
    }

    /// The upper ends of the buckets of the time that batches took, with the count up to each.
    pub fn write_seconds(&self) -> Vec<(f64, f64)> {
        let name = "bitacora_store_write_seconds_bucket";
        let mut buckets = Vec::new();
        for line in self.text.lines().filter(|line| line.starts_with(name)) {
            let end = line.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            let end = end.and_then(|end| end.replace("+Inf", "inf").parse().ok());
            let count = line.rsplit(' ').next().and_then(|count| count.parse().ok());
            buckets.extend(end.zip(count));
        }
        buckets
    }
}

impl Daemon {
    /// Starts it in `dir`, which is made anew, over `patterns` of nginx lines.
    pub fn start(dir: &Path, store: &str, patterns: &[&str]) -> Self {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).unwrap();
        let http = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = dir.join("bitacora.toml");
        let files = format!("[[files]]\nsource = \"nginx/access\"\npaths = {patterns:?}");
        let files = if patterns.is_empty() { "" } else { &files };
        let text = format!(
            "[daemon]\nstate_dir = {:?}\nhttp = \"{http}\"\nhost = \"bench1\"\n[socket]\nstream = {:?}\ndgram = \"\"\n\
             {store}\n{files}\n",
            dir.join("state"),
            dir.join("log.sock"),
        );
        fs::write(&config, text).unwrap();
        let log = File::create(dir.join("log")).unwrap();
        let child = Command::new(binary())
            .arg("--config")
            .arg(&config)
            .arg("run")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, http, dir: dir.to_owned() }
    }

    /// Runs another command of the program with this configuration text; it must succeed.
    pub fn command(dir: &Path, text: &str, arguments: &[&str]) {
        fs::create_dir_all(dir).unwrap();
        let config = dir.join("command.toml");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(binary());
        let output = command.arg("--config").arg(config).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Its metrics; `None` while it does not answer yet.
    pub fn sample(&self) -> Option<Sample> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.starts_with("HTTP/1.1 200").then_some(Sample { text })
    }

    /// Looks each `pause` until `enough` says so; the last sample.
    pub fn watch(&mut self, pause: Duration, mut enough: impl FnMut(&Sample) -> bool) -> Sample {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(sample) = self.sample()
                && enough(&sample)
            {
                return sample;
            }
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                panic!("the daemon did not get there ({ended:?}); its log:\n{log}");
            }
            sleep(pause);
        }
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// CPU time of all threads that it ever had, to the nanosecond.
    pub fn cpu_seconds(&self) -> f64 {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        let now = nix::time::clock_getcpuclockid(pid).unwrap().now().unwrap();
        Duration::from(now).as_secs_f64()
    }

    /// The most memory that it ever had, in MiB.
    pub fn peak_mib(&self) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }

    /// Descriptors that it holds.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Ends it in order.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the daemon ended with {status}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes of all files below a directory.
pub fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => bytes_below(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
