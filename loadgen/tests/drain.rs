//! The pair: the real engine, stopped by SIGTERM while connections push at full speed.
//!
//! What TCP acknowledged must be stored: for each connection exactly the whole lines among its acknowledged bytes, in
//! order, none twice, and nothing beyond. The engine is the one in the same target directory as the sender.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use loadgen::follow::Follower;
use loadgen::plan::{Files, Plan, Stop};
use loadgen::sender::{self, Ending, Outcome};
use loadgen::tokens::{Tokens, tokens_of_seed};
use support::engine::Engine;

const ROUNDS: u64 = 20;
const CONNECTIONS: u32 = 8;
/// How long the senders push before the engine is told to stop; each round a little longer.
const PUSH: Duration = Duration::from_millis(200);
/// Longer than any step of a round should take, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

fn plan(target: SocketAddr, seed: u64) -> Plan {
    Plan {
        stop: Stop::After(DEADLINE),
        connections: CONNECTIONS,
        seed,
        finish_wait: DEADLINE,
        ..Plan::new(target, Tokens::in_turn(tokens_of_seed(seed, 100)))
    }
}

/// One engine's life: senders push, SIGTERM, and everybody ends.
fn drain_under_load(data: &Path, round: u64) -> (Plan, Outcome, Vec<String>) {
    let engine = Engine::start(data, "127.0.0.1:0");
    let plan = plan(engine.address, round);
    let senders = std::thread::spawn({
        let plan = plan.clone();
        move || sender::run(&plan).unwrap()
    });
    std::thread::sleep(PUSH + Duration::from_millis(7 * round));
    engine.terminate();
    let outcome = senders.join().unwrap();
    (plan, outcome, engine.wait())
}

#[test]
fn sigterm_under_load_loses_nothing_that_tcp_acknowledged() {
    for round in 0..ROUNDS {
        let data = tempfile::tempdir().unwrap();
        let (plan, outcome, said) = drain_under_load(data.path(), round);
        let follower = Follower::new(&Arc::new(plan), &Files::Data(data.path().to_owned())).unwrap();
        let account = follower.close().unwrap().settle(&outcome);
        for (connection, (sent, tally)) in outcome.connections.iter().zip(&account.connections).enumerate() {
            let whole = format!("round {round}, connection {connection}: {sent:?} {tally:?} {said:#?}");
            assert_eq!(sent.ending, Ending::ByReceiver, "{whole}");
            assert!(tally.acknowledged > 0, "{whole}");
            assert!(tally.is_clean(), "{whole}");
            assert_eq!((tally.stored, tally.beyond), (tally.acknowledged, 0), "{whole}");
        }
        assert_eq!(account.unknown, 0, "round {round}");
    }
}
