//! What clients may take from an engine, and from each other: made-up tokens, more logs than descriptors, idle
//! connections by the thousand, senders that stop in the middle of a line, floods.
//!
//! `ENGINE_LIMITS_FULL=1` runs the full sizes, which need some 11,000 descriptors and some minutes in a debug build.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(clippy::print_stderr, reason = "figures beside the verdict")]

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use socket2::{Domain, Socket, Type};

use support::hostile::Random;
use support::http::get;
use support::process::{Engine, logs, now, read_to_end, send, wait_until};
use support::require_tool;

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const U: &str = "00112233-4455-6677-8899-aabbccddeeff";
/// Bytes of one write of a client.
const PIECE_BYTES: usize = 64 * 1024;

/// The size of a test, cut down unless the environment asks for the full one.
fn size(short: usize, full: usize) -> usize {
    if std::env::var_os("ENGINE_LIMITS_FULL").is_some_and(|value| value == "1") { full } else { short }
}

/// Clients need descriptors in this process too.
fn need_descriptors(count: usize) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let enough = limit.maximum.is_none_or(|most| most > count as u64 + 200);
    assert!(enough, "the hard descriptor limit is {:?}; this needs {count} and some", limit.maximum);
}

fn numbered(token: &str, range: std::ops::Range<usize>) -> Vec<u8> {
    range.flat_map(|i| format!("{token} line {i}\n").into_bytes()).collect()
}

fn entries_of(range: std::ops::Range<usize>) -> Vec<u8> {
    range.flat_map(|i| format!("line {i}\n").into_bytes()).collect()
}

/// Lines whose tokens nobody has used before, so that each would make a log.
fn send_made_up(engine: &Engine, seed: u64, lines: usize) {
    let mut random = Random::new(seed);
    let mut stream = engine.connect();
    let mut piece = Vec::new();
    for _ in 0..lines {
        piece.extend(format!("{} made up\n", random.token()).into_bytes());
        if piece.len() > PIECE_BYTES {
            stream.write_all(&piece).unwrap();
            piece.clear();
        }
    }
    send(stream, &[&piece]).unwrap();
}

/// Nobody has given the engine a list: whoever connects makes logs, but only so many, and nobody else suffers.
#[test]
fn made_up_tokens_fill_neither_memory_nor_disk() {
    const CLIENTS: usize = 4;
    let lines = size(40_000, 2_000_000);
    // The full size meets the defaults: 100,000 in all, 500 a second after the first 10,000.
    let mut flags = vec!["--shards", "2", "--buffer-bytes", "8MiB"];
    if lines < 100_000 {
        flags.extend(["--tokens-max", "300"]);
    }
    let mut engine = Engine::start_with_small_pages(&flags);
    let from = now();
    let mut own = engine.connect();
    own.write_all(&numbered(T, 0..1)).unwrap();
    engine.wait_for_log(T, b"line 0\n");
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let engine = &engine;
            scope.spawn(move || send_made_up(engine, client as u64, lines / CLIENTS));
        }
        for i in 1..500 {
            own.write_all(&numbered(T, i..i + 1)).unwrap();
        }
        engine.wait_for_log(T, &entries_of(0..500));
    });
    let resident = engine.resident_kib();
    let seconds = usize::try_from(from.elapsed().as_secs()).unwrap() + 2;
    drop(own);
    let summary = engine.stop();
    let made = logs(engine.data()).len();
    let most = if lines < 100_000 { 300 } else { 10_000 + 500 * seconds };
    eprintln!("{lines} made-up tokens: {made} logs in {seconds} s, {resident} KiB resident");
    assert!(made <= most, "{made} logs, at most {most} were allowed");
    assert!(made >= most.min(10_000), "{made} logs");
    assert_eq!(summary.get("lines"), (lines + 500) as u64);
    assert_eq!(summary.get("entries"), (made - 1 + 500) as u64);
    assert_eq!(summary.get("rejected.too_many_tokens"), (lines + 1 - made) as u64);
    // The buffers and receive rings of two shards, 24 MiB for the program itself, and 300 bytes a log.
    assert!(resident < 2 * (8 + 2) * 1024 + 24 * 1024 + most as u64 * 300 / 1024, "{resident} KiB");
    assert_eq!(engine.log_bytes(T), entries_of(0..500));
}

/// Many times more logs than the engine may have files open, written to in turns.
#[test]
fn more_logs_than_descriptors_are_all_stored() {
    const CLIENTS: usize = 4;
    const ROUNDS: usize = 2;
    if !require_tool("prlimit") {
        return;
    }
    let each = size(2000, 10_000) / CLIENTS;
    let folder = tempfile::tempdir().unwrap();
    let mut engine = Engine::start_with_descriptors(512, &folder.path().join("data"), &[]);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let stream = engine.connect();
            scope.spawn(move || {
                let mut random = Random::new(client as u64);
                let tokens: Vec<String> = (0..each).map(|_| random.token()).collect();
                let line = |round| tokens.iter().flat_map(move |token| numbered(token, round..round + 1));
                let bytes: Vec<u8> = (0..ROUNDS).flat_map(line).collect();
                send(stream, &bytes.chunks(PIECE_BYTES).collect::<Vec<_>>()).unwrap();
            });
        }
    });
    let summary = engine.stop();
    assert_eq!(summary.get("entries"), (CLIENTS * each * ROUNDS) as u64);
    let stored: BTreeSet<String> = logs(engine.data()).into_iter().collect();
    assert_eq!(stored.len(), CLIENTS * each);
    for token in &stored {
        assert_eq!(engine.log_bytes(token), entries_of(0..ROUNDS), "{token}");
    }
}

/// Connections that nothing comes from.
fn idle(engine: &Engine, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| engine.connect()).collect()
}

/// Waits until everything that connected before has been accepted: a line of the last one in each queue gets through.
fn settle(engine: &Engine, token: &str, before: &mut Vec<u8>) {
    for _ in 0..16 {
        send(engine.connect(), &[format!("{token} settled\n").as_bytes()]).unwrap();
        before.extend(b"settled\n");
    }
    engine.wait_for_log(token, before);
}

/// The kernel's part of a connection is not counted.
#[test]
fn an_idle_connection_costs_at_most_512_bytes() {
    let count = size(4000, 10_000);
    need_descriptors(count);
    // What a sync of the first entries brings into memory is no cost of a connection either.
    let mut engine = Engine::start_with_small_pages(&["--shards", "1", "--sync", "none"]);
    let mut settled = Vec::new();
    // Whatever the first connections bring into memory is no cost of one more.
    let first = idle(&engine, 100);
    settle(&engine, T, &mut settled);
    let before = engine.resident_kib();
    let more = idle(&engine, count);
    settle(&engine, T, &mut settled);
    let grown = engine.resident_kib().saturating_sub(before) * 1024;
    eprintln!("{count} idle connections: {grown} bytes, {} each", grown / count as u64);
    assert!(grown <= 512 * count as u64, "{grown} bytes for {count} connections");
    drop((first, more));
    assert_eq!(engine.stop().get("connections"), (count + 100 + 32) as u64);
}

/// One stops in the middle of a line, one has hardly a window for what it never gets, many say nothing: the others go on.
#[test]
fn silent_and_stopped_peers_harm_nobody() {
    let silent = size(500, 5000);
    need_descriptors(silent);
    let mut engine = Engine::start(&[]);
    let held = idle(&engine, silent);

    // A sender of its own process, stopped by a signal.
    let stopped = engine.connect();
    let out = Stdio::from(OwnedFd::from(stopped.try_clone().unwrap()));
    let mut sender = Command::new("cat").stdin(Stdio::piped()).stdout(out).spawn().unwrap();
    let mut input = sender.stdin.take().unwrap();
    input.write_all(format!("{U} whole\n{U} hal").as_bytes()).unwrap();
    engine.wait_for_log(U, b"whole\n");
    kill_process(Pid::from_child(&sender), Signal::STOP).unwrap();
    input.write_all(b"f and ").unwrap();

    let narrow = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    narrow.set_recv_buffer_size(1).unwrap();
    narrow.connect(&engine.addr().into()).unwrap();
    let mut narrow = TcpStream::from(narrow);

    let others: Vec<String> = (0..8).map(|client| Random::new(client + 1).token()).collect();
    std::thread::scope(|scope| {
        for token in &others {
            let stream = engine.connect();
            scope.spawn(move || send(stream, &[&numbered(token, 0..20_000)]).unwrap());
        }
        narrow.write_all(&numbered(T, 0..20_000)).unwrap();
    });
    for token in &others {
        engine.wait_for_log(token, &entries_of(0..20_000));
    }
    engine.wait_for_log(T, &entries_of(0..20_000));

    kill_process(Pid::from_child(&sender), Signal::CONT).unwrap();
    input.write_all(b"half\n").unwrap();
    engine.wait_for_log(U, b"whole\nhalf and half\n");
    drop((input, held, narrow));
    sender.wait().unwrap();
    stopped.shutdown(Shutdown::Both).unwrap();
    let summary = engine.stop();
    assert_eq!(summary.get("entries"), 9 * 20_000 + 2);
    assert_eq!(summary.rejected(), 0);
}

/// Floods fill every receive buffer; what others send beside them is stored while they go on, and theirs is too.
#[test]
fn floods_leave_room_for_slow_senders_and_are_stored_whole() {
    const FLOODS: usize = 3;
    const LINES: usize = 400_000;
    let mut engine = Engine::start(&["--shards", "1"]);
    let tokens: Vec<String> = (0..FLOODS).map(|client| Random::new(client as u64).token()).collect();
    std::thread::scope(|scope| {
        for token in &tokens {
            let stream = engine.connect();
            scope.spawn(move || {
                // Empty lines cost the engine most per byte.
                let bytes = [&vec![b'\n'; 32 << 20], &numbered(token, 0..LINES)[..], &vec![b'\n'; 8 << 20]].concat();
                send(stream, &[&bytes]).unwrap();
            });
        }
        let mut slow: Vec<TcpStream> = idle(&engine, 50);
        for i in 0..20 {
            for stream in &mut slow {
                stream.write_all(format!("{T} round {i}\n").as_bytes()).unwrap();
            }
            let stored: Vec<u8> = (0..=i).flat_map(|i| format!("round {i}\n").repeat(50).into_bytes()).collect();
            engine.wait_for_log(T, &stored);
        }
        for mut stream in slow {
            stream.shutdown(Shutdown::Write).unwrap();
            read_to_end(&mut stream).unwrap();
        }
    });
    let summary = engine.stop();
    assert_eq!(summary.get("entries"), (FLOODS * LINES + 50 * 20) as u64);
    assert_eq!(summary.get("rejected.empty"), ((FLOODS * 40) << 20) as u64);
    for token in &tokens {
        assert!(engine.log_bytes(token) == entries_of(0..LINES), "{token} differs");
    }
}

/// One address opens more connections than it may: the newest are closed and counted, and told of without a name.
#[test]
fn an_address_past_its_share_is_told_of_once() {
    let mut engine = Engine::start(&["--connections-per-ip-max", "5"]);
    let mut stored = Vec::new();
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut stream = engine.connect();
        stream.write_all(format!("{T} x\n").as_bytes()).unwrap();
        stored.extend(b"x\n");
        engine.wait_for_log(T, &stored);
        held.push(stream);
    }
    for _ in 0..3 {
        // A reset, perhaps before the handshake has been heard of.
        let ended = TcpStream::connect(engine.addr()).and_then(|mut stream| read_to_end(&mut stream));
        assert!(ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
    }
    let told = engine.wait_for_line(|line| line.contains("reason=connections_per_ip"));
    assert!(told.ends_with(" warn connection closed reason=connections_per_ip seen=1 peer=127.0.0.1"), "{told}");
    drop(held);
    let summary = engine.stop();
    assert_eq!((summary.get("connections"), summary.get("connections_refused")), (5, 3));
    assert!(!engine.stderr().contains(" 127.0.0.1"), "no peer is named");
}

/// However many connections wait: there are never more than may be, also where the kernel would hand over a whole queue.
#[test]
fn a_full_accept_queue_is_taken_one_by_one() {
    const MAX: usize = 10;
    const WAITING: usize = 300;
    need_descriptors(MAX + WAITING);
    let max = MAX.to_string();
    let mut engine = Engine::start(&["--connections-max", &max, "--shards", "1", "--admin", "127.0.0.1:0"]);
    let open = || {
        let metrics = get(engine.admin(), "/metrics").body;
        let gauge = metrics.lines().find_map(|line| line.strip_prefix("engine_connections{")).unwrap().to_owned();
        gauge.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let mut held: Vec<TcpStream> = (0..MAX + WAITING).map(|_| engine.connect()).collect();
    assert!(wait_until(|| open() == MAX));
    let told = engine.wait_for_line(|line| line.contains("--connections-max"));
    assert!(told.ends_with("as many connections as --connections-max allows, newcomers wait seen=1"), "{told}");
    for left in (0..3 * MAX).rev() {
        drop(held.remove(0));
        let most = open();
        assert!(most <= MAX, "{most} connections, {left} to go");
    }
    drop(held);
    let summary = engine.stop();
    assert_eq!(summary.get("connections"), (MAX + WAITING) as u64);
    assert!(summary.get("accept_pauses") > 1, "one for the crowd, and one each time that somebody took a free place");
}
