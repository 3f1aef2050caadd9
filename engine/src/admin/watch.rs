//! What the admin endpoint knows: where the process is in its life, and how each shard says that it stands.
//!
//! ```text
//!  admin thread                                     shard's thread
//!  ask: Command::Report{ticket} ──► mailbox ──────► between two turns: a copy of its counters
//!  waits, at most SHARD_ANSWER ◄── Reporter::post ◄───┘
//! ```
//! A shard that has ended leaves a last report, which answers every later question.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::driver::uring::Mailbox;
use crate::limits::{BUSY_WINDOW, SHARD_ANSWER};
use crate::metrics::render::{Sealed, ShardView, Snapshot, render};
use crate::metrics::{Limit, Load, Report, StorageState};
use crate::shard::Command;
use crate::store::keep::Kept;
use crate::store::recover::Recovered;
use crate::sys::DataDir;
use crate::tls;

/// The ticket of a last report.
const LAST: u64 = u64::MAX;

/// A shard's way to answer; lives on the shard's thread.
#[derive(Debug)]
pub struct Reporter(watch::Sender<Arc<Report>>);

impl Reporter {
    /// Answers. A later question may have overtaken this one: its answer stays.
    pub fn post(&self, report: Report) {
        self.0.send_if_modified(|latest| {
            let is_newer = report.ticket >= latest.ticket;
            if is_newer {
                *latest = Arc::new(report);
            }
            is_newer
        });
    }

    /// Leaves a last report: the shard has ended.
    pub fn end(&self, report: Report) {
        self.post(Report { ticket: LAST, draining: true, ..report });
    }
}

/// The admin endpoint's side of one shard.
#[derive(Debug)]
pub struct Desk {
    mailbox: Mailbox,
    reports: watch::Receiver<Arc<Report>>,
    /// The ticket of the latest question.
    asked: AtomicU64,
    busy: Mutex<Busy>,
}

impl Desk {
    /// A desk for the shard that reads this mailbox, and the way back.
    #[must_use]
    pub fn new(mailbox: Mailbox) -> (Reporter, Self) {
        let (answers, reports) = watch::channel(Arc::new(Report::default()));
        (Reporter(answers), Self { mailbox, reports, asked: AtomicU64::new(0), busy: Mutex::default() })
    }

    /// Asks the shard, unless an earlier question is still open: that one's answer will be just as new.
    fn ask(&self) -> u64 {
        let asked = self.asked.load(Ordering::Relaxed);
        if self.reports.borrow().ticket < asked {
            return asked;
        }
        let ticket = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        self.mailbox.send(Command::Report { ticket });
        ticket
    }

    /// The latest report, and whether it answers this question.
    async fn answer(&self, ticket: u64, deadline: Instant) -> (Arc<Report>, bool) {
        let mut reports = self.reports.clone();
        let answered = timeout_at(deadline, reports.wait_for(|report| report.ticket >= ticket)).await;
        let answered = matches!(answered, Ok(Ok(_)));
        (Arc::clone(&self.reports.borrow()), answered)
    }

    fn busy_ratio(&self, load: Load) -> f64 {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).ratio(load)
    }
}

/// Makes a ratio of two looks at the processor time.
#[derive(Debug, Default)]
struct Busy {
    before: Load,
    ratio: f64,
}

impl Busy {
    fn ratio(&mut self, load: Load) -> f64 {
        let wall = load.wall.saturating_sub(self.before.wall);
        let first = self.before == Load::default();
        if wall >= BUSY_WINDOW || first {
            let busy = load.busy.saturating_sub(self.before.busy);
            self.ratio = if wall.is_zero() { 0.0 } else { busy.div_duration_f64(wall).min(1.0) };
        }
        if wall >= BUSY_WINDOW {
            self.before = load;
        }
        self.ratio
    }
}

/// Sealed segments that recovery found.
#[derive(Clone, Copy, Debug, Default)]
pub struct SegmentsAtStart {
    /// Not compressed.
    pub sealed: u64,
    /// Compressed.
    pub packed: u64,
}

impl SegmentsAtStart {
    /// All but the newest of each log are sealed.
    #[must_use]
    pub fn of(recovered: &Recovered) -> Self {
        let newest = recovered.logs.len() + recovered.rejected.len();
        Self { sealed: recovered.segments - newest as u64 - recovered.packed, packed: recovered.packed }
    }
}

/// What became of sealed segments.
#[derive(Debug, Default)]
pub struct Segments {
    /// How it began.
    pub at_start: SegmentsAtStart,
    /// What was done since.
    pub kept: Arc<Kept>,
}

impl Segments {
    fn now(&self) -> Sealed {
        let [packed, retired_plain, retired_packed, retired_bytes] =
            [&self.kept.packed, &self.kept.retired_plain, &self.kept.retired_packed, &self.kept.retired_bytes]
                .map(|count| count.load(Ordering::Relaxed));
        Sealed {
            added: self.at_start.sealed,
            removed: packed + retired_plain,
            packed: (self.at_start.packed + packed).saturating_sub(retired_packed),
            retired_bytes,
        }
    }
}

/// What is known once the engine serves.
#[derive(Debug)]
struct Serving {
    listeners: Vec<String>,
    segments: Segments,
    desks: Vec<Desk>,
}

/// A probe's answer: whether it is a good one, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// 200 or 503.
    pub good: bool,
    /// One line for people.
    pub text: String,
}

impl Verdict {
    fn good(text: impl Into<String>) -> Self {
        Self { good: true, text: text.into() }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self { good: false, text: text.into() }
    }
}

/// What is still to come of all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Connections that are open.
    pub connections: u64,
    /// Bytes received and not yet in a file.
    pub unwritten_bytes: u64,
}

/// All that the admin endpoint may say.
#[derive(Debug)]
pub struct Watch {
    data: Arc<DataDir>,
    limits: Mutex<Vec<Limit>>,
    tls: Vec<tls::Server>,
    reloads: AtomicU64,
    reloads_failed: AtomicU64,
    serving: OnceLock<Serving>,
    wait: Duration,
}

impl Watch {
    /// An engine that is starting on this directory, within these limits, with these certificates if it speaks TLS.
    #[must_use]
    pub fn new(data: Arc<DataDir>, limits: Vec<Limit>, tls: Vec<tls::Server>) -> Self {
        Self {
            data,
            limits: Mutex::new(limits),
            tls,
            reloads: AtomicU64::new(0),
            reloads_failed: AtomicU64::new(0),
            serving: OnceLock::new(),
            wait: SHARD_ANSWER,
        }
    }

    /// The configuration, or a file that it names, was read again, or that failed.
    pub fn count_reload(&self, ok: bool) {
        let count = if ok { &self.reloads } else { &self.reloads_failed };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on this limit is in force instead of the one of its name.
    pub fn set_limit(&self, limit: Limit) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = limits.iter_mut().find(|old| old.name == limit.name) {
            *old = limit;
        }
    }

    /// From now on the engine serves: on these listeners, with these shards, and with what recovery found.
    pub fn serve(&self, listeners: Vec<String>, segments: Segments, desks: Vec<Desk>) {
        let serving = Serving { listeners, segments, desks };
        self.serving.set(serving).expect("an engine starts once");
    }

    /// `/healthz`: whether every shard still takes turns.
    pub async fn health(&self) -> Verdict {
        match self.ask().await {
            Err(silent) => silent,
            Ok(reports) if reports.is_empty() => Verdict::good("ok, recovering"),
            Ok(_) => Verdict::good("ok"),
        }
    }

    /// `/readyz`: whether what is sent now is read and stored.
    pub async fn readiness(&self) -> Verdict {
        match self.ask().await {
            Err(silent) => silent,
            Ok(reports) => ready(&reports),
        }
    }

    /// `/metrics`. Of a shard that does not answer, its latest report.
    pub async fn metrics(&self) -> String {
        let reports = self.reports().await;
        let desks = self.serving.get().map_or(&[][..], |serving| &serving.desks);
        let view = |(desk, (report, _)): (&Desk, &(Arc<Report>, bool))| desk.busy_ratio(report.load);
        let busy: Vec<f64> = desks.iter().zip(&reports).map(view).collect();
        let shards = reports.iter().zip(busy).map(|((report, _), busy_ratio)| ShardView { report, busy_ratio });
        render(&Snapshot {
            listeners: self.serving.get().map_or(&[], |serving| &serving.listeners),
            shards: shards.collect(),
            sealed: self.serving.get().map_or_else(Sealed::default, |serving| serving.segments.now()),
            certificate_expiry: self.tls.iter().filter_map(tls::Server::first_expiry).min(),
            disk_free_bytes: self.data.free_bytes().ok(),
            disk_free_inodes: self.data.inodes().ok().flatten().map(|(free, _)| free),
            config_reloads: (self.reloads.load(Ordering::Relaxed), self.reloads_failed.load(Ordering::Relaxed)),
            limits: &self.limits.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// What a drain waits for; `None` if it cannot be asked. For the main thread, which waits for the answers.
    pub fn progress(&self) -> Option<Progress> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().ok()?;
        let mut progress = Progress::default();
        for (report, _) in runtime.block_on(self.reports()) {
            progress.connections += report.listeners.iter().map(|listener| listener.open).sum::<u64>();
            progress.unwritten_bytes += report.unwritten_bytes;
        }
        Some(progress)
    }

    /// A fresh report of every shard, or who is silent. None while the engine starts.
    async fn ask(&self) -> Result<Vec<Arc<Report>>, Verdict> {
        let reports = self.reports().await;
        match reports.iter().position(|(_, answered)| !answered) {
            Some(shard) => {
                let wait = self.wait;
                Err(Verdict::bad(format!("shard {shard} has not answered for {wait:?}; it stands still")))
            }
            None => Ok(reports.into_iter().map(|(report, _)| report).collect()),
        }
    }

    async fn reports(&self) -> Vec<(Arc<Report>, bool)> {
        let desks = self.serving.get().map_or(&[][..], |serving| &serving.desks);
        let tickets: Vec<u64> = desks.iter().map(Desk::ask).collect();
        let mut reports = Vec::with_capacity(desks.len());
        // All were asked at once, so all have the same time. What has come by then counts, however late it is looked at.
        let deadline = Instant::now() + self.wait;
        for (desk, ticket) in desks.iter().zip(tickets) {
            reports.push(desk.answer(ticket, deadline).await);
        }
        reports
    }
}

fn ready(reports: &[Arc<Report>]) -> Verdict {
    let storage = reports.iter().map(|report| report.storage).max();
    match storage {
        None => Verdict::bad("recovering"),
        Some(_) if reports.iter().any(|report| report.draining) => Verdict::bad("draining"),
        Some(StorageState::Refuses) => Verdict::bad("storage refuses, reading has stopped until it works again"),
        Some(StorageState::Low) => Verdict::bad("free space is below --disk-free-min, reading has stopped"),
        // What one log lacks is no reason to send the others' senders elsewhere.
        Some(StorageState::Partial) => {
            let refused: u64 = reports.iter().map(|report| report.logs_refused).sum();
            Verdict::good(format!("ready, but logs that cannot be opened: {refused}"))
        }
        Some(StorageState::Ok) => Verdict::good("ready"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough for an answer that is there, short enough to wait for in vain.
    const WAIT: Duration = Duration::from_millis(50);

    fn watch() -> (tempfile::TempDir, Watch) {
        let folder = tempfile::tempdir().unwrap();
        let data = Arc::new(DataDir::open(&folder.path().join("data")).unwrap());
        (folder, Watch { wait: WAIT, ..Watch::new(data, Vec::new(), Vec::new()) })
    }

    fn desk() -> (Reporter, Desk) {
        Desk::new(Mailbox::new().unwrap())
    }

    fn block_on<T>(answer: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(answer)
    }

    fn answering(ticket: u64) -> Report {
        Report { ticket, ..Report::default() }
    }

    #[test]
    fn recovery_is_healthy_and_not_ready() {
        let (_folder, watch) = watch();
        assert_eq!(block_on(watch.health()), Verdict::good("ok, recovering"));
        assert_eq!(block_on(watch.readiness()), Verdict::bad("recovering"));
        assert!(block_on(watch.metrics()).contains("\nengine_entries_total 0\n"));
    }

    #[test]
    fn a_shard_that_does_not_answer_is_named() {
        let (_folder, watch) = watch();
        let ((alive, first), (_silent, second), (ended, third)) = (desk(), desk(), desk());
        alive.post(answering(LAST));
        ended.end(Report::default());
        watch.serve(Vec::new(), Segments::default(), vec![first, second, third]);
        let silent = Verdict::bad("shard 1 has not answered for 50ms; it stands still");
        assert_eq!(block_on(watch.health()), silent);
        assert_eq!(block_on(watch.readiness()), silent);
        let text = block_on(watch.metrics());
        assert!(text.contains("engine_shard_busy_ratio{shard=\"2\"}"), "a silent shard hides nobody:\n{text}");
    }

    #[test]
    fn a_late_answer_hides_no_later_one() {
        let (_folder, watch) = watch();
        let (reporter, desk) = desk();
        watch.serve(Vec::new(), Segments::default(), vec![desk]);
        for (ticket, unwritten_bytes) in [(7, 1), (6, 2)] {
            reporter.post(Report { unwritten_bytes, ..answering(ticket) });
        }
        assert_eq!(watch.progress(), Some(Progress { connections: 0, unwritten_bytes: 1 }));
    }

    #[test]
    fn an_old_answer_answers_no_new_question() {
        let (_folder, watch) = watch();
        let (reporter, desk) = desk();
        watch.serve(Vec::new(), Segments::default(), vec![desk]);
        assert!(!block_on(watch.health()).good);
        // The question is still open, and is not asked twice.
        let desk = &watch.serving.get().unwrap().desks[0];
        assert_eq!(desk.ask(), 1);
        reporter.post(answering(1));
        assert_eq!(desk.ask(), 2);
        assert!(!block_on(watch.health()).good);
        reporter.post(answering(2));
        assert_eq!(desk.ask(), 3);
    }

    #[test]
    fn only_a_shard_that_stores_is_ready() {
        let case = |change: fn(&mut Report)| {
            let mut report = Report::default();
            change(&mut report);
            ready(&[Arc::new(Report::default()), Arc::new(report)])
        };
        assert_eq!(case(|_| {}), Verdict::good("ready"));
        assert_eq!(case(|report| report.draining = true), Verdict::bad("draining"));
        let partial = case(|report| (report.storage, report.logs_refused) = (StorageState::Partial, 2));
        assert_eq!(partial, Verdict::good("ready, but logs that cannot be opened: 2"));
        assert!(case(|report| report.storage = StorageState::Low).text.contains("--disk-free-min"));
        let refuses = case(|report| report.storage = StorageState::Refuses);
        assert!(!refuses.good && refuses.text.starts_with("storage refuses"));
    }

    #[test]
    fn busy_is_measured_over_a_second_at_least() {
        let load = |busy, wall| Load {
            busy: Duration::from_millis(busy),
            wall: Duration::from_millis(wall),
            ring_overflow: 0,
        };
        let mut busy = Busy::default();
        let ratios = [load(100, 200), load(500, 1000), load(600, 1200), load(2500, 3000), load(9000, 4000)];
        let ratios = ratios.map(|load| format!("{:.2}", busy.ratio(load)));
        assert_eq!(ratios, ["0.50", "0.50", "0.50", "1.00", "1.00"]);
    }
}
