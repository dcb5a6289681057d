//! A Debian machine with its own systemd, booted in a container, and commands in it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::site::{BINARY, told};
use crate::support::{PATIENCE, eventually, has, is_root, within};

/// The directory of the project.
const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// What the machines are made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// A Debian root that is never changed.
    root: PathBuf,
    /// The packages, two versions of each.
    pub packages: PathBuf,
}

impl Parts {
    /// Makes them with the project's scripts, if they are not there yet.
    ///
    /// # Errors
    ///
    /// Why this machine cannot boot another one.
    pub fn ready() -> Result<Self, String> {
        if !is_root() {
            return Err("needs root".into());
        }
        let tools =
            ["systemd-nspawn", "mmdebstrap", "nsenter", "dpkg-buildpackage", "dh", "rpmbuild"];
        let all = tools.iter().chain(&["lintian", "rpmlint", "strip", "objcopy"]);
        if let Some(tool) = all.copied().find(|tool| !has(tool)) {
            return Err(format!("no {tool}; scripts/install test installs it"));
        }
        let made = script("nspawn-root", &[])?;
        let root = PathBuf::from(made.trim());
        let mut probe = Command::new("systemd-nspawn");
        probe.args(["--quiet", "--register=no", "--keep-unit", "--private-network", "--pipe"]);
        probe.arg("--volatile=overlay").arg("--directory").arg(&root).arg("true");
        let probed = probe.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if !probed.status.success() {
            let why = String::from_utf8_lossy(&probed.stderr);
            return Err(format!("systemd-nspawn cannot run here: {}", why.trim()));
        }
        let packages = root.with_file_name("packages");
        // these are ours, so that a failure is one
        let binary = std::env::var("BITACORA_TEST_BINARY").unwrap_or_else(|_| BINARY.to_owned());
        script("nspawn-packages", &[&binary]).unwrap();
        Ok(Self { root, packages })
    }

    /// The one package of this format and version.
    #[track_caller]
    pub fn package(&self, prefix: &str, suffix: &str) -> String {
        let entries = fs::read_dir(&self.packages).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut fitting = names.filter(|name| name.starts_with(prefix) && name.ends_with(suffix));
        let name = fitting.next().unwrap_or_else(|| panic!("no package {prefix}*{suffix}"));
        assert!(fitting.next().is_none(), "several packages {prefix}*{suffix}");
        name
    }
}

/// Runs one of the project's scripts; its last line is the answer.
fn script(name: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(Path::new(PROJECT).join("scripts").join(name));
    let output = command.args(arguments).current_dir(PROJECT).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("scripts/{name}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().rev().take(8).collect();
        let tail = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        return Err(format!("scripts/{name} failed: {tail}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned())
}

/// A root of its own, and the container that runs it. Dropping ends and removes both.
#[derive(Debug)]
pub struct Machine {
    pub root: PathBuf,
    running: Option<(Child, u32)>,
    packages: PathBuf,
}

impl Machine {
    /// A fresh copy of the root, not yet booted.
    pub fn new(parts: &Parts, name: &str) -> Self {
        let root = parts.root.with_file_name(format!("{name}-{}", std::process::id()));
        let copied = Command::new("cp").arg("-a").arg(&parts.root).arg(&root).status().unwrap();
        assert!(copied.success(), "cp -a: {copied}");
        Self { root, running: None, packages: parts.packages.clone() }
    }

    /// Boots it, and waits until systemd has started everything.
    pub fn boot(&mut self) {
        let log = File::create(self.log()).unwrap();
        let bind = |from: &Path, to: &str| format!("--bind-ro={}:{to}", from.display());
        let mut nspawn = Command::new("systemd-nspawn");
        // no machined and no scope of its own: a builder has neither
        nspawn.args(["--quiet", "--boot", "--register=no", "--keep-unit", "--private-network"]);
        nspawn.args(["--console=pipe", "--machine=bitacora-test", "--directory"]).arg(&self.root);
        nspawn.arg(bind(&self.packages, "/packages"));
        nspawn.arg(bind(&Path::new(PROJECT).join("tests/nspawn"), "/tests"));
        nspawn.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = nspawn.spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        self.running = Some((child, 0));
        eventually("systemd has started", || {
            // asked anew each time: the first child of systemd-nspawn only makes the container's own
            let text = fs::read_to_string(&children).unwrap_or_default();
            let pid = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
            let (Some(pid), Some((_, leader))) = (pid, &mut self.running) else { return false };
            *leader = pid;
            let state = self.run("systemctl is-system-running");
            matches!(String::from_utf8_lossy(&state.stdout).trim(), "running" | "degraded")
        });
    }

    fn log(&self) -> PathBuf {
        self.root.with_extension("log")
    }

    /// Runs a shell script as root in the machine.
    pub fn run(&self, script: &str) -> Output {
        self.command(script).output().unwrap()
    }

    fn command(&self, script: &str) -> Command {
        let (_, leader) = self.running.as_ref().expect("booted");
        let mut command = Command::new("nsenter");
        command.args(["--target", &leader.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd"]);
        command.args([
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "NO_COLOR=1",
        ]);
        command.args(["sh", "-c", script]).stdin(Stdio::null());
        command
    }

    /// The same, in the background.
    pub fn spawn(&self, script: &str) -> Child {
        let mut command = self.command(script);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a script that must succeed; what it printed.
    #[track_caller]
    pub fn ok(&self, script: &str) -> String {
        let output = self.run(script);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}\n{}{}", told(&output), self.journal());
        said.trim_end().to_owned()
    }

    /// Runs a script that must fail; what it printed, stderr too.
    #[track_caller]
    pub fn fails(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(!output.status.success(), "this succeeded: {script}\n{}", told(&output));
        told(&output)
    }

    /// Waits until a script succeeds.
    #[track_caller]
    pub fn until(&self, script: &str) {
        let mut last = String::new();
        let came = within(PATIENCE, || {
            let output = self.run(script);
            last = told(&output);
            output.status.success()
        });
        assert!(came, "never: {script}\n{last}{}", self.journal());
    }

    /// Writes a file in the machine.
    pub fn write(&self, path: &str, text: &str) {
        let mut command = self.command(&format!("mkdir -p \"$(dirname {path})\" && cat >{path}"));
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "cannot write {path}");
    }

    /// A property of a unit.
    #[track_caller]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.ok(&format!("systemctl show --value -p {property} {unit}"))
    }

    /// The daemon's process, as the machine numbers it.
    #[track_caller]
    pub fn pid(&self) -> String {
        let pid = self.show("bitacora.service", "MainPID");
        assert_ne!(pid, "0", "the service does not run\n{}", self.journal());
        pid
    }

    /// All stored rows of a source.
    #[track_caller]
    pub fn rows(&self, source: &str) -> Vec<Value> {
        let output = self.run(&format!("bitacora logs -s {source} -o json -n all"));
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 1)), "bitacora logs: {}", told(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until so many rows of a source have a text; there must never be more.
    #[track_caller]
    pub fn rows_with(&self, source: &str, text: &str, count: usize) {
        let mut found = 0;
        let fits = |row: &Value| row["message"].as_str().is_some_and(|one| one.contains(text));
        let there = within(PATIENCE, || {
            found = self.rows(source).iter().filter(|row| fits(row)).count();
            found >= count
        });
        assert!(there, "{found} of {count} rows of {source} have {text:?}\n{}", self.journal());
        assert_eq!(found, count, "rows of {source} with {text:?}");
    }

    /// What the service and systemd said of it last.
    pub fn journal(&self) -> String {
        if self.running.is_none() {
            return String::new();
        }
        let journal = self.run("journalctl --no-pager -n 60 -o short-precise -u 'bitacora*'");
        format!("--- journal\n{}", String::from_utf8_lossy(&journal.stdout))
    }

    /// Waits until the service answers that it is ready.
    #[track_caller]
    pub fn ready(&self) {
        self.until(
            "systemctl is-active --quiet bitacora.service && curl -fsS http://127.0.0.1:9598/ready",
        );
    }

    /// The machine's root in the mount namespace of the daemon: a script there, as root.
    pub fn in_sandbox(&self, script: &str) -> Output {
        let pid = self.pid();
        let script = script.replace('\'', "'\\''");
        self.run(&format!("nsenter -t {pid} -m -r -w sh -c '{script}'"))
    }

    fn power_off(&mut self) {
        if let Some((mut child, leader)) = self.running.take() {
            if leader != 0 {
                let _ = Command::new("kill").args(["-9", &leader.to_string()]).status();
            }
            let ended = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
            if !within(Duration::from_secs(10), || ended(&mut child)) {
                let _ = child.kill(); // the kernel then ends what it holds
                let _ = child.wait();
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("BITACORA_KEEP").is_some() {
            eprintln!("kept, and running: {}", self.root.display());
            std::mem::forget(self.running.take());
            return;
        }
        self.power_off();
        let _ = fs::remove_file(self.log());
        let _ = Command::new("rm").arg("-rf").arg(&self.root).status();
    }
}
