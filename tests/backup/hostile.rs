//! Archives that were made to do harm. Whatever they say, nothing is written outside the place
//! that was named, and nothing at all for one that is not in order.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::Backed;
use crate::support::site::told;

const NAME: &str = "bitacora_backup_20261122_020000.tar.zst";

/// An entry of a part, as a hostile hand may write it.
struct Entry {
    path: &'static str,
    kind: EntryType,
    bytes: Vec<u8>,
    link: &'static str,
}

impl Entry {
    fn file(path: &'static str, bytes: &[u8]) -> Self {
        Self { path, kind: EntryType::Regular, bytes: bytes.into(), link: "" }
    }

    fn write(&self, tar: &mut Vec<u8>) {
        let mut header = Header::new_gnu();
        let raw = header.as_old_mut();
        raw.name[..self.path.len()].copy_from_slice(self.path.as_bytes());
        raw.linkname[..self.link.len()].copy_from_slice(self.link.as_bytes());
        header.set_entry_type(self.kind);
        header.set_size(self.bytes.len() as u64);
        header.set_mode(0o777);
        header.set_cksum();
        tar.extend(header.as_bytes());
        tar.extend(&self.bytes);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }

    /// What an honest manifest would say of it.
    fn record(&self) -> Value {
        let sum: String = Sha256::digest(&self.bytes).iter().map(|b| format!("{b:02x}")).collect();
        json!({"path": self.path, "bytes": self.bytes.len(), "sha256": sum, "modified_s": 0})
    }
}

fn frame(tar: &[u8]) -> Vec<u8> {
    zstd::encode_all(tar, 3).unwrap()
}

fn manifest_frame(text: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    Entry::file("manifest.json", text).write(&mut tar);
    tar.resize(tar.len() + 1024, 0);
    frame(&tar)
}

/// An archive with one part `files`, whose records are changed by `change`.
fn archive(entries: &[Entry], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut tar = Vec::new();
    entries.iter().for_each(|entry| entry.write(&mut tar));
    let part = frame(&tar);
    let mut manifest = json!({
        "format": 1, "archive": NAME, "program": "0.1.0", "host": "h", "begun_ms": 0,
        "ended_ms": 0, "complete": true,
        "parts": [{
            "name": "files", "kind": "files", "begun_ms": 0, "ended_ms": 0, "at": 0,
            "length": part.len(),
            "files": entries.iter().map(Entry::record).collect::<Vec<_>>(),
        }],
    });
    change(&mut manifest);
    [part, manifest_frame(manifest.to_string().as_bytes())].concat()
}

/// Refused by `verify` and by each way of restoring, and nothing is anywhere.
#[track_caller]
fn harmless(what: &str, bytes: &[u8]) {
    let backed = Backed::new();
    backed.configure("files = [\"/etc/cron.d/*\", \"/root/*\"]");
    fs::create_dir(backed.dir()).unwrap();
    let path = backed.dir().join(NAME);
    fs::write(&path, bytes).unwrap();
    let path = path.to_str().unwrap();
    let verified = backed.site.run(&["backup", "verify", path]);
    assert_eq!(verified.status.code(), Some(1), "{what}: {}", told(&verified));
    let outside = backed.site.path("outside");
    fs::create_dir(&outside).unwrap();
    let to = outside.join("to");
    for arguments in [
        &["restore", path, "--unverified", "--overwrite"][..],
        &["restore", path, "--unverified", "--overwrite", "--to", to.to_str().unwrap()],
        &["restore", path, "--unverified", "--drill"],
    ] {
        let output = backed.site.run(arguments);
        let code = output.status.code();
        assert!(matches!(code, Some(1 | 2 | 74)), "{what}: {arguments:?}: {}", told(&output));
    }
    let mut left = Vec::new();
    walk(&outside, &mut left);
    assert_eq!(left, Vec::<String>::new(), "{what}");
    assert_eq!(backed.unfinished(), Vec::<String>::new(), "{what}");
}

fn walk(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, found) } else { found.push(path.display().to_string()) }
    }
}

#[test]
fn the_hand_that_makes_hostile_archives_can_make_an_honest_one() {
    let backed = Backed::new();
    backed.configure("");
    fs::create_dir(backed.dir()).unwrap();
    let path = backed.dir().join(NAME);
    fs::write(&path, archive(&[Entry::file("files/x/y", b"text")], |_| ())).unwrap();
    backed.site.answers(&["backup", "verify"], 0, ": good");
    let to = backed.site.path("to");
    backed.site.answers(&["restore", "--to", to.to_str().unwrap()], 0, "files");
    assert_eq!(fs::read(to.join("files/x/y")).unwrap(), b"text");
    // but it does not choose which files of this host are written
    backed.site.answers(&["restore"], 2, "is not named by [backup] files");
}

#[test]
fn names_that_lead_outside_are_refused() {
    for path in ["/etc/cron.d/x", "../x", "files/../../x", "files/./x", "files//x", "logs/index.db"]
    {
        harmless(path, &archive(&[Entry::file(path, b"x")], |_| ()));
    }
    // an honest manifest, and another name in the archive
    for path in ["/etc/cron.d/x", "files/../../x"] {
        let bytes = archive(&[Entry::file(path, b"x")], |manifest| {
            manifest["parts"][0]["files"][0]["path"] = json!("files/x");
        });
        harmless(path, &bytes);
    }
}

#[test]
fn links_devices_duplicates_and_entries_that_the_manifest_lacks_are_refused() {
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Directory,
        EntryType::XHeader,
        EntryType::GNUSparse,
    ] {
        let link = Entry { path: "files/x", kind, bytes: Vec::new(), link: "/etc/passwd" };
        harmless(&format!("{kind:?}"), &archive(&[link, Entry::file("files/x/y", b"x")], |_| ()));
    }
    let twice = [Entry::file("files/x", b"one"), Entry::file("files/x", b"two")];
    harmless("twice", &archive(&twice, |_| ()));
    let more = [Entry::file("files/x", b"one"), Entry::file("files/y", b"two")];
    harmless(
        "more than the manifest",
        &archive(&more, |manifest| {
            manifest["parts"][0]["files"].as_array_mut().unwrap().pop();
        }),
    );
    harmless(
        "less than the manifest",
        &archive(&more[..1], |manifest| {
            let one = Entry::file("files/y", b"y").record();
            manifest["parts"][0]["files"].as_array_mut().unwrap().push(one);
        }),
    );
    let under = [Entry::file("files/x", b"one"), Entry::file("files/x/y", b"two")];
    let bytes = archive(&under, |_| ());
    let backed = Backed::new();
    backed.configure("");
    fs::create_dir(backed.dir()).unwrap();
    fs::write(backed.dir().join(NAME), bytes).unwrap();
    let to = backed.site.path("to");
    let output = backed.site.run(&["restore", NAME, "--unverified", "--to", to.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(74), "a file is no directory: {}", told(&output));
}

#[test]
fn bombs_and_sizes_that_lie_are_refused_before_they_fill_anything() {
    // zeros that were declared as few
    let long = vec![0; 32 << 20];
    harmless(
        "longer than declared",
        &archive(&[Entry::file("files/x", &long)], |manifest| {
            manifest["parts"][0]["files"][0]["bytes"] = json!(10);
        }),
    );
    for bytes in [u64::MAX, 1 << 50] {
        harmless(
            "longer than a disk",
            &archive(&[Entry::file("files/x", b"x")], |manifest| {
                manifest["parts"][0]["files"][0]["bytes"] = json!(bytes);
            }),
        );
    }
    let many = |manifest: &mut Value| {
        let one = manifest["parts"][0]["files"][0].clone();
        manifest["parts"][0]["files"] = (0..3)
            .map(|number| {
                let mut one = one.clone();
                one["path"] = json!(format!("files/{number}"));
                one["bytes"] = json!(u64::MAX / 2);
                one
            })
            .collect();
    };
    harmless("sizes that overflow", &archive(&[Entry::file("files/x", b"x")], many));
    for (at, length) in [(u64::MAX, 2), (1, u64::MAX), (0, 1), (5, 0)] {
        harmless(
            "frames that are elsewhere",
            &archive(&[Entry::file("files/x", b"x")], |manifest| {
                manifest["parts"][0]["at"] = json!(at);
                manifest["parts"][0]["length"] = json!(length);
            }),
        );
    }
}

#[test]
fn a_manifest_that_is_huge_or_none_is_refused() {
    let mut huge = vec![b' '; 80 << 20];
    huge.extend(b"{}");
    harmless("huge", &manifest_frame(&huge));
    harmless("empty", &manifest_frame(b"{}"));
    harmless("deep", &manifest_frame("[".repeat(100_000).as_bytes()));
    harmless("no manifest", &frame(&[0; 2048]));
    // as many frames as fit, none of which is one
    let mut fakes = Vec::new();
    for _ in 0..100_000 {
        fakes.write_all(&[0x28, 0xb5, 0x2f, 0xfd]).unwrap();
    }
    harmless("fakes", &fakes);
    // a window of a gigabyte
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(30).unwrap();
    encoder.write_all(&vec![7; 1 << 20]).unwrap();
    harmless("window", &encoder.finish().unwrap());
}
