//! The parts of a long run: those who send, those who read, and what is measured.

#![allow(unreachable_pub, reason = "the test file is a crate of its own")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a step that fails fails its test, and says why")]

pub mod audit;
pub mod clients;
pub mod readers;
pub mod watch;

/// Part of the account, for who looks at the output.
pub fn say(line: &str) {
    eprintln!("{line}");
}
