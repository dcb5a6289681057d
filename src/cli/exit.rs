//! From an error to an exit code, in one place. The codes are those of sysexits(3) where it has one.

use std::io;
use std::process::ExitCode;

use crate::config::LoadError;
use crate::daemon::DaemonError;
use crate::daemon::control::ControlError;
use crate::dora::DoraError;
use crate::durable::LockError;
use crate::maintain::alerts::AlertsError;
use crate::maintain::backup::BackupError;
use crate::sources::socket::SocketError;
use crate::state::StateError;
use crate::stores::StoreError;

/// Done, or found.
pub const DONE: u8 = 0;
/// Nothing found, or not clean.
pub const NOT_CLEAN: u8 = 1;
/// The command was used wrongly.
pub const USAGE: u8 = 2;
/// The store does not answer, or refuses.
pub const UNAVAILABLE: u8 = 69;
/// A mistake of this program.
pub const INTERNAL: u8 = 70;
/// Reading or writing failed.
pub const IO: u8 = 74;
/// Try later: another instance holds the state.
pub const TRY_LATER: u8 = 75;
/// A permission is missing.
pub const PERMISSION: u8 = 77;
/// The configuration is wrong.
pub const CONFIGURATION: u8 = 78;

/// What a command itself decides about its end.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(String),
    /// Something is in use and will be free later.
    #[error("{0}")]
    Busy(String),
}

/// The code of an error: that of the first cause in its chain that has one.
#[must_use]
pub fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(INTERNAL)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(refusal) = cause.downcast_ref::<Refusal>() {
        return Some(match refusal {
            Refusal::Usage(_) => USAGE,
            Refusal::Busy(_) => TRY_LATER,
        });
    }
    if let Some(load) = cause.downcast_ref::<LoadError>() {
        return Some(match load {
            LoadError::Missing { .. } | LoadError::Wrong(_) => CONFIGURATION,
            LoadError::Unreadable { error, .. } => code_of_io(error),
        });
    }
    if let Some(store) = cause.downcast_ref::<StoreError>() {
        return Some(match store {
            StoreError::Invalid { .. } => INTERNAL,
            StoreError::Unreachable { .. }
            | StoreError::Timeout { .. }
            | StoreError::Outage { .. }
            | StoreError::Schema { .. }
            | StoreError::Newer { .. } => UNAVAILABLE,
        });
    }
    if let Some(dora) = cause.downcast_ref::<DoraError>() {
        return Some(match dora {
            DoraError::Invalid(_) => USAGE,
            DoraError::Unreachable { .. }
            | DoraError::Refused { .. }
            | DoraError::Schema { .. }
            | DoraError::Newer { .. }
            | DoraError::Strange { .. } => UNAVAILABLE,
        });
    }
    if let Some(state) = cause.downcast_ref::<StateError>() {
        return Some(code_of_state(state));
    }
    if let Some(daemon) = cause.downcast_ref::<DaemonError>() {
        return match daemon {
            DaemonError::State(state) => Some(code_of_state(state)),
            DaemonError::Store(_) => Some(UNAVAILABLE),
            DaemonError::Http { source, .. } | DaemonError::Control { source, .. } => {
                Some(code_of_io(source))
            }
            DaemonError::Machine(error) => Some(code_of_io(error)),
            DaemonError::Tail(_) | DaemonError::Spool(_) => Some(IO),
            DaemonError::Socket(error) => Some(match error {
                SocketError::Bind { source, .. } => code_of_io(source),
                SocketError::Taken { .. } => TRY_LATER,
                SocketError::Group { .. } => CONFIGURATION,
            }),
            DaemonError::Metrics(_) => Some(INTERNAL),
        };
    }
    if let Some(control) = cause.downcast_ref::<ControlError>() {
        return Some(match control {
            ControlError::Absent { source, .. } | ControlError::Broken { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                PERMISSION
            }
            ControlError::Absent { .. } => UNAVAILABLE,
            ControlError::Broken { .. } => IO,
        });
    }
    if let Some(alerts) = cause.downcast_ref::<AlertsError>() {
        return Some(code_of_alerts(alerts));
    }
    if let Some(backup) = cause.downcast_ref::<BackupError>() {
        return Some(code_of_backup(backup));
    }
    cause.downcast_ref::<io::Error>().map(code_of_io)
}

fn code_of_backup(error: &BackupError) -> u8 {
    match error {
        BackupError::Busy { .. } | BackupError::Running { .. } => TRY_LATER,
        BackupError::Write { source, .. } | BackupError::Read { source, .. } => code_of_io(source),
        BackupError::Full { .. } | BackupError::Sqlite { .. } => IO,
        BackupError::Source(_) | BackupError::Tool { .. } => UNAVAILABLE,
        BackupError::Refused(_) => USAGE,
        BackupError::Damaged { .. } | BackupError::NotFound(_) => NOT_CLEAN,
    }
}

fn code_of_state(error: &StateError) -> u8 {
    match error {
        StateError::Lock(LockError::Held { .. }) => TRY_LATER,
        StateError::Lock(_) | StateError::Directory { .. } | StateError::ReadOnly { .. } => {
            PERMISSION
        }
        StateError::Newer { .. } => CONFIGURATION,
        StateError::Full { .. } | StateError::Damaged { .. } | StateError::Io { .. } => IO,
    }
}

fn code_of_alerts(error: &AlertsError) -> u8 {
    match error {
        AlertsError::Busy { .. } => TRY_LATER,
        AlertsError::Memory { source, .. } => code_of_io(source),
        AlertsError::Damaged { .. } => IO,
    }
}

fn code_of_io(error: &io::Error) -> u8 {
    match error.kind() {
        // a reader such as `head` has what it wants
        io::ErrorKind::BrokenPipe => DONE,
        io::ErrorKind::PermissionDenied => PERMISSION,
        _ => IO,
    }
}

/// Ends a command: its own code, or the error on stderr and the error's code.
#[must_use]
pub fn end(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            let code = code(&error);
            if code != DONE {
                report(&error);
            }
            ExitCode::from(code)
        }
    }
}

fn report(error: &anyhow::Error) {
    // problems of a configuration stand alone on their lines, so that editors can jump to them
    if let Some(LoadError::Wrong(problems)) = error.downcast_ref::<LoadError>() {
        eprintln!("{problems}");
        let count = problems.0.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        eprintln!("bitacora: {count} {noun} in the configuration");
    } else {
        eprintln!("bitacora: {}", words(error));
    }
}

/// An error with its causes, but for those that stand in its own words already.
fn words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words.push_str(": ");
            words.push_str(&cause);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let absent = ControlError::Absent { path: "/x".into(), source: io::Error::other("gone") };
        let said = words(&anyhow::Error::from(absent));
        assert_eq!(said.matches("gone").count(), 1, "{said}");
        assert_eq!(words(&anyhow::anyhow!("inner").context("outer")), "outer: inner");
    }

    #[test]
    fn the_first_cause_with_a_code_decides() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let missing = LoadError::Missing { path: "/x".into() };
        let away = StoreError::Unreachable { store: "cassandra", detail: String::new() };
        for (error, expected) in [
            (anyhow::anyhow!("what is this"), INTERNAL),
            (anyhow::Error::from(denied()).context("cannot open it"), PERMISSION),
            (anyhow::Error::from(io::Error::other("disk")), IO),
            (anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)), DONE),
            (anyhow::Error::from(missing), CONFIGURATION),
            (
                anyhow::Error::from(LoadError::Unreadable { path: "/x".into(), error: denied() }),
                PERMISSION,
            ),
            (anyhow::Error::from(away), UNAVAILABLE),
            (anyhow::Error::from(Refusal::Usage("no".into())), USAGE),
            (Err::<(), _>(Refusal::Busy("held".into())).context("run").unwrap_err(), TRY_LATER),
        ] {
            assert_eq!(code(&error), expected, "{error:#}");
        }
    }
}
