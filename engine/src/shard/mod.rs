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
//! **Fairness.** A connection whose peer is faster than the shard would take every receive buffer as soon as it is back in
//! the ring. In a turn in which others find none it goes behind them, and beside connections that bring little it gets
//! one buffer a turn for a while.
//!
//! Invariants: events of a connection are handled in the order in which they came; a connection is closed only when no
//! receive is in flight on it; carries hold at most a quarter of the budget.

mod accept;
mod allowance;
mod budget;
mod by_class;
mod connection;
mod datagrams;
mod destination;
mod drain;
mod durability;
mod ingest;
mod journal;
mod logs;
mod op;
mod outgoing;
mod proxied;
mod report;
mod secure;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use allowance::{Allowance, PerAddress, RejectedRoom};
pub use drain::Outcome;
pub use durability::SyncLevel;
pub use ingest::Oversize;
pub use journal::JournalStart;
pub use logs::{LogLimits, Resumed};
pub use op::{
    Change, Command, Completion, ConnectionId, Datagrams, JournalId, KeeperMail, ListenerId, Newcomer, Notice, Op,
    PeerAddress, Received, ReceivedDatagrams, Removal, ShutdownSide, Sync, UdpId,
};
pub use proxied::Cidr;

use by_class::ByClass;
use connection::{Brought, Connection, Life};
use datagrams::Udp;
use drain::Phase;
use ingest::{Ingest, absorb, count};
use journal::Journal;
use logs::Logs;
use outgoing::Outgoing;
use report::Stopwatch;
use secure::Handshakes;

use crate::buf::RecvBuf;
use crate::framing::{Foreign, Framing};
use crate::handover::{Batch, Message, ShardId};
use crate::limits::{
    BUDGET_RESUME_PARTS, CONNECTION_SLOTS, HANDOVER_BATCH_BYTES, NOTICE_GAP, RATION, RECV_BUFFER_BYTES,
    RECV_BUFFER_PARTS,
};
use crate::metrics::{Counters, HandshakeResult, ListenerCounters};
use crate::route::{KnownTokens, Ownership, Router};
use crate::segment::LogName;
use crate::time::Time;
use crate::tls;
use crate::wire::Reject;

/// What a shard is allowed and told.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which of the shards it is.
    pub id: ShardId,
    /// Which shard owns which log.
    pub ownership: Ownership,
    /// Longest line in bytes, terminator not counted.
    pub line_bytes_max: usize,
    /// What happens to longer ones.
    pub oversize: Oversize,
    /// Capacity of carries, staging and writes under way, in bytes.
    pub buffer_bytes: usize,
    /// Connections of all shards; past it accepting stops until one ends.
    pub connections: Allowance,
    /// Connections of one address, of all shards; past it the newest is closed.
    pub per_address: PerAddress,
    /// How long a drain waits for peers to close.
    pub drain_timeout: Duration,
    /// Listeners that the driver has.
    pub listeners: Vec<ListenerConfig>,
    /// What the connections of each listener are shown that speaks TLS, by its index.
    pub tls: Vec<Option<tls::Server>>,
    /// TLS handshakes in progress at a time; past it those wait for their turn who have said hello.
    pub handshakes_max: usize,
    /// Receive buffers that the driver has.
    pub recv_buffers: usize,
    /// UDP sockets that the driver has.
    pub udp_sockets: u32,
    /// Buffers for datagrams that the driver has.
    pub udp_buffers: usize,
    /// Whether datagrams make logs.
    pub udp_creates: bool,
    /// What the logs are allowed.
    pub logs: LogLimits,
    /// Where the journal goes on.
    pub journal: JournalStart,
    /// When what was written is brought to the disk.
    pub sync: SyncLevel,
}

/// What is spoken at a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// How its connections are cut into lines.
    pub framing: Framing,
    /// Whether they speak TLS.
    pub tls: bool,
    /// Peers from here are proxies, which send a PROXY header first.
    pub proxy_from: Arc<[Cidr]>,
}

impl ListenerConfig {
    /// Without TLS.
    #[must_use]
    pub fn plain(framing: Framing) -> Self {
        Self { framing, tls: false, proxy_from: Arc::default() }
    }

    /// With TLS.
    #[must_use]
    pub fn tls(framing: Framing) -> Self {
        Self { framing, tls: true, proxy_from: Arc::default() }
    }
}

/// One core of the engine.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about memory, disk and listeners")]
pub struct Shard {
    config: ShardConfig,
    counters: Counters,
    logs: Logs,
    connections: Vec<Option<Connection>>,
    open_connections: usize,
    carries: ByClass,
    /// TLS connections by the record that is not all there.
    records: ByClass,
    handshakes: Handshakes,
    /// Connections whose receive found no buffer, in the order in which they go on.
    parked: VecDeque<ConnectionId>,
    /// What came while there was no room, in order.
    held: VecDeque<(ConnectionId, Received)>,
    udp: Udp,
    /// Somebody who brings little found no buffer in this turn …
    starved: bool,
    /// … while these filled more than their part of the buffers.
    greedy: Vec<ConnectionId>,
    /// Connections that were parked in this turn after they had brought something: they go behind the others.
    fed: Vec<ConnectionId>,
    outgoing: Outgoing,
    /// What other shards sent and there was no room for yet.
    incoming: VecDeque<(ShardId, Batch)>,
    /// Other shards that have nothing more for this one.
    finished: u16,
    /// Bytes of entries that were given up.
    given_up_bytes: u64,
    /// The budget is used up: nothing is taken until there is room again.
    full: bool,
    /// Nothing is taken from own connections.
    paused: bool,
    disk_low: bool,
    listeners: Vec<Listener>,
    listener_counters: Vec<ListenerCounters>,
    backpressure: Stopwatch,
    /// After a failed accept the next one waits until then.
    accept_from: Time,
    /// While all shards together have as many connections as may be, the next look waits until then.
    crowded_until: Time,
    /// As many connections as may be are open, and this has been said.
    accept_paused: bool,
    phase: Phase,
    ops: VecDeque<Op>,
    notices: VecDeque<Notice>,
    /// Of each reason that ends a connection.
    foreign: [Recurring; Foreign::COUNT],
    crowding: Recurring,
    pausing: Recurring,
    accept_failure: Recurring,
    /// A listener had to be closed with connections in its queue, or a socket with datagrams.
    abandoned_queue: bool,
    now: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    /// No accept in flight: too many connections, or a failure not long ago.
    Idle,
    /// An accept is in flight: of one connection, or of `many`, the whole accept queue if it has to be.
    Accepting {
        many: bool,
    },
    /// A cancelled accept has not ended yet.
    Stopping,
    /// Takes what is left in the accept queue.
    Emptying,
    Closed,
}

impl Shard {
    /// A shard that knows no log. It asks for its first accepts at once.
    #[must_use]
    pub fn new(config: ShardConfig) -> Self {
        let router = Router::new(config.ownership.clone(), config.id);
        let journal = Journal::new(config.id, config.journal);
        let mut shard = Self {
            counters: Counters::default(),
            logs: Logs::new(config.logs.clone(), router, config.buffer_bytes, journal, config.sync),
            connections: Vec::with_capacity(CONNECTION_SLOTS.min(config.connections.left())),
            open_connections: 0,
            carries: ByClass::default(),
            records: ByClass::default(),
            handshakes: Handshakes::default(),
            parked: VecDeque::new(),
            held: VecDeque::new(),
            udp: Udp::new(config.udp_sockets),
            starved: false,
            greedy: Vec::new(),
            fed: Vec::new(),
            outgoing: Outgoing::new(config.ownership.shards(), config.buffer_bytes),
            incoming: VecDeque::new(),
            finished: 0,
            given_up_bytes: 0,
            full: false,
            paused: false,
            disk_low: false,
            listeners: vec![Listener::Idle; config.listeners.len()],
            listener_counters: vec![ListenerCounters::default(); config.listeners.len()],
            backpressure: Stopwatch::default(),
            accept_from: Time::default(),
            crowded_until: Time::default(),
            accept_paused: false,
            phase: Phase::Serving,
            ops: first_ops(&config),
            notices: VecDeque::new(),
            foreign: Default::default(),
            crowding: Recurring::default(),
            pausing: Recurring::default(),
            accept_failure: Recurring::default(),
            abandoned_queue: false,
            now: Time::default(),
            config,
        };
        shard.resume_accepting();
        shard
    }

    /// Makes room for so many logs that recovery found.
    pub fn reserve_logs(&mut self, logs: usize) {
        self.logs.reserve(logs);
    }

    /// Adds one of them.
    pub fn resume_log(&mut self, name: LogName, newest: Resumed) {
        self.logs.resume(name, newest);
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
            Completion::Datagrams { socket, received, more } => self.datagrams_received(socket, received, more),
            Completion::Accepted { listener, result, more } => self.accepted(listener, result, more),
            Completion::Transmitted { connection, buf, result } => self.transmitted(connection, buf, &result),
            Completion::Closed(connection) => self.closed(connection),
            Completion::Opened { log, result } => self.notices.extend(self.logs.opened(log, result, now)),
            Completion::JournalOpened(result) => self.notices.extend(self.logs.journal.opened(result, now)),
            Completion::JournalWritten { buf, result } => {
                self.notices.extend(self.logs.journal_written(buf, result, now, &mut self.ops));
            }
            Completion::Synced { sync, result } => {
                self.logs.synced(sync, result, now, &mut self.ops, &mut self.notices);
            }
            Completion::Sent { from, message: Message::Batch(batch) } => self.incoming.push_back((from, batch)),
            Completion::Sent { from, message: Message::Returned(batch) } => {
                self.outgoing.returned(from, batch, &mut self.logs.pool);
            }
            Completion::Sent { message: Message::Finished, .. } => self.finished += 1,
            Completion::Command(Command::Drain) => self.drain(),
            Completion::Command(Command::Know(known)) => self.know(known),
            Completion::Command(Command::Roll) => self.logs.roll_all(),
            Completion::Command(Command::Report { ticket }) => {
                self.notices.push_back(Notice::Report(Box::new(self.report(ticket))));
            }
            Completion::Command(Command::Change(change)) => self.change(change),
            Completion::Command(Command::Record(removal)) => self.logs.record_removal(removal),
            Completion::Command(Command::DiskLow(low)) => {
                self.disk_low = low;
                self.notices.push_back(Notice::DiskLow(low));
            }
        }
    }

    /// Goes on with other settings.
    fn change(&mut self, change: Change) {
        match change {
            Change::Linger(linger) => self.logs.set_linger(linger),
            Change::DrainTimeout(timeout) => self.config.drain_timeout = timeout,
            Change::HandshakesMax(max) => self.config.handshakes_max = max,
            Change::UdpCreates(creates) => self.config.udp_creates = creates,
        }
    }

    /// Ends a turn, after every completion that was there has been handled: starts writes, takes up what was held.
    pub fn end_turn(&mut self, now: Time) {
        self.now = now;
        self.advance_drain();
        if self.phase.gives_up() {
            // What is still received is only held: the others may have been told that nothing more comes.
            self.paused = true;
            self.backpressure.set(true, now);
            self.give_up_incoming();
            self.logs.record(now, &mut self.ops);
            return self.outgoing.publish(&mut self.ops);
        }
        self.expire_handshakes();
        self.look_for_room();
        self.take_up();
        self.take_datagrams();
        self.backpressure.set(self.paused, now);
        self.outgoing.publish(&mut self.ops);
        // At the end nothing lingers, and what other shards send last neither.
        let memory_max = if self.phase.flushes() { 0 } else { self.budget(BUDGET_RESUME_PARTS) };
        self.logs.start(now, memory_max, &mut self.ops);
        self.logs.record(now, &mut self.ops);
        self.ration();
        self.receive_parked();
        self.advance_handshakes();
        self.resume_accepting();
        self.resume_udp();
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
        let own = [self.phase.timeout(), Some(self.accept_from), Some(self.crowded_until)];
        let own = own.into_iter().flatten().filter(later);
        let working = [self.logs.timeout(), self.handshakes_timeout()];
        let working = working.into_iter().flatten().filter(|_| !self.phase.gives_up());
        // Of more parked connections than there are buffers the next ones take their turn at once: those that went
        // before may have nothing to receive, and then no completion would come.
        let parked = (!self.paused && !self.parked.is_empty()).then_some(self.now);
        own.chain(working).chain(parked).chain(self.udp_timeout()).min()
    }

    /// How the shard ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        (self.phase == Phase::Done).then(|| Outcome {
            counters: self.counters(),
            unstored_bytes: self.unstored_bytes(),
            abandoned_queue: self.abandoned_queue,
            unsynced: self.logs.durability.has_failed(),
        })
    }

    /// What the shard did so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Bytes received and not yet in a file. Unfinished lines of open connections do not count.
    #[must_use]
    pub fn unstored_bytes(&self) -> u64 {
        let held = self.held.iter().map(|(_, received)| received.bytes() as u64);
        let incoming = self.incoming.iter().map(|(_, batch)| batch.entry_bytes());
        let waiting = self.udp.waiting_bytes();
        let own = self.logs.unwritten_bytes() + self.given_up_bytes;
        let entries = own + held.sum::<u64>() + incoming.sum::<u64>() + waiting;
        // What is written but not recorded may not last: only at the end, and if all else is well, that is worth a word.
        if entries == 0 && self.phase.gives_up() { self.logs.journal.waiting_bytes() } else { entries }
    }

    /// Capacity of carries, staging, writes under way and batches for other shards, in bytes: what `buffer_bytes` limits.
    /// One receive buffer, or one batch of another shard, of short lines of many logs may take it past the limit before
    /// the shard pauses.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.logs.pool.used()
    }

    /// Swaps the list of tokens. A long line goes on as its first piece was judged.
    #[cold]
    fn know(&mut self, known: Arc<KnownTokens>) {
        self.logs.know(known);
        for connection in self.connections.iter_mut().flatten() {
            connection.last = None;
        }
        self.udp.forget_last();
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
        let waits = self.paused || !self.held.is_empty();
        let Some(connection) = self.connection(id).filter(|_| waits) else { return self.take(id, received) };
        // What brings nothing has nothing to wait for.
        if connection.held == 0 && matches!(received, Received::NoBuffer | Received::Cancelled) {
            return self.take(id, received);
        }
        connection.held += 1;
        self.held.push_back((id, received));
    }

    fn take(&mut self, id: ConnectionId, received: Received) {
        match received {
            Received::Data(mut buf) => {
                self.count_buffer(id, buf.len());
                self.ingest(id, &mut buf);
                self.ops.push_back(Op::Recycle(buf));
            }
            Received::NoBuffer => self.found_no_buffer(id),
            Received::Cancelled => {}
            Received::End => self.end_of_stream(id),
            Received::Failed(_) => self.cut(id, false),
        }
        self.after_receive(id);
    }

    /// A connection whose receive has ended goes on, or closes.
    fn after_receive(&mut self, id: ConnectionId) {
        let reset = self.phase.cuts_connections();
        let Some(connection) = self.connections.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        if connection.receiving || connection.held > 0 {
            return;
        }
        match connection.life {
            Life::Open if connection.brought.turn == self.now => self.fed.push(id),
            Life::Open => self.parked.push_back(id),
            Life::Ending if connection.is_sending() => self.limit_last_word(id),
            Life::Ending => {
                connection.life = Life::Closing;
                // Before the peer can see that it is closed, and come again.
                if let Some(address) = connection.counted_for.take() {
                    self.config.per_address.give_back(address);
                }
                self.ops.push_back(Op::Close { connection: id, reset });
            }
            Life::Closing => {}
        }
    }

    fn ingest(&mut self, id: ConnectionId, buf: &mut RecvBuf) {
        self.counters.received_bytes += buf.len() as u64;
        self.udp.connections_took(buf.len());
        let tls = self.speaks_tls(id);
        self.counters.tls_received_bytes += if tls { buf.len() as u64 } else { 0 };
        if self.connection(id).is_some_and(|connection| connection.header.is_some()) {
            self.take_header(id, buf);
        }
        if tls {
            self.ingest_tls(id, buf);
            return self.relieve();
        }
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

    /// The peer ended the stream in order: an unterminated rest is a line too, an unfinished frame is not.
    fn end(&mut self, id: ConnectionId) {
        let limit = self.config.line_bytes_max;
        let result = self.with_sink(id, |connection, sink| match connection.life {
            Life::Open => connection.decoder.finish(limit, sink),
            Life::Ending | Life::Closing => Ok(false),
        });
        match result {
            Some(Err(foreign)) => return self.foreign(id, foreign),
            Some(Ok(true)) => self.reject_of(id, Reject::Cut),
            Some(Ok(false)) | None => {}
        }
        self.stop_taking(id);
        // Thousands may end in one turn, each with a line for another shard.
        self.relieve();
    }

    /// The stream ended at an arbitrary byte: an unterminated rest is dropped and counted; so is what `lost` says of.
    fn cut(&mut self, id: ConnectionId, lost: bool) {
        self.lose_header(id);
        if self.end_handshake(id, HandshakeResult::Left) {
            return self.stop_taking(id);
        }
        let rest = self.with_sink(id, |connection, sink| {
            let [_, record, _] = connection.unfinished();
            let lost = lost || record.is_some();
            connection.life == Life::Open && (connection.decoder.abandon(&mut sink.logs.pool) || lost)
        });
        if rest == Some(true) {
            self.reject_of(id, Reject::Cut);
        }
        self.stop_taking(id);
    }

    /// The connection does not speak what its listener does: nothing more of it is stored, and it ends.
    #[cold]
    fn foreign(&mut self, id: ConnectionId, foreign: Foreign) {
        self.reject_of(id, foreign.reject());
        self.with_sink(id, |connection, sink| connection.decoder.abandon(&mut sink.logs.pool));
        self.stop_taking(id);
        if self.connection(id).is_some_and(|connection| connection.receiving) {
            self.ops.push_back(Op::CancelReceive(id));
        }
        let peer = self.connection(id).and_then(|connection| connection.counted_for);
        let notice = |seen| Notice::Closed { reason: foreign.name(), seen, peer };
        self.notices.extend(self.foreign[foreign as usize].again(self.now).map(notice));
    }

    fn speaks_tls(&mut self, id: ConnectionId) -> bool {
        self.connection(id).is_some_and(|connection| connection.tls.is_some())
    }

    /// Counts a line of a connection that ended without storing anything.
    fn reject_of(&mut self, id: ConnectionId, reason: Reject) {
        self.counters.reject(reason);
        self.counters.tls_lines += u64::from(self.speaks_tls(id));
    }

    fn stop_taking(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connection(id)
            && connection.life == Life::Open
        {
            connection.life = Life::Ending;
            self.abandon_record(id);
        }
    }

    /// Calls `work` with a connection and its sink, and keeps the account of carries.
    fn with_sink<T>(
        &mut self,
        id: ConnectionId,
        work: impl FnOnce(&mut Connection, &mut Ingest<'_, true>) -> T,
    ) -> Option<T> {
        let mut connection = self.connections.get_mut(id.0 as usize)?.take()?;
        let before @ [_, _, hello_before] = connection.unfinished();
        let (mut last, mut pieces_to) = (connection.last, connection.pieces_to);
        let lines_before = self.counters.lines;
        let mut sink = Ingest::<true> {
            logs: &mut self.logs,
            counters: &mut self.counters,
            outgoing: &mut self.outgoing,
            last: &mut last,
            pieces_to: &mut pieces_to,
            oversize: self.config.oversize,
            now: self.now,
        };
        let result = work(&mut connection, &mut sink);
        (connection.last, connection.pieces_to) = (last, pieces_to);
        if connection.tls.is_some() {
            self.counters.tls_lines += self.counters.lines - lines_before;
        }
        let after = connection.unfinished();
        if before != after {
            let [line, record, hello] = after;
            self.carries.set(id.0, line);
            self.records.set(id.0, record);
            self.handshakes.keep_hello(id, hello_before, hello);
        }
        self.connections[id.0 as usize] = Some(connection);
        Some(result)
    }

    fn connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(id.0 as usize)?.as_mut()
    }

    // What is held and handed over, and who gets buffers; how much memory there is for it: `budget`.

    /// Takes up what waits, while there is room: about as many bytes from own connections as from other shards.
    fn take_up(&mut self) {
        loop {
            let mut share = HANDOVER_BATCH_BYTES;
            while !self.paused
                && share > 0
                && let Some((id, received)) = self.held.pop_front()
            {
                share -= received.bytes().clamp(1, share);
                if let Some(connection) = self.connection(id) {
                    connection.held -= 1;
                }
                self.take(id, received);
            }
            if !self.take_incoming() && (self.paused || self.held.is_empty()) {
                return;
            }
        }
    }

    /// Copies a batch that another shard sent and sends its memory home, if there is one and room for it.
    fn take_incoming(&mut self) -> bool {
        // What is rejected here may have to go on, to the one shard that hands on nothing: so nobody waits in a circle.
        let hands_on = self.logs.hands_on_rejected();
        if self.full || (hands_on && self.outgoing.is_over()) {
            return false;
        }
        let Some((from, batch)) = self.incoming.pop_front() else { return false };
        for run in batch.runs() {
            // At the end the others may have been told that nothing more comes.
            let outgoing = (!self.phase.flushes()).then_some(&mut self.outgoing);
            absorb(run, &mut self.logs, &mut self.counters, outgoing, self.now);
        }
        self.ops.push_back(Op::Send { to: from, message: Message::Returned(batch) });
        self.full |= self.logs.pool.used() >= self.config.buffer_bytes;
        self.paused |= self.full;
        true
    }

    /// Sends home what will not be stored any more, so that no other shard waits for it.
    fn give_up_incoming(&mut self) {
        while let Some((from, batch)) = self.incoming.pop_front() {
            self.given_up_bytes += batch.entry_bytes();
            for run in batch.runs() {
                count(&mut self.counters, run.kind, run.entries.into(), run.bytes.len() as u64);
            }
            self.ops.push_back(Op::Send { to: from, message: Message::Returned(batch) });
        }
    }

    fn count_buffer(&mut self, id: ConnectionId, bytes: usize) {
        let (turn, share) = (self.now, self.config.recv_buffers / RECV_BUFFER_PARTS);
        let Some(connection) = self.connection(id) else { return };
        let brought = &mut connection.brought;
        if brought.turn != turn {
            *brought = Brought { turn, ..Brought::default() };
        }
        brought.buffers += 1;
        brought.bytes += bytes;
        if brought.buffers == share + 1 {
            self.greedy.push(id);
        }
    }

    fn found_no_buffer(&mut self, id: ConnectionId) {
        let turn = self.now;
        if let Some(brought) = self.connection(id).map(|connection| connection.brought)
            && brought.turn != turn
        {
            // Of one that has brought nothing yet nobody knows.
            self.starved |= (1..RECV_BUFFER_BYTES).contains(&brought.bytes);
        }
    }

    /// Whoever has more to bring than there are buffers takes every one that is free. Who found none goes before it; if
    /// they bring little, it gets one buffer a turn for a while. Those who all bring much take turns by themselves.
    fn ration(&mut self) {
        let starved = std::mem::take(&mut self.starved);
        let rationed_until = self.now + RATION;
        while let Some(id) = self.greedy.pop() {
            if let Some(connection) = self.connection(id).filter(|connection| starved && connection.life == Life::Open)
            {
                connection.rationed_until = rationed_until;
                if connection.receiving {
                    self.ops.push_back(Op::CancelReceive(id));
                }
            }
        }
        self.parked.extend(self.fed.drain(..));
    }

    /// Connections that found no buffer go on, as many as there are buffers: what they bring is held if it has to be.
    fn receive_parked(&mut self) {
        for _ in 0..self.parked.len().min(self.config.recv_buffers - self.held.len().min(self.config.recv_buffers)) {
            let Some(id) = self.parked.pop_front() else { break };
            let now = self.now;
            if let Some(connection) = self.connection(id)
                && connection.life == Life::Open
                && !connection.receiving
            {
                connection.receiving = true;
                let rationed = now < connection.rationed_until;
                self.ops.push_back(if rationed { Op::ReceiveOnce(id) } else { Op::Receive(id) });
            }
        }
    }
}

/// Every UDP socket receives.
fn first_ops(config: &ShardConfig) -> VecDeque<Op> {
    (0..config.udp_sockets).map(|id| Op::ReceiveDatagrams { socket: UdpId(id), rest: false }).collect()
}

/// Something that may happen often and is told of now and then.
#[derive(Debug, Default)]
struct Recurring {
    /// How often it happened since it was told of.
    seen: u64,
    told: Option<Time>,
}

impl Recurring {
    /// It happened again; how often since it was told of, if that may be told now.
    fn again(&mut self, now: Time) -> Option<u64> {
        self.seen += 1;
        let due = self.told.is_none_or(|told| now.since(told) >= NOTICE_GAP);
        due.then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.seen)
        })
    }
}

fn listener_id(index: usize) -> ListenerId {
    ListenerId(u32::try_from(index).expect("listeners are numbered by u32"))
}
