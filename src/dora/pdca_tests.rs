//! Plan, do, check, act: both ways, and what is refused.

use super::*;
use crate::dora::memory::{DAY, HOUR, Memory, change, deployment};

const START: i64 = 1_767_225_600_000;

/// One deployment a day for 60 days; its change took `before` hours, from day 30 on `after`.
fn memory(before: i64, after: i64) -> Memory {
    let mut memory = Memory::default();
    for day in 0..60 {
        let mut one = deployment(&format!("d{day}"), START + day * DAY);
        let hours = if day < 30 { before } else { after };
        one.changes = vec![change(&format!("c{day}"), one.deployed_ms - hours * HOUR)];
        memory.deployments.push(one);
    }
    memory
}

fn proposal(metric: Metric) -> Proposal {
    Proposal {
        id: "small".into(),
        metric,
        text: "smaller changes".into(),
        scope: Scope { service: Some("shop".into()), team: None },
        window_days: 28,
    }
}

/// Proposes on day 29, applies on day 30 and checks on day 58.
async fn judged(memory: &Memory, metric: Metric) -> Result<Pdca, PdcaError> {
    let planned = propose(memory, &proposal(metric), START + 29 * DAY).await?;
    memory.put_pdca(&planned).await?;
    let applied = apply(memory, "small", START + 30 * DAY).await?;
    memory.put_pdca(&applied).await?;
    let checked = check(memory, "small", START + 58 * DAY).await?;
    memory.put_pdca(&checked).await?;
    Ok(checked)
}

#[tokio::test]
async fn a_check_says_adopted_watching_or_reverted_with_the_numbers() {
    for (after, expected, percent) in [
        (80, status::ADOPTED, 20.0),
        (84, status::ADOPTED, 16.0),
        // exactly 15 % is not more than 15 %
        (85, status::WATCHING, 15.0),
        (100, status::WATCHING, 0.0),
        (115, status::WATCHING, -15.0),
        (116, status::REVERTED, -16.0),
        (200, status::REVERTED, -100.0),
    ] {
        let checked = judged(&memory(100, after), Metric::LeadTime).await.unwrap();
        assert_eq!(checked.status, expected, "{after}");
        let told = |value: &Value, key: &str| value[key].as_f64().unwrap();
        assert!((told(&checked.result, "better_percent") - percent).abs() < 1e-6, "{after}");
        assert!((told(&checked.baseline, "value") - 360_000.0).abs() < 1e-6);
        // days 1 to 28
        assert_eq!(checked.baseline["events"], 28);
        assert_eq!(checked.result["events"], 28);
        assert_eq!(checked.checked_ms, Some(START + 58 * DAY));
    }
}

#[tokio::test]
async fn more_deployments_are_better() {
    // from day 30 on two a day
    let mut often = memory(1, 1);
    for day in 30..60 {
        often.deployments.push(deployment(&format!("e{day}"), START + day * DAY + HOUR));
    }
    let checked = judged(&often, Metric::DeploymentFrequency).await.unwrap();
    assert_eq!((checked.status.as_str(), &checked.result["events"]), (status::ADOPTED, &json!(56)));
    // and fewer are worse
    let mut rare = memory(1, 1);
    rare.deployments.retain(|one| one.deployed_ms < START + 30 * DAY || one.id.ends_with('0'));
    for hour in 0..8 {
        rare.deployments.push(deployment(&format!("e{hour}"), START + 31 * DAY + hour * HOUR));
    }
    let checked = judged(&rare, Metric::DeploymentFrequency).await.unwrap();
    assert_eq!(checked.status, status::REVERTED);
}

#[test]
fn from_nothing_every_worsening_is_too_much() {
    let rate = Metric::ChangeFailureRate;
    assert_eq!(verdict(improvement(rate, 0.0, 0.1)), status::REVERTED);
    assert_eq!(verdict(improvement(rate, 0.0, 0.0)), status::WATCHING);
    assert_eq!(verdict(improvement(rate, 0.1, 0.0)), status::ADOPTED);
    // 0.2 to 0.17 is exactly 15 %, whatever floats make of it
    assert_eq!(verdict(improvement(rate, 0.2, 0.17)), status::WATCHING);
}

#[tokio::test]
async fn a_baseline_stays_as_it_was_proposed() {
    let mut changing = memory(100, 50);
    let planned = propose(&changing, &proposal(Metric::LeadTime), START + 29 * DAY).await.unwrap();
    changing.put_pdca(&planned).await.unwrap();
    changing.put_pdca(&apply(&changing, "small", START + 30 * DAY).await.unwrap()).await.unwrap();
    // the past is told anew: the frozen figure does not follow
    for one in &mut changing.deployments {
        one.changes[0].committed_ms = one.deployed_ms - 50 * HOUR;
    }
    let checked = check(&changing, "small", START + 58 * DAY).await.unwrap();
    assert_eq!(checked.status, status::ADOPTED);
}

#[tokio::test]
async fn what_is_watched_is_checked_again_after_one_more_window() {
    let memory = memory(100, 100);
    judged(&memory, Metric::LeadTime).await.unwrap();
    let early = check(&memory, "small", START + 59 * DAY).await.unwrap_err();
    assert!(matches!(early, PdcaError::TooEarly { .. }), "{early}");
    // the second window, day 58 to 86, has two deployments
    let few = check(&memory, "small", START + 86 * DAY).await.unwrap_err().to_string();
    assert!(few.contains("has only 2 events, 5 are needed"), "{few}");
}

#[tokio::test]
async fn steps_out_of_order_are_refused_and_say_why() {
    let memory = memory(100, 80);
    let at = |day: i64| START + day * DAY;
    let unknown = apply(&memory, "small", at(30)).await.unwrap_err().to_string();
    assert!(unknown.contains("no proposal \"small\""), "{unknown}");
    let planned = propose(&memory, &proposal(Metric::LeadTime), at(29)).await.unwrap();
    memory.put_pdca(&planned).await.unwrap();
    let taken = propose(&memory, &proposal(Metric::LeadTime), at(29)).await.unwrap_err();
    assert!(matches!(taken, PdcaError::Taken { .. }), "{taken}");
    let not_applied = check(&memory, "small", at(58)).await.unwrap_err().to_string();
    assert!(not_applied.contains("is proposed: make the change"), "{not_applied}");
    assert!(apply(&memory, "small", at(28)).await.is_err(), "applied before it was proposed");
    memory.put_pdca(&apply(&memory, "small", at(30)).await.unwrap()).await.unwrap();
    assert!(matches!(apply(&memory, "small", at(31)).await, Err(PdcaError::Order { .. })));
    // START is the first of January, so day 58 is the 28th of February
    let early = check(&memory, "small", at(58) - 1).await.unwrap_err().to_string();
    assert!(early.contains("ends at 2026-02-28T00:00:00Z"), "{early}");
    memory.put_pdca(&check(&memory, "small", at(58)).await.unwrap()).await.unwrap();
    assert!(matches!(check(&memory, "small", at(90)).await, Err(PdcaError::Order { .. })));
}

#[tokio::test]
async fn too_few_events_are_refused_before_and_after() {
    let mut few = memory(100, 80);
    few.deployments.truncate(5);
    let refused = propose(&few, &proposal(Metric::LeadTime), START + 10 * DAY).await.unwrap_err();
    assert!(refused.to_string().contains("only 4 events, 5 are needed"), "{refused}");
    let mut ends = memory(100, 80);
    ends.deployments.truncate(33);
    let refused = judged(&ends, Metric::LeadTime).await.unwrap_err();
    assert!(refused.to_string().contains("only 3 events, 5 are needed"), "{refused}");
}
