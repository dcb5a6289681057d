//! `docs/operations.md` says of every metric what it means.

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
