//! The outcome of a run, for people and for programs.
//!
//! | module | for |
//! | --- | --- |
//! | [`table`] | the terminal |
//! | [`json`] | `--json` and `summary.json` |
//! | [`files`] | the directory of `--out` |
//! | [`progress`] | the line that tells of a run under way |

pub mod files;
pub mod json;
pub mod progress;
pub mod table;

use std::io::{self, Write};

use crate::account::Settled;
use crate::clock::RunClock;
use crate::condition::{Condition, Verdict};
use crate::error::Exit;
use crate::host::Host;
use crate::latency::Latencies;
use crate::plan::Plan;
use crate::sender::{ConnectionOutcome, Ending, Outcome};
use crate::validity::Finding;

const MEGABYTE: f64 = 1e6;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// What was to be done.
    pub plan: Plan,
    /// What was done.
    pub outcome: Outcome,
    /// What the logs hold, if they were looked at.
    pub account: Option<Settled>,
    /// How long it took.
    pub latencies: Latencies,
    /// What makes that doubtful.
    pub findings: Vec<Finding>,
    /// Where.
    pub host: Host,
    /// Whether the sending threads went before all others; `None` if they did not need to.
    pub realtime: Option<bool>,
    /// When.
    pub clock: RunClock,
    /// What its latencies must not exceed.
    pub fail_if: Vec<Condition>,
}

impl Report {
    /// The exit code of the run: the account first, except over UDP which promises nothing, then whether the figures count, then what they must not exceed.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if !self.plan.is_lossy() && self.account.as_ref().is_some_and(|account| !account.total.is_clean()) {
            Exit::Account
        } else if !self.is_valid() {
            Exit::Invalid
        } else if self.verdicts().any(|verdict| verdict.is_failed) {
            Exit::Failed
        } else {
            Exit::Done
        }
    }

    /// The figures count.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.findings.iter().any(|finding| finding.is_fatal)
    }

    fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        self.fail_if.iter().map(|condition| condition.judge(&self.latencies, self.plan.is_followed()))
    }

    fn sum(&self, field: impl Fn(&ConnectionOutcome) -> u64) -> u64 {
        self.outcome.connections.iter().map(field).sum()
    }

    fn ended(&self, ending: Ending) -> usize {
        self.outcome.connections.iter().filter(|connection| connection.ending == ending).count()
    }

    fn seconds(&self) -> f64 {
        self.outcome.elapsed.as_secs_f64()
    }

    /// What throughput is divided by: a receiver that ends a run early is no faster for it.
    fn seconds_at_least_scheduled(&self) -> f64 {
        self.outcome.elapsed.max(self.plan.scheduled().unwrap_or_default()).as_secs_f64()
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn entries_per_second(&self) -> f64 {
        self.sum(ConnectionOutcome::entries_acknowledged) as f64 / self.seconds_at_least_scheduled()
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn megabytes_per_second(&self) -> f64 {
        self.sum(|connection| connection.bytes_acknowledged) as f64 / MEGABYTE / self.seconds_at_least_scheduled()
    }

    /// Entries per second that the sockets accepted while the schedule lasted; `None` without one.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn achieved_rate(&self) -> Option<f64> {
        let seconds = self.plan.scheduled()?.max(self.outcome.sending).as_secs_f64();
        (seconds > 0.0).then(|| self.latencies.send.entries as f64 / seconds)
    }
}

/// Writes text to stdout. That nobody reads it is no error.
///
/// # Errors
///
/// When stdout cannot be written for another reason.
pub fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
