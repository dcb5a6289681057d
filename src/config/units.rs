//! Sizes and durations with their units in the value: `"64MiB"`, `"30s"`.

use std::time::Duration;

/// Units of sizes, largest first, as they are written.
const SIZES: &[(&str, u64)] =
    &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Units of durations in milliseconds, largest first.
const DURATIONS: &[(&str, u64)] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a size in bytes.
///
/// # Errors
///
/// A text that says how sizes are written.
pub fn bytes(text: &str) -> Result<u64, String> {
    read(text, SIZES).ok_or_else(|| {
        format!(
            "\"{text}\" is no size; write a number with B, KiB, MiB, GiB or TiB, such as \"64MiB\""
        )
    })
}

/// Reads a duration.
///
/// # Errors
///
/// A text that says how durations are written.
pub fn duration(text: &str) -> Result<Duration, String> {
    read(text, DURATIONS).map(Duration::from_millis).ok_or_else(|| {
        format!("\"{text}\" is no duration; write a number with ms, s, m, h or d, such as \"30s\"")
    })
}

fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = unit.trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a size with the largest unit that divides it.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    show(bytes, SIZES)
}

/// Writes a duration with the largest unit that divides it.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    match u64::try_from(duration.as_millis()) {
        Ok(0) => "0s".to_owned(),
        Ok(millis) => show(millis, DURATIONS),
        Err(_) => format!("{duration:?}"),
    }
}

fn show(value: u64, units: &[(&str, u64)]) -> String {
    units
        .iter()
        .find(|(_, factor)| value.is_multiple_of(*factor) && value >= *factor)
        .map_or_else(|| value.to_string(), |(name, factor)| format!("{}{name}", value / factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_written_alike() {
        for text in ["64MiB", "256KiB", "1GiB", "7B", "2TiB"] {
            assert_eq!(show_bytes(bytes(text).unwrap()), text);
        }
        for text in ["30s", "500ms", "5m", "1h", "90d", "0s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        assert_eq!(bytes("1 KiB"), Ok(1024));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "5", "MiB", "-1s", "1.5s", "5 minutes", "1mb", "99999999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(bytes("18446744073709551615KiB").is_err());
    }
}
