//! The one clock of a run: nanoseconds since its start.
//!
//! Sender and follower are threads of one process, so both read the same monotonic clock, and a latency is a difference
//! of two of its values. The wall clock is read once, to date the interval log.
#![expect(clippy::disallowed_methods, reason = "a load generator lives by the clock")]

use std::time::{Duration, Instant, SystemTime};

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// Start of a run, and the time since.
#[derive(Clone, Copy, Debug)]
pub struct RunClock {
    start: Instant,
    wall: SystemTime,
}

impl RunClock {
    /// A run that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now(), wall: SystemTime::now() }
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    /// The moment so many nanoseconds after the start.
    #[must_use]
    pub fn instant(&self, nanos: u64) -> Instant {
        self.start + Duration::from_nanos(nanos)
    }

    /// The start by the wall clock.
    #[must_use]
    pub fn wall_start(&self) -> SystemTime {
        self.wall
    }

    /// By how much the wall clock has been set since the start, against the monotonic one.
    #[must_use]
    pub fn wall_clock_step(&self) -> Duration {
        let expected = self.wall + self.start.elapsed();
        let now = SystemTime::now();
        now.duration_since(expected).or_else(|_| expected.duration_since(now)).unwrap_or_default()
    }
}

/// A time as nanoseconds; a run is at most some weeks, which fit.
#[must_use]
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
