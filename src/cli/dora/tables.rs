//! The part of `bitacora schema` that is about the delivery metrics.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::cli::schema::{Action, write_findings, write_plan};
use crate::config::{Config, Dora, DoraKind};
use crate::dora::migrations::VERSION;
use crate::dora::open::place;
use crate::dora::schema;
use crate::migration::{Finding, Step, Weight};

/// What there is to tell.
#[derive(Debug)]
pub enum Answer {
    /// What would be done.
    Planned(Vec<Step>),
    /// What was done.
    Applied(Vec<Step>),
    /// How it stands.
    Checked(Vec<Finding>),
}

/// Does what is asked.
///
/// # Errors
///
/// The server does not answer or refuses.
pub async fn ask(action: Action, config: &Config) -> anyhow::Result<Answer> {
    Ok(match action {
        Action::Plan { .. } | Action::Apply { dry_run: true, .. } => {
            Answer::Planned(schema::plan(&config.dora).await?)
        }
        Action::Apply { .. } => {
            let now_ms = jiff::Timestamp::now().as_millisecond();
            Answer::Applied(schema::apply(&config.dora, &config.daemon.host, now_ms).await?)
        }
        Action::Check { .. } => Answer::Checked(schema::check(&config.dora).await?),
    })
}

impl Answer {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        match self {
            Self::Planned(_) | Self::Applied(_) => true,
            Self::Checked(findings) => findings.iter().all(|one| one.weight != Weight::Problem),
        }
    }

    /// As one object.
    #[must_use]
    pub fn json(&self, config: &Dora) -> Value {
        let store = if config.kind == DoraKind::Mysql { "mysql" } else { "sqlite" };
        let place = place(config);
        match self {
            Self::Planned(steps) => json!({ "store": store, "place": place, "planned": steps }),
            Self::Applied(steps) => json!({ "store": store, "place": place, "applied": steps }),
            Self::Checked(findings) => json!({
                "store": store,
                "place": place,
                "clean": self.is_clean(),
                "findings": findings,
            }),
        }
    }

    /// For people; of a SQLite file, which needs nothing, there is nothing to tell.
    ///
    /// # Errors
    ///
    /// Writing failed.
    pub fn write_text(&self, config: &Dora, output: &mut impl Write) -> io::Result<()> {
        if config.kind == DoraKind::Sqlite {
            return Ok(());
        }
        let place = place(config);
        match self {
            Self::Planned(steps) | Self::Applied(steps) if steps.is_empty() => {
                writeln!(output, "DORA database {place} is up to date (version {VERSION})")
            }
            Self::Planned(steps) => {
                writeln!(output, "-- DORA database {place}")?;
                write_plan(steps, output)
            }
            Self::Applied(steps) => {
                for step in steps {
                    writeln!(output, "dora {:04} {} is done", step.version, step.name)?;
                }
                writeln!(output, "DORA database {place} has version {VERSION}")
            }
            Self::Checked(findings) => write_findings(findings, output),
        }
    }
}
