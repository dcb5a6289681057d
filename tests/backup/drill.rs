//! Drills of a real node's archives: what is good is loaded, and whatever is wrong is found.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bitacora::stores::cassandra::open_session;

use crate::cassandra::configure_with;
use crate::support::cassandra::{Node, keyspace, skipped};
use crate::support::eventually;
use crate::support::site::{Files, Kind, Site, told};

const PATIENCE: Duration = Duration::from_mins(2);

/// `nodetool`, which does to a snapshot what the file `mode` says: the archive of it agrees with
/// its own manifest, and with the checksums beside the files.
fn tampering(site: &Site, node: &Node) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cassandra");
    let path = site.path("nodetool");
    let text = format!(
        r#"#!/bin/bash
set -e
{script:?} nodetool {dir:?} "$@"
[ "$1" = snapshot ] || exit 0
cd {data:?}
for taken in {keyspace}/*/snapshots/"$3"; do
  case $(cat {mode:?}):$taken in
  flip:*/infrastructure_logs-*)
    cd "$taken"
    for data in *-Data.db; do
      cp "$data" copy
      printf '\x00\xff\x55\xaa' | dd of=copy bs=1 conv=notrunc seek=$(($(stat -c %s copy) / 2)) status=none
      gzip -c copy | tail -c 8 | od -An -N4 -tu4 | tr -d ' ' >crc
      mv copy "$data"
      mv crc "${{data%Data.db}}Digest.crc32"
    done
    cd {data:?} ;;
  rows:*/infrastructure_logs-* | spans:*/spans-*)
    rm "$taken"/*-big-* ;;
  esac
done
"#,
        dir = node.dir(),
        data = node.data_dir(),
        keyspace = name_of(site),
        mode = site.path("mode"),
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(site.path("mode"), "").unwrap();
    format!("[{path:?}]")
}

fn name_of(site: &Site) -> &str {
    let Kind::Cassandra { keyspace, .. } = &site.kind else { unreachable!() };
    keyspace
}

/// Appends lines of a day to a log.
fn write(path: &Path, day: &str, lines: u64) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    let text: String = (0..lines)
        .map(|number| {
            format!("{{\"time\":\"{day}T10:00:00Z\",\"level\":\"info\",\"message\":\"ln{number:08}x\"}}\n")
        })
        .collect();
    file.write_all(text.as_bytes()).unwrap();
}

/// Rows that the store has committed.
fn committed(site: &Site) -> u64 {
    site.json(&["audit", "--json"])["rows"].as_u64().unwrap()
}

#[track_caller]
fn ships(site: &Site, rows: u64) {
    let daemon = site.start();
    eventually("all rows in spans", || committed(site) >= rows);
    daemon.stop();
}

fn cql(site: &Site, node: &Node, text: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let session = open_session(&node.config(name_of(site))).await.unwrap();
        session.query_unpaged(text, ()).await.unwrap();
    });
}

/// Directories of keyspaces that drills have left, with a live table or a snapshot in them.
fn left(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.data_dir()).unwrap().map(|entry| entry.unwrap().path());
    let drills = entries.filter(|path| path.to_str().unwrap().contains("bitacora_drill_"));
    drills.filter(|path| holds_rows(path)).collect()
}

fn holds_rows(dir: &Path) -> bool {
    fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() { holds_rows(&path) } else { path.to_str().unwrap().ends_with("-Data.db") }
    })
}

fn id_of(node: &Node) -> String {
    let info = node.nodetool(&["info"]);
    let id = info.lines().find_map(|line| line.strip_prefix("ID ")).unwrap();
    id.rsplit(' ').next().unwrap().replace('-', "")
}

/// A good archive, after whatever was done.
#[track_caller]
fn archived(site: &Site, mode: &str) {
    fs::write(site.path("mode"), mode).unwrap();
    site.answers(&["backup", "create"], 0, ": good");
}

#[test]
fn a_drill_loads_what_is_whole_and_fails_over_damage_missing_rows_and_missing_spans() {
    let name = "a_drill_loads_what_is_whole_and_fails_over_damage_missing_rows_and_missing_spans";
    let node = match Node::start(&["--yaml", "auto_snapshot: true"]) {
        Ok(node) => node,
        Err(why) => return skipped(name, &why),
    };
    let site = Site::on_cassandra(&[&node], keyspace(), "");
    let nodetool = tampering(&site, &node);
    let application = Files::new("shop", site.log("shop.log"));
    let files = [
        Files::new("json", site.log("app.log")),
        application.with("format = \"json\"\ntable = \"application\""),
    ];
    configure_with(&site, &files, &nodetool, &node.data_dir(), "");
    site.apply_schema();
    write(&site.log("app.log"), "2026-11-20", 700);
    write(&site.log("shop.log"), "2026-11-20", 300);
    ships(&site, 1000);
    node.nodetool(&["flush", name_of(&site)]);
    write(&site.log("app.log"), "2026-11-21", 500);
    ships(&site, 1500);

    // one that a killed drill has left goes; one of another node's does not
    let (own, other) = (id_of(&node), "0123456789abcdef0123456789abcdef");
    for id in [own.as_str(), other] {
        let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
        let text = format!("CREATE KEYSPACE bitacora_drill_{id} WITH replication = {replication}");
        cql(&site, &node, &text);
    }
    archived(&site, "");
    let before = committed(&site);
    let drill = told(&site.run(&["restore", "--drill"]));
    assert!(drill.contains("1500 rows in ") && drill.contains("audit clean"), "{drill}");
    assert!(drill.contains("can be restored"), "{drill}");
    let keyspaces = node.nodetool(&["tablestats", "-F", "json"]);
    assert!(!keyspaces.contains(&own), "{keyspaces}");
    assert!(node.nodetool(&["describering", &format!("bitacora_drill_{other}")]).contains("Token"));
    assert_eq!(left(&node), Vec::<PathBuf>::new());
    assert_eq!(committed(&site), before);
    let unpacked = fs::read_dir(node.data_dir()).unwrap();
    let unpacked = unpacked
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.'));
    assert_eq!(unpacked.count(), 0);

    configure_with(&site, &files, &nodetool, &node.data_dir(), "drill_max = \"1B\"");
    site.answers(&["restore", "--drill", "--part", "logs"], 0, "what the newest files hold clean");
    configure_with(&site, &files, &nodetool, &node.data_dir(), "");

    for (mode, words) in [
        ("flip", "infrastructure_logs: the node does not take its files"),
        ("rows", "rows of bytes 0 to"),
        ("spans", "the manifest says 2 and"),
    ] {
        archived(&site, mode);
        site.answers(&["restore", "--drill", "--part", "logs"], 1, words);
        assert_eq!(left(&node), Vec::<PathBuf>::new(), "{mode}");
        assert!(!node.nodetool(&["tablestats", "-F", "json"]).contains(&own), "{mode}");
    }
    // a single row
    archived(&site, "");
    site.answers(&["restore", "--drill", "--part", "logs"], 0, "audit clean");
    let row = &site.logs()[0];
    let (time, origin) = (row["timestamp"].as_str().unwrap(), &row["origin"]);
    let day = time.split('T').next().unwrap();
    let table = if row["source"] == "shop" { "application_logs" } else { "infrastructure_logs" };
    for bucket in 0..3 {
        let delete = format!(
            "DELETE FROM {}.{table} WHERE log_date = '{day}' AND source = '{}' AND bucket = \
             {bucket} AND timestamp = '{}' AND origin = {origin} AND offset_bytes = {}",
            name_of(&site),
            row["source"].as_str().unwrap(),
            time,
            row["offset_bytes"]
        );
        cql(&site, &node, &delete);
    }
    archived(&site, "");
    site.answers(&["restore", "--drill", "--part", "logs"], 1, ": 1 rows of bytes 0 to");
}

#[test]
fn with_require_backup_partitions_go_that_a_nodes_archive_holds_and_later_ones_stay() {
    let name = "with_require_backup_partitions_go_that_a_nodes_archive_holds_and_later_ones_stay";
    let node = match Node::start(&[]) {
        Ok(node) => node,
        Err(why) => return skipped(name, &why),
    };
    let site = Site::on_cassandra(&[&node], keyspace(), "");
    let nodetool = tampering(&site, &node);
    let files = [
        Files::new("early", site.log("early.log")).with("format = \"json\""),
        Files::new("late", site.log("late.log")).with("format = \"json\""),
    ];
    let policy = "[retention]\ninfrastructure = \"7d\"";
    configure_with(&site, &files, &nodetool, &node.data_dir(), policy);
    site.apply_schema();
    write(&site.log("early.log"), "2026-10-01", 100);
    ships(&site, 100);
    let items = |arguments: &[&str]| {
        let said =
            site.json(&[&["retention"], arguments, &["--require-backup", "--json"]].concat());
        let items = said["items"].as_array().unwrap().clone();
        items.into_iter().filter(|item| item["kind"] == "partitions").collect::<Vec<_>>()
    };
    let planned = items(&["plan"]);
    assert_eq!(planned.len(), 1, "{planned:?}");
    assert_eq!(planned[0]["state"], "withheld", "{planned:?}");
    assert!(planned[0]["why"].as_str().unwrap().contains("no verified backup"), "{planned:?}");
    // stamps of rows may lie a little ahead of the clock
    assert!(
        crate::support::within(PATIENCE, || {
            site.answers(&["backup", "create"], 0, ": good");
            items(&["plan"])[0]["state"] == "planned"
        }),
        "{:?}",
        items(&["plan"])
    );
    write(&site.log("late.log"), "2026-10-02", 50);
    ships(&site, 150);
    let applied = items(&["apply"]);
    let state = |source: &str| {
        let item = applied.iter().find(|item| item["source"] == source).unwrap();
        (item["state"].as_str().unwrap().to_owned(), item["why"].to_string())
    };
    assert_eq!(state("early").0, "done", "{applied:?}");
    let (late, why) = state("late");
    assert!(late == "withheld" && why.contains("after the last verified backup"), "{applied:?}");
    assert_eq!(site.logs().len(), 50);
    site.audit_is_clean();
}

/// Files of one node are loaded where every node is a replica, and all of them are asked.
fn with_a_replica_on_each(nodes: [&Node; 2]) {
    let site = Site::on_cassandra(&nodes, keyspace(), "replication = 2");
    let nodetool = tampering(&site, nodes[0]);
    let files = [Files::new("json", site.log("app.log"))];
    let policy = "[retention]\ninfrastructure = \"7d\"";
    configure_with(&site, &files, &nodetool, &nodes[0].data_dir(), policy);
    site.apply_schema();
    write(&site.log("app.log"), "2026-10-01", 300);
    ships(&site, 300);
    archived(&site, "");
    let said = told(&site.run(&["restore", "--drill"]));
    assert!(said.contains("300 rows in ") && said.contains("audit clean"), "{said}");
    assert!(left(nodes[1]).is_empty(), "nothing of a drill goes to other nodes");
    archived(&site, "rows");
    site.answers(&["restore", "--drill"], 0, "this node lacks what others of the 2 have (300 rows");
    let said = site.json(&["retention", "plan", "--require-backup", "--json"]);
    assert!(!said["notes"].to_string().contains("no help"), "{said:#}");
    assert_eq!(said["items"][0]["state"], "planned", "{said:#}");
}

#[test]
fn of_two_nodes_an_archive_is_a_share_with_one_replica_and_holds_all_with_two() {
    let name = "of_two_nodes_an_archive_is_a_share_with_one_replica_and_holds_all_with_two";
    let node = match Node::start(&[]) {
        Ok(node) => node,
        Err(why) => return skipped(name, &why),
    };
    let second = node.joined(&[]).expect("a second node");
    let site = Site::on_cassandra(&[&node, &second], keyspace(), "");
    let nodetool = tampering(&site, &node);
    let files = [Files::new("json", site.log("app.log"))];
    let policy = "[retention]\ninfrastructure = \"7d\"";
    configure_with(&site, &files, &nodetool, &node.data_dir(), policy);
    site.apply_schema();
    for day in 1..9 {
        write(&site.log("app.log"), &format!("2026-10-0{day}"), 50);
    }
    ships(&site, 400);
    archived(&site, "");
    let drill = told(&site.run(&["restore", "--drill"]));
    assert!(drill.contains("share of 2 nodes with 1 replicas"), "{drill}");
    assert!(drill.contains("can be restored"), "{drill}");
    let said = site.json(&["retention", "plan", "--require-backup", "--json"]);
    let notes = said["notes"].to_string();
    assert!(notes.contains("one of 2 nodes with 1 replicas"), "{said:#}");
    let items = said["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["state"] == "withheld"), "{said:#}");
    assert_eq!(items.len(), 8, "{said:#}");
    with_a_replica_on_each([&node, &second]);
}
