//! Those who follow a log while an engine writes and rolls it: each line that they see is the next one of its connection.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::audit::{Audit, Runs};
use crate::support::process::wait_until;

/// A program that prints a log as it grows.
#[derive(Debug)]
pub struct Follower {
    name: &'static str,
    log: u64,
    child: Child,
    runs: Arc<Mutex<Runs>>,
    thread: Option<JoinHandle<u64>>,
}

impl Follower {
    pub fn start(name: &'static str, log: u64, command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let runs = Arc::new(Mutex::new(Runs::default()));
        let seen = Arc::clone(&runs);
        let thread = std::thread::spawn(move || {
            let (mut line, mut count) = (Vec::new(), 0);
            while lines.read_until(b'\n', &mut line).unwrap() > 0 {
                // Who is killed leaves half a line.
                let Some(whole) = line.strip_suffix(b"\n") else { break };
                seen.lock().unwrap().take(name, log, whole);
                line.clear();
                count += 1;
            }
            count
        });
        Self { name, log, child, runs, thread: Some(thread) }
    }

    /// Ends it once it has come as far as others have. Gives how many lines it saw, if it has seen something of the
    /// connections from this number on.
    pub fn end(mut self, audit: &Audit, from: u64) -> u64 {
        let is_level = || self.runs.lock().is_ok_and(|runs| audit.is_level(self.log, from, &runs));
        let came = wait_until(is_level);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let count = self.thread.take().unwrap().join();
        let count = count.unwrap_or_else(|_| panic!("{} of log {} saw something else", self.name, self.log));
        assert!(came && count > 0, "{} of log {} has not seen the end after {count} lines", self.name, self.log);
        count
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It has ended already, unless something failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
