//! What connections that do nothing cost those that send: two engines under the same load at once, one beside them.
//!
//! ```text
//!  neighbours ──► engine ◄── loadgen
//!                 engine ◄── loadgen          and then the neighbours go to the other one
//! ```
//! Both engines share a core and the kernel with all its sockets, so whatever else happens happens to both within
//! milliseconds. They have it for the same time and not for the same work: else the slower one would have the core for itself
//! in the end, and do better. Two processes of one program differ by some per cent as long as they live: a round has the
//! neighbours once at each, and counts as one.
//!
//! Kinds of neighbours: `idle`, 10,000 connections that send nothing; `begun`, 5,000 that have sent half a line;
//! `left`, 5,000 that were opened and have gone; `stopped`, a sender of 64 connections at full speed that got SIGSTOP;
//! `handshakes`, 5,000 that have sent half a TLS `ClientHello`; `coming`, the same while they come, and as far as the seconds
//! go, are ended after their ten; `deaf`, 5,000 that have sent a whole one and never read what the engine answers, which
//! does not fit their receive buffers: most of them wait for their turn, and lose it one after the other. The load comes over
//! TLS beside `handshakes` and `coming`; beside `deaf` it would wait for its turn, too.
//!
//! Prints entries per CPU-second of an engine, and with by without, round by round: the median, and the quartiles around it.
//! What neighbours cost once, when they come or go, is a part of that which more seconds make smaller. Old segments go soon, so that the same pages are written again and again. `loadgen` and
//! `engine` are those beside this program; give it a folder on a tmpfs.

#![expect(clippy::print_stdout, reason = "the result")]

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use benches::process::{Folder, Result, Server, Spread, pinned, rate};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

const ENGINE_CORE: &str = "0";
const GENERATOR_CORE: &str = "1";
const KINDS: [(&str, usize); 7] = [
    ("idle", 10_000),
    ("begun", 5_000),
    ("left", 5_000),
    ("stopped", 64),
    ("handshakes", 5_000),
    ("coming", 5_000),
    ("deaf", 5_000),
];
/// Loopback addresses that neighbours come from: one alone has no 10,000 free ports beside those of earlier rounds.
const SOURCES: usize = 8;
const WARM_UPS: usize = 3;
/// Until what was asked of the engine or the kernel is done.
const SETTLE: Duration = Duration::from_millis(700);
/// Until a load has made its connections.
const CONNECTED: Duration = Duration::from_millis(300);
/// Half of a TLS record with a `ClientHello`: 256 bytes are announced.
const HALF_HELLO: &[u8] = &[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];
const HALF_LINE: &[u8] = b"2bfbea1e-10c3-4419-bdad-7e6435882e1f half a li";
/// A sender is stopped once the engine has worked for it so long; it is looked at this often, for ten seconds.
const SENT: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(20);
const LOOKS_MAX: usize = 500;
/// More than a stopped sender has sent when it is stopped.
const ENDLESS: &str = "1000000000";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(kind), folder) = (args.next(), args.next().map_or_else(std::env::temp_dir, PathBuf::from)) else {
        let kinds = KINDS.map(|(kind, _)| kind).join("|");
        return Err(format!("usage: neighbours {kinds} [FOLDER [ROUNDS [SECONDS]]]").into());
    };
    let rounds: usize = args.next().map_or(Ok(12), |text| text.parse())?;
    let seconds: u64 = args.next().map_or(Ok(3), |text| text.parse())?;
    let many = KINDS.iter().find(|(name, _)| *name == kind).ok_or("no such kind of neighbours")?.1;
    setrlimit(
        Resource::Nofile,
        Rlimit { current: getrlimit(Resource::Nofile).maximum, ..getrlimit(Resource::Nofile) },
    )?;
    let world = World::start(&kind, &folder, seconds)?;
    for _ in 0..WARM_UPS {
        world.entries_per_cpu_second(|| Ok(None))?;
    }
    let (mut with, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut memory = 0;
    for _ in 0..rounds {
        let mut ratio = 1.0;
        for (at, server) in world.servers.iter().enumerate() {
            let before = server.memory()?;
            let open = || Neighbours::open(&kind, many, server).map(Some);
            let rates = if kind == "coming" {
                world.entries_per_cpu_second(open)?
            } else {
                let _neighbours = open()?;
                std::thread::sleep(SETTLE);
                memory = memory.max(server.memory()?.saturating_sub(before));
                world.entries_per_cpu_second(|| Ok(None))?
            };
            ratio *= rates[at] / rates[1 - at];
            with.push(rates[at]);
            without.push(rates[1 - at]);
            std::thread::sleep(SETTLE);
        }
        ratios.push(f64::sqrt(ratio));
    }
    let ratios = Spread::of(ratios);
    println!(
        "{many} {kind}, {rounds} rounds of {seconds} s of entries of 256 B, M entries per CPU-second of an engine:"
    );
    println!("with {}, without {}, ratio {ratios:.3}", Spread::of(with), Spread::of(without));
    if memory > 0 {
        println!("memory: at most {} B a connection", memory / many as u64);
    }
    Ok(())
}

/// Two engines and the load on them.
struct World {
    // They end before their folder goes.
    servers: [Server; 2],
    _folder: Folder,
    over_tls: bool,
    seconds: u64,
}

impl World {
    fn start(kind: &str, folder: &Path, seconds: u64) -> Result<Self> {
        let folder = Folder::new(folder, "neighbours")?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        fs::write(folder.path().join("cert.pem"), made.cert.pem())?;
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem())?;
        let start = |data| {
            Server::start(ENGINE_CORE, |command| {
                command.args(["--shards", "1", "--connections-per-ip-max", "0"]);
                command.args(["--tcp", "127.0.0.1:0", "--tls", "127.0.0.1:0", "--compress", "none"]);
                command.args(["--segment-bytes", "1MiB", "--retain-bytes", "1MiB"]);
                for (flag, name) in [("--cert", "cert.pem"), ("--key", "key.pem"), ("--data", data)] {
                    command.arg(flag).arg(folder.path().join(name));
                }
            })
        };
        let servers = [start("data")?, start("data-of-the-other")?];
        let over_tls = ["handshakes", "coming"].contains(&kind);
        Ok(Self { servers, _folder: folder, over_tls, seconds })
    }

    /// Of each engine, while both have the same load, and neighbours come who come `meanwhile`.
    fn entries_per_cpu_second(&self, meanwhile: impl FnOnce() -> Result<Option<Neighbours>>) -> Result<[f64; 2]> {
        let [one, other] = &self.servers;
        let times = || Ok::<_, Box<dyn Error>>([one.whole_processor_time()?, other.whole_processor_time()?]);
        let before = times()?;
        let mut loads = Vec::new();
        for server in &self.servers {
            let mut load = load(if self.over_tls { tls(server) } else { plain(server) })?;
            load.args(["--connections", "8", "--duration", &format!("{}s", self.seconds), "--warmup", "0s", "--json"]);
            load.args(self.over_tls.then_some(["--proto", "tls", "--insecure"]).into_iter().flatten());
            loads.push(load.stdout(Stdio::piped()).spawn()?);
        }
        std::thread::sleep(CONNECTED);
        let _neighbours = meanwhile()?;
        let mut entries = Vec::new();
        for load in loads {
            let output = load.wait_with_output()?;
            if !output.status.success() {
                return Err(format!("loadgen: {}", output.status).into());
            }
            let report: Value = serde_json::from_slice(&output.stdout)?;
            entries.push(report["entries_sent"].as_u64().ok_or("loadgen says not how much it sent")?);
        }
        std::thread::sleep(SETTLE);
        let after = times()?;
        Ok([0, 1].map(|at| rate(entries[at], after[at].saturating_sub(before[at]))))
    }
}

fn plain(server: &Server) -> SocketAddr {
    server.addresses[0]
}

fn tls(server: &Server) -> SocketAddr {
    server.addresses[1]
}

/// Entries to one of an engine's addresses.
fn load(target: SocketAddr) -> Result<Command> {
    let mut command = pinned(GENERATOR_CORE, "loadgen")?;
    command.args(["run", "--target", &target.to_string(), "--size", "256", "--tokens", "100"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// Those that do nothing, until they are dropped.
enum Neighbours {
    Silent { _open: Vec<TcpStream> },
    Stopped(Child),
}

impl Neighbours {
    fn open(kind: &str, many: usize, server: &Server) -> Result<Self> {
        let hello;
        let (address, bytes) = match kind {
            "stopped" => return Self::stopped(many, server),
            "handshakes" | "coming" => (tls(server), HALF_HELLO),
            "deaf" => {
                hello = whole_hello()?;
                (tls(server), &hello[..])
            }
            "begun" => (plain(server), HALF_LINE),
            _ => (plain(server), &b""[..]),
        };
        let mut open = Vec::with_capacity(many);
        for source in (2..).take(SOURCES).cycle().take(many) {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            if kind == "deaf" {
                // The least that the kernel allows.
                socket.set_recv_buffer_size(1)?;
            }
            socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, source), 0)).into())?;
            socket.connect(&address.into())?;
            // They end by a reset, which leaves no port behind in TIME_WAIT.
            socket.set_linger(Some(Duration::ZERO))?;
            let mut stream = TcpStream::from(socket);
            stream.write_all(bytes)?;
            open.push(stream);
        }
        if kind == "left" {
            open.clear();
        }
        Ok(Self::Silent { _open: open })
    }

    fn stopped(many: usize, server: &Server) -> Result<Self> {
        let mut load = load(plain(server))?;
        let before = server.processor_time("shard")?;
        let child = load.args(["--connections", &many.to_string(), "--entries", ENDLESS]).spawn()?;
        let id = Pid::from_child(&child);
        let sender = Self::Stopped(child);
        let mut looks = 0..LOOKS_MAX;
        while server.processor_time("shard")?.saturating_sub(before) < SENT {
            looks.next().ok_or("the sender to be stopped does not send")?;
            std::thread::sleep(LOOK);
        }
        kill_process(id, Signal::STOP)?;
        Ok(sender)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        if let Self::Stopped(child) = self {
            let _ended = child.kill();
            let _waited = child.wait();
        }
    }
}

/// What a TLS client says first.
fn whole_hello() -> Result<Vec<u8>> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    Ok(hello)
}
