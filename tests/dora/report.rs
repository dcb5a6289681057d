//! Report, explain, plan-do-check-act, forecast and risk over both databases and by the binary.

use bitacora::config::{Config, Machine};
use bitacora::dora::events::{
    Change, Decision, Deployment, Incident, Pdca, Phase, PhaseName, Window,
};
use bitacora::dora::figures::Metric;
use bitacora::dora::history::Scope;
use bitacora::dora::pdca::{self, Proposal, status};
use bitacora::dora::{Answer, DoraStore, open, report};
use serde_json::{Map, Value, json};

use super::store::on_both;
use super::support::site::{Site, told};
use super::{runtime, sites};

const START: i64 = 1_795_305_600_000;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

fn deployment(id: &str, at: i64, hours: i64) -> Deployment {
    Deployment {
        id: id.into(),
        cycle_id: None,
        service: "shop".into(),
        team: "pan".into(),
        version: "1.4".into(),
        deployed_ms: at,
        succeeded: true,
        rework: false,
        changes: vec![Change { id: format!("c-{id}"), committed_ms: at - hours * HOUR }],
        metadata: Map::new(),
    }
}

fn incident(id: &str, deployment: &str, at: i64, hours: i64) -> Incident {
    Incident {
        id: id.into(),
        service: String::new(),
        team: String::new(),
        deployment: Some(deployment.into()),
        summary: "no bread".into(),
        opened_ms: at,
        closed_ms: Some(at + hours * HOUR),
        metadata: Map::new(),
    }
}

fn phase(cycle: &str, name: PhaseName, decision: Decision, at: i64, service: &str) -> Phase {
    Phase {
        cycle_id: cycle.into(),
        feature_id: "login".into(),
        name,
        decision,
        duration_cs: 360_012,
        metadata: json!({ "service": service, "team": "pan" }).as_object().unwrap().clone(),
        created_ms: at,
    }
}

/// Asks the wide questions alone, so that the trait's own answers to the narrow ones are seen.
struct Wide<'s>(&'s dyn DoraStore);

impl DoraStore for Wide<'_> {
    fn add_phases<'a>(&'a self, phases: &'a [Phase]) -> Answer<'a, Vec<bool>> {
        self.0.add_phases(phases)
    }
    fn phases<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Phase>> {
        self.0.phases(window)
    }
    fn cycle<'a>(&'a self, cycle_id: &'a str) -> Answer<'a, Vec<Phase>> {
        self.0.cycle(cycle_id)
    }
    fn add_deployment<'a>(&'a self, deployment: &'a Deployment) -> Answer<'a, bool> {
        self.0.add_deployment(deployment)
    }
    fn deployments<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Deployment>> {
        self.0.deployments(window)
    }
    fn deployment<'a>(&'a self, id: &'a str) -> Answer<'a, Option<Deployment>> {
        self.0.deployment(id)
    }
    fn open_incident<'a>(&'a self, incident: &'a Incident) -> Answer<'a, bool> {
        self.0.open_incident(incident)
    }
    fn close_incident<'a>(&'a self, id: &'a str, closed_ms: i64) -> Answer<'a, bool> {
        self.0.close_incident(id, closed_ms)
    }
    fn incidents<'a>(&'a self, window: &'a Window) -> Answer<'a, Vec<Incident>> {
        self.0.incidents(window)
    }
    fn put_pdca<'a>(&'a self, pdca: &'a Pdca) -> Answer<'a, ()> {
        self.0.put_pdca(pdca)
    }
    fn pdcas(&self) -> Answer<'_, Vec<Pdca>> {
        self.0.pdcas()
    }
}

#[test]
fn the_narrow_questions_of_the_report_answer_what_the_wide_ones_do() {
    use Decision::{Failed, Go, Success};
    use PhaseName::{Deployment as Deployed, Planning};
    on_both("narrow", async |store, name| {
        let phases = [
            phase("a", Planning, Go, START, "shop"),
            phase("a", Deployed, Success, START + DAY, "shop"),
            phase("b", Deployed, Failed, START + 2 * DAY, "till"),
            phase("b", Deployed, Success, START + 3 * DAY, "till"),
            phase("c", Deployed, Go, START - DAY, "shop"),
            phase("d", Planning, Success, START - DAY, "shop"),
        ];
        store.add_phases(&phases).await.unwrap();
        for (id, day) in [("x", 4), ("y", 5)] {
            let mut one = deployment(id, START + day * DAY, 5);
            one.service = if id == "x" { "till" } else { "shop" }.into();
            store.add_deployment(&one).await.unwrap();
        }
        let wide = Wide(store);
        let cycles = ["a", "b", "c", "nobody's"].map(str::to_owned);
        let began = store.cycle_starts(&cycles).await.unwrap();
        let mut expected = wide.cycle_starts(&cycles).await.unwrap();
        expected.sort_by(|one, other| one.cycle_id.cmp(&other.cycle_id));
        assert_eq!(expected.len(), 3);
        // 3600.12 s before its end
        assert_eq!(expected[0].started_ms, START - 3_600_120, "{name}");
        let mut sorted = began;
        sorted.sort_by(|one, other| one.cycle_id.cmp(&other.cycle_id));
        assert_eq!(sorted, expected, "{name}");
        assert_eq!(store.cycle_starts(&[]).await.unwrap(), [], "{name}");
        for service in [None, Some("shop"), Some("till"), Some("nobody's")] {
            for team in [None, Some("pan"), Some("no team")] {
                let window = Window {
                    since_ms: START - 10 * DAY,
                    until_ms: START + 10 * DAY,
                    service: service.map(str::to_owned),
                    team: team.map(str::to_owned),
                };
                let place = format!("{name} {service:?} {team:?}");
                let found = store.deployment_phases(&window).await.unwrap();
                assert_eq!(found, wide.deployment_phases(&window).await.unwrap(), "{place}");
                let found = store.starts(&window).await.unwrap();
                assert_eq!(found, wide.starts(&window).await.unwrap(), "{place}");
                let scope = Scope { service: window.service.clone(), team: window.team.clone() };
                let found = report::report(store, &scope, 10, START + 6 * DAY).await.unwrap();
                let expected = report::report(&wide, &scope, 10, START + 6 * DAY).await.unwrap();
                assert_eq!(found, expected, "{place}");
            }
        }
    });
}

#[test]
fn a_proposal_is_adopted_watched_or_reverted_on_both_databases() {
    on_both("pdca", async |store, name| {
        for (after, expected) in
            [(70, status::ADOPTED), (95, status::WATCHING), (130, status::REVERTED)]
        {
            let service = format!("s{after}");
            for day in 0..50 {
                let hours = if day < 20 { 100 } else { after };
                let mut one = deployment(&format!("{service}-{day}"), START + day * DAY, hours);
                one.service.clone_from(&service);
                store.add_deployment(&one).await.unwrap();
            }
            let proposal = Proposal {
                id: service.clone(),
                metric: Metric::LeadTime,
                text: "smaller changes".into(),
                scope: Scope { service: Some(service.clone()), team: None },
                window_days: 14,
            };
            let planned = pdca::propose(store, &proposal, START + 19 * DAY).await.unwrap();
            store.put_pdca(&planned).await.unwrap();
            let applied = pdca::apply(store, &service, START + 20 * DAY).await.unwrap();
            store.put_pdca(&applied).await.unwrap();
            assert!(pdca::check(store, &service, START + 33 * DAY).await.is_err(), "too early");
            let checked = pdca::check(store, &service, START + 34 * DAY).await.unwrap();
            store.put_pdca(&checked).await.unwrap();
            let stored = store.pdcas().await.unwrap();
            let stored = stored.iter().find(|one| one.id == service).unwrap();
            assert_eq!(
                (stored.status.as_str(), &stored.result),
                (expected, &checked.result),
                "{name}"
            );
            assert_eq!(stored.baseline["value"].as_f64(), Some(360_000.0), "{name}");
            assert_eq!(stored.result["events"], 14, "{name}");
        }
    });
}

/// Puts events into the database of a site.
fn fill(site: &Site, deployments: &[Deployment], incidents: &[Incident]) {
    let config = Config::load(&site.config(), &Machine::here()).unwrap();
    runtime().block_on(async {
        let store = open::open(&config.dora).await.unwrap();
        for one in deployments {
            assert!(store.add_deployment(one).await.unwrap());
        }
        for one in incidents {
            assert!(store.open_incident(one).await.unwrap());
        }
    });
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// 13 deployments, one a day and the last an hour ago: lead time 12 h (the first does not count),
/// d3 and d5 with an incident of 2 h, d7 could not be made and is mended a day later, d8 is rework.
fn thirteen() -> (Vec<Deployment>, Vec<Incident>) {
    let first = now() - HOUR - 12 * DAY;
    let mut deployments: Vec<Deployment> =
        (0..13).map(|day| deployment(&format!("d{day}"), first + day * DAY, 12)).collect();
    deployments[7].succeeded = false;
    deployments[8].rework = true;
    let incidents = [3, 5].map(|day: usize| {
        incident(&format!("i{day}"), &format!("d{day}"), deployments[day].deployed_ms, 2)
    });
    (deployments, incidents.to_vec())
}

fn text(site: &Site, arguments: &[&str]) -> String {
    let output = site.run(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_report_tells_five_figures_and_explain_their_events() {
    for site in sites("report") {
        let (deployments, incidents) = thirteen();
        fill(&site, &deployments, &incidents);
        let report = site.json(&["dora", "report", "--days", "20", "--json"]);
        let value = |place: usize| report["figures"][place]["value"].as_f64().unwrap();
        // 12 in production in the 12 days and an hour since the first
        assert!((value(0) - 12.0 / (12.0 + 1.0 / 24.0)).abs() < 1e-3, "{report}");
        assert!((value(1) - 43_200.0).abs() < 1e-6);
        assert!((value(2) - 3.0 / 13.0).abs() < 1e-9);
        assert!((value(3) - 7200.0).abs() < 1e-6);
        assert!((value(4) - 1.0 / 13.0).abs() < 1e-9);
        assert_eq!(report["definitions"], 1);
        assert_eq!(report["figures"][1]["band"]["name"], "elite");
        assert_eq!(report["figures"][1]["band"]["year"], 2024);
        assert_eq!(report["figures"][3]["enough"], false);
        assert_eq!(report["figures"][1]["left_out"]["before_adoption"], 1);

        let told = text(&site, &["dora", "report", "--days", "20", "--service", "shop"]);
        assert!(told.contains("median 12 h  (11 changes)"), "{told}");
        assert!(told.contains("median 2 h  (only 3 failed deployments)"), "{told}");
        assert!(told.contains("DORA 2024: elite: less than a day"), "{told}");
        let csv = text(&site, &["dora", "report", "--days", "20", "--csv"]);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 6, "{csv}");
        assert!(lines.iter().all(|line| line.split(',').count() == 19), "{csv}");
        assert!(lines[2].contains(",lead_time,seconds,43200,"), "{csv}");

        let explained =
            site.json(&["dora", "explain", "change-failure-rate", "--days", "20", "--json"]);
        let events = explained["events"].as_array().unwrap();
        let failed: Vec<&str> = events
            .iter()
            .filter(|one| one["value"] == json!(1.0))
            .map(|one| one["deployment"].as_str().unwrap())
            .collect();
        assert_eq!((events.len(), failed), (13, vec!["d3", "d5", "d7"]));
        let told = text(&site, &["dora", "explain", "recovery_time", "--days", "20"]);
        assert!(told.contains("until incident i3 was closed"), "{told}");
        assert!(told.contains("until deployment d8"), "{told}");
        site.answers(&["dora", "report", "--service", "nobody's"], 1, "no deployment was declared");
        site.answers(&["dora", "explain", "speed"], 2, "there are deployment_frequency, ");
    }
}

#[test]
fn the_steps_of_a_proposal_are_taken_in_order() {
    for site in sites("steps") {
        site.answers(&["dora", "pdca", "list"], 1, "");
        let propose =
            ["dora", "pdca", "propose", "lead_time", "small \u{1b}[31mchanges", "--id", "p"];
        site.answers(&propose, 1, "has only 0 events, 5 are needed");
        let (deployments, incidents) = thirteen();
        fill(&site, &deployments, &incidents);
        let dry: Vec<&str> = propose.into_iter().chain(["--dry-run"]).collect();
        site.answers(&dry, 0, "p would be proposed");
        site.answers(&["dora", "pdca", "apply", "p"], 1, "there is no proposal \"p\"");
        site.answers(&propose, 0, "lead time for changes 12 h (11 events)");
        site.answers(&propose, 2, "choose another --id");
        site.answers(&["dora", "pdca", "check", "p"], 2, "make the change");
        site.answers(&["dora", "pdca", "apply", "p"], 0, "check it after");
        site.answers(&["dora", "pdca", "check", "p"], 75, "the window of proposal \"p\" ends at");
        let list = site.json(&["dora", "pdca", "list", "--json"]);
        assert_eq!(list["proposals"][0]["status"], "applied_for_check");
        assert_eq!(list["proposals"][0]["baseline"]["events"], 11);
        let told = text(&site, &["dora", "pdca", "list"]);
        assert!(told.contains("small \\x1b[31mchanges"), "no terminal obeys it: {told}");
    }
}

#[test]
fn forecast_and_risk_refuse_few_events_and_are_the_same_for_the_same_seed() {
    for site in sites("forecast") {
        let (deployments, incidents) = thirteen();
        fill(&site, &deployments, &incidents);
        site.answers(&["dora", "forecast"], 1, "are too few for a forecast");
        site.answers(
            &["dora", "risk"],
            1,
            "13 deployments are too few for a forecast, 20 are needed",
        );
        let refused: Value =
            serde_json::from_slice(&site.run(&["dora", "risk", "--json"]).stdout).unwrap();
        assert!(refused["refused"].as_str().unwrap().contains("20 are needed"));
        let first = deployments[0].deployed_ms - 100 * DAY;
        let more: Vec<Deployment> = (0..90)
            .map(|day| deployment(&format!("m{day}"), first + day * DAY, 5 + day % 7))
            .collect();
        fill(&site, &more, &[]);
        let forecast = ["dora", "forecast", "--days", "7", "--seed", "3"];
        let told = text(&site, &forecast);
        assert!(told.contains("deployments in the next 7 days: "), "{told}");
        assert!(told.contains("such forecasts of the past held "), "{told}");
        let as_json: Vec<&str> = forecast.into_iter().chain(["--json"]).collect();
        let found = site.json(&as_json);
        assert!(found["deployments"]["test"]["coverage"].is_number(), "{found}");
        assert!(found["lead_time"]["median"].as_f64().unwrap() > 0.0, "{found}");
        let risk = site.json(&["dora", "risk", "--changes", "1", "--json"]);
        assert_eq!((&risk["events"], &risk["failures"]), (&json!(103), &json!(3)), "{risk}");
        assert!(
            risk["test"]["brier"].is_number() && risk["test"]["brier_of_base_rate"].is_number()
        );
        let told = text(&site, &["dora", "risk", "--service", "shop"]);
        assert!(told.contains("base rate"), "{told}");
    }
}
