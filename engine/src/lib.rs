//! A log receiver that speaks Token TCP.

pub mod error;
pub mod limits;
pub mod scan;
pub mod segment;
pub mod sys;
pub mod wire;
