//! Masks what could be a secret in a text that people wrote.

use regex::{Captures, Regex};

/// What stands in its place.
pub const MASK: &str = "********";

/// Each with the group that is masked. A key that ends in `_file` names a file, not a secret.
const PATTERNS: [&str; 6] = [
    // password = "x", PGPASSWORD=x, "token": 'x', --secret=x
    r#"(?i)[a-z0-9_.-]*(?:passw(?:or)?d|passphrase|passwort|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key)[a-z0-9_.-]*["']?\s*[=:]\s*(?P<mask>"""[\s\S]*?"""|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s"',\]}#]+)"#,
    // ["--password", "x"]
    r#"(?i)["']-{1,2}(?:[a-z0-9-]*passw(?:or)?d|pass|secret|token|api-?key)["']\s*,\s*(?P<mask>"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"#,
    // mysqldump -px
    r#"(?:^|[\s"'])-p(?P<mask>[^\s"',0-9][^\s"',]*)"#,
    // scheme://user:x@host
    r#"(?i)[a-z][a-z0-9+.-]*://[^\s/:@"']*:(?P<mask>[^\s/@"']+)@"#,
    // Authorization: Bearer x
    r"(?i)\b(?:bearer|basic)\s+(?P<mask>[a-z0-9+/_.~=-]{6,})",
    // addresses that are secrets themselves
    r#"(?i)https?://[^\s"']*/(?:services|webhooks?|hooks?)/(?P<mask>[^\s"']+)"#,
];

/// The text with every such value masked, and how many there were.
pub fn mask(text: &str) -> (String, usize) {
    let mut text = text.to_owned();
    let mut times = 0;
    for pattern in PATTERNS {
        let Ok(pattern) = Regex::new(pattern) else { continue };
        let masked = pattern.replace_all(&text, |found: &Captures<'_>| {
            let whole = found.get(0).map_or("", |whole| whole.as_str());
            let Some(value) = found.name("mask") else { return whole.to_owned() };
            let key = whole.get(..whole.len().saturating_sub(value.as_str().len()));
            let names_a_file = key.is_some_and(|key| key.contains("_file"));
            let inner = value.as_str().trim_matches(['"', '\'']);
            if names_a_file || inner.is_empty() || inner == MASK {
                return whole.to_owned();
            }
            times += 1;
            whole.replacen(inner, MASK, whole.matches(inner).count())
        });
        text = masked.into_owned();
    }
    (text, times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_a_secret_is_masked_wherever_it_stands() {
        for text in [
            "password = \"canary\"",
            "# old password: canary",
            "dump = [\"sh\", \"-c\", \"PGPASSWORD=canary pg_dump\"]",
            "dump = [\"tool\", \"--password\", \"canary\"]",
            "dump = [\"tool\", \"--password=canary\"]",
            "dump = [\"mysqldump\", \"-pcanary\"]",
            "dump = [\"mongodump\", \"mongodb://u:canary@host/db\"]",
            "# https://hooks.example.com/services/canary",
            "header = \"Authorization: Bearer canary\"",
            "api_key='canary'",
            "token = \"\"\"canary\"\"\"",
        ] {
            let (masked, times) = mask(text);
            assert!(!masked.contains("canary") && masked.contains(MASK), "{masked}");
            assert_eq!(times, 1, "{masked}");
        }
    }

    #[test]
    fn a_configuration_without_secrets_stays_as_it_is() {
        let example = include_str!("../../../etc/bitacora.toml");
        assert_eq!(mask(example), (example.to_owned(), 0));
        let text = "password_file = \"/etc/bitacora/credentials/shop\"\npaths = [\"/a-p/x\"]\n";
        assert_eq!(mask(text), (text.to_owned(), 0));
    }
}
