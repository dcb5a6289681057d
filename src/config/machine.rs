//! What the configuration takes from the machine: its name and its time zone.

use jiff::tz::TimeZone;

/// The machine's own answers, given to the loader so that tests need no machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The machine's name.
    pub name: String,
    /// IANA name of its time zone, or why there is none.
    pub timezone: Result<String, String>,
}

impl Machine {
    /// Asks the system.
    #[must_use]
    pub fn here() -> Self {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = if name.is_empty() { "localhost".to_owned() } else { name };
        Self { name, timezone: timezone() }
    }
}

/// `TZ`, then `/etc/localtime`, then Debian's `/etc/timezone`; UTC where nothing is set, as the C
/// library has it (tzset(3)).
fn timezone() -> Result<String, String> {
    if let Ok(zone) = TimeZone::try_system()
        && let Some(name) = zone.iana_name()
    {
        return Ok(name.to_owned());
    }
    if let Some(value) = std::env::var_os("TZ").filter(|value| !value.is_empty()) {
        return Err(format!("TZ is \"{}\", which is no name of a zone", value.display()));
    }
    if !std::path::Path::new("/etc/localtime").exists() {
        return Ok("UTC".to_owned());
    }
    let named = std::fs::read_to_string("/etc/timezone").unwrap_or_default();
    match TimeZone::get(named.trim()) {
        Ok(zone) => Ok(zone.iana_name().unwrap_or("UTC").to_owned()),
        Err(_) => Err("/etc/localtime is a copy of a zone and does not say which".to_owned()),
    }
}

/// The zone's name as the database spells it.
///
/// # Errors
///
/// What is wrong with the name, and which one may have been meant.
pub(super) fn zone_name(name: &str) -> Result<String, String> {
    if let Ok(zone) = TimeZone::get(name) {
        return Ok(zone.iana_name().unwrap_or(name).to_owned());
    }
    let database = jiff::tz::db();
    let known: Vec<String> = database.available().map(|name| name.to_string()).collect();
    if known.is_empty() {
        return Err(format!(
            "time zone \"{name}\" is unknown, for this machine has no zones but UTC; install tzdata"
        ));
    }
    let meant = super::problem::meant(name, known.iter().map(String::as_str));
    Err(format!(
        "time zone \"{name}\" is unknown{meant}; write a name such as \"Europe/Madrid\", \"UTC\" or \"local\""
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_spelt_as_the_database_has_them() {
        assert_eq!(zone_name("utc"), Ok("UTC".to_owned()));
        assert!(zone_name("Mars/Olympus").is_err());
    }

    #[test]
    fn this_machine_has_a_name() {
        assert!(!Machine::here().name.is_empty());
    }
}
