//! `bitacora check`: what would keep the daemon from its work, and how to put it right.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::exit;
use crate::config::{Config, LoadError, Machine, Problem, StoreKind, print};

mod access;
mod look;
mod own;
mod sample;

const AFTER_HELP: &str = "\
Looks at the configuration (all problems at once, as file:line:column: message), at the
directories and secrets that daemon and timers need, at the files of each source and who may read
them, and lets the parsers read the last 100 lines of each file. Changes nothing.

Exits with 0 if all is right, 1 if something needs a look, 78 if the configuration is wrong.

Examples:
  bitacora check
  sudo -u bitacora bitacora check      with the permissions of the service
  bitacora check --config new.toml && mv new.toml /etc/bitacora/bitacora.toml
  bitacora check --print-default > /etc/bitacora/bitacora.toml";

/// Arguments of `bitacora check`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Answer as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print the default configuration with its comments, and check nothing
    #[arg(long, conflicts_with = "json")]
    pub print_default: bool,
}

/// Something that needs a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong, with the path.
    pub what: String,
    /// The command or the change that puts it right; may be empty.
    pub fix: String,
}

impl Trouble {
    fn json(&self) -> Value {
        json!({ "what": self.what, "fix": self.fix })
    }
}

/// Checks and tells.
///
/// # Errors
///
/// The configuration cannot be read, or is wrong and was not asked for as JSON; writing failed.
pub fn run(args: &Args, config: &Path, mut output: impl Write) -> anyhow::Result<ExitCode> {
    if args.print_default {
        output.write_all(print::default_toml().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = match Config::load(config, &Machine::here()) {
        Err(LoadError::Wrong(problems)) if args.json => {
            let problems: Vec<_> = problems.0.iter().map(problem_json).collect();
            let report = json!({ "config": config, "clean": false, "problems": problems });
            writeln!(output, "{report}")?;
            return Ok(ExitCode::from(exit::CONFIGURATION));
        }
        loaded => loaded?,
    };
    let own = own::own_places(&loaded);
    let sources = look::sources(&loaded);
    let mut general: Vec<Trouble> = look::overlaps(&sources);
    if loaded.files.is_empty() {
        let fix = "add a [[files]] section; bitacora check --print-default shows some".to_owned();
        general.push(Trouble { what: "no files are configured".to_owned(), fix });
    }
    let troubles = loaded.later.len()
        + general.len()
        + own.iter().filter(|place| place.trouble.is_some()).count()
        + sources.iter().map(|source| source.troubles.len()).sum::<usize>();
    let report = Report { config, loaded: &loaded, own, sources, general, troubles };
    if args.json {
        writeln!(output, "{}", report.json())?;
    } else {
        report.print(&mut output)?;
    }
    Ok(ExitCode::from(if troubles == 0 { exit::DONE } else { exit::NOT_CLEAN }))
}

struct Report<'a> {
    config: &'a Path,
    loaded: &'a Config,
    own: Vec<own::OwnPlace>,
    sources: Vec<look::SourceLook>,
    general: Vec<Trouble>,
    troubles: usize,
}

impl Report<'_> {
    fn json(&self) -> Value {
        let sources: Vec<_> = self.sources.iter().map(look::SourceLook::json).collect();
        let own: Vec<_> = self.own.iter().map(own::OwnPlace::json).collect();
        let notices: Vec<_> = self.loaded.later.iter().map(ToString::to_string).collect();
        let general: Vec<_> = self.general.iter().map(Trouble::json).collect();
        json!({
            "config": self.config,
            "clean": self.troubles == 0,
            "problems": [],
            "no_effect": notices,
            "places": own,
            "sources": sources,
            "troubles": general,
        })
    }

    fn print(&self, output: &mut impl Write) -> std::io::Result<()> {
        writeln!(output, "{}: the configuration is right", self.config.display())?;
        for notice in &self.loaded.later {
            writeln!(output, "  ! {notice}")?;
        }
        for place in &self.own {
            match &place.trouble {
                None => writeln!(output, "{} {}: good", place.what, place.path.display())?,
                Some(trouble) => {
                    writeln!(output, "{} {}", place.what, place.path.display())?;
                    print_trouble(output, trouble)?;
                }
            }
        }
        if self.loaded.store.kind == StoreKind::Cassandra {
            writeln!(output, "whether the cluster answers: bitacora schema check")?;
        }
        for source in &self.sources {
            writeln!(output, "{}", source.summary())?;
            for trouble in &source.troubles {
                print_trouble(output, trouble)?;
            }
        }
        for trouble in &self.general {
            print_trouble(output, trouble)?;
        }
        if access::is_root() {
            writeln!(
                output,
                "note: root may read everything, the user of the service perhaps not; look again \
                 with: sudo -u bitacora bitacora check"
            )?;
        }
        match self.troubles {
            0 => writeln!(output, "all is right"),
            1 => writeln!(output, "1 thing needs a look"),
            count => writeln!(output, "{count} things need a look"),
        }
    }
}

fn print_trouble(output: &mut impl Write, trouble: &Trouble) -> std::io::Result<()> {
    writeln!(output, "  ! {}", trouble.what)?;
    if trouble.fix.is_empty() {
        return Ok(());
    }
    writeln!(output, "    {}", trouble.fix)
}

fn problem_json(problem: &Problem) -> Value {
    json!({
        "file": &*problem.place.file,
        "line": problem.place.line,
        "column": problem.place.column,
        "message": problem.message,
    })
}
