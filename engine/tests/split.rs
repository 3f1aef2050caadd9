//! Split invariance: however a stream is cut into buffers, the same lines come out, and they are the oracle's.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::buf::{BufferPool, RecvArena, class_bytes};
use engine::framing::{Foreign, Framing, LineDecoder, LineSink, feed_datagram};
use engine::route::LogId;
use engine::segment::{FileId, LogName};
use engine::shard::{
    Completion, ConnectionId, Datagrams, ListenerConfig, ListenerId, Newcomer, Op, Received, ReceivedDatagrams, Shard,
    ShardConfig, UdpId,
};
use engine::time::Time;
use engine::wire::Token;

use support::captures;
use support::hostile::{Random, hostile_bytes, pieces, random_cuts};
use support::oracle::{self, Oracle, Oversize};
use support::world::{Expected, config};

const T: &str = "2bfbea1e-10c3-4419-bdad-7e6435882e1f";
const U: &str = "00112233-4455-6677-8899-AABBCCDDEEFF";

// The decoder by itself.

/// What a sink was called with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Line(Vec<u8>, Option<Token>),
    First(Vec<u8>),
    Further(Vec<u8>),
}

/// Keeps all calls. Wants the pieces of every line that does not begin with `!`.
struct Recorder {
    calls: Vec<Call>,
    memory: BufferPool,
}

impl Recorder {
    fn new() -> Self {
        Self { calls: Vec::new(), memory: BufferPool::new(1 << 20) }
    }
}

impl LineSink for Recorder {
    fn line(&mut self, line: &[u8], token: Option<&Token>) {
        self.calls.push(Call::Line(line.to_vec(), token.copied()));
    }

    fn first_piece(&mut self, piece: &[u8]) -> bool {
        self.calls.push(Call::First(piece.to_vec()));
        piece[0] != b'!'
    }

    fn further_piece(&mut self, piece: &[u8]) {
        self.calls.push(Call::Further(piece.to_vec()));
    }

    fn memory(&mut self) -> &mut BufferPool {
        &mut self.memory
    }
}

/// The framings of a connection, in the engine's words and in the oracle's.
const FRAMINGS: [(Framing, oracle::Framing); 3] = [
    (Framing::Lf, oracle::Framing::Lf),
    (Framing::Octet, oracle::Framing::Octet),
    (Framing::Auto, oracle::Framing::Auto),
];

/// Feeds the pieces and ends in order; checks after each that the carry is no larger than it may be. Says what came out,
/// and how it ended: in order, with something dropped, or early.
fn decode(framing: Framing, pieces: &[&[u8]], limit: usize) -> (Vec<Call>, Result<bool, Foreign>) {
    let mut decoder = LineDecoder::new(framing);
    let mut sink = Recorder::new();
    let mut fed = Ok(());
    for piece in pieces {
        fed = decoder.feed(piece, limit, &mut sink);
        let carry = decoder.carry_class().map_or(0, class_bytes);
        assert!(carry <= 2 * (limit + 1) + 320, "a carry of {carry} bytes");
        if fed.is_err() {
            break;
        }
    }
    let end = fed.and_then(|()| decoder.finish(limit, &mut sink));
    decoder.abandon(&mut sink.memory);
    assert_eq!(sink.memory.used(), 0, "the decoder keeps memory");
    (sink.calls, end)
}

/// Bytes in which what matters to the decoder is frequent.
fn any_bytes(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(12) {
        match random.below(11) {
            0 => bytes.extend(random.text(&[b"\n", b"\r\n", b"\r", b"\r\r\n", b"\n\n"])),
            1 => bytes.extend(T.as_bytes()),
            2 => bytes.extend(&U.as_bytes()[..random.below(37)]),
            3 => bytes.extend(random.text(&[b"!", b" ", b"\t", b"\x16", b"\x16\x03", b"###LE-IAA###\n"])),
            4 => bytes.extend(random.text(&[b"GET / HTTP/1.1", b"POST /", b" HTTP/1.0\r"])),
            5 => bytes.extend(random.text(&[
                b"1 ",
                b"40 ",
                b"9",
                b"100 <1",
                b"0",
                b"9999999 ",
                b"12345678",
                b"3 \r\n\r",
            ])),
            6 => bytes.extend(format!("{} ", 1 + random.below(120)).into_bytes()),
            7 => {
                let filler = *random.pick(b"x\r-a");
                bytes.extend(std::iter::repeat_n(filler, random.below(250)));
            }
            _ => bytes.extend((0..random.below(40)).map(|_| *random.pick(b"\n\r !-0a\xff\0"))),
        }
    }
    bytes
}

/// All cuts, or cuts around every place that matters, or a few anywhere.
fn any_cuts(random: &mut Random, bytes: &[u8], limit: usize) -> Vec<usize> {
    let near = |at: usize| {
        let matters = |at: usize| matches!(bytes.get(at), Some(b'\n' | b'\r')) || at % limit <= 1;
        matters(at) || matters(at.wrapping_sub(1)) || matters(at + 1)
    };
    match random.below(4) {
        0 => (1..bytes.len()).collect(),
        1 => (1..bytes.len()).filter(|&at| near(at)).collect(),
        _ => random_cuts(random.next(), bytes.len(), 1 + random.below(8)),
    }
}

#[test]
fn cuts_change_no_call() {
    for seed in 0..30_000 {
        let mut random = Random::new(seed);
        let (framing, theirs) = *random.pick(&FRAMINGS);
        let limit = *random.pick(&[37, 38, 40, 64, 65, 100, 199, 200, 4096]);
        let bytes = if random.one_in(4) { hostile_bytes(theirs, seed, limit) } else { any_bytes(&mut random) };
        let whole = decode(framing, &[&bytes], limit);
        let cuts = any_cuts(&mut random, &bytes, limit);
        let cut = decode(framing, &pieces(&bytes, &cuts), limit);
        assert_eq!(cut, whole, "seed {seed}, {framing:?}, limit {limit}, cuts {cuts:?}");
    }
}

#[test]
fn cuts_inside_a_long_line_change_no_call() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let limit = 262_144;
        let mut bytes = any_bytes(&mut random);
        for _ in 0..2 {
            let length = limit - 2 + random.below(5);
            bytes.extend(std::iter::repeat_n(*random.pick(b"x\r"), length));
            bytes.extend(any_bytes(&mut random));
        }
        let framing = if random.one_in(2) { Framing::Lf } else { Framing::Octet };
        if framing == Framing::Octet {
            bytes = [format!("{} ", bytes.len() - random.below(5)).as_bytes(), &bytes].concat();
        }
        let whole = decode(framing, &[&bytes], limit);
        let mut cuts = random_cuts(seed, bytes.len(), 30);
        cuts.extend((limit - 4..limit + 4).chain(2 * limit - 4..2 * limit + 4).filter(|&at| at < bytes.len()));
        cuts.sort_unstable();
        cuts.dedup();
        assert!(decode(framing, &pieces(&bytes, &cuts), limit) == whole, "seed {seed}");
    }
}

#[test]
fn lines_cut_early_lose_no_byte() {
    for seed in 0..10_000 {
        let mut random = Random::new(seed);
        let limit = *random.pick(&[37, 64, 100, 4096]);
        let bytes: Vec<u8> = std::iter::repeat_with(|| any_bytes(&mut random)).take(2).flatten().collect();
        // No other protocol and no line whose pieces nobody wants: those are not to come back.
        let bytes: Vec<u8> = bytes.into_iter().filter(|&byte| byte != b'!').collect();
        let bytes = [b"begin\n", &bytes[..]].concat();
        let cuts = any_cuts(&mut random, &bytes, limit);
        let mut decoder = LineDecoder::default();
        let mut sink = Recorder::new();
        for piece in pieces(&bytes, &cuts) {
            decoder.feed(piece, limit, &mut sink).unwrap();
            if random.one_in(3) {
                decoder.cut_early(&mut sink);
                let left = decoder.carry_class();
                assert!(left.is_none_or(|class| class == 0), "seed {seed}: {left:?} is left of an early cut");
            }
        }
        decoder.finish(limit, &mut sink).unwrap();
        assert_eq!(sink.memory.used(), 0, "seed {seed}");
        assert_eq!(joined(&sink.calls, limit), lines(&bytes), "seed {seed}, limit {limit}, cuts {cuts:?}");
    }
}

/// The lines whose pieces these are.
fn joined(calls: &[Call], limit: usize) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for call in calls {
        let (Call::Line(piece, _) | Call::First(piece) | Call::Further(piece)) = call;
        assert!(piece.len() <= limit);
        match call {
            Call::Further(_) => lines.last_mut().unwrap().extend(piece),
            Call::Line(..) | Call::First(_) => lines.push(piece.clone()),
        }
    }
    lines
}

/// The lines of a stream, without the CR before each LF and at the end.
fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    if lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    lines.iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec()).collect()
}

// The whole shard, driven by hand: routing and removal count too.

/// One shard, with a network and a disk that answer at once. Files are compared and forgotten.
struct Bench {
    shard: Shard,
    arena: Rc<RecvArena>,
    logs: BTreeMap<u32, Token>,
    files: BTreeMap<Token, Vec<u8>>,
    clock: std::time::Duration,
}

impl Bench {
    fn new(config: ShardConfig) -> Self {
        let arena = RecvArena::new(1, 1 << 20);
        let clock = std::time::Duration::ZERO;
        let mut bench = Self { shard: Shard::new(config), arena, logs: BTreeMap::new(), files: BTreeMap::new(), clock };
        bench.end_turn();
        bench
    }

    /// A connection that sends these pieces and ends in order; then everything is in the files.
    fn connection(&mut self, pieces: &[&[u8]]) {
        let id = ConnectionId(0);
        let newcomer = Newcomer { id, from: None };
        self.handle(Completion::Accepted { listener: ListenerId(0), result: Ok(newcomer), more: true });
        self.end_turn();
        let mut open = true;
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            if open {
                let received = Received::Data(self.arena.fill(0, piece));
                self.handle(Completion::Received { connection: id, received, more: true });
                open = self.end_turn();
            }
        }
        if open {
            self.handle(Completion::Received { connection: id, received: Received::End, more: false });
            self.end_turn();
        }
        // The linger of the busiest log is over.
        self.clock += std::time::Duration::from_secs(1);
        self.end_turn();
        assert_eq!(self.shard.unstored_bytes(), 0);
    }

    fn now(&self) -> Time {
        Time::new(self.clock)
    }

    fn handle(&mut self, completion: Completion) {
        self.shard.handle(completion, self.now());
    }

    /// Does all that the shard asks for; says whether the connection is still open.
    fn end_turn(&mut self) -> bool {
        let mut open = true;
        loop {
            self.shard.end_turn(self.now());
            let mut answered = false;
            while let Some(op) = self.shard.poll_op() {
                open &= !matches!(op, Op::Close { .. });
                if let Some(completion) = self.answer(op) {
                    answered = true;
                    self.handle(completion);
                }
            }
            if !answered {
                return open;
            }
        }
    }

    fn answer(&mut self, op: Op) -> Option<Completion> {
        match op {
            Op::CancelReceive(connection) => {
                Some(Completion::Received { connection, received: Received::Cancelled, more: false })
            }
            Op::Close { connection, .. } => Some(Completion::Closed(connection)),
            Op::CreateSegment { log, name: LogName::Token(token), .. } => {
                self.logs.insert(log.0, token);
                Some(Completion::Opened { log, result: Ok(FileId(log.0)) })
            }
            Op::Write { log: LogId(log), buf, .. } => {
                self.files.entry(self.logs[&log]).or_default().extend(buf.rest());
                let result = Ok(buf.rest().len());
                Some(Completion::Written { log: LogId(log), buf, result })
            }
            Op::OpenJournal { .. } | Op::CreateJournal(_) => Some(Completion::JournalOpened(Ok(FileId(u32::MAX)))),
            Op::WriteJournal { buf, .. } => {
                let result = Ok(buf.rest().len());
                Some(Completion::JournalWritten { buf, result })
            }
            Op::Sync(sync) => Some(Completion::Synced { sync, result: Ok(()) }),
            Op::Accept(_)
            | Op::AcceptOne(_)
            | Op::Receive(_)
            | Op::ReceiveDatagrams { .. }
            | Op::Recycle(_)
            | Op::RecycleDatagrams(_)
            | Op::Index { .. }
            | Op::RemoveJournals(_)
            | Op::CloseSegment(_) => None,
            other => panic!("{other:?} has no place here"),
        }
    }

    /// What has reached the files since the last call, by token.
    fn take_files(&mut self) -> BTreeMap<String, Vec<u8>> {
        let files = std::mem::take(&mut self.files);
        files.into_iter().map(|(token, bytes)| (token.to_string(), bytes)).collect()
    }
}

#[test]
fn captures_cut_anywhere_equal_the_oracle() {
    let mut cases = 0;
    for (theirs, capture) in captures::streams() {
        let mut config = config(262_144);
        config.buffer_bytes = 64 << 20;
        config.logs.segment.bytes = u64::MAX;
        let ours =
            FRAMINGS.into_iter().filter(|(_, named)| *named == theirs).map(|(ours, _)| ListenerConfig::plain(ours));
        config.listeners = ours.collect();
        let mut bench = Bench::new(config);
        let mut one = Expected::of(theirs);
        one.add_whole(&capture.bytes, 262_144, Oversize::Split);
        // Every cut of a long stream is tried with the framing that it was sent in.
        let step = if theirs == oracle::Framing::Auto { capture.bytes.len().div_ceil(2000).max(1) } else { 1 };
        let cuts: Vec<usize> = (0..=capture.bytes.len()).step_by(step).collect();
        for &at in &cuts {
            let (left, right) = capture.bytes.split_at(at);
            bench.connection(&[left, right]);
            let files = bench.take_files();
            assert!(files == one.logs, "{theirs:?}: {} cut at {at}", capture.name);
        }
        cases += cuts.len();
        one.assert_counted_times(&bench.shard.counters(), cuts.len() as u64, &capture.name);
    }
    assert!(cases > 250_000, "{cases}");
}

#[test]
fn hostile_streams_cut_anywhere_equal_the_oracle() {
    for seed in 0..4000 {
        let mut random = Random::new(seed);
        let (framing, theirs) = *random.pick(&FRAMINGS);
        // The default limit makes streams of megabytes: fewer of them.
        let limit = if seed % 40 == 0 { 262_144 } else { *random.pick(&[64, 100, 4096]) };
        let stream = hostile_bytes(theirs, seed, limit);
        let mut config = config(limit);
        config.buffer_bytes = 64 << 20;
        config.listeners = vec![ListenerConfig::plain(framing)];
        let mut expected = Expected::of(theirs);
        expected.add_whole(&stream, limit, Oversize::Split);
        let mut bench = Bench::new(config);
        let cuts = random_cuts(seed, stream.len(), *random.pick(&[1, 10, 1000]));
        let pieces = pieces(&stream, &cuts);
        let pieces: Vec<&[u8]> = pieces.iter().flat_map(|piece| piece.chunks(1 << 20)).collect();
        bench.connection(&pieces);
        let case = format!("seed {seed}, {framing:?}, limit {limit}");
        assert!(bench.take_files() == expected.logs, "{case}");
        expected.assert_counted(&bench.shard.counters(), &case);
    }
}

/// What the oracle calls lines, before anything is routed.
#[test]
fn lines_of_a_datagram_are_joined_as_the_oracle_says() {
    for seed in 0..5000 {
        let mut random = Random::new(seed);
        let bytes =
            if random.one_in(2) { any_bytes(&mut random) } else { hostile_bytes(oracle::Framing::Udp, seed, 300) };
        let mut sink = Recorder::new();
        feed_datagram(&bytes, 1 << 20, &mut sink);
        assert_eq!(sink.memory.used(), 0, "seed {seed}");
        let called = sink.calls.iter().map(|call| match call {
            Call::Line(line, _) => line.clone(),
            other => panic!("seed {seed}: {other:?} of a line below the limit"),
        });
        let wanted = Oracle::lines_of_datagram(&bytes).into_iter().map(|line| {
            let parts: Vec<&[u8]> = line.split(|&byte| byte == b'\n').collect();
            parts.join("\u{2028}".as_bytes())
        });
        assert!(called.eq(wanted), "seed {seed}");
    }
}

/// Datagrams have about as much of a turn as connections, and all of it while those are silent.
#[test]
fn datagrams_leave_connections_their_half_of_a_turn() {
    let mut config = config(4096);
    (config.udp_sockets, config.udp_buffers) = (1, 256);
    let mut bench = Bench::new(config);
    let id = ConnectionId(0);
    bench.handle(Completion::Accepted { listener: ListenerId(0), result: Ok(Newcomer { id, from: None }), more: true });
    bench.end_turn();
    let arena = RecvArena::new(256, 4096);
    for index in 0..256 {
        let datagrams = Datagrams { buf: arena.fill(index, &[b'x'; 1024]), each: 1024, drops: None };
        let received = ReceivedDatagrams::Data(datagrams);
        bench.handle(Completion::Datagrams { socket: UdpId(0), received, more: true });
    }
    // A datagram counts as two kilobytes of a connection, and 32 of them are taken in any case.
    for (bytes, taken) in [(1000, 32), (100 << 10, 82), (1 << 20, 256)] {
        let received = Received::Data(bench.arena.fill(0, &vec![b'\n'; bytes]));
        bench.handle(Completion::Received { connection: id, received, more: true });
        bench.shard.end_turn(bench.now());
        assert_eq!(bench.shard.counters().udp_datagrams, taken, "{bytes} bytes of a connection");
        assert_eq!(bench.shard.timeout(), (taken < 256).then_some(bench.now()), "what waits goes on at once");
        while bench.shard.poll_op().is_some() {}
    }
}
