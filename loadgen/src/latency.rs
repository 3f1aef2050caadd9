//! Latencies as histograms: recorded by each thread for itself, an interval at a time, and merged by one collector.
//!
//! ```text
//!  sending thread ─ Recorder ─┐  Part: one second of one thread
//!  sending thread ─ Recorder ─┼───────────────► Collector ──► Latencies: totals, and intervals in serialized form
//!  follower       ─ Recorder ─┘
//! ```
//!
//! Two clocks, each counted from two moments:
//!
//! | | from the intended send time (corrected) | from the actual one (uncorrected) |
//! | --- | --- | --- |
//! | send | until the socket had accepted the last byte | a receiver that stalls hides all that waited behind |
//! | visible | until a reader had read it from the file | the same |
//!
//! Values are nanoseconds with three significant digits. Entries that are due within the warm-up are counted and not
//! recorded.

use std::sync::mpsc;
use std::time::Duration;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use crate::clock::{SECOND, nanos};

/// Length of an interval.
pub const INTERVAL: u64 = SECOND;
/// The largest recordable latency, an hour; longer ones count as this.
const NANOS_MAX: u64 = 3_600 * SECOND;
const SIGNIFICANT_DIGITS: u8 = 3;

/// An empty histogram for nanoseconds.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, NANOS_MAX, SIGNIFICANT_DIGITS).expect("constant bounds that fit three digits")
}

/// What a latency ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clock {
    /// Accepted by the socket.
    Send,
    /// Read from the file.
    Visible,
}

impl Clock {
    /// Its name in files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Visible => "visible",
        }
    }
}

/// The latencies of one clock.
#[derive(Clone, Debug)]
pub struct Latency {
    /// From the intended send time.
    pub corrected: Histogram<u64>,
    /// From the actual send time.
    pub uncorrected: Histogram<u64>,
    /// What the measuring itself adds: for a sender the time by which entries were sent late for no fault of the
    /// receiver, for the follower the length of one pass over what is new.
    pub own: Histogram<u64>,
    /// Entries that ended before they began: the clock or the matching is wrong.
    pub negative: u64,
    /// Entries, those of the warm-up included.
    pub entries: u64,
}

impl Latency {
    /// Nothing recorded yet.
    #[must_use]
    pub fn new() -> Self {
        Self { corrected: histogram(), uncorrected: histogram(), own: histogram(), negative: 0, entries: 0 }
    }

    fn add(&mut self, other: &Self) {
        let same = "all histograms here have the same bounds";
        self.corrected.add(&other.corrected).expect(same);
        self.uncorrected.add(&other.uncorrected).expect(same);
        self.own.add(&other.own).expect(same);
        self.negative += other.negative;
        self.entries += other.entries;
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

/// What one thread recorded in one interval.
#[derive(Debug)]
pub struct Part {
    clock: Clock,
    interval: u64,
    latency: Latency,
}

/// Records the latencies of one thread.
#[derive(Debug)]
pub struct Recorder {
    part: Part,
    warmup: u64,
    collector: mpsc::Sender<Part>,
}

impl Recorder {
    /// A recorder for one thread.
    #[must_use]
    pub fn new(clock: Clock, warmup: Duration, collector: mpsc::Sender<Part>) -> Self {
        let part = Part { clock, interval: 0, latency: Latency::new() };
        Self { part, warmup: nanos(warmup), collector }
    }

    /// Records entries that ended at `now`, all of them with the same times.
    pub fn record(&mut self, now: u64, intended: u64, actual: Option<u64>, count: u64) {
        self.roll(now);
        let latency = &mut self.part.latency;
        latency.entries += count;
        if intended < self.warmup {
            return;
        }
        if now < intended {
            latency.negative += count;
        }
        latency.corrected.saturating_record_n(now.saturating_sub(intended), count);
        if let Some(actual) = actual {
            latency.uncorrected.saturating_record_n(now.saturating_sub(actual), count);
        }
    }

    /// Records what the measuring itself took, at `now`.
    pub fn record_own(&mut self, now: u64, took: u64) {
        if now >= self.warmup {
            self.part.latency.own.saturating_record(took);
        }
    }

    /// Hands the interval over if it is past.
    fn roll(&mut self, now: u64) {
        if now / INTERVAL > self.part.interval {
            self.hand_over(now / INTERVAL);
        }
    }

    #[cold]
    fn hand_over(&mut self, next: u64) {
        let begun = Part { clock: self.part.clock, interval: next, latency: Latency::new() };
        let ended = std::mem::replace(&mut self.part, begun);
        // Without a collector the run is over and nobody asks any more.
        drop(self.collector.send(ended));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over(self.part.interval);
    }
}

/// Latencies of a whole run.
#[derive(Debug, Default)]
pub struct Latencies {
    /// Of the sockets.
    pub send: Latency,
    /// Of the follower; empty if there was none.
    pub visible: Latency,
    /// By interval and clock, as threads handed them over.
    parts: Vec<SerializedPart>,
}

/// A part that takes some kilobytes where its histograms took a megabyte: a run may last for hours.
#[derive(Debug)]
struct SerializedPart {
    interval: u64,
    clock: Clock,
    entries: u64,
    corrected: Vec<u8>,
    own: Vec<u8>,
}

/// One interval of a run.
#[derive(Debug)]
pub struct Interval {
    /// Its ordinal.
    pub ordinal: u64,
    /// Entries that sockets accepted.
    pub entries_sent: u64,
    /// Entries that the follower read.
    pub entries_visible: u64,
    /// Corrected latencies of what was accepted in it.
    pub send: Histogram<u64>,
    /// Corrected latencies of what became visible in it.
    pub visible: Histogram<u64>,
    /// By how much entries were sent late for no fault of the receiver.
    pub own: Histogram<u64>,
}

impl Latencies {
    /// Takes parts until the last recorder is gone; each is shown to `progress` first.
    #[must_use]
    pub fn collect(parts: &mpsc::Receiver<Part>, mut progress: impl FnMut(u64, Clock, &Latency)) -> Self {
        let mut latencies = Self::default();
        let mut serializer = V2DeflateSerializer::new();
        for part in parts {
            progress(part.interval, part.clock, &part.latency);
            latencies.take(&part, &mut serializer);
        }
        latencies.parts.sort_by_key(|part| part.interval);
        latencies
    }

    fn take(&mut self, part: &Part, serializer: &mut V2DeflateSerializer) {
        let Part { clock, interval, latency } = part;
        match clock {
            Clock::Send => self.send.add(latency),
            Clock::Visible => self.visible.add(latency),
        }
        let mut bytes_of = |histogram| {
            let mut bytes = Vec::new();
            serializer.serialize(histogram, &mut bytes).expect("a Vec takes any number of bytes");
            bytes
        };
        self.parts.push(SerializedPart {
            interval: *interval,
            clock: *clock,
            entries: latency.entries,
            corrected: bytes_of(&latency.corrected),
            own: bytes_of(&latency.own),
        });
    }

    /// The run, interval by interval; those in which nothing ended are left out.
    pub fn intervals(&self) -> impl Iterator<Item = Interval> {
        let mut deserializer = Deserializer::new();
        self.parts.chunk_by(|one, next| one.interval == next.interval).map(move |parts| {
            let mut interval = Interval {
                ordinal: parts[0].interval,
                entries_sent: 0,
                entries_visible: 0,
                send: histogram(),
                visible: histogram(),
                own: histogram(),
            };
            let mut add = |total: &mut Histogram<u64>, mut bytes: &[u8]| {
                let part: Histogram<u64> = deserializer.deserialize(&mut bytes).expect("what was serialized here");
                total.add(part).expect("all histograms here have the same bounds");
            };
            for part in parts {
                let (histogram, entries) = match part.clock {
                    Clock::Send => (&mut interval.send, &mut interval.entries_sent),
                    Clock::Visible => (&mut interval.visible, &mut interval.entries_visible),
                };
                *entries += part.entries;
                add(histogram, &part.corrected);
                if part.clock == Clock::Send {
                    add(&mut interval.own, &part.own);
                }
            }
            interval
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_all_threads_add_up() {
        let (sender, parts) = mpsc::channel();
        let recorder = |clock| Recorder::new(clock, Duration::from_millis(100), sender.clone());
        let (mut one, mut two, mut follower) = (recorder(Clock::Send), recorder(Clock::Send), recorder(Clock::Visible));
        for second in 0..5 {
            let now = second * SECOND + SECOND / 2;
            one.record(now, now - 1_000_000, Some(now - 1000), 10);
            two.record(now, now - 9_000_000, Some(now - 1000), 10);
            follower.record(now, now - 20_000_000, None, 20);
        }
        // Within the warm-up, and one that ends before it begins.
        one.record(5 * SECOND, 0, None, 1);
        two.record(5 * SECOND, 6 * SECOND, None, 1);
        drop((one, two, follower, sender));
        let mut seen = 0;
        let latencies = Latencies::collect(&parts, |_, _, latency| seen += latency.entries);
        assert_eq!(seen, 202);
        assert_eq!((latencies.send.corrected.len(), latencies.send.entries, latencies.send.negative), (101, 102, 1));
        assert_eq!((latencies.send.uncorrected.max(), latencies.visible.corrected.len()), (1000, 100));
        assert!(latencies.send.corrected.value_at_quantile(0.25).abs_diff(1_000_000) < 1_000);
        let intervals: Vec<_> = latencies.intervals().collect();
        assert_eq!(intervals.iter().map(|interval| interval.ordinal).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        assert_eq!((intervals[2].entries_sent, intervals[2].visible.len()), (20, 20));
    }
}
