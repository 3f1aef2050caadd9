//! The outside of the binary: wording, exit codes, what the reading commands print, and restarts.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use support::process::{Engine, engine, finish, log_bytes, segments, send};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const U: &str = "00112233-4455-6677-8899-aabbccddeeff";
const USAGE: Option<i32> = Some(2);
const ENVIRONMENT: Option<i32> = Some(3);

fn data() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(args: &[&str]) -> Output {
    finish(engine(args))
}

/// Exactly one line on stderr, beginning as asked, and this exit code.
#[track_caller]
fn assert_refused(args: &[&str], code: Option<i32>, begins: &str) -> String {
    let output = run(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), code, "{args:?}: {stderr}");
    assert!(stderr.starts_with(begins), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert_eq!(output.stdout, b"", "{args:?}");
    stderr
}

/// Starts on the directory, sends the lines on one connection, and stops.
fn session(data: &Path, lines: &str) {
    let mut engine = Engine::start_in(data, &[]);
    send(engine.connect(), &[lines.as_bytes()]).unwrap();
    engine.stop();
}

#[test]
fn wrong_values_of_flags_are_named() {
    let (_folder, data) = data();
    let cases = [
        ("--tcp", "localhost"),
        ("--tcp", "127.0.0.1"),
        ("--line-bytes-max", "12"),
        ("--line-bytes-max", "32MiB"),
        ("--line-bytes-max", "many"),
        ("--shards", "0"),
        ("--shards", "257"),
        ("--buffer-bytes", "1MB"),
        ("--linger", "5"),
        ("--drain-timeout", "soon"),
        ("--segment-bytes", "12"),
        ("--oversize", "keep"),
        ("--admin", "localhost:9600"),
        ("--admin", "unix:"),
        ("--log-format", "xml"),
    ];
    for (flag, value) in cases {
        let args = ["run", "--data", utf8(&data), flag, value];
        let said = assert_refused(&args, USAGE, &format!("engine: {flag}: "));
        assert!(!said.contains("error:"), "{said}");
    }
    assert!(!data.exists(), "a refused start leaves a directory behind");
}

#[test]
fn unknown_flags_are_named() {
    let output = run(&["run", "--sgements", "12"]);
    assert_eq!(output.status.code(), USAGE);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("engine: ") && stderr.contains("--sgements"), "{stderr}");
}

#[test]
fn beyond_loopback_it_asks_for_open() {
    let (_folder, data) = data();
    for (flag, addr) in ["--tcp", "--udp"].into_iter().flat_map(|flag| [(flag, "0.0.0.0:0"), (flag, "[::]:0")]) {
        let said = assert_refused(&["run", "--data", utf8(&data), flag, addr], USAGE, &format!("engine: {flag}: "));
        assert!(said.contains("--open"), "{said}");
    }
    let mut open = Engine::start_in(&data, &["--open", "--tcp", "0.0.0.0:0"]);
    open.stop();
}

#[test]
fn a_busy_port_is_refused() {
    let (_folder, data) = data();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = busy.local_addr().unwrap().to_string();
    assert_busy(&data, &addr);
}

#[test]
fn a_second_engine_does_not_share_a_udp_port() {
    let (_folder, data) = data();
    let first = Engine::start(&["--udp", "127.0.0.1:0"]);
    let addr = first.udp_addr().to_string();
    let output = run(&["run", "--data", utf8(&data), "--udp", &addr]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), ENVIRONMENT, "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(
        last.starts_with(&format!("engine: {addr}: in use by another process")) && last.contains("--udp"),
        "{last}"
    );
}

/// The kernel would let a second engine of the same user share the port.
#[test]
fn a_second_engine_does_not_share_the_port() {
    let (_folder, data) = data();
    let first = Engine::start(&[]);
    assert_busy(&data, &first.addr().to_string());
}

/// The engine tries for some seconds: a killed predecessor frees its ports late. Its own log may say so meanwhile.
#[track_caller]
fn assert_busy(data: &Path, addr: &str) {
    let output = run(&["run", "--data", utf8(data), "--admin", "off", "--tcp", addr]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), ENVIRONMENT, "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("engine: ") && last.contains(addr), "{stderr}");
    assert!(!stderr.lines().any(|line| line.split_whitespace().any(|word| word == "ready")), "{stderr}");
}

#[test]
fn a_second_engine_on_the_directory_is_refused() {
    let mut first = Engine::start(&[]);
    let args = ["run", "--tcp", "127.0.0.1:0", "--admin", "off", "--data", utf8(first.data())];
    assert_refused(&args, ENVIRONMENT, "engine: ");
    send(first.connect(), &[format!("{T} still here\n").as_bytes()]).unwrap();
    first.stop();
    assert_eq!(first.log_bytes(T), b"still here\n");
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o777)).unwrap();
    let args = ["run", "--tcp", "127.0.0.1:0", "--data", utf8(&data)];
    assert_refused(&args, ENVIRONMENT, "engine: ");
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0, "a refused start writes to the directory");
}

#[test]
fn files_and_directories_are_private() {
    let (_folder, data) = data();
    session(&data, &format!("{T} hello\n"));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    let log = data.join(T);
    assert_eq!((mode(&data), mode(&log)), (0o750, 0o750));
    assert_eq!(mode(&segments(&data, T)[0]), 0o640);
    assert_eq!(segments(&data, T), [log.join("00000000000000000000.log")]);
    assert_eq!(std::fs::read(log.join("current")).unwrap(), b"hello\n");
}

#[test]
fn ls_names_every_log() {
    let (_folder, data) = data();
    session(&data, &format!("{T} one\n{T} two\n{U} three\n"));
    let output = run(&["ls", "--data", utf8(&data)]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    let row = |token: &str| stdout.lines().find(|line| line.contains(token)).map(str::to_owned);
    assert!(row(T).is_some_and(|row| row.split_whitespace().any(|word| word == "8")), "no size of {T}:\n{stdout}");
    assert!(row(U).is_some_and(|row| row.split_whitespace().any(|word| word == "6")), "no size of {U}:\n{stdout}");
}

#[test]
fn ls_speaks_json() {
    let (_folder, data) = data();
    session(&data, &format!("{T} one\n{T} two\n{U} three\n"));
    let output = run(&["ls", "--json", "--data", utf8(&data)]);
    assert_eq!(output.status.code(), Some(0));
    let logs: Value = serde_json::from_slice(&output.stdout).unwrap();
    let logs = logs.as_array().or_else(|| logs["logs"].as_array()).unwrap();
    let of = |token: &str| logs.iter().find(|log| log["token"] == token).unwrap();
    assert_eq!((&of(T)["bytes"], &of(T)["segments"]), (&Value::from(8), &Value::from(1)), "{logs:?}");
    assert_eq!((&of(U)["bytes"], &of(U)["segments"]), (&Value::from(6), &Value::from(1)), "{logs:?}");
    assert_eq!(logs.len(), 2);
}

#[test]
fn ls_of_nothing_is_empty() {
    let (_folder, data) = data();
    session(&data, "");
    let output = run(&["ls", "--json", "--data", utf8(&data)]);
    let logs: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(logs.as_array().or_else(|| logs["logs"].as_array()).unwrap().len(), 0);
}

/// To a pipe, bytes are exact.
#[test]
fn cat_prints_the_entries() {
    let (_folder, data) = data();
    session(&data, &format!("{T} one\0\x1b[31m\n{T} two\u{2028}three\n"));
    for log in [T.to_owned(), T.to_uppercase()] {
        let output = run(&["cat", &log, "--data", utf8(&data)]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "one\0\x1b[31m\ntwo\u{2028}three\n");
        assert_eq!(output.stderr, b"");
    }
}

#[test]
fn cat_needs_no_lock() {
    let engine = Engine::start(&[]);
    send(engine.connect(), &[format!("{T} hello\n").as_bytes()]).unwrap();
    engine.wait_for_log(T, b"hello\n");
    let output = run(&["cat", T, "--data", utf8(engine.data())]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"hello\n"[..]));
}

#[test]
fn cat_of_an_unknown_log_says_so() {
    let (_folder, data) = data();
    session(&data, &format!("{T} hello\n"));
    for (log, shown) in
        [(U, "…: no such log"), ("nonsense", "nonsense"), ("2bfbea1e-10c3-4419-bdad-7e6435882e1f0", "2bfbea1e")]
    {
        let output = engine(&["cat", log, "--data", utf8(&data)]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_ne!(output.status.code(), Some(0), "{stderr}");
        assert!(stderr.starts_with("engine: ") && stderr.lines().count() == 1, "{stderr}");
        assert!(stderr.contains(shown), "{stderr}");
        assert_eq!(output.stdout, b"");
    }
}

/// `engine cat LOG | head -1`: more than a pipe holds, and the reader leaves.
#[test]
fn a_broken_pipe_is_success() {
    let (_folder, data) = data();
    session(&data, &format!("{T} a line that fills the pipe\n").repeat(20_000));
    let mut child = engine(&["cat", T, "--data", utf8(&data)]).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "a line that fills the pipe\n");
    drop(reader);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn a_restart_appends() {
    let (_folder, data) = data();
    session(&data, &format!("{T} one\n{U} other\n"));
    session(&data, &format!("{T} two\n"));
    session(&data, &format!("{T} three\n"));
    assert_eq!(log_bytes(&data, T), b"one\ntwo\nthree\n");
    assert_eq!(log_bytes(&data, U), b"other\n");
    assert_eq!(segments(&data, T).len(), 1, "a restart alone starts no segment");
}

/// A killed process loses nothing that it had written.
#[test]
fn a_killed_engine_restarts() {
    let (_folder, data) = data();
    let engine = Engine::start_in(&data, &[]);
    let mut stream = engine.connect();
    stream.write_all(format!("{T} one\n{T} half").as_bytes()).unwrap();
    engine.wait_for_log(T, b"one\n");
    drop(engine);
    session(&data, &format!("{T} two\n"));
    assert_eq!(log_bytes(&data, T), b"one\ntwo\n");
}

/// What a killed writer left behind the last LF goes to quarantine, and writing goes on where the last line ends.
#[test]
fn a_partial_last_line_is_quarantined() {
    let (_folder, data) = data();
    session(&data, &format!("{T} one\n{T} two\n{U} other\n"));
    let segment = segments(&data, T).remove(0);
    std::fs::OpenOptions::new().append(true).open(&segment).unwrap().write_all(b"thr").unwrap();
    session(&data, &format!("{T} four\n"));
    assert_eq!(log_bytes(&data, T), b"one\ntwo\nfour\n");
    assert_eq!(log_bytes(&data, U), b"other\n");
    let quarantined = data.join("_quarantine").join(format!("{T}-00000000000000000000-8"));
    assert_eq!(std::fs::read(&quarantined).unwrap(), b"thr");
}

/// A segment that holds nothing but a partial line is continued from its start.
#[test]
fn a_log_of_one_partial_line_is_continued() {
    let (_folder, data) = data();
    session(&data, "");
    std::fs::create_dir(data.join(T)).unwrap();
    std::fs::set_permissions(data.join(T), PermissionsExt::from_mode(0o750)).unwrap();
    std::fs::write(data.join(T).join("00000000000000000000.log"), b"thr").unwrap();
    session(&data, &format!("{T} four\n"));
    assert_eq!(log_bytes(&data, T), b"four\n");
    let quarantined = data.join("_quarantine").join(format!("{T}-00000000000000000000-0"));
    assert_eq!(std::fs::read(&quarantined).unwrap(), b"thr");
}

/// Segments roll at an entry's boundary, before they grow past their limit; readers see one log.
#[test]
fn cat_goes_across_segments() {
    const SEGMENT_BYTES: u64 = 1 << 20;
    let (_folder, data) = data();
    let line = format!("{T} {}\n", "x".repeat(999));
    let mut wanted = Vec::new();
    // Rolls are at least 100 ms apart, so a fast sender alone makes larger segments: each session asks for one at most.
    for _ in 0..4 {
        let mut engine = Engine::start_in(&data, &["--segment-bytes", "1MiB"]);
        send(engine.connect(), &[line.repeat(600).as_bytes()]).unwrap();
        engine.stop();
        wanted.extend(line[T.len() + 1..].repeat(600).into_bytes());
    }
    assert!(log_bytes(&data, T) == wanted);
    let segments = segments(&data, T);
    assert!(segments.len() > 2, "{segments:?}");
    for segment in segments {
        assert!(segment.metadata().unwrap().len() <= SEGMENT_BYTES, "{}", segment.display());
        assert!(std::fs::read(&segment).unwrap().ends_with(b"\n"), "{}", segment.display());
    }
    let output = run(&["cat", T, "--data", utf8(&data)]);
    assert!(output.stdout == wanted, "{} bytes of {}", output.stdout.len(), wanted.len());
}
