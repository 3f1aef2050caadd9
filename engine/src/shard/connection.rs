//! One client's stream: what the shard remembers of it between receives.

use super::destination::Destination;
use super::ingest::Pieces;
use super::op::{ListenerId, PeerAddress};
use super::proxied::Header;
use super::secure::Secure;
use crate::framing::{Framing, LineDecoder};
use crate::time::Time;
use crate::wire::Token;

/// Where a connection is in its life.
///
/// ```text
///  Open ──end, reset, foreign protocol──► Ending ──no receive in flight──► Closing ──► gone
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Its bytes are taken.
    Open,
    /// Its bytes are dropped; it closes when its receive has ended.
    Ending,
    /// The driver is closing it.
    Closing,
}

/// What a connection brought in one turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Brought {
    pub(super) turn: Time,
    pub(super) buffers: usize,
    pub(super) bytes: usize,
}

/// One client's stream.
#[derive(Debug)]
pub(super) struct Connection {
    /// Who took it.
    pub(super) listener: ListenerId,
    pub(super) life: Life,
    /// The address that it is counted for.
    pub(super) counted_for: Option<PeerAddress>,
    /// A receive is in flight.
    pub(super) receiving: bool,
    /// How many of its events are held.
    pub(super) held: u32,
    /// The last turn in which it brought something, and how much.
    pub(super) brought: Brought,
    /// Until then it gets one buffer at a time.
    pub(super) rationed_until: Time,
    pub(super) decoder: LineDecoder,
    /// What a proxy has to say first, until it has.
    pub(super) header: Option<Box<Header>>,
    /// What stands between the bytes and the decoder, where TLS is spoken.
    pub(super) tls: Option<Box<Secure>>,
    /// The token of the last line and where it went: consecutive lines often share it.
    pub(super) last: Option<(Token, Destination)>,
    /// Where the further pieces of the line in progress go.
    pub(super) pieces_to: Option<Pieces>,
}

impl Connection {
    pub(super) fn new(listener: ListenerId, framing: Framing, counted_for: Option<PeerAddress>) -> Self {
        Self {
            listener,
            life: Life::Open,
            counted_for,
            receiving: true,
            held: 0,
            brought: Brought::default(),
            rationed_until: Time::default(),
            decoder: LineDecoder::new(framing),
            header: None,
            tls: None,
            last: None,
            pieces_to: None,
        }
    }

    /// One that is closed before anything is received.
    pub(super) fn turned_away(listener: ListenerId) -> Self {
        Self { life: Life::Closing, receiving: false, ..Self::new(listener, Framing::Lf, None) }
    }

    /// Size classes of what is not all there: a line, a record, a hello or what has come before its turn.
    pub(super) fn unfinished(&self) -> [Option<usize>; 3] {
        let (record, hello) = match &self.tls {
            Some(tls) if tls.session.has_begun() => (tls.session.carry_class(), None),
            Some(tls) => (None, tls.session.carry_class()),
            None => (None, None),
        };
        [self.decoder.carry_class(), record, hello]
    }

    /// Bytes are on their way to the peer.
    pub(super) fn is_sending(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.sending)
    }
}

const _: () = assert!(size_of::<Connection>() <= 256, "an idle connection costs at most 512 bytes, tables and all");
