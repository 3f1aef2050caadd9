//! TLS between what is received and the line decoder: ciphertext in, lines and bytes to send out. No sockets.
//!
//! ```text
//!  received buffers   …│ record │ record │ rec        ord │ record │…
//!  in place             decrypted where they are                          payload ─► LineDecoder
//!  through the carry                        rec + ord                     a record across two buffers: joined first
//!  outgoing           handshake, alerts, close_notify ─► the connection, when the bytes before are sent
//! ```
//! The library decrypts a record where it is and then copies its payload into memory of its own: one allocation a record,
//! which it frees as soon as the payload is taken. Nothing else is allocated after the handshake.
//!
//! Invariant: before the handshake begins the carry holds all that has come; then, between calls, the beginning of one
//! record, behind records of an unfinished handshake message if there are any. No carry exists while there is nothing to hold.
//!
//! Left out on purpose: early data (it can be replayed), renegotiation, compression.

mod expiry;
mod server;

pub use server::{BadPair, ClientCertificates, Credentials, Server};

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus};
use rustls::{CertificateError, Error, HandshakeKind};

use crate::buf::{BufferPool, WriteBuf};
use crate::framing::{Foreign, LineDecoder, LineSink};
use crate::limits::TLS_CARRY_BYTES_MAX;
use crate::wire::entry::TLS_HELLO;

/// Bytes of a record before its payload: type, version, length.
const HEADER_BYTES: usize = 5;
/// A record is shorter: what announces more is refused by its header.
const RECORD_BYTES_MAX: usize = 16 * 1024 + 2048;
/// More than a `close_notify` with all that the cipher adds.
const CLOSE_NOTIFY_BYTES_MAX: usize = 64;

/// Why nothing more is taken of a connection.
#[derive(Debug)]
pub enum Stop {
    /// The peer has said that it will send nothing more.
    Closed,
    /// What came is not what the listener speaks.
    Foreign(Foreign),
    /// TLS itself failed: the handshake, or a record after it.
    Failed(TlsError),
}

/// What a peer did wrong, or said of us: words of TLS, never bytes of the peer.
#[derive(Debug)]
pub struct TlsError {
    reason: String,
    loses_a_record: bool,
}

impl TlsError {
    /// Whether there is a record that could not be taken. The peer's own alert is none.
    #[must_use]
    pub fn loses_a_record(&self) -> bool {
        self.loses_a_record
    }
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for TlsError {}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        let loses_a_record = !matches!(error, Error::AlertReceived(_));
        let reason = match error {
            Error::AlertReceived(alert) => format!("the peer sent the alert {alert:?}"),
            Error::PeerIncompatible(why) => format!("nothing in common: {why:?}"),
            Error::PeerMisbehaved(how) => format!("against the protocol: {how:?}"),
            Error::NoCertificatesPresented => "the peer has no certificate".to_owned(),
            // Others may quote what is in the certificate.
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                "the peer's certificate is of an unknown authority".to_owned()
            }
            Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                "the peer's certificate has expired".to_owned()
            }
            Error::InvalidCertificate(_) => "the peer's certificate is not valid".to_owned(),
            Error::DecryptError => "a record is damaged".to_owned(),
            Error::PeerSentOversizedRecord => "a record is too long".to_owned(),
            Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => "a message is damaged".to_owned(),
            Error::InappropriateHandshakeMessage { .. } => "a message out of order".to_owned(),
            _ => "TLS failed".to_owned(),
        };
        Self { reason, loses_a_record }
    }
}

/// How a handshake ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// With certificates.
    Full,
    /// With the ticket of an earlier one.
    Resumed,
}

/// One connection's TLS.
pub struct Session {
    server: Server,
    /// From the handshake's beginning on.
    connection: Option<UnbufferedServerConnection>,
    /// The first bytes have not been looked at.
    fresh: bool,
    said_goodbye: bool,
    carry: Option<WriteBuf>,
    /// Where in the carry the record begins that is not all there.
    record_at: usize,
    outgoing: Option<WriteBuf>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("handshaking", &self.is_handshaking()).finish_non_exhaustive()
    }
}

impl Session {
    /// Waits for a client's first message.
    #[must_use]
    pub fn new(server: &Server) -> Self {
        let server = server.clone();
        Self { server, connection: None, fresh: true, said_goodbye: false, carry: None, record_at: 0, outgoing: None }
    }

    /// Whether the handshake has not begun and the client's first record is here, as far as it is needed.
    #[must_use]
    pub fn has_hello(&self) -> bool {
        let Some(carry) = self.carry.as_ref().filter(|_| self.connection.is_none()) else { return false };
        let record = carry.content();
        // One that announces what no record is, is told so at once.
        let is_nonsense = record.first_chunk().is_some_and(|header| !(1..RECORD_BYTES_MAX).contains(&length(*header)));
        is_nonsense || missing(record) == 0
    }

    /// Whether the handshake has begun: until then all that comes is kept.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.connection.is_some()
    }

    /// Begins the handshake, with what has come so far.
    ///
    /// # Errors
    /// As [`Session::receive`].
    pub fn begin(&mut self, decoder: &mut LineDecoder, limit: usize, sink: &mut impl LineSink) -> Result<(), Stop> {
        self.connection = Some(self.server.accept());
        let Some(mut hello) = self.carry.take() else { return Ok(()) };
        let result = self.receive(hello.content_mut(), decoder, limit, sink);
        sink.memory().give(hello);
        result
    }

    /// Takes what was received, decrypts it where it is, and gives the decoder the lines. Before the handshake has begun it
    /// is kept.
    ///
    /// # Errors
    ///
    /// Nothing more is to be taken. What [`Session::outgoing`] then gives is still to be sent.
    pub fn receive(
        &mut self,
        mut input: &mut [u8],
        decoder: &mut LineDecoder,
        limit: usize,
        sink: &mut impl LineSink,
    ) -> Result<(), Stop> {
        if self.fresh {
            self.look_at_first_bytes(input)?;
        }
        if self.connection.is_none() {
            return self.keep(input, sink.memory());
        }
        while !input.is_empty() {
            let Some(carry) = self.carry.take() else {
                // Found out now: in the records of an unfinished handshake message the library moves bytes.
                let behind = unfinished_record(input);
                let taken = self.process(input, decoder, limit, sink)?;
                if taken < input.len() {
                    self.carry = Some(sink.memory().append(None, &input[taken..]));
                    self.record_at = behind - taken;
                }
                return Ok(());
            };
            let missing = missing(&carry.content()[self.record_at..]);
            let (now, later) = input.split_at_mut(missing.min(input.len()));
            let mut carry = sink.memory().append(Some(carry), now);
            let whole = now.len() == missing;
            input = later;
            // It was a header that became whole, or a record.
            let behind = match self::missing(&carry.content()[self.record_at..]) {
                0 => carry.content().len(),
                _ => self.record_at,
            };
            // After an error the carry stays, for `abandon_record`.
            let taken = if whole { self.process(carry.content_mut(), decoder, limit, sink) } else { Ok(0) };
            if taken.as_ref().is_ok_and(|&taken| taken == carry.content().len()) {
                sink.memory().give(carry);
                continue;
            }
            let dropped = *taken.as_ref().unwrap_or(&0);
            carry.drop_front(dropped);
            self.record_at = behind - dropped;
            self.carry = Some(carry);
            taken?;
            self.check_carry()?;
        }
        Ok(())
    }

    /// Keeps what comes before the handshake has begun.
    fn keep(&mut self, input: &[u8], memory: &mut BufferPool) -> Result<(), Stop> {
        if !input.is_empty() {
            self.carry = Some(memory.append(self.carry.take(), input));
        }
        self.check_carry()
    }

    fn check_carry(&self) -> Result<(), Stop> {
        if self.carry.as_ref().is_some_and(|carry| carry.content().len() > TLS_CARRY_BYTES_MAX) {
            let reason = "a handshake message is too long".to_owned();
            return Err(Stop::Failed(TlsError { reason, loses_a_record: true }));
        }
        Ok(())
    }

    /// Whether the handshake is not over yet.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| connection.is_handshaking())
    }

    /// How the handshake ended, once it has.
    #[must_use]
    pub fn handshake(&self) -> Handshake {
        match self.connection.as_ref().and_then(|connection| connection.handshake_kind()) {
            Some(HandshakeKind::Resumed) => Handshake::Resumed,
            _ => Handshake::Full,
        }
    }

    /// Whether the client has shown a certificate, which was valid: now, or when it got the ticket that it came with.
    #[must_use]
    pub fn client_is_known(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.peer_certificates().is_some())
    }

    /// Whether a part of a record has come and the rest of it has not; before the handshake begins, whether anything has come.
    #[must_use]
    pub fn is_in_record(&self) -> bool {
        self.carry.is_some()
    }

    /// What is to be sent next, if there is something.
    pub fn outgoing(&mut self) -> Option<WriteBuf> {
        self.outgoing.take()
    }

    /// Tells the peer that we will send nothing more, once; not before the end of the handshake.
    pub fn say_goodbye(&mut self, memory: &mut BufferPool) {
        if self.said_goodbye || self.is_handshaking() {
            return;
        }
        let Some(connection) = &mut self.connection else { return };
        self.said_goodbye = true;
        // The library looks for what it has seen of a handshake message where it saw it.
        let seen = self.carry.as_mut().map_or(&mut [][..], WriteBuf::content_mut);
        let UnbufferedStatus { state, .. } = connection.process_tls_records(seen);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
            let mut record = [0; CLOSE_NOTIFY_BYTES_MAX];
            if let Ok(bytes) = traffic.queue_close_notify(&mut record) {
                self.outgoing = Some(memory.append(self.outgoing.take(), &record[..bytes]));
            }
        }
    }

    /// Gives the memory of an unfinished record back.
    pub fn abandon_record(&mut self, memory: &mut BufferPool) {
        if let Some(carry) = self.carry.take() {
            memory.give(carry);
        }
    }

    /// The carry's size class, if there is one: what an unfinished record or a hello costs.
    #[must_use]
    pub fn carry_class(&self) -> Option<usize> {
        self.carry.as_ref().map(WriteBuf::class)
    }

    /// A client begins with a record of a handshake; anything else is not TLS.
    #[cold]
    fn look_at_first_bytes(&mut self, input: &[u8]) -> Result<(), Stop> {
        let carried = self.carry.as_ref().map_or(&[][..], WriteBuf::content);
        let mut first = carried.iter().chain(input);
        for (seen, expected) in (1..).zip(&TLS_HELLO) {
            match first.next() {
                None => return Ok(()),
                Some(byte) if byte != expected => return Err(Stop::Foreign(Foreign::NotTls)),
                Some(_) => self.fresh = seen < TLS_HELLO.len(),
            }
        }
        Ok(())
    }

    /// Decrypts all records that are whole; returns how many bytes are done with.
    fn process(
        &mut self,
        input: &mut [u8],
        decoder: &mut LineDecoder,
        limit: usize,
        sink: &mut impl LineSink,
    ) -> Result<usize, Stop> {
        let mut done = 0;
        while let Some(connection) = &mut self.connection {
            let UnbufferedStatus { mut discard, state, .. } = connection.process_tls_records(&mut input[done..]);
            let goes_on = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(|error| Stop::Failed(error.into()))?;
                        discard += record.discard;
                        decoder.feed(record.payload, limit, sink).map_err(Stop::Foreign)?;
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    encode(data, &mut self.outgoing, sink.memory());
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => return Err(Stop::Closed),
                Ok(_) => false,
                Err(error) => {
                    self.take_last_words(sink.memory());
                    return Err(Stop::Failed(error.into()));
                }
            };
            done += discard;
            if !goes_on {
                break;
            }
        }
        Ok(done)
    }

    /// The alert that says what the peer did wrong.
    #[cold]
    fn take_last_words(&mut self, memory: &mut BufferPool) {
        let Some(connection) = &mut self.connection else { return };
        // While there is something to send, no input is looked at.
        while connection.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(data)) = connection.process_tls_records(&mut []).state else {
                return;
            };
            encode(data, &mut self.outgoing, memory);
        }
    }
}

/// Bytes that a record lacks: up to the end of its header, or up to its own.
fn missing(record: &[u8]) -> usize {
    match record.first_chunk() {
        Some(header) => (HEADER_BYTES + length(*header)).saturating_sub(record.len()),
        None => HEADER_BYTES - record.len(),
    }
}

/// Bytes of a record behind its header.
fn length([_, _, _, high, low]: [u8; HEADER_BYTES]) -> usize {
    usize::from(u16::from_be_bytes([high, low]))
}

/// Where the first record begins that is not all there.
fn unfinished_record(records: &[u8]) -> usize {
    let mut at = 0;
    while let Some(header) = records[at..].first_chunk() {
        let end = at + HEADER_BYTES + length(*header);
        if end > records.len() {
            break;
        }
        at = end;
    }
    at
}

#[cold]
fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, outgoing: &mut Option<WriteBuf>, memory: &mut BufferPool) {
    let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = data.encode(&mut []) else {
        return;
    };
    let mut record = vec![0; required_size];
    if data.encode(&mut record).is_ok() {
        *outgoing = Some(memory.append(outgoing.take(), &record));
    }
}
