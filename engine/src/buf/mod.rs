//! Memory on its way through a shard. Whoever holds a buffer owns it: buffers are moved between core and driver, never
//! borrowed, so one that is in flight cannot be touched.
//!
//! - [`RecvBuf`]: what one receive brought, lent from the driver's [`RecvArena`] and given back after use;
//! - [`WriteBuf`]: memory of a size class from the shard's [`BufferPool`], for unfinished lines and for staging.

mod fetch;
mod pool;
mod recv;

pub use pool::{BufferPool, CLASSES, WriteBuf, class_bytes, class_for};
pub use recv::{RecvArena, RecvBuf};
