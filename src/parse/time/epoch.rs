//! Times written as a number.

use crate::record::Time;

/// More digits than any time has; what follows them in a fraction is cut.
const DIGITS_MAX: usize = 30;

/// Reads all of `text` as a decimal number since 1970: seconds, above 10^11 milliseconds, above
/// 10^14 microseconds, above 10^17 nanoseconds. What is below a second is the fraction, with as
/// many digits as the text has. Outside 1970 to 2200 it
/// is no time.
#[must_use]
pub fn epoch(text: &[u8]) -> Option<Time> {
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (text.get(..at)?, read_exponent(text.get(at + 1..)?)?),
        None => (text, 0),
    };
    let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
    let (whole, fraction) = mantissa.split_at_checked(point)?;
    let fraction = fraction.strip_prefix(b".").unwrap_or(fraction);
    let fraction = fraction.get(..DIGITS_MAX.saturating_sub(whole.len())).unwrap_or(fraction);
    if whole.is_empty() || whole.len() > DIGITS_MAX {
        return None;
    }
    let mut value = 0_u128;
    for byte in whole.iter().chain(fraction) {
        byte.is_ascii_digit().then_some(())?;
        value = value * 10 + u128::from(byte - b'0');
    }
    // The number is value / 10^scale.
    let mut scale = i32::try_from(fraction.len()).ok()? - exponent;
    if scale < 0 {
        value = value.checked_mul(power(-scale)?)?;
        scale = 0;
    }
    let unit = power(scale)?;
    for (limit, digits) in [(17, 9), (14, 6), (11, 3)] {
        if power(limit)?.checked_mul(unit).is_some_and(|limit| value > limit) {
            scale += digits;
            break;
        }
    }
    let second = power(scale)?;
    let digits = u8::try_from(scale.min(9)).ok()?;
    let (below, nine) = (value % second, power(9)?);
    let nanos = if scale <= 9 { below * (nine / second) } else { below / (second / nine) };
    super::in_range(Time {
        seconds: i64::try_from(value / second).ok()?,
        nanos: u32::try_from(nanos).ok()?,
        digits,
    })
}

fn power(exponent: i32) -> Option<u128> {
    10_u128.checked_pow(u32::try_from(exponent).ok()?)
}

fn read_exponent(text: &[u8]) -> Option<i32> {
    std::str::from_utf8(text).ok()?.parse::<i8>().ok().map(i32::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        let time = epoch(text.as_bytes())?;
        Some(format!("{}.{:09} {}", time.seconds, time.nanos, time.digits))
    }

    #[test]
    fn the_size_of_a_number_tells_its_unit() {
        for (text, expected) in [
            ("1935655872", "1935655872.000000000 0"),
            ("1935655872.345", "1935655872.345000000 3"),
            ("1935655872.3450", "1935655872.345000000 4"),
            ("1935655872345", "1935655872.345000000 3"),
            ("1935655872345.5", "1935655872.345500000 4"),
            ("1935655872345678", "1935655872.345678000 6"),
            ("1935655872345678901", "1935655872.345678901 9"),
            ("1.935655872345e9", "1935655872.345000000 3"),
            ("1935655872345E-3", "1935655872.345000000 3"),
            ("7258118399", "7258118399.000000000 0"),
            ("100000000001", "100000000.001000000 3"),
            ("0", "0.000000000 0"),
            ("1935655872.12345678987654321", "1935655872.123456789 9"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in
            ["", "-1", "x", "1.2.3", "1e", "1e999", "1e99", ".5", &"9".repeat(40), "7258118400"]
        {
            assert_eq!(shown(text), None, "{text}");
        }
    }
}
