//! What the engine counts, and how it is shown.
//!
//! ```text
//!  shard: Counters, Histogram ──copied on demand──► Report ─┐
//!  control side: disk, recovery ────────────────────────────┴─► Snapshot ─► render ─► OpenMetrics text
//! ```
//! Nothing here is shared between threads: a shard adds to integers of its own, and a report is a copy.

mod histogram;
mod limits;
pub mod names;
pub mod render;
mod shard;

pub use histogram::Histogram;
pub use limits::{Amount, Limit, constants};
pub use shard::{Counters, HandshakeResult, ListenerCounters, Load, Report, StorageState};
