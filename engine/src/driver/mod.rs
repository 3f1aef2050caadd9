//! Drivers execute a shard's operations and hand back completions. They decide nothing.
//!
//! The contract, which `tests/driver_conformance.rs` proves for each of them. A driver's turn:
//! 1. read the clock once and hand every completion that is there to [`Shard::handle`] with that time;
//! 2. [`Shard::end_turn`], then start what [`Shard::poll_op`] gives, in order, until it gives nothing;
//! 3. end if there is an [`outcome`](Shard::outcome); else wait for a completion, at most until [`Shard::timeout`].
//!
//! - Every [`Op`](crate::shard::Op) that has an answer is answered exactly once; multishot ones until `more: false`.
//!   Buffers come back in the answer.
//! - A driver never retries, splits, reorders or interprets: short writes, full disks and resets are the shard's business.
//! - Operations on one connection or one segment take effect in the order in which they were given.
//! - A connection's number is not used again before [`Completion::Closed`](crate::shard::Completion::Closed).

#[cfg(doc)]
use crate::shard::Shard;

pub mod sim;
pub mod uring;
