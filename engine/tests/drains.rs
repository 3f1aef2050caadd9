//! Drains in the simulated world: what the kernel acknowledged is stored, whatever peers, disk and wake-ups do meanwhile.
//! `simulation.rs` drains at the end of every seed; here are the cases that chance seldom makes.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::time::Duration;

use engine::driver::sim::{Ending, Fault, Faults, PeerId, Sim, When};
use engine::shard::Command;
use engine::wire::Reject;

use support::hostile::Random;
use support::world::{assert_stored_as_acknowledged, config, drain, token};

#[test]
fn a_drain_stores_every_acknowledged_byte() {
    for seed in 0..100 {
        let mut random = Random::new(seed);
        let mut sim = Sim::new(seed, Faults::none().with(Fault::ShortReceive, When::OneIn(4)), config(300));
        sim.set_socket_bytes(2000);
        let streams: Vec<Vec<u8>> = (0..10)
            .map(|peer| {
                (0..300).flat_map(|line| format!("{} {peer} {line}\n", token(100 + peer)).into_bytes()).collect()
            })
            .collect();
        let peers: Vec<PeerId> = streams
            .iter()
            .map(|stream| {
                let peer = sim.connect();
                sim.send(peer, stream);
                peer
            })
            .collect();
        for _ in 0..random.below(120) {
            sim.turn();
        }
        drain(&mut sim, &[]);
        assert_stored_as_acknowledged(&sim, &peers, &streams, 300, &format!("seed {seed}"));
    }
}

#[test]
fn peers_that_close_at_the_half_close_lose_nothing() {
    let mut sim = Sim::new(3, Faults::none(), config(4096));
    let stream = format!("{} last words without an end", token(1));
    let peers: Vec<PeerId> = (0..20)
        .map(|_| {
            let peer = sim.connect();
            sim.send(peer, stream.as_bytes());
            peer
        })
        .collect();
    let from = sim.now();
    drain(&mut sim, &peers);
    assert!(sim.now().since(from) < Duration::from_secs(1), "the drain waits for nobody");
    assert_eq!(sim.log_bytes(token(1)), b"last words without an end\n".repeat(20));
}

#[test]
fn a_last_line_survives_a_cut_that_comes_while_it_is_held() {
    let mut sim = Sim::new(4, Faults::none(), config(4096));
    sim.command(&Command::DiskLow(true));
    let peer = sim.connect();
    sim.send(peer, format!("{} whole\n{} closed in order", token(1), token(1)).as_bytes());
    sim.close(peer);
    sim.run_until(|sim| sim.ending(peer) == Ending::InOrder);
    drain(&mut sim, &[]);
    assert_eq!(sim.log_bytes(token(1)), b"whole\nclosed in order\n");
    assert_eq!(sim.outcome().unwrap().counters.rejected(Reject::Cut), 0);
}

#[test]
fn a_cut_ends_even_if_nothing_wakes_the_receives() {
    let mut sim = Sim::new(15, Faults::none().with(Fault::LostWakeUp, When::OneIn(1)), config(4096));
    let peers: Vec<PeerId> = (0..5).map(|_| sim.connect()).collect();
    for &peer in &peers {
        sim.send(peer, format!("{} x\n{} cut", token(1), token(1)).as_bytes());
    }
    drain(&mut sim, &[]);
    assert_eq!(sim.log_bytes(token(1)), b"x\n".repeat(5));
    assert_eq!(sim.outcome().unwrap().counters.rejected(Reject::Cut), 5);
}

#[test]
fn a_drain_waits_for_no_linger() {
    let mut config = config(4096);
    config.logs.linger = Duration::from_mins(10);
    let mut sim = Sim::new(13, Faults::none(), config);
    let peer = sim.connect();
    sim.send(peer, format!("{} at once\n", token(1)).as_bytes());
    sim.run_until(|sim| sim.log_bytes(token(1)) == b"at once\n");
    sim.send(peer, format!("{} lingers\n", token(1)).as_bytes());
    sim.run_for(Duration::from_mins(1));
    assert_eq!(sim.log_bytes(token(1)), b"at once\n");
    let from = sim.now();
    drain(&mut sim, &[peer]);
    assert!(sim.now().since(from) < Duration::from_secs(1));
    assert_eq!(sim.log_bytes(token(1)), b"at once\nlingers\n");
}

#[test]
fn a_drain_with_a_full_disk_ends_and_says_what_is_missing() {
    let mut sim = Sim::new(5, Faults::none(), config(4096));
    let peer = sim.connect();
    sim.send(peer, format!("{} hello\n", token(1)).as_bytes());
    // Its records are in the journal, too.
    sim.run_for(Duration::from_millis(500));
    sim.set_disk_room(10);
    sim.send(peer, format!("{} twelve bytes\n", token(1)).as_bytes());
    sim.close(peer);
    drain(&mut sim, &[]);
    assert_eq!(sim.outcome().unwrap().unstored_bytes, 3);
    assert_eq!(sim.log_bytes(token(1)), b"hello\ntwelve byt");
}

#[test]
fn a_failing_accept_loses_no_connection_of_a_drain() {
    for fault in [Fault::AcceptFailed, Fault::AcceptAborted] {
        for n in 0..12 {
            let mut sim = Sim::new(u64::from(n), Faults::none().with(fault, When::During(n, n + 3)), config(4096));
            let peers: Vec<PeerId> = (0..10).map(|_| sim.connect()).collect();
            for &peer in &peers {
                sim.send(peer, format!("{} x\n", token(1)).as_bytes());
                sim.close(peer);
            }
            drain(&mut sim, &[]);
            let aborted = peers.iter().filter(|&&peer| sim.never_accepted(peer)).count();
            assert!(aborted <= if fault == Fault::AcceptAborted { 3 } else { 0 }, "{fault:?} {n}: {aborted} lost");
            assert_eq!(sim.log_bytes(token(1)).len(), 2 * (10 - aborted), "{fault:?} {n}");
        }
    }
}

// Datagrams.
