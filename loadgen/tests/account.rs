//! The account of the binary, proven with receivers whose faults are known.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use loadgen::Exit;
use loadgen::plan::{Plan, Rate, Stop};
use loadgen::sender::Ending;
use loadgen::tokens::{Tokens, tokens_of_seed};
use serde_json::Value;
use support::{End, Fault, LATE, Receiver, assert_exit};

const ENTRIES: &str = "20000";
/// So many that one of them is one in a million.
const MILLION: &str = "1000000";

fn loadgen(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("run").args(arguments).output().unwrap()
}

/// Runs against a receiver and gives the exit code and the JSON report.
fn account(receiver: &Receiver, arguments: &[&str]) -> (i32, Value) {
    let target = receiver.address.to_string();
    let data = receiver.data.path().to_str().unwrap();
    let common = ["--target", &target, "--data", data, "--json", "--tokens", "7"];
    // No longer than it takes this receiver to store, unless a test says otherwise.
    let wait: &[&str] = if arguments.contains(&"--finish-wait") { &[] } else { &["--finish-wait", "2s"] };
    let output = loadgen(&[&common, wait, arguments].concat());
    support::judged(&output)
}

/// The five counters that must be zero, and what is stored.
fn counters(report: &Value) -> ([u64; 5], u64) {
    let names = ["lost", "duplicated", "reordered", "damaged", "wrong_log"];
    let total = &report["account"];
    let summed = |name: &str| {
        let rows = report["connections"].as_array().unwrap();
        rows.iter().map(|row| row["account"][name].as_u64().unwrap()).sum::<u64>()
    };
    for name in names.iter().chain(&["stored", "beyond"]) {
        assert_eq!(total[name].as_u64().unwrap(), summed(name), "the rows add up to the total of {name}");
    }
    (names.map(|name| total[name].as_u64().unwrap()), total["stored"].as_u64().unwrap())
}

#[test]
fn all_stored_is_clean() {
    for size in ["64", "65", "256", "1000", "100KB"] {
        for position in ["start", "middle", "end", "mixed"] {
            let receiver = Receiver::start(Fault::None, End::WithSender);
            let entries = if size == "100KB" { "100" } else { ENTRIES };
            let arguments = ["--entries", entries, "--size", size, "--position", position, "--connections", "3"];
            let (code, report) = account(&receiver, &arguments);
            assert_eq!(code, 0, "{size} {position}: {report}");
            assert_eq!(counters(&report), ([0; 5], entries.parse().unwrap()));
            assert_eq!(report["ended"]["finished"], 3);
            assert_eq!(report["account"]["unknown_lines"], 0);
        }
    }
}

#[test]
fn one_fault_in_a_million_is_found_and_named() {
    let stored = MILLION.parse::<u64>().unwrap();
    let faults = [
        (Fault::Drop, [1, 0, 0, 0, 0], stored - 1),
        (Fault::Double, [0, 1, 0, 0, 0], stored),
        (Fault::Swap, [0, 0, 1, 0, 0], stored),
        (Fault::Garble, [1, 0, 0, 1, 0], stored - 1),
        (Fault::Misfile, [0, 0, 0, 0, 1], stored),
        (Fault::Stray, [0, 0, 0, 0, 1], stored),
    ];
    for (fault, expected, stored) in faults {
        let receiver = Receiver::start(fault, End::WithSender);
        let (code, report) = account(&receiver, &["--entries", MILLION, "--connections", "3"]);
        assert_eq!(code, 5, "{fault:?}");
        assert_eq!(counters(&report), (expected, stored), "{fault:?}");
    }
}

#[test]
fn a_torn_log_is_damage_and_loss() {
    let receiver = Receiver::start(Fault::Tear, End::WithSender);
    let (code, report) = account(&receiver, &["--entries", ENTRIES, "--connections", "1"]);
    assert_eq!((code, counters(&report)), (5, ([20_000 - 999, 0, 0, 1, 0], 999)));
}

#[test]
fn a_second_run_into_the_same_logs_judges_its_own_entries() {
    let receiver = Receiver::start(Fault::None, End::WithSender);
    for _ in 0..2 {
        let (code, report) = account(&receiver, &["--entries", ENTRIES]);
        assert_eq!((code, counters(&report)), (0, ([0; 5], 20_000)), "{report}");
        // What was there before was not even read.
        assert_eq!(report["account"]["other_runs"], 0);
    }
}

#[test]
fn an_exact_cut_in_mid_run_is_reported_and_clean() {
    let receiver = Receiver::start(Fault::None, End::CutAfter(3_000_000));
    let (code, report) = account(&receiver, &["--duration", "60s", "--connections", "4"]);
    // No fault of the receiver's, but its figures are not those of the whole load.
    let is_whole = report["account"]["in_flight"] == 0;
    assert_eq!((code, &report["valid"]), (if is_whole { 0 } else { 6 }, &is_whole.into()), "{report}");
    assert_eq!((&report["account"]["clean"], &report["account"]["lost"]), (&true.into(), &0.into()), "{report}");
    assert_eq!(report["ended"]["by_receiver"], 4);
    let ([..], stored) = counters(&report);
    assert_eq!(report["entries_acknowledged"], stored);
    assert_eq!(report["account"]["beyond"], 0);
    assert!(report["seconds"].as_f64().unwrap() < 30.0);
}

#[test]
fn a_careless_close_loses_what_tcp_had_acknowledged() {
    let receiver = Receiver::start(Fault::None, End::CloseAfter(3_000_000));
    let (code, report) = account(&receiver, &["--duration", "60s", "--connections", "4"]);
    assert_eq!(report["ended"]["by_receiver"], 4);
    let ([lost, others @ ..], stored) = counters(&report);
    assert!(lost > 0, "{report}");
    assert_eq!((code, others), (5, [0; 4]));
    assert_eq!(report["entries_acknowledged"], lost + stored);
}

/// A receiver may collect what it stores.
#[test]
fn what_is_stored_late_is_not_lost() {
    for (wait, code, lost) in [("30s", 0, 0), ("1s", 5, 20_000)] {
        let receiver = Receiver::start(Fault::None, End::Collecting);
        let (exit, report) = account(&receiver, &["--entries", ENTRIES, "--finish-wait", wait]);
        assert_eq!((exit, &report["account"]["lost"]), (code, &lost.into()), "{report}");
    }
}

/// Neither the warm-up nor the wait for the receiver's close is a part of it.
#[test]
fn throughput_is_that_of_the_measured_window() {
    let receiver = Receiver::start(Fault::None, End::Late);
    let late = LATE.as_secs_f64();
    for (arguments, from, least) in [
        (&["--warmup", "500ms", "--duration", "1s"][..], 0.5, 1.5),
        (&["--entries", ENTRIES], 0.0, 0.0),
        (&["--rate", "20k", "--entries", ENTRIES, "--warmup", "400ms"], 0.4, 1.0),
    ] {
        let (_, report) = account(&receiver, &[&["--finish-wait", "30s"], arguments].concat());
        let number = |value: &Value| value.as_f64().unwrap();
        let [begin, end, entries, bytes] =
            ["from_seconds", "until_seconds", "entries", "bytes"].map(|name| number(&report["measured"][name]));
        assert!(
            (begin - from).abs() < 1e-9 && end >= least && end <= number(&report["seconds"]) - late + 1.0,
            "{report}"
        );
        let [sent, rate, megabytes] =
            ["entries_sent", "entries_per_second", "megabytes_per_second"].map(|name| number(&report[name]));
        assert!((rate * (end - begin) - entries).abs() < 0.01, "{report}");
        assert!((megabytes * 1e6 * (end - begin) - bytes).abs() < 0.01, "{report}");
        let measured = number(&report["latency_ms"]["send"]["corrected"]["count"]);
        assert!((entries, bytes) == (measured, measured * 256.0), "{report}");
        assert_eq!(entries < sent, from > 0.0, "{report}");
    }
}

#[test]
fn a_half_close_by_the_receiver_ends_nothing() {
    let receiver = Receiver::start(Fault::None, End::HalfClosed);
    let (code, report) = account(&receiver, &["--entries", ENTRIES]);
    assert_eq!((code, counters(&report)), (0, ([0; 5], 20_000)));
    assert_eq!(report["ended"]["finished"], 8);
}

#[test]
fn a_receiver_that_never_reads_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plan = Plan {
        stop: Stop::After(Duration::from_millis(100)),
        connections: 2,
        finish_wait: Duration::from_millis(200),
        ..Plan::new(listener.local_addr().unwrap(), Tokens::in_turn(tokens_of_seed(0, 1)))
    };
    let outcome = loadgen::sender::run(&plan).unwrap();
    assert!(outcome.elapsed < Duration::from_secs(20), "{outcome:?}");
    assert!(outcome.waited.unwrap() > 0.5, "{outcome:?}");
    for connection in outcome.connections {
        assert_eq!(connection.ending, Ending::TimedOut);
        assert!(0 < connection.bytes_acknowledged && connection.bytes_acknowledged < connection.bytes_sent);
    }
}

/// Its kernel takes the few entries at once, so latencies are excellent, and nothing was received.
#[test]
fn a_receiver_that_never_reads_makes_the_run_invalid() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let plan = Plan {
        rate: Rate::PerSecond(1000),
        stop: Stop::After(Duration::from_millis(100)),
        connections: 2,
        finish_wait: Duration::from_millis(200),
        ..Plan::new(listener.local_addr().unwrap(), Tokens::in_turn(tokens_of_seed(0, 1)))
    };
    let report = loadgen::run(plan, Arc::default()).unwrap();
    assert_eq!(report.exit(), Exit::Invalid);
    assert!(report.to_string().contains("\nINVALID       the receiver did not take all that was sent: "), "{report}");
    let json = report.to_json();
    let findings = json["findings"].as_array().unwrap();
    let of_it = findings.iter().find(|finding| finding["name"] == "unacknowledged").unwrap();
    assert_eq!(
        (&json["valid"], &of_it["fatal"], &json["ended"]["timed_out"]),
        (&false.into(), &true.into(), &2.into())
    );
}

/// What would have been due after its end was never sent, and its throughput is that of the whole schedule.
#[test]
fn a_receiver_that_ends_a_schedule_early_makes_the_run_invalid() {
    let receiver = Receiver::start(Fault::None, End::CutAfter(50_000));
    let arguments = ["--rate", "10k", "--warmup", "0", "--duration", "3s", "--connections", "2"];
    let (code, report) = account(&receiver, &arguments);
    assert_eq!(code, 6, "{report}");
    let findings = report["findings"].as_array().unwrap();
    let of_it = findings.iter().find(|finding| finding["name"] == "receiver_behind");
    let text = of_it.expect("a finding").get("text").unwrap().as_str().unwrap();
    assert!(text.contains(" entries that were due were never sent: "), "{text}");
    assert!(report["seconds"].as_f64().unwrap() < 2.0, "{report}");
    let [rate, taken] = ["entries_per_second", "entries_acknowledged"].map(|name| report[name].as_f64().unwrap());
    assert!(taken > 0.0 && (rate - taken / 3.0).abs() < 1.0, "{report}");
}

#[test]
fn a_fixed_rate_is_kept() {
    let receiver = Receiver::start(Fault::None, End::WithSender);
    // Threads that spin, and where there are no more cores than that, threads that share theirs.
    for (arrival, threads) in [("uniform", "1"), ("poisson", "1"), ("uniform", "8")] {
        let arguments = ["--rate", "10k", "--arrival", arrival, "--warmup", "500ms", "--duration", "1s"];
        let (code, report) = account(&receiver, &[&arguments[..], &["--threads", threads]].concat());
        assert_exit(code, &report, 0);
        let (faults, stored) = counters(&report);
        assert_eq!(faults, [0; 5]);
        assert!(if arrival == "uniform" { stored == 15_000 } else { stored.abs_diff(15_000) < 700 }, "{stored}");
        assert_eq!(report["entries_behind"], 0);
        assert!(report["seconds"].as_f64().unwrap() > 1.49);
        let latencies = &report["latency_ms"];
        for (clock, measured) in [("send", "corrected"), ("visible", "corrected"), ("visible", "uncorrected")] {
            let measured = latencies[clock][measured]["count"].as_u64().unwrap();
            assert!(measured.abs_diff(10_000) < 600, "{measured}");
        }
    }
}

/// All is sent in the end, and by a generator that works without a pause.
#[test]
fn a_rate_beyond_the_generator_makes_the_run_invalid() {
    let receiver = Receiver::start(Fault::None, End::WithSender);
    let arguments = ["--rate", "50M", "--entries", "1M", "--size", "64", "--connections", "2"];
    let (code, report) = account(&receiver, &arguments);
    assert_eq!((code, counters(&report)), (6, ([0; 5], 1_000_000)));
    let findings = report["findings"].as_array().unwrap();
    let missed = findings.iter().find(|finding| finding["name"] == "rate_missed").unwrap();
    let text = missed["text"].as_str().unwrap();
    assert!(text.starts_with("the rate was missed: asked 50000000/s, sent "), "{text}");
}

#[test]
fn tokens_come_from_a_file_too() {
    let receiver = Receiver::start(Fault::None, End::WithSender);
    let list = receiver.data.path().join("tokens");
    std::fs::write(&list, "00112233-4455-6677-8899-AABBCCDDEEFF front\n").unwrap();
    let target = receiver.address.to_string();
    let data = receiver.data.path().to_str().unwrap();
    let tokens = list.to_str().unwrap();
    let output = loadgen(&["--target", &target, "--data", data, "--tokens", tokens, "--entries", "1000"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("account       clean: 1000 stored, 0 lost"), "{text}");
    // All of it fits into the sockets.
    assert!(text.contains("note          at --rate max the generator was the limit, not the receiver: "), "{text}");
    let log = receiver.data.path().join("00112233-4455-6677-8899-aabbccddeeff/00000000000000000000.log");
    assert_eq!(std::fs::metadata(log).unwrap().len(), 1000 * (256 - 37));
}

#[test]
fn another_directory_than_the_receivers_is_noticed() {
    let receiver = Receiver::start(Fault::None, End::WithSender);
    let (target, other) = (receiver.address.to_string(), tempfile::tempdir().unwrap());
    let flags = ["--entries", "100", "--finish-wait", "500ms", "--data", other.path().to_str().unwrap()];
    let output = loadgen(&[&["--target", &target], &flags[..]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(text.contains("\nnote          nothing of this run is in --data: is it this receiver's?\n"), "{text}");
    let waited = "\nlost          is what had not come when nothing had been stored for 500ms (--finish-wait)\n";
    assert!(text.contains(waited), "{text}");
}

#[test]
fn a_report_knows_its_commit_and_its_priority() {
    let receiver = Receiver::start(Fault::None, End::WithSender);
    // As many threads as there are cores share them with the follower.
    let cores = std::thread::available_parallelism().unwrap().to_string();
    for (threads, shares) in [("1", false), (&cores, true)] {
        let arguments = ["--rate", "10k", "--entries", "2000", "--connections", &cores, "--threads", threads];
        let (_, report) = account(&receiver, &arguments);
        let note = report["findings"].as_array().unwrap().iter().find(|finding| finding["name"] == "realtime");
        assert!(note.is_some() || !shares, "{report}");
        let is_granted = note.is_some_and(|note| note["text"].as_str().unwrap().ends_with("(SCHED_FIFO)"));
        assert_eq!(report["realtime"], is_granted, "{report}");
        let is_repository =
            Command::new("git").args(["rev-parse", "HEAD"]).status().is_ok_and(|status| status.success());
        let commit = report["commit"].as_str().unwrap_or_default();
        let is_commit = commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(is_commit || !is_repository || std::env::var_os("LOADGEN_COMMIT").is_some(), "{commit}");
    }
}

/// Before anything is sent, and what cannot be written afterwards is printed all the same.
#[test]
fn a_place_that_cannot_be_written_is_named_first() {
    let receiver = Receiver::start(Fault::None, End::WithSender);
    let (target, place) = (receiver.address.to_string(), tempfile::tempdir().unwrap());
    let run = |out: &std::path::Path| {
        loadgen(&["--target", &target, "--tokens", "7", "--entries", "100", "--out", out.to_str().unwrap()])
    };
    let file = place.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let output = run(&file.join("report"));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(3), 1), "{error}");
    assert!(error.starts_with("loadgen: --out: ") && error.contains(" cannot be written; give it room"), "{error}");
    assert_eq!(receiver.data.path().read_dir().unwrap().count(), 0, "nothing was sent");
    // A directory where a file should go is found too late.
    std::fs::create_dir(place.path().join("intervals.csv")).unwrap();
    let output = run(place.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("entries       100 sent"));
    assert_eq!(run(&place.path().join("new/one")).status.code(), Some(0));
}

#[test]
fn nobody_there_is_exit_3_and_wrong_usage_2() {
    // Bound and not listened on by anybody once dropped: a port that refuses.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = loadgen(&["--target", &free.to_string()]);
    assert_eq!(refused.status.code(), Some(3));
    let sentence = String::from_utf8(refused.stderr).unwrap();
    assert!(sentence.starts_with("loadgen: --target: cannot connect to 127.0.0.1:"), "{sentence}");
    assert!(sentence.contains("; start the receiver first, or give its address (Connection refused"), "{sentence}");
    assert_eq!(sentence.lines().count(), 1);
    assert_eq!(loadgen(&["--target", "localhost"]).status.code(), Some(2));
    assert_eq!(loadgen(&["--target", "127.0.0.1:1", "--size", "63"]).status.code(), Some(2));
    assert_eq!(loadgen(&[]).status.code(), Some(2));
}

#[test]
fn lines_of_every_shape_are_accounted_for() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a line\n\nanother one, with a tab\tand an end \n{\"a\": 1}\n").unwrap();
    let shapes: [&[&str]; 6] = [
        &["--size", "64..1024", "--position", "mixed"],
        &["--template", "json", "--size", "300", "--skew", "zipf:1.1"],
        &["--template", "apache", "--position", "middle", "--threads", "3"],
        &["--template", "json", "--size", "64..90", "--position", "end"],
        &["--lines", file.path().to_str().unwrap(), "--position", "mixed"],
        &["--size", "100KB", "--position", "mixed", "--skew", "zipf:0", "--connections", "1"],
    ];
    for shape in shapes {
        let receiver = Receiver::start(Fault::None, End::WithSender);
        let (code, report) = account(&receiver, &[&["--entries", "3000"], shape].concat());
        assert_eq!((code, counters(&report)), (0, ([0; 5], 3000)), "{shape:?}: {report}");
        let by_token = report["tokens"].as_array().unwrap();
        assert_eq!(by_token.iter().map(|token| token["stored"].as_u64().unwrap()).sum::<u64>(), 3000);
    }
}

#[test]
fn faults_in_lines_of_every_shape_are_found() {
    for (fault, expected) in [(Fault::Drop, [1, 0, 0, 0, 0]), (Fault::Garble, [1, 0, 0, 1, 0])] {
        let receiver = Receiver::start(fault, End::WithSender);
        let shape = ["--entries", ENTRIES, "--size", "128..700", "--position", "mixed", "--skew", "zipf:1.2"];
        let (code, report) = account(&receiver, &shape);
        assert_eq!((code, counters(&report)), (5, (expected, 19_999)), "{report}");
        let lost = &report["account"]["lost_ranges"][0];
        assert_eq!(lost["end"].as_u64().unwrap() - lost["first"].as_u64().unwrap(), 1);
    }
}

/// With `--reconnect` a connection that the receiver cuts carries on in a new socket where the old one ended.
#[test]
fn a_cut_connection_is_made_again() {
    let receiver = Receiver::start(Fault::None, End::CutAfter(1_000_000));
    let (code, report) =
        account(&receiver, &["--entries", "10000", "--size", "4KiB", "--connections", "2", "--reconnect"]);
    assert_eq!(code, 0, "{report}");
    let (faults, stored) = counters(&report);
    let total = &report["account"];
    let count = |name: &str| total[name].as_u64().unwrap();
    assert_eq!((faults, count("beyond")), ([0; 5], 0));
    assert_eq!(stored + count("in_flight"), 10_000);
    // 20 MB each, more than their sockets hold before the first cut.
    assert!(report["connections"][0]["sockets"].as_u64().unwrap() >= 2);
    assert_eq!(report["entries_behind"], 0);
}
