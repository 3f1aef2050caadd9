//! A log receiver that speaks Token TCP.

pub mod error;
pub mod limits;
pub mod time;
pub mod wire;

pub mod buf;
pub mod scan;

pub mod framing;
pub mod metrics;
pub mod route;
pub mod segment;

pub mod shard;

pub mod sys;
