//! One connection at work. Its batch moves into the kernel with every write and comes back with the answer:
//!
//! ```text
//!   what is due? ──nothing──► wait until something is
//!      │ n entries                       │
//!      ▼                                 │
//!   render n lines ──► write, until all are taken ──► again     stop: half-close, wait for the receiver's end
//!                        │ refused
//!                        ▼
//!                      the end, or with `--reconnect` a new socket for the lines that no byte was taken of
//! ```
//!
//! At `--rate max` any number is due and the receiver's window is the brake; over UDP there is none. A half-close by the
//! receiver is no end: Token TCP clients do not read, so they go on, and so does this one.
//!
//! A connection is over when the kernel calls it closed: only then is the number of acknowledged bytes final. A receiver
//! that neither reads nor closes is cut off some time after the end of the sending ([`Plan::finish_wait`]). Over UDP it
//! is over when all is sent, or when a datagram is refused.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::pace::Pacer;
use super::socket::{Connected, Socket, Written, connect};
use super::{Attempt, ConnectionOutcome, Ending, end_of};
use crate::clock::{RunClock, nanos};
use crate::error::RunError;
use crate::host;
use crate::latency::Recorder;
use crate::payload::Renderer;
use crate::plan::{Plan, Rate, Stop};
use crate::schedule::Schedule;
use crate::send_times::SendTimes;

/// How long past `--duration` a fixed schedule may take to catch up with what the receiver held back.
const LATE_WAIT: Duration = Duration::from_millis(100);
/// How often to look whether a connection is closed, once both sides have ended.
const CLOSED_POLL: Duration = Duration::from_millis(1);
/// How often to try to connect again.
const RECONNECT_POLL: Duration = Duration::from_millis(10);

/// What the connections of one thread share.
pub(super) struct Shared {
    plan: Arc<Plan>,
    clock: RunClock,
    pub(super) pacer: Pacer,
    recorder: RefCell<Recorder>,
    send_times: Option<Arc<SendTimes>>,
}

impl Shared {
    pub(super) fn new(
        plan: Arc<Plan>,
        clock: RunClock,
        recorder: Recorder,
        send_times: Option<Arc<SendTimes>>,
    ) -> io::Result<Self> {
        let pacer = Pacer::new(clock, host::has_cores_apart(plan.threads))?;
        Ok(Self { plan, clock, pacer, recorder: RefCell::new(recorder), send_times })
    }
}

/// A connection that is ready to send.
pub(super) struct Prepared {
    number: u32,
    connected: Connected,
    renderer: Renderer,
    batch: Vec<u8>,
    schedule: Schedule,
}

impl Prepared {
    pub(super) fn new(plan: &Plan, number: u32, connected: Connected) -> Self {
        let (renderer, batch) = Renderer::new(plan, number);
        Self { number, connected, renderer, batch, schedule: Schedule::new(plan, number) }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

/// One connection.
pub(super) struct Connection {
    shared: Rc<Shared>,
    number: u32,
    socket: Socket,
    renderer: Renderer,
    batch: Vec<u8>,
    schedule: Schedule,
    /// Intended times of the lines in the batch.
    intended: Vec<u64>,
    /// Sequence of the first line in the batch.
    first_of_batch: u64,
    /// Since when nothing but the schedule and this process delay the next entry.
    free_since: u64,
    attempts: Vec<Attempt>,
    bytes_before: Bytes,
}

#[derive(Clone, Copy, Default)]
struct Bytes {
    sent: u64,
    acknowledged: u64,
}

impl Connection {
    pub(super) fn new(shared: Rc<Shared>, prepared: Prepared) -> io::Result<Self> {
        let Prepared { number, connected, renderer, batch, schedule } = prepared;
        Ok(Self {
            socket: Socket::new(&shared.plan, connected, 0)?,
            shared,
            number,
            renderer,
            batch,
            schedule,
            intended: Vec::new(),
            first_of_batch: 0,
            free_since: 0,
            attempts: Vec::new(),
            bytes_before: Bytes::default(),
        })
    }

    /// Sends all, and waits for the end. Gives what became of it, and when the last entry was accepted.
    pub(super) async fn run(mut self) -> Result<(ConnectionOutcome, u64), RunError> {
        let failed = |error| RunError::Unexpected("connection: cannot be watched; see the kernel's log".into(), error);
        let plan = Arc::clone(&self.shared.plan);
        let give_up = match plan.stop {
            Stop::After(duration) => Some(end_of(&plan, duration) + nanos(plan.finish_wait)),
            Stop::Entries(_) => None,
        };
        let mut cutter = give_up.map(|at| self.cutter(at));
        let sent = loop {
            let Err(error) = self.send_all().await else { break Ok(()) };
            if !plan.reconnect || cutter.as_ref().is_some_and(|cutter| cutter.has_cut.get()) {
                break Err(error);
            }
            let cutter_now = cutter.take().unwrap_or_else(|| self.cutter(self.finish_by()));
            self.end_attempt(&cutter_now, true).await.map_err(failed)?;
            if !self.reconnect().await.map_err(failed)? {
                break Err(error);
            }
            cutter = give_up.map(|at| self.cutter(at));
        };
        let last = self.shared.clock.now();
        let cutter = cutter.unwrap_or_else(|| self.cutter(self.finish_by()));
        let was_refused = sent.is_err();
        match sent {
            Ok(()) => self.socket.half_close().await,
            Err(error) if self.socket.was_never_heard() => {
                let problem = format!("--target: {} takes no datagrams; start the receiver first", plan.target);
                return Err(RunError::Environment(problem, error));
            }
            Err(_) => {}
        }
        let ending = self.end_attempt(&cutter, was_refused).await.map_err(failed)?;
        Ok((self.outcome(ending), last))
    }

    fn finish_by(&self) -> u64 {
        self.shared.clock.now() + nanos(self.shared.plan.finish_wait)
    }

    fn cutter(&self, at: u64) -> Cutter {
        Cutter::new(self.socket.control(), self.shared.clock, at)
    }

    /// Sends until the plan's end, or until the receiver ends the connection.
    async fn send_all(&mut self) -> io::Result<()> {
        let shared = Rc::clone(&self.shared);
        let stop_at = match (shared.plan.stop, shared.plan.rate) {
            (Stop::Entries(_), _) => u64::MAX,
            (Stop::After(duration), Rate::Max) => end_of(&shared.plan, duration),
            (Stop::After(duration), Rate::PerSecond(_)) => end_of(&shared.plan, duration) + nanos(LATE_WAIT),
        };
        loop {
            if self.intended.is_empty() {
                let Some(due) = self.schedule.next_due() else { return Ok(()) };
                if shared.plan.rate != Rate::Max {
                    shared.pacer.until(due).await;
                }
                let now = shared.clock.now();
                if now >= stop_at {
                    return Ok(());
                }
                self.schedule.take(now, self.renderer.room(), &mut self.intended);
                if self.intended.is_empty() {
                    continue;
                }
                self.renderer.render(&shared.plan, &mut self.batch, &self.intended);
            }
            self.send_batch().await?;
        }
    }

    /// Writes the lines of the batch. After an error those of which no byte was taken are left in it.
    async fn send_batch(&mut self) -> io::Result<()> {
        let shared = Rc::clone(&self.shared);
        let actual = shared.clock.now();
        self.begin_write(&shared, actual);
        let mut range = self.range_of_batch();
        while !range.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            let ends = self.renderer.ends(self.first_of_batch, self.intended.len());
            let Written { bytes, result, batch } = self.socket.write(batch, range.clone(), ends).await;
            self.batch = batch;
            range.start += bytes;
            if let Err(error) = result {
                self.drop_begun_lines(range.start);
                return Err(error);
            }
            self.accept(&shared, range.start, actual);
        }
        Ok(())
    }

    /// Notes when entries are sent, and by how much that is late for no fault of the receiver.
    fn begin_write(&self, shared: &Shared, actual: u64) {
        if let Some(send_times) = &shared.send_times {
            send_times.add(self.number, self.first_of_batch as u32, actual);
        }
        if shared.plan.rate != Rate::Max {
            let mut recorder = shared.recorder.borrow_mut();
            for intended in &self.intended {
                recorder.record_own(actual, actual.saturating_sub(self.free_since.max(*intended)));
            }
        }
    }

    /// Takes the lines off the batch whose last byte the socket has accepted, and records them.
    fn accept(&mut self, shared: &Shared, until: usize, actual: u64) {
        let accepted = self.renderer.lines_until(self.first_of_batch, self.intended.len(), until);
        let now = shared.clock.now();
        let mut recorder = shared.recorder.borrow_mut();
        for same in self.intended[..accepted].chunk_by(|one, next| one == next) {
            recorder.record(now, same[0], Some(actual), same.len() as u64);
        }
        self.intended.drain(..accepted);
        self.first_of_batch += accepted as u64;
        self.free_since = now;
    }

    /// Lines that the old socket took a part of, alone or in a record, cannot go on in a new one.
    fn drop_begun_lines(&mut self, taken_until: usize) {
        let starts = (0..self.intended.len()).map(|line| self.renderer.start_of(self.first_of_batch + line as u64));
        let begun = starts.take_while(|start| *start < taken_until).count();
        self.intended.drain(..begun);
        self.first_of_batch += begun as u64;
    }

    fn range_of_batch(&self) -> Range<usize> {
        let lines = self.intended.len() as u64;
        debug_assert!(lines > 0, "an empty batch is not written");
        let start = self.renderer.start_of(self.first_of_batch);
        start..self.renderer.end_of(self.first_of_batch + lines - 1)
    }

    /// Waits for the end of the socket and notes what went over it. A receiver may have ended its side long before it
    /// has read all of ours, so its end alone says nothing.
    async fn end_attempt(&mut self, cutter: &Cutter, was_refused: bool) -> io::Result<Ending> {
        let state = loop {
            let state = self.socket.state()?;
            if state.is_closed || cutter.has_cut.get() {
                break state;
            }
            tokio::time::sleep(CLOSED_POLL).await;
        };
        self.socket.close().await;
        let (socket, acknowledged) = (&self.socket, state.bytes_acknowledged);
        let ending = match was_refused || acknowledged < socket.bytes_sent {
            _ if cutter.has_cut.get() => Ending::TimedOut,
            true => Ending::ByReceiver,
            false => Ending::Finished,
        };
        let (whole, whole_bytes) = self.renderer.whole_lines(socket.first, socket.bytes_sent);
        self.attempts.push(Attempt {
            first: socket.first,
            sent: socket.first + whole + u64::from(whole_bytes < socket.bytes_sent),
            acknowledged: socket.first + self.renderer.whole_lines(socket.first, acknowledged).0,
            ended_at: self.shared.clock.now(),
            is_cut: ending != Ending::Finished,
        });
        self.bytes_before.sent += socket.bytes_sent;
        self.bytes_before.acknowledged += acknowledged;
        Ok(ending)
    }

    /// Tries to connect until it works; `false` if it does not before the sending ends.
    async fn reconnect(&mut self) -> io::Result<bool> {
        let give_up = match self.shared.plan.stop {
            Stop::After(duration) => end_of(&self.shared.plan, duration),
            Stop::Entries(_) => self.finish_by(),
        };
        while self.shared.clock.now() < give_up {
            tokio::time::sleep(RECONNECT_POLL).await;
            let plan = Arc::clone(&self.shared.plan);
            // A connect may block, and the other connections of the thread go on.
            let connected = tokio::task::spawn_blocking(move || connect(&plan)).await;
            if let Ok(connected) = connected.map_err(io::Error::other)? {
                self.socket = Socket::new(&self.shared.plan, connected, self.first_of_batch)?;
                self.free_since = self.shared.clock.now();
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn outcome(self, ending: Ending) -> ConnectionOutcome {
        let entries_behind = match (self.shared.plan.stop, self.shared.plan.rate) {
            // Nothing was due, there was only room.
            (Stop::After(_), Rate::Max) => 0,
            _ => self.intended.len() as u64 + self.schedule.remaining(),
        };
        ConnectionOutcome {
            bytes_sent: self.bytes_before.sent,
            bytes_acknowledged: self.bytes_before.acknowledged,
            entries_behind,
            ending,
            attempts: self.attempts,
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
    fn new(socket: Option<Rc<TcpStream>>, clock: RunClock, at: u64) -> Self {
        let has_cut = Rc::new(Cell::new(false));
        let cut = Rc::clone(&has_cut);
        let task = tokio_uring::spawn(async move {
            tokio::time::sleep_until(clock.instant(at).into()).await;
            cut.set(true);
            // It may have closed in the meantime, which is as good.
            drop(socket.map(|socket| socket.shutdown(Shutdown::Both)));
        });
        Self { has_cut, task }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
