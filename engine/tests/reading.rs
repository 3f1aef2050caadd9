//! Readers beside an engine that writes and rolls: nothing is missing, nothing is there twice, nothing waits for them.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use engine::limits::ROLL_GAP;
use rustix::process::Signal;
use tempfile::TempDir;

use support::process::{DEADLINE, Engine, engine, finish, segments, wait_until};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
/// At 20 each 5 ms: a minute and more.
const SENT_MAX: u64 = 250_000;

fn data() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    (folder, data)
}

#[track_caller]
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    assert!(wait_until(condition), "waited in vain for {what}");
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a command prints, which must end well and say nothing else.
fn shown(args: &[&str]) -> Vec<u8> {
    let output = finish(engine(args));
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Killed when dropped.
struct Follower(Child);

impl Follower {
    fn start(command: &mut Command) -> (Self, BufReader<impl Read + use<>>) {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        (Self(child), lines)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Sends numbered entries until the log has so many segments; gives their number.
fn send_until_rolled(engine: &Engine, segments_wanted: usize) -> u64 {
    let mut stream = engine.connect();
    let mut number = 0;
    while number == 0 || segments(engine.data(), T).len() < segments_wanted {
        assert!(number < SENT_MAX, "{number} entries do not make {segments_wanted} segments");
        for _ in 0..20 {
            writeln!(stream, "{T} entry {number}").unwrap();
            number += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    number
}

fn assert_numbered(lines: impl BufRead, count: u64) {
    for (number, line) in (0..count).zip(lines.lines()) {
        assert_eq!(line.unwrap(), format!("entry {number}"));
    }
}

/// Every entry once and in order, and then the end.
fn read_numbered(lines: impl BufRead, total: &std::sync::mpsc::Receiver<u64>) {
    let mut next = 0;
    for line in lines.lines() {
        let line = line.unwrap();
        if line == "end" {
            break;
        }
        assert_eq!(line, format!("entry {next}"));
        next += 1;
    }
    assert_eq!(total.recv_timeout(DEADLINE), Ok(next));
}

/// Segments end every 120 ms and more; two that follow see every entry once: ours, and the one of coreutils.
#[test]
fn followers_miss_nothing_over_fifty_rolls() {
    let (_folder, data) = data();
    let mut engine = Engine::start_in(&data, &["--segment-age", "120ms"]);
    let mut stream = engine.connect();
    writeln!(stream, "{T} begin").unwrap();
    engine.wait_for_log(T, b"begin\n");
    let (_tail, mut theirs) =
        Follower::start(Command::new("tail").args(["--quiet", "-n", "+1", "-F"]).arg(data.join(T).join("current")));
    let (_ours, mut ours) = Follower::start(&mut support::process::engine(&["tail", "-f", T, "--data", utf8(&data)]));
    for reader in [&mut theirs as &mut dyn BufRead, &mut ours] {
        let mut first = String::new();
        reader.read_line(&mut first).unwrap();
        assert_eq!(first, "begin\n");
    }
    // Who does not read holds up its follower, and that of coreutils does not see what it slept through.
    let (total, count) = std::sync::mpsc::channel::<u64>();
    let (their_total, their_count) = std::sync::mpsc::channel::<u64>();
    let readers = [
        std::thread::spawn(move || read_numbered(ours, &count)),
        std::thread::spawn(move || read_numbered(theirs, &their_count)),
    ];
    let count = send_until_rolled(&engine, 51);
    wait_for("the last entry", || engine.log_bytes(T).ends_with(format!("entry {}\n", count - 1).as_bytes()));
    for total in [total, their_total] {
        total.send(count).unwrap();
    }
    writeln!(stream, "{T} end").unwrap();
    for reader in readers {
        reader.join().unwrap();
    }
    drop(stream);
    engine.stop();
    let all = shown(&["cat", T, "--data", utf8(&data)]);
    assert_numbered(&all[b"begin\n".len()..], count);
    let last = shown(&["tail", T, "-n", "3", "--data", utf8(&data)]);
    let expected = format!("entry {}\nentry {}\nend\n", count - 2, count - 1);
    assert_eq!(String::from_utf8(last).unwrap(), expected);
}

/// SIGUSR1 ends what has entries; the next entry begins the next segment, and no segment is empty.
#[test]
fn sigusr1_rolls_with_the_next_entry() {
    let (_folder, data) = data();
    let mut engine = Engine::start_in(&data, &[]);
    let mut stream = engine.connect();
    for (number, log) in ["a\n", "a\nb\n", "a\nb\nc\n"].into_iter().enumerate() {
        write!(stream, "{T} {}", &log[2 * number..]).unwrap();
        engine.wait_for_log(T, log.as_bytes());
        assert_eq!(segments(&data, T).len(), number + 1);
        // Rolls are that far apart at least. A second signal finds nothing to add.
        std::thread::sleep(ROLL_GAP);
        for told in [2 * number + 1, 2 * number + 2] {
            engine.signal(Signal::USR1);
            wait_for("word of the roll", || engine.stderr().matches("rolling every log").count() == told);
        }
    }
    drop(stream);
    engine.stop();
    assert_eq!(segments(&data, T).len(), 3);
    let verified = shown(&["verify", "--data", utf8(&data)]);
    // The two that were sealed are indexed whole, and the journal has the checksum of the third.
    let sum = "verified logs=1 segments=3 bytes=6 without_checksum=0 damages=0\n";
    assert_eq!(String::from_utf8(verified).unwrap(), sum);
}

/// Of 20 MB only what came since then is read, and what an earlier engine had not indexed is made up for.
#[test]
fn an_hour_is_found_without_reading_the_rest() {
    let (_folder, data) = data();
    let filler = "x".repeat(950);
    let session = |word: &str| {
        let mut engine = Engine::start_in(&data, &["--segment-bytes", "8MiB"]);
        let mut stream = engine.connect();
        for number in 0..10_000 {
            writeln!(stream, "{T} {word} {number} {filler}").unwrap();
        }
        drop(stream);
        engine.stop();
    };
    session("old");
    std::thread::sleep(Duration::from_millis(1500));
    let between = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_millis(20));
    session("new");
    let all = shown(&["cat", T, "--data", utf8(&data)]);
    let since = shown(&["cat", T, "--since", &between, "--data", utf8(&data)]);
    let until = shown(&["cat", T, "--until", &between, "--data", utf8(&data)]);
    let new_from = all.windows(6).position(|bytes| bytes == b"new 0 ").unwrap();
    // As exact as the open block of the first engine and one of the second.
    let slack = 2 * (64 + 256) * 1024;
    assert!(all.ends_with(&since), "what is shown is the end of all");
    let from = all.len() - since.len();
    assert!(from <= new_from && new_from - from < slack, "{from} for {new_from}");
    assert!(all.starts_with(&until), "what is shown is the beginning of all");
    assert!(until.len() >= new_from && until.len() - new_from < slack, "{} for {new_from}", until.len());

    // Read: directories, indexes, some chunks, and what is shown.
    let mut command = engine(&["cat", T, "--since", &between, "--data", utf8(&data)]);
    let read = bytes_read(&mut command);
    assert!(read < since.len() as u64 + (4 << 20), "{read} bytes read for {}", since.len());
    let verified = String::from_utf8(shown(&["verify", "--data", utf8(&data)])).unwrap();
    assert!(verified.contains("damages=0"), "{verified}");
    // One byte is another: file and range are named, and the exit code says so.
    let segment = &segments(&data, T)[0];
    let file = std::fs::OpenOptions::new().write(true).open(segment).unwrap();
    file.write_all_at(b"?", 1_000_000).unwrap();
    let output = finish(engine(&["verify", T, "--data", utf8(&data)]));
    let (code, text) = (output.status.code(), String::from_utf8(output.stdout).unwrap());
    assert!(code == Some(4) && text.starts_with(utf8(segment)), "{code:?}: {text}");
    let list: serde_json::Value = serde_json::from_slice(&shown(&["ls", "--json", "--data", utf8(&data)])).unwrap();
    assert_eq!(list[0]["entries"], 20_000);
}

/// Bytes that a command reads by system calls, as the kernel counts them, up to its last output.
fn bytes_read(command: &mut Command) -> u64 {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut bytes, mut read) = (vec![0; 1 << 20], 0);
    loop {
        let io = std::fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap_or_default();
        let so_far = io.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok()).unwrap_or(0);
        read = read.max(so_far);
        if out.read(&mut bytes).unwrap() == 0 {
            break;
        }
    }
    child.wait().unwrap();
    read
}
