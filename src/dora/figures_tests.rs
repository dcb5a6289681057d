//! The five metrics against a fixture that is computed by hand here.
//!
//! Days are counted from `START`; the period is day 30 to day 60, the one before day 0 to day 30.
//!
//! Before, of service shop (the first deployment, on day 2, opens the books: 28 days count):
//!
//! | deployment | change committed | lead time | |
//! |---|---|---|---|
//! | p0 day 2 | two on day -1000 | do not count: before adoption | |
//! | p1 day 5 | day 4 | 1 d | |
//! | p2 day 10 | day 8 | 2 d | |
//! | p3 day 15 | day 12 | 3 d | incident from 01:00 to 02:00: restored after 2 h |
//! | p4 day 20 | day 19 | 1 d | rework |
//! | p5 day 25 | day 21 | 4 d | |
//!
//! 6 deployments in 28 days; lead times 1 1 2 3 4 d: median 2 d; failed 1 of 6; rework 1 of 6.
//!
//! The period:
//!
//! | deployment | lead times | |
//! |---|---|---|
//! | d1 day 31 | a 24 h, b 12 h | |
//! | d2 day 33 | c 6 h | two incidents, to 02:00 and to 03:00: one failure, restored after 3 h |
//! | d3 day 35 | none is named | |
//! | d4 day 37 | e does not arrive | could not be made; d5 mends it after 6 h |
//! | d5 day 37, 06:00 | e 30 h | rework |
//! | d6 day 40 | a again: does not count; f 12 h | |
//! | d7 day 42 | none is named | incident z, still open |
//! | d8 day 42, 01:00 | g 2 h; its version is another hash (squashed) | z came after it, too, and names d7 alone |
//! | cycle c-1 day 45 | from day 42, 23:00: 49 h | |
//! | d9 day 46, 00:05 | ends cycle c-2, begun day 45, 10:00: 14 h 5 min | the cycle's own phase is not counted again |
//! | cycle c-3 day 48 | does not arrive | could not be made; mended after 4 h |
//! | cycle c-3 day 48, 04:00 | from day 47, 23:00: 5 h | |
//! | d10 day 50 | h committed an hour later: does not count | |
//!
//! 13 deployments, 11 in production in 30 days. Lead times in hours: 2 5 6 12 12 14.083 24 30 49:
//! median 12; p90 at place 7.2: 30 + 0.2 * 19 = 33.8; mean 154.083 / 9. Failed 4 of 13 (d2, d4,
//! d7, c-3). Recovery 3 h, 4 h, 6 h: median 4 h. Rework 1 of 13.

use proptest::prelude::*;

use super::*;
use crate::dora::events::{Decision, Incident, PhaseName};
use crate::dora::explain::explain;
use crate::dora::history::Scope;
use crate::dora::memory::{DAY, HOUR, MINUTE, Memory, change, deployment, incident, phase};
use crate::dora::report::{Direction, Report, report};

/// 2026-01-01T00:00:00Z
const START: i64 = 1_767_225_600_000;

fn day(day: i64) -> i64 {
    START + day * DAY
}

fn before() -> Memory {
    let mut memory = Memory::default();
    let mut add = |id: &str, on: i64, committed: i64| {
        let mut one = deployment(id, day(on));
        one.changes = vec![change(&format!("of-{id}"), day(committed))];
        one.rework = id == "p4";
        memory.deployments.push(one);
    };
    for (id, on, committed) in [
        ("p0", 2, -1000),
        ("p1", 5, 4),
        ("p2", 10, 8),
        ("p3", 15, 12),
        ("p4", 20, 19),
        ("p5", 25, 21),
    ] {
        add(id, on, committed);
    }
    memory.deployments[0].changes.push(change("ancient", day(-1000)));
    let closed = Some(day(15) + 2 * HOUR);
    memory.incidents.push(incident("i0", Some("p3"), day(15) + HOUR, closed));
    memory
}

fn cycles(memory: &mut Memory) {
    use Decision::{Failed, Go, Success};
    use PhaseName::{Deployment, Planning, Testing};
    memory.phases = vec![
        phase("c-1", Planning, Go, day(43), HOUR),
        phase("c-1", Testing, Go, day(44), HOUR),
        phase("c-1", Deployment, Success, day(45), 10 * MINUTE),
        phase("c-2", Planning, Go, day(45) + 12 * HOUR, 2 * HOUR),
        phase("c-2", Deployment, Success, day(46), MINUTE),
        phase("c-3", Deployment, Failed, day(48), HOUR),
        phase("c-3", Deployment, Success, day(48) + 4 * HOUR, MINUTE),
        // neither a success nor a failure: no deployment
        phase("c-4", Deployment, Decision::Blocked, day(49), HOUR),
    ];
}

/// The fixture above.
fn fixture() -> Memory {
    let mut memory = before();
    cycles(&mut memory);
    for (id, at, changes) in [
        ("d1", day(31), vec![("a", day(30)), ("b", day(30) + 12 * HOUR)]),
        ("d2", day(33), vec![("c", day(32) + 18 * HOUR)]),
        ("d3", day(35), vec![]),
        ("d4", day(37), vec![("e", day(36))]),
        ("d5", day(37) + 6 * HOUR, vec![("e", day(36))]),
        ("d6", day(40), vec![("a", day(30)), ("f", day(39) + 12 * HOUR)]),
        ("d7", day(42), vec![]),
        ("d8", day(42) + HOUR, vec![("g", day(41) + 23 * HOUR)]),
        ("d9", day(46) + 5 * MINUTE, vec![]),
        ("d10", day(50), vec![("h", day(50) + HOUR)]),
    ] {
        let mut one = deployment(id, at);
        one.changes = changes.into_iter().map(|(id, at)| change(id, at)).collect();
        one.succeeded = id != "d4";
        one.rework = id == "d5";
        one.cycle_id = (id == "d9").then(|| "c-2".to_owned());
        one.version = "squashed".to_owned();
        memory.deployments.push(one);
    }
    let at = |on: i64, minutes: i64| day(on) + minutes * MINUTE;
    memory.incidents.extend([
        incident("x", Some("d2"), at(33, 60), Some(at(33, 120))),
        incident("y", Some("d2"), at(33, 90), Some(at(33, 180))),
        incident("z", Some("d7"), at(42, 120), None),
        incident("nobody's", None, at(51, 0), Some(at(51, 30))),
    ]);
    // an incident need not repeat the service of the deployment that it names
    memory.incidents[1].service.clear();
    memory
}

async fn report_of(memory: &Memory) -> Report {
    let scope = Scope { service: Some("shop".into()), team: None };
    report(memory, &scope, 30, day(60)).await.unwrap()
}

#[track_caller]
fn near(found: Option<f64>, expected: f64) {
    let found = found.expect("a value");
    assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0), "{found} is not {expected}");
}

#[tokio::test]
async fn all_five_figures_are_those_that_are_computed_by_hand() {
    let report = report_of(&fixture()).await;
    let hours = |hours: f64| hours * 3600.0;
    let [frequency, lead, failures, recovery, rework] = report.figures.as_slice() else {
        panic!("{} figures", report.figures.len())
    };

    near(frequency.figure.value, 11.0 / 30.0);
    assert_eq!((frequency.figure.events, frequency.figure.enough), (11, true));
    near(frequency.trend.previous.value, 6.0 / 28.0);

    near(lead.figure.value, hours(12.0));
    let spread = lead.figure.spread.unwrap();
    near(Some(spread.p90), hours(33.8));
    near(Some(spread.mean), hours((154.0 + 5.0 / 60.0) / 9.0));
    assert_eq!((lead.figure.events, lead.figure.enough), (9, true));
    let left_out = [
        (LeftOut::NotInProduction, 2),
        (LeftOut::NoChanges, 2),
        (LeftOut::DeployedBefore, 1),
        (LeftOut::TimesDisagree, 1),
    ];
    assert_eq!(lead.figure.left_out, BTreeMap::from(left_out));
    near(lead.trend.previous.value, hours(48.0));
    assert_eq!(lead.trend.previous.left_out, BTreeMap::from([(LeftOut::BeforeAdoption, 2)]));

    near(failures.figure.value, 4.0 / 13.0);
    assert_eq!((failures.figure.events, failures.figure.of), (4, Some(13)));
    near(failures.trend.previous.value, 1.0 / 6.0);

    near(recovery.figure.value, hours(4.0));
    assert_eq!((recovery.figure.events, recovery.figure.enough), (3, false));
    assert_eq!(recovery.figure.left_out, BTreeMap::from([(LeftOut::NotRestored, 1)]));
    near(recovery.trend.previous.value, hours(2.0));

    near(rework.figure.value, 1.0 / 13.0);
    near(rework.trend.previous.value, 1.0 / 6.0);
    assert_eq!((report.stray_incidents, report.starts_ms), (1, Some(day(2))));
}

#[tokio::test]
async fn trends_and_bands_follow_from_the_figures() {
    use Direction::{Better, Worse};
    let report = report_of(&fixture()).await;
    let told: Vec<_> = report
        .figures
        .iter()
        .map(|line| {
            let band = line.band.as_ref().and_then(|band| band.name);
            (line.trend.direction.unwrap(), line.trend.enough, band)
        })
        .collect();
    // 6 deployments before are below the 10 of a rate; of 3 recoveries no band is told
    let expected = [
        (Better, false, Some("high")),
        (Better, true, Some("elite")),
        (Worse, false, Some("low")),
        (Worse, false, None),
        (Better, false, None),
    ];
    assert_eq!(told, expected);
    // 48 h to 12 h
    near(report.figures[1].trend.percent, -75.0);
    near(report.figures[1].trend.change, -36.0 * 3600.0);
}

#[tokio::test]
async fn explain_lists_exactly_the_events_of_the_figure() {
    let memory = fixture();
    let scope = Scope { service: Some("shop".into()), team: None };
    let report = report_of(&memory).await;
    for (metric, line) in Metric::ALL.into_iter().zip(&report.figures) {
        let explained = explain(&memory, metric, &scope, 30, day(60)).await.unwrap();
        assert_eq!(explained.figure, line.figure, "{metric:?}");
        let counted = explained.events.iter().filter(|one| one.value.is_some()).count();
        assert_eq!(counted, line.figure.of.unwrap_or(line.figure.events), "{metric:?}");
    }
    let lead = explain(&memory, Metric::LeadTime, &scope, 30, day(60)).await.unwrap();
    let of_d6: Vec<_> = lead.events.iter().filter(|one| one.deployment == "d6").collect();
    assert_eq!(of_d6[0].left_out, Some(LeftOut::DeployedBefore));
    assert_eq!((of_d6[1].detail.as_str(), of_d6[1].value), ("f", Some(43_200.0)));
    let recovery = explain(&memory, Metric::RecoveryTime, &scope, 30, day(60)).await.unwrap();
    let told: Vec<_> =
        recovery.events.iter().map(|one| (one.deployment.as_str(), one.detail.as_str())).collect();
    let expected = [
        ("d2", "until incident y was closed"),
        ("d4", "until deployment d5"),
        ("d7", "is not restored yet"),
        ("c-3", "until deployment c-3"),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn other_services_and_teams_do_not_enter() {
    let mut memory = fixture();
    let expected = report_of(&memory).await;
    for (id, on) in [("b1", 20), ("b2", 40), ("b3", 44)] {
        let mut blog = deployment(id, day(on));
        blog.service = "blog".into();
        blog.team = "news".into();
        // the same name as a change of the shop
        blog.changes = vec![change("f", day(on) - HOUR)];
        blog.succeeded = id != "b2";
        memory.deployments.push(blog);
    }
    let of_blog = incident("of blog", Some("b3"), day(44) + HOUR, None);
    memory.incidents.push(Incident { service: "blog".into(), team: "news".into(), ..of_blog });
    assert_eq!(report_of(&memory).await, expected);
    let all = report(&memory, &Scope::default(), 30, day(60)).await.unwrap();
    assert_eq!(all.figures[0].figure.events, expected.figures[0].figure.events + 1);
    assert_eq!(all.figures[2].figure.of, Some(15));
    let scope = Scope { service: None, team: Some("news".into()) };
    let news = report(&memory, &scope, 30, day(60)).await.unwrap();
    assert_eq!(news.figures[2].figure.of, Some(2));
}

#[tokio::test]
async fn a_deployment_and_its_cycle_on_both_sides_of_a_border_are_one() {
    let mut memory = before();
    memory.phases.push(phase(
        "late",
        PhaseName::Deployment,
        Decision::Success,
        day(60) - MINUTE,
        HOUR,
    ));
    let count = |report: Report| report.figures[0].figure.events;
    assert_eq!(count(report_of(&memory).await), 1);
    let mut later = deployment("later", day(60) + MINUTE);
    later.cycle_id = Some("late".into());
    memory.deployments.push(later);
    assert_eq!(count(report_of(&memory).await), 0);
}

/// CI runs `deploy.sh` as a phase, which fails; the second try succeeds, and is declared.
#[tokio::test]
async fn a_declared_deployment_does_not_hide_the_attempt_that_failed_before_it() {
    use Decision::{Failed, Success};
    let mut memory = before();
    let attempt = |decision, at| phase("c", PhaseName::Deployment, decision, at, MINUTE);
    memory.phases = vec![attempt(Failed, day(40)), attempt(Success, day(40) + HOUR)];
    let told = |report: &Report| {
        let [count, _, failures, recovery, _] = &report.figures[..] else { panic!("five") };
        let recovered = recovery.figure.value;
        (count.figure.events, failures.figure.events, failures.figure.of, recovered)
    };
    let cycle_alone = told(&report_of(&memory).await);
    assert_eq!(cycle_alone, (1, 1, Some(2), Some(3600.0)));
    let mut declared = deployment("d", day(40) + HOUR);
    declared.cycle_id = Some("c".into());
    memory.deployments.push(declared);
    assert_eq!(told(&report_of(&memory).await), cycle_alone);
    // an incident that names the cycle means what of it was in production when it was opened
    memory.incidents.push(incident("i", Some("c"), day(41), Some(day(41) + HOUR)));
    let report = report_of(&memory).await;
    assert_eq!((report.figures[2].figure.events, report.stray_incidents), (2, 0));
    // one that could not be made is told as the phase and as the deployment, and failed once
    memory.deployments.last_mut().unwrap().succeeded = false;
    memory.phases.truncate(1);
    assert_eq!(report_of(&memory).await.figures[2].figure.of, Some(1));
}

#[tokio::test]
async fn the_first_deployment_that_reached_production_brings_what_gathered() {
    let mut memory = Memory::default();
    for (id, at, succeeded) in
        [("failed", day(31), false), ("first", day(32), true), ("second", day(33), true)]
    {
        let mut one = deployment(id, at);
        one.succeeded = succeeded;
        one.changes = vec![change(&format!("old-{id}"), day(-1000))];
        memory.deployments.push(one);
    }
    memory.deployments[2].changes[0].committed_ms = day(32);
    let report = report_of(&memory).await;
    let lead = &report.figures[1].figure;
    assert_eq!((lead.events, lead.value), (1, Some(86_400.0)));
    let left_out = [(LeftOut::NotInProduction, 1), (LeftOut::BeforeAdoption, 1)];
    assert_eq!(lead.left_out, BTreeMap::from(left_out));
}

#[tokio::test]
async fn without_events_there_are_no_figures_and_few_say_so() {
    let empty = report_of(&Memory::default()).await;
    for line in &empty.figures {
        assert_eq!((line.figure.value, line.figure.enough), (None, false), "{line:?}");
        assert_eq!((&line.band, line.trend.direction), (&None, None), "{line:?}");
    }
    let memory = Memory { deployments: vec![deployment("d", day(60) - HOUR)], ..Memory::default() };
    let one = report_of(&memory).await;
    // an hour after the first deployment: a day is the least that counts
    near(one.figures[0].figure.value, 1.0);
    assert!(!one.figures[0].figure.enough && one.figures[0].band.is_none());
    near(one.figures[2].figure.value, 0.0);
    assert!(!one.figures[2].figure.enough);
}

#[test]
fn quantiles_are_those_of_the_book() {
    let of = |values: &[f64], part| quantile(values, part);
    assert_eq!(of(&[], 0.5), None);
    assert_eq!(of(&[7.0], 0.9), Some(7.0));
    assert_eq!(of(&[1.0, 2.0, 3.0, 4.0], 0.5), Some(2.5));
    assert_eq!(of(&[1.0, 2.0, 3.0], 0.5), Some(2.0));
    assert_eq!(of(&[0.0, 10.0], 0.9), Some(9.0));
}

/// What happens to one deployment of a generated history.
fn random_memory() -> impl Strategy<Value = Memory> {
    let one = (0_i64..90, any::<bool>(), any::<bool>(), prop::option::of((1_i64..90, 0_i64..50)));
    let changes = prop::collection::vec((0_u8..30, -20_i64..100), 0..4);
    prop::collection::vec((one, changes), 0..30).prop_map(|made| {
        let mut memory = Memory::default();
        for (number, ((on, succeeded, rework, broken), changes)) in made.into_iter().enumerate() {
            let id = format!("d{number}");
            let mut one = deployment(&id, day(on));
            (one.succeeded, one.rework) = (succeeded, rework);
            let named = changes.into_iter().map(|(id, on)| change(&id.to_string(), day(on)));
            one.changes = named.collect();
            memory.deployments.push(one);
            if let Some((hours, more)) = broken {
                let opened = day(on) + hours * HOUR;
                let closed = (more > 0).then(|| opened + more * HOUR);
                memory.incidents.push(incident(&format!("i{number}"), Some(&id), opened, closed));
            }
        }
        memory
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_quantile_lies_among_the_values_and_grows(
        mut values in prop::collection::vec(-1e9_f64..1e9, 1..50),
        a in 0.0_f64..1.0,
        b in 0.0_f64..1.0,
    ) {
        values.sort_by(f64::total_cmp);
        let (low, high) = (quantile(&values, a.min(b)).unwrap(), quantile(&values, a.max(b)).unwrap());
        prop_assert!(values[0] <= low && low <= high && high <= values[values.len() - 1]);
        // as many below the median as above it
        let median = quantile(&values, 0.5).unwrap();
        let below = values.iter().filter(|one| **one < median).count();
        let above = values.iter().filter(|one| **one > median).count();
        prop_assert!(below <= values.len() / 2 && above <= values.len() / 2);
    }

    #[test]
    fn the_order_in_which_events_come_changes_nothing(
        memory in random_memory(),
        seed in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let expected = runtime.block_on(report_of(&memory));
        let mut chance = crate::dora::chance::Chance::new(seed);
        let mut shuffled = memory;
        for last in (1..shuffled.deployments.len()).rev() {
            shuffled.deployments.swap(last, chance.below(last + 1));
        }
        shuffled.incidents.reverse();
        prop_assert_eq!(runtime.block_on(report_of(&shuffled)), expected);
    }

    #[test]
    fn shares_and_counts_stay_within_their_bounds(memory in random_memory()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let report = runtime.block_on(report_of(&memory));
        for line in &report.figures {
            let figure = &line.figure;
            if let (Some(value), Unit::Share) = (figure.value, figure.unit) {
                prop_assert!((0.0..=1.0).contains(&value));
            }
            prop_assert!(figure.value.is_none_or(|value| value.is_finite() && value >= 0.0));
            prop_assert!(figure.of.is_none_or(|of| figure.events <= of));
        }
        let first_ms = memory.deployments.iter().map(|one| one.deployed_ms).min();
        prop_assert_eq!(report.starts_ms, first_ms);
    }
}
