//! The end of a shard: nothing that TCP ever acknowledged is lost.
//!
//! ```text
//!  Serving ─Drain─► Settling ─10 ms─► Waiting ─accept queues empty, peers closed─► Flushing ─► Done
//!                   listeners refuse  half-close; take what      │                     ▲
//!                   new handshakes    the kernel has accepted    │ timeout, 2nd signal │ the same
//!                                                                ▼                     │
//!                                               Silencing ─210 ms─► Cutting ───────────┘
//!                                               connections deaf   shut down
//! ```
//! What comes out of an accept queue late is treated at once as those that were there: half-closed, deafened, shut
//! down. So a queue longer than there are descriptors empties as connections end.
//!
//! The cut is exact. A deaf connection receives nothing new, and by the end of `Silencing` the kernel has acknowledged
//! all that it had received, also what it had delayed: the half-close has sent our FIN before, so `shutdown(both)` alone
//! would send no segment that could carry that acknowledgement, and senders would learn of less than is stored. Behind
//! the shutdown everything received can still be read, up to the end of stream. `Flushing` lasts until every shard has
//! said that nothing more comes from it. A storage that still refuses at the timeout ends the shard with bytes unstored
//! (`GivingUp`): it sends home what others hand it, so that they can end too.

use super::connection::Life;
use super::op::{ConnectionId, Op, ShutdownSide};
use super::{Listener, Shard, listener_id};
use crate::handover::{Message, ShardId};
use crate::limits::{ACKNOWLEDGE_SETTLE, CUT_NUDGE, DRAIN_SETTLE, QUEUE_ABANDON};
use crate::metrics::Counters;
use crate::time::Time;

/// Where a shard is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    Settling { until: Time, deadline: Time },
    Waiting { deadline: Time },
    Silencing { until: Time },
    Cutting { since: Time, nudge: Time },
    Flushing { deadline: Time, announced: bool },
    GivingUp { announced: bool },
    Done,
}

/// How a shard ended, or several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What it did.
    pub counters: Counters,
    /// Bytes taken from the network and not stored, because storage refused until the end.
    pub unstored_bytes: u64,
    /// Whether connections that the kernel had accepted were left in a listener's queue, or datagrams in a socket.
    pub abandoned_queue: bool,
    /// A sync or the journal failed at the end: what was written since the last sync may be lost.
    pub unsynced: bool,
}

impl Outcome {
    /// Adds how another shard ended.
    pub fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        self.unstored_bytes += other.unstored_bytes;
        self.abandoned_queue |= other.abandoned_queue;
        self.unsynced |= other.unsynced;
    }
}

impl Phase {
    /// Whether the engine itself has ended, or is ending, all streams.
    pub(super) fn cuts_connections(self) -> bool {
        matches!(self, Self::Cutting { .. } | Self::Flushing { .. } | Self::GivingUp { .. } | Self::Done)
    }

    /// Whether nothing is stored any more.
    pub(super) fn gives_up(self) -> bool {
        matches!(self, Self::GivingUp { .. } | Self::Done)
    }

    /// What a connection is told that comes out of an accept queue now. One that speaks TLS first makes its handshake.
    pub(super) fn welcome(self, id: ConnectionId, tls: bool) -> [Option<Op>; 2] {
        let shut = |side| Some(Op::Shutdown(id, side));
        match self {
            Self::Waiting { .. } if !tls => [shut(ShutdownSide::Write), None],
            Self::Silencing { .. } => [Some(Op::Deafen(id)), None],
            Self::Cutting { .. } => [Some(Op::Deafen(id)), shut(ShutdownSide::Both)],
            _ => [None, None],
        }
    }

    /// Whether all that is staged is to be written at once.
    pub(super) fn flushes(self) -> bool {
        matches!(self, Self::Flushing { .. })
    }

    pub(super) fn timeout(self) -> Option<Time> {
        match self {
            Self::Settling { until, .. } | Self::Silencing { until } | Self::Cutting { nudge: until, .. } => {
                Some(until)
            }
            Self::Waiting { deadline } | Self::Flushing { deadline, .. } => Some(deadline),
            Self::Serving | Self::GivingUp { .. } | Self::Done => None,
        }
    }
}

impl Shard {
    /// Starts a drain; the second call cuts it short.
    pub(super) fn drain(&mut self) {
        let deadline = self.now + self.config.drain_timeout;
        self.phase = match self.phase {
            Phase::Serving => {
                for index in 0..self.listeners.len() {
                    self.ops.push_back(Op::RefuseNew(listener_id(index)));
                }
                self.end_udp();
                Phase::Settling { until: self.now + DRAIN_SETTLE, deadline }
            }
            Phase::Settling { until, .. } => Phase::Settling { until, deadline: self.now },
            Phase::Waiting { .. } => Phase::Waiting { deadline: self.now },
            Phase::Flushing { announced, .. } => Phase::Flushing { deadline: self.now, announced },
            ending => ending,
        };
    }

    /// Goes as far as the drain can go now.
    pub(super) fn advance_drain(&mut self) {
        loop {
            let before = self.phase;
            self.phase = match before {
                Phase::Settling { until, deadline } if self.now >= until => {
                    self.stop_accepting();
                    self.half_close_all();
                    Phase::Waiting { deadline }
                }
                Phase::Waiting { deadline } => self.wait_for_peers(deadline),
                Phase::Silencing { until } => self.finish_silence(until),
                Phase::Cutting { since, nudge } => self.finish_cut(since, nudge),
                Phase::Flushing { deadline, announced } => self.finish_flush(deadline, announced),
                Phase::GivingUp { announced } => self.finish_giving_up(announced),
                same => same,
            };
            if self.phase == before {
                return;
            }
        }
    }

    /// Takes what the kernel accepted, listener by listener; an accept that fails is tried again. Says whether all are
    /// closed, no connection is left, and UDP sockets are empty.
    fn all_have_ended(&mut self) -> bool {
        for (index, state) in self.listeners.iter_mut().enumerate() {
            if *state == Listener::Idle && self.now >= self.accept_from {
                *state = Listener::Emptying;
                self.ops.push_back(Op::AcceptRest(listener_id(index)));
            }
        }
        let listeners_closed = self.listeners.iter().all(|state| *state == Listener::Closed);
        self.open_connections == 0 && listeners_closed && self.udp.has_ended()
    }

    fn wait_for_peers(&mut self, deadline: Time) -> Phase {
        if self.all_have_ended() {
            return Phase::Flushing { deadline, announced: false };
        }
        if self.now < deadline {
            return Phase::Waiting { deadline };
        }
        self.order_all(Op::Deafen);
        Phase::Silencing { until: self.now + ACKNOWLEDGE_SETTLE }
    }

    fn finish_silence(&mut self, until: Time) -> Phase {
        if self.now < until {
            return Phase::Silencing { until };
        }
        self.order_all(|id| Op::Shutdown(id, ShutdownSide::Both));
        Phase::Cutting { since: self.now, nudge: self.now + CUT_NUDGE }
    }

    fn finish_cut(&mut self, since: Time, nudge: Time) -> Phase {
        if self.all_have_ended() {
            return Phase::Flushing { deadline: self.now, announced: false };
        }
        if self.logs.is_hopeless(since) {
            return Phase::GivingUp { announced: false };
        }
        if self.now < nudge {
            return Phase::Cutting { since, nudge };
        }
        if self.open_connections == 0 && self.now.since(since) >= QUEUE_ABANDON {
            self.abandon_queues();
        }
        // What was cancelled is received again, as after any other pause.
        self.order_all(Op::CancelReceive);
        Phase::Cutting { since, nudge: self.now + CUT_NUDGE }
    }

    /// Accepting has failed all the time although no connection is left to take descriptors: the queues cannot be read.
    fn abandon_queues(&mut self) {
        for (index, state) in self.listeners.iter_mut().enumerate() {
            if *state == Listener::Idle {
                *state = Listener::Closed;
                self.abandoned_queue = true;
                self.ops.push_back(Op::CloseListener(listener_id(index)));
            }
        }
        self.abandon_udp();
    }

    /// Nothing more comes from our connections: waits until what they brought is stored, here and by other shards, and
    /// until the others have nothing more for us.
    fn finish_flush(&mut self, deadline: Time, announced: bool) -> Phase {
        if self.now >= deadline && self.logs.is_hopeless(deadline) {
            return Phase::GivingUp { announced };
        }
        let announced = announced || self.announce();
        let stored = self.incoming.is_empty() && self.logs.unwritten_bytes() == 0;
        let done = announced && stored && self.others_have_finished() && self.logs.end_durably(&mut self.ops);
        if done { Phase::Done } else { Phase::Flushing { deadline, announced } }
    }

    fn finish_giving_up(&mut self, announced: bool) -> Phase {
        let announced = announced || self.announce();
        if announced && self.others_have_finished() { Phase::Done } else { Phase::GivingUp { announced } }
    }

    /// Tells all others that nothing more comes, once everything that was sent has come back.
    fn announce(&mut self) -> bool {
        if self.outgoing.bytes() > 0 {
            return false;
        }
        let others = (0..self.config.ownership.shards()).map(ShardId).filter(|shard| *shard != self.config.id);
        self.ops.extend(others.map(|to| Op::Send { to, message: Message::Finished }));
        true
    }

    fn others_have_finished(&self) -> bool {
        self.finished + 1 == self.config.ownership.shards()
    }

    /// Our side of every connection ends; where TLS is spoken, with a `close_notify`, once the handshake is made.
    fn half_close_all(&mut self) {
        for index in 0..self.connections.len() {
            let Some(connection) = &self.connections[index] else { continue };
            let id = ConnectionId(u32::try_from(index).expect("connections are numbered by u32"));
            match (&connection.tls, connection.life) {
                (_, Life::Closing) => {}
                (None, _) => self.ops.push_back(Op::Shutdown(id, ShutdownSide::Write)),
                (Some(_), _) => self.leave(id),
            }
        }
    }

    /// The same order for every connection that is not closing yet.
    fn order_all(&mut self, order: impl Fn(ConnectionId) -> Op) {
        for (index, connection) in self.connections.iter().enumerate() {
            if connection.as_ref().is_some_and(|connection| connection.life != Life::Closing) {
                let id = ConnectionId(u32::try_from(index).expect("connections are numbered by u32"));
                self.ops.push_back(order(id));
            }
        }
    }
}
