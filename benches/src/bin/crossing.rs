//! What it costs that a connection's logs belong to another shard: one connection, an engine of two shards, and in turn
//! lines to logs of the shard that receives and lines to logs of the other.
//!
//! ```text
//!  this program ══one connection══► shard that receives ─► its own logs          `at home`
//!                                            └─► queue ─► the other shard's logs  `crossing`
//! ```
//! Whose a log is follows from a key that each engine makes for itself. So each token is tried: only if it is the other
//! shard's does that one's thread use processor time. Prints entries per CPU-second of the engine and entries a second,
//! medians, and fails if an entry is missing or out of order. `engine` is the one beside this program.

#![expect(clippy::disallowed_methods, reason = "keeps time")]
#![expect(clippy::print_stdout, reason = "the result")]
#![expect(clippy::disallowed_methods, reason = "it measures with the real clock")]

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use benches::process::{Folder, Result, Server, Spread, rate};

const CORES: &str = "0,1";
/// Logs of each kind.
const LOGS: usize = 16;
const LINE_BYTES: usize = 256;
/// Lines that show whose a token is: some milliseconds of a shard's time.
const TRIED_LINES: u64 = 20_000;
const TOKENS_MAX: usize = 256;
/// Lines that are sent by one call.
const CHUNK_LINES: u64 = 1024;
/// The engine has written all when it has used less than this in one look …
const IDLE: Duration = Duration::from_micros(200);
/// … and looks are this far apart.
const LOOK: Duration = Duration::from_millis(10);

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds: usize = args.next().map_or(Ok(8), |text| text.parse())?;
    let entries: u64 = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let mut world = World::start(Folder::new(&folder, "crossing")?)?;
    let [home, other] = world.sort_tokens()?;
    let (mut home_runs, mut other_runs) = (Runs::default(), Runs::default());
    for _ in 0..rounds {
        home_runs.add(world.send(&home, entries)?);
        other_runs.add(world.send(&other, entries)?);
    }
    world.check()?;
    println!("one connection, two shards, {rounds} rounds of {entries} entries of {LINE_BYTES} B to {LOGS} logs each:");
    let at_home = home_runs.print("at home");
    let crossing = other_runs.print("crossing");
    println!("ratio of entries per CPU-second {:.2}; every entry stored, in order", crossing / at_home);
    Ok(())
}

#[derive(Default)]
struct Runs {
    per_cpu_second: Vec<f64>,
    per_second: Vec<f64>,
}

impl Runs {
    fn add(&mut self, (per_cpu_second, per_second): (f64, f64)) {
        self.per_cpu_second.push(per_cpu_second);
        self.per_second.push(per_second);
    }

    fn print(self, name: &str) -> f64 {
        let (per_cpu_second, per_second) = (Spread::of(self.per_cpu_second), Spread::of(self.per_second));
        println!("{name:<9} {per_cpu_second} M entries per CPU-second, {per_second} M a second");
        per_cpu_second.median
    }
}

/// An engine, the connection, and what went over it.
struct World {
    connection: TcpStream,
    server: Server,
    folder: Folder,
    /// Every token that was used, with the number of its lines.
    sent: Vec<(String, u64)>,
}

impl World {
    fn start(folder: Folder) -> Result<Self> {
        let server = Server::start(CORES, |command| {
            command.args(["--shards", "2", "--tcp", "127.0.0.1:0", "--data"]).arg(folder.path().join("data"));
        })?;
        let connection = TcpStream::connect(server.addresses[0])?;
        Ok(Self { connection, server, folder, sent: Vec::new() })
    }

    /// Finds tokens of the shard that receives, and of the other.
    fn sort_tokens(&mut self) -> Result<[Vec<usize>; 2]> {
        let (mut home, mut other) = (Vec::new(), Vec::new());
        for token in benches::tokens(TOKENS_MAX) {
            if home.len() >= LOGS && other.len() >= LOGS {
                home.truncate(LOGS);
                other.truncate(LOGS);
                return Ok([home, other]);
            }
            self.sent.push((benches::token_text(&token), 0));
            let number = self.sent.len() - 1;
            let before = self.shards()?;
            self.send(&[number], TRIED_LINES)?;
            let used = [0, 1].map(|shard| self.shards().map(|after| after[shard].saturating_sub(before[shard])));
            let [first, second] = used;
            let (first, second) = (first?, second?);
            if first.min(second) > first.max(second) / 8 { other.push(number) } else { home.push(number) }
        }
        Err("not enough tokens of each shard".into())
    }

    fn shards(&self) -> Result<[Duration; 2]> {
        Ok([self.server.processor_time("shard-0")?, self.server.processor_time("shard-1")?])
    }

    /// Sends lines to these logs in turn and waits until all is written. Entries per CPU-second, and a second.
    fn send(&mut self, logs: &[usize], lines: u64) -> Result<(f64, f64)> {
        let before = self.server.processor_time("")?;
        let start = Instant::now();
        let mut chunk = Vec::new();
        let mut turns = logs.iter().cycle();
        for number in 0..lines {
            let log = *turns.next().ok_or("no logs")?;
            let (token, count) = &mut self.sent[log];
            let line_start = chunk.len();
            write!(chunk, "{token} {count}")?;
            *count += 1;
            chunk.resize(line_start + LINE_BYTES - 1, b'.');
            chunk.push(b'\n');
            if (number + 1) % CHUNK_LINES == 0 || number + 1 == lines {
                self.connection.write_all(&chunk)?;
                chunk.clear();
            }
        }
        let mut used = self.server.processor_time("")?;
        let mut idle_from = Instant::now();
        loop {
            std::thread::sleep(LOOK);
            let now = self.server.processor_time("")?;
            if now.saturating_sub(used) < IDLE {
                break;
            }
            (used, idle_from) = (now, Instant::now());
        }
        Ok((rate(lines, used.saturating_sub(before)), rate(lines, idle_from - start)))
    }

    /// Every entry is there, in order.
    fn check(&self) -> Result<()> {
        for (token, count) in &self.sent {
            let folder = self.folder.path().join("data").join(token);
            let mut segments = Vec::new();
            for file in fs::read_dir(&folder)? {
                let path = file?.path();
                if path.extension().is_some_and(|extension| extension == "log") {
                    segments.push(path);
                }
            }
            segments.sort();
            let mut expected = 0;
            for segment in segments {
                for entry in fs::read_to_string(segment)?.lines() {
                    let number: u64 = entry.trim_end_matches('.').parse()?;
                    if number != expected {
                        return Err(format!("entry {number} where {expected} should be").into());
                    }
                    expected += 1;
                }
            }
            if expected != *count {
                return Err(format!("{expected} entries of {count}").into());
            }
        }
        Ok(())
    }
}
