//! TLS: whatever the version, the records, the certificates and the cuts, what is stored equals the plain stream; and what
//! clients do wrong is counted, costs little, and harms nobody else.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use engine::buf::BufferPool;
use engine::driver::sim::{Fault, Faults, Sim, When};
use engine::framing::{Foreign, Framing, LineDecoder, LineSink};
use engine::handover::ShardId;
use engine::route::Ownership;
use engine::shard::{ListenerConfig, Notice, ShardConfig};
use engine::tls::{BadPair, ClientCertificates, Credentials, Handshake, Server, Session, Stop};
use engine::wire::{Reject, Token};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};

use support::captures;
use support::hostile::{Random, hostile_bytes, pieces};
use support::oracle::Oversize;
use support::tls::{
    Authority, Client, ECDSA, ED25519, Pair, RSA, VERSIONS, both, close, connect, counters, credentials, handshakes,
    over_tls, server, shake_hands,
};
use support::world::{Expected, assert_conserved, config, drain, token};

const LINE_BYTES_MAX: usize = 262_144;

fn world(server: &Server) -> ShardConfig {
    over_tls(config(4096), server)
}

// The same as without TLS.

/// How clients put lines into records.
fn records(kind: usize, stream: &[u8]) -> Vec<&[u8]> {
    match kind {
        // One line in each.
        0 => stream.split_inclusive(|&byte| byte == b'\n').collect(),
        // Four for each line: token, space, text, LF.
        1 => stream
            .split_inclusive(|&byte| byte == b'\n')
            .flat_map(|line| {
                let cuts: Vec<usize> =
                    [36, 37, line.len() - 1].into_iter().filter(|&cut| cut < line.len() && cut > 0).collect();
                let mut cuts = cuts;
                cuts.dedup();
                cuts.sort_unstable();
                pieces(line, &cuts)
            })
            .filter(|piece| !piece.is_empty())
            .collect(),
        // As full as they can be.
        _ => stream.chunks(16_384).collect(),
    }
}

#[test]
fn every_capture_over_tls_equals_plain() {
    let faults = Faults::none().with(Fault::ShortReceive, When::OneIn(2)).with(Fault::ShortTransmit, When::OneIn(2));
    for (seed, (framing, capture)) in (0..).zip(captures::streams()) {
        for (version, kind) in VERSIONS.into_iter().flat_map(|version| [(version, 0), (version, 1), (version, 2)]) {
            let case = format!("{} as {framing:?} in records of kind {kind} over {:?}", capture.name, version.version);
            let (server, client) = both(&[version]);
            let mut config = over_tls(config(LINE_BYTES_MAX), &server);
            config.listeners = vec![ListenerConfig::tls(ours(framing))];
            config.buffer_bytes = 16 * LINE_BYTES_MAX;
            let mut sim = Sim::new(seed, faults, config);
            let (peer, mut client) = connect(&mut sim, &client);
            let wire = client.seal(&records(kind, &capture.bytes));
            sim.send(peer, &wire);
            close(&mut sim, peer, &mut client);
            drain(&mut sim, &[]);
            let mut expected = Expected::of(framing);
            expected.add_whole(&capture.bytes, LINE_BYTES_MAX, Oversize::Split);
            expected.assert_stored(&sim, &case);
            expected.assert_counted(&counters(&sim), &case);
            assert_eq!(handshakes(&counters(&sim)), [1, 0, 0, 0, 0], "{case}");
            assert_eq!(counters(&sim).received_bytes, sim.delivered(), "{case}");
            assert_eq!(client.heard, b"", "{case}");
        }
    }
}

fn ours(framing: support::oracle::Framing) -> Framing {
    match framing {
        support::oracle::Framing::Octet => Framing::Octet,
        support::oracle::Framing::Auto => Framing::Auto,
        support::oracle::Framing::Lf | support::oracle::Framing::Udp => Framing::Lf,
    }
}

// The session by itself.

/// Writes down lines.
#[derive(Debug)]
struct Lines {
    lines: Vec<Vec<u8>>,
    memory: BufferPool,
}

impl LineSink for Lines {
    fn line(&mut self, line: &[u8], _token: Option<&Token>) {
        self.lines.push(line.to_vec());
    }

    fn first_piece(&mut self, piece: &[u8]) -> bool {
        self.lines.push(piece.to_vec());
        true
    }

    fn further_piece(&mut self, piece: &[u8]) {
        self.lines.push(piece.to_vec());
    }

    fn memory(&mut self) -> &mut BufferPool {
        &mut self.memory
    }
}

/// A session, what it feeds, and its client.
struct Both {
    session: Session,
    decoder: LineDecoder,
    sink: Lines,
    client: Client,
}

impl Both {
    fn new(server: &Server, config: &Arc<ClientConfig>) -> Self {
        Self {
            session: Session::new(server),
            decoder: LineDecoder::new(Framing::Lf),
            sink: Lines { lines: Vec::new(), memory: BufferPool::new(1 << 20) },
            client: Client::new(config, "localhost"),
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.session.receive(&mut bytes.to_vec(), &mut self.decoder, 4096, &mut self.sink)?;
        if self.session.has_hello() {
            self.session.begin(&mut self.decoder, 4096, &mut self.sink)?;
        }
        Ok(())
    }

    /// Whatever the session has to say reaches the client.
    fn answer(&mut self) -> Result<(), rustls::Error> {
        while let Some(buf) = self.session.outgoing() {
            let wire = buf.rest().to_vec();
            self.sink.memory.give(buf);
            self.client.give(&wire)?;
        }
        Ok(())
    }

    /// Makes the handshake, in pieces of so many bytes.
    fn shake_hands(&mut self, piece: usize) {
        while self.client.connection.is_handshaking() || self.session.is_handshaking() {
            let wire = self.client.take();
            for bytes in wire.chunks(piece) {
                self.receive(bytes).unwrap();
            }
            self.answer().unwrap();
        }
    }
}

#[test]
fn records_and_handshakes_cut_at_every_byte_change_nothing() {
    for version in VERSIONS {
        let (server, config) = both(&[version]);
        let mut length = 1;
        let mut cut = 0;
        while cut < length {
            let mut both = Both::new(&server, &config);
            both.shake_hands(1 + cut % 50);
            let wire = both.client.seal(&[b"first\nsec", b"ond\n", b"\n", &[b'x'; 300], b"\n", b"end\r", b"\n"]);
            length = wire.len();
            both.receive(&wire[..cut]).unwrap();
            assert!(both.sink.memory.used() <= 1024, "{cut}: more than an unfinished record");
            both.receive(&wire[cut..]).unwrap();
            let want: [&[u8]; 5] = [b"first", b"second", b"", &[b'x'; 300], b"end"];
            assert_eq!(both.sink.lines, want, "{cut}");
            assert_eq!((both.sink.memory.used(), both.session.is_in_record()), (0, false), "{cut}");
            let goodbye = both.client.seal_end();
            assert!(matches!(both.receive(&goodbye), Err(Stop::Closed)));
            cut += 1;
        }
    }
}

#[test]
fn a_goodbye_is_said_once_and_after_the_handshake() {
    let (server, config) = both(&[&TLS13]);
    let mut both = Both::new(&server, &config);
    both.session.say_goodbye(&mut both.sink.memory);
    assert!(both.session.outgoing().is_none());
    both.shake_hands(1000);
    for _ in 0..2 {
        both.session.say_goodbye(&mut both.sink.memory);
    }
    let buf = both.session.outgoing().unwrap();
    assert_eq!(buf.rest().len(), 24);
    both.client.give(buf.rest()).unwrap();
    both.sink.memory.give(buf);
    assert!(both.client.connection.process_new_packets().unwrap().peer_has_closed());
    let wire = both.client.seal(&[b"still taken\n"]);
    both.receive(&wire).unwrap();
    assert_eq!(both.sink.lines, [b"still taken"]);
}

#[test]
fn what_is_no_tls_is_told_by_two_bytes() {
    let (server, config) = both(&VERSIONS);
    for (first, is_plain) in [
        (&b"T"[..], true),
        (b"\x16", false),
        (b"\x16\x03", false),
        (b"\x16\x02", true),
        (b"\x80\x2e", true),
        (b"\r\n", true),
    ] {
        for one_by_one in [false, true] {
            let mut both = Both::new(&server, &config);
            let bytes: Vec<&[u8]> = if one_by_one { first.chunks(1).collect() } else { vec![first] };
            let results: Vec<_> = bytes.iter().map(|bytes| both.receive(bytes)).collect();
            let stopped = matches!(results.last(), Some(Err(Stop::Foreign(Foreign::NotTls))));
            assert_eq!(stopped, is_plain, "{first:?}");
            assert!(both.session.outgoing().is_none(), "{first:?}");
        }
    }
}

/// A client may send a handshake message in a record for each of its bytes.
#[test]
fn a_handshake_in_tiny_records_is_made_but_not_an_endless_one() {
    let (server, config) = both(&[&TLS13]);
    let mut both = Both::new(&server, &config);
    let hello = both.client.take();
    for byte in &hello[5..] {
        both.receive(&[0x16, 3, 1, 0, 1, *byte]).unwrap();
    }
    assert!(!both.session.is_in_record());
    both.answer().unwrap();
    both.shake_hands(1000);

    let mut both = Both::new(&server, &config);
    let endless = [&[0x16, 3, 1, 0, 4, 1, 0, 0xff, 0xf0][..], &[0x16, 3, 1, 0, 1, 0].repeat(20_000)].concat();
    let mut most = 0;
    let stop = endless.chunks(1000).find_map(|bytes| {
        let result = both.receive(bytes);
        most = most.max(both.sink.memory.used());
        result.err()
    });
    assert!(matches!(stop, Some(Stop::Failed(_))), "{stop:?}");
    assert!(most <= 128 * 1024, "{most}");
}

#[test]
fn damage_is_told_to_the_peer_and_loses_a_record() {
    for version in VERSIONS {
        let (server, config) = both(&[version]);
        let mut both = Both::new(&server, &config);
        both.shake_hands(1000);
        let mut wire = both.client.seal(&[b"whole\n", b"damaged\n"]);
        *wire.last_mut().unwrap() ^= 1;
        let Err(Stop::Failed(error)) = both.receive(&wire) else { panic!("taken") };
        assert!(error.loses_a_record());
        assert_eq!(both.sink.lines, [b"whole"]);
        assert!(matches!(both.answer(), Err(rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac))));
    }
}

/// Bytes changed, dropped, doubled or put in, in the handshake and behind it: what was whole before is taken, the session
/// ends or waits, and its memory stays small.
#[test]
fn whatever_happens_to_the_bytes_the_session_survives() {
    let authority = Authority::new();
    let mut credentials = credentials(&[&authority.pair("localhost", ED25519)]);
    credentials.ask_clients(authority.pem().as_bytes(), ClientCertificates::Required).unwrap();
    let server = Server::new(credentials);
    let own = authority.pair("client", ED25519);
    let configs = VERSIONS.map(|version| Arc::new(authority.client_with(&[version], &own)));
    let (mut stopped, mut open) = (0, 0);
    for seed in 0..600 {
        let mut random = Random::new(seed);
        let mut both = Both::new(&server, &configs[usize::try_from(seed % 2).unwrap()]);
        let flights_untouched = random.below(4);
        let mut survived = true;
        for flight in 0..6 {
            let mut wire = both.client.take();
            if !both.client.connection.is_handshaking() {
                wire.extend(both.client.seal(&[b"one\ntw", b"o\n"]));
            }
            if flight >= flights_untouched && !wire.is_empty() {
                let at = random.below(wire.len());
                match random.below(5) {
                    0 => wire[at] ^= 1 << random.below(8),
                    1 => drop(wire.drain(at..(at + 1 + random.below(8)).min(wire.len()))),
                    2 => wire.splice(at..at, [0x16, 3, 3, 0, 1, 0x18]).for_each(drop),
                    3 => wire.splice(at..at, [0x17, 3, 3, 0, 0]).for_each(drop),
                    _ => wire.extend_from_within(at..),
                }
            }
            let piece = 1 + random.below(wire.len() + 1);
            survived = wire.chunks(piece).all(|bytes| both.receive(bytes).is_ok());
            if both.answer().is_err() || !survived {
                break;
            }
            assert!(both.sink.memory.used() <= 64 * 1024, "{seed}");
        }
        assert!(both.sink.lines.iter().all(|line| *line == b"one" || *line == b"two"), "{seed}");
        both.session.abandon_record(&mut both.sink.memory);
        both.decoder.abandon(&mut both.sink.memory);
        let unsent = both.session.outgoing().map_or(0, |buf| buf.capacity());
        assert_eq!(both.sink.memory.used(), unsent, "{seed}");
        if survived { open += 1 } else { stopped += 1 }
    }
    assert!(stopped > 300 && open > 10, "{stopped} {open}");
}

// Certificates.

#[test]
fn every_kind_of_key_serves_both_versions() {
    let authority = Authority::new();
    for (kind, version) in [ECDSA, ED25519, RSA].into_iter().flat_map(|kind| VERSIONS.map(|version| (kind, version))) {
        let server = server(&[&authority.pair("localhost", kind)]);
        let mut both = Both::new(&server, &Arc::new(authority.client(&[version])));
        both.shake_hands(1000);
        assert_eq!(both.session.handshake(), Handshake::Full);
    }
}

/// Takes any certificate whose key signs in one of these ways.
#[derive(Debug)]
struct Verifies(Vec<SignatureScheme>);

impl ServerCertVerifier for Verifies {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// Which of the pairs a client is shown.
fn shown(
    pairs: &[&Pair],
    name: Option<&str>,
    version: &'static SupportedProtocolVersion,
    schemes: &[SignatureScheme],
) -> usize {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifies(schemes.to_vec())))
        .with_no_client_auth();
    config.enable_sni = name.is_some();
    let mut both = Both::new(&server(pairs), &Arc::new(config.clone()));
    both.client = Client::new(&Arc::new(config), name.unwrap_or("localhost"));
    both.shake_hands(1000);
    let own = both.client.connection.peer_certificates().unwrap()[0].to_vec();
    let der = |pair: &Pair| {
        use rustls::pki_types::pem::PemObject as _;
        CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap().to_vec()
    };
    pairs.iter().position(|pair| der(pair) == own).unwrap()
}

#[test]
fn the_name_and_the_kind_of_key_choose_the_certificate() {
    const EC: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    const PSS: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;
    let authority = Authority::new();
    let pair = |name, kind| authority.pair(name, kind);
    let (first, rsa, wild, ecdsa) = (
        pair("first.example", ECDSA),
        pair("logs.example", RSA),
        pair("*.wild.example", ECDSA),
        pair("logs.example", ECDSA),
    );
    let pairs = [&first, &rsa, &wild, &ecdsa];
    for version in VERSIONS {
        for (name, schemes, want) in [
            (None, &[EC, PSS][..], 0),
            (Some("first.example"), &[EC, PSS], 0),
            (Some("logs.example"), &[EC, PSS], 1),
            (Some("logs.example"), &[EC], 3),
            (Some("logs.example"), &[PSS], 1),
            (Some("LOGS.example"), &[PSS], 1),
            (Some("a.wild.example"), &[PSS, EC], 2),
            (Some("elsewhere.example"), &[EC, PSS], 0),
            (Some("first.example"), &[PSS], 1),
            (None, &[PSS], 1),
        ] {
            assert_eq!(shown(&pairs, name, version, schemes), want, "{name:?} {schemes:?} {:?}", version.version);
        }
        assert_eq!(shown(&[&rsa], Some("elsewhere.example"), version, &[EC, PSS]), 0);
    }
}

#[test]
fn unusable_pairs_are_told_apart() {
    let authority = Authority::new();
    let (one, other) = (authority.pair("localhost", ECDSA), authority.pair("localhost", ECDSA));
    let add = |certificate: &str, key: &str| Credentials::default().add(certificate.as_bytes(), key.as_bytes());
    assert_eq!(add(&one.certificate, &one.key), Ok(()));
    assert!(matches!(add(&one.certificate, &other.key), Err(BadPair::Key(problem)) if problem.contains("in pairs")));
    assert!(
        matches!(add(&one.key, &one.key), Err(BadPair::Certificate(problem)) if problem.contains("no certificate"))
    );
    assert!(matches!(add("", &one.key), Err(BadPair::Certificate(_))));
    assert!(matches!(add(&one.certificate, &one.certificate), Err(BadPair::Key(_))));
    let damaged = one.certificate.replace("MII", "!!!");
    assert!(matches!(add(&damaged, &one.key), Err(BadPair::Certificate(_))), "{damaged}");
    let damaged = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    assert!(matches!(add(damaged, &one.key), Err(BadPair::Certificate(_))));
    let damaged = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";
    assert!(matches!(add(&one.certificate, damaged), Err(BadPair::Key(_))));
    assert!(Credentials::default().ask_clients(one.key.as_bytes(), ClientCertificates::Optional).is_err());
    let both = credentials(&[&authority.pair_until("a", ECDSA, 2040), &authority.pair_until("a", ECDSA, 2030)]);
    assert_eq!(both.valid_until(), [Some(2_208_988_800), Some(1_893_456_000)]);
    assert_eq!(Server::new(both).first_expiry(), Some(1_893_456_000));
}

/// What one client is told whose handshake may be refused; it sends a line if it is not.
fn try_to_send(sim: &mut Sim, config: ClientConfig, line: &str) -> Result<(), rustls::Error> {
    let (peer, mut client) = (sim.connect(), Client::new(&Arc::new(config), "localhost"));
    let made = shake_hands(sim, peer, &mut client);
    if made {
        let wire = client.seal(&[line.as_bytes()]);
        sim.send(peer, &wire);
    }
    sim.close(peer);
    sim.run_until(|sim| sim.is_gone(peer));
    let told = client.give(&sim.read(peer));
    if made { told } else { Err(rustls::Error::HandshakeNotComplete) }
}

#[test]
fn clients_are_asked_for_a_certificate_and_turned_away_unless_it_is_valid() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let own = authority.pair("localhost", ECDSA);
    for (certificates, lets_nameless_in) in
        [(ClientCertificates::Required, false), (ClientCertificates::Optional, true)]
    {
        for version in VERSIONS {
            let mut credentials = credentials(&[&own]);
            credentials.ask_clients(authority.pem().as_bytes(), certificates).unwrap();
            let server = Server::new(credentials);
            let versions = &[version][..];
            let known = authority.client_with(versions, &authority.pair("client", ECDSA));
            let unknown = authority.client_with(versions, &stranger.pair("client", ECDSA));
            let nameless = authority.client(versions);
            let mut sim = Sim::new(1, Faults::none(), world(&server));
            let clients =
                [(known, "known", true), (unknown, "unknown", false), (nameless, "nameless", lets_nameless_in)];
            for (config, name, is_let_in) in clients {
                let told = try_to_send(&mut sim, config, &format!("{} {name}\n", token(1)));
                // Who is refused learns why.
                assert_eq!(told.is_ok(), is_let_in, "{certificates:?} {version:?} {name}: {told:?}");
            }
            drain(&mut sim, &[]);
            let stored = if lets_nameless_in { "known\nnameless\n" } else { "known\n" };
            assert_eq!(sim.log_bytes(token(1)), stored.as_bytes());
            let made = 1 + u64::from(lets_nameless_in);
            assert_eq!(handshakes(&counters(&sim)), [made, 0, 3 - made, 0, 0]);
            assert_eq!(counters(&sim).tls_clients_known, 1);
            assert!(sim.notices().iter().any(|notice| matches!(notice, Notice::HandshakeFailed { .. })));
        }
    }
}

#[test]
fn sessions_are_resumed_on_another_shard_until_credentials_change() {
    // TLS 1.3 has tickets behind the handshake only, where they would cost lines.
    for (version, expected) in [(&TLS12, [2, 2, 0, 0, 0]), (&TLS13, [4, 0, 0, 0, 0])] {
        let (authority, mut config) = (Authority::new(), config(4096));
        let pair = authority.pair("localhost", ED25519);
        let server = server(&[&pair]);
        config.ownership = Ownership::with_seed(2, 0);
        let client_config = Arc::new(authority.client(&[version]));
        let mut sim = Sim::new(1, Faults::none(), over_tls(config, &server));
        let visit = |sim: &mut Sim, shard| {
            let (peer, mut client) = (sim.connect_to(ShardId(shard)), Client::new(&client_config, "localhost"));
            assert!(shake_hands(sim, peer, &mut client));
            let wire = client.seal(&[format!("{} on {shard}\n", token(1)).as_bytes()]);
            sim.send(peer, &wire);
            sim.run_for(Duration::from_millis(200));
            assert_eq!(sim.read(peer), b"", "nothing follows the handshake that a client would have to read");
            close(sim, peer, &mut client);
        };
        visit(&mut sim, 0);
        visit(&mut sim, 1);
        visit(&mut sim, 0);
        server.replace(credentials(&[&pair]));
        visit(&mut sim, 1);
        drain(&mut sim, &[]);
        assert_eq!(handshakes(&counters(&sim)), expected, "{:?}", version.version);
        assert_eq!(counters(&sim).entries, 4);
    }
}

// What peers do wrong.

#[test]
fn plain_bytes_and_hostile_ones_are_counted_and_closed() {
    let (server, client_config) = both(&VERSIONS);
    let hello = Client::new(&client_config, "localhost").take();
    let mut sim = Sim::new(1, Faults::none(), world(&server));
    let (mut plain, mut failed, mut left) = (0, 0, 0);
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut bytes = match random.below(4) {
            0 => hostile_bytes(support::oracle::Framing::Lf, seed, 300),
            1 => (0..random.below(2000)).map(|_| u8::try_from(random.below(256)).unwrap()).collect(),
            _ => hello.clone(),
        };
        if bytes.is_empty() {
            continue;
        }
        if random.one_in(2) {
            let at = random.below(bytes.len());
            bytes[at] = u8::try_from(random.below(256)).unwrap();
        }
        if random.one_in(3) {
            bytes.truncate(1 + random.below(bytes.len()));
        }
        let is_plain = bytes[0] != 0x16 || (bytes.len() > 1 && bytes[1] != 3);
        let peer = sim.connect();
        sim.send(peer, &bytes);
        sim.run_for(Duration::from_millis(50));
        let answer = sim.read(peer);
        sim.close(peer);
        sim.run_until(|sim| sim.is_gone(peer));
        match (is_plain, answer.first()) {
            (true, answer) => {
                assert_eq!(answer, None, "{seed}: what is no TLS is not answered");
                plain += 1;
            }
            // An alert.
            (false, Some(0x15)) => failed += 1,
            (false, _) => left += 1,
        }
    }
    assert!(plain > 50 && failed > 5 && left > 50, "{plain} {failed} {left}");
    // Another one comes through as ever.
    let (peer, mut client) = connect(&mut sim, &client_config);
    let wire = client.seal(&[format!("{} after it\n", token(1)).as_bytes()]);
    sim.send(peer, &wire);
    close(&mut sim, peer, &mut client);
    drain(&mut sim, &[]);
    let counters = counters(&sim);
    assert_conserved(&counters, "hostile");
    assert_eq!((counters.entries, counters.rejected(Reject::PlainOnTls), counters.lines), (1, plain, plain + 1));
    // Some got an answer before they were found out.
    let [full, resumed, refused, gone, timeout] = handshakes(&counters);
    assert_eq!((full, resumed, refused + gone, timeout), (1, 0, plain + failed + left, 0));
    assert!(refused >= plain + failed, "{refused}");
    assert_eq!(sim.log_bytes(token(1)), b"after it\n");
}

#[test]
fn a_damaged_record_is_a_cut() {
    for version in VERSIONS {
        let (server, client_config) = both(&[version]);
        let mut sim = Sim::new(1, Faults::none(), world(&server));
        let (peer, mut client) = connect(&mut sim, &client_config);
        let mut wire = client.seal(&[format!("{} whole\n{} begun", token(1), token(2)).as_bytes(), b" and damaged\n"]);
        let last = wire.len() - 1;
        wire[last] ^= 1;
        sim.send(peer, &wire);
        // It is told why, and closes; nobody else has to.
        sim.run_until(|sim| sim.half_closed(peer));
        assert!(client.give(&sim.read(peer)).is_err());
        sim.close(peer);
        sim.run_until(|sim| sim.is_gone(peer));
        drain(&mut sim, &[]);
        let counters = counters(&sim);
        assert_eq!(
            (counters.lines, counters.entries, counters.rejected(Reject::Cut), counters.tls_broken),
            (2, 1, 1, 1)
        );
        assert!(sim.notices().iter().any(|notice| matches!(notice, Notice::TlsBroken { .. })));
        assert_eq!(sim.log_bytes(token(1)), b"whole\n");
    }
}

#[test]
fn the_end_of_the_stream_ends_a_line_but_not_inside_a_record() {
    for version in VERSIONS {
        let (server, client_config) = both(&[version]);
        for (ending, stored, cut) in
            [("goodbye", true, 0), ("fin", true, 0), ("in record", false, 1), ("reset", false, 1)]
        {
            let mut sim = Sim::new(1, Faults::none(), world(&server));
            let (peer, mut client) = connect(&mut sim, &client_config);
            let wire = client.seal(&[format!("{} no e", token(1)).as_bytes(), b"nd"]);
            sim.send(peer, &wire);
            let last = match ending {
                "goodbye" => client.seal_end(),
                "in record" => client.seal(&[b" and more"])[..20].to_vec(),
                _ => Vec::new(),
            };
            sim.send(peer, &last);
            sim.run_for(Duration::from_millis(100));
            match ending {
                "reset" => sim.reset(peer),
                // Who has said goodbye is answered, and may close when it likes.
                "goodbye" => {
                    sim.run_until(|sim| sim.half_closed(peer));
                    client.give(&sim.read(peer)).unwrap();
                    assert!(client.connection.process_new_packets().unwrap().peer_has_closed());
                    sim.close(peer);
                }
                _ => sim.close(peer),
            }
            sim.run_until(|sim| sim.is_gone(peer));
            drain(&mut sim, &[]);
            let counters = counters(&sim);
            assert_conserved(&counters, ending);
            assert_eq!((counters.entries, counters.rejected(Reject::Cut)), (u64::from(stored), cut), "{ending}");
            assert_eq!(sim.log_bytes(token(1)), if stored { &b"no end\n"[..] } else { b"" }, "{ending}");
        }
    }
}

/// Unfinished records of many connections do not stop the others, nor grow past their part of the budget.
#[test]
fn unfinished_records_are_bounded() {
    let (server, client_config) = both(&[&TLS13]);
    let mut config = world(&server);
    config.buffer_bytes = 4 << 20;
    let mut sim = Sim::new(1, Faults::none(), config);
    let mut peers = Vec::new();
    for _ in 0..100 {
        let (peer, mut client) = connect(&mut sim, &client_config);
        let wire = client.seal(&[&[b'x'; 16_000]]);
        sim.send(peer, &wire[..wire.len() - 1]);
        peers.push((peer, client));
        sim.run_for(Duration::from_millis(50));
        assert!(sim.shard().buffered_bytes() <= (1 << 20) + (64 << 10), "{}", sim.shard().buffered_bytes());
    }
    let (peer, mut client) = connect(&mut sim, &client_config);
    let wire = client.seal(&[format!("{} comes through\n", token(1)).as_bytes()]);
    sim.send(peer, &wire);
    close(&mut sim, peer, &mut client);
    sim.run_until(|sim| sim.log_bytes(token(1)) == b"comes through\n");
    drain(&mut sim, &[]);
    let counters = counters(&sim);
    assert!(counters.tls_broken > 30, "{}", counters.tls_broken);
    assert_eq!(counters.rejected(Reject::Cut), 100);
    assert_eq!(sim.shard().buffered_bytes(), 0);
}
