//! The engine's own log, and a canary: a token that goes through everything hostile is nowhere in what the engine says.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use engine::limits::{NOTICE_GAP, NOTICES_MAX};
use serde_json::Value;

use support::disk::SmallDisk;
use support::http::{Metrics, get, wait_for_status};
use support::process::{Engine, connect, engine, field, finish, log_bytes, now, segments, send, wait_until};

/// In the file system and on the wire; `CANARY` is its text in the other case.
const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const CANARY: &str = "2BFBEA1E-10C3-4419-BDAD-7E6435882E1F";
const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];

/// Everything that an engine said, and where.
#[derive(Debug, Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn add(&mut self, place: &str, text: &str) {
        self.0.push((place.to_owned(), text.to_owned()));
    }

    fn add_admin(&mut self, engine: &Engine) {
        for path in ["/metrics", "/healthz", "/readyz", &format!("/{T}"), &format!("/metrics?{CANARY}")] {
            let answer = get(engine.admin(), path);
            self.add(path, &format!("{}\n{}", answer.head, answer.body));
        }
    }

    /// The stderr of a command that fails.
    fn add_failure(&mut self, args: &[&str]) {
        let output = finish(engine(args));
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("engine: "), "{args:?}: {stderr}");
        self.add(&args.join(" "), &stderr);
    }

    #[track_caller]
    fn assert_no_token(&self) {
        for (place, text) in &self.0 {
            assert!(!text.to_lowercase().contains(T), "{place} shows a whole token:\n{text}");
            assert!(!text.to_lowercase().contains(&T.replace('-', "")), "{place} shows a whole token:\n{text}");
        }
    }
}

#[test]
fn a_token_never_appears_whole() {
    let mut said = Said::default();
    on_the_wire(&mut said);
    on_the_command_line(&mut said);
    in_the_data_directory(&mut said);
    on_a_full_disk(&mut said);
    assert!(said.0.len() > 20, "{}", said.0.len());
    said.assert_no_token();
}

/// Lines of all kinds, other protocols, and a reset.
fn on_the_wire(said: &mut Said) {
    for format in ["text", "json"] {
        let mut args =
            vec!["--log-level", "debug", "--log-format", format, "--tokens-max", "1", "--line-bytes-max", "64"];
        args.extend(ADMIN);
        let mut engine = Engine::start(&args);
        for stream in [
            format!("{T} a line\n{CANARY} another\nno token\n\n"),
            format!("GET /{T} HTTP/1.1\r\nHost: {CANARY}\r\n\r\n"),
            format!("POST /{CANARY} HTTP/1.1\r\n\r\n"),
            format!("\u{16}\u{3}\u{1}{T}"),
            format!("{} a log too many\n", T.replace('2', "3")),
            format!("{T} {}\n", T.repeat(20)),
        ] {
            // Other protocols are closed while they are sent.
            let _closed = send(engine.connect(), &[stream.as_bytes()]);
        }
        let mut cut = engine.connect();
        cut.write_all(format!("{T} cut").as_bytes()).unwrap();
        socket2::SockRef::from(&cut).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(cut);
        said.add_admin(&engine);
        engine.stop();
        said.add(format, &engine.stderr());
    }
}

/// Where it is not expected: ports, flags, names of logs, commands.
fn on_the_command_line(said: &mut Said) {
    let longer = format!("{T}x");
    let flag = format!("--{T}");
    for args in [
        &["run", "--tcp", T][..],
        &["run", "--admin", T],
        &["run", "--admin", &longer],
        &["run", "--linger", CANARY],
        &["run", "--segment-bytes", T],
        &["run", "--log-level", T],
        &["run", "--log-format", CANARY],
        &["run", &flag],
        &["run", T],
        &["doctor", "--shards", T],
        &["cat", T, "--data", "/nonexistent"],
        &["cat", &longer],
        &["ls", "--data", T],
        &[T],
    ] {
        said.add_failure(args);
    }
}

/// Torn and damaged segments, a lock, and a directory whose own name holds the token.
fn in_the_data_directory(said: &mut Said) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join(T).join(CANARY);
    std::fs::create_dir(data.parent().unwrap()).unwrap();
    let args = ["run", "--tcp", "127.0.0.1:0", "--admin", "off", "--data", data.to_str().unwrap()];
    let mut engine = Engine::start_in(&data, &["--log-level", "debug"]);
    send(engine.connect(), &[format!("{T} one\n").as_bytes()]).unwrap();
    said.add_failure(&args);
    engine.stop();
    said.add("first", &engine.stderr());

    let segment = segments(&data, T).remove(0);
    std::fs::OpenOptions::new().append(true).open(&segment).unwrap().write_all(T.as_bytes()).unwrap();
    let mut engine = Engine::start_in(&data, &ADMIN);
    said.add_admin(&engine);
    // What the engine trusts is changed behind its back: the write is refused with the segment's path in mind.
    std::fs::OpenOptions::new().append(true).open(&segment).unwrap().write_all(b"foreign\n").unwrap();
    send(engine.connect(), &[format!("{T} two\n").as_bytes()]).unwrap();
    assert!(wait_until(|| get(engine.admin(), "/readyz").body == "ready, but logs that cannot be opened: 1\n"));
    said.add_admin(&engine);
    engine.sigterm();
    engine.sigterm();
    assert_eq!(engine.wait_exit(), 1);
    said.add("torn", &engine.stderr());

    let gap = segment.with_file_name("00000000000000009999.log");
    std::fs::write(&gap, b"").unwrap();
    said.add_failure(&args);
    std::fs::remove_dir_all(data.join(T)).unwrap();
    std::fs::write(data.join(T), b"").unwrap();
    said.add_failure(&args);
    said.add_failure(&["cat", T, "--data", data.to_str().unwrap()]);
    std::fs::remove_file(data.join(T)).unwrap();
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o777)).unwrap();
    said.add_failure(&args);
    let output = support::process::engine(&["doctor", "--data", data.to_str().unwrap()]).output().unwrap();
    said.add("doctor", &String::from_utf8(output.stdout).unwrap());
    said.add_failure(&[
        "run",
        "--tcp",
        "127.0.0.1:0",
        "--admin",
        &format!("unix:{T}/{CANARY}"),
        "--data",
        folder_of(&data),
    ]);
}

fn folder_of(data: &Path) -> &str {
    data.parent().unwrap().to_str().unwrap()
}

fn on_a_full_disk(said: &mut Said) {
    let Some(disk) = SmallDisk::mount("size=2m") else { return };
    let args = ["--disk-free-min", "0", "--drain-timeout", "300ms", ADMIN[0], ADMIN[1]];
    let mut engine = Engine::start_in(&disk.path().join("data"), &args);
    let mut stream = engine.connect();
    stream.write_all(format!("{T} x {}\n", T.repeat(25)).repeat(4_000).as_bytes()).unwrap();
    wait_for_status(engine.admin(), "/readyz", 503);
    said.add_admin(&engine);
    engine.sigterm();
    assert_eq!(engine.wait_exit(), 1);
    said.add("full disk", &engine.stderr());
}

#[test]
fn every_line_is_a_json_object() {
    let args = ["--log-format", "json", ADMIN[0], ADMIN[1]];
    let mut engine = Engine::start(&args);
    let _closed = send(engine.connect(), &[b"GET / HTTP/1.1\r\n\r\n"]);
    engine.sigterm();
    assert_eq!(engine.wait_exit(), 0);
    let lines: Vec<Value> = engine.stderr().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        let time = line["time"].as_str().unwrap();
        assert!(time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let about = |message: &str| lines.iter().find(|line| line["message"] == message).unwrap();
    assert_eq!(about("listening")["proto"], "admin");
    assert_eq!(about("connection closed")["reason"], "http");
    let drained = about("drained");
    assert_eq!((&drained["lines"], &drained["rejected.http"]), (&Value::from(1), &Value::from(1)));
    assert_eq!(lines.last().unwrap(), drained);
}

/// How many lines were held back is told once it is quiet, not only with the next line or at the end.
#[test]
fn what_was_held_back_is_told_of() {
    let mut engine = Engine::start(&["--shards", "8"]);
    let ask = || {
        let _closed = send(engine.connect(), &[b"GET / HTTP/1.1\r\n\r\n"]);
    };
    // Each shard tells of it once a second, and all together ten times in ten seconds.
    let told = || engine.stderr().matches("connection closed reason=http").count();
    assert!(wait_until(|| {
        ask();
        told() == 10
    }));
    let until = now() + 2 * NOTICE_GAP;
    while now() < until {
        ask();
    }
    let held = engine.wait_for_line(|line| line.contains("held back like_this=\"connection closed\""));
    assert_ne!(field(&held, "lines").unwrap(), "0", "{held}");
    engine.stop();
}

/// Whoever read the log has gone: what clients make the engine say, and its own end, change nothing.
#[test]
fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut command = engine(&["run", "--admin", "off", "--tcp", "127.0.0.1:0", "--data"]);
    let mut child = command.arg(&data).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut addr = None;
    for line in log.by_ref().lines().map(Result::unwrap) {
        addr = addr.or_else(|| field(&line, "addr").map(|addr| addr.parse().unwrap()));
        if line.ends_with("ready") {
            break;
        }
    }
    drop(log);
    let addr = addr.unwrap();
    send(connect(addr), &[b"GET / HTTP/1.1\r\n\r\n"]).unwrap();
    send(connect(addr), &[format!("{T} still here\n").as_bytes()]).unwrap();
    assert!(wait_until(|| log_bytes(&data, T) == b"still here\n"));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// While nobody reads stderr, what finds no room is counted; once somebody does, every message is accounted for.
#[test]
fn what_found_no_room_is_told_of() {
    const LOGS: u64 = 4 * NOTICES_MAX as u64;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (mut reader, stderr) = std::io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", stderr.as_raw_fd());
    let mut command = engine(&["run", "--admin", "127.0.0.1:0", "--shards", "1", "--tcp", "127.0.0.1:0", "--data"]);
    let mut child = command.arg(&data).stderr(stderr.try_clone().unwrap()).spawn().unwrap();
    // It holds the other end too.
    drop(command);
    let mut byte = [0];
    let mut listening = [(); 3].map(|()| {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            reader.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        field(std::str::from_utf8(&line).unwrap(), "addr").and_then(|addr| addr.parse().ok())
    });
    let (admin, tcp) = (listening[0].take().unwrap(), listening[2].take().unwrap());
    wait_for_status(admin, "/readyz", 200);

    // Of its own kind, so that only this writer does not wait.
    let mut filler = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    while filler.write(b"\n").is_ok() {}
    drop((filler, stderr));
    let tokens: Vec<String> = (0..LOGS).map(|number| format!("{number:08x}{}", &T[8..])).collect();
    for token in &tokens {
        std::fs::write(data.join(token), "in the way").unwrap();
    }
    send(connect(tcp), &[(tokens.join(" x\n") + " x\n").as_bytes()]).unwrap();
    assert!(wait_until(|| Metrics::of(admin).get("engine_logs_refused") == LOGS));
    for token in &tokens {
        std::fs::remove_file(data.join(token)).unwrap();
    }
    assert!(wait_until(|| Metrics::of(admin).get("engine_logs_refused") == 0));

    let reading = std::thread::spawn(move || std::io::read_to_string(reader).unwrap());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    let (said, code) = (reading.join().unwrap(), child.wait().unwrap().code());
    assert_eq!(code, Some(0), "{said}");
    let held = |kind: &str| -> u64 {
        let lines = said.lines().filter(|line| line.contains(&format!("held back like_this=\"{kind}")));
        lines.map(|line| field(line, "lines").unwrap().parse::<u64>().unwrap()).sum()
    };
    let told = said.matches(" error a log cannot be opened").count() as u64;
    let no_room = held("notice of a shard");
    assert!(no_room >= LOGS - 2 * NOTICES_MAX as u64, "{said}");
    assert_eq!(told + held("a log cannot be opened") + no_room, LOGS, "{said}");
}

#[test]
fn every_listener_is_told_of() {
    let mut engine = Engine::start(&["--tcp", "127.0.0.1:0"].repeat(15));
    engine.stop();
    assert_eq!(engine.stderr().matches("listening proto=tcp").count(), 16);
}

/// `doctor` meets names that are not the engine's, and they may hold a token.
#[test]
fn doctor_shortens_tokens_of_names() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(format!("{T}.bak")), "").unwrap();
    let mut command = engine(&["doctor", "--data"]);
    let output = command.arg(folder.path()).stdout(std::process::Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("2bfbea1e…") && !said.contains(T), "{said}");
}
