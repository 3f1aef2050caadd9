//! One core of the engine as a state machine: it takes [`Completion`]s and gives [`Op`]s, and performs no I/O.
//!
//! ```text
//!  Accepted ─► Receive ─► Received(Data) ─► decoder ─► ingest ─► staging ─► Write ─► Written
//!                            │ no room: held, in order              │
//!                            └── Recycle ◄──────────────────────────┘ the buffer goes back after one call
//! ```
//! A driver's turn: `handle` every completion, `end_turn`, `poll_op` until there is none, wait for a completion or
//! [`Shard::timeout`].
//!
//! **Back-pressure.** While the budget is used up, storage refuses or the disk is low, the shard *holds* what it is
//! given: receive buffers stay out of the driver's ring, the ring runs dry, receives end with `NoBuffer`, and TCP closes
//! the windows. Nothing is dropped. Held buffers are bounded by the ring.
//!
//! Invariants: events of a connection are handled in the order in which they came; a connection is closed only when no
//! receive is in flight on it; carries hold at most a quarter of the budget (or 256 bytes a connection).

mod by_class;
mod connection;
mod drain;
mod ingest;
mod logs;
mod op;
mod report;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

pub use ingest::Oversize;
pub use logs::LogLimits;
pub use op::{Command, Completion, ConnectionId, ListenerId, Notice, Op, Received, ShutdownSide};

use by_class::ByClass;
use connection::{Connection, Life};
use drain::Phase;
use ingest::Ingest;
use logs::Logs;
use report::Stopwatch;

use crate::buf::RecvBuf;
use crate::framing::Foreign;
use crate::limits::{ACCEPT_RETRY, BUDGET_PARTS, BUDGET_RESUME_PARTS, NOTICE_GAP};
use crate::metrics::{Counters, ListenerCounters};
use crate::segment::{Offset, Position};
use crate::time::Time;
use crate::wire::{Reject, Token};

/// What a shard is allowed and told.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Longest line in bytes, terminator not counted.
    pub line_bytes_max: usize,
    /// What happens to longer ones.
    pub oversize: Oversize,
    /// Capacity of carries, staging and writes under way, in bytes.
    pub buffer_bytes: usize,
    /// Connections at a time; past it accepting stops until one ends.
    pub connections_max: usize,
    /// How long a drain waits for peers to close.
    pub drain_timeout: Duration,
    /// Listeners that the driver has.
    pub listeners: u32,
    /// Receive buffers that the driver has.
    pub recv_buffers: usize,
    /// What the logs are allowed.
    pub logs: LogLimits,
}

/// One core of the engine.
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
    counters: Counters,
    logs: Logs,
    connections: Vec<Option<Connection>>,
    open_connections: usize,
    carries: ByClass,
    carry_bytes: usize,
    /// Connections whose receive found no buffer, in the order in which they go on.
    parked: VecDeque<ConnectionId>,
    /// What came while there was no room, in order.
    held: VecDeque<(ConnectionId, Received)>,
    paused: bool,
    disk_low: bool,
    listeners: Vec<Listener>,
    listener_counters: Vec<ListenerCounters>,
    backpressure: Stopwatch,
    accept_from: Time,
    phase: Phase,
    ops: VecDeque<Op>,
    notices: VecDeque<Notice>,
    foreign_seen: u64,
    foreign_told: Option<Time>,
    now: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    /// No accept in flight: too many connections, or a failure not long ago.
    Idle,
    Accepting,
    /// A cancelled accept has not ended yet.
    Stopping,
    /// Takes what is left in the accept queue.
    Emptying,
    Closed,
}

/// How a shard ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What it did.
    pub counters: Counters,
    /// Bytes taken from the network and not stored, because storage refused until the end.
    pub unstored_bytes: u64,
}

impl Shard {
    /// A shard that knows no log. It asks for its first accepts at once.
    #[must_use]
    pub fn new(config: ShardConfig) -> Self {
        let listeners = vec![Listener::Accepting; config.listeners as usize];
        Self {
            config,
            counters: Counters::default(),
            logs: Logs::new(config.logs, config.buffer_bytes),
            connections: Vec::new(),
            open_connections: 0,
            carries: ByClass::default(),
            carry_bytes: 0,
            parked: VecDeque::new(),
            held: VecDeque::new(),
            paused: false,
            disk_low: false,
            listeners,
            listener_counters: vec![ListenerCounters::default(); config.listeners as usize],
            backpressure: Stopwatch::default(),
            accept_from: Time::default(),
            phase: Phase::Serving,
            ops: (0..config.listeners).map(|id| Op::Accept(ListenerId(id))).collect(),
            notices: VecDeque::new(),
            foreign_seen: 0,
            foreign_told: None,
            now: Time::default(),
        }
    }

    /// Adds a log that recovery found: the base and the length of its newest segment.
    pub fn resume_log(&mut self, token: Token, base: Offset, length: Position) {
        self.logs.resume(token, base, length);
    }

    /// Takes one completion.
    pub fn handle(&mut self, completion: Completion, now: Time) {
        self.now = now;
        match completion {
            Completion::Received { connection, received, more } => self.received(connection, received, more),
            Completion::Written { log, buf, result } => {
                self.counters.batches += u64::from(matches!(result, Ok(1..)));
                let notice = self.logs.written(log, buf, result, now, &mut self.ops);
                self.notices.extend(notice);
            }
            Completion::Accepted { listener, result, more } => self.accepted(listener, result, more),
            Completion::Closed(connection) => self.closed(connection),
            Completion::Opened { log, result } => self.notices.extend(self.logs.opened(log, result, now)),
            Completion::Command(Command::Drain) => self.drain(),
            Completion::Command(Command::Report { ticket }) => {
                self.notices.push_back(Notice::Report(Box::new(self.report(ticket))));
            }
            Completion::Command(Command::DiskLow(low)) => {
                self.disk_low = low;
                self.notices.push_back(Notice::DiskLow(low));
            }
        }
    }

    /// Ends a turn, after every completion that was there has been handled: starts writes, takes up what was held.
    pub fn end_turn(&mut self, now: Time) {
        self.now = now;
        self.advance_drain();
        self.take_up_held();
        self.backpressure.set(self.paused, now);
        let pressed = self.paused || self.logs.pool.used() >= self.budget(BUDGET_RESUME_PARTS);
        self.logs.start(now, pressed, &mut self.ops);
        self.receive_parked();
        self.resume_accepting();
    }

    /// The next request for the driver.
    pub fn poll_op(&mut self) -> Option<Op> {
        self.ops.pop_front()
    }

    /// The next message for the operator.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// When the shard wants its next turn, if no completion comes before.
    #[must_use]
    pub fn timeout(&self) -> Option<Time> {
        let later = |at: &Time| *at > self.now;
        let own = [self.phase.timeout(), Some(self.accept_from)].into_iter().flatten().filter(later);
        own.chain(self.logs.timeout()).min()
    }

    /// How the shard ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        (self.phase == Phase::Done)
            .then(|| Outcome { counters: self.counters(), unstored_bytes: self.unstored_bytes() })
    }

    /// What the shard did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Bytes received and not yet in a file. Unfinished lines of open connections do not count.
    #[must_use]
    pub fn unstored_bytes(&self) -> u64 {
        let held = self.held.iter().map(|(_, received)| match received {
            Received::Data(buf) => buf.len() as u64,
            _ => 0,
        });
        self.logs.unwritten_bytes() + held.sum::<u64>()
    }

    /// Capacity of carries, staging and writes under way, in bytes: what `buffer_bytes` limits. One receive buffer of
    /// short lines of many logs may take it past the limit before the shard pauses.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.logs.pool.used()
    }

    fn budget(&self, parts: usize) -> usize {
        self.config.buffer_bytes / BUDGET_PARTS * parts
    }

    // Receiving.

    fn received(&mut self, id: ConnectionId, received: Received, more: bool) {
        if let Some(connection) = self.connection(id) {
            connection.receiving = more;
        }
        // Behind our own cut the end of stream is ours; one that came before and is held was the peer's.
        let received = match received {
            Received::End if self.phase.cuts_connections() => Received::Failed(io::ErrorKind::ConnectionAborted.into()),
            other => other,
        };
        if self.paused || !self.held.is_empty() {
            self.held.push_back((id, received));
        } else {
            self.take(id, received);
        }
    }

    fn take(&mut self, id: ConnectionId, received: Received) {
        match received {
            Received::Data(buf) => {
                self.ingest(id, &buf);
                self.ops.push_back(Op::Recycle(buf));
            }
            Received::NoBuffer | Received::Cancelled => {}
            Received::End => self.end(id),
            Received::Failed(_) => self.cut(id),
        }
        self.after_receive(id);
    }

    /// A connection whose receive has ended goes on, or closes.
    fn after_receive(&mut self, id: ConnectionId) {
        let reset = self.phase.cuts_connections();
        let Some(connection) = self.connections.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        if connection.receiving || self.held.iter().any(|(held, _)| *held == id) {
            return;
        }
        match connection.life {
            Life::Open => self.parked.push_back(id),
            Life::Ending => {
                connection.life = Life::Closing;
                self.ops.push_back(Op::Close { connection: id, reset });
            }
            Life::Closing => {}
        }
    }

    fn ingest(&mut self, id: ConnectionId, buf: &RecvBuf) {
        self.counters.received_bytes += buf.len() as u64;
        let limit = self.config.line_bytes_max;
        let result = self.with_sink(id, |connection, sink| match connection.life {
            Life::Open => connection.decoder.feed(buf, limit, sink),
            Life::Ending | Life::Closing => Ok(()),
        });
        if let Some(Err(foreign)) = result {
            self.foreign(id, foreign);
        }
        self.relieve();
    }

    /// The peer ended the stream in order: an unterminated rest is a line too.
    fn end(&mut self, id: ConnectionId) {
        let limit = self.config.line_bytes_max;
        let result = self.with_sink(id, |connection, sink| match connection.life {
            Life::Open => connection.decoder.finish(limit, sink),
            Life::Ending | Life::Closing => Ok(()),
        });
        match result {
            Some(Err(foreign)) => self.foreign(id, foreign),
            _ => self.stop_taking(id),
        }
    }

    /// The stream ended at an arbitrary byte: an unterminated rest is dropped and counted.
    fn cut(&mut self, id: ConnectionId) {
        let rest = self.with_sink(id, |connection, sink| {
            connection.life == Life::Open && connection.decoder.abandon(&mut sink.logs.pool)
        });
        if rest == Some(true) {
            self.counters.reject(Reject::Cut);
        }
        self.stop_taking(id);
    }

    /// The connection speaks another protocol: nothing of it is stored, and it ends.
    #[cold]
    fn foreign(&mut self, id: ConnectionId, foreign: Foreign) {
        let reason = match foreign {
            Foreign::Http => Reject::Http,
            Foreign::Tls => Reject::TlsOnPlain,
        };
        self.counters.reject(reason);
        self.with_sink(id, |connection, sink| connection.decoder.abandon(&mut sink.logs.pool));
        self.stop_taking(id);
        if self.connection(id).is_some_and(|connection| connection.receiving) {
            self.ops.push_back(Op::CancelReceive(id));
        }
        self.foreign_seen += 1;
        if self.foreign_told.is_none_or(|told| self.now.since(told) >= NOTICE_GAP) {
            self.foreign_told = Some(self.now);
            let seen = std::mem::take(&mut self.foreign_seen);
            self.notices.push_back(Notice::Foreign { reason: reason.name(), seen });
        }
    }

    fn stop_taking(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connection(id)
            && connection.life == Life::Open
        {
            connection.life = Life::Ending;
        }
    }

    /// Calls `work` with a connection and its sink, and keeps the account of carries.
    fn with_sink<T>(
        &mut self,
        id: ConnectionId,
        work: impl FnOnce(&mut Connection, &mut Ingest<'_>) -> T,
    ) -> Option<T> {
        let mut connection = self.connections.get_mut(id.0 as usize)?.take()?;
        let before = connection.decoder.carry_class();
        let (mut last, mut pieces_to) = (connection.last, connection.pieces_to);
        let mut sink = Ingest {
            logs: &mut self.logs,
            counters: &mut self.counters,
            last: &mut last,
            pieces_to: &mut pieces_to,
            oversize: self.config.oversize,
            now: self.now,
        };
        let result = work(&mut connection, &mut sink);
        (connection.last, connection.pieces_to) = (last, pieces_to);
        let after = connection.decoder.carry_class();
        if before != after {
            self.carry_bytes += after.map_or(0, crate::buf::class_bytes);
            self.carry_bytes -= before.map_or(0, crate::buf::class_bytes);
            self.carries.set(id.0, after);
        }
        self.connections[id.0 as usize] = Some(connection);
        Some(result)
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(id.0 as usize)?.as_mut()
    }

    // Budget.

    /// Keeps carries within their part, and pauses when the budget is used up.
    fn relieve(&mut self) {
        while self.carry_bytes > self.budget(1)
            && let Some(longest) = self.carries.largest()
        {
            let before = self.carry_bytes;
            self.with_sink(ConnectionId(longest), |connection, sink| connection.decoder.cut_early(sink));
            if self.carry_bytes >= before {
                break;
            }
        }
        self.paused |= self.logs.pool.used() >= self.config.buffer_bytes;
    }

    /// Whether there is room for more input.
    fn take_up_held(&mut self) {
        let blocked = self.logs.is_refused() || (self.disk_low && !self.phase.cuts_connections());
        if blocked {
            self.paused = true;
        } else if self.paused && self.logs.pool.used() < self.budget(BUDGET_RESUME_PARTS) {
            self.paused = false;
        }
        while !self.paused
            && let Some((id, received)) = self.held.pop_front()
        {
            self.take(id, received);
        }
    }

    /// Connections that found no buffer go on, as many as there are buffers.
    fn receive_parked(&mut self) {
        if self.paused {
            return;
        }
        for _ in 0..self.parked.len().min(self.config.recv_buffers - self.held.len().min(self.config.recv_buffers)) {
            let Some(id) = self.parked.pop_front() else { break };
            if let Some(connection) = self.connection(id)
                && connection.life == Life::Open
                && !connection.receiving
            {
                connection.receiving = true;
                self.ops.push_back(Op::Receive(id));
            }
        }
    }

    // Connections come and go.

    fn accepted(&mut self, listener: ListenerId, result: io::Result<ConnectionId>, more: bool) {
        let before = self.listeners[listener.0 as usize];
        if !more {
            self.listeners[listener.0 as usize] = Listener::Idle;
        }
        match result {
            Ok(id) => self.open(id, listener),
            Err(error) if before == Listener::Emptying && error.kind() == io::ErrorKind::WouldBlock => {
                self.listeners[listener.0 as usize] = Listener::Closed;
                self.ops.push_back(Op::CloseListener(listener));
            }
            Err(error) if before != Listener::Stopping && error.kind() != io::ErrorKind::ConnectionAborted => {
                self.accept_from = self.now + ACCEPT_RETRY;
                self.listener_counters[listener.0 as usize].failed += 1;
                self.notices.push_back(Notice::AcceptFailed(error));
            }
            Err(_) => {}
        }
        if self.open_connections >= self.config.connections_max {
            self.stop_accepting();
        }
    }

    fn open(&mut self, id: ConnectionId, listener: ListenerId) {
        let slot = id.0 as usize;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        debug_assert!(self.connections[slot].is_none(), "a number is used again only after its connection closed");
        self.connections[slot] = Some(Connection::new(listener));
        self.open_connections += 1;
        let counters = &mut self.listener_counters[listener.0 as usize];
        counters.open += 1;
        counters.accepted += 1;
        self.counters.connections += 1;
        self.ops.push_back(Op::Receive(id));
    }

    fn closed(&mut self, id: ConnectionId) {
        let connection = self.connections[id.0 as usize].take().expect("the driver closes what was open");
        self.listener_counters[connection.listener.0 as usize].open -= 1;
        self.open_connections -= 1;
    }

    fn stop_accepting(&mut self) {
        for (index, state) in self.listeners.iter_mut().enumerate() {
            if *state == Listener::Accepting {
                *state = Listener::Stopping;
                self.ops.push_back(Op::CancelAccept(listener_id(index)));
            }
        }
    }

    fn resume_accepting(&mut self) {
        if self.phase != Phase::Serving
            || self.open_connections >= self.config.connections_max
            || self.now < self.accept_from
        {
            return;
        }
        for (index, state) in self.listeners.iter_mut().enumerate() {
            if *state == Listener::Idle {
                *state = Listener::Accepting;
                self.ops.push_back(Op::Accept(listener_id(index)));
            }
        }
    }
}

fn listener_id(index: usize) -> ListenerId {
    ListenerId(u32::try_from(index).expect("listeners are numbered by u32"))
}
