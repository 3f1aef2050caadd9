//! A log receiver that speaks Token TCP.

pub mod error;
pub mod limits;
pub mod segment;
pub mod store;
pub mod sys;
pub mod wire;
