//! `[dora]`: where the delivery metrics are kept.

use std::path::PathBuf;

use super::keys::Kind::{Integer, Path, Table, Text, Word};
use super::keys::{Key, Section, example, key};
use super::load::Build;
use super::settings::Settings;

/// `[dora]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dora {
    /// Which database.
    pub kind: DoraKind,
    /// The `SQLite` file.
    pub sqlite: PathBuf,
    /// The server, if it is said.
    pub mysql: Option<Mysql>,
}

/// `dora.kind`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoraKind {
    /// A file of our own.
    Sqlite,
    /// `MySQL` 8 or `MariaDB`.
    Mysql,
}

/// `dora.mysql`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mysql {
    /// Name or address; a path that begins with / is a Unix socket.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The database.
    pub database: String,
    /// Who we are.
    pub username: String,
    /// File that holds the password on its first line.
    pub password_file: Option<PathBuf>,
    /// Authorities to trust: TLS is used when it is set.
    pub ca_file: Option<PathBuf>,
}

pub(super) const SECTION: Section = Section {
    name: "dora",
    repeated: false,
    later: None,
    help: "Delivery metrics (`bitacora dora`), kept for ever.",
    keys: KEYS,
};

const KEYS: &[Key] = &[
    key(
        "kind",
        Word(&["sqlite", "mysql"]),
        "\"sqlite\"",
        "\"sqlite\", or \"mysql\" for MySQL 8 or MariaDB; then run `bitacora schema apply` once.",
    ),
    key("sqlite", Path, "\"/var/lib/bitacora/dora.db\"", "The file, if kind is \"sqlite\"."),
    example(
        "mysql",
        Table(MYSQL),
        "{ host = \"127.0.0.1\", database = \"bitacora\", username = \"bitacora\", password_file = \"/etc/bitacora/credentials/mysql\" }",
        "The server, if kind is \"mysql\": host (or the path of its socket), port, database, username, password_file, and ca_file for TLS.",
    ),
];

const MYSQL: &[Key] = &[
    key("host", Text, "\"127.0.0.1\"", "Name, address, or the path of a Unix socket."),
    key("port", Integer(1, 65_535), "3306", "TCP port."),
    key("database", Text, "\"bitacora\"", "The database."),
    key("username", Text, "\"bitacora\"", "User name."),
    example(
        "password_file",
        Path,
        "\"/etc/bitacora/credentials/mysql\"",
        "File that holds the password on its first line.",
    ),
    example("ca_file", Path, "\"/etc/bitacora/ca.pem\"", "Authorities to trust, for TLS."),
];

pub(super) fn build(build: &mut Build<'_>, dora: &Settings) -> Dora {
    let kind = if dora.text("kind") == "mysql" { DoraKind::Mysql } else { DoraKind::Sqlite };
    let mysql = dora.table("mysql", MYSQL).map(|(mysql, place)| {
        for name in ["host", "database", "username"] {
            if mysql.text(name).is_empty() && !mysql.wrong(name) {
                build.problem(place, format!("mysql needs {name}"));
            }
        }
        Mysql {
            host: mysql.text("host").to_owned(),
            port: u16::try_from(mysql.integer("port")).unwrap_or_default(),
            database: mysql.text("database").to_owned(),
            username: mysql.text("username").to_owned(),
            password_file: mysql.path("password_file"),
            ca_file: mysql.path("ca_file"),
        }
    });
    if let Some(said) = dora.said("kind")
        && kind == DoraKind::Mysql
        && mysql.is_none()
        && !dora.wrong("mysql")
    {
        build.problem(
            &said.place,
            "kind \"mysql\" needs mysql = { host = …, database = … } beside it",
        );
    }
    Dora { kind, sqlite: build.path(dora, "sqlite"), mysql }
}
