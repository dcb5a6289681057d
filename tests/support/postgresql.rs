//! A real `PostgreSQL` for tests: Debian's, with its data below `target`.

#![allow(dead_code, reason = "each test program uses its part of this")]
#![allow(clippy::expect_used, reason = "all of it is tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::server::{Keeper, free_port};
use super::{PATIENCE, within};

/// The password of user `bitacora`: a test may look for it where it must not be.
pub const PASSWORD: &str = "pg-canary-51d0";

/// A running cluster. It ends when it is dropped, or with this process.
pub struct Cluster {
    dir: tempfile::TempDir,
    port: u16,
    _keeper: Keeper,
}

impl Cluster {
    /// Starts a cluster whose superuser is `bitacora`.
    ///
    /// # Errors
    ///
    /// Why this machine cannot run one.
    pub fn start() -> Result<Self, String> {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with further arguments of the server.
    ///
    /// # Errors
    ///
    /// Why this machine cannot run one.
    pub fn start_with(arguments: &[&str]) -> Result<Self, String> {
        Self::made(arguments, |dir, run| {
            run("initdb")
                .args(["--username=bitacora", "--auth=scram-sha-256", "--encoding=UTF8", "-N"])
                .arg(format!("--pwfile={}", dir.join("password").display()))
                .arg("-D")
                .arg(dir.join("data"))
                .output()
                .expect("initdb")
        })
    }

    /// A replica of this cluster, which follows it.
    ///
    /// # Errors
    ///
    /// Why this machine cannot run one.
    pub fn standby(&self) -> Result<Self, String> {
        let port = self.port;
        Self::made(&[], |dir, run| {
            run("pg_basebackup")
                .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "-d"])
                .arg(format!("host=127.0.0.1 port={port} user=bitacora password={PASSWORD}"))
                .arg("-D")
                .arg(dir.join("data"))
                .output()
                .expect("pg_basebackup")
        })
    }

    /// `make` fills the directory `data`, by programs that run as the server's user.
    fn made(
        arguments: &[&str],
        make: impl FnOnce(&Path, &dyn Fn(&str) -> Command) -> Output,
    ) -> Result<Self, String> {
        let bin = glob::glob("/usr/lib/postgresql/*/bin/postgres").expect("a pattern");
        let bin = bin.flatten().last().ok_or("no PostgreSQL (package postgresql)")?;
        let bin = bin.parent().expect("a directory").to_owned();
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        fs::write(dir.path().join("password"), PASSWORD).expect("a file");
        let pass = dir.path().join("pgpass");
        fs::write(&pass, format!("*:*:*:*:{PASSWORD}\n")).expect("a file");
        fs::set_permissions(&pass, fs::Permissions::from_mode(0o600)).expect("a mode");
        // it refuses to be run by root
        let through: Vec<&str> = if super::is_root() {
            let owned = Command::new("chown").arg("-R").arg("postgres").arg(dir.path()).status();
            if !owned.is_ok_and(|status| status.success()) {
                return Err("there is no user postgres".into());
            }
            vec!["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        } else {
            vec!["env"]
        };
        std::os::unix::fs::chown(&pass, Some(rustix::process::geteuid().as_raw()), None)
            .expect("our own file");
        let made = make(dir.path(), &|program| {
            let mut command = Command::new(through[0]);
            command.args(&through[1..]).arg(bin.join(program)).stdin(Stdio::null());
            command.current_dir("/");
            command
        });
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let keeper = Keeper::start("INT", &dir.path().join("log"), |command| {
            command.args(&through).arg(bin.join("postgres")).arg("-D").arg(dir.path().join("data"));
            command.args(["-h", "127.0.0.1", "-k", "", "-F", "-p", &port.to_string()]);
            command.args(arguments);
        });
        let cluster = Self { dir, port, _keeper: keeper };
        let ready = || cluster.ask("postgres", "SELECT 1").is_ok();
        assert!(within(PATIENCE, ready), "no answer: {}", cluster.log());
        Ok(cluster)
    }

    /// A file with the password of user `bitacora`.
    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    /// Keys of a `[[backup.database]]` that reaches it.
    pub fn keys(&self) -> String {
        format!(
            "kind = \"postgresql\"\nhost = \"127.0.0.1\"\nport = {}\nusername = \"bitacora\"\n\
             password_file = \"{}\"\n",
            self.port,
            self.password_file().display()
        )
    }

    /// Executes statements in a database; answers rows, `|` between columns.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        self.ask(database, statements).expect("the server takes it")
    }

    /// As [`Self::sql`], where it may fail.
    ///
    /// # Errors
    ///
    /// The server's words.
    pub fn ask(&self, database: &str, statements: &str) -> Result<String, String> {
        let output = Command::new("psql")
            .args(["-X", "-q", "-A", "-t", "-w", "-h", "127.0.0.1", "-U", "bitacora"])
            .args(["-v", "ON_ERROR_STOP=1", "-p", &self.port.to_string(), "-d", database])
            .args(["-c", statements])
            .env("PGPASSFILE", self.dir.path().join("pgpass"))
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}
