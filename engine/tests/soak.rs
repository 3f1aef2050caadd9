//! Mixed load for a long time on one data directory: engines that roll, compress, delete, reload and are killed, one after the
//! other, and all that was sent is there but for what is documented.
//!
//! ```text
//!  life   1 ───────────────────── kill    2 ───────────────────── kill    …    n ───────────────── SIGTERM
//!         clients, readers, signals   checks, restart
//! ```
//!
//! `scripts/soak` runs it for as long as one likes: `ENGINE_SOAK_MINUTES=n` makes n lives of a minute. Without it there are three
//! short ones. The data directory is kept if something is wrong.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

#[path = "support/lab/load.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
mod load;
#[path = "support/soak/mod.rs"]
mod soak;
#[path = "support/lab/stored.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
mod stored;
mod support;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;

use load::{LOGS, token};
use soak::audit::Audit;
use soak::clients::{CONNECTIONS, Clients, DATAGRAMS, Sent, Stage};
use soak::readers::Follower;
use soak::watch::{Growth, MEMORY_TOLERANCE_KIB, Watch};
use support::http::Metrics;
use support::process::{Engine, engine, finish, now, wait_until};
use support::tls::{Authority, ECDSA, RSA};

const SHORT_LIVES: (u64, Duration) = (3, Duration::from_secs(12));
const LIFE: Duration = Duration::from_mins(1);

/// Everything comes often; segments stay for some ten seconds.
const FLAGS: [&str; 14] = [
    "--segment-bytes",
    "1MiB",
    "--segment-age",
    "2s",
    "--compress-after",
    "1s",
    "--retain-bytes",
    "4MiB",
    "--retain-age",
    "15s",
    "--buffer-bytes",
    "4MiB",
    "--admin",
    "127.0.0.1:0",
];
/// `--buffer-bytes`, and the receive buffers of a shard.
const SHARD_BYTES: u64 = (4 << 20) + 32 * (64 << 10);
/// Between two looks at memory and descriptors, two reloads, two rolls, and two looks at all logs.
const WATCH: Duration = Duration::from_millis(500);
const RELOAD: Duration = Duration::from_secs(3);
const ROLL: Duration = Duration::from_millis(3700);
const LOOK: Duration = Duration::from_secs(1);
/// The logs that are followed.
const FOLLOWED: [u64; 2] = [0, 1];

/// What is there from the first life to the last.
struct Soak {
    folder: TempDir,
    data: PathBuf,
    authority: Authority,
    trust: Arc<ClientConfig>,
    audit: Audit,
    /// Number of the next connection.
    connections: u64,
    /// Files that reloads read are written so many times.
    written: u64,
    totals: Totals,
    /// At the end of each life, by the number of its shards.
    memory_kib: BTreeMap<&'static str, Vec<u64>>,
}

/// What happened in all lives.
#[derive(Default)]
struct Totals {
    /// Segments that were compressed at the end of a life.
    compressed: u64,
    deleted_bytes: u64,
    reloads: u64,
    handshakes: u64,
    followed: u64,
}

/// What a life was like.
struct Life {
    number: u64,
    shards: &'static str,
    sync: &'static str,
    growth: Growth,
    /// Lines and bytes that were sent over TCP and not stored, and lines that were sent as datagrams and not stored.
    missing: (u64, u64),
    missing_datagrams: u64,
    connections: usize,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, shards, sync, connections, .. } = self;
        let [[memory, memory_end], [descriptors, descriptors_end]] = [self.growth.memory_kib, self.growth.descriptors];
        write!(
            f,
            "life {number}: shards={shards} sync={sync} connections={connections} memory_kib={memory}->{memory_end} "
        )?;
        write!(
            f,
            "descriptors={descriptors}->{descriptors_end} lost_lines={} lost_bytes={} ",
            self.missing.0, self.missing.1
        )?;
        write!(f, "lost_datagrams={}", self.missing_datagrams)
    }
}

#[test]
fn nothing_is_lost_doubled_or_piled_up() {
    if !(support::require_tool("tail") && support::require_tool("zstdcat")) {
        return;
    }
    let minutes = std::env::var("ENGINE_SOAK_MINUTES").ok().map(|minutes| minutes.parse().unwrap());
    let (lives, life) = minutes.map_or(SHORT_LIVES, |minutes| (minutes, LIFE));
    let mut soak = Soak::new();
    let kept = soak.folder.path().to_owned();
    soak::say(&format!("lives={lives} of {} s; {} is kept if something is wrong", life.as_secs(), kept.display()));
    soak.folder.disable_cleanup(true);
    for number in 1..=lives {
        soak.live(number, life, number == lives);
    }
    soak.assert_whole();
    std::fs::remove_dir_all(kept).unwrap();
}

impl Soak {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("soak-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let data = folder.path().join("data");
        let authority = Authority::new();
        let trust = Arc::new(authority.client(&[&TLS12, &TLS13]));
        let audit = Audit::new(&data);
        let (totals, memory_kib) = (Totals::default(), BTreeMap::new());
        Self { folder, data, authority, trust, audit, connections: 0, written: 0, totals, memory_kib }
    }

    /// Writes configuration, token list and certificate as they were not before.
    fn write_files(&mut self) {
        let folder = self.folder.path();
        let (linger, kind) = if self.written.is_multiple_of(2) { ("5ms", ECDSA) } else { ("3ms", RSA) };
        std::fs::write(folder.join("engine.toml"), format!("linger = \"{linger}\"\n")).unwrap();
        let more = (0..=self.written % 2).map(|more| LOGS + more);
        let tokens = (0..LOGS).chain(more).fold(String::new(), |list, log| list + &token(log) + "\n");
        std::fs::write(folder.join("tokens.new"), tokens).unwrap();
        std::fs::rename(folder.join("tokens.new"), folder.join("tokens")).unwrap();
        self.authority.pair("localhost", kind).write(folder);
        self.written += 1;
    }

    fn start(&mut self, shards: &str, sync: &str) -> Engine {
        self.write_files();
        let file = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let [config, tokens, cert, key] = ["engine.toml", "tokens", "cert.pem", "key.pem"].map(file);
        let mut flags = vec!["--config", &config, "--tokens", &tokens, "--cert", &cert, "--key", &key];
        for proto in ["--tcp", "--udp", "--tls"] {
            flags.extend([proto, "127.0.0.1:0"]);
        }
        flags.extend(["--shards", shards, "--sync", sync]);
        let engine = Engine::start_in(&self.data, &[&flags[..], &FLAGS].concat());
        let recovered = engine.wait_for_line(|line| line.contains(" recovered "));
        assert!(recovered.ends_with(" alarms=0"), "{recovered}");
        engine
    }

    fn live(&mut self, number: u64, life: Duration, is_last: bool) {
        let shards = ["1", "2"][usize::try_from(number % 2).unwrap()];
        let sync = ["interval", "batch", "none"][usize::try_from(number % 3).unwrap()];
        let mut engine = self.start(shards, sync);
        let first = self.connections;
        self.audit.first = first;
        let clients = Clients::new(engine.addr(), engine.tls_addr(), engine.udp_addr(), Arc::clone(&self.trust), first);
        let mut watch = Watch::default();
        let mut followers = Vec::new();
        let sent: Vec<Sent> = std::thread::scope(|scope| {
            let _leave = Leave(&clients);
            let senders = clients.start(scope);
            assert!(wait_until(|| (0..LOGS).all(|log| self.current(log).exists())), "not every log begins");
            followers = self.follow();
            self.operate(&mut engine, &mut watch, life);
            self.count(&engine);
            if is_last {
                clients.enter(Stage::Ending);
                let sent = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect();
                engine.stop();
                return sent;
            }
            clients.enter(Stage::Killed);
            engine.signal(Signal::KILL);
            senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
        });
        let reloads = engine.stderr().matches("configuration read again").count();
        drop(engine);
        self.totals.reloads += u64::try_from(reloads).unwrap();
        self.audit.look();
        self.audit.compare_with_other_readers();
        for follower in followers {
            self.totals.followed += follower.end(&self.audit, first);
        }
        self.connections = clients.next();
        let life = self.settle(
            Life {
                number,
                shards,
                sync,
                growth: watch.growth(),
                missing: (0, 0),
                missing_datagrams: 0,
                connections: sent.len(),
            },
            &sent,
            is_last,
        );
        soak::say(&life.to_string());
    }

    fn current(&self, log: u64) -> PathBuf {
        self.data.join(token(log)).join("current")
    }

    fn follow(&self) -> Vec<Follower> {
        let data = self.data.to_str().unwrap();
        let follow = |log: u64| {
            let mut tail = Command::new("tail");
            tail.args(["--quiet", "--lines=0", "-F"]).arg(self.current(log));
            let mut ours = engine(&["tail", "-f", "-n", "0", &token(log), "--data", data]);
            [Follower::start("tail -F", log, &mut tail), Follower::start("engine tail", log, &mut ours)]
        };
        FOLLOWED.into_iter().flat_map(follow).collect()
    }

    /// What an operator does during a life, while others look.
    fn operate(&mut self, engine: &mut Engine, watch: &mut Watch, life: Duration) {
        let over = AtomicBool::new(false);
        let begin = now();
        let mut audit = std::mem::replace(&mut self.audit, Audit::new(&self.data));
        let data = self.data.clone();
        self.audit = std::thread::scope(|scope| {
            let _over = Over(&over);
            let auditor = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    audit.look();
                    verify(&data);
                    std::thread::sleep(LOOK);
                }
                audit
            });
            let (mut watched, mut reloaded, mut rolled) = (begin, begin, begin);
            while now() < begin + life && !auditor.is_finished() {
                std::thread::sleep(WATCH / 5);
                let is_due = |last: &mut _, every| {
                    let due = now() >= *last + every;
                    if due {
                        *last += every;
                    }
                    due
                };
                if is_due(&mut watched, WATCH) {
                    watch.look(engine);
                }
                if is_due(&mut reloaded, RELOAD) {
                    self.write_files();
                    engine.signal(Signal::HUP);
                }
                if is_due(&mut rolled, ROLL) {
                    engine.signal(Signal::USR1);
                }
            }
            over.store(true, Ordering::Relaxed);
            auditor.join().unwrap()
        });
    }

    /// What the engine did in this life.
    fn count(&mut self, engine: &Engine) {
        let metrics = Metrics::of(engine.admin());
        self.totals.compressed += metrics.get("engine_segments{state=\"compressed\"}");
        self.totals.deleted_bytes += metrics.get("engine_retained_bytes_total");
        self.totals.handshakes += metrics.get("engine_tls_handshakes_total{result=\"full\"}");
        assert_eq!(metrics.get("engine_config_reloads_total{result=\"failed\"}"), 0, "{}", engine.stderr());
    }

    /// What was sent and is not there is within what is documented.
    fn settle(&mut self, mut life: Life, sent: &[Sent], is_last: bool) -> Life {
        for sent in sent {
            let (lines, bytes) = self.audit.missing(sent);
            if sent.connection >= DATAGRAMS {
                life.missing_datagrams += lines;
            } else {
                life.missing = (life.missing.0 + lines, life.missing.1 + bytes);
            }
        }
        let sockets = CONNECTIONS * (socket_bytes_max("tcp_wmem") + socket_bytes_max("tcp_rmem"));
        let bound = if is_last { 0 } else { life.shards.parse::<u64>().unwrap() * SHARD_BYTES + sockets };
        assert!(life.missing.1 <= bound, "{life}: more than {bound} bytes are lost");
        life.growth.assert_flat();
        self.memory_kib.entry(life.shards).or_default().push(life.growth.memory_kib[1]);
        life
    }

    /// After the last life, which ended in order.
    fn assert_whole(&mut self) {
        verify(&self.data);
        for ends in self.memory_kib.values() {
            let flat = ends.iter().all(|end| *end <= ends[0] + MEMORY_TOLERANCE_KIB);
            assert!(flat, "memory grows from life to life: {ends:?} KiB");
        }
        let Audit { entries, looks, overtaken, .. } = self.audit;
        let Totals { compressed, deleted_bytes, reloads, handshakes, followed } = self.totals;
        soak::say(&format!(
            "entries={entries} looks={looks} overtaken={overtaken} compressed={compressed} deleted_bytes={deleted_bytes} \
             reloads={reloads} tls_handshakes={handshakes} followed_lines={followed}"
        ));
        assert!(entries > 0 && overtaken * 10 <= looks * LOGS, "the looks say nothing");
        let all = [compressed, deleted_bytes, reloads, handshakes, followed];
        assert!(all.iter().all(|count| *count > 0), "something never happened: {all:?}");
    }
}

/// Every byte is as it was written.
fn verify(data: &Path) {
    let output = finish(engine(&["verify", "--data", data.to_str().unwrap()]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.ends_with("damages=0\n"), "{text}");
}

/// Most bytes that the kernel keeps of a connection on one side.
fn socket_bytes_max(name: &str) -> u64 {
    let limits = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap();
    limits.split_whitespace().last().unwrap().parse().unwrap()
}

/// Sends the clients away when a check fails: else nobody would wait for them in vain.
struct Leave<'a>(&'a Clients);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.enter(Stage::Over);
        }
    }
}

/// Set when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
