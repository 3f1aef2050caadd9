//! The directory of `--out`, read back: all that a page or a comparison is made from.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::files::{self, SUMMARY};
use super::json::SCHEMA;
use crate::latency::Clock;

/// A run as its files tell it.
#[derive(Debug)]
pub struct Saved {
    /// What is in `summary.json`.
    pub summary: Value,
    /// Percentiles of each clock, corrected first.
    pub curves: Vec<Curve>,
    /// The run, second by second.
    pub seconds: Vec<Second>,
}

/// The percentiles of one clock.
#[derive(Debug)]
pub struct Curve {
    /// Of which clock.
    pub clock: Clock,
    /// From the intended send time.
    pub is_corrected: bool,
    /// Part of the entries, 0 to 1, and the milliseconds that none of them exceeds.
    pub points: Vec<(f64, f64)>,
}

/// A row of `intervals.csv`.
#[derive(Clone, Debug, Default)]
pub struct Second {
    /// Since the start of the run.
    pub second: f64,
    /// Entries that sockets accepted.
    pub sent: f64,
    /// Entries that the follower read.
    pub visible: f64,
    /// Of both clocks in the order of [`CLOCKS`]: p50, p99 and maximum in milliseconds, if there were any.
    pub latencies: [Option<[f64; 3]>; 2],
}

/// The order of the clocks in tables.
pub const CLOCKS: [Clock; 2] = [Clock::Send, Clock::Visible];

impl Saved {
    /// Reads a directory.
    ///
    /// # Errors
    ///
    /// What is missing or wrong in it.
    pub fn read(directory: &Path) -> Result<Self, String> {
        let summary = summary(directory)?;
        let mut curves = Vec::new();
        for clock in CLOCKS {
            for is_corrected in [true, false] {
                let name = files::percentiles_name(clock, is_corrected);
                if let Some(table) = optional(directory, &name)? {
                    let points = curve(&table).ok_or_else(|| format!("{name} is no table of percentiles"))?;
                    curves.push(Curve { clock, is_corrected, points });
                }
            }
        }
        let table = optional(directory, "intervals.csv")?.unwrap_or_default();
        let seconds = table.lines().skip(1).map(second).collect::<Option<Vec<_>>>();
        let seconds = seconds.ok_or("intervals.csv is no table of seconds")?;
        Ok(Self { summary, curves, seconds })
    }
}

/// Reads only `summary.json`.
///
/// # Errors
///
/// When it is missing, no JSON, or of another version.
pub fn summary(directory: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(directory.join(SUMMARY)).map_err(|error| format!("{SUMMARY} ({error})"))?;
    let summary: Value = serde_json::from_str(&text).map_err(|error| format!("{SUMMARY} is no JSON ({error})"))?;
    match summary["schema"].as_u64() {
        Some(schema) if schema == u64::from(SCHEMA) => Ok(summary),
        Some(schema) => Err(format!("{SUMMARY} has schema {schema}, this loadgen reads {SCHEMA}")),
        None => Err(format!("{SUMMARY} is no report of loadgen")),
    }
}

fn optional(directory: &Path, name: &str) -> Result<Option<String>, String> {
    match fs::read_to_string(directory.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{name} ({error})")),
    }
}

fn curve(table: &str) -> Option<Vec<(f64, f64)>> {
    let rows = table.lines().skip(1).filter(|row| !row.is_empty() && !row.starts_with('#'));
    let point = |row: &str| {
        let mut fields = row.split_whitespace().map(finite);
        let value = fields.next()??;
        Some((fields.next()??, value))
    };
    rows.map(point).collect()
}

fn second(row: &str) -> Option<Second> {
    let fields: Vec<_> = row.split(',').collect();
    let number = |at: usize| finite(fields.get(at)?);
    // p99.9 stands between p99 and the maximum.
    let latencies = |at: usize| Some([number(at)?, number(at + 1)?, number(at + 3)?]);
    Some(Second { second: number(0)?, sent: number(1)?, visible: number(6)?, latencies: [latencies(2), latencies(7)] })
}

fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_result_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let problem = |name: &str, text: &str| {
            fs::write(directory.path().join(name), text).unwrap();
            Saved::read(directory.path()).map(|_| ()).unwrap_err()
        };
        assert!(Saved::read(directory.path()).unwrap_err().starts_with("summary.json ("));
        assert!(problem(SUMMARY, "{").starts_with("summary.json is no JSON"));
        assert_eq!(problem(SUMMARY, "{}"), "summary.json is no report of loadgen");
        assert_eq!(
            problem(SUMMARY, "{\"schema\": 1}"),
            format!("summary.json has schema 1, this loadgen reads {SCHEMA}")
        );
        fs::write(directory.path().join(SUMMARY), format!("{{\"schema\": {SCHEMA}}}")).unwrap();
        assert!(Saved::read(directory.path()).unwrap().curves.is_empty());
        assert_eq!(problem("intervals.csv", "second\nnan,1\n"), "intervals.csv is no table of seconds");
        fs::remove_file(directory.path().join("intervals.csv")).unwrap();
        assert_eq!(problem("send.hgrm", "Value\n\n1.0 inf 3\n"), "send.hgrm is no table of percentiles");
    }

    #[test]
    fn rows_without_latencies_are_read() {
        let row = second("7,100,0.1,0.2,0.3,0.4,90,,,,,0.001").unwrap();
        assert_eq!((row.second, row.sent, row.visible), (7.0, 100.0, 90.0));
        assert_eq!(row.latencies, [Some([0.1, 0.2, 0.4]), None]);
    }
}
