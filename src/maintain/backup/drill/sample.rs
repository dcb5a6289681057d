//! Which files of a node's snapshot a drill loads.

use std::collections::{BTreeMap, BTreeSet};

use super::super::manifest::PartRecord;
use super::super::parts::cassandra::{ROWS, table_of};

/// Clocks of hosts differ by less.
const CLOCKS_MS: i64 = 600_000;

/// The files that are loaded: those of spans, origins and all that is small whole, and of rows
/// all or the newest. A row is never in a file that is older than the row: what was written since
/// the newest file that stays behind is loaded whole.
#[derive(Debug, Default)]
pub struct Sample<'a> {
    /// Their names in the archive.
    pub files: BTreeSet<&'a str>,
    /// Directories of tables.
    pub tables: BTreeSet<&'a str>,
    /// Files of rows, each with its companions one.
    pub chosen: usize,
    /// Those of the archive.
    pub all: usize,
    /// What they have on the disk.
    pub bytes: u64,
    /// What was written since is complete; `None` where everything is.
    pub since_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct Group<'a> {
    files: Vec<&'a str>,
    bytes: u64,
    modified_s: u64,
    has_data: bool,
}

impl<'a> Sample<'a> {
    /// Of a part, rows up to so many bytes; one file of them at least.
    pub fn of(part: &'a PartRecord, bytes_max: u64) -> Self {
        let mut groups: BTreeMap<(&str, &str), Group<'a>> = BTreeMap::new();
        for file in &part.files {
            // tables are made by this program, not by what an archive says of them
            let mut names = file.path.split('/').skip(1);
            let (Some(table), Some(name), None) = (names.next(), names.next(), names.next()) else {
                continue;
            };
            let Some((stem, component)) = name.rsplit_once('-') else { continue };
            let group = groups.entry((table, stem)).or_default();
            group.files.push(&file.path);
            group.bytes += file.bytes;
            if component == "Data.db" {
                (group.has_data, group.modified_s) = (true, file.modified_s);
            }
        }
        let groups = groups.into_iter().filter(|(_, group)| group.has_data);
        let (mut rows, ledger): (Vec<_>, Vec<_>) =
            groups.partition(|((table, _), _)| ROWS.contains(&table_of(table)));
        rows.sort_by_key(|(_, group)| std::cmp::Reverse(group.modified_s));
        let mut sample = Self { all: rows.len() + ledger.len(), ..Self::default() };
        for ((table, _), group) in &ledger {
            sample.take(table, group);
        }
        let mut taken = 0_u64;
        for (number, ((table, _), group)) in rows.iter().enumerate() {
            taken = taken.saturating_add(group.bytes);
            if number > 0 && taken > bytes_max {
                let behind_ms =
                    i64::try_from(group.modified_s).unwrap_or(0).saturating_add(1) * 1000;
                sample.since_ms = Some(behind_ms + CLOCKS_MS);
                break;
            }
            sample.take(table, group);
        }
        sample
    }

    fn take(&mut self, table: &'a str, group: &Group<'a>) {
        self.chosen += 1;
        self.bytes = self.bytes.saturating_add(group.bytes);
        self.tables.insert(table);
        self.files.extend(&group.files);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::manifest::FileRecord;
    use super::*;

    fn file(path: &str, bytes: u64, modified_s: u64) -> FileRecord {
        FileRecord { path: path.into(), bytes, modified_s, ..FileRecord::default() }
    }

    fn part() -> PartRecord {
        let files = vec![
            file("logs/spans-1/oa-1-big-Data.db", 500, 10),
            file("logs/spans-1/oa-1-big-TOC.txt", 1, 10),
            file("logs/spans-1/manifest.json", 1, 10),
            file("logs/infrastructure_logs-2/oa-1-big-Data.db", 100, 1000),
            file("logs/infrastructure_logs-2/oa-2-big-Data.db", 100, 3000),
            file("logs/infrastructure_logs-2/oa-2-big-Index.db", 5, 9000),
            file("logs/application_logs-3/oa-1-big-Data.db", 100, 2000),
            file("logs/application_logs-3/oa-1-big-SAI+aa+Meta.db", 100, 2000),
            file("logs/application_logs-3/.index/oa-1-big-Data.db", 100, 2000),
        ];
        PartRecord { files, ..PartRecord::default() }
    }

    #[test]
    fn spans_are_loaded_whole_and_of_rows_the_newest_up_to_the_limit() {
        let part = part();
        let whole = Sample::of(&part, 405);
        assert_eq!((whole.chosen, whole.all, whole.bytes, whole.since_ms), (4, 4, 906, None));
        assert!(whole.files.iter().all(|path| !path.contains("manifest")));
        let some = Sample::of(&part, 204);
        assert_eq!((some.chosen, some.all), (2, 4));
        // what was written before the newest of the files that stay behind may be in those
        assert_eq!(some.since_ms, Some(2001 * 1000 + CLOCKS_MS));
        let least = Sample::of(&part, 1);
        assert_eq!(least.files.len(), 4, "one file of rows is always loaded: {least:?}");
    }
}
