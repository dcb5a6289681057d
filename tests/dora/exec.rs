//! `bitacora dora exec`: a command's end is passed on, and its phase is never lost.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::support::mariadb::PASSWORD;
use super::support::site::{Site, told};
use super::support::{eventually, is_root, within};
use super::{add, database_of, server, site, site_on, sites};

const EXEC: [&str; 6] = ["dora", "exec", "--cycle", "c", "--phase", "testing"];

/// The site's command with its options before the `--`.
fn exec(site: &Site, command: &[&str]) -> Command {
    let mut whole = Command::new(super::support::site::BINARY);
    whole.arg("--config").arg(site.config()).args(EXEC).arg("--").args(command);
    whole.env_remove("BITACORA_CONFIG").stdin(Stdio::null());
    whole
}

fn run(site: &Site, command: &[&str]) -> Output {
    exec(site, command).output().unwrap()
}

fn phases(site: &Site) -> Vec<Value> {
    let traced = site.run(&["dora", "trace", "c", "--json"]);
    let text = String::from_utf8(traced.stdout).unwrap();
    if text.is_empty() {
        return Vec::new();
    }
    let value: Value = serde_json::from_str(&text).unwrap();
    value["phases"].as_array().unwrap().clone()
}

#[test]
fn a_command_ends_as_it_would_alone_and_is_a_phase_with_its_id() {
    for site in sites("exec") {
        let done =
            run(&site, &["sh", "-c", "echo $BITACORA_REQUEST_ID; echo oh >&2; exit 7", "s3cret"]);
        assert_eq!(done.status.code(), Some(7), "{}", told(&done));
        assert_eq!(String::from_utf8_lossy(&done.stderr), "oh\n");
        let request = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        let done = run(&site, &["true"]);
        assert_eq!((done.status.code(), done.stdout.len()), (Some(0), 0), "{}", told(&done));
        assert!(done.stderr.is_empty(), "{}", told(&done));
        let done = run(&site, &["/nowhere/tool"]);
        assert_eq!(done.status.code(), Some(127), "{}", told(&done));
        let phases = phases(&site);
        assert_eq!(phases.len(), 3, "{phases:#?}");
        assert_eq!(phases[0]["decision"], "failed");
        assert_eq!(phases[0]["metadata"]["request_id"], request.as_str());
        assert_eq!(phases[0]["metadata"]["exit_code"], 7);
        assert_eq!(phases[0]["metadata"]["command"], "sh");
        assert!(!phases[0].to_string().contains("s3cret"), "arguments may be secrets");
        // nobody said for which feature: the cycle's own name, then as the phase before
        assert_eq!(phases[0]["feature_id"], "c");
        assert_eq!(
            (&phases[1]["decision"], &phases[2]["decision"]),
            (&"success".into(), &"failed".into())
        );
    }
}

#[test]
fn the_duration_is_what_the_command_took() {
    let site = site();
    run(&site, &["sleep", "0.35"]);
    let text = phases(&site)[0]["duration_seconds"].to_string();
    let seconds: f64 = text.parse().unwrap();
    assert!((0.35..20.0).contains(&seconds), "{text}");
    assert!(text.len() - text.find('.').unwrap() <= 3, "hundredths: {text}");
}

/// Starts a command that says when it is ready.
fn start(site: &Site, script: &str) -> Child {
    let ready = site.path("ready");
    let script = format!("{script}; touch {}; while :; do sleep 0.02; done", ready.display());
    // whoever runs the tests in the background may have made us ignore it
    let shell = ["env", "--default-signal=INT", "sh", "-c", &script];
    let child = exec(site, &shell).spawn().unwrap();
    eventually("the command runs", || ready.exists());
    child
}

/// How it ended; what does not end is killed, with its command.
fn end(child: &mut Child) -> ExitStatus {
    if !within(Duration::from_secs(20), || child.try_wait().unwrap().is_some()) {
        let _ = Command::new("pkill").args(["-KILL", "-P", &child.id().to_string()]).status();
        child.kill().unwrap();
    }
    child.wait().unwrap()
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_signal_reaches_the_command_and_what_ended_it_ends_us() {
    let site = site();
    let mut child = start(&site, "trap 'exit 9' TERM");
    send(&child, Signal::TERM);
    assert_eq!(end(&mut child).code(), Some(9), "the command chose its end");
    fs::remove_file(site.path("ready")).unwrap();
    let mut child = start(&site, "trap 'exit 8' USR1");
    send(&child, Signal::USR1);
    assert_eq!(end(&mut child).code(), Some(8));
    fs::remove_file(site.path("ready")).unwrap();
    let mut child = start(&site, ":");
    send(&child, Signal::INT);
    assert_eq!(end(&mut child).signal(), Some(2));
    for (signal, number) in [("KILL", 9), ("TERM", 15), ("SEGV", 11)] {
        let done = run(&site, &["sh", "-c", &format!("ulimit -c 0; kill -{signal} $$")]);
        assert_eq!(done.status.signal(), Some(number), "{}", told(&done));
        assert!(!done.status.core_dumped());
    }
    let signals: Vec<Value> =
        phases(&site).iter().map(|one| one["metadata"]["signal"].clone()).collect();
    assert_eq!(signals, [Value::Null, Value::Null, 2.into(), 9.into(), 15.into(), 11.into()]);
}

#[test]
fn nothing_is_run_whose_phase_could_never_be_recorded() {
    let site = site();
    let mark = site.path("mark");
    let mark = mark.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(super::support::site::BINARY);
        command.arg("--config").arg(site.config()).args(["dora", "exec"]).args(arguments);
        command.args(["--", "touch", mark]).output().unwrap()
    };
    for (arguments, told) in [
        (&["--cycle", "", "--phase", "testing"][..], "cycle_id is empty"),
        (&["--cycle", "c", "--phase", "lunch"], "possible values: planning, testing"),
        (&["--cycle", "c", "--phase", "testing", "--metadata", "x"], "write KEY=VALUE"),
        (
            &["--cycle", "c", "--phase", "testing", "--metadata", "request_id=1"],
            "set by exec itself",
        ),
    ] {
        let done = run(arguments);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains(told), "{said}");
    }
    let dry = run(&["--cycle", "c", "--phase", "testing", "--dry-run"]);
    assert!(String::from_utf8_lossy(&dry.stdout).contains("would be run: touch"));
    assert!(!site.path("mark").exists() && !site.path("dora.db").exists());
}

#[test]
fn while_the_database_is_away_the_result_counts_and_the_phase_waits() {
    let Some(server) = server("away") else { return };
    let site = site_on(server);
    let good = fs::read_to_string(site.config()).unwrap();
    let away = good.replace(&format!("port = {}", server.port()), "port = 1");
    fs::write(site.config(), &away).unwrap();
    let done = run(&site, &["sh", "-c", "exit 3"]);
    assert_eq!(done.status.code(), Some(3), "{}", told(&done));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("cannot be reached") && said.contains("it waits in"), "{said}");
    let waiting = site.path("state/dora-pending");
    assert_eq!(fs::read_dir(&waiting).unwrap().count(), 1);
    // what is no phase is set aside, and keeps nothing from being recorded
    fs::write(waiting.join("0.json"), "{\"type\":\"phase\"").unwrap();
    fs::write(site.config(), &good).unwrap();
    let done = site.run(&["dora", "trace", "c", "--json"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("are recorded: 1"), "{said}");
    assert!(said.contains("0.refused cannot be recorded"), "{said}");
    let found = phases(&site);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0]["metadata"]["exit_code"], 3);
    let left: Vec<_> =
        fs::read_dir(&waiting).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["0.refused"]);
    // a phase that was recorded just before its file could be removed is known by its request
    let mut again = found[0].clone();
    again.as_object_mut().unwrap().retain(|key, _| !key.ends_with("rows"));
    fs::write(waiting.join("1.json"), again.to_string()).unwrap();
    assert_eq!(phases(&site).len(), 1);
    assert!(!waiting.join("1.json").exists());
}

#[test]
fn what_waits_keeps_no_reader_from_reading_and_a_dry_run_records_it_not() {
    let Some(server) = server("readers") else { return };
    let site = site_on(server);
    let good = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), good.replace(&format!("port = {}", server.port()), "port = 1"))
        .unwrap();
    run(&site, &["true"]);
    let waiting = || fs::read_dir(site.path("state/dora-pending")).unwrap().count();
    assert_eq!(waiting(), 1);
    fs::write(site.config(), &good).unwrap();
    site.answers(&["dora", "complete", "c", "success", "--dry-run"], 1, "no phase of cycle c");
    assert_eq!(waiting(), 1, "a dry run");
    let database = database_of(&site);
    server.sql(&format!(
        "CREATE USER reader@'%' IDENTIFIED BY '{PASSWORD}'; \
         GRANT SELECT ON {database}.* TO reader@'%'"
    ));
    let as_reader = good.replace("username = \"bitacora\"", "username = \"reader\"");
    fs::write(site.config(), as_reader).unwrap();
    site.answers(&["dora", "report"], 1, "stay there");
    assert_eq!(waiting(), 1, "a reader");
    fs::write(site.config(), &good).unwrap();
    site.answers(&["dora", "report"], 1, "are recorded: 1");
    assert_eq!(waiting(), 0);
}

#[test]
fn where_nothing_can_wait_the_phase_is_told_whole() {
    if is_root() {
        // root may write anywhere: a file stands in the directory's place instead
        let site = site();
        fs::write(site.path("state"), "").unwrap();
        fs::create_dir(site.path("dora.db")).unwrap();
        let done = run(&site, &["sh", "-c", "exit 4"]);
        assert_eq!(done.status.code(), Some(4));
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(said.contains("nor can it wait") && said.contains("\"exit_code\":4"), "{said}");
    }
}

#[test]
fn the_password_is_in_no_argument_no_environment_no_error_and_no_file() {
    let Some(server) = server("canary") else { return };
    let site = site_on(server);
    let script =
        "tr '\\0' ' ' </proc/$PPID/cmdline; tr '\\0' ' ' </proc/$PPID/environ; env; ps axeww";
    let done = run(&site, &["sh", "-c", script]);
    let said = told(&done);
    assert!(
        said.contains("dora exec --cycle c") && said.contains("BITACORA_REQUEST_ID="),
        "{said}"
    );
    assert!(!said.contains(PASSWORD), "a process shows it");
    // a login that is refused, a server that is away, and what waits then
    let good = fs::read_to_string(site.config()).unwrap();
    for (from, to) in
        [("username = \"bitacora\"", "username = \"nobody\""), ("127.0.0.1", "127.0.0.9")]
    {
        fs::write(site.config(), good.replace(from, to)).unwrap();
        for arguments in [&["dora", "trace", "c"][..], &["schema", "check"], &["check"]] {
            let said =
                told(&site.command(arguments).env("BITACORA_LOG", "trace").output().unwrap());
            assert!(!said.contains(PASSWORD), "{said}");
        }
        assert!(!told(&run(&site, &["true"])).contains(PASSWORD));
    }
    let mut files = 0;
    for entry in fs::read_dir(site.path("state/dora-pending")).unwrap() {
        assert!(!fs::read_to_string(entry.unwrap().path()).unwrap().contains(PASSWORD));
        files += 1;
    }
    assert!(files > 0, "something waits");
    add(&site, "");
}
