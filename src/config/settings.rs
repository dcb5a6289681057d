//! One section's values: what was said over the defaults of the table of keys.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::keys::Key;
use super::problem::{Place, Source};
use super::walk::{self, Entries, Located, Value};

/// The name of the text that the defaults come from.
const DEFAULTS: &str = "(default)";

/// Values by key. Asking for another kind than the table has answers with an empty one.
#[derive(Debug)]
pub(super) struct Settings(Entries);

impl Settings {
    /// What was said, over the defaults of `keys`.
    pub fn new(keys: &[Key], said: Entries) -> Self {
        let mut entries = defaults(keys);
        entries.extend(said);
        Self(entries)
    }

    /// The value under this key, if it is not the default and of the right kind.
    pub fn said(&self, key: &str) -> Option<&Located<Value>> {
        let given = |located: &&Located<Value>| *located.place.file != *Path::new(DEFAULTS);
        self.0.get(key).filter(given).filter(|_| !self.wrong(key))
    }

    /// Whether the value under this key has been told as a problem already.
    pub fn wrong(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Value::Wrong))
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).map(|located| &located.value)
    }

    pub fn text(&self, key: &str) -> &str {
        if let Some(Value::Text(text)) = self.get(key) { text } else { "" }
    }

    pub fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.text(key)).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    pub fn integer(&self, key: &str) -> i64 {
        if let Some(Value::Integer(number)) = self.get(key) { *number } else { 0 }
    }

    pub fn switch(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Value::Switch(true)))
    }

    pub fn bytes(&self, key: &str) -> u64 {
        if let Some(Value::Bytes(bytes)) = self.get(key) { *bytes } else { 0 }
    }

    pub fn duration(&self, key: &str) -> Option<Duration> {
        if let Some(Value::Duration(duration)) = self.get(key) { *duration } else { None }
    }

    pub fn texts(&self, key: &str) -> &[Located<String>] {
        if let Some(Value::Texts(texts)) = self.get(key) { texts } else { &[] }
    }

    /// A table of these keys under this one, over its defaults, and its place; `None` if nobody
    /// said it.
    pub fn table(&self, key: &str, keys: &[Key]) -> Option<(Self, &Place)> {
        let said = self.said(key)?;
        let Value::Table(entries) = &said.value else { return None };
        Some((Self::new(keys, entries.clone()), &said.place))
    }

    /// A table of texts under any names, each with its place.
    pub fn named(&self, key: &str) -> Vec<(&str, Located<&str>)> {
        let Some(Value::Table(entries)) = self.get(key) else { return Vec::new() };
        let mut texts = Vec::new();
        for (name, one) in entries {
            if let Value::Text(text) = &one.value {
                texts.push((&**name, Located { value: &**text, place: one.place.clone() }));
            }
        }
        texts
    }
}

/// The defaults of a section, read as if somebody had written them.
fn defaults(keys: &[Key]) -> Entries {
    let set = keys.iter().filter(|key| !key.default.is_empty());
    let lines: Vec<_> = set.map(|key| format!("{} = {}\n", key.name, key.default)).collect();
    let text = lines.concat();
    let mut problems = Vec::new();
    let source = Source { file: Path::new(DEFAULTS).into(), text: &text };
    let entries = walk::read_table(&source, keys, &mut problems);
    assert!(problems.is_empty(), "a default is wrong: {problems:?}");
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    #[test]
    fn every_default_is_a_value_of_its_kind() {
        for section in keys::sections() {
            let with_default = section.keys.iter().filter(|key| !key.default.is_empty()).count();
            assert_eq!(defaults(section.keys).len(), with_default, "{}", section.name);
        }
    }
}
