//! `bitacora check` by its binary: exit codes and texts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "all of it is tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn check(config: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bitacora"))
        .args(["check", "--config"])
        .arg(config)
        .args(more)
        .env("TZ", "UTC")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A configuration whose directories are in `dir`, with `more` below.
fn write_config(dir: &Path, more: &str) -> std::path::PathBuf {
    let path = dir.join("bitacora.toml");
    let at = dir.display();
    let own = format!(
        "[daemon]\nstate_dir = \"{at}/state\"\n[store.sqlite]\ndir = \"{at}/days\"\n{more}\n"
    );
    fs::write(&path, own).unwrap();
    path
}

#[test]
fn a_source_without_files_is_right_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let source =
        format!("[[files]]\nsource = \"syslog\"\npaths = [\"{}/*.log\"]", dir.path().display());
    let config = write_config(dir.path(), &source);
    let output = check(&config, &[]);
    assert!(text(&output.stdout).contains("syslog: no file matches yet"), "{output:?}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!dir.path().join("state").exists() && !dir.path().join("days").exists());
}

#[test]
fn a_wrong_configuration_ends_with_78_and_tells_every_problem_on_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let config = write_config(dir.path(), "[store]\nkind = \"oracle\"\nbatch_rows = 0");
    let output = check(&config, &[]);
    assert_eq!(output.status.code(), Some(78));
    let at = config.display();
    let lines: Vec<_> = text(&output.stderr).lines().collect();
    assert!(lines[0].starts_with(&format!("{at}:6:8: kind is \"oracle\"")), "{lines:?}");
    assert!(lines[1].starts_with(&format!("{at}:7:14: batch_rows is 0")), "{lines:?}");
    assert_eq!(lines[2], "bitacora: 2 problems in the configuration");

    let output = check(&config, &["--json"]);
    assert_eq!(output.status.code(), Some(78));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["problems"][1]["line"], 7);
    assert_eq!(report["clean"], false);
}

#[test]
fn a_missing_configuration_ends_with_78_and_says_how_to_make_one() {
    let output = check(Path::new("/nowhere/bitacora.toml"), &[]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("--print-default"), "{output:?}");
}

#[test]
fn what_needs_a_look_ends_with_1_in_text_and_in_json() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    fs::write(dir.path().join("a.log"), "plainly no json\n").unwrap();
    let more = format!(
        "[redact]\n[[files]]\nsource = \"json\"\npaths = [\"{at}/a.log\"]\n\
         [[files]]\nsource = \"other\"\nformat = \"syslog\"\npaths = [\"{at}/*.log\"]"
    );
    let config = write_config(dir.path(), &more);
    let output = check(&config, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = text(&output.stdout);
    for part in [
        "[redact] is set, but",
        "json: 1 file, 16B; 0 of the last 1 records understood",
        "such as: plainly no json",
        "a.log is matched by several sources: json, other",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
    let output = check(&config, &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["sources"][0]["records_tried"], 1);
    assert_eq!(report["no_effect"].as_array().unwrap().len(), 1);
}

#[test]
fn the_default_configuration_is_printed_as_it_stands_in_the_tree() {
    let output = check(Path::new("/nowhere"), &["--print-default"]);
    assert!(output.status.success());
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("etc/bitacora.toml");
    assert_eq!(text(&output.stdout), fs::read_to_string(tree).unwrap());
}

#[test]
fn a_wrong_word_ends_with_2() {
    let output = check(Path::new("/nowhere"), &["--jsno"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn what_the_timers_need_is_looked_at_too() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    fs::write(dir.path().join("file"), "x").unwrap();
    let sidecar = format!(
        "[[files]]\nsource = \"syslog\"\npaths = [\"{at}/*.log\"]\n[dora]\nkind = \"mysql\"\n\
         mysql = {{ password_file = \"{at}/pw\" }}\n[backup]\ndir = \"{at}/file/backups\"\n\
         [alerts]\nslack = {{ webhook_file = \"{at}/hook\" }}\nlog = {{ file = \"{at}/a.log\" }}\n\
         command = {{ run = [\"{at}/page\"] }}\n"
    );
    let output = check(&write_config(dir.path(), &sidecar), &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let places = report["places"].as_array().unwrap();
    let troubled: Vec<_> = places.iter().filter(|place| !place["trouble"].is_null()).collect();
    let named: Vec<_> = troubled.iter().map(|place| place["what"].as_str().unwrap()).collect();
    let expected =
        ["dora password_file", "backup.dir", "alerts.slack webhook_file", "alerts.command"];
    assert_eq!(named, expected, "{report}");
}
