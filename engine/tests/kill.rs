//! The real binary, killed under load and started again: of every connection and log a prefix of whole lines is there,
//! none twice, NULs included, on a disk and in memory.
//!
//! `ENGINE_KILLS=n` sets how many times it is killed on each.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use support::process::{Engine, connect, engine, entries, finish, now, segments, wait_until};

const KILLS: u64 = 5;
/// Of one data directory.
const KILLS_OF_ONE: u64 = 10;
const CONNECTIONS: u64 = 4;
const LOGS: u64 = 12;

fn token(log: u64) -> String {
    format!("2bfbea1e-0000-4000-8000-{log:012x}")
}

/// Sends numbered lines until the engine is gone.
fn push(address: std::net::SocketAddr, round: u64, connection: u64) {
    let mut stream = connect(address);
    for line in 0.. {
        let (to, filler) = (token(line % LOGS), "\0y\0".repeat(usize::try_from(line % 97).unwrap()));
        if stream.write_all(format!("{to} {round}:{connection}:{line} {filler}end\n").as_bytes()).is_err() {
            return;
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

/// Every line as it was sent, and for each round and connection every line of the log up to the last.
fn check(data: &Path) -> u64 {
    let mut count = 0;
    for log in 0..LOGS {
        let mut next: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for entry in entries(data, &token(log)) {
            let entry = String::from_utf8(entry).unwrap();
            let (numbers, rest) = entry.split_once(' ').unwrap();
            let numbers: Vec<u64> = numbers.split(':').map(number).collect();
            let [round, connection, line] = numbers[..] else { panic!("{entry:?}") };
            let filler = "\0y\0".repeat(usize::try_from(line % 97).unwrap());
            assert_eq!(rest, format!("{filler}end"), "{entry:?}");
            let expected = next.entry((round, connection)).or_insert(log);
            assert_eq!(line, *expected, "log {log}: {entry:?}");
            *expected += LOGS;
            count += 1;
        }
    }
    count
}

/// Bytes of all logs.
fn size(data: &Path) -> u64 {
    let lengths = (0..LOGS).flat_map(|log| segments(data, &token(log)));
    lengths.map(|segment| std::fs::metadata(segment).unwrap().len()).sum()
}

/// Logs of which something is stored.
fn logs_with_bytes(data: &Path) -> u64 {
    let stored = |log: &u64| segments(data, &token(*log)).iter().any(|path| std::fs::metadata(path).unwrap().len() > 0);
    (0..LOGS).filter(stored).count() as u64
}

fn kill_again_and_again(folder: &Path) {
    let kills = std::env::var("ENGINE_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut stored = 0;
    for round in 0..kills {
        // All that is stored is read after each.
        let data = folder.join(format!("data-{}", round / KILLS_OF_ONE));
        stored = if round % KILLS_OF_ONE == 0 { 0 } else { stored };
        let sync = ["none", "interval", "batch"][usize::try_from(round % 3).unwrap()];
        let shards = ["1", "2"][usize::try_from(round % 2).unwrap()];
        let mut engine = Engine::start_in(
            &data,
            &["--sync", sync, "--shards", shards, "--segment-bytes", "1MiB", "--sync-interval", "20ms"],
        );
        let (address, before) = (engine.addr(), size(&data));
        let clients: Vec<_> =
            (0..CONNECTIONS).map(|connection| std::thread::spawn(move || push(address, round, connection))).collect();
        // The first lines of every log may still be on their way when much of the others is stored.
        let grows = || size(&data) > before + 200_000 && logs_with_bytes(&data) == LOGS;
        assert!(wait_until(grows), "nothing is stored");
        let until = now() + Duration::from_millis(round * 37 % 300);
        while now() < until {
            std::thread::yield_now();
        }
        engine.signal(Signal::KILL);
        drop(engine);
        for client in clients {
            client.join().unwrap();
        }
        let engine = Engine::start_in(&data, &[]);
        let recovered = engine.wait_for_line(|line| line.contains("recovered"));
        assert!(recovered.ends_with(" alarms=0"), "{recovered}");
        drop(engine);
        let count = check(&data);
        assert!(count > stored, "round {round}: {count} entries");
        stored = count;
        if round + 1 == kills || (round + 1) % KILLS_OF_ONE == 0 {
            assert_offsets(&data);
            std::fs::remove_dir_all(&data).unwrap();
        }
    }
}

/// After a stop in order everything is on the disk, and `ls` says so.
fn assert_offsets(data: &Path) {
    let mut last = Engine::start_in(data, &[]);
    last.stop();
    let listed = finish(engine(&["ls", "--json", "--data", data.to_str().unwrap()]));
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    for log in listed.as_array().unwrap() {
        assert!(log["offset_written"].as_u64().unwrap() > 0);
        assert_eq!(log["offset_synced"], log["offset_written"], "{log}");
    }
}

#[test]
fn a_killed_engine_leaves_prefixes_on_disk() {
    kill_again_and_again(tempfile::tempdir().unwrap().path());
}

#[test]
fn a_killed_engine_leaves_prefixes_in_memory() {
    kill_again_and_again(tempfile::tempdir_in("/dev/shm").unwrap().path());
}
