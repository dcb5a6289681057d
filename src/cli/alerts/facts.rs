//! What the daemon says of itself, as alerts look at it.

use std::time::Duration;

use crate::config::Config;
use crate::daemon::control::{self, ControlError, Request};
use crate::daemon::status::{SourceStatus, Status};
use crate::maintain::alerts::{DaemonFacts, NoFacts, SourceFacts};

/// Longest wait for the daemon.
const WAIT: Duration = Duration::from_secs(3);

/// Asks the daemon.
pub fn of_daemon(config: &Config) -> Result<DaemonFacts, NoFacts> {
    let path = &config.daemon.control;
    let answer = control::ask(path, Request::Status, WAIT).map_err(|error| {
        let words = error.to_string();
        match error {
            ControlError::Absent { source, .. }
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                NoFacts::Forbidden(words)
            }
            ControlError::Absent { .. } | ControlError::Broken { .. } => NoFacts::Down(words),
        }
    })?;
    let status: Status = serde_json::from_str(&answer)
        .map_err(|error| NoFacts::Down(format!("the daemon's answer is no status: {error}")))?;
    Ok(facts(&status))
}

fn facts(status: &Status) -> DaemonFacts {
    let not_ready = (!status.ready).then(|| "it is not ready".to_owned());
    let store = &status.store;
    let silent = || "it does not say why".to_owned();
    DaemonFacts {
        problem: status.problem.clone().or(not_ready),
        store_problem: (!store.up).then(|| store.problem.clone().unwrap_or_else(silent)),
        sources: status.sources.iter().map(source).collect(),
    }
}

fn source(status: &SourceStatus) -> SourceFacts {
    let mut troubles = status.waiting.clone();
    if status.unaccounted_bytes > 0 {
        troubles.push(format!(
            "{} bytes are unaccounted for: a fault in bitacora, please report it",
            status.unaccounted_bytes
        ));
    }
    SourceFacts {
        source: status.source.clone(),
        lag: Duration::try_from_secs_f64(status.lag_seconds).unwrap_or_default(),
        behind_bytes: status.pending_bytes.saturating_add(status.backlog_bytes),
        troubles,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::status::StoreStatus;

    #[test]
    fn what_the_daemon_says_is_taken_over() {
        let source = SourceStatus {
            source: "a".into(),
            lag_seconds: 2.5,
            pending_bytes: 1,
            backlog_bytes: 2,
            waiting: vec!["cannot read /x".into()],
            ..SourceStatus::default()
        };
        let status = Status {
            version: String::new(),
            pid: 1,
            host: "h".into(),
            started_ms: 0,
            ready: false,
            problem: None,
            store: StoreStatus { up: false, ..StoreStatus::default() },
            sources: vec![source],
        };
        let facts = facts(&status);
        assert_eq!(facts.problem.unwrap(), "it is not ready");
        assert!(facts.store_problem.is_some());
        let source = &facts.sources[0];
        assert_eq!((source.lag, source.behind_bytes), (Duration::from_millis(2500), 3));
        assert_eq!(source.troubles, ["cannot read /x"]);
    }
}
