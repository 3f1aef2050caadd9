//! Behind a proxy: the header goes, the rest is stored as without one, and the client's address is the one that counts.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use engine::driver::sim::{Ending, Fault, Faults, PeerId, Sim, When};
use engine::framing::Framing;
use engine::limits::HANDSHAKE_TIMEOUT;
use engine::shard::{ListenerConfig, Notice, PeerAddress, PerAddress, ShardConfig};
use engine::wire::Reject;
use rustls::version::{TLS12, TLS13};

use support::captures;
use support::hostile::{pieces, random_cuts};
use support::http::Metrics;
use support::oracle::{self, Oversize};
use support::process::{DEADLINE, Engine, read_to_end, wait_until};
use support::tls::{Authority, Client, ECDSA, both, counters, handshakes, over_tls, shake_hands};
use support::world::{Expected, assert_conserved, config, drain, token};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const LINE_BYTES_MAX: usize = 262_144;
const PROXY: PeerAddress = PeerAddress([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]);

fn world(framing: Framing) -> ShardConfig {
    let mut config = config(LINE_BYTES_MAX);
    config.buffer_bytes = 16 * LINE_BYTES_MAX;
    let proxy_from = Arc::new(["10.0.0.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
    config.listeners = vec![ListenerConfig { proxy_from, ..ListenerConfig::plain(framing) }];
    config
}

fn v1(client: [u8; 4]) -> Vec<u8> {
    let [a, b, c, d] = client;
    format!("PROXY TCP4 {a}.{b}.{c}.{d} 203.0.113.1 51234 10000\r\n").into_bytes()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

/// Of both versions, with and without a client's address, short and long.
fn headers() -> Vec<Vec<u8>> {
    let addresses = [192, 0, 2, 7, 203, 0, 113, 1, 0xc8, 0x22, 0x27, 0x10];
    vec![
        v1([192, 0, 2, 7]),
        b"PROXY TCP6 2001:db8::7 2001:db8::1 51234 10000\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0x21, 0x11, &addresses),
        v2(0x21, 0x11, &[&addresses[..], &[0xea, 0, 3, 1, 2, 3, 0x04, 0, 0]].concat()),
        v2(0x21, 0x21, &[9; 36 + 5000]),
        v2(0x20, 0x00, &[]),
        v2(0x21, 0x31, &[b'x'; 216]),
    ]
}

fn send_all(sim: &mut Sim, peer: PeerId, bytes: &[u8], seed: u64) {
    for piece in pieces(bytes, &random_cuts(seed, bytes.len().min(200), 20)) {
        sim.send(peer, piece);
        sim.turn();
    }
}

fn end(sim: &mut Sim, peer: PeerId) {
    sim.close(peer);
    sim.run_until(|sim| sim.ending(peer) != Ending::Open);
}

#[test]
fn captures_behind_a_header_equal_the_oracle() {
    let faults = Faults::none().with(Fault::ShortReceive, When::OneIn(2));
    let (server, client_config) = both(&[&TLS13]);
    for (seed, (theirs, capture)) in (0..).zip(captures::streams()) {
        let framing = match theirs {
            oracle::Framing::Octet => Framing::Octet,
            oracle::Framing::Auto => Framing::Auto,
            oracle::Framing::Lf | oracle::Framing::Udp => Framing::Lf,
        };
        for (header, tls) in headers().into_iter().flat_map(|header| [(header.clone(), false), (header, true)]) {
            let case = format!(
                "{} as {theirs:?} behind {}, tls {tls}",
                capture.name,
                header[..header.len().min(50)].escape_ascii()
            );
            let config = if tls { over_tls(world(framing), &server) } else { world(framing) };
            let mut sim = Sim::new(seed, faults, config);
            let peer = sim.connect_from(PROXY);
            if tls {
                let mut client = Client::new(&client_config, "localhost");
                // Whatever the client says first may come together with the header.
                send_all(&mut sim, peer, &[&header[..], &client.take()].concat(), seed);
                assert!(shake_hands(&mut sim, peer, &mut client), "{case}");
                let wire = client.seal(&[&capture.bytes]);
                sim.send(peer, &wire);
            } else {
                send_all(&mut sim, peer, &[&header[..], &capture.bytes].concat(), seed);
            }
            end(&mut sim, peer);
            drain(&mut sim, &[]);
            let mut expected = Expected::of(theirs);
            expected.add_whole(&capture.bytes, LINE_BYTES_MAX, Oversize::Split);
            expected.assert_stored(&sim, &case);
            expected.assert_counted(&counters(&sim), &case);
            assert_eq!(counters(&sim).received_bytes, sim.delivered(), "{case}");
        }
    }
}

/// A peer that has reset its connection before it was accepted, and whatever it was: what it sent is taken as it is meant.
#[test]
fn a_header_of_nobody_is_taken_for_one() {
    let line = format!("{T} x\n").into_bytes();
    for header in headers().into_iter().chain([Vec::new(), b"\r\n".to_vec()]) {
        let mut sim = Sim::new(1, Faults::none(), world(Framing::Lf));
        let peer = sim.connect_from(None);
        sim.send(peer, &[&header[..], &line].concat());
        end(&mut sim, peer);
        drain(&mut sim, &[]);
        assert_eq!(sim.log_bytes(T.parse().unwrap()), b"x\n", "{}", header.escape_ascii());
        assert_eq!(counters(&sim).rejected(Reject::NoToken), 0);
    }
}

#[test]
fn without_a_valid_header_nothing_is_stored() {
    let line = format!("{T} x\n");
    let hello = Client::new(&both(&[&TLS13]).1, "localhost").take();
    let bad = [
        line.clone().into_bytes(),
        hello,
        format!("GET / HTTP/1.1\r\n{line}").into_bytes(),
        format!("PROXY TCP4 192.0.2.7\r\n{line}").into_bytes(),
        format!("PROXY UNKNOWN {}\r\n{line}", "x".repeat(100)).into_bytes(),
        [&v2(0x21, 0x11, &[0; 11]), line.as_bytes()].concat(),
    ];
    let (server, _) = both(&[&TLS13]);
    for tls in [false, true] {
        let mut sim =
            Sim::new(1, Faults::none(), if tls { over_tls(world(Framing::Lf), &server) } else { world(Framing::Lf) });
        for (seed, bytes) in (0..).zip(&bad) {
            let peer = sim.connect_from(PROXY);
            send_all(&mut sim, peer, bytes, seed);
            sim.run_until(|sim| sim.is_gone(peer));
            assert_eq!(sim.read(peer), b"", "what is no header is not answered");
        }
        let told = |notice: &Notice| matches!(notice, Notice::Closed { reason: "bad_proxy", .. });
        assert!(sim.notices().iter().any(told));
        drain(&mut sim, &[]);
        let counters = counters(&sim);
        assert_conserved(&counters, "bad headers");
        let all = bad.len() as u64;
        assert_eq!((counters.lines, counters.rejected(Reject::BadFrame), counters.entries), (all, all, 0));
        assert_eq!(counters.tls_lines, if tls { all } else { 0 });
        assert_eq!(handshakes(&counters), [0, 0, if tls { all } else { 0 }, 0, 0]);
        assert_eq!(sim.tokens().count(), 0);
    }
}

/// A proxy that looks whether anybody is there says nothing and leaves: that is nothing to count.
#[test]
fn a_header_that_the_end_cuts_short_is_a_cut() {
    for (sent, cut) in [(&b""[..], 0), (b"P", 1), (b"PROXY TCP4 192.0.2.7 203.0.113.1 1 2\r", 1), (b"\r\n\r\n", 1)] {
        for reset in [false, true] {
            let mut sim = Sim::new(1, Faults::none(), world(Framing::Octet));
            let peer = sim.connect_from(PROXY);
            sim.send(peer, sent);
            sim.run_for(Duration::from_millis(50));
            if reset {
                sim.reset(peer);
            } else {
                sim.close(peer);
            }
            sim.run_until(|sim| sim.ending(peer) != Ending::Open);
            drain(&mut sim, &[]);
            let counters = counters(&sim);
            assert_eq!((counters.lines, counters.rejected(Reject::Cut)), (cut, cut), "{}", sent.escape_ascii());
        }
    }
}

#[test]
fn a_header_has_ten_seconds_from_its_first_byte_and_a_handshake_from_its_turn() {
    let mut sim = Sim::new(1, Faults::none(), world(Framing::Lf));
    let (silent, slow) = (sim.connect_from(PROXY), sim.connect_from(PROXY));
    sim.run_for(2 * HANDSHAKE_TIMEOUT);
    assert!(!sim.is_gone(silent) && !sim.is_gone(slow));
    for byte in b"PROXY TCP" {
        sim.send(slow, &[*byte]);
        sim.run_for(HANDSHAKE_TIMEOUT / 10);
    }
    assert!(!sim.is_gone(slow));
    sim.run_for(HANDSHAKE_TIMEOUT / 5);
    assert!(sim.is_gone(slow));
    // Whoever was silent is heard as ever, and then may be silent again.
    sim.send(silent, &[&v1([192, 0, 2, 7]), format!("{} la", token(1)).as_bytes()].concat());
    sim.run_for(2 * HANDSHAKE_TIMEOUT);
    sim.send(silent, b"te\n");
    end(&mut sim, silent);
    drain(&mut sim, &[]);
    let plain = counters(&sim);
    assert_eq!((plain.lines, plain.rejected(Reject::BadFrame), sim.log_bytes(token(1))), (2, 1, b"late\n".to_vec()));

    let (server, _) = both(&[&TLS13]);
    let mut sim = Sim::new(1, Faults::none(), over_tls(world(Framing::Lf), &server));
    let peers = [&b""[..], b"PROXY", b"PROXY UNKNOWN\r\n"].map(|sent| {
        let peer = sim.connect_from(PROXY);
        sim.send(peer, sent);
        peer
    });
    sim.run_for(HANDSHAKE_TIMEOUT * 9 / 10);
    assert!(peers.iter().all(|peer| !sim.is_gone(*peer)));
    sim.run_for(HANDSHAKE_TIMEOUT / 5);
    assert!(peers.iter().all(|peer| sim.is_gone(*peer)));
    drain(&mut sim, &[]);
    assert_eq!((handshakes(&counters(&sim)), counters(&sim).lines), ([0, 0, 0, 0, 3], 0));
}

#[test]
fn clients_behind_a_proxy_have_their_own_share() {
    let (server, client_config) = both(&[&TLS13]);
    for tls in [false, true] {
        let mut config = if tls { over_tls(world(Framing::Lf), &server) } else { world(Framing::Lf) };
        config.per_address = PerAddress::new(2);
        let per_address = config.per_address.clone();
        let mut sim = Sim::new(1, Faults::none(), config);
        let come = |sim: &mut Sim, header: &[u8]| {
            let peer = sim.connect_from(PROXY);
            sim.send(peer, header);
            let mut client = Client::new(&client_config, "localhost");
            let allowed = !tls || shake_hands(sim, peer, &mut client);
            sim.run_for(Duration::from_millis(50));
            assert!(!tls || allowed != sim.is_gone(peer));
            (peer, !sim.is_gone(peer))
        };
        let (one, other) = (v1([192, 0, 2, 1]), v1([192, 0, 2, 2]));
        let first = come(&mut sim, &one);
        let shares = [first, come(&mut sim, &one), come(&mut sim, &one), come(&mut sim, &other)];
        assert_eq!(shares.map(|(_, stays)| stays), [true, true, false, true]);
        // The proxy itself has no share to use up, whoever it comes for.
        let own: Vec<_> = (0..5).map(|_| come(&mut sim, b"PROXY UNKNOWN\r\n")).collect();
        assert!(own.iter().all(|(_, stays)| *stays));
        // The share of one that has ended is free again.
        sim.close(first.0);
        sim.run_until(|sim| sim.is_gone(first.0));
        let more = [come(&mut sim, &one), come(&mut sim, &one)];
        assert_eq!(more.map(|(_, stays)| stays), [true, false]);
        assert_eq!(sim.notices().iter().filter(|notice| matches!(notice, Notice::Closed { .. })).count(), 1);
        drain(&mut sim, &[]);
        let counters = counters(&sim);
        assert_eq!((counters.connections, counters.connections_refused, counters.lines), (11, 2, 0));
        // Every share is free at the end.
        let client = PeerAddress::v4([192, 0, 2, 1]);
        assert!(per_address.take(client) && per_address.take(client) && !per_address.take(client));
    }
}

#[test]
fn a_header_of_somebody_else_is_lines_like_any_other() {
    let mut config = world(Framing::Lf);
    config.per_address = PerAddress::new(1);
    let mut sim = Sim::new(1, Faults::none(), config);
    let elsewhere = PeerAddress::v4([10, 0, 1, 1]);
    let mut expected = Expected::new();
    for header in headers() {
        let stream = [&header[..], b"\n", format!("{} x\n", token(1)).as_bytes()].concat();
        let peer = sim.connect_from(elsewhere);
        send_all(&mut sim, peer, &stream, 1);
        end(&mut sim, peer);
        expected.add_whole(&stream, LINE_BYTES_MAX, Oversize::Split);
    }
    drain(&mut sim, &[]);
    expected.assert_stored(&sim, "from elsewhere");
    expected.assert_counted(&counters(&sim), "from elsewhere");
    assert!(counters(&sim).rejected(Reject::NoToken) >= headers().len() as u64);
}

/// The binary, on one shard and on several, with and without TLS.
#[test]
fn a_running_engine_takes_headers() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.pair("localhost", ECDSA).write(folder.path());
    let client_config = Arc::new(authority.client(&[&TLS12, &TLS13]));
    for shards in ["1", "2"] {
        let mut engine = Engine::start(&[
            "--shards",
            shards,
            "--tls",
            "127.0.0.1:0",
            "--cert",
            certificate.to_str().unwrap(),
            "--key",
            key.to_str().unwrap(),
            "--proxy-from",
            "127.0.0.1",
            "--proxy-from",
            "2001:db8::/32",
            "--connections-per-ip-max",
            "1",
            "--admin",
            "127.0.0.1:0",
        ]);
        let mut stored = Vec::new();
        for (header, tls) in headers().into_iter().flat_map(|header| [(header.clone(), false), (header, true)]) {
            let addr = if tls { engine.tls_addr() } else { engine.addr() };
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream.write_all(&header).unwrap();
            let line = format!("{T} behind it\n");
            let mut heard = Vec::new();
            if tls {
                let mut client = rustls::StreamOwned::new(Client::new(&client_config, "localhost").connection, stream);
                client.write_all(line.as_bytes()).unwrap();
                client.conn.send_close_notify();
                client.flush().unwrap();
                client.read_to_end(&mut heard).unwrap();
                drop(client);
                // Over TLS a peer hears of its end before the connection has closed.
                let open = || Metrics::of(engine.admin()).sum("engine_connections{");
                assert!(wait_until(|| open() == 0), "{} are open", open());
            } else {
                stream.write_all(line.as_bytes()).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                stream.read_to_end(&mut heard).unwrap();
            }
            // It has ended: the next one of the same client has the only share again.
            assert_eq!(heard, b"");
            stored.extend(b"behind it\n");
        }
        engine.wait_for_log(T, &stored);
        let mut stream = engine.connect();
        stream.write_all(format!("{T} without\n").as_bytes()).unwrap();
        let _closed_or_reset = read_to_end(&mut stream);
        engine.wait_for_line(|line| line.contains(" warn connection closed reason=bad_proxy seen=1"));
        let summary = engine.stop();
        assert_eq!(engine.log_bytes(T), stored);
        let entries = 2 * headers().len() as u64;
        assert_eq!((summary.get("entries"), summary.get("rejected.bad_frame")), (entries, 1));
        assert_eq!((summary.get("lines"), summary.get("connections_refused")), (entries + 1, 0));
    }
}
