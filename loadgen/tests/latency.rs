//! What the two clocks show of a receiver that stalls, and that others can read the files they are written to.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{End, Fault, Receiver, assert_exit, skip};

/// Runs against the receiver, with its data directory, and gives the exit code and the report.
fn measure(receiver: &Receiver, arguments: &[&str]) -> (i32, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["run", "--json", "--target", &receiver.address.to_string(), "--data"]);
    let output = command.arg(receiver.data.path()).args(arguments).output().unwrap();
    support::judged(&output)
}

fn milliseconds(report: &Value, clock: &str, from: &str, percentile: &str) -> f64 {
    report["latency_ms"][clock][from][percentile].as_f64().unwrap()
}

/// The receiver stops reading for half a second, twice in eleven, and holds little meanwhile. One write meets the stall, of
/// a batch at most (32 lines here): far less than one entry in a thousand, so the actual send times hide it. All that is
/// due behind it waits as well, nearly a tenth of all entries, which only the intended times know. The bounds are far from
/// what an idle machine shows, so that a busy one keeps them.
#[test]
fn a_stall_shows_from_the_intended_time_and_hides_from_the_actual_one() {
    let receiver = Receiver::start(Fault::None, End::Stalling);
    let arguments = ["--rate", "8k", "--size", "2KiB", "--entries", "88000", "--connections", "1"];
    let (code, report) = measure(&receiver, &arguments);
    assert_exit(code, &report, 0);
    assert_eq!((&report["account"]["clean"], &report["account"]["stored"]), (&true.into(), &88_000.into()), "{report}");
    let at = |clock, from, percentile| milliseconds(&report, clock, from, percentile);
    for clock in ["send", "visible"] {
        assert!(at(clock, "corrected", "p99.9") > 200.0, "{clock}: {report}");
    }
    let hidden = at("send", "uncorrected", "p99.9");
    assert!(hidden < 150.0 && hidden * 3.0 < at("send", "corrected", "p99.9"), "{report}");
    // It is there all the same.
    assert!(at("send", "uncorrected", "max") > 200.0, "{report}");
}

#[test]
fn a_bound_that_is_exceeded_fails_the_run() {
    let receiver = Receiver::start(Fault::None, End::WithSender);
    let run = |bound, expected| {
        let (code, report) = measure(&receiver, &["--rate", "1k", "--entries", "500", "--fail-if", bound]);
        let verdict = &report["fail_if"][0];
        assert_eq!(verdict["bound"], bound);
        assert!(verdict["value_ms"].as_f64().unwrap() > 0.0);
        assert_exit(code, &report, expected);
        (verdict["clock"].clone(), verdict["failed"].clone())
    };
    assert_eq!(run("p50>1ns", 1), ("visible".into(), true.into()));
    assert_eq!(run("send.max>1000.5s", 0), ("send".into(), false.into()));
}

#[test]
fn every_log_is_followed_however_many_are_sampled() {
    for (sample, threads) in [("1", "1"), ("4", "3")] {
        let receiver = Receiver::start(Fault::None, End::WithSender);
        let arguments = ["--rate", "4k", "--entries", "4000", "--tokens", "8"];
        let (code, report) =
            measure(&receiver, &[&arguments[..], &["--follow-sample", sample, "--threads", threads]].concat());
        assert_exit(code, &report, 0);
        assert_eq!((&report["account"]["stored"], &report["account"]["clean"]), (&4000.into(), &true.into()));
        let seen = report["latency_ms"]["visible"]["corrected"]["count"].as_u64().unwrap();
        assert_eq!(seen * sample.parse::<u64>().unwrap(), 4000, "{report}");
    }
}

/// One file a token, with whole lines, as receivers write them that know nothing of tokens.
#[test]
fn files_of_other_receivers_are_followed() {
    let receiver = Receiver::start(Fault::None, End::WholeLines);
    let pattern = format!("{}/{{token}}/00000000000000000000.log", receiver.data.path().display());
    let target = receiver.address.to_string();
    for position in ["start", "mixed"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
        command.args(["run", "--json", "--target", &target, "--files", &pattern, "--rate", "2k", "--entries", "2000"]);
        let output = command.args(["--position", position, "--skew", "zipf:1.1"]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_exit(output.status.code().unwrap(), &report, 0);
        assert_eq!(
            (&report["account"]["stored"], &report["account"]["clean"]),
            (&2000.into(), &true.into()),
            "{report}"
        );
        assert_eq!(report["latency_ms"]["visible"]["corrected"]["count"], 2000, "{report}");
    }
}

/// Where they store a line in the file of another token, it is there, and in the wrong place.
#[test]
fn a_whole_line_in_a_wrong_file_is_not_lost() {
    let receiver = Receiver::start(Fault::Misfile, End::WholeLines);
    let pattern = format!("{}/{{token}}/00000000000000000000.log", receiver.data.path().display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["run", "--json", "--target", &receiver.address.to_string(), "--files", &pattern, "--tokens", "7"]);
    let output = command.args(["--entries", "2000", "--connections", "1"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let counts = ["stored", "wrong_log", "lost", "damaged", "unknown_lines"].map(|name| &report["account"][name]);
    assert_eq!(counts, [2000, 1, 0, 0, 0].map(Value::from).each_ref(), "{report}");
    assert_eq!(output.status.code(), Some(5), "{report}");
}

/// The Python implementation sums up the interval log, and must come to the same table.
#[test]
fn histograms_are_read_back_by_another_implementation() {
    if !python_has_hdrh() {
        return skip("python3 with the package hdrhistogram is missing");
    }
    let receiver = Receiver::start(Fault::None, End::WithSender);
    let out = tempfile::tempdir().unwrap();
    let directory = out.path().to_str().unwrap();
    let arguments =
        ["--rate", "5k", "--arrival", "poisson", "--warmup", "200ms", "--duration", "2500ms", "--out", directory];
    let (code, report) = measure(&receiver, &arguments);
    assert_exit(code, &report, 0);
    let read = read_back(out.path());
    for clock in ["send", "visible"] {
        let (theirs, ours) = (&read[clock], &report["latency_ms"][clock]["corrected"]);
        assert_eq!(theirs["count"], ours["count"], "{read}");
        assert!(theirs["intervals"].as_u64().unwrap() >= 3, "{read}");
        assert!(theirs["rows"].as_u64().unwrap() > 20, "{read}");
        assert_eq!(theirs["wrong_rows"].as_array().unwrap().len(), 0, "{read}");
        for percentile in ["p50", "p99", "p99.9", "max"] {
            let around = [0, 1].map(|side| theirs[percentile][side].as_f64().unwrap());
            let ours = ours[percentile].as_f64().unwrap();
            assert!(around[0] <= ours && ours <= around[1], "{clock} {percentile}: {around:?} and {ours}");
        }
    }
    let summary: Value = serde_json::from_slice(&std::fs::read(out.path().join("summary.json")).unwrap()).unwrap();
    assert_eq!((&summary["schema"], &summary["run"]), (&3.into(), &report["run"]));
    let table = std::fs::read_to_string(out.path().join("intervals.csv")).unwrap();
    let sent = table.lines().skip(1).map(|row| row.split(',').nth(1).unwrap().parse::<u64>().unwrap()).sum::<u64>();
    assert_eq!(sent, report["entries_sent"].as_u64().unwrap());
}

fn python_has_hdrh() -> bool {
    let probe = Command::new("python3").args(["-c", "import hdrh.log"]).stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

fn read_back(directory: &Path) -> Value {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/read_back.py");
    let output = Command::new("python3").arg(program).arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
