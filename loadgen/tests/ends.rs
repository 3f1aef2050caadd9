//! Runs that end early: by a signal, or because the receiver takes nothing any more.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::disallowed_methods, reason = "keeps time")]

mod support;

use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{End, Fault, Receiver, assert_exit};

/// Longer than any of these runs takes once it is to end, and less than it would take otherwise.
const SOON: Duration = Duration::from_secs(30);

fn start(target: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["run", "--json", "--tokens", "7", "--target", target]).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn report(output: &Output) -> (i32, Value) {
    let error = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {error}"));
    (output.status.code().unwrap(), report)
}

/// At full speed, on a schedule, and on one that has nothing due for minutes after the first entry.
#[test]
fn a_signal_ends_a_run_with_its_report() {
    for (flags, signal) in [
        (&["--rate", "max", "--duration", "10m"][..], Signal::INT),
        (&["--rate", "2k", "--duration", "10m"], Signal::TERM),
        (&["--rate", "1k", "--entries", "1M"], Signal::INT),
        (&["--rate", "1", "--connections", "600", "--duration", "20m"], Signal::INT),
    ] {
        let receiver = Receiver::start(Fault::None, End::WithSender);
        let begun = Instant::now();
        let data = receiver.data.path().to_str().unwrap();
        let child = start(&receiver.address.to_string(), &[&["--data", data, "--warmup", "0"], flags].concat());
        while receiver.data.path().read_dir().unwrap().next().is_none() {
            assert!(begun.elapsed() < SOON, "nothing is sent");
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(300));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        let told = "loadgen: stopping: waits until the receiver has what was sent; again to end at once\n";
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let why = said.strip_prefix(told).unwrap_or_else(|| panic!("{flags:?}: {said}"));
        assert!(why.starts_with("loadgen: run: the figures don't count, ") && why.lines().count() == 1, "{why}");
        let (code, mut report) = report(&output);
        assert!(begun.elapsed() < SOON, "{flags:?}");
        let findings = report["findings"].as_array_mut().unwrap();
        let at = findings.iter().position(|finding| finding["name"] == "cut_short").unwrap();
        let text = findings.remove(at);
        assert!(text["fatal"] == true && text["text"].as_str().unwrap().contains("cut short by a signal"), "{text}");
        assert_eq!((code, &report["valid"]), (6, &false.into()), "{flags:?}");
        // But for that, it was a run like others.
        let is_late = report["findings"].as_array().unwrap().iter().any(|finding| finding["fatal"] == true);
        report["valid"] = (!is_late).into();
        assert_exit(if is_late { 6 } else { 0 }, &report, 0);
        let cut_at = report["cut_short_seconds"].as_f64().unwrap();
        assert!(cut_at > 0.2 && cut_at < report["seconds"].as_f64().unwrap(), "{flags:?}: {cut_at}");
        let account = &report["account"];
        assert_eq!((&account["clean"], &account["stored"]), (&true.into(), &report["entries_sent"]), "{account}");
        assert_eq!(report["entries_behind"], 0, "{flags:?}");
    }
}

/// Whoever has no time for the rest asks again.
#[test]
fn a_second_signal_ends_it_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = start(&listener.local_addr().unwrap().to_string(), &["--entries", "10M", "--finish-wait", "10m"]);
    // It has sent what the sockets hold.
    let (stream, _) = listener.accept().unwrap();
    stream.peek(&mut [0]).unwrap();
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(300));
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    }
    let begun = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(begun.elapsed() < SOON && output.status.code().is_none() && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_receiver_that_never_reads_ends_a_number_of_entries_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let flags = ["--entries", "10M", "--connections", "2", "--finish-wait", "500ms"];
    let begun = Instant::now();
    let output = start(&listener.local_addr().unwrap().to_string(), &flags).wait_with_output().unwrap();
    let (code, report) = report(&output);
    assert!(begun.elapsed() < SOON);
    assert_eq!((code, &report["ended"]["timed_out"]), (6, &2.into()), "{report}");
    let [sent, acknowledged] = ["entries_sent", "entries_acknowledged"].map(|name| report[name].as_u64().unwrap());
    assert!(0 < acknowledged && acknowledged < sent && sent < 10_000_000, "{report}");
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["name"] == "unacknowledged").unwrap();
    let expected = format!(
        "the receiver did not take all that was sent: {} entries were never acknowledged, 2 connections timed out after \
         500ms without progress (--finish-wait)",
        sent - acknowledged
    );
    assert_eq!((&found["text"], &found["fatal"]), (&expected.into(), &true.into()));
    // Those that it had not yet sent.
    assert_eq!(report["entries_behind"], 10_000_000 - sent, "{report}");
}
