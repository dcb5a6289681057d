//! Scanners for the parts of times. Each reads at the beginning of a text and returns what follows.

use super::Civil;

const NANO_DIGITS: u8 = 9;

/// Exactly `digits` decimal digits (at most nine).
#[must_use]
pub fn number(text: &[u8], digits: usize) -> Option<(u32, &[u8])> {
    let (number, rest) = text.split_at_checked(digits)?;
    let mut value = 0_u32;
    for byte in number {
        value = value.checked_mul(10)?.checked_add(u32::from(digit(*byte)?))?;
    }
    Some((value, rest))
}

/// An English month of three letters, in any case: 1 to 12.
#[must_use]
pub fn month(text: &[u8]) -> Option<(u8, &[u8])> {
    let (name, rest) = text.split_first_chunk::<3>()?;
    let month = match &name.map(|byte| byte.to_ascii_lowercase()) {
        b"jan" => 1,
        b"feb" => 2,
        b"mar" => 3,
        b"apr" => 4,
        b"may" => 5,
        b"jun" => 6,
        b"jul" => 7,
        b"aug" => 8,
        b"sep" => 9,
        b"oct" => 10,
        b"nov" => 11,
        b"dec" => 12,
        _ => return None,
    };
    Some((month, rest))
}

/// `2031-05-04`: the year, the month and the day, separated by `separator`.
#[must_use]
pub fn date(text: &[u8], separator: u8) -> Option<(i16, u8, u8, &[u8])> {
    let (year, rest) = number(text, 4)?;
    let (month, rest) = number(skip(rest, separator)?, 2)?;
    let (day, rest) = number(skip(rest, separator)?, 2)?;
    Some((i16::try_from(year).ok()?, u8::try_from(month).ok()?, u8::try_from(day).ok()?, rest))
}

/// `10:11:12` with a fraction after `.` or `,` if there is one. The date of the result is empty:
/// fill it in.
#[must_use]
pub fn clock(text: &[u8]) -> Option<(Civil, &[u8])> {
    let (hour, rest) = number(text, 2)?;
    let (minute, rest) = number(skip(rest, b':')?, 2)?;
    let (second, rest) = number(skip(rest, b':')?, 2)?;
    let (nanos, digits, rest) = fraction(rest);
    let small = |number: u32| u8::try_from(number).ok();
    let (hour, minute, second) = (small(hour)?, small(minute)?, small(second)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some((Civil { year: None, month: 0, day: 0, hour, minute, second, nanos, digits }, rest))
}

/// `2031-05-04T10:11:12.345`: `T`, `t` or one blank between date and time, `.` or `,` before the
/// fraction. A zone is left to [`offset`] or [`super::Zone::read`].
#[must_use]
pub fn date_time(text: &[u8]) -> Option<(Civil, &[u8])> {
    let (year, month, day, rest) = date(text, b'-')?;
    let (separator, rest) = rest.split_first()?;
    matches!(separator, b'T' | b't' | b' ').then_some(())?;
    let (civil, rest) = clock(rest)?;
    Some((Civil { year: Some(year), month, day, ..civil }, rest))
}

/// A fraction after `.` or `,`: nanoseconds and the number of digits; none if no digit follows.
pub(super) fn fraction(text: &[u8]) -> (u32, u8, &[u8]) {
    let Some((b'.' | b',', after)) = text.split_first() else { return (0, 0, text) };
    let len = after.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (shown, rest) = after.split_at_checked(len).unwrap_or((after, b""));
    if shown.is_empty() {
        return (0, 0, text);
    }
    let (mut nanos, mut digits) = (0_u32, 0_u8);
    for byte in shown.iter().take(usize::from(NANO_DIGITS)) {
        nanos = nanos * 10 + u32::from(byte - b'0');
        digits += 1;
    }
    (nanos * 10_u32.pow(u32::from(NANO_DIGITS - digits)), digits, rest)
}

/// An offset in seconds: `Z`, `+02`, `+0200`, `+02:00`, also with seconds.
#[must_use]
pub fn offset(text: &[u8]) -> Option<(i32, &[u8])> {
    let (sign, rest) = text.split_first()?;
    let sign = match sign {
        b'Z' | b'z' if !rest.first().is_some_and(u8::is_ascii_alphanumeric) => {
            return Some((0, rest));
        }
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, mut rest) = number(rest, 2)?;
    let mut seconds = i32::try_from(hours).ok()? * 3600;
    for unit in [60, 1] {
        let Some((part, after)) = number(rest.strip_prefix(b":").unwrap_or(rest), 2) else { break };
        seconds += i32::try_from(part).ok()? * unit;
        rest = after;
    }
    // A digit more, and it is some other number.
    (seconds < 86_400 && !rest.first().is_some_and(u8::is_ascii_digit))
        .then_some((sign * seconds, rest))
}

fn skip(text: &[u8], byte: u8) -> Option<&[u8]> {
    text.split_first().filter(|(first, _)| **first == byte).map(|(_, rest)| rest)
}

fn digit(byte: u8) -> Option<u8> {
    byte.is_ascii_digit().then(|| byte - b'0')
}
