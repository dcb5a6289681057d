//! Old archives and parts end, drills show what can be loaded, and lists say so.

use std::fs;
use std::path::{Path, PathBuf};

use bitacora::maintain::backup::{self, Verified};
use serde_json::Value;

use crate::Backed;
use crate::support::eventually;
use crate::support::site::Site;

/// Gives an archive, and what stands beside it, an older name.
fn aged(backed: &Backed, archive: &Path, name: &str) -> PathBuf {
    let to = backed.dir().join(name);
    fs::rename(archive, &to).unwrap();
    let (old, new) = (note(archive, "verified"), note(&to, "verified"));
    let text = fs::read_to_string(&old).unwrap();
    let mut verified: Verified = serde_json::from_str(&text).unwrap();
    verified.archive = name.into();
    fs::write(&new, serde_json::to_vec(&verified).unwrap()).unwrap();
    fs::remove_file(old).unwrap();
    to
}

fn note(archive: &Path, kind: &str) -> PathBuf {
    format!("{}.{kind}.json", archive.display()).into()
}

fn parts(backed: &Backed, archive: &Path) -> Vec<String> {
    let output = backed.site.run(&["backup", "list", "--json"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let name = archive.file_name().unwrap().to_str().unwrap();
    let one = all.into_iter().find(|one| one["archive"] == name).unwrap();
    let parts = one["parts"].as_array().unwrap();
    parts.iter().map(|part| part.as_str().unwrap().to_owned()).collect()
}

#[test]
fn pruning_ends_archives_and_parts_in_time_and_nothing_else() {
    let mut backed = Backed::new();
    backed.extra =
        "[[backup.database]]\nname = \"own\"\nkind = \"command\"\ndump = [\"seq\", \"9\"]\n".into();
    backed
        .configure("keep = \"30d\"\nkeep_parts = { own = \"7d\" }\nparts = [\"logs\", \"state\"]");
    backed.fill(30);
    let old = aged(&backed, &backed.create(), "bitacora_backup_20200101_000000.tar.zst");
    let day = |days: i64| {
        let now = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * days);
        now.strftime("bitacora_backup_%Y%m%d_%H%M%S.tar.zst").to_string()
    };
    let middle = aged(&backed, &backed.create(), &day(10));
    let newest = backed.create();
    let strange = backed.dir().join("bitacora_backup_of_mine.tar.zst");
    fs::write(&strange, "mine").unwrap();
    let orphan = backed.dir().join("bitacora_backup_20190101_000000.tar.zst.verified.json");
    fs::write(&orphan, "{}").unwrap();

    backed.site.answers(&["backup", "prune", "--dry-run"], 0, "would be deleted");
    assert!(old.exists() && orphan.exists());
    backed.site.answers(&["backup", "prune"], 0, "without own");
    assert!(!old.exists() && !note(&old, "verified").exists() && !orphan.exists());
    assert!(strange.exists() && newest.exists());
    assert_eq!(parts(&backed, &middle), ["logs", "state"]);
    assert_eq!(parts(&backed, &newest), ["logs", "state", "own"]);
    // what was made anew is good, and says what it lacks
    let middle = middle.to_str().unwrap();
    backed.site.answers(&["backup", "verify", middle], 0, ": good");
    backed.site.answers(
        &["restore", middle, "--part", "own", "--to", "/nowhere"],
        1,
        "no part own",
    );
    let nothing = backed.site.run(&["backup", "prune"]);
    assert!(nothing.status.success() && nothing.stdout.is_empty());
    // however old it is, the last good one stays
    fs::remove_file(middle).unwrap();
    aged(&backed, &newest, "bitacora_backup_20200101_000000.tar.zst");
    backed.site.answers(&["backup", "prune"], 0, "its archive is gone");
    assert!(old.exists());
}

#[test]
fn a_drill_loads_an_archive_and_says_what_differs() {
    let backed = Backed { site: Site::with_http(), ..Backed::new() };
    rusqlite::Connection::open(backed.site.path("dora.db"))
        .unwrap()
        .execute_batch("CREATE TABLE dora_metrics (x); INSERT INTO dora_metrics VALUES (1), (2)")
        .unwrap();
    backed.configure("");
    backed.fill(90);
    let archive = backed.create();
    assert_eq!(backup::latest(&backed.dir()).unwrap().drill_ms, None);
    let rows = backed.site.rows();
    backed.site.answers(
        &["restore", "--drill", "--dry-run"],
        0,
        "logs         would be loaded: sql",
    );
    backed.site.answers(&["restore", "--drill", "--dry-run", "--part", "nothing"], 1, "it has");
    assert_eq!(backup::latest(&backed.dir()).unwrap().drill_ms, None, "nothing was loaded");
    backed.site.answers(&["restore", "--drill", "--sample", "1"], 0, "2 databases sound");
    backed.site.answers(&["restore", "--drill"], 0, "audit clean");
    assert_eq!(backed.site.rows(), rows);
    assert_eq!(backed.unfinished(), Vec::<String>::new());
    assert!(backup::latest(&backed.dir()).unwrap().drill_ms.is_some());
    backed.site.answers(&["backup", "list"], 0, "drilled");
    let daemon = backed.site.start();
    let told = |name: &str| backed.site.metric(name, "").is_some_and(|at| at > 1.7e9);
    eventually("the daemon's metrics tell of both", || {
        told("bitacora_backup_last_success_timestamp_seconds")
            && told("bitacora_backup_last_drill_timestamp_seconds")
    });
    daemon.stop();
    fs::remove_file(note(&archive, "drilled")).unwrap();
    // an archive whose rows are not those that its spans claim
    fs::remove_file(&archive).unwrap();
    backed.site.in_day_files("DELETE FROM infrastructure_logs WHERE offset_bytes = 0");
    backed.create();
    backed.site.answers(&["restore", "--drill"], 1, "audit of the loaded rows is not clean");
    assert_eq!(backup::latest(&backed.dir()).unwrap().drill_ms, None);
}

#[test]
fn a_note_tells_the_days_of_the_rows_and_the_archive_itself() {
    let backed = Backed::new();
    backed.configure("parts = [\"logs\"]");
    backed.fill(30);
    let archive = backed.create();
    let text = fs::read_to_string(note(&archive, "verified")).unwrap();
    let verified: Verified = serde_json::from_str(&text).unwrap();
    assert_eq!(verified.parts[0].days, ["2026-11-20", "2026-11-21", "2026-11-22"]);
    let sum = std::process::Command::new("sha256sum").arg(&archive).output().unwrap();
    assert!(String::from_utf8(sum.stdout).unwrap().starts_with(&verified.sha256));
    let latest = backup::latest(&backed.dir()).unwrap();
    // a name has whole seconds
    assert_eq!(latest.backup_ms, Some(verified.created_ms / 1000 * 1000));
    assert_eq!(latest.verified_ms, Some(verified.verified_ms));
    backed.site.answers(&["backup", "create", "--dry-run"], 0, "logs (sqlite)");
    assert_eq!(backed.archives().len(), 1);
    // a look is no word beside it, for better or worse
    fs::remove_file(note(&archive, "verified")).unwrap();
    backed.site.answers(&["backup", "verify", "--dry-run"], 0, ": good");
    assert!(!note(&archive, "verified").exists());
    backed.site.answers(&["backup", "verify"], 0, ": good");
    fs::write(&archive, &fs::read(&archive).unwrap()[..3000]).unwrap();
    backed.site.answers(&["backup", "verify", "--dry-run"], 1, "");
    assert!(note(&archive, "verified").exists());
}

#[test]
fn retention_that_asks_for_a_backup_deletes_only_what_an_archive_brings_back() {
    let mut backed = Backed::new();
    backed.extra = "[retention]\ninfrastructure = \"1d\"\napplication = \"1d\"\n".into();
    backed.configure("parts = [\"logs\", \"state\"]");
    backed.fill(30);
    let site = &backed.site;
    let before = site.rows();
    let apply = ["retention", "apply", "--require-backup"];
    site.answers(&apply, 0, "no verified backup holds");
    assert_eq!(site.rows(), before);
    let archive = backed.create();
    site.answers(&apply, 0, "");
    let is_first_day = |number: &u64| number.is_multiple_of(3);
    assert!(!site.rows().keys().any(is_first_day), "{:?}", site.rows());
    site.audit_is_clean();
    // one that is made now knows what has ended
    let later = backed.create();
    for (archive, rows) in [(archive, before), (later, site.rows())] {
        site.answers(&["restore", archive.to_str().unwrap(), "--overwrite"], 0, "logs");
        assert_eq!(site.rows(), rows);
        let audit = site.json(&["audit", "--json"]);
        assert_eq!(audit["clean"], true, "{audit:#}");
    }
}
