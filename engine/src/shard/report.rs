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
            sync_seconds: self.logs.durability.sync_seconds.clone(),
            segments_poisoned: self.logs.durability.poisoned,
            entry_delay_seconds: measured.entry_delay_seconds.clone(),
            backpressure: self.backpressure.total(self.now),
            unwritten_bytes: self.unstored_bytes(),
            logs: self.logs.count() as u64,
            logs_refused: measured.logs_refused,
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
        let some_refused = self.logs.measured().logs_refused > 0;
        // What waits for logs that cannot be opened may take all memory: then nothing is stored any more.
        if self.logs.is_refused() || (some_refused && self.full) {
            StorageState::Refuses
        } else if self.disk_low {
            StorageState::Low
        } else if some_refused {
            StorageState::Partial
        } else {
            StorageState::Ok
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::sim::{Ending, Faults, Sim};
    use crate::framing::Framing;
    use crate::handover::ShardId;
    use crate::metrics::ListenerCounters;
    use crate::route::Ownership;
    use crate::segment::SegmentLimits;
    use crate::shard::{
        Allowance, Command, JournalStart, ListenerConfig, LogLimits, Notice, Oversize, PerAddress, ShardConfig,
        SyncLevel,
    };

    fn config() -> ShardConfig {
        ShardConfig {
            id: ShardId(0),
            ownership: Ownership::over(1),
            line_bytes_max: 100,
            oversize: Oversize::Split,
            buffer_bytes: 4 << 20,
            connections: Allowance::new(10),
            per_address: PerAddress::new(0),
            drain_timeout: Duration::from_secs(1),
            listeners: vec![ListenerConfig::plain(Framing::Lf); 2],
            tls: Vec::new(),
            handshakes_max: 1,
            udp_sockets: 0,
            udp_buffers: 8,
            udp_creates: false,
            recv_buffers: 8,
            logs: LogLimits {
                linger: Duration::from_millis(5),
                segment: SegmentLimits { bytes: 256 << 20, age: Duration::from_hours(24) },
                tokens: Allowance::new(10),
                known: None,
                rejected: None,
                open_files_max: 10,
            },
            journal: JournalStart::first(),
            sync: SyncLevel::Interval(Duration::from_secs(1)),
        }
    }

    fn ask(sim: &mut Sim, ticket: u64) -> Report {
        sim.command(&Command::Report { ticket });
        let mut report = None;
        sim.run_until(|sim| {
            let mut answers = sim.notices().iter().rev();
            report = answers.find_map(|notice| match notice {
                Notice::Report(report) if report.ticket == ticket => Some(*report.clone()),
                _ => None,
            });
            report.is_some()
        });
        report.expect("waited for")
    }

    #[test]
    fn a_report_is_what_happened_so_far() {
        let mut sim = Sim::new(1, Faults::none(), config());
        assert_eq!(
            ask(&mut sim, 1),
            Report { ticket: 1, listeners: vec![ListenerCounters::default(); 2], ..Report::default() }
        );
        let peer = sim.connect();
        sim.send(peer, b"00000000-0000-4000-8000-000000000001 hello\nno token\n");
        sim.run_until(|sim| sim.tokens().count() == 1 && sim.shard().unstored_bytes() == 0);
        let report = ask(&mut sim, 2);
        assert_eq!((report.counters.lines, report.counters.entries, report.logs), (2, 1, 1));
        assert_eq!((report.segments_active, report.segments_sealed, report.open_files), (1, 0, 1));
        assert_eq!((report.write_seconds.count(), report.entry_delay_seconds.count()), (1, 1));
        assert!(report.entry_delay_seconds.sum() >= report.write_seconds.sum());
        assert_eq!(report.listeners.iter().map(|listener| (listener.open, listener.accepted)).max(), Some((1, 1)));
        sim.close(peer);
        sim.run_until(|sim| sim.ending(peer) != Ending::Open && sim.is_gone(peer));
        sim.command(&Command::Drain);
        sim.run_until(|sim| sim.outcome().is_some());
        let report = sim.shard().report(3);
        assert!(report.draining && report.listeners.iter().all(|listener| listener.open == 0));
    }

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
