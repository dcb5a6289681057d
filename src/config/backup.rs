//! `[backup]` and `[[backup.database]]`: what is copied, where to, and for how long.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::keys::Kind::{Bytes, DurationOf, Integer, Options, Path, Text, Texts, Word};
use super::keys::{Key, Kind, Section, example, key};
use super::load::Build;
use super::problem::Place;
use super::settings::Settings;
use super::units;
use super::walk::{Entries, Located};

/// `[backup]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Where archives go.
    pub dir: PathBuf,
    /// How long an archive is kept.
    pub keep: Duration,
    /// Parts that are kept for another time: by the name of a part or of a database.
    pub keep_parts: BTreeMap<String, Duration>,
    /// How archives are compressed.
    pub compression: Compression,
    /// What goes into an archive.
    pub parts: Vec<Part>,
    /// Paths and patterns of further files.
    pub files: Vec<String>,
    /// The command that reaches `nodetool`, with its arguments; Cassandra only.
    pub nodetool: Vec<String>,
    /// The data directories of this node; Cassandra only.
    pub cassandra_data: Vec<PathBuf>,
    /// So many bytes of rows a drill loads, spans besides; Cassandra only.
    pub drill_bytes_max: u64,
    /// `[[backup.database]]`
    pub databases: Vec<Database>,
}

/// `backup.compression`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `.tar.zst`
    Zstd,
    /// `.tar.gz`
    Gzip,
}

/// One of `backup.parts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The DORA database.
    Dora,
    /// The rows: day files and `index.db`, or the keyspace.
    Logs,
    /// `state.db`.
    State,
    /// The configuration.
    Config,
}

/// One `[[backup.database]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// What the part is called.
    pub name: String,
    /// How it is copied.
    pub kind: DatabaseKind,
    /// Name, address or path of a socket; empty for the tool's default.
    pub host: String,
    /// TCP port; 0 for the tool's default.
    pub port: u16,
    /// Which databases of the server; empty for all.
    pub databases: Vec<String>,
    /// User name; empty for the tool's default.
    pub username: String,
    /// File that holds the password on its first line.
    pub password_file: Option<PathBuf>,
    /// The command whose output is the copy, for [`DatabaseKind::Command`].
    pub dump: Vec<String>,
    /// The command that takes the copy on its input, for [`DatabaseKind::Command`].
    pub restore: Vec<String>,
    /// The command that a drill gives the copy to, in place of a scratch database.
    pub drill: Vec<String>,
}

/// `kind` of a `[[backup.database]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    /// `mariadb-dump` or `mysqldump`.
    Mysql,
    /// `pg_dump` or `pg_dumpall`.
    Postgresql,
    /// `mongodump`.
    Mongodb,
    /// Any command.
    Command,
}

const PARTS: [(&str, Part); 4] =
    [("dora", Part::Dora), ("logs", Part::Logs), ("state", Part::State), ("config", Part::Config)];

const AGE: Kind = DurationOf(Duration::from_hours(24), Duration::from_hours(100 * 365 * 24));

pub(super) const SECTION: Section = Section {
    name: "backup",
    repeated: false,
    later: None,
    help: "Backups: `bitacora backup create` (a timer each night), `bitacora restore`.",
    keys: KEYS,
};

const KEYS: &[Key] = &[
    key(
        "dir",
        Path,
        "\"/var/backups/bitacora\"",
        "Directory of the archives. It is made if it is missing.",
    ),
    key("keep", AGE, "\"30d\"", "How long an archive is kept; the last good one always is."),
    key(
        "keep_parts",
        Options,
        "{}",
        "Parts or databases that are kept for another time, such as { shop = \"7d\" }.",
    ),
    key(
        "compression",
        Word(&["zstd", "gzip"]),
        "\"zstd\"",
        "\"zstd\" makes .tar.zst, \"gzip\" .tar.gz.",
    ),
    key(
        "parts",
        Texts,
        "[\"dora\", \"logs\", \"state\", \"config\"]",
        "What goes into an archive besides files and databases.",
    ),
    key(
        "files",
        Texts,
        "[]",
        "Absolute paths and patterns of further files, such as an application's JSON log.",
    ),
    key(
        "nodetool",
        Texts,
        "[\"nodetool\"]",
        "The command that reaches this host's Cassandra node, for its snapshot.",
    ),
    key(
        "cassandra_data",
        Texts,
        "[\"/var/lib/cassandra/data\"]",
        "The data directories of this host's Cassandra node.",
    ),
    key(
        "drill_max",
        Bytes(1, 1 << 50),
        "\"2GiB\"",
        "How much of a Cassandra node's rows a drill loads: all, or so much of the newest.",
    ),
];

pub(super) const DATABASE: Section = Section {
    name: "backup.database",
    repeated: true,
    later: None,
    help: "Further databases that go into the archives. Any number of [[backup.database]] sections.",
    keys: DATABASE_KEYS,
};

const DATABASE_KEYS: &[Key] = &[
    example(
        "name",
        Text,
        "\"shop\"",
        "What its part of the archive is called: letters, digits and . _ -.",
    ),
    example(
        "kind",
        Word(&["mysql", "postgresql", "mongodb", "command"]),
        "\"mysql\"",
        "How it is copied: by mariadb-dump or mysqldump, pg_dump, mongodump, or a command.",
    ),
    key(
        "host",
        Text,
        "\"\"",
        "Name, address, or directory or path of a socket; empty for the tool's default.",
    ),
    key("port", Integer(0, 65_535), "0", "TCP port; 0 for the tool's default."),
    key("databases", Texts, "[]", "Which databases of the server; empty for all."),
    key("username", Text, "\"\"", "User name; empty for the tool's default."),
    example(
        "password_file",
        Path,
        "\"/etc/bitacora/credentials/shop\"",
        "File that holds the password on its first line. It is never put into arguments.",
    ),
    key(
        "dump",
        Texts,
        "[]",
        "For kind \"command\": the command, with its arguments, whose output is kept.",
    ),
    key(
        "restore",
        Texts,
        "[]",
        "For kind \"command\": the command that takes it back on its input.",
    ),
    key(
        "drill",
        Texts,
        "[]",
        "A command that takes the copy on its input in a drill; 0 says that it is good.",
    ),
];

pub(super) fn build(
    build: &mut Build<'_>,
    backup: &Settings,
    databases: Vec<Located<Entries>>,
) -> Backup {
    let mut parts = Vec::new();
    for said in backup.texts("parts") {
        match PARTS.iter().find(|(name, _)| *name == said.value) {
            Some((_, part)) if parts.contains(part) => {
                build.problem(&said.place, format!("part \"{}\" is named twice", said.value));
            }
            Some((_, part)) => parts.push(*part),
            None => {
                let message = format!(
                    "unknown part \"{}\"; there are dora, logs, state and config",
                    said.value
                );
                build.problem(&said.place, message);
            }
        }
    }
    let mut keep_parts = BTreeMap::new();
    for (part, said) in backup.named("keep_parts") {
        match units::duration(said.value) {
            Ok(age) => {
                keep_parts.insert(part.to_owned(), age);
            }
            Err(why) => build.problem(&said.place, format!("{part} {why}")),
        }
    }
    for said in [backup.texts("files"), backup.texts("cassandra_data")].concat() {
        if !said.value.starts_with('/') {
            let message = format!("\"{}\" must be absolute, beginning with /", said.value);
            build.problem(&said.place, message);
        }
    }
    let texts = |key| backup.texts(key).iter().map(|one| one.value.clone()).collect::<Vec<_>>();
    Backup {
        dir: build.path(backup, "dir"),
        keep: backup.duration("keep").unwrap_or_default(),
        keep_parts,
        compression: match backup.text("compression") {
            "gzip" => Compression::Gzip,
            _ => Compression::Zstd,
        },
        parts,
        files: texts("files"),
        nodetool: texts("nodetool"),
        cassandra_data: texts("cassandra_data").into_iter().map(PathBuf::from).collect(),
        drill_bytes_max: backup.bytes("drill_max"),
        databases: all_databases(build, databases),
    }
}

fn all_databases(build: &mut Build<'_>, sections: Vec<Located<Entries>>) -> Vec<Database> {
    let mut all: Vec<Database> = Vec::new();
    for section in sections {
        let settings = Settings::new(DATABASE_KEYS, section.value);
        let Some(one) = database(build, &section.place, &settings) else { continue };
        if all.iter().any(|other| other.name == one.name) {
            let message = format!("database \"{}\" is named twice", one.name);
            build.problem(&section.place, message);
        }
        all.push(one);
    }
    all
}

fn database(build: &mut Build<'_>, header: &Place, settings: &Settings) -> Option<Database> {
    let name = settings.text("name");
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    // it is the name of a directory in the archive
    let reserved = PARTS.iter().any(|(part, _)| *part == name) || name == "files";
    let reserved = reserved || name.starts_with('.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(allowed) || reserved {
        if !settings.wrong("name") {
            let message = "[[backup.database]] needs name: 1 to 64 letters, digits and . _ -, no . \
                           first, and not the name of a part";
            build.problem(header, message);
        }
        return None;
    }
    let kind = match settings.text("kind") {
        "mysql" => DatabaseKind::Mysql,
        "postgresql" => DatabaseKind::Postgresql,
        "mongodb" => DatabaseKind::Mongodb,
        "command" => DatabaseKind::Command,
        _ => {
            if !settings.wrong("kind") {
                build.problem(header, "[[backup.database]] needs kind");
            }
            return None;
        }
    };
    let texts = |key| settings.texts(key).iter().map(|one| one.value.clone()).collect::<Vec<_>>();
    if (kind == DatabaseKind::Command) == settings.texts("dump").is_empty() {
        build.problem(header, "kind \"command\" needs dump, and no other kind takes it");
    }
    Some(Database {
        name: name.to_owned(),
        kind,
        host: settings.text("host").to_owned(),
        port: u16::try_from(settings.integer("port")).unwrap_or_default(),
        databases: texts("databases"),
        username: settings.text("username").to_owned(),
        password_file: settings.path("password_file"),
        dump: texts("dump"),
        restore: texts("restore"),
        drill: texts("drill"),
    })
}
