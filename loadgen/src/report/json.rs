//! The report as one JSON object.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Report;
use crate::account::{Cut, Settled, Tally};
use crate::clock::SECOND;
use crate::condition::Verdict;
use crate::latency::Latency;
use crate::plan::{Arrival, Files, Plan, Proto, Rate, Stop};
use crate::sender::{ConnectionOutcome, Ending};

/// Version of the object: a field that changes its meaning or goes away makes the next one.
pub const SCHEMA: u32 = 3;
/// Tokens that get a row of their own whether anything is wrong with them or not.
const TOKENS_LISTED_MAX: usize = 1000;

impl Report {
    /// The report as one JSON object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "schema": SCHEMA,
            "version": env!("CARGO_PKG_VERSION"),
            "tls": self.outcome.suite,
            "commit": option_env!("LOADGEN_COMMIT"),
            "debug_build": cfg!(debug_assertions),
            "run": format!("{:04x}", self.plan.run),
            "started": seconds_since_epoch(self),
            "host": self.host_json(),
            "realtime": self.realtime == Some(true),
            "command_line": std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
            "arguments": arguments(&self.plan),
            "valid": self.is_valid(),
            "findings": self.findings.iter().map(|finding| json!({
                "name": finding.name,
                "text": finding.text,
                "fatal": finding.is_fatal,
            })).collect::<Vec<_>>(),
            "fail_if": self.verdicts().map(|verdict| verdict_json(&verdict)).collect::<Vec<_>>(),
            "seconds": self.seconds(),
            "entries_per_second": self.window().map(|window| window.entries_per_second()),
            "megabytes_per_second": self.window().map(|window| window.megabytes_per_second()),
            "measured": self.window().map(|window| json!({
                "from_seconds": window.from.as_secs_f64(),
                "until_seconds": window.until.as_secs_f64(),
                "entries": window.entries,
                "bytes": window.bytes,
            })),
            "cut_short_seconds": self.outcome.stopped.map(|stopped| stopped.as_secs_f64()),
            "waited_for_receiver": self.outcome.waited.filter(|_| self.plan.rate == Rate::Max),
            "receiver_cpu_seconds": self.receiver_time.map(|time| time.as_secs_f64()),
            "entries_per_cpu_second": self.entries_per_cpu_second(),
            "achieved_rate": self.achieved_rate(),
            "bytes_sent": self.sum(|connection| connection.bytes_sent),
            "bytes_acknowledged": self.acknowledged(|connection| connection.bytes_acknowledged),
            "entries_sent": self.sum(ConnectionOutcome::entries_sent),
            "entries_acknowledged": self.acknowledged(ConnectionOutcome::entries_acknowledged),
            "entries_behind": self.sum(|connection| connection.entries_behind),
            "ended": {
                "finished": self.ended(Ending::Finished),
                "by_receiver": self.ended(Ending::ByReceiver),
                "timed_out": self.ended(Ending::TimedOut),
            },
            "latency_ms": {
                "headline": self.plan.rate != Rate::Max,
                "send": latency_json(&self.latencies.send),
                "visible": latency_json(&self.latencies.visible),
                "generator_delay": histogram_json(&self.latencies.send.own),
                "follower_pass": histogram_json(&self.latencies.visible.own),
            },
            "account": self.account.as_ref().map(|account| account_json(&self.plan, account)),
            "connections": self.connections_json(),
            "tokens": self.account.as_ref().map(|account| tokens_json(&self.plan, account)),
        })
    }

    /// A sum over all connections; `None` over UDP, which acknowledges nothing.
    fn acknowledged(&self, field: impl Fn(&ConnectionOutcome) -> u64) -> Option<u64> {
        (!self.plan.is_lossy()).then(|| self.sum(field))
    }

    fn host_json(&self) -> Value {
        json!({
            "name": self.host.name,
            "kernel": self.host.kernel,
            "processor": self.host.processor,
            "cores": self.host.cores,
            "clock_source": self.host.clock_source,
        })
    }

    fn connections_json(&self) -> Vec<Value> {
        let tally =
            |index: usize| self.account.as_ref().map(|account| tally_json(&self.plan, &account.connections[index]));
        let is_told = !self.plan.is_lossy();
        let rows = self.outcome.connections.iter().enumerate();
        rows.map(|(index, sent)| {
            json!({
                "connection": index,
                "ended": ending_name(sent.ending),
                "sockets": sent.attempts.len(),
                "bytes_sent": sent.bytes_sent,
                "bytes_acknowledged": is_told.then_some(sent.bytes_acknowledged),
                "entries_sent": sent.entries_sent(),
                "entries_acknowledged": is_told.then(|| sent.entries_acknowledged()),
                "entries_behind": sent.entries_behind,
                "account": tally(index),
            })
        })
        .collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
fn verdict_json(verdict: &Verdict) -> Value {
    json!({
        "bound": verdict.text,
        "clock": verdict.clock.name(),
        "value_ms": verdict.value_nanos.map(|value| value as f64 / 1e6),
        "failed": verdict.is_failed,
    })
}

fn seconds_since_epoch(report: &Report) -> Option<f64> {
    let since = report.clock.wall_start().duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.ok().map(|since| since.as_secs_f64())
}

fn arguments(plan: &Plan) -> Value {
    let (duration, entries) = match plan.stop {
        Stop::After(duration) => (Some(duration.as_secs_f64()), None),
        Stop::Entries(entries) => (None, Some(entries)),
    };
    let (data, files) = match &plan.files {
        Some(Files::Data(data)) => (Some(data), None),
        Some(Files::Pattern(pattern)) => (None, Some(pattern)),
        None => (None, None),
    };
    json!({
        "target": plan.target.to_string(),
        "proto": plan.proto.name(),
        "tls_records": match &plan.proto { Proto::Tls(tls) => Some(tls.records.name()), _ => None },
        "rate": match plan.rate { Rate::Max => json!("max"), Rate::PerSecond(rate) => json!(rate) },
        "arrival": match plan.arrival { Arrival::Uniform => "uniform", Arrival::Poisson => "poisson" },
        "duration_seconds": duration,
        "entries": entries,
        "warmup_seconds": plan.warmup.as_secs_f64(),
        "finish_wait_seconds": plan.finish_wait.as_secs_f64(),
        "connections": plan.connections,
        "threads": plan.threads,
        "reconnect": plan.reconnect,
        "tokens": plan.tokens.list.len(),
        "zipf": plan.tokens.exponent(),
        "size_bytes": [plan.lines.size.start(), plan.lines.size.end()],
        "text": plan.lines.text.name(),
        "position": plan.lines.position.name(),
        "seed": plan.seed,
        "data": data,
        "files": files,
        "follow_sample": plan.follow_sample,
    })
}

fn latency_json(latency: &Latency) -> Option<Value> {
    (latency.entries > 0).then(|| {
        json!({
            "corrected": histogram_json(&latency.corrected),
            "uncorrected": histogram_json(&latency.uncorrected),
        })
    })
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
fn histogram_json(histogram: &Histogram<u64>) -> Option<Value> {
    let milliseconds = |nanos: u64| nanos as f64 / 1e6;
    let at = |percentile: f64| milliseconds(histogram.value_at_quantile(percentile / 100.0));
    (!histogram.is_empty()).then(|| {
        json!({
            "count": histogram.len(),
            "min": milliseconds(histogram.min()),
            "mean": histogram.mean() / 1e6,
            "p50": at(50.0),
            "p90": at(90.0),
            "p99": at(99.0),
            "p99.9": at(99.9),
            "p99.99": at(99.99),
            "max": milliseconds(histogram.max()),
        })
    })
}

fn account_json(plan: &Plan, account: &Settled) -> Value {
    let mut object = tally_json(plan, &account.total);
    object["clean"] = account.total.is_clean().into();
    object["other_runs"] = account.other_runs.into();
    object["unknown_lines"] = account.unknown.into();
    object["lost_unnamed"] = account.lost_unnamed.into();
    object["cuts"] = account.cuts.iter().map(cut_json).collect();
    let lost = account.lost.iter();
    object["lost_ranges"] = lost
        .map(|(connection, range)| json!({ "connection": connection, "first": range.start, "end": range.end }))
        .collect();
    object
}

#[expect(clippy::cast_precision_loss, reason = "seconds for people")]
fn cut_json(cut: &Cut) -> Value {
    json!({
        "connection": cut.connection,
        "socket": cut.attempt,
        "seconds": cut.at as f64 / SECOND as f64,
        "in_flight": { "first": cut.in_flight.start, "end": cut.in_flight.end },
        "in_flight_stored": cut.stored,
        "lost_at_cut": cut.lost_at_cut,
    })
}

fn tally_json(plan: &Plan, tally: &Tally) -> Value {
    json!({
        "sent": tally.sent,
        "acknowledged": (!plan.is_lossy()).then_some(tally.acknowledged),
        "stored": tally.stored,
        "lost": tally.lost,
        "lost_at_cut": tally.lost_at_cut,
        "duplicated": tally.duplicated,
        "reordered": tally.reordered,
        "damaged": tally.damaged,
        "wrong_log": tally.wrong_log,
        "in_flight": tally.in_flight,
        "beyond": tally.beyond,
    })
}

/// All tokens if they are few, else those with something wrong.
fn tokens_json(plan: &Plan, account: &Settled) -> Vec<Value> {
    let lists_all = plan.tokens.list.len() <= TOKENS_LISTED_MAX;
    let rows = plan.tokens.list.iter().zip(&account.tokens).filter(|(_, tally)| lists_all || !tally.is_clean());
    rows.map(|(token, tally)| {
        let mut row = tally_json(plan, tally);
        row["token"] = String::from_utf8_lossy(token).into();
        row
    })
    .collect()
}

fn ending_name(ending: Ending) -> &'static str {
    match ending {
        Ending::Finished => "finished",
        Ending::ByReceiver => "by_receiver",
        Ending::TimedOut => "timed_out",
    }
}
