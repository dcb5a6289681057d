//! `bitacora alerts list`: rules, what was found last, silences, notifiers.

use std::io::Write;
use std::process::ExitCode;

use serde_json::json;

use crate::config::Config;
use crate::daemon::wall_ms;
use crate::maintain::alerts::text::{ago, time};
use crate::maintain::alerts::{self, Known, Memory, notify};
use crate::stores::health::CheckStatus;

/// Shows what is remembered.
pub fn run(config: &Config, as_json: bool, output: &mut impl Write) -> anyhow::Result<ExitCode> {
    let now_ms = wall_ms();
    let memory = alerts::remembered(config)?;
    let checked = memory.is_some();
    let memory = memory.unwrap_or_else(|| Memory::new(now_ms));
    let rules = alerts::rules(config);
    if as_json {
        writeln!(output, "{}", object(config, &rules, &memory, checked, now_ms))?;
    } else {
        show(config, &rules, &memory, checked, now_ms, output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn found<'a>(memory: &'a Memory, rule: &'a str) -> impl Iterator<Item = &'a Known> {
    memory.known.values().filter(move |known| known.finding.rule == rule)
}

fn names(config: &Config) -> Vec<&'static str> {
    notify::configured(&config.alerts).iter().map(|notifier| notifier.name()).collect()
}

fn object(
    config: &Config,
    rules: &[String],
    memory: &Memory,
    checked: bool,
    now_ms: i64,
) -> serde_json::Value {
    let known = |known: &Known| {
        let finding = &known.finding;
        json!({
            "name": finding.name(),
            "status": finding.status,
            "trouble": known.trouble,
            "since_ms": known.since_ms,
            "value": finding.value,
            "detail": finding.detail,
            "samples": finding.samples,
            "silenced": memory.silence(finding, now_ms).is_some(),
        })
    };
    let rule = |rule: &String| {
        let last: Vec<_> = found(memory, rule).map(known).collect();
        json!({ "rule": rule, "last": last })
    };
    let notifier = |name: &&str| {
        let sent = memory.notifiers.get(*name);
        json!({
            "notifier": name,
            "sent_in_an_hour": sent.map_or(0, |sent| sent.sent_ms.len()),
            "failing": sent.and_then(|sent| sent.failing.as_ref()).map(|(since_ms, why)| {
                json!({ "since_ms": since_ms, "error": why })
            }),
        })
    };
    json!({
        "checked_ms": checked.then_some(memory.last_ms),
        "rules": rules.iter().map(rule).collect::<Vec<_>>(),
        "silences": memory.silences.iter().filter(|one| one.until_ms > now_ms).collect::<Vec<_>>(),
        "notifiers": names(config).iter().map(notifier).collect::<Vec<_>>(),
    })
}

fn show(
    config: &Config,
    rules: &[String],
    memory: &Memory,
    checked: bool,
    now_ms: i64,
    output: &mut impl Write,
) -> std::io::Result<()> {
    match checked {
        true => writeln!(output, "last check {} ago", ago(now_ms - memory.last_ms))?,
        false => writeln!(output, "there was no check yet: `bitacora alerts check` makes one")?,
    }
    for rule in rules {
        let mut none = true;
        for known in found(memory, rule) {
            none = false;
            let silenced = memory.silence(&known.finding, now_ms).map_or("", |_| " (silenced)");
            let since = ago(now_ms - known.since_ms);
            let word = match (known.finding.status, known.trouble) {
                (CheckStatus::Unknown, _) => "unknown",
                (_, true) => "TROUBLE",
                (_, false) => "ok",
            };
            let (name, detail) = (known.finding.name(), &known.finding.detail);
            writeln!(output, "{word:<8}{name}{silenced}, for {since}: {detail}")?;
        }
        if none {
            writeln!(output, "-       {rule}")?;
        }
    }
    for silence in memory.silences.iter().filter(|silence| silence.until_ms > now_ms) {
        let until = time(silence.until_ms);
        writeln!(output, "silence {} until {until}: {}", silence.rule, silence.reason)?;
    }
    for name in names(config) {
        match memory.notifiers.get(name).and_then(|sent| sent.failing.as_ref()) {
            Some((since, why)) => {
                let since = ago(now_ms - since);
                writeln!(output, "notifier {name} has failed for {since}: {why}")?;
            }
            None => writeln!(output, "notifier {name}")?,
        }
    }
    Ok(())
}
