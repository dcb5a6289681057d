//! `bitacora alerts check`, and `failed`, which tells of one unit.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Builder;

use super::{desk, facts};
use crate::cli::exit;
use crate::config::Config;
use crate::daemon::wall_ms;
use crate::maintain::alerts::text::ms;
use crate::maintain::alerts::{self, AlertsError, Desk, Finding, Memory, Round, host, notify};
use crate::stores::health::CheckStatus;

/// How long a check waits for another command; another check takes longer.
const CHECK_WAIT: Duration = Duration::from_secs(2);
/// How long a report of a failed unit waits for a check that runs.
const FAILED_WAIT: Duration = Duration::from_mins(1);
/// How long the store may take to keep what was found.
const RECORD_WAIT: Duration = Duration::from_secs(5);

/// Looks, remembers, tells.
pub fn run(
    config: &Arc<Config>,
    dry_run: bool,
    json: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let mut desk = if dry_run { None } else { Some(desk(config, CHECK_WAIT)?) };
    let now_ms = wall_ms();
    let memory = match &desk {
        Some(desk) => desk.memory.clone(),
        None => remembered(config)?.unwrap_or_else(|| Memory::new(now_ms)),
    };
    // enough threads that parts that hang leave some to keep the time
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
    let daemon = facts::of_daemon(config);
    let findings = runtime.block_on(alerts::look(config, daemon, &memory, now_ms));
    let mut memory = memory;
    memory.take(findings.clone(), now_ms, ms(config.alerts.repeat));
    let mut rounds = Vec::new();
    if let Some(desk) = &mut desk {
        rounds = tell(config, &mut memory, now_ms);
        desk.memory = memory;
        let saved = desk.save();
        runtime.block_on(record(config, &findings, now_ms));
        memory = std::mem::replace(&mut desk.memory, Memory::new(now_ms));
        saved?;
    }
    // a store that hangs does not keep this command
    runtime.shutdown_background();
    let well = alerts::all_well(&memory, now_ms);
    if json {
        writeln!(output, "{}", as_json(&findings, &memory, &rounds, well, now_ms))?;
    } else {
        show(&findings, &memory, now_ms, output)?;
    }
    Ok(ExitCode::from(if well { exit::DONE } else { exit::NOT_CLEAN }))
}

/// What a dry run knows; a damaged memory is none, as in a check.
fn remembered(config: &Config) -> Result<Option<Memory>, AlertsError> {
    match alerts::remembered(config) {
        Err(damaged @ AlertsError::Damaged { .. }) => {
            eprintln!("{damaged}");
            Ok(None)
        }
        known => known,
    }
}

async fn record(config: &Config, findings: &[Finding], now_ms: i64) {
    let checks = alerts::checks(findings, &config.daemon.host, now_ms);
    let recorded = tokio::time::timeout(RECORD_WAIT, alerts::record(config, &checks)).await;
    // the check itself has said it, if the store is away
    match recorded {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("the results are not in health_checks: {error}"),
        Err(_) => eprintln!("the results are not in health_checks: the store does not answer"),
    }
}

fn tell(config: &Config, memory: &mut Memory, now_ms: i64) -> Vec<Round> {
    let rounds = alerts::tell(&notify::configured(&config.alerts), config, memory, now_ms);
    for round in &rounds {
        if let Some(error) = &round.error {
            eprintln!("notifier {} does not work, it is tried again: {error}", round.notifier);
        }
        if round.held > 0 {
            let (name, held) = (&round.notifier, round.held);
            eprintln!("notifier {name}: {held} news wait, as alerts.hourly_max is reached");
        }
    }
    rounds
}

fn word(status: CheckStatus) -> &'static str {
    match status {
        CheckStatus::Ok => "ok     ",
        CheckStatus::Trouble => "TROUBLE",
        CheckStatus::Unknown => "unknown",
    }
}

fn show(
    findings: &[Finding],
    memory: &Memory,
    now_ms: i64,
    output: &mut impl Write,
) -> std::io::Result<()> {
    let not_well = || findings.iter().filter(|finding| finding.status != CheckStatus::Ok);
    for finding in not_well() {
        let silenced = memory.silence(finding, now_ms).map_or("", |_| " (silenced)");
        let (name, detail) = (finding.name(), &finding.detail);
        writeln!(output, "{} {name}{silenced}: {detail}", word(finding.status))?;
        for sample in &finding.samples {
            writeln!(output, "        {sample}")?;
        }
    }
    let count = not_well().count();
    match count {
        0 => writeln!(output, "{} things looked at, all is well", findings.len()),
        _ => writeln!(output, "{} things looked at, {count} not well", findings.len()),
    }
}

fn as_json(
    findings: &[Finding],
    memory: &Memory,
    rounds: &[Round],
    well: bool,
    now_ms: i64,
) -> serde_json::Value {
    let finding = |finding: &Finding| {
        json!({
            "name": finding.name(),
            "rule": finding.rule,
            "subject": finding.subject,
            "status": finding.status,
            "value": finding.value,
            "detail": finding.detail,
            "samples": finding.samples,
            "silenced": memory.silence(finding, now_ms).is_some(),
        })
    };
    let round = |round: &Round| {
        json!({
            "notifier": round.notifier,
            "sent": round.sent,
            "held": round.held,
            "error": round.error,
        })
    };
    json!({
        "checked_ms": now_ms,
        "well": well,
        "checks": findings.iter().map(finding).collect::<Vec<_>>(),
        "notifiers": rounds.iter().map(round).collect::<Vec<_>>(),
    })
}

/// Tells that a unit has failed.
pub fn failed(
    config: &Config,
    unit: &str,
    dry_run: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let finding = host::failed_unit(unit);
    if dry_run {
        writeln!(output, "would be told: {}: {}", finding.name(), finding.detail)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut desk: Desk = desk(config, FAILED_WAIT)?;
    let now_ms = wall_ms();
    desk.memory.learn(finding, now_ms, ms(config.alerts.repeat));
    let rounds = tell(config, &mut desk.memory, now_ms);
    desk.save()?;
    writeln!(
        output,
        "{unit} has failed; {} notifiers know",
        rounds.iter().filter(|one| one.error.is_none()).count()
    )?;
    Ok(ExitCode::SUCCESS)
}
