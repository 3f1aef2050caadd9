//! The crash laboratory: an engine on a disk that remembers all that was written to it, power cuts at any moment of that, and
//! what has to be true of the engine that starts on what is left.

#![allow(unreachable_pub, reason = "the test file is a crate of its own")]
#![allow(clippy::unwrap_used, reason = "a step that fails fails its test")]

pub mod device;
pub mod image;
#[allow(dead_code, reason = "each test file uses its own part")]
pub mod load;
pub mod mount;
pub mod run;
pub mod stored;
pub mod trial;
