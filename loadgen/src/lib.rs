//! A sender of Token TCP lines that measures its receiver and keeps an exact account of every entry.
//!
//! ```text
//!  flags ──cli──► Plan ──► sender: threads, connections ──lines──► receiver ──► DATA/<token>/<base>.log
//!                            │ what was sent  │ send latency                          │
//!                            ▼                ▼                                       ▼
//!                          account        latency ◄───────visible latency──────── follow
//!                            │                │                                       │
//!                            └── report ◄─────┘            account ◄──────entries─────┘
//! ```
//!
//! Load is open: each entry has a time at which it is due, and both clocks run from there, so a receiver that stalls
//! does not hide how long everything waited behind it.
//!
//! What a receiver owes is what its kernel acknowledged. So the sender asks its own sockets how many bytes the peer
//! acknowledged ([`sys`]), and the account demands every whole line among them from the receiver's files: once, in
//! order, undamaged, in the right log. That holds for a receiver that ends connections in mid-run as well.
//!
//! | module | for |
//! | --- | --- |
//! | [`cli`], [`units`], [`condition`] | the command line as typed; only `cli` knows clap |
//! | [`plan`] | the validated run |
//! | [`tokens`] | tokens, and which entry carries which |
//! | [`schedule`] | when each entry is due |
//! | [`payload`] | bytes of a line, rendered in place; parsing an entry back |
//! | [`clock`] | nanoseconds since the start of the run |
//! | [`sender`] | connections and the threads that keep them busy; the only one that knows tokio-uring |
//! | [`tls`] | handshake and records; the only one that knows rustls |
//! | [`sys`] | what no crate asks the kernel for safely; the only unsafe code |
//! | [`send_times`] | when each entry was actually sent |
//! | [`follow`] | reads a receiver's files, while they grow and afterwards |
//! | [`latency`] | histograms, by thread and by second |
//! | [`account`] | compares what was stored with what was acknowledged; no I/O |
//! | [`host`], [`validity`] | where a run was made, and what makes its figures doubtful |
//! | [`report`] | the outcome for people and for programs |
//! | [`search`], [`compare`] | the highest rate within a bound; two sets of results, and their difference |
//! | [`error`] | what can stop a run, and the exit codes |

#![expect(
    clippy::cast_possible_truncation,
    reason = "this crate runs on 64-bit machines only, and narrows numbers where the format of the wire says so"
)]

pub mod account;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod condition;
pub mod error;
pub mod follow;
pub mod host;
pub mod latency;
pub mod payload;
pub mod plan;
pub mod report;
pub mod schedule;
pub mod search;
pub mod send_times;
pub mod sender;
pub mod sys;
pub mod tls;
pub mod tokens;
pub mod units;
pub mod validity;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

pub use error::{Exit, RunError};

use account::Settled;
use cli::Command;
use clock::RunClock;
use compare::{Asked, Comparison, Set};
use condition::Condition;
use follow::{Follower, Stopwatch};
use host::{Host, Listener};
use latency::{Clock, Latencies, Recorder};
use plan::{Files, Plan, Rate};
use report::Report;
use report::progress::Progress;
use search::Search;
use send_times::SendTimes;
use sender::{Outcome, Watch};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// What becomes of a report.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Print JSON.
    pub json: bool,
    /// Write files into this directory.
    pub out: Option<PathBuf>,
    /// Bounds that make a run fail.
    pub fail_if: Vec<Condition>,
}

/// Executes what was asked for on the command line and prints its report.
///
/// # Errors
///
/// When the run could not be made; faults that it found are an exit code, not an error.
pub fn execute(command: Command) -> Result<Exit, RunError> {
    let said = |text: String| say(&text).map(|()| Exit::Done);
    match command {
        Command::Run { plan, output } => measure(*plan, output),
        Command::Search { search, output } => seek(*search, &output),
        Command::Compare(asked) => compare(&asked),
        Command::Report { directories } => said(pages(&directories)?),
        Command::Text(text) => said(text),
    }
}

/// Makes the pages of results again; their paths, one a line.
fn pages(directories: &[PathBuf]) -> Result<String, RunError> {
    let write = |directory: &PathBuf| {
        report::files::write_page(directory).map_err(|problem| no_result(directory, &problem))?;
        Ok(format!("{}\n", directory.join(report::files::PAGE).display()))
    };
    directories.iter().map(write).collect()
}

fn no_result(directory: &Path, problem: &str) -> RunError {
    let directory = directory.display();
    RunError::Usage(format!("{directory}: {problem}; give a directory that loadgen run --out wrote"))
}

/// Two sets of results side by side.
fn compare(asked: &Asked) -> Result<Exit, RunError> {
    let read = |path: &Path| Set::read(path).map_err(|problem| no_result(path, &problem));
    let comparison = Comparison::new(read(&asked.a)?, read(&asked.b)?, asked.threshold);
    if let Some(page) = &asked.html {
        let unwritable = || format!("--html: {} cannot be written; give it room or another place", page.display());
        fs::write(page, comparison.to_html()).map_err(|error| RunError::Environment(unwritable(), error))?;
    }
    let text = if asked.json { format!("{:#}\n", comparison.to_json()) } else { comparison.to_string() };
    say(&text).map(|()| tell(comparison.exit(), &comparison.why()))
}

/// One run with its report.
fn measure(plan: Plan, output: Output) -> Result<Exit, RunError> {
    prepare(output.out.as_deref())?;
    let report = Report { fail_if: output.fail_if, ..run(plan, stop_on_signal()?)? };
    let written = write(&report, output.out.as_deref());
    say(&if output.json { format!("{:#}\n", report.to_json()) } else { report.to_string() })?;
    written.map(|()| tell(report.exit(), &report.why()))
}

/// Runs at one rate after the other until the highest one within the bounds is known.
fn seek(mut search: Search, output: &Output) -> Result<Exit, RunError> {
    prepare(output.out.as_deref())?;
    let stop = stop_on_signal()?;
    while let Some(rate) = search.next_rate() {
        let report = run(search.plan_at(rate), Arc::clone(&stop))?;
        let report = Report { fail_if: output.fail_if.clone(), ..report };
        let directory = output.out.as_ref().map(|out| out.join(search.step_name(rate)));
        write(&report, directory.as_deref())?;
        let line = format!("{}\n", search.take(rate, &report));
        if !output.json {
            say(&line)?;
        }
    }
    if let Some(out) = &output.out {
        let written = fs::write(out.join("search.json"), format!("{:#}\n", search.to_json()));
        written.map_err(|error| RunError::Unexpected(unwritable(out), error))?;
    }
    say(&if output.json { format!("{:#}\n", search.to_json()) } else { format!("{search}\n") })?;
    Ok(tell(search.exit(), &format!("search: {search}")))
}

/// Says on stderr why the exit code is not 0, in the form of all errors.
fn tell(exit: Exit, why: &str) -> Exit {
    if exit != Exit::Done {
        // Whoever has closed stderr does not want to know.
        drop(writeln!(io::stderr(), "loadgen: {why}"));
    }
    exit
}

fn say(text: &str) -> Result<(), RunError> {
    let failed = |error| RunError::Unexpected("stdout: cannot be written; give it room or another place".into(), error);
    report::print(text).map_err(failed)
}

fn unwritable(out: &Path) -> String {
    format!("--out: {} cannot be written; give it room or another place", out.display())
}

/// Sees before a run whether its report can be kept.
fn prepare(out: Option<&Path>) -> Result<(), RunError> {
    let Some(out) = out else { return Ok(()) };
    report::files::prepare(out).map_err(|error| RunError::Environment(unwritable(out), error))
}

fn write(report: &Report, out: Option<&Path>) -> Result<(), RunError> {
    let Some(out) = out else { return Ok(()) };
    report.write_files(out).map_err(|error| RunError::Unexpected(unwritable(out), error))
}

/// The first Ctrl-C or SIGTERM ends the sending, so that there is an account of what was sent; the next one the process.
fn stop_on_signal() -> Result<Arc<AtomicBool>, RunError> {
    let stop = Arc::new(AtomicBool::new(false));
    let taken = take_signals(Arc::clone(&stop));
    taken.map(|()| stop).map_err(|error| RunError::Unexpected("signals: cannot be taken".into(), error))
}

fn take_signals(stop: Arc<AtomicBool>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in &mut signals {
            if stop.swap(true, Ordering::Relaxed) {
                emulate_default_handler(signal).unwrap_or(());
            }
            let text = "loadgen: stopping: waits until the receiver has what was sent; again to end at once\n";
            // Whoever has closed stderr does not want to know.
            drop(io::stderr().write_all(text.as_bytes()));
        }
    })?;
    Ok(())
}

/// One run: sends until its end or until told to stop, follows what becomes visible, and settles the account if the plan
/// says where the entries go.
///
/// # Errors
///
/// When a connection or a ring cannot be made, or the receiver's files cannot be read.
pub fn run(plan: Plan, stop: Arc<AtomicBool>) -> Result<Report, RunError> {
    host::raise_file_limit();
    let plan = Arc::new(plan);
    let follower = plan.files.as_ref().map(|files| {
        let mut follower = Follower::new(&plan, files)?;
        follower.skip_history().map(|()| follower)
    });
    let follower = follower.transpose().map_err(unreadable(&plan))?;
    let (parts, collected) = mpsc::channel();
    let collector = thread::spawn(move || {
        host::run_last();
        let mut progress = Progress::new();
        Latencies::collect(&collected, |second, clock, latency| progress.take(second, clock, latency))
    });
    let send_times = plan.is_followed().then(|| Arc::new(SendTimes::new(plan.connections)));
    let watch = Watch { parts, send_times, stop };
    let ready = sender::prepare(&plan, &watch)?;
    let listener = Listener::find(plan.target, &plan.proto);
    let running = ready.start();
    let clock = running.clock;
    let (outcome, account) = watch_run(&plan, running, watch, follower)?;
    let receiver_time = listener.as_ref().and_then(Listener::time);
    let receiver_cores = listener.map(|listener| listener.busy_cores());
    let latencies = collector.join().expect("a panic would have ended the process");
    let host = Host::look();
    // At `--rate max` nothing is due at a time, and no thread asks.
    let realtime = (plan.rate != Rate::Max).then(|| host::realtime(plan.threads)).flatten();
    let findings = validity::findings(&validity::Evidence {
        plan: &plan,
        outcome: &outcome,
        latencies: &latencies,
        account: account.as_ref(),
        host: &host,
        realtime,
        receiver_cores,
        wall_clock_step: clock.wall_clock_step(),
    });
    let plan = Plan::clone(&plan);
    Ok(Report {
        plan,
        outcome,
        account,
        latencies,
        findings,
        host,
        realtime,
        receiver_time,
        clock,
        fail_if: Vec::new(),
    })
}

/// Waits for the end of a run, with a follower beside it if there is to be one, and settles the account.
fn watch_run(
    plan: &Arc<Plan>,
    running: sender::Running,
    watch: Watch,
    follower: Option<Follower>,
) -> Result<(Outcome, Option<Settled>), RunError> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopwatch = stopwatch(plan, running.clock, watch);
    let following = follower.map(|mut follower| {
        let (stop, threads) = (Arc::clone(&stop), plan.threads);
        thread::spawn(move || {
            if let Some(stopwatch) = stopwatch {
                host::run_before_others(threads, host::Work::Follows);
                follower.follow(stopwatch, &stop)?;
            }
            io::Result::Ok(follower)
        })
    });
    let outcome = running.wait();
    stop.store(true, Ordering::Relaxed);
    let outcome = outcome?;
    let account = following.map(|following| {
        let follower = following.join().expect("a panic would have ended the process")?;
        Ok(follower.finish(&outcome)?.settle(&outcome))
    });
    let account = account.transpose().map_err(unreadable(plan))?;
    Ok((outcome, account))
}

fn stopwatch(plan: &Plan, clock: RunClock, watch: Watch) -> Option<Stopwatch> {
    let Watch { parts, send_times, .. } = watch;
    send_times.map(|send_times| {
        let recorder = Recorder::new(Clock::Visible, plan.warmup, parts);
        Stopwatch { clock, recorder, send_times }
    })
}

fn unreadable(plan: &Plan) -> impl FnOnce(io::Error) -> RunError {
    let files = match &plan.files {
        Some(Files::Data(data)) => format!("--data: {}", data.display()),
        Some(Files::Pattern(pattern)) => format!("--files: {pattern}"),
        None => String::new(),
    };
    move |error: io::Error| {
        let remedy = match error.kind() {
            io::ErrorKind::InvalidData => "see what `engine verify` finds there",
            _ => "give this user leave to",
        };
        RunError::Unexpected(format!("{files} cannot be read; {remedy}"), error)
    }
}
