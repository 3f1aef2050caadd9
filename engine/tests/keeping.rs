//! Sealed segments of a running engine are compressed and deleted under its readers; other programs read what is left.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use support::process::{DEADLINE, Engine, engine, finish, wait_until};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
/// At 20 each 5 ms: a minute and more.
const SENT_MAX: u64 = 250_000;
const COMPRESSED: &str = ".log.zst";

fn data() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    assert!(wait_until(condition), "waited in vain for {what}");
}

/// Names in the log's directory that end so, sorted.
fn names(data: &Path, end: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(data.join(T)) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(end)).collect();
    names.sort();
    names
}

/// What a command of the engine prints, and what it says on stderr.
fn shown(args: &[&str]) -> (String, String) {
    let output = finish(engine(args));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {stderr}");
    (String::from_utf8(output.stdout).unwrap(), stderr)
}

/// Numbers of the entries `entry N filler`.
fn numbers(text: &str) -> Vec<u64> {
    text.lines().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect()
}

/// Sends numbered entries of 1 KB, some each 5 ms, until the condition holds. Gives how many.
fn send_until(engine: &Engine, from: u64, condition: impl Fn() -> bool) -> u64 {
    let mut stream = engine.connect();
    let filler = "x".repeat(1000);
    let mut number = from;
    while !condition() {
        assert!(number < from + SENT_MAX, "{number} entries are not enough");
        for _ in 0..20 {
            writeln!(stream, "{T} entry {number} {filler}").unwrap();
            number += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let last = format!("entry {} {filler}\n", number - 1);
    wait_for("the last entry", || shown(&["tail", T, "-n", "1", "--data", utf8(engine.data())]).0 == last);
    number
}

/// Readers come and go while segments are compressed: each sees every entry from the first on, and none twice.
#[test]
fn compression_is_invisible_to_readers() {
    let (_folder, data) = data();
    let mut running =
        Engine::start_in(&data, &["--segment-age", "120ms", "--compress-after", "300ms", "--admin", "127.0.0.1:0"]);
    let first = send_until(&running, 0, || !names(&data, ".log").is_empty());
    let done = AtomicBool::new(false);
    let (count, reads) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let (text, stderr) = shown(&["cat", T, "--data", utf8(&data)]);
                assert_eq!(stderr, "");
                let numbers = numbers(&text);
                assert!(numbers[0] == 0 && numbers.is_sorted_by(|a, b| a + 1 == *b), "{numbers:?}");
                let (verdict, _) = shown(&["verify", "--data", utf8(&data)]);
                assert!(verdict.ends_with("damages=0\n"), "{verdict}");
                reads += 1;
            }
            reads
        });
        let count = send_until(&running, first, || names(&data, COMPRESSED).len() >= 20);
        done.store(true, Ordering::Relaxed);
        (count, reader.join().unwrap())
    });
    assert!(reads > 3, "{reads} reads are too few to say anything");
    let metrics = support::http::get(running.admin(), "/metrics").body;
    assert!(metrics.contains("engine_segments{state=\"active\"} 1\n"), "{metrics}");
    running.stop();
    let (text, _) = shown(&["cat", T, "--data", utf8(&data)]);
    assert!(numbers(&text).into_iter().eq(0..count));
    // The newest is text, and named so.
    assert_eq!(names(&data, ".tmp"), [""; 0]);
    assert!(
        names(&data, ".log").last().map(|name| name.trim_end_matches(".log").to_owned())
            > names(&data, COMPRESSED).last().map(|name| name.trim_end_matches(COMPRESSED).to_owned())
    );
    for (is_there, tool, args) in [
        (support::require_tool("zstdcat"), "zstdcat", &[][..]),
        (support::require_tool("zstdgrep"), "zstdgrep", &["--no-filename", ""]),
    ] {
        if is_there {
            let files = names(&data, COMPRESSED).into_iter().map(|name| data.join(T).join(name));
            let output = Command::new(tool).args(args).args(files).output().unwrap();
            assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
            assert!(!output.stdout.is_empty() && text.as_bytes().starts_with(&output.stdout), "{tool}");
        }
    }
}

/// An engine that is killed before its segments are due, or while it works on them, leaves that to the next one.
#[test]
fn compression_goes_on_after_a_restart() {
    let (_folder, data) = data();
    let running = Engine::start_in(&data, &["--segment-age", "100ms"]);
    let count = send_until(&running, 0, || names(&data, ".log").len() >= 5);
    drop(running);
    assert_eq!(names(&data, COMPRESSED), [""; 0]);
    let sealed = names(&data, ".log").len() - 1;
    std::fs::write(data.join(T).join("00000000000000000000.log.zst.tmp"), "half").unwrap();
    let mut running = Engine::start_in(&data, &["--compress-after", "0"]);
    wait_for("compression", || names(&data, COMPRESSED).len() == sealed && names(&data, ".log").len() == 1);
    running.stop();
    assert_eq!(names(&data, ".tmp"), [""; 0]);
    let (text, _) = shown(&["cat", T, "--data", utf8(&data)]);
    assert!(numbers(&text).into_iter().eq(0..count));
    // Nothing is done again, and the log goes on.
    let mut running = Engine::start_in(&data, &["--compress", "none"]);
    let count = send_until(&running, count, || names(&data, ".log").len() == 1 && running_has(&data, count));
    running.stop();
    let (text, _) = shown(&["cat", T, "--data", utf8(&data)]);
    assert!(numbers(&text).into_iter().eq(0..count));
}

fn running_has(data: &Path, number: u64) -> bool {
    shown(&["tail", T, "-n", "1", "--data", utf8(data)])
        .0
        .split(' ')
        .nth(1)
        .is_some_and(|last| last.parse::<u64>().unwrap() >= number)
}

/// A log keeps within its bytes while it is written and read; what a reader misses it is told, and the rest joins.
#[test]
fn retention_keeps_the_newest() {
    const RETAIN: u64 = 200_000;
    let (_folder, data) = data();
    let flags = ["--segment-age", "100ms", "--compress", "none", "--retain-bytes", "200KB", "--admin", "127.0.0.1:0"];
    let mut running = Engine::start_in(&data, &flags);
    let first = || names(&data, ".log").first().and_then(|name| name.trim_end_matches(".log").parse::<u64>().ok());
    send_until(&running, 0, || first().is_some());
    let mut follower = engine(&["tail", "-f", T, "--data", utf8(&data)]);
    let mut follower = follower.spawn().unwrap();
    // It reads nothing of what it follows: it waits with a full pipe, and is overtaken.
    let count = send_until(&running, 1_000_000, || first() > Some(3_000_000));
    // Files go a moment before they are counted.
    let deleted = || support::http::Metrics::of(running.admin()).get("engine_retained_bytes_total");
    assert!(wait_until(|| deleted() >= 3_000_000), "{}", deleted());
    let pid = rustix::process::Pid::from_child(&follower);
    let mut told = BufReader::new(follower.stderr.take().unwrap());
    let reading = std::thread::spawn(move || follower.wait_with_output().unwrap());
    let (first, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        first.send(line).unwrap();
    });
    let stderr = heard.recv_timeout(DEADLINE).unwrap();
    assert!(
        stderr.contains("2bfbea1e…: offsets ") && stderr.contains(" were deleted before they were read"),
        "{stderr}"
    );
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let text = String::from_utf8(reading.join().unwrap().stdout).unwrap();
    // The signal may come in the middle of a write.
    let whole = &text[..=text.rfind('\n').unwrap()];
    assert!(numbers(whole).is_sorted(), "lines are in order");
    running.stop();
    let (text, stderr) = shown(&["cat", T, "--data", utf8(&data)]);
    assert_eq!(stderr, "");
    let kept = numbers(&text);
    assert!(kept.is_sorted_by(|a, b| a + 1 == *b) && kept.last() == Some(&(count - 1)), "{kept:?}");
    // The newest segment may be larger than all that is allowed; a roll comes every 100 ms.
    let sealed: u64 =
        names(&data, ".log").iter().rev().skip(1).map(|name| data.join(T).join(name).metadata().unwrap().len()).sum();
    assert!(sealed <= RETAIN, "{sealed} bytes are sealed");
    assert!(data.join(T).join("current").exists());
    // An engine that starts with an hour as its limit deletes nothing that is younger.
    let before = names(&data, ".log");
    let mut running = Engine::start_in(&data, &["--retain-age", "1h"]);
    running.stop();
    assert_eq!(names(&data, ".log"), before);
}

/// The README's example.
#[test]
fn duckdb_reads_the_directory() {
    if !support::require_tool("python3") {
        return;
    }
    let has_duckdb = |python: &&str| {
        let output = Command::new(python).args(["-c", "import duckdb"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3"].into_iter().find(has_duckdb) else {
        return support::skip("python3 has no duckdb");
    };
    let (folder, data) = data();
    let running = Engine::start_in(&data, &["--segment-age", "100ms", "--compress-after", "0"]);
    let count = send_until(&running, 0, || names(&data, COMPRESSED).len() >= 3);
    // Each segment in one form.
    assert!(wait_until(|| names(&data, ".log").len() == 1), "{:?}", names(&data, ""));
    drop(running);
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let example = readme.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let output = Command::new(python).args(["-c", example]).current_dir(folder.path()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), format!("{T} {count}"));
}
