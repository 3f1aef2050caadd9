//! The pair: the real engine, stopped by SIGTERM while connections push at full speed.
//!
//! What TCP acknowledged must be stored: for each connection exactly the whole lines among its acknowledged bytes, in
//! order, none twice, and nothing beyond. The engine is the one in the same target directory as the sender.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and names what it skips")]

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use loadgen::account::Account;
use loadgen::payload::{Layout, Position};
use loadgen::plan::{Plan, Rate, Stop, fresh_run_id, tokens_of_seed};
use loadgen::sender::{Ending, Outcome};
use loadgen::{logs, sender};
use rustix::process::{Pid, Signal, kill_process};

const ROUNDS: u64 = 20;
/// The same with this many shards, whatever cores there are.
const SHARDS: [&str; 2] = ["2", "4"];
const SHARDS_ROUNDS: u64 = 5;
/// The same as a user without privileges, whose sockets go deaf another way.
const ORDINARY_ROUNDS: u64 = 5;
/// Nobody's user and group id.
const NOBODY: &str = "65534";
const CONNECTIONS: u32 = 8;
/// How long the senders push before the engine is told to stop; each round a little longer.
const PUSH: Duration = Duration::from_millis(200);
/// Longer than any step of a round should take, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// An engine that runs until told to stop, or until the test fails.
struct Engine {
    child: Child,
    address: SocketAddr,
    /// Its own log, line by line, once it is ready.
    log: mpsc::Receiver<String>,
}

impl Engine {
    #[expect(clippy::zombie_processes, reason = "a test that panics here ends its process as well")]
    fn start(mut command: Command, flags: &[&str], data: &Path) -> Self {
        let mut child = command
            .args(["run", "--tcp", "127.0.0.1:0", "--admin", "off", "--drain-timeout", "1s", "--data"])
            .arg(data)
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (line_in, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| line_in.send(line)));
        let mut said = Vec::new();
        loop {
            let line = log.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("the engine is not ready: {said:#?}"));
            said.push(line);
            if said.last().is_some_and(|line| line.split_whitespace().any(|word| word == "ready")) {
                let address = said.iter().find_map(|line| tcp_address(line)).expect("said before it is ready");
                return Self { child, address, log };
            }
        }
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Waits for the end, which closes its log.
    fn wait(mut self) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            match self.log.recv_timeout(DEADLINE) {
                Ok(line) => said.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the engine does not end: {said:#?}"),
            }
        }
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{said:#?}");
        said
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Already waited for, unless the test failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn tcp_address(line: &str) -> Option<SocketAddr> {
    let words = || line.split_whitespace();
    let is_tcp = words().any(|word| word == "listening") && words().any(|word| word == "proto=tcp");
    words().filter(|_| is_tcp).find_map(|word| word.strip_prefix("addr=")?.parse().ok())
}

fn engine_binary() -> PathBuf {
    let engine = Path::new(env!("CARGO_BIN_EXE_loadgen")).with_file_name("engine");
    assert!(engine.is_file(), "{} is not built; `cargo test --workspace` builds it", engine.display());
    engine
}

fn plan(target: SocketAddr, seed: u64) -> Plan {
    Plan {
        target,
        rate: Rate::Max,
        stop: Stop::After(DEADLINE),
        connections: CONNECTIONS,
        tokens: tokens_of_seed(seed, 100),
        layout: Layout::new(256, Position::Start),
        seed,
        run: fresh_run_id(),
        finish_wait: DEADLINE,
        data: None,
    }
}

/// One engine's life: senders push, SIGTERM, and everybody ends.
fn drain_under_load(command: Command, flags: &[&str], data: &Path, round: u64) -> (Plan, Outcome, Vec<String>) {
    let engine = Engine::start(command, flags, data);
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
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let data = folder.path().join("data");
    let (plan, outcome, said) = drain_under_load(command, flags, &data, round);
    let mut account = Account::new(&plan, &outcome);
    logs::read_once(&data, &plan, &mut account).unwrap();
    for (connection, (sent, tally)) in outcome.connections.iter().zip(account.tallies()).enumerate() {
        let whole = format!("{flags:?}, round {round}, connection {connection}: {sent:?} {tally:?} {said:#?}");
        assert_eq!(sent.ending, Ending::ByReceiver, "{whole}");
        assert!(sent.entries_acknowledged > 0, "{whole}");
        assert!(tally.is_clean(), "{whole}");
        assert_eq!((tally.stored, tally.beyond), (sent.entries_acknowledged, 0), "{whole}");
    }
    assert_eq!(account.unknown, 0, "{flags:?}, round {round}");
}
