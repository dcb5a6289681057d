//! Numbered migrations of the metrics' database, under `sql/`. Each may be repeated; which are
//! done stands in `schema_version`.

use crate::migration::{self, Step};

/// One file below `sql/`.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: &'static str,
    pub(super) text: &'static str,
}

/// Those of MySQL and MariaDB.
pub const MYSQL: [Migration; 2] = [
    Migration {
        version: 1,
        name: "schema_version",
        text: include_str!("../../sql/mysql/0001_schema_version.sql"),
    },
    Migration { version: 2, name: "dora", text: include_str!("../../sql/mysql/0002_dora.sql") },
];

/// Those of SQLite, number by number the same.
pub const SQLITE: [Migration; 2] = [
    Migration {
        version: 1,
        name: "schema_version",
        text: include_str!("../../sql/sqlite/0001_schema_version.sql"),
    },
    Migration { version: 2, name: "dora", text: include_str!("../../sql/sqlite/0002_dora.sql") },
];

/// The version that this program writes.
pub const VERSION: u32 = 2;

/// The tables of that version.
pub const TABLES: [&str; 6] = [
    "schema_version",
    "dora_metrics",
    "dora_deployments",
    "dora_changes",
    "dora_incidents",
    "dora_pdca",
];

impl Migration {
    /// With its statements, without comments.
    #[must_use]
    pub fn step(&self) -> Step {
        let statements = migration::statements(self.text);
        Step { version: self.version, name: self.name, statements }
    }

    /// Whether it makes a table that is not among these.
    pub(super) fn makes_other_than(&self, present: &[String]) -> bool {
        TABLES.iter().any(|table| {
            self.text.contains(&format!("CREATE TABLE IF NOT EXISTS {table} ("))
                && !present.iter().any(|one| one == table)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_databases_have_the_same_migrations_and_every_table_is_made_by_one() {
        for (mysql, sqlite) in MYSQL.iter().zip(&SQLITE) {
            assert_eq!((mysql.version, mysql.name), (sqlite.version, sqlite.name));
        }
        assert_eq!(MYSQL.last().map(|last| last.version), Some(VERSION));
        for all in [MYSQL, SQLITE] {
            for table in TABLES {
                let others: Vec<String> =
                    TABLES.iter().filter(|one| **one != table).map(ToString::to_string).collect();
                let makers = all.iter().filter(|one| one.makes_other_than(&others)).count();
                assert_eq!(makers, 1, "{table}");
            }
        }
    }

    #[test]
    fn a_step_holds_whole_statements_without_comments() {
        let Migration { version, .. } = MYSQL[1];
        let step = MYSQL[1].step();
        assert_eq!(step.version, version);
        assert_eq!(step.statements.len(), 5);
        for statement in step.statements {
            assert!(statement.starts_with("CREATE TABLE IF NOT EXISTS dora_"), "{statement}");
            assert!(statement.ends_with("utf8mb4_bin"), "{statement}");
        }
    }
}
