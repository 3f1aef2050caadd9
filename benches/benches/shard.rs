//! One whole turn of a shard, without a kernel: a receive buffer from each of eight connections, through scan, routing
//! and staging, to the writes that it asks for.
//!
//! Completions are made by hand. Filling the buffers is not timed, but happens just before, as it does when a kernel
//! fills them; a write is answered as complete in the next turn. What is cut off at the end of a buffer goes on in the
//! connection's next one. When the time is over, every entry must have been counted and every byte come out in a write.

#![expect(clippy::disallowed_methods, reason = "it times parts of a loop")]

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use benches::Place;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::buf::{RecvArena, RecvBuf};
use engine::framing::Framing;
use engine::handover::ShardId;
use engine::route::Ownership;
use engine::segment::{FileId, SegmentLimits};
use engine::shard::{
    Allowance, Command, Completion, ConnectionId, JournalStart, ListenerConfig, ListenerId, LogLimits, Newcomer, Op,
    Oversize, PerAddress, Received, Shard, ShardConfig, SyncLevel,
};
use engine::time::Time;

const CONNECTIONS: u32 = 8;
const RECV_BYTES: usize = 64 * 1024;
/// Not a multiple of any line: most buffers end inside one.
const PIECE_BYTES: usize = RECV_BYTES - 100;
/// Between two turns, as under full load.
const TURN: Duration = Duration::from_micros(200);

struct Job {
    name: &'static str,
    line_bytes: usize,
    logs: usize,
    place: Place,
    /// Whether each connection writes to one log of its own; else each writes to all in turn.
    own_logs: bool,
}

const fn job(name: &'static str, line_bytes: usize, logs: usize, place: Place) -> Job {
    Job { name, line_bytes, logs, place, own_logs: false }
}

const JOBS: [Job; 6] = [
    job("256B/100_logs/first", 256, 100, Place::First),
    job("256B/100_logs/middle", 256, 100, Place::Middle),
    Job { own_logs: true, ..job("256B/own_log/first", 256, CONNECTIONS as usize, Place::First) },
    job("256B/10000_logs/first", 256, 10_000, Place::First),
    job("1KiB/10_logs/first", 1024, 10, Place::First),
    job("64B/1000_logs/first", 64, 1_000, Place::First),
];

fn config() -> ShardConfig {
    ShardConfig {
        id: ShardId(0),
        ownership: Ownership::over(1),
        line_bytes_max: 256 << 10,
        oversize: Oversize::Split,
        buffer_bytes: 64 << 20,
        connections: Allowance::new(1_000),
        per_address: PerAddress::new(0),
        drain_timeout: Duration::ZERO,
        listeners: vec![ListenerConfig::plain(Framing::Lf)],
        tls: Vec::new(),
        handshakes_max: 1,
        udp_sockets: 0,
        udp_buffers: 0,
        udp_creates: false,
        recv_buffers: 256,
        logs: LogLimits {
            linger: Duration::from_millis(5),
            segment: SegmentLimits { bytes: u64::MAX, age: Duration::MAX },
            tokens: Allowance::new(100_000),
            known: None,
            rejected: None,
            open_files_max: 100_000,
        },
        journal: JournalStart::first(),
        sync: SyncLevel::Interval(Duration::from_secs(1)),
    }
}

/// A shard and the simplest driver.
struct Driver {
    shard: Shard,
    arena: Rc<RecvArena>,
    free: Vec<u16>,
    answers: VecDeque<Completion>,
    received: Vec<RecvBuf>,
    streams: Vec<Vec<u8>>,
    sent: Vec<usize>,
    sent_bytes: u64,
    written_bytes: u64,
    clock: Duration,
}

impl Driver {
    fn new(job: &Job) -> Self {
        let buffers = u16::try_from(2 * CONNECTIONS).expect("a few");
        let newcomer = |id| Newcomer { id: ConnectionId(id), from: None };
        let accepted = |id| Completion::Accepted { listener: ListenerId(0), result: Ok(newcomer(id)), more: true };
        let tokens = benches::tokens(job.logs);
        let stream = |connection| {
            let first = connection * job.logs / CONNECTIONS as usize;
            let (tokens, first) = if job.own_logs { (&tokens[first..=first], 0) } else { (&tokens[..], first) };
            let mut stream = benches::lines_of_logs(tokens, first, job.line_bytes, job.place);
            // A piece that begins near the end goes on at the beginning.
            stream.extend_from_within(..PIECE_BYTES);
            stream
        };
        Self {
            shard: Shard::new(config()),
            arena: RecvArena::new(buffers, RECV_BYTES),
            free: (0..buffers).collect(),
            answers: (0..CONNECTIONS).map(accepted).collect(),
            received: Vec::new(),
            streams: (0..CONNECTIONS as usize).map(stream).collect(),
            sent: vec![0; CONNECTIONS as usize],
            sent_bytes: 0,
            written_bytes: 0,
            clock: Duration::ZERO,
        }
    }

    /// Fills a buffer for each connection from its stream, which begins anew at its end.
    fn receive(&mut self) {
        for (stream, sent) in self.streams.iter().zip(&mut self.sent) {
            let index = self.free.pop().expect("every buffer came back in the turn before");
            self.received.push(self.arena.fill(index, &stream[*sent..*sent + PIECE_BYTES]));
            self.sent_bytes += PIECE_BYTES as u64;
            *sent = (*sent + PIECE_BYTES) % (stream.len() - PIECE_BYTES);
        }
    }

    fn turn(&mut self) {
        self.clock += TURN;
        let now = Time::new(self.clock);
        while let Some(answer) = self.answers.pop_front() {
            self.shard.handle(answer, now);
        }
        for (connection, buf) in (0..).zip(self.received.drain(..)) {
            let (connection, received) = (ConnectionId(connection), Received::Data(buf));
            self.shard.handle(Completion::Received { connection, received, more: true }, now);
        }
        self.shard.end_turn(now);
        while let Some(op) = self.shard.poll_op() {
            match op {
                Op::Recycle(buf) => self.free.push(buf.index()),
                Op::Write { log, buf, .. } => {
                    self.written_bytes += buf.rest().len() as u64;
                    let result = Ok(buf.rest().len());
                    self.answers.push_back(Completion::Written { log, buf, result });
                }
                Op::CreateSegment { log, .. } => {
                    self.answers.push_back(Completion::Opened { log, result: Ok(FileId(log.0)) });
                }
                Op::OpenJournal { .. } | Op::CreateJournal(_) => {
                    self.answers.push_back(Completion::JournalOpened(Ok(FileId(u32::MAX))));
                }
                Op::WriteJournal { buf, .. } => {
                    let result = Ok(buf.rest().len());
                    self.answers.push_back(Completion::JournalWritten { buf, result });
                }
                Op::Sync(sync) => self.answers.push_back(Completion::Synced { sync, result: Ok(()) }),
                Op::Close { connection, .. } => self.answers.push_back(Completion::Closed(connection)),
                _ => {}
            }
        }
    }

    /// Timed turns.
    fn turns(&mut self, count: u64) -> Duration {
        let mut spent = Duration::ZERO;
        for _ in 0..count {
            self.receive();
            let start = Instant::now();
            self.turn();
            spent += start.elapsed();
        }
        spent
    }

    /// Lets everything out and compares what came in with what came out.
    fn check(&mut self, line_bytes: usize) {
        for connection in (0..CONNECTIONS).map(ConnectionId) {
            self.answers.push_back(Completion::Received { connection, received: Received::End, more: false });
        }
        self.answers.push_back(Completion::Command(Command::Drain));
        while self.shard.unstored_bytes() > 0 || !self.answers.is_empty() {
            self.turn();
        }
        let counters = self.shard.counters();
        assert_eq!(counters.received_bytes, self.sent_bytes);
        // The last line of each connection is incomplete: an entry, or too short for a token.
        let whole = self.sent_bytes / u64::from(CONNECTIONS) / line_bytes as u64 * u64::from(CONNECTIONS);
        assert!((whole..=whole + u64::from(CONNECTIONS)).contains(&counters.entries));
        assert_eq!(self.written_bytes, counters.entry_bytes);
    }
}

fn shard_benches(criterion: &mut Criterion) {
    for job in JOBS {
        let mut driver = Driver::new(&job);
        // All logs exist, and every size class has been in use, before the first turn that counts.
        driver.turns(4 * (driver.streams[0].len() / PIECE_BYTES) as u64);
        let mut group = criterion.benchmark_group("shard");
        group.throughput(Throughput::Elements(u64::from(CONNECTIONS) * PIECE_BYTES as u64 / job.line_bytes as u64));
        group.bench_function(job.name, |bencher| bencher.iter_custom(|turns| driver.turns(turns)));
        group.finish();
        driver.check(job.line_bytes);
    }
}

criterion_group!(benches, shard_benches);
criterion_main!(benches);
