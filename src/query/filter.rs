//! Which rows are asked for. What a store can find by itself goes into its query; the rest is
//! looked at row by row.

use std::borrow::Cow;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::batch::EVENT_DATA_PREFIX;
use crate::duration;
use crate::key::Table;
use crate::record::Level;
use crate::stores::{LogReader, RowQuery, StoreError, StoredRow};

/// What cannot be asked for.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// A level that does not exist.
    #[error(
        "{word:?} is no level; there are trace, debug, info, warning, error and critical \
         (or 0 to 7, as syslog counts)"
    )]
    Level {
        /// The word.
        word: String,
    },
    /// A pattern of names.
    #[error("{word:?} is no pattern: {detail}")]
    Pattern {
        /// The word.
        word: String,
        /// Why.
        detail: String,
    },
    /// A regular expression.
    #[error("cannot search for {word:?}: {detail}")]
    Grep {
        /// The expression.
        word: String,
        /// Why.
        detail: String,
    },
    /// A word that is neither `FIELD=VALUE` nor `+`.
    #[error("{word:?} is not of the form FIELD=VALUE (to search the text, use --grep)")]
    Field {
        /// The word.
        word: String,
    },
}

/// A name as people give it: a pattern with `*`, `?` or `[…]`, or a name.
#[derive(Debug, Clone)]
pub enum Name {
    /// The name itself, or all names of its family: `nginx` for `nginx/access`.
    Plain(String),
    /// A pattern.
    Glob(glob::Pattern),
}

impl Name {
    /// Reads a name or a pattern.
    ///
    /// # Errors
    ///
    /// The pattern is broken.
    pub fn new(word: &str) -> Result<Self, FilterError> {
        if !word.contains(['*', '?', '[']) {
            return Ok(Self::Plain(word.to_owned()));
        }
        glob::Pattern::new(word).map(Self::Glob).map_err(|error| FilterError::Pattern {
            word: word.to_owned(),
            detail: error.msg.to_owned(),
        })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Plain(word) => name
                .strip_prefix(word.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Glob(pattern) => pattern.matches(name),
        }
    }
}

fn any(names: &[Name], name: &str) -> bool {
    names.is_empty() || names.iter().any(|pattern| pattern.matches(name))
}

/// One field and the values that it may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldIs {
    /// A column, or a key of the metadata.
    pub field: String,
    /// One of them.
    pub values: Vec<String>,
}

/// Which rows are asked for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// From this time on, in milliseconds.
    pub since_ms: Option<i64>,
    /// Up to this time, exclusive.
    pub until_ms: Option<i64>,
    /// Sources; empty for any.
    pub sources: Vec<Name>,
    /// Hosts; empty for any.
    pub hosts: Vec<Name>,
    /// Levels; empty for any.
    pub levels: Vec<Level>,
    /// The column `request_id`.
    pub request_id: Option<u128>,
    /// At least so long, where a row says how long something took.
    pub min_duration_ms: Option<f64>,
    /// Found in the message or in a value of the metadata.
    pub grep: Option<Regex>,
    /// Groups of fields: a row fits if it fits all of one group. Empty for any.
    pub fields: Vec<Vec<FieldIs>>,
    /// Fields of which each must fit, whatever the groups say.
    pub musts: Vec<FieldIs>,
    /// The tables whose rows are asked for.
    pub tables: Tables,
    /// Whose user events; the store finds these by itself.
    pub user: Option<u128>,
}

/// Which tables a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tables {
    /// Both tables of log rows.
    #[default]
    Logs,
    /// `application_logs` alone.
    Application,
    /// `user_events`, which have another shape than log rows and never stand among them.
    Events,
}

impl Filter {
    /// Whether the store's own query and counts say all of it (times aside).
    #[must_use]
    pub fn only_names_and_levels(&self) -> bool {
        self.request_id.is_none()
            && self.min_duration_ms.is_none()
            && self.grep.is_none()
            && self.fields.is_empty()
            && self.musts.is_empty()
    }

    /// Whether a table is asked for.
    #[must_use]
    pub fn wants_table(&self, table: Table) -> bool {
        match self.tables {
            Tables::Logs => table != Table::Events,
            Tables::Application => table == Table::Application,
            Tables::Events => table == Table::Events,
        }
    }

    /// Whether a source is asked for.
    #[must_use]
    pub fn wants_source(&self, source: &str) -> bool {
        any(&self.sources, source)
    }

    /// Whether a host is asked for.
    #[must_use]
    pub fn wants_host(&self, host: &str) -> bool {
        any(&self.hosts, host)
    }

    /// Whether a level is asked for.
    #[must_use]
    pub fn wants_level(&self, level: Level) -> bool {
        self.levels.is_empty() || self.levels.contains(&level)
    }

    /// The part of it that a store finds by itself; `None` if no source of the store fits.
    ///
    /// # Errors
    ///
    /// The store cannot name its sources.
    pub async fn query(&self, reader: &dyn LogReader) -> Result<Option<RowQuery>, StoreError> {
        let mut query = RowQuery {
            since_ms: self.since_ms,
            until_ms: self.until_ms,
            levels: self.levels.clone(),
            request_id: self.request_id,
            tables: Table::ALL.into_iter().filter(|table| self.wants_table(*table)).collect(),
            user: self.user,
            ..RowQuery::default()
        };
        // all events have one source
        if !self.sources.is_empty() && self.tables != Tables::Events {
            query.sources = reader.sources().await?;
            query.sources.retain(|source| self.wants_source(source));
            if query.sources.is_empty() {
                return Ok(None);
            }
        }
        let plain = |name: &Name| match name {
            Name::Plain(name) => Some(name.clone()),
            Name::Glob(_) => None,
        };
        query.hosts = self.hosts.iter().map(plain).collect::<Option<Vec<_>>>().unwrap_or_default();
        Ok(Some(query))
    }

    /// Whether a row fits.
    #[must_use]
    pub fn fits(&self, row: &StoredRow) -> bool {
        let time = row.key.timestamp_ms;
        self.since_ms.is_none_or(|since| time >= since)
            && self.until_ms.is_none_or(|until| time < until)
            && self.wants_level(row.level)
            && self.wants_table(row.table)
            && self.wants_source(&row.source)
            && self.wants_host(&row.host)
            && self.fits_text(row)
    }

    fn fits_text(&self, row: &StoredRow) -> bool {
        if self.only_names_and_levels() {
            return true;
        }
        let metadata = metadata(row);
        let took = || duration::of_row(|name| field(row, &metadata, name));
        let slow = |min| took().is_some_and(|took| took >= min);
        let id = |id: u128| {
            let text = uuid::Uuid::from_u128(id).to_string();
            column(row, "request_id").is_some_and(|found| found == text)
        };
        let is = |wanted: &FieldIs| {
            field(row, &metadata, &wanted.field)
                .is_some_and(|value| wanted.values.iter().any(|one| *one == value))
        };
        self.request_id.is_none_or(id)
            && self.min_duration_ms.is_none_or(slow)
            && self.grep.as_ref().is_none_or(|regex| found(regex, row, &metadata))
            && self.musts.iter().all(is)
            && (self.fields.is_empty() || self.fields.iter().any(|group| group.iter().all(is)))
    }
}

fn found(regex: &Regex, row: &StoredRow, metadata: &Map<String, Value>) -> bool {
    regex.is_match(&row.message)
        || metadata.values().any(|value| regex.is_match(&value_text(value)))
}

/// The metadata of a row; empty if it has none.
#[must_use]
pub fn metadata(row: &StoredRow) -> Map<String, Value> {
    if row.metadata.is_empty() {
        return Map::new();
    }
    serde_json::from_str(&row.metadata).unwrap_or_default()
}

fn value_text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

fn column<'a>(row: &'a StoredRow, name: &str) -> Option<Cow<'a, str>> {
    let of_event = row.table == Table::Events;
    Some(match name {
        "source" => Cow::Borrowed(&row.source),
        "level" if !of_event => Cow::Borrowed(row.level.name()),
        "message" if !of_event => Cow::Borrowed(&row.message),
        "host" if !of_event => Cow::Borrowed(&row.host),
        "event_type" if of_event => Cow::Borrowed(&row.message),
        "event_id" if of_event => Cow::Owned(uuid::Uuid::from_u128(row.key.event_id()).to_string()),
        "origin" => Cow::Owned(row.key.origin.to_string()),
        "offset_bytes" => Cow::Owned(row.key.offset_bytes.to_string()),
        _ => {
            let (_, value) = row.further.iter().find(|(column, _)| *column == name)?;
            Cow::Borrowed(value)
        }
    })
}

/// The value of a column, or of a key of the metadata, as text.
#[must_use]
pub fn field<'a>(
    row: &'a StoredRow,
    metadata: &'a Map<String, Value>,
    name: &str,
) -> Option<Cow<'a, str>> {
    // nginx/error and others have keys named like columns: `metadata.host` reaches them
    let prefix = if row.table == Table::Events { EVENT_DATA_PREFIX } else { "metadata." };
    let key = name.strip_prefix(prefix).unwrap_or(name);
    let of_row = if key == name { column(row, name) } else { None };
    of_row.or_else(|| metadata.get(key).or_else(|| metadata.get(name)).map(value_text))
}

/// Compiles a search as `journalctl` does: without regard to case if the pattern is all in lower
/// case, unless it is said.
///
/// # Errors
///
/// The expression is broken.
pub fn grep(pattern: &str, case_sensitive: Option<bool>) -> Result<Regex, FilterError> {
    let sensitive = case_sensitive.unwrap_or_else(|| pattern.chars().any(char::is_uppercase));
    RegexBuilder::new(pattern).case_insensitive(!sensitive).build().map_err(|error| {
        let text = error.to_string();
        let detail = text.lines().last().unwrap_or_default().trim();
        let detail = detail.strip_prefix("error: ").unwrap_or(detail).to_owned();
        FilterError::Grep { word: pattern.to_owned(), detail }
    })
}

/// Reads `error`, `err`, `3` and the like.
///
/// # Errors
///
/// There is no such level.
pub fn level(word: &str) -> Result<Level, FilterError> {
    let word = word.trim();
    Level::from_name(word)
        .or(match word.to_ascii_lowercase().as_str() {
            "0" | "1" | "2" | "emerg" | "alert" | "crit" | "fatal" => Some(Level::Critical),
            "3" | "err" => Some(Level::Error),
            "4" | "warn" => Some(Level::Warning),
            "5" | "6" | "notice" => Some(Level::Info),
            "7" => Some(Level::Debug),
            _ => None,
        })
        .ok_or_else(|| FilterError::Level { word: word.to_owned() })
}

/// `warning` for it and all above, `debug..info` for a range.
///
/// # Errors
///
/// There is no such level.
pub fn priority(word: &str) -> Result<Vec<Level>, FilterError> {
    let (one, other) = match word.split_once("..") {
        Some((one, other)) => (level(one)?, level(other)?),
        None => (level(word)?, Level::Critical),
    };
    let range = one.min(other)..=one.max(other);
    Ok(Level::ALL.into_iter().filter(|level| range.contains(level)).collect())
}

/// Reads `FIELD=VALUE…` with `+` between groups. The same field again is one more value.
///
/// # Errors
///
/// A word is neither.
pub fn fields(words: &[String]) -> Result<Vec<Vec<FieldIs>>, FilterError> {
    let mut groups: Vec<Vec<FieldIs>> = Vec::new();
    let mut group: Vec<FieldIs> = Vec::new();
    for word in words {
        if word == "+" {
            groups.push(std::mem::take(&mut group));
            continue;
        }
        let (field, value) = word
            .split_once('=')
            .filter(|(field, _)| !field.is_empty())
            .ok_or_else(|| FilterError::Field { word: word.clone() })?;
        match group.iter_mut().find(|known| known.field == field) {
            Some(known) => known.values.push(value.to_owned()),
            None => {
                group.push(FieldIs { field: field.to_owned(), values: vec![value.to_owned()] });
            }
        }
    }
    groups.push(group);
    groups.retain(|group| !group.is_empty());
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::tests::row;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_same_field_twice_is_or_and_another_field_is_and() {
        let mut filter = Filter::default();
        let mut row = row(1, "GET /pan");
        row.metadata = r#"{"status":"502","method":"GET","bytes":7}"#.into();
        for (asked, fits) in [
            ("status=502", true),
            ("status=404", false),
            ("status=404 status=502", true),
            ("status=502 method=POST", false),
            ("status=502 method=POST + bytes=7", true),
            ("source=nginx/access level=INFO", true),
            ("metadata.status=502", true),
            ("missing=", false),
        ] {
            filter.fields = fields(&words(asked)).unwrap();
            assert_eq!(filter.fits(&row), fits, "{asked}");
        }
        assert!(fields(&words("status")).is_err());
        assert!(fields(&words("=502")).is_err());
    }

    #[test]
    fn a_search_in_lower_case_ignores_case_unless_it_is_said() {
        let mut filter = Filter::default();
        let mut row = row(1, "Connection refused");
        row.metadata = r#"{"client":"192.0.2.4"}"#.into();
        for (pattern, case, fits) in [
            ("connection", None, true),
            ("Connection", None, true),
            ("CONNECTION", None, false),
            ("connection", Some(true), false),
            ("CONNECTION", Some(false), true),
            (r"192\.0\.2\.\d", None, true),
            ("refused$", None, true),
            ("client", None, false),
        ] {
            filter.grep = Some(grep(pattern, case).unwrap());
            assert_eq!(filter.fits(&row), fits, "{pattern} {case:?}");
        }
        assert!(grep("(", None).unwrap_err().to_string().starts_with("cannot search for \"(\": "));
    }

    #[test]
    fn a_priority_means_it_and_all_above_or_a_range() {
        use Level::{Critical, Debug, Error, Info, Warning};
        assert_eq!(priority("err").unwrap(), [Error, Critical]);
        assert_eq!(priority("4").unwrap(), [Warning, Error, Critical]);
        assert_eq!(priority("info..debug").unwrap(), [Debug, Info]);
        assert!(priority("loud").is_err());
    }

    #[test]
    fn a_plain_name_stands_for_its_family_and_a_pattern_for_what_it_matches() {
        for (word, name, fits) in [
            ("nginx", "nginx/access", true),
            ("nginx", "nginx", true),
            ("nginx", "nginxplus", false),
            ("nginx/*", "nginx/access", true),
            ("*/access", "nginx/access", true),
            ("web[12]", "web2", true),
            ("web[12]", "web3", false),
        ] {
            assert_eq!(Name::new(word).unwrap().matches(name), fits, "{word} {name}");
        }
        assert!(Name::new("[").is_err());
    }

    #[test]
    fn a_duration_is_found_under_the_name_of_its_format() {
        let filter = Filter { min_duration_ms: Some(100.0), ..Filter::default() };
        for (metadata, fits) in [
            (r#"{"request_time":"0.120"}"#, true),
            (r#"{"request_time":"0.020"}"#, false),
            (r#"{"duration_ms":"1500.5"}"#, true),
            (r#"{"query_time_s":"0.1"}"#, true),
            ("", false),
        ] {
            let mut row = row(1, "");
            row.metadata = metadata.into();
            assert_eq!(filter.fits(&row), fits, "{metadata}");
        }
    }
}
