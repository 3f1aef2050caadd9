//! What flags, variables and keys say: one syntax for all of them.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let example = "give an IP address and a port, such as 127.0.0.1:10000 or [::]:10000";
    text.parse().map_err(|_| format!("{text:?} is no address; {example}"))
}

pub(super) fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text:?} is no count; give a whole number"))
}

/// Things in a second.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let rate = number_and_unit(text, &[("", 1), ("k", 1_000), ("M", 1_000_000)]);
    rate.ok_or_else(|| format!("{text:?} is no rate; give a whole number, alone or with k or M"))
}

/// A time as people write it.
pub(super) fn moment(text: &str) -> Result<SystemTime, String> {
    if let Some(ago) = text.strip_suffix(" ago") {
        let ago = ago.parse::<Span>()?.0;
        return SystemTime::now().checked_sub(ago).ok_or_else(|| format!("{text} is before all times"));
    }
    let stamp = text.parse::<jiff::Timestamp>();
    let stamp =
        stamp.or_else(|_| Ok(text.parse::<jiff::civil::DateTime>()?.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp()));
    stamp.map(SystemTime::from).map_err(|_: jiff::Error| {
        format!("{text:?} is no time; give RFC 3339, a UTC time such as \"2026-11-23 14:00\", or \"10m ago\"")
    })
}

/// Bytes: a number, alone or with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("", 1),
];

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = number_and_unit(text, &SIZE_UNITS);
        size.map(Self).ok_or_else(|| format!("{text} is no size; give bytes, or a number with KB KiB MB MiB GB GiB"))
    }
}

impl Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fits = |&&(_, unit): &&(&str, u64)| self.0 >= unit && self.0.is_multiple_of(unit);
        let (name, unit) = SIZE_UNITS.iter().find(fits).copied().unwrap_or(("", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

/// A time: a number with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

const SPAN_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = if text == "0" { &[("", 0)][..] } else { &SPAN_UNITS };
        let span = number_and_unit(text, units).map(|millis| Self(Duration::from_millis(millis)));
        span.ok_or_else(|| format!("{text} is no time; give a number with ms s m h d"))
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = self.0.as_millis();
        // People say 24h rather than 1d.
        let fits = |&&(name, unit): &&(&str, u64)| {
            name != "d" && millis >= u128::from(unit) && millis.is_multiple_of(u128::from(unit))
        };
        let (name, unit) = SPAN_UNITS.iter().rev().find(fits).copied().unwrap_or(("ms", 1));
        write!(f, "{}{name}", millis / u128::from(unit))
    }
}

fn number_and_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, name) = text.split_at(digits);
    let (_, unit) = units.iter().find(|(unit, _)| *unit == name)?;
    number.parse::<u64>().ok()?.checked_mul(*unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_people_write_them() {
        let since_1970 =
            |text: &str| moment(text).map(|time| time.duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs());
        let afternoon = Ok(1_795_442_400);
        for text in ["2026-11-23T14:00:00Z", "2026-11-23 14:00", "2026-11-23T15:00:00.0+01:00", "2026-11-23 14:00:00"] {
            assert_eq!(since_1970(text), afternoon, "{text}");
        }
        assert_eq!(since_1970("2026-11-23"), Ok(1_795_392_000));
        let ago = moment("10m ago").expect("a time").elapsed().expect("past");
        assert!((Duration::from_mins(10)..Duration::from_mins(11)).contains(&ago), "{ago:?}");
        for wrong in ["", "ago", "10 ago", "yesterday", "14:00", "2026-13-01"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
        let shown = [1_500, 60_000, 86_400_000, 0].map(|millis| Span(Duration::from_millis(millis)).to_string());
        assert_eq!(shown, ["1500ms", "1m", "24h", "0ms"]);
        assert_eq!((rate("500"), rate("2k"), rate("1M")), (Ok(500), Ok(2_000), Ok(1_000_000)));
        assert!(rate("1.5k").is_err() && rate("k").is_err());
    }

    #[test]
    fn sizes_and_times_have_units() {
        let size = |text: &str| text.parse::<Size>().map(|size| size.0);
        assert_eq!(size("12"), Ok(12));
        assert_eq!(size("4KiB"), Ok(4096));
        assert_eq!(size("3MB"), Ok(3_000_000));
        assert!(size("4kib").is_err() && size("").is_err() && size("-1").is_err() && size("99999999999GiB").is_err());
        let span = |text: &str| text.parse::<Span>().map(|span| span.0);
        assert_eq!(span("5ms"), Ok(Duration::from_millis(5)));
        assert_eq!(span("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(span("0"), Ok(Duration::ZERO));
        assert!(span("5").is_err() && span("5 s").is_err());
        assert_eq!(
            (Size(262_144).to_string(), Span(Duration::from_secs(10)).to_string()),
            ("256KiB".into(), "10s".into())
        );
    }
}
