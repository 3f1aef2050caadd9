//! Real bytes through real sockets into real files, and what is stored and counted equals the oracle's word.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

use support::captures;
use support::hostile::{Random, hostile_bytes, pieces, random_cuts};
use support::oracle::{Framing, Oracle, Oversize};
use support::process::{Engine, Summary, assert_stored, connect, send};
use support::world::Expected;

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const LINE_BYTES_MAX: usize = 262_144;
/// Client threads: more than the machine has cores, so that connections overlap.
const CLIENTS: usize = 4;
/// One, as many as small machines have cores, and more than those.
const SHARDS: [&str; 3] = ["1", "2", "4"];

/// Sends one stream in these pieces. A peer that speaks another protocol is closed while it still writes.
fn send_stream(addr: SocketAddr, pieces: &[&[u8]], may_be_closed: bool) {
    let sent = send(connect(addr), pieces);
    assert!(may_be_closed || sent.is_ok(), "the engine closed the connection: {sent:?}");
}

fn oracle_of(framing: Framing, stream: &[u8], line_bytes_max: usize) -> Oracle {
    oracle_with(framing, stream, line_bytes_max, Oversize::Split)
}

fn oracle_with(framing: Framing, stream: &[u8], line_bytes_max: usize, oversize: Oversize) -> Oracle {
    let mut oracle = Oracle::new(line_bytes_max, oversize);
    oracle.feed(framing, stream);
    oracle
}

/// Whether the engine ends the connection before the peer does.
fn is_closed(oracle: &Oracle) -> bool {
    oracle.counters.http + oracle.counters.tls_on_plain + oracle.counters.bad_frame > 0
}

#[test]
fn every_capture_is_stored_as_the_oracle_says() {
    let streams = captures::streams();
    for ((framing, capture), shards) in streams.iter().flat_map(|stream| SHARDS.map(|shards| (stream, shards))) {
        let oracle = oracle_of(*framing, &capture.bytes, LINE_BYTES_MAX);
        let mut engine = Engine::start(&["--framing", framing.name(), "--shards", shards]);
        send_stream(engine.addr(), &[&capture.bytes], is_closed(&oracle));
        let summary = engine.stop();
        assert_stored(engine.data(), &oracle, &capture.name);
        summary.assert_equals(&oracle, &capture.name);
        if !is_closed(&oracle) {
            assert_eq!(summary.get("received_bytes"), u64::try_from(capture.bytes.len()).unwrap(), "{}", capture.name);
        }
    }
}

#[test]
fn cuts_of_a_stream_change_nothing() {
    for (seed, (framing, capture)) in (0..).zip(captures::streams()) {
        let oracle = oracle_of(framing, &capture.bytes, LINE_BYTES_MAX);
        let mut engine = Engine::start(&["--framing", framing.name()]);
        let cuts = random_cuts(seed, capture.bytes.len(), 200);
        send_stream(engine.addr(), &pieces(&capture.bytes, &cuts), is_closed(&oracle));
        let summary = engine.stop();
        assert_stored(engine.data(), &oracle, &capture.name);
        summary.assert_equals(&oracle, &capture.name);
    }
}

/// How often each entry of each log is there. Connections that share a log share no order.
fn tally<'a>(logs: impl Iterator<Item = (String, &'a [Vec<u8>])>) -> BTreeMap<(String, Vec<u8>), usize> {
    let mut tally = BTreeMap::new();
    for (token, entries) in logs {
        for entry in entries {
            *tally.entry((token.clone(), entry.clone())).or_default() += 1;
        }
    }
    tally
}

#[test]
fn every_capture_in_two_hundred_random_cuts() {
    SHARDS.into_iter().for_each(captures_in_random_cuts);
}

fn captures_in_random_cuts(shards: &str) {
    const CUTS: usize = 200;
    let captures = captures::lf();
    let mut engine = Engine::start(&["--shards", shards]);
    let addr = engine.addr();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let captures = &captures;
            scope.spawn(move || {
                for seed in (client..CUTS).step_by(CLIENTS) {
                    for (i, capture) in captures.iter().enumerate() {
                        let may_be_closed = is_closed(&oracle_of(Framing::Lf, &capture.bytes, LINE_BYTES_MAX));
                        let mut random = Random::new((seed * captures.len() + i).try_into().unwrap());
                        let n = 1 + random.below(8);
                        let cuts = random_cuts(random.next(), capture.bytes.len(), n);
                        send_stream(addr, &pieces(&capture.bytes, &cuts), may_be_closed);
                    }
                }
            });
        }
    });
    let summary = engine.stop();

    let mut oracle = Oracle::new(LINE_BYTES_MAX, Oversize::Split);
    for capture in captures.iter().flat_map(|capture| std::iter::repeat_n(capture, CUTS)) {
        oracle.stream_lf(&capture.bytes);
    }
    let wanted = tally(oracle.entries.iter().map(|(token, entries)| (token.clone(), &entries[..])));
    let stored: Vec<_> = oracle.entries.keys().map(|token| (token.clone(), engine.entries(token))).collect();
    let stored = tally(stored.iter().map(|(token, entries)| (token.clone(), &entries[..])));
    assert!(stored == wanted, "an entry is missing, doubled or damaged");
    summary.assert_equals(&oracle, "all captures");
}

/// Sends hostile streams with these seeds from several threads, and compares all that is stored.
fn hostile_streams(line_bytes_max: usize, seeds: std::ops::Range<u64>, oversize: Oversize) {
    for shards in SHARDS {
        hostile_streams_to(shards, Framing::Lf, line_bytes_max, seeds.clone(), oversize);
    }
}

fn hostile_streams_to(
    shards: &str,
    framing: Framing,
    line_bytes_max: usize,
    seeds: std::ops::Range<u64>,
    oversize: Oversize,
) {
    let limit = line_bytes_max.to_string();
    let mut args = vec!["--shards", shards, "--framing", framing.name()];
    args.extend(["--line-bytes-max", &limit, "--oversize", oversize.name()]);
    let stream_of = move |seed| {
        let stream = hostile_bytes(framing, seed, line_bytes_max);
        // Of a long frame that is cut short the engine keeps the pieces that were whole, the oracle does not.
        let mut expected = Expected::of(framing);
        expected.add_whole(&stream, line_bytes_max, oversize);
        (expected.counters == oracle_with(framing, &stream, line_bytes_max, oversize).counters).then_some(stream)
    };
    let mut engine = Engine::start(&args);
    let addr = engine.addr();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let seeds = seeds.clone();
            scope.spawn(move || {
                for seed in seeds.skip(client).step_by(CLIENTS) {
                    let Some(stream) = stream_of(seed) else { continue };
                    let may_be_closed = is_closed(&oracle_of(framing, &stream, line_bytes_max));
                    let cuts = random_cuts(seed, stream.len(), 100);
                    send_stream(addr, &pieces(&stream, &cuts), may_be_closed);
                }
            });
        }
    });
    let summary = engine.stop();
    // Streams share no token, so one oracle for all of them has each log's order right.
    let mut oracle = Oracle::new(line_bytes_max, oversize);
    seeds.filter_map(stream_of).for_each(|stream| oracle.feed(framing, &stream));
    let name = args.join(" ");
    assert_stored(engine.data(), &oracle, &name);
    summary.assert_equals(&oracle, &name);
}

#[test]
fn hostile_streams_with_tiny_limits() {
    hostile_streams(64, 0..100, Oversize::Split);
    hostile_streams(100, 100..200, Oversize::Split);
    hostile_streams(65, 200..250, Oversize::Truncate);
}

#[test]
fn hostile_frames_with_any_limit() {
    for framing in [Framing::Octet, Framing::Auto] {
        hostile_streams_to("1", framing, 64, 600..700, Oversize::Split);
        hostile_streams_to("2", framing, 100, 700..800, Oversize::Truncate);
        hostile_streams_to("4", framing, 4096, 800..900, Oversize::Split);
        hostile_streams_to("2", framing, LINE_BYTES_MAX, 900..950, Oversize::Split);
    }
}

#[test]
fn hostile_streams_with_the_default_limit() {
    hostile_streams(LINE_BYTES_MAX, 300..400, Oversize::Split);
}

#[test]
fn hostile_streams_with_a_page_as_the_limit() {
    hostile_streams(4096, 400..500, Oversize::Split);
    hostile_streams(4096, 500..550, Oversize::Truncate);
}

/// A drain takes what the socket holds, so nobody waits for anything here.
fn send_datagrams(engine: &mut Engine, datagrams: &[Vec<u8>]) -> Summary {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = engine.udp_addr();
    for datagram in datagrams {
        assert_eq!(socket.send_to(datagram, addr).unwrap(), datagram.len());
    }
    let summary = engine.stop();
    assert_eq!(summary.get("udp_kernel_drops"), 0);
    assert_eq!(summary.get("udp_lines"), summary.get("lines"));
    summary
}

const UDP: [&str; 3] = ["--udp", "127.0.0.1:0", "--udp-creates"];

#[test]
fn every_datagram_captured_is_stored_as_the_oracle_says() {
    let captures = captures::udp();
    assert!(captures.len() >= 8, "{}", captures.len());
    for (capture, shards) in captures.iter().flat_map(|capture| SHARDS.map(|shards| (capture, shards))) {
        let oracle = oracle_of(Framing::Udp, &capture.bytes, LINE_BYTES_MAX);
        let mut engine = Engine::start(&[&UDP[..], &["--shards", shards]].concat());
        let summary = send_datagrams(&mut engine, std::slice::from_ref(&capture.bytes));
        assert_stored(engine.data(), &oracle, &capture.name);
        summary.assert_equals(&oracle, &capture.name);
    }
}

#[test]
fn hostile_datagrams_with_any_limit() {
    for (shards, limit) in [("1", 64), ("2", 100), ("4", 4096), ("2", LINE_BYTES_MAX)] {
        let datagrams: Vec<Vec<u8>> = (0..200).map(|seed| hostile_bytes(Framing::Udp, seed, limit)).collect();
        let mut oracle = Oracle::new(limit, Oversize::Split);
        for datagram in &datagrams {
            oracle.feed(Framing::Udp, datagram);
        }
        let mut engine =
            Engine::start(&[&UDP[..], &["--shards", shards, "--line-bytes-max", &limit.to_string()]].concat());
        let summary = send_datagrams(&mut engine, &datagrams);
        let name = format!("--shards {shards} --line-bytes-max {limit}");
        assert_stored(engine.data(), &oracle, &name);
        summary.assert_equals(&oracle, &name);
    }
}

/// A sender that lets the kernel cut: the engine may get such datagrams together, and takes them apart.
#[test]
fn datagrams_that_come_together_are_told_apart() {
    const SEND: &str = r"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 103, 64)  # SOL_UDP, UDP_SEGMENT
s.sendto(sys.argv[2].encode(), ('127.0.0.1', int(sys.argv[1])))
";
    if !support::require_tool("python3") {
        return;
    }
    let mut engine = Engine::start(&UDP);
    // Each of 64 bytes, but for the last: without its own end, a datagram would run into the next one.
    let lines: Vec<String> = (0..60).map(|line| format!("{T} line {line:03} {}", "x".repeat(18))).collect();
    let together = [&lines.concat()[..], T, " short"].concat();
    let port = engine.udp_addr().port().to_string();
    let mut python = spawn(Command::new("python3").args(["-c", SEND, &port, &together]));
    assert!(python.wait().unwrap().success());
    let summary = engine.stop();
    let mut wanted: Vec<Vec<u8>> = lines.iter().map(|line| line.as_bytes()[37..].to_vec()).collect();
    wanted.push(b"short".to_vec());
    assert!(engine.entries(T) == wanted);
    assert_eq!((summary.get("udp_datagrams"), summary.get("udp_lines")), (61, 61));
}

const DOCUMENT_LINES: &str = "10000T My first log entry\nMy second T log entry with token inside\n";
const DOCUMENT_ENTRIES: &[u8] = b"10000 My first log entry\nMy second log entry with token inside\n";

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn netcat_delivers_the_documents_lines() {
    if !support::require_tool("nc") {
        return;
    }
    let mut engine = Engine::start(&[]);
    let port = engine.addr().port().to_string();
    let mut nc = spawn(Command::new("nc").args(["-N", "127.0.0.1", &port]));
    let mut stdin = nc.stdin.take().unwrap();
    stdin.write_all(DOCUMENT_LINES.replace('T', T).as_bytes()).unwrap();
    drop(stdin);
    nc.wait().unwrap();
    engine.stop();
    assert_eq!(engine.log_bytes(T), DOCUMENT_ENTRIES);
}

/// Telnet ends without sending all of its input once that has ended, so it stays open until the lines are stored.
#[test]
fn telnet_delivers_the_documents_lines() {
    if !support::require_tool("telnet") {
        return;
    }
    let mut engine = Engine::start(&[]);
    let port = engine.addr().port().to_string();
    let mut telnet = spawn(Command::new("telnet").args(["127.0.0.1", &port]));
    let mut stdin = telnet.stdin.take().unwrap();
    stdin.write_all(DOCUMENT_LINES.replace('T', T).as_bytes()).unwrap();
    engine.wait_for_log(T, DOCUMENT_ENTRIES);
    drop(stdin);
    telnet.wait().unwrap();
    engine.stop();
    assert_eq!(engine.log_bytes(T), DOCUMENT_ENTRIES);
}

#[test]
fn bash_delivers_the_documents_lines() {
    if !support::require_tool("bash") {
        return;
    }
    let mut engine = Engine::start(&[]);
    let script = r#"printf '%s' "$1" > "/dev/tcp/127.0.0.1/$2""#;
    let port = engine.addr().port().to_string();
    let lines = DOCUMENT_LINES.replace('T', T);
    let mut bash = spawn(Command::new("bash").args(["-c", script, "bash", &lines, &port]));
    assert!(bash.wait().unwrap().success());
    engine.stop();
    assert_eq!(engine.log_bytes(T), DOCUMENT_ENTRIES);
}

/// The clients leave without waiting: what they sent may still be in an accept queue when the engine drains.
#[test]
fn ten_thousand_short_connections_lose_nothing() {
    const CONNECTIONS: usize = 10_000;
    let mut engine = Engine::start(&[]);
    let addr = engine.addr();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                for i in (client..CONNECTIONS).step_by(CLIENTS) {
                    connect(addr).write_all(format!("{T} line {i:05}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let summary = engine.stop();
    let mut stored = engine.entries(T);
    stored.sort();
    let wanted: Vec<Vec<u8>> = (0..CONNECTIONS).map(|i| format!("line {i:05}").into_bytes()).collect();
    assert!(stored == wanted, "{} of {CONNECTIONS} lines are stored", stored.len());
    assert_eq!(summary.get("connections"), u64::try_from(CONNECTIONS).unwrap());
}

/// Unfinished lines of 75 MiB in all, more than may be carried: the longest are cut early, and nobody waits for them.
#[test]
fn unfinished_lines_do_not_stop_the_others() {
    const UNFINISHED: u64 = 300;
    let mut engine = Engine::start(&[]);
    let lines: Vec<(String, Vec<u8>)> = (0..UNFINISHED).map(unfinished_line).collect();
    let mut held = Vec::new();
    for (token, rest) in &lines {
        let mut stream = engine.connect();
        stream.write_all(token.as_bytes()).unwrap();
        stream.write_all(rest).unwrap();
        held.push(stream);
    }

    let mut other = engine.connect();
    let entries: Vec<String> = (0..1000).map(|i| format!("line {i}\n")).collect();
    for entry in &entries {
        other.write_all(format!("{T} {entry}").as_bytes()).unwrap();
    }
    engine.wait_for_log(T, entries.concat().as_bytes());

    for stream in held {
        send(stream, &[b"\n"]).unwrap();
    }
    drop(other);
    let summary = engine.stop();
    for (token, rest) in &lines {
        assert!(engine.entries(token).concat() == *rest, "{token}: the line's bytes are not all there");
    }
    assert_eq!(summary.get("lines"), UNFINISHED + 1000);
    assert_eq!(summary.rejected(), 0);
}

/// A line of exactly the limit, without its LF: a token of its own, and what follows it.
fn unfinished_line(seed: u64) -> (String, Vec<u8>) {
    let mut random = Random::new(seed);
    let token = random.token();
    let rest = (token.len()..LINE_BYTES_MAX).map(|_| *random.pick(b"abcdefghijklmnop")).collect();
    (token, rest)
}
