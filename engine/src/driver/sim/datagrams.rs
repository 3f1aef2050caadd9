//! UDP sockets and the kernel's side of them: a buffer each, and what does not fit is dropped and counted.
//!
//! As Linux does it: every datagram remembers how many were dropped before it came; several of one size may be handed
//! over together; a deaf socket keeps what it holds.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use super::agenda::{Agenda, Event};
use super::chance::{Chance, Fault};
use crate::buf::{RecvArena, RecvBuf};
use crate::handover::ShardId;
use crate::shard::{Completion, Datagrams, ReceivedDatagrams, UdpId};

/// Bytes that the kernel charges a datagram with at least.
const DATAGRAM_COST: usize = 768;
const ENOMEM: i32 = 12;

#[derive(Debug, Default)]
struct Socket {
    held: VecDeque<(Vec<u8>, u32)>,
    held_bytes: usize,
    drops: u32,
    /// A receive is in flight; `true`: it takes the rest.
    receiving: Option<bool>,
    /// What takes the rest stops for a while after a number of datagrams.
    ends_early: bool,
    deaf: bool,
    closed: bool,
}

/// What one shard has of it.
#[derive(Debug)]
struct Side {
    sockets: Vec<Socket>,
    arena: Rc<RecvArena>,
    free: Vec<u16>,
}

#[derive(Debug)]
pub(super) struct DatagramNetwork {
    sides: Vec<Side>,
    pub(super) socket_bytes: usize,
    /// Bytes handed to shards.
    pub(super) delivered: u64,
}

impl DatagramNetwork {
    /// One side for each shard, all alike.
    pub(super) fn new(shards: u16, sockets: u32, buffers: u16, buffer_bytes: usize, socket_bytes: usize) -> Self {
        let side = || Side {
            sockets: (0..sockets).map(|_| Socket::default()).collect(),
            arena: RecvArena::new(buffers, buffer_bytes),
            free: (0..buffers).collect(),
        };
        Self { sides: (0..shards).map(|_| side()).collect(), socket_bytes, delivered: 0 }
    }

    fn socket(&mut self, shard: ShardId, id: UdpId) -> &mut Socket {
        &mut self.sides[usize::from(shard.0)].sockets[id.0 as usize]
    }

    /// The kernel spreads datagrams over all sockets. Says whether one took it.
    pub(super) fn send(&mut self, bytes: &[u8], agenda: &mut Agenda, chance: &mut Chance) -> bool {
        let sockets = self.sides[0].sockets.len();
        let index = chance.below(self.sides.len() * sockets);
        let shard = ShardId(u16::try_from(index / sockets).expect("shards are numbered by u16"));
        let id = UdpId(u32::try_from(index % sockets).expect("sockets are numbered by u32"));
        let most = self.socket_bytes;
        let socket = self.socket(shard, id);
        if socket.deaf || socket.closed {
            return false;
        }
        let cost = bytes.len().max(DATAGRAM_COST);
        if socket.held_bytes + cost > most {
            socket.drops += 1;
            return false;
        }
        socket.held_bytes += cost;
        socket.held.push_back((bytes.to_vec(), socket.drops));
        agenda.plan(chance.delay(), Event::DatagramsReadable(shard, id));
        true
    }

    /// Datagrams that sockets hold.
    pub(super) fn unread(&self) -> usize {
        self.sides.iter().flat_map(|side| &side.sockets).map(|socket| socket.held.len()).sum()
    }

    /// Datagrams that found no room.
    pub(super) fn drops(&self) -> u64 {
        self.sides.iter().flat_map(|side| &side.sockets).map(|socket| u64::from(socket.drops)).sum()
    }

    pub(super) fn buffers_lent(&self) -> usize {
        self.sides.iter().map(|side| usize::from(side.arena.count()) - side.free.len()).sum()
    }

    // The driver's side.

    pub(super) fn receive(&mut self, at: (ShardId, UdpId), rest: bool, agenda: &mut Agenda, chance: &mut Chance) {
        let socket = self.socket(at.0, at.1);
        assert!(socket.receiving.is_none() && !socket.closed, "{at:?}: two receives, or one after the close");
        socket.receiving = Some(rest);
        socket.ends_early = false;
        agenda.plan(chance.delay(), Event::DatagramsReadable(at.0, at.1));
    }

    pub(super) fn deafen(&mut self, at: (ShardId, UdpId), agenda: &mut Agenda, chance: &mut Chance) {
        self.socket(at.0, at.1).deaf = true;
        agenda.plan(chance.delay(), Event::DatagramsCancelled(at.0, at.1));
    }

    pub(super) fn close(&mut self, at: (ShardId, UdpId)) {
        let socket = self.socket(at.0, at.1);
        assert!(socket.receiving.is_none() && !socket.closed, "{at:?}: closed twice, or under a receive");
        socket.closed = true;
    }

    pub(super) fn recycle(&mut self, shard: ShardId, buf: RecvBuf) {
        let index = buf.index();
        drop(buf);
        let free = &mut self.sides[usize::from(shard.0)].free;
        assert!(!free.contains(&index), "a buffer of datagrams came back twice");
        free.push(index);
    }

    pub(super) fn cancelled(&mut self, shard: ShardId, id: UdpId) -> Option<Completion> {
        self.socket(shard, id).receiving.take()?;
        Some(Completion::Datagrams { socket: id, received: ReceivedDatagrams::Cancelled, more: false })
    }

    /// One answer to a receive, if there is something to say.
    pub(super) fn readable(
        &mut self,
        shard: ShardId,
        id: UdpId,
        agenda: &mut Agenda,
        chance: &mut Chance,
    ) -> Option<Completion> {
        let side = &mut self.sides[usize::from(shard.0)];
        let socket = &mut side.sockets[id.0 as usize];
        let rest = socket.receiving?;
        let fails = chance.strikes(Fault::UdpFailed).then(|| io::Error::from_raw_os_error(ENOMEM));
        let ended = match (fails, socket.held.is_empty(), side.free.is_empty()) {
            (Some(error), ..) => ReceivedDatagrams::Failed(error),
            (None, true, _) if rest => ReceivedDatagrams::Empty,
            (None, false, _) if rest && socket.ends_early => ReceivedDatagrams::Empty,
            (None, true, _) => return None,
            (None, false, true) => ReceivedDatagrams::NoBuffer,
            (None, false, false) => {
                let index = side.free.pop().expect("one is free");
                let (bytes, each, drops) = socket.take(side.arena.buffer_bytes(), chance);
                self.delivered += bytes.len() as u64;
                socket.ends_early = chance.one_in(8);
                let more = !chance.strikes(Fault::ReceiveEnds);
                if more {
                    agenda.plan(chance.delay(), Event::DatagramsReadable(shard, id));
                } else {
                    socket.receiving = None;
                }
                let buf = side.arena.fill(index, &bytes);
                let received = ReceivedDatagrams::Data(Datagrams { buf, each, drops: (drops > 0).then_some(drops) });
                return Some(Completion::Datagrams { socket: id, received, more });
            }
        };
        socket.receiving = None;
        Some(Completion::Datagrams { socket: id, received: ended, more: false })
    }
}

impl Socket {
    /// The first datagram, and those of its size behind it, up to a shorter one: bytes, size of each, drops before them.
    fn take(&mut self, bytes_max: usize, chance: &mut Chance) -> (Vec<u8>, usize, u32) {
        let (mut bytes, drops) = self.held.pop_front().expect("who receives has looked");
        self.held_bytes -= bytes.len().max(DATAGRAM_COST);
        let each = bytes.len();
        while chance.one_in(2)
            && bytes.len().is_multiple_of(each.max(1))
            && let Some((next, _)) = self.held.front()
            && (1..=each).contains(&next.len())
            && bytes.len() + next.len() <= bytes_max
        {
            let (next, _) = self.held.pop_front().expect("it was there");
            self.held_bytes -= next.len().max(DATAGRAM_COST);
            bytes.extend(next);
        }
        (bytes, each, drops)
    }
}
