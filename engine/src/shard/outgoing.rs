//! Entries on their way to other shards: a lane to each, and the account of the memory that is out.

use std::collections::VecDeque;

use super::op::Op;
use crate::buf::BufferPool;
use crate::handover::{Batch, Lane, Message, RunKind, ShardId};
use crate::limits::{BUDGET_PARTS, handover_batches_max};
use crate::wire::{Entry, Token};

/// The lanes from one shard to all others.
#[derive(Debug)]
pub(super) struct Outgoing {
    lanes: Vec<Lane>,
    bytes: usize,
    /// Most bytes in all, and batches to one shard, that may be out.
    bytes_max: usize,
    batches_max: usize,
}

impl Outgoing {
    /// The first batches of all lanes together have at most half of what batches may have.
    pub(super) fn new(shards: u16, buffer_bytes: usize) -> Self {
        let bytes_max = buffer_bytes / BUDGET_PARTS;
        let fresh_bytes_max = bytes_max / 2 / usize::from(shards);
        let lanes = (0..shards).map(|_| Lane::new(fresh_bytes_max)).collect();
        Self { lanes, bytes: 0, bytes_max, batches_max: handover_batches_max(shards) }
    }

    #[inline]
    pub(super) fn add(&mut self, to: ShardId, token: Token, kind: RunKind, entry: Entry<'_>, pool: &mut BufferPool) {
        self.bytes += self.lanes[usize::from(to.0)].add(token, kind, entry, pool);
    }

    /// Sends what has gathered.
    pub(super) fn publish(&mut self, ops: &mut VecDeque<Op>) {
        if self.bytes == 0 {
            return;
        }
        for (to, lane) in (0..).map(ShardId).zip(&mut self.lanes) {
            ops.extend(lane.publish().map(|batch| Op::Send { to, message: Message::Batch(batch) }));
        }
    }

    /// A batch of ours came back from `from`.
    pub(super) fn returned(&mut self, from: ShardId, batch: Batch, pool: &mut BufferPool) {
        self.bytes -= batch.capacity();
        self.lanes[usize::from(from.0)].returned();
        pool.give(batch.into_memory());
    }

    /// Memory of batches that have not come back, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether more is out than may be, in all or to one shard.
    pub(super) fn is_over(&self) -> bool {
        self.exceeds(self.bytes_max, self.batches_max)
    }

    /// Whether more is out than half of what may be.
    pub(super) fn is_half_over(&self) -> bool {
        self.exceeds(self.bytes_max / 2, self.batches_max / 2)
    }

    fn exceeds(&self, bytes: usize, batches: usize) -> bool {
        self.bytes > bytes || (self.bytes > 0 && self.lanes.iter().any(|lane| lane.outstanding() > batches))
    }
}
