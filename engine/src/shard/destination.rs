//! Where a line's entry goes.

use crate::handover::ShardId;
use crate::route::LogId;

/// Where the entries of a token go: to a log of this shard or to another shard.
///
/// One word, because it is handed from function to function for every line: an enum of the two is put together from pieces
/// in memory, and whoever then loads the whole waits for every store before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination(u64);

/// A destination taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Nowhere,
    Log(LogId),
    Shard(ShardId),
}

impl Destination {
    const SHARD: u64 = 1 << u32::BITS;
    /// Of a line that is no entry.
    pub(super) const NOWHERE: Self = Self(u64::MAX);

    #[inline]
    pub(super) fn log(log: LogId) -> Self {
        Self(log.0.into())
    }

    #[inline]
    pub(super) fn shard(shard: ShardId) -> Self {
        Self(Self::SHARD | u64::from(shard.0))
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is the number")]
    pub(super) fn target(self) -> Target {
        if self.0 < Self::SHARD {
            Target::Log(LogId(self.0 as u32))
        } else if self == Self::NOWHERE {
            Target::Nowhere
        } else {
            Target::Shard(ShardId(self.0 as u16))
        }
    }
}
