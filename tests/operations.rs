//! `docs/operations.md` says of every metric, and of every message that has an id, what it means.

use std::collections::BTreeSet;

use bitacora::metrics;

#[test]
fn every_metric_is_explained_and_no_other_one() {
    let page = include_str!("../docs/operations.md");
    let named: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `bitacora_")?.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    let all: BTreeSet<&str> =
        metrics::ALL.iter().filter_map(|metric| metric.name.strip_prefix("bitacora_")).collect();
    assert_eq!(named, all);
}

#[test]
fn every_message_id_is_explained_and_no_other_one() {
    let page = include_str!("../docs/operations.md");
    let id = |text: &str| {
        let id = text.split(['`', '"']).nth(1)?;
        (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
    };
    let named: BTreeSet<String> = page.lines().filter_map(id).collect();
    let source = include_str!("../src/telemetry/mod.rs");
    let all: BTreeSet<String> =
        source.lines().filter(|line| line.contains("pub const")).filter_map(id).collect();
    assert!(all.len() > 5, "{all:?}");
    assert_eq!(named, all);
}
