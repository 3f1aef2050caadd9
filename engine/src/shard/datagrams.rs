//! Datagrams: received like a connection's bytes, with buffers of their own, and dropped by the kernel where a connection
//! would have to wait.
//!
//! ```text
//!  Receiving ──no buffer, failed──► Idle ──room──► Receiving
//!      │ drain: deaf                  │ drain
//!      └─────cancelled────────────────┴──► Idle ──► Emptying ──empty──► Closed
//! ```
//! What came waits for the end of the turn: while connections bring bytes, datagrams get about as much of it as they.
//! While there is no room for input they wait with their buffers, the driver runs out of those, the socket's buffer fills,
//! and the kernel drops what follows and counts it.

use std::collections::VecDeque;

use super::destination::Destination;
use super::ingest::{Ingest, Pieces};
use super::op::{Datagrams, Notice, Op, ReceivedDatagrams, UdpId};
use super::{Recurring, Shard};
use crate::framing::feed_datagram;
use crate::limits::{ACCEPT_RETRY, DATAGRAM_COST_BYTES, QUEUE_ABANDON, UDP_TURN_BYTES_MIN};
use crate::time::Time;
use crate::wire::Token;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No receive in flight.
    Idle,
    Receiving,
    /// Takes what is left; whether this receive has brought some of it.
    Emptying {
        some: bool,
    },
    Closed,
}

#[derive(Clone, Debug)]
struct Socket {
    state: State,
    /// What the kernel said last that it has dropped.
    drops: u32,
}

/// The UDP sockets of a shard, and what came and was not taken yet.
#[derive(Debug)]
pub(super) struct Udp {
    sockets: Vec<Socket>,
    waiting: VecDeque<Datagrams>,
    /// The sockets are deaf: what they hold is the rest.
    ends: bool,
    /// After a failed receive the next one waits until then.
    receive_from: Time,
    /// When receiving failed for the first time since it last worked.
    failing_since: Option<Time>,
    failure: Recurring,
    /// Bytes that connections brought in this turn.
    connection_bytes: usize,
    /// The token of the last line and where it went.
    last: Option<(Token, Destination)>,
    pieces_to: Option<Pieces>,
}

impl Udp {
    pub(super) fn new(sockets: u32) -> Self {
        Self {
            sockets: vec![Socket { state: State::Receiving, drops: 0 }; sockets as usize],
            waiting: VecDeque::new(),
            ends: false,
            receive_from: Time::default(),
            failing_since: None,
            failure: Recurring::default(),
            connection_bytes: 0,
            last: None,
            pieces_to: None,
        }
    }

    /// The next line asks anew where its token's entries go.
    pub(super) fn forget_last(&mut self) {
        self.last = None;
    }

    /// A connection's bytes were taken.
    pub(super) fn connections_took(&mut self, bytes: usize) {
        self.connection_bytes += bytes;
    }

    /// Bytes that came and were not taken.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting.iter().map(|datagrams| datagrams.buf.len() as u64).sum()
    }

    /// Whether nothing more will come.
    pub(super) fn has_ended(&self) -> bool {
        self.waiting.is_empty() && self.sockets.iter().all(|socket| socket.state == State::Closed)
    }

    fn has_idle(&self) -> bool {
        self.sockets.iter().any(|socket| socket.state == State::Idle)
    }
}

impl Shard {
    pub(super) fn datagrams_received(&mut self, id: UdpId, received: ReceivedDatagrams, more: bool) {
        let socket = &mut self.udp.sockets[id.0 as usize];
        let before = socket.state;
        match before {
            _ if !more => socket.state = State::Idle,
            State::Emptying { .. } => socket.state = State::Emptying { some: true },
            _ => {}
        }
        match received {
            ReceivedDatagrams::Data(datagrams) => {
                if let Some(drops) = datagrams.drops {
                    self.counters.udp_kernel_drops += u64::from(drops.wrapping_sub(socket.drops));
                    socket.drops = drops;
                }
                self.udp.waiting.push_back(datagrams);
                self.udp.failing_since = None;
            }
            ReceivedDatagrams::Empty if before == (State::Emptying { some: true }) => {}
            ReceivedDatagrams::Empty => {
                socket.state = State::Closed;
                self.ops.push_back(Op::CloseUdp(id));
            }
            ReceivedDatagrams::Failed(error) => {
                self.udp.receive_from = self.now + ACCEPT_RETRY;
                self.udp.failing_since.get_or_insert(self.now);
                self.notices.extend(self.udp.failure.again(self.now).map(|_| Notice::UdpFailed(error)));
            }
            ReceivedDatagrams::NoBuffer | ReceivedDatagrams::Cancelled => {}
        }
    }

    /// Takes datagrams while there is room, and no more than their share of the turn.
    pub(super) fn take_datagrams(&mut self) {
        let mut share = match std::mem::take(&mut self.udp.connection_bytes) {
            0 => usize::MAX,
            bytes => bytes.max(UDP_TURN_BYTES_MIN),
        };
        while !self.paused
            && share > 0
            && let Some(datagrams) = self.udp.waiting.pop_front()
        {
            share = share.saturating_sub(datagrams.buf.len().max(DATAGRAM_COST_BYTES));
            // Who keeps a list has said which logs there are.
            if self.config.udp_creates || self.logs.known().is_some() {
                self.ingest_datagrams::<true>(&datagrams);
            } else {
                self.ingest_datagrams::<false>(&datagrams);
            }
            self.ops.push_back(Op::RecycleDatagrams(datagrams.buf));
            self.relieve();
        }
    }

    fn ingest_datagrams<const MAKES_LOGS: bool>(&mut self, datagrams: &Datagrams) {
        let (bytes, lines) = (datagrams.buf.len() as u64, self.counters.lines);
        let mut sink = Ingest::<MAKES_LOGS> {
            logs: &mut self.logs,
            counters: &mut self.counters,
            outgoing: &mut self.outgoing,
            last: &mut self.udp.last,
            pieces_to: &mut self.udp.pieces_to,
            oversize: self.config.oversize,
            now: self.now,
        };
        let mut count = 0;
        for datagram in datagrams.buf.chunks(datagrams.each.max(1)) {
            feed_datagram(datagram, self.config.line_bytes_max, &mut sink);
            count += 1;
        }
        // An empty one is one too.
        self.counters.udp_datagrams += count.max(1);
        self.counters.received_bytes += bytes;
        self.counters.udp_received_bytes += bytes;
        self.counters.udp_lines += self.counters.lines - lines;
    }

    /// Receives again where that has ended, once half of the buffers are back: fewer would be gone at once.
    pub(super) fn resume_udp(&mut self) {
        let room = 2 * self.udp.waiting.len() <= self.config.udp_buffers;
        if !room || self.now < self.udp.receive_from || !self.udp.has_idle() {
            return;
        }
        let rest = self.udp.ends;
        for (socket, id) in self.udp.sockets.iter_mut().zip(0..) {
            if socket.state == State::Idle {
                socket.state = if rest { State::Emptying { some: false } } else { State::Receiving };
                self.ops.push_back(Op::ReceiveDatagrams { socket: UdpId(id), rest });
            }
        }
    }

    /// The sockets hear nothing new; what they hold is still taken.
    pub(super) fn end_udp(&mut self) {
        self.udp.ends = true;
        for (socket, id) in self.udp.sockets.iter().zip(0..) {
            if socket.state != State::Closed {
                self.ops.push_back(Op::DeafenUdp(UdpId(id)));
            }
        }
    }

    /// Receiving fails all the time, although no connection is left: what the sockets hold cannot be had.
    pub(super) fn abandon_udp(&mut self) {
        let fails = self.udp.failing_since.is_some_and(|since| self.now.since(since) >= QUEUE_ABANDON);
        for (socket, id) in self.udp.sockets.iter_mut().zip(0..) {
            if socket.state == State::Idle && fails {
                socket.state = State::Closed;
                self.abandoned_queue = true;
                self.ops.push_back(Op::CloseUdp(UdpId(id)));
            }
        }
    }

    /// When the shard wants its next turn for datagrams: at once if some wait for their share of it.
    pub(super) fn udp_timeout(&self) -> Option<Time> {
        if !self.udp.waiting.is_empty() && !self.paused {
            return Some(self.now);
        }
        (self.udp.has_idle() && self.udp.receive_from > self.now).then_some(self.udp.receive_from)
    }
}
