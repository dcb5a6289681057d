//! Archives that are damaged, disks that are full, parts that fail, runs that are killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::Backed;
use crate::support::site::told;
use crate::support::{Mounted, eventually, skip};

fn with_every_part(backed: &mut Backed, keys: &str) {
    let other = backed.site.path("other.log");
    fs::write(&other, "x".repeat(5000)).unwrap();
    rusqlite::Connection::open(backed.site.path("dora.db"))
        .unwrap()
        .execute_batch("CREATE TABLE dora_metrics (x); INSERT INTO dora_metrics VALUES (1), (2)")
        .unwrap();
    backed.extra = "[[backup.database]]\nname = \"own\"\nkind = \"command\"\ndump = [\"seq\", \
                    \"5000\"]\n"
        .into();
    backed.configure(&format!("files = [{other:?}]\n{keys}"));
    backed.fill(60);
}

/// Where each part stands in the archive, by its manifest as `create --json` tells it.
fn made(backed: &Backed, arguments: &[&str]) -> Value {
    backed.site.json(&[&["backup", "create", "--json"], arguments].concat())
}

#[test]
fn an_archive_that_is_damaged_in_any_part_is_not_good_and_the_part_is_named() {
    for compression in ["zstd", "gzip"] {
        let mut backed = Backed::new();
        with_every_part(&mut backed, "");
        let made = made(&backed, &["--compression", compression]);
        assert_eq!(made["verified"], true, "{made:#}");
        let archive = backed.archives().pop().unwrap();
        let note = format!("{}.verified.json", archive.display());
        let whole = fs::read(&archive).unwrap();
        let parts = made["manifest"]["parts"].as_array().unwrap();
        assert_eq!(parts.len(), 6, "{made:#}");
        for part in parts {
            let name = part["name"].as_str().unwrap();
            let at = usize::try_from(part["at"].as_u64().unwrap()).unwrap();
            let length = usize::try_from(part["length"].as_u64().unwrap()).unwrap();
            for place in [at + length / 3, at + length / 2, at + length - 3] {
                let mut bytes = whole.clone();
                bytes[place] ^= 0x55;
                fs::write(&archive, bytes).unwrap();
                let said = backed.site.json(&["backup", "verify", "--json"]);
                assert_eq!(said["good"], false, "{name} at {place}: {said:#}");
                for one in said["parts"].as_array().unwrap() {
                    let damaged = one["fault"].as_str().is_some_and(|why| why.contains(name));
                    assert_eq!(damaged, one["name"] == name, "{name} at {place}: {said:#}");
                }
                assert!(!Path::new(&note).exists(), "{name}");
                backed.site.answers(&["backup", "verify"], 1, &format!("part {name} is damaged"));
            }
        }
        // the manifest, and an end that is cut off
        for bytes in [
            [&whole[..whole.len() - 20], &[b'x'; 20]].concat(),
            whole[..whole.len() - 1].to_vec(),
            whole[..whole.len() / 2].to_vec(),
            [&whole[..], b"more"].concat(),
            Vec::new(),
        ] {
            fs::write(&archive, bytes).unwrap();
            backed.site.answers(&["backup", "verify"], 1, "");
            backed.site.answers(
                &["restore", "--overwrite", "--unverified", archive.to_str().unwrap()],
                1,
                "",
            );
        }
        fs::write(&archive, &whole).unwrap();
        backed.site.answers(&["backup", "verify"], 0, ": good");
        assert!(Path::new(&note).exists());
    }
}

#[test]
fn a_damaged_part_is_not_restored_and_the_others_can_be() {
    let mut backed = Backed::new();
    with_every_part(&mut backed, "");
    let made = made(&backed, &[]);
    let archive = backed.archives().pop().unwrap();
    let mut bytes = fs::read(&archive).unwrap();
    let logs = &made["manifest"]["parts"][1];
    assert_eq!(logs["name"], "logs");
    bytes[usize::try_from(logs["at"].as_u64().unwrap() + 100).unwrap()] ^= 1;
    fs::write(&archive, bytes).unwrap();
    let archive = archive.to_str().unwrap();
    backed.site.answers(&["restore", archive, "--overwrite"], 1, "changed or damaged");
    let before = backed.site.rows();
    backed.site.answers(&["restore", archive, "--overwrite", "--unverified"], 1, "part logs");
    assert_eq!(backed.site.rows(), before, "nothing takes its place before all is read");
    let asked = ["restore", archive, "--overwrite", "--unverified", "--part", "dora"];
    backed.site.answers(&asked, 0, "dora");
}

#[test]
fn tar_reads_an_archive_too_and_its_mode_is_for_the_group() {
    let mut backed = Backed::new();
    with_every_part(&mut backed, "");
    for (compression, option) in [("zstd", "--zstd"), ("gzip", "--gzip")] {
        made(&backed, &["--compression", compression]);
        let archive = backed.archives().into_iter().find(|path| {
            path.to_str().unwrap().ends_with(if compression == "zstd" { ".zst" } else { ".gz" })
        });
        let archive = archive.unwrap();
        let mode = fs::metadata(&archive).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let to = backed.site.path(compression);
        fs::create_dir(&to).unwrap();
        let mut tar = std::process::Command::new("tar");
        tar.arg(option).arg("-xf").arg(&archive).arg("-C").arg(&to);
        let output = tar.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", told(&output));
        let output = fs::read_to_string(to.join("own/output")).unwrap();
        assert_eq!(output.lines().count(), 5000);
        for path in ["manifest.json", "logs/index.db", "logs/2026-11-20.db", "state/state.db"] {
            assert!(to.join(path).exists(), "{path}");
        }
    }
}

#[test]
fn a_part_that_fails_is_named_and_the_archive_holds_the_others_but_is_not_good() {
    let mut backed = Backed::new();
    with_every_part(&mut backed, "");
    backed.extra += "[[backup.database]]\nname = \"away\"\nkind = \"command\"\ndump = [\"sh\", \"-c\", \
                     \"echo half; echo out of order >&2; exit 4\"]\n\
                     [[backup.database]]\nname = \"late\"\nkind = \"command\"\ndump = [\"echo\", \"x\"]\n";
    backed.configure("");
    backed.site.answers(&["backup", "create"], 1, "out of order");
    let said = backed.site.json(&["backup", "list", "--json"]);
    assert_eq!((&said["state"], &said["good"]), (&"incomplete".into(), &false.into()), "{said:#}");
    let parts: Vec<_> = said["parts"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert!(parts.contains(&"\"late\"".to_owned()) && !parts.contains(&"\"away\"".to_owned()));
    backed.site.answers(&["backup", "verify"], 1, "INCOMPLETE");
    backed.site.answers(&["restore"], 1, "no verified archive");
    let archive = backed.archives().pop().unwrap();
    let (archive, to) = (archive.to_str().unwrap(), backed.site.path("to"));
    let asked = ["restore", archive, "--unverified", "--to", to.to_str().unwrap()];
    backed.site.answers(&asked, 0, "late");
    assert_eq!(fs::read_to_string(to.join("late/output")).unwrap(), "x\n");
    assert!(!to.join("away").exists());
}

#[test]
fn a_full_disk_leaves_old_archives_as_they_are_and_no_half_one() {
    let name = "a_full_disk_leaves_old_archives_as_they_are_and_no_half_one";
    let mut backed = Backed::new();
    let Some(_disk) = Mounted::tmpfs(&backed.dir(), "3m") else {
        return skip(name, "mounting a tmpfs needs root");
    };
    with_every_part(&mut backed, "");
    let old = backed.create();
    let before = fs::read(&old).unwrap();
    // one that fails while it is copied, one while it is compressed
    let noise = backed.site.path("noise.log");
    let script = "head -c 8000000 /dev/urandom";
    let dump = format!("dump = [\"sh\", \"-c\", {script:?}]\n");
    backed.extra = format!("[[backup.database]]\nname = \"own\"\nkind = \"command\"\n{dump}");
    backed.configure("");
    backed.site.answers(&["backup", "create"], 74, "no room");
    let mut make = std::process::Command::new("sh");
    make.args(["-c", &format!("{script} >{}", noise.display())]);
    assert!(make.status().unwrap().success());
    backed.extra.clear();
    backed.configure(&format!("files = [{noise:?}]"));
    backed.site.answers(&["backup", "create"], 74, "no room");
    assert_eq!(backed.archives(), std::slice::from_ref(&old));
    assert_eq!(fs::read(&old).unwrap(), before);
    assert_eq!(backed.unfinished(), Vec::<String>::new());
    backed.site.answers(&["backup", "verify"], 0, ": good");
}

#[test]
fn a_second_run_is_told_to_come_later_and_what_a_killed_one_left_is_removed() {
    let mut backed = Backed::new();
    with_every_part(&mut backed, "");
    let go = backed.site.path("go");
    backed.extra = format!(
        "[[backup.database]]\nname = \"slow\"\nkind = \"command\"\ndump = [\"sh\", \"-c\", \
         \"while ! test -e {}; do sleep 0.05; done\"]\n",
        go.display()
    );
    backed.configure("");
    let mut first = backed.site.command(&["backup", "create"]).spawn().unwrap();
    eventually("a half archive", || {
        backed.dir().exists() && backed.unfinished().iter().any(|name| name.ends_with(".scratch"))
    });
    for command in
        [&["backup", "create"][..], &["backup", "prune"], &["restore", "--overwrite", "x"]]
    {
        let code = backed.site.run(command).status.code();
        assert!(matches!(code, Some(75 | 1)), "{command:?}: {code:?}");
    }
    backed.site.answers(&["backup", "create"], 75, "try again later");
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!backed.unfinished().is_empty() && backed.archives().is_empty());
    fs::write(&go, "").unwrap();
    backed.create();
    assert_eq!(backed.unfinished(), Vec::<String>::new());
}
