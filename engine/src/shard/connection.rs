//! One client's stream: what the shard remembers of it between receives.

use super::op::ListenerId;
use crate::framing::LineDecoder;
use crate::route::LogId;
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
    /// Who took it.
    pub(super) listener: ListenerId,
    pub(super) life: Life,
    /// A receive is in flight.
    pub(super) receiving: bool,
    pub(super) decoder: LineDecoder,
    /// The token of the last line and its log: consecutive lines often share it.
    pub(super) last: Option<(Token, LogId)>,
    /// The log that takes the further pieces of the line in progress.
    pub(super) pieces_to: Option<LogId>,
}

impl Connection {
    pub(super) fn new(listener: ListenerId) -> Self {
        let decoder = LineDecoder::default();
        Self { listener, life: Life::Open, receiving: true, decoder, last: None, pieces_to: None }
    }
}

const _: () = assert!(size_of::<Option<Connection>>() <= 512, "an idle connection costs at most 512 bytes");
