//! The ways between shards: messages take their time, overtake none of the same way, and stay within the queue.

use super::agenda::{Agenda, Event};
use super::chance::Chance;
use crate::handover::{Message, ShardId};
use crate::limits::handover_queue;
use crate::time::Time;

#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// When the last message arrives.
    last_at: Time,
    /// Messages that the receiver has not taken.
    queued: usize,
}

/// One way for each ordered pair of shards.
#[derive(Debug)]
pub(super) struct Post {
    shards: usize,
    queue: usize,
    ways: Vec<Way>,
}

impl Post {
    pub(super) fn new(shards: u16) -> Self {
        let queue = handover_queue(shards);
        let shards = usize::from(shards);
        Self { shards, queue, ways: vec![Way::default(); shards * shards] }
    }

    fn way(&mut self, from: ShardId, to: ShardId) -> &mut Way {
        &mut self.ways[usize::from(from.0) * self.shards + usize::from(to.0)]
    }

    pub(super) fn send(
        &mut self,
        from: ShardId,
        to: ShardId,
        message: Message,
        agenda: &mut Agenda,
        chance: &mut Chance,
    ) {
        assert_ne!(from, to, "a shard sends nothing to itself");
        let at = agenda.now() + chance.delay();
        let queue = self.queue;
        let way = self.way(from, to);
        way.queued += 1;
        assert!(way.queued <= queue, "the queue from {from:?} to {to:?} is full");
        way.last_at = way.last_at.max(at);
        agenda.plan_at(way.last_at, Event::Sent { from, to, message });
    }

    /// The receiver takes one.
    pub(super) fn taken(&mut self, from: ShardId, to: ShardId) {
        self.way(from, to).queued -= 1;
    }
}
