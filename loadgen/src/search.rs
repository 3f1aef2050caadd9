//! `loadgen search`: the highest rate at which every bound holds, found by runs at one rate after the other.
//!
//! From its first rate it goes up or down in octaves until one rate holds the bounds and the next does not, then halves what
//! is between them until they are `PRECISION` apart. A rate that the receiver cannot take is one that does not hold. A
//! run in which the generator missed its schedule says nothing about the receiver: it is made once more, and if it fails
//! again, the search goes on below, and its answer is what the generator can do.

use std::fmt;

use serde_json::{Value, json};

use crate::error::Exit;
use crate::plan::{self, Plan, Rate};
use crate::report::Report;

/// The first rate unless told otherwise.
pub const START: u64 = 10_000;
/// How near the answer is to the lowest rate that does not hold.
const PRECISION: f64 = 1.05;
/// No rate above this is asked for.
const RATE_MAX: u64 = 100_000_000;
/// What shows that a run was the generator's own failure.
const OWN_FAULT: &str = "schedule_missed";

/// What a run at a rate came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every bound held.
    Held,
    /// The receiver was too slow: for the rate, or for a bound.
    Missed,
    /// The generator was too slow.
    Doubtful,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Missed => "missed",
            Self::Doubtful => "does not count",
        }
    }
}

/// A run that was made.
#[derive(Clone, Debug)]
pub struct Step {
    /// At which rate.
    pub rate: u64,
    /// What it came to.
    pub outcome: Outcome,
    /// Why, and the values of all bounds.
    pub why: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>11}/s  {:<15}{}", self.rate, self.outcome.name(), self.why)
    }
}

/// The rates between which the answer is.
#[derive(Clone, Copy, Debug)]
struct Bracket {
    start: u64,
    /// The highest rate that held,
    held: Option<u64>,
    /// and the lowest one above it that did not.
    missed: Option<u64>,
}

impl Bracket {
    fn next(&self) -> Option<u64> {
        let next = match (self.held, self.missed) {
            (None, None) => self.start,
            (Some(held), None) => held.saturating_mul(2).min(RATE_MAX),
            (None, Some(missed)) => missed / 2,
            (Some(held), Some(missed)) => {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
                let (low, high) = (held as f64, missed as f64);
                if high <= low * PRECISION { held } else { held.midpoint(missed) }
            }
        };
        (next > 0 && Some(next) != self.held).then_some(next)
    }

    fn take(&mut self, rate: u64, has_held: bool) {
        *(if has_held { &mut self.held } else { &mut self.missed }) = Some(rate);
    }
}

/// A search under way.
#[derive(Debug)]
pub struct Search {
    plan: Plan,
    bracket: Bracket,
    steps: Vec<Step>,
    /// The lowest rate that was not held was missed by the generator.
    is_own_limit: bool,
    /// The search ended before its time, with this code.
    ended: Option<Exit>,
}

impl Search {
    /// A search by runs of this plan, whose rate is where it begins.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let start = if let Rate::PerSecond(rate) = plan.rate { rate } else { START };
        let bracket = Bracket { start, held: None, missed: None };
        Self { plan, bracket, steps: Vec::new(), is_own_limit: false, ended: None }
    }

    /// The rate of the next run; `None` at the end.
    #[must_use]
    pub fn next_rate(&self) -> Option<u64> {
        let again = self.steps.last().filter(|step| step.outcome == Outcome::Doubtful && self.doubts(step.rate) == 1);
        let next = again.map(|step| step.rate).or_else(|| self.bracket.next());
        next.filter(|_| self.ended.is_none())
    }

    /// The run at a rate.
    #[must_use]
    pub fn plan_at(&self, rate: u64) -> Plan {
        Plan { rate: Rate::PerSecond(rate), run: plan::fresh_run_id(), ..self.plan.clone() }
    }

    /// The name of the next run's directory.
    #[must_use]
    pub fn step_name(&self, rate: u64) -> String {
        format!("{:02}-{rate}", self.steps.len() + 1)
    }

    /// Takes the report of a run.
    pub fn take(&mut self, rate: u64, report: &Report) -> &Step {
        let fatal = report.findings.iter().filter(|finding| finding.is_fatal);
        let fatal: Vec<_> = fatal.map(|finding| (finding.name, finding.text.as_str())).collect();
        let bounds: Vec<_> = report.verdicts().map(|verdict| (verdict.is_failed, verdict.measured())).collect();
        self.ended = match report.exit() {
            Exit::Account => Some(Exit::Account),
            _ if report.outcome.stopped.is_some() => Some(Exit::Invalid),
            _ => None,
        };
        self.judge(rate, &fatal, &bounds);
        &self.steps[self.steps.len() - 1]
    }

    fn judge(&mut self, rate: u64, fatal: &[(&str, &str)], bounds: &[(bool, String)]) {
        let values = bounds.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", ");
        let (outcome, why) = match (fatal.iter().find(|(name, _)| *name == OWN_FAULT), fatal.first()) {
            (Some((_, text)), _) => (Outcome::Doubtful, (*text).to_owned()),
            (None, Some((_, text))) => (Outcome::Missed, format!("{text}; {values}")),
            (None, None) if bounds.iter().any(|(is_failed, _)| *is_failed) => (Outcome::Missed, values),
            (None, None) => (Outcome::Held, values),
        };
        self.steps.push(Step { rate, outcome, why });
        match outcome {
            Outcome::Doubtful if self.doubts(rate) == 1 => {}
            Outcome::Doubtful | Outcome::Missed => {
                self.bracket.take(rate, false);
                self.is_own_limit = outcome == Outcome::Doubtful;
            }
            Outcome::Held => self.bracket.take(rate, true),
        }
    }

    fn doubts(&self, rate: u64) -> usize {
        self.steps.iter().filter(|step| step.rate == rate && step.outcome == Outcome::Doubtful).count()
    }

    /// Whether the answer is that of the receiver: nothing held, or something did and the receiver missed what is above.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match (self.ended, self.bracket.held) {
            (Some(exit), _) => exit,
            (None, _) if self.is_own_limit => Exit::Invalid,
            (None, None) => Exit::Failed,
            (None, Some(_)) => Exit::Done,
        }
    }

    /// The search as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let steps =
            self.steps.iter().map(|step| json!({ "rate": step.rate, "outcome": step.outcome.name(), "why": step.why }));
        json!({
            "schema": 1,
            "rate": self.bracket.held,
            "lowest_missed": self.bracket.missed,
            "generator_limit": self.is_own_limit,
            "steps": steps.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = if self.is_own_limit { "; above that the generator was the limit, not the receiver" } else { "" };
        match (self.ended, self.bracket.held) {
            (Some(Exit::Account), _) => {
                write!(f, "no answer: the account of the last run is not clean; loadgen run --rate tells more")
            }
            (Some(_), _) => write!(f, "no answer: cut short by a signal"),
            (None, None) => write!(f, "no rate holds the bounds{limit}"),
            (None, Some(held)) => {
                let at_it = self.steps.iter().rfind(|step| step.rate == held).map_or("", |step| &step.why);
                write!(f, "highest rate: {held} entries/s, with {at_it}{limit}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    /// Searches a receiver that holds up to a rate, with a generator that keeps its schedule up to another.
    fn search(start: u64, receiver: u64, generator: u64) -> Search {
        let mut search = Search::new(Plan { rate: Rate::PerSecond(start), ..plan(1, 1, 256) });
        while let Some(rate) = search.next_rate() {
            assert!(search.steps.len() < 64, "{search:?}");
            let fatal: &[_] = match rate {
                rate if rate > generator => &[(OWN_FAULT, "late"), ("rate_missed", "slow")],
                rate if rate > receiver * 2 => &[("receiver_behind", "slow")],
                _ => &[],
            };
            search.judge(rate, fatal, &[(rate > receiver, "p99".to_owned())]);
        }
        search
    }

    #[test]
    fn the_answer_is_near_the_truth_wherever_it_begins() {
        for receiver in [1, 7, 999, 50_000, 3_000_000] {
            for start in [1, START, 40_000_000] {
                let search = search(start, receiver, u64::MAX);
                let held = search.bracket.held.unwrap();
                assert!(held <= receiver && (receiver - held) * 20 <= receiver, "{start} {receiver}: {held}");
                assert_eq!((search.exit(), search.plan_at(9).rate), (Exit::Done, Rate::PerSecond(9)));
            }
        }
    }

    #[test]
    fn no_rate_at_all_is_an_answer() {
        let search = search(START, 0, u64::MAX);
        assert_eq!((search.bracket.held, search.exit()), (None, Exit::Failed));
        assert_eq!(search.to_string(), "no rate holds the bounds");
    }

    #[test]
    fn a_generator_that_is_too_slow_is_asked_twice_and_named() {
        let search = search(START, 500_000, 100_000);
        assert!((95_000..=100_000).contains(&search.bracket.held.unwrap()), "{search}");
        assert_eq!(search.exit(), Exit::Invalid);
        assert!(search.to_string().ends_with(", with p99; above that the generator was the limit, not the receiver"));
        let doubtful = |rate| search.doubts(rate);
        assert!(search.steps.iter().all(|step| [0, 2].contains(&doubtful(step.rate))), "{search:?}");
        assert_eq!(search.to_json()["generator_limit"], true);
    }
}
