//! The outcome of a run, for people and for programs.
//!
//! | module | for |
//! | --- | --- |
//! | [`table`] | the terminal |
//! | [`json`] | `--json` and `summary.json` |
//! | [`files`] | the directory of `--out` |
//! | [`saved`] | that directory, read back |
//! | [`html`] | the page in it |
//! | [`progress`] | the line that tells of a run under way |

pub mod files;
pub mod html;
pub mod json;
pub mod progress;
pub mod saved;
pub mod table;

use std::io::{self, Write};
use std::time::Duration;

use crate::account::Settled;
use crate::clock::RunClock;
use crate::condition::{Condition, Verdict};
use crate::error::Exit;
use crate::host::Host;
use crate::latency::Latencies;
use crate::plan::{Plan, Rate};
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
    /// Processor time that the receiver took meanwhile, if it is a process of this host.
    pub receiver_time: Option<Duration>,
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

    /// Why the exit code is what it is, in one line: subject, what is wrong, what to do.
    #[must_use]
    pub fn why(&self) -> String {
        let fatal = self.findings.iter().find(|finding| finding.is_fatal);
        let failed = self.verdicts().find(|verdict| verdict.is_failed);
        match (self.exit(), self.account.as_ref(), fatal, failed) {
            (Exit::Account, Some(Settled { total, .. }), ..) => format!(
                "account: {} lost, {} duplicated, {} reordered, {} damaged, {} in the wrong log; see the report",
                total.lost, total.duplicated, total.reordered, total.damaged, total.wrong_log
            ),
            (Exit::Invalid, _, Some(finding), _) => {
                format!("run: the figures don't count, {}; mend that and repeat it", finding.text)
            }
            (Exit::Failed, _, _, Some(verdict)) => {
                format!("--fail-if: {} holds, {}; see the report", verdict.text, verdict.measured())
            }
            _ => "run: as it should be".to_owned(),
        }
    }

    /// The figures count.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.findings.iter().any(|finding| finding.is_fatal)
    }

    pub(crate) fn verdicts(&self) -> impl Iterator<Item = Verdict> {
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

    /// What the receiver acknowledged for each second of its processor time, if both are known.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn entries_per_cpu_second(&self) -> Option<f64> {
        let seconds = self.receiver_time.filter(|time| !time.is_zero() && !self.plan.is_lossy())?.as_secs_f64();
        Some(self.sum(ConnectionOutcome::entries_acknowledged) as f64 / seconds)
    }

    /// What throughput is measured over; `None` if nothing was due behind the warm-up.
    ///
    /// It ends as it begins. At `--rate max` all sockets are full when the warm-up is over, so the end is that of the
    /// sending. Without a warm-up they are empty, so the end is the last acknowledgement. So is that of a schedule, whose
    /// end it may not precede: a receiver that ends a run early is no faster for it. The wait for the receiver's close is in
    /// neither.
    fn window(&self) -> Option<Window> {
        let (plan, outcome) = (&self.plan, &self.outcome);
        let until = if plan.rate == Rate::Max && !plan.warmup.is_zero() {
            outcome.sending
        } else {
            outcome.acknowledging.max(outcome.scheduled(plan).unwrap_or_default())
        };
        let entries =
            self.sum(|connection| connection.entries_acknowledged().saturating_sub(connection.warmup.entries));
        let bytes = self.sum(|connection| connection.bytes_acknowledged.saturating_sub(connection.warmup.bytes));
        (until > plan.warmup).then_some(Window { from: plan.warmup, until, entries, bytes })
    }

    /// Entries per second that the sockets accepted while the schedule lasted; `None` without one.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn achieved_rate(&self) -> Option<f64> {
        let seconds = self.outcome.scheduled(&self.plan)?.max(self.outcome.sending).as_secs_f64();
        (seconds > 0.0).then(|| self.latencies.send.entries as f64 / seconds)
    }
}

/// The part of a run that throughput is measured over, and what the receiver acknowledged of what was due in it; over UDP,
/// what was sent.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// From the start of the run.
    from: Duration,
    until: Duration,
    entries: u64,
    bytes: u64,
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
impl Window {
    fn seconds(&self) -> f64 {
        self.until.saturating_sub(self.from).as_secs_f64()
    }

    fn entries_per_second(&self) -> f64 {
        self.entries as f64 / self.seconds()
    }

    fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / MEGABYTE / self.seconds()
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
