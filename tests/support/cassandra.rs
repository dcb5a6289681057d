//! Real Cassandra nodes for tests, by `scripts/cassandra`.

#![allow(dead_code, reason = "each test program uses its part of this")]
#![allow(clippy::expect_used, reason = "all of it is tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bitacora::config::Cassandra;

/// Exit code of `scripts/cassandra` on a machine that lacks what a node needs.
const LACKS: i32 = 3;

/// A running node. It dies with this process, or when it is dropped.
pub struct Node {
    dir: PathBuf,
    address: String,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

fn number() -> u32 {
    NUMBER.fetch_add(1, Ordering::Relaxed)
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cassandra")
}

/// Where nodes keep their data: below `target`, since a test that is killed cannot clean up.
fn home() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cassandra");
        fs::create_dir_all(&home).expect("a directory for nodes");
        for entry in fs::read_dir(&home).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.split('-').next()).unwrap_or("0");
            if !Path::new("/proc").join(owner).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        home
    })
}

impl Node {
    /// Starts a node with these options of `scripts/cassandra start`.
    ///
    /// # Errors
    /// Why this machine cannot run one. A node that should start and does not is a panic.
    pub fn start(options: &[&str]) -> Result<Self, String> {
        Self::start_with_heap("512M", options)
    }

    /// The same with more memory, for measuring.
    ///
    /// # Errors
    /// See [`Node::start`].
    pub fn start_with_heap(heap: &str, options: &[&str]) -> Result<Self, String> {
        if !script().exists() {
            return Err("scripts/cassandra is missing".to_owned());
        }
        let dir = home().join(format!("{}-{}", std::process::id(), number()));
        let owner = std::process::id().to_string();
        let mut command = Command::new(script());
        command.arg("start").arg(&dir).args(["auto", heap, "--owner", &owner]).args(options);
        let output = command.output().map_err(|error| format!("scripts/cassandra: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.code() == Some(LACKS) {
            return Err(said);
        }
        assert!(output.status.success(), "the node did not start: {said}");
        let address = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { dir, address })
    }

    /// `IP:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A further node of this one's cluster, which then stands in its ring.
    ///
    /// # Errors
    /// See [`Node::start`].
    pub fn joined(&self, options: &[&str]) -> Result<Self, String> {
        let (ip, _) = self.address.split_once(':').expect("IP:PORT");
        let node = Self::start(&[&["--join", ip], options].concat())?;
        let (joined, _) = node.address.split_once(':').expect("IP:PORT");
        let up = format!("UN  {joined} ");
        let deadline = Instant::now() + Duration::from_mins(2);
        while !self.nodetool(&["status"]).contains(&up) {
            assert!(Instant::now() < deadline, "{joined} does not come into the ring");
        }
        Ok(node)
    }

    /// Where `ca.pem`, `client.pem` and `client.key` are, on a node with TLS.
    pub fn tls_dir(&self) -> PathBuf {
        self.dir.join("tls")
    }

    /// Where it was started.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data/data")
    }

    /// Ends it in order.
    pub fn stop(&self) {
        self.run("stop");
    }

    /// Ends it by SIGKILL.
    pub fn kill(&self) {
        self.run("kill");
    }

    /// Starts it again where it was, with its data; returns once it answers.
    pub fn restart(&self) {
        self.run("restart");
    }

    /// `scripts/cassandra nodetool`.
    pub fn nodetool(&self, arguments: &[&str]) -> String {
        let output = Command::new(script())
            .arg("nodetool")
            .arg(&self.dir)
            .args(arguments)
            .output()
            .expect("nodetool");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn run(&self, verb: &str) {
        let output = Command::new(script()).arg(verb).arg(&self.dir).output().expect("the script");
        assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A configuration for this node.
    pub fn config(&self, keyspace: &str) -> Cassandra {
        Cassandra {
            nodes: vec![self.address.clone()],
            keyspace: keyspace.to_owned(),
            datacenter: "datacenter1".to_owned(),
            replication: 1,
            consistency: "local_quorum".to_owned(),
            ttl: Some(Duration::from_hours(90 * 24)),
            username: None,
            password_file: None,
            tls: None,
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = Command::new(script()).arg("kill").arg(&self.dir).output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The node that the tests of one program share; keyspaces keep them apart. Or why there is none.
pub fn shared() -> Result<&'static Node, &'static str> {
    static NODE: OnceLock<Result<Node, String>> = OnceLock::new();
    NODE.get_or_init(|| Node::start(&[])).as_ref().map_err(String::as_str)
}

/// A keyspace that no other test has.
pub fn keyspace() -> String {
    format!("t{}_{}", std::process::id(), number())
}

/// Says that a test was skipped, in the words that `scripts/test` counts.
pub fn skipped(name: &str, why: &str) {
    eprintln!("SKIPPED {name}: {}", why.lines().next().unwrap_or("no reason given"));
}
