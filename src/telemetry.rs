//! The daemon's own log: text on stderr, which systemd puts into the journal.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets up the log of this process. `BITACORA_LOG` says how much: `info` by default, `debug`, or
/// directives such as `bitacora::sources=trace`. The driver of Cassandra repeats its failures with
/// each try; what matters of them the store says, once.
pub fn start(default_level: &str) {
    let filter = EnvFilter::try_from_env("BITACORA_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{default_level},scylla=off")));
    let terminal = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(false);
    // a log that was set up already, as in tests, stays as it is
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() {
        format.without_time().try_init()
    } else {
        format.try_init()
    };
}
