//! What one look at one thing found.

use serde::{Deserialize, Serialize};

use super::text::{self, DETAIL_MAX, SAMPLE_MAX, SAMPLES_MAX};
use crate::stores::health::CheckStatus;

/// What a rule found of one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule.
    pub rule: String,
    /// Which of the things that the rule looks at; empty where there is only one.
    pub subject: String,
    /// How it is.
    pub status: CheckStatus,
    /// The number that was compared, where there is one.
    pub value: Option<f64>,
    /// In words: one line.
    pub detail: String,
    /// Lines of logs that show it, each one line.
    pub samples: Vec<String>,
    /// Grows when there is more of the same trouble: that is told anew.
    pub mark: i64,
}

impl Finding {
    fn new(rule: &str, status: CheckStatus, detail: &str) -> Self {
        Self {
            rule: rule.to_owned(),
            subject: String::new(),
            status,
            value: None,
            detail: text::line(detail, DETAIL_MAX),
            samples: Vec::new(),
            mark: 0,
        }
    }

    /// All is well.
    #[must_use]
    pub fn well(rule: &str, detail: &str) -> Self {
        Self::new(rule, CheckStatus::Ok, detail)
    }

    /// Something is wrong.
    #[must_use]
    pub fn trouble(rule: &str, detail: &str) -> Self {
        Self::new(rule, CheckStatus::Trouble, detail)
    }

    /// It could not be found out.
    #[must_use]
    pub fn unknown(rule: &str, detail: &str) -> Self {
        Self::new(rule, CheckStatus::Unknown, detail)
    }

    /// Trouble if `wrong`.
    #[must_use]
    pub fn judge(rule: &str, wrong: bool, detail: &str) -> Self {
        if wrong { Self::trouble(rule, detail) } else { Self::well(rule, detail) }
    }

    /// Of one of several things.
    #[must_use]
    pub fn of(mut self, subject: &str) -> Self {
        self.subject = text::line(subject, 200);
        self
    }

    /// With the number that was compared.
    #[must_use]
    pub const fn with(mut self, value: f64) -> Self {
        self.value = Some(value);
        self
    }

    /// With a mark.
    #[must_use]
    pub const fn marked(mut self, mark: i64) -> Self {
        self.mark = mark;
        self
    }

    /// With lines of logs; only the first ones are kept.
    #[must_use]
    pub fn showing<'a>(mut self, samples: impl IntoIterator<Item = &'a str>) -> Self {
        let lines = samples.into_iter().take(SAMPLES_MAX);
        self.samples = lines.map(|sample| text::line(sample, SAMPLE_MAX)).collect();
        self
    }

    /// The rule's name, with the subject's behind it.
    #[must_use]
    pub fn name(&self) -> String {
        if self.subject.is_empty() {
            self.rule.clone()
        } else {
            format!("{} {}", self.rule, self.subject)
        }
    }
}
