//! What peers may do to a port of a running engine: the wrong protocol, records that nobody needs, handshakes that never
//! end, datagrams faster than anybody can take them. All of it is counted, nothing of it is stored, nobody else suffers,
//! and afterwards the engine is idle.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(clippy::print_stderr, reason = "figures beside the verdict")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::wire::Reject;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ConnectionTrafficSecrets, ContentType, ProtocolVersion};
use tempfile::TempDir;

use support::captures;
use support::hostile::{Random, hostile_bytes, pieces, random_cuts};
use support::oracle::{Framing, Oracle, Oversize};
use support::process::{DEADLINE, Engine, assert_stored, logs, send, wait_until};
use support::tls::{Authority, Client, ECDSA};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const U: &str = "00112233-4455-6677-8899-aabbccddeeff";
const LINE_BYTES_MAX: usize = 262_144;

/// An engine with a TLS port, and what its clients need.
struct World {
    engine: Engine,
    clients: Arc<ClientConfig>,
    _folder: TempDir,
}

impl World {
    fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (certificate, key) = authority.pair("localhost", ECDSA).write(folder.path());
        let files = ["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
        let engine = Engine::start(&[&["--tls", "127.0.0.1:0"], &files[..], args].concat());
        let mut clients = authority.client(&[&TLS12, &TLS13]);
        clients.enable_secret_extraction = true;
        Self { engine, clients: Arc::new(clients), _folder: folder }
    }

    /// A connection to the TLS port that has said nothing.
    fn tls(&self) -> TcpStream {
        let stream = TcpStream::connect(self.engine.tls_addr()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// A connection whose handshake is made.
    fn connect(&self) -> (TcpStream, Client) {
        let (mut stream, mut client) = (self.tls(), Client::new(&self.clients, "localhost"));
        let mut read = [0; 16_384];
        while client.connection.is_handshaking() {
            stream.write_all(&client.take()).unwrap();
            let count = stream.read(&mut read).unwrap();
            client.give(&read[..count]).unwrap();
        }
        stream.write_all(&client.take()).unwrap();
        (stream, client)
    }
}

/// Writes what it may, and waits until the engine has ended the connection; gives what the engine said.
fn provoke(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    // The engine may have closed before all of it was written.
    drop(stream.write_all(bytes));
    let mut heard = Vec::new();
    let _closed_or_reset = stream.read_to_end(&mut heard);
    heard
}

/// Makes records that no library would make.
struct Forger {
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Forger {
    fn new(client: Client) -> Self {
        let suite = client.connection.negotiated_cipher_suite().unwrap().tls13().expect("TLS 1.3 is preferred");
        let (sequence, secrets) = client.connection.dangerous_extract_secrets().unwrap().tx;
        let (ConnectionTrafficSecrets::Aes256Gcm { key, iv } | ConnectionTrafficSecrets::Aes128Gcm { key, iv }) =
            secrets
        else {
            panic!("another cipher")
        };
        Self { encrypter: suite.aead_alg.encrypter(key, iv), sequence }
    }

    fn record(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let payload = OutboundChunks::Single(payload);
        let message = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_3, payload };
        let record = self.encrypter.encrypt(message, self.sequence).unwrap().encode();
        self.sequence += 1;
        record
    }
}

/// Processor time in a second in which nobody asks for anything; waits until there is a calm one.
fn assert_idle(engine: &Engine) {
    let mut used = Duration::MAX;
    let idle = (0..20).any(|_| {
        let before = engine.processor_time();
        std::thread::sleep(Duration::from_secs(1));
        used = engine.processor_time().saturating_sub(before);
        used <= Duration::from_millis(30)
    });
    assert!(idle, "the engine used {used:?} of processor time in a second in which nobody asked for anything");
}

#[test]
fn what_is_wrong_is_counted_and_leaves_the_engine_idle() {
    let mut world = World::start(&["--shards", "1"]);
    let hello = Client::new(&world.clients, "localhost").take();
    let mut random = Random::new(1);
    let mut garbage = vec![0x16, 3, 1];
    garbage.extend((0..3000).map(|_| u8::try_from(random.below(256)).unwrap()));
    for _ in 0..3 {
        assert_eq!(provoke(world.engine.connect(), &hello), b"");
        assert_eq!(provoke(world.tls(), format!("{T} plain\n").as_bytes()), b"");
        assert_eq!(provoke(world.tls(), format!("POST /v1/noformat/{T} HTTP/1.1\r\n\r\n").as_bytes()), b"");
        assert_eq!(provoke(world.engine.connect(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), b"");
        // What looks like TLS is told by an alert that it is none; so are records that are empty.
        assert_eq!(provoke(world.tls(), &garbage).first(), Some(&0x15));
        assert_eq!(provoke(world.tls(), &[0x16, 3, 1, 0, 0].repeat(1000)).first(), Some(&0x15));
        // A fatal alert instead of a handshake needs no answer.
        provoke(world.tls(), &[0x16, 3, 1, 0, 1, 1, 0x15, 3, 1, 0, 2, 2, 40]);
    }

    // A record for each byte, each of them followed by an empty one.
    let (mut stream, client) = world.connect();
    let mut forger = Forger::new(client);
    let line = format!("{T} byte by byte\n");
    for byte in line.as_bytes() {
        let one = forger.record(ContentType::ApplicationData, &[*byte]);
        let empty = forger.record(ContentType::ApplicationData, &[]);
        stream.write_all(&[one, empty].concat()).unwrap();
    }
    world.engine.wait_for_log(T, b"byte by byte\n");
    // Empty records alone.
    let empty: Vec<u8> = (0..2000).flat_map(|_| forger.record(ContentType::ApplicationData, &[])).collect();
    stream.write_all(&empty).unwrap();
    // A warning, which ends nothing in the middle of a line or everything; then a fatal alert.
    stream.write_all(&forger.record(ContentType::ApplicationData, format!("{U} begun").as_bytes())).unwrap();
    stream.write_all(&forger.record(ContentType::Alert, &[2, 40])).unwrap();
    provoke(stream, &forger.record(ContentType::ApplicationData, b" never whole\n"));

    // One that stops in the middle of a record, and stays.
    let (mut stopped, mut client) = world.connect();
    let wire = client.seal(&[format!("{U} stopped\n").as_bytes()]);
    stopped.write_all(&wire[..wire.len() - 1]).unwrap();
    let (mut stream, mut client) = world.connect();
    stream.write_all(&client.seal(&[format!("{T} beside it\n").as_bytes()])).unwrap();
    world.engine.wait_for_log(T, b"byte by byte\nbeside it\n");
    assert_idle(&world.engine);
    stopped.write_all(&wire[wire.len() - 1..]).unwrap();
    world.engine.wait_for_log(U, b"stopped\n");
    drop((stopped, stream));

    let summary = world.engine.stop();
    let rejected = ["tls_on_plain", "plain_on_tls", "http", "cut"].map(|name| summary.get(&format!("rejected.{name}")));
    assert_eq!((rejected, summary.rejected()), ([3, 6, 3, 1], 13));
    assert_eq!((summary.get("entries"), summary.get("tls_broken")), (3, 1));
    assert_eq!((summary.get("tls_handshakes.full"), summary.get("tls_handshakes.failed")), (3, 3 * 5));
    assert_eq!(logs(world.engine.data()), [U, T]);
}

/// The captures of TLS clients over real TLS, one line in a record and cut up, in both versions.
#[test]
fn captures_over_tls_are_stored_as_the_oracle_says() {
    let tls: Vec<_> = captures::lf().into_iter().filter(|capture| capture.transport.starts_with("TLS")).collect();
    assert!(tls.len() >= 12, "{}", tls.len());
    // One after the other on one shard: they share logs, in this order.
    let mut world = World::start(&["--shards", "1"]);
    let mut oracle = Oracle::new(LINE_BYTES_MAX, Oversize::Split);
    for (seed, capture) in (0..).zip(&tls) {
        let lines: Vec<&[u8]> = capture.bytes.split_inclusive(|&byte| byte == b'\n').collect();
        let cut = pieces(&capture.bytes, &random_cuts(seed, capture.bytes.len(), 100));
        for (records, wire_cuts) in [(lines, 0), (cut, 200)] {
            oracle.feed(Framing::Lf, &capture.bytes);
            let (mut stream, mut client) = world.connect();
            let wire = [client.seal(&records), client.seal_end()].concat();
            for piece in pieces(&wire, &random_cuts(seed, wire.len(), wire_cuts)) {
                stream.write_all(piece).unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
            client.give(&provoke(stream, b"")).unwrap();
            assert_eq!(client.heard, b"", "{}", capture.name);
        }
    }
    let summary = world.engine.stop();
    assert_stored(world.engine.data(), &oracle, "captures over TLS");
    summary.assert_equals(&oracle, "captures over TLS");
}

/// Handshakes that were begun and stand still, many more than may be made at a time: who is connected is served as ever,
/// who comes is served beside those who have not said all of their hello, and after the others have gone.
#[test]
fn half_open_handshakes_harm_nobody_who_is_connected() {
    let full = std::env::var_os("ENGINE_LIMITS_FULL").is_some_and(|value| value == "1");
    let count = if full { 5000 } else { 500 };
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let mut world = World::start(&["--shards", "1", "--handshakes-max", "16"]);
    let hello = Client::new(&world.clients, "localhost").take();
    let begin = |world: &World, count: usize, hello: &[u8]| -> Vec<TcpStream> {
        let begin = |_| {
            let mut stream = world.tls();
            stream.write_all(hello).unwrap();
            stream
        };
        (0..count).map(begin).collect()
    };
    let half = begin(&world, count, &hello[..hello.len() / 2]);
    let (mut stream, mut client) = world.connect();
    let whole = begin(&world, 100, &hello);
    world.engine.wait_for_line(|line| line.contains("tls handshakes wait for the end of others"));
    let mut stored = Vec::new();
    for number in 0..200 {
        stream.write_all(&client.seal(&[format!("{T} {number}\n").as_bytes()])).unwrap();
        stored.extend(format!("{number}\n").into_bytes());
        world.engine.wait_for_log(T, &stored);
        if number % 20 == 0 {
            send(world.engine.connect(), &[format!("{U} {number}\n").as_bytes()]).unwrap();
        }
    }
    drop((half, whole));
    let (mut late, mut client) = world.connect();
    late.write_all(&client.seal(&[format!("{T} late\n").as_bytes()])).unwrap();
    stored.extend(b"late\n");
    world.engine.wait_for_log(T, &stored);
    assert_idle(&world.engine);
    drop((stream, late));
    let summary = world.engine.stop();
    assert_eq!((summary.get("entries"), summary.rejected()), (211, 0));
    let handshakes = ["full", "left", "timeout"].map(|result| summary.get(&format!("tls_handshakes.{result}")));
    assert_eq!((handshakes[0], handshakes[1] + handshakes[2]), (2, count as u64 + 100));
}

const SENDERS: usize = 2;
/// Of each sender.
const DATAGRAMS: usize = 40_000;

/// Datagrams as fast as they can be sent, one of ten for the log `T`.
fn flood(sockets: &[UdpSocket], to: SocketAddr, seed: u64) {
    std::thread::scope(|scope| {
        for (sender, sockets) in (0..).zip(sockets.chunks(sockets.len() / SENDERS)) {
            scope.spawn(move || {
                let mut random = Random::new(10 * seed + sender);
                let text = "x".repeat(200);
                for number in 0..DATAGRAMS {
                    let token = if number % 10 == 0 { T.to_owned() } else { random.token() };
                    let socket = &sockets[number / 100 % sockets.len()];
                    socket.send_to(format!("{token} {text}\n").as_bytes(), to).unwrap();
                }
            });
        }
    });
}

/// As many datagrams as a socket takes, nine of ten of them with tokens that nobody knows: what was sent is what came and
/// what the kernel says it dropped, and no token makes a file.
#[test]
fn datagrams_at_full_speed_are_stored_or_counted() {
    for shards in ["1", "2"] {
        let mut engine = Engine::start(&["--udp", "127.0.0.1:0", "--shards", shards]);
        send(engine.connect(), &[format!("{T} made\n{U} made\n").as_bytes()]).unwrap();
        engine.wait_for_log(T, b"made\n");
        engine.wait_for_log(U, b"made\n");
        let addr = engine.udp_addr();
        // It takes nothing for a while, so that the sockets' buffers are too small in any case.
        engine.signal(Signal::STOP);
        let sockets: Vec<UdpSocket> = (0..64).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        flood(&sockets, addr, 1);
        engine.signal(Signal::CONT);
        flood(&sockets, addr, 2);
        // Every shard's socket tells of its drops with the next datagram that it receives.
        let mut sent = 2 * SENDERS * DATAGRAMS;
        for (number, socket) in sockets.iter().enumerate() {
            let arrived = wait_until(|| {
                socket.send_to(format!("{U} {number}\n").as_bytes(), addr).unwrap();
                sent += 1;
                engine.log_bytes(U).ends_with(format!("\n{number}\n").as_bytes())
            });
            assert!(arrived, "{number} of {} does not come", sockets.len());
        }
        let summary = engine.stop();
        let [came, dropped] = ["udp_datagrams", "udp_kernel_drops"].map(|name| summary.get(name));
        eprintln!("{shards} shards: {came} came, {dropped} dropped by the kernel");
        assert_eq!(came + dropped, sent as u64, "{shards} shards");
        assert!(dropped > 0, "{shards} shards");
        assert_eq!((summary.get("udp_lines"), summary.get("lines")), (came, came + 2), "{shards} shards");
        assert_eq!(summary.get("entries") + summary.get("rejected.unknown_token"), came + 2, "{shards} shards");
        let known = engine.entries(T).len() + engine.entries(U).len();
        assert_eq!(summary.get("entries"), known as u64, "{shards} shards");
        assert_eq!(logs(engine.data()), [U, T], "a made-up token has a directory");
    }
}

/// Bytes in all files of the logs, and of rejected lines.
fn bytes_of_logs(data: &Path) -> u64 {
    let rejected = Reject::NO_LOG.map(|reason| format!("_rejected/{}", reason.name()));
    let folders = logs(data).into_iter().chain(rejected).filter_map(|log| std::fs::read_dir(data.join(log)).ok());
    let files = folders.flatten().map(|file| file.unwrap());
    // The second name of the active segment.
    files.filter(|file| file.file_name() != "current").map(|file| file.metadata().unwrap().len()).sum()
}

/// Whatever is sent, what is written of it is no more than what came, 64 bytes for each line or piece of one, and two for
/// each LF inside a line: for all hostile streams, in all framings, as datagrams, and over TLS, rejected lines kept.
#[test]
fn nothing_is_amplified() {
    const SEEDS: u64 = 30;
    for framing in [Framing::Lf, Framing::Octet, Framing::Auto, Framing::Udp] {
        for limit in [64, 4096, LINE_BYTES_MAX] {
            let udp = ["--udp", "127.0.0.1:0", "--udp-creates", "--rejected", "keep"];
            let limit_arg = limit.to_string();
            let name = if framing == Framing::Udp { "lf" } else { framing.name() };
            let mut world = World::start(&[&["--framing", name, "--line-bytes-max", &limit_arg], &udp[..]].concat());
            let (mut sent, mut inner) = (0, 0);
            for seed in 0..if limit == LINE_BYTES_MAX { SEEDS / 5 } else { SEEDS } {
                let bytes = hostile_bytes(framing, seed, limit);
                sent += bytes.len();
                // More than are inside lines.
                inner += if framing == Framing::Lf { 0 } else { memchr::memchr_iter(b'\n', &bytes).count() };
                if framing == Framing::Udp {
                    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                    socket.send_to(&bytes, world.engine.udp_addr()).unwrap();
                } else if seed % 3 == 0 {
                    let (stream, mut client) = world.connect();
                    let wire = [client.seal(&[&bytes]), client.seal_end()].concat();
                    provoke(stream, &wire);
                } else {
                    let _may_be_closed_before = send(world.engine.connect(), &[&bytes]);
                }
            }
            let summary = world.engine.stop();
            let written = bytes_of_logs(world.engine.data());
            assert!(written >= summary.get("entry_bytes") && summary.get("entries") > 0);
            assert!(summary.get("kept_lines") > 0, "{framing:?} with {limit}");
            // Nobody counts the further pieces of lines that are kept.
            let kept_pieces = (sent / limit) as u64;
            let lines = summary.get("lines") + summary.get("split_pieces") + kept_pieces;
            let most = sent as u64 + 64 * lines + 2 * inner as u64;
            eprintln!("{framing:?} with {limit}: {sent} sent, {written} written, {lines} lines and pieces");
            assert!(written <= most, "{framing:?} with {limit}: {written} bytes written, {most} allowed");
            // The sharp bound: an entry is its line without the token, an LF at its end, U+2028 for each inner LF.
            let sharp = sent as u64 + summary.get("split_pieces") + 2 * inner as u64;
            assert!(summary.get("entry_bytes") <= sharp, "{framing:?} with {limit}");
        }
    }
}
