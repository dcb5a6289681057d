//! Looks at the places that the daemon and the sidecar need: directories, secrets, programs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Trouble, access};
use crate::config::{Config, DoraKind, StoreKind};

/// Where archives go when nobody says otherwise: of no matter until somebody makes it.
const DEFAULT_BACKUPS: &str = "/var/backups/bitacora";

/// A directory, file or program that is needed.
#[derive(Debug)]
pub(super) struct OwnPlace {
    pub what: &'static str,
    pub path: PathBuf,
    pub trouble: Option<Trouble>,
}

impl OwnPlace {
    pub fn json(&self) -> Value {
        let trouble = self.trouble.as_ref().map(Trouble::json);
        json!({ "what": self.what, "path": self.path, "trouble": trouble })
    }
}

/// Directories that must be writable, secrets that must be readable, programs that must be there.
pub(super) fn own_places(config: &Config) -> Vec<OwnPlace> {
    let mut places = vec![directory("state_dir", &config.daemon.state_dir)];
    if let Some(parent) = config.daemon.control.parent()
        && parent != config.daemon.state_dir
    {
        places.push(directory("directory of control", parent));
    }
    match config.store.kind {
        StoreKind::Sqlite => places.push(directory("store.sqlite.dir", &config.store.sqlite.dir)),
        StoreKind::Null => {}
        StoreKind::Cassandra => {
            let cassandra = &config.store.cassandra;
            places.extend(cassandra.password_file.iter().map(|path| secret("password_file", path)));
            if let Some(tls) = &cassandra.tls {
                places.push(file("tls.ca_file", &tls.ca_file));
                places.extend(tls.cert_file.iter().map(|path| file("tls.cert_file", path)));
                places.extend(tls.key_file.iter().map(|path| file("tls.key_file", path)));
            }
        }
    }
    sidecar(config, &mut places);
    places
}

/// What timers and their commands need.
fn sidecar(config: &Config, places: &mut Vec<OwnPlace>) {
    let (dora, backup, alerts) = (&config.dora, &config.backup, &config.alerts);
    if let (DoraKind::Mysql, Some(mysql)) = (dora.kind, &dora.mysql) {
        places.extend(mysql.password_file.iter().map(|path| secret("dora password_file", path)));
        places.extend(mysql.ca_file.iter().map(|path| file("dora ca_file", path)));
    } else {
        let parent = dora.sqlite.parent().unwrap_or(Path::new("/"));
        if parent.exists() && parent != config.daemon.state_dir {
            places.push(directory("directory of dora.sqlite", parent));
        }
    }
    if backup.dir.exists() || backup.dir != Path::new(DEFAULT_BACKUPS) {
        places.push(directory("backup.dir", &backup.dir));
    }
    for database in &backup.databases {
        let secrets = database.password_file.iter();
        places.extend(secrets.map(|path| secret("backup.database password_file", path)));
    }
    if let Some(slack) = &alerts.slack {
        places.push(secret("alerts.slack webhook_file", &slack.webhook_file));
    }
    if let Some(email) = &alerts.email {
        let secrets = email.password_file.iter();
        places.extend(secrets.map(|path| secret("alerts.email password_file", path)));
        places.extend(email.ca_file.iter().map(|path| file("alerts.email ca_file", path)));
    }
    if let Some(parent) = alerts.log.as_deref().and_then(Path::parent) {
        places.push(directory("directory of alerts.log", parent));
    }
    if let Some(program) = alerts.command.first() {
        let path = PathBuf::from(program);
        // a name without a slash is looked for when it is run
        if path.is_absolute() {
            places.push(OwnPlace {
                what: "alerts.command",
                trouble: access::unreadable_file(&path),
                path,
            });
        }
    }
}

fn directory(what: &'static str, path: &Path) -> OwnPlace {
    OwnPlace { what, path: path.to_owned(), trouble: access::unwritable_directory(path) }
}

fn file(what: &'static str, path: &Path) -> OwnPlace {
    OwnPlace { what, path: path.to_owned(), trouble: access::unreadable_file(path) }
}

/// A file that holds a secret: to be read by us, and not by everybody.
fn secret(what: &'static str, path: &Path) -> OwnPlace {
    let mut place = file(what, path);
    let open_to_all = place.path.metadata().is_ok_and(|metadata| metadata.mode() & 0o007 != 0);
    if place.trouble.is_none() && open_to_all {
        let path = place.path.display();
        let what = format!("{path} holds a secret and is open to everybody");
        place.trouble = Some(Trouble { what, fix: format!("chmod o= {path}") });
    }
    place
}
