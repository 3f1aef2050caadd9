//! Connections that speak TLS: their turn, their handshake, and what they are told.
//!
//! ```text
//!  accepted ─► waits for its turn ─► handshake ─► open ─ close_notify, failure, foreign protocol ─► last word sent,
//!              (--handshakes-max)    (10 s)                                                   half-closed (10 s)
//! ```
//! A connection that waits for its turn is not read, so that it costs nothing but its descriptor; the kernel keeps what
//! it sends. So nobody is turned away, and no more handshakes are in progress than may be. A drain lets all of them go on.
//! While somebody waits, who has not said hello soon after its turn began loses it: those that connect and say nothing hold
//! others up by a quarter of a second for each `--handshakes-max` of them.
//!
//! What is sent goes out one buffer at a time. The write side is shut down only when everything has gone out. A peer that
//! was told a last word may go by itself: closing at once would reset the connection, and it would never read that word.
//!
//! Invariant: a connection that holds one of the handshakes has `handshaking` set and a deadline.

use std::collections::VecDeque;
use std::io;

use super::connection::{Connection, Life};
use super::drain::Phase;
use super::op::{ConnectionId, Notice, Op, ShutdownSide};
use super::{Recurring, Shard};
use crate::buf::{RecvBuf, WriteBuf};
use crate::limits::{HANDSHAKE_TIMEOUT, HANDSHAKE_TURN};
use crate::metrics::HandshakeResult;
use crate::time::Time;
use crate::tls::{Handshake, Session, Stop};

/// What a connection that speaks TLS has besides.
#[derive(Debug)]
pub(super) struct Secure {
    pub(super) session: Session,
    /// Bytes are on their way to the peer.
    pub(super) sending: bool,
    /// The handshake is in progress, and one of those that may be.
    handshaking: bool,
    /// The client has said hello, and was answered.
    answered: bool,
    /// The handshake has to be over then, or the peer to be gone.
    deadline: Option<Time>,
    leave: Leave,
}

/// How far we are with ending our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// Not begun.
    Stay,
    /// As soon as the handshake allows a `close_notify`.
    Wanted,
    /// The last bytes are in the session or on their way.
    Said,
    /// Our side is shut down.
    Gone,
}

/// What a shard knows of its TLS connections together.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    in_progress: usize,
    /// Accepted, and not read yet, in the order in which they came.
    waiting: VecDeque<ConnectionId>,
    /// When the turns of those began that had not been answered then, in the order of time.
    unanswered: VecDeque<(Time, ConnectionId)>,
    /// In the order of time; those whose connection has another deadline by now mean nothing.
    deadlines: VecDeque<(Time, ConnectionId)>,
    failed: Recurring,
    broken: Recurring,
    crowded: Recurring,
}

/// Whether it is the engine that does not read: what the peer has sent waits for room.
fn waits_for_us(connection: &Connection) -> bool {
    connection.life == Life::Open && (connection.held > 0 || !connection.receiving)
}

impl Shard {
    /// A connection to a TLS listener has come.
    pub(super) fn open_tls(&mut self, id: ConnectionId) {
        self.handshakes.waiting.push_back(id);
        self.begin_handshakes();
        if !self.handshakes.waiting.is_empty() {
            self.counters.tls_handshakes_waited += 1;
            let waiting = self.handshakes.waiting.len();
            if self.handshakes.crowded.again(self.now).is_some() {
                self.notices.push_back(Notice::HandshakesCrowded { waiting });
            }
        }
    }

    /// Reads the first bytes of those whose turn it is.
    pub(super) fn begin_handshakes(&mut self) {
        while self.handshakes.in_progress < self.config.handshakes_max || self.phase != Phase::Serving {
            let Some(id) = self.handshakes.waiting.pop_front() else { return };
            let Some(listener) = self.connection(id).map(|connection| connection.listener) else { continue };
            let Some(Some(server)) = self.config.tls.get(listener.0 as usize) else { continue };
            let session = Session::new(server);
            let deadline = Some(self.deadline(id));
            let leaves = matches!(self.phase, Phase::Waiting { .. });
            let Some(connection) = self.connection(id) else { continue };
            let leave = if leaves { Leave::Wanted } else { Leave::Stay };
            connection.tls =
                Some(Box::new(Secure { session, sending: false, handshaking: true, answered: false, deadline, leave }));
            self.handshakes.in_progress += 1;
            self.handshakes.unanswered.push_back((self.now, id));
            self.ops.push_back(Op::Receive(id));
        }
    }

    pub(super) fn deadline(&mut self, id: ConnectionId) -> Time {
        let deadline = self.now + HANDSHAKE_TIMEOUT;
        self.handshakes.deadlines.push_back((deadline, id));
        deadline
    }

    fn secure(&mut self, id: ConnectionId) -> Option<&mut Secure> {
        self.connection(id)?.tls.as_deref_mut()
    }

    /// Bytes of a connection that speaks TLS.
    pub(super) fn ingest_tls(&mut self, id: ConnectionId, buf: &mut RecvBuf) {
        let limit = self.config.line_bytes_max;
        let result = self.with_sink(id, |connection, sink| match (connection.life, &mut connection.tls) {
            (Life::Open, Some(tls)) => tls.session.receive(buf, &mut connection.decoder, limit, sink),
            _ => Ok(()),
        });
        self.look_at_handshake(id);
        match result {
            Some(Err(stop)) => self.stop_tls(id, stop),
            _ => self.talk(id),
        }
    }

    /// Counts a handshake that has been made.
    fn look_at_handshake(&mut self, id: ConnectionId) {
        let Some(secure) = self.secure(id) else { return };
        if secure.handshaking && !secure.session.is_handshaking() {
            let result = match secure.session.handshake() {
                Handshake::Full => HandshakeResult::Full,
                Handshake::Resumed => HandshakeResult::Resumed,
            };
            let known = secure.session.client_is_known();
            self.counters.tls_clients_known += u64::from(known);
            self.end_handshake(id, result);
        }
    }

    /// Counts a handshake, if it has not been: it is nobody's turn any more.
    pub(super) fn end_handshake(&mut self, id: ConnectionId, result: HandshakeResult) -> bool {
        let Some(secure) = self.secure(id).filter(|secure| secure.handshaking) else { return false };
        secure.handshaking = false;
        secure.deadline = None;
        self.handshakes.in_progress -= 1;
        self.counters.handshake(result);
        true
    }

    #[cold]
    fn stop_tls(&mut self, id: ConnectionId, stop: Stop) {
        match stop {
            Stop::Closed => {
                if self.end_handshake(id, HandshakeResult::Left) {
                    self.stop_taking(id);
                } else {
                    self.end(id);
                }
            }
            Stop::Foreign(foreign) => {
                self.end_handshake(id, HandshakeResult::Failed);
                return self.foreign(id, foreign);
            }
            Stop::Failed(error) => {
                if self.end_handshake(id, HandshakeResult::Failed) {
                    self.tell_failed(error.to_string());
                    self.stop_taking(id);
                } else {
                    self.break_off(id, error.to_string(), error.loses_a_record());
                }
                if let Some(secure) = self.secure(id) {
                    secure.leave = Leave::Said;
                }
            }
        }
        let deadline = Some(self.deadline(id));
        if let Some(secure) = self.secure(id) {
            secure.deadline = deadline;
        }
        self.leave(id);
    }

    fn tell_failed(&mut self, reason: String) {
        if let Some(seen) = self.handshakes.failed.again(self.now) {
            self.notices.push_back(Notice::HandshakeFailed { reason, seen });
        }
    }

    /// Ends an open TLS connection out of order: what it had not finished is lost, and counted.
    fn break_off(&mut self, id: ConnectionId, reason: String, loses_a_record: bool) {
        self.counters.tls_broken += 1;
        if let Some(seen) = self.handshakes.broken.again(self.now) {
            self.notices.push_back(Notice::TlsBroken { reason, seen });
        }
        self.cut(id, loses_a_record);
    }

    /// The stream has ended: in order, or within a record.
    pub(super) fn end_of_stream(&mut self, id: ConnectionId) {
        self.lose_header(id);
        if self.ends_in_order(id) {
            self.end(id);
        }
    }

    /// The stream has ended, by whomever, with or without a `close_notify`. Says whether that was in order: not within a
    /// handshake, nor within a record.
    fn ends_in_order(&mut self, id: ConnectionId) -> bool {
        if self.end_handshake(id, HandshakeResult::Left) {
            self.stop_taking(id);
            return false;
        }
        let in_record = self.secure(id).is_some_and(|secure| secure.session.is_in_record());
        if in_record {
            self.cut(id, true);
        }
        !in_record
    }

    /// The largest unfinished record has to go: memory for unfinished lines and records is used up.
    pub(super) fn break_largest_record(&mut self) -> bool {
        let Some(largest) = self.records.largest() else { return false };
        let id = ConnectionId(largest);
        let reason = "no memory is left for unfinished records".to_owned();
        if self.end_handshake(id, HandshakeResult::Failed) {
            self.tell_failed(reason);
            self.stop_taking(id);
        } else {
            self.break_off(id, reason, true);
        }
        self.ops.push_back(Op::Shutdown(id, ShutdownSide::Both));
        self.after_receive(id);
        true
    }

    /// Our side ends, in order: a `close_notify`, and then the half-close.
    pub(super) fn leave(&mut self, id: ConnectionId) {
        if let Some(secure) = self.secure(id) {
            secure.leave = if secure.leave == Leave::Stay { Leave::Wanted } else { secure.leave };
        }
        self.talk(id);
    }

    /// Sends what there is to send; then our side may end.
    fn talk(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id.0 as usize).and_then(Option::as_mut) else { return };
        let ending = connection.life != Life::Open;
        let Some(secure) = connection.tls.as_deref_mut().filter(|secure| !secure.sending) else { return };
        if secure.leave == Leave::Wanted && (ending || !secure.session.is_handshaking()) {
            secure.session.say_goodbye(&mut self.logs.pool);
            secure.leave = Leave::Said;
        }
        if let Some(buf) = secure.session.outgoing() {
            secure.sending = true;
            secure.answered = true;
            self.ops.push_back(Op::Transmit { connection: id, buf });
        } else if secure.leave == Leave::Said {
            secure.leave = Leave::Gone;
            if connection.life != Life::Closing {
                self.ops.push_back(Op::Shutdown(id, ShutdownSide::Write));
            }
        }
    }

    /// Some of what was to be sent has gone out, or cannot.
    pub(super) fn transmitted(&mut self, id: ConnectionId, mut buf: WriteBuf, result: &io::Result<usize>) {
        let sent = match result {
            Ok(0) | Err(_) => None,
            Ok(count) => {
                buf.advance(*count);
                Some(!buf.rest().is_empty())
            }
        };
        if sent == Some(true) {
            self.ops.push_back(Op::Transmit { connection: id, buf });
            return;
        }
        self.logs.pool.give(buf);
        let pool = &mut self.logs.pool;
        let connection = self.connections.get_mut(id.0 as usize).and_then(Option::as_mut);
        if let Some(secure) = connection.and_then(|connection| connection.tls.as_deref_mut()) {
            secure.sending = false;
            // Whoever hears nothing more is told nothing more; that the stream ends is told by its receive.
            if sent.is_none() {
                secure.leave = Leave::Gone;
                if let Some(unsent) = secure.session.outgoing() {
                    pool.give(unsent);
                }
            }
        }
        self.talk(id);
        self.after_receive(id);
    }

    /// Of those who have not said hello as many lose their turn as others wait for one.
    fn end_silent_turns(&mut self) {
        let mut wanted = self.handshakes.waiting.len();
        while let Some(&(began, id)) = self.handshakes.unanswered.front() {
            let is_silent = self.secure(id).is_some_and(|secure| {
                secure.handshaking && !secure.answered && secure.deadline == Some(began + HANDSHAKE_TIMEOUT)
            });
            if is_silent && (wanted == 0 || began + HANDSHAKE_TURN > self.now) {
                return;
            }
            self.handshakes.unanswered.pop_front();
            if is_silent && !self.connection(id).is_some_and(|connection| waits_for_us(connection)) {
                self.give_up(id, "no hello came in its turn, and others waited");
                wanted -= 1;
            }
        }
    }

    /// Ends handshakes, and connections that had their last word, whose time is over.
    pub(super) fn expire_handshakes(&mut self) {
        self.end_silent_turns();
        while let Some(&(at, id)) = self.handshakes.deadlines.front() {
            let current = self.deadline_of(id).is_some_and(|deadline| *deadline == Some(at));
            if current && at > self.now {
                return;
            }
            self.handshakes.deadlines.pop_front();
            if current {
                self.expire(id);
            }
        }
    }

    /// The deadline of a connection, where there may be one: of its handshake, or of its PROXY header.
    fn deadline_of(&mut self, id: ConnectionId) -> Option<&mut Option<Time>> {
        match self.connection(id)? {
            Connection { tls: Some(tls), .. } => Some(&mut tls.deadline),
            Connection { header: Some(header), .. } => Some(&mut header.deadline),
            _ => None,
        }
    }

    #[cold]
    fn expire(&mut self, id: ConnectionId) {
        let waits = self.connection(id).is_some_and(|connection| waits_for_us(connection));
        let deadline = if waits { Some(self.deadline(id)) } else { None };
        if let Some(slot) = self.deadline_of(id) {
            *slot = deadline;
        }
        if deadline.is_some() {
            return;
        }
        if !self.speaks_tls(id) {
            return self.refuse_header(id);
        }
        self.give_up(id, "not made in time");
    }

    fn give_up(&mut self, id: ConnectionId, why: &str) {
        if self.end_handshake(id, HandshakeResult::Timeout) {
            self.tell_failed(why.to_owned());
        }
        self.stop_taking(id);
        self.ops.push_back(Op::Shutdown(id, ShutdownSide::Both));
        self.after_receive(id);
    }

    /// A connection that only waits for its last bytes to go out does not wait for ever.
    pub(super) fn limit_last_word(&mut self, id: ConnectionId) {
        if self.secure(id).is_some_and(|secure| secure.deadline.is_none()) {
            let deadline = Some(self.deadline(id));
            if let Some(secure) = self.secure(id) {
                secure.deadline = deadline;
            }
        }
    }

    /// When the first of them is over.
    pub(super) fn handshakes_timeout(&self) -> Option<Time> {
        let crowded = !self.handshakes.waiting.is_empty();
        let turn = self.handshakes.unanswered.front().filter(|_| crowded).map(|&(began, _)| began + HANDSHAKE_TURN);
        turn.into_iter().chain(self.handshakes.deadlines.front().map(|&(at, _)| at)).min()
    }

    /// The record that is not all there of a connection that takes nothing more.
    pub(super) fn abandon_record(&mut self, id: ConnectionId) {
        self.with_sink(id, |connection, sink| {
            if let Some(tls) = &mut connection.tls {
                tls.session.abandon_record(&mut sink.logs.pool);
            }
        });
    }

    /// A TLS connection is gone: its handshake is over, its memory is free.
    pub(super) fn forget_tls(&mut self, id: ConnectionId) {
        self.end_handshake(id, HandshakeResult::Left);
        self.abandon_record(id);
        let pool = &mut self.logs.pool;
        let connection = self.connections.get_mut(id.0 as usize).and_then(Option::as_mut);
        if let Some(unsent) = connection.and_then(|connection| connection.tls.as_deref_mut()?.session.outgoing()) {
            pool.give(unsent);
        }
    }
}
