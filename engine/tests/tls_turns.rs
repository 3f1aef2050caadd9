//! Who makes its TLS handshake when: those that say nothing, those that do not go on, and crowds.

mod support;

use std::sync::Arc;
use std::time::Duration;

use engine::driver::sim::{Faults, PeerId, Sim};
use engine::limits::{EXPIRED_GAP, EXPIRED_MAX, HANDSHAKE_TIMEOUT, HANDSHAKE_TURN};
use engine::metrics::HandshakeResult;
use engine::shard::{Command, Notice, ShardConfig};
use engine::tls::Server;
use engine::wire::Reject;
use rustls::ClientConfig;
use rustls::version::TLS13;

use support::tls::{Client, both, close, connect, counters, handshakes, over_tls, shake_hands};
use support::world::{config, drain, token};

fn world(server: &Server) -> ShardConfig {
    over_tls(config(4096), server)
}

/// Sixty clients who have said hello.
fn crowd(sim: &mut Sim, config: &Arc<ClientConfig>) -> Vec<(PeerId, Client)> {
    let say_hello = |_| {
        let (peer, mut client) = (sim.connect(), Client::new(config, "localhost"));
        sim.send(peer, &client.take());
        (peer, client)
    };
    (0..60).map(say_hello).collect()
}

#[test]
fn who_has_not_said_hello_holds_nobody_up() {
    let (server, client_config) = both(&[&TLS13]);
    let mut config = world(&server);
    config.handshakes_max = 1;
    let mut sim = Sim::new(1, Faults::none(), config);
    let hello = Client::new(&client_config, "localhost").take();
    // Nothing, a part of the record's header, and half a hello.
    let silent = [0, 4, hello.len() / 2].map(|sent| {
        let peer = sim.connect();
        sim.send(peer, &hello[..sent]);
        peer
    });
    sim.run_for(Duration::from_millis(100));
    let (peer, mut client) = connect(&mut sim, &client_config);
    let wire = client.seal(&[format!("{} served\n", token(1)).as_bytes()]);
    sim.send(peer, &wire);
    sim.run_for(HANDSHAKE_TIMEOUT.mul_f32(0.9));
    assert!(silent.iter().all(|peer| !sim.is_gone(*peer)));
    sim.run_until(|sim| silent.iter().all(|peer| sim.is_gone(*peer)));
    close(&mut sim, peer, &mut client);
    drain(&mut sim, &[]);
    let counters = counters(&sim);
    assert_eq!(handshakes(&counters), [1, 0, 0, 0, 3]);
    assert_eq!((counters.tls_handshakes_waited, sim.log_bytes(token(1))), (0, b"served\n".to_vec()));
}

#[test]
fn handshakes_take_turns_and_who_is_slow_loses_its_own() {
    let (server, client_config) = both(&[&TLS13]);
    let mut config = world(&server);
    config.handshakes_max = 2;
    let mut sim = Sim::new(1, Faults::none(), config);
    let start = sim.now();
    // Two who say hello and nothing more have their turn, a third one waits for it, and the fourth goes meanwhile.
    let hello = |sim: &mut Sim| {
        let (peer, mut client) = (sim.connect(), Client::new(&client_config, "localhost"));
        sim.send(peer, &client.take());
        sim.run_for(Duration::from_millis(100));
        (peer, client)
    };
    let slow = [hello(&mut sim).0, hello(&mut sim).0];
    let (peer, mut client) = hello(&mut sim);
    assert!(sim.read(peer).is_empty() && slow.iter().all(|peer| !sim.is_gone(*peer)));
    assert!(sim.notices().iter().any(|notice| matches!(notice, Notice::HandshakesCrowded { waiting: 1 })));
    let gone = hello(&mut sim).0;
    sim.close(gone);
    assert!(shake_hands(&mut sim, peer, &mut client));
    assert!(sim.now().since(start) < HANDSHAKE_TURN + Duration::from_millis(500));
    // Nobody waits any more: who still has its turn keeps it for as long as a handshake may take.
    sim.run_until(|sim| sim.is_gone(slow[0]));
    sim.run_for(HANDSHAKE_TIMEOUT.saturating_sub(HANDSHAKE_TURN + Duration::from_secs(1)));
    assert!(!sim.is_gone(slow[1]));
    sim.run_until(|sim| slow.iter().all(|peer| sim.is_gone(*peer)));
    let wire = client.seal(&[format!("{} patient\n", token(1)).as_bytes()]);
    sim.send(peer, &wire);
    close(&mut sim, peer, &mut client);
    drain(&mut sim, &[]);
    let counters = counters(&sim);
    assert_eq!(handshakes(&counters), [1, 0, 0, 1, 2]);
    assert_eq!((counters.tls_handshakes_waited, sim.log_bytes(token(1))), (2, b"patient\n".to_vec()));
}

/// Hellos have a small part of the memory to themselves: nobody's line is cut for them.
#[test]
fn hellos_without_end_cost_no_line() {
    let (server, client_config) = both(&[&TLS13]);
    let mut config = world(&server);
    config.buffer_bytes = 1 << 20;
    let mut sim = Sim::new(1, Faults::none(), config);
    let (peer, mut client) = connect(&mut sim, &client_config);
    let line = format!("{} half", token(1));
    sim.send(peer, &client.seal(&[line.as_bytes()]));
    // Of a record of 16 KiB the last byte is missing.
    let hello = [&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc][..], &[0; 16_379]].concat();
    let many: Vec<_> = (0..100)
        .map(|_| {
            let peer = sim.connect();
            sim.send(peer, &hello);
            sim.run_for(Duration::from_millis(10));
            peer
        })
        .collect();
    assert!(sim.shard().buffered_bytes() < 256 * 1024);
    assert!(many.iter().filter(|peer| sim.is_gone(**peer)).count() >= 90);
    // Who comes after them says all of its hello, and is not the one that goes, though all others are smaller.
    for small in 0..200 {
        let peer = sim.connect();
        sim.send(peer, &hello[..500]);
        if small % 20 == 0 {
            sim.run_for(Duration::from_millis(10));
        }
    }
    let (other, mut other_client) = connect(&mut sim, &client_config);
    close(&mut sim, other, &mut other_client);
    sim.send(peer, &client.seal(&[b" a line\n"]));
    close(&mut sim, peer, &mut client);
    drain(&mut sim, &[]);
    assert_eq!(sim.log_bytes(token(1)), b"half a line\n");
    assert_eq!(counters(&sim).rejected(Reject::Cut), 0);
}

/// A part of a hello in a record of its own: the handshake has begun, and what it waits for is no hello any more.
#[test]
fn a_hello_in_pieces_is_a_handshake() {
    let (server, client_config) = both(&[&TLS13]);
    let mut config = world(&server);
    config.buffer_bytes = 256 * 1024;
    let mut sim = Sim::new(1, Faults::none(), config);
    let begun: Vec<_> = (0..40)
        .map(|_| {
            let peer = sim.connect();
            sim.send(peer, &[0x16, 3, 1, 0, 1, 1]);
            peer
        })
        .collect();
    sim.run_for(Duration::from_millis(100));
    // More than an eighth of the memory, were they counted in it.
    let hello = Client::new(&client_config, "localhost").take();
    for _ in 0..20 {
        let peer = sim.connect();
        sim.send(peer, &hello[..hello.len() - 1]);
    }
    sim.run_for(Duration::from_millis(100));
    assert!(begun.iter().all(|peer| !sim.is_gone(*peer)));
    drain(&mut sim, &[]);
}

/// In a drain all of them have their turn, those too that were not read; who has gone meanwhile is none of them.
#[test]
fn a_drain_lets_a_crowd_make_its_handshakes() {
    let (server, client_config) = both(&[&TLS13]);
    let mut config = world(&server);
    config.handshakes_max = 1;
    config.drain_timeout = Duration::from_secs(5);
    let mut sim = Sim::new(1, Faults::none(), config);
    let mut crowd = crowd(&mut sim, &client_config);
    sim.run_for(Duration::from_millis(100));
    // The first has its turn, the second waits, the last is not read.
    for gone in [59, 1, 0] {
        sim.reset(crowd.remove(gone).0);
    }
    sim.command(&Command::Drain);
    let mut sent = vec![false; crowd.len()];
    sim.run_until(|sim| {
        for ((number, (peer, client)), sent) in (0..).zip(&mut crowd).zip(&mut sent) {
            client.give(&sim.read(*peer)).unwrap();
            let mut wire = client.take();
            if !*sent && !client.connection.is_handshaking() {
                *sent = true;
                wire.extend(client.seal(&[format!("{} {number}\n", token(1)).as_bytes()]));
                wire.extend(client.seal_end());
                sim.send(*peer, &wire);
                sim.close(*peer);
            } else if !wire.is_empty() {
                sim.send(*peer, &wire);
            }
        }
        sim.outcome().is_some()
    });
    assert!(sent.iter().all(|sent| *sent));
    assert_eq!(handshakes(&counters(&sim)), [57, 0, 0, 3, 0]);
    assert_eq!(sim.log_bytes(token(1)).split(|&byte| byte == b'\n').count(), 58);
}

/// Thousands that are over at once do not hold up the others all at once.
#[test]
fn those_whose_time_is_over_end_some_at_a_time() {
    let (server, _) = both(&[&TLS13]);
    let mut sim = Sim::new(1, Faults::none(), world(&server));
    let silent: Vec<_> = (0..4 * EXPIRED_MAX).map(|_| sim.connect()).collect();
    sim.run_until(|sim| silent.iter().any(|peer| sim.is_gone(*peer)));
    let ended = |sim: &Sim| sim.shard().counters().handshakes(HandshakeResult::Timeout);
    assert!(ended(&sim) <= EXPIRED_MAX as u64, "{}", ended(&sim));
    sim.run_for(4 * EXPIRED_GAP);
    assert_eq!(ended(&sim), 4 * EXPIRED_MAX as u64);
    drain(&mut sim, &[]);
}

/// Who comes while many wait is not read, and has its turn all the same.
#[test]
fn a_crowd_of_hellos_is_served_one_after_the_other() {
    let (server, client_config) = both(&[&TLS13]);
    let mut config = world(&server);
    config.handshakes_max = 3;
    let mut sim = Sim::new(1, Faults::none(), config);
    let mut crowd = crowd(&mut sim, &client_config);
    sim.run_for(Duration::from_millis(100));
    let waited = sim.shard().counters().tls_handshakes_waited;
    assert!((1..=20).contains(&waited), "{waited} were read");
    sim.run_until(|sim| {
        for (peer, client) in &mut crowd {
            client.give(&sim.read(*peer)).unwrap();
            let wire = client.take();
            if !wire.is_empty() {
                sim.send(*peer, &wire);
            }
        }
        crowd.iter().all(|(_, client)| !client.connection.is_handshaking())
    });
    for (number, (peer, client)) in crowd.iter_mut().enumerate() {
        sim.send(*peer, &client.seal(&[format!("{} {number}\n", token(1)).as_bytes()]));
        close(&mut sim, *peer, client);
    }
    drain(&mut sim, &[]);
    assert_eq!(handshakes(&counters(&sim)), [60, 0, 0, 0, 0]);
    assert_eq!(sim.log_bytes(token(1)).split(|&byte| byte == b'\n').count(), 61);
}

/// Those who have made their handshake may be silent for as long as they like.
#[test]
fn an_open_connection_has_no_deadline() {
    let (server, client_config) = both(&[&TLS13]);
    let mut sim = Sim::new(1, Faults::none(), world(&server));
    let (peer, mut client) = connect(&mut sim, &client_config);
    sim.run_for(10 * HANDSHAKE_TIMEOUT);
    let wire = client.seal(&[format!("{} late\n", token(1)).as_bytes()]);
    sim.send(peer, &wire);
    close(&mut sim, peer, &mut client);
    drain(&mut sim, &[]);
    assert_eq!(sim.log_bytes(token(1)), b"late\n");
}
