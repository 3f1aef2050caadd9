//! The oracle in Rust is held to its Python original, which decides: its own cases, the captures, hostile streams.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use support::captures;
use support::hostile::hostile_stream;
use support::oracle::{Counters, Oracle, Oversize};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const U: &str = "00112233-4455-6677-8899-aabbccddeeff";
const LINE_BYTES_MAX: usize = 262_144;
/// Limits that make short lines long; the last one is the default.
const HOSTILE_LIMITS: [usize; 5] = [64, 65, 100, 4096, LINE_BYTES_MAX];

fn oracle(data: &[u8], line_bytes_max: usize) -> Oracle {
    let mut oracle = Oracle::new(line_bytes_max, Oversize::Split);
    oracle.stream_lf(data);
    oracle
}

/// Feeds one stream, in which `T` and `U` stand for the two tokens, and compares what is stored.
#[track_caller]
fn check_with_limit(line_bytes_max: usize, data: &str, want: &[(&str, &[&str])]) -> Counters {
    let data = data.replace('T', T).replace('U', U);
    let oracle = oracle(data.as_bytes(), line_bytes_max);
    assert_eq!(oracle.entries.len(), want.len(), "{data:?}");
    for (token, entries) in want {
        let entries: Vec<Vec<u8>> = entries.iter().map(|entry| entry.replace('U', U).into_bytes()).collect();
        assert_eq!(oracle.entries[*token], entries, "{data:?}");
    }
    oracle.counters
}

#[track_caller]
fn check(data: &str, want: &[(&str, &[&str])]) -> Counters {
    check_with_limit(LINE_BYTES_MAX, data, want)
}

#[test]
fn tokens_are_found_and_removed_as_in_python() {
    check(
        "T My first log entry\nMy second T log entry with token inside\n",
        &[(T, &["My first log entry", "My second log entry with token inside"])],
    );
    check("10000T My first log entry\n", &[(T, &["10000 My first log entry"])]);
    let upper = format!("Thello\n{}\tx\r\n", T.to_uppercase());
    check(&upper, &[(T, &["hello", "x"])]);
    check("[info] T a  b\n", &[(T, &["[info] a  b"])]);
    check("end T\n", &[(T, &["end"])]);
    check("id=U T msg\n", &[(T, &["id=U msg"])]);
    check("T about U\n", &[(T, &["about U"])]);
    check("T T {}\n", &[(T, &["{}"])]);
    check(&("T ".repeat(5000) + "x\n"), &[(T, &["x"])]);
}

#[test]
fn rejected_lines_are_counted_as_in_python() {
    check("T   \n\n \r\n###LE-IAA###\nno token\nT last", &[(T, &["last"])]);
    let counters = check("\n\nT\n", &[]);
    assert_eq!(counters.empty, 3);
    let http = format!("POST /v1/noformat/{T} HTTP/1.1\r\nHost: x\r\n\r\nbody {T}\n");
    let oracle = oracle(http.as_bytes(), LINE_BYTES_MAX);
    assert_eq!((oracle.entries.len(), oracle.counters.http), (0, 1));
    let oracle = self::oracle(format!("GET it {T}\n").as_bytes(), LINE_BYTES_MAX);
    assert_eq!(oracle.entries[T], [b"GET it"]);
    let counters = check("\x16\x03\x01T\n", &[]);
    assert_eq!(counters.tls_on_plain, 1);
}

#[test]
fn long_lines_are_split_as_in_python() {
    check_with_limit(40, "T abcdef\n", &[(T, &["abc", "def"])]);
    check_with_limit(40, "T abc\r\n", &[(T, &["abc"])]);
    check_with_limit(40, "T abc\rx\r\n", &[(T, &["abc", "\rx"])]);
    let counters = check_with_limit(40, &(" ".repeat(50) + "T\n"), &[]);
    assert_eq!(counters.no_token, 1);
    let counters = check_with_limit(40, "abcdeT x\n", &[]);
    assert_eq!(counters.no_token, 1);
}

#[test]
fn log_bytes_are_entries_with_lf() {
    let oracle = oracle(format!("{T}a\n{T}b\r\n").as_bytes(), LINE_BYTES_MAX);
    assert_eq!(oracle.log_bytes(T), b"a\nb\n");
    assert_eq!(oracle.log_bytes(U), b"");
}

#[test]
fn every_line_has_one_fate() {
    for seed in 0..200 {
        for limit in [64, 4096] {
            let counters = oracle(&hostile_stream(seed, limit), limit).counters;
            assert_eq!(counters.lines() + counters.pieces, counters.entries + counters.rejected(), "seed {seed}");
        }
    }
}

#[test]
fn hostile_streams_reach_every_counter() {
    let mut oracle = Oracle::new(64, Oversize::Split);
    for seed in 0..200 {
        oracle.stream_lf(&hostile_stream(seed, 64));
    }
    for (name, count) in oracle.counters.named() {
        assert!(count > 0, "no stream has {name}");
    }
    assert!(oracle.counters.pieces > oracle.counters.split, "no line is cut twice");
}

#[test]
fn captures_are_counted_as_their_table_says() {
    let captures = captures::lf();
    assert!(captures.len() >= 40, "{}", captures.len());
    for capture in captures {
        let counters = oracle(&capture.bytes, LINE_BYTES_MAX).counters;
        let counted: Vec<_> = counters.named().into_iter().filter(|(_, n)| *n > 0).collect();
        let table: Vec<_> = capture.counts.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        assert_eq!(counted, table, "{}", capture.name);
    }
}

#[test]
fn python_passes_its_own_test() {
    if !support::require_tool("python3") {
        return;
    }
    let output = Command::new("python3").arg(oracle_py()).arg("--self-test").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn captures_equal_python() {
    if !support::require_tool("python3") {
        return;
    }
    let cases: Vec<Case> = captures::lf()
        .into_iter()
        .map(|capture| Case { path: capture.path, line_bytes_max: LINE_BYTES_MAX, oversize: Oversize::Split })
        .collect();
    assert_equals_python(&cases);
}

#[test]
fn hostile_streams_equal_python() {
    if !support::require_tool("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for seed in 0..50 {
        for line_bytes_max in HOSTILE_LIMITS {
            let path = folder.path().join(format!("{line_bytes_max}-{seed}.bin"));
            std::fs::write(&path, hostile_stream(seed, line_bytes_max)).unwrap();
            let oversize = if seed % 5 == 0 { Oversize::Truncate } else { Oversize::Split };
            cases.push(Case { path, line_bytes_max, oversize });
        }
    }
    assert_equals_python(&cases);
}

#[test]
fn other_protocols_equal_python() {
    if !support::require_tool("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut cases = Vec::new();
    for method in ["GE", "GET", "OPTIONS", "CONNECTS", "GEt", "get", "", "\x16", "\x16\x03"] {
        for target in ["", " ", " /", "  / x", "\t/", " \r"] {
            for end in ["", " HTTP/1.1", " HTTP/1.0", " HTTP/1.2", "HTTP/1.1", " HTTP/1.1 ", " HTTP/1.1\0"] {
                for end_of_line in ["", "\r", "\n", "\r\n", "\r\r\n", "\n\n"] {
                    let path = folder.path().join(format!("{}.bin", cases.len()));
                    std::fs::write(&path, [method, target, end, end_of_line].concat()).unwrap();
                    cases.push(Case { path, line_bytes_max: 14, oversize: Oversize::Split });
                }
            }
        }
    }
    assert_equals_python(&cases);
}

/// One stream and the settings to read it with.
struct Case {
    path: PathBuf,
    line_bytes_max: usize,
    oversize: Oversize,
}

fn oracle_py() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/oracle.py")
}

/// Reads cases on stdin, writes one JSON result each: one interpreter for all of them. No bytecode is left behind.
const DRIVER: &str = r"
import json, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
from oracle import Oracle
for path, line_bytes_max, oversize in json.load(sys.stdin):
    o = Oracle(None, line_bytes_max, oversize)
    o.stream_lf(open(path, 'rb').read())
    entries = {t: [e.decode('latin-1') for e in es] for t, es in o.entries.items()}
    print(json.dumps({'entries': entries, 'counters': o.counters}))
";

fn python_results(cases: &[Case]) -> Vec<Value> {
    let input: Vec<Value> =
        cases.iter().map(|case| json!([case.path, case.line_bytes_max, case.oversize.name()])).collect();
    let mut child = Command::new("python3")
        .args(["-c", DRIVER])
        .arg(oracle_py().parent().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(Value::from(input).to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn assert_equals_python(cases: &[Case]) {
    let results = python_results(cases);
    assert_eq!(results.len(), cases.len());
    for (case, python) in cases.iter().zip(results) {
        let mut oracle = Oracle::new(case.line_bytes_max, case.oversize);
        oracle.stream_lf(&std::fs::read(&case.path).unwrap());
        let name = case.path.display();
        for (counter, count) in oracle.counters.named() {
            assert_eq!(python["counters"][counter], count, "{name}: {counter}");
        }
        let entries = python["entries"].as_object().unwrap();
        assert_eq!(entries.len(), oracle.entries.len(), "{name}");
        for (token, ours) in &oracle.entries {
            let theirs: Vec<Vec<u8>> = entries[token].as_array().unwrap().iter().map(latin_1).collect();
            assert!(*ours == theirs, "{name}: entries of {token} differ");
        }
    }
}

/// One character is one byte.
fn latin_1(entry: &Value) -> Vec<u8> {
    entry.as_str().unwrap().chars().map(|c| u8::try_from(c).unwrap()).collect()
}
