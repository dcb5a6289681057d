//! Where each part belongs on this host, whether that place is empty, and how it is filled.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::BackupError;
use super::super::manifest::PartRecord;
use super::super::names::{Scratch, unescaped};
use super::super::parts::{cassandra, logs, mongodb, mysql, postgresql, tool};
use super::{make_dir, put};
use crate::config::{Config, Database, DatabaseKind, DoraKind, StoreKind};
use crate::durable::own_like;
use crate::stores::open;

/// See the module.
#[derive(Debug, Clone)]
pub enum Place {
    /// A directory of day files.
    Logs(PathBuf),
    /// One `SQLite` file.
    Sqlite(PathBuf),
    /// A database of the delivery metrics.
    Dora(mysql::Server, String),
    /// A server of `[[backup.database]]`.
    Server(Database),
    /// The keyspace.
    Cassandra(String),
    /// Paths of `[backup] files`.
    Files,
    /// Beside each other below a directory, as they stand in the archive.
    Below(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Logs(path) | Self::Sqlite(path) | Self::Below(path) => {
                write!(f, "{}", path.display())
            }
            Self::Dora(_, database) => write!(f, "database {database}"),
            Self::Server(database) => write!(f, "server of database {}", database.name),
            Self::Cassandra(keyspace) => write!(f, "keyspace {keyspace}"),
            Self::Files => write!(f, "the files' own paths"),
        }
    }
}

fn refused<T>(text: String) -> Result<T, BackupError> {
    Err(BackupError::Refused(text))
}

impl Place {
    /// The place of a part by this host's configuration.
    pub fn of(part: &PartRecord, config: &Config) -> Result<Self, BackupError> {
        let other = |here: &str| {
            refused(format!(
                "part {} was made from {}, and this host's configuration has {here}: say --to DIR \
                 to unpack it",
                part.name, part.kind
            ))
        };
        match (part.name.as_str(), part.kind.as_str()) {
            ("dora", kind) => match (&config.dora.kind, &config.dora.mysql, kind) {
                (DoraKind::Sqlite, _, "sqlite") => Ok(Self::Sqlite(config.dora.sqlite.clone())),
                (DoraKind::Mysql, Some(server), "mysql") => {
                    Ok(Self::Dora(mysql::Server::of_dora(server), server.database.clone()))
                }
                _ => other("another dora.kind"),
            },
            ("logs", kind) => match (&config.store.kind, kind) {
                (_, "null") | (StoreKind::Sqlite, "sqlite") => {
                    Ok(Self::Logs(config.store.sqlite.dir.clone()))
                }
                (StoreKind::Cassandra, "cassandra") => {
                    Ok(Self::Cassandra(config.store.cassandra.keyspace.clone()))
                }
                _ => other("another store.kind"),
            },
            ("state", _) => {
                Ok(Self::Sqlite(config.daemon.state_dir.join(crate::state::STATE_FILE)))
            }
            ("files", _) => Ok(Self::Files),
            ("config", _) => refused(
                "part config is only unpacked, as it decides where everything else goes: say \
                 --to DIR"
                    .into(),
            ),
            (name, _) => match config.backup.databases.iter().find(|one| one.name == name) {
                Some(database) => Ok(Self::Server(database.clone())),
                None => other("no [[backup.database]] of that name"),
            },
        }
    }

    /// Whether the daemon must not run meanwhile.
    pub const fn needs_quiet(&self) -> bool {
        matches!(self, Self::Logs(_) | Self::Sqlite(_) | Self::Cassandra(_))
    }

    /// Where its files are unpacked: on the same file system, where they only change their names.
    pub fn unpack_in(&self, config: &Config) -> PathBuf {
        match self {
            Self::Logs(dir) | Self::Below(dir) => dir.clone(),
            Self::Sqlite(path) => path.parent().unwrap_or(Path::new("/")).to_owned(),
            // the node's own process takes them
            Self::Cassandra(_) => {
                config.backup.cassandra_data.first().unwrap_or(&config.backup.dir).clone()
            }
            Self::Dora(..) | Self::Server(_) | Self::Files => config.backup.dir.clone(),
        }
    }

    /// Refuses a place where something is.
    pub fn is_empty(&self, part: &PartRecord, config: &Config) -> Result<(), BackupError> {
        let taken = |what: String| {
            refused(format!("{what} is there already: say --overwrite to replace it"))
        };
        match self {
            Self::Logs(dir) => match log_files(dir)?.first() {
                Some(file) => taken(file.display().to_string()),
                None => Ok(()),
            },
            Self::Sqlite(path) if path.exists() => taken(path.display().to_string()),
            Self::Below(dir) if dir.join(&part.name).exists() => {
                taken(dir.join(&part.name).display().to_string())
            }
            Self::Sqlite(_) | Self::Below(_) => Ok(()),
            Self::Dora(server, database) => {
                in_scratch(config, |scratch| match server.tables(scratch, database)? {
                    0 => Ok(()),
                    tables => taken(format!("database {database} with {tables} tables")),
                })
            }
            Self::Server(database) => server_is_empty(database, part, config),
            Self::Cassandra(keyspace) => {
                if origins(config)? > 0 {
                    return taken(format!("keyspace {keyspace} with rows"));
                }
                Ok(())
            }
            Self::Files => {
                for (_, path) in own_paths(part, config)? {
                    if path.exists() {
                        return taken(path.display().to_string());
                    }
                }
                Ok(())
            }
        }
    }

    /// Puts the unpacked files of a part into their place.
    pub fn take(
        &self,
        part: &PartRecord,
        scratch: &Scratch,
        config: &Config,
        overwrite: bool,
    ) -> Result<(), BackupError> {
        match self {
            Self::Logs(dir) => {
                for old in log_files(dir)? {
                    remove_database(&old)?;
                }
                for file in &part.files {
                    let name = file.path.strip_prefix("logs/").unwrap_or(&file.path);
                    put(&scratch.path(&file.path), &dir.join(name))?;
                }
                Ok(())
            }
            Self::Sqlite(path) => {
                let Some(file) = part.files.first() else { return Ok(()) };
                remove_database(path)?;
                put(&scratch.path(&file.path), path)
            }
            Self::Below(dir) => {
                let to = dir.join(&part.name);
                if overwrite && to.exists() {
                    fs::remove_dir_all(&to).map_err(|source| BackupError::write(&to, source))?;
                }
                part.files
                    .iter()
                    .try_for_each(|file| put(&scratch.path(&file.path), &dir.join(&file.path)))
            }
            Self::Dora(server, database) => part.files.iter().try_for_each(|file| {
                load_mysql(server, scratch, database, &scratch.path(&file.path))
            }),
            Self::Server(database) => load_server(database, part, scratch, overwrite),
            Self::Cassandra(keyspace) => import(part, scratch, config, keyspace),
            Self::Files => {
                for (inside, path) in own_paths(part, config)? {
                    put(&scratch.path(&inside), &path)?;
                }
                Ok(())
            }
        }
    }
}

fn in_scratch<T>(
    config: &Config,
    work: impl FnOnce(&Scratch) -> Result<T, BackupError>,
) -> Result<T, BackupError> {
    make_dir(&config.backup.dir)?;
    work(&Scratch::new(&config.backup.dir)?)
}

/// The files of the `SQLite` store.
fn log_files(dir: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let failed = |source| BackupError::read(dir, source);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "index.db" || logs::day_of(name).is_some() {
            files.push(path);
        }
    }
    Ok(files)
}

/// A database file goes with its logs, or they would be played into the one that comes.
fn remove_database(path: &Path) -> Result<(), BackupError> {
    for ending in ["-wal", "-shm", "-journal", ""] {
        let mut file = path.as_os_str().to_owned();
        file.push(ending);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(BackupError::write(Path::new(&file), error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The own path of each file of part `files`; only those that this host's configuration names, as
/// an archive must not choose which files are written here.
fn own_paths(part: &PartRecord, config: &Config) -> Result<Vec<(String, PathBuf)>, BackupError> {
    let patterns: Vec<_> =
        config.backup.files.iter().filter_map(|one| glob::Pattern::new(one).ok()).collect();
    let mut paths = Vec::new();
    for file in &part.files {
        let path = file.path.strip_prefix("files").and_then(unescaped).unwrap_or_default();
        let normal =
            path.components().skip(1).all(|one| matches!(one, std::path::Component::Normal(_)));
        let named = patterns.iter().any(|pattern| pattern.matches_path(&path));
        if !(path.is_absolute() && normal && named) {
            return refused(format!(
                "{} is not named by [backup] files of this host: say --to DIR to unpack it",
                path.display()
            ));
        }
        paths.push((file.path.clone(), path));
    }
    Ok(paths)
}

/// The database of a file such as `shop/orders.sql`.
fn database_of(path: &str) -> Option<String> {
    let name = path.rsplit('/').next()?;
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    Some(unescaped(stem)?.to_string_lossy().into_owned())
}

const PG_TABLES: &str = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = \
     c.relnamespace WHERE c.relkind IN ('r','p','v','m','S') AND n.nspname !~ '^pg_' AND n.nspname \
     <> 'information_schema'";

fn server_is_empty(
    database: &Database,
    part: &PartRecord,
    config: &Config,
) -> Result<(), BackupError> {
    let taken = |name: &str| {
        refused(format!("database {name} of {} is not empty: say --overwrite", part.name))
    };
    in_scratch(config, |scratch| {
        for file in &part.files {
            let name = database_of(&file.path).unwrap_or_default();
            match database.kind {
                DatabaseKind::Mysql => {
                    if mysql::Server::of(database).tables(scratch, &name)? > 0 {
                        return taken(&name);
                    }
                }
                DatabaseKind::Postgresql => {
                    let there = pg_databases(database, scratch)?;
                    if file.path.ends_with("/all.sql") {
                        if let Some(one) = there.iter().find(|name| *name != "postgres") {
                            return taken(one);
                        }
                    } else if there.contains(&name)
                        && postgresql::ask(database, scratch, &name, PG_TABLES)?.trim() != "0"
                    {
                        return taken(&name);
                    }
                }
                // without --drop nothing that is there is replaced; a command is the site's own
                DatabaseKind::Mongodb | DatabaseKind::Command => {}
            }
        }
        Ok(())
    })
}

fn pg_databases(database: &Database, scratch: &Scratch) -> Result<Vec<String>, BackupError> {
    let sql = "SELECT datname FROM pg_database WHERE NOT datistemplate";
    let all = postgresql::ask(database, scratch, "postgres", sql)?;
    Ok(all.lines().map(str::to_owned).collect())
}

fn load_mysql(
    server: &mysql::Server,
    scratch: &Scratch,
    database: &str,
    dump: &Path,
) -> Result<(), BackupError> {
    let name = mysql::name(database);
    server.ask(scratch, &format!("CREATE DATABASE IF NOT EXISTS {name}"))?;
    server.load(scratch, Some(database), dump)
}

fn load_server(
    database: &Database,
    part: &PartRecord,
    scratch: &Scratch,
    overwrite: bool,
) -> Result<(), BackupError> {
    for file in &part.files {
        let path = scratch.path(&file.path);
        let name = database_of(&file.path).unwrap_or_default();
        match database.kind {
            DatabaseKind::Mysql => {
                load_mysql(&mysql::Server::of(database), scratch, &name, &path)?;
            }
            DatabaseKind::Postgresql if file.path.ends_with("/all.sql") => {
                let mut command = postgresql::command("psql", database, scratch)?;
                command.args(["--no-psqlrc", "--quiet", "--dbname=postgres"]);
                tool::feed("psql", &mut command, &path)?;
            }
            DatabaseKind::Postgresql => {
                if !pg_databases(database, scratch)?.contains(&name) {
                    let mut command = postgresql::command("createdb", database, scratch)?;
                    tool::ask("createdb", command.arg("--").arg(&name))?;
                }
                load_postgresql(database, scratch, &name, &path, overwrite)?;
            }
            DatabaseKind::Mongodb => {
                let mut command = mongodb::command("mongorestore", database, scratch)?;
                command.args(["--archive", "--quiet", "--stopOnError"]);
                if overwrite {
                    command.arg("--drop");
                }
                tool::feed("mongorestore", &mut command, &path)?;
            }
            DatabaseKind::Command if database.restore.is_empty() => {
                return refused(format!(
                    "database {} has no restore command: say --to DIR to unpack it",
                    database.name
                ));
            }
            DatabaseKind::Command => {
                let (program, mut command) = tool::split(&database.restore)?;
                tool::feed(&program, &mut command, &path)?;
            }
        }
    }
    Ok(())
}

/// Loads a dump into a database that is there.
pub fn load_postgresql(
    database: &Database,
    scratch: &Scratch,
    name: &str,
    dump: &Path,
    clean: bool,
) -> Result<(), BackupError> {
    let mut command = postgresql::command("pg_restore", database, scratch)?;
    command.args(["--exit-on-error", "--single-transaction", "--dbname", name]);
    if clean {
        command.args(["--clean", "--if-exists"]);
    }
    tool::feed("pg_restore", &mut command, dump)
}

fn origins(config: &Config) -> Result<usize, BackupError> {
    let failed = |error: String| BackupError::Source(format!("store: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.to_string()))?;
    runtime.block_on(async {
        let reader = open::reader(&config.store).map_err(|error| failed(error.to_string()))?;
        let origins = reader.origins(None).await.map_err(|error| failed(error.to_string()))?;
        Ok(origins.len())
    })
}

/// Lets this host's node take the files of each table, whose schema must be there.
fn import(
    part: &PartRecord,
    scratch: &Scratch,
    config: &Config,
    keyspace: &str,
) -> Result<(), BackupError> {
    let data = config.backup.cassandra_data.first().cloned().unwrap_or_default();
    let failed = |source| BackupError::write(scratch.dir(), source);
    let tables = scratch.path("logs");
    let mut folders = vec![scratch.dir().to_owned(), tables.clone()];
    let mut names = std::collections::BTreeSet::new();
    for file in &part.files {
        let path = scratch.path(&file.path);
        own_like(&data, &path).map_err(failed)?;
        folders.extend(path.parent().map(Path::to_owned));
        names.extend(file.path.split('/').nth(1).map(str::to_owned));
    }
    for folder in &folders {
        own_like(&data, folder).map_err(failed)?;
    }
    for name in names {
        let table = name.rsplit_once('-').map_or(name.as_str(), |(table, _)| table);
        // the version of the tables that are there says which they are, and is not replaced
        let dir = tables.join(&name);
        for extra in ["manifest.json", "schema.cql"] {
            drop(fs::remove_file(dir.join(extra)));
        }
        let dir = dir.to_string_lossy();
        cassandra::nodetool(config, &["import", "--copy-data", "--", keyspace, table, &dir])?;
    }
    Ok(())
}
