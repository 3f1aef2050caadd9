//! The bodies of the fuzz targets, and the oracle that they ask: the same files that the engine's tests use.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "written for the tests, which use more of them")]

#[path = "../../tests/support/fuzz.rs"]
pub mod fuzz;
#[path = "../../tests/support/hostile.rs"]
mod hostile;
#[path = "../../tests/support/oracle.rs"]
mod oracle;
#[path = "../../tests/support/tls.rs"]
mod tls;
#[path = "../../tests/support/world.rs"]
mod world;
