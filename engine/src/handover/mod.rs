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
