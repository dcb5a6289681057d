//! A real node's snapshot goes into an archive, and into a fresh node.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use crate::support::cassandra::{Node, keyspace, skipped};
use crate::support::ledger::{Ledger, Style};
use crate::support::site::{Files, Kind, Site, told};
use crate::support::{PATIENCE, seed};

fn configure(site: &Site, node: &Node, data: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cassandra");
    let nodetool = format!("[{script:?}, \"nodetool\", {:?}]", node.dir());
    configure_with(site, &[Files::new("json", site.log("app.log"))], &nodetool, data, "");
}

pub fn configure_with(site: &Site, files: &[Files], nodetool: &str, data: &Path, extra: &str) {
    site.configure(files);
    let mut file = OpenOptions::new().append(true).open(site.config()).unwrap();
    writeln!(
        file,
        "[dora]\nsqlite = {:?}\n[backup]\ndir = {:?}\ncassandra_data = [{data:?}]\n\
         nodetool = {nodetool}\n{extra}",
        site.path("dora.db"),
        site.path("archives"),
    )
    .unwrap();
}

#[test]
fn a_snapshot_of_a_node_fills_a_fresh_one_and_the_audit_is_clean() {
    let name = "a_snapshot_of_a_node_fills_a_fresh_one_and_the_audit_is_clean";
    let node = match Node::start(&[]) {
        Ok(node) => node,
        Err(why) => return skipped(name, &why),
    };
    let mut site = Site::on_cassandra(&[&node], keyspace(), "");
    configure(&site, &node, Path::new("/nowhere"));
    site.apply_schema();
    let mut ledger = Ledger::new(&site.log("app.log"), Style::Json, 1, seed());
    let daemon = site.start();
    ledger.write(1500);
    site.all_arrives(&mut ledger, PATIENCE);
    // a part that fails leaves no snapshot on the node either
    site.answers(&["backup", "create"], 1, "set backup.cassandra_data");
    assert!(!node.nodetool(&["listsnapshots"]).contains("bitacora_backup"));
    configure(&site, &node, &node.data_dir());
    site.answers(&["backup", "create"], 0, ": good");
    assert!(!node.nodetool(&["listsnapshots"]).contains("bitacora_backup"));
    // beside a daemon that writes
    site.answers(&["restore", "--drill"], 0, "audit clean");
    site.answers(&["restore", "--overwrite", "--part", "logs"], 75, "stop it first");
    daemon.stop();
    site.answers(&["restore", "--part", "logs"], 2, "--overwrite");
    let before = site.rows();
    drop(node);

    let fresh = Node::start(&[]).expect("a second node");
    let Kind::Cassandra { nodes, .. } = &mut site.kind else { unreachable!() };
    *nodes = vec![fresh.address().to_owned()];
    configure(&site, &fresh, &fresh.data_dir());
    site.apply_schema();
    std::fs::remove_dir_all(site.path("state")).unwrap();
    assert!(site.rows().is_empty());
    let restored = site.run(&["restore"]);
    assert!(restored.status.success(), "{}", told(&restored));
    assert_eq!(site.rows(), before);
    site.audit_is_clean();
    let left = std::fs::read_dir(fresh.data_dir()).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.starts_with('.')).count(), 0);
    // and the daemon goes on from there
    let daemon = site.start();
    ledger.write(300);
    site.all_arrives(&mut ledger, PATIENCE);
    site.ends_well(daemon, &ledger.expected);
}
