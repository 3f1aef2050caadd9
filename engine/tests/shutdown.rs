//! The end of the process: what was sent whole is stored, what was cut is counted, and nobody waits longer than needed.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use support::disk::SmallDisk;
use support::process::{DEADLINE, Engine, field, now, read_to_end, send};
use support::require_tool;

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
/// A drain that nobody should have to sit out: longer than all deadlines here.
const NEVER: &str = "10m";
/// One, as many as small machines have cores, and more than those.
const SHARDS: [&str; 3] = ["1", "2", "4"];

/// Connections that have sent one whole line each, and half of another.
fn half_written(engine: &Engine, connections: usize) -> Vec<TcpStream> {
    let connect = |i| {
        let mut stream = engine.connect();
        stream.write_all(format!("{T} whole {i:03}\n{T} half a li").as_bytes()).unwrap();
        stream
    };
    (0..connections).map(connect).collect()
}

fn whole_entries(connections: usize) -> Vec<Vec<u8>> {
    (0..connections).map(|i| format!("whole {i:03}").into_bytes()).collect()
}

fn sorted_entries(engine: &Engine) -> Vec<Vec<u8>> {
    let mut entries = engine.entries(T);
    entries.sort();
    entries
}

#[test]
fn an_idle_engine_ends_at_once() {
    let mut engine = Engine::start(&["--drain-timeout", NEVER]);
    let summary = engine.stop();
    assert_eq!((summary.get("connections"), summary.get("lines")), (0, 0));
}

/// The operator learns that it is a peer that is waited for …
#[test]
fn a_drain_says_that_it_waits_for_a_peer() {
    let mut engine = Engine::start(&["--drain-timeout", NEVER, "--shards", "2"]);
    let mut stream = engine.connect();
    stream.write_all(format!("{T} hello\n").as_bytes()).unwrap();
    engine.wait_for_log(T, b"hello\n");
    engine.sigterm();
    let said = engine.wait_for_line(|line| line.contains("still draining"));
    assert_eq!((field(&said, "connections"), field(&said, "unwritten_bytes")), (Some("1".into()), Some("0".into())));
    drop(stream);
    assert_eq!(engine.drained().get("entries"), 1);
}

/// … or storage.
#[test]
fn a_drain_says_that_it_waits_for_storage() {
    let Some(disk) = SmallDisk::mount("size=4m") else { return };
    let args = ["--disk-free-min", "0", "--drain-timeout", NEVER];
    let mut engine = Engine::start_in(&disk.path().join("data"), &args);
    let mut stream = engine.connect();
    stream.write_all(format!("{T} {}\n", "x".repeat(1000)).repeat(8_000).as_bytes()).unwrap();
    engine.wait_for_line(|line| line.contains("storage refuses"));
    drop(stream);
    engine.sigterm();
    let said = engine.wait_for_line(|line| line.contains("still draining"));
    let unwritten: u64 = field(&said, "unwritten_bytes").unwrap().parse().unwrap();
    assert!(unwritten > 0, "{said}");
    disk.remount("size=64m");
    assert_eq!(engine.drained().get("entries"), 8_000);
}

#[test]
fn sigint_drains_too() {
    let mut engine = Engine::start(&["--drain-timeout", NEVER]);
    send(engine.connect(), &[format!("{T} hello\n").as_bytes()]).unwrap();
    engine.signal(Signal::INT);
    assert_eq!(engine.drained().get("entries"), 1);
    assert_eq!(engine.entries(T), [b"hello"]);
}

/// The peers neither send nor close: at the timeout they are cut.
#[test]
fn half_written_lines_are_cut_at_the_timeout() {
    SHARDS.into_iter().for_each(half_written_lines_are_cut);
}

fn half_written_lines_are_cut(shards: &str) {
    let mut engine = Engine::start(&["--shards", shards, "--drain-timeout", "300ms"]);
    let held = half_written(&engine, 50);
    let started = now();
    let summary = engine.stop();
    assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    assert_eq!(sorted_entries(&engine), whole_entries(50));
    assert_eq!((summary.get("lines"), summary.get("entries"), summary.get("rejected.cut")), (100, 50, 50));
    drop(held);
}

/// A close in order ends the last line in order: nothing is cut, and the drain is over when the last peer has gone.
#[test]
fn drain_ends_when_the_peers_have_closed() {
    SHARDS.into_iter().for_each(drain_ends_with_the_peers);
}

fn drain_ends_with_the_peers(shards: &str) {
    let mut engine = Engine::start(&["--shards", shards, "--drain-timeout", NEVER]);
    let held = half_written(&engine, 20);
    engine.sigterm();
    for mut stream in held {
        read_to_end(&mut stream).unwrap();
    }
    let summary = engine.drained();
    assert_eq!((summary.get("lines"), summary.get("rejected.cut")), (40, 0));
    let mut wanted = vec![b"half a li".to_vec(); 20];
    wanted.extend(whole_entries(20));
    assert_eq!(sorted_entries(&engine), wanted);
}

/// The engine has said that it will not write, and still reads.
#[test]
fn lines_under_way_during_the_drain_are_stored() {
    let mut engine = Engine::start(&["--drain-timeout", NEVER]);
    let mut stream = engine.connect();
    stream.write_all(format!("{T} before\n{T} be").as_bytes()).unwrap();
    engine.sigterm();
    read_to_end(&mut stream).unwrap();
    stream.write_all(format!("tween\n{T} after\n").as_bytes()).unwrap();
    drop(stream);
    let summary = engine.drained();
    assert_eq!(engine.log_bytes(T), b"before\nbetween\nafter\n");
    assert_eq!((summary.get("lines"), summary.rejected()), (3, 0));
}

#[test]
fn nobody_new_is_let_in_during_the_drain() {
    let mut engine = Engine::start(&["--drain-timeout", NEVER]);
    let mut stream = engine.connect();
    engine.sigterm();
    read_to_end(&mut stream).unwrap();
    let refused = TcpStream::connect_timeout(&engine.addr(), DEADLINE);
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    drop(stream);
    engine.drained();
}

#[test]
fn a_second_signal_cuts_the_drain_short() {
    SHARDS.into_iter().for_each(second_signal_cuts_short);
}

fn second_signal_cuts_short(shards: &str) {
    let mut engine = Engine::start(&["--shards", shards, "--drain-timeout", NEVER]);
    let mut held = half_written(&engine, 10);
    engine.sigterm();
    for stream in &mut held {
        read_to_end(stream).unwrap();
    }
    engine.sigterm();
    let summary = engine.drained();
    assert_eq!(sorted_entries(&engine), whole_entries(10));
    assert_eq!((summary.get("lines"), summary.get("rejected.cut")), (20, 10));
}

/// A reset is no end in order: the whole lines before it are stored, the rest is not a line.
#[test]
fn a_reset_cuts_the_last_line() {
    let mut engine = Engine::start(&[]);
    let mut stream = engine.connect();
    stream.write_all(format!("{T} whole\n{T} half a li").as_bytes()).unwrap();
    engine.wait_for_log(T, b"whole\n");
    reset_on_close(&stream);
    drop(stream);
    let summary = engine.stop();
    assert_eq!(engine.log_bytes(T), b"whole\n");
    assert_eq!((summary.get("lines"), summary.get("rejected.cut")), (2, 1));
}

/// Closing this socket will send a reset.
fn reset_on_close(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Lines that nobody rejects are stored, whether the peer has closed before or behind the signal.
#[test]
fn the_last_line_needs_no_lf() {
    let mut engine = Engine::start(&[]);
    let mut stream = engine.connect();
    stream.write_all(format!("{T} no end\r").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    let summary = engine.stop();
    assert_eq!(engine.log_bytes(T), b"no end\n");
    assert_eq!((summary.get("lines"), summary.rejected()), (1, 0));
}

/// 400 connections with a line each, and descriptors for fewer: the queue empties as peers answer the half-close.
#[test]
fn a_queue_longer_than_the_descriptors_is_stored() {
    const CONNECTIONS: usize = 400;
    if !require_tool("prlimit") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let args = ["--disk-free-min", "0", "--shards", "1", "--drain-timeout", NEVER];
    let mut engine = Engine::start_with_descriptors(256, &folder.path().join("data"), &args);
    let connect = |_| {
        let mut stream = engine.connect();
        stream.write_all(format!("{T} a line\n").as_bytes()).unwrap();
        stream
    };
    let streams: Vec<TcpStream> = (0..CONNECTIONS).map(connect).collect();
    engine.sigterm();
    let peers = streams.into_iter().map(|mut stream| std::thread::spawn(move || read_to_end(&mut stream).unwrap()));
    peers.collect::<Vec<_>>().into_iter().for_each(|peer| peer.join().unwrap());
    assert_eq!(engine.drained().get("entries"), CONNECTIONS as u64);
    assert_eq!(engine.entries(T).len(), CONNECTIONS);
}

/// Connections that are idle, or that end a buffer with a CR, hold no memory and no turn that another one needs.
#[test]
fn a_carriage_return_from_everybody_stops_nobody() {
    let mut engine = Engine::start(&["--shards", "1", "--buffer-bytes", "4MiB"]);
    let connect = |_| {
        let mut stream = engine.connect();
        stream.write_all(b"\r").unwrap();
        stream
    };
    let held: Vec<TcpStream> = (0..500).map(connect).collect();
    send(engine.connect(), &[format!("{T} hello\n").as_bytes()]).unwrap();
    engine.wait_for_log(T, b"hello\n");
    drop(held);
    let summary = engine.stop();
    assert_eq!((summary.get("entries"), summary.get("rejected.empty")), (1, 500));
}
