//! A shard's way to all others: a queue each way, and the message through the rings that wakes a sleeping one.

use std::os::fd::RawFd;
use std::sync::{Arc, OnceLock};

use crate::handover::{Doorbell, Inlet, Message, Outlet, ShardId, queue};
use crate::limits::HANDOVER_QUEUE;

/// What all shards of a process share.
#[derive(Debug)]
struct Street {
    bells: Vec<Doorbell>,
    rings: Vec<OnceLock<RawFd>>,
}

/// One shard's ends of the queues.
#[derive(Debug)]
pub struct Neighbours {
    me: ShardId,
    street: Arc<Street>,
    /// To each shard, nothing to itself.
    inlets: Vec<Option<Inlet<Message>>>,
    outlets: Vec<Option<Outlet<Message>>>,
    /// Shards that something was sent to in this turn.
    sent_to: Vec<bool>,
}

impl Neighbours {
    /// The ends of all shards, each for its own thread.
    #[must_use]
    pub fn street(shards: u16) -> Vec<Self> {
        let count = usize::from(shards);
        let street = Arc::new(Street {
            bells: (0..count).map(|_| Doorbell::default()).collect(),
            rings: (0..count).map(|_| OnceLock::new()).collect(),
        });
        let house = |me| Self {
            me: ShardId(me),
            street: Arc::clone(&street),
            inlets: (0..count).map(|_| None).collect(),
            outlets: (0..count).map(|_| None).collect(),
            sent_to: vec![false; count],
        };
        let mut all: Vec<Self> = (0..shards).map(house).collect();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let (inlet, outlet) = queue(HANDOVER_QUEUE);
                all[from].inlets[to] = Some(inlet);
                all[to].outlets[from] = Some(outlet);
            }
        }
        all
    }

    /// Makes this shard's ring known: others wake it through that.
    pub(super) fn move_in(&self, ring: RawFd) {
        self.street.rings[usize::from(self.me.0)].set(ring).expect("a shard has one ring");
    }

    pub(super) fn send(&mut self, to: ShardId, message: Message) {
        let to = usize::from(to.0);
        let inlet = self.inlets[to].as_mut().expect("a shard sends nothing to itself");
        assert!(inlet.push(message).is_ok(), "the shard keeps within the queue's length");
        self.sent_to[to] = true;
    }

    /// The ring of a shard that something was sent to in this turn and that sleeps.
    pub(super) fn next_to_wake(&mut self) -> Option<RawFd> {
        let street = &self.street;
        let sleeper = self
            .sent_to
            .iter_mut()
            .zip(&street.bells)
            .position(|(sent, bell)| std::mem::take(sent) && bell.must_wake())?;
        street.rings[sleeper].get().copied()
    }

    /// The next message of any other shard.
    pub(super) fn receive(&mut self) -> Option<(ShardId, Message)> {
        (0..).map(ShardId).zip(&mut self.outlets).find_map(|(from, outlet)| Some((from, outlet.as_mut()?.pop()?)))
    }

    /// Says that this shard is about to sleep. If there is mail after all, it must not.
    pub(super) fn fall_asleep(&self) -> bool {
        self.street.bells[usize::from(self.me.0)].fall_asleep();
        self.outlets.iter().flatten().all(Outlet::is_empty)
    }

    pub(super) fn awake(&self) {
        self.street.bells[usize::from(self.me.0)].awake();
    }
}
