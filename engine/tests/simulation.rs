//! The shard in a simulated world: hostile streams, short and failing operations, resets, full disks, drains at any
//! moment. Whatever happens, the files equal the oracle's word and nothing is lost.
//!
//! `ENGINE_SIM_SEED=n` replays one seed, `ENGINE_SIM_SEEDS=n` sets how many the sweep runs.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use engine::driver::sim::{Ending, Fault, Faults, PeerId, Sim, When};
use engine::framing::Framing;
use engine::handover::ShardId;
use engine::route::Ownership;
use engine::segment::Offset;
use engine::shard::{Allowance, Command, ListenerConfig, Notice, ShardConfig, SyncLevel};
use engine::wire::Reject;

use support::hostile::{Random, hostile_bytes, hostile_stream};
use support::oracle::{self, Oversize};
use support::world::{
    Expected, assert_chained, assert_conserved, assert_journaled, config, drain, finish_drain, run_stream, token,
};

/// Runs of the sweep, unless the environment says otherwise.
const SEEDS: u64 = 4000;
/// Shards of one seed's run, in turn.
const SHARDS: [u16; 4] = [1, 2, 1, 4];
/// How the listeners of a seed's run cut connections into lines, in the engine's words and in the oracle's.
const FRAMINGS: [(Framing, oracle::Framing); 4] = [
    (Framing::Lf, oracle::Framing::Lf),
    (Framing::Lf, oracle::Framing::Lf),
    (Framing::Octet, oracle::Framing::Octet),
    (Framing::Auto, oracle::Framing::Auto),
];
/// Bytes that one `send` of a peer has at most.
const PIECE_BYTES_MAX: usize = 6000;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

// The sweep.

/// One seed's run, from its making to its end.
struct Run {
    name: String,
    random: Random,
    config: ShardConfig,
    oversize: Oversize,
    sim: Sim,
    peers: Vec<Client>,
    /// Datagrams that the kernel took.
    datagrams: Vec<Vec<u8>>,
    expected: Expected,
}

/// One connection: what it sends, and how far it is.
struct Client {
    peer: PeerId,
    stream: Vec<u8>,
    sent: usize,
    /// How it ends: closes, resets, or waits for the engine.
    last: Last,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Close,
    Reset,
    Wait,
    Over,
}

fn below(random: &mut Random, end: usize) -> u32 {
    u32::try_from(random.below(end)).unwrap()
}

fn random_faults(random: &mut Random) -> Faults {
    let mut faults = Faults::none();
    let all = [
        Fault::ShortReceive,
        Fault::ReceiveEnds,
        Fault::AcceptFailed,
        Fault::AcceptEnds,
        Fault::ShortWrite,
        Fault::WriteInterrupted,
        Fault::WriteFailed,
        Fault::WriteRefused,
        Fault::OpenFailed,
        Fault::OpenRefused,
        Fault::LostWakeUp,
        Fault::UdpFailed,
        Fault::JournalInterrupted,
        Fault::JournalShort,
    ];
    for fault in all {
        let when = match random.below(8) {
            0 => When::OneIn(2),
            1 | 2 => When::OneIn(10),
            3 => When::Nth(below(random, 20)),
            4 => {
                let from = below(random, 20);
                When::During(from, from + below(random, 10))
            }
            _ => When::Never,
        };
        faults = faults.with(fault, when);
    }
    let rare = if random.one_in(4) { When::OneIn(30) } else { When::Never };
    let refused = if random.one_in(8) { When::OneIn(10) } else { When::Never };
    faults.with(Fault::Reset, rare).with(Fault::AcceptAborted, rare).with(Fault::JournalRefused, refused)
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let limit = *random.pick(&[64, 64, 65, 100, 300, 4096]);
        let clients = 1 + random.below(6);
        let mut config = config(limit);
        let index = usize::try_from(seed).unwrap() % SHARDS.len();
        config.ownership = Ownership::with_seed(SHARDS[index], seed);
        let oversize = if random.one_in(4) { Oversize::Truncate } else { Oversize::Split };
        if oversize == Oversize::Truncate {
            config.oversize = engine::shard::Oversize::Truncate;
        }
        // Carries of all clients fit their quarter, so that no line is cut early; little else does.
        config.buffer_bytes = *random.pick(&[4, 5, 20]) * 4160 * 6;
        config.recv_buffers = 1 + random.below(8);
        config.connections = Allowance::new(*random.pick(&[1, 2, 1000]));
        let (ours, framing) = *random.pick(&FRAMINGS);
        config.listeners = vec![ListenerConfig::plain(ours); 1 + random.below(3)];
        config.udp_sockets = below(&mut random, 3);
        config.udp_buffers = 1 << random.below(4);
        config.udp_creates = true;
        config.logs.open_files_max = *random.pick(&[1, 3, 100]);
        config.logs.segment.bytes = *random.pick(&[100, 1000, 1 << 30]);
        config.logs.segment.age = *random.pick(&[Duration::from_millis(150), Duration::from_hours(24)]);
        let faults = random_faults(&mut random);
        let mut sim = Sim::new(seed, faults, config.clone());
        sim.set_socket_bytes(*random.pick(&[1, 500, 4096, 1 << 18]));
        if random.one_in(3) {
            sim.set_disk_bytes(random.next() % 20_000);
        }
        let peers = (0..clients as u64).map(|index| Client {
            peer: sim.connect(),
            stream: hostile_bytes(framing, seed * 100 + index, limit),
            sent: 0,
            last: *random.pick(&[Last::Close, Last::Close, Last::Reset, Last::Wait]),
        });
        let peers = peers.collect();
        let name = format!("ENGINE_SIM_SEED={seed}");
        Self { name, random, config, oversize, sim, peers, datagrams: Vec::new(), expected: Expected::of(framing) }
    }

    /// Peers act in any order while the shard takes its turns.
    fn act(&mut self) {
        let drain_after = if self.random.one_in(2) { self.random.below(60) } else { usize::MAX };
        let mut draining = false;
        for step in 0.. {
            if step == drain_after {
                self.sim.command(&Command::Drain);
                draining = true;
            }
            let busy: Vec<usize> = (0..self.peers.len()).filter(|&index| !self.peers[index].is_over()).collect();
            if busy.is_empty() || step == drain_after.saturating_add(20) {
                break;
            }
            let client = &mut self.peers[busy[self.random.below(busy.len())]];
            client.act(&mut self.sim, &mut self.random);
            if self.config.udp_sockets > 0 && self.random.one_in(3) {
                self.send_datagrams();
            }
            for _ in 0..self.random.below(6) {
                self.sim.turn();
            }
        }
        if !draining && self.random.one_in(2) {
            self.sim.run_for(Duration::from_millis(300));
        }
        self.sim.set_disk_bytes(u64::MAX);
        if !draining {
            self.sim.command(&Command::Drain);
        }
        let polite = self.random.below(self.peers.len() + 1);
        let open = self.peers[..polite].iter().filter(|client| client.last == Last::Wait || !client.is_over());
        let polite: Vec<PeerId> = open.map(|client| client.peer).collect();
        finish_drain(&mut self.sim, &polite);
    }

    /// Each has its own logs, since datagrams keep no order.
    fn send_datagrams(&mut self) {
        for _ in 0..=self.random.below(4) {
            let bytes = hostile_bytes(oracle::Framing::Udp, self.random.next(), self.config.line_bytes_max);
            if self.sim.send_datagram(&bytes) {
                self.datagrams.push(bytes);
            }
        }
    }

    fn check(mut self) -> Ran {
        let name = &self.name;
        let outcome = self.sim.outcome().unwrap();
        for client in &self.peers {
            let acknowledged = usize::try_from(self.sim.acknowledged(client.peer)).unwrap();
            let stream = &client.stream[..acknowledged];
            match self.sim.ending(client.peer) {
                Ending::InOrder => self.expected.add_whole(stream, self.config.line_bytes_max, self.oversize),
                Ending::Open if self.sim.never_accepted(client.peer) => {}
                // An open end: another protocol, closed before its own end came, or given up with the disk.
                Ending::Cut | Ending::Open => {
                    self.expected.add_cut(stream, self.config.line_bytes_max, self.oversize);
                }
            }
        }
        let mut of_datagrams = Expected::of(oracle::Framing::Udp);
        for datagram in &self.datagrams {
            of_datagrams.add_whole(datagram, self.config.line_bytes_max, self.oversize);
        }
        let (datagrams, lines) = (self.datagrams.len(), of_datagrams.counters.lines());
        self.expected.add_all(of_datagrams);
        if outcome.unstored_bytes == 0 {
            assert_eq!((self.sim.unread_datagrams(), outcome.counters.udp_lines), (0, lines), "{name}: datagrams");
            assert!(outcome.counters.udp_kernel_drops <= self.sim.datagram_drops(), "{name}: drops");
            self.expected.assert_stored(&self.sim, name);
            self.expected.assert_counted(&outcome.counters, name);
            assert_eq!(outcome.counters.received_bytes, self.sim.delivered(), "{name}: received bytes");
            assert!(self.sim.shards().all(|shard| shard.buffered_bytes() == 0), "{name}: buffers are lost");
            assert_eq!(self.sim.buffers_lent(), 0, "{name}: receive buffers are lost");
            let files: u64 =
                self.sim.tokens().flat_map(|token| self.sim.segments(token)).map(|(_, b)| b.len() as u64).sum();
            assert_eq!(files, outcome.counters.entry_bytes, "{name}: entry bytes");
            assert_chained(&self.sim, name);
            assert_journaled(&self.sim, name);
        }
        assert_conserved(&outcome.counters, name);
        let noticed = |kind: fn(&Notice) -> bool| u64::from(self.sim.notices().iter().any(kind));
        let rolled = self.sim.tokens().any(|token| self.sim.segments(token).count() > 1);
        let reached = [
            ("gave up with bytes unstored", u64::from(outcome.unstored_bytes > 0)),
            ("stored everything", u64::from(outcome.unstored_bytes == 0 && outcome.counters.entries > 0)),
            ("cut a line", outcome.counters.rejected(Reject::Cut)),
            ("split a line", outcome.counters.split_pieces),
            ("closed another protocol", outcome.counters.rejected(Reject::Http)),
            ("met a bad frame", outcome.counters.rejected(Reject::BadFrame)),
            ("rolled a segment", u64::from(rolled)),
            ("took a datagram", datagrams as u64),
            ("saw drops", outcome.counters.udp_kernel_drops),
            ("was refused storage", noticed(|notice| matches!(notice, Notice::StorageRefused(_)))),
            ("was refused an accept", noticed(|notice| matches!(notice, Notice::AcceptFailed(_)))),
        ];
        Ran { trace: self.sim.trace(), reached: reached.into() }
    }
}

/// What one run leaves: its trace, and what happened in it.
struct Ran {
    trace: u64,
    reached: BTreeMap<&'static str, u64>,
}

impl Client {
    fn is_over(&self) -> bool {
        self.sent == self.stream.len() && matches!(self.last, Last::Over | Last::Wait)
    }

    fn act(&mut self, sim: &mut Sim, random: &mut Random) {
        if self.sent < self.stream.len() && !(self.last == Last::Reset && random.one_in(8)) {
            let most = (self.stream.len() - self.sent).min(PIECE_BYTES_MAX);
            let bytes = 1 + random.below(most);
            sim.send(self.peer, &self.stream[self.sent..self.sent + bytes]);
            self.sent += bytes;
            return;
        }
        if self.last == Last::Close {
            sim.close(self.peer);
        } else {
            sim.reset(self.peer);
            self.sent = self.stream.len();
        }
        self.last = Last::Over;
    }
}

fn run_seed(seed: u64) -> Ran {
    let mut run = Run::new(seed);
    run.act();
    run.check()
}

#[test]
fn every_seed_stores_what_the_oracle_says() {
    if let Some(seed) = variable("ENGINE_SIM_SEED") {
        run_seed(seed);
        return;
    }
    let seeds = variable("ENGINE_SIM_SEEDS").unwrap_or(SEEDS);
    let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..seeds {
        let Ok(ran) = std::panic::catch_unwind(|| run_seed(seed)) else { panic!("replay with ENGINE_SIM_SEED={seed}") };
        for (what, times) in ran.reached {
            *reached.entry(what).or_default() += times;
        }
    }
    // A sweep that never meets what it is for proves nothing.
    assert!(seeds < SEEDS || reached.values().all(|&times| times >= SEEDS / 100), "{reached:?}");
    assert!(2 * reached["stored everything"] > seeds, "{reached:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let run_all = || (0..50).map(|seed| run_seed(seed).trace).collect::<Vec<u64>>();
    let traces = run_all();
    assert_eq!(run_all(), traces);
    let mut distinct = traces;
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 50);
}

// Fail the nth operation, for every n.

/// Three connections, four logs, rolls, long lines.
fn short_workload(faults: Faults, disk: Option<u64>) -> Sim {
    let mut config = config(100);
    config.logs.segment.bytes = 600;
    config.logs.open_files_max = 2;
    let mut sim = Sim::new(7, faults, config);
    sim.set_disk_bytes(disk.unwrap_or(u64::MAX));
    let mut expected = Expected::new();
    let mut peers = Vec::new();
    for number in 0..3 {
        let stream: Vec<u8> = (0..40)
            .flat_map(|line| {
                let filler = "x".repeat(line as usize * 7 % 150);
                format!("{} connection {number} line {line} {filler}\n", token(number * 10 + line % 2)).into_bytes()
            })
            .collect();
        let peer = sim.connect();
        for piece in stream.chunks(311) {
            sim.send(peer, piece);
            sim.run_for(Duration::from_millis(20));
        }
        sim.close(peer);
        peers.push(peer);
        expected.add_whole(&stream, 100, Oversize::Split);
    }
    if disk.is_some() {
        sim.run_for(Duration::from_secs(2));
        sim.set_disk_bytes(u64::MAX);
    }
    sim.run_until(|sim| peers.iter().all(|&peer| sim.ending(peer) != Ending::Open));
    drain(&mut sim, &[]);
    let outcome = sim.outcome().unwrap();
    assert_eq!(outcome.unstored_bytes, 0);
    expected.assert_stored(&sim, "short workload");
    expected.assert_counted(&outcome.counters, "short workload");
    assert_chained(&sim, "short workload");
    assert_journaled(&sim, "short workload");
    sim
}

#[test]
fn any_one_operation_may_fail() {
    let whole = short_workload(Faults::none(), None);
    let writes = whole.shard().counters().batches;
    assert!(writes > 50, "{writes}");
    for fault in [Fault::ShortWrite, Fault::WriteInterrupted, Fault::WriteFailed, Fault::WriteRefused] {
        for n in 0..u32::try_from(writes).unwrap() + 5 {
            short_workload(Faults::none().with(fault, When::Nth(n)), None);
            short_workload(Faults::none().with(fault, When::During(n, n + 4)), None);
        }
    }
    for fault in [Fault::JournalRefused, Fault::JournalInterrupted, Fault::JournalShort] {
        for n in 0..80 {
            short_workload(Faults::none().with(fault, When::Nth(n)), None);
            short_workload(Faults::none().with(fault, When::During(n, n + 4)), None);
        }
    }
    for fault in [Fault::OpenFailed, Fault::OpenRefused, Fault::ShortReceive, Fault::ReceiveEnds, Fault::AcceptFailed] {
        for n in 0..60 {
            short_workload(Faults::none().with(fault, When::Nth(n)), None);
            short_workload(Faults::none().with(fault, When::During(n, n + 4)), None);
        }
    }
}

#[test]
fn a_disk_may_fill_at_any_byte() {
    let whole: usize = {
        let sim = short_workload(Faults::none(), None);
        sim.tokens().map(|token| sim.log_bytes(token).len()).sum()
    };
    for bytes in (0..whole).step_by(17) {
        let sim = short_workload(Faults::none(), Some(bytes as u64));
        let refused = sim.notices().iter().filter(|notice| matches!(notice, Notice::StorageRefused(_))).count();
        let resumed = sim.notices().iter().filter(|notice| matches!(notice, Notice::StorageResumed)).count();
        assert!(refused > 0 && refused == resumed, "{bytes}: {refused} refusals, {resumed} resumed");
    }
}

/// A disk that answers nothing for half a minute: senders wait, memory stays within its budget, nobody is closed and
/// nothing is lost.
#[test]
fn a_disk_that_stalls_costs_nothing_but_time() {
    const STALL: Duration = Duration::from_secs(30);
    for sync in [SyncLevel::None, SyncLevel::Interval(Duration::from_secs(1)), SyncLevel::Batch] {
        let mut config = config(4096);
        (config.sync, config.buffer_bytes) = (sync, 1 << 20);
        let most = config.buffer_bytes * 3 / 2;
        let mut sim = Sim::new(30, Faults::none(), config);
        let peers: Vec<PeerId> = (0..3).map(|_| sim.connect()).collect();
        let streams: Vec<Vec<u8>> = (0..3_u32)
            .map(|peer| {
                let line = |number: u32| format!("{} {number} {}\n", token(10 * peer + number % 7), "x".repeat(500));
                (0..8000).flat_map(|number| line(number).into_bytes()).collect()
            })
            .collect();
        let total: u64 = streams.iter().map(|stream| stream.len() as u64).sum();
        let received = |sim: &Sim| peers.iter().map(|&peer| sim.acknowledged(peer)).sum::<u64>();
        for (&peer, stream) in peers.iter().zip(&streams) {
            sim.send(peer, stream);
        }
        sim.run_until(|sim| received(sim) > total / 10);
        sim.set_disk_delay(ShardId(0), STALL);
        let from = sim.now();
        let mut waiting = 0;
        while sim.now().since(from) < STALL && sim.turn() {
            let bytes = sim.shard().buffered_bytes();
            assert!(bytes <= most, "{sync:?}: {bytes} bytes");
            waiting = received(&sim);
        }
        assert!(waiting < total / 2, "{sync:?}: senders do not wait, {waiting} of {total}");
        assert!(peers.iter().all(|&peer| sim.ending(peer) == Ending::Open), "{sync:?}: closed");
        sim.set_disk_delay(ShardId(0), Duration::ZERO);
        sim.run_until(|sim| received(sim) == total && sim.shard().unstored_bytes() == 0);
        drain(&mut sim, &peers);
        let mut expected = Expected::new();
        for stream in &streams {
            expected.add_whole(stream, 4096, oracle::Oversize::Split);
        }
        expected.assert_stored(&sim, "a stall");
        assert_eq!(sim.outcome().unwrap().unstored_bytes, 0);
    }
}

#[test]
fn an_interrupted_write_does_not_mean_that_storage_works_again() {
    let faults =
        Faults::none().with(Fault::WriteRefused, When::During(0, 3)).with(Fault::WriteInterrupted, When::Nth(1));
    let mut sim = Sim::new(14, faults, config(4096));
    let peer = sim.connect();
    sim.send(peer, format!("{} x\n", token(1)).as_bytes());
    sim.run_until(|sim| sim.log_bytes(token(1)) == b"x\n");
    drain(&mut sim, &[peer]);
    assert!(matches!(sim.notices(), [Notice::StorageRefused(_), Notice::StorageResumed]), "{:?}", sim.notices());
}

// Logs that connections share.

#[test]
fn connections_that_share_a_log_keep_their_own_order() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut sim = Sim::new(seed, random_faults(&mut random).with(Fault::Reset, When::Never), config(4096));
        let streams: Vec<Vec<u8>> = (0..8)
            .map(|peer| (0..200).flat_map(|line| format!("{} {peer}:{line}\n", token(line % 3)).into_bytes()).collect())
            .collect();
        let peers: Vec<PeerId> = streams.iter().map(|_| sim.connect()).collect();
        let mut sent = vec![0; streams.len()];
        while let Some(at) = (0..8).filter(|&at| sent[at] < streams[at].len()).min_by_key(|_| random.next()) {
            let bytes = 1 + random.below((streams[at].len() - sent[at]).min(900));
            sim.send(peers[at], &streams[at][sent[at]..sent[at] + bytes]);
            sent[at] += bytes;
            sim.turn();
        }
        for &peer in &peers {
            sim.close(peer);
        }
        sim.run_until(|sim| peers.iter().all(|&peer| sim.ending(peer) != Ending::Open || sim.is_gone(peer)));
        sim.run_for(Duration::from_secs(5));
        drain(&mut sim, &[]);
        let aborted = peers.iter().filter(|&&peer| sim.never_accepted(peer)).count();
        let mut next: BTreeMap<(String, u32), u32> = BTreeMap::new();
        for number in 0..3 {
            for entry in String::from_utf8(sim.log_bytes(token(number))).unwrap().lines() {
                let (peer, line) = entry.split_once(':').unwrap();
                let expected = next.entry((peer.to_owned(), number)).or_insert(number);
                assert_eq!(line.parse::<u32>().unwrap(), *expected, "seed {seed}: {entry}");
                *expected += 3;
            }
        }
        assert_eq!(next.len(), 3 * (8 - aborted), "seed {seed}");
        assert!(next.values().all(|&line| line >= 200), "seed {seed}: the last lines are missing");
    }
}

fn udp_config() -> ShardConfig {
    ShardConfig { udp_sockets: 1, udp_buffers: 8, ..config(4096) }
}

#[test]
fn datagrams_make_no_logs_unless_they_may() {
    for shards in [1, 2, 4] {
        let mut config = udp_config();
        config.ownership = Ownership::with_seed(shards, 1);
        let mut sim = Sim::new(16, Faults::none(), config);
        let peer = sim.connect();
        sim.send(peer, format!("{} by tcp\n", token(1)).as_bytes());
        sim.run_until(|sim| sim.log_bytes(token(1)) == b"by tcp\n");
        for number in 0..20 {
            let long = "x".repeat(5000);
            assert!(sim.send_datagram(format!("{} by udp\n{} new\n", token(1), token(2 + number)).as_bytes()));
            assert!(sim.send_datagram(format!("{} {long}", token(100 + number)).as_bytes()));
        }
        drain(&mut sim, &[peer]);
        let counters = sim.outcome().unwrap().counters;
        assert_eq!(sim.log_bytes(token(1)), [&b"by tcp\n"[..], &b"by udp\n".repeat(20)].concat());
        assert_eq!((sim.tokens().count(), counters.rejected(Reject::UnknownToken)), (1, 40), "{shards} shards");
        assert_eq!((counters.lines, counters.udp_lines, counters.udp_datagrams), (61, 60, 40));
        assert_conserved(&counters, "datagrams");
    }
}

#[test]
fn while_memory_is_short_datagrams_are_dropped_and_counted_and_streams_are_not() {
    let mut config = udp_config();
    config.buffer_bytes = 1 << 20;
    config.udp_creates = true;
    let mut sim = Sim::new(17, Faults::none(), config.clone());
    sim.set_disk_bytes(0);
    sim.set_udp_socket_bytes(100_000);
    let stream: Vec<u8> = (0..30_000).flat_map(|line| format!("{} line {line}\n", token(1)).into_bytes()).collect();
    let peer = sim.connect();
    sim.send(peer, &stream);
    sim.close(peer);
    let mut taken = 0;
    for _ in 0..3000 {
        taken += u64::from(sim.send_datagram(format!("{} {}\n", token(2), "y".repeat(900)).as_bytes()));
        sim.turn();
    }
    assert!(sim.shard().buffered_bytes() <= 2 * config.buffer_bytes, "{} bytes", sim.shard().buffered_bytes());
    assert_eq!(taken + sim.datagram_drops(), 3000);
    assert!(sim.datagram_drops() > 1000, "{} dropped", sim.datagram_drops());
    sim.set_disk_bytes(u64::MAX);
    sim.run_until(|sim| sim.ending(peer) == Ending::InOrder && sim.unread_datagrams() == 0);
    // The kernel tells of drops with the next datagram that it takes.
    taken += u64::from(sim.send_datagram(format!("{} last\n", token(2)).as_bytes()));
    drain(&mut sim, &[]);
    let counters = sim.outcome().unwrap().counters;
    assert_eq!((counters.udp_kernel_drops, counters.udp_lines), (sim.datagram_drops(), taken));
    assert_eq!(counters.entries, 30_000 + taken);
}

#[test]
fn a_drain_takes_every_datagram_that_a_socket_holds() {
    for seed in 0..50 {
        let mut config = udp_config();
        config.udp_creates = true;
        config.udp_buffers = 1 << (seed % 4);
        let mut sim = Sim::new(seed, Faults::none().with(Fault::UdpFailed, When::OneIn(9)), config);
        let taken = (0..200).filter(|line| sim.send_datagram(format!("{} {line}", token(1)).as_bytes())).count();
        for _ in 0..seed {
            sim.turn();
        }
        sim.command(&Command::Drain);
        finish_drain(&mut sim, &[]);
        assert_eq!((sim.outcome().unwrap().counters.entries, sim.unread_datagrams()), (taken as u64, 0), "seed {seed}");
        assert!(!sim.send_datagram(b"too late"));
    }
}

// Memory.

#[test]
fn unfinished_lines_of_all_connections_leave_room_for_others() {
    let limit = (4 << 20) / 16;
    let mut config = config(limit);
    config.recv_buffers = 64;
    let mut sim = Sim::new(6, Faults::none(), config.clone());
    let most = config.buffer_bytes + engine::driver::sim::RECV_BUFFER_BYTES / 37 * 4160;
    let mut peers = Vec::new();
    for number in 0..300 {
        let peer = sim.connect();
        sim.send(peer, &[format!("{} ", token(number)).as_bytes(), &vec![b'x'; limit - 37]].concat());
        peers.push(peer);
        sim.turn();
        assert!(sim.shard().buffered_bytes() <= most, "{} bytes", sim.shard().buffered_bytes());
    }
    let other = sim.connect();
    sim.send(other, format!("{} gets through\n", token(1000)).as_bytes());
    sim.run_until(|sim| {
        assert!(sim.shard().buffered_bytes() <= most, "{} bytes", sim.shard().buffered_bytes());
        !sim.log_bytes(token(1000)).is_empty()
    });
    sim.run_until(|sim| sim.unread() == 0);
    let quarter = config.buffer_bytes / 4;
    sim.run_for(Duration::from_secs(1));
    assert!(sim.shard().buffered_bytes() <= quarter, "carries hold {} bytes", sim.shard().buffered_bytes());
    for &peer in &peers {
        sim.close(peer);
    }
    drain(&mut sim, &[other]);
    let outcome = sim.outcome().unwrap();
    assert_conserved(&outcome.counters, "unfinished lines");
    for number in 0..300 {
        let stored = sim.log_bytes(token(number));
        let content: Vec<u8> = stored.into_iter().filter(|&byte| byte == b'x').collect();
        assert_eq!(content.len(), limit - 37, "bytes of line {number}");
    }
}

#[test]
fn a_flood_while_the_disk_refuses_is_held_back_and_lost_in_no_part() {
    let mut config = config(4096);
    config.buffer_bytes = 1 << 20;
    let mut sim = Sim::new(8, Faults::none(), config.clone());
    sim.set_disk_bytes(100_000);
    let mut expected = Expected::new();
    let mut peers = Vec::new();
    for number in 0..4 {
        let line = |i: usize| format!("{} line {i} {}\n", token(number), "y".repeat(i % 900)).into_bytes();
        let stream: Vec<u8> = (0..6000).flat_map(line).collect();
        let peer = sim.connect();
        sim.send(peer, &stream);
        sim.close(peer);
        peers.push(peer);
        expected.add_whole(&stream, 4096, Oversize::Split);
    }
    let most = config.buffer_bytes + config.buffer_bytes / 4;
    let until = sim.now() + Duration::from_secs(20);
    sim.run_until(|sim| {
        assert!(sim.shard().buffered_bytes() <= most, "{} bytes", sim.shard().buffered_bytes());
        sim.now() >= until
    });
    let taken = sim.delivered();
    let socket_bytes = 4 * engine::driver::sim::SOCKET_BYTES as u64;
    assert!(peers.iter().map(|&peer| sim.acknowledged(peer)).sum::<u64>() <= taken + socket_bytes);
    sim.run_for(Duration::from_secs(5));
    assert_eq!(sim.delivered(), taken, "nothing is taken while the disk refuses");
    sim.set_disk_bytes(u64::MAX);
    sim.run_until(|sim| peers.iter().all(|&peer| sim.ending(peer) == Ending::InOrder));
    drain(&mut sim, &[]);
    expected.assert_stored(&sim, "flood");
    expected.assert_counted(&sim.outcome().unwrap().counters, "flood");
}

#[test]
fn a_flood_meets_closed_windows_and_bounded_memory() {
    let mut config = config(4096);
    config.buffer_bytes = 256 * 1024;
    let mut sim = Sim::new(9, Faults::none().with(Fault::ShortWrite, When::OneIn(2)), config.clone());
    let mut peers = Vec::new();
    for number in 0..3 {
        let stream: Vec<u8> =
            (0..20_000).flat_map(|i| format!("{} {i}\n", token(i % 400 + number)).into_bytes()).collect();
        let peer = sim.connect();
        sim.send(peer, &stream);
        sim.close(peer);
        peers.push(peer);
    }
    let most = config.buffer_bytes + engine::driver::sim::RECV_BUFFER_BYTES / 37 * 4160;
    sim.run_until(|sim| {
        assert!(sim.shard().buffered_bytes() <= most, "{} bytes", sim.shard().buffered_bytes());
        peers.iter().all(|&peer| sim.ending(peer) == Ending::InOrder)
    });
    drain(&mut sim, &[]);
    assert_eq!(sim.outcome().unwrap().counters.entries, 60_000);
}

// Logs that exist already, and descriptors.

#[test]
fn a_log_goes_on_where_it_ended() {
    let mut config = config(4096);
    config.logs.segment.bytes = 20;
    let mut sim = Sim::with_log(10, config, token(1), Offset(700), b"before\n");
    let peer = sim.connect();
    for word in ["one", "two", "three", "four"] {
        sim.send(peer, format!("{} {word} word\n", token(1)).as_bytes());
        sim.run_for(Duration::from_millis(200));
    }
    drain(&mut sim, &[peer]);
    assert_eq!(sim.log_bytes(token(1)), b"before\none word\ntwo word\nthree word\nfour word\n");
    let bases: Vec<u64> = sim.segments(token(1)).map(|(base, _)| base.0).collect();
    assert_eq!(bases, [700, 716, 736]);
}

#[test]
fn few_descriptors_serve_many_logs() {
    let mut config = config(4096);
    config.logs.open_files_max = 4;
    let mut sim = Sim::new(11, Faults::none(), config);
    let peer = sim.connect();
    for round in 0..5 {
        for number in 0..50 {
            sim.send(peer, format!("{} {round}\n", token(number)).as_bytes());
            sim.run_for(Duration::from_millis(30));
            assert!(sim.open_files() <= 4, "{} files", sim.open_files());
        }
    }
    drain(&mut sim, &[peer]);
    for number in 0..50 {
        assert_eq!(sim.log_bytes(token(number)), b"0\n1\n2\n3\n4\n");
    }
}

/// Logs that are opened must be written before they are the ones to close, or none ever is.
#[test]
fn a_burst_to_more_logs_than_descriptors_goes_through() {
    for most in [1, 4, 64, 70] {
        for seed in 0..8 {
            let mut config = config(4096);
            config.logs.open_files_max = most;
            let mut sim = Sim::new(seed, Faults::none().with(Fault::ShortWrite, When::OneIn(3)), config);
            let streams: Vec<Vec<u8>> = (0..4_u32)
                .map(|peer| {
                    (0..900).flat_map(move |line| format!("{} {line}\n", token(peer * 1000 + line % 300)).into_bytes())
                })
                .map(Iterator::collect)
                .collect();
            let peers: Vec<PeerId> = streams.iter().map(|_| sim.connect()).collect();
            for (&peer, stream) in peers.iter().zip(&streams) {
                sim.send(peer, stream);
                sim.close(peer);
            }
            let from = sim.now();
            sim.run_until(|sim| {
                assert!(sim.open_files() <= most, "seed {seed}: {} files of {most}", sim.open_files());
                sim.shard().counters().entries == 3600 && sim.shard().unstored_bytes() == 0
            });
            let took = sim.now().since(from);
            assert!(took < Duration::from_secs(10), "seed {seed}, {most} files: {took:?}");
            drain(&mut sim, &[]);
            let mut expected = Expected::new();
            for stream in &streams {
                expected.add_whole(stream, 4096, Oversize::Split);
            }
            expected.assert_stored(&sim, &format!("seed {seed}, {most} files"));
        }
    }
}

#[test]
fn a_connection_past_the_limit_waits_its_turn() {
    let mut config = config(4096);
    config.connections = Allowance::new(2);
    let mut sim = Sim::new(12, Faults::none(), config);
    let peers: Vec<PeerId> = (0..9).map(|_| sim.connect()).collect();
    for &peer in &peers {
        sim.send(peer, format!("{} x\n", token(1)).as_bytes());
        sim.close(peer);
    }
    sim.run_until(|sim| peers.iter().all(|&peer| sim.ending(peer) == Ending::InOrder));
    drain(&mut sim, &[]);
    assert_eq!(sim.log_bytes(token(1)), b"x\n".repeat(9));
}

#[test]
fn one_stream_in_a_calm_world() {
    let stream = hostile_stream(77, 4096);
    let sim = run_stream(config(4096), &[&stream]);
    let mut expected = Expected::new();
    expected.add_whole(&stream, 4096, Oversize::Split);
    expected.assert_stored(&sim, "calm");
    expected.assert_counted(&sim.outcome().unwrap().counters, "calm");
}
