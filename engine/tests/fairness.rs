//! Connections share the receive buffers: whoever could fill all of them leaves some to the others.
//!
//! The shard is driven by hand, because a simulated network never takes every buffer in one go, as a kernel does.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::rc::Rc;
use std::time::Duration;

use engine::buf::RecvArena;
use engine::limits::{RATION, RECV_BUFFER_BYTES, RECV_BUFFER_PARTS, RECV_BUFFERS};
use engine::shard::{Completion, ConnectionId, ListenerId, Newcomer, Op, Received, Shard};
use engine::time::Time;

use support::world::config;

const FLOOD: ConnectionId = ConnectionId(0);
const OTHER_FLOOD: ConnectionId = ConnectionId(1);
const LIGHT: ConnectionId = ConnectionId(2);
const BUFFERS: usize = RECV_BUFFERS as usize;

/// What the shard asks for of receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Receive(ConnectionId),
    Once(ConnectionId),
    Cancel(ConnectionId),
}

struct Turns {
    shard: Shard,
    arena: Rc<RecvArena>,
    free: Vec<u16>,
    clock: Duration,
}

impl Turns {
    /// Three connections that wait for bytes; one has brought a few.
    fn new() -> Self {
        let mut config = config(4096);
        config.recv_buffers = BUFFERS;
        let arena = RecvArena::new(RECV_BUFFERS, RECV_BUFFER_BYTES);
        let mut turns =
            Self { shard: Shard::new(config), arena, free: (0..RECV_BUFFERS).collect(), clock: Duration::ZERO };
        for id in [FLOOD, OTHER_FLOOD, LIGHT] {
            let result = Ok(Newcomer { id, from: None });
            turns.handle(Completion::Accepted { listener: ListenerId(0), result, more: true });
        }
        assert_eq!(turns.end(), [FLOOD, OTHER_FLOOD, LIGHT].map(Asked::Receive));
        let buf = turns.arena.fill(turns.free.pop().unwrap(), b"\n");
        turns.answer(LIGHT, Received::Data(buf), true);
        assert_eq!(turns.end(), []);
        turns
    }

    fn handle(&mut self, completion: Completion) {
        self.shard.handle(completion, Time::new(self.clock));
    }

    fn answer(&mut self, connection: ConnectionId, received: Received, more: bool) {
        self.handle(Completion::Received { connection, received, more });
    }

    /// So many buffers full of what stores nothing; the last one says whether the receive goes on.
    fn fill(&mut self, connection: ConnectionId, buffers: usize, more: bool) {
        for left in (0..buffers).rev() {
            let buf = self.arena.fill(self.free.pop().unwrap(), &vec![b'\n'; RECV_BUFFER_BYTES]);
            self.answer(connection, Received::Data(buf), more || left > 0);
        }
    }

    fn no_buffer(&mut self, connection: ConnectionId) {
        self.answer(connection, Received::NoBuffer, false);
    }

    /// Ends the turn, and begins the next one a moment later.
    fn end(&mut self) -> Vec<Asked> {
        self.shard.end_turn(Time::new(self.clock));
        self.clock += Duration::from_millis(1);
        let mut asked = Vec::new();
        while let Some(op) = self.shard.poll_op() {
            match op {
                Op::Receive(id) => asked.push(Asked::Receive(id)),
                Op::ReceiveOnce(id) => asked.push(Asked::Once(id)),
                Op::CancelReceive(id) => asked.push(Asked::Cancel(id)),
                Op::Recycle(buf) => self.free.push(buf.index()),
                Op::Accept(_) | Op::AcceptOne(_) | Op::OpenJournal { .. } => {}
                other => panic!("{other:?} has no place here"),
            }
        }
        asked
    }
}

#[test]
fn a_flood_alone_has_all_buffers() {
    let mut turns = Turns::new();
    for _ in 0..10 {
        turns.fill(FLOOD, BUFFERS, true);
        assert_eq!(turns.end(), []);
        turns.fill(FLOOD, BUFFERS, true);
        turns.no_buffer(FLOOD);
        assert_eq!(turns.end(), [Asked::Receive(FLOOD)]);
    }
}

#[test]
fn a_flood_beside_those_who_bring_little_gets_one_buffer_a_turn() {
    let mut turns = Turns::new();
    turns.fill(FLOOD, BUFFERS, true);
    turns.no_buffer(LIGHT);
    assert_eq!(turns.end(), [Asked::Cancel(FLOOD), Asked::Receive(LIGHT)]);
    // It took some before it was cancelled.
    turns.fill(FLOOD, 3, true);
    turns.answer(FLOOD, Received::Cancelled, false);
    assert_eq!(turns.end(), [Asked::Once(FLOOD)]);
    for _ in 0..10 {
        turns.fill(FLOOD, 1, false);
        assert_eq!(turns.end(), [Asked::Once(FLOOD)]);
    }
    turns.clock += RATION;
    turns.fill(FLOOD, 1, false);
    assert_eq!(turns.end(), [Asked::Receive(FLOOD)]);
}

#[test]
fn whoever_had_buffers_goes_behind_those_who_found_none() {
    let mut turns = Turns::new();
    turns.fill(FLOOD, BUFFERS, true);
    turns.no_buffer(FLOOD);
    turns.no_buffer(OTHER_FLOOD);
    turns.no_buffer(LIGHT);
    assert_eq!(turns.end(), [Asked::Receive(OTHER_FLOOD), Asked::Receive(LIGHT), Asked::Once(FLOOD)]);
}

#[test]
fn floods_alone_with_each_other_take_turns() {
    let mut turns = Turns::new();
    turns.fill(OTHER_FLOOD, 2, true);
    assert_eq!(turns.end(), []);
    for _ in 0..5 {
        // What is asked for comes before what goes on.
        turns.fill(FLOOD, BUFFERS, true);
        turns.no_buffer(OTHER_FLOOD);
        assert_eq!(turns.end(), [Asked::Receive(OTHER_FLOOD)]);
        turns.fill(OTHER_FLOOD, BUFFERS, true);
        turns.no_buffer(FLOOD);
        assert_eq!(turns.end(), [Asked::Receive(FLOOD)]);
    }
}

#[test]
fn a_connection_that_begins_is_no_reason_to_ration_another() {
    let mut turns = Turns::new();
    turns.fill(FLOOD, BUFFERS, true);
    turns.no_buffer(OTHER_FLOOD);
    assert_eq!(turns.end(), [Asked::Receive(OTHER_FLOOD)]);
}

#[test]
fn a_part_of_the_buffers_is_no_flood() {
    let mut turns = Turns::new();
    let share = BUFFERS / RECV_BUFFER_PARTS;
    turns.fill(FLOOD, share, true);
    turns.no_buffer(LIGHT);
    assert_eq!(turns.end(), [Asked::Receive(LIGHT)]);
    turns.fill(FLOOD, share + 1, true);
    turns.no_buffer(LIGHT);
    assert_eq!(turns.end(), [Asked::Cancel(FLOOD), Asked::Receive(LIGHT)]);
}
