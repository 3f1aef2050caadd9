//! The connections of a run, and the loop that keeps each of them busy. The only module that knows tokio-uring.
//!
//! One thread, one ring. Each connection is a task with one batch, which moves into the kernel with every write and
//! comes back with its answer:
//!
//! ```text
//!   how many are due? ──none──► sleep until the next is
//!      │ n                              │
//!      ▼                                │
//!   render n lines ──► write, until all are taken ──► again     stop: half-close, wait for the receiver's end
//! ```
//!
//! At `--rate max` any number is due and the receiver's window is the brake. A write that the peer refuses ends the
//! connection, not the run. A half-close by the receiver does not: Token TCP clients do not read, so they go on, and so
//! does this one.
//!
//! A connection is over when the kernel calls it closed: only then is the number of acknowledged bytes final. A receiver
//! that neither reads nor closes is cut off some time after the end of the sending ([`Plan::finish_wait`]).
#![expect(clippy::disallowed_methods, reason = "a load generator lives by the clock")]

use std::cell::Cell;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_uring::buf::BoundedBuf;

use crate::error::RunError;
use crate::payload::Renderer;
use crate::plan::{Plan, Rate, Stop};
use crate::tcp_info::{TcpInfo, tcp_info};

/// How long to wait for a connection to be established.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long past `--duration` a fixed schedule may take to catch up: timers are a millisecond coarse.
const LATE_WAIT: Duration = Duration::from_millis(100);
/// How often to look whether a connection is closed, once both sides have ended.
const CLOSED_POLL: Duration = Duration::from_millis(1);
/// Submission queue entries: more connections than this still work, with more system calls.
const RING_ENTRIES_MAX: u32 = 1024;
/// Receivers send nothing; what comes all the same is thrown away in pieces of this size.
const ANSWER_BYTES: usize = 512;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All was sent, and the receiver acknowledged all of it.
    Finished,
    /// The receiver closed or reset the connection before it had taken all.
    ByReceiver,
    /// The receiver had not taken all after [`Plan::finish_wait`].
    TimedOut,
}

/// What became of one connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionOutcome {
    /// Bytes handed to the socket.
    pub bytes_sent: u64,
    /// Bytes that the receiver's TCP acknowledged.
    pub bytes_acknowledged: u64,
    /// Whole entries among the bytes sent.
    pub entries_sent: u64,
    /// Whole entries among the bytes acknowledged.
    pub entries_acknowledged: u64,
    /// Entries that the schedule held and that were not sent.
    pub entries_behind: u64,
    /// How it ended.
    pub ending: Ending,
}

/// What became of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the first entry until the receiver had read the last and ended the last connection.
    pub elapsed: Duration,
    /// By connection.
    pub connections: Vec<ConnectionOutcome>,
}

/// Opens all connections, sends what the plan says, and waits for the receiver to read it.
///
/// # Errors
///
/// When a connection or the ring cannot be made.
pub fn run(plan: &Plan) -> Result<Outcome, RunError> {
    let sockets = (0..plan.connections).map(|_| connect(plan)).collect::<Result<Vec<_>, _>>()?;
    let runtime = runtime(plan.connections).map_err(|error| {
        RunError::Environment(
            "cannot create an io_uring; likely kernel.io_uring_disabled or a seccomp profile".into(),
            error,
        )
    })?;
    runtime.block_on(run_all(Rc::new(plan.clone()), sockets))
}

fn runtime(connections: u32) -> io::Result<tokio_uring::Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_single_issuer().setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.uring_builder(&ring).entries(connections.next_power_of_two().clamp(64, RING_ENTRIES_MAX));
    tokio_uring::Runtime::new(&builder)
}

/// A connection, and the sequence number that its SYN has used up.
struct Connected {
    socket: TcpStream,
    baseline: u64,
}

fn connect(plan: &Plan) -> Result<Connected, RunError> {
    let connect = || {
        let socket = TcpStream::connect_timeout(&plan.target, CONNECT_WAIT)?;
        // A schedule is kept by sending when an entry is due, not when a segment is full.
        socket.set_nodelay(true)?;
        let baseline = tcp_info(&socket)?.acknowledged;
        Ok(Connected { socket, baseline })
    };
    connect().map_err(|error| RunError::Environment(format!("--target: cannot connect to {}", plan.target), error))
}

async fn run_all(plan: Rc<Plan>, sockets: Vec<Connected>) -> Result<Outcome, RunError> {
    let failed = |error| RunError::Unexpected("a connection cannot be watched".into(), error);
    let mut senders = Vec::with_capacity(sockets.len());
    for (connection, connected) in (0..).zip(sockets) {
        senders.push(Sender::new(&plan, connection, connected).map_err(failed)?);
    }
    let start = Instant::now();
    let tasks: Vec<_> = senders.into_iter().map(|sender| tokio_uring::spawn(sender.run(start))).collect();
    let mut connections = Vec::with_capacity(tasks.len());
    for task in tasks {
        let ended = task.await.map_err(|error| failed(io::Error::other(error)))?;
        connections.push(ended.map_err(failed)?);
    }
    Ok(Outcome { elapsed: start.elapsed(), connections })
}

/// One connection at work.
struct Sender {
    plan: Rc<Plan>,
    connection: u32,
    /// The descriptor for questions and for shutting down, which do not go through the ring.
    socket: Rc<TcpStream>,
    stream: tokio_uring::net::TcpStream,
    baseline: u64,
    renderer: Renderer,
    batch: Vec<u8>,
    bytes_sent: u64,
}

impl Sender {
    fn new(plan: &Rc<Plan>, connection: u32, connected: Connected) -> io::Result<Self> {
        let (renderer, batch) = Renderer::new(plan, connection);
        Ok(Self {
            plan: Rc::clone(plan),
            connection,
            stream: tokio_uring::net::TcpStream::from_std(connected.socket.try_clone()?),
            socket: Rc::new(connected.socket),
            baseline: connected.baseline,
            renderer,
            batch,
            bytes_sent: 0,
        })
    }

    async fn run(mut self, start: Instant) -> io::Result<ConnectionOutcome> {
        let mut cutter = match self.plan.stop {
            Stop::After(duration) => Some(Cutter::new(&self.socket, start + duration + self.plan.finish_wait)),
            Stop::Entries(_) => None,
        };
        let taken_all = self.send_all(start).await;
        let cutter = cutter.get_or_insert_with(|| Cutter::new(&self.socket, Instant::now() + self.plan.finish_wait));
        if taken_all {
            self.half_close().await;
        }
        let info = self.wait_until_closed(cutter).await?;
        let ending = match taken_all && self.bytes_acknowledged(info) == self.bytes_sent {
            _ if cutter.has_cut.get() => Ending::TimedOut,
            true => Ending::Finished,
            false => Ending::ByReceiver,
        };
        Ok(self.outcome(self.bytes_acknowledged(info), ending))
    }

    /// Sends until the plan's end; `false` if the receiver ended the connection before.
    async fn send_all(&mut self, start: Instant) -> bool {
        let plan = Rc::clone(&self.plan);
        let entries = plan.entries_of(self.connection);
        let stop_after = match (plan.stop, plan.rate) {
            (Stop::Entries(_), _) => Duration::MAX,
            (Stop::After(duration), Rate::Max) => duration,
            (Stop::After(duration), Rate::PerSecond(_)) => duration + LATE_WAIT,
        };
        let mut sent = 0;
        while sent < entries {
            let elapsed = start.elapsed();
            if elapsed >= stop_after {
                break;
            }
            let due = plan.entries_due(self.connection, elapsed).min(entries).saturating_sub(sent);
            if due == 0 {
                tokio::time::sleep_until((start + plan.due_at(self.connection, sent)).into()).await;
                continue;
            }
            let lines = usize::try_from(due).unwrap_or(usize::MAX).min(plan.layout.batch_lines());
            if self.send_batch(lines).await.is_err() {
                return false;
            }
            sent += lines as u64;
        }
        true
    }

    async fn send_batch(&mut self, lines: usize) -> io::Result<()> {
        let bytes = self.renderer.render(&self.plan.tokens, &mut self.batch, lines);
        let mut taken = 0;
        while taken < bytes {
            let rest = std::mem::take(&mut self.batch).slice(taken..bytes);
            let (result, rest) = self.stream.write(rest).submit().await;
            self.batch = rest.into_inner();
            let count = result?;
            taken += count;
            self.bytes_sent += count as u64;
        }
        Ok(())
    }

    /// Says that nothing more will come, and reads until the receiver says the same or resets.
    async fn half_close(&self) {
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut answer = Vec::with_capacity(ANSWER_BYTES);
        loop {
            let result;
            (result, answer) = self.stream.read(answer).await;
            if matches!(result, Ok(0) | Err(_)) {
                return;
            }
        }
    }

    /// A receiver may have ended its side long before it has read all of ours, so its end alone says nothing.
    async fn wait_until_closed(&self, cutter: &Cutter) -> io::Result<TcpInfo> {
        loop {
            let info = tcp_info(&self.socket)?;
            if info.closed || cutter.has_cut.get() {
                return Ok(info);
            }
            tokio::time::sleep(CLOSED_POLL).await;
        }
    }

    /// The FIN is acknowledged like a byte, but only after all bytes.
    fn bytes_acknowledged(&self, info: TcpInfo) -> u64 {
        (info.acknowledged - self.baseline).min(self.bytes_sent)
    }

    fn outcome(&self, bytes_acknowledged: u64, ending: Ending) -> ConnectionOutcome {
        let size = self.plan.layout.size() as u64;
        let entries_sent = self.bytes_sent / size;
        let entries_planned = match (self.plan.stop, self.plan.rate) {
            (Stop::After(_), Rate::Max) => entries_sent,
            _ => self.plan.entries_of(self.connection),
        };
        ConnectionOutcome {
            bytes_sent: self.bytes_sent,
            bytes_acknowledged,
            entries_sent,
            entries_acknowledged: bytes_acknowledged / size,
            entries_behind: entries_planned - entries_sent,
            ending,
        }
    }
}

/// Shuts a connection down at a given time, unless dropped before: that ends a read or write that the kernel holds,
/// and unlike giving up on it, leaves the number of bytes it took known.
struct Cutter {
    has_cut: Rc<Cell<bool>>,
    task: JoinHandle<()>,
}

impl Cutter {
    fn new(socket: &Rc<TcpStream>, at: Instant) -> Self {
        let has_cut = Rc::new(Cell::new(false));
        let (socket, cut) = (Rc::clone(socket), Rc::clone(&has_cut));
        let task = tokio_uring::spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            cut.set(true);
            // It may have closed in the meantime, which is as good.
            drop(socket.shutdown(Shutdown::Both));
        });
        Self { has_cut, task }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
