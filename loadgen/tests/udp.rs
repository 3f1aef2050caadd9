//! The account over UDP, which promises nothing: what a receiver did is reported, and no fault.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::UdpSocket;
use std::process::{Command, Output};

use serde_json::Value;
use support::{Fault, Receiver, assert_exit};

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(["run", "--proto", "udp"]).args(arguments).output().unwrap()
}

/// Runs against a receiver at a pace that its socket's buffer bears, and gives what the account says: the faults, what
/// the kernel lost on the way not among them, and what was sent.
fn account(fault: Fault, arguments: &[&str]) -> ([u64; 5], u64) {
    let receiver = Receiver::start_udp(fault);
    let (target, data) = (receiver.address.to_string(), receiver.data.path().to_str().unwrap());
    let common = [
        "--target",
        &target,
        "--data",
        data,
        "--json",
        "--tokens",
        "7",
        "--rate",
        "4k",
        "--warmup",
        "0",
        "--finish-wait",
        "2s",
    ];
    let output = loadgen(&[&common, arguments].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {error}"));
    assert_exit(output.status.code().unwrap(), &report, 0);
    assert_eq!(report["ended"]["finished"], report["arguments"]["connections"]);
    assert_eq!((&report["entries_acknowledged"], &report["account"]["acknowledged"]), (&Value::Null, &Value::Null));
    let total = &report["account"];
    let names = ["lost", "duplicated", "reordered", "damaged", "wrong_log"];
    let mut faults = names.map(|name| total[name].as_u64().unwrap());
    let (sent, stored) = (total["sent"].as_u64().unwrap(), total["stored"].as_u64().unwrap());
    assert_eq!((sent, sent), (stored + faults[0], report["entries_sent"].as_u64().unwrap()), "{report}");
    assert_eq!(total["clean"], faults == [0; 5], "{report}");
    faults[0] -= sent - receiver.datagrams();
    (faults, sent)
}

#[test]
fn every_line_is_a_datagram() {
    // One size, which the kernel cuts; many sizes; lines that only fit one by one.
    for (size, entries) in [("256", 6000), ("64..900", 3000), ("40000", 200)] {
        let flags = ["--size", size, "--entries", &entries.to_string(), "--connections", "3", "--position", "mixed"];
        assert_eq!(account(Fault::None, &flags), ([0; 5], entries), "{size}");
    }
}

#[test]
fn what_a_receiver_did_is_counted_exactly() {
    let faults = [
        (Fault::DropEvery(10), [600, 0, 0, 0, 0]),
        (Fault::Double, [0, 1, 0, 0, 0]),
        (Fault::Swap, [0, 0, 1, 0, 0]),
        (Fault::Garble, [1, 0, 0, 1, 0]),
        (Fault::Misfile, [0, 0, 0, 0, 1]),
    ];
    for (fault, expected) in faults {
        let (faults, sent) = account(fault, &["--entries", "6000", "--connections", "1"]);
        assert_eq!((faults, sent), (expected, 6000), "{fault:?}");
    }
}

#[test]
fn a_receiver_that_stores_nothing_is_noticed() {
    let receiver = Receiver::start_udp(Fault::DropEvery(1));
    let (target, data) = (receiver.address.to_string(), receiver.data.path().to_str().unwrap());
    let flags = ["--rate", "1k", "--entries", "100", "--connections", "1", "--finish-wait", "1s"];
    let output = loadgen(&[&["--target", &target, "--data", data], &flags[..]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let note = "note          nothing of this run is in --data: is it this receiver's, and may datagrams make logs (--udp-creates)?";
    assert!(text.contains(note), "{text}");
}

#[test]
fn nobody_there_is_exit_3_unless_one_waits_for_somebody() {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let refused = loadgen(&["--target", &free, "--entries", "1M"]);
    let sentence = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), sentence.lines().count()), (Some(3), 1), "{sentence}");
    assert!(sentence.starts_with("loadgen: --target: 127.0.0.1:"), "{sentence}");
    assert!(sentence.contains("takes no datagrams; start the receiver first (Connection refused"), "{sentence}");
    let patient = loadgen(&["--target", &free, "--entries", "10000", "--reconnect", "--json"]);
    let report: Value = serde_json::from_slice(&patient.stdout).unwrap();
    assert_eq!((patient.status.code(), &report["entries_sent"]), (Some(0), &10_000.into()), "{report}");
}
