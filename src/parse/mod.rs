//! Formats: which lines form a record, and what a record's text says.
//!
//! Parsing never fails: a text that a format does not understand is a record whose message is all
//! of it. Parsers do no I/O, read no clock (a [`Clock`] is given), and borrow from the line.
//! The contract of each format is in `docs/formats.md`.

use std::collections::BTreeMap;

use crate::record::Record;

pub mod json;
mod keys;
pub mod nginx;
pub mod postgresql;
pub mod socket;
pub mod syslog;
pub mod time;

pub use keys::number_repeated;
pub use time::Clock;

/// The closed set of formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// `nginx/access`
    NginxAccess,
    /// `nginx/error`
    NginxError,
    /// `syslog`
    Syslog,
    /// `postgresql` (stderr)
    Postgresql,
    /// `postgresql/csvlog`
    PostgresqlCsvlog,
    /// `postgresql/jsonlog`
    PostgresqlJsonlog,
    /// `json`
    Json,
    /// What clients send to the socket, as it stands in the spool.
    Socket(socket::Sent),
}

impl Format {
    /// All formats of files.
    pub const ALL: [Self; 7] = [
        Self::NginxAccess,
        Self::NginxError,
        Self::Syslog,
        Self::Postgresql,
        Self::PostgresqlCsvlog,
        Self::PostgresqlJsonlog,
        Self::Json,
    ];

    /// The name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NginxAccess => "nginx/access",
            Self::NginxError => "nginx/error",
            Self::Syslog => "syslog",
            Self::Postgresql => "postgresql",
            Self::PostgresqlCsvlog => "postgresql/csvlog",
            Self::PostgresqlJsonlog => "postgresql/jsonlog",
            Self::Json => "json",
            Self::Socket(socket::Sent::Json) => "socket/json",
            Self::Socket(socket::Sent::Event) => "socket/event",
            Self::Socket(socket::Sent::Syslog) => "socket/syslog",
        }
    }

    /// Reads the name of a format of files.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Reads any name, as contexts have it.
    #[must_use]
    pub fn of_context(name: &str) -> Option<Self> {
        let sent = [socket::Sent::Json, socket::Sent::Event, socket::Sent::Syslog];
        let mut all = Self::ALL.into_iter().chain(sent.into_iter().map(Self::Socket));
        all.find(|format| format.name() == name)
    }

    /// Version of the parser: raised whenever the same text could give another row, so that
    /// rows of an older version are told apart by their context.
    #[must_use]
    pub const fn version(self) -> u32 {
        1
    }

    /// The options that the format knows.
    #[must_use]
    pub const fn options(self) -> &'static [&'static str] {
        match self {
            Self::NginxAccess => &["log_format"],
            Self::Postgresql => &["log_line_prefix", "log_error_verbosity"],
            Self::Json => &["level_scheme"],
            Self::Socket(_) => &["source"],
            _ => &[],
        }
    }

    /// Whether each line is a record of its own, so that no framing is needed.
    #[must_use]
    pub const fn single_line(self) -> bool {
        matches!(self, Self::NginxAccess | Self::PostgresqlJsonlog | Self::Json | Self::Socket(_))
    }

    /// Whether its times may lack the year, so that contexts renew their anchor.
    #[must_use]
    pub const fn year_less(self) -> bool {
        matches!(self, Self::Syslog)
    }
}

/// What is wrong with an option, for `file:line:column` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("option {option}: {detail}")]
pub struct OptionError {
    /// The option's name.
    pub option: String,
    /// What is wrong, where in its value, and what is possible.
    pub detail: String,
}

/// What a line is to the records around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It begins a record of this thread: a `PostgreSQL` pid, 0 where a format has no threads.
    Begins {
        /// The thread.
        thread: u64,
    },
    /// It is a further line of the last record of this thread (a `PostgreSQL` DETAIL line).
    Adds {
        /// The thread.
        thread: u64,
    },
    /// It continues the record to which the line before it belongs.
    Continues,
}

/// What framing remembers between the lines of one record. The assembler resets it when a record
/// begins anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Framing {
    /// A quoted CSV field is open at the end of the lines so far.
    pub in_quotes: bool,
}

/// A compiled format: made once when a source starts, shared by its files.
#[derive(Debug)]
pub struct Parser {
    format: Format,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    NginxAccess(nginx::AccessFormat),
    NginxError,
    Syslog,
    Postgresql(postgresql::Stderr),
    PostgresqlCsvlog,
    PostgresqlJsonlog,
    Json(json::Options),
    Socket(socket::Options),
}

impl Parser {
    /// Compiles a format with its options.
    ///
    /// # Errors
    ///
    /// The first option that is unknown or cannot be compiled.
    pub fn new(format: Format, options: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        if let Some(option) = options.keys().find(|key| !format.options().contains(&key.as_str())) {
            let known = format.options().join(", ");
            let known = if known.is_empty() { "none".to_owned() } else { known };
            return Err(OptionError {
                option: option.clone(),
                detail: format!("format {} has no such option (it has: {known})", format.name()),
            });
        }
        let kind = match format {
            Format::NginxAccess => Kind::NginxAccess(nginx::AccessFormat::new(options)?),
            Format::NginxError => Kind::NginxError,
            Format::Syslog => Kind::Syslog,
            Format::Postgresql => Kind::Postgresql(postgresql::Stderr::new(options)?),
            Format::PostgresqlCsvlog => Kind::PostgresqlCsvlog,
            Format::PostgresqlJsonlog => Kind::PostgresqlJsonlog,
            Format::Json => Kind::Json(json::Options::new(options)?),
            Format::Socket(sent) => Kind::Socket(socket::Options::new(sent, options)?),
        };
        Ok(Self { format, kind })
    }

    /// Which format this is.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// See [`Format::single_line`].
    #[must_use]
    pub const fn single_line(&self) -> bool {
        self.format.single_line()
    }

    /// What `line` (without its line end, not blank) is to the records around it. A function of
    /// the line and, for CSV, of the framing of the record that is open.
    pub fn role(&self, line: &[u8], framing: &mut Framing) -> Role {
        match &self.kind {
            Kind::NginxAccess(_) | Kind::PostgresqlJsonlog | Kind::Json(_) | Kind::Socket(_) => {
                Role::Begins { thread: 0 }
            }
            Kind::NginxError => nginx::error_role(line),
            Kind::Syslog => syslog::role(line),
            Kind::Postgresql(stderr) => stderr.role(line),
            Kind::PostgresqlCsvlog => postgresql::csv_role(line, framing),
        }
    }

    /// Whether the record that has been framed so far cannot grow any more, whatever comes.
    #[must_use]
    pub fn complete(&self, framing: Framing) -> bool {
        match self.kind {
            Kind::PostgresqlCsvlog => !framing.in_quotes,
            _ => self.single_line(),
        }
    }

    /// Whether the first line of a record alone fixes its time and level, so that it may be
    /// shipped before it is complete and amended later.
    #[must_use]
    pub const fn first_line_decides(&self) -> bool {
        !matches!(self.kind, Kind::PostgresqlCsvlog)
    }

    /// Reads a record's text: its lines joined by `\n`, each without its line end, trailing blank
    /// lines left out. `text` is valid UTF-8. `record` comes cleared or used; all of it is set.
    pub fn parse<'a>(&'a self, text: &'a [u8], clock: &mut Clock, record: &mut Record<'a>) {
        record.clear();
        let understood = match &self.kind {
            Kind::NginxAccess(format) => format.parse(text, clock, record),
            Kind::NginxError => nginx::parse_error(text, clock, record),
            Kind::Syslog => syslog::parse(text, clock, record),
            Kind::Postgresql(stderr) => stderr.parse(text, clock, record),
            Kind::PostgresqlCsvlog => postgresql::parse_csv(text, clock, record),
            Kind::PostgresqlJsonlog => postgresql::parse_jsonlog(text, clock, record),
            Kind::Json(options) => json::parse(text, options, clock, record),
            Kind::Socket(options) => return socket::parse(text, options, clock, record),
        };
        if understood {
            record.parsed = true;
        } else {
            record.not_understood(text);
        }
    }
}
