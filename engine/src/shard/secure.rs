//! Connections that speak TLS: their hello, their handshake, and what they are told.
//!
//! ```text
//!  accepted ─► says hello ─► waits for its turn ─► handshake ─► open ─ close_notify, failure, foreign protocol ─►
//!              (10 s)        (--handshakes-max)    (10 s)                 last word sent, half-closed (10 s)
//! ```
//! Who has not said hello costs little and holds nobody up: only a whole first record is in need of a handshake, and no
//! more of them are in progress than may be. While others wait for their turn, who has not made its handshake within
//! [`HANDSHAKE_TURN`] loses it. While as many wait as may be in progress, those who come after them are not read: the kernel
//! keeps what they say. A drain lets all of them go on.
//!
//! What is sent goes out one buffer at a time. The write side is shut down only when everything has gone out. A peer that
//! was told a last word may go by itself: closing at once would reset the connection, and it would never read that word.
//!
//! Invariant: a connection that is read has a deadline while its hello is missing and while it makes its handshake.

use std::collections::VecDeque;
use std::io;

use super::connection::{Connection, Life};
use super::drain::Phase;
use super::op::{ConnectionId, ListenerId, Notice, Op, ShutdownSide};
use super::{Recurring, Shard};
use crate::buf::{RecvBuf, WriteBuf, class_bytes};
use crate::limits::{EXPIRED_GAP, EXPIRED_MAX, HANDSHAKE_BATCH, HANDSHAKE_TIMEOUT, HANDSHAKE_TURN};
use crate::metrics::HandshakeResult;
use crate::time::Time;
use crate::tls::{Handshake, Session, Stop};

/// What a connection that speaks TLS has besides.
#[derive(Debug)]
pub(super) struct Secure {
    pub(super) session: Session,
    /// Bytes are on their way to the peer.
    pub(super) sending: bool,
    stage: Stage,
    /// The hello has to be here then, the handshake to be over, or the peer to be gone.
    deadline: Option<Time>,
    leave: Leave,
}

/// How far the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The client has not said hello.
    Silent,
    /// It has, and waits for its turn.
    Waiting,
    /// In progress, and one of those that may be.
    Making,
    /// Made, or never to be.
    Over,
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
    /// Accepted and not read yet, in the order in which they came.
    unread: VecDeque<ConnectionId>,
    /// In the order in which they said hello.
    waiting: VecDeque<ConnectionId>,
    /// Bytes of what they have said, and of what those have who have not said all of it.
    hello_bytes: usize,
    /// Those who have not said all of it, in the order in which they began; some may have by now, or have gone.
    begun: VecDeque<ConnectionId>,
    /// When handshakes in progress began, in the order of time; those that are over mean nothing.
    turns: VecDeque<(Time, ConnectionId)>,
    /// No turn ends before.
    next_turn: Time,
    /// In the order of time; those whose connection has another deadline by now mean nothing.
    deadlines: VecDeque<(Time, ConnectionId)>,
    /// None of them is looked at before: many were over at once.
    expire_from: Time,
    failed: Recurring,
    broken: Recurring,
    crowded: Recurring,
}

impl Handshakes {
    /// Bytes of all that has come for handshakes that have not begun.
    pub(super) fn hello_bytes(&self) -> usize {
        self.hello_bytes
    }

    /// What a connection has said before its handshake was of this size class, and is of that one.
    pub(super) fn keep_hello(&mut self, id: ConnectionId, before: Option<usize>, after: Option<usize>) {
        self.hello_bytes += after.map_or(0, class_bytes);
        self.hello_bytes -= before.map_or(0, class_bytes);
        if before.is_none() && after.is_some() {
            self.begun.push_back(id);
        }
    }
}

/// Whether it is the engine that does not read: what the peer has sent waits for room.
fn waits_for_us(connection: &Connection) -> bool {
    connection.life == Life::Open && (connection.held > 0 || !connection.receiving)
}

impl Shard {
    /// A connection to a TLS listener has come.
    pub(super) fn open_tls(&mut self, id: ConnectionId, listener: ListenerId) {
        let Some(Some(server)) = self.config.tls.get(listener.0 as usize) else { return };
        let session = Session::new(server);
        let leave = if matches!(self.phase, Phase::Waiting { .. }) { Leave::Wanted } else { Leave::Stay };
        let secure = Secure { session, sending: false, stage: Stage::Silent, deadline: None, leave };
        if let Some(connection) = self.connection(id) {
            connection.tls = Some(Box::new(secure));
            self.handshakes.unread.push_back(id);
        }
    }

    /// The client has said hello: its turn comes when others have had theirs.
    fn queue_handshake(&mut self, id: ConnectionId) {
        if let Some(secure) = self.secure(id) {
            (secure.stage, secure.deadline) = (Stage::Waiting, None);
        }
        self.handshakes.waiting.push_back(id);
        self.forget_begun();
        if self.is_crowded() {
            self.counters.tls_handshakes_waited += 1;
            let waiting = self.handshakes.waiting.len() + self.handshakes.unread.len();
            if self.handshakes.crowded.again(self.now).is_some() {
                self.notices.push_back(Notice::HandshakesCrowded { waiting });
            }
        }
    }

    /// Whether somebody has to wait for the end of others' handshakes.
    fn is_crowded(&self) -> bool {
        let waiting = self.handshakes.waiting.len();
        let is_full = self.handshakes.in_progress + waiting > self.config.handshakes_max;
        self.phase == Phase::Serving && waiting > 0 && is_full
    }

    /// Whether those who came are read: not while many wait, nor while what they say would wait for room.
    fn asks_for_hellos(&self) -> bool {
        let has_room = self.handshakes.waiting.len() < self.config.handshakes_max && !self.paused;
        self.phase != Phase::Serving || has_room
    }

    /// Whether one more handshake may be in progress.
    fn may_begin(&self) -> bool {
        let has_place = self.phase != Phase::Serving || self.handshakes.in_progress < self.config.handshakes_max;
        has_place && !self.paused
    }

    /// Reads those who came, and begins the handshakes of those whose turn it is: some of them in each turn of the shard.
    pub(super) fn advance_handshakes(&mut self) {
        for _ in 0..HANDSHAKE_BATCH {
            if !self.asks_for_hellos() {
                break;
            }
            let Some(id) = self.handshakes.unread.pop_front() else { break };
            self.renew_deadline(id);
            self.ops.push_back(Op::Receive(id));
        }
        for _ in 0..HANDSHAKE_BATCH {
            if !self.may_begin() {
                break;
            }
            let Some(id) = self.handshakes.waiting.pop_front() else { break };
            self.begin_handshake(id);
            self.relieve();
        }
    }

    fn begin_handshake(&mut self, id: ConnectionId) {
        let limit = self.config.line_bytes_max;
        self.handshakes.in_progress += 1;
        let result = self.with_sink(id, |connection, sink| match &mut connection.tls {
            Some(tls) => {
                tls.stage = Stage::Making;
                tls.session.begin(&mut connection.decoder, limit, sink)
            }
            None => Ok(()),
        });
        self.renew_deadline(id);
        self.took(id, result);
        if self.connection(id).is_some_and(|connection| connection.life != Life::Open) {
            self.after_receive(id);
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
        let has_hello = |secure: &mut Secure| secure.stage == Stage::Silent && secure.session.has_hello();
        if !matches!(result, Some(Err(_))) && self.secure(id).is_some_and(has_hello) {
            return self.queue_handshake(id);
        }
        self.took(id, result);
    }

    /// What follows from bytes that were taken.
    fn took(&mut self, id: ConnectionId, result: Option<Result<(), Stop>>) {
        self.look_at_handshake(id);
        match result {
            Some(Err(stop)) => self.stop_tls(id, stop),
            _ => self.talk(id),
        }
    }

    /// Counts a handshake that has been made.
    fn look_at_handshake(&mut self, id: ConnectionId) {
        let Some(secure) = self.secure(id) else { return };
        if secure.stage == Stage::Making && !secure.session.is_handshaking() {
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
        let Some(secure) = self.secure(id).filter(|secure| secure.stage != Stage::Over) else { return false };
        let stage = std::mem::replace(&mut secure.stage, Stage::Over);
        secure.deadline = None;
        match stage {
            Stage::Waiting => {
                let at = self.handshakes.waiting.iter().position(|waiting| *waiting == id);
                at.and_then(|at| self.handshakes.waiting.remove(at));
            }
            Stage::Making => self.handshakes.in_progress -= 1,
            Stage::Silent | Stage::Over => {}
        }
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

    /// Those at the front of whom nothing is expected any more.
    fn forget_begun(&mut self) {
        while let Some(&id) = self.handshakes.begun.front()
            && !self.is_half_said(id)
        {
            self.handshakes.begun.pop_front();
        }
    }

    fn is_half_said(&mut self, id: ConnectionId) -> bool {
        self.secure(id).is_some_and(|secure| secure.stage == Stage::Silent && secure.session.is_in_record())
    }

    /// Memory for hellos is used up: of those that are not whole the oldest has to go, or of the others the youngest, with its
    /// connection. False if there is none.
    #[cold]
    pub(super) fn break_hello(&mut self) -> bool {
        self.forget_begun();
        let oldest = self.handshakes.begun.front().or_else(|| self.handshakes.waiting.back()).copied();
        oldest.is_some_and(|id| {
            self.break_record(id);
            true
        })
    }

    /// The unfinished record has to go, and its connection: memory for unfinished lines, records and hellos is used up.
    pub(super) fn break_record(&mut self, id: ConnectionId) {
        let reason = "no memory is left for unfinished records and hellos".to_owned();
        if self.end_handshake(id, HandshakeResult::Failed) {
            self.tell_failed(reason);
            self.stop_taking(id);
        } else {
            self.break_off(id, reason, true);
        }
        self.ops.push_back(Op::Shutdown(id, ShutdownSide::Both));
        self.after_receive(id);
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

    /// While others wait, who takes long over its handshake loses its turn: one after the other, so that the turns of those
    /// who follow do not begin all at once.
    fn end_turns(&mut self) {
        while let Some(&(began, id)) = self.handshakes.turns.front() {
            let is_current = self.secure(id).is_some_and(|secure| {
                secure.stage == Stage::Making && secure.deadline == Some(began + HANDSHAKE_TIMEOUT)
            });
            if is_current && self.turn_ends(began).is_none_or(|at| at > self.now) {
                return;
            }
            self.handshakes.turns.pop_front();
            if !is_current {
                continue;
            }
            if self.connection(id).is_some_and(|connection| waits_for_us(connection)) {
                self.renew_deadline(id);
            } else {
                self.give_up(id, "not made in its turn, and others waited");
                let places = u32::try_from(self.config.handshakes_max).unwrap_or(u32::MAX);
                self.handshakes.next_turn = self.now + HANDSHAKE_TURN / places;
            }
        }
    }

    /// When a turn that began then ends, if others wait.
    fn turn_ends(&self, began: Time) -> Option<Time> {
        self.is_crowded().then(|| (began + HANDSHAKE_TURN).max(self.handshakes.next_turn))
    }

    /// Ends connections whose hello, handshake, header or own end has not come in time, some at a time.
    pub(super) fn expire_handshakes(&mut self) {
        self.end_turns();
        let mut left = if self.handshakes.expire_from > self.now { 0 } else { EXPIRED_MAX };
        while let Some(&(at, id)) = self.handshakes.deadlines.front() {
            let current = self.deadline_of(id).is_some_and(|deadline| *deadline == Some(at));
            if current && (at > self.now || left == 0) {
                return;
            }
            self.handshakes.deadlines.pop_front();
            if current {
                self.expire(id);
                left -= 1;
                self.handshakes.expire_from = if left == 0 { self.now + EXPIRED_GAP } else { self.now };
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

    /// The time for what is missing begins now.
    fn renew_deadline(&mut self, id: ConnectionId) {
        let deadline = Some(self.deadline(id));
        if let Some(slot) = self.deadline_of(id) {
            *slot = deadline;
        }
        if self.secure(id).is_some_and(|secure| secure.stage == Stage::Making) {
            self.handshakes.turns.push_back((self.now, id));
        }
    }

    #[cold]
    fn expire(&mut self, id: ConnectionId) {
        if self.connection(id).is_some_and(|connection| waits_for_us(connection)) {
            return self.renew_deadline(id);
        }
        if let Some(slot) = self.deadline_of(id) {
            *slot = None;
        }
        match self.secure(id).map(|secure| secure.stage) {
            None => self.refuse_header(id),
            Some(Stage::Silent) => self.give_up(id, "no hello came in time"),
            Some(_) => self.give_up(id, "not made in time"),
        }
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
        let turn = self.handshakes.turns.front().and_then(|&(began, _)| self.turn_ends(began));
        let deadline = self.handshakes.deadlines.front().map(|&(at, _)| at.max(self.handshakes.expire_from));
        let begins = self.may_begin() && !self.handshakes.waiting.is_empty();
        let asks = self.asks_for_hellos() && !self.handshakes.unread.is_empty();
        let at_once = (begins || asks).then_some(self.now);
        [turn, deadline, at_once].into_iter().flatten().min()
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
