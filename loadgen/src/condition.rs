//! `--fail-if`: a bound that a run's latency must not exceed.

use std::str::FromStr;

use hdrhistogram::Histogram;

use crate::latency::{Clock, Latencies};

const ALLOWED: &str = "no such bound; give something like 'p99>5ms', 'send.p99.9>800us' or 'visible.max>1s'";
const UNITS: [(&str, u64); 4] = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];

/// A latency and the bound that it must not exceed.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// `None`: visible if entries were followed, else send.
    clock: Option<Clock>,
    /// 0 to 1; 1 is the maximum.
    quantile: f64,
    bound_nanos: u64,
    text: String,
}

impl Condition {
    /// The clock that it asks for by name.
    #[must_use]
    pub fn clock(&self) -> Option<Clock> {
        self.clock
    }

    /// As it was typed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the latency is above the bound, or was not measured at all.
    #[must_use]
    pub fn holds(&self, latencies: &Latencies) -> bool {
        let histogram = self.histogram(latencies);
        histogram.is_empty() || histogram.value_at_quantile(self.quantile) > self.bound_nanos
    }

    fn histogram<'a>(&self, latencies: &'a Latencies) -> &'a Histogram<u64> {
        let followed = !latencies.visible.corrected.is_empty();
        match self.clock.unwrap_or(if followed { Clock::Visible } else { Clock::Send }) {
            Clock::Send => &latencies.send.corrected,
            Clock::Visible => &latencies.visible.corrected,
        }
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || ALLOWED.to_owned();
        let (what, bound) = text.split_once('>').ok_or_else(wrong)?;
        let (clock, what) = match what.trim() {
            what if what.starts_with("send.") => (Some(Clock::Send), &what[5..]),
            what if what.starts_with("visible.") => (Some(Clock::Visible), &what[8..]),
            what => (None, what),
        };
        let quantile = match what.strip_prefix('p') {
            Some(percent) => percent.parse::<f64>().map_err(|_| wrong())? / 100.0,
            None if what == "max" => 1.0,
            None => return Err(wrong()),
        };
        if !(0.0..=1.0).contains(&quantile) {
            return Err("no such percentile; give 0 to 100".to_owned());
        }
        let bound_nanos = parse_bound(bound.trim()).ok_or_else(wrong)?;
        Ok(Self { clock, quantile, bound_nanos, text: text.to_owned() })
    }
}

fn parse_bound(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_judged_on_its_clock() {
        let mut latencies = Latencies::default();
        for micros in 1..=100 {
            latencies.send.corrected.record(micros * 1_000).unwrap();
        }
        let holds = |text: &str, latencies: &Latencies| text.parse::<Condition>().unwrap().holds(latencies);
        assert!(holds("p99>98us", &latencies));
        assert!(!holds("p99>100us", &latencies));
        // Nothing is known to be within a bound unless it was measured.
        assert!(holds("visible.p99 > 1s", &latencies));
        latencies.visible.corrected.record(5_000_000).unwrap();
        assert!(holds("max>4ms", &latencies));
        assert!(!holds("send.p50>1ms", &latencies));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["p99", "p99>", "p99>5", "p101>5ms", "q99>5ms", "p99<5ms", "disk.p99>5ms"] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }
}
