//! The values of a prefix: which escape prints which, and what their texts look like.

use std::net::Ipv6Addr;

use crate::parse::postgresql::scan_time;

/// An escape that prints a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::parse::postgresql) enum Escape {
    /// `%m`, `%t`
    Time,
    /// `%n`
    EpochTime,
    /// `%p`
    Pid,
    /// `%r`
    HostPort,
    /// Any other, with its key and the kind of its text.
    Value(&'static [u8], Kind),
}

/// What the text of a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::parse::postgresql) enum Kind {
    /// Anything, also nothing.
    Name,
    /// A name, an address, or a word in brackets; also nothing.
    Host,
    /// Digits with an optional sign, or nothing.
    Number,
    /// Five digits or capitals, or nothing.
    SqlState,
    /// `6ad1f2.47`
    SessionId,
    /// `3/17`, or nothing.
    VirtualXid,
    /// A time with its zone.
    Time,
    /// Seconds since 1970 with a fraction.
    Epoch,
}

impl Escape {
    /// The escape of a letter; `None` for those that print nothing.
    pub(super) fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'm' | b't' => Self::Time,
            b'n' => Self::EpochTime,
            b'p' => Self::Pid,
            b'r' => Self::HostPort,
            b'u' => Self::Value(b"user", Kind::Name),
            b'd' => Self::Value(b"database", Kind::Name),
            b'a' => Self::Value(b"application_name", Kind::Name),
            b'h' => Self::Value(b"remote_host", Kind::Host),
            b'b' => Self::Value(b"backend_type", Kind::Name),
            b'L' => Self::Value(b"local_addr", Kind::Host),
            b'i' => Self::Value(b"command_tag", Kind::Name),
            b'e' => Self::Value(b"sqlstate", Kind::SqlState),
            b'c' => Self::Value(b"session_id", Kind::SessionId),
            b'l' => Self::Value(b"line_num", Kind::Number),
            b's' => Self::Value(b"session_start", Kind::Time),
            b'v' => Self::Value(b"virtual_xid", Kind::VirtualXid),
            b'x' => Self::Value(b"xid", Kind::Number),
            b'Q' => Self::Value(b"query_id", Kind::Number),
            b'P' => Self::Value(b"leader_pid", Kind::Number),
            _ => return None,
        })
    }

    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Time => Kind::Time,
            Self::EpochTime => Kind::Epoch,
            Self::Pid => Kind::Number,
            Self::HostPort => Kind::Host,
            Self::Value(_, kind) => kind,
        }
    }
}

pub(super) fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'%') || byte >= 0x80
}

/// A name or an address, or nothing. Only an IPv6 address may have colons.
pub(super) fn is_host(text: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(text) else { return false };
    let address = text.split_once('%').map_or(text, |(address, _zone)| address);
    !text.contains(':') || address.parse::<Ipv6Addr>().is_ok()
}

/// Length of `(5000)` at the beginning.
pub(super) fn port_len(input: &[u8]) -> usize {
    let Some(inside) = input.strip_prefix(b"(") else { return 0 };
    let len = run(inside, |byte| byte.is_ascii_alphanumeric());
    if inside.get(len) == Some(&b')') { len + 2 } else { 0 }
}

/// Lengths of a time without and with its zone. The server always writes a zone.
pub(super) fn time_lengths(input: &[u8]) -> Option<(usize, usize)> {
    let (_, rest) = scan_time(input)?;
    let bare = input.len() - rest.len();
    let zone = match rest {
        [b' ', b'+' | b'-', zone @ ..] => {
            2 + run(zone, |byte| byte.is_ascii_digit() || byte == b':')
        }
        [b' ', zone @ ..] => 1 + run(zone, |byte| byte.is_ascii_alphabetic()),
        _ => 0,
    };
    Some((bare, bare + if zone > 1 { zone } else { 0 }))
}

/// Length of the text of a kind that has one form only; 0 if it is not there.
pub(super) fn exact_len(kind: Kind, input: &[u8]) -> usize {
    let sign = usize::from(input.first() == Some(&b'-'));
    let digits = |from: usize| run(input.get(from..).unwrap_or_default(), |b| b.is_ascii_digit());
    let pair = |first: usize, separator: u8, second: &dyn Fn(usize) -> usize| {
        if first == 0 || input.get(first) != Some(&separator) {
            return 0;
        }
        let second = second(first + 1);
        if second == 0 { 0 } else { first + 1 + second }
    };
    match kind {
        Kind::Number => match digits(sign) {
            0 => 0,
            count => sign + count,
        },
        Kind::SqlState => {
            let code = input.get(..5).unwrap_or_default();
            if code.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()) {
                code.len()
            } else {
                0
            }
        }
        Kind::SessionId => {
            let hex = |from: usize| {
                run(input.get(from..).unwrap_or_default(), |byte| byte.is_ascii_hexdigit())
            };
            pair(hex(0), b'.', &hex)
        }
        Kind::VirtualXid => pair(sign + digits(sign), b'/', &digits),
        Kind::Epoch => pair(digits(0), b'.', &digits),
        Kind::Name | Kind::Host | Kind::Time => 0,
    }
}

pub(super) fn blanks(input: &[u8]) -> usize {
    run(input, |byte| byte == b' ')
}

pub(super) fn run(input: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    input.iter().take_while(|byte| belongs(**byte)).count()
}
