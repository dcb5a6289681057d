//! Walks a parsed text along the table of keys and collects values and problems.
//!
//! serde would end at the first error; an operator wants to fix a file once.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys::{self, Key, Kind, Section};
use super::problem::{Place, Problem, Source, meant};
use super::units;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Located<T> {
    pub value: T,
    pub place: Place,
}

/// A value of the kind that its key asks for.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Bytes(u64),
    Duration(Option<Duration>),
    Texts(Vec<Located<String>>),
    Table(Entries),
    Switch(bool),
    /// A value that has been told as a problem.
    Wrong,
}

/// The keys of one table.
pub(super) type Entries = BTreeMap<String, Located<Value>>;

/// What one file or several say.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Sections by name.
    pub sections: BTreeMap<&'static str, Located<Entries>>,
    /// Those of which there may be several, in their order.
    pub repeated: BTreeMap<&'static str, Vec<Located<Entries>>>,
}

impl Document {
    /// Puts what a later file says over this, key by key; repeated sections are appended.
    pub fn merge(&mut self, later: Self) {
        for (name, section) in later.sections {
            match self.sections.get_mut(name) {
                Some(earlier) => earlier.value.extend(section.value),
                None => {
                    self.sections.insert(name, section);
                }
            }
        }
        for (name, sections) in later.repeated {
            self.repeated.entry(name).or_default().extend(sections);
        }
    }
}

/// Reads one file's text. What is wrong is added to `problems`, and left out of the answer.
pub(super) fn read(source: &Source<'_>, problems: &mut Vec<Problem>) -> Document {
    let (root, errors) = DeTable::parse_recoverable(source.text);
    let mut walk = Walk { source, problems, document: Document::default() };
    if errors.is_empty() {
        walk.table("", root.get_ref());
        return walk.document;
    }
    // what a recovered tree lacks would be told as further problems that are none
    for error in errors {
        let offset = error.span().map_or(source.text.len(), |span| span.start);
        walk.problem(offset, format!("this is not TOML: {}", error.message()));
    }
    Document::default()
}

/// Reads the keys of one table from a text of its own.
pub(super) fn read_table(
    source: &Source<'_>,
    keys: &[Key],
    problems: &mut Vec<Problem>,
) -> Entries {
    let (root, _) = DeTable::parse_recoverable(source.text);
    let mut walk = Walk { source, problems, document: Document::default() };
    walk.entries("", keys, root.get_ref())
}

struct Walk<'a, 'b> {
    source: &'a Source<'a>,
    problems: &'b mut Vec<Problem>,
    document: Document,
}

type Entry<'a, 'i> = (&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>);

impl Walk<'_, '_> {
    fn problem(&mut self, offset: usize, message: String) {
        self.problems.push(Problem { place: self.source.place(offset), message });
    }

    fn located<T>(&self, offset: usize, value: T) -> Located<T> {
        Located { value, place: self.source.place(offset) }
    }

    /// The table of the section `prefix`, or the whole file.
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let full = if prefix.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{prefix}.{}", name.get_ref())
            };
            if let Some(section) = keys::section(&full) {
                self.section(section, name, value);
            } else if prefix.is_empty() {
                self.unknown_at_top((name, value));
            }
        }
    }

    fn unknown_at_top(&mut self, (name, value): Entry<'_, '_>) {
        let word = name.get_ref();
        let is_table = matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_));
        let message = if let Some(home) = home_of(word).filter(|_| !is_table) {
            format!("key \"{word}\" belongs in the section {home}")
        } else {
            let sections = keys::sections().map(|section| section.name);
            format!("unknown section \"{word}\"{}", meant(word, sections))
        };
        self.problem(name.span().start, message);
    }

    fn section(
        &mut self,
        section: &'static Section,
        name: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        match value.get_ref() {
            DeValue::Array(tables) if section.repeated => {
                for item in tables {
                    if let DeValue::Table(table) = item.get_ref() {
                        let entries = self.entries(section.name, section.keys, table);
                        let located = self.located(item.span().start, entries);
                        self.document.repeated.entry(section.name).or_default().push(located);
                    } else {
                        let message = format!("write [[{}]] and its keys below", section.name);
                        self.problem(item.span().start, message);
                    }
                }
            }
            DeValue::Table(table) if !section.repeated => {
                let entries = self.entries(section.name, section.keys, table);
                let located = self.located(name.span().start, entries);
                self.document.sections.insert(section.name, located);
                self.table(section.name, table);
            }
            _ => {
                let header = header(section);
                let message = format!("\"{}\" must be a section: write {header}", section.name);
                self.problem(name.span().start, message);
            }
        }
    }

    /// The keys of one table; what belongs to a section below it is passed over.
    fn entries(&mut self, owner: &str, known: &[Key], table: &DeTable<'_>) -> Entries {
        let mut entries = Entries::new();
        for (name, value) in table {
            let word = name.get_ref().as_ref();
            if let Some(key) = known.iter().find(|key| key.name == word) {
                let checked = self.value(owner, key, value).unwrap_or(Value::Wrong);
                let located = self.located(value.span().start, checked);
                entries.insert(word.to_owned(), located);
            } else if keys::section(&format!("{owner}.{word}")).is_none() {
                let message = unknown_key(owner, word, known);
                self.problem(name.span().start, message);
            }
        }
        entries
    }

    fn value(&mut self, owner: &str, key: &Key, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        let start = value.span().start;
        match (key.kind, value.get_ref()) {
            (Kind::Table(keys), DeValue::Table(table)) => {
                Some(Value::Table(self.entries(&format!("{owner}.{}", key.name), keys, table)))
            }
            (Kind::Options, DeValue::Table(table)) => Some(self.options(table)),
            (Kind::Texts, DeValue::Array(items)) => {
                let mut texts = Vec::new();
                for item in items {
                    let start = item.span().start;
                    match item.get_ref() {
                        DeValue::String(text) => texts.push(self.located(start, text.to_string())),
                        other => {
                            let message = format!(
                                "{} must be {}; this is {}",
                                key.name,
                                key.kind.wanted(),
                                describe(other)
                            );
                            self.problem(start, message);
                        }
                    }
                }
                Some(Value::Texts(texts))
            }
            (kind, value) => match scalar(kind, value) {
                Ok(value) => Some(value),
                Err(why) => {
                    self.problem(start, format!("{} {why}", key.name));
                    None
                }
            },
        }
    }

    fn options(&mut self, table: &DeTable<'_>) -> Value {
        let mut options = Entries::new();
        for (name, value) in table {
            let start = value.span().start;
            match value.get_ref() {
                DeValue::String(text) => {
                    let located = self.located(start, Value::Text(text.to_string()));
                    options.insert(name.get_ref().to_string(), located);
                }
                other => {
                    let word = name.get_ref();
                    let what = describe(other);
                    self.problem(start, format!("option {word} is {what}; it must be a text"));
                }
            }
        }
        Value::Table(options)
    }
}

/// `[name]` or `[[name]]`.
pub(super) fn header(section: &Section) -> String {
    if section.repeated { format!("[[{}]]", section.name) } else { format!("[{}]", section.name) }
}

/// The section that knows this key.
fn home_of(word: &str) -> Option<String> {
    let mut homes =
        keys::sections().filter(|section| section.keys.iter().any(|key| key.name == word));
    homes.next().map(header)
}

fn unknown_key(owner: &str, word: &str, known: &[Key]) -> String {
    let below =
        keys::sections().filter_map(|section| section.name.strip_prefix(owner)?.strip_prefix('.'));
    let suggestion = meant(word, known.iter().map(|key| key.name).chain(below));
    match home_of(word) {
        Some(home) if suggestion.is_empty() => {
            format!("unknown key \"{word}\" in {owner} (it belongs in {home})")
        }
        _ => format!("unknown key \"{word}\" in {owner}{suggestion}"),
    }
}

fn scalar(kind: Kind, value: &DeValue<'_>) -> Result<Value, String> {
    let wrong = |text: String| format!("is {text}; it must be {}", kind.wanted());
    match (kind, value) {
        (Kind::Text, DeValue::String(text)) => Ok(Value::Text(text.to_string())),
        (Kind::Word(words), DeValue::String(text)) => {
            if words.is_empty() || words.contains(&text.as_ref()) {
                return Ok(Value::Text(text.to_string()));
            }
            Err(wrong(format!("\"{text}\"{}", meant(text, words.iter().copied()))))
        }
        (Kind::Path, DeValue::String(text)) => {
            if text.is_empty() || text.starts_with('/') {
                return Ok(Value::Text(text.to_string()));
            }
            Err(format!("\"{text}\" must be absolute, beginning with /: a service has no home"))
        }
        (Kind::Integer(min, max), DeValue::Integer(_)) => {
            let number = integer(value).ok_or_else(|| wrong("a number out of range".into()))?;
            if (min..=max).contains(&number) {
                return Ok(Value::Integer(number));
            }
            Err(wrong(number.to_string()))
        }
        (Kind::Switch, DeValue::Boolean(on)) => Ok(Value::Switch(*on)),
        (Kind::Bytes(min, max), _) => {
            let bytes = match value {
                DeValue::String(text) => units::bytes(text)?,
                _ => integer(value)
                    .and_then(|number| u64::try_from(number).ok())
                    .ok_or_else(|| wrong(describe(value)))?,
            };
            if (min..=max).contains(&bytes) {
                return Ok(Value::Bytes(bytes));
            }
            Err(wrong(format!("\"{}\"", units::show_bytes(bytes))))
        }
        (Kind::Ttl(_), DeValue::String(text)) if text.is_empty() => Ok(Value::Duration(None)),
        (Kind::DurationOf(..) | Kind::Ttl(_), DeValue::String(text)) => {
            let duration = units::duration(text)?;
            let (min, max) = match kind {
                Kind::DurationOf(min, max) => (min, max),
                Kind::Ttl(max) => (Duration::from_secs(1), max),
                _ => (Duration::ZERO, Duration::MAX),
            };
            if (min..=max).contains(&duration) {
                return Ok(Value::Duration(Some(duration)));
            }
            Err(wrong(format!("\"{text}\"")))
        }
        _ => Err(wrong(describe(value))),
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let DeValue::Integer(number) = value else { return None };
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text \"{text}\""),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
