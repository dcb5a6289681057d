//! Both databases keep the same, and answer the same.

use bitacora::dora::events::{
    Change, Decision, Deployment, Incident, Pdca, Phase, PhaseName, Window,
};
use bitacora::dora::history::Scope;
use bitacora::dora::report::report;
use bitacora::dora::{DoraError, DoraStore, api, open, schema};
use serde_json::{Map, Value, json};

use super::support::mariadb::{self, Server, numbers};
use super::support::skip;
use super::{in_file, mysql, new_database, on_server, runtime, server};

const START: i64 = 1_795_305_600_000;
const HOUR: i64 = 3_600_000;

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn phase(cycle: &str, name: PhaseName, at: i64, metadata: Value) -> Phase {
    Phase {
        cycle_id: cycle.into(),
        feature_id: "login ñ".into(),
        name,
        decision: Decision::NoGo,
        duration_cs: 1235,
        metadata: map(metadata),
        created_ms: at,
    }
}

fn deployment(id: &str, service: &str, at: i64) -> Deployment {
    Deployment {
        id: id.into(),
        cycle_id: Some(format!("cycle of {id}")),
        service: service.into(),
        team: "pan".into(),
        version: "1.4".into(),
        deployed_ms: at,
        succeeded: false,
        rework: true,
        changes: vec![
            Change { id: "late".into(), committed_ms: at - 1 },
            Change { id: "early".into(), committed_ms: at - HOUR },
        ],
        metadata: map(json!({"by": "ci"})),
    }
}

fn incident(id: &str, service: &str, deployment: Option<&str>, at: i64) -> Incident {
    Incident {
        id: id.into(),
        service: service.into(),
        team: "pan".into(),
        deployment: deployment.map(str::to_owned),
        summary: "no bread; \"quoted\"".into(),
        opened_ms: at,
        closed_ms: None,
        metadata: Map::new(),
    }
}

fn window(since: i64, until: i64) -> Window {
    Window { since_ms: since, until_ms: until, service: None, team: None }
}

fn of_service(service: &str) -> Window {
    Window { service: Some(service.into()), ..window(0, i64::MAX) }
}

/// Runs a check on each database that is there, empty and with tables.
pub(super) fn on_both(test: &str, check: impl AsyncFn(&dyn DoraStore, &str)) {
    let dir = tempfile::tempdir().unwrap();
    let mut configs = vec![("sqlite", in_file(&dir.path().join("deep/dora.db")))];
    if let Some(server) = server(test) {
        configs.push(("mysql", on_server(mysql(server, &new_database(server)))));
    }
    runtime().block_on(async {
        for (name, config) in configs {
            schema::apply(&config, "test-host", START).await.unwrap();
            let store = open::open(&config).await.unwrap();
            check(&*store, name).await;
        }
    });
}

#[test]
fn phases_are_kept_once_and_found_by_window_cycle_service_and_team() {
    on_both("phases", async |store, name| {
        let all = [
            phase(
                "a",
                PhaseName::Testing,
                START + 1,
                json!({"service": "shop", "deep": {"n": [1, null]}}),
            ),
            phase("a", PhaseName::Planning, START, json!({"team": "pan"})),
            phase("b", PhaseName::Testing, START + HOUR, json!({"service": "till", "team": "pan"})),
            // the same words in other letters are another cycle
            phase("B", PhaseName::Testing, START + HOUR, json!({})),
        ];
        assert_eq!(store.add_phases(&all).await.unwrap(), [true; 4], "{name}");
        assert_eq!(store.add_phases(&all[..1]).await.unwrap(), [false], "{name}");
        let again = store.add_phases(&all).await.unwrap();
        assert_eq!(again, [false; 4], "{name}");
        let [one, two, three, four] = all;
        let found = store.phases(&window(START, START + HOUR)).await.unwrap();
        assert_eq!(found, [two.clone(), one.clone()], "{name}: from the first to before the last");
        assert_eq!(store.cycle("a").await.unwrap(), [two.clone(), one.clone()], "{name}");
        assert_eq!(store.cycle("B").await.unwrap(), [four], "{name}");
        assert_eq!(store.phases(&of_service("shop")).await.unwrap(), [one], "{name}");
        let of_team = Window { team: Some("pan".into()), ..window(0, i64::MAX) };
        assert_eq!(store.phases(&of_team).await.unwrap(), [two, three], "{name}");
    });
}

#[test]
fn a_deployment_is_kept_with_its_changes_and_never_changed() {
    on_both("deployments", async |store, name| {
        let one = deployment("d1", "shop", START);
        assert!(store.add_deployment(&one).await.unwrap(), "{name}");
        let other = Deployment { succeeded: true, changes: Vec::new(), ..one.clone() };
        assert!(!store.add_deployment(&other).await.unwrap(), "{name}");
        let bare = Deployment { cycle_id: None, ..deployment("d2", "", START + HOUR) };
        assert!(store.add_deployment(&bare).await.unwrap(), "{name}");
        // changes come in the order of their commits
        let mut one = one;
        one.changes.reverse();
        let mut bare = bare;
        bare.changes.reverse();
        assert_eq!(store.deployment("d1").await.unwrap(), Some(one.clone()), "{name}");
        assert_eq!(store.deployment("d3").await.unwrap(), None, "{name}");
        assert_eq!(store.deployments_of("cycle of d1").await.unwrap(), [one.clone()], "{name}");
        assert_eq!(store.deployments(&of_service("shop")).await.unwrap(), [one.clone()], "{name}");
        let all = store.deployments(&window(START, START + HOUR + 1)).await.unwrap();
        assert_eq!(all, [one, bare], "{name}");
    });
}

#[test]
fn an_incident_is_found_by_its_time_or_by_the_deployment_that_caused_it() {
    on_both("incidents", async |store, name| {
        store.add_deployment(&deployment("d1", "shop", START)).await.unwrap();
        let within = incident("i1", "shop", Some("d1"), START + 1);
        let later = incident("i2", "till", Some("d1"), START + 5 * HOUR);
        let alone = incident("i3", "till", None, START + 6 * HOUR);
        for one in [&within, &later, &alone] {
            assert!(store.open_incident(one).await.unwrap(), "{name}");
            assert!(!store.open_incident(one).await.unwrap(), "{name}");
        }
        let found = store.incidents(&window(START, START + HOUR)).await.unwrap();
        assert_eq!(found, [within.clone(), later.clone()], "{name}: each once");
        let shop = Window { service: Some("shop".into()), ..window(START, START + HOUR) };
        assert_eq!(store.incidents(&shop).await.unwrap(), [within, later.clone()], "{name}");
        assert!(!store.close_incident("i2", START).await.unwrap(), "{name}: before it began");
        assert!(store.close_incident("i2", START + 7 * HOUR).await.unwrap(), "{name}");
        assert!(!store.close_incident("i2", START + 8 * HOUR).await.unwrap(), "{name}: once");
        assert!(!store.close_incident("i9", START + 8 * HOUR).await.unwrap(), "{name}");
        let closed = Incident { closed_ms: Some(START + 7 * HOUR), ..later };
        assert_eq!(store.incident("i2").await.unwrap(), Some(closed), "{name}");
        assert_eq!(store.incident("i9").await.unwrap(), None, "{name}");
    });
}

#[test]
fn a_proposal_changes_and_its_baseline_does_not() {
    on_both("pdca", async |store, name| {
        let proposed = Pdca {
            id: "p1".into(),
            metric: "lead_time".into(),
            proposal: "smaller changes".into(),
            service: String::new(),
            team: "pan".into(),
            baseline: json!({"median_hours": 12.5, "events": 30}),
            window_days: 14,
            status: "proposed".into(),
            created_ms: START,
            applied_ms: None,
            checked_ms: None,
            result: Value::Null,
        };
        store.put_pdca(&proposed).await.unwrap();
        let adopted = Pdca {
            status: "adopted".into(),
            applied_ms: Some(START + HOUR),
            checked_ms: Some(START + 2 * HOUR),
            result: json!({"median_hours": 9}),
            ..proposed.clone()
        };
        store
            .put_pdca(&Pdca { baseline: json!({"median_hours": 99}), ..adopted.clone() })
            .await
            .unwrap();
        assert_eq!(store.pdcas().await.unwrap(), [adopted], "{name}");
        let wrong = Pdca { status: "won".into(), ..proposed };
        let told = store.put_pdca(&wrong).await.unwrap_err();
        assert_eq!(told.to_string(), "status is none that a proposal has", "{name}");
    });
}

#[test]
fn what_cannot_be_is_refused_by_both_in_the_same_words_and_nothing_is_written() {
    on_both("refusals", async |store, name| {
        let good = phase("a", PhaseName::Testing, START, json!({}));
        let bad = Phase { duration_cs: -1, ..good.clone() };
        let told = store.add_phases(&[good, bad]).await.unwrap_err();
        assert!(matches!(told, DoraError::Invalid(_)), "{name}: {told}");
        assert_eq!(told.to_string(), "duration_seconds is not between 0 and 99999999.99 seconds");
        assert_eq!(store.cycle("a").await.unwrap(), [], "{name}");
    });
}

#[test]
fn a_question_makes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dora.db");
    runtime().block_on(async {
        let store = open::open(&in_file(&path)).await.unwrap();
        assert_eq!(store.phases(&window(0, i64::MAX)).await.unwrap(), []);
        assert!(!path.exists());
        store.open_incident(&incident("i", "", None, START)).await.unwrap();
        assert!(path.exists());
        assert_eq!(store.incidents(&window(0, i64::MAX)).await.unwrap().len(), 1);
    });
}

#[test]
fn a_request_with_the_token_stores_its_events_once_or_none_of_them() {
    on_both("api", async |store, name| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "short\n").unwrap();
        assert!(api::Token::read(&file).unwrap_err().to_string().contains("16 characters"));
        std::fs::write(&file, "0123456789abcdef\n").unwrap();
        let token = api::Token::read(&file).unwrap();
        let good: Option<&[u8]> = Some(b"Bearer 0123456789abcdef");
        let phase = json!({"type": "phase", "cycle_id": "c", "feature_id": "f", "phase": "testing",
            "decision": "go", "duration_seconds": 1.5, "timestamp": "2026-11-22T07:00:00Z"});
        let open = json!({"type": "incident", "id": "i", "opened_at": "2026-11-22T07:00:00Z"});
        let close =
            json!({"type": "incident_closed", "id": "i", "closed_at": "2026-11-22T08:00:00Z"});
        let deploy =
            json!({"type": "deployment", "id": "d", "deployed_at": "2026-11-22T07:00:00Z"});
        let send = async |with: Option<&[u8]>, events: Value| {
            let body = json!({ "events": events }).to_string();
            let reply = api::receive(store, &token, with, body.as_bytes()).await;
            (reply.status, reply.body)
        };
        for with in
            [None, Some(&b"Bearer 0123456789abcdeg"[..]), Some(b"0123456789abcdef"), Some(b"")]
        {
            assert_eq!(send(with, json!([phase])).await.0, 401, "{name}");
        }
        let wrong = json!({"type": "phase", "cycle_id": "c"});
        let (status, body) = send(good, json!([phase, wrong])).await;
        assert_eq!(
            (status, &body["refused"][0]["path"]),
            (400, &json!("events[1].phase")),
            "{name}"
        );
        assert_eq!(store.cycle("c").await.unwrap(), [], "{name}: all or nothing");
        let all = json!([phase, open, close, deploy]);
        assert_eq!(
            send(good, all.clone()).await,
            (200, json!({"stored": 4, "known": 0})),
            "{name}"
        );
        assert_eq!(send(good, all).await, (200, json!({"stored": 0, "known": 4})), "{name}");
        let stray =
            json!({"type": "incident_closed", "id": "x", "closed_at": "2026-11-22T08:00:00Z"});
        let (status, body) = send(good, json!([stray])).await;
        assert_eq!(
            (status, &body["refused"][0]["reason"]),
            (409, &json!("there is no incident x"))
        );
        let reply = api::receive(store, &token, good, &[b' '; api::BODY_BYTES_MAX + 1]).await;
        assert_eq!(reply.status, 413, "{name}");
        assert_eq!(api::receive(store, &token, good, b"{").await.status, 400, "{name}");
    });
}

/// What the server itself was asked to execute, by its general log.
fn selects_in_log(server: &Server) -> Vec<String> {
    let text = server.sql(
        "SELECT REPLACE(CONVERT(argument USING utf8mb4), '\\n', ' ') FROM mysql.general_log \
         WHERE command_type = 'Execute' AND argument LIKE 'SELECT %dora_%'",
    );
    text.lines().map(str::to_owned).collect()
}

#[test]
fn reports_read_by_index_where_there_are_100_000_phases() {
    // its own: the log of a server that others use would hold their statements too
    let server = match Server::start() {
        Ok(server) => server,
        Err(why) => return skip("explain", &why),
    };
    let database = "bitacora";
    let config = on_server(mysql(&server, database));
    runtime().block_on(async {
        schema::apply(&config, "test-host", START).await.unwrap();
        let [phases, deployments, incidents] = [100_000, 20_000, 2_000].map(numbers);
        server.sql(&format!(
            "USE {database}; \
             INSERT INTO dora_metrics (cycle_id, feature_id, phase_name, decision, \
             duration_seconds, metadata, created_at) SELECT CONCAT('c', seq DIV 4), 'f', \
             ELT(1 + seq MOD 4, 'planning', 'testing', 'deployment', 'maintenance'), 'success', \
             300.25, CONCAT('{{\"service\":\"s', seq MOD 50, '\",\"team\":\"t', seq MOD 20, '\"}}'), \
             '2026-01-01' + INTERVAL seq * 300 SECOND FROM {phases}; \
             INSERT INTO dora_deployments SELECT CONCAT('d', seq), CONCAT('c', seq), \
             CONCAT('s', seq MOD 50), CONCAT('t', seq MOD 20), '1', \
             '2026-01-01' + INTERVAL seq * 1500 SECOND, 1, 0, '{{}}' FROM {deployments}; \
             INSERT INTO dora_changes SELECT CONCAT('d', seq), 'x', '2026-01-01' \
             FROM {deployments}; \
             INSERT INTO dora_incidents SELECT CONCAT('i', seq), CONCAT('s', seq MOD 50), \
             CONCAT('t', seq MOD 20), CONCAT('d', seq * 10), '', \
             '2026-01-01' + INTERVAL seq * 15000 SECOND, NULL, '{{}}' FROM {incidents}; \
             ANALYZE TABLE dora_metrics, dora_deployments, dora_changes, dora_incidents; \
             SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = 1"
        ));
        let store = open::open(&config).await.unwrap();
        let june = 1_780_272_000_000; // 2026-06-01
        let mut asked = window(june, june + 30 * 24 * HOUR);
        for (service, team) in [(None, None), (Some("s7"), None), (None, Some("t7")), (Some("s7"), Some("t7"))] {
            asked.service = service.map(str::to_owned);
            asked.team = team.map(str::to_owned);
            store.phases(&asked).await.unwrap();
            store.deployments(&asked).await.unwrap();
            store.incidents(&asked).await.unwrap();
            let scope = Scope { service: asked.service.clone(), team: asked.team.clone() };
            report(&*store, &scope, 30, asked.until_ms).await.unwrap();
        }
        store.cycle("c77").await.unwrap();
        store.deployments_of("c77").await.unwrap();
        store.deployment("d77").await.unwrap();
        store.incident("i77").await.unwrap();
    });
    server.sql("SET GLOBAL general_log = 0");
    let selects = selects_in_log(&server);
    // phases 1, deployments 2, incidents 2 and the report's own a window, then 1 + 2 + 2 + 1
    assert!(selects.len() >= 4 * (5 + 7) + 6, "{selects:#?}");
    for select in selects {
        let plan = server.sql(&format!("USE {database}; EXPLAIN {select}"));
        let select: String = select.chars().take(800).collect();
        for row in plan.lines() {
            // id, select_type, table, (MySQL: partitions,) type, possible_keys, key, …
            let mut columns: Vec<&str> = row.split('\t').collect();
            if mariadb::mysql().is_some() {
                columns.remove(3);
            }
            assert_ne!(columns[3], "ALL", "{select}\n{plan}");
            assert_ne!(columns[5], "NULL", "{select}\n{plan}");
        }
    }
    let whole = server
        .sql(&format!("USE {database}; EXPLAIN SELECT * FROM dora_metrics WHERE decision = 'go'"));
    assert!(whole.contains("ALL"), "the control: {whole}");
}
