//! A real `MariaDB` for tests: Debian's, with its data below `target`. With `BITACORA_TEST_MYSQL`
//! (a directory made by `scripts/mysql`) the same tests run on `MySQL`.

#![allow(dead_code, reason = "each test program uses its part of this")]
#![allow(clippy::expect_used, reason = "all of it is tests")]

use std::fs;
use std::io::Write;
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
        let mut make = match mysql() {
            Some(mysqld) => {
                let mut make = Command::new(mysqld);
                make.arg("--initialize-insecure");
                make
            }
            None => {
                let mut make = Command::new("mariadb-install-db");
                make.args(["--no-defaults", "--auth-root-authentication-method=normal"]);
                make.arg("--skip-test-db");
                make
            }
        };
        let made = make
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--user={}", user()))
            .env("PATH", path())
            // a server that starts removes the temporary tables of others in the same directory
            .env("TMPDIR", dir.path())
            .output()
            .map_err(|error| format!("mariadb-install-db (package mariadb-server): {error}"))?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        // once: somebody may be reading it later
        fs::write(dir.path().join("password"), format!("{PASSWORD}\n")).expect("a file");
        let port = free_port();
        let keeper = keeper(dir.path(), port, options);
        let server = Self { dir, port, _keeper: keeper };
        let answers = within(PATIENCE, || server.ask("SELECT 1").is_ok());
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
        self.ask(statements).expect("the server takes it")
    }

    /// Follows this server as its replica, from now on.
    pub fn follow(&self, source: &Self) {
        source.sql(match mysql() {
            Some(_) => "RESET BINARY LOGS AND GTIDS",
            None => "RESET MASTER",
        });
        self.follow_port(source.port);
    }

    /// As [`Self::follow`], whatever is at this port.
    pub fn follow_port(&self, port: u16) {
        self.sql(&match mysql() {
            Some(_) => format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, \
                 SOURCE_USER = 'bitacora', SOURCE_PASSWORD = '{PASSWORD}', SOURCE_SSL = 1, \
                 SOURCE_CONNECT_RETRY = 1; START REPLICA"
            ),
            None => format!(
                "CHANGE MASTER TO master_host = '127.0.0.1', master_port = {port}, \
                 master_user = 'bitacora', master_password = '{PASSWORD}', \
                 master_connect_retry = 1; START SLAVE"
            ),
        });
    }

    /// Ends what [`Self::follow`] began.
    pub fn follow_nobody(&self) {
        self.sql(match mysql() {
            Some(_) => "STOP REPLICA; RESET REPLICA ALL",
            None => "STOP SLAVE; RESET SLAVE ALL",
        });
    }

    /// As [`Self::sql`], where it may fail.
    ///
    /// # Errors
    ///
    /// The server's words.
    pub fn ask(&self, statements: &str) -> Result<String, String> {
        let mut client = Command::new("mariadb")
            .args(["--no-defaults", "-u", "root", "-N", "-B"])
            .arg(format!("--socket={}", self.socket().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        // not as an argument: a test beside this one may be looking for the password there
        if let Some(mut input) = client.stdin.take() {
            // a client that found no server reads nothing
            let _ = input.write_all(statements.as_bytes());
        }
        let output = client.wait_with_output().map_err(|error| error.to_string())?;
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

/// What a SELECT reads numbers from 1 to this one from, as `seq`.
pub fn numbers(last: u32) -> String {
    match mysql() {
        Some(_) => format!(
            "(WITH RECURSIVE n AS (SELECT 1 AS seq UNION ALL SELECT seq + 1 FROM n \
             WHERE seq < {last}) SELECT seq FROM n) AS numbers"
        ),
        None => format!("seq_1_to_{last}"),
    }
}

/// The program that `scripts/mysql` has made, if the tests are to run on it.
pub fn mysql() -> Option<PathBuf> {
    std::env::var_os("BITACORA_TEST_MYSQL").map(|dir| PathBuf::from(dir).join("mysqld"))
}

fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn keeper(dir: &Path, port: u16, options: &[String]) -> Keeper {
    Keeper::start("KILL", &dir.join("log"), |command| {
        match mysql() {
            Some(mysqld) => command
                .arg(mysqld)
                .args(["--cte-max-recursion-depth=1000000", "--explain-format=TRADITIONAL"]),
            None => command.args(["mariadbd", "--no-defaults"]),
        };
        command
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(["--innodb-buffer-pool-size=128M", "--innodb-flush-log-at-trx-commit=1"])
            .arg(format!("--user={}", user()))
            .arg(format!("--datadir={}", dir.join("data").display()))
            .arg(format!("--socket={}", dir.join("sock").display()))
            .arg(format!("--pid-file={}", dir.join("pid").display()))
            .arg(format!("--port={port}"))
            .args(options)
            .env("PATH", path())
            .env("TMPDIR", dir);
    })
}
