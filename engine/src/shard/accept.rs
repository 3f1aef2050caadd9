//! Connections come and go: accepted while all shards together may have more, turned away where one address has enough.
//!
//! A listener accepts until as many connections are open as may be, or an accept fails; then it rests, and looks again when
//! one of ours has closed or [`ACCEPT_RETRY`] is over.

use std::io;

use super::connection::Connection;
use super::drain::Phase;
use super::op::{ConnectionId, ListenerId, Newcomer, Notice, Op, PeerAddress};
use super::proxied::Header;
use super::{Listener, ListenerConfig, Shard, listener_id};
use crate::limits::{ACCEPT_RETRY, BACKLOG};

impl Shard {
    pub(super) fn accepted(&mut self, listener: ListenerId, result: io::Result<Newcomer>, more: bool) {
        let before = self.listeners[listener.0 as usize];
        if !more {
            self.listeners[listener.0 as usize] = Listener::Idle;
        }
        match result {
            Ok(newcomer) => self.admit(newcomer, listener),
            Err(error) if before == Listener::Emptying && error.kind() == io::ErrorKind::WouldBlock => {
                self.listeners[listener.0 as usize] = Listener::Closed;
                self.ops.push_back(Op::CloseListener(listener));
            }
            Err(error) if before != Listener::Stopping && error.kind() != io::ErrorKind::ConnectionAborted => {
                self.accept_from = self.now + ACCEPT_RETRY;
                self.listener_counters[listener.0 as usize].failed += 1;
                self.notices.extend(self.accept_failure.again(self.now).map(|_| Notice::AcceptFailed(error)));
            }
            Err(_) => {}
        }
        if self.config.connections.is_exhausted() {
            self.stop_accepting();
        }
    }

    /// Whether there is room for all that may wait in accept queues: an accept of many takes a whole queue at once.
    fn may_accept_many(&self) -> bool {
        let listeners = self.listeners.len() * usize::from(self.config.ownership.shards());
        self.config.connections.left() >= listeners * usize::from(BACKLOG)
    }

    fn admit(&mut self, Newcomer { id, from }: Newcomer, listener: ListenerId) {
        let slot = id.0 as usize;
        if self.connections.len() <= slot {
            self.connections.resize_with(slot + 1, || None);
        }
        debug_assert!(self.connections[slot].is_none(), "a number is used again only after its connection closed");
        self.open_connections += 1;
        self.config.connections.take_anyway();
        let ListenerConfig { framing, tls, ref proxy_from } = self.config.listeners[listener.0 as usize];
        let is_proxy = from.is_some_and(|from| proxy_from.iter().any(|network| network.contains(from)));
        let counters = &mut self.listener_counters[listener.0 as usize];
        counters.open += 1;
        let counted_for = from.filter(|_| !is_proxy);
        if let Some(crowded) = counted_for.filter(|from| !self.config.per_address.take(*from)) {
            return self.turn_away(id, listener, crowded);
        }
        counters.accepted += 1;
        let is_unknown = from.is_none() && !proxy_from.is_empty();
        let header = if is_unknown { Some(Box::new(Header::guess())) } else { is_proxy.then(Box::default) };
        self.connections[slot] = Some(Connection { header, ..Connection::new(listener, framing, counted_for) });
        self.counters.connections += 1;
        if tls {
            self.open_tls(id, listener);
        } else {
            self.ops.push_back(Op::Receive(id));
        }
        self.ops.extend(self.phase.welcome(id, tls).into_iter().flatten());
    }

    /// The address has as many connections as it may: nothing of this one is taken, and it ends.
    #[cold]
    fn turn_away(&mut self, id: ConnectionId, listener: ListenerId, from: PeerAddress) {
        self.connections[id.0 as usize] = Some(Connection::turned_away(listener));
        self.tell_crowded(listener, from);
        // By a reset, so that the peer learns of it before it has sent much.
        self.ops.push_back(Op::Close { connection: id, reset: true });
    }

    pub(super) fn closed(&mut self, id: ConnectionId) {
        self.forget_tls(id);
        let connection = self.connections[id.0 as usize].take().expect("the driver closes what was open");
        self.listener_counters[connection.listener.0 as usize].open -= 1;
        self.open_connections -= 1;
        debug_assert!(
            self.open_connections > 0 || self.carry_bytes() == 0,
            "what is unfinished belongs to a connection"
        );
        self.config.connections.give_back();
    }

    pub(super) fn stop_accepting(&mut self) {
        self.stop_accepts(|_| true);
    }

    /// Newcomers wait in the accept queue from now on.
    fn pause_accepting(&mut self) {
        if !std::mem::replace(&mut self.accept_paused, true) {
            self.counters.accept_pauses += 1;
            self.notices.extend(self.pausing.again(self.now).map(|seen| Notice::AcceptPaused { seen }));
        }
    }

    fn stop_accepts(&mut self, which: impl Fn(bool) -> bool) {
        for (index, state) in self.listeners.iter_mut().enumerate() {
            if matches!(*state, Listener::Accepting { many } if which(many)) {
                *state = Listener::Stopping;
                self.ops.push_back(Op::CancelAccept(listener_id(index)));
            }
        }
    }

    pub(super) fn resume_accepting(&mut self) {
        if self.phase != Phase::Serving || self.now < self.accept_from {
            return;
        }
        let many = self.may_accept_many();
        if !many {
            self.stop_accepts(|many| many);
        }
        if !self.listeners.contains(&Listener::Idle) {
            return;
        }
        if self.config.connections.is_exhausted() {
            // The connection that ends next may be another shard's.
            self.crowded_until = self.now + ACCEPT_RETRY;
            return self.pause_accepting();
        }
        self.accept_paused = false;
        for (index, state) in self.listeners.iter_mut().enumerate() {
            if *state == Listener::Idle {
                *state = Listener::Accepting { many };
                let listener = listener_id(index);
                self.ops.push_back(if many { Op::Accept(listener) } else { Op::AcceptOne(listener) });
            }
        }
    }
}
