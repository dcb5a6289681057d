//! From files to a [`Config`], or to everything that is wrong with them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use super::keys;
use super::problem::{LoadError, Notice, Place, Problem, Problems, Source};
use super::settings::Settings;
use super::walk::{Document, Entries, Located, Value};
use super::{
    Cassandra, Config, Daemon, Lifetimes, Machine, Socket, Sqlite, Store, StoreKind, Tls, alerts,
    backup, dora, files, retention, walk,
};

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/bitacora/bitacora.toml";

const CASSANDRA_PORT: u16 = 9042;

impl Config {
    /// Reads `path` and the files `conf.d/*.toml` beside it, in the order of their names.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or everything that is wrong in all of them.
    pub fn load(path: &Path, machine: &Machine) -> Result<Self, LoadError> {
        let mut texts = Vec::new();
        for file in files_of(path)? {
            let bytes = fs::read(&file).map_err(|error| {
                if error.kind() == io::ErrorKind::NotFound {
                    LoadError::Missing { path: file.clone() }
                } else {
                    LoadError::Unreadable { path: file.clone(), error }
                }
            })?;
            texts.push((file, bytes));
        }
        Ok(Self::from_texts(&texts, machine)?)
    }

    /// Checks texts that have been read.
    ///
    /// # Errors
    ///
    /// Everything that is wrong.
    pub fn from_texts(texts: &[(PathBuf, Vec<u8>)], machine: &Machine) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let mut document = Document::default();
        for (file, bytes) in texts {
            let file: Arc<Path> = file.as_path().into();
            match std::str::from_utf8(bytes) {
                Ok(text) => document.merge(walk::read(&Source { file, text }, &mut problems)),
                Err(error) => {
                    let (valid, _) = bytes.split_at(error.valid_up_to());
                    let text = std::str::from_utf8(valid).unwrap_or_default();
                    let place = Source { file, text }.place(text.len());
                    problems.push(Problem { place, message: "this is not UTF-8".to_owned() });
                }
            }
        }
        let later = notices(&document);
        let mut build = Build { machine, problems };
        let config = build.config(document, later);
        let mut problems = build.problems;
        if problems.is_empty() {
            return Ok(config);
        }
        let order = |place: &Place| texts.iter().position(|(file, _)| **file == *place.file);
        problems.sort_by_key(|problem| {
            let place = &problem.place;
            (order(place), place.line, place.column)
        });
        problems.dedup();
        Err(Problems(problems))
    }
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let folder = path.parent().unwrap_or(Path::new(".")).join("conf.d");
    let unreadable = |error| LoadError::Unreadable { path: folder.clone(), error };
    let mut more = Vec::new();
    match fs::read_dir(&folder) {
        Ok(listing) => {
            for entry in listing {
                let file = entry.map_err(unreadable)?.path();
                let hidden =
                    file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if !hidden && file.extension().is_some_and(|extension| extension == "toml") {
                    more.push(file);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(error)),
    }
    more.sort();
    Ok(std::iter::once(path.to_owned()).chain(more).collect())
}

/// A notice for each section that asks for what this release does not do.
fn notices(document: &Document) -> Vec<Notice> {
    let switched_off = |name: &str, entries: &Entries| {
        name == "redact"
            && matches!(entries.get("rules"), Some(Located { value: Value::Texts(rules), .. }) if rules.is_empty())
    };
    let set = keys::LATER.iter().filter_map(|section| {
        let located = document.sections.get(section.name)?;
        let message = section.later?.to_owned();
        (!switched_off(section.name, &located.value)).then(|| Notice {
            place: located.place.clone(),
            section: section.name,
            message,
        })
    });
    set.collect()
}

/// Takes a document apart and collects what is wrong with its meaning.
pub(super) struct Build<'a> {
    pub machine: &'a Machine,
    pub problems: Vec<Problem>,
}

impl Build<'_> {
    pub fn problem(&mut self, place: &Place, message: impl Into<String>) {
        self.problems.push(Problem { place: place.clone(), message: message.into() });
    }

    fn config(&mut self, mut document: Document, later: Vec<Notice>) -> Config {
        let mut settings = |name| {
            let said = document.sections.remove(name).map(|section| section.value);
            let keys = keys::section(name).map_or(&[][..], |section| section.keys);
            Settings::new(keys, said.unwrap_or_default())
        };
        let [daemon, store, sqlite, cassandra, socket] =
            ["daemon", "store", "store.sqlite", "store.cassandra", "socket"].map(&mut settings);
        let [dora, retention, backup, alerts] =
            ["dora", "retention", "backup", "alerts"].map(&mut settings);
        let [databases, rules, files] = ["backup.database", "alerts.rule", "files"]
            .map(|name| document.repeated.remove(name).unwrap_or_default());
        let (said, retention) = (&retention, retention::build(self, &retention));
        let mut store = self.store(&store, &sqlite, &cassandra);
        store.lifetimes = retention::lifetimes(said, &retention, store.kind, &store.cassandra);
        Config {
            daemon: self.daemon(&daemon),
            store,
            files: files::build(self, files),
            socket: self.socket(&socket),
            dora: dora::build(self, &dora),
            retention,
            backup: backup::build(self, &backup, databases),
            alerts: alerts::build(self, &alerts, rules),
            later,
        }
    }

    fn daemon(&mut self, daemon: &Settings) -> Daemon {
        let state_dir = self.path(daemon, "state_dir");
        let host = match daemon.text("host") {
            "" => &self.machine.name,
            host => host,
        };
        if let Some(said) = daemon.said("host")
            && (host.len() > 255 || host.contains(|c: char| c.is_control() || c.is_whitespace()))
        {
            self.problem(&said.place, "host must be at most 255 bytes, without blanks");
        }
        let http = daemon.text("http");
        let address = http.parse::<SocketAddr>().ok();
        if let Some(said) = daemon.said("http")
            && !http.is_empty()
            && address.is_none()
        {
            let message = format!(
                "http is \"{http}\"; it must be an IP address and a port, such as \"127.0.0.1:9598\", \
                 or \"\" for none"
            );
            self.problem(&said.place, message);
        }
        Daemon {
            control: daemon.path("control").unwrap_or_else(|| state_dir.join("control.sock")),
            state_dir,
            http: address,
            host: host.to_owned(),
            shutdown_timeout: daemon.duration("shutdown_timeout").unwrap_or_default(),
            log: daemon.text("log").to_owned(),
        }
    }

    fn socket(&mut self, socket: &Settings) -> Socket {
        let mode = u32::from_str_radix(socket.text("mode"), 8).ok().filter(|mode| *mode <= 0o777);
        if let Some(said) = socket.said("mode")
            && mode.is_none()
        {
            let message = format!(
                "mode is \"{}\"; it must be three octal digits, such as \"0660\"",
                socket.text("mode")
            );
            self.problem(&said.place, message);
        }
        Socket {
            stream: socket.path("stream"),
            dgram: socket.path("dgram"),
            group: socket.text("group").to_owned(),
            mode: mode.unwrap_or_default(),
            spool_max_bytes: socket.bytes("spool_max"),
        }
    }

    /// A path that may not be empty.
    pub fn path(&mut self, settings: &Settings, key: &str) -> PathBuf {
        if let Some(said) = settings.said(key)
            && settings.text(key).is_empty()
        {
            self.problem(&said.place, format!("{key} must not be empty"));
        }
        settings.path(key).unwrap_or_default()
    }

    fn store(&mut self, store: &Settings, sqlite: &Settings, cassandra: &Settings) -> Store {
        Store {
            kind: match store.text("kind") {
                "cassandra" => StoreKind::Cassandra,
                "null" => StoreKind::Null,
                _ => StoreKind::Sqlite,
            },
            batch_rows: usize::try_from(store.integer("batch_rows")).unwrap_or_default(),
            batch_age: store.duration("batch_age").unwrap_or_default(),
            sqlite: Sqlite { dir: self.path(sqlite, "dir") },
            cassandra: self.cassandra(cassandra),
            lifetimes: Lifetimes::default(),
        }
    }

    fn cassandra(&mut self, cassandra: &Settings) -> Cassandra {
        let keyspace = cassandra.text("keyspace");
        if let Some(said) = cassandra.said("keyspace")
            && !is_keyspace(keyspace)
        {
            let message = format!(
                "keyspace is \"{keyspace}\"; it must begin with a small letter and have up to 48 small \
                 letters, digits and _"
            );
            self.problem(&said.place, message);
        }
        if let Some(said) = cassandra.said("datacenter")
            && cassandra.text("datacenter").is_empty()
        {
            self.problem(
                &said.place,
                "datacenter must not be empty; `nodetool status` shows its name",
            );
        }
        for (one, other) in [("username", "password_file"), ("password_file", "username")] {
            if let Some(said) = cassandra.said(one)
                && cassandra.text(other).is_empty()
                && !cassandra.wrong(other)
                && !cassandra.text(one).is_empty()
            {
                self.problem(&said.place, format!("{one} needs {other} beside it"));
            }
        }
        Cassandra {
            nodes: self.nodes(cassandra),
            keyspace: keyspace.to_owned(),
            datacenter: cassandra.text("datacenter").to_owned(),
            replication: u32::try_from(cassandra.integer("replication")).unwrap_or_default(),
            consistency: cassandra.text("consistency").to_owned(),
            ttl: cassandra.duration("ttl"),
            username: Some(cassandra.text("username").to_owned()).filter(|name| !name.is_empty()),
            password_file: cassandra.path("password_file"),
            tls: self.tls(cassandra),
        }
    }

    fn nodes(&mut self, cassandra: &Settings) -> Vec<String> {
        if let Some(said) = cassandra.said("nodes")
            && cassandra.texts("nodes").is_empty()
        {
            self.problem(&said.place, "nodes needs at least one host:port");
        }
        let mut nodes = Vec::new();
        for node in cassandra.texts("nodes") {
            match node_address(&node.value) {
                Some(address) if nodes.contains(&address) => {
                    self.problem(&node.place, format!("node {address} is named twice"));
                }
                Some(address) => nodes.push(address),
                None => {
                    let message = format!(
                        "\"{}\" is no node; write host:port, such as \"10.0.0.5:{CASSANDRA_PORT}\"",
                        node.value
                    );
                    self.problem(&node.place, message);
                }
            }
        }
        nodes
    }

    fn tls(&mut self, cassandra: &Settings) -> Option<Tls> {
        let said = cassandra.said("tls")?;
        let Value::Table(entries) = &said.value else { return None };
        let tls = Settings::new(&[], entries.clone());
        let ca_file = tls.path("ca_file");
        if ca_file.is_none() && !tls.wrong("ca_file") {
            self.problem(&said.place, "tls needs ca_file, the authorities to trust");
        }
        let (cert_file, key_file) = (tls.path("cert_file"), tls.path("key_file"));
        let any_wrong = tls.wrong("cert_file") || tls.wrong("key_file");
        if cert_file.is_some() != key_file.is_some() && !any_wrong {
            self.problem(&said.place, "tls needs cert_file and key_file together, or neither");
        }
        Some(Tls { ca_file: ca_file?, cert_file, key_file })
    }
}

fn is_keyspace(name: &str) -> bool {
    let all_allowed = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    all_allowed && name.len() <= 48 && name.starts_with(|first: char| first.is_ascii_lowercase())
}

/// `host:port` of a contact point; an IPv6 address with a port stands in brackets.
fn node_address(text: &str) -> Option<String> {
    if let Ok(address) = text.parse::<std::net::Ipv6Addr>() {
        return Some(format!("[{address}]:{CASSANDRA_PORT}"));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        let port = if port.is_empty() { CASSANDRA_PORT } else { port_of(port.strip_prefix(':')?)? };
        return Some(format!("[{address}]:{port}"));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, port_of(port)?),
        None => (text, CASSANDRA_PORT),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (!host.is_empty() && host.bytes().all(is_name)).then(|| format!("{host}:{port}"))
}

fn port_of(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_a_port_has_the_usual_one() {
        for (text, address) in [
            ("db1", "db1:9042"),
            ("db1:19042", "db1:19042"),
            ("10.0.0.5", "10.0.0.5:9042"),
            ("::1", "[::1]:9042"),
            ("[::1]", "[::1]:9042"),
            ("[fe80::2]:9142", "[fe80::2]:9142"),
        ] {
            assert_eq!(node_address(text).as_deref(), Some(address), "{text}");
        }
        for text in ["", ":9042", "db1:", "db1:0", "db1:99999", "[::1", "cql://db1", "a b"] {
            assert_eq!(node_address(text), None, "{text}");
        }
    }

    #[test]
    fn a_missing_file_is_told_from_one_that_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine { name: "m".into(), timezone: Ok("UTC".into()) };
        let path = dir.path().join("bitacora.toml");
        assert!(matches!(Config::load(&path, &machine), Err(LoadError::Missing { .. })));
        fs::create_dir(&path).unwrap();
        assert!(matches!(Config::load(&path, &machine), Err(LoadError::Unreadable { .. })));
    }
}
