//! Sections whose work belongs to later releases: checked for keys and types, so that a
//! configuration can be prepared, and named as having no effect, so that nobody relies on them.

use std::time::Duration;

use super::keys::{Key, Kind, Section};

const fn key(name: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { name, kind, default, example: "", help: "" }
}

const fn section(name: &'static str, later: &'static str, keys: &'static [Key]) -> Section {
    Section { name, repeated: false, later: Some(later), help: "", keys }
}

const SECOND: Duration = Duration::from_secs(1);
const CENTURY: Duration = Duration::from_hours(100 * 365 * 24);
const AGE: Kind = Kind::DurationOf(SECOND, CENTURY);

/// All of them.
pub const LATER: &[Section] = &[
    section(
        "redact",
        "this release masks nothing: secrets in log lines are stored as they stand",
        &[key("rules", Kind::Texts, "[\"default\"]")],
    ),
    section(
        "dora",
        "this release keeps no DORA metrics",
        &[
            key("kind", Kind::Word(&["sqlite", "mysql"]), "\"sqlite\""),
            key("sqlite", Kind::Path, "\"/var/lib/bitacora/dora.db\""),
            key(
                "mysql",
                Kind::Table(&[
                    key("host", Kind::Text, "\"127.0.0.1\""),
                    key("port", Kind::Integer(1, 65_535), "3306"),
                    key("database", Kind::Text, "\"bitacora\""),
                    key("username", Kind::Text, ""),
                    key("password_file", Kind::Path, ""),
                ]),
                "",
            ),
        ],
    ),
    section(
        "retention",
        "this release removes nothing by itself; in Cassandra rows end by store.cassandra.ttl",
        &[
            key("application", AGE, "\"90d\""),
            key("infrastructure", AGE, "\"90d\""),
            key("user_events", AGE, "\"90d\""),
            key("health_checks", AGE, "\"30d\""),
        ],
    ),
    section(
        "backup",
        "this release makes no backups",
        &[
            key("dir", Kind::Path, "\"/var/backups/bitacora\""),
            key("keep", AGE, "\"30d\""),
            key("parts", Kind::Texts, "[\"dora\", \"logs\", \"state\", \"config\"]"),
            key("files", Kind::Texts, "[]"),
            key("database", Kind::Anything, ""),
        ],
    ),
    section(
        "alerts",
        "this release sends no alerts",
        &[
            key(
                "errors",
                Kind::Table(&[
                    key("per", AGE, "\"5m\""),
                    key("above", Kind::Integer(0, i64::MAX), "10"),
                ]),
                "",
            ),
            key("slack", Kind::Anything, ""),
            key("email", Kind::Anything, ""),
            key("log", Kind::Anything, ""),
            key("command", Kind::Anything, ""),
        ],
    ),
];
