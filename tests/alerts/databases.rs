//! The databases that are backed up: real servers.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::support::mariadb::{PASSWORD, Server};
use super::support::{is_root, skip, within};
use super::{PATIENCE, Watched};

const OFF: &str =
    "off = [\"daemon\", \"backlog\", \"store\", \"errors\", \"dead-letters\", \"losses\"]\n";

#[test]
fn mariadb_is_looked_at_connections_replication_and_its_end() {
    const NAME: &str = "mariadb_is_looked_at_connections_replication_and_its_end";
    let server = match Server::start() {
        Ok(server) => server,
        Err(why) => return skip(NAME, &why),
    };
    let watched = Watched::new("");
    let alerts = format!(
        "{OFF}[[backup.database]]\nname = \"shop\"\nkind = \"mysql\"\nhost = \"127.0.0.1\"\n\
         port = {}\nusername = \"bitacora\"\npassword_file = {:?}\n",
        server.port(),
        server.password_file()
    );
    watched.configure(&alerts);
    let checked = watched.check(0);
    assert_eq!(checked.status("database shop"), "ok");
    assert_eq!(checked.status("connections shop"), "ok");
    assert!(!checked.answer.to_string().contains("replication shop"), "it is no replica");

    server.sql("SET GLOBAL max_connections = 10");
    let busy: Vec<Child> = (0..9).map(|_| sleeper(&server)).collect();
    assert!(within(PATIENCE, || {
        server.sql("SHOW STATUS LIKE 'Threads_connected'").ends_with("10")
    }));
    assert_eq!(watched.check(1).status("connections shop"), "trouble");
    for mut child in busy {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    server.sql("SET GLOBAL max_connections = 100");
    server.sql(
        "CHANGE MASTER TO master_host = '127.0.0.1', master_port = 1, master_user = 'nobody'; \
         START SLAVE",
    );
    let checked = watched.check(1);
    assert_eq!(checked.status("replication shop"), "trouble");
    server.sql("STOP SLAVE; RESET SLAVE ALL");
    watched.check(0);

    server.sql("CREATE USER small@'%' IDENTIFIED BY 'x'");
    let small = super::file(&watched.site, "small", "x");
    watched.configure(
        &alerts
            .replace("username = \"bitacora\"", "username = \"small\"")
            .replace(&format!("{:?}", server.password_file()), &small),
    );
    let checked = watched.check(1);
    assert_eq!(checked.status("replication shop"), "unknown");
    assert!(checked.find("replication shop")["detail"].as_str().unwrap().contains("grant"));

    watched.configure(&alerts);
    drop(server);
    let checked = watched.check(1);
    assert_eq!(checked.status("database shop"), "trouble");
    assert!(!super::told(&checked.output).contains(PASSWORD));
}

/// A connection that is held.
fn sleeper(server: &Server) -> Child {
    Command::new("mariadb")
        .args(["--no-defaults", "-u", "bitacora", &format!("-p{PASSWORD}"), "-h", "127.0.0.1"])
        .args(["-P", &server.port().to_string(), "-e", "SELECT SLEEP(600)"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A PostgreSQL server of the test's own; it ends when this is dropped.
struct Postgres {
    _dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Postgres {
    fn start() -> Result<Self, String> {
        let bin = PathBuf::from("/usr/lib/postgresql/15/bin");
        if !bin.join("initdb").exists() {
            return Err("PostgreSQL 15 is not here".into());
        }
        if !is_root() {
            return Err("needs root, to run the server as postgres".into());
        }
        let dir = tempfile::tempdir().unwrap();
        let chown = Command::new("chown").arg("postgres").arg(dir.path()).status().unwrap();
        assert!(chown.success());
        let as_postgres = |program: PathBuf| {
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--clear-groups",
                "--pdeathsig",
                "KILL",
            ]);
            command.arg(program).stdin(Stdio::null()).current_dir("/");
            command
        };
        let pwfile = dir.path().join("pw");
        fs::write(&pwfile, format!("{PASSWORD}\n")).unwrap();
        let data = dir.path().join("data");
        let made = as_postgres(bin.join("initdb"))
            .args(["-A", "scram-sha-256", "-U", "bitacora", "--no-sync", "-D"])
            .arg(&data)
            .arg(format!("--pwfile={}", pwfile.display()))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let child = as_postgres(bin.join("postgres"))
            .args([
                "-c",
                "fsync=off",
                "-c",
                "max_connections=20",
                "-c",
                "listen_addresses=127.0.0.1",
            ])
            .args(["-p", &port.to_string(), "-k", "/tmp", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Ok(Self { _dir: dir, port, child })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.child),
            rustix::process::Signal::QUIT,
        );
        let _ = self.child.wait();
    }
}

#[test]
fn postgresql_is_looked_at_through_psql_without_a_password_in_sight() {
    const NAME: &str = "postgresql_is_looked_at_through_psql_without_a_password_in_sight";
    let server = match Postgres::start() {
        Ok(server) => server,
        Err(why) => return skip(NAME, &why),
    };
    let watched = Watched::new("");
    let password = super::file(&watched.site, "password", PASSWORD);
    let alerts = |limit: u32| {
        format!(
            "{OFF}connections_percent = {limit}\n[[backup.database]]\nname = \"orders\"\n\
             kind = \"postgresql\"\nhost = \"127.0.0.1\"\nport = {}\nusername = \"bitacora\"\n\
             password_file = {password}\n",
            server.port
        )
    };
    watched.configure(&alerts(80));
    let ready = || {
        let output = watched.site.run(&["alerts", "check"]);
        output.status.code() == Some(0)
    };
    assert!(within(PATIENCE, ready), "{}", super::told(&watched.site.run(&["alerts", "check"])));
    let checked = watched.check(0);
    assert_eq!(checked.status("connections orders"), "ok");
    assert_eq!(checked.find("connections orders")["value"], 5.0, "one of 20");
    watched.configure(&alerts(4));
    assert_eq!(watched.check(1).status("connections orders"), "trouble");
    watched.configure(&alerts(80));
    drop(server);
    let checked = watched.check(1);
    assert_eq!(checked.status("database orders"), "trouble");
    assert!(!super::told(&checked.output).contains(PASSWORD));
}
