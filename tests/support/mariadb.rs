//! A real `MariaDB` for tests: Debian's, with its data below `target`.

#![allow(dead_code, reason = "each test program uses its part of this")]
#![allow(clippy::expect_used, reason = "all of it is tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::server::{Keeper, free_port};
use super::{PATIENCE, within};

/// A running server. It ends when it is dropped, or with this process.
pub struct Server {
    dir: tempfile::TempDir,
    port: u16,
    _keeper: Keeper,
}

/// The password of user `bitacora`: a test may look for it where it must not be.
pub const PASSWORD: &str = "pw-canary-7c1e";

impl Server {
    /// Starts a server with a database `bitacora` and a user of that name, who may do everything.
    ///
    /// # Errors
    ///
    /// Why this machine cannot run one.
    pub fn start() -> Result<Self, String> {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with further options of the server.
    ///
    /// # Errors
    ///
    /// Why this machine cannot run one.
    pub fn start_with(options: &[String]) -> Result<Self, String> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let data = dir.path().join("data");
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        let made = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--user={}", user()))
            .env("PATH", &path)
            // a server that starts removes the temporary tables of others in the same directory
            .env("TMPDIR", dir.path())
            .output()
            .map_err(|error| format!("mariadb-install-db (package mariadb-server): {error}"))?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // once: somebody may be reading it later
        fs::write(dir.path().join("password"), format!("{PASSWORD}\n")).expect("a file");
        let port = free_port();
        let keeper = keeper(dir.path(), port, &path, options);
        let server = Self { dir, port, _keeper: keeper };
        let answers = within(PATIENCE, || server.try_sql("SELECT 1").is_ok());
        assert!(answers, "no answer: {}", server.log());
        server.sql(&format!(
            "CREATE DATABASE bitacora; CREATE USER bitacora@'%' IDENTIFIED BY '{PASSWORD}'; \
             GRANT ALL ON *.* TO bitacora@'%'"
        ));
        Ok(server)
    }

    /// The TCP port, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// Its data, which a test may destroy.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A file with the password of user `bitacora`.
    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    /// The section `[dora]` that uses it.
    pub fn dora(&self) -> String {
        format!(
            "[dora]\nkind = \"mysql\"\nmysql = {{ host = \"127.0.0.1\", port = {}, database = \
             \"bitacora\", username = \"bitacora\", password_file = \"{}\" }}\n",
            self.port,
            self.password_file().display()
        )
    }

    /// Executes statements as root; answers rows, tabs between columns.
    pub fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).expect("the server takes it")
    }

    fn try_sql(&self, statements: &str) -> Result<String, String> {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "-u", "root", "-N", "-B", "-e", statements])
            .arg(format!("--socket={}", self.socket().display()))
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

fn user() -> String {
    let output = Command::new("id").arg("-un").output().expect("id");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn keeper(dir: &Path, port: u16, path: &str, options: &[String]) -> Keeper {
    Keeper::start("KILL", &dir.join("log"), |command| {
        command
            .args(["mariadbd", "--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(["--innodb-buffer-pool-size=128M", "--innodb-flush-log-at-trx-commit=1"])
            .arg(format!("--user={}", user()))
            .arg(format!("--datadir={}", dir.join("data").display()))
            .arg(format!("--socket={}", dir.join("sock").display()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .arg(format!("--port={port}"))
            .args(options)
            .env("PATH", path)
            .env("TMPDIR", dir);
    })
}
