//! The oracle in Rust is held to its Python original, which decides: its own cases, the captures, hostile streams.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use support::captures;
use support::hostile::hostile_bytes;
use support::oracle::{Counters, Framing, Oracle, Oversize};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const U: &str = "00112233-4455-6677-8899-aabbccddeeff";
const LINE_BYTES_MAX: usize = 262_144;
/// Limits that make short lines long; the last one is the default.
const HOSTILE_LIMITS: [usize; 5] = [64, 65, 100, 4096, LINE_BYTES_MAX];
const FRAMINGS: [Framing; 4] = [Framing::Lf, Framing::Octet, Framing::Auto, Framing::Udp];

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

fn fed(framing: Framing, data: &str, known: Option<&str>) -> Oracle {
    let mut oracle = Oracle::new(LINE_BYTES_MAX, Oversize::Split);
    if let Some(token) = known {
        oracle = oracle.knowing([token.to_owned()]);
    }
    oracle.feed(framing, data.replace('T', T).replace('U', U).as_bytes());
    oracle
}

#[test]
fn frames_and_datagrams_are_read_as_in_python() {
    let entries = |oracle: &Oracle, token: &str| oracle.entries[token].concat();
    let oracle = fed(Framing::Auto, "65 T host tag: 34567890123456789\n", None);
    assert_eq!(entries(&oracle, T), b"host tag: 34567890123456789");
    let oracle = fed(Framing::Octet, "66 T short", None);
    assert_eq!((oracle.entries.len(), oracle.counters.cut), (0, 1));
    let oracle = fed(Framing::Octet, "43 T a\nb c\n9x", None);
    assert_eq!((entries(&oracle, T), oracle.counters.bad_frame), ("a\u{2028}b c".into(), 1));
    let oracle = fed(Framing::Udp, "T a\nb\nU c", None);
    assert_eq!((entries(&oracle, T), entries(&oracle, U)), ("a\u{2028}b".into(), b"c".to_vec()));
    let oracle = fed(Framing::Udp, "T a\n###LE-IAA###\n\nfoo\nT\nbar\n", None);
    assert_eq!(oracle.entries[T], [b"a".to_vec(), "\u{2028}bar".into()]);
    let counters = oracle.counters;
    assert_eq!((counters.keepalive, counters.empty, counters.no_token), (1, 1, 1));
}

#[test]
fn unknown_tokens_are_passed_over_as_in_python() {
    let oracle = fed(Framing::Lf, "U not yours T\nx U T y\nU\n", Some(T));
    assert_eq!(oracle.entries[T], [format!("x {U} y").into_bytes()]);
    assert_eq!((oracle.entries.len(), oracle.counters.unknown_token), (1, 2));
}

#[test]
fn log_bytes_are_entries_with_lf() {
    let oracle = oracle(format!("{T}a\n{T}b\r\n").as_bytes(), LINE_BYTES_MAX);
    assert_eq!(oracle.log_bytes(T), b"a\nb\n");
    assert_eq!(oracle.log_bytes(U), b"");
}

#[test]
fn every_line_has_one_fate() {
    for (seed, framing) in (0..200).flat_map(|seed| FRAMINGS.map(|framing| (seed, framing))) {
        for limit in [64, 4096] {
            let mut oracle = Oracle::new(limit, Oversize::Split);
            oracle.feed(framing, &hostile_bytes(framing, seed, limit));
            let counters = oracle.counters;
            assert_eq!(counters.lines() + counters.pieces, counters.entries + counters.rejected(), "seed {seed}");
        }
    }
}

#[test]
fn hostile_streams_reach_every_counter() {
    for framing in FRAMINGS {
        let mut oracle = Oracle::new(64, Oversize::Split);
        for seed in 0..200 {
            oracle.feed(framing, &hostile_bytes(framing, seed, 64));
        }
        for (name, count) in oracle.counters.named() {
            let has_frames = matches!(framing, Framing::Octet | Framing::Auto);
            let possible = match name {
                "unknown_token" => false,
                "bad_frame" | "cut" => has_frames,
                "http" | "tls_on_plain" => framing != Framing::Udp,
                _ => true,
            };
            assert_eq!(count > 0, possible, "{framing:?}: {name} {count}");
        }
        assert!(oracle.counters.pieces > oracle.counters.split, "{framing:?}: no line is cut twice");
    }
}

#[test]
fn captures_are_counted_as_their_table_says() {
    let streams = captures::streams();
    assert!(streams.len() >= 80, "{}", streams.len());
    let datagrams = captures::udp().into_iter().map(|capture| (Framing::Udp, capture));
    for (framing, capture) in streams.into_iter().chain(datagrams) {
        let mut oracle = Oracle::new(LINE_BYTES_MAX, Oversize::Split);
        oracle.feed(framing, &capture.bytes);
        let counters = oracle.counters;
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
    let datagrams = captures::udp().into_iter().map(|capture| (Framing::Udp, capture));
    let cases: Vec<Case> = captures::streams()
        .into_iter()
        .chain(datagrams)
        .map(|(framing, capture)| Case::new(capture.path, framing, LINE_BYTES_MAX, Oversize::Split))
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
    for (seed, framing) in (0..50).flat_map(|seed| FRAMINGS.map(|framing| (seed, framing))) {
        for line_bytes_max in HOSTILE_LIMITS {
            let path = folder.path().join(format!("{}-{line_bytes_max}-{seed}.bin", framing.name()));
            let bytes = hostile_bytes(framing, seed, line_bytes_max);
            let tokens = some_tokens(&bytes);
            std::fs::write(&path, bytes).unwrap();
            let oversize = if seed % 5 == 0 { Oversize::Truncate } else { Oversize::Split };
            let mut case = Case::new(path, framing, line_bytes_max, oversize);
            case.known = (seed % 3 == 0).then_some(tokens);
            cases.push(case);
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
                    cases.push(Case::new(path.clone(), Framing::Octet, 14, Oversize::Split));
                    cases.push(Case::new(path, Framing::Lf, 14, Oversize::Split));
                }
            }
        }
    }
    assert_equals_python(&cases);
}

/// One stream and the settings to read it with.
struct Case {
    path: PathBuf,
    framing: Framing,
    known: Option<Vec<String>>,
    line_bytes_max: usize,
    oversize: Oversize,
}

impl Case {
    fn new(path: PathBuf, framing: Framing, line_bytes_max: usize, oversize: Oversize) -> Self {
        Self { path, framing, known: None, line_bytes_max, oversize }
    }
}

/// About half of the lower-case tokens in these bytes.
fn some_tokens(bytes: &[u8]) -> Vec<String> {
    let texts = bytes.windows(36).filter_map(|window| std::str::from_utf8(window).ok());
    let tokens = texts.filter(|text| text.parse::<engine::wire::Token>().is_ok()).map(str::to_lowercase);
    tokens.filter(|token| token.as_bytes()[0] < b'8').collect()
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
for path, framing, known, line_bytes_max, oversize in json.load(sys.stdin):
    o = Oracle(None if known is None else set(known), line_bytes_max, oversize)
    feed = {'lf': o.stream_lf, 'octet': o.stream_octet, 'auto': o.stream_auto, 'udp': o.datagram}[framing]
    feed(open(path, 'rb').read())
    entries = {t: [e.decode('latin-1') for e in es] for t, es in o.entries.items()}
    print(json.dumps({'entries': entries, 'counters': o.counters}))
";

fn python_results(cases: &[Case]) -> Vec<Value> {
    let input =
        |case: &Case| json!([case.path, case.framing.name(), case.known, case.line_bytes_max, case.oversize.name()]);
    let input: Vec<Value> = cases.iter().map(input).collect();
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
        if let Some(known) = &case.known {
            oracle = oracle.knowing(known.clone());
        }
        oracle.feed(case.framing, &std::fs::read(&case.path).unwrap());
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
