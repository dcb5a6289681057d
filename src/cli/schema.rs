//! `bitacora schema`: makes and checks the tables of the store.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;

use super::exit;
use crate::config::{Cassandra, Config, Machine, StoreKind};
use crate::stores::cassandra::report::{self, Report, Weight};
use crate::stores::cassandra::schema::{self, Step};

const AFTER_HELP: &str = "\
Cassandra and ScyllaDB get their keyspace and tables from here, by numbered migrations. The
SQLite store makes its own tables, and needs none of this.

`apply` may be run again, and by several hosts at once: each migration is done once.

Exits with 0 if all is right, 1 if `check` found a problem, 69 if the cluster does not answer.

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
    match config.store.kind {
        StoreKind::Cassandra => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .context("cannot start")?;
            let answer = ask(args.action, &config.store.cassandra, &config.daemon.host);
            let answer = runtime.block_on(answer)?;
            answer.tell(args.action.json(), &config.store.cassandra, &mut output)
        }
        kind => {
            let (name, why) = match kind {
                StoreKind::Sqlite => ("sqlite", "the SQLite store makes its own tables"),
                _ => ("null", "the null store has no tables"),
            };
            if args.action.json() {
                writeln!(output, "{}", json!({ "store": name, "steps": [], "clean": true }))?;
            } else {
                writeln!(output, "{why}; nothing to do")?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What there is to tell.
enum Answer {
    Planned(Vec<Step>),
    Applied(Vec<Step>),
    Checked(Report),
}

async fn ask(action: Action, config: &Cassandra, host: &str) -> anyhow::Result<Answer> {
    Ok(match action {
        Action::Plan { .. } | Action::Apply { dry_run: true, .. } => {
            Answer::Planned(schema::plan(config).await?)
        }
        Action::Apply { .. } => {
            let now_ms = jiff::Timestamp::now().as_millisecond();
            Answer::Applied(schema::apply(config, host, now_ms).await?)
        }
        Action::Check { .. } => Answer::Checked(report::check(config).await?),
    })
}

impl Answer {
    fn tell(
        &self,
        as_json: bool,
        config: &Cassandra,
        output: &mut impl Write,
    ) -> anyhow::Result<ExitCode> {
        let clean = match self {
            Self::Planned(_) | Self::Applied(_) => true,
            Self::Checked(report) => report.works(),
        };
        if as_json {
            let keyspace = &config.keyspace;
            let answer = match self {
                Self::Planned(steps) => json!({ "keyspace": keyspace, "planned": steps }),
                Self::Applied(steps) => json!({ "keyspace": keyspace, "applied": steps }),
                Self::Checked(report) => {
                    json!({ "keyspace": keyspace, "clean": clean, "report": report })
                }
            };
            writeln!(output, "{answer}")?;
        } else {
            self.write_text(config, output)?;
        }
        Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(exit::NOT_CLEAN) })
    }

    fn write_text(&self, config: &Cassandra, output: &mut impl Write) -> std::io::Result<()> {
        let keyspace = &config.keyspace;
        match self {
            Self::Planned(steps) | Self::Applied(steps) if steps.is_empty() => {
                writeln!(output, "keyspace {keyspace} is up to date (version {})", schema::VERSION)
            }
            Self::Planned(steps) => {
                for step in steps {
                    writeln!(output, "-- {:04} {}", step.version, step.name)?;
                    for statement in &step.statements {
                        writeln!(output, "{statement};\n")?;
                    }
                }
                Ok(())
            }
            Self::Applied(steps) => {
                for step in steps {
                    writeln!(output, "{:04} {} is done", step.version, step.name)?;
                }
                writeln!(output, "keyspace {keyspace} has version {}", schema::VERSION)
            }
            Self::Checked(report) => {
                for finding in &report.findings {
                    let mark = match finding.weight {
                        Weight::Fine => "ok      ",
                        Weight::Warning => "warning ",
                        Weight::Problem => "PROBLEM ",
                    };
                    writeln!(output, "{mark}{}", finding.text)?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::cassandra::report::Finding;

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

    fn told(answer: &Answer, as_json: bool) -> (String, ExitCode) {
        let mut output = Vec::new();
        let code = answer.tell(as_json, &config(), &mut output).unwrap();
        (String::from_utf8(output).unwrap(), code)
    }

    #[test]
    fn a_problem_is_told_and_ends_with_1() {
        let finding = Finding { weight: Weight::Problem, text: "table spans is missing".into() };
        let report = Report { version: 4, known: 4, findings: vec![finding] };
        let (text, code) = told(&Answer::Checked(report.clone()), false);
        assert_eq!(text, "PROBLEM table spans is missing\n");
        assert_eq!(code, ExitCode::from(exit::NOT_CLEAN));
        let (text, _) = told(&Answer::Checked(report), true);
        assert!(text.contains(r#""clean":false"#), "{text}");
    }

    #[test]
    fn a_plan_can_be_given_to_cqlsh() {
        let statements = vec!["CREATE KEYSPACE x".to_owned()];
        let step = Step { version: 1, name: "ground", statements };
        let (text, code) = told(&Answer::Planned(vec![step]), false);
        assert_eq!(text, "-- 0001 ground\nCREATE KEYSPACE x;\n\n");
        assert_eq!(code, ExitCode::SUCCESS);
    }

    #[test]
    fn nothing_to_do_is_said() {
        let (text, _) = told(&Answer::Applied(Vec::new()), false);
        assert_eq!(text, "keyspace logging is up to date (version 6)\n");
    }
}
