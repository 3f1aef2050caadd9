//! The connections of a run, and the threads that keep them busy. The only module that knows tokio-uring.
//!
//! ```text
//!  thread 0   one ring   connections 0, n, 2n, …   a pacer         all connections are open, and all threads have
//!  thread 1   one ring   connections 1, n+1, …     a pacer         their ring, before the clock starts
//! ```
//!
//! | module | for |
//! | --- | --- |
//! | `connection` | one connection at work, from its first entry to the receiver's last acknowledgement |
//! | `socket` | TCP, TLS or UDP: what a write takes, and what of it is acknowledged |
//! | `pace` | waiting until an entry is due |

mod connection;
mod pace;
mod socket;

use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::clock::{RunClock, nanos};
use crate::error::RunError;
use crate::host;
use crate::latency::Part;
use crate::plan::{Plan, Rate};
use crate::send_times::SendTimes;
use connection::{Connection, Shared};
pub(crate) use socket::DATAGRAM_BYTES_MAX;
use socket::{Connected, connect};

/// Submission queue entries: more connections than this still work, with more system calls.
const RING_ENTRIES_MAX: u32 = 1024;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All was sent, and the receiver acknowledged all of it.
    Finished,
    /// The receiver closed or reset the connection before it had taken all.
    ByReceiver,
    /// The receiver had taken nothing for [`Plan::finish_wait`], and not all.
    TimedOut,
}

/// One socket of a connection. There are more only if the receiver ended one and the plan says to reconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Sequence of the first entry that it carried.
    pub first: u64,
    /// Behind the last entry of which it carried at least a byte.
    pub sent: u64,
    /// Behind the last entry that the receiver's TCP acknowledged whole; over UDP, which acknowledges nothing, `sent`.
    pub acknowledged: u64,
    /// When it ended, in nanoseconds since the start of the run.
    pub ended_at: u64,
    /// The receiver ended it.
    pub is_cut: bool,
}

/// What became of one connection.
#[derive(Clone, Debug)]
pub struct ConnectionOutcome {
    /// Bytes of lines handed to the socket.
    pub bytes_sent: u64,
    /// Bytes of lines that the receiver's TCP acknowledged; over UDP all that were sent.
    pub bytes_acknowledged: u64,
    /// Entries that the schedule held and that were not sent.
    pub entries_behind: u64,
    /// Of what was sent: due within the warm-up.
    pub warmup: Amount,
    /// How it ended.
    pub ending: Ending,
    /// Its sockets, in order; each carries on where the one before ended.
    pub attempts: Vec<Attempt>,
}

/// So much of what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Entries of which at least a byte was sent.
    pub entries: u64,
    /// Bytes of their lines.
    pub bytes: u64,
}

impl ConnectionOutcome {
    /// Entries of which at least a byte was sent.
    #[must_use]
    pub fn entries_sent(&self) -> u64 {
        self.attempts.last().map_or(0, |attempt| attempt.sent)
    }

    /// Whole entries among the bytes acknowledged.
    #[must_use]
    pub fn entries_acknowledged(&self) -> u64 {
        self.attempts.iter().map(|attempt| attempt.acknowledged - attempt.first).sum()
    }
}

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the start until the receiver had read the last entry and ended the last connection.
    pub elapsed: Duration,
    /// From the start until the last entry was accepted by its socket.
    pub sending: Duration,
    /// From the start until the receiver's TCP had acknowledged the last entry that it did acknowledge; over UDP like
    /// `sending`.
    pub acknowledging: Duration,
    /// When the sending stopped because it was told to, if that was before its end.
    pub stopped: Option<Duration>,
    /// The part of the sending in which the busiest thread waited for something other than a core: at `--rate max`, for
    /// the receiver. `None` where the kernel does not tell.
    pub waited: Option<f64>,
    /// Protocol version and cipher suite, over TLS.
    pub suite: Option<String>,
    /// By connection.
    pub connections: Vec<ConnectionOutcome>,
}

impl Outcome {
    /// How long the sending takes on the schedule, as far as it was not cut short; `None` without one.
    #[must_use]
    pub fn scheduled(&self, plan: &Plan) -> Option<Duration> {
        plan.scheduled().map(|scheduled| self.stopped.map_or(scheduled, |stopped| stopped.min(scheduled)))
    }
}

/// What a run shares with those who watch it.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Takes the latencies.
    pub parts: mpsc::Sender<Part>,
    /// Takes the actual send times, if a follower wants them.
    pub send_times: Option<Arc<SendTimes>>,
    /// Set by whoever wants the sending to stop.
    pub stop: Arc<AtomicBool>,
}

/// A run whose connections are open and whose threads are ready.
#[derive(Debug)]
pub struct Ready {
    threads: Vec<Thread>,
    suite: Option<String>,
}

#[derive(Debug)]
struct Thread {
    go: mpsc::Sender<RunClock>,
    handle: std::thread::JoinHandle<Result<ThreadEnded, RunError>>,
}

/// What a thread comes to.
#[derive(Debug, Default)]
struct ThreadEnded {
    connections: Vec<Ended>,
    stopped: Option<u64>,
    waited: Option<f64>,
}

/// A connection that has ended.
#[derive(Debug)]
struct Ended {
    number: u32,
    outcome: ConnectionOutcome,
    /// When the last entry was accepted by the socket.
    sent_at: u64,
    /// When the last entry was acknowledged.
    acknowledged_at: u64,
}

/// Opens all connections and starts all threads; nothing is sent yet.
///
/// # Errors
///
/// When a connection or a ring cannot be made.
pub fn prepare(plan: &Arc<Plan>, watch: &Watch) -> Result<Ready, RunError> {
    let mut shares: Vec<Vec<(u32, Connected)>> = (0..plan.threads).map(|_| Vec::new()).collect();
    let mut suite = None;
    for connection in 0..plan.connections {
        let connected = connect(plan)?;
        suite = suite.or_else(|| connected.suite());
        shares[(connection % plan.threads) as usize].push((connection, connected));
    }
    let (ready, is_ready) = mpsc::channel();
    let progress = Arc::new(AtomicU64::new(0));
    let spawn = |share| {
        let (go, start) = mpsc::channel();
        let (plan, watch, ready, progress) = (Arc::clone(plan), watch.clone(), ready.clone(), Arc::clone(&progress));
        let work = move || work(&plan, (watch, progress), share, &ready, &start);
        let handle = std::thread::Builder::new().name("sender".into()).spawn(work);
        handle.map(|handle| Thread { go, handle })
    };
    let threads = shares.into_iter().map(spawn).collect::<io::Result<Vec<_>>>();
    let threads =
        threads.map_err(|error| RunError::Environment("--threads: cannot be started; give fewer".into(), error))?;
    for _ in &threads {
        is_ready.recv().expect("each thread says whether it is ready")?;
    }
    Ok(Ready { threads, suite })
}

impl Ready {
    /// Starts the clock, for all threads at once.
    #[must_use]
    pub fn start(self) -> Running {
        let clock = RunClock::start();
        let handles = self.threads.into_iter().map(|thread| {
            thread.go.send(clock).expect("a thread that is ready waits for nothing else");
            thread.handle
        });
        Running { clock, suite: self.suite, handles: handles.collect() }
    }
}

/// A run under way.
#[derive(Debug)]
pub struct Running {
    /// Its clock.
    pub clock: RunClock,
    suite: Option<String>,
    handles: Vec<std::thread::JoinHandle<Result<ThreadEnded, RunError>>>,
}

impl Running {
    /// Waits until all is sent and read by the receiver.
    ///
    /// # Errors
    ///
    /// When a connection could not be watched to its end.
    pub fn wait(self) -> Result<Outcome, RunError> {
        let mut threads = Vec::with_capacity(self.handles.len());
        for handle in self.handles {
            threads.push(handle.join().expect("a panic would have ended the process")?);
        }
        let elapsed = Duration::from_nanos(self.clock.now());
        let stopped = threads.iter().filter_map(|thread| thread.stopped).max().map(Duration::from_nanos);
        let waited = threads.iter().map(|thread| thread.waited).reduce(|one, other| Some(one?.min(other?))).flatten();
        let mut connections: Vec<_> = threads.into_iter().flat_map(|thread| thread.connections).collect();
        connections.sort_by_key(|ended| ended.number);
        let last = |at: fn(&Ended) -> u64| Duration::from_nanos(connections.iter().map(at).max().unwrap_or(0));
        Ok(Outcome {
            elapsed,
            sending: last(|ended| ended.sent_at),
            acknowledging: last(|ended| ended.acknowledged_at),
            stopped,
            waited,
            suite: self.suite,
            connections: connections.into_iter().map(|ended| ended.outcome).collect(),
        })
    }
}

/// Opens all connections, sends what the plan says, and waits for the receiver to read it; nobody watches.
///
/// # Errors
///
/// When a connection or a ring cannot be made.
pub fn run(plan: &Plan) -> Result<Outcome, RunError> {
    let (parts, _) = mpsc::channel();
    let watch = Watch { parts, send_times: None, stop: Arc::default() };
    prepare(&Arc::new(plan.clone()), &watch)?.start().wait()
}

/// One thread: its ring, its connections, and the wait for the start.
fn work(
    plan: &Arc<Plan>,
    watch: (Watch, Arc<AtomicU64>),
    share: Vec<(u32, Connected)>,
    ready: &mpsc::Sender<Result<(), RunError>>,
    start: &mpsc::Receiver<RunClock>,
) -> Result<ThreadEnded, RunError> {
    let ring = runtime(share.len()).map_err(|error| {
        let problem = "io_uring: refused; likely kernel.io_uring_disabled or a seccomp profile, see README, Kernel";
        RunError::Environment(problem.into(), error)
    });
    let (runtime, said) = match ring {
        Ok(runtime) => (Some(runtime), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let rendered: Vec<_> =
        share.into_iter().map(|(number, socket)| connection::Prepared::new(plan, number, socket)).collect();
    drop(ready.send(said));
    // Nobody starts a run that lacks a thread.
    let (Some(runtime), Ok(clock)) = (runtime, start.recv()) else {
        return Ok(ThreadEnded::default());
    };
    runtime.block_on(run_all(plan, watch, rendered, clock))
}

fn runtime(connections: usize) -> io::Result<tokio_uring::Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_single_issuer().setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    let entries = u32::try_from(connections.next_power_of_two()).unwrap_or(RING_ENTRIES_MAX);
    builder.uring_builder(&ring).entries(entries.clamp(64, RING_ENTRIES_MAX));
    tokio_uring::Runtime::new(&builder)
}

async fn run_all(
    plan: &Arc<Plan>,
    watch: (Watch, Arc<AtomicU64>),
    prepared: Vec<connection::Prepared>,
    clock: RunClock,
) -> Result<ThreadEnded, RunError> {
    let failed = |error| RunError::Unexpected("connection: cannot be watched; see the kernel's log".into(), error);
    let shared = Rc::new(Shared::new(Arc::clone(plan), clock, watch, prepared.len()).map_err(failed)?);
    if plan.rate != Rate::Max {
        host::run_before_others(plan.threads, host::Work::Sends);
    }
    let pacer = (plan.rate != Rate::Max).then(|| {
        let (pacing, timing) = (Rc::clone(&shared), Rc::clone(&shared));
        tokio_uring::spawn(async move { pacing.pacer.run().await });
        tokio_uring::spawn(async move { timing.pacer.run_timer().await })
    });
    let mut tasks = Vec::with_capacity(prepared.len());
    for prepared in prepared {
        let connection = Connection::new(Rc::clone(&shared), prepared).map_err(failed)?;
        tasks.push(tokio_uring::spawn(connection.run()));
    }
    let mut connections = Vec::with_capacity(tasks.len());
    for task in tasks {
        connections.push(task.await.map_err(|error| failed(io::Error::other(error)))??);
    }
    if let Some(pacer) = pacer {
        shared.pacer.end();
        pacer.await.map_err(|error| failed(io::Error::other(error)))?.map_err(failed)?;
    }
    Ok(ThreadEnded { connections, stopped: shared.stopped.get(), waited: shared.waited.get() })
}

/// The end of a fixed duration, from the start.
fn end_of(plan: &Plan, duration: Duration) -> u64 {
    nanos(plan.warmup + duration)
}
