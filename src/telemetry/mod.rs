//! The daemon's own log: fields for the journal where stderr is the journal, text otherwise.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{EnvFilter, FilterExt};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

mod limit;

pub use limit::{LeftOut, RateLimit};

/// Names of the messages that a site may want to act on, in the journal's field `MESSAGE_ID`
/// (`journalctl MESSAGE_ID=…`). They never change; what to do about each: `docs/operations.md`.
pub mod ids {
    /// Reading begins.
    pub const STARTED: &str = "5f9f2b0c0b5d4d3f9a4e6a1c7d2e8b01";
    /// The daemon has stopped.
    pub const STOPPED: &str = "5f9f2b0c0b5d4d3f9a4e6a1c7d2e8b02";
    /// The store does not take rows.
    pub const STORE_AWAY: &str = "5f9f2b0c0b5d4d3f9a4e6a1c7d2e8b03";
    /// The store takes rows again.
    pub const STORE_BACK: &str = "5f9f2b0c0b5d4d3f9a4e6a1c7d2e8b04";
    /// Something is lost.
    pub const LOST: &str = "5f9f2b0c0b5d4d3f9a4e6a1c7d2e8b05";
    /// The spool takes nothing.
    pub const SPOOL_AWAY: &str = "5f9f2b0c0b5d4d3f9a4e6a1c7d2e8b06";
    /// The spool takes records again.
    pub const SPOOL_BACK: &str = "5f9f2b0c0b5d4d3f9a4e6a1c7d2e8b07";
    /// `state.db` was damaged or could not be written.
    pub const STATE: &str = "5f9f2b0c0b5d4d3f9a4e6a1c7d2e8b08";
    /// The configuration was read again.
    pub const RELOADED: &str = "5f9f2b0c0b5d4d3f9a4e6a1c7d2e8b09";
    /// A reload was refused.
    pub const REFUSED: &str = "5f9f2b0c0b5d4d3f9a4e6a1c7d2e8b0a";
}

/// As the journal's other writers use them: `journalctl -p info` shows what `daemon.log = "info"` says.
const PRIORITIES: PriorityMappings = PriorityMappings {
    error: Priority::Error,
    warn: Priority::Warning,
    info: Priority::Informational,
    debug: Priority::Debug,
    trace: Priority::Debug,
};

/// The field of an event that names it; people do not read it.
const MESSAGE_ID: &str = "message_id";

type Level = reload::Handle<EnvFilter, Registry>;

static LEVEL: OnceLock<Level> = OnceLock::new();
static LIMIT: OnceLock<Arc<RateLimit>> = OnceLock::new();

/// Sets up the log of this process, at `info` until [`set_level`] says otherwise.
pub fn start() {
    let (filter, handle) = reload::Layer::new(filter_of("info"));
    let limit = Arc::new(RateLimit::default());
    let journal = stderr_is_the_journal().then(tracing_journald::layer).and_then(Result::ok);
    let limited = filter.and(limit::Limited(Arc::clone(&limit)));
    let layer = match journal {
        Some(journal) => journal
            .with_field_prefix(None)
            .with_syslog_identifier("bitacora".to_owned())
            .with_priority_mappings(PRIORITIES)
            .with_filter(limited)
            .boxed(),
        None => text().with_filter(limited).boxed(),
    };
    // a log that was set up already, as in tests, stays as it is
    if tracing_subscriber::registry().with(layer).try_init().is_ok() {
        let _ = LEVEL.set(handle);
        let _ = LIMIT.set(limit);
    }
}

/// From here on it says so much: `error`, `warn`, `info`, `debug` or `trace`. `BITACORA_LOG` goes
/// before it: a level, or directives such as `bitacora::sources=trace`.
pub fn set_level(level: &str) {
    if let Some(handle) = LEVEL.get() {
        // it fails only when the log is gone
        let _ = handle.reload(filter_of(level));
    }
}

/// What was left out since the last time, of places that say too much.
#[must_use]
pub fn left_out() -> Vec<LeftOut> {
    LIMIT.get().map(|limit| limit.left_out()).unwrap_or_default()
}

/// The driver of Cassandra repeats its failures with each try; what matters of them the store
/// says, once.
fn filter_of(level: &str) -> EnvFilter {
    EnvFilter::try_from_env("BITACORA_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},scylla=off")))
}

fn text<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let terminal = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // the message comes first
    let fields = fmt::format::debug_fn(|writer, field, value| match field.name() {
        "message" => write!(writer, "{value:?}"),
        MESSAGE_ID => Ok(()),
        name => write!(writer, " {name}={value:?}"),
    });
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(false)
        .fmt_fields(fields);
    if stderr_is_the_journal() {
        layer.without_time().boxed() // it notes the time itself
    } else {
        layer.boxed()
    }
}

/// `JOURNAL_STREAM` names the file that systemd gave as stderr; a child whose stderr leads
/// elsewhere may have inherited the variable.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(file) = rustix::fs::fstat(std::io::stderr().as_fd()) else { return false };
    stream == format!("{}:{}", file.st_dev, file.st_ino)
}
