//! A driver without a machine: virtual clock, network and files, all from one seed.
//!
//! ```text
//!  test ─ connect, send, close, reset, drain ─► network ─┐                 ┌─ disk (full, slow, failing)
//!                                                        ▼                 ▼
//!                    agenda (events by virtual time) ─► completions ─► Shard ─► ops ─► agenda
//! ```
//! It drives the very [`Shard`] that the engine runs, by the same contract, and holds it to its own half: see the
//! assertions in `network.rs` and `disk.rs`. The same seed and the same calls give the same run, byte by byte;
//! [`Sim::trace`] proves it. Completions of different logs and connections come in random order, those of one
//! connection in their own.
//!
//! Left out on purpose: losing what was not synced, because the engine does not sync yet.

mod agenda;
mod chance;
mod disk;
mod network;

use std::time::Duration;

pub use chance::{Fault, Faults, When};
pub use network::{Ending, PeerId};

use agenda::{Agenda, Event};
use chance::{Chance, mix};
use disk::Disk;
use network::Network;

use crate::buf::RecvArena;
use crate::segment::{Offset, Position};
use crate::shard::{Command, Completion, Notice, Op, Outcome, Received, Shard, ShardConfig};
use crate::time::Time;
use crate::wire::Token;

/// Bytes of one receive buffer: as small as an arena allows, so that streams are cut often and buffers run out.
pub const RECV_BUFFER_BYTES: usize = 4096;
/// Bytes that a socket buffer takes before the peer has to wait.
pub const SOCKET_BYTES: usize = 256 * 1024;
/// A turn takes this long at least, so that no run stands still in time.
const TURN: Duration = Duration::from_micros(1);
/// A run that waits for something longer than this, in virtual time, will wait for ever.
const WAIT_MAX: Duration = Duration::from_hours(1);
/// The same in turns.
const TURNS_MAX: u64 = 3_000_000;
/// Turns in a row in which nothing came and nothing was asked for: more is a shard that spins.
const IDLE_TURNS_MAX: u32 = 8;

/// A shard in a simulated world.
#[derive(Debug)]
pub struct Sim {
    seed: u64,
    shard: Shard,
    now: Time,
    agenda: Agenda,
    chance: Chance,
    network: Network,
    disk: Disk,
    notices: Vec<Notice>,
    trace: u64,
    turns: u64,
    idle_turns: u32,
}

impl Sim {
    /// A shard with `config.listeners` listeners and `config.recv_buffers` receive buffers of [`RECV_BUFFER_BYTES`].
    #[must_use]
    pub fn new(seed: u64, faults: Faults, config: ShardConfig) -> Self {
        let mut sim = Self::idle(seed, faults, config);
        sim.start_ops();
        sim
    }

    /// The same with a log that exists already: the base and the bytes of its newest segment.
    #[must_use]
    pub fn with_log(seed: u64, config: ShardConfig, token: Token, base: Offset, bytes: &[u8]) -> Self {
        let mut sim = Self::idle(seed, Faults::none(), config);
        sim.disk.add(token, base, bytes);
        sim.shard.resume_log(token, base, Position(bytes.len() as u64));
        sim.start_ops();
        sim
    }

    fn idle(seed: u64, faults: Faults, config: ShardConfig) -> Self {
        let buffers = u16::try_from(config.recv_buffers).expect("a simulation has few receive buffers");
        let arena = RecvArena::new(buffers, RECV_BUFFER_BYTES);
        Self {
            seed,
            shard: Shard::new(config),
            now: Time::default(),
            agenda: Agenda::default(),
            chance: Chance::new(seed, faults),
            network: Network::new(config.listeners, arena, SOCKET_BYTES),
            disk: Disk::new(),
            notices: Vec::new(),
            trace: 0,
            turns: 0,
            idle_turns: 0,
        }
    }

    // What peers and operators do.

    /// A new connection to one of the listeners.
    pub fn connect(&mut self) -> PeerId {
        self.network.connect(&mut self.agenda, &mut self.chance)
    }

    /// The peer writes; what the socket buffer has no room for waits on its side.
    pub fn send(&mut self, peer: PeerId, bytes: &[u8]) {
        self.network.send(peer, bytes, &mut self.agenda, &mut self.chance);
    }

    /// The peer closes, behind all that it wrote.
    pub fn close(&mut self, peer: PeerId) {
        self.network.close(peer, &mut self.agenda, &mut self.chance);
    }

    /// The peer resets the connection: what was not acknowledged is gone.
    pub fn reset(&mut self, peer: PeerId) {
        self.network.reset(peer, &mut self.agenda, &mut self.chance);
    }

    /// A message of the control side.
    pub fn command(&mut self, command: Command) {
        self.agenda.plan(TURN, Event::Command(command));
    }

    /// Sets the size of the disk in bytes; it starts without a bound.
    pub fn set_disk_bytes(&mut self, bytes: u64) {
        self.disk.capacity = bytes;
    }

    /// Sets the size of the socket buffers.
    pub fn set_socket_bytes(&mut self, bytes: usize) {
        self.network.socket_bytes = bytes;
    }

    // What they see.

    /// Bytes of this peer that the kernel acknowledged.
    #[must_use]
    pub fn acknowledged(&self, peer: PeerId) -> u64 {
        self.network.acknowledged(peer)
    }

    /// Whether the engine has shut down its side, so that the peer reads an end of stream.
    #[must_use]
    pub fn half_closed(&self, peer: PeerId) -> bool {
        self.network.half_closed(peer)
    }

    /// Whether the engine closed the connection, or never took it.
    #[must_use]
    pub fn is_gone(&self, peer: PeerId) -> bool {
        self.network.is_gone(peer)
    }

    /// Whether the shard never heard of the connection: refused, aborted in the queue, or still waiting there.
    #[must_use]
    pub fn never_accepted(&self, peer: PeerId) -> bool {
        self.network.never_accepted(peer)
    }

    /// How the connection ended, as the shard was told.
    #[must_use]
    pub fn ending(&self, peer: PeerId) -> Ending {
        self.network.ending(peer)
    }

    /// Bytes acknowledged and never read.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.network.unread()
    }

    /// Bytes handed to the shard.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.network.delivered
    }

    /// Receive buffers that the shard holds.
    #[must_use]
    pub fn buffers_lent(&self) -> usize {
        self.network.buffers_lent()
    }

    /// Logs that have a segment.
    pub fn tokens(&self) -> impl Iterator<Item = Token> {
        self.disk.tokens()
    }

    /// A log's segments in order: base and bytes.
    pub fn segments(&self, token: Token) -> impl Iterator<Item = (Offset, &[u8])> {
        self.disk.segments(token)
    }

    /// The segment that `current` names.
    #[must_use]
    pub fn current(&self, token: Token) -> Option<Offset> {
        self.disk.current(token)
    }

    /// All bytes of a log.
    #[must_use]
    pub fn log_bytes(&self, token: Token) -> Vec<u8> {
        self.segments(token).flat_map(|(_, bytes)| bytes).copied().collect()
    }

    /// Segments that are open now.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.disk.open_files()
    }

    /// The shard itself.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// All that the shard had to say.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// How the shard ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        self.shard.outcome()
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// A hash of every completion and every operation so far, with their times and bytes.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace
    }

    // Turns.

    /// Takes turns until `condition` holds.
    ///
    /// # Panics
    ///
    /// With the seed, if that takes longer than anything may.
    pub fn run_until(&mut self, mut condition: impl FnMut(&mut Self) -> bool) {
        let (from, turns) = (self.now, self.turns);
        while !condition(self) {
            let spent = (self.now.since(from), self.turns - turns);
            assert!(spent.0 < WAIT_MAX && spent.1 < TURNS_MAX, "seed {}: waited {spent:?} in vain", self.seed);
            assert!(self.turn(), "seed {}: waits for something that nothing will bring: {self:#?}", self.seed);
        }
    }

    /// Takes all turns of this length of time.
    pub fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.outcome().is_none()
            && let Some(wake) = self.wake()
            && wake < until
        {
            self.turn();
        }
        self.now = self.now.max(until);
        self.agenda.set_now(self.now);
    }

    /// One turn of the driver, as its contract says; false if nothing is to come that it could wait for.
    pub fn turn(&mut self) -> bool {
        let Some(wake) = self.wake().filter(|_| self.outcome().is_none()) else {
            return false;
        };
        let at_once = wake <= self.now;
        self.now = (self.now + TURN).max(wake);
        if self.chance.one_in(2) {
            self.now = self.now + self.chance.delay();
        }
        self.turns += 1;
        let mut came = false;
        while let Some(event) = self.agenda.pop(self.now) {
            if let Some(completion) = self.happen(event) {
                came = true;
                self.note_completion(&completion);
                self.shard.handle(completion, self.now);
            }
        }
        self.agenda.set_now(self.now);
        self.shard.end_turn(self.now);
        let asked = self.start_ops();
        self.idle_turns = if came || asked || !at_once { 0 } else { self.idle_turns + 1 };
        assert!(self.idle_turns <= IDLE_TURNS_MAX, "seed {}: the shard spins", self.seed);
        true
    }

    /// When the next turn begins.
    fn wake(&self) -> Option<Time> {
        [self.agenda.next_at(), self.shard.timeout()].into_iter().flatten().min()
    }

    fn happen(&mut self, event: Event) -> Option<Completion> {
        let (agenda, chance) = (&mut self.agenda, &mut self.chance);
        match event {
            Event::Acceptable(listener) => self.network.acceptable(listener, agenda, chance),
            Event::AcceptCancelled(listener) => self.network.accept_cancelled(listener),
            Event::Readable(peer) => self.network.readable(peer, agenda, chance),
            Event::ReceiveCancelled(peer) => self.network.receive_cancelled(peer),
            Event::Closed(connection) => {
                self.network.closed(connection);
                Some(Completion::Closed(connection))
            }
            Event::Disk(op) => Some(self.disk.finish(op, chance)),
            Event::Command(command) => Some(Completion::Command(command)),
        }
    }

    /// Starts what the shard asks for; says whether it asked for anything.
    fn start_ops(&mut self) -> bool {
        let mut asked = false;
        while let Some(op) = self.shard.poll_op() {
            asked = true;
            self.note_op(&op);
            self.start(op);
        }
        while let Some(notice) = self.shard.poll_notice() {
            self.notices.push(notice);
        }
        asked
    }

    fn start(&mut self, op: Op) {
        let (network, agenda, chance) = (&mut self.network, &mut self.agenda, &mut self.chance);
        match op {
            Op::Accept(listener) => network.accept(listener, false, agenda, chance),
            Op::AcceptRest(listener) => network.accept(listener, true, agenda, chance),
            Op::CancelAccept(listener) => agenda.plan(chance.delay(), Event::AcceptCancelled(listener)),
            Op::RefuseNew(listener) => network.refuse_new(listener),
            Op::CloseListener(listener) => network.close_listener(listener),
            Op::Receive(connection) => network.receive(connection, agenda, chance),
            Op::CancelReceive(connection) => network.cancel_receive(connection, agenda, chance),
            Op::Deafen(connection) => network.deafen(connection),
            Op::Recycle(buf) => network.recycle(buf),
            Op::Shutdown(connection, side) => network.shut_down(connection, side, agenda, chance),
            Op::Close { connection, .. } => network.close_connection(connection, agenda, chance),
            Op::CloseSegment(file) => self.disk.close(file),
            op @ (Op::CreateSegment { .. } | Op::OpenSegment { .. } | Op::Write { .. }) => {
                self.disk.begin(&op);
                agenda.plan(chance.delay(), Event::Disk(op));
            }
        }
    }

    // The trace.

    fn note(&mut self, words: &[u64], bytes: &[u8]) {
        let time = self.now.since(Time::default()).as_nanos();
        let time = u64::try_from(time).expect("no run lasts 584 years");
        for &word in [time].iter().chain(words) {
            self.trace = mix(self.trace ^ word);
        }
        for byte in bytes {
            self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn note_completion(&mut self, completion: &Completion) {
        match completion {
            Completion::Accepted { listener, result, more } => {
                let id = result.as_ref().map_or(u64::MAX, |id| u64::from(id.0));
                self.note(&[1, u64::from(listener.0), id, u64::from(*more)], &[]);
            }
            Completion::Received { connection, received, more } => {
                let (kind, bytes) = match received {
                    Received::Data(buf) => (0, &buf[..]),
                    Received::End => (1, &[][..]),
                    Received::NoBuffer => (2, &[][..]),
                    Received::Failed(_) => (3, &[][..]),
                    Received::Cancelled => (4, &[][..]),
                };
                self.note(&[2, u64::from(connection.0), kind, u64::from(*more)], bytes);
            }
            Completion::Closed(connection) => self.note(&[3, u64::from(connection.0)], &[]),
            Completion::Opened { log, result } => {
                let file = result.as_ref().map_or(u64::MAX, |file| u64::from(file.0));
                self.note(&[4, u64::from(log.0), file], &[]);
            }
            Completion::Written { log, result, .. } => {
                let count = result.as_ref().map_or(u64::MAX, |&count| count as u64);
                self.note(&[5, u64::from(log.0), count], &[]);
            }
            Completion::Command(command) => self.note(&[6, u64::from(*command == Command::Drain)], &[]),
        }
    }

    fn note_op(&mut self, op: &Op) {
        match op {
            Op::Accept(id) => self.note(&[10, u64::from(id.0)], &[]),
            Op::CancelAccept(id) => self.note(&[11, u64::from(id.0)], &[]),
            Op::RefuseNew(id) => self.note(&[12, u64::from(id.0)], &[]),
            Op::AcceptRest(id) => self.note(&[13, u64::from(id.0)], &[]),
            Op::CloseListener(id) => self.note(&[14, u64::from(id.0)], &[]),
            Op::Receive(id) => self.note(&[15, u64::from(id.0)], &[]),
            Op::CancelReceive(id) => self.note(&[16, u64::from(id.0)], &[]),
            Op::Recycle(buf) => self.note(&[17, u64::from(buf.index())], &[]),
            Op::Shutdown(id, side) => self.note(&[18, u64::from(id.0), *side as u64], &[]),
            Op::Close { connection, reset } => self.note(&[19, u64::from(connection.0), u64::from(*reset)], &[]),
            Op::CreateSegment { log, base, .. } => self.note(&[20, u64::from(log.0), base.0], &[]),
            Op::OpenSegment { log, base, length, .. } => self.note(&[21, u64::from(log.0), base.0, length.0], &[]),
            Op::Write { log, file, position, buf } => {
                self.note(&[22, u64::from(log.0), u64::from(file.0), position.0], buf.rest());
            }
            Op::CloseSegment(file) => self.note(&[23, u64::from(file.0)], &[]),
            Op::Deafen(id) => self.note(&[24, u64::from(id.0)], &[]),
        }
    }
}
