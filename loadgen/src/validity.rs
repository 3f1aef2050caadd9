//! What makes a measurement doubtful: said with every result, and where the figures don't count, the run is invalid.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::account::Settled;
use crate::clock::nanos;
use crate::host::Host;
use crate::latency::Latencies;
use crate::plan::{Arrival, Files, Plan, Rate};
use crate::sender::{Ending, Outcome};

/// The generator's own delay, at the 99th percentile, above which its schedule was not kept.
const OWN_DELAY_MAX: Duration = Duration::from_millis(1);
/// A single delay of its own above which entries that were not sent are its own fault.
const OWN_STALL_MAX: Duration = Duration::from_millis(100);
/// The part of what was asked by which the achieved rate may miss it,
const RATE_MISS_PART: f64 = 0.001;
/// and the time by which the last entry may be late all the same: in a short run, a part of it is next to nothing.
const RATE_LATE_ALLOWED: Duration = Duration::from_millis(10);
/// Below this the follower's passes are short whatever they are compared with.
const PASS_ALLOWED: Duration = Duration::from_millis(1);
/// Above this part of the `visible` p99 the follower's passes are a part of it.
const PASS_PART: u64 = 4;
/// An entry that waits longer shows a receiver that stood still.
const STALL_MIN: Duration = Duration::from_millis(100);
/// Seconds of a stall that are named.
const STALLS_NAMED_MAX: usize = 10;
/// A clock that was set by less does not disturb a log of seconds.
const CLOCK_STEP_MAX: Duration = Duration::from_millis(10);
/// Below this part of the time in which the busiest sending thread waits, it is the generator that sets the pace.
const WAITED_PART: f64 = 0.1;
/// Sources that are read without a system call or a slow device.
const CLOCKS_GOOD: [&str; 6] =
    ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "xen", "arch_sys_counter", "timebase"];

/// Something that makes figures doubtful.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A name for programs.
    pub name: &'static str,
    /// The sentence for people.
    pub text: String,
    /// The run does not count.
    pub is_fatal: bool,
}

/// What a verdict rests on.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// What was to be done.
    pub plan: &'a Plan,
    /// What was done.
    pub outcome: &'a Outcome,
    /// What was measured.
    pub latencies: &'a Latencies,
    /// What the logs hold, if they were looked at.
    pub account: Option<&'a Settled>,
    /// Where.
    pub host: &'a Host,
    /// Whether the sending threads went before all others; `None` if they did not need to.
    pub realtime: Option<bool>,
    /// Cores that the receiver worked on, if it is a process of this host.
    pub receiver_cores: Option<BTreeSet<usize>>,
    /// By how much the wall clock was set during the run.
    pub wall_clock_step: Duration,
}

/// All that is wrong with a run as a measurement.
#[must_use]
pub fn findings(evidence: &Evidence<'_>) -> Vec<Finding> {
    let checks = [
        cut_short,
        schedule,
        receiver_behind,
        rate_missed,
        unacknowledged,
        stall,
        unmeasured,
        debug_build,
        shared_cores,
        clock_source,
        negative,
        wall_clock,
        follower,
        closed_loop,
        nothing_stored,
        realtime,
    ];
    checks.iter().filter_map(|check| check(evidence)).collect()
}

fn cut_short(evidence: &Evidence<'_>) -> Option<Finding> {
    let stopped = evidence.outcome.stopped?;
    let text = format!(
        "the run was cut short by a signal after {:.3} s: the account holds, the measurement does not count",
        stopped.as_secs_f64()
    );
    Some(Finding { name: "cut_short", text, is_fatal: true })
}

fn schedule(evidence: &Evidence<'_>) -> Option<Finding> {
    let own = &evidence.latencies.send.own;
    let p99 = own.value_at_quantile(0.99);
    let behind = entries_behind(evidence);
    // Nothing but the generator holds datagrams back.
    let is_own = own.max() > nanos(OWN_STALL_MAX) || evidence.plan.is_lossy();
    let text = format!(
        "the generator did not keep its schedule: its own delay has a p99 of {} and a maximum of {}, {behind} entries \
         were not sent; give it cores of its own, more --threads, or a lower --rate",
        milliseconds(p99),
        milliseconds(own.max()),
    );
    let is_missed = p99 > nanos(OWN_DELAY_MAX) || (behind > 0 && is_own);
    is_missed.then_some(Finding { name: "schedule_missed", text, is_fatal: true })
}

fn receiver_behind(evidence: &Evidence<'_>) -> Option<Finding> {
    let behind = entries_behind(evidence);
    let text =
        format!("{behind} entries that were due were never sent: the receiver held its connections back or ended them");
    // Who reconnects expects that, and at `--rate max` there was only room.
    let is_fatal = evidence.plan.rate != Rate::Max && !evidence.plan.reconnect;
    (behind > 0 && !evidence.plan.is_lossy()).then_some(Finding { name: "receiver_behind", text, is_fatal })
}

/// Whoever held the entries back: what was asked for was not measured.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate_missed(evidence: &Evidence<'_>) -> Option<Finding> {
    let (Rate::PerSecond(asked), Some(scheduled)) = (evidence.plan.rate, evidence.outcome.scheduled(evidence.plan))
    else {
        return None;
    };
    let (sent, behind) = (evidence.latencies.send.entries as f64, entries_behind(evidence) as f64);
    let sending = evidence.outcome.sending;
    let late = sending.saturating_sub(scheduled);
    // Random arrivals of a given number end by chance somewhat earlier or later.
    let by_chance = if evidence.plan.arrival == Arrival::Poisson { 4.0 / (sent + behind).max(1.0).sqrt() } else { 0.0 };
    let is_late = late > RATE_LATE_ALLOWED && late > scheduled.mul_f64(RATE_MISS_PART + by_chance);
    let is_short = behind > (sent + behind) * RATE_MISS_PART;
    let text = format!(
        "the rate was missed: asked {asked}/s, sent {:.1}/s; give the generator more --threads, or ask for less",
        sent / sending.max(scheduled).as_secs_f64()
    );
    (is_late || is_short).then_some(Finding { name: "rate_missed", text, is_fatal: true })
}

fn entries_behind(evidence: &Evidence<'_>) -> u64 {
    evidence.outcome.connections.iter().map(|connection| connection.entries_behind).sum()
}

/// What a socket took and the receiver did not looks fast, and was never received.
fn unacknowledged(evidence: &Evidence<'_>) -> Option<Finding> {
    let connections = &evidence.outcome.connections;
    let timed_out = connections.iter().filter(|connection| connection.ending == Ending::TimedOut).count();
    let entries: u64 =
        connections.iter().map(|connection| connection.entries_sent() - connection.entries_acknowledged()).sum();
    // Who reconnects expects cuts, and UDP acknowledges nothing.
    let is_owed = !evidence.plan.reconnect && !evidence.plan.is_lossy();
    let text = format!(
        "the receiver did not take all that was sent: {entries} entries were never acknowledged, {timed_out} connections \
         timed out after {:?} without progress (--finish-wait)",
        evidence.plan.finish_wait
    );
    let is_fatal = timed_out > 0 || (is_owed && entries > 0);
    is_fatal.then_some(Finding { name: "unacknowledged", text, is_fatal })
}

/// A second in which entries waited long, and not for the generator, is one in which the receiver stood still.
fn stall(evidence: &Evidence<'_>) -> Option<Finding> {
    // At `--rate max` they wait because there are always more of them.
    if evidence.plan.rate == Rate::Max {
        return None;
    }
    let (mut seconds, mut stalled, mut longest) = (0, Vec::new(), 0);
    for interval in evidence.latencies.intervals() {
        seconds += 1;
        let waited = interval.send.max().max(interval.visible.max());
        if waited >= nanos(STALL_MIN) && interval.own.max() < waited / 2 {
            longest = longest.max(waited);
            stalled.push(interval.ordinal.to_string());
        }
    }
    let (count, many) = (stalled.len(), if stalled.len() > STALLS_NAMED_MAX { ", ..." } else { "" });
    stalled.truncate(STALLS_NAMED_MAX);
    let text = format!(
        "the receiver stalled: entries waited for it up to {}, and {STALL_MIN:?} or more in {count} of {seconds} seconds \
         (second {}{many})",
        milliseconds(longest),
        stalled.join(", ")
    );
    (count > 0).then_some(Finding { name: "stall", text, is_fatal: false })
}

fn unmeasured(evidence: &Evidence<'_>) -> Option<Finding> {
    let send = &evidence.latencies.send;
    let text = "no latency was measured: all entries were due within the --warmup".to_owned();
    let is_empty = send.entries > 0 && send.corrected.is_empty();
    is_empty.then_some(Finding { name: "unmeasured", text, is_fatal: false })
}

fn debug_build(_: &Evidence<'_>) -> Option<Finding> {
    let text = "this is a debug build of the generator; build with --release".to_owned();
    cfg!(debug_assertions).then_some(Finding { name: "debug_build", text, is_fatal: false })
}

fn shared_cores(evidence: &Evidence<'_>) -> Option<Finding> {
    let theirs = evidence.receiver_cores.as_ref()?;
    let both: Vec<_> = evidence.host.cores.intersection(theirs).map(ToString::to_string).collect();
    let text = format!(
        "generator and receiver may both run on core {}; keep them apart, for example with taskset",
        both.join(",")
    );
    (!both.is_empty()).then_some(Finding { name: "shared_cores", text, is_fatal: false })
}

fn clock_source(evidence: &Evidence<'_>) -> Option<Finding> {
    let source = evidence.host.clock_source.as_ref().filter(|source| !CLOCKS_GOOD.contains(&source.as_str()))?;
    let text = format!("the clock is {source}, which takes microseconds to read");
    Some(Finding { name: "slow_clock", text, is_fatal: false })
}

fn negative(evidence: &Evidence<'_>) -> Option<Finding> {
    let count = evidence.latencies.send.negative + evidence.latencies.visible.negative;
    let text = format!("{count} entries ended before they began: the clock is not the same on all cores");
    (count > 0).then_some(Finding { name: "negative_latency", text, is_fatal: false })
}

fn wall_clock(evidence: &Evidence<'_>) -> Option<Finding> {
    let step = evidence.wall_clock_step;
    let text =
        format!("the wall clock was set by {step:?} during the run: times of day in latency.hlog are off by that");
    (step > CLOCK_STEP_MAX).then_some(Finding { name: "clock_set", text, is_fatal: false })
}

fn follower(evidence: &Evidence<'_>) -> Option<Finding> {
    let visible = &evidence.latencies.visible;
    let (pass, seen) = (visible.own.value_at_quantile(0.99), visible.corrected.value_at_quantile(0.99));
    let text = format!(
        "the follower was too slow: one pass over what is new took {} (p99), and visible is {} (p99); try \
         --follow-sample",
        milliseconds(pass),
        milliseconds(seen),
    );
    let is_slow = pass > nanos(PASS_ALLOWED) && pass > seen / PASS_PART;
    is_slow.then_some(Finding { name: "follower_slow", text, is_fatal: false })
}

fn closed_loop(evidence: &Evidence<'_>) -> Option<Finding> {
    if evidence.plan.rate != Rate::Max {
        return None;
    }
    let (name, text) = match evidence.outcome.waited {
        _ if evidence.plan.is_lossy() => (
            "closed_loop",
            "at --rate max over UDP nobody sets the pace: what the receiver cannot take is lost".to_owned(),
        ),
        Some(part) if part >= WAITED_PART => (
            "closed_loop",
            format!(
                "at --rate max the receiver set the pace: the busiest sending thread waited for it in {:.0} % of the time; \
                 the latencies say how full the sockets were",
                part * 100.0
            ),
        ),
        Some(part) => (
            "generator_limit",
            format!(
                "at --rate max the generator was the limit, not the receiver: its busiest sending thread waited for it in \
                 only {:.0} % of the time; give it more --threads, or cores of its own",
                part * 100.0
            ),
        ),
        None => (
            "closed_loop",
            "at --rate max back-pressure sets the pace; whether the generator was the limit is not known here (no \
             /proc/thread-self/schedstat)"
                .to_owned(),
        ),
    };
    Some(Finding { name, text, is_fatal: false })
}

fn nothing_stored(evidence: &Evidence<'_>) -> Option<Finding> {
    let total = evidence.account?.total;
    let flag = if matches!(evidence.plan.files, Some(Files::Pattern(_))) { "--files" } else { "--data" };
    let udp = if evidence.plan.is_lossy() { ", and may datagrams make logs (--udp-creates)" } else { "" };
    let text = format!("nothing of this run is in {flag}: is it this receiver's{udp}?");
    (total.sent > 0 && total.stored == 0).then_some(Finding { name: "nothing_stored", text, is_fatal: false })
}

fn realtime(evidence: &Evidence<'_>) -> Option<Finding> {
    let text = if evidence.realtime? {
        "on the cores that they share, the sending threads went before all others (SCHED_FIFO)"
    } else {
        "on the cores that they share, the sending threads took turns with others (no SCHED_FIFO: needs root or ulimit -r)"
    };
    Some(Finding { name: "realtime", text: text.to_owned(), is_fatal: false })
}

#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn milliseconds(nanos: u64) -> String {
    format!("{:.3} ms", nanos as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;
    use crate::plan::{Proto, Stop};
    use crate::sender::{Amount, Attempt, ConnectionOutcome};

    /// Names of what is found, after a change of faultless evidence.
    fn found(change: impl FnOnce(&mut Plan, &mut Outcome, &mut Latencies, &mut Host)) -> Vec<&'static str> {
        judged(change).into_iter().map(|(name, _)| name).collect()
    }

    /// The same, and whether it makes the run invalid.
    fn judged(change: impl FnOnce(&mut Plan, &mut Outcome, &mut Latencies, &mut Host)) -> Vec<(&'static str, bool)> {
        let mut plan = Plan { rate: Rate::PerSecond(1), ..plan(1, 1, 256) };
        let connection = ConnectionOutcome {
            bytes_sent: 0,
            bytes_acknowledged: 0,
            entries_behind: 0,
            warmup: Amount::default(),
            ending: Ending::Finished,
            attempts: Vec::new(),
        };
        let mut outcome = Outcome {
            elapsed: Duration::ZERO,
            sending: Duration::ZERO,
            acknowledging: Duration::ZERO,
            stopped: None,
            waited: None,
            suite: None,
            connections: vec![connection],
        };
        let mut latencies = Latencies::default();
        let mut host =
            Host { name: None, kernel: None, processor: None, cores: [0].into(), clock_source: Some("tsc".to_owned()) };
        change(&mut plan, &mut outcome, &mut latencies, &mut host);
        let evidence = Evidence {
            plan: &plan,
            outcome: &outcome,
            latencies: &latencies,
            account: None,
            host: &host,
            realtime: None,
            receiver_cores: Some([1].into()),
            wall_clock_step: Duration::ZERO,
        };
        let findings = findings(&evidence).into_iter().filter(|finding| finding.name != "debug_build");
        findings.map(|finding| (finding.name, finding.is_fatal)).collect()
    }

    #[test]
    fn a_good_run_is_silent() {
        assert!(found(|_, _, _, _| ()).is_empty());
    }

    #[test]
    fn each_doubt_is_named() {
        let late = |latencies: &mut Latencies| latencies.send.own.record(2_000_000).unwrap();
        assert_eq!(found(|_, _, latencies, _| late(latencies)), ["schedule_missed"]);
        assert_eq!(
            found(|_, outcome, _, _| outcome.connections[0].entries_behind = 1),
            ["receiver_behind", "rate_missed"]
        );
        let behind_over_udp = |plan: &mut Plan, outcome: &mut Outcome| {
            plan.proto = Proto::Udp;
            outcome.connections[0].entries_behind = 1;
        };
        assert_eq!(found(|plan, outcome, _, _| behind_over_udp(plan, outcome)), ["schedule_missed", "rate_missed"]);
        assert_eq!(found(|_, _, _, host| host.cores.extend([1])), ["shared_cores"]);
        assert_eq!(found(|_, _, _, host| host.clock_source = Some("hpet".to_owned())), ["slow_clock"]);
        assert_eq!(found(|_, _, latencies, _| latencies.send.negative = 1), ["negative_latency"]);
        assert_eq!(found(|plan, _, _, _| plan.rate = Rate::Max), ["closed_loop"]);
        assert_eq!(found(|_, _, latencies, _| latencies.send.entries = 1), ["unmeasured"]);
        let slow = |latencies: &mut Latencies| {
            latencies.visible.own.record(5_000_000).unwrap();
            latencies.visible.corrected.record(9_000_000).unwrap();
        };
        assert_eq!(found(|_, _, latencies, _| slow(latencies)), ["follower_slow"]);
    }

    #[test]
    fn a_stall_is_the_receivers_and_has_its_second() {
        let with = |rate, own: u64| {
            let (sender, parts) = std::sync::mpsc::channel();
            let mut recorder = crate::latency::Recorder::new(crate::latency::Clock::Send, Duration::ZERO, sender);
            for second in 0..5_u64 {
                let now = second * 1_000_000_000 + 500_000_000;
                let waited = if second == 3 { 200_000_000 } else { 1_000_000 };
                recorder.record(now, now - waited, Some(now), 1);
                recorder.record_own(now, if second == 3 { own } else { 0 });
            }
            drop(recorder);
            judged(|plan, _, latencies, _| {
                (plan.rate, *latencies) = (rate, Latencies::collect(&parts, |_, _, _| ()));
                latencies.send.own.clear();
            })
        };
        let slow = Rate::PerSecond(1);
        assert_eq!((with(slow, 0), with(slow, 150_000_000)), (vec![("stall", false)], vec![]));
        assert_eq!(with(Rate::Max, 0), [("closed_loop", false)]);
    }

    #[test]
    fn at_most_speed_somebody_sets_the_pace() {
        let at = |waited| judged(|plan, outcome, _, _| (plan.rate, outcome.waited) = (Rate::Max, waited));
        assert_eq!(at(Some(0.1)), [("closed_loop", false)]);
        assert_eq!(at(Some(0.09)), [("generator_limit", false)]);
        assert_eq!(at(None), [("closed_loop", false)]);
        let over_udp = judged(|plan, outcome, _, _| {
            (plan.rate, plan.proto, outcome.waited) = (Rate::Max, Proto::Udp, Some(0.0));
        });
        assert_eq!(over_udp, [("closed_loop", false)]);
    }

    /// What it did until then was on schedule.
    #[test]
    fn a_run_that_was_cut_short_is_invalid() {
        let cut_short = judged(|plan, outcome, latencies, _| {
            (plan.rate, plan.stop) = (Rate::PerSecond(1000), Stop::Entries(20_000));
            (outcome.stopped, outcome.sending) = (Some(Duration::from_secs(5)), Duration::from_secs(5));
            latencies.send.entries = 5_000;
            latencies.send.corrected.record(1).unwrap();
        });
        assert_eq!(cut_short, [("cut_short", true)]);
    }

    #[test]
    fn what_the_receiver_did_not_take_makes_a_run_invalid() {
        let timed_out = |outcome: &mut Outcome| outcome.connections[0].ending = Ending::TimedOut;
        assert_eq!(judged(|_, outcome, _, _| timed_out(outcome)), [("unacknowledged", true)]);
        let again = |plan: &mut Plan| plan.reconnect = true;
        let both = judged(|plan, outcome, _, _| {
            again(plan);
            timed_out(outcome);
        });
        assert_eq!(both, [("unacknowledged", true)]);
        let in_flight = |outcome: &mut Outcome| {
            let attempt = Attempt { first: 0, sent: 2, acknowledged: 1, ended_at: 0, is_cut: true };
            outcome.connections[0].ending = Ending::ByReceiver;
            outcome.connections[0].attempts.push(attempt);
        };
        assert_eq!(judged(|_, outcome, _, _| in_flight(outcome)), [("unacknowledged", true)]);
        let expected = judged(|plan, outcome, _, _| {
            again(plan);
            in_flight(outcome);
        });
        assert_eq!(expected, []);
    }

    #[test]
    fn a_rate_that_was_missed_makes_a_run_invalid() {
        let sent = |plan: &mut Plan, outcome: &mut Outcome, latencies: &mut Latencies, millis| {
            (plan.rate, plan.stop) = (Rate::PerSecond(1000), Stop::Entries(20_000));
            outcome.sending = Duration::from_millis(millis);
            latencies.send.entries = 20_000;
            latencies.send.corrected.record(1).unwrap();
        };
        let at = |millis| judged(|plan, outcome, latencies, _| sent(plan, outcome, latencies, millis));
        assert_eq!((at(20_015), at(20_030)), (vec![], vec![("rate_missed", true)]));
        // A chance of some hundred of them is no miss.
        let by_chance = judged(|plan, outcome, latencies, _| {
            plan.arrival = Arrival::Poisson;
            sent(plan, outcome, latencies, 20_100);
        });
        assert_eq!(by_chance, []);
        let behind = |count| {
            judged(|plan, outcome, latencies, _| {
                plan.reconnect = true;
                sent(plan, outcome, latencies, 20_000);
                outcome.connections[0].entries_behind = count;
            })
        };
        let note = ("receiver_behind", false);
        assert_eq!((behind(10), behind(100)), (vec![note], vec![note, ("rate_missed", true)]));
    }

    #[test]
    fn what_was_due_and_never_sent_makes_a_run_invalid() {
        let behind = |plan: &mut Plan, outcome: &mut Outcome, rate, reconnect| {
            (plan.rate, plan.reconnect) = (rate, reconnect);
            outcome.connections[0].entries_behind = 1;
        };
        let is_fatal = |rate, reconnect| {
            let judged = judged(|plan, outcome, _, _| behind(plan, outcome, rate, reconnect));
            judged.into_iter().find(|(name, _)| *name == "receiver_behind").unwrap().1
        };
        assert!(is_fatal(Rate::PerSecond(1), false));
        assert!(!is_fatal(Rate::PerSecond(1), true));
        assert!(!is_fatal(Rate::Max, false));
    }
}
