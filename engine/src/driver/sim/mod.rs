//! A driver without a machine: virtual clock, network and files, all from one seed.
//!
//! ```text
//!  test ─ connect, send, close, reset, drain ─► network ─┐                 ┌─ disk (full, slow, failing)
//!                                                        ▼                 ▼
//!                    agenda (events by virtual time) ─► completions ─► Shards ─► ops ─► agenda
//!                                                        ▲                              │
//!                                                        └──── post (between shards) ◄──┘
//! ```
//! It drives the very [`Shard`]s that the engine runs, by the same contract, and holds them to their own half: see the
//! assertions in `network.rs`, `disk.rs` and `post.rs`. Shards share disk and time; each has its own listeners,
//! connections and receive buffers, and of several each stalls now and then, as a thread does. The same seed and the same calls give the same run, byte by byte;
//! [`Sim::trace`] proves it. Completions of different logs and connections come in random order, those of one
//! connection in their own.
//!
//! [`Sim::killed`] and [`Sim::power_cut`] say what the next start would find.

mod agenda;
mod chance;
mod datagrams;
mod disk;
mod network;
mod post;
mod store;
mod trace;

use std::collections::VecDeque;
use std::time::Duration;

pub use chance::{Fault, Faults, When};
pub use network::{Ending, PeerId};

use agenda::{Agenda, Event};
use chance::Chance;
use datagrams::DatagramNetwork;
use disk::Disk;
use network::{Accepting, Network};
use post::Post;
use trace::Trace;

use crate::buf::RecvArena;
use crate::handover::ShardId;
use crate::limits::UDP_BUFFER_BYTES;
use crate::route::Ownership;
use crate::segment::journal::{JournalDraft, JournalEntry, Proof, RECORD_BYTES, SegmentNumber};
use crate::segment::{LogName, Offset, Position};
use crate::shard::{
    Command, Completion, JournalId, JournalStart, Notice, Op, Outcome, PeerAddress, Resumed, Shard, ShardConfig,
};
use crate::time::Time;
use crate::wire::Token;

/// Bytes of one receive buffer: as small as an arena allows, so that streams are cut often and buffers run out.
pub const RECV_BUFFER_BYTES: usize = 4096;
/// Bytes that a socket buffer takes before the peer has to wait.
pub const SOCKET_BYTES: usize = 256 * 1024;
/// The address of peers of which nobody says another one.
const PEER: PeerAddress = PeerAddress([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// A turn takes this long at least, so that no run stands still in time.
const TURN: Duration = Duration::from_micros(1);
/// A run that waits for something longer than this, in virtual time, will wait for ever.
const WAIT_MAX: Duration = Duration::from_hours(1);
/// The same in turns.
const TURNS_MAX: u64 = 3_000_000;
/// Turns in a row in which nothing came and nothing was asked for: more is a shard that spins.
const IDLE_TURNS_MAX: u32 = 8;

/// One shard, and what waits for its next turn.
#[derive(Debug)]
struct House {
    shard: Shard,
    inbox: VecDeque<Completion>,
    /// It takes no turn before.
    stalled_until: Time,
    idle_turns: u32,
}

impl House {
    fn new(config: ShardConfig) -> Self {
        let shard = Shard::new(config);
        Self { shard, inbox: VecDeque::new(), stalled_until: Time::default(), idle_turns: 0 }
    }

    fn is_over(&self) -> bool {
        self.shard.outcome().is_some()
    }

    /// When it wants its next turn, apart from what will yet happen.
    fn wake(&self) -> Option<Time> {
        if self.is_over() {
            return None;
        }
        let at = if self.inbox.is_empty() { self.shard.timeout()? } else { Time::default() };
        Some(at.max(self.stalled_until))
    }
}

/// Shards in a simulated world.
#[derive(Debug)]
pub struct Sim {
    seed: u64,
    ownership: Ownership,
    houses: Vec<House>,
    now: Time,
    agenda: Agenda,
    chance: Chance,
    network: Network,
    datagrams: DatagramNetwork,
    post: Post,
    disk: Disk,
    journal_start: JournalStart,
    disk_delays: Vec<Duration>,
    notices: Vec<Notice>,
    trace: Trace,
    turns: u64,
}

impl Sim {
    /// As many shards as `config.ownership` says, each with `config.listeners` and `config.recv_buffers` receive
    /// buffers of [`RECV_BUFFER_BYTES`].
    #[must_use]
    pub fn new(seed: u64, faults: Faults, config: ShardConfig) -> Self {
        let mut sim = Self::idle(seed, faults, config);
        sim.begin_journals(None);
        sim.start_all();
        sim
    }

    /// The same with a log that exists already: the base and the bytes of its newest segment, all of them on the disk.
    #[must_use]
    pub fn with_log(seed: u64, config: ShardConfig, token: Token, base: Offset, bytes: &[u8]) -> Self {
        Self::with_unsynced_log(seed, Faults::none(), config, token, (base, bytes), Position(bytes.len() as u64))
    }

    /// The same with a segment of which only so much was ever synced.
    #[must_use]
    pub fn with_unsynced_log(
        seed: u64,
        faults: Faults,
        mut config: ShardConfig,
        token: Token,
        (base, bytes): (Offset, &[u8]),
        synced: Position,
    ) -> Self {
        config.journal.sequence += 1;
        config.journal.length.0 += RECORD_BYTES as u64;
        let mut sim = Self::idle(seed, faults, config);
        sim.disk.add(token.into(), base, bytes);
        let length = Position(bytes.len() as u64);
        sim.begin_journals(Some(JournalEntry::Active {
            number: SegmentNumber(0),
            token,
            base,
            length: synced,
            proof: Proof::default(),
        }));
        let owner = sim.ownership.owner(token);
        let resumed = Resumed { base, length, synced, sealed: false, doubt: None, age: Duration::ZERO };
        sim.house(owner).shard.resume_log(token.into(), resumed);
        sim.start_all();
        sim
    }

    fn idle(seed: u64, faults: Faults, config: ShardConfig) -> Self {
        let buffers = u16::try_from(config.recv_buffers).expect("a simulation has few receive buffers");
        let arena = || RecvArena::new(buffers, RECV_BUFFER_BYTES);
        let (udp_sockets, udp_buffers) = (config.udp_sockets, config.udp_buffers);
        let udp_buffers = u16::try_from(udp_buffers).expect("a simulation has few buffers for datagrams");
        let (shards, listeners, ownership) =
            (config.ownership.shards(), config.listeners.len(), config.ownership.clone());
        let journal_start = config.journal;
        let configs = (0..shards).map(ShardId).zip(vec![config; usize::from(shards)]);
        let configs = configs.map(|(id, config)| ShardConfig { id, ..config });
        Self {
            seed,
            ownership,
            now: Time::default(),
            agenda: Agenda::default(),
            chance: Chance::new(seed, faults),
            network: Network::new(shards, listeners, arena, SOCKET_BYTES),
            datagrams: DatagramNetwork::new(shards, udp_sockets, udp_buffers, UDP_BUFFER_BYTES, SOCKET_BYTES),
            post: Post::new(shards),
            disk: Disk::new(journal_start.run_id()),
            disk_delays: vec![Duration::ZERO; usize::from(shards)],
            notices: Vec::new(),
            trace: Trace::default(),
            turns: 0,
            journal_start,
            houses: configs.map(House::new).collect(),
        }
    }

    /// What recovery would have begun: for every shard a header, the log that there is, and a checkpoint.
    fn begin_journals(&mut self, log: Option<JournalEntry>) {
        let start = self.journal_start;
        for shard in self.shard_ids() {
            let mut draft = JournalDraft::new(start.run, start.header(shard));
            for entry in log.into_iter().chain([JournalEntry::Checkpoint]) {
                draft.add(entry);
            }
            self.disk.add_journal(JournalId { shard, generation: start.generation }, draft.bytes);
        }
    }

    fn house(&mut self, shard: ShardId) -> &mut House {
        &mut self.houses[usize::from(shard.0)]
    }

    fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.ownership.shards()).map(ShardId)
    }

    // What peers and operators do.

    /// A new connection to one of the listeners.
    pub fn connect(&mut self) -> PeerId {
        self.connect_from(PEER)
    }

    /// The same of a peer that has this address, or none any more when it is asked for.
    pub fn connect_from(&mut self, from: impl Into<Option<PeerAddress>>) -> PeerId {
        self.network.connect(from.into(), &mut self.agenda, &mut self.chance)
    }

    /// A new connection to the first listener of this shard.
    pub fn connect_to(&mut self, shard: ShardId) -> PeerId {
        self.network.connect_to(shard, 0, Some(PEER), &mut self.agenda, &mut self.chance)
    }

    /// The peer reads all that has come to it.
    pub fn read(&mut self, peer: PeerId) -> Vec<u8> {
        self.network.read(peer)
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

    /// Somebody sends a datagram to one of the UDP sockets. Says whether the kernel had room for it.
    pub fn send_datagram(&mut self, bytes: &[u8]) -> bool {
        self.datagrams.send(bytes, &mut self.agenda, &mut self.chance)
    }

    /// A message of the control side to all shards; it reaches them one after the other.
    pub fn command(&mut self, command: &Command) {
        for shard in self.shard_ids() {
            let delay = if shard.0 == 0 { TURN } else { self.chance.delay() };
            self.agenda.plan(delay, Event::Command(shard, command.clone()));
        }
    }

    /// A message of the control side to the shard that owns a log.
    pub fn command_owner(&mut self, token: Token, command: Command) {
        self.agenda.plan(TURN, Event::Command(self.ownership.owner(token), command));
    }

    /// The control side deletes a sealed segment.
    pub fn unlink(&mut self, token: Token, base: Offset) {
        self.disk.unlink(token.into(), base);
    }

    /// From now on every operation on the disk takes this shard so much longer.
    pub fn set_disk_delay(&mut self, shard: ShardId, delay: Duration) {
        self.disk_delays[usize::from(shard.0)] = delay;
    }

    /// Sets the size of the disk in bytes; it starts without a bound.
    pub fn set_disk_bytes(&mut self, bytes: u64) {
        self.disk.capacity = bytes;
    }

    /// Leaves so much room on the disk.
    pub fn set_disk_room(&mut self, bytes: u64) {
        self.disk.capacity = self.disk.used + bytes;
    }

    /// Sets the size of the socket buffers.
    pub fn set_socket_bytes(&mut self, bytes: usize) {
        self.network.socket_bytes = bytes;
    }

    /// Sets the size of the UDP sockets' buffers.
    pub fn set_udp_socket_bytes(&mut self, bytes: usize) {
        self.datagrams.socket_bytes = bytes;
    }

    // What they see.

    /// Bytes of this peer that the kernel acknowledged.
    #[must_use]
    pub fn acknowledged(&self, peer: PeerId) -> u64 {
        self.network.acknowledged(peer)
    }

    /// Whether the kernel acknowledged all that this peer has sent.
    #[must_use]
    pub fn all_acknowledged(&self, peer: PeerId) -> bool {
        self.network.all_acknowledged(peer)
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

    /// The shard whose listener the peer knocked at.
    #[must_use]
    pub fn shard_of(&self, peer: PeerId) -> ShardId {
        self.network.shard_of(peer)
    }

    /// Bytes acknowledged and never read.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.network.unread()
    }

    /// Datagrams that sockets hold and nobody has read.
    #[must_use]
    pub fn unread_datagrams(&self) -> usize {
        self.datagrams.unread()
    }

    /// Datagrams that the kernel had no room for.
    #[must_use]
    pub fn datagram_drops(&self) -> u64 {
        self.datagrams.drops()
    }

    /// Bytes handed to the shard, in connections and datagrams.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.network.delivered + self.datagrams.delivered
    }

    /// Receive buffers that the shard holds.
    #[must_use]
    pub fn buffers_lent(&self) -> usize {
        self.network.buffers_lent() + self.datagrams.buffers_lent()
    }

    /// Logs that have a segment.
    pub fn tokens(&self) -> impl Iterator<Item = Token> {
        self.disk.tokens()
    }

    /// A log's segments in order: base and bytes.
    pub fn segments(&self, log: impl Into<LogName>) -> impl Iterator<Item = (Offset, &[u8])> {
        self.disk.segments(log.into())
    }

    /// Poisoned segments of a log that gave their names to others, those of one base in the order in which they did.
    pub fn quarantined(&self, log: impl Into<LogName>) -> impl Iterator<Item = (Offset, &[u8])> {
        self.disk.quarantined(log.into())
    }

    /// The segment that `current` names.
    #[must_use]
    pub fn current(&self, token: Token) -> Option<Offset> {
        self.disk.current(token.into())
    }

    /// Up to where the index of a segment reaches.
    #[must_use]
    pub fn indexed(&self, token: Token, base: Offset) -> Position {
        self.disk.indexed(token, base)
    }

    /// What is left if the process is killed now: paths below the data directory, and their bytes.
    #[must_use]
    pub fn killed(&self) -> Vec<(String, Vec<u8>)> {
        self.disk.crashed(None)
    }

    /// The same if the power fails: all that was synced, and of the rest what the seed says.
    #[must_use]
    pub fn power_cut(&self, seed: u64) -> Vec<(String, Vec<u8>)> {
        self.disk.crashed(Some(Chance::new(seed, Faults::none())))
    }

    /// All bytes of a log.
    #[must_use]
    pub fn log_bytes(&self, token: Token) -> Vec<u8> {
        self.segments(token).map(|(_, bytes)| bytes).collect::<Vec<_>>().concat()
    }

    /// Journals by shard and generation: what recovery would read.
    pub fn journals(&self) -> impl Iterator<Item = (JournalId, &[u8])> {
        self.disk.journals()
    }

    /// Segments that are open now.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.disk.open_files()
    }

    /// The shard itself; the first one of several.
    #[must_use]
    pub fn shard(&self) -> &Shard {
        &self.houses[0].shard
    }

    /// All shards.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.houses.iter().map(|house| &house.shard)
    }

    /// All that the shards had to say.
    #[must_use]
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// How the shards ended, all together, once every one has.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        let mut all = Outcome::default();
        for shard in self.shards() {
            all.add(&shard.outcome()?);
        }
        Some(all)
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// A hash of every completion and every operation so far, with their times and bytes.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.trace.hash
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

    /// One turn of every driver that has something to do, as their contract says; false if nothing is to come that they
    /// could wait for.
    pub fn turn(&mut self) -> bool {
        let Some(wake) = self.wake().filter(|_| self.outcome().is_none()) else {
            return false;
        };
        let before = self.now;
        self.now = (self.now + TURN).max(wake);
        if self.chance.one_in(2) {
            self.now = self.now + self.chance.delay();
        }
        self.turns += 1;
        while let Some(event) = self.agenda.pop(self.now) {
            if let Some((shard, completion)) = self.happen(event) {
                self.house(shard).inbox.push_back(completion);
            }
        }
        self.agenda.set_now(self.now);
        let alone = self.houses.len() == 1;
        for shard in self.shard_ids() {
            if alone || self.house(shard).wake().is_some_and(|wake| wake <= self.now) {
                self.take_turn(shard, before);
            }
        }
        true
    }

    fn take_turn(&mut self, id: ShardId, before: Time) {
        let now = self.now;
        let house = &mut self.houses[usize::from(id.0)];
        let at_once = house.shard.timeout().is_some_and(|at| at <= before);
        let came = !house.inbox.is_empty();
        for completion in house.inbox.drain(..) {
            if let Completion::Sent { from, .. } = completion {
                self.post.taken(from, id);
            }
            self.trace.completion(id, &completion, now);
            house.shard.handle(completion, now);
        }
        house.shard.end_turn(now);
        let asked = self.start_ops(id);
        let stall = if self.houses.len() > 1 && self.chance.one_in(16) { self.chance.delay() } else { Duration::ZERO };
        let house = self.house(id);
        house.stalled_until = now + stall;
        house.idle_turns = if came || asked || !at_once { 0 } else { house.idle_turns + 1 };
        let spins = house.idle_turns > IDLE_TURNS_MAX;
        assert!(!spins, "seed {}: {id:?} spins", self.seed);
    }

    /// When the next turn begins.
    fn wake(&self) -> Option<Time> {
        self.houses.iter().map(House::wake).chain([self.agenda.next_at()]).flatten().min()
    }

    /// What happens reaches its shard as a completion; one that has ended hears of nothing any more.
    fn happen(&mut self, event: Event) -> Option<(ShardId, Completion)> {
        let (agenda, chance) = (&mut self.agenda, &mut self.chance);
        let shard = match event {
            Event::Readable(peer) | Event::ReceiveCancelled(peer) | Event::Transmit(peer, _) => {
                self.network.shard_of(peer)
            }
            Event::Acceptable(shard, _)
            | Event::AcceptCancelled(shard, _)
            | Event::Closed(shard, _)
            | Event::DatagramsReadable(shard, _)
            | Event::DatagramsCancelled(shard, _)
            | Event::Disk(shard, _)
            | Event::Sent { to: shard, .. }
            | Event::Command(shard, _) => shard,
        };
        let is_over = self.houses[usize::from(shard.0)].is_over();
        let completion = match event {
            Event::Disk(shard, op) => Some(self.disk.finish(shard, op, chance)),
            Event::Sent { from, message, .. } => {
                assert!(!is_over, "seed {}: a message from {from:?} comes after the end of {shard:?}", self.seed);
                Some(Completion::Sent { from, message })
            }
            _ if is_over => None,
            Event::Acceptable(shard, listener) => self.network.acceptable(shard, listener, agenda, chance),
            Event::AcceptCancelled(shard, listener) => self.network.accept_cancelled(shard, listener),
            Event::Readable(peer) => self.network.readable(peer, agenda, chance),
            Event::ReceiveCancelled(peer) => self.network.receive_cancelled(peer),
            Event::Transmit(peer, buf) => Some(self.network.transmitted(peer, buf, chance)),
            Event::DatagramsReadable(shard, socket) => self.datagrams.readable(shard, socket, agenda, chance),
            Event::DatagramsCancelled(shard, socket) => self.datagrams.cancelled(shard, socket),
            Event::Closed(shard, connection) => {
                self.network.closed((shard, connection));
                Some(Completion::Closed(connection))
            }
            Event::Command(_, command) => Some(Completion::Command(command)),
        };
        completion.filter(|_| !is_over).map(|completion| (shard, completion))
    }

    fn start_all(&mut self) {
        for shard in self.shard_ids() {
            self.start_ops(shard);
        }
    }

    /// Starts what the shard asks for; says whether it asked for anything.
    fn start_ops(&mut self, id: ShardId) -> bool {
        let mut asked = false;
        while let Some(op) = self.house(id).shard.poll_op() {
            asked = true;
            self.trace.op(id, &op, self.now);
            self.start(id, op);
        }
        while let Some(notice) = self.house(id).shard.poll_notice() {
            self.notices.push(notice);
        }
        asked
    }

    fn start(&mut self, id: ShardId, op: Op) {
        let (network, agenda, chance) = (&mut self.network, &mut self.agenda, &mut self.chance);
        let datagrams = &mut self.datagrams;
        match op {
            Op::ReceiveDatagrams { socket, rest } => datagrams.receive((id, socket), rest, agenda, chance),
            Op::DeafenUdp(socket) => datagrams.deafen((id, socket), agenda, chance),
            Op::RecycleDatagrams(buf) => datagrams.recycle(id, buf),
            Op::CloseUdp(socket) => datagrams.close((id, socket)),
            Op::Accept(listener) => network.accept(id, listener, Accepting::Forever, agenda, chance),
            Op::AcceptOne(listener) => network.accept(id, listener, Accepting::One, agenda, chance),
            Op::AcceptRest(listener) => network.accept(id, listener, Accepting::Rest, agenda, chance),
            Op::CancelAccept(listener) => agenda.plan(chance.delay(), Event::AcceptCancelled(id, listener)),
            Op::RefuseNew(listener) => network.refuse_new(id, listener),
            Op::CloseListener(listener) => network.close_listener(id, listener),
            Op::Receive(connection) => network.receive((id, connection), false, agenda, chance),
            Op::ReceiveOnce(connection) => network.receive((id, connection), true, agenda, chance),
            Op::Transmit { connection, buf } => network.transmit((id, connection), buf, agenda, chance),
            Op::CancelReceive(connection) => network.cancel_receive((id, connection), agenda, chance),
            Op::Deafen(connection) => network.deafen((id, connection)),
            Op::Recycle(buf) => network.recycle(id, buf),
            Op::Shutdown(connection, side) => network.shut_down((id, connection), side, agenda, chance),
            Op::Close { connection, .. } => network.close_connection((id, connection), agenda, chance),
            Op::CloseSegment(file) => self.disk.close(file),
            Op::CutSegment { name, base, length } => self.disk.cut(name, base, length),
            Op::RemoveJournals(oldest) => self.disk.remove_journals(oldest),
            Op::Index { name, block } => self.disk.index(name, &block),
            Op::Send { to, message } => self.post.send(id, to, message, agenda, chance),
            op @ (Op::CreateSegment { .. }
            | Op::OpenSegment { .. }
            | Op::Write { .. }
            | Op::OpenJournal { .. }
            | Op::CreateJournal(_)
            | Op::WriteJournal { .. }
            | Op::Sync(_)) => {
                self.disk.begin(id, &op);
                let delay = chance.delay() + self.disk_delays[usize::from(id.0)];
                agenda.plan(delay, Event::Disk(id, op));
            }
        }
    }
}
