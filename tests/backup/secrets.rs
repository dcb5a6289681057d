//! Passwords are looked for wherever they could be seen: in the arguments and the environment of
//! every process while dumps run, in archives, in what is printed, and in what is left on disk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Backed;
use crate::support::mariadb::{self, Server, numbers};
use crate::support::postgresql::{self, Cluster};
use crate::support::site::told;
use crate::support::{PATIENCE, eventually, skip, within};

const CANARIES: [&str; 4] =
    [mariadb::PASSWORD, postgresql::PASSWORD, "mongo-canary-99ab", "toml-canary-4e21"];

fn shows(bytes: &[u8], canary: &str) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary.as_bytes())
}

/// Looks at every process until it is told to end; answers what was seen. Programs that were there
/// are in `programs`.
fn watch(end: &AtomicBool, programs: &Mutex<BTreeSet<String>>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let own = std::process::id().to_string();
    while !end.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            for what in ["cmdline", "environ"] {
                let Ok(bytes) = fs::read(entry.path().join(what)) else { continue };
                let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                for canary in CANARIES.iter().filter(|canary| shows(&bytes, canary)) {
                    seen.insert(format!("{canary} in {what} of {}", comm.trim()));
                }
                if what == "cmdline" {
                    let program = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                    let program = String::from_utf8_lossy(program);
                    let name = program.rsplit('/').next().unwrap().to_owned();
                    programs.lock().unwrap().insert(name);
                }
            }
        }
    }
    seen
}

#[test]
fn no_password_is_in_a_process_an_archive_or_a_message() {
    let name = "no_password_is_in_a_process_an_archive_or_a_message";
    let (server, cluster) = match (Server::start(), Cluster::start()) {
        (Ok(server), Ok(cluster)) => (server, cluster),
        (Err(why), _) | (_, Err(why)) => return skip(name, &why),
    };
    server.sql(&format!(
        "USE bitacora; CREATE TABLE dora_metrics (id INT); \
         INSERT INTO dora_metrics SELECT seq FROM {}",
        numbers(2000)
    ));
    cluster.sql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 3000) AS n");
    let mut backed = Backed::new();
    // a tool that is not there: it says how it was called, and what its file of secrets is
    let bin = backed.site.path("bin");
    fs::create_dir(&bin).unwrap();
    let (mongodump, called) = (bin.join("mongodump"), backed.site.path("called"));
    let script = format!(
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in --config) stat -c %a \"$2\" >{0}; cat \"$2\" \
         >>{0}; shift;; esac; shift; done\necho an archive\nsleep 0.3\n",
        called.display()
    );
    fs::write(&mongodump, script).unwrap();
    fs::set_permissions(&mongodump, fs::Permissions::from_mode(0o755)).unwrap();
    let mongo = backed.site.path("mongo-password");
    fs::write(&mongo, CANARIES[2]).unwrap();
    backed.extra = format!(
        "{}\n# the old password: {}\n[[backup.database]]\nname = \"shop\"\n{}\
         databases = [\"postgres\"]\n[[backup.database]]\nname = \"whole\"\n{}\
         [[backup.database]]\nname = \"docs\"\nkind = \"mongodb\"\nusername = \"u\"\n\
         password_file = {mongo:?}\n",
        server.dora(),
        CANARIES[3],
        cluster.keys(),
        cluster.keys(),
    );
    // the secrets' own files match
    backed.configure(&format!("files = [{:?}]", backed.site.path("mongo-*")));
    backed.fill(30);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let end = AtomicBool::new(false);
    let run = |arguments: &[&str]| {
        let output = backed.site.command(arguments).env("PATH", &path).output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        told(&output)
    };
    let programs = Mutex::new(BTreeSet::new());
    let (said, seen) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&end, &programs));
        // dumps wait for these locks, so that there is time to look at them
        scope.spawn(|| {
            drop(server.ask("LOCK TABLES bitacora.dora_metrics WRITE; SELECT SLEEP(600)"))
        });
        scope.spawn(|| drop(cluster.ask("postgres", "LOCK TABLE t; SELECT pg_sleep(600)")));
        let sleeper = "SELECT id FROM information_schema.processlist WHERE state = 'User sleep'";
        eventually("the table is locked", || !server.sql(sleeper).is_empty());
        let locked = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass";
        eventually("the other table is locked", || cluster.sql("postgres", locked) == "1");
        scope.spawn(|| {
            within(PATIENCE, || programs.lock().unwrap().contains("mariadb-dump"));
            server.sql(&format!("KILL {}", server.sql(sleeper)));
            within(PATIENCE, || programs.lock().unwrap().contains("pg_dump"));
            cluster.sql(
                "postgres",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE query LIKE 'LOCK TABLE t%'",
            );
        });
        let said = [run(&["backup", "create"]), run(&["restore", "--drill"])].concat();
        end.store(true, Ordering::Relaxed);
        (said, watching.join().unwrap())
    });
    let programs = programs.into_inner().unwrap();
    assert_eq!(seen, BTreeSet::new());
    for program in ["mariadb-dump", "pg_dump", "pg_dumpall"] {
        assert!(programs.contains(program), "{program} was not seen at all: {programs:?}");
    }
    let called = fs::read_to_string(&called).unwrap();
    assert_eq!(called, format!("600\npassword: \"{}\"\n", CANARIES[2]));
    assert!(said.contains("holds a secret and is left out"), "{said}");
    let to = backed.site.path("to");
    run(&["restore", "--to", to.to_str().unwrap()]);
    let grep = |canary: &str, dir: &std::path::Path| {
        let mut grep = std::process::Command::new("grep");
        let output = grep.args(["-rlaF", canary]).arg(dir).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for canary in CANARIES {
        assert!(!shows(said.as_bytes(), canary) && !shows(backed.site.said().as_bytes(), canary));
        assert_eq!(grep(canary, &backed.dir()), "");
        // users of a whole PostgreSQL have their hashes in its dump, not their passwords
        assert_eq!(grep(canary, &to), "");
    }
    assert!(grep(CANARIES[3], backed.site.config().parent().unwrap()).contains("bitacora.toml"));
}
