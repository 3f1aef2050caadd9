//! Numbers as people type them: counts with `k` and `M`, sizes with `KiB` and the like, times with `ms` and the like.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Longest time that a flag takes, in milliseconds: 30 days, so that no sum of times can overflow.
const TIME_MS_MAX: u64 = 30 * 86_400_000;

const COUNT_UNITS: [(&str, u64); 3] = [("", 1), ("k", 1_000), ("M", 1_000_000)];
const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const KIB: u64 = 1 << 10;
const SIZE_UNITS: [(&str, u64); 7] = [
    ("", 1),
    ("KB", 1_000),
    ("KiB", KIB),
    ("MB", 1_000_000),
    ("MiB", KIB * KIB),
    ("GB", 1_000_000_000),
    ("GiB", KIB * KIB * KIB),
];

/// A number, whole or with a decimal point, and the unit behind it: whole in the smallest of the units.
pub(crate) fn scaled(text: &str, units: &[(&str, u64)], allowed: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let parts = whole.parse::<u64>().ok().zip(fraction.parse::<u64>().ok());
    let (whole, parts) = parts.ok_or_else(|| format!("not a number; {allowed}"))?;
    let known = || units.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect::<Vec<_>>().join(" ");
    let scale = units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale);
    let scale = scale.ok_or_else(|| match unit {
        "" => format!("no unit; {allowed} (units: {})", known()),
        unit => format!("unknown unit {unit}; {allowed} (units: {})", known()),
    })?;
    let too_large = || format!("too large; {allowed}");
    let parts_of_one =
        10_u64.checked_pow(fraction.len() as u32).ok_or_else(|| format!("too many digits; {allowed}"))?;
    let scaled_parts = parts.checked_mul(scale).ok_or_else(too_large)?;
    if !scaled_parts.is_multiple_of(parts_of_one) {
        return Err(format!("finer than possible; {allowed}"));
    }
    let scaled = whole.checked_mul(scale).and_then(|scaled| scaled.checked_add(scaled_parts / parts_of_one));
    scaled.ok_or_else(too_large)
}

/// A number, zero included.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_number(text: &str) -> Result<u64, String> {
    scaled(text, &COUNT_UNITS, "give a number such as 1000, 500k or 1.5M")
}

/// A number of at least one.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_count(text: &str) -> Result<u64, String> {
    match parse_number(text)? {
        0 => Err("zero sends nothing; give a number such as 1000, 500k or 1.5M".to_owned()),
        count => Ok(count),
    }
}

/// A time, zero included.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let units = if text == "0" { &[("", 0)][..] } else { &TIME_UNITS };
    match scaled(text, units, "give a time such as 500ms, 10s, 5m, 1h or 2d")? {
        milliseconds if milliseconds > TIME_MS_MAX => Err("longer than possible; give at most 30d".to_owned()),
        milliseconds => Ok(Duration::from_millis(milliseconds)),
    }
}

/// A size, or `N..M`: any size from the first to the second.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_size_range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let size = |text: &str| scaled(text, &SIZE_UNITS, "give a size such as 256 or 64KiB, or two as in 64..1024");
    let (least, most) = match text.split_once("..") {
        Some((least, most)) => (size(least)?, size(most)?),
        None => (size(text)?, size(text)?),
    };
    if least > most {
        return Err(format!("{least} is more than {most}; give the smaller one first"));
    }
    Ok(least..=most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(parse_count("250k"), Ok(250_000));
        assert_eq!(parse_count("1.5M"), Ok(1_500_000));
        assert_eq!(parse_count("0.25k"), Ok(250));
        assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_number("0"), Ok(0));
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("2d"), Ok(Duration::from_hours(48)));
        assert_eq!(parse_time("0"), Ok(Duration::ZERO));
        assert_eq!(parse_size_range("64..4KiB"), Ok(64..=4096));
        assert_eq!(parse_size_range("1MB"), Ok(1_000_000..=1_000_000));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(parse_count("0").unwrap_err().contains("zero"));
        assert!(parse_count("5x").unwrap_err().contains("unknown unit"));
        assert!(parse_count("1.0005k").unwrap_err().contains("finer than possible"));
        assert!(parse_count("1.5").unwrap_err().contains("finer than possible"));
        for text in ["1.", ".5k", "1.5.5k", "k"] {
            assert!(parse_count(text).unwrap_err().contains("not a number"), "{text}");
        }
        assert!(parse_count("0.00000000000000000001M").unwrap_err().contains("too many digits"));
        assert!(parse_count("99999999999999M").unwrap_err().contains("too large"));
        let error = parse_time("10").unwrap_err();
        assert_eq!(error, "no unit; give a time such as 500ms, 10s, 5m, 1h or 2d (units: ms s m h d)");
        assert!(parse_time("31d").unwrap_err().contains("at most 30d"));
        assert!(parse_size_range("9..8").unwrap_err().contains("smaller one"));
        assert!(parse_size_range("..8").unwrap_err().contains("not a number"));
    }
}
