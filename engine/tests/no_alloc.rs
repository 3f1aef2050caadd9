//! In steady state a shard allocates nothing: not per entry, not per line across buffers, not per write.
//!
//! A counting allocator watches the calls into the shard and nothing else; the buffers and answers of the driver's side
//! are this file's own.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(unsafe_code, reason = "an allocator is an unsafe trait")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use engine::buf::{BufferPool, RecvArena};
use engine::framing::{Framing, LineDecoder, LineSink};
use engine::segment::FileId;
use engine::shard::{
    Completion, ConnectionId, Datagrams, ListenerConfig, ListenerId, Newcomer, Op, Received, ReceivedDatagrams, Shard,
    UdpId,
};
use engine::time::Time;
use engine::tls::Session;
use engine::wire::Token;
use rustls::version::{TLS12, TLS13};

use support::hostile::{Random, pieces, random_cuts};
use support::tls::{self, Authority, Client};
use support::world::{config, token};

const CONNECTIONS: u32 = 32;
const LOGS: u32 = 100;
const BUFFERS: u16 = 64;
const BUFFER_BYTES: usize = 4096;

/// Turns until every queue and every size class has been as full as this load makes it.
const WARM_UP_TURNS: usize = 300_000;

struct Counting;

thread_local! {
    static COUNTS: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // While a thread ends its counters may be gone; nothing is measured then.
    if COUNTS.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of the heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's duties are those of `System::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's duties are those of `System::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's duties are those of `System::realloc`; the memory came from `System`.
        unsafe { System.realloc(memory, layout, bytes) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the memory came from `System` with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls into the shard, watched.
fn watched<T>(call: impl FnOnce() -> T) -> T {
    COUNTS.set(true);
    let result = call();
    COUNTS.set(false);
    result
}

/// A shard and the simplest driver: every operation is answered in the next turn.
struct Driver {
    shard: Shard,
    arena: Rc<RecvArena>,
    free: Vec<u16>,
    udp_arena: Rc<RecvArena>,
    udp_free: Vec<u16>,
    answers: VecDeque<Completion>,
    clock: Duration,
    streams: Vec<Vec<u8>>,
    sent: Vec<usize>,
    batches_short: bool,
}

impl Driver {
    fn new() -> Self {
        let mut config = config(2000);
        config.recv_buffers = usize::from(BUFFERS);
        config.listeners = vec![ListenerConfig::plain(Framing::Lf), ListenerConfig::plain(Framing::Octet)];
        config.udp_sockets = 1;
        config.udp_buffers = usize::from(BUFFERS);
        let accepted = |id| {
            let listener = ListenerId(u32::from(counts_octets(id)));
            let newcomer = Newcomer { id: ConnectionId(id), from: None };
            Completion::Accepted { listener, result: Ok(newcomer), more: true }
        };
        Self {
            shard: Shard::new(config),
            arena: RecvArena::new(BUFFERS, BUFFER_BYTES),
            free: (0..BUFFERS).collect(),
            udp_arena: RecvArena::new(BUFFERS, BUFFER_BYTES),
            udp_free: (0..BUFFERS).collect(),
            answers: (0..CONNECTIONS).map(accepted).collect(),
            clock: Duration::ZERO,
            streams: (0..CONNECTIONS).map(stream).collect(),
            sent: vec![0; CONNECTIONS as usize],
            batches_short: false,
        }
    }

    /// Some connections bring bytes, everything asked for before is answered.
    fn turn(&mut self, random: &mut Random) {
        self.clock += Duration::from_micros(500);
        let now = Time::new(self.clock);
        while let Some(answer) = self.answers.pop_front() {
            watched(|| self.shard.handle(answer, now));
        }
        for _ in 0..random.below(16) {
            if let Some(index) = self.free.pop() {
                let connection = random.below(CONNECTIONS as usize);
                let received = Received::Data(self.next_bytes(index, connection, random));
                let connection = ConnectionId(u32::try_from(connection).unwrap());
                watched(|| self.shard.handle(Completion::Received { connection, received, more: true }, now));
            }
        }
        for _ in 0..random.below(8) {
            if let Some(index) = self.udp_free.pop() {
                let connection = random.below(CONNECTIONS as usize);
                let stream = &self.streams[connection];
                let from = random.below(stream.len());
                let buf = self.udp_arena.fill(index, &stream[from..stream.len().min(from + BUFFER_BYTES)]);
                let each = *random.pick(&[64, 256, 1000, BUFFER_BYTES]);
                let datagrams = Datagrams { each, buf, drops: Some(7) };
                let received = ReceivedDatagrams::Data(datagrams);
                let completion = Completion::Datagrams { socket: UdpId(0), received, more: true };
                watched(|| self.shard.handle(completion, now));
            }
        }
        watched(|| self.shard.end_turn(now));
        while let Some(op) = watched(|| self.shard.poll_op()) {
            self.take(op);
        }
    }

    /// The next bytes of a connection's endless stream, cut anywhere.
    fn next_bytes(&mut self, index: u16, connection: usize, random: &mut Random) -> engine::buf::RecvBuf {
        let stream = &self.streams[connection];
        let from = self.sent[connection];
        let count = (1 + random.below(BUFFER_BYTES)).min(stream.len() - from);
        self.sent[connection] = (from + count) % stream.len();
        self.arena.fill(index, &stream[from..from + count])
    }

    fn take(&mut self, op: Op) {
        match op {
            Op::Recycle(buf) => self.free.push(buf.index()),
            Op::RecycleDatagrams(buf) => self.udp_free.push(buf.index()),
            Op::CreateSegment { log, .. } => {
                self.answers.push_back(Completion::Opened { log, result: Ok(FileId(log.0)) });
            }
            Op::Write { log, buf, .. } => {
                // Every other write is short.
                self.batches_short = !self.batches_short;
                let length = buf.rest().len();
                let result = Ok(if self.batches_short { length.div_ceil(2) } else { length });
                self.answers.push_back(Completion::Written { log, buf, result });
            }
            Op::OpenJournal { .. } | Op::CreateJournal(_) => {
                self.answers.push_back(Completion::JournalOpened(Ok(FileId(LOGS))));
            }
            Op::WriteJournal { buf, .. } => {
                let result = Ok(buf.rest().len());
                self.answers.push_back(Completion::JournalWritten { buf, result });
            }
            Op::Sync(sync) => self.answers.push_back(Completion::Synced { sync, result: Ok(()) }),
            // A block of an index takes a place in a queue that is there already.
            Op::CloseSegment(FileId(LOGS))
            | Op::RemoveJournals(_)
            | Op::Index { .. }
            | Op::Accept(_)
            | Op::AcceptOne(_)
            | Op::Receive(_)
            | Op::ReceiveOnce(_)
            | Op::ReceiveDatagrams { .. } => {}
            other => panic!("{other:?} has no place here"),
        }
    }
}

fn counts_octets(connection: u32) -> bool {
    connection.is_multiple_of(2)
}

/// A stream that begins anew at its end: short lines, lines across buffers, lines past the limit, rejected ones.
fn stream(connection: u32) -> Vec<u8> {
    let mut random = Random::new(u64::from(connection));
    let mut stream = Vec::new();
    for _ in 0..400 {
        let token = token(u32::try_from(random.below(LOGS as usize)).unwrap());
        let words_max = if random.one_in(50) { 900 } else { 60 };
        let words = "word ".repeat(random.below(words_max));
        let line = match random.below(8) {
            0 => format!("<13>host app: {token} {words}\r\n"),
            1 => format!("{words}{token}\n"),
            2 => format!("no token {words}\n"),
            _ => format!("{token} {words}\n"),
        };
        if counts_octets(connection) {
            let line = line.replacen("word ", "word\n", random.below(3));
            stream.extend(format!("{} {line}", line.len()).into_bytes());
        } else {
            stream.extend(line.into_bytes());
        }
    }
    stream
}

#[test]
fn a_warm_shard_allocates_nothing() {
    let mut driver = Driver::new();
    let mut random = Random::new(1);
    for _ in 0..WARM_UP_TURNS {
        driver.turn(&mut random);
    }
    let before = driver.shard.counters();
    ALLOCATIONS.set(0);
    for _ in 0..20_000 {
        driver.turn(&mut random);
    }
    let after = driver.shard.counters();
    assert!(after.entries - before.entries > 100_000, "{} entries", after.entries - before.entries);
    assert!(after.batches - before.batches > 10_000, "{} batches", after.batches - before.batches);
    assert!(after.split_pieces > before.split_pieces);
    assert!(after.udp_lines - before.udp_lines > 100_000, "{} lines of datagrams", after.udp_lines - before.udp_lines);
    assert_eq!(ALLOCATIONS.get(), 0, "allocations in 20,000 turns");
}

/// Takes lines and forgets them.
struct Nobody(BufferPool);

impl LineSink for Nobody {
    fn line(&mut self, _line: &[u8], _token: Option<&Token>) {}

    fn first_piece(&mut self, _piece: &[u8]) -> bool {
        false
    }

    fn further_piece(&mut self, _piece: &[u8]) {}

    fn memory(&mut self) -> &mut BufferPool {
        &mut self.0
    }
}

/// The TLS library copies the payload of each record into memory of its own. Nothing else allocates.
#[test]
fn an_open_tls_session_allocates_once_a_record() {
    let authority = Authority::new();
    let server = tls::server(&[&authority.pair("localhost", tls::ECDSA)]);
    for version in [&TLS12, &TLS13] {
        let mut client = Client::new(&Arc::new(authority.client(&[version])), "localhost");
        let (mut session, mut sink) = (Session::new(&server), Nobody(BufferPool::new(1 << 20)));
        let mut decoder = LineDecoder::new(Framing::Lf);
        let mut receive = |session: &mut Session, sink: &mut Nobody, wire: &mut [u8]| {
            session.receive(wire, &mut decoder, 2000, sink).unwrap();
            if session.has_hello() {
                session.begin(&mut decoder, 2000, sink).unwrap();
            }
        };
        while session.is_handshaking() {
            receive(&mut session, &mut sink, &mut client.take());
            while let Some(buf) = session.outgoing() {
                client.give(buf.rest()).unwrap();
                sink.0.give(buf);
            }
        }
        let text = stream(1);
        let mut random = Random::new(1);
        let mut records = 0;
        for round in 0..50 {
            if round == 10 {
                ALLOCATIONS.set(0);
                records = 0;
            }
            let cuts = random_cuts(round, text.len(), 200);
            let wire = client.seal(&pieces(&text, &cuts));
            records += cuts.len() as u64 + 1;
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(1 + random.below(BUFFER_BYTES)));
                let mut now = now.to_vec();
                watched(|| receive(&mut session, &mut sink, &mut now));
                rest = later;
            }
        }
        assert!(records > 1000);
        assert_eq!(ALLOCATIONS.get(), records);
    }
}

#[test]
fn the_watch_sees_allocations() {
    ALLOCATIONS.set(0);
    drop(black_box(Vec::<u8>::with_capacity(100)));
    assert_eq!(ALLOCATIONS.get(), 0);
    drop(watched(|| black_box(Vec::<u8>::with_capacity(100))));
    assert_eq!(ALLOCATIONS.get(), 1);
}
