//! `--fail-if`: a bound that a run's latency must not exceed.

use std::fmt;
use std::str::FromStr;

use crate::latency::{Clock, Latencies};
use crate::units::scaled;

const ALLOWED: &str = "no such bound; give something like 'p99>5ms', 'send.p99.9>800us' or 'visible.max>1s'";
const UNITS: [(&str, u64); 4] = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];

/// A latency and the bound that it must not exceed.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// `None`: visible if entries are followed, else send.
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

    /// Judges a run, by whether its entries were followed.
    #[must_use]
    pub fn judge(&self, latencies: &Latencies, is_followed: bool) -> Verdict {
        let clock = self.clock.unwrap_or(if is_followed { Clock::Visible } else { Clock::Send });
        let histogram = match clock {
            Clock::Send => &latencies.send.corrected,
            Clock::Visible => &latencies.visible.corrected,
        };
        let value_nanos = (!histogram.is_empty()).then(|| histogram.value_at_quantile(self.quantile));
        let is_failed = value_nanos.is_none_or(|value| value > self.bound_nanos);
        Verdict { text: self.text.clone(), clock, value_nanos, is_failed }
    }
}

/// What became of a bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The bound as it was typed.
    pub text: String,
    /// The clock that it was judged on.
    pub clock: Clock,
    /// What was measured, if anything was.
    pub value_nanos: Option<u64>,
    /// It is above the bound, or was not measured at all.
    pub is_failed: bool,
}

impl Verdict {
    /// What was measured, for people.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a time for people")]
    pub fn measured(&self) -> String {
        let what = self.text.split_once('>').map_or("", |(what, _)| what.trim());
        let what = what.split_once('.').filter(|(clock, _)| *clock == self.clock.name()).map_or(what, |(_, what)| what);
        match self.value_nanos {
            Some(value) => format!("{} {what} {:.3} ms", self.clock.name(), value as f64 / 1e6),
            None => format!("{} {what} was not measured", self.clock.name()),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = self.text.split_once('>').map_or("", |(_, bound)| bound.trim());
        let link = if self.value_nanos.is_some() { " >" } else { ", and is not to exceed" };
        write!(f, "{}{link} {bound}", self.measured())
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
        let bound_nanos = scaled(bound.trim(), &UNITS, "give a time such as 5ms, 0.5ms or 800us")?;
        Ok(Self { clock, quantile, bound_nanos, text: text.to_owned() })
    }
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
        let judge = |text: &str, latencies: &Latencies, is_followed| {
            let verdict = text.parse::<Condition>().unwrap().judge(latencies, is_followed);
            (verdict.is_failed, verdict.to_string())
        };
        assert_eq!(judge("p99>98us", &latencies, false), (true, "send p99 0.099 ms > 98us".to_owned()));
        assert!(!judge("p99>100us", &latencies, false).0);
        // Nothing is known to be within a bound unless it was measured, and no other clock says it.
        let unmeasured = "visible p99 was not measured, and is not to exceed 1s";
        assert_eq!(judge("visible.p99 > 1s", &latencies, true), (true, unmeasured.to_owned()));
        assert_eq!(judge("p99>1s", &latencies, true), (true, unmeasured.to_owned()));
        latencies.visible.corrected.record(5_000_000).unwrap();
        let (is_failed, text) = judge("max>4ms", &latencies, true);
        assert!(is_failed && text.starts_with("visible max 5.0") && text.ends_with(" ms > 4ms"), "{text}");
        assert!(judge("send.p99.9>1us", &latencies, true).1.starts_with("send p99.9 0.1"));
        assert!(!judge("send.p50>1ms", &latencies, true).0);
    }

    #[test]
    fn a_bound_may_have_a_fraction() {
        let bound = |text: &str| text.parse::<Condition>().unwrap().bound_nanos;
        assert_eq!([bound("p99>0.5ms"), bound("p99.9>1.25s"), bound("max>800us")], [500_000, 1_250_000_000, 800_000]);
        let error = "p99>5".parse::<Condition>().unwrap_err();
        assert_eq!(error, "no unit; give a time such as 5ms, 0.5ms or 800us (units: ns us ms s)");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["p99", "p99>", "p99>0.5ns", "p101>5ms", "q99>5ms", "p99<5ms", "disk.p99>5ms"] {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }
}
