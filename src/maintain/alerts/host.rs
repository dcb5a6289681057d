//! This host: its daemon, how far each source is behind, its file systems, its backups.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::finding::Finding;
use super::process;
use super::text::{ago, ms, number};
use crate::config::{Config, StoreKind};

/// How long systemd may take to answer.
const SYSTEMCTL_WAIT: Duration = Duration::from_secs(5);

/// A time that lies further ahead than this is none.
const CLOCK_MS: i64 = 3_600_000;

/// What the daemon says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DaemonFacts {
    /// What is wrong with it, if anything.
    pub problem: Option<String>,
    /// What is wrong with its store, if anything.
    pub store_problem: Option<String>,
    /// Its sources.
    pub sources: Vec<SourceFacts>,
}

/// What the daemon says of a source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceFacts {
    /// Its name.
    pub source: String,
    /// Age of the oldest byte that is not stored.
    pub lag: Duration,
    /// Bytes that are not stored.
    pub behind_bytes: u64,
    /// Files that cannot be read, and bytes that no account explains.
    pub troubles: Vec<String>,
}

/// Why there are no facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoFacts {
    /// No daemon answers.
    Down(String),
    /// We may not ask.
    Forbidden(String),
}

/// The daemon and its sources.
#[must_use]
pub fn daemon(facts: &Result<DaemonFacts, NoFacts>, backlog: Duration) -> Vec<Finding> {
    let facts = match facts {
        Err(NoFacts::Down(why)) => return vec![Finding::trouble("daemon", why)],
        Err(NoFacts::Forbidden(why)) => return vec![Finding::unknown("daemon", why)],
        Ok(facts) => facts,
    };
    let mut wrong: Vec<String> = facts.problem.iter().cloned().collect();
    wrong.extend(facts.store_problem.iter().map(|why| format!("its store takes no rows: {why}")));
    for source in &facts.sources {
        wrong.extend(source.troubles.iter().map(|why| format!("{}: {why}", source.source)));
    }
    let detail = if wrong.is_empty() { "it is well".to_owned() } else { wrong.join("; ") };
    let mut findings = vec![Finding::judge("daemon", !wrong.is_empty(), &detail)];
    findings.extend(facts.sources.iter().map(|source| {
        let lag = ago(ms(source.lag));
        let detail = format!(
            "the oldest byte that is not stored is {lag} old; {} bytes are not stored",
            source.behind_bytes
        );
        Finding::judge("backlog", source.lag > backlog, &detail)
            .of(&source.source)
            .with(source.lag.as_secs_f64())
    }));
    findings
}

/// The file systems that bitacora writes to.
#[must_use]
pub fn disks(config: &Config) -> Vec<Finding> {
    let mut places = vec![&config.daemon.state_dir, &config.backup.dir];
    if config.store.kind == StoreKind::Sqlite {
        places.insert(0, &config.store.sqlite.dir);
    }
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for place in places {
        // what is not there yet will be made where its parent is
        let there = place.ancestors().find(|dir| dir.exists());
        let Some(there) = there else { continue };
        match there.metadata() {
            Ok(metadata) if !seen.insert(metadata.dev()) => {}
            Ok(_) => findings.push(disk(place, there, config.alerts.disk_percent)),
            Err(error) => findings
                .push(Finding::unknown("disk", &error.to_string()).of(&place.to_string_lossy())),
        }
    }
    findings
}

fn disk(place: &Path, there: &Path, most: u8) -> Finding {
    let subject = place.to_string_lossy();
    let facts = match rustix::fs::statvfs(there) {
        Ok(facts) => facts,
        Err(errno) => {
            let why = std::io::Error::from(errno).to_string();
            return Finding::unknown("disk", &why).of(&subject);
        }
    };
    let blocks = percent(facts.f_blocks.saturating_sub(facts.f_bfree), facts.f_bavail);
    let inodes = percent(facts.f_files.saturating_sub(facts.f_ffree), facts.f_favail);
    let free_mib = facts.f_bavail.saturating_mul(facts.f_frsize) >> 20;
    let detail = format!(
        "the file system is {blocks} % full, {free_mib} MiB are free, {inodes} % of its inodes are used; over {most} % is too much"
    );
    let fullest = blocks.max(inodes);
    Finding::judge("disk", fullest > u64::from(most), &detail).of(&subject).with(number(fullest))
}

/// As `df` counts: what root keeps for itself is neither used nor free.
const fn percent(used: u64, available: u64) -> u64 {
    match used.saturating_add(available) {
        0 => 0,
        all => (used.saturating_mul(100)).div_ceil(all),
    }
}

/// When something was done last; `None` for never.
#[must_use]
pub fn last_done(
    rule: &str,
    what: &str,
    done_ms: Result<Option<i64>, String>,
    most: Duration,
    first_ms: i64,
    now_ms: i64,
) -> Finding {
    let done_ms = match done_ms {
        Ok(done_ms) => done_ms,
        Err(error) => return Finding::unknown(rule, &error),
    };
    if let Some(ahead) = done_ms.map(|at| at.saturating_sub(now_ms)).filter(|ms| *ms > CLOCK_MS) {
        let detail = format!(
            "the last {what} is dated {} from now: a clock was wrong, and nobody knows how old it is",
            ago(ahead)
        );
        return Finding::trouble(rule, &detail);
    }
    // of a host that was just set up, nothing can be asked yet
    let age = now_ms.saturating_sub(done_ms.unwrap_or(first_ms)).max(0);
    let detail = match done_ms {
        Some(_) => format!("the last {what} was {} ago", ago(age)),
        None => format!("there was no {what} yet"),
    };
    let limit = format!("{detail}; over {} is too long", ago(ms(most)));
    #[allow(clippy::cast_precision_loss, reason = "milliseconds of an age")]
    let seconds = age as f64 / 1000.0;
    Finding::judge(rule, age > ms(most), &limit).with(seconds)
}

/// Units of systemd that were reported as failed: whether they still are.
#[must_use]
pub fn units(reported: &[String]) -> Vec<Finding> {
    reported.iter().map(|unit| self::unit(unit)).collect()
}

fn unit(unit: &str) -> Finding {
    let mut command = Command::new("systemctl");
    command.args(["is-failed", "--quiet", "--"]).arg(unit);
    match process::run(&mut command, SYSTEMCTL_WAIT) {
        Ok(ended) if ended.status.success() => failed_unit(unit),
        Ok(ended) if ended.errors.is_empty() => {
            Finding::well("unit", "it is not failed any more").of(unit)
        }
        Ok(ended) => Finding::unknown("unit", ended.errors.trim()).of(unit),
        Err(error) => Finding::unknown("unit", &format!("systemctl: {error}")).of(unit),
    }
}

/// A unit that has failed.
#[must_use]
pub fn failed_unit(unit: &str) -> Finding {
    let detail = format!("it has failed: see `journalctl -u {unit}`");
    Finding::trouble("unit", &detail).of(unit)
}

/// Where the memory of alerts is.
#[must_use]
pub fn memory_dir(config: &Config) -> PathBuf {
    config.daemon.state_dir.join("alerts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::health::CheckStatus;

    const HOUR: i64 = 3_600_000;

    fn status(findings: &[Finding]) -> Vec<(String, CheckStatus)> {
        findings.iter().map(|finding| (finding.name(), finding.status)).collect()
    }

    #[test]
    fn a_daemon_that_is_down_is_trouble_and_one_that_may_not_be_asked_is_unknown() {
        let limit = Duration::from_mins(1);
        let down = daemon(&Err(NoFacts::Down("nobody".into())), limit);
        assert_eq!(status(&down), [("daemon".into(), CheckStatus::Trouble)]);
        let forbidden = daemon(&Err(NoFacts::Forbidden("no".into())), limit);
        assert_eq!(status(&forbidden), [("daemon".into(), CheckStatus::Unknown)]);
    }

    #[test]
    fn each_source_is_behind_by_itself() {
        let source = |source: &str, seconds| SourceFacts {
            source: source.to_owned(),
            lag: Duration::from_secs(seconds),
            ..SourceFacts::default()
        };
        let facts = DaemonFacts {
            sources: vec![source("a", 61), source("b", 60)],
            ..DaemonFacts::default()
        };
        let findings = daemon(&Ok(facts.clone()), Duration::from_mins(1));
        let expected = [
            ("daemon".to_owned(), CheckStatus::Ok),
            ("backlog a".to_owned(), CheckStatus::Trouble),
            ("backlog b".to_owned(), CheckStatus::Ok),
        ];
        assert_eq!(status(&findings), expected);
        let full = DaemonFacts { store_problem: Some("disk full".into()), ..facts };
        assert_eq!(daemon(&Ok(full), limit_of_an_hour())[0].status, CheckStatus::Trouble);
    }

    fn limit_of_an_hour() -> Duration {
        Duration::from_hours(1)
    }

    #[test]
    fn fullness_is_counted_as_df_does() {
        assert_eq!(percent(80, 20), 80);
        assert_eq!(percent(801, 199), 81, "rounded up");
        assert_eq!(percent(0, 0), 0);
    }

    #[test]
    fn a_backup_that_never_was_is_trouble_once_there_was_time_for_one() {
        let most = Duration::from_hours(25);
        let look = |done, now| last_done("backup", "backup", Ok(done), most, 0, now).status;
        assert_eq!(look(None, 25 * HOUR), CheckStatus::Ok);
        assert_eq!(look(None, 25 * HOUR + 1), CheckStatus::Trouble);
        assert_eq!(look(Some(10 * HOUR), 35 * HOUR), CheckStatus::Ok);
        assert_eq!(look(Some(10 * HOUR), 35 * HOUR + 1), CheckStatus::Trouble);
        // a clock that was set back would keep it young for ever
        assert_eq!(look(Some(11 * HOUR), 10 * HOUR), CheckStatus::Ok);
        assert_eq!(look(Some(11 * HOUR + 1), 10 * HOUR), CheckStatus::Trouble);
        let unknown = last_done("backup", "backup", Err("no".into()), most, 0, 0);
        assert_eq!(unknown.status, CheckStatus::Unknown);
    }
}
