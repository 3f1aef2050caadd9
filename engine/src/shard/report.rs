//! A shard's answer to the question how it stands: a copy of its counters, taken between two turns.

use std::time::Duration;

use super::{Phase, Shard};
use crate::metrics::{Report, StorageState};
use crate::time::Time;

/// Adds up the time in which something is so.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    since: Option<Time>,
    total: Duration,
}

impl Stopwatch {
    /// Says whether it is so from now on.
    pub(super) fn set(&mut self, on: bool, now: Time) {
        match (self.since, on) {
            (None, true) => self.since = Some(now),
            (Some(since), false) => {
                self.total += now.since(since);
                self.since = None;
            }
            _ => {}
        }
    }

    fn total(&self, now: Time) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| now.since(since))
    }
}

impl Shard {
    /// How the shard stands. What the driver knows is left out.
    #[must_use]
    pub fn report(&self, ticket: u64) -> Report {
        let measured = self.logs.measured();
        Report {
            ticket,
            counters: self.counters(),
            listeners: self.listener_counters.clone(),
            write_seconds: measured.write_seconds.clone(),
            entry_delay_seconds: measured.entry_delay_seconds.clone(),
            backpressure: self.backpressure.total(self.now),
            logs: self.logs.count() as u64,
            segments_active: measured.segments_active,
            segments_sealed: measured.segments_sealed,
            open_files: self.logs.open_files() as u64,
            file_cache_misses: measured.file_cache_misses,
            storage: self.storage_state(),
            draining: self.phase != Phase::Serving,
            load: crate::metrics::Load::default(),
        }
    }

    fn storage_state(&self) -> StorageState {
        if self.logs.is_refused() {
            StorageState::Refuses
        } else if self.disk_low {
            StorageState::Low
        } else {
            StorageState::Ok
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopwatch_adds_up_what_was_so() {
        let at = |millis| Time::new(Duration::from_millis(millis));
        let mut watch = Stopwatch::default();
        for (on, millis) in [(false, 1), (true, 2), (true, 3), (false, 5), (false, 7), (true, 10)] {
            watch.set(on, at(millis));
        }
        assert_eq!(watch.total(at(14)), Duration::from_millis(3 + 4));
    }
}
