//! How long a line of a quiet log takes from `write` on the client's socket until it is in its file.
//!
//! An engine in this process, default flags, on a data directory in the folder given (or the system's temporary one).
//! One connection sends 400 lines a second on a fixed schedule to 100 logs in turn, so that each is quiet when its line
//! comes; the file's length is looked at again and again, with a short sleep between: a loop without one takes the
//! engine's core away for a scheduler's slice (some 3 ms). Prints percentiles in microseconds.

#![expect(clippy::disallowed_methods, reason = "it measures with the real clock")]

use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use engine::cli::{self, Command, Typed};
use engine::config::Config;
use engine::engine::Engine;

const LOGS: usize = 100;
const LINES_PER_SECOND: u32 = 400;
const LINES: usize = 8_000;
/// Between two looks at a file; the kernel's timer slack of 50 µs comes on top.
const LOOK_INTERVAL: Duration = Duration::from_micros(10);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let data = folder.join(format!("quiet-log-{}", std::process::id()));
    let engine = Engine::start(&config(&data)?)?;
    let mut delays = measure(engine.addresses()[0], &data)?;
    let drainer = engine.drainer();
    drainer.drain();
    drainer.drain();
    engine.join()?;
    std::fs::remove_dir_all(&data)?;
    delays.sort_unstable();
    report(&delays);
    Ok(())
}

fn config(data: &std::path::Path) -> Result<Config, Box<dyn std::error::Error>> {
    let args = ["engine", "run", "--tcp", "127.0.0.1:0", "--admin", "off", "--log-level", "error", "--data"];
    match cli::parse(args.map(Into::into).into_iter().chain([data.into()])) {
        Typed::Command(Command::Run(args)) => Ok(args.resolve()?.config),
        other => Err(format!("{other:?}").into()),
    }
}

fn measure(address: SocketAddr, data: &std::path::Path) -> std::io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let tokens: Vec<String> = (0..LOGS).map(|log| format!("{log:08x}-10c3-4419-bdad-7e6435882e1f")).collect();
    let mut files = Vec::new();
    for token in &tokens {
        writeln!(stream, "{token} the first line makes the log")?;
        let current = data.join(token).join("current");
        let file = wait_for(|| File::open(&current).ok().filter(|file| length(file) > 0));
        files.push(file);
    }
    let interval = Duration::from_secs(1) / LINES_PER_SECOND;
    let start = Instant::now();
    let mut delays = Vec::with_capacity(LINES);
    for line in 0..LINES {
        let at = start + interval * u32::try_from(line).expect("a few thousand lines");
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let file = &files[line % LOGS];
        let before = length(file);
        let text = format!("{} line {line}\n", tokens[line % LOGS]);
        let sent = Instant::now();
        stream.write_all(text.as_bytes())?;
        wait_for(|| (length(file) > before).then_some(()));
        delays.push(sent.elapsed());
    }
    Ok(delays)
}

fn length(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

#[expect(clippy::print_stdout, reason = "the result")]
fn report(delays: &[Duration]) {
    let percentile = |per_mille: usize| delays[(delays.len() * per_mille / 1000).min(delays.len() - 1)].as_micros();
    println!(
        "{} lines at {LINES_PER_SECOND}/s to {LOGS} logs: p50 {} µs, p90 {} µs, p99 {} µs, p99.9 {} µs, max {} µs",
        delays.len(),
        percentile(500),
        percentile(900),
        percentile(990),
        percentile(999),
        percentile(1000)
    );
}
