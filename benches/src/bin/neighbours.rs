//! What connections that do nothing cost those that send: the same load in turn with and without them, one engine.
//!
//! ```text
//!  engine, one shard ◄── loadgen, some runs to warm up
//!        ▲ round:  open the neighbours ── loadgen, measured ── end them ── loadgen, measured
//!        │ next:   loadgen, measured ── open the neighbours ── loadgen, measured ── end them
//! ```
//! Kinds of neighbours: `idle`, 10,000 connections that send nothing; `begun`, 5,000 that have sent half a line;
//! `handshakes`, 5,000 that have sent half a TLS `ClientHello`, all of them having their turn; `waiting`, the same where
//! most of them wait for it. The load comes over TLS beside the last two.
//!
//! Prints entries per CPU-second of the engine's shard and the kernel's workers for it, and with by without, round by
//! round: the median, and the quartiles around it. All rounds share one process because a fresh one first touches its
//! memory, which a virtual machine makes cost more or less than the neighbours do; for the same reason old segments go
//! soon, so that the same pages are written again and again. `loadgen` and `engine` are those beside this program; give
//! it a folder on a tmpfs, and a real-time priority (`chrt --fifo 10`) where other programs use the machine.

#![expect(clippy::print_stdout, reason = "the result")]

use std::error::Error;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ENGINE_CORE: &str = "0";
const GENERATOR_CORE: &str = "1";
const KINDS: [(&str, usize); 4] = [("idle", 10_000), ("begun", 5_000), ("handshakes", 5_000), ("waiting", 5_000)];
/// Loopback addresses that neighbours come from: one alone has no 10,000 free ports beside those of earlier rounds.
const SOURCES: usize = 8;
const WARM_UPS: usize = 3;
/// Until what was asked of the engine or the kernel is done.
const SETTLE: Duration = Duration::from_millis(700);
/// Half of a TLS record with a `ClientHello`: 256 bytes are announced.
const HALF_HELLO: &[u8] = &[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];
const HALF_LINE: &[u8] = b"2bfbea1e-10c3-4419-bdad-7e6435882e1f half a li";

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(kind), folder) = (args.next(), args.next().map_or_else(std::env::temp_dir, PathBuf::from)) else {
        return Err("usage: neighbours idle|begun|handshakes|waiting [FOLDER [ROUNDS [ENTRIES]]]".into());
    };
    let rounds: usize = args.next().map_or(Ok(12), |text| text.parse())?;
    let entries: u64 = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let many = KINDS.iter().find(|(name, _)| *name == kind).ok_or("no such kind of neighbours")?.1;
    setrlimit(
        Resource::Nofile,
        Rlimit { current: getrlimit(Resource::Nofile).maximum, ..getrlimit(Resource::Nofile) },
    )?;
    let world = World::start(&kind, &folder, entries)?;
    for _ in 0..WARM_UPS {
        world.entries_per_cpu_second()?;
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let mut memory = 0;
    for round in 0..rounds {
        for present in [round % 2 == 0, round % 2 == 1] {
            if !present {
                without.push(world.entries_per_cpu_second()?);
                continue;
            }
            let before = world.memory()?;
            let neighbours = open_neighbours(&kind, many, &world)?;
            memory = memory.max(world.memory()?.saturating_sub(before));
            with.push(world.entries_per_cpu_second()?);
            drop(neighbours);
            std::thread::sleep(SETTLE);
        }
    }
    let ratios = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    println!("{many} {kind}, {rounds} rounds of {entries} entries of 256 B, M entries per CPU-second of the engine:");
    for (name, values) in [("with", with), ("without", without)] {
        let Spread { low, median, high } = Spread::of(values);
        println!("{name:<8}{:.2} ({:.2}-{:.2})", median / 1e6, low / 1e6, high / 1e6);
    }
    let Spread { low, median, high } = Spread::of(ratios);
    println!("ratio   {median:.3} ({low:.3}-{high:.3})");
    println!("memory: at most {} B a connection", memory / many as u64);
    Ok(())
}

/// An engine and the load on it.
struct World {
    engine: Child,
    folder: PathBuf,
    plain: SocketAddr,
    tls: SocketAddr,
    over_tls: bool,
    entries: u64,
}

impl World {
    fn start(kind: &str, folder: &Path, entries: u64) -> Result<Self> {
        let folder = folder.join(format!("neighbours-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        fs::write(folder.join("cert.pem"), made.cert.pem())?;
        fs::write(folder.join("key.pem"), made.signing_key.serialize_pem())?;
        let mut command = pinned(ENGINE_CORE, "engine")?;
        command.args(["run", "--shards", "1", "--admin", "off", "--connections-per-ip-max", "0"]);
        command.args(["--tcp", "127.0.0.1:0", "--tls", "127.0.0.1:0", "--compress", "none"]);
        command.args(["--segment-bytes", "1MiB", "--retain-bytes", "1MiB"]);
        if kind == "handshakes" {
            command.args(["--handshakes-max", "8192"]);
        }
        for (flag, name) in [("--cert", "cert.pem"), ("--key", "key.pem"), ("--data", "data")] {
            command.arg(flag).arg(folder.join(name));
        }
        let mut engine = command.stderr(Stdio::piped()).spawn()?;
        let mut addresses = Vec::new();
        let mut said = BufReader::new(engine.stderr.take().ok_or("no stderr")?).lines();
        for line in said.by_ref() {
            let line = line?;
            addresses.extend(line.split_once("addr=").map(|(_, address)| address.to_owned()));
            if line.ends_with(" ready") {
                break;
            }
        }
        // What it still says is read, or it would wait at its end.
        std::thread::spawn(move || said.for_each(drop));
        let [plain, tls] = addresses.as_slice() else { return Err("the engine does not start".into()) };
        let over_tls = ["handshakes", "waiting"].contains(&kind);
        Ok(Self { plain: plain.parse()?, tls: tls.parse()?, engine, folder, over_tls, entries })
    }

    fn load(&self) -> Result<Command> {
        let mut command = pinned(GENERATOR_CORE, "loadgen")?;
        let (target, proto) =
            if self.over_tls { (self.tls, &["--proto", "tls", "--insecure"][..]) } else { (self.plain, &[][..]) };
        command.args(["run", "--target", &target.to_string(), "--size", "256", "--tokens", "100"]).args(proto);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }

    fn entries_per_cpu_second(&self) -> Result<f64> {
        let before = self.cpu_nanoseconds()?;
        let status = self.load()?.args(["--connections", "8", "--entries", &self.entries.to_string()]).status()?;
        if !status.success() {
            return Err(format!("loadgen: {status}").into());
        }
        std::thread::sleep(SETTLE);
        let used = Duration::from_nanos(self.cpu_nanoseconds()? - before);
        Ok(precise(self.entries) / used.as_secs_f64())
    }

    /// Of the shard's thread, which does not end before the engine does, and of the kernel's workers. Some of these may end
    /// meanwhile: writes of the size that there are here need none.
    fn cpu_nanoseconds(&self) -> Result<u64> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.engine.id()))? {
            let task = task?.path();
            let name = fs::read_to_string(task.join("comm"))?;
            if !name.starts_with("shard") && !name.starts_with("iou-wrk") {
                continue;
            }
            let text = fs::read_to_string(task.join("schedstat"))?;
            nanoseconds += text.split_whitespace().next().unwrap_or_default().parse::<u64>()?;
        }
        Ok(nanoseconds)
    }

    /// Anonymous memory in bytes.
    fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.engine.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
        Ok(line.split_whitespace().next().unwrap_or_default().parse::<u64>()? * 1024)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ended = self.engine.kill();
        let _waited = self.engine.wait();
        let _removed = fs::remove_dir_all(&self.folder);
    }
}

/// Opens those that do nothing, until they are dropped.
fn open_neighbours(kind: &str, many: usize, world: &World) -> Result<Vec<TcpStream>> {
    let (address, bytes) = match kind {
        "handshakes" | "waiting" => (world.tls, HALF_HELLO),
        "begun" => (world.plain, HALF_LINE),
        _ => (world.plain, &b""[..]),
    };
    let mut streams = Vec::with_capacity(many);
    for source in (2..).take(SOURCES).cycle().take(many) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, source), 0)).into())?;
        socket.connect(&address.into())?;
        // They end by a reset, which leaves no port behind in TIME_WAIT.
        socket.set_linger(Some(Duration::ZERO))?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(bytes)?;
        streams.push(stream);
    }
    std::thread::sleep(SETTLE);
    Ok(streams)
}

/// A program beside this one, on a core.
fn pinned(core: &str, program: &str) -> Result<Command> {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", core]).arg(std::env::current_exe()?.with_file_name(program));
    Ok(command)
}

/// A median and the quartiles around it.
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let (last, middle) = (values.len() - 1, values.len() / 2);
        let median = f64::midpoint(values[last / 2], values[middle]);
        Self { low: values[last / 4], median, high: values[last - last / 4] }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn precise(count: u64) -> f64 {
    count as f64
}
