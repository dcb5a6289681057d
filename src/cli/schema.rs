//! `bitacora schema`: makes and checks the tables of the store and of the delivery metrics.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use super::dora::tables;
use super::exit;
use crate::config::{Cassandra, Config, Machine, StoreKind};
use crate::migration::{Finding, Step, Weight};
use crate::stores::cassandra::report::{self, Report};
use crate::stores::cassandra::schema;

const AFTER_HELP: &str = "\
Cassandra and ScyllaDB get their keyspace and tables from here, and MySQL and MariaDB the tables of
the delivery metrics, by numbered migrations. SQLite makes its own tables, and needs none of this.

`apply` may be run again, and by several hosts at once: each migration is done once.

Exits with 0 if all is right, 1 if `check` found a problem, 69 if cluster or server do
not answer.

Examples:
  bitacora schema plan         the statements that `apply` would execute
  bitacora schema apply        make what is missing
  bitacora schema check        versions, lifetime of rows, replicas, what is not promised";

/// Arguments of `bitacora schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with the tables.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub enum Action {
    /// Show the statements that `apply` would execute
    Plan {
        /// Answer as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make the keyspace and the tables, or bring them up to date
    Apply {
        /// Show the statements and execute none
        #[arg(long)]
        dry_run: bool,
        /// Answer as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Tell whether the tables are right, and what the cluster does not promise
    Check {
        /// Answer as one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl Action {
    const fn json(self) -> bool {
        match self {
            Self::Plan { json } | Self::Apply { json, .. } | Self::Check { json } => json,
        }
    }
}

/// Does what is asked.
///
/// # Errors
///
/// The configuration is wrong, the cluster does not answer or refuses, writing failed.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let config = Config::load(config, &Machine::here())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start")?;
    // one that does not answer keeps nobody from the other
    let logs = runtime.block_on(ask(args.action, &config));
    let metrics = runtime.block_on(tables::ask(args.action, &config));
    let cassandra = &config.store.cassandra;
    if args.action.json() {
        let failed = |error: &anyhow::Error| json!({ "error": format!("{error:#}") });
        let mut answer = logs.as_ref().map_or_else(failed, |answer| answer.json(cassandra));
        let part = metrics.as_ref().map_or_else(failed, |answer| answer.json(&config.dora));
        if let Value::Object(object) = &mut answer {
            if logs.is_ok() && metrics.as_ref().is_ok_and(|answer| !answer.is_clean()) {
                object.insert("clean".to_owned(), false.into());
            }
            object.insert("dora".to_owned(), part);
        }
        writeln!(output, "{answer}")?;
    } else {
        if let Ok(answer) = &logs {
            answer.write_text(cassandra, &mut output)?;
        }
        if let Ok(answer) = &metrics {
            answer.write_text(&config.dora, &mut output)?;
        }
    }
    match (logs, metrics) {
        (Ok(logs), Ok(metrics)) => Ok(if logs.is_clean() && metrics.is_clean() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(exit::NOT_CLEAN)
        }),
        (Err(logs), Err(metrics)) => {
            eprintln!("bitacora: {metrics:#}");
            Err(logs)
        }
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
    }
}

/// What there is to tell.
#[derive(Debug)]
enum Answer {
    /// Another store, which is named, and why there is nothing to do.
    Nothing(&'static str, &'static str),
    Planned(Vec<Step>),
    Applied(Vec<Step>),
    Checked(Report),
}

async fn ask(action: Action, config: &Config) -> anyhow::Result<Answer> {
    let cassandra = &config.store.cassandra;
    Ok(match (config.store.kind, action) {
        (StoreKind::Sqlite, _) => {
            Answer::Nothing("sqlite", "the SQLite store makes its own tables; nothing to do")
        }
        (StoreKind::Null, _) => {
            Answer::Nothing("null", "the null store has no tables; nothing to do")
        }
        (StoreKind::Cassandra, Action::Plan { .. } | Action::Apply { dry_run: true, .. }) => {
            Answer::Planned(schema::plan(cassandra).await?)
        }
        (StoreKind::Cassandra, Action::Apply { .. }) => {
            let now_ms = jiff::Timestamp::now().as_millisecond();
            Answer::Applied(schema::apply(cassandra, &config.daemon.host, now_ms).await?)
        }
        (StoreKind::Cassandra, Action::Check { .. }) => {
            Answer::Checked(report::check(cassandra, &config.store.lifetimes).await?)
        }
    })
}

impl Answer {
    fn is_clean(&self) -> bool {
        match self {
            Self::Nothing(..) | Self::Planned(_) | Self::Applied(_) => true,
            Self::Checked(report) => report.works(),
        }
    }

    fn json(&self, config: &Cassandra) -> Value {
        let keyspace = &config.keyspace;
        match self {
            Self::Nothing(store, _) => json!({ "store": store, "steps": [], "clean": true }),
            Self::Planned(steps) => json!({ "keyspace": keyspace, "planned": steps }),
            Self::Applied(steps) => json!({ "keyspace": keyspace, "applied": steps }),
            Self::Checked(report) => {
                json!({ "keyspace": keyspace, "clean": self.is_clean(), "report": report })
            }
        }
    }

    fn write_text(&self, config: &Cassandra, output: &mut impl Write) -> std::io::Result<()> {
        let keyspace = &config.keyspace;
        match self {
            Self::Nothing(_, why) => writeln!(output, "{why}"),
            Self::Planned(steps) | Self::Applied(steps) if steps.is_empty() => {
                writeln!(output, "keyspace {keyspace} is up to date (version {})", schema::VERSION)
            }
            Self::Planned(steps) => write_plan(steps, output),
            Self::Applied(steps) => {
                for step in steps {
                    writeln!(output, "{:04} {} is done", step.version, step.name)?;
                }
                writeln!(output, "keyspace {keyspace} has version {}", schema::VERSION)
            }
            Self::Checked(report) => write_findings(&report.findings, output),
        }
    }
}

/// The statements that are to be executed, by migration.
pub(super) fn write_plan(steps: &[Step], output: &mut impl Write) -> std::io::Result<()> {
    for step in steps {
        writeln!(output, "-- {:04} {}", step.version, step.name)?;
        for statement in &step.statements {
            writeln!(output, "{statement};\n")?;
        }
    }
    Ok(())
}

/// What a look at the tables found, a line each.
pub(super) fn write_findings(findings: &[Finding], output: &mut impl Write) -> std::io::Result<()> {
    for finding in findings {
        let mark = match finding.weight {
            Weight::Fine => "ok      ",
            Weight::Warning => "warning ",
            Weight::Problem => "PROBLEM ",
        };
        writeln!(output, "{mark}{}", finding.text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Cassandra {
        Cassandra {
            nodes: Vec::new(),
            keyspace: "logging".to_owned(),
            datacenter: "datacenter1".to_owned(),
            replication: 1,
            consistency: "local_quorum".to_owned(),
            ttl: None,
            username: None,
            password_file: None,
            tls: None,
        }
    }

    fn told(answer: &Answer) -> String {
        let mut output = Vec::new();
        answer.write_text(&config(), &mut output).unwrap();
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn a_problem_is_told_and_is_not_clean() {
        let finding = Finding { weight: Weight::Problem, text: "table spans is missing".into() };
        let report = Report { version: 4, known: 4, findings: vec![finding] };
        let answer = Answer::Checked(report);
        assert_eq!(told(&answer), "PROBLEM table spans is missing\n");
        assert!(!answer.is_clean());
        assert_eq!(answer.json(&config())["clean"], false);
    }

    #[test]
    fn a_plan_can_be_given_to_cqlsh() {
        let statements = vec!["CREATE KEYSPACE x".to_owned()];
        let step = Step { version: 1, name: "ground", statements };
        let answer = Answer::Planned(vec![step]);
        assert_eq!(told(&answer), "-- 0001 ground\nCREATE KEYSPACE x;\n\n");
        assert!(answer.is_clean());
    }

    #[test]
    fn nothing_to_do_is_said() {
        assert_eq!(
            told(&Answer::Applied(Vec::new())),
            "keyspace logging is up to date (version 8)\n"
        );
    }
}
