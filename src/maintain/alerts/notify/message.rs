//! What is told: one or more news, all of whose text is fit to be shown anywhere.

use serde::Serialize;

use crate::maintain::alerts::finding::Finding;
use crate::maintain::alerts::text::{self, DETAIL_MAX, ago, time};

/// News that a summary names one by one.
const NAMED_MAX: usize = 30;
/// Characters of a subject.
const SUBJECT_MAX: usize = 160;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It has come to trouble.
    Trouble,
    /// The trouble lasts, or there is more of it.
    Still,
    /// The trouble has ended.
    Recovered,
    /// Nothing: somebody tries whether messages arrive.
    Test,
}

impl Kind {
    /// The word at the beginning of a message.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Trouble => "TROUBLE",
            Self::Still => "STILL TROUBLE",
            Self::Recovered => "RECOVERED",
            Self::Test => "TEST",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct News {
    /// What.
    pub kind: Kind,
    /// The rule, and the thing that it looked at.
    pub name: String,
    /// When the trouble began, in milliseconds.
    pub since_ms: i64,
    /// In words: one line.
    pub detail: String,
    /// The number that was compared.
    pub value: Option<f64>,
    /// Lines of logs that show it.
    pub samples: Vec<String>,
}

/// What goes out at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// The host that looked.
    pub host: String,
    /// When, in milliseconds.
    pub at_ms: i64,
    /// What happened; several things in a summary.
    pub news: Vec<News>,
}

impl News {
    /// Of a finding.
    #[must_use]
    pub fn new(kind: Kind, finding: &Finding, since_ms: i64) -> Self {
        // all text of a finding is one line and bounded already; a file that was changed by
        // somebody else may say anything
        let line = |sample: &String| text::line(sample, text::SAMPLE_MAX + 1);
        Self {
            kind,
            name: text::line(&finding.name(), SUBJECT_MAX),
            since_ms,
            detail: text::line(&finding.detail, DETAIL_MAX + 1),
            value: finding.value,
            samples: match kind {
                Kind::Recovered => Vec::new(),
                _ => finding.samples.iter().take(text::SAMPLES_MAX).map(line).collect(),
            },
        }
    }

    fn lines(&self, at_ms: i64, samples: bool) -> String {
        let mut lines = format!("{} {}: {}", self.kind.word(), self.name, self.detail);
        let lasted = ago(at_ms.saturating_sub(self.since_ms));
        match self.kind {
            Kind::Still => lines += &format!(" (since {}, {lasted})", time(self.since_ms)),
            Kind::Recovered => lines += &format!(" (the trouble lasted {lasted})"),
            Kind::Trouble | Kind::Test => {}
        }
        for sample in self.samples.iter().filter(|_| samples) {
            lines += "\n    ";
            lines += sample;
        }
        lines
    }
}

impl Message {
    /// A message.
    #[must_use]
    pub fn new(host: &str, at_ms: i64, news: Vec<News>) -> Self {
        assert!(!news.is_empty(), "a message tells something");
        Self { host: text::line(host, 100), at_ms, news }
    }

    /// A message that only tries whether it arrives.
    #[must_use]
    pub fn test(host: &str, at_ms: i64, rule: Option<&str>) -> Self {
        let finding = Finding::well(
            rule.unwrap_or("test"),
            "this is a test of `bitacora alerts test`; nothing is wrong",
        );
        Self::new(host, at_ms, vec![News::new(Kind::Test, &finding, at_ms)])
    }

    /// One line that says the most important.
    #[must_use]
    pub fn subject(&self) -> String {
        let subject = match self.news.as_slice() {
            [one] => format!("{} {} on {}: {}", one.kind.word(), one.name, self.host, one.detail),
            all => {
                let count = |kind| all.iter().filter(|one| one.kind == kind).count();
                let kinds = [
                    (Kind::Trouble, "in trouble"),
                    (Kind::Still, "still in trouble"),
                    (Kind::Recovered, "recovered"),
                ];
                let parts = kinds.map(|(kind, word)| (count(kind), word));
                let parts: Vec<_> = parts
                    .iter()
                    .filter(|(count, _)| *count > 0)
                    .map(|(count, word)| format!("{count} {word}"))
                    .collect();
                format!("SUMMARY of {}: {}", self.host, parts.join(", "))
            }
        };
        text::line(&subject, SUBJECT_MAX)
    }

    /// All of it as plain text.
    #[must_use]
    pub fn text(&self) -> String {
        let alone = self.news.len() == 1;
        let lines = self.news.iter().take(NAMED_MAX).map(|one| one.lines(self.at_ms, alone));
        let mut text = lines.collect::<Vec<_>>().join("\n");
        if let Some(more) = self.news.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
            text += &format!("\nand {more} more: `bitacora alerts list` names them");
        }
        text + &format!("\n-- {} at {}", self.host, time(self.at_ms))
    }

    /// All of it as one JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::json!({
            "host": self.host,
            "time": time(self.at_ms),
            "subject": self.subject(),
            "news": self.news,
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(kind: Kind, name: &str) -> News {
        News::new(kind, &Finding::trouble(name, "12 errors").showing(["a\nb"]), 0)
    }

    #[test]
    fn one_trouble_is_told_with_its_lines_and_its_end_with_how_long_it_was() {
        let message = Message::new("web-1", 60_000, vec![news(Kind::Trouble, "errors")]);
        assert_eq!(message.subject(), "TROUBLE errors on web-1: 12 errors");
        let text = "TROUBLE errors: 12 errors\n    a\\nb\n-- web-1 at 1970-01-01T00:01:00Z";
        assert_eq!(message.text(), text);
        let message = Message::new("web-1", 60_000, vec![news(Kind::Recovered, "errors")]);
        assert!(message.text().contains("(the trouble lasted 1 min)"), "{}", message.text());
    }

    #[test]
    fn a_summary_counts_and_is_bounded() {
        let mut all = vec![news(Kind::Trouble, "x"); 1000];
        all.push(news(Kind::Recovered, "y"));
        let message = Message::new("h", 0, all);
        assert_eq!(message.subject(), "SUMMARY of h: 1000 in trouble, 1 recovered");
        assert!(message.text().contains("and 971 more"), "{}", message.text());
        assert!(message.text().len() < 8000);
    }
}
