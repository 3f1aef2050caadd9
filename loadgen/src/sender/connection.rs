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
//! that neither reads nor closes is cut off when nothing has moved on any connection of the run for some time
//! ([`Plan::finish_wait`]): at once where a number of entries is to be sent, else after the end of the sending. Over UDP
//! it is over when all is sent, or when a datagram is refused.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::pace::Pacer;
use super::socket::{Connected, Socket, State, Written, connect};
use super::{Amount, Attempt, ConnectionOutcome, Ended, Ending, Watch, end_of};
use crate::clock::{RunClock, nanos};
use crate::error::RunError;
use crate::host::{self, BusyTime};
use crate::latency::{Clock, Recorder};
use crate::payload::Renderer;
use crate::plan::{Plan, Rate, Stop};
use crate::schedule::Schedule;
use crate::send_times::SendTimes;
use crate::sys::tcp_info;

/// How long past `--duration` a fixed schedule may take to catch up with what the receiver held back.
const LATE_WAIT: Duration = Duration::from_millis(100);
/// How often to ask the kernel what became of a connection on which all is sent, for each
const STATE_POLL: Duration = Duration::from_millis(1);
/// so many of a thread: to ask for them all takes next to nothing of a core then.
const POLLED_AT_ONCE: usize = 64;
/// How many times a connection is looked at before it is given up.
const LOOKS: u64 = 4;
/// How often to try to connect again.
const RECONNECT_POLL: Duration = Duration::from_millis(10);

/// What the connections of one thread share.
pub(super) struct Shared {
    plan: Arc<Plan>,
    clock: RunClock,
    pub(super) pacer: Pacer,
    recorder: RefCell<Recorder>,
    send_times: Option<Arc<SendTimes>>,
    stop: Arc<AtomicBool>,
    /// When something was last sent or acknowledged, on any connection of the run.
    progress: Arc<AtomicU64>,
    state_poll: Duration,
    /// What this thread had worked when it began with this, and when that was.
    before: (Option<BusyTime>, u64),
    /// When the last connection stopped that was told to before its end.
    pub(super) stopped: Cell<Option<u64>>,
    /// The part of the sending in which this thread waited, by the last connection that sent.
    pub(super) waited: Cell<Option<f64>>,
}

impl Shared {
    pub(super) fn new(
        plan: Arc<Plan>,
        clock: RunClock,
        (watch, progress): (Watch, Arc<AtomicU64>),
        connections: usize,
    ) -> io::Result<Self> {
        let pacer = Pacer::new(clock, host::has_cores_apart(plan.threads), Arc::clone(&watch.stop))?;
        let recorder = Recorder::new(Clock::Send, plan.warmup, watch.parts);
        Ok(Self {
            plan,
            clock,
            pacer,
            recorder: RefCell::new(recorder),
            send_times: watch.send_times,
            stop: watch.stop,
            progress,
            state_poll: STATE_POLL * connections.div_ceil(POLLED_AT_ONCE) as u32,
            before: (BusyTime::of_this_thread(), clock.now()),
            stopped: Cell::new(None),
            waited: Cell::new(None),
        })
    }

    fn must_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note_progress(&self, now: u64) {
        self.progress.store(now, Ordering::Relaxed);
    }

    /// Notes how much of the time until now this thread has waited.
    fn note_waited(&self, now: u64) {
        let (busy_before, begin) = &self.before;
        let busy = busy_before.as_ref().and_then(BusyTime::since);
        let whole = Duration::from_nanos((now - begin).max(1)).as_secs_f64();
        self.waited.set(busy.map(|busy| (1.0 - busy.as_secs_f64() / whole).max(0.0)));
    }

    /// When a connection that waits is given up, unless something moves until then.
    fn give_up_at(&self) -> u64 {
        let end = match self.plan.stop {
            Stop::After(duration) if !self.must_stop() => end_of(&self.plan, duration),
            _ => 0,
        };
        self.progress.load(Ordering::Relaxed).max(end) + nanos(self.plan.finish_wait)
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
    /// It waits for the receiver, and not for its schedule.
    is_waiting: Rc<Cell<bool>>,
    /// What was due within the warm-up; `None` until that is over.
    warmup: Option<Amount>,
    acknowledged_at: u64,
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
            is_waiting: Rc::default(),
            warmup: None,
            acknowledged_at: 0,
            attempts: Vec::new(),
            bytes_before: Bytes::default(),
        })
    }

    /// Sends all, and waits for the end.
    pub(super) async fn run(mut self) -> Result<Ended, RunError> {
        let failed = |error| RunError::Unexpected("connection: cannot be watched; see the kernel's log".into(), error);
        let plan = Arc::clone(&self.shared.plan);
        let mut cutter = self.cutter();
        let sent = loop {
            let Err(error) = self.send_all().await else { break Ok(()) };
            if !plan.reconnect || cutter.has_cut.get() {
                break Err(error);
            }
            self.end_attempt(&cutter, true).await.map_err(failed)?;
            if !self.reconnect().await.map_err(failed)? {
                break Err(error);
            }
            cutter = self.cutter();
        };
        let sent_at = self.shared.clock.now();
        self.shared.note_waited(sent_at);
        if self.shared.must_stop() && self.schedule.next_due().is_some() {
            // What was due before and did not go for no fault of the receiver went with the rest.
            self.schedule.end_at(0);
            self.shared.stopped.set(Some(sent_at));
        }
        self.acknowledged_at = sent_at;
        let was_refused = sent.is_err();
        match sent {
            Ok(()) => self.end_writing(&cutter).await.map_err(failed)?,
            Err(error) if self.socket.was_never_heard() => {
                let problem = format!("--target: {} takes no datagrams; start the receiver first", plan.target);
                return Err(RunError::Environment(problem, error));
            }
            Err(_) => {}
        }
        let ending = self.end_attempt(&cutter, was_refused).await.map_err(failed)?;
        Ok(self.ended(ending, sent_at))
    }

    fn cutter(&self) -> Cutter {
        Cutter::new(self.socket.control(), Rc::clone(&self.shared), Rc::clone(&self.is_waiting))
    }

    /// Sends until the plan's end, until told to stop, or until the receiver ends the connection.
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
                if shared.must_stop() {
                    return Ok(());
                }
                self.schedule.take(now, self.renderer.room(), &mut self.intended);
                if self.intended.is_empty() {
                    continue;
                }
                self.renderer.render(&shared.plan, &mut self.batch, &self.intended);
            }
            self.is_waiting.set(true);
            self.send_batch().await?;
            self.is_waiting.set(false);
        }
    }

    /// Writes the lines of the batch. After an error those of which no byte was taken are left in it.
    async fn send_batch(&mut self) -> io::Result<()> {
        let shared = Rc::clone(&self.shared);
        let actual = shared.clock.now();
        self.begin_write(&shared, actual);
        let mut range = self.range_of_batch();
        let mut begun = actual;
        while !range.is_empty() {
            // What a socket with room takes, it takes at once: all that passes until then is this process's own time.
            let has_room = shared.plan.rate != Rate::Max && self.socket.has_room();
            let batch = std::mem::take(&mut self.batch);
            let ends = self.renderer.ends(self.first_of_batch, self.intended.len());
            let Written { bytes, result, batch } = self.socket.write(batch, range.clone(), ends).await;
            self.batch = batch;
            range.start += bytes;
            if let Err(error) = result {
                self.drop_begun_lines(range.start);
                return Err(error);
            }
            let now = shared.clock.now();
            self.free_since = if has_room { begun } else { now };
            begun = now;
            self.accept(&shared, range.start, (actual, now));
        }
        Ok(())
    }

    /// Notes when entries are sent, and by how much that is late for no fault of the receiver.
    fn begin_write(&mut self, shared: &Shared, actual: u64) {
        shared.note_progress(actual);
        self.note_warmup(shared);
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

    /// Notes what was sent before the first entry that is due behind the warm-up, once that is in the batch.
    fn note_warmup(&mut self, shared: &Shared) {
        let warmup = nanos(shared.plan.warmup);
        if self.warmup.is_some() || self.intended.last().is_none_or(|last| *last < warmup) {
            return;
        }
        let entries = self.first_of_batch + self.intended.partition_point(|intended| *intended < warmup) as u64;
        let within_batch = self.renderer.start_of(entries) - self.renderer.start_of(self.first_of_batch);
        self.warmup = Some(Amount { entries, bytes: self.bytes_sent() + within_batch as u64 });
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes_before.sent + self.socket.bytes_sent
    }

    /// Takes the lines off the batch whose last byte the socket has accepted, and records them.
    fn accept(&mut self, shared: &Shared, until: usize, (actual, now): (u64, u64)) {
        shared.note_progress(now);
        let accepted = self.renderer.lines_until(self.first_of_batch, self.intended.len(), until);
        let mut recorder = shared.recorder.borrow_mut();
        for same in self.intended[..accepted].chunk_by(|one, next| one == next) {
            recorder.record(now, same[0], Some(actual), same.len() as u64);
        }
        self.intended.drain(..accepted);
        self.first_of_batch += accepted as u64;
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

    /// Says that nothing more will come, and waits until all is acknowledged and the receiver says the same.
    async fn end_writing(&mut self, cutter: &Cutter) -> io::Result<()> {
        self.is_waiting.set(true);
        if !self.socket.end_writing().await {
            return Ok(());
        }
        let all = self.socket.bytes_sent;
        self.await_state(cutter, |state| state.bytes_acknowledged >= all).await?;
        self.socket.await_end().await;
        Ok(())
    }

    /// Asks the kernel from time to time, until something holds or the connection is over; what is acknowledged in the
    /// meantime is progress.
    async fn await_state(&mut self, cutter: &Cutter, holds: impl Fn(&State) -> bool) -> io::Result<State> {
        let mut before = None;
        loop {
            let state = self.socket.state()?;
            if before.is_some_and(|before| before < state.bytes_acknowledged) {
                self.acknowledged_at = self.shared.clock.now();
                self.shared.note_progress(self.acknowledged_at);
            }
            before = Some(state.bytes_acknowledged);
            if state.is_closed || cutter.has_cut.get() || holds(&state) {
                return Ok(state);
            }
            tokio::time::sleep(self.shared.state_poll).await;
        }
    }

    /// Waits for the end of the socket and notes what went over it. A receiver may have ended its side long before it
    /// has read all of ours, so its end alone says nothing.
    async fn end_attempt(&mut self, cutter: &Cutter, was_refused: bool) -> io::Result<Ending> {
        self.is_waiting.set(true);
        let state = self.await_state(cutter, |_| false).await?;
        self.is_waiting.set(false);
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
            Stop::Entries(_) => self.shared.clock.now() + nanos(self.shared.plan.finish_wait),
        };
        while self.shared.clock.now() < give_up && !self.shared.must_stop() {
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

    fn ended(self, ending: Ending, sent_at: u64) -> Ended {
        let entries_behind = match (self.shared.plan.stop, self.shared.plan.rate) {
            // Nothing was due, there was only room.
            (Stop::After(_), Rate::Max) => 0,
            _ => self.intended.len() as u64 + self.schedule.remaining(),
        };
        let all = Amount { entries: self.first_of_batch, bytes: self.bytes_before.sent };
        let outcome = ConnectionOutcome {
            bytes_sent: self.bytes_before.sent,
            bytes_acknowledged: self.bytes_before.acknowledged,
            entries_behind,
            warmup: self.warmup.unwrap_or(all),
            ending,
            attempts: self.attempts,
        };
        Ended { number: self.number, outcome, sent_at, acknowledged_at: self.acknowledged_at }
    }
}

/// Shuts a connection down that waits for a receiver which takes nothing any more, unless dropped before: that ends a
/// read or write that the kernel holds, and unlike giving up on it, leaves the number of bytes it took known.
struct Cutter {
    has_cut: Rc<Cell<bool>>,
    task: JoinHandle<()>,
}

impl Cutter {
    fn new(socket: Option<Rc<TcpStream>>, shared: Rc<Shared>, is_waiting: Rc<Cell<bool>>) -> Self {
        let has_cut = Rc::new(Cell::new(false));
        let cut = Rc::clone(&has_cut);
        let task = tokio_uring::spawn(async move {
            let look_every = nanos(shared.plan.finish_wait) / LOOKS;
            let mut acknowledged = None;
            loop {
                let now = shared.clock.now();
                // A slow receiver may read a megabyte before its sender's write goes on.
                let seen = socket.as_ref().and_then(|socket| tcp_info(socket).ok()).map(|info| info.acknowledged);
                if is_waiting.get() && acknowledged.is_some() && seen != acknowledged {
                    shared.note_progress(now);
                }
                acknowledged = seen;
                let give_up_at = shared.give_up_at();
                if is_waiting.get() && now >= give_up_at {
                    break;
                }
                let again_at = if is_waiting.get() { give_up_at.min(now + look_every) } else { now + look_every };
                tokio::time::sleep_until(shared.clock.instant(again_at).into()).await;
            }
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
