//! What will happen when: the simulation's clock and its queue of events.

use std::collections::BTreeMap;
use std::time::Duration;

use super::network::PeerId;
use crate::buf::WriteBuf;
use crate::handover::{Message, ShardId};
use crate::shard::{Command, ConnectionId, ListenerId, Op, UdpId};
use crate::time::Time;

/// Something that happens outside the shard that it concerns.
#[derive(Debug)]
pub(super) enum Event {
    /// A connection may be waiting for an accept.
    Acceptable(ShardId, ListenerId),
    AcceptCancelled(ShardId, ListenerId),
    /// There may be something to receive.
    Readable(PeerId),
    ReceiveCancelled(PeerId),
    /// Bytes for a peer go out.
    Transmit(PeerId, WriteBuf),
    Closed(ShardId, ConnectionId),
    /// There may be datagrams to receive.
    DatagramsReadable(ShardId, UdpId),
    DatagramsCancelled(ShardId, UdpId),
    /// A create, an open, a write or a sync takes effect.
    Disk(ShardId, Op),
    Sent {
        from: ShardId,
        to: ShardId,
        message: Message,
    },
    Command(ShardId, Command),
}

/// Events by time, and in the order in which they were planned where the time is the same.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    now: Time,
    events: BTreeMap<(Time, u64), Event>,
    planned: u64,
}

impl Agenda {
    pub(super) fn plan(&mut self, delay: Duration, event: Event) {
        self.plan_at(self.now + delay, event);
    }

    /// Not before now.
    pub(super) fn plan_at(&mut self, at: Time, event: Event) {
        self.planned += 1;
        self.events.insert((at.max(self.now), self.planned), event);
    }

    pub(super) fn now(&self) -> Time {
        self.now
    }

    pub(super) fn next_at(&self) -> Option<Time> {
        self.events.first_key_value().map(|(&(at, _), _)| at)
    }

    /// The next event up to `until`; what it causes is planned from its own time on.
    pub(super) fn pop(&mut self, until: Time) -> Option<Event> {
        if self.next_at()? > until {
            return None;
        }
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }

    pub(super) fn set_now(&mut self, now: Time) {
        self.now = now;
    }
}
