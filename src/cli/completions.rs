//! `bitacora completions`: scripts that make shells complete commands and options.

use std::io::Write;
use std::process::ExitCode;

use clap_complete::Shell;

const AFTER_HELP: &str = "\
Examples:
  bitacora completions bash > /usr/share/bash-completion/completions/bitacora
  bitacora completions zsh > /usr/share/zsh/vendor-completions/_bitacora
  bitacora completions fish > /usr/share/fish/vendor_completions.d/bitacora.fish";

/// Arguments of `bitacora completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Which shell
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    pub shell: String,
}

/// Prints the script.
///
/// # Errors
///
/// Writing failed.
pub fn run(
    args: &Args,
    mut cli: clap::Command,
    mut output: impl Write,
) -> anyhow::Result<ExitCode> {
    let shell = match args.shell.as_str() {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    // into memory first: the generator panics when a write fails, as into a closed pipe
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli, "bitacora", &mut script);
    output.write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_shell_has_a_script_that_names_the_commands() {
        for shell in ["bash", "zsh", "fish"] {
            let mut output = Vec::new();
            let args = Args { shell: shell.to_owned() };
            run(&args, crate::cli::Cli::command(), &mut output).unwrap();
            let script = String::from_utf8(output).unwrap();
            assert!(script.contains("dead-letters") && script.contains("completions"), "{shell}");
        }
    }
}
