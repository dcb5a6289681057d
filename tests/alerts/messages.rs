//! What the notifiers send.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::servers::{HANG, Mailbox, Webhook, all_bytes, certificate, decoded};
use super::support::mariadb::PASSWORD;
use super::support::site::told;
use super::support::{PATIENCE, is_root, skip, within};
use super::{SECRET, Watched, file, record};

/// Text that clients can put into logs.
const HOSTILE: &str = "<!channel> @everyone <@U123> [pay](http://evil.example) \
    \u{1b}[31mred\u{1b}[0m\r\nBcc: victim@example.org\r\n\r\n.\r\nQUIT\u{202e} end";

fn webhook(watched: &Watched, hook: &Webhook) -> String {
    let path = file(&watched.site, "hook", &format!("{}\n", hook.address));
    format!("slack = {{ webhook_file = {path} }}\n")
}

fn log(watched: &Watched) -> String {
    format!("log = {{ file = {:?} }}\n", watched.site.path("alerts.log"))
}

fn log_lines(watched: &Watched) -> Vec<String> {
    let text = fs::read_to_string(watched.site.path("alerts.log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_daemon_that_goes_and_comes_back_is_told_once_each() {
    let watched = Watched::new("");
    let hook = Webhook::start();
    watched.configure(&(webhook(&watched, &hook) + &log(&watched)));
    let daemon = watched.site.start();
    watched.stores(&[record("INFO", "fine")], 1);
    let checked = watched.check(0);
    assert_eq!(checked.status("daemon"), "ok");
    assert_eq!(hook.texts(), [""; 0]);
    daemon.stop();
    for _ in 0..3 {
        assert_eq!(watched.check(1).status("daemon"), "trouble");
    }
    let texts = hook.texts();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].starts_with("TROUBLE daemon: no daemon answers"), "{texts:?}");
    let daemon = watched.site.start();
    assert!(within(PATIENCE, || watched.site.run(&["status"]).status.success()));
    watched.check(0);
    watched.check(0);
    let texts = hook.texts();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[1].starts_with("RECOVERED daemon"), "{texts:?}");
    assert_eq!(log_lines(&watched).len(), 2);
    daemon.stop();
}

#[test]
fn hostile_text_of_logs_arrives_everywhere_and_harms_nowhere() {
    const NAME: &str = "hostile_text_of_logs_arrives_everywhere_and_harms_nowhere";
    let watched = Watched::new("");
    let site = &watched.site;
    let Some((authority, tls)) = certificate(&site.path("log")) else {
        return skip(NAME, "openssl is not here");
    };
    let (hook, mailbox) = (Webhook::start(), Mailbox::start(Some(tls)));
    let password = file(site, "password", &format!("{PASSWORD}\n"));
    let got = site.path("got.json");
    watched.configure(&format!(
        "{}{}email = {{ server = \"127.0.0.1:{}\", from = \"bitacora <bitacora@example.org>\", \
         to = [\"ops@example.org\", \"night@example.org\"], username = \"bitacora\", \
         password_file = {password}, ca_file = {authority:?} }}\n\
         command = {{ run = [\"sh\", \"-c\", \"cat >{}; tr '\\\\0' ' ' </proc/$PPID/cmdline >{}\"] }}\n",
        webhook(&watched, &hook),
        log(&watched),
        mailbox.port,
        got.display(),
        site.path("argv").display(),
    ));
    let daemon = site.start();
    let mut records = vec![record("ERROR", HOSTILE); 11];
    records.push(record("ERROR", &format!("{HOSTILE}{}", "x".repeat(1 << 20))));
    watched.write(&records);
    // the last one is longer than a line may be, and comes in pieces of which one is an error
    assert!(within(PATIENCE, || {
        let output = site.run(&["alerts", "check", "--dry-run", "--json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        let errors = |check: &&Value| check["name"] == "errors" && check["status"] == "trouble";
        answer["checks"].as_array().unwrap().iter().any(|check| errors(&check))
    }));
    assert_eq!(hook.texts(), [""; 0], "a dry run tells nobody");
    let checked = watched.check(1);
    assert_eq!(checked.status("errors"), "trouble");
    let sent = checked.answer["notifiers"].as_array().unwrap();
    assert!(sent.iter().all(|one| one["error"].is_null() && one["sent"] == 1), "{sent:?}");

    let (head, body) = hook.raw().remove(0);
    assert!(head.contains("application/json") && body.len() < 4000, "{head}{body}");
    let text = hook.texts().remove(0);
    assert!(text.contains("!channel") && text.contains("everyone"), "it is told: {text}");
    for harm in ["<", "@everyone", "](", "\u{1b}", "\r", "\u{202e}", "\nBcc"] {
        assert!(!text.contains(harm), "{harm:?} in {text}");
    }

    let letter = mailbox.letters().remove(0);
    assert!(letter.encrypted && letter.login.starts_with("AUTH PLAIN "), "{letter:?}");
    assert_eq!(letter.to, ["<ops@example.org>", "<night@example.org>"]);
    let (head, _) = letter.data.split_once("\n\n").unwrap();
    assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
    assert!(head.contains("Subject: [bitacora] TROUBLE errors on test-host"), "{head}");
    let text = decoded(&letter);
    assert!(text.contains("\\r\\nBcc: victim@example.org"), "it is told: {text}");
    assert!(!text.contains('\u{1b}') && !text.lines().any(|line| line.starts_with("Bcc")));

    let lines = log_lines(&watched);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("TROUBLE errors: ") && lines[0].len() < 2000, "{lines:?}");
    let got: Value = serde_json::from_slice(&fs::read(got).unwrap()).unwrap();
    assert_eq!(got["news"][0]["name"], "errors");
    assert!(!got.to_string().contains("\\u001b"), "{got}");
    mailbox.refuse_logins();
    let refused = told(&site.run(&["alerts", "test", "--notifier", "email"]));
    assert!(
        refused.contains("does not take it") && refused.contains("no: AUTH PLAIN"),
        "{refused}"
    );
    assert!(!refused.contains(&letter.login["AUTH PLAIN ".len()..]), "{refused}");
    daemon.stop();
    keeps_its_secrets(&watched);
}

/// Neither the webhook's address nor a password is anywhere but in its own file.
fn keeps_its_secrets(watched: &Watched) {
    let site = &watched.site;
    let listed = told(&site.run(&["alerts", "list", "--json"]));
    let check = told(&site.run(&["alerts", "check"]));
    for said in [&listed, &check, &site.said()] {
        assert!(!said.contains(SECRET) && !said.contains(PASSWORD), "{said}");
    }
    let own = [site.path("hook"), site.path("password")];
    let skip: Vec<_> = own.iter().map(|path| path.as_path()).collect();
    let files = all_bytes(site.config().parent().unwrap(), &skip);
    assert!(files.iter().any(|(path, _)| path.ends_with("memory.json")), "the state is looked at");
    assert!(files.iter().any(|(path, _)| path.ends_with("argv")), "the arguments are looked at");
    for (path, bytes) in files {
        for secret in [SECRET, PASSWORD] {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{secret} in {}", path.display());
        }
    }
}

#[test]
fn a_notifier_that_fails_stops_no_other_one_and_is_tried_again() {
    let watched = Watched::new("");
    let hook = Webhook::start();
    watched.configure(&(webhook(&watched, &hook) + &log(&watched)));
    for status in [500, 302] {
        hook.answer(status);
        let checked = watched.check(1);
        let said = checked.stderr();
        assert!(said.contains(&format!("the webhook answers {status}")), "{said}");
        assert!(!said.contains(SECRET), "a secret is told: {said}");
    }
    let lines = log_lines(&watched);
    assert!(lines.iter().any(|line| line.contains("TROUBLE daemon")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("TROUBLE notifier slack")), "{lines:?}");
    hook.answer(200);
    watched.check(1);
    assert!(hook.texts().iter().any(|text| text.starts_with("TROUBLE daemon")));
    watched.check(1);
    let lines = log_lines(&watched);
    assert!(lines.iter().any(|line| line.contains("RECOVERED notifier slack")), "{lines:?}");
}

#[test]
fn a_notifier_that_hangs_is_given_up_and_two_checks_do_not_run_at_once() {
    let watched = Watched::new("");
    let hook = Webhook::start();
    watched.configure(&(webhook(&watched, &hook) + &log(&watched)));
    hook.answer(HANG);
    let started = Instant::now();
    let mut first = watched.site.command(&["alerts", "check"]).spawn().unwrap();
    assert!(within(PATIENCE, || !log_lines(&watched).is_empty()), "the log does not wait for it");
    watched.site.answers(&["alerts", "check"], 75, "another `bitacora alerts` is at work");
    assert_eq!(first.wait().unwrap().code(), Some(1));
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    hook.answer(200);
    watched.check(1);
    assert!(!hook.texts().is_empty());
}

#[test]
fn no_password_goes_out_where_the_server_has_no_tls() {
    let watched = Watched::new("");
    let mailbox = Mailbox::start(None);
    let password = file(&watched.site, "password", PASSWORD);
    watched.configure(&format!(
        "email = {{ server = \"127.0.0.1:{}\", from = \"a@example.org\", to = [\"b@example.org\"], \
         username = \"u\", password_file = {password} }}\n",
        mailbox.port
    ));
    watched.site.answers(&["alerts", "test"], 1, "email: NOT sent");
    assert!(mailbox.letters().is_empty());
    watched.configure(&format!(
        "email = {{ server = \"127.0.0.1:{}\", from = \"a@example.org\", to = [\"b@example.org\"], \
         tls = \"none\" }}\n",
        mailbox.port
    ));
    watched.site.answers(&["alerts", "test", "errors", "--notifier", "email"], 0, "email: sent");
    let letter = mailbox.letters().remove(0);
    assert!(letter.data.contains("TEST errors on test-host"), "{letter:?}");
}

#[test]
fn what_is_silenced_is_not_told_until_the_silence_ends() {
    let watched = Watched::new("");
    let off = "off = [\"store\", \"errors\", \"dead-letters\", \"losses\"]\n";
    watched.configure(&(log(&watched) + off));
    let site = &watched.site;
    site.answers(&["alerts", "silence", "deamon", "--for", "2h", "--reason", "x"], 2, "no rule");
    site.answers(&["alerts", "silence", "daemon", "--for", "soon", "--reason", "x"], 2, "soon");
    site.answers(
        &["alerts", "silence", "daemon", "--for", "2h", "--reason", "upgrade\n!"],
        0,
        "until",
    );
    for length in ["0s", "367d", "99999999d"] {
        let silence = ["alerts", "silence", "daemon", "--for", length, "--reason", "x"];
        site.answers(&silence, 2, "at most 366 days");
    }
    let checked = watched.check(0);
    assert_eq!(checked.find("daemon")["silenced"], true);
    assert_eq!(log_lines(&watched), [""; 0]);
    site.answers(&["alerts", "list"], 0, "upgrade\\n!");
    site.answers(&["alerts", "silence", "daemon", "--end"], 0, "ended");
    site.answers(&["alerts", "silence", "daemon", "--end"], 1, "not silenced");
    watched.check(1);
    assert_eq!(log_lines(&watched).len(), 1);
}

#[test]
fn a_unit_that_failed_is_told_at_once() {
    let watched = Watched::new("");
    watched.configure(&log(&watched));
    watched.site.answers(&["alerts", "failed", "bitacora-backup.service"], 0, "has failed");
    let lines = log_lines(&watched);
    assert!(lines[0].contains("TROUBLE unit bitacora-backup.service: it has failed"), "{lines:?}");
    watched.site.answers(&["alerts", "failed", "bitacora-backup.service"], 0, "has failed");
    assert_eq!(log_lines(&watched).len(), 1, "once is enough");
}

#[test]
fn a_damaged_memory_is_told_and_begins_anew() {
    let watched = Watched::new("");
    let site = &watched.site;
    watched.check(1);
    fs::write(site.path("state/alerts/memory.json"), "{").unwrap();
    site.answers(&["alerts", "list"], 74, "the next `bitacora alerts check` begins it anew");
    site.answers(&["alerts", "check", "--dry-run"], 1, "is damaged");
    site.answers(&["alerts", "check"], 1, "begins anew");
    site.answers(&["alerts", "list"], 0, "TROUBLE daemon");
}

#[test]
fn what_root_does_by_hand_the_service_can_go_on_with() {
    const NAME: &str = "what_root_does_by_hand_the_service_can_go_on_with";
    if !is_root() {
        return skip(NAME, "needs root, to give files to another user");
    }
    const NOBODY: u32 = 65_534;
    let watched = Watched::new("");
    let site = &watched.site;
    let state = site.path("state");
    fs::create_dir_all(&state).unwrap();
    chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
    let config = fs::read_to_string(site.config()).unwrap();
    let (old, new) = (site.path("dora.db"), state.join("dora.db"));
    fs::write(site.config(), config.replace(old.to_str().unwrap(), new.to_str().unwrap())).unwrap();
    site.answers(&["alerts", "silence", "disk", "--for", "1h", "--reason", "x"], 0, "until");
    site.answers(&["dora", "deploy", "--id", "d"], 0, "d");
    for name in ["alerts", "alerts/lock", "alerts/memory.json", "dora.db"] {
        let data = fs::metadata(state.join(name)).unwrap();
        assert_eq!((data.uid(), data.gid()), (NOBODY, NOBODY), "{name}");
    }
}
