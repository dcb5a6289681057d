//! The other commands: phases, deployments, incidents, completion, import.

use std::fs;

use serde_json::{Value, json};

use super::support::site::{Site, told};
use super::{site, sites, words};

fn said(site: &Site, arguments: &[&str]) -> String {
    let output = site.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_phase_is_recorded_and_with_a_time_of_its_own_only_once() {
    for site in sites("phase") {
        let phase = words(
            "dora phase --cycle C7 --feature login --phase planning --decision no-go --duration \
             300.25 --metadata team=pan",
        );
        site.answers(&[&phase[..], &["--dry-run"]].concat(), 0, "\"duration_seconds\":300.25");
        site.answers(&["dora", "trace", "C7"], 1, "nothing is recorded of cycle C7");
        // two in one millisecond are two
        for _ in 0..3 {
            site.answers(&phase, 0, "recorded: planning of cycle C7, no-go, 300.25 s");
        }
        let at = [&phase[..], &["--at", "2026-11-22T07:00:00.5Z"]].concat();
        site.answers(&at, 0, "recorded: ");
        site.answers(&at, 0, "known already");
        let traced = site.json(&["dora", "trace", "C7", "--json"]);
        let phases = traced["phases"].as_array().unwrap();
        assert_eq!(phases.len(), 4, "{traced}");
        assert!(phases.iter().all(|one| one["metadata"] == json!({"team": "pan"})), "{traced}");
        assert!(phases.iter().any(|one| one["timestamp"] == "2026-11-22T07:00:00.500Z"));
    }
}

#[test]
fn values_that_cannot_be_are_told_in_words_and_end_with_2() {
    let long = "x".repeat(101);
    for site in sites("values") {
        let phase = |changed: &[&str]| {
            let mut words = vec!["dora", "phase", "--feature", "f", "--phase", "testing"];
            for (name, value) in [("--cycle", "c"), ("--decision", "go"), ("--duration", "1")] {
                if !changed.contains(&name) {
                    words.extend([name, value]);
                }
            }
            words.extend(changed);
            words.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        for (changed, told) in [
            (&["--cycle", &long][..], "cycle_id has 101 bytes; 100 at most"),
            (&["--cycle", "c "], "cycle_id begins or ends with a blank"),
            (&["--duration", "1.234"], "seconds with at most two decimals"),
            (&["--duration=-1"], "seconds with at most two decimals"),
            (&["--decision", "maybe"], "possible values: go, no-go, review"),
            (&["--at", "lunchtime"], "is no time"),
            (&["--at", "1969-12-31"], "timestamp is not between 1970 and 2200"),
            (&["--metadata", "a=1", "--metadata", "a=2"], "given twice"),
        ] {
            let words: Vec<String> = if changed[0].starts_with("--duration=") {
                [phase(&["--duration"])[..10].to_vec(), vec![changed[0].to_owned()]].concat()
            } else {
                phase(changed)
            };
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            site.answers(&words, 2, told);
        }
        site.answers(&["dora", "deploy", "--change", "abc"], 2, "write ID=TIME");
        site.answers(
            &words("dora deploy --at 2026-11-22T07:00:00Z --change abc=2026-11-22T07:00:01Z"),
            2,
            "was committed after the deployment",
        );
    }
}

#[test]
fn a_deployment_and_its_incident_are_recorded_and_retold() {
    for site in sites("deploy") {
        let deploy = words(
            "dora deploy --service shop --team pan --version 1.4 --cycle C7 --change \
             3f2a=2026-11-22T06:00:00Z --change a=b=2026-11-22T06:30:00Z --rework --failed --id \
             d-1 --at 2026-11-22T07:00:00Z --metadata by=ci",
        );
        site.answers(&[&deploy[..], &["--dry-run"]].concat(), 0, "\"succeeded\":false");
        site.answers(&["dora", "trace", "C7"], 1, "nothing is recorded");
        assert_eq!(said(&site, &deploy), "d-1");
        site.answers(&deploy, 0, "there is a deployment d-1 already");
        let other = said(&site, &["dora", "deploy"]);
        assert_eq!(other.len(), 36, "a random id: {other}");
        let traced = site.json(&["dora", "trace", "C7", "--json"]);
        let expected = json!([{
            "type": "deployment", "id": "d-1", "cycle_id": "C7", "service": "shop", "team": "pan",
            "version": "1.4", "deployed_at": "2026-11-22T07:00:00.000Z", "succeeded": false,
            "rework": true, "changes": [
                {"id": "3f2a", "committed_at": "2026-11-22T06:00:00.000Z"},
                {"id": "a=b", "committed_at": "2026-11-22T06:30:00.000Z"},
            ], "metadata": {"by": "ci"},
        }]);
        assert_eq!(traced["deployments"], expected);
        site.answers(&["dora", "trace", "C7"], 0, "d-1 shop 1.4 with 2 changes  rework");

        let open = words("dora incident open --id i-1 --deployment d-1 --at 2026-11-22T08:00:00Z");
        assert_eq!(said(&site, &open), "i-1");
        site.answers(&open, 0, "there is an incident i-1 already");
        site.answers(
            &["dora", "incident", "open", "--deployment", "d-9"],
            0,
            "no deployment d-9 is recorded so far",
        );
        let close = |at: &'static str| ["dora", "incident", "close", "i-1", "--at", at];
        site.answers(
            &close("2026-11-22T07:59:59Z"),
            1,
            "was opened later, at 2026-11-22T08:00:00.000Z",
        );
        let dry = [&close("2026-11-22T09:00:00Z")[..], &["--dry-run"]].concat();
        site.answers(&dry, 0, "would be closed at 2026-11-22T09:00:00.000Z");
        site.answers(
            &close("2026-11-22T09:00:00Z"),
            0,
            "i-1 is closed at 2026-11-22T09:00:00.000Z",
        );
        site.answers(&close("2026-11-22T10:00:00Z"), 0, "is closed already; its time stays");
        site.answers(&["dora", "incident", "close", "i-9"], 1, "there is no incident i-9");
        site.answers(&["dora", "incident", "open", "--id", "i-2"], 0, "i-2");
        let late = ["dora", "incident", "close", "i-2", "--at", "2300-01-01"];
        site.answers(&late, 2, "closed_at is not between 1970 and 2200");
        site.answers(&dry, 1, "no open incident");
    }
}

#[test]
fn a_cycle_is_completed_once() {
    for site in sites("complete") {
        let complete = |result: &'static str| {
            ["dora", "complete", "C7", result, "--at", "2026-11-22T08:00:00Z"]
        };
        site.answers(&complete("success"), 1, "there is no phase of cycle C7");
        site.answers(
            &words(
                "dora phase --cycle C7 --feature login --phase testing --decision go --duration \
                 600 --at 2026-11-22T07:10:00Z --metadata team=pan",
            ),
            0,
            "recorded",
        );
        let dry = [&complete("failed")[..], &["--dry-run"]].concat();
        site.answers(&dry, 0, "would be recorded, 3600.00 s after its start");
        site.answers(&complete("success"), 0, "is completed: success, 3600.00 s after its start");
        site.answers(&complete("success"), 0, "is completed already");
        site.answers(
            &complete("failed"),
            1,
            "was completed as success at 2026-11-22T08:00:00.000Z",
        );
        let traced = site.json(&["dora", "trace", "C7", "--json"]);
        let last = &traced["phases"][1];
        assert_eq!(last["phase"], "maintenance", "no deployment, which reports would count");
        assert_eq!(last["feature_id"], "login");
        assert_eq!(
            last["metadata"],
            json!({"team": "pan", "completed": true, "cycle_seconds": "3600.00"})
        );
        assert_eq!(traced["phases"].as_array().unwrap().len(), 2);
    }
}

fn history() -> Value {
    let phase = |name: &str, seconds: Value, at: &str| {
        json!({"phase": name, "decision": "success", "duration_seconds": seconds, "timestamp": at,
            "metadata": {"service": "shop"}})
    };
    json!({"cycles": [
        {"cycle_id": "old-1", "feature_id": "login", "phases": [
            phase("planning", json!(300), "2025-03-01T09:00:00"),
            phase("testing", json!(12.3456), "2025-03-01T10:00:00.123456+01:00"),
            phase("lunch", json!(1), "2025-03-01T11:00:00Z"),
            phase("deployment", json!("long"), "2025-03-01T11:00:00Z"),
        ], "metrics": {"lead_time": 12}},
        {"cycle_id": "old-2", "feature_id": "login", "phases": [
            phase("deployment", json!(1), "2025-03-02T11:00:00Z"),
            phase("deployment", json!(1), "2025-03-02T11:00:00Z"),
        ], "metrics": {}},
    ]})
}

#[test]
fn an_import_can_be_repeated_and_tells_what_it_refuses() {
    for site in sites("import") {
        let file = site.path("metrics.json");
        fs::write(&file, history().to_string()).unwrap();
        let import = ["dora", "import", file.to_str().unwrap(), "--json"];
        let run = |arguments: &[&str]| {
            let output = site.run(arguments);
            assert_eq!(output.status.code(), Some(1), "some are refused: {}", told(&output));
            let value: Value = serde_json::from_slice(&output.stdout).unwrap();
            (value["recorded"].clone(), value["known"].clone(), value)
        };
        let (recorded, known, value) = run(&[&import[..], &["--dry-run"]].concat());
        assert_eq!((recorded, known), (json!(3), json!(1)), "{value}");
        site.answers(&["dora", "trace", "old-1"], 1, "nothing is recorded");
        let (recorded, known, value) = run(&import);
        assert_eq!((recorded, known), (json!(3), json!(1)), "{value}");
        assert_eq!(
            value["refused"],
            json!([
                {"path": "cycles[0].phases[2].phase",
                 "reason": "\"lunch\" is none of planning, testing, deployment, maintenance"},
                {"path": "cycles[0].phases[3].duration_seconds",
                 "reason": "\"long\" is no number of seconds from 0 to 99999999.99"},
            ])
        );
        assert_eq!(value["ignored"], json!({"cycles[].metrics": 1}));
        for dry in [&["--dry-run"][..], &[]] {
            let (recorded, known, value) = run(&[&import[..], dry].concat());
            assert_eq!((recorded, known), (json!(0), json!(4)), "{value}");
        }
        let traced = site.json(&["dora", "trace", "old-1", "--json"]);
        let times: Vec<&Value> =
            traced["phases"].as_array().unwrap().iter().map(|one| &one["timestamp"]).collect();
        assert_eq!(times, ["2025-03-01T09:00:00.000Z", "2025-03-01T09:00:00.123Z"]);
        assert_eq!(traced["phases"][1]["duration_seconds"].to_string(), "12.35");
        // what is there stays, and another story is told
        let mut other = history();
        other["cycles"][1]["phases"] = json!([other["cycles"][1]["phases"][0]]);
        other["cycles"][1]["phases"][0]["decision"] = json!("failed");
        fs::write(&file, other.to_string()).unwrap();
        let (_, _, value) = run(&import);
        assert_eq!(value["refused"][2]["path"], "cycles[1].phases[0]");
        let text = site.run(&["dora", "import", file.to_str().unwrap()]);
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(
            text.ends_with("2 cycles: 0 phases recorded, 2 known already, 3 refused\n"),
            "{text}"
        );
        fs::write(&file, "[]").unwrap();
        site.answers(&import, 1, "it is not a list of cycles");
        fs::File::create(&file).unwrap().set_len((64 << 20) + 1).unwrap();
        site.answers(&import, 74, "it is longer than 64 MiB");
    }
}

#[test]
fn a_file_of_thousands_is_imported_whole_and_another_zone_is_taken() {
    let site = site();
    let phases: Vec<Value> = (0..2500)
        .map(|number| json!({"phase": "testing", "decision": "go", "duration_seconds": 1,
            "timestamp": format!("2025-03-01T{:02}:{:02}:{:02}", number / 3600, number / 60 % 60, number % 60)}))
        .collect();
    let file = site.path("metrics.json");
    let whole = json!({"cycles": [{"cycle_id": "c", "feature_id": "f", "phases": phases}]});
    fs::write(&file, whole.to_string()).unwrap();
    let import = ["dora", "import", file.to_str().unwrap(), "--timezone", "Europe/Madrid"];
    site.answers(&import, 0, "2500 phases recorded, 0 known already, 0 refused");
    let traced = site.json(&["dora", "trace", "c", "--json"]);
    assert_eq!(traced["phases"][0]["timestamp"], "2025-02-28T23:00:00.000Z");
    site.answers(&["dora", "import", "/nowhere.json"], 74, "/nowhere.json");
}
