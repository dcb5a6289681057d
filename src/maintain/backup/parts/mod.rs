//! What goes into an archive, part by part.

use std::path::Path;

use super::BackupError;
use super::archive::Frame;
use super::manifest::PartRecord;
use super::names::Scratch;
use crate::config::{Backup, Config, Database, DatabaseKind, DoraKind, Part, StoreKind};

pub mod cassandra;
pub mod configuration;
pub mod counting;
pub mod files;
pub mod logs;
pub mod mongodb;
pub mod mysql;
pub mod postgresql;
pub mod sqlite;
pub mod tool;

/// How the names of scratch databases begin.
pub const SCRATCH: &str = "bitacora_drill_";

/// A part while it is made.
pub struct Making<'a, 'b> {
    /// Where its files go.
    pub frame: &'a mut Frame<'b>,
    /// A directory for copies and dumps, removed afterwards.
    pub scratch: &'a Scratch,
    /// What the manifest will say.
    pub record: &'a mut PartRecord,
}

impl Making<'_, '_> {
    /// Something that whoever restores this should know.
    pub fn note(&mut self, note: impl Into<String>) {
        self.record.notes.push(note.into());
    }

    /// Something that tells this part from others of its kind.
    pub fn detail(&mut self, name: &str, value: impl Into<String>) {
        self.record.details.insert(name.to_owned(), value.into());
    }
}

/// One part that is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Wanted<'a> {
    /// One of ours.
    Own(Part),
    /// `backup.files`
    Files,
    /// `[[backup.database]]`
    Database(&'a Database),
}

impl<'a> Wanted<'a> {
    /// All that the configuration asks for, in the order of an archive: the state after the
    /// rows, as its reaches must lie behind them.
    pub fn all(backup: &'a Backup) -> Vec<Self> {
        let own = [Part::Dora, Part::Logs, Part::State, Part::Config];
        let own = own.into_iter().filter(|part| backup.parts.contains(part)).map(Self::Own);
        let files = (!backup.files.is_empty()).then_some(Self::Files);
        own.chain(files).chain(backup.databases.iter().map(Self::Database)).collect()
    }

    /// Its name in the archive.
    pub fn name(&self) -> &'a str {
        match self {
            Self::Own(Part::Dora) => "dora",
            Self::Own(Part::Logs) => "logs",
            Self::Own(Part::State) => "state",
            Self::Own(Part::Config) => "config",
            Self::Files => "files",
            Self::Database(database) => &database.name,
        }
    }

    /// How it is made.
    pub const fn kind(&self, config: &Config) -> &'static str {
        match self {
            Self::Own(Part::Dora) => match config.dora.kind {
                DoraKind::Sqlite => "sqlite",
                DoraKind::Mysql => "mysql",
            },
            Self::Own(Part::Logs) => match config.store.kind {
                StoreKind::Sqlite => "sqlite",
                StoreKind::Cassandra => "cassandra",
                StoreKind::Null => "null",
            },
            Self::Own(Part::State) => "sqlite",
            Self::Own(Part::Config) | Self::Files => "files",
            Self::Database(database) => match database.kind {
                DatabaseKind::Mysql => "mysql",
                DatabaseKind::Postgresql => "postgresql",
                DatabaseKind::Mongodb => "mongodb",
                DatabaseKind::Command => "command",
            },
        }
    }

    /// Copies it.
    pub fn copy(
        &self,
        making: &mut Making<'_, '_>,
        config: &Config,
        config_path: &Path,
    ) -> Result<(), BackupError> {
        match self {
            Self::Own(Part::Dora) => dora(making, config),
            Self::Own(Part::Logs) => match config.store.kind {
                StoreKind::Sqlite => logs::copy(making, &config.store.sqlite.dir),
                StoreKind::Cassandra => cassandra::copy(making, config),
                StoreKind::Null => {
                    making.note("the store is \"null\": there are no rows");
                    Ok(())
                }
            },
            Self::Own(Part::State) => {
                making
                    .note("the socket's spool is not part of it: it empties itself within seconds");
                let path = config.daemon.state_dir.join(crate::state::STATE_FILE);
                if !path.exists() {
                    return Err(BackupError::Source(format!(
                        "there is no {}: the daemon makes it; on a host without a daemon leave \
                         \"state\" out of [backup] parts",
                        path.display()
                    )));
                }
                sqlite::copy(making, &path, "state/state.db")
            }
            Self::Own(Part::Config) => configuration::copy(making, config_path),
            Self::Files => {
                files::copy(making, &config.backup.files, &configuration::secrets(config))
            }
            Self::Database(database) => match database.kind {
                DatabaseKind::Mysql => {
                    mysql::copy_databases(making, &mysql::Server::of(database), &database.databases)
                }
                DatabaseKind::Postgresql => postgresql::copy(making, database),
                DatabaseKind::Mongodb => mongodb::copy(making, database),
                DatabaseKind::Command => tool::copy(making, &database.dump),
            },
        }
    }
}

fn dora(making: &mut Making<'_, '_>, config: &Config) -> Result<(), BackupError> {
    match (&config.dora.kind, &config.dora.mysql) {
        (DoraKind::Mysql, Some(server)) => {
            making.detail("database", &server.database);
            mysql::copy_one(
                making,
                &mysql::Server::of_dora(server),
                &server.database,
                "dora/dump.sql",
            )
        }
        _ if config.dora.sqlite.exists() => {
            sqlite::copy(making, &config.dora.sqlite, "dora/dora.db")
        }
        _ => {
            making.note(format!(
                "there is no {}: nothing was measured yet",
                config.dora.sqlite.display()
            ));
            Ok(())
        }
    }
}
