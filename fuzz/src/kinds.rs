//! The formats and options that a target's first byte picks from.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bitacora::parse::{Format, Parser};

/// A format with options.
#[derive(Debug)]
pub struct Kind {
    /// The format.
    pub format: Format,
    options: &'static [(&'static str, &'static str)],
}

const fn kind(format: Format, options: &'static [(&'static str, &'static str)]) -> Kind {
    Kind { format, options }
}

/// Append only: inputs that are kept name a kind by its place.
pub static KINDS: [Kind; 14] = [
    kind(Format::NginxAccess, &[]),
    kind(
        Format::NginxAccess,
        &[(
            "log_format",
            "$http_x_forwarded_for, $remote_addr [$time_iso8601] \"$request\" $status \
             rt=${request_time}s ua=\"$upstream_addr\" us=$upstream_status \
             ut=\"$upstream_response_time\" gz=$gzip_ratio $ssl_protocol/$ssl_cipher",
        )],
    ),
    kind(
        Format::NginxAccess,
        &[("log_format", "$msec $remote_addr $host:$server_port $status [$time_local]")],
    ),
    kind(Format::NginxError, &[]),
    kind(Format::Syslog, &[]),
    kind(Format::Postgresql, &[]),
    kind(Format::Postgresql, &[("log_line_prefix", "%m [%p] %q%u@%d ")]),
    kind(
        Format::Postgresql,
        &[("log_line_prefix", "%t [%p]: [%l-1] user=%u,db=%d,app=%a,client=%h ")],
    ),
    kind(
        Format::Postgresql,
        &[("log_line_prefix", "%n|%p|%a|%r|%b|%L|%i|%e|%c|%l|%s|%v|%x|%Q|%P|%% ")],
    ),
    kind(Format::Postgresql, &[("log_error_verbosity", "verbose")]),
    kind(Format::PostgresqlCsvlog, &[]),
    kind(Format::PostgresqlJsonlog, &[]),
    kind(Format::Json, &[]),
    kind(Format::Json, &[("level_scheme", "python")]),
];

impl Kind {
    /// The one that a byte picks, and its compiled parser.
    #[must_use]
    pub fn pick(byte: u8) -> (&'static Self, &'static Parser) {
        static PARSERS: LazyLock<Vec<Parser>> = LazyLock::new(|| {
            let compile = |kind: &Kind| Parser::new(kind.format, &kind.options());
            KINDS.iter().map(|kind| compile(kind).expect("it compiles")).collect()
        });
        let at = usize::from(byte) % KINDS.len();
        (&KINDS[at], &PARSERS[at])
    }

    /// The options as a configuration gives them.
    #[must_use]
    pub fn options(&self) -> BTreeMap<String, String> {
        self.options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }
}
