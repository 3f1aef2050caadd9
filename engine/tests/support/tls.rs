//! TLS clients without sockets, and certificates for both sides.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use engine::driver::sim::{Ending, PeerId, Sim};
use engine::metrics::{Counters, HandshakeResult};
use engine::shard::{ListenerConfig, ShardConfig};
use engine::tls::{Credentials, Server};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
    PKCS_RSA_SHA256, SignatureAlgorithm,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};

pub static ECDSA: &SignatureAlgorithm = &PKCS_ECDSA_P256_SHA256;
pub static ED25519: &SignatureAlgorithm = &PKCS_ED25519;
pub static RSA: &SignatureAlgorithm = &PKCS_RSA_SHA256;

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Pair {
    /// Writes both files and gives their paths.
    pub fn write(&self, folder: &std::path::Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, &self.certificate).unwrap();
        std::fs::write(&key, &self.key).unwrap();
        (certificate, key)
    }
}

/// Somebody whose certificates are trusted.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a host name or an address.
    pub fn pair(&self, name: &str, kind: &'static SignatureAlgorithm) -> Pair {
        self.pair_until(name, kind, 2100)
    }

    /// The same, valid up to the first day of a year.
    pub fn pair_until(&self, name: &str, kind: &'static SignatureAlgorithm, year: i32) -> Pair {
        let key = KeyPair::generate_for(kind).unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Clients that trust this authority and speak these versions.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        self.builder(versions).with_no_client_auth()
    }

    /// The same with a certificate of their own.
    pub fn client_with(&self, versions: &[&'static SupportedProtocolVersion], own: &Pair) -> ClientConfig {
        let chain = vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        self.builder(versions).with_client_auth_cert(chain, key).unwrap()
    }

    fn builder(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
    }
}

/// A server that shows these certificates.
pub fn server(pairs: &[&Pair]) -> Server {
    Server::new(credentials(pairs))
}

pub fn credentials(pairs: &[&Pair]) -> Credentials {
    let mut credentials = Credentials::default();
    for pair in pairs {
        credentials.add(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
    }
    credentials
}

/// The same shard, with TLS on all of its listeners.
pub fn over_tls(config: ShardConfig, server: &Server) -> ShardConfig {
    let listeners: Vec<_> =
        config.listeners.iter().map(|listener| ListenerConfig { tls: true, ..listener.clone() }).collect();
    ShardConfig { tls: vec![Some(server.clone()); listeners.len()], listeners, ..config }
}

/// A client: plain text in, records out, and back.
#[derive(Debug)]
pub struct Client {
    pub connection: ClientConnection,
    /// Where its records end: in the bytes on the wire, and in the text.
    records: Vec<(usize, usize)>,
    wire: usize,
    text: usize,
    /// What the engine said, which is nothing.
    pub heard: Vec<u8>,
}

impl Client {
    pub fn new(config: &Arc<ClientConfig>, name: &str) -> Self {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
        Self { connection, records: Vec::new(), wire: 0, text: 0, heard: Vec::new() }
    }

    /// What is to be sent.
    pub fn take(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut wire).unwrap();
        }
        self.wire += wire.len();
        wire
    }

    /// What has come.
    pub fn give(&mut self, mut wire: &[u8]) -> Result<(), rustls::Error> {
        while !wire.is_empty() {
            self.connection.read_tls(&mut wire).unwrap();
            self.connection.process_new_packets()?;
            let _until_it_would_block = self.connection.reader().read_to_end(&mut self.heard);
        }
        Ok(())
    }

    /// A record for each of the pieces, which are at most 16 KiB.
    pub fn seal(&mut self, pieces: &[&[u8]]) -> Vec<u8> {
        let mut wire = Vec::new();
        for piece in pieces.iter().flat_map(|piece| piece.chunks(16_384)) {
            self.connection.writer().write_all(piece).unwrap();
            wire.extend(self.take());
            self.text += piece.len();
            self.records.push((self.wire, self.text));
        }
        wire
    }

    /// The record that says that nothing more comes.
    pub fn seal_end(&mut self) -> Vec<u8> {
        self.connection.send_close_notify();
        self.take()
    }

    /// Bytes of text in records that are wholly among so many bytes of the wire.
    pub fn text_within(&self, wire: u64) -> usize {
        let whole = self.records.iter().rev().find(|(end, _)| *end as u64 <= wire);
        whole.map_or(0, |(_, text)| *text)
    }

    /// Whether so many bytes of the wire end inside a record.
    pub fn cuts_a_record(&self, wire: u64) -> bool {
        let begins = self.records.first().is_some_and(|(_, _)| self.text_within(wire) < self.text);
        let ends: Vec<u64> = self.records.iter().map(|(end, _)| *end as u64).collect();
        begins && wire > self.handshake_bytes() && !ends.contains(&wire)
    }

    /// Bytes of the wire before the first record of text.
    fn handshake_bytes(&self) -> u64 {
        const OVERHEAD_13: usize = 5 + 1 + 16;
        const OVERHEAD_12: usize = 5 + 8 + 16;
        let overhead = match self.connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => OVERHEAD_12,
            _ => OVERHEAD_13,
        };
        self.records.first().map_or(self.wire, |(end, text)| end - text - overhead) as u64
    }
}

/// Makes the handshake of a simulated connection, or not: false if the engine ends it.
pub fn shake_hands(sim: &mut Sim, peer: PeerId, client: &mut Client) -> bool {
    let mut refused = false;
    sim.run_until(|sim| {
        refused |= client.give(&sim.read(peer)).is_err();
        let wire = client.take();
        if !wire.is_empty() {
            sim.send(peer, &wire);
        }
        refused || sim.is_gone(peer) || !client.connection.is_handshaking()
    });
    !refused && !client.connection.is_handshaking()
}

/// A new connection with its handshake made.
pub fn connect(sim: &mut Sim, config: &Arc<ClientConfig>) -> (PeerId, Client) {
    let (peer, mut client) = (sim.connect(), Client::new(config, "localhost"));
    assert!(shake_hands(sim, peer, &mut client), "the handshake fails");
    (peer, client)
}

/// Says goodbye, closes, and waits until the engine knows.
pub fn close(sim: &mut Sim, peer: PeerId, client: &mut Client) {
    let wire = client.seal_end();
    sim.send(peer, &wire);
    sim.close(peer);
    sim.run_until(|sim| sim.ending(peer) != Ending::Open);
}

/// Both versions.
pub const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A server for `localhost`, and clients that trust it.
pub fn both(versions: &[&'static SupportedProtocolVersion]) -> (Server, Arc<ClientConfig>) {
    let authority = Authority::new();
    let pair = authority.pair("localhost", ED25519);
    (server(&[&pair]), Arc::new(authority.client(versions)))
}

/// The counters of a run that has ended.
pub fn counters(sim: &Sim) -> Counters {
    sim.outcome().unwrap().counters
}

/// Handshakes by result.
pub fn handshakes(counters: &Counters) -> [u64; 5] {
    HandshakeResult::ALL.map(|result| counters.handshakes(result))
}
