//! One test body, every driver: what peers send is in the files, whatever executes the shard's operations.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::config::{AdminAddress, CertificateFiles, Config, TcpListen};
use engine::diag::{Format, Level};
use engine::driver::sim::{Ending, Faults, PeerId, Sim};
use engine::engine::Engine;
use engine::framing::Framing;
use engine::metrics::Counters;
use engine::segment::parse_segment_name;
use engine::shard::{Command, ListenerConfig, PeerAddress, PerAddress, ShardConfig, SyncLevel};
use engine::store::keep::Rules;
use engine::tls::ClientCertificates;
use engine::wire::{Reject, Token};
use socket2::{Domain, Socket, Type};

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};

use support::hostile::hostile_stream;
use support::oracle::Oversize;
use support::tls::{self, Authority, Client, ECDSA, ED25519};
use support::world::{Expected, assert_conserved, config, finish_drain, token};

const LINE_BYTES_MAX: usize = 4096;
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
const SEGMENT_BYTES: u64 = 2000;
/// Connections that one address may have.
const PER_ADDRESS: usize = 50;

/// An engine with peers around it. Nothing here waits longer than a minute.
trait World {
    type Peer;

    fn connect(&mut self) -> Self::Peer {
        self.connect_from(1)
    }
    /// The same as 127.0.0.`host`.
    fn connect_from(&mut self, host: u8) -> Self::Peer;
    /// Sends all of it; waits while the window is closed.
    fn send(&mut self, peer: &mut Self::Peer, bytes: &[u8]);
    /// Sends a datagram.
    fn send_datagram(&mut self, bytes: &[u8]);
    /// Ends the peer's side of the stream, in order.
    fn close(&mut self, peer: &mut Self::Peer);
    /// Waits until everything sent has been received, and resets the connection.
    fn reset(&mut self, peer: Self::Peer);
    /// Waits until the engine has closed the connection.
    fn wait_until_closed(&mut self, peer: &mut Self::Peer);
    /// Waits until the log's segments hold exactly these bytes together.
    fn wait_until_stored(&mut self, token: Token, bytes: &[u8]);
    /// Lets at least the time between two rolls pass.
    fn let_a_roll_pass(&mut self);
    /// Drains; these peers close when they see the end of the engine's side, the others stay. Gives the counters.
    fn drain(&mut self, polite: Vec<Self::Peer>) -> Counters;
    /// A log's segments after the drain: base and bytes.
    fn segments(&self, token: Token) -> Vec<(u64, Vec<u8>)>;
    /// Logs after the drain.
    fn tokens(&self) -> Vec<Token>;
}

/// What every driver must do.
fn conformance<W: World>(mut new_with: impl FnMut(Framing) -> W) {
    frames_are_lines(new_with(Framing::Octet));
    a_bad_frame_ends_its_connection(new_with(Framing::Octet));
    both_framings_come_to_one_listener(new_with(Framing::Auto));
    datagrams_are_stored_like_lines(new_with(Framing::Lf));
    datagrams_make_no_logs(new_with(Framing::Lf));
    a_drain_takes_datagrams_that_were_sent(new_with(Framing::Lf));
    let mut new = || new_with(Framing::Lf);
    lines_are_stored_as_they_come(new());
    cuts_change_nothing(new());
    a_rest_before_the_end_is_a_line(new());
    a_reset_cuts_the_last_line(new());
    another_protocol_is_closed(new());
    long_lines_are_split(new());
    many_connections_share_logs(new());
    hostile_streams_equal_the_oracle(new());
    segments_roll_at_entries(new());
    a_drain_takes_what_was_sent(new());
    a_drain_cuts_those_who_stay(new());
    an_idle_engine_drains(new());
    an_address_has_its_share_of_connections(new());
}

fn lines_are_stored_as_they_come<W: World>(mut world: W) {
    let mut peer = world.connect();
    world.send(&mut peer, format!("{} first\n", token(1)).as_bytes());
    world.wait_until_stored(token(1), b"first\n");
    world.send(&mut peer, format!("second {} inside\r\nno token\n\n{} other", token(1), token(2)).as_bytes());
    world.send(&mut peer, b" log\n");
    world.wait_until_stored(token(1), b"first\nsecond inside\n");
    world.wait_until_stored(token(2), b"other log\n");
    let counters = world.drain(vec![peer]);
    assert_eq!((counters.connections, counters.entries, counters.lines), (1, 3, 5));
    assert_eq!((counters.rejected(Reject::NoToken), counters.rejected(Reject::Empty)), (1, 1));
    assert_eq!(world.tokens(), [token(1), token(2)]);
}

fn cuts_change_nothing<W: World>(mut world: W) {
    let line = format!("begin {} end\r\n", token(1));
    let mut peer = world.connect();
    let mut stored = Vec::new();
    for at in 1..line.len() {
        world.send(&mut peer, &line.as_bytes()[..at]);
        if at % 8 == 0 {
            // All before is in, so the cut is where it is meant to be.
            world.wait_until_stored(token(1), &stored);
        }
        world.send(&mut peer, &line.as_bytes()[at..]);
        stored.extend(b"begin end\n");
    }
    world.wait_until_stored(token(1), &stored);
    assert_eq!(world.drain(vec![peer]).entries, line.len() as u64 - 1);
}

fn a_rest_before_the_end_is_a_line<W: World>(mut world: W) {
    // Lines of two connections have no order, so the first is stored before the second begins.
    for (rest, stored) in [("no end", "no end\n"), ("half an end\r", "no end\nhalf an end\n")] {
        let mut peer = world.connect();
        world.send(&mut peer, format!("{} {rest}", token(1)).as_bytes());
        world.close(&mut peer);
        world.wait_until_closed(&mut peer);
        world.wait_until_stored(token(1), stored.as_bytes());
    }
    assert_eq!(world.drain(Vec::new()).rejected(Reject::Cut), 0);
}

fn a_reset_cuts_the_last_line<W: World>(mut world: W) {
    let mut peer = world.connect();
    world.send(&mut peer, format!("{} whole\n", token(1)).as_bytes());
    world.wait_until_stored(token(1), b"whole\n");
    world.send(&mut peer, format!("{} whole too\n{} in the mid", token(1), token(2)).as_bytes());
    world.wait_until_stored(token(1), b"whole\nwhole too\n");
    world.reset(peer);
    // Another one comes through as ever.
    let mut other = world.connect();
    world.send(&mut other, format!("{} after it\n", token(3)).as_bytes());
    world.wait_until_stored(token(3), b"after it\n");
    let counters = world.drain(vec![other]);
    assert_eq!((counters.entries, counters.rejected(Reject::Cut)), (3, 1));
    assert_eq!(world.tokens(), [token(1), token(3)]);
}

fn another_protocol_is_closed<W: World>(mut world: W) {
    for first in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\x02\x00"] {
        let mut peer = world.connect();
        world.send(&mut peer, first);
        world.wait_until_closed(&mut peer);
    }
    let counters = world.drain(Vec::new());
    assert_eq!((counters.rejected(Reject::Http), counters.rejected(Reject::TlsOnPlain)), (1, 1));
    assert_eq!(world.tokens(), []);
}

fn datagrams_are_stored_like_lines<W: World>(mut world: W) {
    let mut peer = world.connect();
    world.send(&mut peer, format!("{} by tcp\n", token(1)).as_bytes());
    world.wait_until_stored(token(1), b"by tcp\n");
    world.send_datagram(format!("{} one\r\n  more\n\n<13>host: {} two", token(1), token(1)).as_bytes());
    let mut stored = "by tcp\none\u{2028}  more\n<13>host: two\n".as_bytes().to_vec();
    world.wait_until_stored(token(1), &stored);
    // The largest datagram that there is.
    let head = format!("{} ", token(1));
    let content = vec![b'z'; 65_507 - head.len()];
    world.send_datagram(&[head.as_bytes(), &content].concat());
    let (first, rest) = content.split_at(LINE_BYTES_MAX - head.len());
    for piece in [first].into_iter().chain(rest.chunks(LINE_BYTES_MAX)) {
        stored.extend_from_slice(piece);
        stored.push(b'\n');
    }
    world.wait_until_stored(token(1), &stored);
    world.send_datagram(b"");
    let counters = world.drain(vec![peer]);
    assert_eq!((counters.lines, counters.udp_lines, counters.rejected(Reject::Empty)), (5, 4, 1));
    assert_eq!((counters.split_lines, counters.udp_kernel_drops), (1, 0));
    assert!(counters.udp_received_bytes > 65_507 && counters.received_bytes > counters.udp_received_bytes);
}

fn datagrams_make_no_logs<W: World>(mut world: W) {
    let mut peer = world.connect();
    world.send(&mut peer, format!("{} known\n", token(1)).as_bytes());
    world.wait_until_stored(token(1), b"known\n");
    for number in 2..10 {
        world.send_datagram(format!("{} nowhere\n{} here\n", token(number), token(1)).as_bytes());
    }
    let stored = [&b"known\n"[..], &b"here\n".repeat(8)].concat();
    world.wait_until_stored(token(1), &stored);
    let counters = world.drain(vec![peer]);
    assert_eq!((counters.lines, counters.rejected(Reject::UnknownToken)), (17, 8));
    assert_eq!(world.tokens(), [token(1)]);
}

fn a_drain_takes_datagrams_that_were_sent<W: World>(mut world: W) {
    const DATAGRAMS: u64 = 2000;
    let mut peer = world.connect();
    world.send(&mut peer, format!("{} 0\n", token(1)).as_bytes());
    world.wait_until_stored(token(1), b"0\n");
    for number in 1..=DATAGRAMS {
        world.send_datagram(format!("{} {number}", token(1)).as_bytes());
    }
    let counters = world.drain(vec![peer]);
    assert_eq!((counters.entries, counters.udp_datagrams), (DATAGRAMS + 1, DATAGRAMS));
}

fn frame(line: &str) -> Vec<u8> {
    format!("{} {line}", line.len()).into_bytes()
}

fn frames_are_lines<W: World>(mut world: W) {
    let mut peer = world.connect();
    world.send(&mut peer, &frame(&format!("{} first\n", token(1))));
    world.wait_until_stored(token(1), b"first\n");
    let second = frame(&format!("{} second\nof two\r\n", token(1)));
    let (length, rest) = second.split_at(1);
    world.send(&mut peer, length);
    world.send(&mut peer, rest);
    world.wait_until_stored(token(1), "first\nsecond\u{2028}of two\n".as_bytes());
    world.send(&mut peer, &frame("cut short")[..5]);
    world.close(&mut peer);
    world.wait_until_closed(&mut peer);
    let counters = world.drain(Vec::new());
    assert_eq!((counters.lines, counters.entries, counters.rejected(Reject::Cut)), (3, 2, 1));
}

fn a_bad_frame_ends_its_connection<W: World>(mut world: W) {
    let mut other = world.connect();
    world.send(&mut other, &frame(&format!("{} first\n", token(1))));
    let mut peer = world.connect();
    world.send(&mut peer, &[&frame(&format!("{} kept", token(2)))[..], b"no length"].concat());
    world.wait_until_closed(&mut peer);
    world.send(&mut other, &frame(&format!("{} second\n", token(1))));
    world.wait_until_stored(token(1), b"first\nsecond\n");
    world.wait_until_stored(token(2), b"kept\n");
    let counters = world.drain(vec![other]);
    assert_eq!((counters.lines, counters.entries, counters.rejected(Reject::BadFrame)), (4, 3, 1));
}

fn both_framings_come_to_one_listener<W: World>(mut world: W) {
    let (mut frames, mut lines) = (world.connect(), world.connect());
    world.send(&mut frames, &frame(&format!("<13>host: {} in a frame", token(1))));
    world.send(&mut lines, format!("{} on a line\n", token(2)).as_bytes());
    world.wait_until_stored(token(1), b"<13>host: in a frame\n");
    world.wait_until_stored(token(2), b"on a line\n");
    world.drain(vec![frames, lines]);
}

fn long_lines_are_split<W: World>(mut world: W) {
    let content = vec![b'x'; 3 * LINE_BYTES_MAX - 37];
    let line = [format!("{} ", token(1)).as_bytes(), &content].concat();
    let mut peer = world.connect();
    world.send(&mut peer, &line);
    world.send(&mut peer, b"\r\n");
    let first = &content[..LINE_BYTES_MAX - 37];
    let further = &content[..LINE_BYTES_MAX];
    world.wait_until_stored(token(1), &[first, b"\n", further, b"\n", further, b"\n"].concat());
    let counters = world.drain(vec![peer]);
    assert_eq!((counters.lines, counters.split_lines, counters.split_pieces, counters.entries), (1, 1, 2, 3));
}

fn many_connections_share_logs<W: World>(mut world: W) {
    const PEERS: u32 = 50;
    let mut peers: Vec<W::Peer> = (0..PEERS).map(|_| world.connect()).collect();
    for line in 0..40 {
        for (number, peer) in (0..PEERS).zip(&mut peers) {
            let to = token((number + line) % 10);
            world.send(peer, format!("{to} {number}:{line}\n").as_bytes());
        }
    }
    for peer in &mut peers {
        world.close(peer);
        world.wait_until_closed(peer);
    }
    let counters = world.drain(Vec::new());
    assert_eq!((counters.connections, counters.entries), (50, 2000));
    let mut last: BTreeMap<(u32, String), u32> = BTreeMap::new();
    for log in 0..10 {
        let bytes = log_bytes(&world, token(log));
        for entry in String::from_utf8(bytes).unwrap().lines() {
            let (peer, line) = entry.split_once(':').unwrap();
            let line: u32 = line.parse().unwrap();
            let before = last.insert((log, peer.to_owned()), line);
            assert!(before.is_none_or(|before| before + 10 == line), "log {log}: {entry} after {before:?}");
        }
    }
    assert_eq!(last.len(), 500);
}

fn hostile_streams_equal_the_oracle<W: World>(mut world: W) {
    let mut expected = Expected::new();
    for seed in 0..60 {
        let stream = hostile_stream(seed, LINE_BYTES_MAX);
        let mut one = Expected::new();
        one.add_whole(&stream, LINE_BYTES_MAX, Oversize::Split);
        if one.counters.http + one.counters.tls_on_plain > 0 {
            // Closed while the peer still writes: another case.
            continue;
        }
        expected.add_whole(&stream, LINE_BYTES_MAX, Oversize::Split);
        let mut peer = world.connect();
        for piece in stream.chunks(1000) {
            world.send(&mut peer, piece);
        }
        world.close(&mut peer);
        world.wait_until_closed(&mut peer);
    }
    let counters = world.drain(Vec::new());
    expected.assert_counted(&counters, "hostile streams");
    assert_eq!(world.tokens().len(), expected.logs.len());
    for (token, bytes) in &expected.logs {
        assert!(log_bytes(&world, token.parse().unwrap()) == *bytes, "{token} differs");
    }
}

fn segments_roll_at_entries<W: World>(mut world: W) {
    let mut peer = world.connect();
    let entry = [&b"y".repeat(700)[..], b"\n"].concat();
    let mut stored = Vec::new();
    for _ in 0..8 {
        world.send(&mut peer, &[format!("{} ", token(1)).as_bytes(), &entry].concat());
        stored.extend(&entry);
        world.wait_until_stored(token(1), &stored);
        world.let_a_roll_pass();
    }
    world.drain(vec![peer]);
    let segments = world.segments(token(1));
    let bases: Vec<u64> = segments.iter().map(|(base, _)| *base).collect();
    assert_eq!(bases, [0, 1402, 2804, 4206]);
    assert!(segments.iter().all(|(_, bytes)| bytes.len() == 1402));
}

fn a_drain_takes_what_was_sent<W: World>(mut world: W) {
    let stream: Vec<u8> = (0..20_000).flat_map(|line| format!("{} line {line}\n", token(1)).into_bytes()).collect();
    let mut peers = Vec::new();
    for _ in 0..4 {
        let mut peer = world.connect();
        world.send(&mut peer, &stream);
        peers.push(peer);
    }
    let counters = world.drain(peers);
    assert_eq!((counters.entries, counters.rejected(Reject::Cut)), (80_000, 0));
}

fn a_drain_cuts_those_who_stay<W: World>(mut world: W) {
    let mut peer = world.connect();
    world.send(&mut peer, format!("{} whole\n{} in the mid", token(1), token(2)).as_bytes());
    world.wait_until_stored(token(1), b"whole\n");
    let counters = world.drain(Vec::new());
    assert_eq!((counters.entries, counters.rejected(Reject::Cut)), (1, 1));
    world.wait_until_closed(&mut peer);
}

fn an_idle_engine_drains<W: World>(mut world: W) {
    let counters = world.drain(Vec::new());
    assert_eq!(counters, Counters::default());
}

fn an_address_has_its_share_of_connections<W: World>(mut world: W) {
    let mut stored = Vec::new();
    let mut admitted = |world: &mut W, host| {
        let mut peer = world.connect_from(host);
        world.send(&mut peer, format!("{} x\n", token(1)).as_bytes());
        stored.extend(b"x\n");
        world.wait_until_stored(token(1), &stored);
        peer
    };
    let mut peers: Vec<W::Peer> = (0..PER_ADDRESS).map(|_| admitted(&mut world, 2)).collect();
    for _ in 0..3 {
        let mut newest = world.connect_from(2);
        world.wait_until_closed(&mut newest);
    }
    peers.push(admitted(&mut world, 3));
    world.close(&mut peers[7]);
    world.wait_until_closed(&mut peers[7]);
    // Over TLS the peer hears of the end a moment before its place is free.
    world.let_a_roll_pass();
    peers[7] = admitted(&mut world, 2);
    let counters = world.drain(peers);
    assert_eq!((counters.connections, counters.connections_refused), (PER_ADDRESS as u64 + 2, 3));
    assert_eq!((counters.entries, counters.lines), (PER_ADDRESS as u64 + 2, PER_ADDRESS as u64 + 2));
}

fn log_bytes(world: &impl World, token: Token) -> Vec<u8> {
    world.segments(token).into_iter().flat_map(|(_, bytes)| bytes).collect()
}

fn conformance_config(framing: Framing) -> ShardConfig {
    let mut config = config(LINE_BYTES_MAX);
    config.listeners = vec![ListenerConfig::plain(framing)];
    config.udp_sockets = 1;
    config.logs.segment.bytes = SEGMENT_BYTES;
    config.per_address = PerAddress::new(PER_ADDRESS);
    config
}

// The io_uring driver, with real sockets and files.

/// Reads of a peer, and looks at files, end in an error after this.
const DEADLINE: Duration = Duration::from_mins(1);
/// Between two looks at a file.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

fn is_reset(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionReset | NotConnected | BrokenPipe)
}

struct Real {
    engine: Option<Engine>,
    folder: tempfile::TempDir,
    datagrams: UdpSocket,
    tls: Option<Arc<ClientConfig>>,
}

/// A client, which may speak TLS.
struct RealPeer {
    stream: TcpStream,
    tls: Option<Client>,
}

impl Real {
    fn new(shards: u16, framing: Framing, authority: Option<&Authority>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shard = conformance_config(framing);
        let certificates = authority.map(|authority| CertificateFiles {
            pairs: vec![authority.pair("localhost", ECDSA).write(folder.path())],
            client_ca: None,
            client_certs: ClientCertificates::default(),
            place: None,
        });
        let spoken = ListenerConfig { tls: certificates.is_some(), ..ListenerConfig::plain(framing) };
        let set = certificates.is_some().then_some(0);
        let config = Config {
            data: folder.path().join("data"),
            tcp: vec![TcpListen { address: "127.0.0.1:0".parse().unwrap(), spoken, certificates: set }],
            certificates: certificates.into_iter().collect(),
            handshakes_max: shard.handshakes_max,
            udp: vec!["127.0.0.1:0".parse().unwrap()],
            udp_creates: shard.udp_creates,
            shards,
            tokens: None,
            tokens_max: 1000,
            tokens_per_second: None,
            rejected_bytes_max: None,
            connections_max: None,
            connections_per_ip_max: PER_ADDRESS,
            line_bytes_max: shard.line_bytes_max,
            oversize: shard.oversize,
            buffer_bytes: shard.buffer_bytes,
            linger: shard.logs.linger,
            segment: shard.logs.segment,
            keep: Rules::default(),
            sync: SyncLevel::Interval(Duration::from_secs(1)),
            accept_loss: false,
            disk_free_min: Some(0),
            drain_timeout: shard.drain_timeout,
            admin: AdminAddress::Off,
            log_format: Format::Text,
            log_level: Level::Warn,
        };
        let engine = Engine::start(&config).unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagrams.connect(engine.udp_addresses()[0]).unwrap();
        let tls = authority.map(|authority| Arc::new(authority.client(&VERSIONS)));
        Self { engine: Some(engine), folder, datagrams, tls }
    }

    fn log_folder(&self, token: Token) -> PathBuf {
        self.folder.path().join("data").join(token.to_string())
    }
}

impl RealPeer {
    /// What has come, up to the end of the engine's side; the engine writes nothing that a client would read.
    fn read_to_end(&mut self) {
        let mut read = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut read) {
            assert!(is_reset(&error), "{error}");
        }
        let Some(client) = &mut self.tls else { return assert_eq!(read, b"", "the engine never writes") };
        client.give(&read).unwrap();
        assert_eq!(client.heard, b"", "the engine never writes");
    }

    /// Stops where the engine turns the connection away.
    fn shake_hands(&mut self) {
        let Some(client) = &mut self.tls else { return };
        let mut read = [0; 16_384];
        while client.connection.is_handshaking() {
            if self.stream.write_all(&client.take()).as_ref().is_err_and(is_reset) {
                return;
            }
            match self.stream.read(&mut read) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if is_reset(&error) => return,
                count => match count.unwrap() {
                    0 => return,
                    count => client.give(&read[..count]).unwrap(),
                },
            }
        }
        self.stream.write_all(&client.take()).unwrap();
    }
}

impl World for Real {
    type Peer = RealPeer;

    fn connect_from(&mut self, host: u8) -> RealPeer {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).unwrap();
        let connected = socket.connect(&self.engine.as_ref().unwrap().addresses()[0].into());
        // Whom the engine turns away may hear of it so soon.
        assert!(connected.as_ref().err().is_none_or(is_reset), "{connected:?}");
        let peer = TcpStream::from(socket);
        peer.set_read_timeout(Some(DEADLINE)).unwrap();
        peer.set_write_timeout(Some(DEADLINE)).unwrap();
        peer.set_nodelay(true).unwrap();
        let tls = self.tls.as_ref().map(|config| Client::new(config, "localhost"));
        let mut peer = RealPeer { stream: peer, tls };
        peer.shake_hands();
        peer
    }

    fn send(&mut self, peer: &mut RealPeer, bytes: &[u8]) {
        match &mut peer.tls {
            Some(client) => peer.stream.write_all(&client.seal(&[bytes])).unwrap(),
            None => peer.stream.write_all(bytes).unwrap(),
        }
    }

    fn send_datagram(&mut self, bytes: &[u8]) {
        self.datagrams.send(bytes).unwrap();
    }

    fn close(&mut self, peer: &mut RealPeer) {
        if let Some(client) = &mut peer.tls {
            peer.stream.write_all(&client.seal_end()).unwrap();
        }
        peer.stream.shutdown(Shutdown::Write).unwrap();
    }

    fn reset(&mut self, peer: RealPeer) {
        socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn wait_until_closed(&mut self, peer: &mut RealPeer) {
        peer.read_to_end();
    }

    #[expect(clippy::disallowed_methods, reason = "a deadline in real time")]
    fn wait_until_stored(&mut self, token: Token, bytes: &[u8]) {
        let until = std::time::Instant::now() + DEADLINE;
        while log_bytes(self, token) != bytes {
            assert!(std::time::Instant::now() < until, "{token}: waited in vain");
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn let_a_roll_pass(&mut self) {
        std::thread::sleep(2 * engine::limits::ROLL_GAP);
    }

    fn drain(&mut self, polite: Vec<RealPeer>) -> Counters {
        let engine = self.engine.take().unwrap();
        engine.drainer().drain();
        for mut peer in polite {
            self.wait_until_closed(&mut peer);
        }
        let outcome = engine.join().unwrap();
        assert_eq!(outcome.unstored_bytes, 0);
        assert_conserved(&outcome.counters, "conformance");
        outcome.counters
    }

    fn segments(&self, token: Token) -> Vec<(u64, Vec<u8>)> {
        let Ok(folder) = std::fs::read_dir(self.log_folder(token)) else { return Vec::new() };
        let names = folder.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut segments: Vec<_> = names
            .filter_map(|name| Some((parse_segment_name(&name)?.0, name)))
            .map(|(base, name)| (base, std::fs::read(self.log_folder(token).join(name)).unwrap()))
            .collect();
        segments.sort_unstable();
        segments
    }

    fn tokens(&self) -> Vec<Token> {
        let folder = std::fs::read_dir(self.folder.path().join("data")).unwrap();
        let names = folder.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut tokens: Vec<Token> = names.filter_map(|name| name.parse().ok()).collect();
        tokens.sort_unstable();
        tokens
    }
}

#[test]
fn io_uring_conforms() {
    conformance(|framing| Real::new(1, framing, None));
}

/// Nothing that a client sees depends on how many shards there are.
#[test]
fn several_shards_on_io_uring_conform() {
    conformance(|framing| Real::new(2, framing, None));
    conformance(|framing| Real::new(5, framing, None));
}

/// Nothing that a client sees depends on whether it speaks TLS.
#[test]
fn io_uring_conforms_over_tls() {
    let authority = Authority::new();
    conformance(|framing| Real::new(1, framing, Some(&authority)));
    conformance(|framing| Real::new(2, framing, Some(&authority)));
}

// The simulated driver.

struct Simulated(Sim, Option<Arc<ClientConfig>>);

impl World for Simulated {
    type Peer = (PeerId, Option<Client>);

    fn connect_from(&mut self, host: u8) -> Self::Peer {
        let from = PeerAddress::v4([127, 0, 0, host]);
        match &self.1 {
            Some(config) => {
                let (peer, mut client) = (self.0.connect_from(from), Client::new(config, "localhost"));
                let turned_away = !tls::shake_hands(&mut self.0, peer, &mut client);
                assert!(!turned_away || self.0.is_gone(peer), "the handshake fails");
                (peer, Some(client))
            }
            None => (self.0.connect_from(from), None),
        }
    }

    fn send(&mut self, (peer, client): &mut Self::Peer, bytes: &[u8]) {
        let wire = client.as_mut().map_or_else(|| bytes.to_vec(), |client| client.seal(&[bytes]));
        self.0.send(*peer, &wire);
        self.0.run_until(|sim| sim.all_acknowledged(*peer));
    }

    fn send_datagram(&mut self, bytes: &[u8]) {
        while !self.0.send_datagram(bytes) {
            self.0.turn();
        }
    }

    fn close(&mut self, (peer, client): &mut Self::Peer) {
        if let Some(client) = client {
            self.0.send(*peer, &client.seal_end());
        }
        self.0.close(*peer);
    }

    fn reset(&mut self, (peer, _): Self::Peer) {
        self.0.reset(peer);
    }

    fn wait_until_closed(&mut self, (peer, _): &mut Self::Peer) {
        self.0.run_until(|sim| sim.is_gone(*peer));
    }

    fn wait_until_stored(&mut self, token: Token, bytes: &[u8]) {
        self.0.run_until(|sim| sim.log_bytes(token) == bytes);
    }

    fn let_a_roll_pass(&mut self) {
        self.0.run_for(2 * engine::limits::ROLL_GAP);
    }

    fn drain(&mut self, polite: Vec<Self::Peer>) -> Counters {
        let polite: Vec<PeerId> = polite.iter().map(|(peer, _)| *peer).collect();
        self.0.command(&Command::Drain);
        finish_drain(&mut self.0, &polite);
        let outcome = self.0.outcome().unwrap();
        assert_eq!(outcome.unstored_bytes, 0);
        assert_conserved(&outcome.counters, "conformance");
        outcome.counters
    }

    fn segments(&self, token: Token) -> Vec<(u64, Vec<u8>)> {
        self.0.segments(token).map(|(base, bytes)| (base.0, bytes.to_vec())).collect()
    }

    fn tokens(&self) -> Vec<Token> {
        self.0.tokens().collect()
    }
}

#[test]
fn simulation_conforms() {
    for seed in 0..20 {
        conformance(|framing| Simulated(Sim::new(seed, Faults::none(), conformance_config(framing)), None));
    }
}

#[test]
fn simulation_conforms_over_tls() {
    let authority = Authority::new();
    let server = tls::server(&[&authority.pair("localhost", ED25519)]);
    let client = Arc::new(authority.client(&VERSIONS));
    for seed in 0..3 {
        conformance(|framing| {
            let config = tls::over_tls(conformance_config(framing), &server);
            Simulated(Sim::new(seed, Faults::none(), config), Some(Arc::clone(&client)))
        });
    }
}

#[test]
fn resets_are_seen_as_cuts() {
    let mut sim = Sim::new(1, Faults::none(), conformance_config(Framing::Lf));
    let peer = sim.connect();
    sim.send(peer, b"x");
    sim.reset(peer);
    sim.run_until(|sim| sim.ending(peer) == Ending::Cut);
}
