//! Everything is destroyed, and everything comes back.

use std::fs;
use std::time::Duration;

use crate::Backed;
use crate::support::client::Client;
use crate::support::ledger::{Ledger, Rotation, Style};
use crate::support::mariadb::{Server, numbers};
use crate::support::postgresql::Cluster;
use crate::support::site::told;
use crate::support::{PATIENCE, pause_ms, seed, skip, within};

const DORA: &str = "
    SET NAMES utf8mb4;
    CREATE TABLE dora_metrics (id BIGINT PRIMARY KEY AUTO_INCREMENT, cycle_id VARCHAR(100),
      metadata JSON, created_at DATETIME(3)) CHARACTER SET utf8mb4;
    INSERT INTO dora_metrics (cycle_id, metadata, created_at)
      SELECT CONCAT('it''s (', seq, '); \\\\ \\n ñ 🚢'), JSON_OBJECT('n', seq), NOW(3)
      FROM NUMBERS;
    CREATE TABLE dora_incidents (id BIGINT PRIMARY KEY, body BLOB);
    INSERT INTO dora_incidents VALUES (1, 0x0027285c0a3b), (2, NULL);";

/// What must be equal afterwards.
fn dora(server: &Server) -> String {
    server.sql("CHECKSUM TABLE bitacora.dora_metrics, bitacora.dora_incidents EXTENDED")
}

fn shop(cluster: &Cluster) -> String {
    cluster.sql("shop", "SELECT count(*), md5(string_agg(o::text, '|' ORDER BY id)) FROM orders o")
}

#[test]
fn rows_metrics_and_databases_that_are_destroyed_under_a_writing_daemon_come_back_equal() {
    let name = "rows_metrics_and_databases_come_back";
    let (server, cluster) = match (Server::start(), Cluster::start()) {
        (Ok(server), Ok(cluster)) => (server, cluster),
        (Err(why), _) | (_, Err(why)) => return skip(name, &why),
    };
    server.sql(&format!("USE bitacora; {}", DORA.replace("NUMBERS", &numbers(5000))));
    cluster.sql("postgres", "CREATE DATABASE shop");
    cluster.sql(
        "shop",
        "CREATE TABLE orders (id int PRIMARY KEY, what text); \
         INSERT INTO orders SELECT n, E'tab\\there \\\\. ' || n FROM generate_series(1, 3000) n",
    );
    let mut backed = Backed::new();
    let (kept, other) = (backed.site.path("kept.txt"), backed.site.path("other.json"));
    fs::write(&kept, "of a command\n").unwrap();
    fs::write(&other, "{\"of\":\"an application\"}\n").unwrap();
    backed.extra = format!(
        "{}\n[[backup.database]]\nname = \"shop\"\ndatabases = [\"shop\"]\n{}\n\
         [[backup.database]]\nname = \"own\"\nkind = \"command\"\ndump = [\"cat\", {kept:?}]\n\
         restore = [\"sh\", \"-c\", \"cat >{}\"]\ndrill = [\"grep\", \"a command\"]\n",
        server.dora(),
        cluster.keys(),
        kept.display()
    );
    backed.configure(&format!("files = [{:?}]", backed.site.path("*.json")));
    let site = &backed.site;
    let mut ledger = Ledger::new(&site.log("app.log"), Style::Json, 1, seed());
    let daemon = site.start();
    ledger.write(2000);
    // what is in flight when the archive is made is the point
    assert!(within(PATIENCE, || !site.rows().is_empty()), "{}", site.said());
    let made = std::thread::scope(|scope| {
        let made = scope.spawn(|| site.run(&["backup", "create"]));
        while !made.is_finished() {
            ledger.write(50);
            pause_ms(5);
        }
        made.join().unwrap()
    });
    assert!(made.status.success(), "{}", told(&made));
    site.all_arrives(&mut ledger, PATIENCE);
    daemon.stop();
    let (before_dora, before_shop) = (dora(&server), shop(&cluster));

    fs::remove_dir_all(site.store_dir()).unwrap();
    fs::remove_dir_all(site.path("state")).unwrap();
    fs::remove_file(&kept).unwrap();
    fs::remove_file(&other).unwrap();
    server.sql("DROP DATABASE bitacora");
    cluster.sql("postgres", "DROP DATABASE shop");

    let restored = site.run(&["restore"]);
    assert!(restored.status.success(), "{}", told(&restored));
    assert_eq!(dora(&server), before_dora);
    assert_eq!(shop(&cluster), before_shop);
    assert_eq!(fs::read_to_string(&kept).unwrap(), "of a command\n");
    assert_eq!(fs::read_to_string(&other).unwrap(), "{\"of\":\"an application\"}\n");
    let audit = site.run(&["audit"]);
    assert!(audit.status.success(), "{}", told(&audit));
    assert!(!site.rows().is_empty());
    // the log is still there: what came after the backup is read now, and nothing twice
    let daemon = site.start();
    ledger.write(500);
    site.all_arrives(&mut ledger, PATIENCE);
    site.ends_well(daemon, &ledger.expected);
    let drill = site.run(&["restore", "--drill"]);
    let said = told(&drill);
    assert!(drill.status.success() && said.contains("5002 rows"), "{said}");
    assert_eq!(said.matches(" loaded: ").count(), 7, "{said}");
    assert!(said.contains("1 files taken by grep"), "{said}");
    // and one that does not like what it gets
    let text = fs::read_to_string(site.config()).unwrap().replace("a command", "another");
    fs::write(site.config(), text).unwrap();
    site.answers(&["restore", "--drill", "--part", "own"], 1, "own          FAILED: grep");
    let left = server.sql("SHOW DATABASES LIKE 'bitacora\\_%'");
    assert_eq!(left, "", "a scratch database is left");
}

/// Each rotation makes a new origin, and each life of the daemon new ones of old files.
#[test]
fn archives_that_are_made_while_files_rotate_are_clean_each() {
    let backed = Backed::new();
    backed.configure("parts = [\"logs\", \"state\"]");
    let site = &backed.site;
    let mut ledger = Ledger::new(&site.log("app.log"), Style::Json, 1, seed());
    let daemon = site.start();
    ledger.write(100);
    assert!(within(PATIENCE, || site.rows().len() > 50), "{}", site.said());
    let rounds = 6;
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            for _ in 0..rounds {
                site.answers(&["backup", "create"], 0, ": good");
            }
        });
        // the writer keeps 30 files: what it removes after a backup no restore can bring back
        let mut rotations = 0;
        while !made.is_finished() {
            ledger.write(100);
            if rotations < 25 {
                rotations += 1;
                ledger.rotate(Rotation::Rename);
            }
            pause_ms(40);
        }
        made.join().unwrap();
    });
    daemon.kill();
    let archives = backed.archives();
    assert_eq!(archives.len(), rounds);
    for (number, archive) in archives.iter().enumerate() {
        let to = site.path(&format!("round-{number}"));
        let (archive, to_text) = (archive.to_str().unwrap(), to.to_str().unwrap());
        site.answers(&["restore", archive, "--to", to_text], 0, "logs");
        fs::remove_dir_all(site.store_dir()).unwrap();
        fs::rename(to.join("logs"), site.store_dir()).unwrap();
        let audit = site.json(&["audit", "--json"]);
        assert_eq!(audit["clean"], true, "{archive}: {audit:#}");
        let origins = audit["origins"].as_array().unwrap();
        let behind = origins.iter().map(|origin| origin["uncommitted_rows"].as_u64().unwrap());
        assert!(audit["rows"].as_u64().unwrap() + behind.sum::<u64>() > 0, "{audit:#}");
    }
    // the newest, with its state: the daemon goes on from there
    let newest = archives.last().unwrap().to_str().unwrap();
    site.answers(&["restore", newest, "--overwrite"], 0, "state");
    let daemon = site.start();
    site.all_arrives(&mut ledger, Duration::from_mins(2));
    site.ends_well(daemon, &ledger.expected);
}

#[test]
fn a_restore_is_refused_over_rows_under_a_daemon_and_without_a_verified_archive() {
    let backed = Backed::new();
    backed.configure("");
    backed.fill(30);
    let site = &backed.site;
    let made = site.run(&["backup", "create", "--no-verify"]);
    assert!(made.status.success(), "{}", told(&made));
    let archive = backed.archives().pop().unwrap();
    let archive = archive.to_str().unwrap();
    site.answers(&["restore"], 1, "no verified archive");
    site.answers(&["restore", archive], 2, "--unverified");
    site.answers(&["backup", "verify", archive], 0, "good");
    site.answers(&["restore"], 2, "--overwrite");
    let daemon = site.start();
    support_ready(&backed);
    site.answers(&["restore", "--overwrite"], 75, "stop it first");
    daemon.stop();
    let before = fs::metadata(site.store_dir().join("index.db")).unwrap().modified().unwrap();
    site.answers(&["restore", "--overwrite", "--dry-run"], 0, "would go to");
    let after = fs::metadata(site.store_dir().join("index.db")).unwrap().modified().unwrap();
    assert_eq!(before, after);
    site.answers(&["restore", "--overwrite"], 0, "logs");
    site.audit_is_clean();
    site.answers(&["restore", "--part", "nothing"], 1, "it has");
    site.answers(&["restore", "--part", "config"], 2, "--to DIR");
    let to = site.path("unpacked");
    site.answers(&["restore", "--part", "config", "--to", to.to_str().unwrap()], 0, "config");
    assert!(to.join("config/bitacora.toml").exists());
    // a directory may be named from where one stands
    let mut beside = site.command(&["restore", "--part", "config", "--to", "beside"]);
    let output = beside.current_dir(site.path("")).output().unwrap();
    assert!(output.status.success(), "{}", crate::support::site::told(&output));
    assert!(site.path("beside/config/bitacora.toml").exists());
    site.answers(&["restore", "--drill", "--part", "nothing"], 1, "it has");
}

#[test]
fn without_a_daemon_the_state_is_missing_and_what_to_do_is_said() {
    let backed = Backed::new();
    backed.configure("parts = [\"config\", \"state\"]");
    backed.site.answers(&["backup", "create"], 1, "leave \"state\" out of [backup] parts");
    backed.configure("parts = [\"config\"]");
    backed.site.answers(&["backup", "create"], 0, ": good");
}

/// Each database by name, and a whole server; over what is there only when it is said.
#[test]
fn databases_of_mariadb_and_postgresql_come_back_one_by_one_and_whole() {
    let name = "databases_of_mariadb_and_postgresql_come_back_one_by_one_and_whole";
    let (server, cluster) = match (Server::start(), Cluster::start()) {
        (Ok(server), Ok(cluster)) => (server, cluster),
        (Err(why), _) | (_, Err(why)) => return skip(name, &why),
    };
    let odd = "a `b`; c";
    let quoted = format!("`{}`", odd.replace('`', "``"));
    server.sql(&format!(
        "CREATE DATABASE {quoted}; USE {quoted}; CREATE TABLE `x ``y` (a VARCHAR(20)); \
         INSERT INTO `x ``y` VALUES ('1'), (NULL); CREATE PROCEDURE p() SELECT 1"
    ));
    // a drill that was killed has left it: no dump has it
    server.sql("CREATE DATABASE bitacora_drill_left");
    cluster.sql("postgres", "CREATE DATABASE bitacora_drill_left");
    cluster.sql("postgres", "CREATE DATABASE \"Odd name\"");
    cluster.sql("Odd name", "CREATE TABLE \"T\" (a int); INSERT INTO \"T\" VALUES (1), (2), (3)");
    let mut backed = Backed::new();
    let mysql = format!(
        "kind = \"mysql\"\nhost = {:?}\nusername = \"bitacora\"\npassword_file = {:?}\n",
        server.socket(),
        server.password_file()
    );
    backed.extra = format!(
        "[[backup.database]]\nname = \"all\"\n{mysql}[[backup.database]]\nname = \"whole\"\n{0}\
         [[backup.database]]\nname = \"one\"\ndatabases = [\"Odd name\"]\n{0}",
        cluster.keys()
    );
    backed.configure("parts = []\ncompression = \"gzip\"");
    let site = &backed.site;
    let archive = backed.create();
    assert!(archive.to_str().unwrap().ends_with(".tar.gz"));
    let drill = told(&site.run(&["restore", "--drill"]));
    assert!(
        drill.contains("2 dumps loaded, 2 rows") && drill.contains("1 dumps loaded, 3 rows"),
        "{drill}"
    );
    for part in ["all", "whole", "one"] {
        site.answers(&["restore", "--part", part], 2, "--overwrite");
    }
    let count = format!("SELECT count(*) FROM {quoted}.`x ``y`");
    server.sql(&format!("DROP DATABASE {quoted}"));
    site.answers(&["restore", "--part", "all"], 0, "all");
    assert_eq!(server.sql(&count), "2");
    server.sql(&format!("CALL {quoted}.p()"));
    server.sql(&format!("DELETE FROM {quoted}.`x ``y`"));
    site.answers(&["restore", "--part", "all", "--overwrite"], 0, "all");
    assert_eq!(server.sql(&count), "2");
    let rows = || cluster.sql("Odd name", "SELECT count(*) FROM \"T\"");
    cluster.sql("Odd name", "DELETE FROM \"T\"");
    site.answers(&["restore", "--part", "one", "--overwrite"], 0, "one");
    assert_eq!(rows(), "3");
    cluster.sql("postgres", "DROP DATABASE \"Odd name\"");
    cluster.sql("postgres", "DROP DATABASE bitacora_drill_left");
    site.answers(&["restore", "--part", "whole"], 0, "whole");
    assert_eq!(rows(), "3");
    let left = "SELECT count(*) FROM pg_database WHERE datname LIKE 'bitacora_drill%'";
    assert_eq!(cluster.sql("postgres", left), "0");
}

/// The spool is not in an archive: what is restored has lanes of segments that are gone.
#[test]
fn a_daemon_with_a_socket_goes_on_after_a_restore() {
    let mut backed = Backed::new();
    let socket = backed.site.path("log.sock");
    backed.site.socket = format!("stream = {socket:?}\ndgram = \"\"");
    backed.configure("");
    let site = &backed.site;
    let record = |number: u64| format!("{{\"message\":\"ln{number:08}x\",\"level\":\"INFO\"}}");
    let daemon = site.start();
    let mut client = Client::new(&socket);
    (0..300).for_each(|number| client.send(&record(number)));
    assert!(client.settle(PATIENCE));
    assert!(within(PATIENCE, || site.rows().len() == 300), "{}", site.said());
    backed.create();
    daemon.stop();
    fs::remove_dir_all(site.store_dir()).unwrap();
    fs::remove_dir_all(site.path("state")).unwrap();
    site.answers(&["restore"], 0, "state");
    site.answers(&["audit"], 0, "clean");
    let daemon = site.start();
    let mut client = Client::new(&socket);
    (300..400).for_each(|number| client.send(&record(number)));
    assert!(client.settle(PATIENCE));
    assert!(within(PATIENCE, || site.rows().len() == 400), "{}", site.said());
    daemon.stop();
    assert!(site.rows().values().all(|times| *times == 1));
    site.audit_is_clean();
}

#[test]
fn what_root_restores_belongs_to_the_owner_of_its_directory() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let name = "what_root_restores_belongs_to_the_owner_of_its_directory";
    if !crate::support::is_root() {
        return skip(name, "only root gives files away");
    }
    let backed = Backed::new();
    backed.configure("");
    backed.fill(30);
    backed.create();
    let site = &backed.site;
    fs::remove_dir_all(site.store_dir()).unwrap();
    fs::remove_dir_all(site.path("state")).unwrap();
    fs::create_dir(site.path("state")).unwrap();
    chown(site.path("state"), Some(54_321), Some(54_322)).unwrap();
    fs::create_dir(site.store_dir()).unwrap();
    chown(site.store_dir(), Some(54_321), Some(54_322)).unwrap();
    site.answers(&["restore"], 0, "logs");
    for path in [site.store_dir().join("index.db"), site.path("state/state.db")] {
        let data = fs::metadata(&path).unwrap();
        assert_eq!((data.uid(), data.gid()), (54_321, 54_322), "{}", path.display());
        assert_eq!(data.permissions().mode() & 0o777, 0o640);
    }
}

#[test]
fn files_go_back_to_their_own_paths_also_on_another_disk_and_links_are_not_followed() {
    let name = "files_go_back_to_their_own_paths_also_on_another_disk_and_links_are_not_followed";
    let backed = Backed::new();
    let there = backed.site.path("there");
    let Some(_disk) = crate::support::Mounted::tmpfs(&there, "4m") else {
        return skip(name, "mounting a tmpfs needs root");
    };
    fs::write(backed.site.path("outside"), "a secret").unwrap();
    std::os::unix::fs::symlink(backed.site.path("outside"), there.join("link.log")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(there.join("socket.log")).unwrap();
    fs::create_dir_all(there.join("deep dir.log")).unwrap();
    fs::write(there.join("ñ \n%41.log"), "odd").unwrap();
    fs::write(there.join("empty.log"), "").unwrap();
    backed.configure(&format!("parts = []\nfiles = [{:?}]", there.join("*.log")));
    let site = &backed.site;
    site.answers(&["backup", "create"], 0, "link.log is a link");
    site.answers(&["restore"], 2, "--overwrite");
    fs::write(there.join("empty.log"), "not any more").unwrap();
    fs::remove_file(there.join("ñ \n%41.log")).unwrap();
    site.answers(&["restore", "--overwrite"], 0, "2 files");
    assert_eq!(fs::read(there.join("ñ \n%41.log")).unwrap(), b"odd");
    assert_eq!(fs::read(there.join("empty.log")).unwrap(), b"");
    assert_eq!(fs::read_dir(&there).unwrap().count(), 5);
}

/// Asked of the daemon itself: to try its lock could keep the lock from it.
fn support_ready(backed: &Backed) {
    crate::support::eventually("the daemon holds the state", || {
        backed.site.run(&["status"]).status.success()
    });
}
