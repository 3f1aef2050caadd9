//! A network of peers, and the kernel's side of it: accept queues, socket buffers with windows, receive buffers.
//!
//! ```text
//!  peer ─send─► unsent ──window open──► kernel ──receive──► shard
//!                        (acknowledged)
//! ```
//! As Linux does it: bytes are acknowledged when they enter the socket buffer, before the connection is accepted too;
//! after a reset, what was acknowledged can still be read; after `shutdown(both)` nothing more is acknowledged, and the
//! stream ends behind what was.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use super::agenda::{Agenda, Event};
use super::chance::{Chance, Fault};
use crate::buf::{RecvArena, RecvBuf, WriteBuf};
use crate::handover::ShardId;
use crate::shard::{Completion, ConnectionId, ListenerId, Newcomer, PeerAddress, Received, ShutdownSide};

const EMFILE: i32 = 24;
const ECANCELED: i32 = 125;

/// One client: an index into the simulation's table, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerId(pub(super) usize);

/// A connection, named by its shard and the number that it has there.
pub(super) type Local = (ShardId, ConnectionId);

/// How a connection ended, as the shard was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It has not.
    Open,
    /// The peer closed, and everything it sent was delivered before.
    InOrder,
    /// A reset, or the engine's own cut.
    Cut,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about both sides of a connection")]
struct Peer {
    /// Whose listener it knocked at.
    shard: ShardId,
    from: Option<PeerAddress>,
    connection: Option<ConnectionId>,
    unsent: VecDeque<u8>,
    kernel: VecDeque<u8>,
    acknowledged: u64,
    fin: bool,
    reset: bool,
    /// What the peer sends does not arrive any more, its end neither.
    deaf: bool,
    /// The engine shut down both sides.
    shut: bool,
    half_closed: bool,
    receiving: bool,
    /// Bytes are on their way to the peer.
    sending: bool,
    /// What has come to the peer and was not read.
    inbox: Vec<u8>,
    /// The receive ends with its first answer.
    once: bool,
    /// A `Readable` is planned.
    woken: bool,
    /// The listener refused it, or the engine closed it.
    gone: bool,
    ending: Ending,
}

#[derive(Debug, Default)]
struct Listener {
    queue: VecDeque<PeerId>,
    accepting: Option<Accepting>,
    refuses: bool,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    Forever,
    One,
    Rest,
}

/// What one shard has of the network.
#[derive(Debug)]
struct Side {
    listeners: Vec<Listener>,
    connections: Vec<Option<PeerId>>,
    arena: Rc<RecvArena>,
    free: Vec<u16>,
}

#[derive(Debug)]
pub(super) struct Network {
    peers: Vec<Peer>,
    sides: Vec<Side>,
    pub(super) socket_bytes: usize,
    pub(super) delivered: u64,
}

impl Side {
    fn new(listeners: usize, arena: Rc<RecvArena>) -> Self {
        Self {
            listeners: (0..listeners).map(|_| Listener::default()).collect(),
            connections: Vec::new(),
            free: (0..arena.count()).collect(),
            arena,
        }
    }

    fn listener(&mut self, id: ListenerId) -> &mut Listener {
        &mut self.listeners[id.0 as usize]
    }
}

impl Network {
    /// One side for each shard, all alike.
    pub(super) fn new(shards: u16, listeners: usize, arena: impl Fn() -> Rc<RecvArena>, socket_bytes: usize) -> Self {
        let sides = (0..shards).map(|_| Side::new(listeners, arena())).collect();
        Self { peers: Vec::new(), sides, socket_bytes, delivered: 0 }
    }

    fn side(&mut self, shard: ShardId) -> &mut Side {
        &mut self.sides[usize::from(shard.0)]
    }

    // The peers' side.

    /// The kernel spreads connections over all listeners of all shards.
    pub(super) fn connect(&mut self, from: Option<PeerAddress>, agenda: &mut Agenda, chance: &mut Chance) -> PeerId {
        let listeners: usize = self.sides.iter().map(|side| side.listeners.len()).sum();
        let index = chance.below(listeners);
        let each = listeners / self.sides.len();
        let shard = ShardId(u16::try_from(index / each).expect("shards are numbered by u16"));
        self.connect_to(shard, index % each, from, agenda, chance)
    }

    pub(super) fn connect_to(
        &mut self,
        shard: ShardId,
        listener: usize,
        from: Option<PeerAddress>,
        agenda: &mut Agenda,
        chance: &mut Chance,
    ) -> PeerId {
        let id = PeerId(self.peers.len());
        let queue = &mut self.side(shard).listeners[listener];
        let gone = queue.refuses || queue.closed;
        if !gone {
            queue.queue.push_back(id);
            let listener = ListenerId(u32::try_from(listener).expect("listeners are numbered by u32"));
            agenda.plan(chance.delay(), Event::Acceptable(shard, listener));
        }
        self.peers.push(Peer {
            shard,
            from,
            connection: None,
            unsent: VecDeque::new(),
            kernel: VecDeque::new(),
            acknowledged: 0,
            fin: false,
            reset: false,
            deaf: false,
            shut: false,
            half_closed: false,
            receiving: false,
            sending: false,
            inbox: Vec::new(),
            once: false,
            woken: false,
            gone,
            ending: Ending::Open,
        });
        id
    }

    pub(super) fn send(&mut self, id: PeerId, bytes: &[u8], agenda: &mut Agenda, chance: &mut Chance) {
        let peer = &mut self.peers[id.0];
        assert!(!peer.fin, "a peer that closed sends nothing");
        if !peer.reset && !peer.gone {
            peer.unsent.extend(bytes);
            self.open_window(id);
            self.wake(id, agenda, chance);
        }
    }

    pub(super) fn close(&mut self, id: PeerId, agenda: &mut Agenda, chance: &mut Chance) {
        let peer = &mut self.peers[id.0];
        peer.fin |= !peer.deaf;
        self.wake(id, agenda, chance);
    }

    pub(super) fn reset(&mut self, id: PeerId, agenda: &mut Agenda, chance: &mut Chance) {
        let peer = &mut self.peers[id.0];
        let delivered = peer.fin && peer.unsent.is_empty();
        if !peer.deaf && !delivered {
            peer.reset = true;
            peer.unsent.clear();
            self.wake(id, agenda, chance);
        }
    }

    pub(super) fn read(&mut self, id: PeerId) -> Vec<u8> {
        std::mem::take(&mut self.peers[id.0].inbox)
    }

    pub(super) fn acknowledged(&self, id: PeerId) -> u64 {
        self.peers[id.0].acknowledged
    }

    pub(super) fn all_acknowledged(&self, id: PeerId) -> bool {
        self.peers[id.0].unsent.is_empty()
    }

    pub(super) fn half_closed(&self, id: PeerId) -> bool {
        self.peers[id.0].half_closed
    }

    pub(super) fn is_gone(&self, id: PeerId) -> bool {
        self.peers[id.0].gone
    }

    pub(super) fn never_accepted(&self, id: PeerId) -> bool {
        self.peers[id.0].connection.is_none()
    }

    /// The shard that the peer is a connection of.
    pub(super) fn shard_of(&self, id: PeerId) -> ShardId {
        self.peers[id.0].shard
    }

    pub(super) fn ending(&self, id: PeerId) -> Ending {
        self.peers[id.0].ending
    }

    /// Bytes that were acknowledged and that nobody has read.
    pub(super) fn unread(&self) -> u64 {
        self.peers.iter().map(|peer| peer.kernel.len() as u64).sum()
    }

    pub(super) fn buffers_lent(&self) -> usize {
        self.sides.iter().map(|side| usize::from(side.arena.count()) - side.free.len()).sum()
    }

    /// What fits the socket buffer is acknowledged.
    fn open_window(&mut self, id: PeerId) {
        let peer = &mut self.peers[id.0];
        if peer.deaf || peer.shut || peer.gone {
            return;
        }
        let count = peer.unsent.len().min(self.socket_bytes.saturating_sub(peer.kernel.len()));
        for piece in front(&peer.unsent, count) {
            peer.kernel.extend(piece);
        }
        peer.unsent.drain(..count);
        peer.acknowledged += count as u64;
    }

    fn wake(&mut self, id: PeerId, agenda: &mut Agenda, chance: &mut Chance) {
        let peer = &mut self.peers[id.0];
        let ended = peer.reset || peer.shut || (peer.fin && peer.unsent.is_empty());
        if peer.receiving && !peer.woken && (ended || !peer.kernel.is_empty()) {
            peer.woken = true;
            agenda.plan(chance.delay(), Event::Readable(id));
        }
    }

    // The driver's side: listeners.

    pub(super) fn accept(
        &mut self,
        shard: ShardId,
        id: ListenerId,
        accepting: Accepting,
        agenda: &mut Agenda,
        chance: &mut Chance,
    ) {
        let listener = self.side(shard).listener(id);
        assert!(listener.accepting.is_none() && !listener.closed, "{id:?} is accepting already");
        listener.accepting = Some(accepting);
        agenda.plan(chance.delay(), Event::Acceptable(shard, id));
    }

    pub(super) fn refuse_new(&mut self, shard: ShardId, id: ListenerId) {
        self.side(shard).listener(id).refuses = true;
    }

    pub(super) fn close_listener(&mut self, shard: ShardId, id: ListenerId) {
        let listener = &mut self.sides[usize::from(shard.0)].listeners[id.0 as usize];
        assert!(listener.accepting.is_none() && !listener.closed, "{id:?} is closed under an accept");
        listener.closed = true;
        for peer in listener.queue.drain(..) {
            self.peers[peer.0].gone = true;
        }
    }

    pub(super) fn acceptable(
        &mut self,
        shard: ShardId,
        id: ListenerId,
        agenda: &mut Agenda,
        chance: &mut Chance,
    ) -> Option<Completion> {
        let listener = &mut self.sides[usize::from(shard.0)].listeners[id.0 as usize];
        let accepting = listener.accepting?;
        let answer = |result, more| Some(Completion::Accepted { listener: id, result, more });
        if listener.queue.is_empty() && accepting != Accepting::Rest {
            return None;
        }
        let ends = |error: io::Error| (Err(error), false);
        let (result, more) = if listener.queue.is_empty() {
            ends(io::ErrorKind::WouldBlock.into())
        } else if chance.strikes(Fault::AcceptFailed) {
            ends(io::Error::from_raw_os_error(EMFILE))
        } else if chance.strikes(Fault::AcceptAborted) {
            let peer = listener.queue.pop_front().expect("it is not empty");
            self.peers[peer.0].gone = true;
            ends(io::ErrorKind::ConnectionAborted.into())
        } else {
            let peer = listener.queue.pop_front().expect("it is not empty");
            (Ok(peer), accepting != Accepting::One && !chance.strikes(Fault::AcceptEnds))
        };
        if more {
            agenda.plan(chance.delay(), Event::Acceptable(shard, id));
        } else {
            listener.accepting = None;
        }
        answer(result.map(|peer| self.connected(peer)), more)
    }

    pub(super) fn accept_cancelled(&mut self, shard: ShardId, id: ListenerId) -> Option<Completion> {
        self.side(shard).listener(id).accepting.take()?;
        let result = Err(io::Error::from_raw_os_error(ECANCELED));
        Some(Completion::Accepted { listener: id, result, more: false })
    }

    fn connected(&mut self, peer: PeerId) -> Newcomer {
        let Peer { shard, from, .. } = self.peers[peer.0];
        let connections = &mut self.side(shard).connections;
        let slot = connections.iter().position(Option::is_none).unwrap_or(connections.len());
        if slot == connections.len() {
            connections.push(None);
        }
        connections[slot] = Some(peer);
        let id = ConnectionId(u32::try_from(slot).expect("a simulation has few connections"));
        self.peers[peer.0].connection = Some(id);
        Newcomer { id, from }
    }

    // The driver's side: connections.

    fn peer(&mut self, (shard, id): Local) -> (PeerId, &mut Peer) {
        let peer = self.side(shard).connections[id.0 as usize].expect("only open connections are used");
        (peer, &mut self.peers[peer.0])
    }

    pub(super) fn receive(&mut self, id: Local, once: bool, agenda: &mut Agenda, chance: &mut Chance) {
        let (id, peer) = self.peer(id);
        assert!(!peer.receiving && !peer.gone, "two receives on one connection, or one after its close");
        (peer.receiving, peer.once) = (true, once);
        self.wake(id, agenda, chance);
    }

    pub(super) fn cancel_receive(&mut self, id: Local, agenda: &mut Agenda, chance: &mut Chance) {
        let (id, peer) = self.peer(id);
        assert!(!peer.gone, "a cancel after the close");
        agenda.plan(chance.delay(), Event::ReceiveCancelled(id));
    }

    pub(super) fn receive_cancelled(&mut self, id: PeerId) -> Option<Completion> {
        if !std::mem::take(&mut self.peers[id.0].receiving) {
            return None;
        }
        Some(self.answer(id, Received::Cancelled, false))
    }

    pub(super) fn transmit(&mut self, id: Local, buf: WriteBuf, agenda: &mut Agenda, chance: &mut Chance) {
        let (id, peer) = self.peer(id);
        assert!(!peer.sending && !peer.gone, "two transmits on one connection, or one after its close");
        assert!(!peer.half_closed, "a transmit after the half-close");
        peer.sending = true;
        agenda.plan(chance.delay(), Event::Transmit(id, buf));
    }

    /// The answer to a transmit.
    pub(super) fn transmitted(&mut self, id: PeerId, buf: WriteBuf, chance: &mut Chance) -> Completion {
        let connection = self.peers[id.0].connection.expect("who is sent to was accepted");
        let peer = &mut self.peers[id.0];
        peer.sending = false;
        let result = if peer.reset || peer.shut {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            let mut count = buf.rest().len();
            if chance.strikes(Fault::ShortTransmit) {
                count = 1 + chance.below(count);
            }
            peer.inbox.extend(&buf.rest()[..count]);
            Ok(count)
        };
        Completion::Transmitted { connection, buf, result }
    }

    pub(super) fn shut_down(&mut self, id: Local, side: ShutdownSide, agenda: &mut Agenda, chance: &mut Chance) {
        let (id, peer) = self.peer(id);
        assert!(!peer.gone, "a shutdown after the close");
        peer.half_closed = true;
        if side == ShutdownSide::Both {
            peer.shut = true;
            if !chance.strikes(Fault::LostWakeUp) {
                self.wake(id, agenda, chance);
            }
        }
    }

    pub(super) fn deafen(&mut self, id: Local) {
        let (_, peer) = self.peer(id);
        assert!(!peer.gone, "an order after the close");
        peer.deaf = true;
    }

    pub(super) fn close_connection(&mut self, id: Local, agenda: &mut Agenda, chance: &mut Chance) {
        let (_, peer) = self.peer(id);
        assert!(!peer.receiving && !peer.sending && !peer.gone, "closed twice, or under a receive or a transmit");
        peer.gone = true;
        peer.unsent.clear();
        if peer.ending == Ending::Open {
            peer.ending = Ending::Cut;
        }
        agenda.plan(chance.delay(), Event::Closed(id.0, id.1));
    }

    pub(super) fn closed(&mut self, (shard, id): Local) {
        self.side(shard).connections[id.0 as usize] = None;
    }

    pub(super) fn recycle(&mut self, shard: ShardId, buf: RecvBuf) {
        let index = buf.index();
        drop(buf);
        let free = &mut self.side(shard).free;
        assert!(!free.contains(&index), "a receive buffer came back twice");
        free.push(index);
    }

    /// One answer to a receive, if there is something to say.
    pub(super) fn readable(&mut self, id: PeerId, agenda: &mut Agenda, chance: &mut Chance) -> Option<Completion> {
        self.peers[id.0].woken = false;
        if !self.peers[id.0].receiving {
            return None;
        }
        if chance.strikes(Fault::Reset) {
            self.reset(id, agenda, chance);
        }
        let peer = &mut self.peers[id.0];
        if peer.kernel.is_empty() {
            return self.stream_end(id);
        }
        let side = &mut self.sides[usize::from(peer.shard.0)];
        let Some(index) = side.free.pop() else {
            peer.receiving = false;
            return Some(self.answer(id, Received::NoBuffer, false));
        };
        let mut count = peer.kernel.len().min(side.arena.buffer_bytes());
        if chance.strikes(Fault::ShortReceive) {
            count = 1 + chance.below(count);
        }
        let buf = side.arena.fill(index, &front(&peer.kernel, count).concat());
        peer.kernel.drain(..count);
        self.delivered += count as u64;
        let more = !chance.strikes(Fault::ReceiveEnds) && !peer.once;
        peer.receiving = more;
        self.open_window(id);
        self.wake(id, agenda, chance);
        Some(self.answer(id, Received::Data(buf), more))
    }

    fn stream_end(&mut self, id: PeerId) -> Option<Completion> {
        let peer = &mut self.peers[id.0];
        let received = if peer.reset {
            peer.ending = Ending::Cut;
            Received::Failed(io::ErrorKind::ConnectionReset.into())
        } else if peer.shut {
            peer.ending = Ending::Cut;
            Received::End
        } else if peer.fin && peer.unsent.is_empty() {
            peer.ending = Ending::InOrder;
            Received::End
        } else {
            return None;
        };
        peer.receiving = false;
        Some(self.answer(id, received, false))
    }

    fn answer(&self, id: PeerId, received: Received, more: bool) -> Completion {
        let connection = self.peers[id.0].connection.expect("who receives was accepted");
        Completion::Received { connection, received, more }
    }
}

/// The first `count` bytes, in two pieces: byte by byte these queues would be most of what a fuzz body's case costs.
fn front(queue: &VecDeque<u8>, count: usize) -> [&[u8]; 2] {
    let (first, second) = queue.as_slices();
    let within = count.min(first.len());
    [&first[..within], &second[..count - within]]
}
