//! The command line: words, exit codes and texts. What commands do is in the rooms below.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{Config, Machine};
use crate::stores::open;

pub mod alerts;
pub mod audit;
pub mod backup;
pub mod check;
pub mod completions;
pub mod dead_letters;
pub mod dora;
pub mod exit;
pub mod logs;
pub mod man;
mod pager;
pub mod parse;
pub mod reload;
pub mod restore;
pub mod retention;
pub mod run;
pub mod schema;
pub mod send;
pub mod state;
pub mod status;
pub mod store;
pub mod tap;
mod whose;

const AFTER_HELP: &str = "\
Examples:
  bitacora check                 is the configuration right, are the files readable?
  bitacora run                   carry logs until SIGTERM; systemd does this
  bitacora logs -n 20            the newest 20 rows
  bitacora logs -f -s nginx/error    follow the errors of nginx
  bitacora audit --deep          prove from store and files that nothing is missing

Exit codes: 0 done or found, 1 nothing found or not clean, 2 usage, 69 store unavailable,
70 internal, 74 input or output, 75 try later, 77 permission, 78 configuration.

Manuals: `bitacora man`, `bitacora man COMMAND`, `bitacora man bitacora.toml`.";

const RUN_HELP: &str = "\
Stays in the foreground; stderr is its log (BITACORA_LOG=debug says more). SIGTERM and SIGINT
drain what was read and stop; a second one ends at once, and what was not stored is read again at
the next start. SIGHUP, like `bitacora reload`, takes a changed configuration.
BITACORA_EVENTS=off reads by timer alone, for file systems that send no events.";

/// Carries log files into a store, each line exactly once, and proves it
///
/// bitacora follows log files through every kind of rotation, parses their lines and writes them
/// as rows to SQLite (one file a day, no server needed) or to Apache Cassandra.
#[derive(Debug, Parser)]
#[command(name = "bitacora", version, after_help = AFTER_HELP, arg_required_else_help = true)]
#[command(max_term_width = 100)]
pub struct Cli {
    /// Configuration file; conf.d/*.toml beside it is read too
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "BITACORA_CONFIG",
        default_value = crate::config::DEFAULT_PATH
    )]
    pub config: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands, in the order in which they are met.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Carry logs: follow the files and write their lines to the store
    #[command(after_help = RUN_HELP)]
    Run,
    /// Tell whether everything is right: configuration, permissions, files, parsers
    Check(check::Args),
    /// Make the running daemon take the changed configuration
    Reload(reload::Args),
    /// Tell how the running daemon does: sources, backlog, store
    Status(status::Args),
    /// Show how lines would be stored, and store nothing
    Parse(parse::Args),
    /// Show, search, count and follow stored rows
    Logs(Box<logs::Args>),
    /// Send a record to the socket, like logger(1), and wait until it is on disk
    Send(send::Args),
    /// Show what clients send to the socket, as it comes
    Tap(tap::Args),
    /// Prove that every byte of every file is accounted for
    Audit(audit::Args),
    /// Look at the state of this machine, or rebuild it from the store
    State(state::Args),
    /// Make and check the tables of the store
    Schema(schema::Args),
    /// Show how long rows live, and let go what has ended
    Retention(retention::Args),
    /// Look at rows that the store refused, try them again, or drop them
    DeadLetters(dead_letters::Args),
    /// Keep delivery metrics: phases, deployments, incidents
    Dora(dora::Args),
    /// Look whether all is well, and tell those who want to know
    Alerts(alerts::Args),
    /// Make backups, verify them, and end old ones
    Backup(backup::Args),
    /// Bring a backup back, or drill that
    Restore(restore::Args),
    /// Print the completion script of a shell
    Completions(completions::Args),
    /// Print the manual
    Man(man::Args),
}

/// Reads the arguments and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    exit::end(cli.run())
}

impl Cli {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let output = io::stdout().lock();
        match &self.command {
            Command::Run => run::run(&self.config),
            Command::Reload(args) => reload::run(args, &self.config, output),
            Command::Status(args) => status::run(args, &self.config, output),
            Command::Send(args) => send::run(args, &self.config, output),
            Command::Tap(args) => tap::run(args, &self.config, output),
            Command::Alerts(args) => alerts::run(args, &self.config, output),
            Command::Audit(args) => audit::run(args, &self.config, output),
            Command::State(args) => state::run(args, &self.config, output),
            Command::DeadLetters(args) => dead_letters::run(args, &self.config, output),
            Command::Dora(args) => dora::run(args, &self.config, output),
            Command::Backup(args) => backup::run(args, &self.config, output),
            Command::Restore(args) => restore::run(args, &self.config, output),
            Command::Check(args) => check::run(args, &self.config, output),
            Command::Completions(args) => completions::run(args, Self::command(), output),
            Command::Man(args) => man::run(args, Self::command(), output),
            Command::Logs(args) => {
                drop(output);
                let config = Config::load(&self.config, &Machine::here())?;
                logs::run(args, || Ok(open::reader(&config.store)?))
            }
            Command::Parse(args) => parse::run(args, args.open()?, output),
            Command::Retention(args) => retention::run(args, &self.config, output),
            Command::Schema(args) => schema::run(args, &self.config, output),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_is_accepted_before_and_after_the_command() {
        for args in [
            ["bitacora", "--config", "/x.toml", "check"],
            ["bitacora", "check", "--config", "/x.toml"],
        ] {
            assert_eq!(Cli::try_parse_from(args).unwrap().config, PathBuf::from("/x.toml"));
        }
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn the_readme_names_every_command() {
        let readme = include_str!("../../README.md");
        for command in Cli::command().get_subcommands() {
            let row = format!("| `bitacora {}` |", command.get_name());
            assert!(readme.contains(&row), "{row}");
        }
    }
}
