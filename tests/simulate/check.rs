//! What has to be true when everything is quiet.

use std::collections::{BTreeMap, HashMap, HashSet};

use bitacora::duration::{self, DurationCounts, Rung};
use bitacora::ledger::{Encoding, OriginId};
use bitacora::maintain::audit::{audit, verify};

use super::daemon::now;
use super::disk::Due;
use super::history::History;
use super::sources::numbers_in;
use super::store::Memory;

/// Whether nothing has to be waited for any more.
pub fn everything_arrived(history: &History) -> bool {
    let stored = history.stored_lines();
    let missing = |number: &usize| !stored.contains(number);
    let due = (0..history.disk.lines.len())
        .filter(|&number| history.disk.lines[number].due != Due::May)
        .any(|number| missing(&number));
    let unsaid = history.losses.iter().any(|loss| {
        let known = loss.lines.iter().filter(|line| line.end <= loss.known);
        known.map(|line| line.number).any(|number| missing(&number))
    });
    !due && !unsaid && unaccounted(history).is_empty()
}

/// Everything that is wrong.
pub fn faults(history: &History, deep: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let (rows, strange) = history.rows();
    faults.extend(strange.into_iter().map(|row| format!("a row of no line: {row}")));
    for (number, line) in history.disk.lines.iter().enumerate() {
        let found = rows.get(&number);
        if line.due != Due::May && found.is_none() {
            faults.push(format!("line {number} of log {} is lost", line.log));
        }
        for (machine, count) in found.into_iter().flatten() {
            if *count > 1 {
                faults.push(format!("line {number} is there {count} times by {machine}"));
            }
        }
    }
    if let Some(strange) = rows.keys().find(|number| **number >= history.disk.lines.len()) {
        faults.push(format!("line {strange} was never written"));
    }
    let receipts: HashSet<_> =
        history.ground.store.all_receipts().into_iter().map(|receipt| receipt.path).collect();
    for loss in &history.losses {
        let known = loss.lines.iter().filter(|line| line.end <= loss.known);
        let missing: Vec<_> =
            known.map(|line| line.number).filter(|number| !rows.contains_key(number)).collect();
        if !missing.is_empty() && !receipts.contains(&history.disk.logs[loss.log].path) {
            faults.push(format!("lines {missing:?} are lost, and nothing is said"));
        }
    }
    faults.extend(unaccounted(history));
    faults.extend(miscounted(&history.ground.store));
    let mut audited = now(audit(&*history.ground.store, history.ground.clock.wall_ms())).unwrap();
    if deep {
        now(verify(&mut audited, &*history.ground.store)).unwrap();
    }
    if !audited.report.clean() {
        let stray = audited.report.stray_rows;
        for origin in audited.report.origins.iter().filter(|one| !one.faults.is_empty()) {
            faults.push(format!("audit of origin {}: {:?}", origin.origin, origin.faults));
        }
        if stray > 0 {
            faults.push(format!("audit: {stray} stray rows"));
        }
    }
    faults
}

/// Spans that count another number of durations than their rows say.
fn miscounted(store: &Memory) -> Vec<String> {
    let mut of_rows: BTreeMap<(OriginId, u64), DurationCounts> = BTreeMap::new();
    let mut spans: BTreeMap<(OriginId, u64), (u64, DurationCounts)> = BTreeMap::new();
    store.each_span(|span| {
        let counted = span.durations.clone().expect("this version counts them");
        spans.insert((span.origin, span.start_bytes), (span.end_bytes, counted));
    });
    store.each_row(|key, cell| {
        let entries: HashMap<String, String> =
            serde_json::from_str(&cell.metadata).unwrap_or_default();
        let column = cell.duration_ms.map(|ms| ms.to_string());
        let took = duration::of_row(|name| {
            let column = column.clone().filter(|_| name == "duration_ms");
            column.or_else(|| entries.get(name).cloned()).map(Into::into)
        });
        let Some(rung) = took.and_then(Rung::reached) else { return };
        let offset = key.offset_bytes.cast_unsigned();
        let before = spans.range(..=(key.origin, offset)).next_back();
        if let Some((place, (end, _))) = before
            && place.0 == key.origin
            && offset < *end
        {
            let of_span = of_rows.entry(*place).or_default();
            of_span.entry(key.timestamp_ms.div_euclid(60_000)).or_default().add(rung);
        }
    });
    let rows_of = |place| of_rows.get(place).cloned().unwrap_or_default();
    let wrong = spans.iter().filter(|(place, (_, counted))| rows_of(place) != *counted);
    wrong
        .map(|(place, (_, counted))| {
            format!("span {place:?} counts {counted:?}, and its rows are {:?}", rows_of(place))
        })
        .collect()
}

/// Bytes of followed files that are neither read nor known to be without a newline.
fn unaccounted(history: &History) -> Vec<String> {
    let Some(daemon) = &history.daemon else { return Vec::new() };
    let mut faults = Vec::new();
    for status in daemon.status() {
        let of = |inode: &&super::disk::Inode| inode.path.as_ref() == Some(&status.path);
        let Some(inode) = history.disk.inodes.iter().find(of) else { continue };
        let whole = inode.lines.last().map_or(0, |line| line.end);
        if status.state == "followed" && inode.encoding == Encoding::Plain && status.read < whole {
            faults.push(format!(
                "{} is read up to {} of {whole}",
                status.path.display(),
                status.read
            ));
        }
        if ["new", "cut_back"].contains(&status.state) && inode.len > 0 {
            faults.push(format!("{} is still {}", status.path.display(), status.state));
        }
    }
    faults
}

impl History {
    /// Rows by the number in them, by machine.
    pub fn rows(&self) -> (BTreeMap<usize, BTreeMap<String, usize>>, Vec<String>) {
        let machines = self.ground.store.machines();
        let mut rows: BTreeMap<usize, BTreeMap<String, usize>> = BTreeMap::new();
        let mut strange = Vec::new();
        self.ground.store.each_row(|key, cell| {
            let mut numbers: Vec<usize> = numbers_in(&cell.message).collect();
            numbers.extend(numbers_in(&cell.metadata));
            numbers.sort_unstable();
            numbers.dedup();
            let part =
                cell.metadata.contains("\"partial\"") || cell.metadata.contains("\"continued\"");
            if numbers.is_empty() && !part {
                strange.push(format!("{key:?}: {}", cell.message));
            }
            let machine = machines.get(&key.origin).cloned().unwrap_or_default();
            for number in numbers {
                *rows.entry(number).or_default().entry(machine.clone()).or_default() += 1;
            }
        });
        (rows, strange)
    }
}
