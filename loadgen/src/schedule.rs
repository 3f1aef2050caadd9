//! When each entry of a connection is due, waiting for nobody.
//!
//! ```text
//!  uniform   connections take turns on one common schedule, an entry each 1/rate:   0 1 2 0 1 2 0 1 2 …
//!  poisson   each connection draws its gaps from an exponential distribution with a mean of connections/rate
//!  max       an entry is due as soon as the receiver takes it; its intended time is the time at which it is sent
//! ```
//!
//! Exact: uniform times are `floor(ordinal × 10⁹ / rate)`, carried forward by quotient and remainder.

use crate::clock::{SECOND, nanos};
use crate::plan::{Arrival, Plan, Rate, Stop};
use crate::tokens::Random;

/// The schedule of one connection.
#[derive(Clone, Debug)]
pub struct Schedule {
    pace: Pace,
    /// When the next entry is due, in nanoseconds since the start. At [`Pace::Max`] always 0.
    next: u64,
    /// Entries that it may still hold.
    left: u64,
    /// No entry is due from here on.
    end: u64,
}

#[derive(Clone, Debug)]
enum Pace {
    Max,
    /// The next one is due `step` and `step_rest / rate` nanoseconds later, `rest / rate` being carried.
    Uniform {
        rate: u64,
        step: u64,
        step_rest: u64,
        rest: u64,
    },
    Poisson {
        mean: f64,
        random: Random,
    },
}

impl Schedule {
    /// The schedule of a connection of the plan.
    #[must_use]
    pub fn new(plan: &Plan, connection: u32) -> Self {
        let end = match plan.stop {
            Stop::After(duration) => nanos(plan.warmup + duration),
            Stop::Entries(_) => u64::MAX,
        };
        let mut schedule = Self { pace: Pace::Max, next: 0, left: plan.entries_most(connection), end };
        if let Rate::PerSecond(rate) = plan.rate {
            (schedule.pace, schedule.next) = match plan.arrival {
                Arrival::Uniform => uniform(rate, plan.connections, connection),
                Arrival::Poisson => poisson(rate, plan.connections, connection, plan.seed),
            };
        }
        schedule
    }

    /// When the next entry is due; `None` if there is none.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        (self.left > 0 && self.next < self.end).then_some(self.next)
    }

    /// Takes the intended times of the entries that are due at `now`, `most` at most.
    pub fn take(&mut self, now: u64, most: usize, intended: &mut Vec<u64>) {
        if matches!(self.pace, Pace::Max) {
            let count = if now < self.end { self.left.min(most as u64) } else { 0 };
            intended.resize(intended.len() + count as usize, now);
            self.left -= count;
            return;
        }
        for _ in 0..most {
            match self.next_due().filter(|due| *due <= now) {
                Some(due) => intended.push(due),
                None => return,
            }
            self.advance();
        }
    }

    /// Nothing is due from a time on.
    pub fn end_at(&mut self, now: u64) {
        self.end = self.end.min(now);
    }

    /// How many entries it still holds. At [`Rate::Max`] with a time limit nobody knows, and it is 0.
    #[must_use]
    pub fn remaining(mut self) -> u64 {
        if matches!(self.pace, Pace::Max) {
            return if self.end == u64::MAX { self.left } else { 0 };
        }
        if self.end == u64::MAX {
            return self.left;
        }
        let mut count = 0;
        while self.next_due().is_some() {
            self.advance();
            count += 1;
        }
        count
    }

    fn advance(&mut self) {
        self.left -= 1;
        match &mut self.pace {
            Pace::Max => {}
            Pace::Uniform { rate, step, step_rest, rest } => {
                *rest += *step_rest;
                self.next += *step;
                if *rest >= *rate {
                    *rest -= *rate;
                    self.next += 1;
                }
            }
            Pace::Poisson { mean, random } => self.next += gap(*mean, random),
        }
    }
}

fn uniform(rate: u64, connections: u32, connection: u32) -> (Pace, u64) {
    let divide = |ordinal: u32| {
        let nanos = u64::from(ordinal) * SECOND;
        (nanos / rate, nanos % rate)
    };
    let ((step, step_rest), (first, rest)) = (divide(connections), divide(connection));
    (Pace::Uniform { rate, step, step_rest, rest }, first)
}

#[expect(clippy::cast_precision_loss, reason = "a mean")]
fn poisson(rate: u64, connections: u32, connection: u32, seed: u64) -> (Pace, u64) {
    let mean = f64::from(connections) * SECOND as f64 / rate as f64;
    let mut random = Random::new(seed ^ (u64::from(connection) << 32) ^ 0x706f_6973_736f_6e00);
    let first = gap(mean, &mut random);
    (Pace::Poisson { mean, random }, first)
}

/// An exponentially distributed gap in nanoseconds.
#[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "53 random bits; a gap is never negative")]
fn gap(mean: f64, random: &mut Random) -> u64 {
    /// 2⁻⁵³: numbers from 1 to 2⁵³ become fractions above 0 and up to 1.
    const SCALE: f64 = 1.0 / (1_u64 << 53) as f64;
    let fraction = ((random.next_u64() >> 11) + 1) as f64 * SCALE;
    (-fraction.ln() * mean).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use std::time::Duration;

    fn all(plan: &Plan, connection: u32) -> Vec<u64> {
        let mut times = Vec::new();
        Schedule::new(plan, connection).take(u64::MAX - 1, usize::MAX, &mut times);
        times
    }

    fn seconds(plan: Plan, seconds: u64) -> Plan {
        Plan { stop: Stop::After(Duration::from_secs(seconds)), ..plan }
    }

    #[test]
    fn uniform_times_are_exact() {
        for rate in [1, 3, 777, 1001, 200_000, 3_000_000] {
            let plan = seconds(Plan { rate: Rate::PerSecond(rate), ..plan(3, 1, 256) }, 2);
            let mut times: Vec<_> = (0..3).flat_map(|connection| all(&plan, connection)).collect();
            times.sort_unstable();
            let expected: Vec<_> = (0..2 * rate).map(|ordinal| ordinal * SECOND / rate).collect();
            assert_eq!(times, expected, "{rate}");
        }
    }

    #[test]
    fn poisson_has_the_mean_and_the_spread() {
        let rate = Rate::PerSecond(20_000);
        let plan = seconds(Plan { rate, arrival: Arrival::Poisson, ..plan(4, 1, 256) }, 10);
        let times = all(&plan, 2);
        assert_eq!(times, all(&plan, 2));
        assert_ne!(times, all(&plan, 3));
        // 50,000 expected, give or take five standard deviations.
        assert!((48_882..51_118).contains(&times.len()), "{}", times.len());
        let longer = times.windows(2).filter(|pair| pair[1] - pair[0] > 200_000).count();
        // A gap exceeds its mean with a probability of 1/e.
        assert!((17_800..19_000).contains(&longer), "{longer}");
    }

    #[test]
    fn only_what_is_due_is_taken() {
        let plan = seconds(Plan { rate: Rate::PerSecond(1000), ..plan(2, 1, 256) }, 1);
        let mut schedule = Schedule::new(&plan, 1);
        let mut times = Vec::new();
        assert_eq!(schedule.next_due(), Some(1_000_000));
        schedule.take(999_999, 10, &mut times);
        assert!(times.is_empty());
        schedule.take(5_000_000, 2, &mut times);
        assert_eq!(times, [1_000_000, 3_000_000]);
        assert_eq!(schedule.clone().remaining(), 498);
        schedule.end_at(10_000_000);
        assert_eq!((schedule.next_due(), schedule.remaining()), (Some(5_000_000), 3));
    }

    #[test]
    fn at_max_everything_is_due_now() {
        let plan = plan(3, 1, 256);
        let mut schedule = Schedule::new(&plan, 0);
        let mut times = Vec::new();
        schedule.take(7, 3, &mut times);
        assert_eq!((times, schedule.remaining()), (vec![7, 7, 7], 1));
        let mut endless = Schedule::new(&seconds(plan, 1), 0);
        let mut times = Vec::new();
        endless.take(SECOND, 3, &mut times);
        assert!(times.is_empty());
    }
}
