//! `bitacora schema` on a real server: plan, apply, check, damage, a newer one, two at once; TCP,
//! socket and TLS.

use std::fs;
use std::path::Path;
use std::process::Command;

use bitacora::config::Mysql;
use bitacora::dora::{DoraError, open, schema};
use serde_json::json;

use super::support::mariadb::{PASSWORD, Server};
use super::support::skip;
use super::{database_of, mysql, new_database, on_server, runtime, server, site, site_on};

#[test]
fn the_tables_are_planned_made_checked_and_mended() {
    let Some(server) = server("schema") else { return };
    let site = super::Site::new();
    site.configure(&[]);
    let database = new_database(server);
    let named = format!("database = {database:?}");
    super::add(&site, &server.dora().replace("database = \"bitacora\"", &named));
    let early = ["dora", "phase", "--cycle", "c", "--feature", "f", "--phase", "testing"];
    let early = [&early[..], &["--decision", "go", "--duration", "1"]].concat();
    site.answers(&early, 69, "run `bitacora schema apply`");
    site.answers(&["schema", "check"], 1, "PROBLEM there are no DORA tables");
    site.answers(&["schema", "plan"], 0, "CREATE TABLE IF NOT EXISTS dora_metrics");
    site.answers(&["schema", "apply", "--dry-run"], 0, "CREATE TABLE IF NOT EXISTS dora_pdca");
    assert_eq!(server.sql(&format!("SHOW TABLES IN {database}")), "", "nothing is made by a plan");
    site.answers(&["schema", "apply"], 0, "has version 2");
    site.answers(&["schema", "apply"], 0, "is up to date (version 2)");
    site.answers(&["schema", "check"], 0, "ok      the DORA tables have version 2");
    site.answers(&early, 0, "recorded: testing of cycle c, go, 1.00 s");
    let checked = site.json(&["schema", "check", "--json"]);
    assert_eq!(checked["store"], "sqlite", "{checked}");
    assert_eq!(checked["dora"]["store"], "mysql", "{checked}");
    assert_eq!(checked["dora"]["clean"], true, "{checked}");
    let columns = server.sql(&format!(
        "SELECT GROUP_CONCAT(column_name, ' ', column_type ORDER BY ordinal_position SEPARATOR '; ') \
         FROM information_schema.columns WHERE table_schema = '{database}' \
         AND table_name = 'dora_metrics'"
    ));
    // MySQL tells types without their width, and has one for JSON
    let columns = columns.replace("bigint ", "bigint(20) ").replace("json", "longtext");
    assert_eq!(
        columns,
        "id bigint(20) unsigned; cycle_id varchar(100); feature_id varchar(100); \
         phase_name enum('planning','testing','deployment','maintenance'); \
         decision enum('go','no-go','review','blocked','success','failed'); \
         duration_seconds decimal(10,2); metadata longtext; created_at datetime(3); \
         service varchar(100); team varchar(100)"
    );
    server.sql(&format!("ALTER TABLE {database}.dora_metrics DROP INDEX dora_metrics_created"));
    site.answers(&["schema", "check"], 0, "warning index dora_metrics_created of dora_metrics");
    server.sql(&format!("DROP TABLE {database}.dora_pdca"));
    site.answers(&["schema", "check"], 1, "PROBLEM table dora_pdca is missing");
    site.answers(&["schema", "apply"], 0, "dora 0002 dora is done");
    site.answers(&["schema", "check"], 0, "ok ");
    assert_eq!(server.sql(&format!("SELECT COUNT(*) FROM {database}.dora_metrics")), "1");
}

#[test]
fn a_newer_schema_is_refused_by_every_command() {
    let Some(server) = server("newer") else { return };
    let site = site_on(server);
    let database = database_of(&site);
    server.sql(&format!(
        "INSERT INTO {database}.schema_version VALUES (99, 'future', '2030-01-01', 'x')"
    ));
    let newer = "has schema version 99, this program knows 2; install a newer bitacora";
    site.answers(&["schema", "plan"], 69, newer);
    site.answers(&["schema", "apply"], 69, newer);
    site.answers(&["schema", "check"], 1, "have version 99, this program knows 2");
    site.answers(&["dora", "trace", "c"], 69, newer);
    let answer = site.json(&["schema", "plan", "--json"]);
    assert!(answer["dora"]["error"].as_str().unwrap().contains("version 99"), "{answer}");
    assert_eq!(answer["steps"], json!([]), "the other store is asked all the same");
}

#[test]
fn a_newer_file_is_refused_too() {
    let site = site();
    let open = ["dora", "incident", "open", "--id", "i"];
    site.answers(&open, 0, "i");
    let database = rusqlite::Connection::open(site.path("dora.db")).unwrap();
    database.execute("INSERT INTO schema_version VALUES (99, 'future', 0, 'x')", []).unwrap();
    site.answers(&open, 69, "has schema version 99, this program knows 2");
}

#[test]
fn two_hosts_that_apply_at_once_make_everything_once() {
    let Some(server) = server("two hosts") else { return };
    let config = on_server(mysql(server, &new_database(server)));
    runtime().block_on(async {
        let (one, other) =
            tokio::join!(schema::apply(&config, "one", 0), schema::apply(&config, "other", 0));
        let done = one.unwrap().len() + other.unwrap().len();
        assert_eq!(done, 2, "each migration is done by one of them");
    });
}

#[test]
fn a_server_is_reached_by_its_socket_and_faults_are_told_with_what_to_do() {
    let Some(server) = server("faults") else { return };
    let database = new_database(server);
    let good = mysql(server, &database);
    let socket = Mysql { host: server.socket().display().to_string(), ..good.clone() };
    let missing = Mysql { database: "nowhere".into(), ..good.clone() };
    let stranger = Mysql { username: "nobody".into(), ..good.clone() };
    let unreadable = Mysql { password_file: Some("/nowhere/password".into()), ..good.clone() };
    let away = Mysql { port: 1, ..good };
    runtime().block_on(async {
        schema::apply(&on_server(socket.clone()), "test-host", 0).await.unwrap();
        open::open(&on_server(socket)).await.unwrap();
        for (config, told) in [
            (missing, "create it with CREATE DATABASE"),
            (stranger, "look at username"),
            (unreadable, "cannot read /nowhere/password"),
        ] {
            let error = open::open(&on_server(config)).await.err().unwrap();
            assert!(matches!(error, DoraError::Refused { .. }), "{error:?}");
            assert!(error.to_string().contains(told), "{error}");
        }
        let error = open::open(&on_server(away)).await.err().unwrap();
        assert!(matches!(error, DoraError::Unreachable { .. }), "{error:?}");
    });
}

#[test]
fn every_command_gets_along_with_the_rights_that_the_manual_names() {
    let Some(server) = server("rights") else { return };
    let site = site_on(server);
    let config = fs::read_to_string(site.config()).unwrap();
    let database = database_of(&site);
    server.sql(&format!(
        "CREATE USER plain@'%' IDENTIFIED BY '{PASSWORD}'; \
         GRANT SELECT, INSERT, UPDATE ON {database}.* TO plain@'%'"
    ));
    let as_plain = config.replace("username = \"bitacora\"", "username = \"plain\"");
    fs::write(site.config(), &as_plain).unwrap();
    let phase = ["dora", "phase", "--cycle", "c", "--feature", "f", "--phase", "testing"];
    site.answers(&[&phase[..], &["--decision", "go", "--duration", "1"]].concat(), 0, "recorded");
    site.answers(&["dora", "deploy", "--id", "d", "--cycle", "c", "--change", "a=-1h"], 0, "d");
    site.answers(&["dora", "incident", "open", "--id", "i", "--deployment", "d"], 0, "i");
    site.answers(&["dora", "incident", "close", "i"], 0, "is closed");
    site.answers(&["dora", "complete", "c", "success"], 0, "is completed");
    site.answers(&["dora", "trace", "c"], 0, "with 1 changes");
    site.answers(&["schema", "check"], 0, "ok      the DORA tables");
    server.sql(&format!("DROP TABLE {database}.dora_pdca"));
    site.answers(&["schema", "apply"], 69, "GRANT it to the user of dora.mysql");
    server.sql(&format!("GRANT CREATE, ALTER, INDEX ON {database}.* TO plain@'%'"));
    site.answers(&["schema", "apply"], 0, "dora 0002 dora is done");
}

fn openssl(dir: &Path, arguments: &str) -> bool {
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(arguments.split_whitespace());
    command.output().is_ok_and(|output| output.status.success())
}

/// An authority, and a server's certificate for 127.0.0.1 that it signed.
fn certificates(dir: &Path) -> bool {
    fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let ec = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir, &format!("req -x509 {ec} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"))
        && openssl(
            dir,
            &format!("req -x509 {ec} -keyout x.key -out other.pem -subj /CN=other -days 2"),
        )
        && openssl(dir, &format!("req {ec} -keyout server.key -out server.csr -subj /CN=server"))
        && openssl(
            dir,
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile ext",
        )
}

#[test]
fn with_an_authority_the_connection_is_encrypted_and_another_one_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if !certificates(dir.path()) {
        return skip("tls", "openssl makes no certificates");
    }
    let option = |name: &str, file: &str| format!("--{name}={}", dir.path().join(file).display());
    let options = [option("ssl-cert", "server.pem"), option("ssl-key", "server.key")];
    let server = match Server::start_with(&options) {
        Ok(server) => server,
        Err(why) => return skip("tls", &why),
    };
    server.sql("ALTER USER bitacora@'%' REQUIRE SSL");
    let plain = mysql(&server, "bitacora");
    let with = |file: &str| Mysql { ca_file: Some(dir.path().join(file)), ..plain.clone() };
    runtime().block_on(async {
        schema::apply(&on_server(with("ca.pem")), "test-host", 0).await.unwrap();
        open::open(&on_server(with("ca.pem"))).await.unwrap();
        let error = open::open(&on_server(with("other.pem"))).await.err().unwrap();
        assert!(matches!(error, DoraError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("ertificate"), "{error}");
        assert!(open::open(&on_server(plain.clone())).await.is_err(), "the server asks for TLS");
    });
}
