//! Any bytes, in any pieces: the core stores and counts what the oracle says.
//!
//! One shard, driven by hand: no kernel, no clock, files are vectors. Every stream is one connection, fed in pieces; the
//! shard is then drained. Writes come back short at times, so that batches end anywhere as well.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use engine::buf::RecvArena;
use engine::segment::{FileId, Offset, Position};
use engine::shard::{
    Command, Completion, ConnectionId, ListenerId, LogLimits, Op, Outcome, Oversize, Received, Shard, ShardConfig,
};
use engine::time::Time;
use engine::wire::{Reject, Token};

use support::captures;
use support::hostile::{Random, hostile_stream, pieces, random_cuts};
use support::oracle::{self, Oracle};

const LINE_BYTES_MAX: usize = 262_144;
const RECV_BUFFER_BYTES: usize = 64 * 1024;
const CONNECTION: ConnectionId = ConnectionId(0);
const LISTENER: ListenerId = ListenerId(0);

fn config(line_bytes_max: usize, oversize: Oversize) -> ShardConfig {
    ShardConfig {
        line_bytes_max,
        oversize,
        buffer_bytes: 64 << 20,
        connections_max: 16,
        drain_timeout: Duration::from_secs(10),
        listeners: 1,
        recv_buffers: 16,
        logs: LogLimits {
            linger: Duration::from_millis(5),
            // Small, so that logs roll.
            segment_bytes: 8 * line_bytes_max as u64,
            tokens_max: 1_000_000,
            open_files_max: 1024,
        },
    }
}

/// A driver without a kernel.
struct Harness {
    shard: Shard,
    arena: Rc<RecvArena>,
    random: Random,
    now: Duration,
    /// Segments in the order of their creation; a file's number is its index.
    files: Vec<(Token, Offset, Vec<u8>)>,
    answers: VecDeque<Completion>,
    receiving: bool,
    closed: bool,
}

impl Harness {
    fn new(arena: &Rc<RecvArena>, config: ShardConfig, seed: u64) -> Self {
        let mut harness = Self {
            shard: Shard::new(config),
            arena: Rc::clone(arena),
            random: Random::new(seed),
            now: Duration::ZERO,
            files: Vec::new(),
            answers: VecDeque::new(),
            receiving: false,
            closed: false,
        };
        harness.turn();
        harness.answer(Completion::Accepted { listener: LISTENER, result: Ok(CONNECTION), more: true });
        harness
    }

    fn answer(&mut self, completion: Completion) {
        self.answers.push_back(completion);
        self.turn();
    }

    /// Everything that can happen now happens; the clock moves on by a little.
    fn turn(&mut self) {
        loop {
            self.now += Duration::from_micros(100);
            let now = Time::new(self.now);
            while let Some(completion) = self.answers.pop_front() {
                self.shard.handle(completion, now);
            }
            self.shard.end_turn(now);
            while let Some(op) = self.shard.poll_op() {
                self.execute(op);
            }
            if self.answers.is_empty() {
                return;
            }
        }
    }

    fn execute(&mut self, op: Op) {
        let answer = match op {
            Op::CancelAccept(listener) => {
                Completion::Accepted { listener, result: Err(io::ErrorKind::Interrupted.into()), more: false }
            }
            Op::AcceptRest(listener) => {
                Completion::Accepted { listener, result: Err(io::ErrorKind::WouldBlock.into()), more: false }
            }
            Op::Receive(_) => {
                self.receiving = true;
                return;
            }
            Op::CancelReceive(connection) => {
                self.receiving = false;
                let received = Received::Failed(io::ErrorKind::Interrupted.into());
                Completion::Received { connection, received, more: false }
            }
            Op::Close { connection, .. } => {
                self.closed = true;
                Completion::Closed(connection)
            }
            Op::CreateSegment { log, token, base } => {
                self.files.push((token, base, Vec::new()));
                Completion::Opened { log, result: Ok(FileId(u32::try_from(self.files.len() - 1).unwrap())) }
            }
            Op::Write { log, file, position, buf } => {
                let content = &mut self.files[file.0 as usize].2;
                assert_eq!(position, Position(content.len() as u64), "writes leave no hole and overwrite nothing");
                let short = self.random.one_in(3) && buf.rest().len() > 1;
                let count = if short { 1 + self.random.below(buf.rest().len() - 1) } else { buf.rest().len() };
                content.extend(&buf.rest()[..count]);
                Completion::Written { log, buf, result: Ok(count) }
            }
            Op::Recycle(buf) => return drop(buf),
            Op::Accept(_) | Op::RefuseNew(_) | Op::CloseListener(_) | Op::Shutdown(..) | Op::CloseSegment(_) => return,
            Op::OpenSegment { .. } => unreachable!("no segment is older than the shard"),
        };
        self.answers.push_back(answer);
    }

    /// Feeds one connection's stream, ends it in order, and drains the shard.
    fn stream(mut self, stream: &[&[u8]]) -> (Outcome, BTreeMap<String, Vec<u8>>) {
        for piece in stream.iter().flat_map(|piece| piece.chunks(RECV_BUFFER_BYTES)) {
            if !self.receiving {
                break; // Another protocol: it hung up.
            }
            let received = Received::Data(self.arena.fill(0, piece));
            self.answer(Completion::Received { connection: CONNECTION, received, more: true });
        }
        if self.receiving {
            self.answer(Completion::Received { connection: CONNECTION, received: Received::End, more: false });
        }
        assert!(self.closed, "the connection is not closed after its end");
        self.answer(Completion::Command(Command::Drain));
        for _ in 0..1000 {
            if let Some(outcome) = self.shard.outcome() {
                return (outcome, self.logs());
            }
            self.now += Duration::from_millis(1);
            self.turn();
        }
        panic!("the drain does not end");
    }

    fn logs(&self) -> BTreeMap<String, Vec<u8>> {
        let mut logs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (token, base, content) in &self.files {
            let log = logs.entry(token.to_string()).or_default();
            assert_eq!(*base, Offset(log.len() as u64), "a gap or an overlap between segments");
            log.extend(content);
        }
        logs
    }
}

/// Streams that are fed to fresh shards, and what the oracle says of them.
struct Check {
    arena: Rc<RecvArena>,
    config: ShardConfig,
    oracle: Oracle,
    name: String,
}

impl Check {
    fn new(arena: &Rc<RecvArena>, name: &str, stream: &[u8], line_bytes_max: usize, oversize: Oversize) -> Self {
        let oracle_oversize = match oversize {
            Oversize::Split => oracle::Oversize::Split,
            Oversize::Truncate => oracle::Oversize::Truncate,
        };
        let mut oracle = Oracle::new(line_bytes_max, oracle_oversize);
        oracle.stream_lf(stream);
        Self { arena: Rc::clone(arena), config: config(line_bytes_max, oversize), oracle, name: name.to_owned() }
    }

    #[track_caller]
    fn pieces(&self, seed: u64, stream: &[&[u8]]) {
        let (outcome, stored) = Harness::new(&self.arena, self.config, seed).stream(stream);
        let cuts: Vec<usize> = stream.iter().map(|piece| piece.len()).take(40).collect();
        let name = format!("{}, pieces {cuts:?}, seed {seed}", self.name);
        assert!(stored.keys().eq(self.oracle.entries.keys()), "{name}: other logs");
        for (token, bytes) in &stored {
            assert!(*bytes == self.oracle.log_bytes(token), "{name}: {token} differs");
        }
        assert_eq!(outcome.unstored_bytes, 0, "{name}");
        self.counters(&outcome, &name);
    }

    #[track_caller]
    fn counters(&self, outcome: &Outcome, name: &str) {
        let (ours, theirs) = (&outcome.counters, &self.oracle.counters);
        let expected = [
            (ours.lines, theirs.lines()),
            (ours.entries, theirs.entries),
            (ours.entry_bytes, self.oracle.entry_bytes()),
            (ours.split_lines, theirs.split),
            (ours.split_pieces, theirs.pieces),
            (ours.rejected(Reject::Empty), theirs.empty),
            (ours.rejected(Reject::Keepalive), theirs.keepalive),
            (ours.rejected(Reject::NoToken), theirs.no_token),
            (ours.rejected(Reject::Http), theirs.http),
            (ours.rejected(Reject::TlsOnPlain), theirs.tls_on_plain),
            (ours.rejected(Reject::TooManyTokens) + ours.rejected(Reject::Cut), 0),
        ];
        let (ours, theirs): (Vec<u64>, Vec<u64>) = expected.into_iter().unzip();
        assert_eq!(ours, theirs, "{name}: counters");
    }
}

fn arena() -> Rc<RecvArena> {
    RecvArena::new(1, RECV_BUFFER_BYTES)
}

#[test]
fn captures_whole_and_byte_by_byte() {
    let arena = arena();
    for capture in captures::lf() {
        let check = Check::new(&arena, &capture.name, &capture.bytes, LINE_BYTES_MAX, Oversize::Split);
        check.pieces(0, &[&capture.bytes]);
        let bytes: Vec<&[u8]> = capture.bytes.chunks(1).collect();
        check.pieces(1, &bytes);
    }
}

#[test]
fn captures_cut_at_every_byte() {
    let arena = arena();
    for capture in captures::lf() {
        let check = Check::new(&arena, &capture.name, &capture.bytes, LINE_BYTES_MAX, Oversize::Split);
        // The large ones are mostly one letter, a hundred times as long as the others: a few hundred cuts of each.
        let step = 1 + capture.bytes.len() / 1000;
        for at in (1..capture.bytes.len()).step_by(step) {
            let (left, right) = capture.bytes.split_at(at);
            check.pieces(at as u64, &[left, right]);
        }
    }
}

#[test]
fn hostile_streams_in_any_cuts() {
    let arena = arena();
    for line_bytes_max in [64, 65, 100, 4096] {
        for seed in 0..300 {
            let stream = hostile_stream(seed, line_bytes_max);
            let oversize = if seed % 4 == 0 { Oversize::Truncate } else { Oversize::Split };
            let name = format!("seed {seed}, limit {line_bytes_max}");
            let check = Check::new(&arena, &name, &stream, line_bytes_max, oversize);
            check.pieces(seed, &[&stream]);
            for (round, n) in [3, 30, 300].into_iter().enumerate() {
                let cuts = random_cuts(seed * 8 + round as u64, stream.len(), n);
                check.pieces(seed, &pieces(&stream, &cuts));
            }
            check.pieces(seed, &stream.chunks(1).collect::<Vec<_>>());
        }
    }
}

#[test]
fn hostile_streams_with_the_default_limit() {
    let arena = arena();
    for seed in 1000..1060 {
        let stream = hostile_stream(seed, LINE_BYTES_MAX);
        let check = Check::new(&arena, &format!("seed {seed}"), &stream, LINE_BYTES_MAX, Oversize::Split);
        check.pieces(seed, &[&stream]);
        check.pieces(seed, &pieces(&stream, &random_cuts(seed, stream.len(), 500)));
    }
}
