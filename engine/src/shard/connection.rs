//! One client's stream: what the shard remembers of it between receives.

use super::logs::Destination;
use super::secure::Secure;
use crate::framing::{Framing, LineDecoder};
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

/// One client's stream.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) life: Life,
    /// A receive is in flight.
    pub(super) receiving: bool,
    /// How many of its events are held.
    pub(super) held: u32,
    pub(super) decoder: LineDecoder,
    /// What stands between the bytes and the decoder, where TLS is spoken.
    pub(super) tls: Option<Box<Secure>>,
    /// The token of the last line and where it went: consecutive lines often share it.
    pub(super) last: Option<(Token, Destination)>,
    /// Where the further pieces of the line in progress go.
    pub(super) pieces_to: Option<(Token, Destination)>,
}

impl Connection {
    pub(super) fn new(framing: Framing) -> Self {
        Self {
            life: Life::Open,
            receiving: true,
            held: 0,
            decoder: LineDecoder::new(framing),
            tls: None,
            last: None,
            pieces_to: None,
        }
    }

    /// The size class of the record that is not all there.
    pub(super) fn record_class(&self) -> Option<usize> {
        self.tls.as_ref().and_then(|tls| tls.session.carry_class())
    }

    /// Bytes are on their way to the peer.
    pub(super) fn is_sending(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.sending)
    }
}

const _: () = assert!(size_of::<Option<Connection>>() <= 512, "an idle connection costs at most 512 bytes");
