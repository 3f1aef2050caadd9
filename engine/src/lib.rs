//! A log receiver that speaks Token TCP.

pub mod diag;
pub mod error;
pub mod limits;
pub mod metrics;
pub mod time;
pub mod wire;

pub mod buf;
pub mod scan;

pub mod framing;
pub mod handover;
pub mod route;
pub mod segment;
pub mod tls;

pub mod shard;

pub mod driver;
pub mod sys;

pub mod store;

pub mod admin;
pub mod config;
pub mod doctor;
pub mod engine;

pub mod cli;
