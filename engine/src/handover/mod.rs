//! What one shard hands to another: batches of entries, through a bounded queue for each ordered pair of shards.
//!
//! ```text
//!  shard A                                             shard B, which owns the log
//!  entry ─► lane to B ─► batch ──── queue A→B ────────► copied into staging
//!             ▲                                              │
//!             └──────── empty batch ◄── queue B→A ───────────┘
//! ```
//! A batch's memory is charged to the shard that filled it until it comes back. Order per connection and log follows from
//! the queues, which keep theirs.

mod batch;
mod queue;

// What the queue is built on, by this name: elsewhere it is loom's.
use std::sync;

pub use batch::{Batch, Lane, Run, RunKind};
pub use queue::{Doorbell, Inlet, Outlet, queue};

/// A shard, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// What travels from one shard to another.
#[derive(Debug)]
pub enum Message {
    /// Entries of logs that the receiver owns.
    Batch(Batch),
    /// The receiver's own batch, copied: its memory goes home.
    Returned(Batch),
    /// The sender has nothing more for anybody.
    Finished,
}

#[cfg(test)]
mod tests {
    use super::queue::queue;

    #[test]
    fn values_come_out_in_order_and_a_full_queue_says_so() {
        let (mut inlet, mut outlet) = queue(3);
        for round in 0..10 {
            for value in 0..3 {
                assert_eq!(inlet.push(round * 3 + value), Ok(()));
            }
            assert_eq!(inlet.push(99), Err(99));
            for value in 0..3 {
                assert_eq!(outlet.pop(), Some(round * 3 + value));
            }
            assert!(outlet.is_empty() && outlet.pop().is_none());
        }
    }

    #[test]
    fn two_threads_pass_everything_on() {
        let (mut inlet, mut outlet) = queue(4);
        let sender = std::thread::spawn(move || {
            for value in 0..100_000_u32 {
                let mut value = value;
                while let Err(back) = inlet.push(value) {
                    value = back;
                    std::thread::yield_now();
                }
            }
        });
        for expected in 0..100_000 {
            let value = loop {
                match outlet.pop() {
                    Some(value) => break value,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(value, expected);
        }
        sender.join().expect("the sender does not panic");
    }
}
