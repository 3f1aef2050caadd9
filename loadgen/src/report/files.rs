//! The directory of `--out`.
//!
//! | file | holds |
//! | --- | --- |
//! | `summary.json` | the report |
//! | `send.hgrm`, `visible.hgrm` | percentiles in milliseconds, in the text form of `HdrHistogram`, for its plotter |
//! | `send.uncorrected.hgrm`, `visible.uncorrected.hgrm` | the same from the actual send time |
//! | `latency.hlog` | one histogram a second and clock, in nanoseconds: interval log V2, tags `send` and `visible` |
//! | `intervals.csv` | the same seconds as a table, latencies in milliseconds |
//! | `report.html` | a page made from the others |
//!
//! Where nothing else is said, latencies are corrected ones.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::saved::Saved;
use super::table::milliseconds;
use super::{Report, html};
use crate::clock::SECOND;
use crate::latency::{Clock, INTERVAL, Interval, Latency};

/// Nanoseconds of the unit that people read.
const MILLISECOND: f64 = 1e6;
/// Rows of a percentile table for each halving of the distance to 100 %, as `HdrHistogram`'s own tools have it.
const TICKS_PER_HALF: u32 = 5;
/// What three significant digits make of the first bucket, says the format's last line.
const SUB_BUCKETS: u64 = 2048;
/// The report as JSON; what has it is a result.
pub const SUMMARY: &str = "summary.json";
/// The page.
pub const PAGE: &str = "report.html";

/// The file with the percentiles of a clock.
#[must_use]
pub fn percentiles_name(clock: Clock, is_corrected: bool) -> String {
    format!("{}{}.hgrm", clock.name(), if is_corrected { "" } else { ".uncorrected" })
}

/// Sees whether a report can be written into a directory, which is made if it is missing.
///
/// # Errors
///
/// When it cannot be made, or no file in it.
pub fn prepare(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let probe = directory.join(format!(".loadgen-{}", std::process::id()));
    fs::write(&probe, "\n")?;
    fs::remove_file(&probe)
}

/// Makes the page of a directory from its other files.
///
/// # Errors
///
/// What is missing or wrong in them, or that the page cannot be written.
pub fn write_page(directory: &Path) -> Result<(), String> {
    let page = html::page(&Saved::read(directory)?);
    fs::write(directory.join(PAGE), page).map_err(|error| format!("{PAGE} ({error})"))
}

impl Report {
    /// Writes all files; the directory is made if it is missing.
    ///
    /// # Errors
    ///
    /// When one of them cannot be written.
    pub fn write_files(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join(SUMMARY), format!("{:#}\n", self.to_json()))?;
        let clocks: &[(Clock, &Latency)] =
            &[(Clock::Send, &self.latencies.send), (Clock::Visible, &self.latencies.visible)];
        for (clock, latency) in clocks.iter().filter(|(_, latency)| latency.entries > 0) {
            for (is_corrected, histogram) in [(true, &latency.corrected), (false, &latency.uncorrected)] {
                fs::write(directory.join(percentiles_name(*clock, is_corrected)), percentile_table(histogram))?;
            }
        }
        fs::write(directory.join("latency.hlog"), self.interval_log()?)?;
        fs::write(directory.join("intervals.csv"), self.interval_table())?;
        write_page(directory).map_err(io::Error::other)
    }

    fn interval_log(&self) -> io::Result<Vec<u8>> {
        let mut log = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let start = self.clock.wall_start();
        let mut builder = IntervalLogWriterBuilder::new();
        builder
            .add_comment("[loadgen: latencies in nanoseconds from the intended send time]")
            .with_start_time(start)
            .with_base_time(start)
            .with_max_value_divisor(MILLISECOND);
        let mut writer = builder.begin_log_with(&mut log, &mut serializer)?;
        for interval in self.latencies.intervals() {
            let from = Duration::from_nanos(interval.ordinal * INTERVAL);
            for (clock, histogram) in [(Clock::Send, &interval.send), (Clock::Visible, &interval.visible)] {
                if !histogram.is_empty() {
                    let tag = Tag::new(clock.name());
                    let written = writer.write_histogram(histogram, from, Duration::from_nanos(INTERVAL), tag);
                    written.map_err(|error| io::Error::other(error.to_string()))?;
                }
            }
        }
        Ok(log)
    }

    fn interval_table(&self) -> String {
        let columns = ["p50", "p99", "p99.9", "max"];
        let names = |clock: &str| columns.map(|column| format!("{clock}_{column}_ms")).join(",");
        let mut table =
            format!("second,entries_sent,{},entries_visible,{},own_delay_p99_ms\n", names("send"), names("visible"));
        for interval in self.latencies.intervals() {
            interval_row(&mut table, &interval);
        }
        table
    }
}

fn interval_row(table: &mut String, interval: &Interval) {
    let second = interval.ordinal * INTERVAL / SECOND;
    let own = milliseconds(interval.own.value_at_quantile(0.99));
    let latencies = |histogram: &Histogram<u64>| {
        let at = |quantile| {
            if histogram.is_empty() { String::new() } else { milliseconds(histogram.value_at_quantile(quantile)) }
        };
        [0.5, 0.99, 0.999, 1.0].map(at).join(",")
    };
    let (send, visible) = (latencies(&interval.send), latencies(&interval.visible));
    writeln!(table, "{second},{},{send},{},{visible},{own}", interval.entries_sent, interval.entries_visible)
        .expect("a String takes any text");
}

/// The percentile distribution as `HdrHistogram`'s `outputPercentileDistribution` prints it, in milliseconds; with six
/// decimals instead of three, because a socket accepts in microseconds.
#[expect(clippy::cast_precision_loss, reason = "the format has decimals")]
fn percentile_table(histogram: &Histogram<u64>) -> String {
    let fits = "a String takes any text";
    let mut table = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to() as f64 / MILLISECOND, step.quantile_iterated_to());
        write!(table, "{value:12.6} {quantile:.12} {total:10}").expect(fits);
        if quantile < 1.0 {
            write!(table, " {:14.2}", 1.0 / (1.0 - quantile)).expect(fits);
        }
        table.push('\n');
    }
    let (mean, deviation) = (histogram.mean() / MILLISECOND, histogram.stdev() / MILLISECOND);
    writeln!(table, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]").expect(fits);
    let (max, count) = (histogram.max() as f64 / MILLISECOND, histogram.len());
    writeln!(table, "#[Max     = {max:12.3}, Total count    = {count:12}]").expect(fits);
    let buckets = histogram.high().div_ceil(SUB_BUCKETS).next_power_of_two().ilog2() + 1;
    writeln!(table, "#[Buckets = {buckets:12}, SubBuckets     = {SUB_BUCKETS:12}]").expect(fits);
    table
}
