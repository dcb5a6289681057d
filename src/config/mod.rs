//! The configuration: what it may say, its defaults, and everything that is wrong with it.
//!
//! Nothing here opens what it names. Other rooms receive their own section, never the whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::key::Table;
use crate::parse::Format;

mod alerts;
mod backup;
mod dora;
mod files;
pub mod keys;
mod later;
mod load;
mod machine;
pub mod print;
mod problem;
mod retention;
mod settings;
pub mod units;
mod walk;

pub use alerts::{Alerts, BUILT_IN, Email, ErrorsRule, Rule, RuleKind, Webhook};
pub use backup::{Backup, Compression, Database, DatabaseKind, Part};
pub use dora::{Dora, DoraKind, Mysql};
pub use load::DEFAULT_PATH;
pub use machine::Machine;
pub use problem::{LoadError, Notice, Place, Problem, Problems};
pub use retention::{Lifetimes, Retention};

/// The checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[daemon]`
    pub daemon: Daemon,
    /// `[store]`
    pub store: Store,
    /// `[[files]]`
    pub files: Vec<FileSource>,
    /// `[socket]`
    pub socket: Socket,
    /// `[dora]`
    pub dora: Dora,
    /// `[retention]`
    pub retention: Retention,
    /// `[backup]` and `[[backup.database]]`
    pub backup: Backup,
    /// `[alerts]` and `[[alerts.rule]]`
    pub alerts: Alerts,
    /// Sections that are set, and whose work this release does not do. `run` and `check` say so.
    pub later: Vec<Notice>,
}

/// `[daemon]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Where `state.db`, its lock and the control socket are.
    pub state_dir: PathBuf,
    /// The control socket; `control.sock` in `state_dir` by default.
    pub control: PathBuf,
    /// Address of `/metrics`, `/live` and `/ready`; `None` switches them off.
    pub http: Option<SocketAddr>,
    /// Column `host`; the machine's name by default.
    pub host: String,
    /// How long a stop may take.
    pub shutdown_timeout: Duration,
    /// How much the daemon says: `error`, `warn`, `info`, `debug` or `trace`.
    pub log: String,
}

/// `[socket]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// The stream socket; `None` switches it off.
    pub stream: Option<PathBuf>,
    /// The datagram socket; `None` switches it off.
    pub dgram: Option<PathBuf>,
    /// The group that may write to both; empty for the daemon's own.
    pub group: String,
    /// Their mode.
    pub mode: u32,
    /// The spool takes nothing while it holds more.
    pub spool_max_bytes: u64,
}

/// `[store]`
#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    /// Which store.
    pub kind: StoreKind,
    /// Rows in a full batch.
    pub batch_rows: usize,
    /// Oldest age of a batch that is not full.
    pub batch_age: Duration,
    /// `[store.sqlite]`
    pub sqlite: Sqlite,
    /// `[store.cassandra]`
    pub cassandra: Cassandra,
    /// How long rows live in this store, by `[retention]` and `store.cassandra.ttl`.
    pub lifetimes: Lifetimes,
}

/// `store.kind`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// One file a day.
    Sqlite,
    /// Cassandra or `ScyllaDB`.
    Cassandra,
    /// Counts and forgets.
    Null,
}

/// `[store.sqlite]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sqlite {
    /// Where `index.db` and the day files are.
    pub dir: PathBuf,
}

/// `[store.cassandra]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cassandra {
    /// Contact points, `host:port`.
    pub nodes: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// The datacenter that is local.
    pub datacenter: String,
    /// Replicas in that datacenter, when `bitacora schema apply` makes the keyspace.
    pub replication: u32,
    /// `one`, `local_one`, `quorum`, `local_quorum`, `all`…, in lower case.
    pub consistency: String,
    /// How long rows live; `None` for ever.
    pub ttl: Option<Duration>,
    /// User name, if the cluster asks for one.
    pub username: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// TLS, if the cluster wants it.
    pub tls: Option<Tls>,
}

/// `store.cassandra.tls`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Authorities to trust.
    pub ca_file: PathBuf,
    /// Our certificate, for mutual TLS.
    pub cert_file: Option<PathBuf>,
    /// Our key, for mutual TLS.
    pub key_file: Option<PathBuf>,
}

/// Where reading begins in files that are there when a source is first configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// `beginning`
    Beginning,
    /// `end`
    End,
}

/// One `[[files]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSource {
    /// Column `source`.
    pub source: String,
    /// Literal paths and patterns, absolute.
    pub paths: Vec<String>,
    /// Patterns of names or of whole paths to leave out.
    pub exclude: Vec<String>,
    /// The format.
    pub format: Format,
    /// The format's options.
    pub options: BTreeMap<String, String>,
    /// Which table.
    pub table: Table,
    /// IANA name of the zone of times without one; the machine's zone by default.
    pub timezone: String,
    /// Where to begin.
    pub start: Start,
    /// Longest line, in bytes.
    pub max_line_bytes: u64,
    /// How long a rotated file must be quiet before it is finished.
    pub rotate_wait: Duration,
    /// How long an open multi-line record waits before it is shipped early.
    pub multiline_wait: Duration,
}
