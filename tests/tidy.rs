//! Checks what the compiler does not: who imports whom, how long files are, and words that have
//! no place here.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "all of it is tests"
)]

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;

/// Rooms that everything above the ground may use.
const GROUND: &[&str] = &[
    "record",
    "duration",
    "key",
    "batch",
    "ledger",
    "crc",
    "durable",
    "backoff",
    "metrics",
    "crash",
    "secret",
    "migration",
];

/// Each room and the rooms it may import besides the ground (the ground: what stands here alone).
/// A room that is not in this table fails the test, so that a new import is a visible decision.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("record", &[]),
    ("duration", &["record"]),
    ("key", &["record"]),
    ("ledger", &["record", "duration", "key"]),
    ("batch", &["record", "duration", "key", "ledger"]),
    ("crc", &[]),
    ("durable", &[]),
    ("backoff", &[]),
    ("metrics", &[]),
    ("migration", &[]),
    ("crash", &[]),
    ("secret", &[]),
    ("parse", &[]),
    ("config", &["parse"]),
    ("state", &["config", "parse"]),
    ("spool", &[]),
    ("sources", &["config", "parse", "state", "spool"]),
    // delivery keeps in state.db what the store refuses: dead letters, and stamps
    ("stores", &["config", "parse", "state"]),
    ("worker", &["config", "parse", "sources", "stores"]),
    ("tracker", &["config", "parse", "state", "stores"]),
    ("query", &["config", "parse", "stores"]),
    // `impact` and `trace` look at logs beside their own tables
    ("dora", &["config", "parse", "stores", "query"]),
    // `audit --deep` frames the bytes of files and spool as the worker does, to see the same keys
    (
        "maintain",
        &["config", "parse", "state", "spool", "sources", "stores", "worker", "query", "dora"],
    ),
    ("telemetry", &["config"]),
    (
        "daemon",
        &[
            "config",
            "parse",
            "state",
            "spool",
            "sources",
            "stores",
            "worker",
            "tracker",
            "telemetry",
        ],
    ),
    (
        "cli",
        &[
            "config",
            "parse",
            "state",
            "spool",
            "sources",
            "stores",
            "worker",
            "tracker",
            "query",
            "dora",
            "maintain",
            "telemetry",
            "daemon",
        ],
    ),
];

/// Names that say nothing about what is inside.
const VAGUE_NAMES: &[&str] = &["util", "utils", "common", "helpers", "helper", "misc"];

fn may_import(room: &str, other: &str) -> bool {
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
        return false;
    };
    let on_the_ground = GROUND.contains(&room);
    other == room || allowed.contains(&other) || (!on_the_ground && GROUND.contains(&other))
}

/// The rooms that a text names after `crate::`, also in groups such as `crate::{a, b::C}`.
/// Macros (`crate::name!`) stand at the root and belong to no room.
fn imported_rooms(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let word = |text: &str| -> String {
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut rooms = Vec::new();
    for rest in code.split("crate::").skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut at_start = true;
            for (index, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => at_start = true,
                    c if c.is_whitespace() => {}
                    _ if at_start => {
                        rooms.push(word(&group[index..]));
                        at_start = false;
                    }
                    _ => {}
                }
            }
        } else {
            let room = word(rest);
            if !rest[room.len()..].starts_with('!') {
                rooms.push(room);
            }
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

/// `src/sources/file/mod.rs` is of the room `sources`.
fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let first = inside.split('/').next()?;
    let room = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(room, "lib" | "main")).then_some(room)
}

/// What is wrong with a file of the tree; `path` is relative to the top.
fn faults_of(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |what: String| faults.push(format!("{path}: {what}"));
    let is_rust = path.ends_with(".rs");
    if is_rust && text.lines().count() > FILE_LINES_MAX {
        fault(format!("over {FILE_LINES_MAX} lines"));
    }
    if is_rust && path.starts_with("src/") && !text.starts_with("//!") {
        fault("does not begin with //! and what it is for".to_owned());
    }
    let vague =
        path.split('/').any(|part| VAGUE_NAMES.contains(&part.strip_suffix(".rs").unwrap_or(part)));
    if is_rust && vague {
        fault("has a name that says nothing".to_owned());
    }
    if let Some(room) = room_of(path).filter(|_| is_rust) {
        if !MAY_IMPORT.iter().any(|(name, _)| *name == room) {
            fault(format!("room {room} is not in the table"));
        }
        for other in imported_rooms(text) {
            if !may_import(room, &other) {
                fault(format!("{room} must not import {other}"));
            }
        }
    }
    // spelt apart here, so that this file does not find itself
    for word in [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]] {
        let word = word.concat();
        let found = text.match_indices(&word).any(|(at, _)| {
            let whole = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
            whole(text[..at].chars().next_back()) && whole(text[at + word.len()..].chars().next())
        });
        if found {
            fault(format!("has a {word}: open an issue instead"));
        }
    }
    let registries = [
        ["crates", ".io"],
        ["pypi", ".org"],
        ["npmjs", ".org"],
        ["npmjs", ".com"],
        ["repo1.maven", ".org"],
        ["repo.maven.apache", ".org"],
        ["deb.debian", ".org"],
    ];
    for host in registries.map(|host| host.concat()) {
        if text.contains(&host) {
            fault(format!("names the registry {host}"));
        }
    }
    faults
}

/// All text files of the tree that are written by hand.
fn files(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let built = name.starts_with("target") || name == ".git" || name == "Cargo.lock";
            // lines of logs are data
            let is_data = path.strip_prefix(top).is_ok_and(|path| path.starts_with("tests/data"));
            if built || is_data || path.is_symlink() {
                continue;
            }
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn the_tree_is_tidy() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = files(top);
    assert!(files.len() > 20, "the tree was not found");
    let mut faults = Vec::new();
    for path in files {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let relative = path.strip_prefix(top).unwrap().to_string_lossy().into_owned();
        faults.extend(faults_of(&relative, &text));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn an_import_upwards_is_found_in_every_spelling() {
    for text in [
        "//! x\nuse crate::daemon::start;",
        "//! x\nuse crate::{\n    record::Record,\n    daemon::{start, stop},\n};",
        "//! x\nfn f() { crate::daemon::start() }",
    ] {
        let faults = faults_of("src/parse/json.rs", text);
        assert_eq!(faults, ["src/parse/json.rs: parse must not import daemon"], "{text}");
    }
    let allowed = "//! x\nuse crate::{record::Record, key::{Table, Partition}};\n// crate::daemon\n\
                   fn f() { crate::crash_point!(\"a\") }";
    assert_eq!(faults_of("src/parse/json.rs", allowed), Vec::<String>::new());
}

#[test]
fn the_ground_imports_nothing_above_it_and_only_what_the_table_says() {
    assert!(may_import("batch", "key") && !may_import("key", "batch"));
    assert!(!may_import("record", "parse") && may_import("parse", "record"));
}

#[test]
fn long_files_vague_names_unknown_rooms_and_left_notes_are_found() {
    let long = "//! x\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(faults_of("src/record.rs", &long), ["src/record.rs: over 600 lines"]);
    assert_eq!(faults_of("tests/a.rs", &long).len(), 1);
    assert_eq!(faults_of("src/record.rs", "use std::fs;").len(), 1);
    assert_eq!(faults_of("src/parse/util.rs", "//! x").len(), 1);
    assert_eq!(faults_of("src/sink.rs", "//! x"), ["src/sink.rs: room sink is not in the table"]);
    let note = format!("//! x\n// {}{}: later", "TO", "DO");
    assert_eq!(faults_of("src/record.rs", &note).len(), 1);
    assert_eq!(faults_of("docs/a.md", &format!("https://{}{}/x", "pypi", ".org")).len(), 1);
}

/// A table with a circle would allow what it is there to forbid.
#[test]
fn the_table_has_no_circles() {
    let order: Vec<_> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    for (index, (room, allowed)) in MAY_IMPORT.iter().enumerate() {
        for other in *allowed {
            let place = order.iter().position(|name| name == other);
            assert!(place.is_some_and(|place| place < index), "{room} imports {other}");
        }
    }
}
