//! Stored rows, found by the numbers that their lines carry, and the comparison with a ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

/// Number of a line -> how many rows hold it.
pub type Rows = BTreeMap<u64, u32>;

/// The numbers in a text: `ln00000123x` is 123. Each once, as a field may repeat the message.
pub fn numbers(text: &str) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("ln") {
        let digits = text.get(at + 2..at + 10).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        if let Some(digits) = digits
            && text.as_bytes().get(at + 10) == Some(&b'x')
        {
            found.insert(digits.parse().unwrap());
        }
    }
    found
}

fn count(rows: &mut Rows, text: &str) {
    for number in numbers(text) {
        *rows.entry(number).or_default() += 1;
    }
}

/// The day files of a store, oldest first.
pub fn day_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.ends_with(".db") && name.starts_with(|c: char| c.is_ascii_digit())
    });
    files.sort();
    files
}

/// All rows of the day files. Read with SQLite and not with the program under test, so that a
/// fault of the program's reader cannot hide one of its writer.
pub fn of_sqlite(dir: &Path) -> Rows {
    let mut read = None;
    // A file that is being made, or that changes its journal mode, cannot be read for a moment.
    let readable = super::within(Duration::from_secs(5), || {
        let rows = read.insert(try_sqlite(dir));
        rows.is_ok()
    });
    match read {
        Some(Ok(rows)) if readable => rows,
        other => panic!("cannot read the day files of {}: {other:?}", dir.display()),
    }
}

fn try_sqlite(dir: &Path) -> rusqlite::Result<Rows> {
    let mut rows = Rows::new();
    for file in day_files(dir) {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(&file, flags)?;
        database.busy_timeout(Duration::from_secs(5))?;
        for table in tables(&database)? {
            visit(&database, &table, |text| count(&mut rows, text))?;
        }
    }
    Ok(rows)
}

/// The tables of rows that are there.
pub fn tables(database: &Connection) -> rusqlite::Result<Vec<String>> {
    database
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%\\_logs' ESCAPE '\\'")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Calls with all the text of each row.
fn visit(database: &Connection, table: &str, mut each: impl FnMut(&str)) -> rusqlite::Result<()> {
    let mut statement = database.prepare(&format!("SELECT * FROM {table}"))?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut text = String::new();
        for column in 0..columns {
            if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = row.get_ref(column)? {
                text.push_str(&String::from_utf8_lossy(bytes));
                text.push(' ');
            }
        }
        each(&text);
    }
    Ok(())
}

/// All rows that `logs -o json` printed, one a line.
pub fn of_json(output: &Output) -> Rows {
    let mut rows = Rows::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        count(&mut rows, line);
    }
    rows
}

/// What a store must and may hold.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Lines that were written whole, and that nothing took away before they could be read.
    pub must: BTreeSet<u64>,
    /// Lines that were taken away by the rotation itself, perhaps before they could be read.
    pub may: BTreeSet<u64>,
}

impl Expected {
    pub fn add(&mut self, other: &Self) {
        self.must.extend(&other.must);
        self.may.extend(&other.may);
    }

    /// Whether every line that must be there is.
    pub fn all_in(&self, rows: &Rows) -> bool {
        self.must.iter().all(|number| rows.contains_key(number))
    }

    /// What is wrong, in words.
    pub fn compare(&self, rows: &Rows) -> Result<(), String> {
        let lost: Vec<_> = self.must.iter().filter(|number| !rows.contains_key(number)).collect();
        let twice: Vec<_> = rows.iter().filter(|(_, times)| **times > 1).collect();
        let strange: Vec<_> = rows
            .keys()
            .filter(|number| !self.must.contains(number) && !self.may.contains(number))
            .collect();
        if lost.is_empty() && twice.is_empty() && strange.is_empty() {
            return Ok(());
        }
        Err(format!(
            "of {} lines: lost {} {}, duplicated {} {}, never written {} {}",
            self.must.len(),
            lost.len(),
            some(&lost),
            twice.len(),
            some(&twice),
            strange.len(),
            some(&strange)
        ))
    }
}

fn some<T: std::fmt::Debug>(list: &[T]) -> String {
    format!("{:?}{}", &list[..list.len().min(12)], if list.len() > 12 { "…" } else { "" })
}
