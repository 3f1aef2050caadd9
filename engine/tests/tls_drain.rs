//! Drains over TLS: a goodbye before the half-close, and exact to the last whole record, whatever goes wrong meanwhile.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use engine::driver::sim::{Ending, Fault, Faults, PeerId, Sim, When};
use engine::route::Ownership;
use engine::shard::Command;
use engine::tls::Server;
use rustls::ClientConfig;

use support::hostile::{Random, hostile_bytes, pieces, random_cuts};
use support::oracle::Oversize;
use support::tls::{Client, VERSIONS, both, connect, counters, handshakes, over_tls, shake_hands};
use support::world::{Expected, assert_chained, config, drain, finish_drain, token};

#[test]
fn a_drain_says_goodbye_before_it_half_closes() {
    for version in VERSIONS {
        let (server, client_config) = both(&[version]);
        let mut sim = Sim::new(1, Faults::none(), over_tls(config(4096), &server));
        let (peer, mut client) = connect(&mut sim, &client_config);
        let late = (sim.connect(), Client::new(&client_config, "localhost"));
        sim.run_for(Duration::from_millis(100));
        sim.command(&Command::Drain);
        sim.run_until(|sim| sim.half_closed(peer));
        client.give(&sim.read(peer)).unwrap();
        assert!(client.connection.process_new_packets().unwrap().peer_has_closed());
        let wire = client.seal(&[format!("{} under way\n", token(1)).as_bytes()]);
        sim.send(peer, &wire);
        sim.close(peer);
        // One who is in the middle of the handshake may finish it.
        let (late_peer, mut late) = late;
        assert!(!sim.half_closed(late_peer));
        assert!(shake_hands(&mut sim, late_peer, &mut late));
        let wire = late.seal(&[format!("{} late\n", token(2)).as_bytes()]);
        sim.send(late_peer, &wire);
        sim.run_until(|sim| sim.half_closed(late_peer));
        late.give(&sim.read(late_peer)).unwrap();
        assert!(late.connection.process_new_packets().unwrap().peer_has_closed());
        finish_drain(&mut sim, &[late_peer]);
        assert_eq!((sim.log_bytes(token(1)), sim.log_bytes(token(2))), (b"under way\n".to_vec(), b"late\n".to_vec()));
        // The second one is resumed, if the first one's ticket came in time.
        let [full, resumed, rest @ ..] = handshakes(&counters(&sim));
        assert_eq!((full + resumed, rest), (2, [0; 3]));
    }
}

/// Seeds of the sweep, unless the environment says otherwise.
const SEEDS: u64 = 300;

/// Several clients, hostile streams, faults, a drain at any moment: of each stream exactly what is in whole records that
/// TCP acknowledged is stored.
#[test]
fn drains_are_exact_to_the_last_whole_record() {
    let variable = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seeds = match variable("ENGINE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("ENGINE_SIM_SEEDS").unwrap_or(SEEDS).min(SEEDS),
    };
    let configs = VERSIONS.map(|version| both(&[version]));
    for seed in seeds {
        one_drain(seed, &configs[usize::try_from(seed % 2).unwrap()]);
    }
}

fn one_drain(seed: u64, (server, client_config): &(Server, Arc<ClientConfig>)) {
    let case = format!("seed {seed}");
    let mut random = Random::new(seed);
    let limit = *random.pick(&[64, 100, 4096]);
    let mut config = over_tls(self::config(limit), server);
    config.ownership = Ownership::with_seed(*random.pick(&[1, 2, 3]), seed);
    config.handshakes_max = *random.pick(&[1, 2, 100]);
    config.recv_buffers = 1 + random.below(8);
    let mut faults = Faults::none();
    for fault in [Fault::ShortReceive, Fault::ReceiveEnds, Fault::ShortTransmit, Fault::LostWakeUp, Fault::ShortWrite] {
        faults = faults.with(fault, *random.pick(&[When::Never, When::OneIn(2), When::OneIn(10)]));
    }
    let mut sim = Sim::new(seed, faults, config);
    let mut clients: Vec<(PeerId, Client, Vec<u8>)> = Vec::new();
    for index in 0..=random.below(5) as u64 {
        let (peer, client) = connect(&mut sim, client_config);
        clients.push((peer, client, hostile_bytes(support::oracle::Framing::Lf, seed * 100 + index, limit)));
    }
    sim.set_socket_bytes(*random.pick(&[500, 4096, 1 << 18]));
    for (peer, client, stream) in &mut clients {
        let cuts = random_cuts(random.next(), stream.len(), random.below(20));
        let wire =
            client.seal(&pieces(stream, &cuts).into_iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>());
        sim.send(*peer, &wire);
        sim.run_for(Duration::from_micros(random.below(500) as u64));
    }
    // Some close, after all that they have to say; the others stay until they are cut.
    sim.run_for(Duration::from_micros(random.below(20_000) as u64));
    let polite: Vec<PeerId> = clients.iter().map(|(peer, ..)| *peer).filter(|_| random.one_in(3)).collect();
    drain(&mut sim, &polite);
    let mut expected = Expected::new();
    let mut records_cut = 0;
    for (peer, client, stream) in &clients {
        let acknowledged = sim.acknowledged(*peer);
        let text = &stream[..client.text_within(acknowledged)];
        if sim.ending(*peer) == Ending::InOrder {
            assert_eq!(text.len(), stream.len(), "{case}");
            expected.add_whole(text, limit, Oversize::Split);
            continue;
        }
        let before = expected.cut + expected.counters.http + expected.counters.tls_on_plain;
        expected.add_cut(text, limit, Oversize::Split);
        let counted = expected.cut + expected.counters.http + expected.counters.tls_on_plain > before;
        records_cut += u64::from(!counted && client.cuts_a_record(acknowledged));
    }
    expected.cut += records_cut;
    if expected.counters.http + expected.counters.tls_on_plain == 0 {
        assert_eq!(sim.unread(), 0, "{case}: acknowledged bytes were left unread");
    }
    expected.assert_stored(&sim, &case);
    expected.assert_counted(&counters(&sim), &case);
    assert_chained(&sim, &case);
    assert_eq!(
        sim.shards().map(engine::shard::Shard::buffered_bytes).sum::<usize>(),
        0,
        "{case}: memory is still in use"
    );
}
