//! Error logs of nginx, for http, stream and mail.
//!
//! ```text
//! 2031/05/04 10:11:12 [warn] 71#72: *9 message, client: a, server: b, request: "c", host: "d"
//! ```
//!
//! The pairs are those of `ngx_http_log_error_handler`, `ngx_stream_log_error` and
//! `ngx_mail_log_error`. nginx escapes nothing in them: a quoted value ends at the first quote
//! that the line's end or another known pair follows.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memchr;
use memchr::memmem::{Finder, find};

use super::{Clock, Role, time};
use crate::record::{Level, Record};

/// The beginning of a record.
struct Head<'a> {
    time: &'a [u8],
    severity: &'a [u8],
    pid: &'a [u8],
    tid: &'a [u8],
    connection: &'a [u8],
    rest: &'a [u8],
}

/// The keys of the pairs, each as it stands in the text. `client` begins them.
const PAIRS: [&str; 8] =
    ["client", "server", "request", "subrequest", "upstream", "host", "referrer", "login"];
/// Building the searcher costs more than a search.
static CLIENT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b", client: "));

/// The role of a line of an error log.
#[must_use]
pub fn error_role(line: &[u8]) -> Role {
    if head(line).is_some() { Role::Begins { thread: 0 } } else { Role::Continues }
}

/// Reads one record of an error log; `false` if it is none.
pub fn parse_error<'a>(text: &'a [u8], clock: &mut Clock, record: &mut Record<'a>) -> bool {
    let Some(head) = head(text) else { return false };
    record.time = clock.remembered(time::Layout::NginxError, head.time, |clock, text| {
        let (year, month, day, rest) = time::date(text, b'/')?;
        let (civil, _) = time::clock(rest.strip_prefix(b" ")?)?;
        let civil = time::Civil { year: Some(year), month, day, ..civil };
        clock.instant(&civil, time::Zone::Local)
    });
    if record.time.is_none() {
        record.push(b"time", head.time);
    }
    record.level = level(head.severity);
    record.push(b"severity", head.severity);
    record.push(b"pid", head.pid);
    record.push(b"tid", head.tid);
    record.push(b"connection_id", head.connection);
    let pairs_at = CLIENT.find(head.rest).unwrap_or(head.rest.len());
    let (message, rest) = head.rest.split_at_checked(pairs_at).unwrap_or((head.rest, b""));
    record.message = Cow::Borrowed(message);
    limits(message, record);
    let rest = pairs(rest, record);
    record.push(b"trailer", rest.strip_prefix(b", ").unwrap_or(rest).trim_ascii());
    true
}

fn level(severity: &[u8]) -> Level {
    match severity {
        b"debug" => Level::Debug,
        b"warn" => Level::Warning,
        b"error" => Level::Error,
        b"crit" | b"alert" | b"emerg" => Level::Critical,
        _ => Level::Info,
    }
}

fn head(text: &[u8]) -> Option<Head<'_>> {
    const TIME: &[u8] = b"2031/05/04 10:11:12";
    let (time, rest) = text.split_at_checked(TIME.len())?;
    let alike = |(byte, model): (&u8, &u8)| {
        if model.is_ascii_digit() { byte.is_ascii_digit() } else { byte == model }
    };
    time.iter().zip(TIME).all(alike).then_some(())?;
    let rest = rest.strip_prefix(b" [")?;
    let (severity, rest) = rest.split_at_checked(memchr(b']', rest)?)?;
    if severity.is_empty() || !severity.iter().all(u8::is_ascii_alphabetic) {
        return None;
    }
    let (pid, rest) = number(rest.strip_prefix(b"] ")?)?;
    let (tid, rest) = number(rest.strip_prefix(b"#")?)?;
    let rest = rest.strip_prefix(b":")?;
    // An editor or a tool may have cut a blank at the line's end.
    let rest = match rest.split_first() {
        None | Some((b'\n', _)) => rest,
        Some((b' ', rest)) => rest,
        Some(_) => return None,
    };
    let connection = rest.strip_prefix(b"*").and_then(number);
    let connection = connection.and_then(|(id, rest)| Some((id, rest.strip_prefix(b" ")?)));
    let (connection, rest) = connection.unwrap_or((b"", rest));
    Some(Head { time, severity, pid, tid, connection, rest })
}

fn number(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    text.split_at_checked(len).filter(|_| len > 0)
}

/// `limiting requests, excess: 5.4 by zone "a"` and its kin.
fn limits<'a>(message: &'a [u8], record: &mut Record<'a>) {
    if !message.starts_with(b"limiting ") && !message.starts_with(b"delaying ") {
        return;
    }
    if let Some(excess) = after(message, b" excess: ") {
        let digit = |byte: &&u8| byte.is_ascii_digit() || **byte == b'.';
        let len = excess.iter().take_while(digit).count();
        record.push(b"excess", excess.get(..len).unwrap_or_default());
    }
    if let Some(zone) = after(message, b" by zone \"")
        && let Some(len) = memchr(b'"', zone)
    {
        record.push(b"zone", zone.get(..len).unwrap_or_default());
    }
}

fn after<'a>(text: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    text.get(find(text, mark)? + mark.len()..)
}

/// Reads the pairs at the beginning of `rest` and returns what follows them.
fn pairs<'a>(mut rest: &'a [u8], record: &mut Record<'a>) -> &'a [u8] {
    let mut seen = 0_u8;
    while let Some((at, value)) = pair(rest, seen) {
        seen |= 1 << at;
        let (value, after) = split_value(value, seen);
        let key = PAIRS.get(at).copied().unwrap_or_default();
        if let Some(address) = value.strip_suffix(b" using starttls").filter(|_| key == "client") {
            record.push(key.as_bytes(), address);
            record.push(b"starttls", b"using starttls");
        } else {
            record.push(key.as_bytes(), value);
        }
        rest = after;
    }
    rest
}

/// Which pair not yet seen begins `text`, and the text behind its colon.
fn pair(text: &[u8], seen: u8) -> Option<(usize, &[u8])> {
    let text = text.strip_prefix(b", ")?;
    let unseen = PAIRS.iter().enumerate().filter(|(at, _)| seen & (1 << at) == 0);
    unseen
        .into_iter()
        .find_map(|(at, key)| Some((at, text.strip_prefix(key.as_bytes())?.strip_prefix(b": ")?)))
}

/// Splits a value, without its quotes, from what follows it.
fn split_value(text: &[u8], seen: u8) -> (&[u8], &[u8]) {
    let Some(inner) = text.strip_prefix(b"\"") else {
        let ends = |at: &usize| {
            let rest = text.get(*at..).unwrap_or_default();
            rest.starts_with(b"\n") || rest.starts_with(b", ")
        };
        let len = memchr::memchr2_iter(b'\n', b',', text).find(ends).unwrap_or(text.len());
        return text.split_at_checked(len).unwrap_or((text, b""));
    };
    let ends =
        |rest: &[u8]| matches!(rest.first(), None | Some(b'\n')) || pair(rest, seen).is_some();
    let quotes = || memchr::memchr_iter(b'"', inner);
    let behind = |at: usize| inner.get(at + 1..).unwrap_or_default();
    let end = quotes()
        .find(|at| ends(behind(*at)))
        .or_else(|| quotes().find(|at| behind(*at).starts_with(b", ")))
        .or_else(|| quotes().next_back());
    match end {
        Some(at) => (inner.get(..at).unwrap_or_default(), behind(at)),
        None => (text, b""),
    }
}
