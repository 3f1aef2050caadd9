//! Two sets of repeats side by side, measure by measure, with a verdict that knows their spread.
//!
//! | module | for |
//! | --- | --- |
//! | this one | which runs a set has, what is compared, the verdict |
//! | [`spread`] | whether a difference is more than the runs' own spread |
//! | [`render`] | the comparison as text, JSON and a page |

pub mod render;
pub mod spread;

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Exit;
use crate::report::files::SUMMARY;
use crate::report::saved;

/// Smaller changes are none, whatever their spread.
pub const THRESHOLD: f64 = 0.02;

/// What is compared: `loadgen compare A B`.
#[derive(Clone, Debug)]
pub struct Asked {
    /// A result, or a directory of several.
    pub a: PathBuf,
    /// The same.
    pub b: PathBuf,
    /// The part by which B may be worse.
    pub threshold: f64,
    /// Print JSON.
    pub json: bool,
    /// Write a page.
    pub html: Option<PathBuf>,
}

/// Repeats of one measurement.
#[derive(Debug)]
pub struct Set {
    /// Where they are.
    pub path: PathBuf,
    /// The reports of those that count.
    pub runs: Vec<Value>,
    /// Those that do not, and why.
    pub left_out: Vec<String>,
    /// Runs whose account is not clean although their protocol promises it.
    pub unclean: usize,
}

/// One figure of a run.
#[derive(Clone, Copy, Debug)]
struct Measure {
    name: &'static str,
    /// Where in a report it is.
    path: &'static [&'static str],
    /// More is better: entries per second; else less is: milliseconds.
    is_rate: bool,
}

const MEASURES: [Measure; 8] = [
    Measure { name: "entries per CPU-second", path: &["entries_per_cpu_second"], is_rate: true },
    Measure { name: "entries per second", path: &["entries_per_second"], is_rate: true },
    Measure { name: "send p50", path: &["latency_ms", "send", "corrected", "p50"], is_rate: false },
    Measure { name: "send p99", path: &["latency_ms", "send", "corrected", "p99"], is_rate: false },
    Measure { name: "send p99.9", path: &["latency_ms", "send", "corrected", "p99.9"], is_rate: false },
    Measure { name: "visible p50", path: &["latency_ms", "visible", "corrected", "p50"], is_rate: false },
    Measure { name: "visible p99", path: &["latency_ms", "visible", "corrected", "p99"], is_rate: false },
    Measure { name: "visible p99.9", path: &["latency_ms", "visible", "corrected", "p99.9"], is_rate: false },
];

/// What a measure says about B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By more than the threshold, and more than the spread explains.
    Better,
    /// The other way round.
    Worse,
    /// The medians differ by less than the threshold.
    Same,
    /// They differ by more, as runs of one set do.
    Unclear,
}

impl Verdict {
    /// Its word in all forms of the comparison.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Same => "same",
            Self::Unclear => "within the spread",
        }
    }
}

/// One measure of both sets.
#[derive(Debug)]
pub struct Row {
    /// What it is.
    pub name: &'static str,
    /// More is better.
    pub is_rate: bool,
    /// Of all runs that count, in order.
    pub a: Vec<f64>,
    /// The same.
    pub b: Vec<f64>,
    /// By which part of A's figure B's is more: of the medians, or of runs in turns.
    pub change: f64,
    /// How likely such a difference would be among equals, whichever measure has it; `None` if there are too few runs.
    pub p: Option<f64>,
    /// What follows.
    pub verdict: Verdict,
}

/// The outcome.
#[derive(Debug)]
pub struct Comparison {
    /// First set.
    pub a: Set,
    /// Second set.
    pub b: Set,
    /// The part by which B may be worse.
    pub threshold: f64,
    /// All measures that both sets have.
    pub rows: Vec<Row>,
    /// What a reader has to know.
    pub notes: Vec<String>,
}

impl Comparison {
    /// Compares two sets.
    #[must_use]
    pub fn new(a: Set, b: Set, threshold: f64) -> Self {
        let rows = rows(&a.runs, &b.runs, threshold);
        let mut notes = Vec::new();
        for set in [&a, &b] {
            notes.extend(set.left_out.iter().cloned());
            if set.unclean > 0 {
                notes.push(format!("{}: the account of {} runs is not clean", set.path.display(), set.unclean));
            }
        }
        if rows.iter().any(|row| row.p.is_none()) {
            let wanted =
                if in_turns(&a.runs, &b.runs) { "6 or more of each, as they took turns" } else { "4 or more of each" };
            let (a, b) = (a.runs.len(), b.runs.len());
            notes.push(format!(
                "{a} and {b} runs are too few to know their spread: a measure is called different when all of one set \
                 is beyond all of the other; give {wanted}"
            ));
        }
        notes.extend(differing_arguments(&a.runs, &b.runs));
        Self { a, b, threshold, rows, notes }
    }

    /// In one word what B is.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let has = |verdict| self.rows.iter().any(|row| row.verdict == verdict);
        [Verdict::Worse, Verdict::Better].into_iter().find(|verdict| has(*verdict)).unwrap_or(Verdict::Same)
    }

    /// The exit code: B's account first, then whether there was anything to compare, then the verdict.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self.verdict() {
            _ if self.b.unclean > 0 => Exit::Account,
            _ if self.rows.is_empty() => Exit::Invalid,
            Verdict::Worse => Exit::Failed,
            _ => Exit::Done,
        }
    }

    /// Why the exit code is what it is, in one line: subject, what is wrong, what to do.
    #[must_use]
    pub fn why(&self) -> String {
        let b = self.b.path.display();
        match self.exit() {
            Exit::Account => format!("{b}: {} of its accounts are not clean; see their reports", self.b.unclean),
            Exit::Invalid => format!("{b}: nothing to compare; give two sets with runs that count"),
            Exit::Failed => format!("{b}: worse by more than --threshold; see the comparison"),
            _ => format!("{b}: no worse"),
        }
    }
}

impl Set {
    /// Reads a result, or all results right beneath a directory.
    ///
    /// # Errors
    ///
    /// When there are none, or one cannot be read.
    pub fn read(path: &Path) -> Result<Self, String> {
        let mut set = Self { path: path.to_owned(), runs: Vec::new(), left_out: Vec::new(), unclean: 0 };
        for directory in results_in(path)? {
            let summary =
                saved::summary(&directory).map_err(|problem| format!("{}: {problem}", directory.display()))?;
            set.add(&directory, summary);
        }
        Ok(set)
    }

    fn add(&mut self, directory: &Path, summary: Value) {
        if summary["account"]["clean"] == false && summary["arguments"]["proto"] != "udp" {
            self.unclean += 1;
        }
        if summary["valid"] == true {
            return self.runs.push(summary);
        }
        let findings = summary["findings"].as_array().into_iter().flatten();
        let mut fatal = findings.filter(|finding| finding["fatal"] == true);
        let why = fatal.next().and_then(|finding| finding["text"].as_str()).unwrap_or("it says not why");
        self.left_out.push(format!("{}: left out, it does not count: {why}", directory.display()));
    }
}

/// The directory itself, or those in it that hold a result, by name.
fn results_in(path: &Path) -> Result<Vec<PathBuf>, String> {
    let is_result = |directory: &Path| directory.join(SUMMARY).is_file();
    if is_result(path) {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(|error| format!("cannot be read ({error})"))?;
    let mut results: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| is_result(path)).collect();
    results.sort();
    if results.is_empty() { Err(format!("neither {SUMMARY} nor directories with one")) } else { Ok(results) }
}

impl Measure {
    /// The figure, if this run has it and it means something.
    fn of(&self, summary: &Value) -> Option<f64> {
        let is_max = summary["arguments"]["rate"] == "max";
        // A schedule sets the one, and full sockets the others.
        let means_something = match self.path[0] {
            "entries_per_second" => is_max,
            "latency_ms" => !is_max,
            _ => true,
        };
        let value = self.path.iter().fold(summary, |value, key| &value[*key]).as_f64();
        value.filter(|value| means_something && *value > 0.0)
    }
}

fn rows(a: &[Value], b: &[Value], threshold: f64) -> Vec<Row> {
    if a.is_empty() || b.is_empty() {
        return Vec::new();
    }
    let values = |measure: &Measure, runs: &[Value]| runs.iter().map(|run| measure.of(run)).collect::<Option<Vec<_>>>();
    let measured = MEASURES.iter().filter_map(|measure| Some((measure, values(measure, a)?, values(measure, b)?)));
    let measured: Vec<_> = measured.collect();
    let logarithms = |runs: usize, of: &dyn Fn(usize, usize) -> f64| {
        (0..runs).map(|run| (0..measured.len()).map(|measure| of(measure, run).ln()).collect()).collect::<Vec<_>>()
    };
    let logarithms_a = logarithms(a.len(), &|measure, run| measured[measure].1[run]);
    let logarithms_b = logarithms(b.len(), &|measure, run| measured[measure].2[run]);
    let in_turns = in_turns(a, b);
    let p_values = spread::p_values(&logarithms_a, &logarithms_b, in_turns);
    let row = |(at, (measure, a, b)): (usize, (&Measure, Vec<f64>, Vec<f64>))| {
        let logarithms = |values: &[f64]| values.iter().map(|value| value.ln()).collect::<Vec<_>>();
        let change = spread::shift(&logarithms(&a), &logarithms(&b), in_turns).exp_m1();
        let p = p_values.as_ref().map(|p_values| p_values[at]);
        let differs = p.map_or_else(|| is_apart(&a, &b), |p| p <= spread::ALPHA);
        let verdict = match (change.abs() > threshold, differs) {
            (false, _) => Verdict::Same,
            (true, false) => Verdict::Unclear,
            (true, true) if (change > 0.0) == measure.is_rate => Verdict::Better,
            (true, true) => Verdict::Worse,
        };
        Row { name: measure.name, is_rate: measure.is_rate, a, b, change, p, verdict }
    };
    measured.iter().map(|(measure, a, b)| (*measure, a.clone(), b.clone())).enumerate().map(row).collect()
}

/// The runs were made by turns: in each one of A and one of B, one after the other or both at once.
fn in_turns(a: &[Value], b: &[Value]) -> bool {
    let started = |run: &Value| run["started"].as_f64();
    let turn = |(a, b): (&Value, &Value)| Some((started(a)?.min(started(b)?), started(a)?.max(started(b)?)));
    let turns: Option<Vec<_>> = a.iter().zip(b).map(turn).collect();
    a.len() == b.len() && turns.is_some_and(|turns| turns.is_sorted_by(|(_, last), (first, _)| last < first))
}

/// All of one set lie beyond all of the other.
fn is_apart(a: &[f64], b: &[f64]) -> bool {
    let (a, b) = (bounds(a), bounds(b));
    a.1 < b.0 || b.1 < a.0
}

/// The least and the most.
pub(crate) fn bounds(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(*value), most.max(*value)))
}

/// The value in the middle, of values that are numbers.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(|one, other| one.partial_cmp(other).unwrap_or(Ordering::Equal));
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2])
}

/// Arguments that are to be alike and are not: then it is not only the receiver that differs.
fn differing_arguments(a: &[Value], b: &[Value]) -> Option<String> {
    const OWN: [&str; 4] = ["target", "data", "files", "seed"];
    let first = a.first()?["arguments"].as_object()?;
    let is_other = |name: &str, value: &Value| a.iter().chain(b).any(|run| run["arguments"][name] != *value);
    let names = first.iter().filter(|(name, value)| !OWN.contains(&name.as_str()) && is_other(name, value));
    let names: Vec<_> = names.map(|(name, _)| name.replace('_', "-")).collect();
    (!names.is_empty()).then(|| format!("not all runs had the same arguments: {} differ", names.join(", ")))
}

#[cfg(test)]
mod tests;
