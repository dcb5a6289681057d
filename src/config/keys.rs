//! The one table of everything a configuration may say. The walk checks against it, defaults are
//! read from it, and `etc/bitacora.toml`, `docs/configuration.md` and the manual are printed from
//! it.

use std::time::Duration;

use Kind::{Bytes, DurationOf, Integer, Options, Path, Table, Text, Texts, Ttl, Word};

pub use super::later::LATER;
use super::{alerts, backup, dora, retention};

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// An absolute path, or an empty text.
    Path,
    /// A whole number between these, both included.
    Integer(i64, i64),
    /// A size between these.
    Bytes(u64, u64),
    /// A duration between these.
    DurationOf(Duration, Duration),
    /// A duration up to this one, or an empty text for "for ever".
    Ttl(Duration),
    /// A list of texts.
    Texts,
    /// A table of texts under any names.
    Options,
    /// A table of these keys.
    Table(&'static [Key]),
    /// `true` or `false`.
    Switch,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name in its section.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// The default as TOML; empty if there is none.
    pub default: &'static str,
    /// A value to show where the default shows nothing; may be empty.
    pub example: &'static str,
    /// What it says, in sentences for an operator.
    pub help: &'static str,
}

/// One section.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its name, such as `store.sqlite`.
    pub name: &'static str,
    /// Whether it is an array of tables.
    pub repeated: bool,
    /// What does not happen in this release if it is set; `None` where everything does.
    pub later: Option<&'static str>,
    /// What it is for.
    pub help: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

pub(super) const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Key {
    Key { name, kind, default, example: "", help }
}

pub(super) const fn example(
    name: &'static str,
    kind: Kind,
    example: &'static str,
    help: &'static str,
) -> Key {
    Key { name, kind, default: "", example, help }
}

pub(super) const fn millis(from: u64, to: u64) -> Kind {
    DurationOf(Duration::from_millis(from), Duration::from_millis(to))
}

pub(super) const HOUR_MS: u64 = 3_600_000;

/// Cassandra takes no longer time to live than 20 years.
const TTL_MAX: Duration = Duration::from_hours(20 * 365 * 24);

/// Consistency levels that make an acknowledged write durable and can be read as well.
pub const CONSISTENCIES: &[&str] =
    &["one", "local_one", "two", "three", "quorum", "local_quorum", "each_quorum", "all"];

/// The sections whose work this release does, in the order in which they are shown.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "daemon",
        repeated: false,
        later: None,
        help: "The daemon itself.",
        keys: DAEMON,
    },
    Section {
        name: "store",
        repeated: false,
        later: None,
        help: "Where rows go, and in what portions.",
        keys: STORE,
    },
    Section {
        name: "store.sqlite",
        repeated: false,
        later: None,
        help: "The embedded store: one file a day, no server.",
        keys: SQLITE,
    },
    Section {
        name: "store.cassandra",
        repeated: false,
        later: None,
        help: "Apache Cassandra or ScyllaDB. Run `bitacora schema apply` once before the first start.",
        keys: CASSANDRA,
    },
    Section {
        name: "files",
        repeated: true,
        later: None,
        help: "Files to follow. Any number of [[files]] sections; each is one source.",
        keys: FILES,
    },
    Section {
        name: "socket",
        repeated: false,
        later: None,
        help: "Where applications write their records; docs/protocol.md says how.",
        keys: SOCKET,
    },
    dora::SECTION,
    retention::SECTION,
    backup::SECTION,
    backup::DATABASE,
    alerts::SECTION,
    alerts::RULE,
];

const DAEMON: &[Key] = &[
    key(
        "state_dir",
        Path,
        "\"/var/lib/bitacora\"",
        "Directory of state.db, its lock and the control socket. It is made if it is missing.",
    ),
    key(
        "control",
        Path,
        "\"\"",
        "Control socket for status and reload, mode 0600; empty for control.sock in state_dir.",
    ),
    key(
        "http",
        Text,
        "\"127.0.0.1:9598\"",
        "Address of /metrics, /live and /ready; empty switches them off.",
    ),
    key("host", Text, "\"\"", "What the column host says; empty for the machine's name."),
    key(
        "shutdown_timeout",
        millis(100, HOUR_MS),
        "\"10s\"",
        "How long a stop may wait for the store. What was not acknowledged by then is read again at the next start.",
    ),
    key(
        "log",
        Word(&["error", "warn", "info", "debug", "trace"]),
        "\"info\"",
        "How much the daemon says on stderr, or to the journal. BITACORA_LOG in its environment goes before it.",
    ),
];

const STORE: &[Key] = &[
    key(
        "kind",
        Word(&["sqlite", "cassandra", "null"]),
        "\"sqlite\"",
        "\"sqlite\", \"cassandra\", or \"null\", which counts and forgets: for measuring.",
    ),
    key("batch_rows", Integer(1, 10_000), "1000", "Rows in a full batch."),
    key(
        "batch_age",
        millis(1, 60_000),
        "\"1s\"",
        "Oldest age of a batch that is not full. Batches go sooner when nothing is queued.",
    ),
];

const SQLITE: &[Key] = &[key(
    "dir",
    Path,
    "\"/var/lib/bitacora/logs\"",
    "Directory of index.db and of the files of the days. It is made if it is missing.",
)];

const CASSANDRA: &[Key] = &[
    key(
        "nodes",
        Texts,
        "[\"127.0.0.1:9042\"]",
        "Contact points, host:port; port 9042 if none is given. The other nodes are found from these.",
    ),
    key("keyspace", Text, "\"logging\"", "The keyspace."),
    key("datacenter", Text, "\"datacenter1\"", "The datacenter that is local to this machine."),
    key(
        "replication",
        Integer(1, 100),
        "1",
        "Replicas in that datacenter, when `bitacora schema apply` makes the keyspace.",
    ),
    key(
        "consistency",
        Word(CONSISTENCIES),
        "\"local_quorum\"",
        "How many replicas must have a row before it counts as stored.",
    ),
    key(
        "ttl",
        Ttl(TTL_MAX),
        "\"90d\"",
        "How long rows live where [retention] does not say; empty for ever. Existing rows keep the time they were written with.",
    ),
    example("username", Text, "\"bitacora\"", "User name, if the cluster asks for one."),
    example(
        "password_file",
        Path,
        "\"/etc/bitacora/credentials/cassandra\"",
        "File that holds the password of username on its first line.",
    ),
    example(
        "tls",
        Table(TLS),
        "{ ca_file = \"/etc/bitacora/ca.pem\" }",
        "TLS to the nodes: ca_file, and for mutual TLS cert_file and key_file (PEM).",
    ),
];

const TLS: &[Key] = &[
    example("ca_file", Path, "\"/etc/bitacora/ca.pem\"", "Authorities to trust."),
    example("cert_file", Path, "\"/etc/bitacora/client.pem\"", "Our certificate."),
    example("key_file", Path, "\"/etc/bitacora/client.key\"", "Our key."),
];

const SOCKET: &[Key] = &[
    key(
        "stream",
        Path,
        "\"/run/bitacora/log.sock\"",
        "Stream socket: JSON or syslog lines, with receipts for clients that ask; empty switches it off.",
    ),
    key(
        "dgram",
        Path,
        "\"/run/bitacora/log.dgram\"",
        "Datagram socket: one record a datagram; empty switches it off.",
    ),
    key("group", Text, "\"\"", "The group that may write to both; empty for the daemon's own."),
    key("mode", Text, "\"0660\"", "Their mode."),
    key(
        "spool_max",
        Bytes(1 << 20, 1 << 50),
        "\"1GiB\"",
        "What the spool in state_dir may hold while the store is away; then clients are held back.",
    ),
];

const FILES: &[Key] = &[
    example(
        "source",
        Text,
        "\"nginx/access\"",
        "What the column source says: letters, digits and / . _ -. Also the label of the source's metrics.",
    ),
    example(
        "paths",
        Texts,
        "[\"/var/log/nginx/**/*access.log\"]",
        "Absolute paths and patterns: * and ? within a name, [abc], ** for any directories. Files may appear later.",
    ),
    key(
        "exclude",
        Texts,
        "[\"*.gz\"]",
        "Patterns of names, or with a leading / of whole paths, to leave out. Rotated files are found all the same, and are never sent twice.",
    ),
    example(
        "format",
        Word(&[]),
        "\"nginx/access\"",
        "How lines are read; the source's name by default.",
    ),
    key("options", Options, "{}", "Options of the format, such as { log_format = \"combined\" }."),
    key(
        "table",
        Word(&["infrastructure", "application"]),
        "\"infrastructure\"",
        "Which table: infrastructure_logs or application_logs.",
    ),
    key(
        "timezone",
        Text,
        "\"local\"",
        "Zone of times that are written without one: a name such as Europe/Madrid, or local for the machine's.",
    ),
    key(
        "start",
        Word(&["beginning", "end"]),
        "\"beginning\"",
        "Where to begin in files that are there when the source is first configured.",
    ),
    key(
        "max_line",
        Bytes(1 << 10, 1 << 20),
        "\"256KiB\"",
        "Longest line. Of a longer one the head is kept, with its true length.",
    ),
    key(
        "rotate_wait",
        millis(100, 24 * HOUR_MS),
        "\"5s\"",
        "How long a rotated file must be quiet before it is finished.",
    ),
    key(
        "multiline_wait",
        millis(10, HOUR_MS),
        "\"2s\"",
        "How long the last record of a file waits for further lines of its own.",
    ),
];

/// Every section, those of later releases included.
pub fn sections() -> impl Iterator<Item = &'static Section> {
    SECTIONS.iter().chain(LATER)
}

/// The section of this name.
#[must_use]
pub fn section(name: &str) -> Option<&'static Section> {
    sections().find(|section| section.name == name)
}

impl Kind {
    /// What a value must be, to follow "must be".
    #[must_use]
    pub fn wanted(self) -> String {
        use super::units::{show_bytes, show_duration};
        match self {
            Text => "a text in quotes".to_owned(),
            Word([]) => {
                format!("one of {}", crate::parse::Format::ALL.map(quoted_name).join(", "))
            }
            Word(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                format!("one of {}", words.join(", "))
            }
            Path => "an absolute path in quotes".to_owned(),
            Integer(min, max) => format!("a whole number from {min} to {max}"),
            Bytes(min, max) => {
                format!("a size from \"{}\" to \"{}\"", show_bytes(min), show_bytes(max))
            }
            DurationOf(min, max) => {
                format!("a duration from \"{}\" to \"{}\"", show_duration(min), show_duration(max))
            }
            Ttl(max) => {
                format!("a duration from \"1s\" to \"{}\", or \"\" for ever", show_duration(max))
            }
            Texts => "a list of texts, such as [\"a\", \"b\"]".to_owned(),
            Options => "a table of texts, such as { name = \"value\" }".to_owned(),
            Table(keys) => {
                let names: Vec<_> = keys.iter().map(|key| key.name).collect();
                format!("a table with {}", names.join(", "))
            }
            Self::Switch => "true or false".to_owned(),
        }
    }
}

fn quoted_name(format: crate::parse::Format) -> String {
    format!("\"{}\"", format.name())
}
