//! Delivery metrics end to end: both databases under the same checks, the commands by the real
//! binary, a cycle followed into the application's log.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::pedantic,
    reason = "a test that fails may panic"
)]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod exec;
mod impact;
mod report;
mod schema;
mod store;
mod trace;

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use bitacora::config::{Dora, DoraKind, Mysql};
use support::mariadb::Server;
use support::site::Site;
use support::skip;

/// The words of a command none of which holds a blank.
fn words(command: &str) -> Vec<&str> {
    command.split(' ').collect()
}

/// A server for all tests of this program; each has a database of its own. It ends with us.
fn server(test: &str) -> Option<&'static Server> {
    static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
    match SERVER.get_or_init(Server::start) {
        Ok(server) => Some(server),
        Err(why) => {
            skip(test, why);
            None
        }
    }
}

/// An empty database of its own on the server.
fn new_database(server: &Server) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("dora_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    server.sql(&format!("CREATE DATABASE {name}"));
    name
}

fn mysql(server: &Server, database: &str) -> Mysql {
    Mysql {
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        database: database.to_owned(),
        username: "bitacora".to_owned(),
        password_file: Some(server.password_file()),
        ca_file: None,
    }
}

fn on_server(mysql: Mysql) -> Dora {
    Dora { kind: DoraKind::Mysql, sqlite: "/nowhere/dora.db".into(), mysql: Some(mysql) }
}

fn in_file(path: &Path) -> Dora {
    Dora { kind: DoraKind::Sqlite, sqlite: path.to_owned(), mysql: None }
}

/// A site without daemon whose metrics are in a file.
fn site() -> Site {
    let site = Site::new();
    site.configure(&[]);
    let section = format!("[dora]\nsqlite = {:?}\n", site.path("dora.db"));
    add(&site, &section);
    site
}

/// A site without daemon whose metrics are on the server, with its tables.
fn site_on(server: &Server) -> Site {
    let site = Site::new();
    site.configure(&[]);
    let database = new_database(server);
    add(
        &site,
        &server.dora().replace("database = \"bitacora\"", &format!("database = {database:?}")),
    );
    site.apply_schema();
    site
}

/// The database that a site of [`site_on`] has.
fn database_of(site: &Site) -> String {
    let config = std::fs::read_to_string(site.config()).unwrap();
    let (_, rest) = config.split_once("database = \"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

/// Appends to the configuration.
fn add(site: &Site, text: &str) {
    let mut config = std::fs::read_to_string(site.config()).unwrap();
    config.push_str(text);
    std::fs::write(site.config(), config).unwrap();
}

/// A site on each database that is there.
fn sites(test: &str) -> Vec<Site> {
    let mut sites = vec![site()];
    sites.extend(server(test).map(site_on));
    sites
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
