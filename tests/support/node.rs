//! A real Cassandra node for a test, started by the project's own script.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::site::{Kind, Site, told};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/cassandra");

/// A running node. Ends with the test process.
#[derive(Debug)]
pub struct Node {
    dir: tempfile::TempDir,
    pub address: String,
}

impl Node {
    /// Starts a node; says why where the machine lacks what it needs.
    pub fn start(options: &[&str]) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("node").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let dir = dir.unwrap();
        let owner = std::process::id().to_string();
        let place = dir.path().to_str().unwrap();
        let mut arguments = vec!["start", place, "auto", "512M", "--owner", &owner];
        arguments.extend(options);
        let address = script(&arguments)?;
        Ok(Self { dir, address })
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.verb("kill");
    }

    pub fn restart(&self) {
        self.verb("restart");
    }

    fn verb(&self, verb: &str) {
        script(&[verb, self.dir.path().to_str().unwrap()]).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs the script: what it printed, or why it cannot work on this machine (exit 3).
fn script(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(SCRIPT).args(arguments).stdin(Stdio::null()).output().unwrap();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
        Some(3) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        _ => panic!("{arguments:?}: {}", told(&output)),
    }
}

/// The node that the tests of one binary share: its address, or why there is none.
/// `BITACORA_TEST_CASSANDRA=IP:PORT` names one that runs already.
pub fn shared() -> Result<String, String> {
    static SHARED: OnceLock<Result<Node, String>> = OnceLock::new();
    if let Ok(address) = std::env::var("BITACORA_TEST_CASSANDRA") {
        return Ok(address);
    }
    let node = SHARED.get_or_init(|| Node::start(&[]));
    node.as_ref().map(|node| node.address.clone()).map_err(Clone::clone)
}

impl Site {
    /// A site with a keyspace of its own on a node.
    pub fn on_cassandra(address: &str, name: &str) -> Self {
        let keyspace = format!("{name}_{}", std::process::id());
        let mut site = Self::new();
        site.kind =
            Kind::Cassandra { address: address.to_owned(), keyspace, extra: String::new() };
        site
    }

    /// Makes the tables; needs a configuration.
    #[track_caller]
    pub fn apply_schema(&self) {
        let output = self.run(&["schema", "apply"]);
        assert!(output.status.success(), "schema apply: {}", told(&output));
    }
}
