//! A shard's way to all others: a queue each way, and the message through the rings that wakes a sleeping one.

use std::os::fd::RawFd;
use std::sync::{Arc, OnceLock};

use crate::handover::{Doorbell, Inlet, Message, Outlet, ShardId, queue};
use crate::limits::handover_queue;

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
                let (inlet, outlet) = queue(handover_queue(shards));
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

    /// A shard that something was sent to in this turn and that sleeps, and its ring.
    pub(super) fn next_to_wake(&mut self) -> Option<(u32, RawFd)> {
        let street = &self.street;
        let sleeper = self
            .sent_to
            .iter_mut()
            .zip(&street.bells)
            .position(|(sent, bell)| std::mem::take(sent) && bell.must_wake())?;
        let ring = *street.rings[sleeper].get()?;
        Some((u32::try_from(sleeper).expect("shards are numbered by u16"), ring))
    }

    /// The bell of this shard was not heard: nobody else rings it, so it is rung again at the end of this turn.
    #[cold]
    pub(super) fn ring_again(&mut self, sleeper: u32) {
        let sleeper = sleeper as usize;
        self.street.bells[sleeper].not_heard();
        self.sent_to[sleeper] = true;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_is_woken_once_and_again_if_it_did_not_hear() {
        let mut all = Neighbours::street(2);
        for shard in &all {
            shard.move_in(40 + RawFd::from(shard.me.0));
        }
        let (sleeper, sender) = (all.pop().expect("two"), &mut all[0]);
        assert!(sleeper.fall_asleep());
        assert_eq!(sender.next_to_wake(), None, "nothing was sent");
        sender.send(ShardId(1), Message::Finished);
        assert_eq!([sender.next_to_wake(), sender.next_to_wake()], [Some((1, 41)), None]);
        sender.send(ShardId(1), Message::Finished);
        assert_eq!(sender.next_to_wake(), None, "it has been woken");
        sender.ring_again(1);
        assert_eq!([sender.next_to_wake(), sender.next_to_wake()], [Some((1, 41)), None]);
        sleeper.awake();
        assert!(!sleeper.fall_asleep(), "there is mail");
    }
}
