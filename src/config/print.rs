//! Prints the table of keys for people: `etc/bitacora.toml` and `docs/configuration.md`.

use std::fmt::{self, Write};

use super::keys::{Key, Kind, LATER, SECTIONS, Section};
use crate::parse::Format;

const WIDTH: usize = 96;

const HEAD: &str = "\
The configuration of bitacora, with every default. A line that begins with # and a key shows
the default; take the # away to change it. Further files conf.d/*.toml beside this one are read
in the order of their names: a key in a later file wins, and [[files]] sections add up.

Sizes are written \"64MiB\", durations \"30s\". After a change: `bitacora check`, then
`bitacora reload`. Every key is explained in bitacora.toml(5).";

/// The sources of the default configuration. A program that is not installed costs nothing: its
/// files are picked up when they appear.
const SOURCES: &str = r#"[[files]]
source = "nginx/access"
paths = ["/var/log/nginx/**/*access.log"]
# for another log_format than nginx's own "combined":
#options = { log_format = '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent' }

[[files]]
source = "nginx/error"
paths = ["/var/log/nginx/**/*error.log"]

# rsyslog on Debian writes what is in kern.log, mail.log, user.log and cron.log to syslog as well:
# they are not named here, so that nothing is stored twice.
[[files]]
source = "syslog"
paths = [
    "/var/log/syslog",
    "/var/log/auth.log",
    "/var/log/messages",
    "/var/log/secure",
    "/var/log/maillog",
    "/var/log/cron",
]

[[files]]
source = "postgresql"
paths = ["/var/log/postgresql/*.log"]
# the server's log_line_prefix; Debian's packages set this one:
options = { log_line_prefix = "%m [%p] %q%u@%d " }
"#;

/// The default configuration with its comments.
#[must_use]
pub fn default_toml() -> String {
    let mut text = String::new();
    for line in HEAD.lines() {
        text.push_str(format!("# {line}").trim_end());
        text.push('\n');
    }
    for section in SECTIONS {
        text.push('\n');
        comment(&mut text, section.help);
        if section.repeated {
            comment(&mut text, "Each may have these keys:");
            text.push_str("#\n");
            for key in section.keys {
                comment(&mut text, &format!("{} = {}", key.name, shown(key)));
                comment_indented(&mut text, key.help);
            }
            if section.name == "files" {
                text.push('\n');
                text.push_str(SOURCES);
            }
            continue;
        }
        add(&mut text, format_args!("[{}]\n", section.name));
        for key in section.keys {
            comment(&mut text, key.help);
            let example = if key.default.is_empty() { "  # example; none by default" } else { "" };
            add(&mut text, format_args!("#{} = {}{example}\n", key.name, shown(key)));
        }
    }
    text
}

/// The default, or the example of a key without one.
#[must_use]
pub fn shown(key: &Key) -> &'static str {
    if key.default.is_empty() { key.example } else { key.default }
}

fn add(text: &mut String, what: fmt::Arguments<'_>) {
    // a String takes everything
    let _ = text.write_fmt(what);
}

fn comment(text: &mut String, sentence: &str) {
    wrapped(text, "# ", sentence);
}

fn comment_indented(text: &mut String, sentence: &str) {
    wrapped(text, "#     ", sentence);
}

fn wrapped(text: &mut String, prefix: &str, sentence: &str) {
    let mut line = prefix.to_owned();
    for word in sentence.split(' ') {
        if line.len() + word.len() > WIDTH && line.len() > prefix.len() {
            text.push_str(line.trim_end());
            text.push('\n');
            line.clear();
            line.push_str(prefix);
        }
        line.push_str(word);
        line.push(' ');
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

const MARKDOWN_HEAD: &str = "\
# Configuration

`/etc/bitacora/bitacora.toml`, then `/etc/bitacora/conf.d/*.toml` in the order of their names. With
`--config FILE` (or `BITACORA_CONFIG`) it is FILE, then `conf.d/*.toml` beside it. A key in a later
file wins over an earlier one; `[[files]]` sections add up. Every key has a default but the list of
files.

`bitacora check` reads the configuration as `bitacora run` does and tells everything that is wrong
with it at once, as `file:line:column: message`; it also looks at permissions, at the files that
match, and at how well their lines are understood. `bitacora reload` makes a running daemon take a
changed configuration; one with a mistake is refused, and the old one stays in force.

Sizes are written `\"64MiB\"` (B, KiB, MiB, GiB, TiB; a plain number is bytes), durations `\"30s\"` (ms,
s, m, h, d). Secrets are never written here: keys that end in `_file` name the file that holds them.
";

const MARKDOWN_LATER: &str = "\
## Sections of later releases

These sections are known and checked, but this release does not do their work. `bitacora check` and
`bitacora run` say so when one is set.
";

/// The manual of the configuration.
#[must_use]
pub fn markdown() -> String {
    let mut text = MARKDOWN_HEAD.to_owned();
    for section in SECTIONS {
        add(
            &mut text,
            format_args!(
                "\n## `{}`\n\n{}\n\n| Key | Value | Default | |\n|---|---|---|---|\n",
                super::walk::header(section),
                section.help
            ),
        );
        for key in section.keys {
            let default = default_for_people(key);
            add(
                &mut text,
                format_args!(
                    "| `{}` | {} | {default} | {} |\n",
                    key.name,
                    key.kind.wanted().replace('|', "\\|"),
                    key.help.replace('|', "\\|")
                ),
            );
        }
        if section.name == "files" {
            text.push_str(&options_of_formats());
        }
    }
    text.push('\n');
    text.push_str(MARKDOWN_LATER);
    text.push('\n');
    for section in LATER {
        text.push_str(&later_line(section));
    }
    text
}

fn default_for_people(key: &Key) -> String {
    match (key.default, key.kind) {
        ("", _) => format!("none; such as `{}`", key.example),
        ("\"\"", Kind::Text | Kind::Path) => "empty".to_owned(),
        (default, _) => format!("`{default}`"),
    }
}

fn options_of_formats() -> String {
    let mut text = "\n| Format | Its options |\n|---|---|\n".to_owned();
    for format in Format::ALL {
        let options: Vec<_> = format.options().iter().map(|option| format!("`{option}`")).collect();
        let options = if options.is_empty() { "none".to_owned() } else { options.join(", ") };
        add(&mut text, format_args!("| `{}` | {options} |\n", format.name()));
    }
    text
}

fn later_line(section: &Section) -> String {
    let keys: Vec<_> = section.keys.iter().map(|key| format!("`{}`", key.name)).collect();
    let why = section.later.unwrap_or_default();
    format!("- `[{}]` ({}): {why}.\n", section.name, keys.join(", "))
}
