//! The pair: the real engine, stopped by SIGTERM while connections push at full speed.
//!
//! What TCP acknowledged must be stored: for each connection exactly the whole lines among its acknowledged bytes, in
//! order, none twice, and nothing beyond. The engine is the one in the same target directory as the sender.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and names what it skips")]

mod support;

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use loadgen::follow::Follower;
use loadgen::plan::{Files, Plan, Proto, Stop};
use loadgen::sender::{self, Ending, Outcome, Watch};
use loadgen::tls::{Records, Tls};
use loadgen::tokens::{Tokens, tokens_of_seed};
use support::engine::{Engine, engine_binary};
use support::tls::Authority;

const ROUNDS: u64 = 20;
/// The same with this many shards, whatever cores there are.
const SHARDS: [&str; 2] = ["2", "4"];
const SHARDS_ROUNDS: u64 = 5;
/// The same over TLS, with this many shards.
const TLS_SHARDS: [&str; 2] = ["1", "2"];
const TLS_ROUNDS: u64 = 5;
/// The same as a user without privileges, whose sockets go deaf another way.
const ORDINARY_ROUNDS: u64 = 5;
/// Nobody's user and group id.
const NOBODY: &str = "65534";
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
fn drain_under_load(
    command: Command,
    flags: &[&str],
    proto: &Proto,
    data: &Path,
    round: u64,
) -> (Plan, Outcome, Vec<String>) {
    let engine = Engine::start_as(command, flags, data, "127.0.0.1:0");
    let target = if let Proto::Tls(_) = proto { engine.tls.unwrap() } else { engine.address };
    let plan = Plan { proto: proto.clone(), ..plan(target, round) };
    // All connections are there, and their handshakes over, before the time counts.
    let watch = Watch { parts: mpsc::channel().0, send_times: None, stop: Arc::default() };
    let senders = sender::prepare(&Arc::new(plan.clone()), &watch).unwrap().start();
    std::thread::sleep(PUSH + Duration::from_millis(7 * round));
    engine.terminate();
    let outcome = senders.wait().unwrap();
    (plan, outcome, engine.wait())
}

#[test]
fn sigterm_under_load_loses_nothing_that_tcp_acknowledged() {
    for round in 0..ROUNDS {
        drain_and_account(Command::new(engine_binary()), &[], round);
    }
}

#[test]
fn sigterm_of_several_shards_loses_nothing_either() {
    for shards in SHARDS {
        for round in 0..SHARDS_ROUNDS {
            drain_and_account(Command::new(engine_binary()), &["--shards", shards], round);
        }
    }
}

/// What TCP acknowledged are whole records and a part of one: the lines that end within the whole ones are stored.
#[test]
fn sigterm_over_tls_loses_nothing_either() {
    let authority = Authority::new("one");
    let certificates = authority.engine_flags();
    let certificates: Vec<&str> = certificates.iter().map(String::as_str).collect();
    for (shards, records) in
        TLS_SHARDS.into_iter().flat_map(|shards| [(shards, Records::Full), (shards, Records::Line)])
    {
        let proto = Proto::Tls(Tls::new("127.0.0.1", Some(&authority.file()), records).unwrap());
        for round in 0..TLS_ROUNDS {
            let flags = [&certificates[..], &["--shards", shards]].concat();
            drain_and_account_over(&proto, Command::new(engine_binary()), &flags, round);
        }
    }
}

#[test]
fn sigterm_as_an_ordinary_user_loses_nothing_either() {
    let folder = tempfile::tempdir().unwrap();
    let Some(engine) = copy_for_everybody(folder.path()) else { return };
    for round in 0..ORDINARY_ROUNDS {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]).arg(&engine);
        drain_and_account(command, &[], round);
    }
}

/// The engine where every user may run it; `None`, and the test named as skipped, where this one cannot become another.
fn copy_for_everybody(folder: &Path) -> Option<PathBuf> {
    let as_nobody = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--", "true"];
    if !Command::new("setpriv").args(as_nobody).status().is_ok_and(|status| status.success()) {
        let required = std::env::var_os("ENGINE_TESTS_REQUIRE_TOOLS").is_some_and(|value| value == "1");
        assert!(!required, "setpriv is missing, or this user cannot become another");
        eprintln!("skipped: the drain as an ordinary user: setpriv is missing, or this user cannot become another");
        return None;
    }
    std::fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    let engine = folder.join("engine");
    std::fs::copy(engine_binary(), &engine).unwrap();
    Some(engine)
}

fn drain_and_account(command: Command, flags: &[&str], round: u64) {
    drain_and_account_over(&Proto::Tcp, command, flags, round);
}

fn drain_and_account_over(proto: &Proto, command: Command, flags: &[&str], round: u64) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let data = folder.path().join("data");
    let (plan, outcome, said) = drain_under_load(command, flags, proto, &data, round);
    let follower = Follower::new(&Arc::new(plan), &Files::Data(data)).unwrap();
    let account = follower.close().unwrap().settle(&outcome);
    for (connection, (sent, tally)) in outcome.connections.iter().zip(&account.connections).enumerate() {
        let whole = format!("{flags:?}, round {round}, connection {connection}: {sent:?} {tally:?} {said:#?}");
        assert_eq!(sent.ending, Ending::ByReceiver, "{whole}");
        assert!(tally.acknowledged > 0, "{whole}");
        assert!(tally.is_clean(), "{whole}");
        assert_eq!((tally.stored, tally.beyond), (tally.acknowledged, 0), "{whole}");
    }
    assert_eq!(account.unknown, 0, "{flags:?}, round {round}");
}
