//! Several shards in a simulated world: entries cross from the shard that received them to the one that owns their log,
//! in order, within everybody's memory, and to the last byte of a drain. The sweep over seeds is in `simulation.rs`.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::time::Duration;

use engine::buf::RecvArena;
use engine::driver::sim::{Ending, Fault, Faults, PeerId, RECV_BUFFER_BYTES, Sim, When};
use engine::handover::{Message, ShardId};
use engine::limits::{handover_batches_max, handover_queue};
use engine::route::Ownership;
use engine::shard::{
    Allowance, Command, Completion, ConnectionId, ListenerId, Newcomer, Op, Received, Shard, ShardConfig,
};
use engine::time::Time;
use engine::wire::{Reject, Token};

use support::hostile::Random;
use support::oracle::Oversize;
use support::world::{Expected, assert_conserved, assert_stored_as_acknowledged, config, drain, token};

const ZERO: ShardId = ShardId(0);
const ONE: ShardId = ShardId(1);

fn config_of(shards: u16) -> ShardConfig {
    ShardConfig { ownership: Ownership::with_seed(shards, 1), ..config(4096) }
}

/// The first tokens whose logs this shard owns.
fn tokens_of(config: &ShardConfig, shard: ShardId, count: usize) -> Vec<Token> {
    (0..).map(token).filter(|token| config.ownership.owner(*token) == shard).take(count).collect()
}

/// Numbered lines to these logs in turn.
fn lines(tokens: &[Token], count: usize, filler: usize) -> Vec<u8> {
    let line = |i: usize| format!("{} {i} {}\n", tokens[i % tokens.len()], "x".repeat(i * 7 % (filler + 1)));
    (0..count).flat_map(|i| line(i).into_bytes()).collect()
}

/// A connection that sends all this and closes.
fn client(sim: &mut Sim, shard: ShardId, stream: &[u8]) -> PeerId {
    let peer = sim.connect_to(shard);
    sim.send(peer, stream);
    sim.close(peer);
    peer
}

fn all_ended(sim: &Sim, peers: &[PeerId]) -> bool {
    peers.iter().all(|&peer| sim.ending(peer) == Ending::InOrder)
}

/// No shard is further past its memory than one receive buffer of lines, or one batch of them, may take it.
#[track_caller]
fn assert_within(sim: &Sim, most: usize) {
    let all: Vec<usize> = sim.shards().map(engine::shard::Shard::buffered_bytes).collect();
    assert!(all.iter().all(|&bytes| bytes <= most), "{all:?} of {most} bytes");
}

fn expect(streams: &[Vec<u8>]) -> Expected {
    let mut expected = Expected::new();
    for stream in streams {
        expected.add_whole(stream, 4096, Oversize::Split);
    }
    expected
}

#[track_caller]
fn assert_all_stored(sim: &Sim, streams: &[Vec<u8>], case: &str) {
    let (expected, outcome) = (expect(streams), sim.outcome().unwrap());
    assert_eq!(outcome.unstored_bytes, 0, "{case}");
    expected.assert_stored(sim, case);
    expected.assert_counted(&outcome.counters, case);
    assert!(sim.shards().all(|shard| shard.buffered_bytes() == 0), "{case}: buffers are lost");
    assert_eq!(sim.buffers_lent(), 0, "{case}: receive buffers are lost");
}

#[test]
fn a_connection_whose_logs_are_all_elsewhere_keeps_order_and_does_not_stall() {
    let config = config_of(2);
    let stream = lines(&tokens_of(&config, ONE, 3), 20_000, 60);
    let mut sim = Sim::new(1, Faults::none(), config);
    let peer = client(&mut sim, ZERO, &stream);
    sim.run_until(|sim| all_ended(sim, &[peer]));
    // 2 MB in buffers of 4 KiB: a stall would wait for a timer each time.
    assert!(sim.now().since(engine::time::Time::default()) < Duration::from_secs(2), "{:?}", sim.now());
    sim.run_for(Duration::from_millis(100));
    expect(std::slice::from_ref(&stream)).assert_stored(&sim, "without a drain");
    drain(&mut sim, &[]);
    assert_all_stored(&sim, &[stream], "elsewhere");
}

#[test]
fn a_slow_disk_of_one_owner_makes_senders_wait_within_everybodys_memory() {
    for seed in 0..4 {
        let mut config = config_of(2);
        config.buffer_bytes = 1 << 20;
        // One batch may double the staging of each of ten logs.
        let most = config.buffer_bytes * 3 / 2;
        let (near, far) = (tokens_of(&config, ZERO, 10), tokens_of(&config, ONE, 10));
        let mut sim = Sim::new(seed, Faults::none().with(Fault::ShortWrite, When::OneIn(9)), config);
        sim.set_disk_delay(ONE, Duration::from_millis(200));
        let streams =
            [&far[..4], &near[..4], &far[4..8], &near[4..8], &far[8..]].map(|tokens| lines(tokens, 9000, 200)).to_vec();
        let at = [ZERO, ONE, ONE, ZERO, ZERO];
        let peers: Vec<PeerId> = streams.iter().zip(at).map(|(stream, at)| client(&mut sim, at, stream)).collect();
        sim.run_until(|sim| {
            assert_within(sim, most);
            all_ended(sim, &peers)
        });
        drain(&mut sim, &[]);
        assert_all_stored(&sim, &streams, "slow disk");
    }
}

#[test]
fn shards_that_flood_each_other_go_on_for_ever() {
    for (shards, budget) in [(2, 64 * 1024), (2, 1 << 20), (4, 128 * 1024), (4, 1 << 20)] {
        let mut config = config_of(shards);
        config.buffer_bytes = budget;
        config.recv_buffers = 32;
        let most = budget + RECV_BUFFER_BYTES / 37 * 4160 + 64 * 1024;
        let mut sim = Sim::new(u64::from(shards), Faults::none().with(Fault::ShortWrite, When::OneIn(3)), config);
        let streams: Vec<Vec<u8>> = (0..3 * u32::from(shards))
            .map(|number| lines(&(0..12).map(|log| token(number * 100 + log)).collect::<Vec<_>>(), 4000, 700))
            .collect();
        let peers: Vec<PeerId> =
            (0..shards).cycle().zip(&streams).map(|(shard, stream)| client(&mut sim, ShardId(shard), stream)).collect();
        sim.run_until(|sim| {
            assert_within(sim, most);
            all_ended(sim, &peers)
        });
        drain(&mut sim, &[]);
        assert_all_stored(&sim, &streams, &format!("{shards} shards, {budget} bytes"));
    }
}

/// One log, two senders, a disk that keeps up with neither: whoever is nearer must not take all of it.
#[test]
fn own_connections_and_other_shards_share_an_owners_memory() {
    let mut config = config_of(2);
    config.buffer_bytes = 1 << 20;
    config.recv_buffers = 64;
    let log = tokens_of(&config, ONE, 1);
    let stream = lines(&log, 60_000, 300);
    let mut sim = Sim::new(3, Faults::none(), config);
    sim.set_disk_delay(ONE, Duration::from_millis(100));
    let far = client(&mut sim, ZERO, &stream);
    let near = client(&mut sim, ONE, &stream);
    let first = |sim: &Sim| [near, far].map(|peer| sim.ending(peer) != Ending::Open);
    sim.run_until(|sim| first(sim).contains(&true));
    let taken = [near, far].map(|peer| sim.acknowledged(peer));
    let total = stream.len() as u64;
    assert!(taken.iter().all(|&bytes| bytes > total / 3), "near and far sent {taken:?} of {total}");
    sim.run_until(|sim| all_ended(sim, &[near, far]));
    drain(&mut sim, &[]);
    assert_eq!(sim.outcome().unwrap().counters.entries, 120_000);
}

/// Batches begin as large as the last one had to be: those to many shards must not take all memory together.
#[test]
fn batches_to_many_shards_leave_room_for_what_they_wait_for() {
    let shards = 32;
    let mut config = config_of(shards);
    config.buffer_bytes = 1 << 20;
    config.recv_buffers = 64;
    let all: Vec<Token> = (0..shards).map(|shard| tokens_of(&config, ShardId(shard), 1)[0]).collect();
    // Each sends a burst to every shard, one after the other, then a few lines to all.
    let bursts = all.iter().flat_map(|&to| lines(&[to], 180, 600));
    let stream: Vec<u8> = bursts.chain(lines(&all, 2000, 10)).collect();
    let mut sim = Sim::new(4, Faults::none(), config.clone());
    let peers: Vec<PeerId> = (0..shards).map(|shard| client(&mut sim, ShardId(shard), &stream)).collect();
    sim.run_until(|sim| {
        assert_within(sim, config.buffer_bytes + 256 * 1024);
        all_ended(sim, &peers)
    });
    drain(&mut sim, &[]);
    let outcome = sim.outcome().unwrap();
    assert_eq!((outcome.unstored_bytes, outcome.counters.entries), (0, u64::from(shards) * (180 * 32 + 2000)));
}

/// Unfinished lines are lines when their connections end, and of lines that long each is a batch of its own. The shard is
/// driven by hand, because simulated peers never end all in one turn.
#[test]
fn lines_that_end_with_their_connections_stay_within_the_queue() {
    let peers = u32::try_from(handover_queue(2)).unwrap() + 200;
    let config = ShardConfig { line_bytes_max: 48 << 10, buffer_bytes: 1 << 30, ..config_of(2) };
    let log = tokens_of(&config, ONE, 1)[0];
    let arena = RecvArena::new(1, 48 << 10);
    let line = format!("{log} {}", "x".repeat(40 << 10));
    let mut shard = Shard::new(config);
    for id in (0..peers).map(ConnectionId) {
        let result = Ok(Newcomer { id, from: None });
        shard.handle(Completion::Accepted { listener: ListenerId(0), result, more: true }, Time::default());
        let received = Received::Data(arena.fill(0, line.as_bytes()));
        shard.handle(Completion::Received { connection: id, received, more: true }, Time::default());
        // The buffer goes back.
        while shard.poll_op().is_some() {}
    }
    for connection in (0..peers).map(ConnectionId) {
        shard.handle(Completion::Received { connection, received: Received::End, more: false }, Time::default());
    }
    let mut sent = 0;
    let mut now = Time::default();
    while sent < peers {
        now = now + Duration::from_millis(1);
        shard.end_turn(now);
        let ops: Vec<Op> = std::iter::from_fn(|| shard.poll_op()).collect();
        let batches: Vec<Message> = ops
            .into_iter()
            .filter_map(|op| match op {
                Op::Send { message: Message::Batch(batch), .. } => Some(Message::Returned(batch)),
                _ => None,
            })
            .collect();
        assert!((1..=handover_batches_max(2) + 1).contains(&batches.len()), "{} batches at once", batches.len());
        sent += u32::try_from(batches.len()).unwrap();
        for message in batches {
            shard.handle(Completion::Sent { from: ONE, message }, now);
        }
    }
    assert_eq!(sent, peers);
}

// Drain.

#[test]
fn a_drain_stores_what_is_on_its_way_between_shards() {
    for seed in 0..120 {
        let mut random = Random::new(seed);
        let shards = *random.pick(&[2, 3, 4]);
        let mut config = ShardConfig { line_bytes_max: 300, ..config_of(shards) };
        config.buffer_bytes = *random.pick(&[100_000, 4 << 20]);
        let mut sim = Sim::new(seed, Faults::none().with(Fault::ShortReceive, When::OneIn(4)), config);
        sim.set_socket_bytes(2000);
        let streams: Vec<Vec<u8>> =
            (0..10).map(|peer| lines(&[token(100 + peer), token(200 + peer)], 300, 20)).collect();
        let send = |stream: &Vec<u8>| {
            let peer = sim.connect();
            sim.send(peer, stream);
            peer
        };
        let peers: Vec<PeerId> = streams.iter().map(send).collect();
        for _ in 0..random.below(300) {
            sim.turn();
        }
        drain(&mut sim, &[]);
        assert_stored_as_acknowledged(&sim, &peers, &streams, 300, &format!("seed {seed}"));
    }
}

#[test]
fn a_drain_waits_for_no_linger_of_another_shard() {
    let mut config = config_of(2);
    config.logs.linger = Duration::from_mins(10);
    let log = tokens_of(&config, ONE, 1)[0];
    let mut sim = Sim::new(5, Faults::none(), config);
    let peer = sim.connect_to(ZERO);
    sim.send(peer, format!("{log} at once\n").as_bytes());
    sim.run_until(|sim| sim.log_bytes(log) == b"at once\n");
    // The owner has nothing left to do in its drain when this arrives.
    let from = sim.now();
    sim.command(&Command::Drain);
    sim.run_for(Duration::from_millis(200));
    sim.send(peer, format!("{log} lingers\n").as_bytes());
    sim.close(peer);
    sim.run_until(|sim| sim.outcome().is_some());
    assert!(sim.now().since(from) < Duration::from_secs(1), "{:?}", sim.now().since(from));
    assert_eq!(sim.log_bytes(log), b"at once\nlingers\n");
}

#[test]
fn a_drain_with_a_disk_that_refuses_for_ever_ends_and_counts_what_all_shards_lack() {
    for seed in 0..30 {
        let shards = if seed % 2 == 0 { 2 } else { 4 };
        let mut sim = Sim::new(seed, Faults::none(), config_of(shards));
        for shard in (0..shards).map(ShardId) {
            sim.set_disk_delay(shard, Duration::from_mins(1));
        }
        let streams: Vec<Vec<u8>> = (0..10).map(|peer| lines(&[token(peer), token(50 + peer)], 300, 90)).collect();
        for (stream, shard) in streams.iter().zip((0..shards).cycle()) {
            let peer = sim.connect_to(ShardId(shard));
            sim.send(peer, stream);
        }
        let total: usize = streams.iter().map(Vec::len).sum();
        sim.run_until(|sim| sim.delivered() == total as u64);
        sim.set_disk_bytes(1000);
        for shard in (0..shards).map(ShardId) {
            sim.set_disk_delay(shard, Duration::ZERO);
        }
        drain(&mut sim, &[]);
        let outcome = sim.outcome().unwrap();
        let case = format!("seed {seed}");
        assert_conserved(&outcome.counters, &case);
        assert_eq!(outcome.counters.entries, 3000, "{case}");
        let stored: usize = sim.tokens().map(|token| sim.log_bytes(token).len()).sum();
        assert_eq!(outcome.unstored_bytes, outcome.counters.entry_bytes - stored as u64, "{case}");
        assert!(outcome.unstored_bytes > 0, "{case}");
    }
}

/// Storage refuses in the middle of a flood, and peers go on sending until they are cut.
#[test]
fn giving_up_under_a_flood_ends_and_accounts_for_every_line() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let shards = *random.pick(&[1, 2, 4]);
        let mut config = config_of(shards);
        config.buffer_bytes = *random.pick(&[100_000, 4 << 20]);
        config.drain_timeout = Duration::from_millis(*random.pick(&[0, 20, 300]));
        let mut sim = Sim::new(seed, Faults::none(), config);
        sim.set_disk_bytes(random.next() % 2_000_000);
        let streams: Vec<Vec<u8>> = (0..8).map(|peer| lines(&[token(peer), token(50 + peer)], 3000, 90)).collect();
        for stream in &streams {
            let peer = sim.connect();
            sim.send(peer, stream);
        }
        for _ in 0..random.below(1500) {
            sim.turn();
        }
        drain(&mut sim, &[]);
        let outcome = sim.outcome().unwrap();
        assert_conserved(&outcome.counters, &format!("seed {seed}"));
        let stored: usize = sim.tokens().map(|token| sim.log_bytes(token).len()).sum();
        let lacking = outcome.counters.entry_bytes - stored as u64;
        assert!(outcome.unstored_bytes >= lacking, "seed {seed}: {} told, {lacking} lacking", outcome.unstored_bytes);
    }
}

/// A shard that gives up has told the others that nothing more comes: what it still receives stays with it.
#[test]
fn nothing_crosses_after_a_shard_gave_up() {
    for seed in 0..40 {
        let config = ShardConfig { drain_timeout: Duration::ZERO, ..config_of(2) };
        let (near, far) = (tokens_of(&config, ZERO, 1), tokens_of(&config, ONE, 1));
        let mut sim = Sim::new(seed, Faults::none(), config);
        // So much waits in the sockets that it is still being read when the connections are cut.
        sim.set_socket_bytes(64 << 20);
        let stream = lines(&[near, far].concat(), 100_000, 90);
        for shard in [ZERO, ONE] {
            let peer = sim.connect_to(shard);
            sim.send(peer, &stream);
        }
        sim.command(&Command::Drain);
        sim.run_for(Duration::from_millis(250 + 3 * seed));
        assert!(sim.unread() > 0 && sim.outcome().is_none(), "seed {seed}");
        sim.set_disk_bytes(0);
        sim.run_until(|sim| sim.outcome().is_some());
        let outcome = sim.outcome().unwrap();
        assert_conserved(&outcome.counters, &format!("seed {seed}"));
        assert!(outcome.unstored_bytes > 0, "seed {seed}");
    }
}

// What all shards share.

#[test]
fn all_shards_together_have_as_many_logs_as_are_allowed() {
    for seed in 0..10 {
        let mut config = config_of(4);
        config.logs.tokens = Allowance::new(5);
        let mut sim = Sim::new(seed, Faults::none(), config);
        let stream = lines(&(0..12).map(token).collect::<Vec<_>>(), 1200, 5);
        let peers: Vec<PeerId> = (0..8).map(|number| client(&mut sim, ShardId(number % 4), &stream)).collect();
        sim.run_until(|sim| all_ended(sim, &peers));
        drain(&mut sim, &[]);
        let counters = sim.outcome().unwrap().counters;
        assert_eq!(sim.tokens().count(), 5, "seed {seed}");
        assert_eq!(counters.lines, 8 * 1200, "seed {seed}");
        assert_eq!(counters.entries, 8 * 500, "seed {seed}");
        assert_eq!(counters.rejected(Reject::TooManyTokens), 8 * 700, "seed {seed}");
        assert_conserved(&counters, &format!("seed {seed}"));
    }
}

#[test]
fn all_shards_together_make_logs_at_one_pace() {
    for seed in 0..10 {
        let mut config = config_of(4);
        config.logs.tokens = Allowance::paced(1000, 10, 5);
        let mut sim = Sim::new(seed, Faults::none(), config);
        let all: Vec<Token> = (0..100).map(token).collect();
        let mut made = Vec::new();
        for _ in 0..3 {
            let from = sim.now();
            let peers: Vec<PeerId> = (0..4)
                .zip(all.chunks(25))
                .map(|(at, some)| client(&mut sim, ShardId(at), &lines(some, 25, 5)))
                .collect();
            sim.run_until(|sim| all_ended(sim, &peers));
            sim.run_for(Duration::from_millis(50));
            // Too short a time to earn a log.
            assert!(sim.now().since(from) < Duration::from_millis(200), "seed {seed}");
            made.push(sim.tokens().count());
            sim.run_for(Duration::from_secs(2));
        }
        assert_eq!(made, [15, 20, 25], "seed {seed}");
        drain(&mut sim, &[]);
        let counters = sim.outcome().unwrap().counters;
        assert_eq!((counters.entries, counters.rejected(Reject::TooManyTokens)), (60, 240), "seed {seed}");
        assert_conserved(&counters, &format!("seed {seed}"));
    }
}

#[test]
fn a_log_of_before_is_not_made_again() {
    let mut config = config_of(1);
    config.logs.tokens = Allowance::paced(1000, 1, 1);
    let mut sim = Sim::with_log(1, config, token(0), engine::segment::Offset(0), b"before\n");
    let stream = lines(&[token(1), token(0), token(2), token(0)], 400, 0);
    let peer = client(&mut sim, ZERO, &stream);
    sim.run_until(|sim| all_ended(sim, &[peer]));
    drain(&mut sim, &[]);
    let stored = String::from_utf8(sim.log_bytes(token(0))).unwrap();
    assert_eq!(stored.lines().count(), 201);
    assert_eq!(sim.tokens().collect::<Vec<_>>(), [token(0), token(1)]);
    assert_eq!(sim.outcome().unwrap().counters.rejected(Reject::TooManyTokens), 100);
}

/// A line whose first piece came too soon is rejected as a whole, although its end comes when there may be one more log.
#[test]
fn no_log_begins_in_the_middle_of_a_line() {
    for shard in [ZERO, ONE] {
        let mut config = ShardConfig { line_bytes_max: 100, ..config_of(2) };
        config.logs.tokens = Allowance::paced(1000, 0, 1);
        let logs = tokens_of(&config, ONE, 2);
        let mut sim = Sim::new(2, Faults::none(), config);
        let peer = sim.connect_to(shard);
        sim.send(peer, format!("{} x\n{} {}", logs[0], logs[1], "y".repeat(200)).as_bytes());
        sim.run_until(|sim| !sim.log_bytes(logs[0]).is_empty());
        sim.run_for(Duration::from_secs(5));
        sim.send(peer, format!("{}\n", "y".repeat(200)).as_bytes());
        sim.run_for(Duration::from_secs(5));
        drain(&mut sim, &[peer]);
        let counters = sim.outcome().unwrap().counters;
        assert_eq!((counters.lines, counters.entries, counters.split_pieces), (2, 1, 0));
        assert_eq!(counters.rejected(Reject::TooManyTokens), 1);
        assert_eq!(sim.tokens().collect::<Vec<_>>(), [logs[0]]);
    }
}

#[test]
fn all_shards_together_have_as_many_connections_as_are_allowed() {
    for seed in 0..10 {
        let mut config = config_of(4);
        config.connections = Allowance::new(6);
        let mut sim = Sim::new(seed, Faults::none(), config);
        let open = |sim: &mut Sim| {
            let peer = sim.connect();
            sim.send(peer, format!("{} x\n", token(1)).as_bytes());
            sim.run_for(Duration::from_millis(100));
            peer
        };
        let peers: Vec<PeerId> = (0..40).map(|_| open(&mut sim)).collect();
        let accepted = peers.iter().filter(|&&peer| !sim.never_accepted(peer)).count();
        // A shard learns that no more are allowed when it accepts one.
        assert!((6..6 + 4).contains(&accepted), "seed {seed}: {accepted} were accepted");
        for &peer in &peers {
            sim.close(peer);
        }
        sim.run_until(|sim| all_ended(sim, &peers));
        drain(&mut sim, &[]);
        assert_eq!(sim.log_bytes(token(1)), b"x\n".repeat(40), "seed {seed}");
    }
}

#[test]
fn a_log_goes_on_with_the_shard_that_owns_it() {
    for shards in [2, 4] {
        let config = config_of(shards);
        let log = token(1);
        let mut sim = Sim::with_log(6, config, log, engine::segment::Offset(700), b"before\n");
        for shard in (0..shards).map(ShardId) {
            let peer = client(&mut sim, shard, format!("{log} from {}\n", shard.0).as_bytes());
            sim.run_until(|sim| all_ended(sim, &[peer]));
            sim.run_for(Duration::from_millis(100));
        }
        drain(&mut sim, &[]);
        let all: Vec<u8> = (0..shards).flat_map(|shard| format!("from {shard}\n").into_bytes()).collect();
        assert_eq!(sim.log_bytes(log), [&b"before\n"[..], &all].concat());
    }
}
