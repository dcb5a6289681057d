//! Configurations that are right, and configurations that are wrong with what is said about them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "all of it is tests")]

use std::fs;
use std::path::{Path, PathBuf};

use bitacora::config::{Config, Machine, StoreKind, print};

fn machine() -> Machine {
    Machine { name: "ship".to_owned(), timezone: Ok("Europe/Madrid".to_owned()) }
}

fn data(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn parse(text: &[u8]) -> Result<Config, String> {
    let texts = [(PathBuf::from("bitacora.toml"), text.to_vec())];
    Config::from_texts(&texts, &machine()).map_err(|problems| problems.to_string())
}

#[test]
fn every_good_file_is_accepted() {
    for path in data("good") {
        if let Err(problems) = parse(&fs::read(&path).unwrap()) {
            panic!("{}:\n{problems}", path.display());
        }
    }
}

#[test]
fn every_bad_file_is_told_all_its_problems_with_their_places() {
    let mut faults = Vec::new();
    for path in data("bad") {
        let told = parse(&fs::read(&path).unwrap()).err().unwrap_or_default();
        let lines = told.lines().map(|line| line.strip_prefix("bitacora.toml:").unwrap_or(line));
        let told = lines.flat_map(|line| [line, "\n"]).collect::<String>();
        let expected_path = path.with_extension("expected");
        if std::env::var_os("BITACORA_BLESS").is_some() {
            fs::write(&expected_path, &told).unwrap();
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if told.is_empty() || told != expected {
            faults.push(format!("{}: told\n{told}expected\n{expected}", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_empty_file_has_the_defaults_of_the_manual() {
    let config = parse(b"").unwrap();
    assert_eq!(config.daemon.state_dir, Path::new("/var/lib/bitacora"));
    assert_eq!(config.daemon.control, Path::new("/var/lib/bitacora/control.sock"));
    assert_eq!(config.daemon.http, Some("127.0.0.1:9598".parse().unwrap()));
    assert_eq!(config.daemon.host, "ship");
    assert_eq!(config.daemon.shutdown_timeout.as_secs(), 10);
    assert_eq!(config.store.kind, StoreKind::Sqlite);
    assert_eq!(config.store.batch_rows, 1000);
    assert_eq!(config.store.batch_age.as_secs(), 1);
    assert_eq!(config.store.sqlite.dir, Path::new("/var/lib/bitacora/logs"));
    let cassandra = config.store.cassandra;
    assert_eq!(cassandra.nodes, ["127.0.0.1:9042"]);
    assert_eq!(cassandra.keyspace, "logging");
    assert_eq!(cassandra.datacenter, "datacenter1");
    assert_eq!(cassandra.replication, 1);
    assert_eq!(cassandra.consistency, "local_quorum");
    assert_eq!(cassandra.ttl.unwrap().as_secs(), 90 * 86_400);
    assert_eq!((cassandra.username, cassandra.password_file, cassandra.tls), (None, None, None));
    assert!(config.files.is_empty() && config.later.is_empty());
}

#[test]
fn a_source_has_the_defaults_of_the_manual() {
    let config = parse(b"[[files]]\nsource = \"nginx/access\"\npaths = [\"/a\"]\n").unwrap();
    let [source] = &config.files[..] else { panic!("{:?}", config.files) };
    assert_eq!(source.format.name(), "nginx/access");
    assert_eq!(source.table.word(), "infrastructure");
    assert_eq!(source.timezone, "Europe/Madrid");
    assert_eq!(source.exclude, ["*.gz"]);
    assert_eq!(source.max_line_bytes, 256 << 10);
    assert_eq!(source.rotate_wait.as_secs(), 5);
    assert_eq!(source.multiline_wait.as_secs(), 2);
    assert!(source.options.is_empty());
}

#[test]
fn sections_of_later_releases_are_named_and_switched_off_ones_are_not() {
    let config = parse(b"[redact]\n").unwrap();
    let told: Vec<_> = config.later.iter().map(ToString::to_string).collect();
    let expected = "bitacora.toml:1:2: [redact] is set, but this release masks nothing: \
                    secrets in log lines are stored as they stand";
    assert_eq!(told, [expected]);
    assert_eq!(parse(b"[redact]\nrules = []\n").unwrap().later, []);
}

#[test]
fn a_later_file_wins_by_key_and_adds_its_sources() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("main.toml");
    let more = dir.path().join("conf.d");
    fs::create_dir(&more).unwrap();
    let source = |name: &str| format!("[[files]]\nsource = \"{name}\"\npaths = [\"/{name}\"]\n");
    fs::write(&main, format!("store.batch_rows = 7\nstore.batch_age = \"2s\"\n{}", source("json")))
        .unwrap();
    fs::write(more.join("20.toml"), format!("[store]\nbatch_rows = 9\n{}", source("syslog")))
        .unwrap();
    fs::write(more.join("10.toml"), "[store]\nbatch_rows = 8\n").unwrap();
    fs::write(more.join(".30.toml"), "not toml").unwrap();
    fs::write(more.join("40.toml.bak"), "not toml").unwrap();
    let config = Config::load(&main, &machine()).unwrap();
    assert_eq!((config.store.batch_rows, config.store.batch_age.as_secs()), (9, 2));
    let names: Vec<_> = config.files.iter().map(|source| source.source.as_str()).collect();
    assert_eq!(names, ["json", "syslog"]);

    fs::write(more.join("50.toml"), source("json")).unwrap();
    fs::write(&main, format!("store.batch_rows = 0\n{}", source("json"))).unwrap();
    let told = Config::load(&main, &machine()).unwrap_err().to_string();
    let told = told.replace(dir.path().to_str().unwrap(), "");
    let expected = "/main.toml:1:20: batch_rows is 0; it must be a whole number from 1 to 10000\n\
                    /conf.d/50.toml:3:10: path \"/json\" is named twice for source \"json\", \
                    first at /main.toml:4:10";
    assert_eq!(told, expected);
}

#[test]
fn a_zone_without_a_name_is_a_problem_only_where_it_is_needed() {
    let machine = Machine { name: "ship".into(), timezone: Err("it is a copy".into()) };
    let text = b"[[files]]\nsource = \"syslog\"\npaths = [\"/a\"]\n".to_vec();
    let told = Config::from_texts(&[("b".into(), text.clone())], &machine).unwrap_err();
    let told = told.to_string();
    assert!(told.starts_with("b:1:1: the machine's time zone has no name: it is a copy"), "{told}");
    let named = [&text[..], b"timezone = \"UTC\"\n"].concat();
    assert!(Config::from_texts(&[("b".into(), named)], &machine).is_ok());
}

/// Printed files are kept in the tree for those who read it there; `BITACORA_BLESS=1` writes them.
#[test]
fn the_printed_files_in_the_tree_are_what_the_program_prints() {
    for (name, text) in
        [("etc/bitacora.toml", print::default_toml()), ("docs/configuration.md", print::markdown())]
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        if std::env::var_os("BITACORA_BLESS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "{name}");
    }
}

#[test]
fn the_default_file_says_the_defaults_also_when_every_comment_is_taken_away() {
    let text = print::default_toml();
    let as_it_is = parse(text.as_bytes()).unwrap();
    assert_eq!(as_it_is.later, []);
    let names: Vec<_> = as_it_is.files.iter().map(|source| source.source.as_str()).collect();
    assert_eq!(names, ["nginx/access", "nginx/error", "syslog", "postgresql"]);

    let is_key = |line: &str| {
        let key = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ") && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if is_key(rest) => rest,
        _ => line,
    });
    let uncommented: String = lines.flat_map(|line| [line, "\n"]).collect();
    let mut all = parse(uncommented.as_bytes()).unwrap();
    assert!(all.store.cassandra.tls.is_some() && all.store.cassandra.username.is_some());
    all.store.cassandra.tls = None;
    all.store.cassandra.username = None;
    all.store.cassandra.password_file = None;
    assert_eq!((all.daemon, all.store), (as_it_is.daemon, as_it_is.store));
}

#[test]
fn rows_in_cassandra_live_as_the_store_says_where_retention_does_not() {
    use std::time::Duration;

    use bitacora::key::Table;

    let days = |days: u64| Some(Duration::from_hours(24 * days));
    let text = |kind: &str| {
        format!(
            "[store]\nkind = \"{kind}\"\n[store.cassandra]\nttl = \"20d\"\n[retention]\n\
             application = \"40d\"\nsources = {{ \"short\" = \"7d\" }}\n\
             [[files]]\nsource = \"syslog\"\npaths = [\"/var/log/syslog\"]\n"
        )
    };
    let of = |kind: &str| {
        let lifetimes = parse(text(kind).as_bytes()).unwrap().store.lifetimes;
        Table::ALL.map(|table| lifetimes.of(table, "x")).map(|lifetime| {
            assert_eq!(lifetimes.of(Table::Application, "short"), days(7));
            lifetime
        })
    };
    assert_eq!(of("cassandra"), [days(20), days(40), days(20)]);
    assert_eq!(of("sqlite"), [days(90), days(40), days(90)]);
    let for_ever = text("cassandra").replace("20d", "");
    let lifetimes = parse(for_ever.as_bytes()).unwrap().store.lifetimes;
    assert_eq!(lifetimes.of(Table::Infrastructure, "x"), None);
    assert_eq!(lifetimes.longest(), None);
}
