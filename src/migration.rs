//! What databases whose tables come from numbered migrations have in common: the steps that are to
//! be done, and what a look at the tables found.

use serde::Serialize;

/// A migration with its statements, as `schema plan` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The migration's number.
    pub version: u32,
    /// Its name.
    pub name: &'static str,
    /// What is executed.
    pub statements: Vec<String>,
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// As it should be.
    Fine,
    /// It works, but something is not promised, or not as the configuration says.
    Warning,
    /// bitacora cannot work with it.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How grave it is.
    pub weight: Weight,
    /// What was found and what to do, in words.
    pub text: String,
}

impl Finding {
    /// Of this weight.
    pub fn new(weight: Weight, text: impl Into<String>) -> Self {
        Self { weight, text: text.into() }
    }
}

/// The statements of a migration's text, which end in `;` at the end of a line, without comments.
#[must_use]
pub fn statements(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split("--").next().unwrap_or_default());
    let lines: Vec<&str> = lines.map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let text = lines.join("\n");
    let statements = text.split(";\n").map(|one| one.trim_end_matches(';').trim());
    statements.filter(|one| !one.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_whole_and_without_comments() {
        let text = "-- what for\nCREATE TABLE a ( -- why\n  x int\n);\n\nCREATE TABLE b (y int);\n";
        assert_eq!(statements(text), ["CREATE TABLE a (\n  x int\n)", "CREATE TABLE b (y int)"]);
    }
}
