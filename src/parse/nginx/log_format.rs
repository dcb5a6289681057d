//! Compiles a `log_format` into the steps that read a line.
//!
//! `$remote_addr - [$time_local]` becomes
//!
//! ```text
//! prefix ""   step (remote_addr, until " - [")   step (time_local, until "]", the end)
//! ```

use memchr::memchr;

/// nginx's predefined format (`ngx_http_combined_fmt`).
pub(super) const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" \
     $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";

/// What a variable's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Text,
    Status,
    Request,
    /// `$time_local`
    Clf,
    /// `$time_iso8601`
    Iso,
    /// `$msec`
    Epoch,
}

/// One variable and the literal text behind it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) key: Box<[u8]>,
    pub(super) meaning: Meaning,
    /// Ends the value; empty between two variables and at the end of the line.
    literal: Box<[u8]>,
    /// The literal begins with the closing quote of a quoted value.
    quoted: bool,
}

impl Step {
    /// Splits `text` into the shortest value and what follows its literal.
    pub(super) fn shortest<'t>(&self, text: &'t [u8]) -> Option<(&'t [u8], &'t [u8])> {
        let Some((first, others)) = self.literal.split_first() else { return Some((b"", text)) };
        let mut from = 0;
        loop {
            let at = from + memchr(*first, text.get(from..)?)?;
            let value = text.get(..at)?;
            from = at + 1;
            let (found, rest) = text.get(from..)?.split_at_checked(others.len())?;
            // Byte by byte: a call of memcmp costs more than these few bytes.
            if found.iter().eq(others) && !(self.quoted && escaped(value)) {
                return Some((value, rest));
            }
        }
    }

    /// The value if it and its literal are all of `text`: for the last step.
    pub(super) fn whole<'t>(&self, text: &'t [u8]) -> Option<&'t [u8]> {
        let value = text.strip_suffix(&*self.literal)?;
        (!(self.quoted && escaped(value))).then_some(value)
    }
}

/// Whether the byte after `text` is escaped: an odd number of backslashes stands before it.
fn escaped(text: &[u8]) -> bool {
    text.last() == Some(&b'\\')
        && text.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// A compiled format.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compiled {
    /// Text before the first variable.
    pub(super) prefix: Box<[u8]>,
    pub(super) steps: Box<[Step]>,
    /// Two steps may give the same key.
    pub(super) keys_repeat: bool,
}

impl Compiled {
    /// Compiles a format string, or the name `combined`. The error says what is wrong and where.
    pub(super) fn new(format: &str) -> Result<Self, String> {
        let format = if format == "combined" { COMBINED } else { format };
        if format.starts_with("escape=") {
            return Err("leave the parameter escape out of it (and read escape=json by the \
                 format json)"
                .to_owned());
        }
        let (prefix, mut rest) = literal(format);
        let mut steps = Vec::new();
        // A quote is open where an odd number of them stands before.
        let mut quotes = count_quotes(prefix);
        while !rest.is_empty() {
            let (name, after) =
                variable(rest).ok_or_else(|| invalid_variable(format.len() - rest.len() + 1))?;
            let (literal, after) = literal(after);
            steps.push(Step {
                key: key(name).into(),
                meaning: meaning(name),
                literal: literal.as_bytes().into(),
                quoted: quotes % 2 == 1 && literal.starts_with('"'),
            });
            quotes += count_quotes(literal);
            rest = after;
        }
        if steps.is_empty() {
            return Err(format!(
                "{format:?} has no $variable: copy the format from nginx's configuration, or use \
                 \"combined\""
            ));
        }
        let keys_repeat = repeat(&steps);
        Ok(Self { prefix: prefix.as_bytes().into(), steps: steps.into(), keys_repeat })
    }
}

/// Splits at the next `$`.
fn literal(format: &str) -> (&str, &str) {
    format.split_at(format.find('$').unwrap_or(format.len()))
}

fn count_quotes(text: &str) -> usize {
    text.matches('"').count()
}

/// Reads `$name` or `${name}`.
fn variable(format: &str) -> Option<(&str, &str)> {
    let after = format.strip_prefix('$')?;
    let (braced, after) = after.strip_prefix('{').map_or((false, after), |after| (true, after));
    let end = after
        .find(|char: char| !char.is_ascii_alphanumeric() && char != '_')
        .unwrap_or(after.len());
    let (name, after) = after.split_at(end);
    let after = if braced { after.strip_prefix('}')? } else { after };
    (!name.is_empty()).then_some((name, after))
}

fn invalid_variable(byte: usize) -> String {
    format!("the $ at byte {byte} begins no variable: write $name or ${{name}}")
}

fn key(name: &str) -> &[u8] {
    match name {
        "http_referer" => b"referer",
        "http_user_agent" => b"user_agent",
        _ => name.as_bytes(),
    }
}

fn meaning(name: &str) -> Meaning {
    match name {
        "time_local" => Meaning::Clf,
        "time_iso8601" => Meaning::Iso,
        "msec" => Meaning::Epoch,
        "status" => Meaning::Status,
        "request" => Meaning::Request,
        _ => Meaning::Text,
    }
}

fn repeat(steps: &[Step]) -> bool {
    let mut keys: Vec<&[u8]> = steps.iter().map(|step| &*step.key).collect();
    if steps.iter().any(|step| step.meaning == Meaning::Request) {
        keys.extend([&b"method"[..], b"path", b"protocol"]);
    }
    keys.sort_unstable();
    keys.windows(2).any(|pair| matches!(pair, [one, other] if one == other))
}
