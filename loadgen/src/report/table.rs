//! The report for a terminal.

use std::fmt;

use hdrhistogram::Histogram;

use super::Report;
use crate::account::Settled;
use crate::latency::Latency;
use crate::plan::{Arrival, Plan, Proto, Rate};
use crate::sender::{ConnectionOutcome, Ending};

const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_run(f)?;
        self.fmt_throughput(f)?;
        self.fmt_latencies(f)?;
        self.fmt_entries(f)?;
        if let Some(account) = &self.account {
            fmt_account(f, account, &self.plan)?;
        }
        for finding in &self.findings {
            let label = if finding.is_fatal { "INVALID" } else { "note" };
            writeln!(f, "{label:<14}{}", finding.text)?;
        }
        for verdict in self.verdicts().filter(|verdict| verdict.is_failed) {
            writeln!(f, "{:<14}{verdict}", "FAILED")?;
        }
        Ok(())
    }
}

impl Report {
    fn fmt_run(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.plan;
        let rate = match (plan.rate, plan.arrival) {
            (Rate::Max, _) => "max".to_owned(),
            (Rate::PerSecond(rate), Arrival::Uniform) => format!("{rate}/s"),
            (Rate::PerSecond(rate), Arrival::Poisson) => format!("{rate}/s (poisson)"),
        };
        let size = match (plan.lines.size.start(), plan.lines.size.end()) {
            (least, most) if least == most => format!("{least} B a line"),
            (least, most) => format!("{least} to {most} B a line"),
        };
        writeln!(
            f,
            "run           {:04x}: {} connections to {} over {}, {} tokens, {size}, token at the {}, rate {rate}",
            plan.run,
            plan.connections,
            plan.target,
            self.proto(),
            plan.tokens.list.len(),
            plan.lines.position.name(),
        )
    }

    fn proto(&self) -> String {
        match (&self.plan.proto, &self.outcome.suite) {
            (Proto::Tls(tls), Some(suite)) => format!("{suite} ({} records)", tls.records.name()),
            (proto, _) => proto.name().to_owned(),
        }
    }

    fn fmt_throughput(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.window() {
            Some(window) => writeln!(
                f,
                "throughput    {:.0} entries/s{}, {:.1} MB/s, measured from {:.3} to {:.3} of {:.3} s",
                window.entries_per_second(),
                if self.plan.is_lossy() { " sent" } else { "" },
                window.megabytes_per_second(),
                window.from.as_secs_f64(),
                window.until.as_secs_f64(),
                self.seconds()
            ),
            None => {
                writeln!(f, "throughput    not measured: all was over within the --warmup, in {:.3} s", self.seconds())
            }
        }?;
        let Some(achieved) = self.achieved_rate() else { return Ok(()) };
        let own = &self.latencies.send.own;
        writeln!(
            f,
            "schedule      {achieved:.1} entries/s accepted; own delay p99 {} ms, max {} ms",
            milliseconds(own.value_at_quantile(0.99)),
            milliseconds(own.max())
        )
    }

    fn fmt_latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [("send", &self.latencies.send), ("visible", &self.latencies.visible)];
        if self.latencies.send.corrected.is_empty() {
            return Ok(());
        }
        write!(f, "{:<14}", "latency, ms")?;
        PERCENTILES.iter().try_for_each(|percentile| write!(f, "{:>11}", format!("p{percentile}")))?;
        writeln!(f, "{:>11}", "max")?;
        for (name, latency) in rows {
            if !latency.corrected.is_empty() {
                fmt_latency(f, name, latency)?;
            }
        }
        let pass = &self.latencies.visible.own;
        if !pass.is_empty() {
            let (p99, max) = (milliseconds(pass.value_at_quantile(0.99)), milliseconds(pass.max()));
            writeln!(f, "follower      one pass over what is new: p99 {p99} ms, max {max} ms")?;
        }
        Ok(())
    }

    fn fmt_entries(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = self.sum(ConnectionOutcome::entries_sent);
        let acknowledged = self.sum(ConnectionOutcome::entries_acknowledged);
        if self.plan.is_lossy() {
            writeln!(f, "entries       {sent} sent; UDP acknowledges nothing")?;
        } else {
            writeln!(f, "entries       {sent} sent, {acknowledged} acknowledged by the receiver's TCP")?;
        }
        match self.sum(|connection| connection.entries_behind) {
            0 => {}
            behind => writeln!(f, "behind        {behind} entries were due and never sent")?,
        }
        let sockets: usize = self.outcome.connections.iter().map(|connection| connection.attempts.len()).sum();
        let again = sockets.saturating_sub(self.outcome.connections.len());
        let again = if again > 0 { format!(", {again} made again") } else { String::new() };
        writeln!(
            f,
            "connections   {} finished, {} ended by the receiver, {} timed out{again}",
            self.ended(Ending::Finished),
            self.ended(Ending::ByReceiver),
            self.ended(Ending::TimedOut)
        )
    }
}

fn fmt_latency(f: &mut fmt::Formatter<'_>, name: &str, latency: &Latency) -> fmt::Result {
    fmt_row(f, name, &latency.corrected)?;
    fmt_row(f, "  uncorrected", &latency.uncorrected)
}

fn fmt_row(f: &mut fmt::Formatter<'_>, name: &str, histogram: &Histogram<u64>) -> fmt::Result {
    write!(f, "{name:<14}")?;
    for percentile in PERCENTILES {
        write!(f, "{:>11}", milliseconds(histogram.value_at_quantile(percentile / 100.0)))?;
    }
    writeln!(f, "{:>11}", milliseconds(histogram.max()))
}

fn fmt_account(f: &mut fmt::Formatter<'_>, account: &Settled, plan: &Plan) -> fmt::Result {
    let total = account.total;
    let verdict = match (total.is_clean(), plan.is_lossy()) {
        (true, _) => "clean",
        (false, true) => "not clean, which UDP allows",
        (false, false) => "NOT CLEAN",
    };
    writeln!(
        f,
        "account       {verdict}: {} stored, {} lost, {} duplicated, {} reordered, {} damaged, {} in the wrong log",
        total.stored, total.lost, total.duplicated, total.reordered, total.damaged, total.wrong_log
    )?;
    if total.in_flight > 0 {
        writeln!(
            f,
            "in flight     {} entries were not acknowledged when their socket ended; {} of them are stored",
            total.in_flight, total.beyond
        )?;
    }
    if total.lost > 0 {
        let wait = plan.finish_wait;
        writeln!(f, "lost          is what had not come when nothing had been stored for {wait:?} (--finish-wait)")?;
    }
    if total.lost_at_cut > 0 {
        writeln!(
            f,
            "at a cut      {} of the lost had not reached their log when the receiver ended",
            total.lost_at_cut
        )?;
    }
    if account.other_runs + account.unknown > 0 {
        writeln!(f, "others        {} entries of other runs, {} unknown lines", account.other_runs, account.unknown)?;
    }
    Ok(())
}

/// Nanoseconds as milliseconds, to the microsecond.
#[expect(clippy::cast_precision_loss, reason = "a time for people")]
pub(super) fn milliseconds(nanos: u64) -> String {
    format!("{:.3}", nanos as f64 / 1e6)
}
