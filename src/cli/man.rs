//! `bitacora man`: the manual, made of the same words as `--help`, and that of the configuration,
//! made of the table of keys.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::exit::Refusal;
use crate::config::keys::{LATER, SECTIONS};
use crate::config::print::{default_toml, shown};

const CONFIG_PAGE: &str = "bitacora.toml";

const AFTER_HELP: &str = "\
Examples:
  bitacora man | man -l -            read the main page
  bitacora man logs | man -l -       read about `bitacora logs`
  bitacora man bitacora.toml | man -l -    read about the configuration
  bitacora man --dir /usr/local/share/man  install all pages";

/// Arguments of `bitacora man`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// A command such as `logs` or `schema apply`, or `bitacora.toml`; the main page if absent
    #[arg(value_name = "PAGE")]
    pub page: Vec<String>,
    /// Write all pages below DIR: man8 (the daemon), man1 (its commands) and man5
    #[arg(long, value_name = "DIR", conflicts_with = "page")]
    pub dir: Option<PathBuf>,
}

/// Prints one page, or writes all.
///
/// # Errors
///
/// There is no such page, or writing failed.
pub fn run(args: &Args, cli: clap::Command, mut output: impl Write) -> anyhow::Result<ExitCode> {
    let mut cli = cli.disable_help_subcommand(true);
    cli.build();
    if let Some(dir) = &args.dir {
        write_all(&cli, dir)
            .with_context(|| format!("cannot write manuals to {}", dir.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.page == [CONFIG_PAGE] {
        output.write_all(config_page().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut command = &cli;
    for name in &args.page {
        command = command.find_subcommand(name).ok_or_else(|| {
            let names: Vec<_> = command.get_subcommands().map(clap::Command::get_name).collect();
            Refusal::Usage(format!(
                "there is no page \"{name}\"; there are {CONFIG_PAGE}, {}",
                names.join(", ")
            ))
        })?;
    }
    output.write_all(&page(command)?)?;
    Ok(ExitCode::SUCCESS)
}

/// `bitacora-schema-apply` for the command `bitacora schema apply`.
fn title(command: &clap::Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The program is the daemon's; its commands are for all.
fn section(command: &clap::Command) -> &'static str {
    if title(command) == "bitacora" { "8" } else { "1" }
}

fn page(command: &clap::Command) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    Man::new(command.clone())
        .section(section(command))
        .manual("bitacora")
        .source(concat!("bitacora ", env!("CARGO_PKG_VERSION")))
        .render(&mut text)?;
    Ok(text)
}

fn write_all(cli: &clap::Command, dir: &Path) -> anyhow::Result<()> {
    for section in ["man1", "man5", "man8"] {
        fs::create_dir_all(dir.join(section))?;
    }
    let mut waiting = vec![cli];
    while let Some(command) = waiting.pop() {
        let section = section(command);
        let name = format!("man{section}/{}.{section}", title(command));
        fs::write(dir.join(name), page(command)?)?;
        waiting.extend(command.get_subcommands().filter(|below| !below.is_hide_set()));
    }
    fs::write(dir.join("man5").join(format!("{CONFIG_PAGE}.5")), config_page())?;
    Ok(())
}

fn config_page() -> String {
    let version = concat!("bitacora ", env!("CARGO_PKG_VERSION"));
    let mut page = Roff::new();
    page.control("TH", ["BITACORA.TOML", "5", "", version, "bitacora"]);
    page.control("SH", ["NAME"]);
    page.text([roman("bitacora.toml - configuration of bitacora")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("The configuration is read from "),
        italic(crate::config::DEFAULT_PATH),
        roman(" and then from "),
        italic("conf.d/*.toml"),
        roman(
            " beside it, in the order of their names. A key in a later file wins; [[files]] \
             sections add up. Every key has a default but the list of files. Sizes are written \
             \"64MiB\", durations \"30s\". ",
        ),
        bold("bitacora check"),
        roman(" tells everything that is wrong; "),
        bold("bitacora reload"),
        roman(" makes the daemon take a change."),
    ]);
    for section in SECTIONS {
        let brackets = if section.repeated { ("[[", "]]") } else { ("[", "]") };
        let header = format!("{}{}{}", brackets.0, section.name, brackets.1);
        page.control("SH", [header.as_str()]);
        page.text([roman(section.help)]);
        for key in section.keys {
            page.control("TP", []);
            let value = if key.default.is_empty() {
                format!(" (no default; such as {})", shown(key))
            } else {
                format!(" = {}", key.default)
            };
            page.text([bold(key.name), roman(value)]);
            page.text([roman(key.help), roman(" Must be "), roman(key.kind.wanted()), roman(".")]);
        }
    }
    page.control("SH", ["SECTIONS OF LATER RELEASES"]);
    page.text([roman("These are known and checked, but have no effect in this release.")]);
    for section in LATER {
        page.control("TP", []);
        page.text([bold(format!("[{}]", section.name))]);
        page.text([roman(section.later.unwrap_or_default()), roman(".")]);
    }
    page.control("SH", ["EXAMPLE"]);
    page.text([roman("The file that "), bold("bitacora check --print-default"), roman(" prints:")]);
    page.control("EX", []);
    for line in default_toml().lines() {
        page.text([roman(line)]);
    }
    page.control("EE", []);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("bitacora"), roman("(1), "), bold("bitacora-check"), roman("(1)")]);
    page.to_roff()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn printed(page: &[&str]) -> anyhow::Result<String> {
        let args = Args { page: page.iter().map(ToString::to_string).collect(), dir: None };
        let mut output = Vec::new();
        run(&args, crate::cli::Cli::command(), &mut output)?;
        Ok(String::from_utf8(output).unwrap())
    }

    #[test]
    fn every_command_has_a_page_and_the_configuration_too() {
        let dir = tempfile::tempdir().unwrap();
        let args = Args { page: Vec::new(), dir: Some(dir.path().to_owned()) };
        run(&args, crate::cli::Cli::command(), Vec::new()).unwrap();
        for name in ["man8/bitacora.8", "man1/bitacora-dead-letters.1", "man5/bitacora.toml.5"] {
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(text.contains(".TH"), "{name}");
        }
    }

    #[test]
    fn the_page_of_the_configuration_explains_every_key() {
        let page = printed(&["bitacora.toml"]).unwrap();
        for key in SECTIONS.iter().flat_map(|section| section.keys) {
            assert!(page.contains(&format!("\\fB{}\\fR", key.name)), "{}", key.name);
        }
    }

    #[test]
    fn a_page_that_is_not_there_is_told_with_those_that_are() {
        let error = printed(&["lgos"]).unwrap_err();
        assert_eq!(super::super::exit::code(&error), 2);
        assert!(error.to_string().contains("logs"), "{error}");
    }
}
