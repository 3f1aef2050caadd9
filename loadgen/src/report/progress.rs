//! One line on stderr that tells of a run under way, a second at a time; only if a person reads it.

use std::io::{self, IsTerminal, Write};

use super::table::milliseconds;
use crate::latency::{Clock, Latency};

/// The line of a run. Whatever it is told, it writes nothing unless stderr is a terminal.
#[derive(Debug)]
pub struct Progress {
    is_shown: bool,
    second: u64,
    entries: u64,
    /// `None` while warming up.
    send_p99: Option<u64>,
    visible_p99: Option<u64>,
}

impl Progress {
    /// A line that is not shown yet.
    #[must_use]
    pub fn new() -> Self {
        Self { is_shown: io::stderr().is_terminal(), second: 0, entries: 0, send_p99: None, visible_p99: None }
    }

    /// Takes what one thread did in one second; threads of the same second are summed up.
    pub fn take(&mut self, second: u64, clock: Clock, latency: &Latency) {
        if !self.is_shown {
            return;
        }
        if second > self.second {
            self.show();
            (self.second, self.entries, self.send_p99) = (second, 0, None);
        }
        let p99 = (!latency.corrected.is_empty()).then(|| latency.corrected.value_at_quantile(0.99));
        match clock {
            Clock::Send => {
                self.entries += latency.entries;
                self.send_p99 = self.send_p99.max(p99);
            }
            Clock::Visible => self.visible_p99 = p99,
        }
    }

    fn show(&self) {
        let latency = |name: &str, p99: Option<u64>| {
            p99.map_or_else(String::new, |p99| format!("   {name} p99 {} ms", milliseconds(p99)))
        };
        let line = format!(
            "\r\x1b[K{:>5} s   {} entries/s{}{}",
            self.second + 1,
            self.entries,
            latency("send", self.send_p99),
            latency("visible", self.visible_p99)
        );
        // A terminal that has gone away does not end the run.
        drop(io::stderr().write_all(line.as_bytes()));
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            // The report begins on a clean line.
            drop(io::stderr().write_all(b"\r\x1b[K"));
        }
    }
}
