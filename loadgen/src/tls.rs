//! TLS of a connection: whom to trust, the handshake, and which lines an acknowledged byte of the wire stands for.
//!
//! ```text
//!  lines               │ record 0            │ record 1            │ …       bytes that the account counts
//!  wire   handshake    │ header  text  tag   │ header  text  tag   │ …       bytes that the receiver's TCP acknowledges
//! ```
//!
//! A receiver can use a record only when it has all of it. So the lines in a record count as acknowledged with its last
//! byte, and its lines begin to be sent with its first. Whatever else goes out, an answer to a key update say, counts
//! with the record behind it.
//!
//! No I/O but that of the handshake: sealed records are given to the caller, who brings what the receiver answers.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::tokens::Token;

/// Most text bytes of one record, by RFC 8446.
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// Records that are remembered before those that the receiver has acknowledged are forgotten.
const RECORDS_KEPT: usize = 4096;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// As many of the lines that are due as fit.
    Full,
    /// One line, as most clients of Token TCP have it.
    Line,
    /// A piece of a line, which is in four: token, blank, text and LF, as docker's client writes it.
    Piece,
}

impl Records {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Line => "line",
            Self::Piece => "piece",
        }
    }
}

/// A line in four pieces: where the token is first, that and the blank behind it, the text, and the LF.
#[must_use]
pub fn four_pieces(line: &[u8]) -> [&[u8]; 4] {
    let (head, rest) = line.split_at(size_of::<Token>().min(line.len()));
    let (blank, rest) = rest.split_at(rest.len().min(1));
    let (text, end) = rest.split_at(rest.len().saturating_sub(1));
    [head, blank, text, end]
}

/// How a run speaks TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    receiver: ServerName<'static>,
    /// What a record holds.
    pub records: Records,
}

impl Tls {
    /// TLS 1.3 or 1.2 to the receiver of a host name or address, which must have a certificate for it from one of the
    /// authorities in a PEM file; without a file it may have any.
    ///
    /// # Errors
    ///
    /// The sentence that says what is wrong with the file or the name.
    pub fn new(host: &str, authorities: Option<&Path>, records: Records) -> Result<Self, String> {
        let receiver = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("--target: {host} is no name that a certificate could have; give another"))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for both versions");
        let config = match authorities {
            Some(file) => builder.with_root_certificates(roots(file)?).with_no_client_auth(),
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth(),
        };
        Ok(Self { config: Arc::new(config), receiver, records })
    }

    /// Makes the handshake over a connection that blocks.
    ///
    /// # Errors
    ///
    /// When one side refuses the other, or the connection ends.
    pub fn handshake(&self, socket: &mut TcpStream) -> io::Result<Session> {
        let connection = ClientConnection::new(Arc::clone(&self.config), self.receiver.clone());
        let mut connection = connection.map_err(io::Error::other)?;
        let (_, written) = connection.complete_io(socket)?;
        // Each record is taken out as soon as it is made.
        connection.set_buffer_limit(None);
        Ok(Session::new(connection, written as u64))
    }
}

/// What to do about a handshake that failed.
#[must_use]
pub fn advice(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "give --target by a name that its certificate is for, or --insecure",
        // What `openssl req -x509` makes unless told otherwise; the library has no name for it.
        Some(Error::InvalidCertificate(CertificateError::Other(other))) if is_authority(other) => {
            "its certificate is an authority, and no receiver may use that itself; make it with CA:FALSE, or give --insecure"
        }
        Some(Error::InvalidCertificate(_)) => "give --ca the authority that its certificate is from, or --insecure",
        _ => "see whether it speaks TLS 1.2 or 1.3 there",
    }
}

fn is_authority(error: &OtherError) -> bool {
    error.to_string().contains("CaUsedAsEndEntity")
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let problem = |problem: &dyn std::fmt::Display| {
        format!("--ca: {} holds no usable certificates ({problem}); give a PEM file of authorities", file.display())
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| problem(&error))? {
        roots.add(certificate.map_err(|error| problem(&error))?).map_err(|error| problem(&error))?;
    }
    if roots.is_empty() { Err(problem(&"none at all")) } else { Ok(roots) }
}

/// TLS of one connection, once the handshake is made.
#[derive(Debug)]
pub struct Session {
    connection: ClientConnection,
    /// Where the records end that are made and not forgotten, oldest first; the first one is the handshake, or the last
    /// that was forgotten.
    records: VecDeque<End>,
    /// At so many it is time to forget some.
    records_max: usize,
}

/// Where a record ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    /// In the bytes on the wire.
    wire: u64,
    /// In the bytes of the lines.
    lines: u64,
}

impl Session {
    fn new(connection: ClientConnection, handshake_bytes: u64) -> Self {
        let records = VecDeque::from([End { wire: handshake_bytes, lines: 0 }]);
        Self { connection, records, records_max: RECORDS_KEPT }
    }

    /// Protocol version and cipher suite, as they are called in the RFCs.
    #[must_use]
    pub fn suite(&self) -> String {
        let version = self.connection.protocol_version().and_then(|version| version.as_str());
        let suite = self.connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        [version, suite].map(Option::unwrap_or_default).join(" ")
    }

    /// Bytes of the handshake that went out.
    #[must_use]
    pub fn wire_bytes(&self) -> u64 {
        self.last().wire
    }

    /// Appends records for some bytes of the lines.
    ///
    /// # Errors
    ///
    /// When the session has ended.
    pub fn seal(&mut self, lines: &[u8], wire: &mut Vec<u8>) -> io::Result<()> {
        for text in lines.chunks(RECORD_BYTES_MAX) {
            let before = wire.len();
            self.connection.writer().write_all(text)?;
            self.take_out(wire)?;
            let last = self.last();
            let made = (wire.len() - before) as u64;
            self.records.push_back(End { wire: last.wire + made, lines: last.lines + text.len() as u64 });
        }
        Ok(())
    }

    /// Appends the record that says that nothing more will come.
    ///
    /// # Errors
    ///
    /// When the session has ended.
    pub fn seal_end(&mut self, wire: &mut Vec<u8>) -> io::Result<()> {
        self.connection.send_close_notify();
        self.take_out(wire)
    }

    fn take_out(&mut self, wire: &mut Vec<u8>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(wire)?;
        }
        Ok(())
    }

    /// Takes what the receiver sent: session tickets, key updates. Text is thrown away, there should be none.
    ///
    /// # Errors
    ///
    /// When that ends the session.
    pub fn take(&mut self, mut received: &[u8]) -> io::Result<()> {
        while !received.is_empty() {
            self.connection.read_tls(&mut received)?;
            self.connection.process_new_packets().map_err(io::Error::other)?;
            while matches!(self.connection.reader().read(&mut [0; 512]), Ok(1..)) {}
        }
        Ok(())
    }

    /// How many bytes of the lines are in records that are within so many bytes of the wire.
    #[must_use]
    pub fn lines_within(&self, wire: u64) -> u64 {
        self.behind(wire).checked_sub(1).map_or(0, |last| self.records[last].lines)
    }

    /// How many bytes of the lines are in records of which at least a byte is.
    #[must_use]
    pub fn lines_begun(&self, wire: u64) -> u64 {
        let behind = self.behind(wire);
        match behind.checked_sub(1).map(|last| self.records[last]) {
            Some(last) if last.wire < wire => self.records.get(behind).unwrap_or(&last).lines,
            Some(last) => last.lines,
            None => 0,
        }
    }

    /// Whether many records are remembered, so that [`Self::forget`] is worth its while.
    #[must_use]
    pub fn remembers_many(&self) -> bool {
        self.records.len() >= self.records_max
    }

    /// Forgets the records within so many bytes of the wire: nobody will ask for less.
    pub fn forget(&mut self, wire: u64) {
        self.records.drain(..self.behind(wire).saturating_sub(1));
        self.records_max = RECORDS_KEPT.max(2 * self.records.len());
    }

    /// The first record that is not wholly within so many bytes of the wire.
    fn behind(&self, wire: u64) -> usize {
        self.records.partition_point(|end| end.wire <= wire)
    }

    fn last(&self) -> End {
        self.records.back().copied().unwrap_or_default()
    }
}

/// Takes any certificate, from whomever; its owner must still prove to hold its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ServerConfig, ServerConnection};

    /// Both ends of a session in memory, and what the receiver has sent since.
    fn pair() -> (Session, ServerConnection) {
        let key = rcgen::generate_simple_self_signed(["receiver.example".to_owned()]).unwrap();
        let certificate = key.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key);
        let mut server = ServerConnection::new(Arc::new(server.unwrap())).unwrap();
        let tls = Tls::new("receiver.example", None, Records::Full).unwrap();
        let mut client = ClientConnection::new(tls.config, tls.receiver).unwrap();
        let mut written = 0;
        while client.is_handshaking() || server.is_handshaking() {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            while client.wants_write() {
                written += client.write_tls(&mut there).unwrap();
            }
            feed(&mut server, &there);
            while server.wants_write() {
                server.write_tls(&mut back).unwrap();
            }
            let mut back = back.as_slice();
            while !back.is_empty() {
                client.read_tls(&mut back).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        (Session::new(client, written as u64), server)
    }

    /// Gives the receiver some of the wire; returns how many bytes of the lines it can read.
    fn feed(server: &mut ServerConnection, mut wire: &[u8]) -> u64 {
        let mut read = 0;
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server.process_new_packets().unwrap();
            let mut text = [0; RECORD_BYTES_MAX];
            while let Ok(count @ 1..) = server.reader().read(&mut text) {
                read += count as u64;
            }
        }
        read
    }

    #[test]
    fn what_is_acknowledged_is_what_the_receiver_can_read() {
        let (mut session, mut server) = pair();
        let handshake = session.wire_bytes();
        assert_eq!(session.lines_within(handshake - 1), 0);
        let mut wire = Vec::new();
        for lines in [1, 300, 20_000, 7] {
            session.seal(&vec![b'x'; lines], &mut wire).unwrap();
        }
        // One of the four takes two records.
        assert_eq!(session.records.len(), 6);
        let mut read = 0;
        for (sent, byte) in (handshake + 1..).zip(&wire) {
            let begun = session.lines_begun(sent);
            assert!(begun > session.lines_within(sent - 1), "the byte {sent} begins a record, or goes on with one");
            read += feed(&mut server, &[*byte]);
            assert_eq!(session.lines_within(sent), read, "{sent}");
        }
        assert_eq!(read, 20_308);
        // The end, and what TCP counts for its FIN, are no lines.
        session.seal_end(&mut wire).unwrap();
        assert_eq!(session.lines_within(handshake + wire.len() as u64 + 1), read);
    }

    #[test]
    fn forgotten_records_are_not_missed() {
        let (mut session, _) = pair();
        let mut wire = Vec::new();
        while !session.remembers_many() {
            session.seal(b"some line", &mut wire).unwrap();
        }
        let (handshake, each) = (session.wire_bytes_at(0), session.wire_bytes_at(1) - session.wire_bytes_at(0));
        let before = |session: &Session, record: u64| {
            let wire = handshake + record * each;
            (session.lines_within(wire), session.lines_within(wire + 1), session.lines_begun(wire + 1))
        };
        let expected: Vec<_> = (4000..4010).map(|record| before(&session, record)).collect();
        assert_eq!(expected[0], (36_000, 36_000, 36_009));
        session.forget(handshake + 4000 * each + 5);
        assert!(!session.remembers_many());
        assert_eq!((4000..4010).map(|record| before(&session, record)).collect::<Vec<_>>(), expected);
    }

    impl Session {
        fn wire_bytes_at(&self, record: usize) -> u64 {
            self.records[record].wire
        }
    }
}
