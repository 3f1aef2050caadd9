//! The pair under `--reconnect`: the real engine, killed while connections push, and started again on the same port.
//!
//! Whatever was under way at that moment is named by the account, entry by entry: what it says is lost or in flight must
//! be what the files do not hold, by a reading of the files that shares nothing with the account.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use loadgen::payload::{Parsed, parse};
use serde_json::Value;
use support::engine::Engine;

const CONNECTIONS: usize = 4;

/// Connection and sequence of every entry of the run that stands in a segment file.
fn stored(data: &Path, run: &str) -> HashSet<(u64, u64)> {
    let run = u16::from_str_radix(run, 16).unwrap();
    let mut stored = HashSet::new();
    for log in std::fs::read_dir(data).unwrap().map(Result::unwrap).filter(|entry| entry.file_name().len() == 36) {
        for file in std::fs::read_dir(log.path()).unwrap().map(Result::unwrap) {
            if file.path().extension().is_some_and(|extension| extension == "log") {
                let content = std::fs::read(file.path()).unwrap();
                stored.extend(content.split(|byte| *byte == b'\n').filter_map(|entry| match parse(entry) {
                    Parsed::Intact { run: of, connection, sequence, .. } if of == run => {
                        Some((connection.into(), sequence.into()))
                    }
                    _ => None,
                }));
            }
        }
    }
    stored
}

fn ranges<'a>(list: &'a Value, range: impl Fn(&'a Value) -> &'a Value) -> HashSet<(u64, u64)> {
    let sequences = |row: &'a Value| {
        let (connection, range) = (row["connection"].as_u64().unwrap(), range(row));
        let (first, end) = (range["first"].as_u64().unwrap(), range["end"].as_u64().unwrap());
        (first..end).map(move |sequence| (connection, sequence))
    };
    list.as_array().unwrap().iter().flat_map(sequences).collect()
}

#[test]
fn a_kill_leaves_exactly_what_the_account_names() {
    let data = tempfile::tempdir().unwrap();
    let engine = Engine::start(data.path(), "127.0.0.1:0");
    let address = engine.address.to_string();
    let loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args([
            "run",
            "--json",
            "--reconnect",
            "--rate",
            "max",
            "--duration",
            "4s",
            "--size",
            "1KiB",
            "--finish-wait",
            "3s",
        ])
        .args(["--connections", &CONNECTIONS.to_string(), "--target", &address, "--data"])
        .arg(data.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    drop(engine);
    let engine = Engine::start(data.path(), &address);
    let output = loadgen.wait_with_output().unwrap();
    engine.terminate();
    engine.wait();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    judge(&report, &stored(data.path(), report["run"].as_str().unwrap()));
    let lost = report["account"]["lost"].as_u64().unwrap();
    assert_eq!(output.status.code(), Some(if lost > 0 { 5 } else { 0 }));
}

fn judge(report: &Value, stored: &HashSet<(u64, u64)>) {
    let account = &report["account"];
    let count = |name: &str| account[name].as_u64().unwrap();
    let summary = format!("{account:#}");
    for row in report["connections"].as_array().unwrap() {
        assert!(row["sockets"].as_u64().unwrap() >= 2, "{row}");
    }
    assert!(account["cuts"].as_array().unwrap().len() >= CONNECTIONS, "{summary}");
    // Before the kill and after it.
    assert!(count("stored") > 1000);
    assert_eq!(count("stored"), stored.len() as u64, "{summary}");
    assert_eq!(count("sent"), count("stored") + count("lost") + count("in_flight") - count("beyond"));
    // A killed receiver loses the end of what it had, and nothing from the middle.
    assert_eq!(count("lost_at_cut"), count("lost"), "{summary}");
    assert_eq!([count("duplicated"), count("reordered"), count("damaged"), count("wrong_log")], [0; 4], "{summary}");
    let sent = report["connections"].as_array().unwrap().iter().flat_map(|row| {
        let connection = row["connection"].as_u64().unwrap();
        (0..row["entries_sent"].as_u64().unwrap()).map(move |sequence| (connection, sequence))
    });
    let sent = sent.collect::<HashSet<_>>();
    let lost = ranges(&account["lost_ranges"], |row| row);
    let in_flight = ranges(&account["cuts"], |cut| &cut["in_flight"]);
    assert_eq!(account["lost_unnamed"], 0);
    assert_eq!((lost.len() as u64, in_flight.len() as u64), (count("lost"), count("in_flight")));
    let missing: HashSet<_> = sent.difference(stored).copied().collect();
    let named: HashSet<_> = lost.union(&in_flight).copied().filter(|entry| !stored.contains(entry)).collect();
    assert_eq!(named, missing);
    assert!(lost.is_disjoint(stored));
    for cut in account["cuts"].as_array().unwrap() {
        let one = Value::from(vec![cut.clone()]);
        let in_flight = ranges(&one, |cut| &cut["in_flight"]);
        assert_eq!(cut["in_flight_stored"], in_flight.intersection(stored).count(), "{cut}");
    }
}
