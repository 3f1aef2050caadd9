//! What the disk and memory may do to an engine: a full one stops the reading, not the process; nothing is lost.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use support::disk::SmallDisk;
use support::http::Metrics;
use support::process::{Engine, engine, now, read_to_end, segments, send, wait_until};

const MIB: usize = 1 << 20;

fn token(log: usize) -> String {
    format!("{log:08x}-10c3-4419-bdad-7e6435882e1f")
}

/// Entries of one log, numbered, about 1,000 bytes each.
fn numbered(log: usize, entries: std::ops::Range<usize>) -> Vec<u8> {
    let filler = "x".repeat(950);
    entries.flat_map(|entry| format!("{} {entry:08} {filler}\n", token(log)).into_bytes()).collect()
}

fn assert_complete(engine: &Engine, log: usize, entries: usize) {
    let stored = engine.entries(&token(log));
    let numbers = stored.iter().map(|entry| std::str::from_utf8(&entry[..8]).unwrap().parse::<usize>().unwrap());
    assert!(numbers.eq(0..entries), "log {log}: {} entries of {entries}, or another order", stored.len());
}

/// 200 MiB meet a disk of 64 MiB that grows later: every entry is there once, in order.
#[test]
fn a_full_disk_stops_the_reading_until_there_is_room() {
    full_disk_stops_the_reading("1", "64MiB");
    full_disk_stops_the_reading("2", "16MiB");
}

fn full_disk_stops_the_reading(shards: &str, buffer_bytes: &str) {
    const LOGS: usize = 8;
    const ENTRIES: usize = 25 * MIB / 1000;
    let Some(disk) = SmallDisk::mount("size=64m") else { return };
    let flags = ["--shards", shards, "--buffer-bytes", buffer_bytes, "--disk-free-min", "0"];
    let mut engine = Engine::start_in(&disk.path().join("data"), &flags);
    let senders = (0..LOGS).map(|log| {
        let stream = engine.connect();
        std::thread::spawn(move || send(stream, &[&numbered(log, 0..ENTRIES)]).unwrap())
    });
    let senders: Vec<_> = senders.collect();
    engine.wait_for_line(|line| line.contains("storage refuses"));
    assert!(senders.iter().any(|sender| !sender.is_finished()), "200 MiB do not fit 64 MiB and the budget");
    // The budgets, the receive rings and what the program itself needs.
    assert!(engine.resident_kib() < 120 * 1024, "{} KiB", engine.resident_kib());
    disk.remount("size=512m");
    engine.wait_for_line(|line| line.contains("storage works again"));
    for sender in senders {
        sender.join().unwrap();
    }
    assert_eq!(engine.stop().get("entries"), (LOGS * ENTRIES) as u64);
    for log in 0..LOGS {
        assert_complete(&engine, log, ENTRIES);
    }
}

/// Room for the bytes but not for one more file: a new log waits, the old one goes on after.
#[test]
fn a_disk_without_inodes_keeps_what_it_is_given() {
    let Some(disk) = SmallDisk::mount("size=64m,nr_inodes=12") else { return };
    let mut engine = Engine::start_in(&disk.path().join("data"), &["--disk-free-min", "0"]);
    let stream = engine.connect();
    let lines: Vec<u8> = (0..20).flat_map(|log| numbered(log, 0..1)).collect();
    let sender = std::thread::spawn(move || send(stream, &[&lines]).unwrap());
    engine.wait_for_line(|line| line.contains("storage refuses"));
    disk.remount("nr_inodes=1000");
    sender.join().unwrap();
    assert_eq!(engine.stop().get("entries"), 20);
    for log in 0..20 {
        assert_complete(&engine, log, 1);
    }
}

/// Waits until storage refuses, makes room, and waits for what waited to go on: within a second, where that is measured.
fn refuse_and_make_room(engine: &Engine, disk: &SmallDisk, options: &str, stored: impl Fn() -> u64) {
    let is_ok = || Metrics::of(engine.admin()).get("engine_storage_state{state=\"ok\"}") == 1;
    assert!(wait_until(|| !is_ok()), "storage does not refuse");
    // The reserve may still take something.
    let mut last = stored();
    let settled = || {
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut last, stored()) == last
    };
    assert!(wait_until(settled), "it goes on and on");
    let room = now();
    disk.remount(options);
    assert!(wait_until(|| stored() > last), "it does not go on");
    // A clock is asked only where nothing else runs.
    let is_measured = std::env::var_os("ENGINE_LIMITS_FULL").is_some();
    assert!(!is_measured || room.elapsed() < Duration::from_secs(1), "it went on after {:?}", room.elapsed());
}

/// Ten times full, of bytes and then of inodes, and ten times room: every entry is there once and in order.
#[test]
fn ten_times_full_and_nothing_is_lost() {
    const ENTRIES: usize = 8 * MIB / 1000;
    /// Bytes of an entry and its LF.
    const STORED: usize = 960;
    let Some(disk) = SmallDisk::mount("size=6m,nr_inodes=16") else { return };
    let flags =
        ["--disk-free-min", "0", "--buffer-bytes", "4MiB", "--line-bytes-max", "64KiB", "--admin", "127.0.0.1:0"];
    let mut engine = Engine::start_in(&disk.path().join("data"), &flags);
    let length = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().len();
    let size = |log| segments(engine.data(), &token(log)).iter().map(length).sum::<u64>();
    for cycle in 0..10 {
        let stream = engine.connect();
        let lines = numbered(0, cycle * ENTRIES..(cycle + 1) * ENTRIES);
        let sender = std::thread::spawn(move || send(stream, &[&lines]).unwrap());
        let room = format!("size={}", 6 * MIB + (cycle + 1) * ENTRIES * STORED);
        refuse_and_make_room(&engine, &disk, &room, || size(0));
        sender.join().unwrap();
        assert!(wait_until(|| size(0) == ((cycle + 1) * ENTRIES * STORED) as u64), "cycle {cycle}");
    }
    assert_complete(&engine, 0, 10 * ENTRIES);
    disk.remount("size=256m");
    for cycle in 0..10 {
        let stream = engine.connect();
        let logs = 1 + 20 * cycle..1 + 20 * (cycle + 1);
        let lines: Vec<u8> = logs.clone().flat_map(|log| numbered(log, 0..1)).collect();
        let sender = std::thread::spawn(move || send(stream, &[&lines]).unwrap());
        // A tmpfs counts the directory, the segment and its second name.
        let made = || logs.clone().filter(|&log| size(log) > 0).count() as u64;
        refuse_and_make_room(&engine, &disk, &format!("nr_inodes={}", 16 + 60 * (cycle + 1)), made);
        sender.join().unwrap();
        assert!(wait_until(|| made() == 20), "cycle {cycle}: {}\n{}", made(), engine.stderr());
    }
    assert_eq!(engine.stop().get("entries"), (10 * ENTRIES + 200) as u64);
    (1..201).for_each(|log| assert_complete(&engine, log, 1));
}

/// A drain that meets a full disk to the end says how much was not stored, and exits 1.
#[test]
fn a_disk_that_stays_full_is_an_error_at_the_end() {
    let Some(disk) = SmallDisk::mount("size=4m") else { return };
    let args = ["--disk-free-min", "0", "--drain-timeout", "300ms"];
    let mut engine = Engine::start_in(&disk.path().join("data"), &args);
    let mut stream = engine.connect();
    stream.write_all(&numbered(0, 0..8 * MIB / 1000)).unwrap();
    engine.wait_for_line(|line| line.contains("storage refuses"));
    engine.sigterm();
    assert_eq!(engine.wait_exit(), 1);
    let said = engine.wait_for_line(|line| line.contains("unstored_bytes="));
    assert!(said.contains(" error "), "{said}");
    // The unfinished last entry goes to quarantine, which needs room.
    disk.remount("size=64m");
    let restarted = Engine::start_in(engine.data(), &args);
    let stored = restarted.entries(&token(0));
    let prefix = numbered(0, 0..stored.len());
    let shown: Vec<u8> = stored.iter().flat_map(|entry| [token(0).as_bytes(), b" ", entry, b"\n"].concat()).collect();
    assert!(!stored.is_empty() && shown == prefix, "what is stored is a prefix of what was sent");
}

/// Below the minimum the reading stops before the disk is full; above it, it goes on.
#[test]
fn low_space_stops_the_reading() {
    let Some(disk) = SmallDisk::mount("size=64m") else { return };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 40 * MIB]).unwrap();
    let mut engine = Engine::start_in(&disk.path().join("data"), &["--disk-free-min", "32MiB"]);
    engine.wait_for_line(|line| line.contains("below --disk-free-min"));
    let stream = engine.connect();
    let sender = std::thread::spawn(move || send(stream, &[&numbered(0, 0..10)]).unwrap());
    std::fs::remove_file(&ballast).unwrap();
    engine.wait_for_line(|line| line.contains("above --disk-free-min"));
    sender.join().unwrap();
    assert_eq!(engine.stop().get("entries"), 10);
    assert_complete(&engine, 0, 10);
}

/// Sends a line of `mib` MiB and a short one; returns the engine's memory in KiB when the short one is stored.
fn send_endless(engine: &Engine, stream: &mut TcpStream, start: &str, mib: usize) -> u64 {
    let before = engine.log_bytes(&token(1));
    stream.write_all(start.as_bytes()).unwrap();
    let piece = vec![b'x'; MIB];
    for _ in 0..mib {
        stream.write_all(&piece).unwrap();
    }
    stream.write_all(format!("\n{} intact\n", token(1)).as_bytes()).unwrap();
    engine.wait_for_log(&token(1), &[&before[..], b"intact\n"].concat());
    engine.resident_kib()
}

/// A line of 1 GiB costs no memory, whether it is stored in pieces or rejected; the next line is intact.
#[test]
fn a_line_without_end_costs_no_memory() {
    for (start, stored) in [(token(0) + " ", true), ("no token ".into(), false)] {
        // Of a small budget all memory is soon touched, however slow the disk is meanwhile; in small pages, because a
        // huge one is 2 MiB.
        let mut engine = Engine::start_with_small_pages(&["--buffer-bytes", "4MiB"]);
        let mut stream = engine.connect();
        // Warm is an engine that has touched all memory of its own: several lines in a row cost nothing more.
        let (mut warm, mut steady, mut lines) = (0, 0, 1);
        while steady < 5 {
            let memory = send_endless(&engine, &mut stream, &start, 128);
            steady = if memory <= warm { steady + 1 } else { 0 };
            warm = warm.max(memory);
            lines += 1;
            assert!(lines < 50, "memory grows with every line: {warm} KiB, then {memory} KiB");
        }
        let after = send_endless(&engine, &mut stream, &start, 1024);
        assert!(after <= warm + 1024, "pieces stored: {stored}; {warm} KiB before, {after} KiB after");
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(&mut stream).unwrap();
        let summary = engine.stop();
        assert_eq!(summary.get("split_lines"), if stored { lines } else { 0 });
        assert_eq!(summary.get("rejected.no_token"), if stored { 0 } else { lines });
    }
}

/// SIGTERM ends a start that cannot go on: nothing was received, so that is a good end, and the next start goes on.
#[test]
fn a_start_that_waits_for_room_may_be_stopped() {
    let Some(disk) = SmallDisk::mount("size=8m") else { return };
    let data = disk.path().join("data");
    Engine::start_in(&data, &["--disk-free-min", "0"]).stop();
    // It would be given back for recovery; perhaps it was not made yet.
    drop(std::fs::remove_file(data.join("_journal/reserve")));
    let mut filler = std::fs::File::create(disk.path().join("filler")).unwrap();
    while filler.write(&[1; 4096]).is_ok_and(|count| count > 0) {}
    drop(filler);

    let mut command = engine(&["run", "--tcp", "127.0.0.1:0", "--admin", "off", "--disk-free-min", "0", "--data"]);
    let mut child = command.arg(&data).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains(" error recovery waits for room ")));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(said.any(|line| line.contains(" info stopped during recovery: ")));
    assert_eq!((child.wait().unwrap().code(), said.next()), (Some(0), None));

    std::fs::remove_file(disk.path().join("filler")).unwrap();
    Engine::start_in(&data, &["--disk-free-min", "0"]).stop();
}
