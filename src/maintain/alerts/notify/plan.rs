//! What a notifier is to be told: each trouble once, again after `repeat` or when there is more of
//! it, and its end; nothing of what is silenced; and no more messages than its hourly limit, beyond
//! which the rest comes as one summary.

use super::{Delivered, Kind, Message, News};
use crate::config::Alerts;
use crate::maintain::alerts::memory::{Memory, Told};
use crate::maintain::alerts::text::ms;

const HOUR_MS: i64 = 3_600_000;

/// Messages for one notifier, and what each tells of.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// In the order in which they go out.
    pub messages: Vec<Message>,
    /// The names of the news of each.
    names: Vec<Vec<(String, Kind)>>,
    /// News that wait for a later check, as the hour is full.
    pub held: usize,
}

/// Makes the plan for a notifier.
#[must_use]
pub fn plan(memory: &Memory, notifier: &str, host: &str, alerts: &Alerts, now_ms: i64) -> Plan {
    let mut due = due(memory, notifier, ms(alerts.repeat), now_ms);
    let sent = memory.notifiers.get(notifier).map_or(0, |sent| {
        sent.sent_ms.iter().filter(|at| now_ms.saturating_sub(**at) < HOUR_MS).count()
    });
    let room = usize::try_from(alerts.hourly_max).unwrap_or(usize::MAX).saturating_sub(sent);
    let mut plan = Plan::default();
    if room == 0 {
        plan.held = due.len();
        return plan;
    }
    // trouble before recoveries: if something must share a message, it is the good news
    due.sort_by_key(|(_, news)| news.kind);
    let rest = if due.len() > room { due.split_off(room - 1) } else { Vec::new() };
    let single = due.into_iter().map(|one| vec![one]);
    for news in single.chain((!rest.is_empty()).then_some(rest)) {
        plan.names.push(news.iter().map(|(name, news)| (name.clone(), news.kind)).collect());
        let news = news.into_iter().map(|(_, news)| news).collect();
        plan.messages.push(Message::new(host, now_ms, news));
    }
    plan
}

fn due(memory: &Memory, notifier: &str, repeat_ms: i64, now_ms: i64) -> Vec<(String, News)> {
    let mut due = Vec::new();
    for (name, known) in &memory.known {
        // a notifier that fails is told by the other ones
        let itself = known.finding.rule == "notifier" && known.finding.subject == notifier;
        if itself || memory.silence(&known.finding, now_ms).is_some() {
            continue;
        }
        let told = known.told.get(notifier);
        let kind = match (known.trouble, told) {
            (false, None) => continue,
            (false, Some(_)) => Kind::Recovered,
            (true, None | Some(Told { at_ms: None, .. })) => Kind::Trouble,
            (true, Some(Told { at_ms: Some(at), mark, since_ms })) => {
                if *since_ms != known.since_ms {
                    // it ended and came back, and the end could not be told
                    Kind::Trouble
                } else if now_ms.saturating_sub(*at) >= repeat_ms || known.finding.mark > *mark {
                    Kind::Still
                } else {
                    continue;
                }
            }
        };
        let since_ms = match kind {
            Kind::Recovered => told.map_or(known.since_ms, |told| told.since_ms),
            _ => known.since_ms,
        };
        due.push((name.clone(), News::new(kind, &known.finding, since_ms)));
    }
    due
}

/// Notes what became of a plan: what went out counts as told, and a trouble that did not is to be
/// told later, also if it has ended by then.
pub fn note(memory: &mut Memory, notifier: &str, plan: &Plan, delivered: &Delivered, now_ms: i64) {
    for (at, names) in plan.names.iter().enumerate() {
        let arrived = at < delivered.messages;
        for (name, kind) in names {
            let Some(known) = memory.known.get_mut(name) else { continue };
            if *kind == Kind::Recovered {
                if arrived {
                    known.told.remove(notifier);
                }
                continue;
            }
            let told = known.told.entry(notifier.to_owned()).or_insert(Told {
                since_ms: known.since_ms,
                at_ms: None,
                mark: known.finding.mark,
            });
            if arrived {
                *told = Told {
                    since_ms: known.since_ms,
                    at_ms: Some(now_ms),
                    mark: known.finding.mark,
                };
            }
        }
    }
    note_held(memory, notifier, plan, now_ms);
    let sent = memory.notifiers.entry(notifier.to_owned()).or_default();
    sent.sent_ms.retain(|at| now_ms.saturating_sub(*at) < HOUR_MS);
    sent.sent_ms.extend(std::iter::repeat_n(now_ms, delivered.messages));
    sent.failing = match (&delivered.error, sent.failing.take()) {
        (Some(error), Some((since, _))) => Some((since, error.to_string())),
        (Some(error), None) => Some((now_ms, error.to_string())),
        // with nothing to send, it is not known to work again
        (None, failing) if plan.messages.is_empty() => failing,
        (None, _) => None,
    };
}

/// A trouble that the hourly limit holds back is told later, also if it has ended by then.
fn note_held(memory: &mut Memory, notifier: &str, plan: &Plan, now_ms: i64) {
    if plan.held == 0 {
        return;
    }
    let silenced: Vec<String> = memory
        .known
        .iter()
        .filter(|(_, known)| memory.silence(&known.finding, now_ms).is_some())
        .map(|(name, _)| name.clone())
        .collect();
    for (name, known) in &mut memory.known {
        let itself = known.finding.rule == "notifier" && known.finding.subject == notifier;
        if known.trouble && !itself && !silenced.contains(name) {
            let (since_ms, mark) = (known.since_ms, known.finding.mark);
            let untold = Told { since_ms, at_ms: None, mark };
            known.told.entry(notifier.to_owned()).or_insert(untold);
        }
    }
}

/// Forgets what was told to notifiers that are not there any more.
pub fn forget(memory: &mut Memory, notifiers: &[&str]) {
    for known in memory.known.values_mut() {
        known.told.retain(|name, _| notifiers.contains(&name.as_str()));
    }
    memory.notifiers.retain(|name, _| notifiers.contains(&name.as_str()));
}

#[cfg(test)]
mod tests;
