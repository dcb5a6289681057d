//! Runs `bitacora parse` over `tests/data/FORMAT/NAME.log` and compares all of each record.
//!
//! Adding a case is adding files: `NAME.log`, `NAME.json` with one expected object a line, and, where
//! the case needs them, `NAME.args` with one further argument a line.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

use bitacora::cli::parse::{Args, run};
use bitacora::parse::Format;
use serde_json::Value;

/// What a case gets that does not say otherwise.
const DEFAULTS: [&str; 2] = ["--now=2031-05-05T00:00:00Z", "--timezone=UTC"];

#[derive(Debug, clap::Parser)]
#[command(args_override_self = true)]
struct Line {
    #[command(flatten)]
    args: Args,
}

#[test]
fn every_case_gives_the_records_that_it_expects() {
    let mut faults = Vec::new();
    for format in Format::ALL {
        let cases = cases(format);
        assert!(!cases.is_empty(), "format {} has no case", format.name());
        for case in cases {
            faults.extend(check(format, &case));
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn cases(format: Format) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format.name());
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut cases: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    cases.sort();
    cases
}

fn check(format: Format, log: &Path) -> Vec<String> {
    let name = format!("{}/{}", format.name(), log.file_stem().unwrap().display());
    let own = fs::read_to_string(log.with_extension("args")).unwrap_or_default();
    let args = ["parse", "--format", format.name()].into_iter().chain(DEFAULTS).chain(own.lines());
    let line = <Line as clap::Parser>::try_parse_from(args.chain([log.to_str().unwrap()])).unwrap();
    let mut output = Vec::new();
    run(&line.args, line.args.open().unwrap(), &mut output).unwrap();

    let Ok(expected) = fs::read_to_string(log.with_extension("json")) else {
        return vec![format!("{name}: there is no {name}.json")];
    };
    let expected: Vec<Value> = objects(&name, &expected);
    let mut records: Vec<Value> = objects(&name, std::str::from_utf8(&output).unwrap());
    for record in &mut records {
        record.as_object_mut().unwrap().remove("offset");
    }
    let mut faults = Vec::new();
    if records.len() != expected.len() {
        faults.push(format!("{name}: {} records, not {}", records.len(), expected.len()));
    }
    for (number, (record, expected)) in records.iter().zip(&expected).enumerate() {
        if record != expected {
            faults.push(format!(
                "{name}: record {}\n        is {record}\n should be {expected}",
                number + 1
            ));
        }
    }
    faults
}

fn objects(name: &str, text: &str) -> Vec<Value> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {e}: {line}")))
        .collect()
}
