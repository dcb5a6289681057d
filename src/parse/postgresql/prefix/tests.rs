//! Tests of the compiled prefix.

use proptest::prelude::*;

use super::*;

/// The values of a line as `key=value`, then the word and the text.
fn read(setting: &str, line: &str) -> Option<Vec<String>> {
    let prefix = Prefix::new(setting).unwrap();
    let head = prefix.read(line.as_bytes())?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut seen: Vec<_> = prefix
        .values(&head)
        .map(|(escape, value)| match escape {
            Escape::Time | Escape::EpochTime => format!("time={}", text(value)),
            Escape::Pid => format!("pid={}", text(value)),
            Escape::HostPort => format!("host={}", text(value)),
            Escape::Value(key, _) => format!("{}={}", text(key), text(value)),
        })
        .collect();
    seen.push(format!("{}|{}", text(head.word_text), text(head.text)));
    Some(seen)
}

fn assert_reads(setting: &str, line: &str, expected: &[&str]) {
    assert_eq!(read(setting, line).as_deref().unwrap_or_default(), expected, "{setting} {line}");
}

#[test]
fn every_escape_is_read() {
    assert_reads(
        "%m|%t|%n|%p|%u|%d|%a|%h|%r|%b|%L|%i|%e|%c|%l|%s|%v|%x|%Q|%P|%% ",
        "2031-05-04 10:11:12.345 CEST|2031-05-04 10:11:12 CEST|1935655872.345|71|ana|pan|psql 17|\
         faro.example|faro.example(5000)|client backend|192.0.2.1|CREATE TABLE|22012|6ad1f2.47|3|\
         2031-05-04 10:00:00 CEST|2/9|0|-77|70|% LOG:  ready",
        &[
            "time=2031-05-04 10:11:12.345 CEST",
            "time=2031-05-04 10:11:12 CEST",
            "time=1935655872.345",
            "pid=71",
            "user=ana",
            "database=pan",
            "application_name=psql 17",
            "remote_host=faro.example",
            "host=faro.example(5000)",
            "backend_type=client backend",
            "local_addr=192.0.2.1",
            "command_tag=CREATE TABLE",
            "sqlstate=22012",
            "session_id=6ad1f2.47",
            "line_num=3",
            "session_start=2031-05-04 10:00:00 CEST",
            "virtual_xid=2/9",
            "xid=0",
            "query_id=-77",
            "leader_pid=70",
            "LOG|ready",
        ],
    );
}

#[test]
fn values_that_a_background_process_lacks_are_empty() {
    assert_reads(
        "%p [%u,%d,%a,%h,%v,%P,%i,%e] ",
        "71 [,,,,,,,] LOG:  ready",
        &[
            "pid=71",
            "user=",
            "database=",
            "application_name=",
            "remote_host=",
            "virtual_xid=",
            "leader_pid=",
            "command_tag=",
            "sqlstate=",
            "LOG|ready",
        ],
    );
}

#[test]
fn from_q_on_the_prefix_may_be_missing() {
    let setting = "%p %q[%u@%d] ";
    assert_reads(setting, "71 [ana@pan] LOG:  a", &["pid=71", "user=ana", "database=pan", "LOG|a"]);
    assert_reads(setting, "71 LOG:  a [b@c] ERROR: d", &["pid=71", "LOG|a [b@c] ERROR: d"]);
    assert_eq!(read(setting, "71 [ana@pan LOG:  a"), None);
}

#[test]
fn names_may_hold_what_the_prefix_is_made_of() {
    let setting = "%p [%l] [user=%u,db=%d,app=%a,host=%h] ";
    for app in ["psql", "a b", "a,b", "[a]", "a] b", "host=x", "a,host=b", "LOG: x", "panadería"] {
        assert_reads(
            setting,
            &format!("71 [3] [user=ana,db=my pan,app={app},host=::1] ERROR:  x] LOG:  y"),
            &[
                "pid=71",
                "line_num=3",
                "user=ana",
                "database=my pan",
                &format!("application_name={app}"),
                "remote_host=::1",
                "ERROR|x] LOG:  y",
            ],
        );
    }
}

#[test]
fn a_host_with_colons_is_told_from_the_rest() {
    assert_reads(
        "%t:%r:%u@%d:[%p]:",
        "2031-05-04 10:11:12 UTC:fe80::7(5000):ana@pan:[71]:STATEMENT:  select 1",
        &[
            "time=2031-05-04 10:11:12 UTC",
            "host=fe80::7(5000)",
            "user=ana",
            "database=pan",
            "pid=71",
            "STATEMENT|select 1",
        ],
    );
}

#[test]
fn a_host_is_a_name_an_address_or_a_word_in_brackets() {
    for host in ["faro", "faro-2.example", "192.0.2.7", "fe80::7", "fe80::7%eth0", "[local]", ""] {
        let expected = [&format!("remote_host={host}"), "user=ana", "LOG|a"];
        for setting in ["%h:%u ", "%h-%u ", "%h,%u ", "%h %u ", "[%h] %u ", "(%h)%u "] {
            let line = setting.replace("%h", host).replace("%u", "ana");
            assert_reads(setting, &format!("{line}LOG:  a"), &expected);
        }
    }
    assert_eq!(read("%h ", "a b LOG:  a"), None);
    assert_eq!(read("%h ", "a:b LOG:  a"), None);
}

#[test]
fn a_zone_may_be_letters_or_an_offset_or_missing() {
    for zone in [" UTC", " -03", " +0330", " +05:30", ""] {
        assert_reads(
            "%m %u ",
            &format!("2031-05-04 10:11:12.3{zone} ana LOG:  a"),
            &[&format!("time=2031-05-04 10:11:12.3{zone}"), "user=ana", "LOG|a"],
        );
    }
}

#[test]
fn padding_is_taken_off() {
    for line in ["    71 ana      3 LOG:  a", "71 ana 3 LOG:  a", "1234567 a      3 LOG:  a"] {
        let seen = read("%6p %-8u %l ", line).unwrap();
        assert_eq!((seen.len(), seen[2].as_str(), seen[3].as_str()), (4, "line_num=3", "LOG|a"));
        assert!(seen[1].starts_with("user=a") && !seen[1].ends_with(' '));
    }
    assert_reads("%-6l|%5d|", "3     |  pan|LOG: a", &["line_num=3", "database=pan", "LOG|a"]);
}

#[test]
fn up_to_two_blanks_after_the_word_are_dropped() {
    for (line, text) in [("LOG:a", "a"), ("LOG: a", "a"), ("LOG:  a", "a"), ("LOG:     a", "   a")]
    {
        assert_reads("", line, &[&format!("LOG|{text}")]);
    }
    assert_reads("", "LOG:", &["LOG|"]);
}

#[test]
fn a_line_without_the_prefix_or_a_word_is_not_read() {
    for line in [
        "",
        "71",
        "71 ",
        "71 LOG",
        "71 Log:  a",
        "71 BACKTRACE:  a",
        "71  LOG:  a",
        "x LOG:  a",
        " LOG:  a",
        "LOG:  a",
        "\t71 LOG:  a",
    ] {
        assert_eq!(read("%p ", line), None, "{line}");
    }
}

#[test]
fn escapes_that_the_server_does_not_know_print_nothing() {
    assert_reads("%y%p%", "71LOG:  a", &["pid=71", "LOG|a"]);
    assert_reads("%5y%p %%%-", "71 %LOG:  a", &["pid=71", "LOG|a"]);
}

#[test]
fn too_many_escapes_are_refused() {
    let error = Prefix::new(&"%p ".repeat(VALUES_MAX + 1)).unwrap_err();
    assert_eq!(error.option, "log_line_prefix");
    assert_eq!(error.detail, "it has 33 escapes, at most 32 are possible");
}

#[test]
fn a_line_made_to_mislead_costs_a_bounded_time() {
    let prefix = Prefix::new("%a,%a,%a,%a,%a,%a,%a,%a|").unwrap();
    let line = ",".repeat(60_000);
    assert!(prefix.read(line.as_bytes()).is_none());
    // And where every place may be the end of a name.
    let prefix = Prefix::new("%a%u%d%i%b%a%u").unwrap();
    assert!(prefix.read(line.as_bytes()).is_none());
}

proptest! {
    #[test]
    fn any_prefix_meets_any_line(
        setting in "[%a-zQLP0-9 :,\\[\\]-]{0,24}",
        line in "[ -~é]{0,80}",
    ) {
        if let Ok(prefix) = Prefix::new(&setting)
            && let Some(head) = prefix.read(line.as_bytes())
        {
            for (_, value) in prefix.values(&head) {
                prop_assert!(str::from_utf8(value).is_ok());
            }
            prop_assert!(line.as_bytes().ends_with(head.text));
        }
    }

    #[test]
    fn what_the_server_prints_is_read_back(
        pid in 1..9_999_999_u64,
        user in "[a-z_ü]{1,12}",
        database in "[a-z ]{0,8}[a-z]",
        app in "[a-zA-Z \\[\\],.()]{0,20}",
        message in "[ -~]{0,40}",
    ) {
        let line = format!("[{pid}] {user}@{database} app={app} ERROR:  {message}");
        let seen = read("[%p] %u@%d app=%a ", &line).unwrap();
        prop_assert_eq!(&seen[0], &format!("pid={pid}"));
        prop_assert_eq!(&seen[1], &format!("user={user}"));
        prop_assert_eq!(&seen[2], &format!("database={database}"));
        prop_assert_eq!(&seen[3], &format!("application_name={app}"));
        prop_assert_eq!(&seen[4], &format!("ERROR|{message}"));
    }
}
